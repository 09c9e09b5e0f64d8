//! Profiles and groups: what several devices have in common, and the one act that changes it for all.

use hyper::StatusCode;
use smqtt_core::api::{
    AuditRecord, Device as Listed, DeviceChanged, Keys, NewToken, Profile, Reset, TemplateSet,
};
use smqtt_core::token::Token;

use crate::common::*;

async fn put(server: &Running, path: &str, body: serde_json::Value) -> TemplateSet {
    let answer = server.admin().put(path, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn enrol_as(server: &Running, request: serde_json::Value) -> Device {
    let answer = server.admin().post("/v1/tokens", &request).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    let token = Token::parse(&answer.json::<NewToken>().token).unwrap();
    let keys = DeviceKeys::generate();
    let answer = server.anonymous().post("/v1/enrol", &keys.request(&token)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    Device::new(keys, answer.json())
}

async fn attributes(server: &Running, name: &str) -> Vec<String> {
    server.admin().get(&format!("/v1/devices/{name}")).await.json::<Listed>().attributes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_its_own_its_groups_and_its_profiles_attributes() {
    let server = Running::start().await;
    put(
        &server,
        "/v1/profiles/sensor",
        serde_json::json!({"attributes": ["kind=sensor"], "certificate_days": 90}),
    )
    .await;
    put(&server, "/v1/groups/ward-3", serde_json::json!({"profile": "sensor", "attributes": ["ward=3"]}))
        .await;
    let one =
        enrol_as(&server, serde_json::json!({"name": "one", "group": "ward-3", "attributes": ["floor=2"]}))
            .await;
    assert_eq!(attributes(&server, "one").await, ["floor=2", "kind=sensor", "ward=3"]);
    let listed: Listed = server.admin().get("/v1/devices/one").await.json();
    assert_eq!(listed.certificate_expires, START + 90 * DAY);
    // A renewed certificate lives as long.
    server.clock.advance(DAY);
    server.client(&one).post("/v1/renew", &one.keys.renewal()).await;
    let listed: Listed = server.admin().get("/v1/devices/one").await.json();
    assert_eq!(listed.certificate_expires, START + 91 * DAY);

    // Whoever moves has what is there, and keeps its own.
    put(&server, "/v1/groups/ward-4", serde_json::json!({"attributes": ["ward=4"]})).await;
    let change = serde_json::json!({"group": "ward-4", "profile": "sensor"});
    assert_eq!(server.admin().patch("/v1/devices/one", &change).await.status, StatusCode::OK);
    assert_eq!(attributes(&server, "one").await, ["floor=2", "kind=sensor", "ward=4"]);
    let listed: Listed = server.admin().get("/v1/devices/one").await.json();
    assert_eq!((listed.profile.as_deref(), listed.group.as_deref()), (Some("sensor"), Some("ward-4")));
    let change = serde_json::json!({"group": null, "profile": null});
    assert_eq!(server.admin().patch("/v1/devices/one", &change).await.status, StatusCode::OK);
    assert_eq!(attributes(&server, "one").await, ["floor=2"]);
    // A group that gives nothing yet: from now on it may, and so it is on record.
    put(&server, "/v1/groups/empty", serde_json::json!({})).await;
    let bundle = server.newest_bundle().await.number;
    for _ in 0..2 {
        let changed = server.admin().patch("/v1/devices/one", &serde_json::json!({"group": "empty"})).await;
        assert_eq!(changed.json::<DeviceChanged>().bundle, bundle, "nobody is told of what is as before");
    }
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let told =
        rows.iter().filter(|row| row.action == "change-device" && row.subject.ends_with(" group empty"));
    assert_eq!(told.count(), 1);
}

/// The attack: a member keeps its keys when the whole group loses an attribute.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_profile_or_group_loses_all_of_its_devices_lose_in_one_act() {
    let server = Running::start().await;
    put(&server, "/v1/profiles/nurse", serde_json::json!({"attributes": ["role=nurse", "shift=day"]})).await;
    put(&server, "/v1/groups/ward-3", serde_json::json!({"profile": "nurse", "attributes": ["ward=3"]}))
        .await;
    let mut members = Vec::new();
    for name in ["a", "b"] {
        members.push(enrol_as(&server, serde_json::json!({"name": name, "group": "ward-3"})).await);
    }
    let own = enrol_as(
        &server,
        serde_json::json!({"name": "own", "profile": "nurse", "attributes": ["shift=day"]}),
    )
    .await;
    let sensor = server.enrol("sensor", &[]).await;
    let before = server.newest_bundle().await.number;
    let done =
        put(&server, "/v1/profiles/nurse", serde_json::json!({"attributes": ["role=nurse", "badge=7"]}))
            .await;
    assert_eq!(
        (done.changed, done.raised.clone(), done.bundle),
        (3, vec!["shift=day".to_owned()], before + 1)
    );
    let (shift, _) = sensor.seal("shift=day", &server.newest_bundle().await, START);
    let (badge, _) = sensor.seal("badge=7 and ward=3", &server.newest_bundle().await, START);
    for member in &members {
        let kept = member.open_keys(&member.enrolment.keys);
        assert!(kept.iter().all(|key| shift.open(&member.params(), key).is_err()));
        let keys: Keys = server.client(member).get("/v1/keys").await.json();
        let new = member.open_keys(&keys.keys);
        assert!(new.iter().all(|key| shift.open(&member.params(), key).is_err()));
        assert!(new.iter().any(|key| badge.open(&member.params(), key).is_ok()));
    }
    // Who has it by itself keeps it.
    let keys: Keys = server.client(&own).get("/v1/keys").await.json();
    assert!(own.open_keys(&keys.keys).iter().any(|key| shift.open(&own.params(), key).is_ok()));

    let done =
        put(&server, "/v1/groups/ward-3", serde_json::json!({"profile": "nurse", "attributes": ["ward=4"]}))
            .await;
    assert_eq!((done.changed, done.raised), (2, vec!["ward".to_owned()]));
    let again =
        put(&server, "/v1/groups/ward-3", serde_json::json!({"profile": "nurse", "attributes": ["ward=4"]}))
            .await;
    assert_eq!((again.changed, again.bundle), (0, done.bundle), "set again, it changes nothing");
    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert_eq!(audit.iter().filter(|row| row.action == "set-group").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_come_with_a_profile_and_go_with_it_only_if_asked() {
    let server = Running::start().await;
    let admin = server.admin();
    let rule =
        |filter: &str| serde_json::json!({"filter": filter, "mode": "required", "policy": "kind=sensor"});
    let profile = serde_json::json!({"attributes": ["kind=sensor"], "rules": [rule("a/+"), rule("b/+")]});
    let before = server.newest_bundle().await.number;
    assert_eq!(put(&server, "/v1/profiles/p", profile.clone()).await.bundle, before + 1);
    assert_eq!(put(&server, "/v1/profiles/p", profile).await.bundle, before + 1);
    let shown: Profile = admin.get("/v1/profiles/p").await.json();
    assert_eq!(shown.filters, ["a/+", "b/+"]);
    let audit: Vec<AuditRecord> = admin.get("/v1/audit").await.json();
    let count = |action: &str| audit.iter().filter(|row| row.action == action).count();
    assert_eq!((count("set-rule"), count("set-profile")), (2, 1));
    admin.delete("/v1/profiles/p").await;
    assert_eq!(server.newest_bundle().await.rules.len(), 2);
    put(&server, "/v1/profiles/p", serde_json::json!({"rules": [rule("a/+")]})).await;
    assert_eq!(admin.delete("/v1/profiles/p?rules=true").await.status, StatusCode::OK);
    assert_eq!(server.newest_bundle().await.rules.len(), 1);
    // One bad rule, and nothing of it happened.
    let bad = serde_json::json!({"rules": [rule("c/+"), rule("d/#/e")]});
    admin.put("/v1/profiles/q", &bad).await.problem(400, "filter");
    admin.get("/v1/profiles/q").await.problem(404, "no-such-profile");
    assert_eq!(server.newest_bundle().await.rules.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_is_not_removed_and_what_fits_nobody_is_refused() {
    let server = Running::start().await;
    let admin = server.admin();
    put(&server, "/v1/profiles/p", serde_json::json!({"attributes": ["x"], "token_ttl_seconds": 60})).await;
    put(&server, "/v1/groups/g", serde_json::json!({"profile": "p"})).await;
    admin.delete("/v1/profiles/p").await.problem(409, "in-use");
    let device = enrol_as(&server, serde_json::json!({"name": "a", "group": "g"})).await;
    admin.delete("/v1/groups/g").await.problem(409, "in-use");
    let many: Vec<String> = (0..64).map(|n| format!("n{n}")).collect();
    admin
        .put("/v1/groups/g", &serde_json::json!({"profile": "p", "attributes": many}))
        .await
        .problem(400, "attributes");
    assert_eq!(attributes(&server, "a").await, ["x"], "not even in part");
    for (request, status, code) in [
        (serde_json::json!({"name": "b", "profile": "none"}), 404, "no-such-profile"),
        (serde_json::json!({"name": "b", "group": "none"}), 404, "no-such-group"),
        (serde_json::json!({"name": "b", "role": "broker", "profile": "p"}), 400, "profile"),
    ] {
        admin.post("/v1/tokens", &request).await.problem(status, code);
    }
    admin.patch("/v1/devices/a", &serde_json::json!({"group": "none"})).await.problem(404, "no-such-group");
    admin.put("/v1/groups/h", &serde_json::json!({"profile": "none"})).await.problem(404, "no-such-profile");
    admin.put("/v1/profiles/-", &serde_json::json!({})).await.problem(400, "name");
    let days = serde_json::json!({"certificate_days": 0});
    admin.put("/v1/profiles/q", &days).await.problem(400, "certificate-days");
    // A reset device's successor is in the group as well.
    let reset: Reset = admin.post("/v1/devices/a/reset", &serde_json::json!({})).await.json();
    let keys = DeviceKeys::generate();
    let token = Token::parse(&reset.token).unwrap();
    assert_eq!(server.anonymous().post("/v1/enrol", &keys.request(&token)).await.status, StatusCode::OK);
    put(&server, "/v1/groups/g", serde_json::json!({"profile": "p", "attributes": ["y"]})).await;
    assert_eq!(attributes(&server, "a").await, ["x", "y"]);
    assert_eq!(attributes(&server, &device.id().to_string()).await, ["x"], "what is over stays as it was");
    // With its devices gone for good it can be removed.
    admin.post("/v1/devices/a/revoke", &()).await;
    for path in ["/v1/groups/g", "/v1/profiles/p"] {
        let answer = admin.delete(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    }
    admin.delete("/v1/groups/g").await.problem(404, "no-such-group");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profiles_policy_is_for_devices_without_one_of_their_own() {
    let server = Running::start().await;
    put(&server, "/v1/profiles/p", serde_json::json!({"policy": "ward=3"})).await;
    let shared = enrol_as(&server, serde_json::json!({"name": "shared", "profile": "p"})).await;
    let own = enrol_as(&server, serde_json::json!({"name": "own", "profile": "p", "policy": "ward=9"})).await;
    assert_eq!(
        (shared.enrolment.policy.as_deref(), own.enrolment.policy.as_deref()),
        (Some("ward=3"), Some("ward=9"))
    );
    let done = put(&server, "/v1/profiles/p", serde_json::json!({"policy": "ward=4"})).await;
    assert_eq!((done.changed, done.raised), (1, vec!["ward".to_owned()]));
    let keys: Keys = server.client(&shared).get("/v1/keys").await.json();
    assert_eq!(keys.policy.as_deref(), Some("ward=4"));
}

/// The attack: whoever approves, or reads the record, sees a token that gives nothing, and its group gives it everything.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_approves_or_reads_the_record_sees_what_a_group_and_a_profile_give() {
    let server = Running::start().await;
    let admin = server.admin();
    put(&server, "/v1/profiles/staff", serde_json::json!({"attributes": ["staff"], "policy": "ward=3"}))
        .await;
    put(&server, "/v1/profiles/chief", serde_json::json!({"attributes": ["chief"]})).await;
    let doctors = serde_json::json!({"profile": "staff", "attributes": ["role=doctor"]});
    put(&server, "/v1/groups/doctors", doctors).await;
    let request = serde_json::json!({
        "name": "eve", "group": "doctors", "attributes": ["floor=2"], "count": 2, "approval": true
    });
    let made: NewToken = admin.post("/v1/tokens", &request).await.json();
    let keys = DeviceKeys::generate().request(&Token::parse(&made.token).unwrap());
    assert_eq!(server.anonymous().post("/v1/enrol", &keys).await.status, StatusCode::ACCEPTED);

    let waiting: serde_json::Value = admin.get("/v1/enrolments").await.json();
    assert_eq!(waiting[0]["attributes"], serde_json::json!(["floor=2", "role=doctor", "staff"]));
    assert_eq!(waiting[0]["policy"], "ward=3");
    let own = serde_json::json!({"name": "otto", "group": "doctors", "profile": "chief"});
    let own: NewToken = admin.post("/v1/tokens", &own).await.json();
    let listed: Vec<serde_json::Value> = admin.get("/v1/tokens").await.json();
    let shown: serde_json::Value = admin.get(&format!("/v1/tokens/{}", made.id)).await.json();
    assert!(listed.contains(&serde_json::json!({
        "id": made.id, "name": "eve", "role": "device", "attributes": ["floor=2"], "group": "doctors",
        "status": "open", "count": 2, "used": 1, "approval": true, "made": START, "expires": made.expires
    })));
    assert_eq!((&shown["group"], &shown["profile"]), (&"doctors".into(), &serde_json::Value::Null));
    let other = listed.iter().find(|token| token["id"] == own.id.as_str()).unwrap();
    assert_eq!((&other["group"], &other["profile"]), (&"doctors".into(), &"chief".into()));

    let approved: Listed = admin.post("/v1/enrolments/eve-1/approve", &()).await.json();
    let otto = DeviceKeys::generate().request(&Token::parse(&own.token).unwrap());
    let otto: smqtt_core::api::Enrolment = server.anonymous().post("/v1/enrol", &otto).await.json();
    let audit: Vec<AuditRecord> = admin.get("/v1/audit").await.json();
    let subjects = |action: &str| {
        let rows = audit.iter().filter(|row| row.action == action);
        rows.map(|row| row.subject.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        subjects("make-token"),
        [
            format!("eve (device) floor=2 for 2 to be approved group doctors token {}", made.id),
            format!("otto (device) profile chief group doctors token {}", own.id),
        ]
    );
    assert_eq!(
        subjects("enrol"),
        [
            format!("eve-1 {} (device) group doctors", approved.id),
            format!("otto {} (device) profile chief group doctors", otto.id),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_for_more_than_anybody_can_have_hides_nobody() {
    let server = Running::start().await;
    let admin = server.admin();
    put(&server, "/v1/groups/g", serde_json::json!({})).await;
    let request = serde_json::json!({"name": "a", "group": "g", "attributes": ["own"], "approval": true});
    let made: NewToken = admin.post("/v1/tokens", &request).await.json();
    let keys = DeviceKeys::generate().request(&Token::parse(&made.token).unwrap());
    server.anonymous().post("/v1/enrol", &keys).await;
    let many: Vec<String> = (0..64).map(|n| format!("n{n}")).collect();
    put(&server, "/v1/groups/g", serde_json::json!({ "attributes": many })).await;
    let waiting: serde_json::Value = admin.get("/v1/enrolments").await.json();
    assert_eq!(waiting[0]["attributes"].as_array().unwrap().len(), 65);
    admin.post("/v1/enrolments/a/approve", &()).await.problem(400, "attributes");
    assert_eq!(admin.post("/v1/enrolments/a/deny", &()).await.status, StatusCode::OK);
}
