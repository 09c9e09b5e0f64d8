//! A disk that fills up: what is refused, what goes on, and how it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use serde_json::json;
use smqtt_core::api::{AuditRecord, Problem};
use smqtt_keysvc::Config;

use crate::common::*;

const MIB: u64 = 1 << 20;

struct Disk(Arc<AtomicU64>);

impl Disk {
    fn of(server: &Running) -> Self {
        let free = Arc::new(AtomicU64::new(u64::MAX));
        let measured = free.clone();
        server.authority.measure_space_with(move || Some(measured.load(Ordering::SeqCst)));
        Self(free)
    }

    async fn has(&self, server: &Running, free: u64) {
        self.0.store(free, Ordering::SeqCst);
        // Where there is nothing left, what is due fails as well.
        let _ = server.authority.housekeep().await;
    }
}

#[track_caller]
fn low(answer: &Answer) {
    let problem: Problem = answer.problem(503, "low-space");
    assert_eq!(
        (&answer.headers["retry-after"], problem.retry_after_seconds),
        (&"30".parse().unwrap(), Some(30))
    );
    assert!(problem.hint.unwrap().contains("make room"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_little_space_changes_are_refused_and_revocations_last() {
    let server = Running::with(Config { token_ttl_seconds: 7 * DAY, ..Config::default() }).await;
    let disk = Disk::of(&server);
    let (a, b) = (server.enrol("a", &["x"]).await, server.enrol("b", &["x"]).await);
    server.enrol("c", &["y"]).await;
    let token = server.token("d", &["x"]).await;
    let unwanted = server.token("e", &["x"]).await;
    let own = DeviceKeys::generate();
    disk.has(&server, 64 * MIB).await;
    server.token("f", &[]).await;

    disk.has(&server, 64 * MIB - 1).await;
    let admin = server.admin();
    low(&admin.post("/v1/tokens", &json!({ "name": "g" })).await);
    low(&admin.put("/v1/rules", &json!({ "filter": "a", "mode": "open" })).await);
    low(&admin.post("/v1/devices/b/reset", &json!({})).await);
    low(&admin.post("/v1/epoch/rotate", &json!({})).await);
    low(&admin.post("/v1/backup", &json!({ "to": [] })).await);
    low(&server.anonymous().post("/v1/enrol", &own.request(&token)).await);
    low(&server.client(&a).post("/v1/renew", &a.keys.renewal()).await);
    // That keys are issued has to be on record.
    low(&server.client(&a).get("/v1/keys").await);
    for path in ["/v1/health", "/v1/devices", "/v1/bundle", "/v1/audit", "/v1/tokens", "/v1/rules"] {
        assert_eq!(admin.get(path).await.status, StatusCode::OK, "{path}");
    }
    let number = server.newest_bundle().await.number;
    let nothing_new = server.client(&a).get(&format!("/v1/bundle?after={number}")).await;
    assert!(nothing_new.status.is_success(), "{}", nothing_new.status);
    // What takes leave away.
    assert_eq!(admin.post("/v1/devices/b/revoke", &json!({})).await.status, StatusCode::OK);
    assert_eq!(admin.post("/v1/devices/a/suspend", &json!({})).await.status, StatusCode::OK);
    let path = format!("/v1/tokens/{}", hex(&unwanted.id));
    assert_eq!(admin.delete(&path).await.status, StatusCode::OK);
    low(&admin.post("/v1/devices/a/resume", &json!({})).await);
    // Who was refused is refused for that, and not because nobody could write it down.
    server.client(&b).get("/v1/bundle").await.problem(403, "revoked");
    server.client(&b).get("/v1/keys").await.problem(403, "revoked");
    // The next epoch comes as ever: without it bundles would run out.
    let epoch = server.newest_bundle().await.epoch.number;
    server.clock.advance(DAY);
    let _ = server.authority.housekeep().await;
    assert_eq!(server.newest_bundle().await.epoch.number, epoch + 1);
    server.clock.advance(1);
    let seen = server.authority.metrics().await;
    assert!(seen.contains("\nsmqtt_authority_read_only 1\n"), "{seen}");
    assert!(seen.contains(&format!("\nsmqtt_authority_free_bytes {}\n", 64 * MIB - 1)), "{seen}");
    let ready = server.authority.ready().await;
    assert!(ready.iter().any(|(part, said)| *part == "space" && said.is_err()), "{ready:?}");

    disk.has(&server, 8 * MIB - 1).await;
    low(&admin.post("/v1/devices/c/revoke", &json!({})).await);
    assert_eq!(admin.get("/v1/devices/c").await.status, StatusCode::OK);

    // It comes back by itself, and the token is as good as it was.
    disk.has(&server, 64 * MIB).await;
    assert_eq!(admin.post("/v1/devices/c/revoke", &json!({})).await.status, StatusCode::OK);
    let enrolled = server.anonymous().post("/v1/enrol", &own.request(&token)).await;
    assert_eq!(enrolled.status, StatusCode::OK, "{}", enrolled.text());
    assert!(server.authority.ready().await.iter().all(|(_, said)| said.is_ok()));
    assert!(matches!(server.authority.verify_audit().await, Ok(Ok(_))));
    // The next refusal says how many were not written.
    server.clock.advance(60);
    server.client(&b).get("/v1/keys").await.problem(403, "revoked");
    let rows: Vec<AuditRecord> = admin.get("/v1/audit").await.json();
    let unwritten = rows.iter().find(|row| row.action == "refusals not written").unwrap();
    assert_eq!(unwritten.subject, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_minimum_of_0_nothing_is_refused() {
    let server = Running::with(Config { free_bytes_min: 0, ..Config::default() }).await;
    let disk = Disk::of(&server);
    server.enrol("a", &["x"]).await;
    disk.has(&server, 0).await;
    server.token("b", &[]).await;
    assert_eq!(server.admin().post("/v1/devices/a/revoke", &json!({})).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_measure_there_is_room() {
    let server = Running::start().await;
    server.authority.measure_space_with(|| None);
    server.authority.housekeep().await.unwrap();
    server.token("a", &[]).await;
}
