//! Requests that are made again under the same key.

use bytes::Bytes;
use hyper::Request;
use serde_json::{Value, json};
use smqtt_core::api::{NewAccess, NewToken, Reset, Rotation, TokenInfo};
use smqtt_core::token::Token;

use crate::common::*;

async fn post(client: &Client, path: &str, body: &Value, key: &str) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    client.send(request.header("idempotency-key", key), body.to_string().into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_under_its_key_is_done_once_and_answered_the_same() {
    let server = Running::start().await;
    let device = server.enrol("worn", &["x"]).await;
    let admin = server.admin();
    let token = json!({ "name": "new", "attributes": ["a=b"] });
    let access = json!({ "name": "ci", "role": "auditor", "ttl_seconds": 60 });
    let asked = [
        ("/v1/tokens", token.clone(), "\"one\""),
        ("/v1/access", access, "two"),
        ("/v1/devices/worn/reset", json!({}), "three"),
        ("/v1/epoch/rotate", json!({}), "four"),
        ("/v1/rotate/root-key", json!({}), "five"),
        ("/v1/rotate/master", json!({ "suite": "fabeo-cp", "step": "prepare" }), "six"),
        ("/v1/rotate/certificate", json!({ "step": "prepare" }), "seven"),
    ];
    let log = |text: String| text.matches("\"number\"").count();
    let mut first = Vec::new();
    for (path, body, key) in &asked {
        let answer = post(&admin, path, body, key).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        first.push((answer.status, answer.text()));
    }
    let rows = log(admin.get("/v1/audit").await.text());
    // After a restart as well: the answer is in the store.
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    let admin = server.admin();
    for ((path, body, key), first) in asked.iter().zip(&first) {
        let answer = post(&admin, path, body, key).await;
        assert_eq!((answer.status, answer.text()), *first, "{path}");
    }
    assert_eq!(log(admin.get("/v1/audit").await.text()), rows, "nothing was done");
    // The tokens that were told again are the ones that there are.
    let told: Vec<Value> = first.iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect();
    let told: (NewToken, NewAccess, Reset, Rotation) = (
        serde_json::from_value(told[0].clone()).unwrap(),
        serde_json::from_value(told[1].clone()).unwrap(),
        serde_json::from_value(told[2].clone()).unwrap(),
        serde_json::from_value(told[3].clone()).unwrap(),
    );
    assert_eq!((told.2.id.clone(), told.3.epoch), (device.id().to_string(), 2));
    for token in [told.0.token, told.2.token] {
        let request = DeviceKeys::generate().request(&Token::parse(&token).unwrap());
        assert!(server.anonymous().post("/v1/enrol", &request).await.status.is_success());
    }
    let reader = server.anonymous().with_access(&told.1.access_token);
    assert!(reader.get("/v1/audit").await.status.is_success());
    // A day later the key is anybody's, and nothing of the answer is left.
    server.clock.advance(DAY);
    let again = post(&admin, "/v1/tokens", &token, "one").await;
    assert!(again.status.is_success() || again.problem(409, "name-taken").status == 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_of_one_caller_and_of_one_request() {
    let server = Running::start().await;
    let admin = server.admin();
    let enroller = server.client(&server.enrol_as("anna", "enroller").await);
    let token = |name: &str| json!({ "name": name });
    let made: NewToken = post(&admin, "/v1/tokens", &token("a"), "k").await.json();
    let problem = post(&admin, "/v1/tokens", &token("b"), "k").await;
    problem.problem(422, "idempotency-key-reused");
    let access = json!({ "name": "a", "role": "auditor", "ttl_seconds": 60 });
    post(&admin, "/v1/access", &access, "k").await.problem(422, "idempotency-key-reused");
    // Whoever learns somebody's key learns no answer by it.
    let other: NewToken = post(&enroller, "/v1/tokens", &token("a"), "k").await.json();
    assert_ne!((&made.id, &made.token), (&other.id, &other.token));
    server.anonymous();
    post(&server.anonymous(), "/v1/tokens", &token("a"), "k").await.problem(401, "certificate-required");
    // What failed was not done, and may be tried again.
    server.enrol("taken", &[]).await;
    post(&admin, "/v1/tokens", &token("taken"), "f").await.problem(409, "name-taken");
    admin.post("/v1/devices/taken/revoke", &()).await;
    assert!(post(&admin, "/v1/tokens", &token("taken"), "f").await.status.is_success());
    for bad in ["", "\"\"", "a b", "\"a", "é", &"x".repeat(65)] {
        post(&admin, "/v1/tokens", &token("c"), bad).await.problem(400, "idempotency-key");
    }
    let twice = Request::post("/v1/tokens").header("content-type", "application/json");
    let twice = twice.header("idempotency-key", "x").header("idempotency-key", "x");
    admin.send(twice, Bytes::from_static(b"{\"name\": \"c\"}")).await.problem(400, "idempotency-key");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_at_once_under_one_key_one_is_done() {
    let server = Running::start().await;
    let admin = server.admin();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let admin = admin.clone();
        asked.spawn(async move { post(&admin, "/v1/tokens", &json!({ "name": "one" }), "k").await.text() });
    }
    let answers = asked.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let tokens: Vec<TokenInfo> = admin.get("/v1/tokens").await.json();
    assert_eq!(tokens.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_sealed_bounded_and_forgotten() {
    let server = Running::start().await;
    let admin = server.admin();
    let made: NewToken = post(&admin, "/v1/tokens", &json!({ "name": "one" }), "k").await.json();
    let secret = Token::parse(&made.token).unwrap().secret;
    let (dir, clock, config) = server.stop().await;
    let path = dir.path().join("data/authority/authority.db");
    let bytes = std::fs::read(&path).unwrap();
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(!holds(made.token.as_bytes()) && !holds(hex(&secret).as_bytes()) && !holds(&secret));
    // Another answer put in its place does not open.
    let store = rusqlite::Connection::open(&path).unwrap();
    let sql = "INSERT INTO answers (caller, key, request, at, answer) \
               SELECT caller, 'other', request, at, answer FROM answers WHERE key = 'k'";
    assert_eq!(store.execute(sql, []).unwrap(), 1);
    // A caller with more answers than are kept.
    let sql = "INSERT INTO answers (caller, key, request, at, answer) \
               WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
               SELECT caller, 'k' || i, request, at, answer FROM answers, n WHERE key = 'k'";
    assert_eq!(store.execute(sql, []).unwrap(), 1500);
    drop(store);
    let server = Running::again(dir, clock, config).await;
    let admin = server.admin();
    post(&admin, "/v1/tokens", &json!({ "name": "one" }), "other").await.problem(503, "store");
    assert!(post(&admin, "/v1/tokens", &json!({ "name": "two" }), "new").await.status.is_success());
    let count = |path: &std::path::Path| {
        let store = rusqlite::Connection::open(path).unwrap();
        store.query_row("SELECT count(*) FROM answers", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let path = server.path("authority/authority.db");
    assert_eq!(count(&path), 1000);
    server.clock.advance(DAY + 1);
    server.authority.housekeep().await.unwrap();
    assert_eq!(count(&path), 0);
}
