//! Whoever asks too often is told so, and holds nobody else up; and what every answer has besides.

use bytes::Bytes;
use hyper::{Request, StatusCode};
use smqtt_core::api::NewAccess;
use smqtt_keysvc::{Config, Rate, Rates};
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::common::*;

fn slow() -> Config {
    let rate = |burst| Rate { per_second: 1, burst };
    Config { rates: Rates { address: rate(30), device: rate(5), trusted: rate(100) }, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_request_and_every_problem_as_well() {
    let server = Running::start().await;
    let health = server.anonymous().get("/v1/health").await;
    let id = health.headers["x-request-id"].to_str().unwrap().to_owned();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    // Ours, whatever the client calls it.
    for theirs in ["mine", "a\tb", &"x".repeat(5000)] {
        let request = Request::get("/v1/tokens").header("x-request-id", theirs);
        let refused = server.anonymous().send(request, Bytes::new()).await;
        let named = refused.headers["x-request-id"].to_str().unwrap().to_owned();
        assert!(named != theirs && named != id);
        let problem = refused.problem(401, "certificate-required");
        assert_eq!(problem.request_id, Some(named));
    }
    for path in ["/nothing", "/v1/audit?after=x"] {
        let refused = server.admin().get(path).await;
        let problem: smqtt_core::api::Problem = refused.json();
        assert_eq!(problem.request_id.unwrap(), refused.headers["x-request-id"].to_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_too_often_is_told_when_to_come_back_and_the_others_do_not_notice() {
    let server = Running::with(slow()).await;
    let (eager, calm) = (server.enrol("eager", &["x"]).await, server.enrol("calm", &["x"]).await);
    let (eager, calm) = (server.client(&eager), server.client(&calm));
    for _ in 0..5 {
        assert_eq!(eager.get("/v1/rules").await.status, StatusCode::OK);
    }
    for _ in 0..20 {
        let refused = eager.get("/v1/rules").await;
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(refused.problem(429, "too-many").retry_after_seconds, Some(1));
    }
    assert_eq!(calm.get("/v1/rules").await.status, StatusCode::OK);
    assert_eq!(server.admin().get("/v1/rules").await.status, StatusCode::OK);
    server.clock.advance(2);
    assert_eq!(eager.get("/v1/rules").await.status, StatusCode::OK);
    assert_eq!(eager.get("/v1/rules").await.status, StatusCode::OK);
    eager.get("/v1/rules").await.problem(429, "too-many");
    assert_eq!(server.authority.limited().callers.load(Relaxed), 21);
    // What was turned away is in no audit log: it would be filled with it.
    let log = server.admin().get("/v1/audit").await.text();
    assert!(!log.contains("too-many"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_tokens_is_slow_and_enrolled_devices_behind_the_same_address_are_not() {
    let server = Running::with(slow()).await;
    let (token, device) = (server.token("late", &[]).await, server.enrol("a", &["x"]).await);
    let keys = DeviceKeys::generate();
    let mut wrong = keys.request(&token);
    wrong.secret = "00".repeat(16);
    let anonymous = server.anonymous();
    let mut tried = 0;
    while anonymous.post("/v1/enrol", &wrong).await.status == StatusCode::UNAUTHORIZED {
        tried += 1;
    }
    assert!((2..=4).contains(&tried), "{tried}");
    // The right one has to wait as well, behind that address.
    anonymous.post("/v1/enrol", &keys.request(&token)).await.problem(429, "too-many");
    assert_eq!(server.client(&device).get("/v1/rules").await.status, StatusCode::OK);
    let wait = anonymous.get("/v1/health").await.problem(429, "too-many").retry_after_seconds.unwrap();
    server.clock.advance(wait + 1);
    assert_eq!(anonymous.post("/v1/enrol", &keys.request(&token)).await.status, StatusCode::OK);
    assert!(server.authority.limited().addresses.load(Relaxed) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_lock_nobody_out_of_an_access_token() {
    let server = Running::with(slow()).await;
    let request = serde_json::json!({ "name": "ci", "role": "auditor", "ttl_seconds": 600 });
    let made: NewAccess = server.admin().post("/v1/access", &request).await.json();
    let forged = format!("smqtt-access.{}.{}", made.id, "00".repeat(32));
    let (holder, forger) =
        (server.anonymous().with_access(&made.access_token), server.anonymous().with_access(&forged));
    // One that holds is counted for itself: an address's 30 would not do.
    for _ in 0..60 {
        assert_eq!(holder.get("/v1/access").await.status, StatusCode::OK);
    }
    let mut tried = 0;
    while forger.get("/v1/access").await.status == StatusCode::UNAUTHORIZED {
        tried += 1;
    }
    assert!((2..=4).contains(&tried), "{tried}");
    server.clock.advance(120);
    // Nor where nobody looks at the token, and there one that nobody ever made is no way around the limit either.
    let made_up = format!("smqtt-access.{}.{}", "ab".repeat(16), "00".repeat(32));
    for token in [&forged, &made_up] {
        let stranger = server.anonymous().with_access(token);
        let mut answered = 0;
        while stranger.get("/v1/root").await.status == StatusCode::OK {
            answered += 1;
        }
        assert!((10..=30).contains(&answered), "{answered}");
        server.clock.advance(120);
    }
    for _ in 0..100 {
        assert_eq!(holder.get("/v1/access").await.status, StatusCode::OK);
    }
    holder.get("/v1/access").await.problem(429, "too-many");
    assert_eq!(server.authority.limited().callers.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_all_the_same_is_not_even_connected_with() {
    let server = Running::with(slow()).await;
    let device = server.enrol("a", &["x"]).await;
    // Handshakes that come to nothing.
    while server.authority.limited().connections.load(Relaxed) == 0 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(server.client(&device).stream().await.is_err());
    server.clock.advance(1);
    assert_eq!(server.client(&device).get("/v1/rules").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_renews_again_and_again_is_slowed_down() {
    let config = Config { rates: Rates::default(), ..Config::default() };
    let rates = Rates { address: Rate { per_second: 50, burst: 1001 }, ..config.rates };
    let server = Running::with(Config { rates, ..config }).await;
    let device = server.enrol("eager", &["x"]).await;
    let mut renewed = 0;
    while server.client(&device).post("/v1/renew", &device.keys.renewal()).await.status == StatusCode::OK {
        renewed += 1;
    }
    assert_eq!(renewed, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_with_long_keys_has_them_generated_once_at_a_time() {
    let server = Running::start().await;
    let numbers: Vec<String> = (0..40).map(|n| format!("n{n}=7")).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let (heavy, light) = (server.enrol("heavy", &numbers).await, server.enrol("light", &["x"]).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let client = server.client(&heavy);
        asking.spawn(async move { client.get("/v1/keys").await });
    }
    assert_eq!(server.client(&light).get("/v1/keys").await.status, StatusCode::OK);
    let answers = asking.join_all().await;
    let given = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let later: Vec<_> = answers.iter().filter(|answer| answer.status != StatusCode::OK).collect();
    assert!(given >= 1 && !later.is_empty(), "{given} of 12");
    later.iter().for_each(|answer| drop(answer.problem(429, "too-many")));
    assert_eq!(server.client(&heavy).get("/v1/keys").await.status, StatusCode::OK, "the next one is served");
}
