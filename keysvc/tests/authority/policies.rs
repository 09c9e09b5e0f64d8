//! Keys that carry a policy, for what is sealed under labels.

use hyper::{Request, StatusCode};
use smqtt_core::api::{Device as Listed, Directory, Keys, Revocation, Rule, RuleSet};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::Bundle;
use smqtt_core::header::Header;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Scope, SuiteError, SuiteId, UserKey};
use smqtt_keysvc::Config;

use crate::common::*;

const POLICY: &str = "ward=3 and level>=3";

fn of(suite: SuiteId, keys: &[UserKey]) -> Vec<&UserKey> {
    keys.iter().filter(|key| key.suite() == suite).collect()
}

/// Whether one of a device's keys opens the header.
fn opens(device: &Device, header: &Header, keys: &[UserKey]) -> bool {
    let params = device.params_of(header.suite());
    keys.iter().any(|key| header.open(&params, key).is_ok())
}

async fn keys(server: &Running, device: &Device) -> Vec<UserKey> {
    let keys: Keys = server.client(device).get("/v1/keys").await.json();
    device.open_keys(&keys.keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_becomes_keys_that_open_the_labels_it_holds_for() {
    let server = Running::start().await;
    let both = server.enrol_with_policy("both", &["role=nurse"], POLICY).await;
    let only = server.enrol_with_policy("only", &[], "kind=reading").await;
    let none = server.enrol("none", &["role=nurse"]).await;
    let bundle = server.newest_bundle().await;

    let both_keys = both.open_keys(&both.enrolment.keys);
    let suites: Vec<_> = both_keys.iter().map(UserKey::suite).collect();
    assert_eq!(suites, [SuiteId::FabeoCp, SuiteId::FabeoKp]);
    let access = POLICY.parse::<Policy>().unwrap().access(&Versions::default(), 1);
    assert_eq!(*both_keys[1].scope(), Scope::Policy(access));
    // Whoever has no policy has no such key; whoever has no attributes still has the other, which opens nothing.
    let none_keys = none.open_keys(&none.enrolment.keys);
    assert_eq!(none_keys.iter().map(UserKey::suite).collect::<Vec<_>>(), [SuiteId::FabeoCp]);
    let only_keys = only.open_keys(&only.enrolment.keys);
    assert_eq!(only_keys[0].labels().len(), 1, "the epoch alone");

    let sensor = server.enrol("sensor", &[]).await;
    for (labels, by_both, by_only) in [
        ("ward=3, level=5", true, false),
        ("ward=3, level=3, kind=reading", true, true),
        ("ward=3, level=2, kind=reading", false, true),
        ("ward=4, level=5", false, false),
        ("ward=3", false, false),
        ("role=nurse", false, false),
    ] {
        let (header, _) = sensor.label(labels, &bundle, START);
        header.verify(&server.roots()).unwrap();
        assert_eq!(opens(&both, &header, &both_keys), by_both, "{labels}");
        assert_eq!(opens(&only, &header, &only_keys), by_only, "{labels}");
        assert!(!opens(&none, &header, &none_keys), "{labels}");
    }
    // And the other way round: a policy in the header asks for attributes, not for the key's policy.
    let (header, _) = sensor.seal("role=nurse", &bundle, START);
    assert!(opens(&both, &header, &both_keys) && !opens(&only, &header, &only_keys));
    let (header, _) = sensor.seal("kind=reading", &bundle, START);
    assert!(!opens(&only, &header, &only_keys));
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_may_know_is_told_the_policy() {
    let server = Running::start().await;
    let device = server.enrol_with_policy("a", &[], "(kind = reading) and level > 2").await;
    server.enrol("b", &["x"]).await;
    let broker = server.client(&server.enrol_broker("broker", &[]).await);
    let printed = "kind=reading and level>=3";
    assert_eq!(device.enrolment.policy.as_deref(), Some(printed));
    let keys: Keys = server.client(&device).get("/v1/keys").await.json();
    assert_eq!(keys.policy.as_deref(), Some(printed));
    let shown: Listed = server.admin().get("/v1/devices/a").await.json();
    assert_eq!(shown.policy.as_deref(), Some(printed));
    let other = server.admin().get("/v1/devices/b").await;
    assert!(!other.text().contains("policy"), "{}", other.text());
    let directory: Directory = broker.get("/v1/directory").await.json();
    let policies: Vec<_> = directory.devices.iter().filter_map(|device| device.policy.as_deref()).collect();
    assert_eq!(policies, [printed]);
    let renewed: smqtt_core::api::Enrolment =
        server.client(&device).post("/v1/renew", &device.keys.renewal()).await.json();
    assert_eq!(renewed.policy.as_deref(), Some(printed));
    let audit = server.admin().get("/v1/audit").await;
    assert!(audit.text().contains("policy kind=reading and level>=3"), "{}", audit.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_cannot_be_meant_are_refused_with_the_reason() {
    let server = Running::start().await;
    let admin = server.admin();
    let ask = async |policy: &str, role: &str| {
        let request = serde_json::json!({ "name": "a", "role": role, "policy": policy });
        admin.post("/v1/tokens", &request).await
    };
    let problem = ask("ward=3 adn kind=x", "device").await.problem(400, "policy");
    assert!(problem.detail.unwrap().contains("column 8"));
    ask("", "device").await.problem(400, "policy");
    ask("ward=$1", "device").await.problem(400, "policy");
    ask("not ward=3", "device").await.problem(400, "policy");
    // More leaves than a policy may have, and more text than a page of the directory could bear.
    let comparisons = (1..10).map(|n| format!("n{n}>=1")).collect::<Vec<_>>().join(" and ");
    ask(&comparisons, "device").await.problem(400, "policy");
    ask(&format!("a=\"{}\"", "x".repeat(5000)), "device").await.problem(400, "policy");
    let problem = ask("ward=3", "broker").await.problem(400, "policy");
    assert!(problem.hint.unwrap().contains("leave its policy away"));
    assert_eq!(ask("ward=3", "device").await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_keys_come_for_the_same_epochs_and_change_the_tag() {
    let server = Running::with(Config { history_epochs: 1, ..Config::default() }).await;
    let device = server.enrol_with_policy("a", &["x"], "ward=3 or level<=7").await;
    let [lost, other] = [("lost", "level=3"), ("other", "ward=9")];
    server.enrol_with_policy(lost.0, &[], lost.1).await;
    server.enrol_with_policy(other.0, &[], other.1).await;
    server.admin().post("/v1/epoch/rotate", &()).await;
    server.admin().post("/v1/epoch/rotate", &()).await;
    server.clock.advance(DAY / 4 * 3);
    for suite in SuiteId::ALL {
        let keys = keys(&server, &device).await;
        let epochs: Vec<_> = of(suite, &keys).iter().map(|key| key.epoch()).collect();
        assert_eq!(epochs, [2, 3, 4], "{suite}");
    }
    let client = server.client(&device);
    let tag = client.get("/v1/keys").await.headers["etag"].to_str().unwrap().to_owned();
    let ask = async || client.send(Request::get("/v1/keys").header("if-none-match", &tag), "".into()).await;
    // `other` asks for integers of `ward`: so does this device, and its keys change.
    assert_eq!(ask().await.status, StatusCode::NOT_MODIFIED);
    server.admin().post("/v1/devices/other/revoke", &()).await;
    assert_eq!(ask().await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_opens_nothing_new_and_the_others_renew() {
    let server = Running::start().await;
    let lost = server.enrol_with_policy("lost", &["role=nurse"], POLICY).await;
    let kept = server.enrol_with_policy("kept", &[], "ward=3 or kind=alarm").await;
    let apart = server.enrol_with_policy("apart", &[], "kind=alarm").await;
    let sensor = server.enrol("sensor", &[]).await;
    let labels = "ward=3, level=5, kind=alarm";
    let before = server.newest_bundle().await;
    let (header, _) = sensor.label(labels, &before, START);
    let [lost_keys, kept_keys, apart_keys] =
        [&lost, &kept, &apart].map(|device| device.open_keys(&device.enrolment.keys));
    assert!(opens(&lost, &header, &lost_keys) && opens(&kept, &header, &kept_keys));

    let done: Revocation = server.admin().post("/v1/devices/lost/revoke", &()).await.json();
    assert_eq!(done.raised, ["level", "role=nurse", "ward"]);
    let after = server.newest_bundle().await;
    assert_eq!(after.number, done.bundle);
    let (header, _) = sensor.label(labels, &after, START);
    assert!(!opens(&lost, &header, &lost_keys), "its keys have the old versions");
    server.client(&lost).get("/v1/keys").await.problem(403, "revoked");
    // Not by asking less of it, either: the label that the policy names is not among those it was sealed under.
    let key = of(SuiteId::FabeoKp, &lost_keys)[0];
    let scope = header.scope();
    assert!(!key.satisfies(&scope) && key.satisfies_but_for_versions(&scope));
    let tried = header.open(&lost.params_of(SuiteId::FabeoKp), key).unwrap_err();
    assert!(matches!(tried, smqtt_core::header::HeaderError::Suite(SuiteError::NotSatisfied)), "{tried}");
    // Whoever renews reads on; whoever names none of it need not.
    let (ward_only, _) = sensor.label("ward=3", &after, START);
    assert!(!opens(&kept, &ward_only, &kept_keys));
    assert!(opens(&kept, &ward_only, &keys(&server, &kept).await));
    assert!(opens(&apart, &header, &apart_keys));
}

fn rule(filter: &str, mode: &str, policy: Option<&str>, labels: Option<&str>) -> Rule {
    let (policy, labels) = (policy.map(str::to_owned), labels.map(str::to_owned));
    Rule { filter: filter.into(), mode: mode.into(), policy, labels, publishers: None, subscribers: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_name_labels_and_warn_of_those_that_no_key_asks_for() {
    let server = Running::start().await;
    let admin = server.admin();
    server.enrol_with_policy("a", &["ward=3"], "kind=reading and level>=3").await;
    let set = async |labels: &str| -> Vec<String> {
        let answer = admin.put("/v1/rules", &rule("ward/+/t", "required", None, Some(labels))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json::<RuleSet>().warnings
    };
    assert_eq!(set("kind=reading, level=5").await, [""; 0]);
    assert_eq!(set("kind=reading, level=$1").await, [""; 0]);
    // That a device has an attribute says nothing: keys ask.
    assert_eq!(set("kind=reading, ward=3, level=$1").await, ["labels: no key asks for `ward=3`"]);
    assert_eq!(set("kind=reading, ward=$1").await, ["labels: no key asks for an attribute `ward`"]);
    assert_eq!(set("kind=reading, level=high").await, ["labels: no key asks for `level=high`"]);
    let nobody = "labels: the policy of no key holds for `kind=reading, level=2`";
    assert_eq!(set("kind=reading, level=2").await, [nobody]);
    let listed: Vec<Rule> = admin.get("/v1/rules").await.json();
    assert_eq!(listed[0].labels.as_deref(), Some("kind=reading, level=2"));
    let bundle: Bundle = server.newest_bundle().await;
    let target = bundle.rules[0].target_for("ward/9/t").unwrap().unwrap();
    assert_eq!((target.suite(), target.to_string().as_str()), (SuiteId::FabeoKp, "[kind=reading, level=2]"));
    // They survive a start.
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.newest_bundle().await.rules, bundle.rules);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_whose_labels_make_no_sense_are_refused() {
    let server = Running::start().await;
    let admin = server.admin();
    let eight: Vec<String> = (0..8).map(|n| format!("n{n}=1")).collect();
    let many = eight.join(", ");
    for (rule, code) in [
        (rule("a/+", "required", Some("x"), Some("x")), "rule"),
        (rule("a/+", "required", None, None), "rule"),
        (rule("a/+", "required", None, Some("x=$2")), "rule"),
        (rule("a/+", "required", None, Some(&many)), "rule"),
        (rule("a/+", "required", None, Some("x>=3")), "policy"),
        (rule("a/+", "required", None, Some("x or y")), "policy"),
        (rule("a/+", "required", None, Some("")), "policy"),
    ] {
        let said = admin.put("/v1/rules", &rule).await.problem(400, code);
        assert!(said.detail.is_some(), "{rule:?}");
    }
    let said = admin.put("/v1/rules", &rule("a", "required", None, Some(&many))).await.problem(400, "rule");
    assert!(said.detail.unwrap().contains("264 labels") && said.hint.unwrap().contains("counts 1"));
}
