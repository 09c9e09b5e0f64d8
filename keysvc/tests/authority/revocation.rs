//! Revocation.

use base64::Engine;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use smqtt_core::api::{Device as Listed, Directory, Keys, Revocation};
use smqtt_core::attribute::Attribute;

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_gets_nothing_and_reads_nothing_new() {
    let server = Running::start().await;
    let lost = server.enrol("lost", &["role=nurse", "ward=3", "ward=4", "admin"]).await;
    let kept = server.enrol("kept", &["role=nurse"]).await;
    let sensor = server.enrol("sensor", &[]).await;
    let before = server.newest_bundle().await;
    let old_key = lost.open_key(&lost.enrolment.keys[0]);
    let client = server.client(&lost);
    let mut open_connection = client.connect().await;
    let get = || Request::get("/v1/keys").header("host", "x").body(Full::new(Bytes::new())).unwrap();
    let answered = answer(open_connection.send_request(get()).await.unwrap()).await;
    assert_eq!(answered.status, StatusCode::OK);

    let report: Revocation = server.admin().post("/v1/devices/lost/revoke", &()).await.json();
    assert_eq!((report.name.as_str(), report.revoked), ("lost", START));
    // The two wards are integers of one name.
    assert_eq!(report.raised, ["admin", "role=nurse", "ward"]);
    assert_eq!(report.bundle, before.number + 1);

    answer(open_connection.send_request(get()).await.unwrap()).await.problem(403, "revoked");
    client.get("/v1/keys").await.problem(403, "revoked");
    client.get("/v1/bundle").await.problem(403, "revoked");
    client.post("/v1/renew", &lost.keys.renewal()).await.problem(403, "revoked");

    let after = server.newest_bundle().await;
    assert_eq!(after.number, report.bundle);
    assert!(after.is_revoked(lost.id()) && !after.is_revoked(kept.id()));
    for (attribute, version) in [("role=nurse", 1), ("ward=9", 1), ("admin", 1), ("role=doctor", 0)] {
        assert_eq!(after.versions.get(&attribute.parse::<Attribute>().unwrap()), version, "{attribute}");
    }
    let (header, _) = sensor.seal("role=nurse", &after, START);
    assert!(header.open(&lost.params(), &old_key).is_err());
    assert!(header.open(&kept.params(), &kept.open_key(&kept.enrolment.keys[0])).is_err());
    let keys: Keys = server.client(&kept).get("/v1/keys").await.json();
    assert!(header.open(&kept.params(), &kept.open_key(&keys.keys[0])).is_ok());
}

/// A bridge has attributes, so that rules apply to it, and no keys for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_gets_no_keys_and_nobody_renews_theirs_when_it_goes() {
    let server = Running::start().await;
    let bridge = server.enrol_bridge("north", &["role=nurse", "zone=3"]).await;
    assert!(bridge.enrolment.keys.is_empty());
    assert_eq!(bridge.enrolment.role, "bridge");
    let listed: Vec<Listed> = server.admin().get("/v1/devices").await.json();
    let listed = listed.iter().find(|device| device.name == "north").unwrap();
    assert_eq!((listed.role.as_str(), listed.attributes.len()), ("bridge", 2));

    let report: Revocation = server.admin().post("/v1/devices/north/revoke", &()).await.json();
    assert!(report.raised.is_empty());
    let after = server.newest_bundle().await;
    assert!(after.is_revoked(bridge.id()));
    assert_eq!(after.versions.get(&"role=nurse".parse::<Attribute>().unwrap()), 0);
    server.client(&bridge).post("/v1/renew", &bridge.keys.renewal()).await.problem(403, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_again_answers_the_same_and_changes_nothing() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let admin = server.admin();
    let first = admin.post(&format!("/v1/devices/{}/revoke", device.id()), &()).await;
    server.clock.advance(60);
    for name in [device.id().to_string(), "a".to_owned()] {
        let again = admin.post(&format!("/v1/devices/{name}/revoke"), &()).await;
        assert_eq!(first.body, again.body);
    }
    assert_eq!(server.newest_bundle().await.number, first.json::<Revocation>().bundle);
    admin.post("/v1/devices/b/revoke", &()).await.problem(404, "no-such-device");
    admin.post("/v1/devices/admin/revoke", &()).await.problem(409, "not-revocable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_the_enrolment_does_not_bring_a_device_back() {
    let server = Running::start().await;
    let token = server.token("a", &["x"]).await;
    let request = DeviceKeys::generate().request(&token);
    assert_eq!(server.anonymous().post("/v1/enrol", &request).await.status, StatusCode::OK);
    server.admin().post("/v1/devices/a/revoke", &()).await;
    server.anonymous().post("/v1/enrol", &request).await.problem(403, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_directory_tell_who_is_there_and_who_is_gone() {
    let server = Running::start().await;
    let admin = server.admin();
    let directory: Directory = admin.get("/v1/directory?after=0").await.json();
    let device = server.enrol("a", &["role=nurse"]).await;
    let next: Directory = admin.get(&format!("/v1/directory?after={}", directory.revision)).await.json();
    assert_eq!(next.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["a"]);
    admin.post("/v1/devices/a/revoke", &()).await;
    let last: Directory = admin.get(&format!("/v1/directory?after={}", next.revision)).await.json();
    assert_eq!((last.devices.len(), last.devices[0].status.as_str()), (1, "revoked"));
    assert_eq!(last.devices[0].revoked, Some(START));
    let none: Directory = admin.get(&format!("/v1/directory?after={}", last.revision)).await.json();
    assert_eq!((none.revision, none.devices.len()), (last.revision, 0));

    let again = server.enrol("a", &[]).await;
    let by_name: Listed = admin.get("/v1/devices/a").await.json();
    assert_eq!((by_name.id, by_name.status.as_str()), (again.enrolment.id.clone(), "active"));
    let by_id: Listed = admin.get(&format!("/v1/devices/{}", device.id())).await.json();
    assert_eq!((by_id.status.as_str(), by_id.attributes), ("revoked", vec!["role=nurse".to_owned()]));
    admin.get("/v1/devices/%ff").await.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_more_versions_fit_a_new_epoch_shuts_the_device_out() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x", "y"]).await;
    let (dir, clock, config) = server.stop().await;
    let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
    for number in 0..smqtt_core::attribute::VERSIONS_MAX - 1 {
        let key: Attribute = format!("full-{number}").parse().unwrap();
        store.execute("INSERT INTO versions VALUES (?, 1)", [key.encode()]).unwrap();
    }
    drop(store);
    let server = Running::again(dir, clock, config).await;
    let report: Revocation = server.admin().post("/v1/devices/a/revoke", &()).await.json();
    assert_eq!(report.raised, ["x"]);
    let bundle = server.newest_bundle().await;
    // The one after the next: keys of the next may be out.
    assert_eq!((bundle.epoch.number, bundle.number), (3, report.bundle));
    assert!(bundle.is_revoked(device.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_it_and_no_secret() {
    let server = Running::start().await;
    let token = server.token("a", &["x"]).await;
    let keys = DeviceKeys::generate();
    server.anonymous().post("/v1/enrol", &keys.request(&token)).await;
    server.admin().post("/v1/devices/a/revoke", &()).await;
    let audit = server.admin().get("/v1/audit").await;
    let rows: Vec<smqtt_core::api::AuditRecord> = audit.json();
    let actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["create", "create-admin", "make-token", "enrol", "issue-keys", "revoke"]);
    assert!(rows[5].actor.starts_with("admin "));
    let secret = base64::engine::general_purpose::STANDARD.encode(token.secret);
    assert!(!audit.text().contains(&hex(&token.secret)) && !audit.text().contains(&secret));
    let rest: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit?after=4").await.json();
    assert_eq!((rest.len(), rest[0].number), (2, 5));
}

/// What a connection's certificate was found to be is remembered; that its holder was revoked, or that it ran out, counts with
/// the next request all the same.
#[tokio::test]
async fn a_connection_that_asked_often_is_refused_once_its_holder_is_revoked_or_its_certificate_over() {
    let running = Running::start().await;
    for fate in ["revoked", "certificate-expired"] {
        let device = running.enrol(fate, &["role=nurse"]).await;
        let mut connection = running.client(&device).connect().await;
        let mut ask = async || {
            let request = Request::get("/v1/keys").header("host", "localhost");
            let request = request.body(Full::new(Bytes::new())).unwrap();
            answer(connection.send_request(request).await.unwrap()).await
        };
        for _ in 0..4 {
            assert_eq!(ask().await.status, 200);
        }
        if fate == "revoked" {
            running.admin().post(&format!("/v1/devices/{}/revoke", device.id()), &()).await;
        } else {
            running.clock.advance(31 * DAY);
        }
        ask().await.problem(403, fate);
    }
}
