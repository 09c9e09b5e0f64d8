//! Attacks on revocation: kept keys against what is sealed afterwards, a broker that lies about what it did, and what stays
//! retained. And the report, as an honest broker fills it.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use lab::*;
use smqtt::mqtt::{Packet, Publish, QoS, ReasonCode, Version};
use smqtt_core::api::{RevocationDone, RevocationOrder, RevocationReport};
use ward::*;

async fn report(lab: &Lab, device: &str) -> RevocationReport {
    let path = format!("/v1/devices/{device}/revocation?wait=60");
    lab.admin().get(&path).await.unwrap()
}

async fn revoke_and_purge(lab: &Lab, device: &str) {
    let path = format!("/v1/devices/{device}/revoke?purge_retained=true");
    lab.admin().post::<serde_json::Value>(&path, &serde_json::json!({})).await.unwrap();
}

/// Keeps a message for a topic.
async fn retain(site: &Site, topic: &str, payload: Vec<u8>) {
    let mut client = site.as_device(&site.sensor, Version::V5).await;
    let publish = Publish {
        topic: topic.into(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        ..Publish::default()
    };
    assert_eq!(send(&mut client, publish).await, Said::Taken, "{topic}");
}

fn sealed(sensor: &Device, policy: &str, topic: &str, text: &str) -> Vec<u8> {
    let (header, key) = sensor.header(policy, topic);
    full(&header, &key.seal(topic, text.as_bytes()).unwrap())
}

/// What is retained, as somebody sees it who may have everything.
async fn kept(site: &Site) -> Vec<String> {
    let mut client = site.as_device(&site.visitor, Version::V5).await;
    client.subscribe("#", QoS::AtLeastOnce).await;
    let packets = client.until_ping().await;
    let mut topics: Vec<String> = packets
        .iter()
        .filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(publish.topic.to_string()),
            _ => None,
        })
        .collect();
    topics.sort();
    topics
}

#[tokio::test]
async fn the_report_says_what_was_cut_where_and_what_stays_open() {
    let site = Site::new().await;
    let mut connected = site.as_device(&site.nurse, Version::V5).await;
    let (away, _) = site.resume(&site.nurse, "nurse/1").await;
    drop(away);
    until(|| site.sessions().len() == 2).await;
    let done = site.lab.revoke("nurse").await;
    let report = report(&site.lab, "nurse").await;
    assert!(report.complete);
    assert_eq!((report.revoked, report.bundle, &report.raised), (done.revoked, done.bundle, &done.raised));
    assert!(report.actor.starts_with("admin "), "{}", report.actor);
    let [broker] = &report.brokers[..] else { panic!("{report:?}") };
    assert_eq!((broker.name.as_str(), broker.state.as_str()), ("broker", "done"));
    let said = broker.done.as_ref().unwrap();
    assert_eq!((said.bundle, said.sessions, said.retained), (done.bundle, 2, None));
    assert!(said.connections >= 1 && said.cut_at >= done.revoked);
    assert_eq!(connected.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(site.sessions(), [""; 0]);
    // What it can still read: the one epoch there was, up to now.
    let [epoch] = &report.readable.epochs[..] else { panic!("{report:?}") };
    assert_eq!((epoch.epoch, epoch.until), (1, done.revoked));
    assert_eq!(report.readable.until_at_the_latest, done.revoked + 90);
    assert_eq!(report.publishers.told + report.publishers.behind + report.publishers.away, 2);
    // A device that connected once and asked before is behind, then told.
    site.sensor.refresh().await.unwrap();
    let path = "/v1/devices/nurse/revocation";
    let again: RevocationReport = site.lab.admin().get(path).await.unwrap();
    assert_eq!((again.publishers.told, again.publishers.behind), (0, 1));
    site.sensor.refresh().await.unwrap();
    let again: RevocationReport = site.lab.admin().get(path).await.unwrap();
    assert_eq!((again.publishers.told, again.publishers.behind), (1, 0));
    assert_eq!(
        problem(site.lab.admin().get::<RevocationReport>("/v1/devices/visitor/revocation").await),
        "not-revoked"
    );
}

/// The broker says that it cut the session and does not; the device goes on receiving. What its kept keys do not open is
/// decided by those who seal, not by the broker.
#[tokio::test]
async fn a_broker_that_lies_about_what_it_did_opens_nothing_to_the_device() {
    let lab = Lab::start().await;
    let (lost, sensor) = (lab.enrol("lost", &["role=nurse", "ward=3"]).await, lab.enrol("sensor", &[]).await);
    let liar = lab.enrol_broker("liar").await;
    let before = sealed(&sensor, POLICY, WARD, "before");
    let done = lab.revoke("lost").await;
    let says =
        RevocationDone { bundle: done.bundle, cut_at: now(), sessions: 9, connections: 9, retained: None };
    let as_liar = lab.as_holder(&liar.identity());
    let path = format!("/v1/revocations/{}/done", lost.id());
    as_liar.post::<RevocationDone>(&path, &says).await.unwrap();
    // The report has it as what that broker says.
    let report = report(&lab, "lost").await;
    assert_eq!(report.brokers[0].done.as_ref(), Some(&says));
    // It takes nothing back, and says nothing that cannot be.
    let other = RevocationDone { sessions: 0, connections: 0, ..says.clone() };
    assert_eq!(problem(as_liar.post::<RevocationDone>(&path, &other).await), "reported");
    assert_eq!(as_liar.post::<RevocationDone>(&path, &says).await.unwrap(), says);
    let unasked = RevocationDone { retained: Some(1), ..says.clone() };
    assert_eq!(problem(as_liar.post::<RevocationDone>(&path, &unasked).await), "report");

    // Everything that is sealed from now on reaches the device, bundle and all.
    sensor.refresh().await.unwrap();
    let bundle = sensor.with(|k| k.bundle_bytes().to_vec());
    let mut opener = lost.opener();
    for policy in [POLICY, "role=nurse", "ward=3 or role=nurse", "ward>=2"] {
        let payload = sealed(&sensor, policy, WARD, "after");
        let seen = lost.sees(&mut opener, WARD, &payload);
        assert!(["newer", "not-for-me version"].contains(&seen.as_str()), "{policy}: {seen}");
    }
    assert!(lost.with(|k| k.take_bundle(&bundle)).unwrap());
    for policy in [POLICY, "role=nurse", "ward=3 or role=nurse", "ward>=2"] {
        let payload = sealed(&sensor, policy, WARD, "after");
        assert_eq!(lost.sees(&mut opener, WARD, &payload), "not-for-me version", "{policy}");
    }
    // And what was recorded before stays open, as the report says.
    assert_eq!(lost.sees(&mut opener, WARD, &before), "opened before");
}

/// A report is the word of whoever TLS says sent it: another broker that sends the same speaks for itself.
#[tokio::test]
async fn a_report_that_another_broker_replays_counts_for_that_one() {
    let lab = Lab::start().await;
    lab.enrol("lost", &["role=nurse"]).await;
    let (first, second) = (lab.enrol_broker("first").await, lab.enrol_broker("second").await);
    let done = lab.revoke("lost").await;
    let path = format!("/v1/revocations/{}/done", done.id);
    let says =
        RevocationDone { bundle: done.bundle, cut_at: now(), sessions: 3, connections: 1, retained: None };
    lab.as_holder(&second.identity()).post::<RevocationDone>(&path, &says).await.unwrap();
    let state = |report: &RevocationReport, name: &str| {
        let broker = report.brokers.iter().find(|broker| broker.name == name).unwrap();
        (broker.state.clone(), broker.done.clone())
    };
    let now_at: RevocationReport = lab.admin().get("/v1/devices/lost/revocation").await.unwrap();
    assert_eq!(state(&now_at, "second"), ("done".into(), Some(says.clone())));
    assert_eq!(state(&now_at, "first"), ("away".into(), None));
    let pending: Vec<RevocationOrder> =
        lab.as_holder(&first.identity()).get("/v1/revocations").await.unwrap();
    assert_eq!(pending.iter().map(|order| order.id.as_str()).collect::<Vec<_>>(), [done.id.as_str()]);
    let pending: Vec<RevocationOrder> =
        lab.as_holder(&second.identity()).get("/v1/revocations").await.unwrap();
    assert_eq!(pending, []);
    // One that was revoked itself says nothing any more, and is asked for nothing.
    lab.revoke("first").await;
    let refused = lab.as_holder(&first.identity()).post::<RevocationDone>(&path, &says).await;
    assert_eq!(problem(refused), "revoked");
    let left: RevocationReport = lab.admin().get("/v1/devices/lost/revocation").await.unwrap();
    assert_eq!(left.brokers.len(), 1);
}

#[tokio::test]
async fn retained_messages_that_a_revoked_device_could_read_go_and_no_others() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let labelled = site.lab.enrol_with_policy("auditor", "kind=reading and level>=3").await;
    for topic in ["notes/mine", "notes/either", "notes/others", "notes/low", "notes/high"] {
        let payload = match topic {
            "notes/mine" => sealed(&site.sensor, POLICY, topic, "36.6"),
            "notes/either" => sealed(&site.sensor, "role=clerk or (role=nurse and ward>=2)", topic, "36.6"),
            "notes/others" => sealed(&site.sensor, "role=nurse and ward=4", topic, "36.6"),
            _ => {
                let level = if topic == "notes/low" { 2 } else { 5 };
                let (header, key) = site.sensor.labelled(&format!("kind=reading, level={level}"), topic);
                full(&header, &key.seal(topic, b"72").unwrap())
            }
        };
        retain(&site, topic, payload).await;
    }
    retain(&site, "notes/plain", b"in the clear".to_vec()).await;
    assert_eq!(kept(&site).await.len(), 6);

    revoke_and_purge(&site.lab, "nurse").await;
    let done = report(&site.lab, "nurse").await;
    assert!(done.complete && done.purge_ordered.is_some());
    assert_eq!(done.brokers[0].done.as_ref().unwrap().retained, Some(2));
    assert_eq!(kept(&site).await, ["notes/high", "notes/low", "notes/others", "notes/plain"]);

    // Said afterwards, about a device whose keys carry a policy: the broker hears of it although no bundle says so. What is
    // sealed since its revocation was never open to it, and stays.
    let bundle = site.lab.revoke("auditor").await.bundle;
    assert!(report(&site.lab, "auditor").await.complete);
    site.sensor.refresh().await.unwrap();
    let (header, key) = site.sensor.labelled("kind=reading, level=7", "notes/since");
    retain(&site, "notes/since", full(&header, &key.seal("notes/since", b"72").unwrap())).await;
    revoke_and_purge(&site.lab, "auditor").await;
    let done = report(&site.lab, "auditor").await;
    assert!(done.complete);
    assert_eq!((done.bundle, done.brokers[0].done.as_ref().unwrap().retained), (bundle, Some(1)));
    let left = ["notes/low", "notes/others", "notes/plain", "notes/since"];
    assert_eq!(kept(&site).await, left);
    drop(labelled);

    // Nor does it come back with the broker.
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    assert_eq!(kept(&site).await, left);
}

/// A broker that was cut off hears of it when the authority is there again, does it, and says so then.
#[tokio::test]
async fn a_broker_that_was_cut_off_is_named_with_its_bounds_and_reports_when_it_is_back() {
    let (site, line) = Site::behind_a_line().await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    assert_eq!(nurse.until_ping().await, []);
    line.cut();
    until(|| site.broker.view.is_failing()).await;
    site.lab.advance(120);
    let done = site.lab.revoke("nurse").await;
    let now_at: RevocationReport = site.lab.admin().get("/v1/devices/nurse/revocation").await.unwrap();
    let [broker] = &now_at.brokers[..] else { panic!("{now_at:?}") };
    assert_eq!(broker.state, "away");
    let heard = broker.heard.unwrap();
    assert!(heard < done.revoked);
    assert_eq!((broker.admits_until, broker.serves_until), (Some(heard + 900), Some(heard + 3600)));
    assert_eq!(nurse.until_ping().await, []);
    line.restore();
    assert_eq!(nurse.closed().await, Some(ReasonCode::NotAuthorized));
    until_reported(&site.lab, "nurse").await;
}

async fn until_reported(lab: &Lab, device: &str) {
    loop {
        let report = report(lab, device).await;
        if report.brokers.iter().all(|broker| broker.state == "done") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
