//! Rules, the bundle, and waiting for it.

use std::time::Duration;

use hyper::StatusCode;
use smqtt_core::api::{Rule, RuleSet};
use smqtt_core::bundle::BUNDLE_BYTES_MAX;
use smqtt_core::rule::Mode;
use smqtt_keysvc::Config;

use crate::common::*;

fn rule(filter: &str, mode: &str, policy: Option<&str>) -> Rule {
    let (filter, mode, policy) = (filter.to_owned(), mode.to_owned(), policy.map(str::to_owned));
    Rule { filter, mode, policy, labels: None, publishers: None, subscribers: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_reaches_whoever_waits_for_the_bundle() {
    let server = Running::start().await;
    let device = server.enrol("a", &["role=nurse"]).await;
    let client = server.client(&device);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/bundle?after=1&wait=60").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    let policy = "role = nurse AND (ward=$1)";
    let set: RuleSet =
        server.admin().put("/v1/rules", &rule("ward/+/t", "required", Some(policy))).await.json();
    assert_eq!(set.warnings, ["policy: no device has an attribute `ward`"]);
    let answer = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(answer.headers["etag"], format!("\"{}\"", set.bundle));
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/cose"));
    let bundle = server.bundle(&answer.body);
    assert_eq!((bundle.number, bundle.rules.len(), bundle.rules[0].mode), (set.bundle, 1, Mode::Required));
    assert_eq!(bundle.rules[0].target_for("ward/3/t").unwrap().unwrap().to_string(), "role=nurse and ward=3");

    // The same again changes nothing.
    let again: RuleSet =
        server.admin().put("/v1/rules", &rule("ward/+/t", "required", Some(policy))).await.json();
    assert_eq!(again.bundle, set.bundle);
    let listed: Vec<Rule> = client.get("/v1/rules").await.json();
    assert_eq!(listed, [rule("ward/+/t", "required", Some("role=nurse and ward=$1"))]);
    let gone: RuleSet = server.admin().delete("/v1/rules?filter=ward/%2B/t").await.json();
    assert_eq!(gone.bundle, set.bundle + 1);
    assert!(server.newest_bundle().await.rules.is_empty());
    server.admin().delete("/v1/rules?filter=ward/%2B/t").await.problem(404, "no-such-rule");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_news_the_wait_ends_empty() {
    let server = Running::start().await;
    let answer = server.admin().get("/v1/bundle?after=1").await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
    let answer = server.admin().get("/v1/bundle?after=1&wait=1").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    server.admin().get("/v1/bundle?after=-1").await.problem(400, "bad-request");
    server.admin().get("/v1/bundle?until=1").await.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_revoked_while_it_waits_is_told_so() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let client = server.client(&device);
    let waiting = tokio::spawn(async move { client.get("/v1/bundle?after=1&wait=60").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.admin().post("/v1/devices/a/revoke", &()).await;
    waiting.await.unwrap().problem(403, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_signed_anew_after_half_its_life() {
    let server = Running::start().await;
    let first = server.newest_bundle().await;
    assert_eq!(first.expires, START + 2 * DAY);
    server.clock.advance(DAY - 1);
    server.authority.housekeep().await.unwrap();
    assert_eq!(server.newest_bundle().await.number, first.number);
    // Past the life of the certificate that signed the first one.
    for _ in 0..200 {
        server.clock.advance(DAY);
        server.authority.housekeep().await.unwrap();
    }
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    let bundle = server.newest_bundle().await;
    assert!(!bundle.is_expired(server.now()) && bundle.number > 200, "{}", bundle.number);
    let (dir, clock, config) = server.stop().await;
    clock.advance(400 * DAY);
    let config = Config { grace_seconds: 5, ..config };
    let server = Running::again(dir, clock, config).await;
    let again = server.newest_bundle().await;
    assert!(!again.is_expired(server.now()) && again.number > bundle.number);
    assert_eq!(again.grace, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rules_leave_too_little_room_for_a_revocation() {
    let server = Running::start().await;
    server.enrol("thief", &["x"]).await;
    let long = |number: usize| {
        let attribute = |part: usize| format!("a{part}=\"{number}{}\"", "x".repeat(230));
        let policy = (0..60).map(attribute).collect::<Vec<_>>().join(" or ");
        serde_json::json!({ "filter": format!("f/{number}"), "mode": "required", "policy": policy,
                            "publishers": policy, "subscribers": policy })
    };
    let mut number = 0;
    loop {
        let answer = server.admin().put("/v1/rules", &long(number)).await;
        if answer.status == StatusCode::CONFLICT {
            answer.problem(409, "full");
            break;
        }
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        number += 1;
    }
    let bundle = server.admin().get("/v1/bundle").await.body;
    assert!(number > 10 && bundle.len() < BUNDLE_BYTES_MAX * 3 / 4, "{number} rules, {} bytes", bundle.len());
    // One that is there may be changed, and whoever is to be shut out is.
    assert_eq!(server.admin().put("/v1/rules", &rule("f/0", "open", None)).await.status, StatusCode::OK);
    assert_eq!(server.admin().post("/v1/devices/thief/revoke", &()).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_make_no_sense_say_why() {
    let server = Running::start().await;
    let admin = server.admin();
    let bad = [
        (rule("a/#/b", "open", None), "filter"),
        (rule("", "open", None), "filter"),
        (rule(&"a".repeat(2000), "open", None), "filter"),
        (rule("a", "closed", None), "mode"),
        (rule("a", "required", None), "rule"),
        (rule("a", "required", Some("ward=$1")), "rule"),
        (rule("a", "required", Some("role=nurse and")), "policy"),
        (Rule { publishers: Some("x=$1".into()), ..rule("+", "open", None) }, "policy"),
        (Rule { subscribers: Some("not x".into()), ..rule("a", "open", None) }, "policy"),
    ];
    for (rule, code) in bad {
        admin.put("/v1/rules", &rule).await.problem(400, code);
    }
    let problem = admin.put("/v1/rules", &rule("a", "open", Some("a & b"))).await.problem(400, "policy");
    assert!(problem.detail.unwrap().contains("column 3"));
    assert_eq!(server.newest_bundle().await.number, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_name_what_nobody_has() {
    let server = Running::start().await;
    server.token("open", &["role=nurse"]).await;
    server.enrol("a", &["ward=3"]).await;
    let mut rule = rule("w/+", "required", Some("role=nurse and ward=$1 and level>=3 and x"));
    rule.publishers = Some("ward=3 or ward=4".into());
    let set: RuleSet = server.admin().put("/v1/rules", &rule).await.json();
    let expected = [
        "policy: no device has `x`",
        "policy: no device has an integer `level`",
        "publishers: no device has `ward=4`",
    ];
    assert_eq!(set.warnings, expected);
}
