//! Backups: sealed, whole, and of no use to whoever wants a revocation undone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::StatusCode;
use smqtt_core::api::{BackupMade, Device as ApiDevice, Keys};
use smqtt_core::header::Header;
use smqtt_keysvc::{
    Authority, BackupError, Clock, Config, OpenError, RecoveryKey, RecoverySecret, Restore, Restored, Since,
    restore,
};

use tempfile::TempDir;

use crate::audit::Random;
use crate::common::at_rest::{keys_at_rest, secrets};
use crate::common::*;

async fn back_up(server: &Running, key: &RecoverySecret) -> PathBuf {
    key.public().trust(&server.path("")).unwrap();
    let answer = server.admin().post("/v1/backup", &serde_json::json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let made: BackupMade = answer.json();
    assert!(made.recovery_keys.contains(&key.public().id()));
    server.path("backups").join(made.file)
}

async fn restore_to(
    data: &Path,
    backup: &Path,
    key: &RecoverySecret,
    since: Since,
    bundles: Vec<Vec<u8>>,
    clock: Arc<ManualClock>,
) -> Result<Restored, OpenError> {
    restore(Restore { backup, key, since, bundles }, data, &Config::default(), clock).await
}

pub async fn revoke(server: &Running, name: &str) {
    let answer = server.admin().post(&format!("/v1/devices/{name}/revoke"), &serde_json::json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_authority_un_revokes_nobody_and_its_bundles_are_newer_than_any() {
    let server = Running::start().await;
    let reader = server.enrol("reader", &["ward=3"]).await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    let before = server.enrol("before", &["x"]).await;
    revoke(&server, "before").await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    // What the backup does not know: a revocation, epochs, one who came and went, one suspended, one who lost an attribute.
    let old_token = server.token("later", &["x"]).await;
    revoke(&server, "thief").await;
    for _ in 0..3 {
        server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    }
    let guest = server.enrol("guest", &["x"]).await;
    revoke(&server, "guest").await;
    let bundle = server.newest_bundle().await;
    let roots = server.roots();
    let (dir, clock, config) = server.stop().await;

    clock.advance(3600);
    let journal = dir.path().join("data/revocations/journal");
    let data = dir.path().join("restored");
    let since = Since::Journal(journal);
    let done = restore_to(&data, &backup, &key, since, Vec::new(), clock.clone()).await.unwrap();
    assert_eq!(done.shut_out, ["guest", "thief"]);
    assert_eq!(done.epoch, bundle.epoch.number + 1);
    std::fs::rename(dir.path().join("data"), dir.path().join("lost")).unwrap();
    std::fs::rename(&data, dir.path().join("data")).unwrap();
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.roots(), roots);
    let after = server.newest_bundle().await;
    assert!(after.number > bundle.number && after.epoch.number > bundle.epoch.number);
    for gone in [&before, &thief, &guest] {
        assert!(after.is_revoked(gone.id()));
        assert_eq!(server.client(gone).get("/v1/keys").await.status, StatusCode::FORBIDDEN);
    }
    let label = "ward=3".parse().unwrap();
    assert!(after.versions.get(&label) >= bundle.versions.get(&label) && after.versions.get(&label) > 0);
    // Whoever stayed reads on, what is sealed now and what was.
    let keys: Keys = server.client(&reader).get("/v1/keys").await.json();
    let (header, _) = reader.seal("ward=3", &after, server.now());
    let opened = reader.open_keys(&keys.keys).iter().any(|key| header.open(&reader.params(), key).is_ok());
    assert!(opened);
    // A token from before may have been used since: it is worth nothing.
    let answer = server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&old_token)).await;
    assert!(answer.status.is_client_error(), "{}", answer.text());
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    let restored = rows.iter().find(|row| row.action == "restore").unwrap();
    assert!(
        restored.subject.contains("guest, thief") && restored.subject.contains("journal"),
        "{restored:?}"
    );
    assert!(server.authority.verify_audit().await.unwrap().is_ok());
    // The old administrator's certificate was in the hands of whoever had the old machine.
    let devices: Vec<ApiDevice> = server.admin().get("/v1/devices").await.json();
    let admins: Vec<_> = devices.iter().filter(|device| device.role == "admin").collect();
    assert_eq!(admins.iter().filter(|admin| admin.status == "active").count(), 1);
    assert_eq!(admins.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspensions_and_lost_attributes_outlive_a_restore() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let nurse = server.enrol("nurse", &["ward=3", "x"]).await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    server.admin().post("/v1/devices/a/suspend", &serde_json::json!({})).await;
    let change = serde_json::json!({ "remove": ["ward"] });
    let path = format!("/v1/devices/{}", nurse.enrolment.id);
    let answer = server.admin().patch(&path, &change).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    let server = replaced(server.stop().await, &backup, &key).await;
    let a: ApiDevice = server.admin().get("/v1/devices/a").await.json();
    assert_eq!(a.status, "suspended");
    let nurse: ApiDevice = server.admin().get("/v1/devices/nurse").await.json();
    assert_eq!(nurse.attributes, ["x"]);
}

/// Puts an authority out of `backup`, with its journal, in the place of the one that was stopped.
async fn replaced(
    (dir, clock, config): (Arc<TempDir>, Arc<ManualClock>, Config),
    backup: &Path,
    key: &RecoverySecret,
) -> Running {
    let since = Since::Journal(dir.path().join("data/revocations/journal"));
    let data = dir.path().join("restored");
    restore_to(&data, backup, key, since, Vec::new(), clock.clone()).await.unwrap();
    std::fs::rename(dir.path().join("data"), dir.path().join("lost")).unwrap();
    std::fs::rename(&data, dir.path().join("data")).unwrap();
    Running::again(dir, clock, config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_slept_through_epochs_that_the_backup_does_not_know_is_given_their_keys() {
    let server = Running::start().await;
    let sleeper = server.enrol("sleeper", &["ward=3"]).await;
    server.enrol("thief", &["ward=3"]).await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    // An epoch that the backup does not know, sealed in before a version was raised and after.
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    let early = sleeper.seal("ward=3", &server.newest_bundle().await, server.now()).0;
    revoke(&server, "thief").await;
    let late = sleeper.seal("ward=3", &server.newest_bundle().await, server.now()).0;
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    let other = sleeper.seal("ward=3", &server.newest_bundle().await, server.now()).0;
    let server = replaced(server.stop().await, &backup, &key).await;
    let keys: Keys = server.client(&sleeper).get("/v1/keys").await.json();
    let keys = sleeper.open_keys(&keys.keys);
    let opens = |header: &Header| keys.iter().any(|key| header.open(&sleeper.params(), key).is_ok());
    // As ever, of an epoch that is over there are keys for how its versions ended.
    assert_eq!([&early, &late, &other].map(opens), [false, true, true]);
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    let epochs: Vec<_> = rows.iter().filter(|row| row.action == "begin-epoch").map(|r| &r.subject).collect();
    assert!(epochs.ends_with(&[&"2".to_owned(), &"3".to_owned()]), "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_renewed_after_the_backup_has_as_long_as_anybody_to_renew_again() {
    let server = Running::start().await;
    let mut device = server.enrol("a", &["x"]).await;
    let other = server.enrol("b", &["x"]).await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    server.clock.advance(25 * DAY);
    device.enrolment = server.client(&device).post("/v1/renew", &device.keys.renewal()).await.json();
    let server = replaced(server.stop().await, &backup, &key).await;
    // A month for which the new certificate held, and nearly all of the window; for the other's first one that is too late.
    server.clock.advance(59 * DAY);
    let late = server.client(&other).post("/v1/renew", &other.keys.renewal()).await;
    late.problem(403, "certificate-expired");
    let client = server.client(&device);
    client.post("/v1/renew", &DeviceKeys::generate().renewal()).await.problem(400, "csr");
    let answer = client.post("/v1/renew", &device.keys.renewal()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_journal_the_newest_bundle_that_anybody_kept_tells() {
    let server = Running::start().await;
    let thief = server.enrol("thief", &["ward=3"]).await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    revoke(&server, "thief").await;
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
    let kept = server.admin().get("/v1/bundle").await.body.to_vec();
    let bundle = server.bundle(&kept);
    let (dir, clock, _) = server.stop().await;
    clock.advance(5 * DAY);
    let restored = |to: &str, bundles: Vec<Vec<u8>>| {
        let (data, clock) = (dir.path().join(to), clock.clone());
        let (backup, key) = (&backup, &key);
        async move { restore_to(&data, backup, key, Since::Lost, bundles, clock).await }
    };
    // Nothing known: said so, and the epoch is above what may have been seen.
    let blind = restored("blind", Vec::new()).await.unwrap();
    assert_eq!((blind.known_until, blind.shut_out.len()), (None, 0));
    assert!(blind.epoch > bundle.epoch.number + 5);
    let seeing = restored("seeing", vec![kept.clone()]).await.unwrap();
    assert_eq!((seeing.known_until, &seeing.shut_out[..]), (Some(bundle.issued), &["thief".to_owned()][..]));
    let authority = Authority::open(&dir.path().join("seeing"), Config::default(), clock.clone()).unwrap();
    drop(authority);
    // A bundle that somebody made up is no source.
    let mut forged = kept;
    let at = forged.len() - 1;
    forged[at] ^= 1;
    let refused = restored("forged", vec![forged]).await.err().unwrap();
    assert!(matches!(refused, OpenError::Backup(BackupError::Content(_))), "{refused}");
    assert!(!dir.path().join("forged").exists());
    let _ = thief;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_old_or_edited_is_refused() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    server.enrol("b", &["x"]).await;
    revoke(&server, "a").await;
    let journal = server.path("revocations/journal");
    let old = std::fs::read(&journal).unwrap();
    revoke(&server, "b").await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    let (dir, clock, _) = server.stop().await;
    let whole = std::fs::read(&journal).unwrap();
    assert!(whole.starts_with(&old) && whole.len() > old.len());
    let mut edited = whole.clone();
    edited[10] ^= 1;
    for (at, bytes) in [old, edited, Vec::new()].into_iter().enumerate() {
        let copy = dir.path().join(format!("journal-{at}"));
        std::fs::write(&copy, bytes).unwrap();
        let data = dir.path().join("restored");
        let refused = restore_to(&data, &backup, &key, Since::Journal(copy), Vec::new(), clock.clone()).await;
        let refused = refused.err().unwrap();
        assert!(matches!(refused, OpenError::Journal { .. }), "{refused}");
        assert!(!data.exists() && !refused.hint().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_cut_or_foreign_backup_restores_nothing() {
    let server = Running::start().await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    let (dir, clock, _) = server.stop().await;
    let good = std::fs::read(&backup).unwrap();
    let (file, data) = (dir.path().join("backup"), dir.path().join("restored"));
    let attempt = |bytes: Vec<u8>| {
        std::fs::write(&file, bytes).unwrap();
        let (file, data, key, clock) = (&file, &data, &key, clock.clone());
        async move {
            let refused = restore_to(data, file, key, Since::Lost, Vec::new(), clock).await.err().unwrap();
            assert!(!data.exists());
            match refused {
                OpenError::Backup(error) => error,
                other => panic!("{other}"),
            }
        }
    };
    let chunk = (64 << 10) + 16;
    let head_ends = good.len() - {
        let length = u32::from_be_bytes(good[17..21].try_into().unwrap()) as usize;
        good.len() - (21 + length)
    };
    for cut in [0, 10, 20, head_ends - 1, head_ends, head_ends + 5, head_ends + chunk, good.len() - 1] {
        let error = attempt(good[..cut].to_vec()).await;
        assert!(matches!(error, BackupError::NotABackup | BackupError::Incomplete), "cut at {cut}: {error}");
    }
    for at in [0, 18, 30, head_ends - 20, head_ends + 3, head_ends + chunk + 3, good.len() - 1] {
        let mut edited = good.clone();
        edited[at] ^= 1;
        attempt(edited).await;
    }
    // Chunks in another order, and one twice.
    let (head, body) = good.split_at(head_ends);
    let (first, rest) = body.split_at(chunk);
    let (second, rest) = rest.split_at(chunk);
    attempt([head, second, first, rest].concat()).await;
    attempt([head, first, first, second, rest].concat()).await;
    attempt([&good[..], b"more"].concat()).await;
    let other = RecoverySecret::generate();
    let refused =
        restore_to(&data, &backup, &other, Since::Lost, Vec::new(), clock.clone()).await.err().unwrap();
    let named = refused.to_string();
    assert!(named.contains(&other.public().id()) && named.contains(&key.public().id()), "{named}");
    // And nothing is written over what there is.
    std::fs::create_dir_all(data.join("authority")).unwrap();
    let taken = restore_to(&data, &backup, &key, Since::Lost, Vec::new(), clock).await.err().unwrap();
    assert!(matches!(taken, OpenError::Taken { .. }), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_no_key_in_the_clear_and_goes_to_nobody_unknown() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let none = server.admin().post("/v1/backup", &serde_json::json!({})).await;
    none.problem(409, "recovery-key");
    let (mine, stranger) = (RecoverySecret::generate(), RecoverySecret::generate());
    let backup = back_up(&server, &mine).await;
    let to = serde_json::json!({ "to": [stranger.public().to_string()] });
    let refused = server.admin().post("/v1/backup", &to).await;
    // An administrator's certificate is not the master secret.
    refused.problem(409, "recovery-key");
    let known = RecoveryKey::trusted(&server.path("")).unwrap();
    assert_eq!(known.len(), 1);
    let left: Vec<_> = std::fs::read_dir(server.path("backups")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing lies about: {left:?}");
    let mut canaries = vec![device.open_key(&device.enrolment.keys[0]).encode().to_vec()];
    let (dir, ..) = server.stop().await;
    let data = dir.path().join("data");
    let (root, data_keys) = keys_at_rest(&data);
    canaries.push(root);
    canaries.extend(data_keys.into_iter().map(|(_, key)| key));
    canaries.extend(secrets(&data).into_iter().map(|(_, secret)| secret).filter(|secret| secret.len() >= 32));
    canaries.push(std::fs::read(data.join("seal/seal.key")).unwrap());
    let bytes = std::fs::read(&backup).unwrap();
    for canary in canaries {
        // Of a PKCS #8 key the secret is bytes 36 to 68.
        let canary = if canary.len() > 100 && canary[0] == 0x30 { &canary[36..68] } else { &canary[..] };
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_key_seals_what_the_old_one_did_and_the_old_one_opens_nothing() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let (dir, clock, config) = server.stop().await;
    let before = keys_at_rest(&dir.path().join("data"));
    let old_store = std::fs::read(dir.path().join("data/authority/authority.db")).unwrap();
    let server = Running::again(dir, clock, config).await;
    let rotated: smqtt_core::api::RootKeyRotated =
        server.admin().post("/v1/rotate/root-key", &serde_json::json!({})).await.json();
    assert_eq!(rotated.data_keys as usize, before.1.len());
    // Without an outage: everything goes on, and again.
    assert_eq!(server.client(&device).get("/v1/keys").await.status, StatusCode::OK);
    server.admin().post("/v1/rotate/root-key", &serde_json::json!({})).await;
    server.enrol("b", &["x"]).await;
    let key = RecoverySecret::generate();
    back_up(&server, &key).await;
    let (dir, clock, config) = server.stop().await;
    let after = keys_at_rest(&dir.path().join("data"));
    assert_ne!(before.0, after.0);
    // The data keys are the same, sealed anew; the record's number was written anew.
    let same = |keys: Vec<(String, Vec<u8>)>| -> Vec<_> {
        keys.into_iter().filter(|(name, _)| name != "seal-generation").collect()
    };
    assert_eq!(same(before.1), same(after.1));
    // The record of before does not open the keys of now.
    let path = dir.path().join("data/authority/authority.db");
    let record = |bytes: &[u8]| -> Vec<u8> {
        let copy = dir.path().join("copy.db");
        std::fs::write(&copy, bytes).unwrap();
        let store = rusqlite::Connection::open(copy).unwrap();
        store.query_row("SELECT bytes FROM documents WHERE name = 'seal'", [], |row| row.get(0)).unwrap()
    };
    let (old, new) = (record(&old_store), record(&std::fs::read(&path).unwrap()));
    let set = |record: &[u8]| {
        let store = rusqlite::Connection::open(&path).unwrap();
        store.execute("UPDATE documents SET bytes = ? WHERE name = 'seal'", [record]).unwrap();
    };
    set(&old);
    let refused = Authority::open(&dir.path().join("data"), config.clone(), clock.clone());
    assert!(matches!(refused.err(), Some(OpenError::Unseal(_))));
    set(&new);
    let server = Running::again(dir, clock, config).await;
    assert!(server.authority.verify_audit().await.unwrap().is_ok());
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert_eq!(rows.iter().filter(|row| row.action == "rotate-root-key").count(), 2);
    let _ = server.clock.now();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_old_rows_were_forgotten_is_backed_up_and_restored() {
    let server = Running::with(Config { audit_days: Some(10), ..Config::default() }).await;
    for day in 0..20 {
        server.token(&format!("d{day}"), &["x"]).await;
        server.clock.advance(DAY);
        server.authority.housekeep().await.unwrap();
    }
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert!(rows[0].number > 1);
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    let (dir, clock, _) = server.stop().await;
    let since = Since::Journal(dir.path().join("data/revocations/journal"));
    let data = dir.path().join("restored");
    restore_to(&data, &backup, &key, since, Vec::new(), clock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_a_group_since_the_backup_gets_nothing_back_when_the_group_changes() {
    let server = Running::start().await;
    let admin = server.admin();
    let group = |extra: &str| serde_json::json!({ "attributes": ["ward=3", extra] });
    admin.put("/v1/groups/ward-3", &group("x")).await;
    admin.put("/v1/profiles/nurse", &serde_json::json!({ "attributes": ["role=nurse", "keys"] })).await;
    let mut devices = Vec::new();
    for (name, of) in [("leaver", "group"), ("stayer", "group"), ("nurse", "profile")] {
        let of_what = if of == "group" { "ward-3" } else { "nurse" };
        let request = serde_json::json!({ "name": name, of: of_what, "attributes": ["own"] });
        let token: smqtt_core::api::NewToken = admin.post("/v1/tokens", &request).await.json();
        let keys = DeviceKeys::generate();
        let token = smqtt_core::token::Token::parse(&token.token).unwrap();
        let answer = server.anonymous().post("/v1/enrol", &keys.request(&token)).await;
        devices.push(Device::new(keys, answer.json()));
    }
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    // Since: one leaves the group, the profile loses an attribute.
    let left = admin.patch("/v1/devices/leaver", &serde_json::json!({ "group": null })).await;
    assert_eq!(left.status, StatusCode::OK, "{}", left.text());
    admin.put("/v1/profiles/nurse", &serde_json::json!({ "attributes": ["role=nurse"] })).await;
    let server = replaced(server.stop().await, &backup, &key).await;
    let admin = server.admin();
    let has = async |name: &str| {
        let device: ApiDevice = admin.get(&format!("/v1/devices/{name}")).await.json();
        device.attributes
    };
    assert_eq!(has("leaver").await, ["own"]);
    assert_eq!(has("nurse").await, ["own", "role=nurse"]);
    // What was taken away does not come back with the next change, of the group or of the device.
    admin.put("/v1/groups/ward-3", &group("y")).await;
    for name in ["leaver", "nurse"] {
        let change = serde_json::json!({ "add": ["z"] });
        admin.patch(&format!("/v1/devices/{name}"), &change).await;
    }
    assert_eq!(has("leaver").await, ["own", "z"]);
    assert_eq!(has("nurse").await, ["own", "role=nurse", "z"]);
    assert_eq!(has("stayer").await, ["own", "ward=3", "y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_at_once_in_any_order_end_the_same_in_the_store_and_in_the_journal() {
    let server = Running::start().await;
    let mut devices = Vec::new();
    for n in 0..24 {
        devices.push(server.enrol(&format!("d{n}"), &["x", &format!("n={n}")]).await);
    }
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    // Everything at everybody, by identifier: a name may go to another.
    let (mut dice, mut tasks, mut ended) = (Random(7), Vec::new(), std::collections::BTreeSet::new());
    for _ in 0..6 {
        for device in &devices {
            let (admin, id) = (server.admin(), device.id().to_string());
            let verb = ["suspend", "resume", "suspend", "resume", "reset", "revoke"][dice.below(6)];
            let change = serde_json::json!({ "set": [format!("n={}", dice.below(100))] });
            tasks.push(tokio::spawn(async move {
                if verb == "suspend" {
                    admin.patch(&format!("/v1/devices/{id}"), &change).await;
                }
                let answer = admin.post(&format!("/v1/devices/{id}/{verb}"), &serde_json::json!({})).await;
                assert!(!answer.status.is_server_error(), "{}", answer.text());
                (id, verb, answer.status.is_success())
            }));
        }
    }
    for task in tasks {
        let (id, verb, done) = task.await.unwrap();
        if done && matches!(verb, "reset" | "revoke") {
            ended.insert(id);
        }
    }
    assert!(!ended.is_empty() && ended.len() < devices.len(), "{}", ended.len());
    let states = async |server: &Running| {
        let mut states = Vec::new();
        for device in &devices {
            let shown: ApiDevice = server.admin().get(&format!("/v1/devices/{}", device.id())).await.json();
            states.push((shown.id, shown.status, shown.attributes));
        }
        states
    };
    let before = states(&server).await;
    for (id, status, _) in &before {
        assert_eq!(ended.contains(id), status == "revoked", "{id} {status}");
    }
    let versions = server.newest_bundle().await.versions;
    let server = replaced(server.stop().await, &backup, &key).await;
    assert_eq!(states(&server).await, before);
    let restored = server.newest_bundle().await;
    assert!(versions.iter().all(|(key, version)| restored.versions.get(key) >= version));
    for (device, (_, status, _)) in devices.iter().zip(&before) {
        let (out, keys) = (status != "active", server.client(device).get("/v1/keys").await.status);
        assert_eq!(out, keys == StatusCode::FORBIDDEN, "{status} {keys}");
        assert_eq!(out, restored.is_revoked(device.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restores_into_one_directory_do_not_take_each_others_files() {
    let server = Running::start().await;
    let key = RecoverySecret::generate();
    let backup = back_up(&server, &key).await;
    let (dir, clock, _) = server.stop().await;
    let data = dir.path().join("restored");
    let partial = dir.path().join("restored.restoring");
    // One that is under way, as another process would have it.
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("file"), b"theirs").unwrap();
    let lock = std::fs::File::create(dir.path().join("restored.restoring.lock")).unwrap();
    lock.lock().unwrap();
    let refused = restore_to(&data, &backup, &key, Since::Lost, Vec::new(), clock.clone()).await;
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
    assert!(partial.join("file").exists() && !data.exists());
    // It was killed: what it left goes.
    drop(lock);
    restore_to(&data, &backup, &key, Since::Lost, Vec::new(), clock.clone()).await.unwrap();
    let beside = |name: &str| dir.path().join(name).exists();
    assert!(beside("restored") && !beside("restored.restoring") && !beside("restored.restoring.lock"));
    let twice = restore_to(&data, &backup, &key, Since::Lost, Vec::new(), clock).await;
    assert!(matches!(twice, Err(OpenError::Taken { .. })));
}
