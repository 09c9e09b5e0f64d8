//! What an authority shows of itself: counts, and whether it is ready.

use std::collections::{BTreeMap, BTreeSet};

use hyper::StatusCode;
use serde_json::json;
use smqtt_core::api::{Enrolment, Keys};
use smqtt_keysvc::Authority;

use crate::common::*;

/// The value of a series, as it is written.
fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[track_caller]
fn shows(text: &str, series: &str, expected: &str) {
    assert_eq!(value(text, series), Some(expected), "{series} in\n{text}");
}

async fn look(server: &Running) -> String {
    // What is looked up is kept for the second.
    server.clock.advance(1);
    server.authority.metrics().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted() {
    let server = Running::start().await;
    let (first, second) = (server.enrol("a", &["x"]).await, server.enrol("b", &["x"]).await);
    let fetched: Keys = server.client(&first).get("/v1/keys").await.json();
    let renewal = first.keys.renewal();
    let renewed = server.client(&first).post("/v1/renew", &renewal).await;
    assert_eq!(renewed.status, StatusCode::OK);
    let renewed: Enrolment = renewed.json();
    let keys = [&first.enrolment.keys, &second.enrolment.keys, &fetched.keys, &renewed.keys];
    let keys = keys.into_iter().map(Vec::len).sum::<usize>().to_string();
    server.admin().post("/v1/devices/b/revoke", &json!({})).await;
    server.client(&second).get("/v1/keys").await.problem(403, "revoked");
    server.anonymous().get("/v1/devices").await.problem(401, "certificate-required");
    server.anonymous().get("/elsewhere").await.problem(404, "not-found");
    let seen = look(&server).await;
    for (series, expected) in [
        ("smqtt_authority_requests_total{operation=\"make-token\",status=\"2xx\"}", "2"),
        ("smqtt_authority_requests_total{operation=\"enrol\",status=\"2xx\"}", "2"),
        ("smqtt_authority_requests_total{operation=\"fetch-keys\",status=\"2xx\"}", "1"),
        ("smqtt_authority_requests_total{operation=\"fetch-keys\",status=\"4xx\"}", "1"),
        ("smqtt_authority_requests_total{operation=\"none\",status=\"4xx\"}", "1"),
        ("smqtt_authority_request_seconds_count{operation=\"enrol\"}", "2"),
        ("smqtt_authority_refusals_total{code=\"revoked\"}", "1"),
        ("smqtt_authority_refusals_total{code=\"certificate-required\"}", "1"),
        ("smqtt_authority_refusals_total{code=\"not-found\"}", "1"),
        ("smqtt_authority_acts_total{act=\"enrol\"}", "2"),
        ("smqtt_authority_acts_total{act=\"renew\"}", "1"),
        ("smqtt_authority_acts_total{act=\"revoke\"}", "1"),
        ("smqtt_authority_acts_total{act=\"refused\"}", "2"),
        // At two enrolments, a renewal and a visit.
        ("smqtt_authority_acts_total{act=\"issue-keys\"}", "4"),
        ("smqtt_authority_keys_issued_total", &keys),
        ("smqtt_authority_devices{state=\"active\"}", "2.0"),
        ("smqtt_authority_devices{state=\"revoked\"}", "1.0"),
        ("smqtt_authority_devices{state=\"suspended\"}", "0.0"),
        ("smqtt_authority_epoch", "1"),
        ("smqtt_authority_seal_info{kind=\"file\"}", "1.0"),
        ("smqtt_authority_commits_failed_total", "0"),
    ] {
        shows(&seen, series, expected);
    }
    let number = |series| value(&seen, series).unwrap().parse::<f64>().unwrap();
    let bundle = server.newest_bundle().await.number;
    assert_eq!(number("smqtt_authority_bundle_number"), bundle as f64);
    let rows = server.authority.verify_audit().await.unwrap().unwrap();
    assert_eq!(number("smqtt_authority_audit_rows"), rows as f64);
    assert!(number("smqtt_authority_audit_bytes") > 60.0 * rows as f64);
    assert!(number("smqtt_authority_store_bytes") > 4096.0);
    assert!(number("smqtt_authority_commit_requests_count") >= 8.0);
    let end = number("smqtt_authority_certificate_expiry_timestamp_seconds{certificate=\"server\"}");
    assert_eq!(end, (START + 90 * DAY) as f64);
    for certificate in ["signer", "admin", "root"] {
        let series =
            format!("smqtt_authority_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        assert!(value(&seen, &series).unwrap().parse::<f64>().unwrap() >= end, "{series}");
    }
}

/// A checkpoint is due after a minute; until then what is unsigned shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_last_checkpoint_shows() {
    let dir = tempfile::TempDir::new().unwrap();
    let clock = clock();
    let authority = Authority::open(dir.path(), Default::default(), clock.clone()).unwrap();
    authority.housekeep().await.unwrap();
    let seen = authority.metrics().await;
    shows(&seen, "smqtt_authority_audit_unsigned_rows", "0");
    clock.advance(45);
    shows(&authority.metrics().await, "smqtt_authority_checkpoint_age_seconds", "45");
}

/// As promtool checks it, and what its documentation asks for: help and type before each metric, once; `_total` for counters
/// and for nothing else; base units; no name twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_as_prometheus_wants_it() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let seen = look(&server).await;
    let (mut types, mut helped, mut series) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for line in seen.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "no help before {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            for unit in ["_ms", "_milliseconds", "_minutes", "_kib", "_mib", "_kilobytes"] {
                assert!(!name.contains(unit), "{line}");
            }
        } else {
            let (id, value) = line.rsplit_once(' ').unwrap();
            assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(id.to_owned()), "{line} is there twice");
            let name = id.split('{').next().unwrap();
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let is_histogram = of.is_some_and(|of| types.get(of).is_some_and(|kind| kind == "histogram"));
            assert!(is_histogram || types.contains_key(name), "no type before {line}");
        }
    }
    assert!(types.len() > 25, "{}", types.len());
    let ours = types.keys().filter(|name| !name.starts_with("process_"));
    assert!(ours.clone().all(|name| name.starts_with("smqtt_authority_")), "{types:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_who_serves_with_a_certificate_and_a_store() {
    let wrong = |checks: Vec<(&'static str, Result<(), String>)>| -> Vec<&str> {
        checks.into_iter().filter(|(_, said)| said.is_err()).map(|(name, _)| name).collect()
    };
    let server = Running::start().await;
    let authority = server.authority.clone();
    until_ready(&server).await;
    // A process that stood still for long, before it looks what is due.
    server.clock.advance(90 * DAY);
    let checks = wrong(authority.ready().await);
    assert!(checks.is_empty() || checks == ["certificate"], "{checks:?}");
    until_ready(&server).await;
    // Whoever asks learns that it stops before it has stopped.
    server.stop().await;
    assert_eq!(wrong(authority.ready().await), ["listeners"]);
}

async fn until_ready(server: &Running) {
    let ready = async {
        while server.authority.ready().await.iter().any(|(_, said)| said.is_err()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), ready).await.unwrap();
}
