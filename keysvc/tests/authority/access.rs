//! Access tokens: for what they say, as long as they say, and never for more.

use hyper::StatusCode;
use smqtt_core::api::{Access, AuditRecord, NewAccess, NewToken};
use smqtt_core::identity::Role;
use smqtt_core::token::Token;
use smqtt_keysvc::{Operation, Who};

use crate::common::*;
use crate::roles::{ask, granted};

async fn token(server: &Running, role: Role, operations: &[&str]) -> NewAccess {
    let request = serde_json::json!({
        "name": "ci", "role": role.name(), "operations": operations, "ttl_seconds": 3600
    });
    let answer = server.admin().post("/v1/access", &request).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    answer.json()
}

async fn bearer(server: &Running, role: Role, operations: &[&str]) -> Client {
    server.anonymous().with_access(&token(server, role, operations).await.access_token)
}

const BY_TOKEN: [Role; 3] = [Role::Admin, Role::Enroller, Role::Auditor];

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_what_its_role_may_and_no_certificate_is_asked_for() {
    let server = Running::start().await;
    for role in BY_TOKEN {
        let client = bearer(&server, role, &[]).await;
        for operation in Operation::ALL.iter().copied() {
            let answer = ask(&client, operation).await;
            match operation.who() {
                Who::Anyone => assert_eq!(answer.status, StatusCode::OK),
                // Two credentials at once are none.
                Who::Token if operation == Operation::EstEnrol => drop(answer.problem(401, "token-required")),
                Who::Token => drop(answer.problem(401, "token-unknown")),
                Who::Holders(_) => drop(answer.problem(401, "certificate-required")),
                Who::Roles(roles) if roles.contains(&role) => {
                    assert!(granted(&answer), "{operation:?} as {role:?}: {}", answer.text());
                }
                Who::Roles(_) => drop(answer.problem(403, "role")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_operation_is_for_no_other() {
    let server = Running::start().await;
    for scope in Operation::ALL.iter().copied() {
        let Who::Roles(roles) = scope.who() else { continue };
        let role = *roles.iter().find(|role| BY_TOKEN.contains(role)).unwrap();
        let client = bearer(&server, role, &[scope.name()]).await;
        assert!(granted(&ask(&client, scope).await), "{scope:?}");
        for operation in Operation::ALL.iter().copied().filter(|operation| *operation != scope) {
            if let Who::Roles(may) = operation.who() {
                let code = if may.contains(&role) { "scope" } else { "role" };
                ask(&client, operation).await.problem(403, code);
            }
        }
    }
}

/// The attack: a token for profiles and no rules changes under which policy a topic is sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_profiles_sets_and_removes_no_rules_with_them() {
    let server = Running::start().await;
    let ruled = serde_json::json!({"rules": [{"filter": "a/#", "mode": "open"}]});
    let profiles = ["set-profile", "remove-profile"];
    let client = bearer(&server, Role::Admin, &profiles).await;
    client.put("/v1/profiles/p", &ruled).await.problem(403, "scope");
    server.admin().get("/v1/profiles/p").await.problem(404, "no-such-profile");
    assert_eq!(server.admin().put("/v1/profiles/p", &ruled).await.status, StatusCode::OK);
    client.delete("/v1/profiles/p?rules=true").await.problem(403, "scope");
    assert_eq!(server.newest_bundle().await.rules.len(), 1);
    // A profile without its rules it sets and removes.
    assert_eq!(client.put("/v1/profiles/p", &serde_json::json!({})).await.status, StatusCode::OK);
    assert_eq!(client.delete("/v1/profiles/p").await.status, StatusCode::OK);
    assert_eq!(server.newest_bundle().await.rules.len(), 1);
    // And with them, where it is for rules, too.
    let whole = [&profiles[..], &["set-rule", "remove-rule"]].concat();
    let client = bearer(&server, Role::Admin, &whole).await;
    assert_eq!(client.put("/v1/profiles/p", &ruled).await.status, StatusCode::OK);
    assert_eq!(client.delete("/v1/profiles/p?rules=true").await.status, StatusCode::OK);
    assert!(server.newest_bundle().await.rules.is_empty());
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    for action in ["refused set-rule: scope", "refused remove-rule: scope"] {
        assert_eq!(rows.iter().filter(|row| row.action == action).count(), 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_time_or_at_a_word_and_nothing_else_is_one() {
    let server = Running::start().await;
    let (a, b) = (token(&server, Role::Auditor, &[]).await, token(&server, Role::Auditor, &[]).await);
    let with = |token: &str| server.anonymous().with_access(token);
    let listed: Vec<Access> = with(&a.access_token).get("/v1/access").await.json();
    assert_eq!(listed.len(), 2);
    // The other's secret, half a secret, an enrolment token, another way to write it.
    let (id, secret) = (a.access_token.rsplit_once('.').unwrap(), b.access_token.rsplit_once('.').unwrap().1);
    let mixed = format!("{}.{secret}", id.0);
    let upper = format!("{}.{}", id.0, id.1.to_uppercase());
    for bad in ["", "x", &a.access_token[1..], &a.access_token[..100], &mixed, &upper] {
        with(bad).get("/v1/access").await.problem(401, "access-unknown");
    }
    // What it presents counts, though the certificate would have done: nobody is more than they say.
    server.admin().with_access(&mixed).get("/v1/audit").await.problem(401, "access-unknown");
    server.admin().with_access(&a.access_token).post("/v1/epoch/rotate", &()).await.problem(403, "role");
    server.admin().delete("/v1/access/nobody").await.problem(404, "no-such-access");
    let removed: Access = server.admin().delete(&format!("/v1/access/{}", a.id)).await.json();
    assert_eq!(removed.id, a.id);
    with(&a.access_token).get("/v1/audit").await.problem(401, "access-unknown");
    server.clock.advance(3599);
    assert_eq!(with(&b.access_token).get("/v1/audit").await.status, StatusCode::OK);
    server.clock.advance(1);
    with(&b.access_token).get("/v1/audit").await.problem(401, "access-expired");
    assert!(server.admin().get("/v1/access").await.json::<Vec<Access>>().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_cannot_be_meant_are_refused_and_no_token_makes_another() {
    let server = Running::start().await;
    let make = async |role: &str, operations: &[&str], ttl: u64| {
        let request =
            serde_json::json!({ "name": "ci", "role": role, "operations": operations, "ttl_seconds": ttl });
        server.admin().post("/v1/access", &request).await
    };
    for role in ["device", "broker", "bridge", "authority", "root"] {
        make(role, &[], 60).await.problem(400, "role-name");
    }
    make("auditor", &["revoke"], 60).await.problem(400, "operations");
    make("admin", &["make-access"], 60).await.problem(400, "operations");
    make("admin", &["renew"], 60).await.problem(400, "operations");
    make("admin", &["revoke", "revoke"], 60).await.problem(400, "operations");
    make("admin", &[], 0).await.problem(400, "ttl");
    make("admin", &[], 367 * DAY).await.problem(400, "ttl");
    let request = serde_json::json!({ "name": "ci", "role": "admin", "ttl_seconds": 60 });
    let admin = bearer(&server, Role::Admin, &[]).await;
    admin.post("/v1/access", &request).await.problem(401, "certificate-required");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_which_token_and_never_its_secret() {
    let server = Running::start().await;
    let made = token(&server, Role::Admin, &[]).await;
    let client = server.anonymous().with_access(&made.access_token);
    client.post("/v1/epoch/rotate", &()).await;
    client.get("/v1/keys").await.problem(401, "certificate-required");
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let by: Vec<_> = rows.iter().filter(|row| row.actor.contains(&made.id)).collect();
    let actions: Vec<_> = by.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["begin-epoch", "refused fetch-keys: certificate-required"]);
    assert_eq!(by[0].actor, format!("ci access {}", made.id));
    // On disk there is its hash.
    let secret = made.access_token.rsplit_once('.').unwrap().1.to_owned();
    let (dir, ..) = server.stop().await;
    let bytes: Vec<u8> =
        (0..32).map(|n| u8::from_str_radix(&secret[2 * n..2 * n + 2], 16).unwrap()).collect();
    for entry in std::fs::read_dir(dir.path().join("data/authority")).unwrap() {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!content.windows(32).any(|window| window == bytes));
        assert!(!content.windows(64).any(|window| window == secret.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_nobody_who_goes_on_when_it_has_ended() {
    let server = Running::start().await;
    let enrolled = server.enrol_as("anna", "enroller").await;
    let client = bearer(&server, Role::Admin, &[]).await;
    for role in ["enroller", "auditor"] {
        let request = serde_json::json!({ "name": "eve", "role": role });
        client.post("/v1/tokens", &request).await.problem(401, "certificate-required");
        // Nor by saying yes to one that an administrator made, nor by ending one and taking its place.
        let asked = serde_json::json!({ "name": format!("{role}-2"), "role": role, "approval": true });
        let token: smqtt_core::api::NewToken = server.admin().post("/v1/tokens", &asked).await.json();
        let token = smqtt_core::token::Token::parse(&token.token).unwrap();
        server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&token)).await;
        let path = format!("/v1/enrolments/{role}-2/approve");
        client.post(&path, &()).await.problem(401, "certificate-required");
    }
    client.post("/v1/devices/anna/reset", &serde_json::json!({})).await.problem(401, "certificate-required");
    assert_eq!(server.client(&enrolled).get("/v1/devices").await.status, StatusCode::OK);
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    for action in ["make-token", "approve", "reset"] {
        let refused = format!("refused {action}: certificate-required");
        assert!(
            rows.iter().any(|row| row.action == refused && row.actor.starts_with("ci access ")),
            "{action}"
        );
    }
    for role in ["device", "broker", "bridge"] {
        let request = serde_json::json!({ "name": role, "role": role });
        assert_eq!(client.post("/v1/tokens", &request).await.status, StatusCode::CREATED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_administrators_tokens_end_with_it() {
    let server = Running::start().await;
    let stolen = token(&server, Role::Admin, &[]).await;
    let with = |server: &Running| server.anonymous().with_access(&stolen.access_token);
    assert_eq!(with(&server).get("/v1/audit").await.status, StatusCode::OK);
    let for_later = serde_json::json!({ "name": "later", "role": "device" });
    let for_later: NewToken = with(&server).post("/v1/tokens", &for_later).await.json();
    let other = server.token("another", &[]).await;
    let (dir, clock, config) = server.stop().await;
    std::fs::remove_dir_all(dir.path().join("data/admin")).unwrap();
    let server = Running::again(dir, clock, config).await;
    with(&server).get("/v1/audit").await.problem(401, "access-unknown");
    for token in [Token::parse(&for_later.token).unwrap(), other] {
        let answer = server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&token)).await;
        answer.problem(410, "token-removed");
    }
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let ended = "1 access tokens and 2 tokens with it";
    assert!(rows.iter().any(|row| row.action == "revoke" && row.subject.ends_with(ended)));
}
