//! What happens to messages: retained ones, wildcards, shared subscriptions, the options and properties of MQTT 5.0.

mod broker_support;

use broker_support::*;
use bytes::BytesMut;
use smqtt::{
    broker::{
        self, Admission, Config, ConnectRequest, ConnectVerdict, Denial, Hook, HookFuture, Publication,
        Verdict,
    },
    mqtt::*,
};

fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, payload, QoS::AtLeastOnce) }
}

fn payloads(packets: &[Packet]) -> Vec<String> {
    packets
        .iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => String::from_utf8(publish.payload.to_vec()).unwrap(),
            other => panic!("PUBLISH expected, got {other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn the_newest_retained_message_is_kept_until_an_empty_one_removes_it() {
    let broker = TestBroker::start().await;
    for version in [Version::V3, Version::V5] {
        let mut writer = broker.v5("writer").await;
        writer.publish(retained("r/a", "old")).await;
        writer.publish(retained("r/a", "new")).await;
        // An empty message without the flag removes nothing.
        writer.publish(message("r/a", "", QoS::AtLeastOnce)).await;
        let (mut reader, _) = broker.connect(connect(version, "reader")).await;
        reader.subscribe("r/+", QoS::AtMostOnce).await;
        let got = reader.message().await;
        assert_eq!((&got.payload[..], got.retain), (&b"new"[..], true));
        // To who is there already it goes without the flag.
        writer.publish(retained("r/a", "")).await;
        let got = reader.message().await;
        assert_eq!((got.payload.len(), got.retain), (0, false));
        reader.subscribe("#", QoS::AtMostOnce).await;
        assert_eq!(reader.until_ping().await, []);
    }
}

#[tokio::test]
async fn many_retained_messages_all_arrive() {
    let broker = TestBroker::direct().await;
    let mut writer = broker.v5("writer").await;
    for number in 0..1_000 {
        writer.publish(retained(&format!("r/{number}/x"), "x")).await;
    }
    let mut reader = broker.v3("reader").await;
    reader.subscribe("r/+/x", QoS::AtMostOnce).await;
    for _ in 0..1_000 {
        reader.message().await;
    }
}

/// Whoever subscribes in the middle of a stream of retained messages gets the newest and then each that follows: none is
/// missing between the two, none comes twice, and no older one comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_misses_nothing_of_what_is_retained_just_then() {
    let broker = TestBroker::direct().await;
    let mut writer = broker.v5("writer").await;
    let writing = tokio::spawn(async move {
        for number in 1..=4_000 {
            let retained = Publish { retain: true, ..message("a", &number.to_string(), QoS::AtLeastOnce) };
            writer.publish(retained).await;
        }
    });
    let number = |packet: &Packet| match packet {
        Packet::Publish(publish) => std::str::from_utf8(&publish.payload).unwrap().parse::<u32>().unwrap(),
        other => panic!("{other:?}"),
    };
    let (mut last, mut readers) = (0, 0);
    while last < 4_000 {
        readers += 1;
        let mut reader = broker.v5(&format!("reader-{readers}")).await;
        reader.subscribe("a", QoS::AtMostOnce).await;
        let numbers: Vec<u32> = reader.until_ping().await.iter().map(number).collect();
        assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "{numbers:?}");
        assert!(numbers.first().is_none_or(|first| *first >= last), "{numbers:?} after {last}");
        last = numbers.last().copied().unwrap_or(last);
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn retain_handling_and_retain_as_published() {
    let broker = TestBroker::start().await;
    let mut writer = broker.v5("writer").await;
    writer.publish(retained("a", "kept")).await;
    let mut reader = broker.v5("reader").await;
    let mut options =
        SubscriptionOptions { retain_handling: RetainHandling::SendIfNew, ..Default::default() };
    reader.subscribe_with("a", options, None).await;
    assert_eq!(reader.payload().await, "kept");
    reader.subscribe_with("a", options, None).await;
    assert_eq!(reader.until_ping().await, []);
    options.retain_handling = RetainHandling::DoNotSend;
    options.retain_as_published = true;
    reader.subscribe_with("a", options, None).await;
    assert_eq!(reader.until_ping().await, []);
    writer.publish(retained("a", "live")).await;
    assert!(reader.message().await.retain);
}

#[tokio::test]
async fn wildcards_follow_the_standard() {
    let broker = TestBroker::start().await;
    let mut writer = broker.v5("writer").await;
    for (filter, topic, expected) in [
        ("sport/#", "sport", true),
        ("sport/#", "sport/tennis/p1", true),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$own/x", false),
        ("+/x", "$own/x", false),
        ("$own/#", "$own/x", true),
        ("été/+/ü", "été/1/ü", true),
    ] {
        let mut live = broker.v5("live").await;
        live.subscribe(filter, QoS::AtMostOnce).await;
        writer.publish(retained(topic, "x")).await;
        assert_eq!(settle(&broker, &mut live).await.len(), usize::from(expected), "{filter} {topic}");
        let mut late = broker.v5("late").await;
        late.subscribe(filter, QoS::AtMostOnce).await;
        assert_eq!(late.until_ping().await.len(), usize::from(expected), "retained: {filter} {topic}");
        writer.publish(retained(topic, "")).await;
    }
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_once_with_all_identifiers() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    let options = |qos| SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    reader.subscribe_with("a/#", options(QoS::AtLeastOnce), Some(1)).await;
    reader.subscribe_with("a/+", options(QoS::ExactlyOnce), Some(268_435_455)).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a/b", "x", QoS::ExactlyOnce)).await;
    let got = reader.message().await;
    let mut ids: Vec<u32> = got.properties.subscription_ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    assert_eq!((got.qos, ids), (QoS::ExactlyOnce, vec![1, 268_435_455]));
    assert_eq!(reader.until_ping().await, []);
}

#[tokio::test]
async fn a_new_subscription_to_the_same_filter_replaces_the_old() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a", QoS::AtMostOnce).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
    assert_eq!(reader.message().await.qos, QoS::AtLeastOnce);
    let unsubscribe = |packet_id| {
        let filters = vec!["a".into(), "b".into()];
        Packet::Unsubscribe(Unsubscribe { packet_id, properties: UnsubscribeProperties::default(), filters })
    };
    reader.send(unsubscribe(99)).await;
    let Packet::Unsuback(unsuback) = reader.packet().await else { panic!("UNSUBACK expected") };
    assert_eq!(unsuback.reasons, [ReasonCode::Success, ReasonCode::NoSubscriptionExisted]);
    let reason = writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    assert_eq!(reader.until_ping().await, []);
}

#[tokio::test]
async fn no_local_spares_the_publisher_its_own_messages() {
    let broker = TestBroker::start().await;
    let mut client = broker.v5("client").await;
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    client.subscribe_with("a", options, None).await;
    client.publish(retained("a", "own")).await;
    broker.v5("other").await.publish(message("a", "other", QoS::AtLeastOnce)).await;
    assert_eq!(client.payload().await, "other");
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_member() {
    let broker = TestBroker::start().await;
    let mut writer = broker.v5("writer").await;
    let mut first = broker.v5("first").await;
    let mut second = broker.v3("second").await;
    let mut alone = broker.v5("alone").await;
    first.subscribe("$share/g/a/#", QoS::AtLeastOnce).await;
    second.subscribe("$share/g/a/#", QoS::AtLeastOnce).await;
    alone.subscribe("a/#", QoS::AtMostOnce).await;
    for number in 0..10 {
        writer.publish(message("a/b", &number.to_string(), QoS::AtMostOnce)).await;
    }
    let mut shared = payloads(&settle(&broker, &mut first).await);
    assert!(!shared.is_empty() && shared.len() < 10);
    shared.extend(payloads(&second.until_ping().await));
    shared.sort();
    let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(shared, all);
    assert_eq!(payloads(&settle(&broker, &mut alone).await), all);
    // A member that is away is passed over.
    first.vanish(&broker).await;
    writer.publish(message("a/b", "x", QoS::AtLeastOnce)).await;
    assert_eq!(second.payload().await, "x");
}

#[tokio::test]
async fn topic_aliases_work_in_both_directions() {
    let broker = TestBroker::start().await;
    let mut hello = connect(Version::V5, "reader");
    hello.properties.topic_alias_max = Some(1);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    let (mut writer, connack) = broker.connect(connect(Version::V5, "writer")).await;
    assert!(connack.properties.topic_alias_max.is_some_and(|max| max >= 2));
    let aliased = |topic: &str, alias| {
        let mut publish = message(topic, topic, QoS::AtMostOnce);
        publish.properties.topic_alias = Some(alias);
        publish
    };
    for (topic, alias) in [("one", 1), ("", 1), ("two", 2), ("", 2), ("three", 1), ("", 1)] {
        writer.publish(aliased(topic, alias)).await;
    }
    let mut seen = Vec::new();
    for _ in 0..6 {
        let got = reader.message().await;
        seen.push((got.topic.to_string(), got.properties.topic_alias));
    }
    let plain = |topic: &str| (topic.to_owned(), None);
    assert_eq!(seen[0], ("one".to_owned(), Some(1)));
    assert_eq!(seen[1], (String::new(), Some(1)));
    assert_eq!(seen[2..], [plain("two"), plain("two"), plain("three"), plain("three")]);
    writer.publish(aliased("", 3)).await;
    assert_eq!(writer.closed().await, Some(ReasonCode::ProtocolError));
    for alias in [0, u16::MAX] {
        let mut writer = broker.v5("writer").await;
        writer.publish(aliased("x", alias)).await;
        assert_eq!(writer.closed().await, Some(ReasonCode::TopicAliasInvalid));
    }
}

#[tokio::test]
async fn properties_arrive_as_they_were_sent_and_never_at_3_1_1() {
    let broker = TestBroker::start().await;
    let mut new = broker.v5("new").await;
    let mut old = broker.v3("old").await;
    new.subscribe("a", QoS::AtMostOnce).await;
    old.subscribe("a", QoS::AtMostOnce).await;
    let mut publish = message("a", "x", QoS::AtMostOnce);
    publish.properties = PublishProperties {
        payload_is_text: Some(true),
        response_topic: Some("answer".into()),
        correlation_data: Some("id".into()),
        content_type: Some("text/plain".into()),
        user: vec![("k".into(), "1".into()), ("a".into(), "2".into()), ("k".into(), "1".into())],
        ..PublishProperties::default()
    };
    broker.v5("writer").await.publish(publish.clone()).await;
    assert_eq!(new.message().await, publish);
    assert_eq!(old.message().await, message("a", "x", QoS::AtMostOnce));
}

#[tokio::test]
async fn a_message_larger_than_the_client_takes_is_left_out() {
    let broker = TestBroker::start().await;
    let mut hello = connect(Version::V5, "reader");
    hello.properties.packet_bytes_max = Some(64);
    hello.properties.receive_max = Some(1);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", &"x".repeat(64), QoS::AtLeastOnce)).await;
    writer.publish(message("a", "small", QoS::AtLeastOnce)).await;
    assert_eq!(reader.payload().await, "small");
}

#[tokio::test]
async fn reason_strings_stay_away_from_who_declines_them() {
    let broker = TestBroker::start().await;
    for wanted in [true, false] {
        let mut hello = connect(Version::V5, "client");
        hello.properties.request_problem = Some(wanted);
        let (mut client, _) = broker.connect(hello).await;
        let subscriptions = vec![Subscription { filter: "a/#/b".into(), options: Default::default() }];
        let packet = Subscribe { packet_id: 1, properties: SubscribeProperties::default(), subscriptions };
        client.send(Packet::Subscribe(packet)).await;
        let Packet::Suback(suback) = client.packet().await else { panic!("SUBACK expected") };
        assert_eq!(suback.reasons, [ReasonCode::TopicFilterInvalid]);
        assert_eq!(suback.properties.reason_string.is_some(), wanted);
    }
}

/// What it is sent never exceeds what it takes: texts are left out, and what then still is too large is not sent.
#[tokio::test]
async fn a_client_that_takes_small_packets_gets_small_packets() {
    let broker = TestBroker::start().await;
    let taking = |bytes| {
        let mut hello = connect(Version::V5, "client");
        hello.properties.packet_bytes_max = Some(bytes);
        hello
    };
    let bytes = 40;
    let mut hello = taking(bytes);
    hello.properties.authentication_method = Some("x".into());
    let mut refused = broker.raw().await;
    refused.send(Packet::Connect(Box::new(hello))).await;
    let connack = refused.connack().await;
    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
    assert_eq!(connack.properties.reason_string, None);

    let subscribe = |filters: usize| {
        let one = Subscription { filter: "a/#/b".into(), options: Default::default() };
        let properties = SubscribeProperties::default();
        Packet::Subscribe(Subscribe { packet_id: 1, properties, subscriptions: vec![one; filters] })
    };
    let (mut client, _) = broker.connect(taking(bytes)).await;
    client.send(subscribe(16)).await;
    let Packet::Suback(suback) = client.packet().await else { panic!("SUBACK expected") };
    assert_eq!((suback.reasons.len(), suback.properties.reason_string), (16, None));
    client.send(subscribe(40)).await;
    let Packet::Disconnect(goodbye) = client.packet().await else { panic!("DISCONNECT expected") };
    assert_eq!((goodbye.reason, goodbye.properties.reason_string), (ReasonCode::PacketTooLarge, None));

    // Who takes not even a CONNACK is refused, with one if it takes that.
    let mut client = broker.raw().await;
    client.send(Packet::Connect(Box::new(taking(5)))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::PacketTooLarge);
    assert_eq!(client.next().await, None);
    let mut client = broker.raw().await;
    client.send(Packet::Connect(Box::new(taking(4)))).await;
    assert_eq!(client.next().await, None);
    until(|| broker.handle.connections() == 0).await;
}

/// One thread, so that nobody else can empty the queue while its publisher is served.
#[tokio::test]
async fn a_flood_is_not_dropped_before_its_reader_had_a_turn() {
    let broker = TestBroker::direct().await;
    let mut reader = broker.v3("reader").await;
    reader.subscribe("flood", QoS::AtMostOnce).await;
    // More than a queue holds, in far fewer bytes than sockets do.
    let count = 2 * Config::default().limits.queue_messages_max;
    let mut bytes = BytesMut::new();
    for _ in 0..count {
        bytes.extend_from_slice(b"\x30\x08\0\x05floodx");
    }
    let mut writer = broker.v3("writer").await;
    writer.send_bytes(&bytes).await;
    for _ in 0..count {
        assert_eq!(reader.payload().await, "x");
    }
}

/// Says much, whatever it is asked.
struct Talkative;

impl Hook for Talkative {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let user_properties = vec![("news".into(), "x".repeat(200).into())];
        Box::pin(async { ConnectVerdict::Allow(Admission { user_properties, ..Admission::default() }) })
    }

    fn publish(&self, _: &broker::Client, publication: &mut Publication) -> Verdict {
        let denial = Denial::new(ReasonCode::Banned, "x".repeat(200));
        match publication.message().topic().as_str() {
            "cut" => Verdict::Deny(denial.disconnecting()),
            _ => Verdict::Deny(denial),
        }
    }
}

#[tokio::test]
async fn what_a_hook_says_at_length_does_not_reach_who_takes_small_packets() {
    let broker = TestBroker::with(Config::default(), vec![Box::new(Talkative)]).await;
    for (bytes_max, is_short) in [(None, false), (Some(100), true)] {
        let mut hello = connect(Version::V5, "client");
        hello.properties.packet_bytes_max = bytes_max;
        let (mut client, connack) = broker.connect(hello).await;
        assert_eq!(connack.properties.user.is_empty(), is_short);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let publish = Publish { packet_id: 1, ..message("refused", "x", qos) };
            client.send(Packet::Publish(publish)).await;
            let (Packet::Puback(ack) | Packet::Pubrec(ack)) = client.packet().await else {
                panic!("PUBACK or PUBREC expected")
            };
            assert_eq!(ack.reason, ReasonCode::ImplementationSpecificError);
            assert_eq!(ack.properties.reason_string.is_none(), is_short);
        }
        client.publish(message("cut", "x", QoS::AtMostOnce)).await;
        let Packet::Disconnect(goodbye) = client.packet().await else { panic!("DISCONNECT expected") };
        // 0x8A is none of DISCONNECT's.
        assert_eq!(goodbye.reason, ReasonCode::NotAuthorized);
        assert_eq!(goodbye.properties.reason_string.is_none(), is_short);
    }
}
