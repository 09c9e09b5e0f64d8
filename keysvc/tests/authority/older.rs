//! A store and its journal that do not belong together: an older copy put back, a damaged journal, a store that is gone.

use std::path::Path;

use hyper::StatusCode;
use smqtt_core::api::{Access, AuditRecord, NewAccess};
use smqtt_keysvc::{Authority, OpenError};

use crate::backups::revoke;
use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_that_is_put_back_by_hand_catches_up() {
    let server = Running::start().await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    let (dir, clock, config) = server.stop().await;
    let store = dir.path().join("data/authority/authority.db");
    let old = std::fs::read(&store).unwrap();
    let server = Running::again(dir, clock, config).await;
    revoke(&server, "thief").await;
    let before = server.newest_bundle().await;
    let (dir, clock, config) = server.stop().await;
    for file in ["authority.db-wal", "authority.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join("data/authority").join(file));
    }
    std::fs::write(&store, old).unwrap();
    let server = Running::again(dir, clock, config).await;
    let after = server.newest_bundle().await;
    assert!(after.is_revoked(thief.id()) && after.number > before.number);
    assert!(after.epoch.number > before.epoch.number);
    assert_eq!(server.client(&thief).get("/v1/keys").await.status, StatusCode::FORBIDDEN);
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert!(
        rows.iter()
            .any(|row| row.action == "catch-up" && row.subject.contains("shut out thief; an older store"))
    );
    // Once is enough.
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.newest_bundle().await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_written_anew_from_the_store() {
    let server = Running::start().await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    revoke(&server, "thief").await;
    let (mut dir, mut clock, mut config) = server.stop().await;
    let path = dir.path().join("data/revocations/journal");
    for damage in 0..3 {
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            0 => bytes[5] ^= 1,
            1 => bytes.truncate(bytes.len() / 2),
            _ => bytes.clear(),
        }
        std::fs::write(&path, bytes).unwrap();
        let server = Running::again(dir, clock, config).await;
        assert!(server.newest_bundle().await.is_revoked(thief.id()));
        let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
        assert_eq!(rows.iter().filter(|row| row.action == "rebuild-journal").count(), damage + 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("revoked {} device thief", thief.id())), "{text}");
        (dir, clock, config) = server.stop().await;
    }
}

/// An older copy of the store, put back beside the journal of now.
fn put_back(data: &Path, old: &Path) {
    std::fs::remove_dir_all(data.join("authority")).unwrap();
    copy_dir(old, &data.join("authority"));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_beside_a_damaged_journal_un_revokes_nobody_of_whom_it_still_tells() {
    let server = Running::start().await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    let (dir, clock, config) = server.stop().await;
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    copy_dir(&data.join("authority"), &old);
    let server = Running::again(dir, clock, config).await;
    revoke(&server, "thief").await;
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    let (mut dir, mut clock, mut config) = server.stop().await;
    let path = data.join("revocations/journal");
    let good = std::fs::read(&path).unwrap();
    let last = good.len() - 50;
    // Before the line that tells of it, and after.
    for hit in [5, last] {
        let mut bytes = good.clone();
        bytes[hit] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        put_back(&data, &old);
        let server = Running::again(dir, clock, config).await;
        assert!(server.newest_bundle().await.is_revoked(thief.id()), "hit at {hit}");
        assert!(server.client(&thief).get("/v1/keys").await.status == StatusCode::FORBIDDEN);
        assert!(server.authority.verify_audit().await.unwrap().is_ok());
        (dir, clock, config) = server.stop().await;
        // The new journal tells of it as well.
        assert!(std::fs::read_to_string(&path).unwrap().contains(" revoked "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_gives_nobody_back_a_token_that_was_used_or_taken_away() {
    let server = Running::start().await;
    let (used, removed) = (server.token("thief", &["ward=3"]).await, server.token("other", &[]).await);
    let access: NewAccess = {
        let wanted = serde_json::json!({ "name": "program", "role": "auditor", "ttl_seconds": 86_400 });
        server.admin().post("/v1/access", &wanted).await.json()
    };
    let (dir, clock, config) = server.stop().await;
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    copy_dir(&data.join("authority"), &old);
    let server = Running::again(dir, clock, config).await;
    let admin = server.admin();
    assert_eq!(admin.delete(&format!("/v1/tokens/{}", hex(&removed.id))).await.status, StatusCode::OK);
    assert_eq!(admin.delete(&format!("/v1/access/{}", access.id)).await.status, StatusCode::OK);
    // None of that is in the journal; that there was more than the copy tells of is, from the stop on.
    let (dir, clock, config) = server.stop().await;
    put_back(&data, &old);
    let server = Running::again(dir, clock, config).await;
    for token in [&used, &removed] {
        let answer = server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(token)).await;
        answer.problem(410, "token-removed");
    }
    assert_eq!(server.admin().get("/v1/access").await.json::<Vec<Access>>(), []);
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let caught_up = rows.iter().find(|row| row.action == "catch-up").unwrap();
    assert!(caught_up.subject.ends_with("an older store: 2 open tokens and 1 access tokens ended"));
    // A crash is none: what was acknowledged then goes on to hold.
    let token = server.token("new", &[]).await;
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    let answer = server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&token)).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_an_authority_does_not_begin_anew_and_keeps_its_journal() {
    let server = Running::start().await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    let (dir, clock, config) = server.stop().await;
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    copy_dir(&data.join("authority"), &old);
    let server = Running::again(dir, clock, config).await;
    revoke(&server, "thief").await;
    let (dir, clock, config) = server.stop().await;
    // As where its disk is not mounted.
    std::fs::remove_dir_all(data.join("authority")).unwrap();
    let journal = std::fs::read(data.join("revocations/journal")).unwrap();
    let error = Authority::open(&data, config.clone(), clock.clone()).err().expect("it does not begin anew");
    assert!(matches!(error, OpenError::StoreMissing { .. }), "{error}");
    assert_eq!(std::fs::read(data.join("revocations/journal")).unwrap(), journal);
    put_back(&data, &old);
    let server = Running::again(dir, clock, config).await;
    assert!(server.newest_bundle().await.is_revoked(thief.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_written_anew_tells_an_older_store_which_root_is_retired() {
    let server = Running::start().await;
    let step = async |server: &Running, step: &str| {
        let request = serde_json::json!({ "step": step, "force": true });
        let answer = server.admin().post("/v1/rotate/certificate", &request).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    };
    step(&server, "prepare").await;
    let (dir, clock, config) = server.stop().await;
    let (data, old) = (dir.path().join("data"), dir.path().join("old"));
    copy_dir(&data.join("authority"), &old);
    let server = Running::again(dir, clock, config).await;
    step(&server, "activate").await;
    step(&server, "retire").await;
    let roots = server.authority.roots();
    assert_eq!(roots.len(), 1);
    let (dir, clock, config) = server.stop().await;
    let path = data.join("revocations/journal");
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[5] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let (dir, clock, config) = Running::again(dir, clock, config).await.stop().await;
    put_back(&data, &old);
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.authority.roots(), roots);
}
