//! Delivery: QoS 0, 1 and 2 in both directions, across reconnects and takeovers.

mod broker_support;

use broker_support::*;
use smqtt::mqtt::*;

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

#[tokio::test]
async fn every_qos_arrives_in_both_versions() {
    let broker = TestBroker::start().await;
    for version in VERSIONS {
        let (mut reader, _) = broker.connect(connect(version, "reader")).await;
        reader.subscribe("a/+", QoS::ExactlyOnce).await;
        let (mut writer, _) = broker.connect(connect(version, "writer")).await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(writer.publish(message("a/b", "hello", qos)).await, ReasonCode::Success);
            let got = reader.message().await;
            assert_eq!((got.topic.as_str(), &got.payload[..], got.qos), ("a/b", &b"hello"[..], qos));
            match qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => {
                    reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await
                }
                QoS::ExactlyOnce => {
                    reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
                    assert_eq!(
                        reader.packet().await,
                        Packet::Pubrel(Ack::new(got.packet_id, ReasonCode::Success))
                    );
                    reader.send(Packet::Pubcomp(Ack::new(got.packet_id, ReasonCode::Success))).await;
                }
            }
        }
        assert_eq!(reader.until_ping().await, []);
    }
}

#[tokio::test]
async fn qos_is_the_lower_of_publisher_and_subscription() {
    let broker = TestBroker::direct().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "2", QoS::ExactlyOnce)).await;
    assert_eq!(reader.message().await.qos, QoS::AtLeastOnce);
    writer.publish(message("a", "0", QoS::AtMostOnce)).await;
    assert_eq!(reader.message().await.qos, QoS::AtMostOnce);
}

#[tokio::test]
async fn acknowledgements_come_in_the_order_of_the_messages() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("wanted", QoS::AtMostOnce).await;
    let mut writer = broker.v3("writer").await;
    // Every other message has no reader, so it need not pass the engine, and must wait all the same.
    for id in 1..=200 {
        let topic = if id % 2 == 0 { "wanted" } else { "unwanted" };
        let publish = Publish { packet_id: id, ..message(topic, "x", QoS::AtLeastOnce) };
        writer.send(Packet::Publish(publish)).await;
    }
    for id in 1..=200 {
        assert_eq!(writer.packet().await, Packet::Puback(Ack::new(id, ReasonCode::Success)));
    }
}

#[tokio::test]
async fn a_qos_2_message_sent_twice_is_taken_once_also_after_a_reconnect() {
    for version in VERSIONS {
        let broker = TestBroker::start().await;
        let mut reader = broker.v5("reader").await;
        reader.subscribe("a", QoS::AtMostOnce).await;
        let (mut writer, _) = broker.connect(persistent(version, "writer")).await;
        let publish = Publish { packet_id: 7, ..message("a", "once", QoS::ExactlyOnce) };
        writer.send(Packet::Publish(publish.clone())).await;
        assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(7, ReasonCode::Success)));
        writer.send(Packet::Publish(Publish { dup: true, ..publish.clone() })).await;
        assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(7, ReasonCode::Success)));
        writer.vanish(&broker).await;
        let (mut writer, connack) = broker.connect(persistent(version, "writer")).await;
        assert!(connack.session_present);
        writer.send(Packet::Publish(Publish { dup: true, ..publish.clone() })).await;
        assert_eq!(writer.packet().await, Packet::Pubrec(Ack::new(7, ReasonCode::Success)));
        writer.send(Packet::Pubrel(Ack::new(7, ReasonCode::Success))).await;
        assert_eq!(writer.packet().await, Packet::Pubcomp(Ack::new(7, ReasonCode::Success)));
        assert_eq!(reader.payload().await, "once");
        assert_eq!(settle(&broker, &mut reader).await, []);
        // Released: the same identifier now is another message.
        writer.send(Packet::Publish(publish)).await;
        assert_eq!(reader.payload().await, "once");
    }
}

#[tokio::test]
async fn an_identifier_that_no_message_has_is_refused_in_words() {
    let broker = TestBroker::direct().await;
    let mut client = broker.v5("client").await;
    for question in [Packet::Pubrel, Packet::Pubrec] {
        client.send(question(Ack::new(7, ReasonCode::Success))).await;
        let (Packet::Pubcomp(answer) | Packet::Pubrel(answer)) = client.packet().await else { panic!() };
        assert_eq!((answer.packet_id, answer.reason), (7, ReasonCode::PacketIdentifierNotFound));
        assert!(answer.properties.reason_string.is_some_and(|words| words.contains("packet identifier")));
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_with_dup_and_in_order() {
    for version in VERSIONS {
        let broker = TestBroker::direct().await;
        let (mut reader, _) = broker.connect(persistent(version, "reader")).await;
        reader.subscribe("a", QoS::ExactlyOnce).await;
        let mut writer = broker.v5("writer").await;
        for (payload, qos) in [
            ("one", QoS::AtLeastOnce),
            ("two", QoS::ExactlyOnce),
            ("three", QoS::AtLeastOnce),
            ("0", QoS::AtMostOnce),
        ] {
            writer.publish(message("a", payload, qos)).await;
        }
        let first: Vec<Publish> =
            [reader.message().await, reader.message().await, reader.message().await, reader.message().await]
                .into();
        // "two" gets as far as PUBREC.
        reader.send(Packet::Pubrec(Ack::new(first[1].packet_id, ReasonCode::Success))).await;
        assert!(matches!(reader.packet().await, Packet::Pubrel(_)));
        reader.vanish(&broker).await;
        writer.publish(message("a", "four", QoS::AtLeastOnce)).await;
        let (mut reader, connack) = broker.connect(persistent(version, "reader")).await;
        assert!(connack.session_present);
        assert_eq!(reader.packet().await, Packet::Publish(Publish { dup: true, ..first[0].clone() }));
        assert_eq!(reader.packet().await, Packet::Pubrel(Ack::new(first[1].packet_id, ReasonCode::Success)));
        assert_eq!(reader.packet().await, Packet::Publish(Publish { dup: true, ..first[2].clone() }));
        let fourth = reader.message().await;
        assert_eq!((&fourth.payload[..], fourth.dup), (&b"four"[..], false));
        reader.send(Packet::Pubcomp(Ack::new(first[1].packet_id, ReasonCode::Success))).await;
        assert_eq!(reader.until_ping().await, []);
    }
}

#[tokio::test]
async fn the_receive_maximum_of_a_client_is_kept() {
    let broker = TestBroker::start().await;
    let mut hello = connect(Version::V5, "reader");
    hello.properties.receive_max = Some(2);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    for payload in ["1", "2", "3"] {
        writer.publish(message("a", payload, QoS::AtLeastOnce)).await;
    }
    let first = reader.message().await;
    assert_eq!(reader.payload().await, "2");
    assert_eq!(reader.until_ping().await, []);
    reader.send(Packet::Puback(Ack::new(first.packet_id, ReasonCode::Success))).await;
    assert_eq!(reader.payload().await, "3");
}

#[tokio::test]
async fn a_client_that_exceeds_the_receive_maximum_is_told_so() {
    let mut config = smqtt::broker::Config::default();
    config.limits.receive_max = 2;
    let broker = TestBroker::with(config, vec![]).await;
    let mut writer = broker.v5("writer").await;
    for packet_id in 1..=3 {
        let publish = Publish { packet_id, ..message("a", "x", QoS::ExactlyOnce) };
        writer.send(Packet::Publish(publish)).await;
    }
    assert_eq!(writer.closed().await, Some(ReasonCode::ReceiveMaximumExceeded));
}

#[tokio::test]
async fn ten_thousand_messages_arrive_once_and_in_order() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v3("reader").await;
    reader.subscribe("a/#", QoS::AtLeastOnce).await;
    let mut writer = broker.v3("writer").await;
    let count = 10_000u16;
    let write = async {
        for id in 1..=count {
            let publish = Publish { packet_id: id, ..message("a/b", &id.to_string(), QoS::AtLeastOnce) };
            writer.send(Packet::Publish(publish)).await;
        }
        for id in 1..=count {
            assert_eq!(writer.packet().await, Packet::Puback(Ack::new(id, ReasonCode::Success)));
        }
    };
    let read = async {
        for id in 1..=count {
            let got = reader.message().await;
            assert_eq!(&got.payload[..], id.to_string().as_bytes());
            reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        }
    };
    tokio::join!(write, read);
}
