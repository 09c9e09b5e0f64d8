//! When a session's queue is full: what is dropped, how its client and the publisher learn it, and that nobody else
//! notices. What all of them hold together, likewise.

mod broker_support;
mod common;

use broker_support::*;
use common::TempDir;
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

/// One whose sessions may hold so many bytes together.
async fn together(bytes: usize) -> TestBroker {
    let mut config = Config::default();
    config.limits.all_queues_bytes_max = bytes;
    TestBroker::with(config, vec![]).await
}

/// A session that waits for messages of a topic, while its client is away.
async fn absent(broker: &TestBroker, client_id: &str, topic: &str) {
    let (mut client, _) = broker.connect(persistent(Version::V5, client_id)).await;
    client.subscribe(topic, QoS::AtLeastOnce).await;
    client.disconnect().await;
}

/// Ends a session.
async fn end(broker: &TestBroker, client_id: &str) {
    broker.v5(client_id).await.disconnect().await;
}

fn held(broker: &TestBroker) -> u64 {
    metric(broker, "smqtt_queued_bytes")
}

#[tokio::test]
async fn sessions_that_hoard_fill_no_more_than_their_bound_and_starve_nobody_who_reads() {
    const BOUND: u64 = 256 << 10;
    let broker = together(BOUND as usize).await;
    for number in 0..100 {
        absent(&broker, &format!("hoarder {number}"), &format!("hoard/{number}")).await;
    }
    let mut reader = broker.v5("reader").await;
    reader.subscribe("live", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    let mut refused = 0;
    for _ in 0..10 {
        for number in 0..100 {
            let publish = message(&format!("hoard/{number}"), &"x".repeat(1_000), QoS::AtLeastOnce);
            refused += u64::from(writer.publish(publish).await == ReasonCode::QuotaExceeded);
        }
        assert!(held(&broker) <= BOUND);
    }
    // Of 1.2 MB.
    assert!(held(&broker) > BOUND / 2 && refused > 700, "{refused}");
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"all_queues_bytes\"}"), refused);
    assert_eq!(metric(&broker, "smqtt_limit_hits_total{limit=\"all_queues_bytes_max\"}"), refused);

    for _ in 0..50 {
        let large = message("live", &"x".repeat(100_000), QoS::AtLeastOnce);
        assert_eq!(writer.publish(large).await, ReasonCode::Success);
        let got = reader.message().await;
        reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        assert_eq!(reader.until_ping().await, []);
    }
    // Once it stops to acknowledge, it gets 16 KiB.
    let mut taken = 0;
    while !writer.publish(message("live", &"x".repeat(2_000), QoS::AtLeastOnce)).await.is_error() {
        taken += 1;
    }
    assert_eq!(taken, 8);
    reader.vanish(&broker).await;

    // Who comes back has what found room, is told of the rest, and makes room for others.
    let (mut hoarder, connack) = broker.connect(persistent(Version::V5, "hoarder 0")).await;
    let lost: usize = dropped(&connack.properties.user).unwrap().parse().unwrap();
    let got = hoarder.until_ping().await.len();
    assert_eq!(got + lost, 10);
    for number in 0..100 {
        end(&broker, &format!("hoarder {number}")).await;
    }
    assert_eq!(held(&broker), 0);
    absent(&broker, "another", "hoard/0").await;
    assert_eq!(writer.publish(message("hoard/0", "x", QoS::AtLeastOnce)).await, ReasonCode::Success);
}

#[tokio::test]
async fn the_fullest_session_is_the_first_to_lose() {
    const BOUND: u64 = 200_000;
    let broker = together(BOUND as usize).await;
    absent(&broker, "greedy", "greedy").await;
    absent(&broker, "modest", "modest").await;
    let mut writer = broker.v5("writer").await;
    let mut send =
        async |topic: &str| writer.publish(message(topic, &"x".repeat(1_000), QoS::AtLeastOnce)).await;
    while !send("greedy").await.is_error() {}
    assert!((BOUND / 3..=BOUND / 2 + 20_000).contains(&held(&broker)), "{}", held(&broker));
    for _ in 0..20 {
        assert_eq!(send("modest").await, ReasonCode::Success);
        assert_eq!(send("greedy").await, ReasonCode::QuotaExceeded);
    }
}

#[tokio::test]
async fn a_message_for_many_counts_once() {
    let broker = together(60_000).await;
    for number in 0..50 {
        absent(&broker, &number.to_string(), "all").await;
    }
    let mut writer = broker.v5("writer").await;
    for _ in 0..2 {
        let reason = writer.publish(message("all", &"x".repeat(10_000), QoS::AtLeastOnce)).await;
        assert_eq!(reason, ReasonCode::Success);
    }
    assert!((20_000..40_000).contains(&held(&broker)), "{}", held(&broker));
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"all_queues_bytes\"}"), 0);
    for number in 0..50 {
        assert!(held(&broker) > 20_000);
        end(&broker, &number.to_string()).await;
    }
    assert_eq!(held(&broker), 0);
}

/// Every way out of a queue.
#[tokio::test]
async fn what_is_over_no_longer_counts() {
    let broker = together(1 << 20).await;
    let mut writer = broker.v5("writer").await;
    let mut hello = persistent(Version::V5, "reader");
    hello.properties.packet_bytes_max = Some(1_000);
    let (mut reader, _) = broker.connect(hello.clone()).await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    for reason in [ReasonCode::Success, ReasonCode::QuotaExceeded] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            writer.publish(message("a", "x", qos)).await;
            let got = reader.message().await;
            match qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => reader.send(Packet::Puback(Ack::new(got.packet_id, reason))).await,
                QoS::ExactlyOnce => {
                    assert!(held(&broker) > 0);
                    reader.send(Packet::Pubrec(Ack::new(got.packet_id, reason))).await;
                    if !reason.is_error() {
                        assert!(matches!(reader.packet().await, Packet::Pubrel(_)));
                        reader.send(Packet::Pubcomp(Ack::new(got.packet_id, reason))).await;
                    }
                }
            }
            assert_eq!(reader.until_ping().await, []);
            assert_eq!(held(&broker), 0, "{qos:?} {reason:?}");
        }
    }
    // Too large, and too late.
    writer.publish(message("a", &"x".repeat(2_000), QoS::AtLeastOnce)).await;
    assert_eq!(reader.until_ping().await, []);
    assert_eq!(held(&broker), 0);
    reader.disconnect().await;
    let mut late = message("a", "x", QoS::AtLeastOnce);
    late.properties.expiry_secs = Some(0);
    writer.publish(late).await;
    assert!(held(&broker) > 0);
    let (mut reader, _) = broker.connect(hello.clone()).await;
    assert_eq!(reader.until_ping().await, []);
    assert_eq!(held(&broker), 0);
    // The session ends, by its time and by a new one; with messages that wait and that are on their way.
    for expiry in [0, 3_600] {
        hello.properties.session_expiry_secs = Some(expiry);
        reader.disconnect().await;
        reader = broker.connect(hello.clone()).await.0;
        reader.subscribe("a", QoS::ExactlyOnce).await;
        writer.publish(message("a", "x", QoS::ExactlyOnce)).await;
        let got = reader.message().await;
        reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
        assert!(matches!(reader.packet().await, Packet::Pubrel(_)));
        writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
        reader.message().await;
        assert!(held(&broker) > 0);
        reader.disconnect().await;
        assert_eq!(held(&broker) > 0, expiry > 0);
        writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
        hello.clean_start = true;
        reader = broker.connect(hello.clone()).await.0;
        assert_eq!(held(&broker), 0);
    }
}

#[tokio::test]
async fn what_is_on_disk_counts_after_a_restart() {
    let data = TempDir::new();
    let broker = TestBroker::on(data.path(), vec![]).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "released", QoS::ExactlyOnce)).await;
    let got = reader.message().await;
    reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
    assert!(matches!(reader.packet().await, Packet::Pubrel(_)));
    writer.publish(message("a", "sent", QoS::AtLeastOnce)).await;
    assert_eq!(reader.payload().await, "sent");
    reader.disconnect().await;
    writer.publish(message("a", "waits", QoS::AtLeastOnce)).await;
    let before = held(&broker);
    broker.shutdown().await;
    let broker = TestBroker::on(data.path(), vec![]).await;
    assert!(before > 200 && held(&broker) == before, "{before}");
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    let Packet::Pubrel(pubrel) = reader.packet().await else { panic!("PUBREL expected") };
    reader.send(Packet::Pubcomp(Ack::new(pubrel.packet_id, ReasonCode::Success))).await;
    for payload in ["sent", "waits"] {
        let got = reader.message().await;
        assert_eq!(&got.payload[..], payload.as_bytes());
        reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
    }
    assert_eq!(reader.until_ping().await, []);
    assert_eq!(held(&broker), 0);
}

/// All retained messages go to a new subscriber, however many there are. If it goes before it has taken them, what waits
/// for it is within the limits.
#[tokio::test]
async fn retained_messages_wait_beyond_the_limits_only_while_their_client_is_there() {
    let data = TempDir::new();
    let config = || {
        let mut config = Config::default();
        config.data = Some(data.path().to_owned());
        config.limits.queue_messages_max = 3;
        config
    };
    let broker = TestBroker::with(config(), vec![]).await;
    let mut writer = broker.v5("writer").await;
    for number in 0..8 {
        let retained = Publish { retain: true, ..message(&number.to_string(), "x", QoS::AtLeastOnce) };
        assert!(!writer.publish(retained).await.is_error());
    }
    let mut hello = persistent(Version::V5, "reader");
    hello.properties.receive_max = Some(1);
    let (mut reader, _) = broker.connect(hello.clone()).await;
    reader.subscribe("+", QoS::AtLeastOnce).await;
    reader.message().await;
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_messages\"}"), 0);
    reader.disconnect().await;
    // One was sent, three wait.
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_messages\"}"), 4);
    let (reader, connack) = broker.connect(hello.clone()).await;
    assert_eq!(dropped(&connack.properties.user), Some("4"));
    drop(reader);
    broker.shutdown().await;

    let broker = TestBroker::with(config(), vec![]).await;
    let (mut reader, _) = broker.connect(hello).await;
    for _ in 0..4 {
        let got = reader.message().await;
        reader.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
    }
    assert_eq!(reader.until_ping().await, []);
    assert_eq!(metric(&broker, "smqtt_messages_dropped_total{reason=\"queue_messages\"}"), 0);
}

/// It counts with the retained messages, and in queues once another has taken its place: or whoever publishes to one topic over
/// and over would fill the memory with what waits.
#[tokio::test]
async fn a_retained_message_counts_once_it_is_no_longer_the_newest() {
    let broker = together(1 << 20).await;
    absent(&broker, "reader", "a").await;
    let mut writer = broker.v5("writer").await;
    let mut publish = async |payload: &str| {
        let retained = Publish { retain: true, ..message("a", payload, QoS::AtLeastOnce) };
        assert_eq!(writer.publish(retained).await, ReasonCode::Success);
    };
    let large = "x".repeat(10_000);
    for count in 0..4 {
        publish(&large).await;
        assert_eq!(held(&broker) / 10_000, count);
    }
    publish("").await;
    assert_eq!(held(&broker) / 10_000, 4);
    end(&broker, "reader").await;
    assert_eq!(held(&broker), 0);
}
