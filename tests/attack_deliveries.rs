//! Attacks on what the broker hands out: to whom, in which form, and what the dead leave behind.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::{connect as connect_packet, will};
use bytes::Bytes;
use lab::{Device, Scratch, full, until};
use smqtt::broker::Config;
use smqtt::mqtt::{Packet, Publish, QoS, ReasonCode, SubscriptionOptions, Version, Will};
use ward::*;

#[tokio::test]
async fn a_will_is_held_to_the_rules_when_it_is_left_and_when_it_is_due() {
    let site = Site::new().await;
    let sealed = |device: &Device, topic: &str, policy: &str| {
        let (header, key) = device.header(policy, topic);
        full(&header, &key.seal(topic, b"gone").unwrap())
    };
    let leaving = |version, topic: &str, payload: &[u8]| {
        let mut connect = connect_packet(version, "");
        connect.will = Some(Will { payload: Bytes::copy_from_slice(payload), ..will(topic, "") });
        connect
    };
    let theirs = sealed(&site.sensor, "bed/3", "role=nurse and ward=3");
    let wrong = sealed(&site.visitor, "bed/3", "role=nurse");
    let visitors = sealed(&site.visitor, WARD, POLICY);
    let (invalid, forbidden) = (ReasonCode::PayloadFormatInvalid, ReasonCode::NotAuthorized);
    for (topic, payload, reason, code) in [
        ("bed/3", &b"gone"[..], invalid, "plaintext"),
        ("bed/3", b"", invalid, "plaintext"),
        ("bed/3", &theirs, forbidden, "publisher"),
        ("bed/3", &wrong, invalid, "policy"),
        (WARD, &visitors, forbidden, "not-allowed"),
        ("staff/rota", b"gone", forbidden, "not-allowed"),
    ] {
        let identity = Some(site.visitor.identity());
        let knock = site.knock(identity.clone(), leaving(Version::V5, topic, payload)).await;
        assert_eq!(why(&knock.0), (reason, code.to_owned()), "{topic}");
        let (connack, _) = site.knock(identity, leaving(Version::V3, topic, payload)).await;
        assert!(connack.is_none_or(|connack| connack.reason.is_error()), "{topic}");
    }

    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe("bed/+", QoS::AtMostOnce).await;
    for version in BOTH {
        let own = sealed(&site.visitor, "bed/3", "role=nurse and ward=3");
        let visitor = site.join(&site.visitor, leaving(version, "bed/3", &own)).await;
        drop(visitor);
        let got = nurse.message().await.payload;
        assert_eq!(site.nurse.sees(&mut site.nurse.opener(), "bed/3", &got), "opened gone");
    }
    // The rule changes while the will waits: what it says now counts. And who was revoked leaves nothing behind.
    let own = sealed(&site.visitor, "bed/3", "role=nurse and ward=3");
    let visitor = site.join(&site.visitor, leaving(Version::V5, "bed/3", &own)).await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let plain = site.join(&other, leaving(Version::V5, "notes/1", b"gone")).await;
    let rule = site.lab.rule("bed/+", "required", Some("role=chief and ward=$1"), None, None).await;
    site.broker.knows(rule).await;
    drop(visitor);
    nurse.subscribe("notes/#", QoS::AtMostOnce).await;
    site.broker.knows(site.lab.revoke("other").await.bundle).await;
    drop(plain);
    until(|| site.broker.handle.connections() == 1).await;
    assert_eq!(nurse.until_ping().await, []);
}

/// A broker that was killed has wills to publish before it has read who its devices are.
#[tokio::test]
async fn a_will_that_is_due_before_the_broker_knows_anybody_is_judged_when_it_does() {
    let site = Site::new().await;
    let former = site.lab.enrol("former", &["role=nurse"]).await;
    let (data, copy) = (Scratch::new(), Scratch::new());
    let mut config = Config::default();
    config.data = Some(data.path().to_owned());
    let identity = site.lab.enrol_broker("killed").await;
    let killed = site.lab.broker_of(identity.clone(), config.clone(), Vec::new()).await;
    let mut held = Vec::new();
    for (device, word) in [(&former, "revoked"), (&site.nurse, "gone")] {
        let mut connect = connect_packet(Version::V5, "");
        connect.will = Some(Will { retain: true, qos: QoS::AtLeastOnce, ..will("staff/rota", word) });
        let stream = killed.dial(&site.lab.roots(), Some(&device.identity())).await.unwrap();
        let (connack, client) = answer(broker_support::Client::over(stream), connect).await;
        assert_eq!(connack.unwrap().reason, ReasonCode::Success);
        held.push(client);
    }
    // CONNACK says that it is on disk: what is there now is what a crash leaves.
    std::fs::copy(data.path().join("state.redb"), copy.path().join("state.redb")).unwrap();
    site.lab.revoke("former").await;
    config.data = Some(copy.path().to_owned());
    let broker = site.lab.broker_of(identity, config, Vec::new()).await;
    let stream = broker.dial(&site.lab.roots(), Some(&site.nurse.identity())).await.unwrap();
    let (_, nurse) = answer(broker_support::Client::over(stream), connect_packet(Version::V5, "")).await;
    let mut nurse = nurse.unwrap();
    nurse.subscribe("staff/rota", QoS::AtMostOnce).await;
    let got = nurse.message().await;
    assert_eq!((got.topic.as_str(), &got.payload[..]), ("staff/rota", &b"gone"[..]));
    assert_eq!(nurse.until_ping().await, [], "who was revoked meanwhile has no will");
}

#[tokio::test]
async fn rules_say_who_publishes_and_who_subscribes() {
    let site = Site::new().await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    let rota = || Publish {
        topic: "staff/rota".into(),
        payload: "night: anyone".into(),
        retain: true,
        qos: QoS::AtLeastOnce,
        ..Publish::default()
    };
    assert_eq!(send(&mut nurse, rota()).await, Said::Taken);
    everywhere_refused(
        &site,
        &site.visitor,
        "staff/rota",
        b"night: me",
        ReasonCode::NotAuthorized,
        "not-allowed",
    )
    .await;
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    assert_eq!(send(&mut nobody, rota()).await, refused(ReasonCode::NotAuthorized, "not-allowed"));

    // By name, by wildcard, by shared subscription; what is retained and what comes.
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    let mut old = site.as_device(&site.visitor, Version::V3).await;
    for client in [&mut visitor, &mut old, &mut nobody] {
        // A member of a group that may not have a message would swallow it.
        for filter in ["staff/rota", "$share/group/staff/rota", "$share/group/staff/#", "$share/group/#"] {
            let refused = match client.version {
                Version::V5 => ReasonCode::NotAuthorized,
                Version::V3 => ReasonCode::UnspecifiedError,
            };
            assert_eq!(subscribe(client, filter).await, refused, "{filter}");
        }
        for filter in ["#", "staff/#", "staff/+", "+/rota", "staff/rota/#", "$share/group/staff/menu"] {
            assert!(!subscribe(client, filter).await.is_error(), "{filter}");
        }
    }
    assert_eq!(send(&mut nurse, rota()).await, Said::Taken);
    assert_eq!(publish(&mut nurse, "staff/menu", b"soup", QoS::AtMostOnce).await, Said::Taken);
    for client in [&mut visitor, &mut old, &mut nobody] {
        // The menu comes once for every subscription or once for all; the rota never does.
        let topics: Vec<String> = client
            .until_ping()
            .await
            .into_iter()
            .map(|packet| match packet {
                Packet::Publish(publish) => publish.topic.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(!topics.is_empty() && topics.iter().all(|topic| topic == "staff/menu"), "{topics:?}");
    }
    assert!(!subscribe(&mut nurse, "staff/rota").await.is_error());
    assert_eq!(nurse.payload().await, "night: anyone");

    // A subscription that was allowed when it was made is not for ever.
    site.broker.knows(site.lab.rule("notes/#", "open", None, None, Some("role=nurse")).await).await;
    assert_eq!(publish(&mut nurse, "notes/1", b"hello", QoS::AtMostOnce).await, Said::Taken);
    assert_eq!(visitor.until_ping().await, []);
}

/// Compact messages are for those who ask for them, and reach nobody who never got the header.
#[tokio::test]
async fn every_reader_gets_the_header_before_it_needs_it() {
    let site = Site::new().await;
    let mut first = site.join(&site.nurse, reader(connect_packet(Version::V5, ""))).await;
    let mut stock = site.as_device(&site.nurse, Version::V3).await;
    first.subscribe("#", QoS::AtMostOnce).await;
    stock.subscribe("#", QoS::AtMostOnce).await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let message = full(&header, &key.seal(WARD, b"1").unwrap());
    assert_eq!(publish(&mut sensor, WARD, &message, QoS::AtLeastOnce).await, Said::Taken);
    let mut late = site.join(&site.nurse, reader(connect_packet(Version::V5, ""))).await;
    late.subscribe("#", QoS::AtMostOnce).await;
    let compact = key.seal(WARD, b"2").unwrap();
    assert_eq!(publish(&mut sensor, WARD, &compact, QoS::AtLeastOnce).await, Said::Taken);
    let second = full(&header, &compact);
    assert_eq!(first.message().await.payload, message);
    assert_eq!(first.message().await.payload, compact);
    assert_eq!(stock.message().await.payload, message);
    assert_eq!(stock.message().await.payload, second);
    assert_eq!(late.message().await.payload, second);
}

#[tokio::test]
async fn statistics_are_for_those_whom_a_rule_lets_have_them() {
    let site = Site::new().await;
    let topic = "$SYS/broker/clients/connected";
    site.broker.knows(site.lab.rule("$SYS/#", "open", None, None, Some("role=nurse")).await).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let refused = sensor.subscribe_with(topic, SubscriptionOptions::default(), None).await;
    assert_eq!(refused, [ReasonCode::NotAuthorized]);
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe(topic, QoS::AtMostOnce).await;
    assert!(nurse.message().await.retain);
}
