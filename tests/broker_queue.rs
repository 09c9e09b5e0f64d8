//! When a session's queue is full: what is dropped, how its client and the publisher learn it, and that nobody else
//! notices.

mod broker_support;

use broker_support::*;
use smqtt::{
    broker::{Config, EngineKind},
    mqtt::*,
};

/// The property that tells a client how many messages it lost.
const DROPPED: &str = smqtt::broker::DROPPED_PROPERTY;

async fn limited(messages: usize, bytes: usize) -> TestBroker {
    let mut config = Config::default();
    config.engine = EngineKind::Direct;
    config.limits.queue_messages_max = messages;
    config.limits.queue_bytes_max = bytes;
    TestBroker::with(config, vec![]).await
}

const BYTES: usize = 8 << 20;

fn dropped(properties: &UserProperties) -> Option<&str> {
    properties.iter().find(|(name, _)| name == DROPPED).map(|(_, value)| value.as_str())
}

fn metric(broker: &TestBroker, name: &str) -> u64 {
    let text = broker.handle.metrics().render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

#[tokio::test]
async fn the_newest_is_dropped_and_publisher_and_client_are_told() {
    let broker = limited(3, BYTES).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    reader.disconnect().await;
    let mut writer = broker.v5("writer").await;
    for number in 0..3 {
        let reason = writer.publish(message("a", &number.to_string(), QoS::AtLeastOnce)).await;
        assert_eq!(reason, ReasonCode::Success);
    }
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(writer.publish(message("a", "lost", qos)).await, ReasonCode::QuotaExceeded);
    }
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_messages\"}"), 2);
    assert_eq!(metric(&broker, "smqtt_limit_hits_total{limit=\"queue_messages_max\"}"), 2);
    let (mut reader, connack) = broker.connect(persistent(Version::V5, "reader")).await;
    assert_eq!(dropped(&connack.properties.user), Some("2"));
    for number in 0..3 {
        let got = reader.message().await;
        assert_eq!((&got.payload[..], dropped(&got.properties.user)), (number.to_string().as_bytes(), None));
    }
    // Once.
    reader.disconnect().await;
    let (_reader, connack) = broker.connect(persistent(Version::V5, "reader")).await;
    assert_eq!(dropped(&connack.properties.user), None);
}

#[tokio::test]
async fn a_connected_client_is_told_with_the_next_message() {
    let broker = limited(2, BYTES).await;
    let mut hello = connect(Version::V5, "reader");
    hello.properties.receive_max = Some(1);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "0", QoS::AtLeastOnce)).await;
    let mut got = reader.message().await;
    // That one is on its way; two wait.
    let mut refused = 0;
    for number in 1..6 {
        let mut publish = message("a", &number.to_string(), QoS::AtLeastOnce);
        publish.properties.user = vec![("own".into(), "kept".into())];
        refused += usize::from(writer.publish(publish).await.is_error());
    }
    assert_eq!(refused, 3);
    for (number, told) in [("1", Some("3")), ("2", None)] {
        reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        got = reader.message().await;
        assert_eq!((&got.payload[..], dropped(&got.properties.user)), (number.as_bytes(), told));
        assert!(got.properties.user.contains(&("own".into(), "kept".into())));
    }
}

#[tokio::test]
async fn whoever_has_room_gets_it_and_the_publisher_is_not_bothered() {
    let broker = limited(1, BYTES).await;
    for version in [Version::V3, Version::V5] {
        let (mut away, _) = broker.connect(persistent(version, "away")).await;
        away.subscribe("a", QoS::AtLeastOnce).await;
        away.disconnect().await;
        let mut writer = broker.connect(connect(version, "writer")).await.0;
        // MQTT 3.1.1 has no refusal for a message; to be cut off would not make room.
        for _ in 0..3 {
            let reason = writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
            assert!(version == Version::V5 || reason == ReasonCode::Success);
        }
        let mut reader = broker.v5("reader").await;
        reader.subscribe("a", QoS::AtLeastOnce).await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(writer.publish(message("a", "y", qos)).await, ReasonCode::Success);
            let got = reader.message().await;
            assert_eq!(&got.payload[..], b"y");
            reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        }
        reader.disconnect().await;
        let (old, _) = broker.connect(connect(version, "away")).await;
        old.disconnect().await;
    }
}

#[tokio::test]
async fn a_message_alone_always_has_room_and_what_is_not_acknowledged_takes_some() {
    let broker = limited(1_000, 1_000).await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    let large = "x".repeat(5_000);
    for _ in 0..2 {
        assert_eq!(writer.publish(message("a", &large, QoS::AtLeastOnce)).await, ReasonCode::Success);
        let got = reader.message().await;
        assert_eq!(got.payload.len(), 5_000);
        // The client has it, and has not said so.
        assert_eq!(writer.publish(message("a", "x", QoS::AtLeastOnce)).await, ReasonCode::QuotaExceeded);
        assert_eq!(metric(&broker, "smqtt_inflight_messages"), 1);
        reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        assert_eq!(reader.until_ping().await, []);
    }
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_bytes\"}"), 2);
}

#[tokio::test]
async fn a_group_passes_over_a_member_whose_queue_is_full() {
    let broker = limited(1, BYTES).await;
    let mut hello = connect(Version::V5, "slow");
    hello.properties.receive_max = Some(1);
    let (mut slow, _) = broker.connect(hello).await;
    slow.subscribe("$share/g/a", QoS::AtLeastOnce).await;
    let mut quick = broker.v5("quick").await;
    quick.subscribe("$share/g/a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    let mut got = 0;
    for _ in 0..20 {
        assert_eq!(writer.publish(message("a", "x", QoS::AtLeastOnce)).await, ReasonCode::Success);
        for packet in quick.until_ping().await {
            let Packet::Publish(publish) = packet else { panic!("PUBLISH expected") };
            quick.send(Packet::Puback(Ack::new(publish.packet_id, ReasonCode::Success))).await;
            got += 1;
        }
    }
    // The slow one has one on its way and one that waits.
    assert_eq!(got, 18);
}

/// It does not even read its socket. Its memory stays within the limit, and neither publisher nor the other subscriber
/// waits or loses anything.
#[tokio::test]
async fn a_subscriber_that_does_not_read_slows_nobody() {
    let bytes = 1 << 20;
    let broker = limited(10_000, bytes).await;
    let mut slow = broker.v5("slow").await;
    slow.subscribe("a", QoS::AtLeastOnce).await;
    let mut quick = broker.v5("quick").await;
    quick.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    let payload = "x".repeat(100_000);
    for number in 0..200 {
        let reason = writer.publish(message("a", &payload, QoS::AtLeastOnce)).await;
        assert_eq!(reason, ReasonCode::Success, "message {number}");
        let got = quick.message().await;
        quick.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
    }
    // 20 MB went through. What the slow one holds beyond the limit is at most a message and the buffer to its socket.
    assert!(metric(&broker, "smqtt_queued_bytes_largest") <= bytes as u64);
    assert!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_bytes\"}") >= 180);
    assert_eq!(metric(&broker, "smqtt_messages_received_total{qos=\"1\"}"), 200);
}
