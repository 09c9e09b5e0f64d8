//! Reports of revocations: who may say what about them, and what is kept.

use hyper::StatusCode;
use smqtt_core::api::{AuditRecord, Revocation, RevocationDone, RevocationOrder, RevocationReport};

use crate::common::*;

fn said(bundle: u64, cut_at: u64) -> RevocationDone {
    RevocationDone { bundle, cut_at, sessions: 2, connections: 1, retained: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brokers_report_is_kept_audited_and_told_to_whoever_waits() {
    let server = Running::start().await;
    let device = server.enrol("lost", &["x"]).await;
    let broker = server.enrol_broker("edge", &[]).await;
    let client = server.client(&broker);
    // It asks for bundles, so it is connected: whoever wants the report waits for its word.
    client.get("/v1/bundle").await;
    let done: Revocation = server.admin().post("/v1/devices/lost/revoke", &()).await.json();
    let waiting = tokio::spawn({
        let admin = server.admin();
        async move { admin.get("/v1/devices/lost/revocation?wait=60").await.json::<RevocationReport>() }
    });
    let early: RevocationReport = server.admin().get("/v1/devices/lost/revocation").await.json();
    assert_eq!((early.complete, early.brokers[0].state.as_str()), (false, "connected"));
    let path = format!("/v1/revocations/{}/done", device.id());
    let answer = client.post(&path, &said(done.bundle, START)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let report = waiting.await.unwrap();
    assert!(report.complete);
    assert_eq!(report.brokers[0].done, Some(said(done.bundle, START)));
    // Once more changes nothing, and is written down once.
    client.post(&path, &said(done.bundle, START)).await;
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let rows: Vec<_> = rows.iter().filter(|row| row.action == "report-revocation").collect();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].actor.starts_with("edge ") && rows[0].subject.starts_with("lost "), "{rows:?}");
    // Also after a restart.
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    let again: RevocationReport = server.admin().get("/v1/devices/lost/revocation").await.json();
    assert_eq!((again.brokers[0].state.as_str(), &again.readable), ("done", &report.readable));
    assert_eq!(again.brokers[0].done, Some(said(done.bundle, START)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_who_is_revoked_while_it_waits_gets_no_report() {
    let server = Running::start().await;
    let device = server.enrol("lost", &["x"]).await;
    let (broker, auditor) =
        (server.enrol_broker("edge", &[]).await, server.enrol_as("otto", "auditor").await);
    let (broker, auditor, admin) = (server.client(&broker), server.client(&auditor), server.admin());
    broker.get("/v1/bundle").await;
    let done: Revocation = admin.post("/v1/devices/lost/revoke", &()).await.json();
    let waiting = tokio::spawn(async move { auditor.get("/v1/devices/lost/revocation?wait=60").await });
    // It is let in meanwhile; if it should come later, it is refused all the more.
    for _ in 0..8 {
        admin.get("/v1/devices").await;
    }
    admin.post("/v1/devices/otto/revoke", &()).await;
    broker.post(&format!("/v1/revocations/{}/done", device.id()), &said(done.bundle, START)).await;
    waiting.await.unwrap().problem(403, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_cannot_be_are_refused() {
    let server = Running::start().await;
    let broker = server.enrol_broker("edge", &[]).await;
    let device = server.enrol("lost", &["x"]).await;
    let active = server.enrol("active", &["x"]).await;
    server.clock.advance(1000);
    let done: Revocation = server.admin().post("/v1/devices/lost/revoke", &()).await.json();
    let client = server.client(&broker);
    let path = format!("/v1/revocations/{}/done", device.id());
    let good = said(done.bundle, server.now());
    let bad = [
        RevocationDone { bundle: done.bundle - 1, ..good.clone() },
        RevocationDone { bundle: done.bundle + 1, ..good.clone() },
        RevocationDone { cut_at: server.now() - 400, ..good.clone() },
        RevocationDone { cut_at: server.now() + 400, ..good.clone() },
        RevocationDone { connections: 3, ..good.clone() },
        RevocationDone { sessions: u64::MAX, ..good.clone() },
        RevocationDone { retained: Some(0), ..good.clone() },
    ];
    for done in bad {
        client.post(&path, &done).await.problem(400, "report");
    }
    client.post(&format!("/v1/revocations/{}/done", active.id()), &good).await.problem(404, "not-revoked");
    client.post("/v1/revocations/lost/done", &good).await.problem(400, "bad-request");
    server.admin().get("/v1/devices/active/revocation").await.problem(404, "not-revoked");
    // Whatever was refused left nothing.
    let pending: Vec<RevocationOrder> = client.get("/v1/revocations").await.json();
    assert_eq!((pending.len(), &pending[0].done), (1, &None));
    assert_eq!(client.post(&path, &good).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_asked_about_what_came_after_it_and_about_removals_ordered_later() {
    let server = Running::start().await;
    server.enrol("first", &["x"]).await;
    server.admin().post("/v1/devices/first/revoke", &()).await;
    server.clock.advance(1);
    let client = server.client(&server.enrol_broker("edge", &[]).await);
    let device = server.enrol_with_policy("second", &["x"], "ward>=3").await;
    let pending = async || client.get("/v1/revocations").await.json::<Vec<RevocationOrder>>();
    assert_eq!(pending().await, []);
    let done: Revocation = server.admin().post("/v1/devices/second/revoke", &()).await.json();
    let good = said(done.bundle, server.now());
    let path = format!("/v1/revocations/{}/done", device.id());
    assert_eq!(pending().await[0].purge, None);
    client.post(&path, &good).await;
    assert_eq!(pending().await, []);

    let order = "/v1/devices/second/revoke?purge_retained=true";
    let again: Revocation = server.admin().post(order, &()).await.json();
    assert_eq!((again.bundle, again.revoked), (done.bundle, done.revoked));
    let orders = pending().await;
    let reader = orders[0].purge.as_ref().unwrap();
    assert_eq!((&reader.attributes[..], reader.policy.as_deref()), (&["x".to_owned()][..], Some("ward>=3")));
    assert_eq!(orders[0].done.as_ref(), Some(&good));
    let removed = RevocationDone { retained: Some(7), ..good };
    assert_eq!(client.post(&path, &removed).await.status, StatusCode::OK);
    assert_eq!(pending().await, []);
    server.enrol_bridge("north", &[]).await;
    server.admin().post("/v1/devices/north/revoke?purge_retained=true", &()).await.problem(400, "purge");
    let bridge: smqtt_core::api::Device = server.admin().get("/v1/devices/north").await.json();
    assert_eq!(bridge.status, "active", "what was refused did nothing");
}

/// A store from before there were reports.
#[tokio::test(flavor = "multi_thread")]
async fn revocations_of_an_older_store_are_reported_as_far_as_they_are_known() {
    let server = Running::start().await;
    server.enrol("lost", &["x"]).await;
    let done: Revocation = server.admin().post("/v1/devices/lost/revoke", &()).await.json();
    let (dir, clock, config) = server.stop().await;
    let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
    let undo = "ALTER TABLE tokens DROP COLUMN maker; DROP TABLE answers; DROP TABLE revocations_done; DROP TABLE revocations; PRAGMA user_version = 9;";
    store.execute_batch(undo).unwrap();
    drop(store);
    let server = Running::again(dir, clock, config).await;
    let report: RevocationReport = server.admin().get("/v1/devices/lost/revocation").await.json();
    assert_eq!((report.bundle, &report.raised, report.revoked), (done.bundle, &done.raised, done.revoked));
    assert!(report.readable.epochs.is_empty() && report.complete);
}
