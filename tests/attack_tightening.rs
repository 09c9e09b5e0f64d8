//! A rule that tightens applies to what was taken before it: what is retained, what is queued, who shares a subscription.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::Client;
use lab::{Device, Scratch, full, now, until};
use smqtt::mqtt::{Ack, Packet, Publish, QoS, ReasonCode, Version};
use smqtt::secure::Denied;
use ward::*;

fn retained(topic: &str, payload: impl Into<Vec<u8>>) -> Publish {
    Publish {
        topic: topic.into(),
        payload: payload.into().into(),
        retain: true,
        qos: QoS::AtLeastOnce,
        ..Publish::default()
    }
}

fn sealed(device: &Device, policy: &str, topic: &str) -> Vec<u8> {
    let (header, key) = device.header(policy, topic);
    full(&header, &key.seal(topic, b"36.6").unwrap())
}

/// Topics of what comes until the broker has no more to say; acknowledged.
async fn topics(client: &mut Client) -> Vec<String> {
    let mut topics = Vec::new();
    for packet in client.until_ping().await {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        if publish.qos == QoS::AtLeastOnce {
            client.send(Packet::Puback(Ack::new(publish.packet_id, ReasonCode::Success))).await;
        }
        topics.push(publish.topic.to_string());
    }
    topics.sort();
    topics
}

/// What a new client finds retained there.
async fn found(site: &Site, filter: &str) -> Vec<String> {
    let mut late = site.as_device(&site.nurse, Version::V5).await;
    assert!(!subscribe(&mut late, filter).await.is_error());
    topics(&mut late).await
}

/// Everything that a rule can say against a message, each on a topic of its own, retained and queued for the nurse.
async fn fill(site: &Site) {
    site.broker.knows(site.lab.rule("log/#", "warn", Some("role=nurse"), None, None).await).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("log/#", QoS::AtLeastOnce).await;
    nurse.disconnect().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    for (topic, payload) in [
        ("log/plain", b"36.6".to_vec()),
        ("log/other", sealed(&site.sensor, "role=chief", "log/other")),
        ("log/good", sealed(&site.sensor, "role=nurse", "log/good")),
        ("log/visitor", sealed(&site.visitor, "role=nurse", "log/visitor")),
        ("log/graffiti", b"was here".to_vec()),
    ] {
        let by_visitor = matches!(topic, "log/visitor" | "log/graffiti");
        let client = if by_visitor { &mut visitor } else { &mut sensor };
        assert_eq!(send(client, retained(topic, payload)).await, Said::Taken, "{topic}");
    }
    assert_eq!(found(site, "log/#").await.len(), 5);
}

/// What is left of it when the rule requires sealing, by sensors.
async fn is_tight(site: &Site) {
    let removed = || site.broker.hook.denials().total(Denied::Retained);
    until(|| removed() == 4).await;
    assert_eq!(found(site, "log/#").await, ["log/good"]);
    let (mut nurse, present) = site.resume(&site.nurse, "nurse/1").await;
    assert!(present);
    assert_eq!(topics(&mut nurse).await, ["log/good"]);
    for (code, count) in [("plaintext", 1), ("policy", 1), ("not-allowed", 2)] {
        assert_eq!(site.broker.denied(Denied::Delivery, code), count, "{code}");
        assert_eq!(site.broker.denied(Denied::Retained, code), count, "{code}");
    }
    let counts = site.broker.hook.denials().counts();
    assert!(counts.iter().filter(|c| c.denied == Denied::Delivery).all(|c| &*c.rule == "log/#"));
}

const SENSORS: Option<&str> = Some("role=sensor");

#[tokio::test]
async fn what_is_retained_and_queued_must_be_what_the_newest_rule_says() {
    let site = Site::new().await;
    fill(&site).await;
    let rule = site.lab.rule("log/#", "required", Some("role=nurse"), SENSORS, None).await;
    site.broker.knows(rule).await;
    is_tight(&site).await;
}

#[tokio::test]
async fn also_if_the_broker_was_down_when_it_changed() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    fill(&site).await;
    let down = site.shut_down().await;
    let rule = down.lab.rule("log/#", "required", Some("role=nurse"), SENSORS, None).await;
    let site = down.start(kept_in(data.path())).await;
    site.broker.knows(rule).await;
    is_tight(&site).await;
    // Nor is it there again after another restart.
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    assert_eq!(found(&site, "log/#").await, ["log/good"]);
}

#[tokio::test]
async fn also_if_it_was_restarted_in_between() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    fill(&site).await;
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    assert_eq!(found(&site, "log/#").await.len(), 5);
    let rule = site.lab.rule("log/#", "required", Some("role=nurse"), SENSORS, None).await;
    site.broker.knows(rule).await;
    is_tight(&site).await;
}

/// What was sealed in time is opened in time: epoch, versions and expiry are for when it is published.
#[tokio::test]
async fn epochs_versions_and_expiry_take_nothing_away() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("bed/+", QoS::AtLeastOnce).await;
    nurse.disconnect().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (header, key) = site.sensor.header_with(POLICY, "bed/3", |draft| draft.expires = now() + 60);
    let payload = full(&header, &key.seal("bed/3", b"36.6").unwrap());
    assert_eq!(send(&mut sensor, retained("bed/3", payload.clone())).await, Said::Taken);
    // A rule of elsewhere, a new epoch, a raised version, and the header runs out.
    site.lab.require("elsewhere/#", "role=nurse").await;
    site.lab.enrol("colleague", &["role=nurse"]).await;
    site.lab.revoke("colleague").await;
    site.lab.rotate().await;
    site.broker.knows(site.lab.rotate().await).await;
    site.lab.advance(3000);
    assert_eq!(found(&site, "bed/+").await, ["bed/3"]);
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    assert_eq!(found(&site, "bed/+").await, ["bed/3"]);
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    let got = nurse.message().await.payload;
    assert_eq!(site.nurse.sees(&mut site.nurse.opener(), "bed/3", &got), "opened 36.6");
    assert_eq!(site.broker.hook.denials().total(Denied::Delivery), 0);
    assert_eq!(site.broker.hook.denials().total(Denied::Retained), 0);
}

/// A member who may not have the messages any more would swallow its share of them.
#[tokio::test]
async fn a_group_loses_the_members_that_a_rule_shuts_out() {
    let site = Site::new().await;
    let filter = "$share/group/notes/#";
    let (mut visitor, _) = site.resume(&site.visitor, "visitor/1").await;
    assert!(!subscribe(&mut visitor, filter).await.is_error());
    let (mut away, _) = site.resume(&site.visitor, "visitor/2").await;
    assert!(!subscribe(&mut away, filter).await.is_error());
    away.disconnect().await;
    // Not in a group: left alone, and left out when messages are delivered.
    assert!(!subscribe(&mut visitor, "notes/+").await.is_error());
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    assert!(!subscribe(&mut nurse, filter).await.is_error());

    let shut = site.lab.rule("notes/#", "open", None, None, Some("role=nurse")).await;
    site.broker.knows(shut).await;
    let refused = || site.broker.denied(Denied::Subscription, "not-allowed");
    until(|| refused() == 2).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for n in 0..6 {
        let said = publish(&mut sensor, &format!("notes/{n}"), b"x", QoS::AtLeastOnce).await;
        assert_eq!(said, Said::Taken);
    }
    assert_eq!(topics(&mut nurse).await.len(), 6);
    assert_eq!(visitor.until_ping().await, []);
    drop(nurse);
    let (mut away, _) = site.resume(&site.visitor, "visitor/2").await;
    assert_eq!(away.until_ping().await, []);
    // Who was left out and not removed has the next message after the rule is gone.
    site.broker.knows(site.lab.rule("notes/#", "open", None, None, None).await).await;
    assert_eq!(publish(&mut sensor, "notes/7", b"x", QoS::AtMostOnce).await, Said::Taken);
    assert_eq!(topics(&mut visitor).await, ["notes/7"]);
}

/// What waits in the queue of a member was for the group; the rule counts when it is delivered.
#[tokio::test]
async fn what_waits_for_a_member_of_a_group_is_judged_as_well() {
    let site = Site::new().await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    assert!(!subscribe(&mut nurse, "$share/group/log/#").await.is_error());
    nurse.disconnect().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for (topic, payload) in
        [("log/1", b"36.6".to_vec()), ("log/2", sealed(&site.sensor, "role=nurse", "log/2"))]
    {
        assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, Said::Taken);
    }
    site.broker.knows(site.lab.require("log/#", "role=nurse").await).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    assert_eq!(topics(&mut nurse).await, ["log/2"]);
    assert_eq!(site.broker.denied(Denied::Delivery, "plaintext"), 1);
}

/// What a device leaves retained is its readers' to refuse when it is revoked; the broker takes nothing away that others
/// may still want to see, and says who it was.
#[tokio::test]
async fn what_a_revoked_device_left_retained_stays_and_its_readers_refuse_it() {
    let site = Site::new().await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let mut client = site.as_device(&other, Version::V5).await;
    let payload = sealed(&other, POLICY, WARD);
    assert_eq!(send(&mut client, retained(WARD, payload)).await, Said::Taken);
    site.broker.knows(site.lab.revoke("other").await.bundle).await;
    // A rule that changes has everything looked at again.
    site.broker.knows(site.lab.require("elsewhere/#", "role=nurse").await).await;
    let mut late = site.as_device(&site.nurse, Version::V5).await;
    late.subscribe(WARD, QoS::AtMostOnce).await;
    let got = late.message().await.payload;
    site.nurse.refresh().await.unwrap();
    assert_eq!(site.nurse.sees(&mut site.nurse.opener(), WARD, &got), "broken revoked");
}

/// A rule that asks who publishes counts for what the device is now, from the very bundle on that says that something changed:
/// what was found good under a bundle is not looked at again.
#[tokio::test]
async fn a_device_that_lost_an_attribute_publishes_where_it_needs_it_no_more() {
    let site = Site::new().await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    assert_eq!(publish(&mut nurse, "staff/rota", b"early", QoS::AtLeastOnce).await, Said::Taken);
    let change = serde_json::json!({"remove": ["role"]});
    let path = "/v1/devices/nurse";
    let done: smqtt_core::api::DeviceChanged = site.lab.admin().patch(path, &change).await.unwrap();
    site.broker.knows(done.bundle).await;
    let said = publish(&mut nurse, "staff/rota", b"late", QoS::AtLeastOnce).await;
    assert_eq!(said, refused(ReasonCode::NotAuthorized, "not-allowed"));
    let change = serde_json::json!({"add": ["role=nurse"]});
    let done: smqtt_core::api::DeviceChanged = site.lab.admin().patch(path, &change).await.unwrap();
    site.broker.knows(done.bundle).await;
    assert_eq!(publish(&mut nurse, "staff/rota", b"early", QoS::AtLeastOnce).await, Said::Taken);
}
