//! Every crash and misbehaviour that was found in rumqttd 0.20, over the wire against this broker: first what its own
//! servers do, then what its router does. What the router carries is tested with it and without it.
//!
//! Elsewhere: the TLS handshake that stops all others, and the certificate that no hook sees, in `broker_tls.rs` and
//! `broker_mass.rs`; that there are hooks to refuse with, in `broker_hooks.rs`; that it shuts down, and forgets nothing, in
//! `broker_durable.rs`; a router that dies, in `broker_crash.rs`; MQTT 5.0 over WebSocket with the listeners. Its console
//! without authentication, and a cluster that is none, have no counterpart here.

mod broker_support;
mod common;

use broker_support::*;
use common::{TempDir, process::Running, site::smqtt};
use smqtt::{broker::Config, mqtt::*};

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

fn ack(message: &Publish) -> Ack {
    Ack::new(message.packet_id, ReasonCode::Success)
}

fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, payload, QoS::AtLeastOnce) }
}

#[tokio::test]
async fn a_topic_that_starts_beyond_ascii_is_a_topic() {
    for broker in TestBroker::of_each_engine().await {
        let mut reader = broker.v5("reader").await;
        reader.subscribe("été/#", QoS::AtMostOnce).await;
        let mut writer = broker.v3("writer").await;
        writer.publish(message("été/1", "x", QoS::AtLeastOnce)).await;
        assert_eq!(reader.message().await.topic, "été/1");
        broker.works().await;
    }
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
    broker.works().await;
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
    for broker in TestBroker::of_each_engine().await {
        let mut old = broker.v3("old").await;
        old.subscribe("a", QoS::AtMostOnce).await;
        let mut publish = message("a", "x", QoS::AtMostOnce);
        publish.properties.user = vec![("a".into(), "b".into())];
        broker.v5("new").await.publish(publish).await;
        assert_eq!(old.payload().await, "x");
        broker.works().await;
    }
}

#[tokio::test]
async fn a_shared_member_may_leave_with_a_message_unacknowledged() {
    for broker in TestBroker::of_each_engine().await {
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
            broker.works().await;
        }
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
    broker.works().await;
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
    broker.works().await;
}

#[tokio::test]
async fn refusals_have_a_connack() {
    let broker = TestBroker::start().await;
    // In the form of 3.1.1, which demands it, unless the packet has that of 5.0.
    for (bytes, answer) in [
        (&b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00"[..], &b"\x20\x02\x00\x01"[..]),
        (b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
        (b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
        (b"\x10\x0c\x00\x04MQTT\x84\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
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
async fn a_message_of_the_full_size_passes() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v3("reader").await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let payload = "x".repeat(1 << 20);
    broker.v5("writer").await.publish(message("a", &payload, QoS::AtLeastOnce)).await;
    assert_eq!(reader.message().await.payload.len(), 1 << 20);
}

#[tokio::test]
async fn a_keep_alive_of_0_is_taken() {
    let broker = TestBroker::start().await;
    for version in VERSIONS {
        let mut hello = connect(version, "client");
        hello.keep_alive_secs = 0;
        let (mut client, connack) = broker.connect(hello).await;
        assert_eq!(connack.properties.server_keep_alive_secs, None);
        assert_eq!(client.until_ping().await, []);
    }
}

// ---- the router

#[tokio::test]
async fn a_qos_2_message_is_delivered_once_however_often_the_receiver_reconnects() {
    for broker in TestBroker::of_each_engine().await {
        for version in VERSIONS {
            let hello = || persistent(version, "reader");
            let (mut reader, _) = broker.connect(hello()).await;
            reader.subscribe("a", QoS::ExactlyOnce).await;
            broker.v5("writer").await.publish(message("a", "once", QoS::ExactlyOnce)).await;
            let first = reader.message().await;
            // Gone before PUBREC: the same message, marked.
            reader.vanish(&broker).await;
            let (mut reader, _) = broker.connect(hello()).await;
            assert_eq!(reader.message().await, Publish { dup: true, ..first.clone() });
            reader.send(Packet::Pubrec(ack(&first))).await;
            assert_eq!(reader.packet().await, Packet::Pubrel(ack(&first)));
            // Gone before PUBCOMP: released again, and not sent again.
            reader.vanish(&broker).await;
            let (mut reader, _) = broker.connect(hello()).await;
            assert_eq!(reader.packet().await, Packet::Pubrel(ack(&first)));
            reader.send(Packet::Pubcomp(ack(&first))).await;
            assert_eq!(reader.until_ping().await, []);
            reader.vanish(&broker).await;
            let (mut reader, _) = broker.connect(hello()).await;
            assert_eq!(reader.until_ping().await, []);
        }
    }
}

#[tokio::test]
async fn a_qos_2_message_is_taken_once_however_often_the_publisher_reconnects() {
    for broker in TestBroker::of_each_engine().await {
        for version in VERSIONS {
            let mut reader = broker.v5("reader").await;
            reader.subscribe("a", QoS::ExactlyOnce).await;
            let once = Publish { packet_id: 7, ..message("a", "once", QoS::ExactlyOnce) };
            for dup in [false, true, true] {
                let (mut writer, _) = broker.connect(persistent(version, "writer")).await;
                writer.send(Packet::Publish(Publish { dup, ..once.clone() })).await;
                assert_eq!(writer.packet().await, Packet::Pubrec(ack(&once)));
                writer.vanish(&broker).await;
            }
            let (mut writer, _) = broker.connect(persistent(version, "writer")).await;
            writer.send(Packet::Pubrel(ack(&once))).await;
            assert_eq!(writer.packet().await, Packet::Pubcomp(ack(&once)));
            assert_eq!(reader.payload().await, "once");
            assert_eq!(settle(&broker, &mut reader).await, []);
        }
    }
}

#[tokio::test]
async fn acknowledgements_may_come_in_any_order() {
    for broker in TestBroker::of_each_engine().await {
        for version in VERSIONS {
            let (mut reader, _) = broker.connect(persistent(version, "reader")).await;
            reader.subscribe("a", QoS::ExactlyOnce).await;
            let mut writer = broker.v5("writer").await;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                writer.publish(message("a", "x", qos)).await;
            }
            let mut got = Vec::new();
            for _ in 0..4 {
                got.push(reader.message().await);
            }
            for index in [3, 2, 1, 0] {
                match got[index].qos {
                    QoS::ExactlyOnce => {
                        reader.send(Packet::Pubrec(ack(&got[index]))).await;
                        assert_eq!(reader.packet().await, Packet::Pubrel(ack(&got[index])));
                    }
                    _ => reader.send(Packet::Puback(ack(&got[index]))).await,
                }
            }
            for index in [1, 3] {
                reader.send(Packet::Pubcomp(ack(&got[index]))).await;
            }
            assert_eq!(reader.until_ping().await, []);
            reader.vanish(&broker).await;
            let (mut reader, _) = broker.connect(persistent(version, "reader")).await;
            assert_eq!(reader.until_ping().await, [], "all of it is over");
            reader.disconnect().await;
            broker.connect(connect(version, "reader")).await;
        }
    }
}

#[tokio::test]
async fn qos_is_never_above_the_publishers() {
    for broker in TestBroker::of_each_engine().await {
        let mut reader = broker.v5("reader").await;
        reader.subscribe("a", QoS::ExactlyOnce).await;
        let mut writer = broker.v5("writer").await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            writer.publish(message("a", "x", qos)).await;
            assert_eq!(reader.message().await.qos, qos);
        }
    }
}

#[tokio::test]
async fn a_second_subscribe_counts() {
    for broker in TestBroker::of_each_engine().await {
        for version in VERSIONS {
            let mut writer = broker.v5("writer").await;
            writer.publish(retained("a/1", "kept")).await;
            let (mut reader, _) = broker.connect(connect(version, "reader")).await;
            for qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
                reader.subscribe("a/+", qos).await;
                let got = reader.message().await;
                assert_eq!((&got.payload[..], got.qos, got.retain), (&b"kept"[..], qos, true));
                writer.publish(message("a/2", "live", QoS::AtLeastOnce)).await;
                let got = reader.message().await;
                assert_eq!((&got.payload[..], got.qos), (&b"live"[..], qos));
                assert_eq!(reader.until_ping().await, [], "one subscription, not two");
            }
        }
    }
}

#[tokio::test]
async fn a_topic_alias_never_delivers_under_another_topics_name() {
    for broker in TestBroker::of_each_engine().await {
        let mut hello = connect(Version::V5, "reader");
        hello.properties.topic_alias_max = Some(2);
        let (mut aliased, _) = broker.connect(hello).await;
        let mut plain = broker.v3("plain").await;
        let mut names = std::collections::HashMap::<u16, &str>::new();
        for reader in [&mut aliased, &mut plain] {
            reader.subscribe("a/+", QoS::AtLeastOnce).await;
        }
        let mut writer = broker.v5("writer").await;
        let mut expected = Vec::new();
        // Two aliases, bound and used and bound again, in turn.
        for (alias, topic) in
            [(1, "a/1"), (1, ""), (2, "a/2"), (2, ""), (1, ""), (1, "a/3"), (1, ""), (2, "")]
        {
            if !topic.is_empty() {
                names.insert(alias, topic);
            }
            let mut publish = message(topic, names[&alias], QoS::AtLeastOnce);
            publish.properties.topic_alias = Some(alias);
            assert_eq!(writer.publish(publish).await, ReasonCode::Success);
            expected.push(names[&alias].to_owned());
        }
        let mut known = std::collections::HashMap::<u16, String>::new();
        for topic in expected {
            let got = aliased.message().await;
            let name = match got.properties.topic_alias {
                Some(alias) if got.topic.is_empty() => known[&alias].clone(),
                Some(alias) => {
                    known.insert(alias, topic.clone());
                    got.topic.to_string()
                }
                None => got.topic.to_string(),
            };
            assert_eq!((name.as_str(), &got.payload[..]), (topic.as_str(), topic.as_bytes()));
            aliased.send(Packet::Puback(ack(&got))).await;
            let got = plain.message().await;
            assert_eq!((got.topic.as_str(), &got.payload[..]), (topic.as_str(), topic.as_bytes()));
        }
    }
}

#[tokio::test]
async fn every_retained_message_arrives_at_every_qos() {
    for broker in TestBroker::of_each_engine().await {
        let mut writer = broker.v5("writer").await;
        for number in 0..300 {
            let kept = message(&format!("r/{number}"), "x", QoS::ExactlyOnce);
            writer.publish(Publish { retain: true, ..kept }).await;
        }
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut reader = broker.v5("reader").await;
            reader.subscribe("r/#", qos).await;
            let mut topics = std::collections::HashSet::new();
            while topics.len() < 300 {
                match reader.packet().await {
                    Packet::Publish(got) => {
                        assert_eq!(got.qos, qos);
                        assert!(topics.insert(got.topic.to_string()));
                        match qos {
                            QoS::AtMostOnce => {}
                            QoS::AtLeastOnce => reader.send(Packet::Puback(ack(&got))).await,
                            QoS::ExactlyOnce => reader.send(Packet::Pubrec(ack(&got))).await,
                        }
                    }
                    Packet::Pubrel(release) => reader.send(Packet::Pubcomp(release)).await,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn an_empty_message_takes_the_retained_one_away_only_if_it_is_retained() {
    for broker in TestBroker::of_each_engine().await {
        let mut writer = broker.v5("writer").await;
        writer.publish(retained("a", "kept")).await;
        writer.publish(message("a", "", QoS::AtLeastOnce)).await;
        let mut reader = broker.v5("reader").await;
        reader.subscribe("a", QoS::AtMostOnce).await;
        assert_eq!(reader.payload().await, "kept");
        writer.publish(retained("a", "")).await;
        reader.message().await;
        reader.subscribe("a", QoS::AtMostOnce).await;
        assert_eq!(reader.until_ping().await, []);
    }
}

#[tokio::test]
async fn a_takeover_publishes_the_will_of_the_connection_that_ends() {
    for broker in TestBroker::of_each_engine().await {
        for version in VERSIONS {
            let mut reader = broker.v5("reader").await;
            reader.subscribe("wills", QoS::AtMostOnce).await;
            let with = |payload: &str| {
                let mut hello = connect(version, "sensor");
                hello.will = Some(will("wills", payload));
                hello
            };
            let (_first, _) = broker.connect(with("first")).await;
            let (second, _) = broker.connect(with("second")).await;
            assert_eq!(reader.payload().await, "first");
            assert_eq!(settle(&broker, &mut reader).await, []);
            drop(second);
            assert_eq!(reader.payload().await, "second");
        }
    }
}

#[tokio::test]
async fn an_unsuback_says_what_there_was() {
    let broker = TestBroker::start().await;
    let mut client = broker.v5("client").await;
    client.subscribe("a/+", QoS::AtMostOnce).await;
    client.subscribe("$share/g/a/+", QoS::AtMostOnce).await;
    let filters = ["a/1", "a/+", "a/+", "$share/h/a/+", "$share/g/a/+", "#"].map(Text::from).to_vec();
    let properties = UnsubscribeProperties::default();
    client.send(Packet::Unsubscribe(Unsubscribe { packet_id: 77, properties, filters })).await;
    let Packet::Unsuback(answer) = client.packet().await else { panic!("UNSUBACK expected") };
    let (there, none) = (ReasonCode::Success, ReasonCode::NoSubscriptionExisted);
    assert_eq!((answer.packet_id, answer.reasons), (77, vec![none, there, none, none, there, none]));
    let reason = broker.v5("writer").await.publish(message("a/1", "x", QoS::AtLeastOnce)).await;
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test]
async fn a_slow_qos_1_subscriber_loses_nothing_that_fits_its_queue() {
    let count = 5_000;
    for broker in TestBroker::of_each_engine().await {
        let mut slow = broker.v5("slow").await;
        slow.subscribe("a", QoS::AtLeastOnce).await;
        let mut quick = broker.v5("quick").await;
        quick.subscribe("a", QoS::AtMostOnce).await;
        let mut writer = broker.v5("writer").await;
        for number in 0..count {
            let reason = writer.publish(message("a", &number.to_string(), QoS::AtLeastOnce)).await;
            assert_eq!(reason, ReasonCode::Success);
            assert_eq!(quick.payload().await, number.to_string(), "the slow one slows nobody else");
        }
        for number in 0..count {
            let got = slow.message().await;
            assert_eq!(&got.payload[..], number.to_string().as_bytes());
            slow.send(Packet::Puback(ack(&got))).await;
        }
    }
}

#[tokio::test]
async fn filters_that_are_none_are_refused_one_by_one() {
    let broker = TestBroker::start().await;
    for version in VERSIONS {
        let (mut client, _) = broker.connect(connect(version, "client")).await;
        for filter in
            ["a/#/b", "a#", "#a", "a/+b", "+a/b", "$share/g", "$share//a", "$share/+/a", "$share/g/"]
        {
            let reasons = client.subscribe_with(filter, SubscriptionOptions::default(), None).await;
            let refused = match version {
                Version::V5 => ReasonCode::TopicFilterInvalid,
                Version::V3 => ReasonCode::UnspecifiedError,
            };
            assert_eq!(reasons, [refused], "{filter}");
        }
        client.subscribe("a/#", QoS::AtMostOnce).await;
    }
    broker.works().await;
}

/// It leaks 6.4 KiB for each filter, and keeps every topic: some 800 MB here.
#[tokio::test]
async fn filters_and_topics_leave_nothing_behind() {
    let home = TempDir::new();
    let running = Running::spawn(smqtt(home.path()).args(["broker", "--plain", "127.0.0.1:0", "--open"]));
    let line = running.out.line("mqtt://");
    let address = line.rsplit_once("mqtt://").unwrap().1.trim();
    let mut client = Client::over(tokio::net::TcpStream::connect(address).await.unwrap());
    client.send(Packet::Connect(Box::new(connect(Version::V5, "client")))).await;
    client.connack().await;
    let mut first = 0;
    for round in 0..6 {
        for batch in 0..40 {
            let name = |n| format!("filter/{round}/{batch}/{n}");
            let options = SubscriptionOptions::default();
            let subscriptions = (0..500).map(|n| Subscription { filter: name(n).into(), options }).collect();
            let properties = SubscribeProperties::default();
            client.send(Packet::Subscribe(Subscribe { packet_id: 1, properties, subscriptions })).await;
            assert!(matches!(client.packet().await, Packet::Suback(_)));
            for n in [0, 499] {
                client.publish(message(&name(n), "x", QoS::AtMostOnce)).await;
                client.publish(message(&format!("{}/unheard", name(n)), "x", QoS::AtMostOnce)).await;
                assert_eq!(client.message().await.topic.as_str(), name(n));
            }
            let filters = (0..500).map(|n| name(n).into()).collect();
            let properties = UnsubscribeProperties::default();
            client.send(Packet::Unsubscribe(Unsubscribe { packet_id: 2, properties, filters })).await;
            assert!(matches!(client.packet().await, Packet::Unsuback(_)));
        }
        let now = running.resident_bytes();
        println!("after {} filters: {} KiB", (round + 1) * 20_000, now >> 10);
        if round == 0 {
            first = now;
        }
        assert!(now < first + (16 << 20), "it grew from {first} to {now}");
    }
}
