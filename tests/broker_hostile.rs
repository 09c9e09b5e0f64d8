//! What clients must not be able to do to the broker: each fault found in other servers, and floods.

mod broker_support;

use broker_support::*;
use smqtt::{broker::Config, mqtt::*};
use tokio::io::AsyncWriteExt;

/// Whether the broker still lets people in and delivers.
async fn works(broker: &TestBroker) {
    for version in [Version::V3, Version::V5] {
        let (mut client, _) = broker.connect(connect(version, "probe")).await;
        client.subscribe("probe", QoS::AtLeastOnce).await;
        let publish = Publish { packet_id: 9, ..message("probe", "x", QoS::AtLeastOnce) };
        client.send(Packet::Publish(publish)).await;
        let (first, second) = (client.packet().await, client.packet().await);
        let kinds = [first, second].map(|packet| matches!(packet, Packet::Publish(_)));
        assert_eq!(kinds.iter().filter(|is_message| **is_message).count(), 1);
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_topic_that_starts_beyond_ascii_is_a_topic() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("été/#", QoS::AtMostOnce).await;
    let mut writer = broker.v3("writer").await;
    writer.publish(message("été/1", "x", QoS::AtLeastOnce)).await;
    assert_eq!(reader.message().await.topic, "été/1");
    works(&broker).await;
}

#[tokio::test]
async fn client_ids_may_hold_the_characters_of_filters() {
    let broker = TestBroker::start().await;
    for id in ["a/b", "a+b", "#", "$SYS", "été"] {
        for version in [Version::V3, Version::V5] {
            let (first, _) = broker.connect(persistent(version, id)).await;
            let (_second, connack) = broker.connect(persistent(version, id)).await;
            assert!(connack.session_present);
            drop(first);
        }
    }
    works(&broker).await;
}

#[tokio::test]
async fn whoever_is_one_too_many_is_turned_away_and_may_retry() {
    let mut config = Config::default();
    config.limits.connections_max = 1;
    let broker = TestBroker::with(config, vec![]).await;
    let first = broker.v5("first").await;
    for version in [Version::V3, Version::V5] {
        let mut second = broker.raw().await;
        second.version = version;
        second.send(Packet::Connect(Box::new(connect(version, "second")))).await;
        let expected =
            if version == Version::V5 { ReasonCode::QuotaExceeded } else { ReasonCode::ServerUnavailable };
        assert_eq!(second.connack().await.reason, expected);
        assert_eq!(second.next().await, None);
    }
    first.vanish(&broker).await;
    broker.v5("second").await;
}

#[tokio::test]
async fn a_property_of_5_0_does_not_reach_3_1_1() {
    let broker = TestBroker::start().await;
    let mut old = broker.v3("old").await;
    old.subscribe("a", QoS::AtMostOnce).await;
    let mut publish = message("a", "x", QoS::AtMostOnce);
    publish.properties.user = vec![("a".into(), "b".into())];
    broker.v5("new").await.publish(publish).await;
    assert_eq!(old.payload().await, "x");
    works(&broker).await;
}

#[tokio::test]
async fn a_shared_member_may_leave_with_a_message_unacknowledged() {
    let broker = TestBroker::start().await;
    for round in 0..3 {
        let (mut member, _) = broker.connect(persistent(Version::V5, "member")).await;
        if round == 0 {
            member.subscribe("$share/g/a", QoS::AtLeastOnce).await;
        }
        broker.v5("writer").await.publish(message("a", "x", QoS::AtLeastOnce)).await;
        for _ in 0..=round {
            member.message().await;
        }
        member.vanish(&broker).await;
        works(&broker).await;
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_harms_nobody() {
    let mut config = Config::default();
    config.limits.queue_messages_max = 100;
    let broker = TestBroker::with(config, vec![]).await;
    let mut slow = broker.v5("slow").await;
    slow.subscribe("a", QoS::AtMostOnce).await;
    let mut quick = broker.v5("quick").await;
    quick.subscribe("a", QoS::AtMostOnce).await;
    let mut writer = broker.v5("writer").await;
    let payload = "x".repeat(100_000);
    for _ in 0..200 {
        writer.publish(message("a", &payload, QoS::AtLeastOnce)).await;
        assert_eq!(quick.message().await.payload.len(), payload.len());
    }
    // It is removed while its writer is blocked.
    let _heir = broker.v5("slow").await;
    works(&broker).await;
}

#[tokio::test]
async fn packets_that_only_a_broker_sends_end_the_connection() {
    let broker = TestBroker::start().await;
    let packets: [&[u8]; 4] =
        [&[0x20, 3, 0, 0, 0], &[0x90, 4, 0, 1, 0, 0], &[0xB0, 4, 0, 1, 0, 0], &[0xD0, 0]];
    for bytes in packets {
        let mut client = broker.v5("client").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
        let mut client = broker.v3("client").await;
        client.send_bytes(&[0x20, 2, 0, 0]).await;
        assert_eq!(client.closed().await, None);
    }
    let mut client = broker.raw().await;
    client.send_bytes(&[0x20, 2, 0, 0]).await;
    assert_eq!(client.next().await, None);
    until(|| broker.handle.connections() == 0).await;
    works(&broker).await;
}

#[tokio::test]
async fn refusals_have_a_connack() {
    let broker = TestBroker::start().await;
    // 3.1 and an unknown level below 5 are answered in the old form, a level from the future in the new.
    for (bytes, answer) in [
        (&b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00"[..], &b"\x20\x02\x00\x01"[..]),
        (b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
    ] {
        let mut client = broker.raw().await;
        client.send_bytes(bytes).await;
        client.version = Version::V3;
        assert_eq!(client.connack().await.reason, ReasonCode::UnsupportedProtocolVersion, "{answer:?}");
        assert_eq!(client.next().await, None);
    }
    let mut client = broker.raw().await;
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00").await;
    assert_eq!(client.connack().await.reason, ReasonCode::UnsupportedProtocolVersion);
    let mut client = broker.raw().await;
    let mut hello = connect(Version::V5, "x");
    hello.properties.authentication_method = Some("SCRAM-SHA-256".into());
    client.send(Packet::Connect(Box::new(hello))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::BadAuthenticationMethod);
    // A reserved flag in CONNECT.
    let mut client = broker.raw().await;
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00").await;
    assert_eq!(client.connack().await.reason, ReasonCode::MalformedPacket);
}

#[tokio::test]
async fn faults_are_answered_with_their_reason() {
    let broker = TestBroker::start().await;
    let cases: [(&[u8], ReasonCode); 10] = [
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\x36\x05\x00\x01a\x00\x01", ReasonCode::MalformedPacket),
        (b"\x38\x04\x00\x01a\x00", ReasonCode::MalformedPacket),
        (b"\x32\x06\x00\x01a\x00\x00\x00", ReasonCode::MalformedPacket),
        (b"\x30\x04\x00\x01+\x00", ReasonCode::TopicNameInvalid),
        (b"\x30\x04\x00\x01\xff\x00", ReasonCode::MalformedPacket),
        (b"\x30\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\x82\x03\x00\x01\x00", ReasonCode::ProtocolError),
        (b"\x30\xff\xff\xff\x7f", ReasonCode::PacketTooLarge),
        (b"\x80\x03\x00\x01\x00", ReasonCode::MalformedPacket),
    ];
    for (bytes, reason) in cases {
        let mut client = broker.v5("client").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.closed().await, Some(reason), "{bytes:02x?}");
    }
    works(&broker).await;
}

#[tokio::test]
async fn a_packet_may_arrive_byte_by_byte_or_many_at_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.raw().await;
    client.version = Version::V3;
    for byte in b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c" {
        client.send_bytes(&[*byte]).await;
        client.stream.flush().await.unwrap();
    }
    assert_eq!(client.connack().await.reason, ReasonCode::Success);
    client.send_bytes(&b"\xc0\x00".repeat(1_000)).await;
    for _ in 0..1_000 {
        assert_eq!(client.packet().await, Packet::Pingresp);
    }
}

#[tokio::test]
async fn a_message_of_the_full_size_passes() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v3("reader").await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let payload = "x".repeat(1 << 20);
    broker.v5("writer").await.publish(message("a", &payload, QoS::AtLeastOnce)).await;
    assert_eq!(reader.message().await.payload.len(), 1 << 20);
}
