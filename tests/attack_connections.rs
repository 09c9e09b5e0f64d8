//! Attacks on the broker by who connects to it: only devices of the authority get in, under names of their own, for as
//! long as they are devices.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use std::sync::Arc;

use broker_support::connect as connect_packet;
use lab::{Device, HomeMade, Lab, full};
use smqtt::broker::{Admission, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture};
use smqtt::mqtt::{Packet, QoS, ReasonCode, Version};
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
    for version in BOTH {
        let connect = || connect_packet(version, "");
        for identity in [None, Some(foreign.identity()), Some(home_made.clone())] {
            assert_eq!(site.knock(identity, connect()).await.0, None);
        }
        for identity in [site.broker.device.identity(), site.lab.admin_identity()] {
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
async fn without_its_own_notes_on_a_client_the_hook_lets_nothing_through() {
    let mut site = Site::new().await;
    std::fs::remove_dir_all(site.lab.device_dir("broker")).unwrap();
    site.lab.revoke("broker").await;
    site.broker = site.lab.broker_with(Config::default(), vec![Box::new(Greedy)]).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for topic in [WARD, "bed/3", "notes/1"] {
        let said = publish(&mut sensor, topic, b"41.0", QoS::AtLeastOnce).await;
        assert_eq!(said, refused(ReasonCode::NotAuthorized, "no-identity"));
    }
    assert_eq!(subscribe(&mut sensor, "#").await, ReasonCode::NotAuthorized);
}

/// An authority that is there and says nothing, which is easy to bring about, does not keep devices from the broker.
#[tokio::test]
async fn a_silent_authority_shuts_nobody_out() {
    let site = Site::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = site.lab.device_dir("broker").join("identity.json");
    let place = std::fs::read_to_string(&file).unwrap();
    let elsewhere = format!("https://{}", silent.local_addr().unwrap());
    std::fs::write(&file, place.replace(site.lab.authority.url(), &elsewhere)).unwrap();
    let keyring = Keyring::load(&site.lab.device_dir("broker")).unwrap();
    let broker = site.lab.broker_of(Device::new(keyring), Config::default(), Vec::new()).await;
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
