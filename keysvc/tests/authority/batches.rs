//! Tokens for a batch: count, serials, approval by a person, taking them back.

use std::collections::BTreeSet;

use hyper::StatusCode;
use smqtt_core::api::{
    Applicant, AuditRecord, Device as Listed, EnrolRequest, Enrolment, NewToken, TokenInfo, Waiting,
};
use smqtt_core::token::Token;

use crate::common::*;

async fn make(server: &Running, request: serde_json::Value) -> Token {
    let answer = server.admin().post("/v1/tokens", &request).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    Token::parse(&answer.json::<NewToken>().token).unwrap()
}

fn with_serial(keys: &DeviceKeys, token: &Token, serial: &str) -> EnrolRequest {
    EnrolRequest { serial: Some(serial.into()), ..keys.request(token) }
}

async fn enrol(server: &Running, request: &EnrolRequest) -> Answer {
    server.anonymous().post("/v1/enrol", request).await
}

async fn is_named(server: &Running, request: &EnrolRequest, name: &str) {
    let answer = enrol(server, request).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json::<Enrolment>().name, name);
}

async fn alarms(server: &Running) -> usize {
    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    audit.iter().filter(|row| row.action == "refused enrol: token-used").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_five_makes_exactly_five_devices_however_many_come_at_once() {
    let server = Running::start().await;
    let token =
        make(&server, serde_json::json!({"name": "s", "attributes": ["kind=sensor"], "count": 5})).await;
    let requests: Vec<_> = (0..16).map(|_| DeviceKeys::generate().request(&token)).collect();
    let tasks: Vec<_> = requests
        .iter()
        .map(|request| {
            let (client, request) = (server.anonymous(), request.clone());
            tokio::spawn(async move { client.post("/v1/enrol", &request).await })
        })
        .collect();
    let mut first = Vec::new();
    for task in tasks {
        first.push(task.await.unwrap());
    }
    let names: BTreeSet<String> = first
        .iter()
        .filter(|answer| answer.status == StatusCode::OK)
        .map(|answer| answer.json::<Enrolment>().name)
        .collect();
    assert_eq!(names, ["s-1", "s-2", "s-3", "s-4", "s-5"].map(str::to_owned).into());
    for (request, before) in requests.iter().zip(&first) {
        let again = enrol(&server, request).await;
        match before.status {
            // The same keys, the same device: a lost answer takes nobody's place.
            StatusCode::OK => {
                let (again, before): (Enrolment, Enrolment) = (again.json(), before.json());
                assert_eq!((again.id, again.certificate), (before.id, before.certificate));
            }
            _ => drop(again.problem(409, "token-used")),
        }
    }
    assert_eq!(
        alarms(&server).await,
        20,
        "whoever comes too late is an alarm, as often as is written of one token"
    );
    let listed: Vec<TokenInfo> = server.admin().get("/v1/tokens").await.json();
    assert_eq!((listed[0].count, listed[0].used, listed[0].status.as_str()), (5, 5, "used"));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_go_round_names_that_others_have() {
    let server = Running::start().await;
    server.enrol("s-1", &[]).await;
    let token = make(&server, serde_json::json!({"name": "s", "count": 2})).await;
    is_named(&server, &DeviceKeys::generate().request(&token), "s-2").await;
    is_named(&server, &DeviceKeys::generate().request(&token), "s-3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_serial_works_once_and_no_other() {
    let server = Running::start().await;
    let token =
        make(&server, serde_json::json!({"name": "lock", "serials": ["A1", "A2", "A3"], "count": 2})).await;
    let (one, other) = (DeviceKeys::generate(), DeviceKeys::generate());
    enrol(&server, &one.request(&token)).await.problem(400, "serial");
    enrol(&server, &with_serial(&one, &token, "B1")).await.problem(403, "serial-unknown");
    is_named(&server, &with_serial(&one, &token, "A1"), "lock-A1").await;
    is_named(&server, &with_serial(&one, &token, "A1"), "lock-A1").await;
    // Somebody who read the serial off the box of another.
    enrol(&server, &with_serial(&other, &token, "A1")).await.problem(409, "token-used");
    assert_eq!(alarms(&server).await, 1);
    is_named(&server, &with_serial(&other, &token, "A3"), "lock-A3").await;
    // Two of three: the third serial is one too many.
    let third = DeviceKeys::generate();
    enrol(&server, &with_serial(&third, &token, "A2")).await.problem(409, "token-used");
    let device: Listed = server.admin().get("/v1/devices/lock-A3").await.json();
    assert_eq!(device.serial.as_deref(), Some("A3"));
    // A token for one device names it, and wants its serial all the same.
    let token = make(&server, serde_json::json!({"name": "gate", "serials": ["G7"]})).await;
    enrol(&server, &third.request(&token)).await.problem(400, "serial");
    is_named(&server, &with_serial(&third, &token, "G7"), "gate").await;
    let plain = server.token("plain", &[]).await;
    let fourth = DeviceKeys::generate();
    enrol(&server, &with_serial(&fourth, &plain, "G7")).await.problem(400, "serial");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_make_no_sense_are_refused() {
    let server = Running::start().await;
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    for (request, code) in [
        (serde_json::json!({"name": "a", "count": 0}), "count"),
        (serde_json::json!({"name": "a", "count": 10_001}), "count"),
        (serde_json::json!({"name": "a", "count": 3, "serials": ["1", "2"]}), "count"),
        (serde_json::json!({"name": "a", "serials": ["1", "1"]}), "serials"),
        (serde_json::json!({"name": "a", "serials": ["../1"]}), "serials"),
        (serde_json::json!({"name": "a", "serials": [""]}), "serials"),
        (serde_json::json!({"name": "a", "serials": many}), "serials"),
        (serde_json::json!({"name": "a".repeat(60), "count": 2}), "name"),
        (serde_json::json!({"name": "a".repeat(60), "serials": ["12345", "2"]}), "name"),
    ] {
        server.admin().post("/v1/tokens", &request).await.problem(400, code);
    }
}

/// The attack: a device whose name is the identifier of another, so that whoever names one means the other.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_a_name_that_passes_for_an_identifier() {
    let server = Running::start().await;
    let (admin, device) = (server.admin(), server.enrol("a", &[]).await);
    let id = device.id().to_string();
    for request in [
        serde_json::json!({"name": id}),
        serde_json::json!({"name": id.to_uppercase()}),
        serde_json::json!({"name": id, "serials": ["1"]}),
        serde_json::json!({"name": id, "role": "broker"}),
    ] {
        let problem = admin.post("/v1/tokens", &request).await.problem(400, "name");
        assert!(problem.detail.as_ref().unwrap().contains("identifier"), "{problem:?}");
    }
    for name in [&id[1..], &format!("{id}0"), &format!("x{}", &id[1..])] {
        make(&server, serde_json::json!({"name": name})).await;
    }
    // Digits and a serial or a number are no identifier.
    let batch = make(&server, serde_json::json!({"name": &id[..30], "count": 2})).await;
    is_named(&server, &DeviceKeys::generate().request(&batch), &format!("{}-1", &id[..30])).await;
    // Nor has anybody who comes with a token that was made before such names were refused.
    let old = server.token("old", &[]).await;
    let (dir, clock, config) = server.stop().await;
    let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
    store.execute("UPDATE tokens SET name = ? WHERE name = 'old'", [&id]).unwrap();
    drop(store);
    let server = Running::again(dir, clock, config).await;
    enrol(&server, &DeviceKeys::generate().request(&old)).await.problem(400, "name");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_nothing_before_a_person_approves_and_all_of_it_after() {
    let server = Running::start().await;
    let admin = server.admin();
    let token = make(
        &server,
        serde_json::json!({"name": "cam", "attributes": ["kind=cam"], "approval": true, "count": 2}),
    )
    .await;
    let keys = DeviceKeys::generate();
    let request = keys.request(&token);
    let answer = enrol(&server, &request).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (202, "1"));
    let waiting: Waiting = answer.json();
    assert_eq!((waiting.name.as_str(), waiting.key.len()), ("cam-1", 16));
    assert!(!answer.text().contains("certificate"));
    admin.get("/v1/devices/cam-1").await.problem(404, "no-such-device");

    // Whoever waits for long asks less often; asking takes no second place.
    server.clock.advance(300);
    let again: Waiting = enrol(&server, &request).await.json();
    assert_eq!((again.retry_after_seconds, &again.key), (30, &waiting.key));
    let list: Vec<Applicant> = admin.get("/v1/enrolments").await.json();
    assert_eq!((list.len(), list[0].name.as_str(), &list[0].key), (1, "cam-1", &waiting.key));
    assert_eq!((list[0].address.as_str(), list[0].asked), ("127.0.0.1", START));

    // The keys asked with are the keys approved: nobody slips in with the signing request of another.
    let mut sly = DeviceKeys::generate().request(&token);
    sly.csr = request.csr.clone();
    enrol(&server, &sly).await.problem(409, "token-used");

    let device: Listed = admin.post("/v1/enrolments/cam-1/approve", &()).await.json();
    assert_eq!((device.name.as_str(), device.enrolled), ("cam-1", START + 300));
    let same: Listed = admin.post("/v1/enrolments/cam-1/approve", &()).await.json();
    assert_eq!(same, device);
    admin.post("/v1/enrolments/cam-1/deny", &()).await.problem(409, "answered");
    let answer = enrol(&server, &request).await;
    assert_eq!(answer.status, StatusCode::OK);
    let enrolled = Device::new(keys, answer.json());
    assert_eq!((enrolled.enrolment.id.as_str(), enrolled.enrolment.keys.len()), (device.id.as_str(), 1));
    assert_eq!(server.client(&enrolled).get("/v1/keys").await.status, StatusCode::OK);
    let actions = admin.get("/v1/audit").await.text();
    assert!(actions.contains("ask-to-enrol") && actions.contains("\"approve\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_stays_out_and_takes_nobodys_place() {
    let server = Running::start().await;
    let admin = server.admin();
    let request = serde_json::json!({"name": "cam", "approval": true, "serials": ["7"]});
    let token = make(&server, request).await;
    let (stranger, owner) = (DeviceKeys::generate(), DeviceKeys::generate());
    assert_eq!(enrol(&server, &with_serial(&stranger, &token, "7")).await.status, StatusCode::ACCEPTED);
    // The one use is spoken for until somebody decides.
    enrol(&server, &with_serial(&owner, &token, "7")).await.problem(409, "token-used");
    let denied: Applicant = admin.post("/v1/enrolments/cam/deny", &()).await.json();
    assert_eq!(admin.post("/v1/enrolments/cam/deny", &()).await.json::<Applicant>(), denied);
    admin.post("/v1/enrolments/cam/approve", &()).await.problem(409, "answered");
    enrol(&server, &with_serial(&stranger, &token, "7")).await.problem(403, "denied");
    assert_eq!(enrol(&server, &with_serial(&owner, &token, "7")).await.status, StatusCode::ACCEPTED);
    admin.post("/v1/enrolments/cam/approve", &()).await;
    is_named(&server, &with_serial(&owner, &token, "7"), "cam").await;
    enrol(&server, &with_serial(&stranger, &token, "7")).await.problem(403, "denied");
    admin.post("/v1/enrolments/nobody/approve", &()).await.problem(404, "no-such-enrolment");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_approved_on_a_token_that_is_over() {
    let server = Running::start().await;
    let admin = server.admin();
    let token = make(&server, serde_json::json!({"name": "a", "approval": true, "ttl_seconds": 60})).await;
    let late = DeviceKeys::generate().request(&token);
    assert_eq!(enrol(&server, &late).await.status, StatusCode::ACCEPTED);
    server.clock.advance(60);
    enrol(&server, &late).await.problem(410, "token-expired");
    admin.post("/v1/enrolments/a/approve", &()).await.problem(410, "token-expired");
    assert!(admin.get("/v1/enrolments").await.json::<Vec<Applicant>>().is_empty());

    let token = make(&server, serde_json::json!({"name": "b", "approval": true})).await;
    let request = DeviceKeys::generate().request(&token);
    assert_eq!(enrol(&server, &request).await.status, StatusCode::ACCEPTED);
    admin.delete(&format!("/v1/tokens/{}", hex(&token.id))).await;
    enrol(&server, &request).await.problem(410, "token-removed");
    admin.post("/v1/enrolments/b/approve", &()).await.problem(410, "token-removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_taken_back_lets_nobody_in_and_throws_nobody_out() {
    let server = Running::start().await;
    let admin = server.admin();
    let token = make(&server, serde_json::json!({"name": "s", "count": 3})).await;
    let first = DeviceKeys::generate();
    let request = first.request(&token);
    let device = Device::new(first, enrol(&server, &request).await.json());
    let path = format!("/v1/tokens/{}", hex(&token.id));
    let gone = admin.delete(&path).await;
    assert_eq!((gone.status, gone.json::<TokenInfo>().status.as_str()), (StatusCode::OK, "removed"));
    server.clock.advance(1);
    assert_eq!(admin.delete(&path).await.body, gone.body);
    enrol(&server, &DeviceKeys::generate().request(&token)).await.problem(410, "token-removed");
    // The one that enrolled goes on, also if its answer was lost.
    is_named(&server, &request, "s-1").await;
    assert_eq!(server.client(&device).get("/v1/keys").await.status, StatusCode::OK);
    let shown: TokenInfo = admin.get(&path).await.json();
    assert_eq!((shown.uses[0].name.as_str(), shown.uses[0].status.as_str()), ("s-1", "enrolled"));
    admin.delete("/v1/tokens/00").await.problem(404, "no-such-token");
    let text = admin.get("/v1/tokens").await.text();
    assert!(!text.contains(&hex(&token.secret)), "lists tell no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_take_the_place_of_unused_ones_for_its_name() {
    let server = Running::start().await;
    let old = server.token("a", &["x"]).await;
    let new = make(&server, serde_json::json!({"name": "a", "replace": true})).await;
    enrol(&server, &DeviceKeys::generate().request(&old)).await.problem(410, "token-removed");
    is_named(&server, &DeviceKeys::generate().request(&new), "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enroller_takes_no_brokers_token_back_by_making_one_of_its_name() {
    let server = Running::start().await;
    let enroller = server.client(&server.enrol_as("anna", "enroller").await);
    let broker = make(&server, serde_json::json!({"name": "b", "role": "broker"})).await;
    let device = make(&server, serde_json::json!({"name": "b"})).await;
    let answer = enroller.post("/v1/tokens", &serde_json::json!({"name": "b", "replace": true})).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    enrol(&server, &DeviceKeys::generate().request(&device)).await.problem(410, "token-removed");
    is_named(&server, &DeviceKeys::generate().request(&broker), "b").await;
    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert!(audit.iter().any(|row| row.subject.contains(" in place of 1")), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enroller_approves_devices_alone() {
    let server = Running::start().await;
    let enroller = server.client(&server.enrol_as("anna", "enroller").await);
    let person =
        make(&server, serde_json::json!({"name": "eve", "role": "enroller", "approval": true})).await;
    let device = make(&server, serde_json::json!({"name": "cam", "approval": true})).await;
    for token in [&person, &device] {
        enrol(&server, &DeviceKeys::generate().request(token)).await;
    }
    enroller.post("/v1/enrolments/eve/approve", &()).await.problem(403, "role");
    enroller.post("/v1/enrolments/eve/deny", &()).await.problem(403, "role");
    enroller.delete(&format!("/v1/tokens/{}", hex(&person.id))).await.problem(403, "role");
    assert_eq!(enroller.post("/v1/enrolments/cam/approve", &()).await.status, StatusCode::OK);
    // What was tried is on record.
    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let tried = |action: &str, subject: &str| {
        let fits = |row: &&AuditRecord| row.action == action && row.subject == subject;
        audit.iter().filter(fits).filter(|row| row.actor.starts_with("anna ")).count()
    };
    assert_eq!(tried("refused approve: role", "eve"), 1);
    assert_eq!(tried("refused deny: role", "eve"), 1);
    assert_eq!(tried("refused remove-token: role", &format!("token {}", hex(&person.id))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_keeps_no_name_from_others() {
    let server = Running::start().await;
    let admin = server.admin();
    let approval =
        |name: &str, ttl: u64| serde_json::json!({"name": name, "approval": true, "ttl_seconds": ttl});
    let (over, removed) = (make(&server, approval("a", 60)).await, make(&server, approval("b", 600)).await);
    for token in [&over, &removed] {
        let answer = enrol(&server, &DeviceKeys::generate().request(token)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    server.clock.advance(60);
    admin.delete(&format!("/v1/tokens/{}", hex(&removed.id))).await;
    for name in ["a", "b"] {
        let token = make(&server, serde_json::json!({"name": name})).await;
        is_named(&server, &DeviceKeys::generate().request(&token), name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_compared_is_the_key_that_is_approved() {
    let server = Running::start().await;
    let admin = server.admin();
    let token = make(&server, serde_json::json!({"name": "cam", "approval": true})).await;
    let (owner, thief) = (DeviceKeys::generate(), DeviceKeys::generate());
    let shown: Waiting = enrol(&server, &owner.request(&token)).await.json();
    // Between the look and the word somebody else denies the owner, and a thief of the token takes the place.
    admin.post("/v1/enrolments/cam/deny", &()).await;
    let other: Waiting = enrol(&server, &thief.request(&token)).await.json();
    let compared = |key: &str, verb: &str| format!("/v1/enrolments/cam/{verb}?key={key}");
    admin.post(&compared(&shown.key, "approve"), &()).await.problem(409, "other-key");
    admin.get("/v1/devices/cam").await.problem(404, "no-such-device");
    admin.post(&compared(&shown.key, "deny"), &()).await.problem(409, "other-key");
    assert_eq!(admin.post(&compared(&other.key, "deny"), &()).await.status, StatusCode::OK);
    admin.post("/v1/enrolments/cam/approve?keys=1", &()).await.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_group_gets_it_though_another_is_removed_meanwhile() {
    let server = Running::start().await;
    let admin = server.admin();
    admin.put("/v1/groups/ward-3", &serde_json::json!({"attributes": ["ward=3"]})).await;
    admin.put("/v1/groups/other", &serde_json::json!({"attributes": ["x"]})).await;
    let token = make(&server, serde_json::json!({"name": "cam", "group": "ward-3", "approval": true})).await;
    let request = DeviceKeys::generate().request(&token);
    assert_eq!(enrol(&server, &request).await.status, StatusCode::ACCEPTED);
    assert_eq!(admin.delete("/v1/groups/other").await.status, StatusCode::OK);
    admin.delete("/v1/groups/ward-3").await.problem(409, "in-use");
    let device: Listed = admin.post("/v1/enrolments/cam/approve", &()).await.json();
    assert_eq!(device.attributes, ["ward=3"]);
}
