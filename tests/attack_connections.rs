//! Attacks on the broker by who connects to it: only devices of the authority get in, under names of their own, for as
//! long as they are devices.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use std::sync::Arc;
use std::time::Duration;

use broker_support::{connect as connect_packet, will};
use lab::{DAY, DEADLINE, Device, HomeMade, Lab, Scratch, full, now, until};
use smqtt::broker::{Admission, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture};
use smqtt::mqtt::{Packet, Publish, QoS, ReasonCode, Version};
use smqtt::secure::Denied;
use smqtt_client::enrol::validity;
use smqtt_client::keyring::Keyring;
use ward::*;

#[tokio::test]
async fn only_devices_of_the_authority_are_let_in() {
    let site = Site::new().await;
    let other = Lab::start().await;
    let foreign = other.enrol("nurse", &["role=nurse"]).await;
    let named = site.nurse.with(|k| k.signer().identity().clone());
    let home_made = HomeMade::new().issue(&named);
    let home_made = (home_made.certificate().to_vec(), home_made.key().expose_pkcs8().to_vec());
    let mut people = vec![site.broker.device.identity(), site.lab.admin_identity()];
    for role in ["enroller", "auditor"] {
        people.push(site.lab.enrol_as(role, role).await.identity());
    }
    for version in BOTH {
        let connect = || connect_packet(version, "");
        for identity in [None, Some(foreign.identity()), Some(home_made.clone())] {
            assert_eq!(site.knock(identity, connect()).await.0, None);
        }
        for identity in people.clone() {
            let (reason, word) = why(&site.knock(Some(identity), connect()).await.0);
            assert_eq!(reason, ReasonCode::NotAuthorized);
            assert!(version == Version::V3 || word == "certificate", "{word}");
        }
        site.as_device(&site.nurse, version).await;
    }
}

#[tokio::test]
async fn a_client_id_belongs_to_the_device_of_that_name() {
    let site = Site::new().await;
    let id = site.nurse.id().to_string();
    let taken = ["nurse".to_owned(), "nurse/1".into(), "nurse/".into(), id.clone(), format!("{id}/1")];
    for version in BOTH {
        for client_id in &taken {
            let identity = Some(site.visitor.identity());
            let (reason, word) = why(&site.knock(identity, connect_packet(version, client_id)).await.0);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "{client_id}");
            assert!(version == Version::V3 || word == "client-id", "{word}");
            let (reason, _) = why(&site.as_nobody(version, client_id).await.0);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "{client_id}");
            site.join(&site.nurse, connect_packet(version, client_id)).await;
        }
        // What belongs to nobody belongs to whoever has a session under it.
        let mut first = site.join(&site.nurse, connect_packet(version, "dashboard")).await;
        let second = site.knock(Some(site.visitor.identity()), connect_packet(version, "dashboard")).await;
        assert_eq!(why(&second.0).0, ReasonCode::ClientIdentifierNotValid);
        let nobody = site.as_nobody(version, "dashboard").await;
        assert_eq!(why(&nobody.0).0, ReasonCode::ClientIdentifierNotValid);
        assert_eq!(first.until_ping().await, []);
        first.disconnect().await;
    }
    // A device that enrolled a moment ago is protected as well.
    site.lab.enrol("late", &[]).await;
    let knock = site.knock(Some(site.visitor.identity()), connect_packet(Version::V5, "late/1")).await;
    assert_eq!(why(&knock.0).0, ReasonCode::ClientIdentifierNotValid);
}

#[tokio::test]
async fn a_revoked_device_is_cut_and_stays_out() {
    let site = Site::new().await;
    let mut persistent = connect_packet(Version::V5, "visitor/1");
    persistent.clean_start = false;
    persistent.properties.session_expiry_secs = Some(3600);
    let mut visitor = site.join(&site.visitor, persistent.clone()).await;
    visitor.subscribe("notes/#", QoS::AtLeastOnce).await;
    let mut old = site.as_device(&site.visitor, Version::V3).await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    site.broker.knows(site.lab.revoke("visitor").await.bundle).await;
    match visitor.next().await {
        Some(Packet::Disconnect(said)) => {
            assert_eq!(said.reason, ReasonCode::NotAuthorized);
            assert_eq!(first_word(&said.properties.reason_string), "revoked");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(old.closed().await, None);
    for version in BOTH {
        let (reason, word) =
            why(&site.knock(Some(site.visitor.identity()), connect_packet(version, "")).await.0);
        assert_eq!(reason, ReasonCode::NotAuthorized);
        assert!(version == Version::V3 || word == "revoked", "{word}");
    }
    assert_eq!(why(&site.knock(Some(site.visitor.identity()), persistent.clone()).await.0).1, "revoked");
    assert_eq!(publish(&mut nurse, "notes/1", b"hello", QoS::AtLeastOnce).await, Said::Taken);
    // The name is free again, and nothing of the old session is left for whoever takes it.
    std::fs::remove_dir_all(site.lab.device_dir("visitor")).unwrap();
    let again = site.lab.enrol("visitor", &["role=visitor"]).await;
    let (connack, client) = site.knock(Some(again.identity()), persistent).await;
    let connack = connack.unwrap();
    assert_eq!((connack.reason, connack.session_present), (ReasonCode::Success, false));
    assert_eq!(client.unwrap().until_ping().await, []);
}

/// Takes the attachment of every connection for itself.
struct Greedy;

impl Hook for Greedy {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let admission = Admission { attachment: Some(Arc::new(())), ..Admission::default() };
        Box::pin(std::future::ready(ConnectVerdict::Allow(admission)))
    }
}

/// Another hook in front, by mistake or not, does not switch the rules off.
#[tokio::test]
async fn what_another_hook_notes_of_a_client_does_not_hide_who_it_is() {
    let mut site = Site::new().await;
    std::fs::remove_dir_all(site.lab.device_dir("broker")).unwrap();
    site.lab.revoke("broker").await;
    site.broker = site.lab.broker_with(Config::default(), vec![Box::new(Greedy)]).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let said = publish(&mut sensor, WARD, b"41.0", QoS::AtLeastOnce).await;
    assert_eq!(said, refused(ReasonCode::PayloadFormatInvalid, "plaintext"));
    assert_eq!(publish(&mut sensor, "notes/1", b"hello", QoS::AtLeastOnce).await, Said::Taken);
}

/// Nothing of a revoked device is left: not what waits on disk, not a will that was to come later.
#[tokio::test]
async fn what_a_revoked_device_left_on_disk_goes_with_it() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let mut connect = Site::persistent("visitor/1");
    let mut left = will("notes/1", "gone");
    left.properties.delay_secs = Some(3600);
    connect.will = Some(left);
    let mut visitor = site.join(&site.visitor, connect).await;
    visitor.subscribe("notes/#", QoS::AtLeastOnce).await;
    visitor.subscribe("$share/group/notes/#", QoS::AtLeastOnce).await;
    drop(visitor);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    assert_eq!(publish(&mut sensor, "notes/1", b"hello", QoS::AtLeastOnce).await, Said::Taken);
    sensor.disconnect().await;
    until(|| site.sessions() == ["visitor/1"]).await;
    let down = site.shut_down().await;
    let revoked = down.lab.revoke("visitor").await.bundle;
    let site = down.start(kept_in(data.path())).await;
    site.broker.knows(revoked).await;
    until(|| site.sessions().is_empty()).await;
    assert!(site.broker.denied(Denied::Session, "revoked") > 0);
    // The group has no member left that would swallow a message.
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe("$share/group/notes/#", QoS::AtLeastOnce).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for _ in 0..4 {
        assert_eq!(publish(&mut sensor, "notes/2", b"hello", QoS::AtLeastOnce).await, Said::Taken);
    }
    assert_eq!(nurse.until_ping().await.len(), 4);
    // Nor does it come back with the disk.
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    assert!(!site.sessions().contains(&"visitor/1".to_owned()));
}

/// In one step with the bundle that says it: whoever sees the bundle in force sees nothing of the device any more, and no
/// will of it comes then or later, whether it was connected, away, or the broker was killed just then.
#[tokio::test]
async fn nothing_of_a_revoked_device_is_left_once_the_broker_knows() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let with_will = |client_id: &str, delay: Option<u32>| {
        let mut connect = Site::persistent(client_id);
        let mut left = will("notes/1", client_id);
        (left.qos, left.retain, left.properties.delay_secs) = (QoS::AtLeastOnce, true, delay);
        connect.will = Some(left);
        connect
    };
    let mut connected = site.join(&site.sensor, with_will("sensor/1", None)).await;
    connected.subscribe("notes/#", QoS::AtLeastOnce).await;
    let mut away = site.join(&site.sensor, with_will("sensor/2", Some(3600))).await;
    away.subscribe("$share/group/notes/#", QoS::AtLeastOnce).await;
    drop(away);
    let (mut watcher, _) = site.resume(&site.nurse, "nurse/1").await;
    watcher.subscribe("#", QoS::AtLeastOnce).await;
    // A header, and something that waits for each.
    let (header, key) = site.sensor.header(POLICY, WARD);
    let sealed = full(&header, &key.seal(WARD, b"36.6").unwrap());
    assert_eq!(publish(&mut connected, WARD, &sealed, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(watcher.message().await.payload, sealed);
    assert_eq!(site.broker.hook.headers().size().0, 1);
    until(|| site.sessions() == ["nurse/1", "sensor/1", "sensor/2"]).await;
    // The disk as it is when the power goes now. What is acknowledged is there, and with it all before it.
    let mark = Publish {
        topic: "$mark".into(),
        payload: "x".into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        ..Publish::default()
    };
    assert_eq!(send(&mut watcher, mark).await, Said::Taken);
    let image = Scratch::new();
    for file in std::fs::read_dir(data.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), image.path().join(file.file_name())).unwrap();
    }

    let revoked = site.lab.revoke("sensor").await.bundle;
    let seen = std::cell::OnceCell::new();
    until(|| {
        let knows = site.broker.view.bundle().number >= revoked;
        knows && seen.set((site.sessions(), site.broker.hook.headers().size())).is_ok()
    })
    .await;
    assert_eq!(seen.into_inner(), Some((vec!["nurse/1".to_owned()], (0, 0))));
    assert_eq!(site.broker.denied(Denied::Session, "revoked"), 2);
    assert_eq!(connected.closed().await, Some(ReasonCode::NotAuthorized));
    assert_eq!(watcher.until_ping().await, []);
    watcher.disconnect().await;

    let mut down = site.shut_down().await;
    for disk in [data.path(), image.path()] {
        let site = down.start(kept_in(disk)).await;
        until(|| site.sessions() == ["nurse/1"]).await;
        let (mut watcher, present) = site.resume(&site.nurse, "nurse/1").await;
        assert!(present);
        let left = watcher.until_ping().await;
        // Nobody acknowledged the message; a will there is not.
        assert!(left.iter().all(|p| matches!(p, Packet::Publish(p) if p.topic == WARD)), "{left:?}");
        watcher.subscribe("notes/#", QoS::AtLeastOnce).await;
        assert_eq!(watcher.until_ping().await, []);
        until(|| site.broker.hook.headers().size() == (0, 0)).await;
        down = site.shut_down().await;
    }
}

/// A will becomes due as soon as a broker is back that was killed: it asks who was revoked meanwhile before it begins.
#[tokio::test]
async fn who_was_revoked_while_the_broker_was_down_leaves_no_will() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let with_will = |client_id: &str| {
        let mut connect = Site::persistent(client_id);
        let mut left = will("notes/1", client_id);
        (left.qos, left.retain) = (QoS::AtLeastOnce, true);
        connect.will = Some(left);
        connect
    };
    let _sensor = site.join(&site.sensor, with_will("sensor/1")).await;
    let _nurse = site.join(&site.nurse, with_will("nurse/1")).await;
    let image = Scratch::new();
    for file in std::fs::read_dir(data.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), image.path().join(file.file_name())).unwrap();
    }

    let down = site.shut_down().await;
    down.lab.revoke("sensor").await;
    let site = down.start(kept_in(image.path())).await;
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    visitor.subscribe("notes/#", QoS::AtLeastOnce).await;
    assert_eq!(visitor.message().await.payload, "nurse/1");
    assert_eq!(visitor.until_ping().await, []);
    assert!(!site.sessions().contains(&"sensor/1".to_owned()));
}

/// Who has run out is looked for so often that nobody stays for a second: shown by the looks, on a clock that stands still
/// while they work.
#[tokio::test]
async fn an_expired_device_is_cut_within_a_second() {
    let site = Site::new().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let end = validity(&site.sensor.identity().0).unwrap().1;
    assert_eq!(sensor.until_ping().await, []);
    tokio::time::pause();
    // In its last minute it holds.
    site.lab.advance(end - DEADLINE.as_secs() - now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(site.broker.denied(Denied::Session, "expired"), 0);
    site.lab.advance(DEADLINE.as_secs() + 1);
    let begun = tokio::time::Instant::now();
    while site.broker.denied(Denied::Session, "expired") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!site.sessions().iter().any(|client_id| client_id.starts_with("sensor")));
    tokio::time::resume();
    assert_eq!(sensor.closed().await, Some(ReasonCode::NotAuthorized));
}

/// A connection lasts no longer than the certificate that it came with; what it left here, no longer than the last one
/// of its device.
#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let site = Site::new().await;
    let expires = |device: &Device| validity(&device.identity().0).unwrap().1;
    let mut connect = Site::persistent("sensor/1");
    connect.will = Some(will("notes/1", "gone"));
    let mut sensor = site.join(&site.sensor, connect).await;
    sensor.subscribe("notes/#", QoS::AtLeastOnce).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("notes/#", QoS::AtLeastOnce).await;
    let mut old = site.as_device(&site.sensor, Version::V3).await;
    // The nurse renews, and so does the broker; the sensor does not.
    site.lab.advance(26 * DAY);
    site.broker.view.refresh_directory().await.unwrap();
    let first = expires(&site.nurse);
    site.nurse.refresh().await.unwrap();
    assert!(expires(&site.nurse) > first);
    until(|| expires(&site.broker.device) > first + DAY).await;
    site.broker.view.refresh_directory().await.unwrap();
    assert_eq!(site.broker.view.certificate_until(site.nurse.id()), Some(expires(&site.nurse)));
    let (mut renewed, present) = site.resume(&site.nurse, "nurse/2").await;
    assert!(!present);
    renewed.subscribe("notes/#", QoS::AtLeastOnce).await;
    assert_eq!(sensor.until_ping().await, []);

    site.lab.advance(first + 1 - now());
    // Who has a newer one is to come back: `NotAuthorized` makes clients give up.
    let reasons = [ReasonCode::NotAuthorized, ReasonCode::AdministrativeAction];
    for (client, reason) in [&mut sensor, &mut nurse].into_iter().zip(reasons) {
        match client.next().await {
            Some(Packet::Disconnect(said)) => {
                assert_eq!(said.reason, reason);
                assert_eq!(first_word(&said.properties.reason_string), "expired");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(old.closed().await, None);
    // The will went with the session, and the newer certificate is as good as before.
    assert_eq!(renewed.until_ping().await, []);
    assert_eq!(site.sessions(), ["nurse/1", "nurse/2"]);
    assert!(site.resume(&site.nurse, "nurse/1").await.1);
    for version in BOTH {
        let knock = site.knock(Some(site.sensor.identity()), connect_packet(version, "")).await;
        assert!(knock.0.is_none_or(|connack| connack.reason.is_error()));
    }
    // It may still renew, and begins anew.
    site.sensor.refresh().await.unwrap();
    assert!(!site.resume(&site.sensor, "sensor/1").await.1);
}

/// Who hears of no revocations lets nobody in, and after a while nobody on where sealing is required.
#[tokio::test]
async fn a_broker_cut_off_from_its_authority_closes_and_comes_back_by_itself() {
    let (site, line) = Site::behind_a_line().await;
    let sealed = |device: &Device, topic: &str| {
        let (header, key) = device.header(POLICY, topic);
        full(&header, &key.seal(topic, b"36.6").unwrap())
    };
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("#", QoS::AtMostOnce).await;
    let first = sealed(&site.sensor, WARD);
    assert_eq!(publish(&mut sensor, WARD, &first, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(nurse.message().await.payload, first);
    visitor.subscribe("notes/#", QoS::AtMostOnce).await;

    // Not reached: everything goes on as it was.
    line.cut();
    until(|| site.broker.view.is_failing()).await;
    site.lab.advance(800);
    let newcomer = site.as_device(&site.nurse, Version::V3).await;
    drop(newcomer);
    // For a quarter of an hour: those who are there go on.
    site.lab.advance(101);
    let (v5, v3, nobody) = tokio::join!(
        site.knock(Some(site.nurse.identity()), connect_packet(Version::V5, "")),
        site.knock(Some(site.nurse.identity()), connect_packet(Version::V3, "")),
        site.as_nobody(Version::V5, ""),
    );
    assert_eq!(why(&v5.0), (ReasonCode::ServerUnavailable, "stale".to_owned()));
    assert!(v3.0.unwrap().reason.is_error());
    assert_eq!(why(&nobody.0).1, "stale");
    assert_eq!(site.broker.denied(Denied::Connection, "stale"), 3);
    let second = sealed(&site.sensor, WARD);
    assert_eq!(publish(&mut sensor, WARD, &second, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(nurse.message().await.payload, second);

    // For an hour: who has to do with what is required is closed; the rest goes on.
    site.lab.advance(2700);
    for client in [&mut sensor, &mut nurse] {
        match client.next().await {
            Some(Packet::Disconnect(said)) => {
                assert_eq!(said.reason, ReasonCode::ServerBusy);
                assert_eq!(first_word(&said.properties.reason_string), "stale");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(site.broker.hook.is_closed());
    assert_eq!(publish(&mut visitor, "notes/1", b"hello", QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(visitor.message().await.payload, "hello");
    let stale = || refused(ReasonCode::ImplementationSpecificError, "stale");
    let third = sealed(&site.visitor, "bed/3");
    assert_eq!(publish(&mut visitor, "bed/3", &third, QoS::AtLeastOnce).await, stale());
    assert_eq!(subscribe(&mut visitor, "bed/#").await, ReasonCode::ImplementationSpecificError);

    // The authority is back, with news.
    let revoked = site.lab.revoke("sensor").await.bundle;
    line.restore();
    let knock = site.knock(Some(site.sensor.identity()), connect_packet(Version::V5, "")).await;
    assert_eq!(why(&knock.0).1, "revoked");
    site.broker.knows(revoked).await;
    until(|| !site.broker.hook.is_closed()).await;
    assert!(site.resume(&site.nurse, "nurse/1").await.1);
    assert_eq!(publish(&mut visitor, "bed/3", &third, QoS::AtLeastOnce).await, Said::Taken);
}

/// Starting again does not make a broker hear of revocations.
#[tokio::test]
async fn a_restart_does_not_end_the_time_that_a_broker_was_cut_off_for() {
    let (site, line) = Site::behind_a_line().await;
    let directory = site.lab.device_dir("broker").join("directory.json");
    until(|| directory.exists()).await;
    line.cut();
    until(|| site.broker.view.is_failing()).await;
    site.lab.advance(901);
    let site = site.shut_down().await.start(Config::default()).await;
    let knock = site.knock(Some(site.nurse.identity()), connect_packet(Version::V5, "")).await;
    assert_eq!(why(&knock.0).1, "stale");
    // Nor does it forget its devices.
    assert!(site.broker.view.peer(site.nurse.id()).is_some());
    line.restore();
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    assert!(!subscribe(&mut nurse, "staff/rota").await.is_error());
}

/// An authority that is there and says nothing, which is easy to bring about, does not keep devices from the broker.
#[tokio::test]
async fn a_silent_authority_shuts_nobody_out() {
    let site = Site::new().await;
    site.broker.stop().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = site.lab.device_dir("broker").join("identity.json");
    let place = std::fs::read_to_string(&file).unwrap();
    let elsewhere = format!("https://{}", silent.local_addr().unwrap());
    std::fs::write(&file, place.replace(site.lab.authority.url(), &elsewhere)).unwrap();
    let _ = std::fs::remove_file(site.lab.device_dir("broker").join("directory.json"));
    let keyring = Keyring::load(&site.lab.device_dir("broker")).unwrap();
    // It asks before it begins, for as long as it has patience, which is over at once here.
    tokio::time::pause();
    let broker = site.lab.broker_of(Device::new(keyring), Config::default(), Vec::new()).await;
    tokio::time::resume();
    let site = Site { broker, ..site };
    // Both are new to this broker, and it cannot ask about one's client id.
    let joining = [
        site.join(&site.sensor, connect_packet(Version::V5, "")),
        site.join(&site.nurse, connect_packet(Version::V5, "dashboard")),
    ];
    let mut joined = Vec::new();
    for client in joining {
        joined.push(client.await);
    }
    let (header, key) = site.sensor.header(POLICY, "bed/3");
    joined[1].subscribe("bed/+", QoS::AtMostOnce).await;
    let payload = full(&header, &key.seal("bed/3", b"free").unwrap());
    assert_eq!(publish(&mut joined[0], "bed/3", &payload, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(joined[1].message().await.payload, payload);
    // What it would have to know somebody's attributes for it refuses.
    let (header, key) = site.sensor.header(POLICY, WARD);
    let payload = full(&header, &key.seal(WARD, b"36.6").unwrap());
    let said = publish(&mut joined[0], WARD, &payload, QoS::AtLeastOnce).await;
    assert_eq!(said, refused(ReasonCode::NotAuthorized, "not-allowed"));
    assert_eq!(subscribe(&mut joined[1], "staff/rota").await, ReasonCode::NotAuthorized);
}
