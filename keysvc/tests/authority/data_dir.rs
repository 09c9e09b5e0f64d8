//! What lies on disk: made once, for the owner alone, secrets sealed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::StatusCode;
use smqtt_keysvc::{Authority, Config, OpenError};
use tempfile::TempDir;

use crate::common::at_rest::{keys_at_rest, secrets};
use crate::common::*;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn open(dir: &Path) -> Result<Arc<Authority>, OpenError> {
    Authority::open(dir, Config::default(), clock())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_changes_nothing() {
    let server = Running::start().await;
    assert!(server.authority.first_start());
    let device = server.enrol("a", &["x"]).await;
    let (fingerprint, params) = (server.authority.fingerprint(), server.authority.params());
    let bundle = server.newest_bundle().await;
    let admin = ["cert.pem", "key.pem", "root.pem"]
        .map(|name| std::fs::read(server.path("admin").join(name)).unwrap());
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert!(!server.authority.first_start());
    assert_eq!((server.authority.fingerprint(), server.authority.params()), (fingerprint, params));
    assert_eq!(server.newest_bundle().await, bundle);
    let again = ["cert.pem", "key.pem", "root.pem"]
        .map(|name| std::fs::read(server.path("admin").join(name)).unwrap());
    assert_eq!(admin, again);
    assert_eq!(server.client(&device).get("/v1/keys").await.status, StatusCode::OK);
    let about: serde_json::Value =
        serde_json::from_slice(&std::fs::read(server.path("admin/authority.json")).unwrap()).unwrap();
    assert_eq!(about["url"], server.authority.url());
    assert_eq!(about["fingerprint"], fingerprint.to_string());
    assert!(matches!(server.authority.verify_audit().await, Ok(Ok(6))));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_read_it() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let data = server.path("");
    let paths = files(&data);
    assert!(paths.iter().any(|path| path.ends_with("authority.db-wal")));
    for path in paths.iter().chain([&data]) {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_holds_no_secret_in_the_clear() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let token = server.token("b", &["x"]).await;
    let key = device.open_key(&device.enrolment.keys[0]);
    let seal = std::fs::read(server.path("seal/seal.key")).unwrap();
    assert_eq!(seal.len(), 32);
    let store = server.path("authority");
    let (dir, _, _) = server.stop().await;
    // What is sealed, opened as the authority does it.
    let mut canaries = vec![seal.clone(), token.secret.to_vec(), key.encode().to_vec()];
    let (root, data_keys) = keys_at_rest(&dir.path().join("data"));
    canaries.push(root);
    canaries.extend(data_keys.into_iter().map(|(_, key)| key));
    let kept = secrets(&dir.path().join("data"));
    for name in ["root-key", "signer-key", "master/fabeo-cp", "master/fabeo-kp"] {
        let (_, secret) = kept.iter().find(|(kept, _)| kept == name).unwrap();
        // Of a PKCS #8 key the secret is bytes 36 to 68.
        canaries.push(if secret.len() == 32 { secret.clone() } else { secret[36..68].to_vec() });
    }
    for path in files(&store).into_iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).unwrap();
        for secret in &canaries {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{}", path.display());
        }
    }
    drop(dir);
}

#[test]
fn what_cannot_be_written_stops_the_start() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(open(&dir.path().join("file/data")), Err(OpenError::File { .. })));
    assert!(matches!(open(Path::new("/proc/none")), Err(OpenError::File { .. })));
    // A database where it cannot be: it is a directory.
    std::fs::create_dir_all(dir.path().join("data/authority/authority.db")).unwrap();
    let error = open(&dir.path().join("data")).err().unwrap();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    assert!(!error.hint().is_empty());
    std::fs::create_dir_all(dir.path().join("garbage/authority")).unwrap();
    std::fs::write(dir.path().join("garbage/authority/authority.db"), [7; 4096]).unwrap();
    assert!(matches!(open(&dir.path().join("garbage")), Err(OpenError::Store { .. })));
}

#[test]
fn without_the_right_seal_key_it_does_not_start() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    let path = dir.path().join("seal/seal.key");
    let key = std::fs::read(&path).unwrap();
    std::fs::write(&path, [0; 32]).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::SealKeyWrong { .. })));
    std::fs::write(&path, &key[1..]).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::SealKeyWrong { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::SealKeyMissing { .. })));
    assert!(!path.exists(), "a new key would hide that the old one is lost");
    std::fs::write(&path, key).unwrap();
    assert!(open(dir.path()).is_ok());
}

#[test]
fn two_at_a_time_are_one_too_many() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
    drop(first);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn a_store_of_a_newer_or_another_program_is_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    let path = dir.path().join("authority/authority.db");
    let set = |pragma: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(pragma).unwrap();
    set("PRAGMA user_version = 99");
    let newer = open(dir.path()).err().unwrap();
    assert!(newer.hint().contains("newer"), "{newer}");
    set("PRAGMA user_version = 1; PRAGMA application_id = 5");
    assert!(matches!(open(dir.path()), Err(OpenError::Store { .. })));
}

#[test]
fn a_lost_administrator_is_replaced_and_a_foreign_one_refused() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop(open(dir.path()).unwrap());
    drop(open(other.path()).unwrap());
    let cert = dir.path().join("admin/cert.pem");
    let first = std::fs::read(&cert).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(other.path().join("admin").join(name), dir.path().join("admin").join(name)).unwrap();
    }
    assert!(matches!(open(dir.path()), Err(OpenError::Admin { .. })));
    std::fs::remove_dir_all(dir.path().join("admin")).unwrap();
    drop(open(dir.path()).unwrap());
    assert_ne!(first, std::fs::read(&cert).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_administrator_is_renewed_at_the_next_start() {
    let server = Running::start().await;
    let before = from_pem(&server.path("admin/cert.pem"));
    // Past the end of its life.
    server.clock.advance(400 * DAY);
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert_ne!(before, from_pem(&server.path("admin/cert.pem")));
    assert_eq!(server.admin().get("/v1/audit").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_renewed_without_a_start_as_well() {
    let server = Running::start().await;
    let (before, key) = admin_identity(&server.path("admin"));
    server.clock.advance(59 * DAY);
    server.authority.housekeep().await.unwrap();
    assert_eq!(before, from_pem(&server.path("admin/cert.pem")));
    server.clock.advance(2 * DAY);
    // The server's own housekeeping may have come first, and still be at it.
    let renewed = async {
        while before == from_pem(&server.path("admin/cert.pem")) {
            server.authority.housekeep().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), renewed).await.unwrap();
    let (after, same_key) = admin_identity(&server.path("admin"));
    assert!(before != after && key == same_key);
    assert_eq!(server.admin().get("/v1/audit").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_audit_log_is_noticed() {
    let alterations = [
        ("UPDATE audit SET subject = 'b' WHERE number = 3", 3),
        ("UPDATE audit SET at = at + 1 WHERE number = 1", 1),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number = 5", 5),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET actor = actor || 'x', action = substr(action, 2) WHERE number = 4", 4),
    ];
    for (alteration, first_bad) in alterations {
        let server = Running::start().await;
        server.enrol("a", &["x"]).await;
        assert_eq!(server.authority.verify_audit().await.unwrap(), Ok(5));
        let (dir, clock, config) = server.stop().await;
        let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
        assert!(store.execute(alteration, []).unwrap() > 0);
        drop(store);
        let authority = Authority::open(&dir.path().join("data"), config, clock).unwrap();
        assert_eq!(authority.verify_audit().await.unwrap(), Err(first_bad), "{alteration}");
    }
}

/// Takes from a store what the first version of the program did not write.
fn as_version_1(dir: &Path) {
    crate::seals::as_before_data_keys(dir);
    let store = rusqlite::Connection::open(dir.join("authority/authority.db")).unwrap();
    let undo = "ALTER TABLE tokens ADD COLUMN device BLOB; ALTER TABLE tokens ADD COLUMN public_key BLOB; \
                ALTER TABLE tokens ADD COLUMN hpke_key BLOB; \
                UPDATE tokens SET (device, public_key, hpke_key) = \
                  (SELECT device, public_key, hpke_key FROM token_uses WHERE token = id); \
                DROP INDEX tokens_name; DROP TABLE token_uses; DROP TABLE token_serials; \
                ALTER TABLE tokens DROP COLUMN uses_max; ALTER TABLE tokens DROP COLUMN used; \
                ALTER TABLE tokens DROP COLUMN approval; ALTER TABLE tokens DROP COLUMN made; \
                ALTER TABLE tokens DROP COLUMN removed; ALTER TABLE tokens DROP COLUMN maker; ALTER TABLE devices DROP COLUMN serial; \
                DROP INDEX devices_suspended; ALTER TABLE devices DROP COLUMN suspended; \
                ALTER TABLE devices DROP COLUMN reset; ALTER TABLE devices DROP COLUMN policy; ALTER TABLE tokens DROP COLUMN policy; \
                ALTER TABLE rules DROP COLUMN labels; DROP TABLE access; DROP TABLE answers; DROP TABLE data_keys; DROP TABLE revocations_done; DROP TABLE revocations; DROP TABLE token_given; \
                DROP TABLE device_given; DROP TABLE device_groups; DROP TABLE profiles; DROP TABLE checkpoints; \
                DROP INDEX audit_at; DELETE FROM counters WHERE name = 'journal'; PRAGMA user_version = 1; \
                DELETE FROM documents WHERE name IN ('params/fabeo-kp', 'master/fabeo-kp')";
    store.execute_batch(undo).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_first_version_gets_the_second_suite() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let token = server.token("b", &["x"]).await;
    let rule = serde_json::json!({ "filter": "a/+", "mode": "required", "policy": "x" });
    server.admin().put("/v1/rules", &rule).await;
    let before = server.newest_bundle().await;
    let (dir, clock, config) = server.stop().await;
    as_version_1(&dir.path().join("data"));

    let server = Running::again(dir, clock, config).await;
    let bundle = server.newest_bundle().await;
    assert_eq!(bundle.number, before.number + 1, "whoever waits for a bundle learns of it");
    assert_eq!((bundle.params.len(), bundle.params[0]), (2, before.params[0]));
    assert_ne!(bundle.params[1], before.params[1], "drawn anew");
    assert_eq!(bundle.rules, before.rules);
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    let added: Vec<_> = rows.iter().filter(|row| row.action == "add-suite").collect();
    assert_eq!((added.len(), added[0].subject.as_str()), (1, "fabeo-kp"));
    assert!(matches!(server.authority.verify_audit().await, Ok(Ok(_))));
    // What was there goes on: keys of the first suite, a token that nobody used.
    let (header, _) = device.seal("x", &bundle, START);
    let keys: smqtt_core::api::Keys = server.client(&device).get("/v1/keys").await.json();
    assert_eq!((keys.keys.len(), keys.policy), (1, None));
    header.open(&device.params(), &device.open_key(&keys.keys[0])).unwrap();
    let own = DeviceKeys::generate();
    let answer = server.anonymous().post("/v1/enrol", &own.request(&token)).await;
    assert_eq!(answer.status, StatusCode::OK);
    // And the new suite is one to use.
    let reader = server.enrol_with_policy("c", &[], "ward=3").await;
    let (header, _) = reader.label("ward=3", &bundle, START);
    let keys = reader.open_keys(&reader.enrolment.keys);
    header.open(&reader.params_of(header.suite()), &keys[1]).unwrap();
    // Once is enough.
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.newest_bundle().await, bundle);
}

#[test]
fn a_suite_that_is_there_by_half_stops_the_start() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    let store = rusqlite::Connection::open(dir.path().join("authority/authority.db")).unwrap();
    store.execute("DELETE FROM documents WHERE name = 'params/fabeo-kp'", []).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Store { .. })));
    // And the first suite is never drawn again: all keys would be for nothing.
    store.execute("DELETE FROM documents WHERE name IN ('params/fabeo-cp', 'master/fabeo-cp')", []).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Store { .. })));
}
