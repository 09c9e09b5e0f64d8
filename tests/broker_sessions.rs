//! Sessions: persistence, takeover, ownership, expiry, wills.

mod broker_support;

use broker_support::*;
use smqtt::{
    broker::{Admission, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture},
    mqtt::*,
};

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let broker = TestBroker::start().await;
    let (mut first, _) = broker.connect(persistent(Version::V5, "same")).await;
    first.subscribe("a", QoS::AtLeastOnce).await;
    let (mut second, connack) = broker.connect(persistent(Version::V5, "same")).await;
    assert!(connack.session_present);
    assert_eq!(first.closed().await, Some(ReasonCode::SessionTakenOver));
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", "x", QoS::AtLeastOnce)).await;
    assert_eq!(second.payload().await, "x");

    let mut old = broker.v3("other").await;
    let _new = broker.v3("other").await;
    assert_eq!(old.closed().await, None);
}

#[tokio::test]
async fn messages_wait_for_a_client_that_is_away() {
    for version in [Version::V3, Version::V5] {
        let broker = TestBroker::start().await;
        let (mut reader, connack) = broker.connect(persistent(version, "reader")).await;
        assert!(!connack.session_present);
        reader.subscribe("a", QoS::AtLeastOnce).await;
        reader.disconnect().await;
        let mut writer = broker.v5("writer").await;
        for payload in ["1", "2", "3"] {
            writer.publish(message("a", payload, QoS::AtLeastOnce)).await;
        }
        let (mut reader, connack) = broker.connect(persistent(version, "reader")).await;
        assert!(connack.session_present);
        for payload in ["1", "2", "3"] {
            assert_eq!(reader.payload().await, payload);
        }
        // A clean start forgets it all.
        let (mut reader, connack) = broker.connect(connect(version, "reader")).await;
        assert!(!connack.session_present);
        writer.publish(message("a", "4", QoS::AtLeastOnce)).await;
        assert_eq!(settle(&broker, &mut reader).await, []);
    }
}

#[tokio::test]
async fn the_queue_of_an_absent_client_is_bounded() {
    let mut config = Config::default();
    config.limits.queue_messages_max = 2;
    let broker = TestBroker::with(config, vec![]).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    reader.disconnect().await;
    let mut writer = broker.v5("writer").await;
    for payload in ["1", "2", "3"] {
        writer.publish(message("a", payload, QoS::AtLeastOnce)).await;
    }
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    assert_eq!(reader.payload().await, "1");
    assert_eq!(reader.payload().await, "2");
    assert_eq!(reader.until_ping().await, []);
}

#[tokio::test]
async fn an_empty_client_id_gets_one_and_3_1_1_needs_a_clean_session_for_it() {
    let broker = TestBroker::start().await;
    let (_client, connack) = broker.connect(connect(Version::V5, "")).await;
    assert!(connack.properties.assigned_client_id.is_some_and(|id| id.starts_with("auto-")));
    broker.v3("").await;
    let mut refused = broker.raw().await;
    refused.version = Version::V3;
    refused.send(Packet::Connect(Box::new(persistent(Version::V3, "")))).await;
    assert_eq!(refused.connack().await.reason, ReasonCode::ClientIdentifierNotValid);
    assert_eq!(refused.next().await, None);
}

/// As docs/MQTT.md has it: what is not mentioned is available, and what is not offered is not mentioned.
#[tokio::test]
async fn connack_says_what_is_offered() {
    let limits = Config::default().limits;
    let always = ConnackProperties {
        receive_max: Some(limits.receive_max),
        packet_bytes_max: Some(limits.packet_bytes_max as u32),
        topic_alias_max: Some(limits.topic_alias_max),
        ..ConnackProperties::default()
    };
    let broker = TestBroker::start().await;
    let mut asking = connect(Version::V5, "asking");
    asking.properties.request_response = Some(true);
    asking.properties.session_expiry_secs = Some(7);
    asking.keep_alive_secs = 7;
    for hello in [connect(Version::V5, "silent"), asking] {
        assert_eq!(broker.connect(hello).await.1.properties, always);
    }
    let mut connack = broker.connect(connect(Version::V5, "")).await.1;
    assert!(connack.properties.assigned_client_id.take().is_some());
    assert_eq!(connack.properties, always);

    let mut config = Config::default();
    config.limits.topic_alias_max = 0;
    config.limits.keep_alive_max = Some(std::time::Duration::from_secs(60));
    config.limits.session_expiry_max = Some(std::time::Duration::from_secs(90));
    let broker = TestBroker::with(config, vec![]).await;
    let mut hello = connect(Version::V5, "client");
    hello.properties.session_expiry_secs = Some(u32::MAX);
    let bounded = ConnackProperties {
        topic_alias_max: None,
        server_keep_alive_secs: Some(60),
        session_expiry_secs: Some(90),
        ..always
    };
    assert_eq!(broker.connect(hello).await.1.properties, bounded);
}

/// The user name is the identity.
struct Names;

impl Hook for Names {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let identity = request.user_name.clone();
        Box::pin(async { ConnectVerdict::Allow(Admission { identity, ..Admission::default() }) })
    }
}

fn named(version: Version, client_id: &str, name: &str) -> Connect {
    let mut connect = persistent(version, client_id);
    connect.user_name = Some(name.into());
    connect
}

#[tokio::test]
async fn a_session_is_never_taken_over_by_another_identity() {
    let broker = TestBroker::with(Config::default(), vec![Box::new(Names)]).await;
    let (mut owner, _) = broker.connect(named(Version::V5, "id", "alice")).await;
    for version in [Version::V3, Version::V5] {
        let mut thief = broker.raw().await;
        thief.version = version;
        thief.send(Packet::Connect(Box::new(named(version, "id", "mallory")))).await;
        assert_eq!(thief.connack().await.reason, ReasonCode::ClientIdentifierNotValid);
    }
    assert_eq!(owner.until_ping().await, []);
    owner.disconnect().await;
    let mut thief = broker.raw().await;
    let mut clean = named(Version::V5, "id", "mallory");
    clean.clean_start = true;
    thief.send(Packet::Connect(Box::new(clean))).await;
    assert_eq!(thief.connack().await.reason, ReasonCode::ClientIdentifierNotValid);
    let (_, connack) = broker.connect(named(Version::V5, "id", "alice")).await;
    assert!(connack.session_present);
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("will/#", QoS::AtMostOnce).await;
    let with_will = |version, id: &str| {
        let mut connect = connect(version, id);
        connect.will = Some(will(&format!("will/{id}"), "gone"));
        connect
    };
    for version in [Version::V3, Version::V5] {
        let (polite, _) = broker.connect(with_will(version, "polite")).await;
        polite.disconnect().await;
        let (broken, _) = broker.connect(with_will(version, "broken")).await;
        drop(broken);
        assert_eq!(reader.message().await.topic, "will/broken");
        let (mut rude, _) = broker.connect(with_will(version, "rude")).await;
        rude.send_bytes(&[0x20, 0x02, 0x00, 0x00]).await;
        assert_eq!(reader.message().await.topic, "will/rude");
        let (mut taken, _) = broker.connect(with_will(version, "taken")).await;
        let _heir = broker.connect(connect(version, "taken")).await;
        assert_eq!(reader.message().await.topic, "will/taken");
        taken.closed().await;
    }
    let (mut asking, _) = broker.connect(with_will(Version::V5, "asking")).await;
    let reason = ReasonCode::DisconnectWithWill;
    asking.send(Packet::Disconnect(Disconnect { reason, properties: DisconnectProperties::default() })).await;
    assert_eq!(reader.message().await.topic, "will/asking");
}

#[tokio::test]
async fn a_delayed_will_is_void_when_the_client_is_back() {
    let broker = TestBroker::direct().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("will", QoS::AtMostOnce).await;
    let mut hello = persistent(Version::V5, "sensor");
    let mut last = will("will", "gone");
    last.properties.delay_secs = Some(3_600);
    hello.will = Some(last);
    let (sensor, _) = broker.connect(hello.clone()).await;
    sensor.vanish(&broker).await;
    hello.will = None;
    let (sensor, connack) = broker.connect(hello).await;
    assert!(connack.session_present);
    sensor.disconnect().await;
    assert_eq!(settle(&broker, &mut reader).await, []);
}

#[tokio::test]
async fn a_delayed_will_is_due_when_the_session_ends() {
    let broker = TestBroker::direct().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("will", QoS::AtMostOnce).await;
    let mut hello = connect(Version::V5, "sensor");
    let mut last = will("will", "gone");
    last.properties.delay_secs = Some(3_600);
    hello.will = Some(last);
    let (sensor, _) = broker.connect(hello).await;
    drop(sensor);
    assert_eq!(reader.payload().await, "gone");
}

#[tokio::test]
async fn session_expiry_cannot_be_raised_from_zero_at_the_end() {
    let broker = TestBroker::start().await;
    let mut client = broker.v5("client").await;
    let properties = DisconnectProperties { session_expiry_secs: Some(10), ..Default::default() };
    client.send(Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties })).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

#[tokio::test]
async fn a_shutdown_is_announced() {
    let broker = TestBroker::start().await;
    let mut new = broker.v5("new").await;
    let mut old = broker.v3("old").await;
    broker.shutdown().await;
    assert_eq!(new.closed().await, Some(ReasonCode::ServerShuttingDown));
    assert_eq!(old.closed().await, None);
}

/// Section 4.8.2: QoS 1 goes to another member, and QoS 2 only if it never went out.
#[tokio::test]
async fn what_a_member_leaves_behind_goes_to_another_member_once_its_session_is_over() {
    for version in [Version::V3, Version::V5] {
        let mut config = Config::default();
        config.limits.inflight_messages_max = 2;
        let broker = TestBroker::with(config, vec![]).await;
        let (mut first, _) = broker.connect(persistent(version, "first")).await;
        first.subscribe("$share/g/a/+", QoS::ExactlyOnce).await;
        first.subscribe("b", QoS::AtLeastOnce).await;
        let mut writer = broker.v5("writer").await;
        for (topic, payload, qos) in [
            ("a/1", "1 sent", QoS::AtLeastOnce),
            ("a/1", "2 sent", QoS::ExactlyOnce),
            ("a/1", "1 waits", QoS::AtLeastOnce),
            ("b", "its own", QoS::AtLeastOnce),
            ("a/1", "2 waits", QoS::ExactlyOnce),
        ] {
            writer.publish(message(topic, payload, qos)).await;
        }
        assert_eq!((first.payload().await, first.payload().await), ("1 sent".into(), "2 sent".into()));
        let mut second = broker.v5("second").await;
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
        second.subscribe_with("$share/g/a/+", options, Some(7)).await;
        let mut other = broker.v5("other").await;
        other.subscribe("$share/other/a/+", QoS::AtLeastOnce).await;
        // As long as it may come back, all of it is its own.
        first.vanish(&broker).await;
        assert_eq!(settle(&broker, &mut second).await, []);
        broker.connect(connect(version, "first")).await.0.disconnect().await;
        for payload in ["1 sent", "1 waits", "2 waits"] {
            let got = second.message().await;
            assert_eq!((&got.payload[..], got.qos, got.dup), (payload.as_bytes(), QoS::AtLeastOnce, false));
            assert_eq!(got.properties.subscription_ids, [SubscriptionId(7)]);
            second.send(Packet::Puback(Ack::new(got.packet_id, ReasonCode::Success))).await;
        }
        assert_eq!(settle(&broker, &mut second).await, []);
        assert_eq!(settle(&broker, &mut other).await, []);
    }
}
