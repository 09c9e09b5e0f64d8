//! Suspended, resumed, reset: what comes back, what does not, and for whom.

use hyper::StatusCode;
use smqtt_core::api::{
    AuditRecord, Device as Listed, Directory, EnrolRequest, Enrolment, Keys, NewToken, Reset, Resumption,
    Suspension, Waiting,
};
use smqtt_core::token::Token;

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_device_gets_nothing_and_reads_nothing_that_is_sealed_meanwhile() {
    let server = Running::start().await;
    let admin = server.admin();
    let found = server.enrol("found", &["role=nurse", "ward=3"]).await;
    let sensor = server.enrol("sensor", &[]).await;
    let before = server.newest_bundle().await;
    let old_key = found.open_key(&found.enrolment.keys[0]);
    let client = server.client(&found);

    let done: Suspension = admin.post("/v1/devices/found/suspend", &()).await.json();
    assert_eq!((done.name.as_str(), done.suspended, done.bundle), ("found", START, before.number + 1));
    assert_eq!(done.raised, ["role=nurse", "ward"]);
    let meanwhile = server.newest_bundle().await;
    assert!(meanwhile.is_revoked(found.id()), "brokers and readers are told as of a revocation");

    client.get("/v1/keys").await.problem(403, "suspended");
    client.get("/v1/bundle").await.problem(403, "suspended");
    client.get("/v1/rules").await.problem(403, "suspended");
    client.post("/v1/renew", &found.keys.renewal()).await.problem(403, "suspended");
    // Nor by the back door of a retry: see `a_retry_of_the_enrolment_does_not_end_a_suspension`.
    let (header, _) = sensor.seal("role=nurse and ward=3", &meanwhile, START);
    assert!(header.open(&found.params(), &old_key).is_err(), "the keys it kept open nothing new");

    let back: Resumption = admin.post(&format!("/v1/devices/{}/resume", found.id()), &()).await.json();
    assert_eq!(back.bundle, done.bundle + 1);
    let after = server.newest_bundle().await;
    assert!(!after.is_revoked(found.id()));
    let keys: Keys = client.get("/v1/keys").await.json();
    let opens = keys.keys.iter().any(|key| header.open(&found.params(), &found.open_key(key)).is_ok());
    assert!(opens, "all of it comes back");
    assert_eq!(client.post("/v1/renew", &found.keys.renewal()).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_the_enrolment_does_not_end_a_suspension() {
    let server = Running::start().await;
    let token = server.token("a", &["x"]).await;
    let request = DeviceKeys::generate().request(&token);
    assert_eq!(server.anonymous().post("/v1/enrol", &request).await.status, StatusCode::OK);
    server.admin().post("/v1/devices/a/suspend", &()).await;
    server.anonymous().post("/v1/enrol", &request).await.problem(403, "suspended");
    // The name is not free meanwhile, either.
    let token = serde_json::json!({"name": "a"});
    server.admin().post("/v1/tokens", &token).await.problem(409, "name-taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_again_answers_the_same_and_changes_nothing() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let admin = server.admin();
    let idle: Resumption = admin.post("/v1/devices/a/resume", &()).await.json();
    assert_eq!(idle.bundle, server.newest_bundle().await.number);
    let first = admin.post("/v1/devices/a/suspend", &()).await;
    server.clock.advance(60);
    let again = admin.post(&format!("/v1/devices/{}/suspend", device.id()), &()).await;
    assert_eq!(first.body, again.body);
    assert_eq!(server.newest_bundle().await.number, first.json::<Suspension>().bundle);
    let back = admin.post("/v1/devices/a/resume", &()).await;
    assert_eq!(admin.post("/v1/devices/a/resume", &()).await.body, back.body);
    let second: Suspension = admin.post("/v1/devices/a/suspend", &()).await.json();
    assert_eq!((second.suspended, second.raised), (START + 60, vec!["x".to_owned()]));

    for verb in ["suspend", "resume", "reset"] {
        let path = |name: &str| format!("/v1/devices/{name}/{verb}");
        let nothing = serde_json::json!({});
        admin.post(&path("nobody"), &nothing).await.problem(404, "no-such-device");
        admin.post(&path("admin"), &nothing).await.problem(409, "not-revocable");
    }
    let audit: Vec<AuditRecord> = admin.get("/v1/audit").await.json();
    let acts: Vec<_> = audit.iter().map(|row| row.action.as_str()).filter(|a| a.contains("s")).collect();
    assert_eq!(acts.iter().filter(|act| **act == "suspend").count(), 2);
    assert_eq!(acts.iter().filter(|act| **act == "resume").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_is_final_also_for_whom_was_suspended() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let admin = server.admin();
    admin.post("/v1/devices/a/suspend", &()).await;
    admin.post("/v1/devices/a/revoke", &()).await;
    let nothing = serde_json::json!({});
    for verb in ["suspend", "resume", "reset"] {
        admin.post(&format!("/v1/devices/a/{verb}"), &nothing).await.problem(409, "device-revoked");
    }
    let change = serde_json::json!({"set": ["x"]});
    admin.patch("/v1/devices/a", &change).await.problem(409, "device-revoked");
    assert!(server.newest_bundle().await.is_revoked(device.id()));
    server.client(&device).get("/v1/keys").await.problem(403, "revoked");
    let listed: Listed = admin.get("/v1/devices/a").await.json();
    assert_eq!(listed.status, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_device_is_dead_and_its_name_waits_for_the_new_one() {
    let server = Running::start().await;
    let admin = server.admin();
    let old = server.enrol_with_policy("lock", &["role=lock", "door=3"], "building=a").await;
    let sensor = server.enrol("sensor", &[]).await;
    let keys: Vec<_> = old.open_keys(&old.enrolment.keys);
    let done: Reset = admin.post("/v1/devices/lock/reset", &serde_json::json!({})).await.json();
    assert_eq!((done.id.as_str(), done.name.as_str()), (old.enrolment.id.as_str(), "lock"));
    assert_eq!(done.raised, ["building=a", "door", "role=lock"]);

    // What was is as if revoked.
    server.client(&old).get("/v1/keys").await.problem(403, "revoked");
    server.client(&old).post("/v1/renew", &old.keys.renewal()).await.problem(403, "revoked");
    let bundle = server.newest_bundle().await;
    assert!(bundle.is_revoked(old.id()));
    let (header, _) = sensor.seal("role=lock", &bundle, START);
    assert!(keys.iter().all(|key| header.open(&old.params(), key).is_err()));

    // A token that was lost on the way is worth nothing once there is another.
    let again: Reset = admin.post("/v1/devices/lock/reset", &serde_json::json!({})).await.json();
    assert_eq!((again.revoked, again.bundle, &again.raised), (done.revoked, done.bundle, &done.raised));
    let lost = Token::parse(&done.token).unwrap();
    let keys = DeviceKeys::generate();
    server.anonymous().post("/v1/enrol", &keys.request(&lost)).await.problem(410, "token-removed");

    let token = Token::parse(&again.token).unwrap();
    let answer = server.anonymous().post("/v1/enrol", &keys.request(&token)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let new = Device::new(keys, answer.json());
    assert_eq!((new.enrolment.name.as_str(), new.enrolment.policy.as_deref()), ("lock", Some("building=a")));
    assert_ne!(new.id(), old.id());
    let listed: Listed = admin.get("/v1/devices/lock").await.json();
    assert_eq!(listed.attributes, ["door=3", "role=lock"]);
    let opened = new.open_keys(&new.enrolment.keys);
    assert!(opened.iter().any(|key| header.open(&new.params(), key).is_ok()));

    // The old one by its identifier: somebody has the name by now.
    let path = format!("/v1/devices/{}/reset", old.id());
    admin.post(&path, &serde_json::json!({})).await.problem(409, "name-taken");
    assert!(!admin.get("/v1/audit").await.text().contains(&again.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_token_for_the_name_does_not_survive_a_reset() {
    let server = Running::start().await;
    let first = server.token("a", &["x"]).await;
    let second = server.token("a", &["x", "y"]).await;
    let keys = DeviceKeys::generate();
    server.anonymous().post("/v1/enrol", &keys.request(&first)).await;
    server.admin().post("/v1/devices/a/reset", &serde_json::json!({})).await;
    let sly = DeviceKeys::generate().request(&second);
    server.anonymous().post("/v1/enrol", &sly).await.problem(410, "token-removed");
    // The token that it was made with is used up for ever.
    server.anonymous().post("/v1/enrol", &keys.request(&first)).await.problem(403, "revoked");
}

/// The attack: whoever has a token for a batch comes before the reset device, and is called as it was.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_reset_token_is_open_its_name_is_for_nobody_else() {
    let server = Running::start().await;
    let admin = server.admin();
    let make = async |request: serde_json::Value| {
        let answer = admin.post("/v1/tokens", &request).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        Token::parse(&answer.json::<NewToken>().token).unwrap()
    };
    let enrol = async |token: &Token, serial: Option<&str>| {
        let request = DeviceKeys::generate().request(token);
        let request = EnrolRequest { serial: serial.map(str::to_owned), ..request };
        server.anonymous().post("/v1/enrol", &request).await
    };
    let named = async |token: &Token| enrol(token, None).await.json::<Enrolment>().name;
    let reset = async |name: &str, ttl: u64| {
        let request = serde_json::json!({ "ttl_seconds": ttl });
        admin.post(&format!("/v1/devices/{name}/reset"), &request).await
    };
    let token_of = |answer: Answer| Token::parse(&answer.json::<Reset>().token).unwrap();

    server.enrol("s-1", &[]).await;
    server.enrol("s-A1", &[]).await;
    let (one, two) = (token_of(reset("s-1", 60).await), token_of(reset("s-A1", 60).await));
    let batch = make(serde_json::json!({"name": "s", "count": 5})).await;
    assert_eq!(named(&batch).await, "s-2");
    let asking = make(serde_json::json!({"name": "s", "count": 5, "approval": true})).await;
    assert_eq!(enrol(&asking, None).await.json::<Waiting>().name, "s-3");
    let serials = make(serde_json::json!({"name": "s", "serials": ["A1", "A2"]})).await;
    enrol(&serials, Some("A1")).await.problem(409, "name-taken");
    admin.post("/v1/tokens", &serde_json::json!({"name": "s-1"})).await.problem(409, "name-taken");
    // A reset that is asked for again is for the same name.
    let again = token_of(reset("s-1", 60).await);
    enrol(&one, None).await.problem(410, "token-removed");
    assert_eq!(named(&again).await, "s-1");
    // Whoever says that theirs takes its place means it.
    let instead = make(serde_json::json!({"name": "s-A1", "replace": true})).await;
    enrol(&two, None).await.problem(410, "token-removed");
    assert_eq!(named(&instead).await, "s-A1");

    // With its token over the name is free, and whoever waits under it is not passed over.
    reset("s-1", 60).await;
    server.clock.advance(60);
    let asking = make(serde_json::json!({"name": "s", "count": 5, "approval": true})).await;
    assert_eq!(enrol(&asking, None).await.json::<Waiting>().name, "s-1");
    reset("s-1", 60).await.problem(409, "name-taken");
    admin.post("/v1/enrolments/s-1/deny", &()).await;
    let last = token_of(reset("s-1", 60).await);
    assert_eq!(named(&last).await, "s-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_tells_brokers_who_is_suspended() {
    let server = Running::start().await;
    let admin = server.admin();
    server.enrol("a", &["x"]).await;
    let known: Directory = admin.get("/v1/directory?after=0").await.json();
    admin.post("/v1/devices/a/suspend", &()).await;
    let next: Directory = admin.get(&format!("/v1/directory?after={}", known.revision)).await.json();
    assert_eq!((next.devices[0].status.as_str(), next.devices[0].suspended), ("suspended", Some(START)));
    admin.post("/v1/devices/a/resume", &()).await;
    let last: Directory = admin.get(&format!("/v1/directory?after={}", next.revision)).await.json();
    assert_eq!((last.devices[0].status.as_str(), last.devices[0].suspended), ("active", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_outlives_a_restart() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    server.admin().post("/v1/devices/a/suspend", &()).await;
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    server.client(&device).get("/v1/keys").await.problem(403, "suspended");
    assert!(server.newest_bundle().await.is_revoked(device.id()));
}
