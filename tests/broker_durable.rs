//! What a broker knew before it was shut down, it knows afterwards.

mod broker_support;
mod common;

use broker_support::*;
use common::TempDir;
use smqtt::{
    broker::{Broker, Config},
    mqtt::*,
};

/// A connection that begins where the last one of this client ended.
async fn back(broker: &TestBroker, version: Version, client_id: &str) -> Client {
    let (client, connack) = broker.connect(persistent(version, client_id)).await;
    assert!(connack.session_present);
    client
}

fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, payload, QoS::AtLeastOnce) }
}

#[tokio::test]
async fn sessions_subscriptions_and_queues_outlive_the_broker() {
    for version in [Version::V3, Version::V5] {
        let data = TempDir::new();
        let broker = TestBroker::on(data.path(), vec![]).await;
        let (mut reader, _) = broker.connect(persistent(version, "reader")).await;
        reader.subscribe("a/+", QoS::ExactlyOnce).await;
        reader.subscribe("b", QoS::AtLeastOnce).await;
        reader.disconnect().await;
        let mut writer = broker.v5("writer").await;
        for (topic, payload, qos) in [
            ("a/1", "0", QoS::AtMostOnce),
            ("a/1", "1", QoS::AtLeastOnce),
            ("b", "2", QoS::ExactlyOnce),
            ("a/2", "3", QoS::ExactlyOnce),
        ] {
            assert_eq!(writer.publish(message(topic, payload, qos)).await, ReasonCode::Success);
        }
        broker.shutdown().await;

        let broker = TestBroker::on(data.path(), vec![]).await;
        let mut reader = back(&broker, version, "reader").await;
        for (payload, qos) in [("1", QoS::AtLeastOnce), ("2", QoS::AtLeastOnce), ("3", QoS::ExactlyOnce)] {
            let message = reader.message().await;
            assert_eq!((&message.payload[..], message.qos, message.dup), (payload.as_bytes(), qos, false));
            if qos == QoS::AtLeastOnce {
                reader.send(Packet::Puback(Ack::new(message.packet_id, ReasonCode::Success))).await;
            }
        }
        assert_eq!(reader.until_ping().await, []);
        // What is acknowledged is over; what is not comes again, as the same message.
        broker.shutdown().await;
        let broker = TestBroker::on(data.path(), vec![]).await;
        let mut reader = back(&broker, version, "reader").await;
        let again = reader.message().await;
        assert_eq!((&again.payload[..], again.dup), (&b"3"[..], true));
        let mut writer = broker.v5("writer").await;
        writer.publish(message("a/3", "4", QoS::AtLeastOnce)).await;
        assert_eq!(reader.payload().await, "4", "the subscription is there");
    }
}

#[tokio::test]
async fn a_released_message_is_released_again_and_not_sent_again() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "once", QoS::ExactlyOnce)).await;
    let got = reader.message().await;
    reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
    assert!(matches!(reader.packet().await, Packet::Pubrel(ack) if ack.packet_id == got.packet_id));
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut reader = back(&broker, Version::V5, "reader").await;
    assert!(matches!(reader.packet().await, Packet::Pubrel(ack) if ack.packet_id == got.packet_id));
    reader.send(Packet::Pubcomp(Ack::new(got.packet_id, ReasonCode::Success))).await;
    assert_eq!(reader.until_ping().await, []);
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    assert_eq!(back(&broker, Version::V5, "reader").await.until_ping().await, []);
}

#[tokio::test]
async fn a_qos_2_publisher_may_ask_again_after_a_restart() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    let (mut writer, _) = broker.connect(persistent(Version::V5, "writer")).await;
    let publish = Publish { packet_id: 9, ..message("a", "once", QoS::ExactlyOnce) };
    writer.send(Packet::Publish(publish.clone())).await;
    assert!(matches!(writer.packet().await, Packet::Pubrec(ack) if ack.packet_id == 9));
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut writer = back(&broker, Version::V5, "writer").await;
    writer.send(Packet::Publish(Publish { dup: true, ..publish.clone() })).await;
    assert!(matches!(writer.packet().await, Packet::Pubrec(ack) if ack.packet_id == 9));
    for known in [ReasonCode::Success, ReasonCode::PacketIdentifierNotFound] {
        writer.send(Packet::Pubrel(Ack::new(9, ReasonCode::Success))).await;
        assert!(matches!(writer.packet().await, Packet::Pubcomp(ack) if ack.reason == known));
    }
    // The identifier is free, and stays so.
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut writer = back(&broker, Version::V5, "writer").await;
    writer.send(Packet::Publish(Publish { payload: "twice".into(), ..publish })).await;
    assert!(matches!(writer.packet().await, Packet::Pubrec(_)));
    let mut reader = back(&broker, Version::V5, "reader").await;
    assert_eq!([reader.payload().await, reader.payload().await], ["once", "twice"]);
}

#[tokio::test]
async fn retained_messages_outlive_the_broker_with_all_they_had() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut writer = broker.v5("writer").await;
    let mut rich = retained("a/rich", "kept");
    rich.properties.user = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
    rich.properties.content_type = Some("text/plain".into());
    rich.properties.response_topic = Some("answer/here".into());
    rich.properties.correlation_data = Some(bytes::Bytes::from_static(&[0, 1, 2]));
    rich.properties.payload_is_text = Some(true);
    rich.properties.expiry_secs = Some(600);
    writer.publish(rich.clone()).await;
    writer.publish(retained("a/old", "first")).await;
    writer.publish(retained("a/old", "second")).await;
    writer.publish(retained("a/gone", "soon")).await;
    writer.publish(retained("a/gone", "")).await;
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a/#", QoS::AtLeastOnce).await;
    let mut got = [reader.message().await, reader.message().await];
    got.sort_by_key(|publish| publish.topic.to_string());
    let [old, kept] = got;
    assert_eq!((&old.payload[..], old.retain), (&b"second"[..], true));
    let left = kept.properties.expiry_secs.unwrap();
    assert!((590..=600).contains(&left), "{left}");
    let expected = PublishProperties { expiry_secs: Some(left), ..rich.properties };
    assert_eq!((&kept.payload[..], kept.properties), (&b"kept"[..], expected));
    assert_eq!(reader.until_ping().await, []);
}

#[tokio::test]
async fn what_ended_does_not_come_back() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    for client_id in ["cleaned", "unsubscribed", "short"] {
        let mut connect = persistent(Version::V5, client_id);
        if client_id == "short" {
            connect.properties.session_expiry_secs = Some(0);
        }
        let (mut reader, _) = broker.connect(connect).await;
        reader.subscribe("a", QoS::AtLeastOnce).await;
        if client_id == "unsubscribed" {
            let unsubscribe =
                Unsubscribe { packet_id: 7, properties: Default::default(), filters: vec!["a".into()] };
            reader.send(Packet::Unsubscribe(unsubscribe)).await;
            assert!(matches!(reader.packet().await, Packet::Unsuback(_)));
        }
        reader.disconnect().await;
    }
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
    broker.v5("cleaned").await.disconnect().await;
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    for (client_id, present) in [("cleaned", false), ("short", false), ("unsubscribed", true)] {
        let (mut reader, connack) = broker.connect(persistent(Version::V5, client_id)).await;
        assert_eq!(connack.session_present, present, "{client_id}");
        let mut writer = broker.v5("writer").await;
        writer.publish(message("a", "y", QoS::AtLeastOnce)).await;
        assert_eq!(reader.until_ping().await, [], "{client_id}");
    }
}

#[tokio::test]
async fn what_a_stored_member_leaves_behind_goes_to_another_member() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    for client_id in ["first", "second"] {
        let (mut member, _) = broker.connect(persistent(Version::V5, client_id)).await;
        if client_id == "first" {
            member.subscribe("$share/g/a", QoS::ExactlyOnce).await;
            let mut writer = broker.v5("writer").await;
            writer.publish(message("a", "1", QoS::AtLeastOnce)).await;
            assert_eq!(member.payload().await, "1");
        } else {
            member.subscribe("$share/g/a", QoS::ExactlyOnce).await;
        }
        member.disconnect().await;
    }
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    broker.v5("first").await.disconnect().await;
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut second = back(&broker, Version::V5, "second").await;
    assert_eq!(second.payload().await, "1");
    assert_eq!(second.until_ping().await, []);
}

#[tokio::test]
async fn a_directory_serves_one_broker_at_a_time() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    let mut config = Config::default();
    config.data = Some(data.path().to_owned());
    let second = Broker::new(config, vec![]).err().expect("a refusal");
    assert!(second.to_string().contains("does another broker run on it?"), "{second}");
    broker.shutdown().await;
    TestBroker::on(data.path(), vec![]).await.shutdown().await;
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_and_not_read_if_it_is_another() {
    use std::os::unix::fs::PermissionsExt;
    let data = TempDir::new();
    let dir = data.path().join("new/state");
    TestBroker::on(&dir, vec![]).await.shutdown().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("state.redb"))), (0o700, 0o600));
    std::fs::write(dir.join("state.redb"), b"something else entirely, which is no state of a broker")
        .unwrap();
    let mut config = Config::default();
    config.data = Some(dir);
    let refused = Broker::new(config, vec![]).err().expect("a refusal");
    assert!(refused.to_string().contains("stored state"), "{refused}");
}
