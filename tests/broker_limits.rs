//! Each limit over the wire: it holds, the client is told with the reason code that the table promises, and the metric
//! of its name counts.

mod broker_support;

use std::time::Duration;

use broker_support::*;
use bytes::Bytes;
use smqtt::{
    broker::{
        BrokerHandle, Client as Peer, Config, ConnectRequest, ConnectVerdict, DeliverVerdict, Delivery,
        EngineKind, Hook, HookFuture, Limit, Stored, Whom,
    },
    mqtt::*,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// The value of a metric, labels included; 0 if it is not there.
fn metric(handle: &BrokerHandle, name: &str) -> f64 {
    let text = handle.metrics().render();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0.0)
}

fn hits(handle: &BrokerHandle, limit: Limit) -> f64 {
    metric(handle, &format!("smqtt_limit_hits_total{{limit=\"{}\"}}", limit.name()))
}

/// Expects that the limit has taken effect, and that the table promises this reason for it.
fn expect(broker: &TestBroker, limit: Limit, reason: ReasonCode) {
    assert!(hits(&broker.handle, limit) >= 1.0, "{}", limit.name());
    assert!(limit.reasons().contains(&reason), "{} has no {reason:?}", limit.name());
}

async fn limited(set: impl FnOnce(&mut Config)) -> TestBroker {
    let mut config = Config::default();
    set(&mut config);
    TestBroker::with(config, vec![]).await
}

/// The reason of the CONNACK.
async fn refused(broker: &TestBroker, connect: Connect) -> ReasonCode {
    let mut client = broker.raw().await;
    client.version = connect.version;
    client.send(Packet::Connect(Box::new(connect))).await;
    let reason = client.connack().await.reason;
    assert_eq!(client.next().await, None);
    reason
}

#[tokio::test]
async fn connections() {
    let broker = limited(|config| config.limits.connections_max = 1).await;
    let _first = broker.v5("first").await;
    let reason = refused(&broker, connect(Version::V5, "second")).await;
    assert_eq!(reason, ReasonCode::QuotaExceeded);
    expect(&broker, Limit::Connections, reason);
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_for_who_speaks() {
    let broker = limited(|config| config.limits.connections_pending_max = 3).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(broker.raw().await);
    }
    until(|| metric(&broker.handle, "smqtt_connections_pending") == 3.0).await;
    // Whoever comes before they are a second old is asked to try again, and then gets in.
    let reason = refused(&broker, connect(Version::V5, "honest")).await;
    assert_eq!(reason, ReasonCode::ServerBusy);
    let mut hello = bytes::BytesMut::new();
    let connect = Packet::Connect(Box::new(connect(Version::V5, "honest")));
    connect.encode(Version::V5, &mut hello).unwrap();
    loop {
        let mut client = broker.raw().await;
        // Only so many a second are told; the others are just closed.
        let _ = client.stream.write_all(&hello).await;
        match client.next().await {
            Some(Packet::Connack(connack)) if connack.reason == ReasonCode::Success => break,
            Some(Packet::Connack(connack)) => assert_eq!(connack.reason, ReasonCode::ServerBusy),
            _ => {}
        }
    }
    expect(&broker, Limit::ConnectionsPending, ReasonCode::ServerBusy);
    assert_eq!(silent[0].next().await, None);
    assert_eq!(metric(&broker.handle, "smqtt_connects_total{result=\"evicted\"}"), 1.0);
}

#[tokio::test]
async fn connections_a_second_from_one_address() {
    let broker = limited(|config| config.limits.connection_rate_per_address_max = 1).await;
    let reason = loop {
        let mut client = broker.raw().await;
        client.send(Packet::Connect(Box::new(connect(Version::V5, "client")))).await;
        match client.connack().await.reason {
            ReasonCode::Success => continue,
            reason => break reason,
        }
    };
    assert_eq!(reason, ReasonCode::ConnectionRateExceeded);
    expect(&broker, Limit::ConnectionRate, reason);
}

#[tokio::test(start_paused = true)]
async fn time_until_connect() {
    let broker = limited(|_| ()).await;
    let mut silent = broker.pipe();
    assert_eq!(
        silent.stream.read_u8().await.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::UnexpectedEof)
    );
    assert_eq!(hits(&broker.handle, Limit::ConnectTimeout), 1.0);
    assert_eq!(metric(&broker.handle, "smqtt_connects_total{result=\"timeout\"}"), 1.0);
}

/// Asks somebody who never answers.
struct Silent;

impl Hook for Silent {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn time_for_hooks_to_answer_a_connect() {
    for version in [Version::V5, Version::V3] {
        let broker = TestBroker::with(Config::default(), vec![Box::new(Silent)]).await;
        let begun = Instant::now();
        let mut client = broker.pipe();
        client.version = version;
        client.send(Packet::Connect(Box::new(connect(version, "client")))).await;
        // In 3.1.1 return code 3, "server unavailable".
        let reason = client.connack().await.reason;
        let expected =
            if version == Version::V5 { ReasonCode::ServerBusy } else { ReasonCode::ServerUnavailable };
        assert_eq!(reason, expected);
        assert_eq!(begun.elapsed(), Config::default().limits.connect_timeout);
        assert_eq!(client.next().await, None);
        drop(client);
        expect(&broker, Limit::ConnectTimeout, ReasonCode::ServerBusy);
        until(|| broker.handle.connections() == 0).await;
        assert_eq!(metric(&broker.handle, "smqtt_sessions"), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn time_to_take_the_last_packets() {
    let broker = limited(|_| ()).await;
    let (mut stuck, _) = broker.pipe_connect(connect(Version::V5, "stuck")).await;
    stuck.subscribe("a", QoS::AtMostOnce).await;
    // More than the pipe holds, which nobody empties.
    let (mut writer, _) = broker.pipe_connect(connect(Version::V5, "writer")).await;
    for _ in 0..4 {
        writer.publish(message("a", &"x".repeat(64 << 10), QoS::AtLeastOnce)).await;
    }
    let begun = Instant::now();
    broker.handle.disconnect(Whom::ClientId("stuck"), ReasonCode::NotAuthorized, "go", Stored::Discard);
    until_later(|| broker.handle.connections() == 1).await;
    assert_eq!(begun.elapsed().as_secs(), Config::default().limits.close_timeout.as_secs());
    assert_eq!(hits(&broker.handle, Limit::CloseTimeout), 1.0);
    // Who takes them in time is not counted.
    broker.handle.disconnect(Whom::ClientId("writer"), ReasonCode::NotAuthorized, "go", Stored::Discard);
    assert_eq!(writer.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(hits(&broker.handle, Limit::CloseTimeout), 1.0);
}

/// Waits while the clock goes on by itself.
async fn until_later(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_the_longest_keep_alive() {
    let broker = limited(|config| config.limits.keep_alive_max = Some(Duration::from_secs(10))).await;
    let mut hello = connect(Version::V5, "client");
    hello.keep_alive_secs = 5;
    let (mut short, _) = broker.pipe_connect(hello).await;
    let (mut client, connack) = broker.pipe_connect(connect(Version::V5, "client-2")).await;
    assert_eq!(connack.properties.server_keep_alive_secs, Some(10));
    assert_eq!(hits(&broker.handle, Limit::KeepAlive), 1.0);
    let begun = Instant::now();
    assert_eq!(short.closed().await, Some(ReasonCode::KeepAliveTimeout));
    assert_eq!(client.closed().await, Some(ReasonCode::KeepAliveTimeout));
    assert_eq!(begun.elapsed().as_secs(), 15);
    expect(&broker, Limit::KeepAlive, ReasonCode::KeepAliveTimeout);
    // Shortened, and then cut; the other was cut by what it asked for itself.
    assert_eq!(hits(&broker.handle, Limit::KeepAlive), 2.0);
}

/// Gives readers more than a packet holds.
struct Swollen(Bytes);

impl Hook for Swollen {
    fn deliver(&self, _: &Peer, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        if delivery.message().topic() == "a" {
            delivery.set_payload(self.0.clone());
        }
        DeliverVerdict::Deliver
    }
}

#[tokio::test]
async fn what_a_hook_makes_too_large_for_mqtt_is_dropped_and_counted() {
    // Never touched: the length alone counts.
    let payload = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    for version in [Version::V5, Version::V3] {
        let broker = TestBroker::with(Config::default(), vec![Box::new(Swollen(payload.clone()))]).await;
        let (mut reader, _) = broker.connect(connect(version, "reader")).await;
        reader.subscribe("+", QoS::ExactlyOnce).await;
        let mut writer = broker.v5("writer").await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            writer.publish(message("a", "x", qos)).await;
        }
        writer.publish(message("b", "x", QoS::AtMostOnce)).await;
        assert_eq!(reader.payload().await, "x");
        assert_eq!(metric(&broker.handle, "smqtt_messages_dropped_total{reason=\"not_encodable\"}"), 3.0);
        // It is over with them: nothing comes again, nor counts as under way.
        assert_eq!(metric(&broker.handle, "smqtt_inflight_messages"), 0.0);
    }
}

#[tokio::test]
async fn packets_and_connects_have_a_size() {
    let broker = limited(|config| {
        config.limits.packet_bytes_max = 200;
        config.limits.connect_bytes_max = 300;
    })
    .await;
    let (mut client, connack) = broker.connect(connect(Version::V5, "client")).await;
    assert_eq!(connack.properties.packet_bytes_max, Some(200));
    client.send(Packet::Publish(message("a", &"x".repeat(200), QoS::AtMostOnce))).await;
    assert_eq!(client.closed().await, Some(ReasonCode::PacketTooLarge));
    expect(&broker, Limit::PacketBytes, ReasonCode::PacketTooLarge);
    let mut hello = connect(Version::V5, "client");
    hello.will = Some(will("a", &"x".repeat(300)));
    assert_eq!(refused(&broker, hello).await, ReasonCode::PacketTooLarge);
    expect(&broker, Limit::ConnectBytes, ReasonCode::PacketTooLarge);
}

/// A CONNECT with a large will.
fn large_connect(version: Version) -> Vec<u8> {
    let mut hello = connect(version, "large");
    hello.will = Some(will("a", &"x".repeat(60_000)));
    let mut bytes = bytes::BytesMut::new();
    Packet::Connect(Box::new(hello)).encode(version, &mut bytes).unwrap();
    bytes.to_vec()
}

#[tokio::test]
async fn connects_that_do_not_end_hold_only_so_much() {
    // Bytes of each that are not counted.
    const FREE: usize = 4 << 10;
    let broker = limited(|config| config.limits.connect_bytes_pending_max = 60_000).await;
    let pending = || metric(&broker.handle, "smqtt_connect_bytes_pending");
    let mut half = Vec::new();
    for number in 1..=3 {
        let mut client = broker.raw().await;
        client.send_bytes(&large_connect(Version::V5)[..FREE + 20_000]).await;
        half.push(client);
        until(|| pending() == f64::from(number * 20_000)).await;
    }
    for (version, expected) in
        [(Version::V5, ReasonCode::ServerBusy), (Version::V3, ReasonCode::ServerUnavailable)]
    {
        let mut client = broker.raw().await;
        client.version = version;
        client.send_bytes(&large_connect(version)[..FREE + 1]).await;
        assert_eq!(client.connack().await.reason, expected);
        assert_eq!(client.next().await, None);
    }
    expect(&broker, Limit::ConnectBytesPending, ReasonCode::ServerBusy);
    // Who has little to say does not notice.
    broker.works().await;
    assert_eq!(hits(&broker.handle, Limit::ConnectBytesPending), 2.0);
    // There is room again when somebody goes, or comes to an end.
    let mut client = half.pop().unwrap();
    drop(half);
    until(|| pending() == 20_000.0).await;
    client.send_bytes(&large_connect(Version::V5)[FREE + 20_000..]).await;
    assert_eq!(client.connack().await.reason, ReasonCode::Success);
    assert_eq!(pending(), 0.0);
}

#[tokio::test]
async fn topics_and_filters_have_a_length_and_levels() {
    let broker = limited(|config| {
        config.limits.topic_bytes_max = 10;
        config.limits.topic_levels_max = 3;
    })
    .await;
    for (topic, limit) in [("0123456789a", Limit::TopicBytes), ("a/b/c/d", Limit::TopicLevels)] {
        let mut client = broker.v5("client").await;
        let options = SubscriptionOptions::default();
        assert_eq!(client.subscribe_with(topic, options, None).await, [ReasonCode::TopicFilterInvalid]);
        expect(&broker, limit, ReasonCode::TopicFilterInvalid);
        let before = hits(&broker.handle, limit);
        client.send(Packet::Publish(message(topic, "x", QoS::AtMostOnce))).await;
        assert_eq!(client.closed().await, Some(ReasonCode::TopicNameInvalid));
        let mut hello = connect(Version::V5, "client");
        hello.will = Some(will(topic, "x"));
        assert_eq!(refused(&broker, hello).await, ReasonCode::TopicNameInvalid);
        assert_eq!(hits(&broker.handle, limit), before + 2.0);
        expect(&broker, limit, ReasonCode::TopicNameInvalid);
    }
    let mut client = broker.v5("client").await;
    client.subscribe("a/b/c", QoS::AtMostOnce).await;
    client.subscribe("0123456789", QoS::AtMostOnce).await;
}

#[tokio::test]
async fn client_ids_have_a_length() {
    let broker = limited(|config| config.limits.client_id_bytes_max = 4).await;
    broker.v5("four").await;
    let reason = refused(&broker, connect(Version::V5, "fives")).await;
    assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
    expect(&broker, Limit::ClientIdBytes, reason);
}

#[tokio::test]
async fn sessions() {
    let broker = limited(|config| config.limits.sessions_max = 1).await;
    let (away, _) = broker.connect(persistent(Version::V5, "first")).await;
    away.disconnect().await;
    let reason = refused(&broker, connect(Version::V5, "second")).await;
    assert_eq!(reason, ReasonCode::QuotaExceeded);
    expect(&broker, Limit::Sessions, reason);
    broker.v5("first").await;
}

#[tokio::test]
async fn subscriptions_of_a_session_and_distinct_filters_of_all() {
    let broker = limited(|config| {
        config.limits.subscriptions_per_session_max = 2;
        config.limits.filters_max = 3;
    })
    .await;
    let mut first = broker.v5("first").await;
    let options = SubscriptionOptions::default();
    first.subscribe("a", QoS::AtMostOnce).await;
    first.subscribe("b/+", QoS::AtMostOnce).await;
    assert_eq!(first.subscribe_with("c", options, None).await, [ReasonCode::QuotaExceeded]);
    expect(&broker, Limit::SubscriptionsPerSession, ReasonCode::QuotaExceeded);
    // Anew, with other options, is no further one.
    first.subscribe("a", QoS::AtLeastOnce).await;

    let mut second = broker.v5("second").await;
    second.subscribe("c", QoS::AtMostOnce).await;
    assert_eq!(hits(&broker.handle, Limit::Filters), 0.0);
    assert_eq!(second.subscribe_with("d", options, None).await, [ReasonCode::QuotaExceeded]);
    expect(&broker, Limit::Filters, ReasonCode::QuotaExceeded);
    // A filter that somebody has is no further one, nor is a group on it.
    second.subscribe("$share/g/b/+", QoS::AtMostOnce).await;
    assert_eq!(metric(&broker.handle, "smqtt_filters"), 3.0);
    assert_eq!(metric(&broker.handle, "smqtt_subscriptions"), 4.0);
    first.disconnect().await;
    until(|| metric(&broker.handle, "smqtt_subscriptions") == 2.0).await;
    // `b/+` stays: the group has it.
    let mut third = broker.v5("third").await;
    third.subscribe("d", QoS::AtMostOnce).await;
    assert_eq!(metric(&broker.handle, "smqtt_filters"), 3.0);
    assert_eq!(
        metric(&broker.handle, "smqtt_refusals_total{point=\"subscribe\",reason=\"quota_exceeded\"}"),
        2.0
    );
}

#[tokio::test]
async fn unacknowledged_messages_from_a_client() {
    let broker = limited(|config| config.limits.receive_max = 2).await;
    let (mut client, connack) = broker.connect(connect(Version::V5, "client")).await;
    assert_eq!(connack.properties.receive_max, Some(2));
    for packet_id in 1..=3 {
        let publish = Publish { packet_id, ..message("a", "x", QoS::ExactlyOnce) };
        client.send(Packet::Publish(publish)).await;
    }
    assert_eq!(client.closed().await, Some(ReasonCode::ReceiveMaximumExceeded));
    expect(&broker, Limit::Receive, ReasonCode::ReceiveMaximumExceeded);
    // What an earlier connection left does not count against the next.
    let (mut client, _) = broker.connect(persistent(Version::V5, "other")).await;
    for round in 0..3 {
        for packet_id in [2 * round + 1, 2 * round + 2] {
            let publish = Publish { packet_id, ..message("a", "x", QoS::ExactlyOnce) };
            client.send(Packet::Publish(publish)).await;
            assert!(matches!(client.packet().await, Packet::Pubrec(_)));
        }
        drop(client);
        client = broker.connect(Connect { clean_start: false, ..persistent(Version::V5, "other") }).await.0;
    }
    // Nor does what is released, of whichever connection.
    for packet_id in [1, 2, 6, 7, 8] {
        client.send(Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success))).await;
        assert!(matches!(client.packet().await, Packet::Pubcomp(_)));
    }
    for packet_id in [7, 8, 9] {
        let publish = Publish { packet_id, ..message("a", "x", QoS::ExactlyOnce) };
        client.send(Packet::Publish(publish)).await;
    }
    let mut answers = Vec::new();
    while let Some(packet) = client.next().await {
        answers.push(packet);
    }
    let refused = |packet: &Packet| matches!(packet, Packet::Disconnect(end) if end.reason == ReasonCode::ReceiveMaximumExceeded);
    assert!(answers.last().is_some_and(refused), "{answers:?}");
}

#[tokio::test]
async fn unacknowledged_messages_to_a_client() {
    let broker = limited(|config| config.limits.inflight_messages_max = 2).await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    for number in 0..4 {
        writer.publish(message("a", &number.to_string(), QoS::AtLeastOnce)).await;
    }
    let first = reader.message().await;
    reader.message().await;
    assert_eq!(reader.until_ping().await, []);
    until(|| hits(&broker.handle, Limit::InflightMessages) >= 1.0).await;
    reader.send(Packet::Puback(Ack::new(first.packet_id, ReasonCode::Success))).await;
    assert_eq!(reader.payload().await, "2");
}

#[tokio::test]
async fn topic_aliases() {
    let broker = limited(|config| {
        config.limits.topic_alias_max = 1;
        config.limits.topic_alias_out_max = 1;
    })
    .await;
    let mut hello = connect(Version::V5, "client");
    hello.properties.topic_alias_max = Some(9);
    let (mut client, _) = broker.connect(hello).await;
    assert_eq!(hits(&broker.handle, Limit::TopicAliasOut), 1.0);
    client.subscribe("+", QoS::AtMostOnce).await;
    let mut publish = message("a", "x", QoS::AtMostOnce);
    publish.properties.topic_alias = Some(1);
    client.send(Packet::Publish(publish.clone())).await;
    assert_eq!(client.message().await.properties.topic_alias, Some(1));
    client.send(Packet::Publish(message("b", "x", QoS::AtMostOnce))).await;
    assert_eq!(client.message().await.properties.topic_alias, None);
    publish.properties.topic_alias = Some(2);
    client.send(Packet::Publish(publish)).await;
    assert_eq!(client.closed().await, Some(ReasonCode::TopicAliasInvalid));
    expect(&broker, Limit::TopicAlias, ReasonCode::TopicAliasInvalid);
}

#[tokio::test]
async fn retained_messages_and_their_bytes() {
    let broker = limited(|config| {
        config.limits.retained_messages_max = 2;
        config.limits.retained_bytes_max = 2_000;
    })
    .await;
    let mut client = broker.v5("client").await;
    let retained =
        |topic: &str, bytes| Publish { retain: true, ..message(topic, &"x".repeat(bytes), QoS::AtLeastOnce) };
    assert!(!client.publish(retained("a", 100)).await.is_error());
    assert_eq!(client.publish(retained("b", 2_000)).await, ReasonCode::QuotaExceeded);
    expect(&broker, Limit::RetainedBytes, ReasonCode::QuotaExceeded);
    // User properties count.
    let mut heavy = retained("b", 1);
    heavy.properties.user = vec![("k".into(), "v".into()); 40];
    assert_eq!(client.publish(heavy).await, ReasonCode::QuotaExceeded);
    assert_eq!(hits(&broker.handle, Limit::RetainedBytes), 2.0);
    assert!(!client.publish(retained("b", 100)).await.is_error());
    assert_eq!(client.publish(retained("c", 1)).await, ReasonCode::QuotaExceeded);
    expect(&broker, Limit::RetainedMessages, ReasonCode::QuotaExceeded);
    assert_eq!(metric(&broker.handle, "smqtt_retained_messages"), 2.0);
    // In the place of another there is room.
    assert!(!client.publish(retained("b", 200)).await.is_error());
    assert!(!client.publish(retained("b", 0)).await.is_error());
    assert_eq!(metric(&broker.handle, "smqtt_retained_messages"), 1.0);
}

#[tokio::test]
async fn a_client_is_told_of_a_shorter_keep_alive_and_session() {
    let broker = limited(|config| {
        config.limits.keep_alive_max = Some(Duration::from_secs(60));
        config.limits.session_expiry_max = Some(Duration::from_secs(100));
    })
    .await;
    let (_client, connack) = broker.connect(persistent(Version::V5, "client")).await;
    assert_eq!(connack.properties.server_keep_alive_secs, Some(60));
    assert_eq!(connack.properties.session_expiry_secs, Some(100));
    assert_eq!(hits(&broker.handle, Limit::KeepAlive), 1.0);
    assert_eq!(hits(&broker.handle, Limit::SessionExpiry), 1.0);
}

/// MQTT 5.0 lets a server name the keep alive (section 3.2.2.3.14); 3.1.1 does not, and 0 turns it off.
#[tokio::test]
async fn a_long_keep_alive_is_answered_with_that_of_the_server() {
    let broker = limited(|config| config.limits.server_keep_alive = Some(Duration::from_secs(60))).await;
    for (asked, told) in [(0, None), (60, None), (61, Some(60)), (u16::MAX, Some(60))] {
        let mut hello = connect(Version::V5, "client");
        hello.keep_alive_secs = asked;
        let (_client, connack) = broker.connect(hello).await;
        assert_eq!(connack.properties.server_keep_alive_secs, told, "{asked}");
    }
    assert_eq!(hits(&broker.handle, Limit::ServerKeepAlive), 2.0);
    // Who configures none leaves it to clients, among which are some that sleep for hours.
    let broker = TestBroker::start().await;
    let mut hello = connect(Version::V5, "asleep");
    hello.keep_alive_secs = 3_600;
    assert_eq!(broker.connect(hello).await.1.properties.server_keep_alive_secs, None);
}

#[tokio::test(start_paused = true)]
async fn the_keep_alive_of_the_server_is_in_force_where_it_can_be_told() {
    let broker = limited(|config| {
        config.engine = EngineKind::Direct;
        config.limits.server_keep_alive = Some(Duration::from_secs(60));
    })
    .await;
    for (version, seconds) in [(Version::V5, 90), (Version::V3, 180)] {
        let mut hello = connect(version, "silent");
        hello.keep_alive_secs = 120;
        let (mut silent, _) = broker.pipe_connect(hello).await;
        let begun = tokio::time::Instant::now();
        silent.stream.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

/// A socket that is closed while the client still sends would be reset, and take with it what the client has not read.
#[tokio::test]
async fn the_last_word_arrives_although_the_client_is_still_sending() {
    let broker = limited(|config| config.limits.receive_max = 4).await;
    let mut client = broker.v5("busy").await;
    for id in 1..=5 {
        let publish = Publish { packet_id: id, ..message("a", "m", QoS::ExactlyOnce) };
        client.send(Packet::Publish(publish)).await;
    }
    let ended =
        || metric(&broker.handle, "smqtt_disconnects_total{reason=\"receive_maximum_exceeded\"}") > 0.0;
    until(ended).await;
    for id in 1..=4 {
        client.send(Packet::Pubrel(Ack::new(id, ReasonCode::Success))).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.closed().await, Some(ReasonCode::ReceiveMaximumExceeded));
}

/// Likewise for a CONNECT that is refused while more comes behind it.
#[tokio::test]
async fn a_refusal_arrives_although_more_is_behind_the_connect() {
    let broker = TestBroker::start().await;
    let mut client = broker.raw().await;
    let mut bytes = bytes::BytesMut::new();
    let mut hello = connect(Version::V5, "impatient");
    hello.properties.authentication_method = Some("SCRAM-SHA-1".into());
    Packet::Connect(Box::new(hello)).encode(Version::V5, &mut bytes).unwrap();
    bytes.extend([0xC0, 0].repeat(200_000));
    client.send_bytes(&bytes).await;
    assert_eq!(client.connack().await.reason, ReasonCode::BadAuthenticationMethod);
    assert_eq!(client.closed().await, None);
}

#[tokio::test]
async fn every_limit_shows_its_value() {
    let broker = TestBroker::start().await;
    let text = broker.handle.metrics().render();
    for limit in Limit::ALL {
        let name = limit.name();
        let set = text.contains(&format!("smqtt_limit{{limit=\"{name}\"}} "));
        // What is off by default has no value.
        let off = ["keep_alive_max_seconds", "server_keep_alive_seconds", "session_expiry_max_seconds"];
        assert_eq!(set, !off.contains(&name), "{name}");
        assert!(text.contains(&format!("smqtt_limit_hits_total{{limit=\"{name}\"}} 0\n")), "{name}");
    }
}
