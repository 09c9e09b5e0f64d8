//! What the root key is sealed under: each kind opens, wrong ones are named, a change is whole or has not happened.

use std::path::Path;
use std::sync::Arc;

use smqtt_keysvc::{
    Authority, Config, Custodian, NewSeal, OpenError, Resealed, Share, ShareError, UnsealError, change_seal,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::common::at_rest::secrets;
use crate::common::*;

/// Holds what tests give it.
#[derive(Default)]
struct Hands {
    passphrase: Option<&'static str>,
    next: Option<&'static str>,
    credentials: Vec<(&'static str, Vec<u8>)>,
    shares: Vec<String>,
    handed_out: Vec<String>,
    drops_shares: bool,
}

impl Custodian for Hands {
    fn passphrase(&mut self) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.passphrase.map(|text| Zeroizing::new(text.as_bytes().to_vec())))
    }

    fn new_passphrase(&mut self) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.next.map(|text| Zeroizing::new(text.as_bytes().to_vec())))
    }

    fn credential(&mut self, name: &str) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
        let found = self.credentials.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, secret)| Zeroizing::new(secret.clone())))
    }

    fn share(&mut self, have: usize, _: u8) -> std::io::Result<Option<Zeroizing<String>>> {
        Ok(self.shares.get(have).cloned().map(Zeroizing::new))
    }

    fn hand_out(&mut self, shares: &[Share]) -> std::io::Result<()> {
        self.handed_out = shares.iter().map(|share| share.expose().to_string()).collect();
        if self.drops_shares { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

fn open(dir: &Path, hands: &mut Hands) -> Result<Arc<Authority>, OpenError> {
    Authority::open_with(dir, Config::default(), clock(), hands)
}

fn seal(dir: &Path, hands: &mut Hands, to: NewSeal) -> Result<Resealed, OpenError> {
    change_seal(dir, &*clock(), hands, to)
}

fn unseal_error(result: Result<Arc<Authority>, OpenError>) -> UnsealError {
    match result.err() {
        Some(OpenError::Unseal(error)) => {
            assert!(!error.hint().is_empty());
            error
        }
        other => panic!("{other:?}"),
    }
}

fn fresh() -> (TempDir, String) {
    let dir = TempDir::new().unwrap();
    let fingerprint = open(dir.path(), &mut Hands::default()).unwrap().fingerprint().to_string();
    (dir, fingerprint)
}

const GOOD: &str = "correct horse battery staple";

#[tokio::test(flavor = "multi_thread")]
async fn every_seal_opens_what_it_sealed_and_the_change_is_in_the_record() {
    let (dir, fingerprint) = fresh();
    let dir = dir.path();
    let mut hands = Hands { next: Some(GOOD), ..Hands::default() };
    let done = seal(dir, &mut hands, NewSeal::Passphrase).unwrap();
    assert_eq!((done.from, done.to), ("file", "passphrase"));
    assert!(!dir.join("seal/seal.key").exists(), "an old key that lies about would open old copies");

    hands = Hands { passphrase: Some(GOOD), credentials: vec![("one", vec![7; 32])], ..Hands::default() };
    assert_eq!(open(dir, &mut hands).unwrap().fingerprint().to_string(), fingerprint);
    seal(dir, &mut hands, NewSeal::Credential { name: "one".into() }).unwrap();
    assert!(matches!(unseal_error(open(dir, &mut Hands::default())), UnsealError::NoCredential { .. }));
    let mut other = Hands { credentials: vec![("one", vec![8; 32])], ..Hands::default() };
    assert!(matches!(unseal_error(open(dir, &mut other)), UnsealError::Credential { .. }));

    seal(dir, &mut hands, NewSeal::Shares { threshold: 2, count: 3 }).unwrap();
    hands = Hands { shares: hands.handed_out[1..].to_vec(), ..Hands::default() };
    assert_eq!(open(dir, &mut hands).unwrap().fingerprint().to_string(), fingerprint);

    let done = seal(dir, &mut hands, NewSeal::KeyFile).unwrap();
    assert_eq!((done.from, done.to), ("shares", "file"));
    let authority = open(dir, &mut Hands::default()).unwrap();
    assert_eq!(authority.fingerprint().to_string(), fingerprint);
    assert!(authority.verify_audit().await.unwrap().is_ok());
    drop(authority);
    let store = rusqlite::Connection::open(dir.join("authority/authority.db")).unwrap();
    let changes: u64 = store
        .query_row("SELECT count(*) FROM audit WHERE action = 'change-seal'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(changes, 4);
}

#[test]
fn a_wrong_or_missing_passphrase_opens_nothing() {
    let (dir, _) = fresh();
    let short = &mut Hands { next: Some("too short"), ..Hands::default() };
    let refused = seal(dir.path(), short, NewSeal::Passphrase).err().unwrap();
    assert!(matches!(refused, OpenError::Unseal(UnsealError::PassphraseLength)), "{refused}");
    drop(open(dir.path(), &mut Hands::default()).expect("the old seal is as it was"));
    seal(dir.path(), &mut Hands { next: Some(GOOD), ..Hands::default() }, NewSeal::Passphrase).unwrap();
    for wrong in ["correct horse battery stapl", "Correct horse battery staple", ""] {
        let error =
            unseal_error(open(dir.path(), &mut Hands { passphrase: Some(wrong), ..Hands::default() }));
        assert!(matches!(error, UnsealError::Passphrase), "{error}");
        assert!(wrong.is_empty() || !error.to_string().contains(wrong));
    }
    let none = unseal_error(open(dir.path(), &mut Hands::default()));
    assert!(matches!(none, UnsealError::NoPassphrase));
    // Nobody changes the seal who cannot open it.
    let mut stranger =
        Hands { passphrase: Some("wrong, wrong, wrong"), next: Some(GOOD), ..Hands::default() };
    assert!(seal(dir.path(), &mut stranger, NewSeal::KeyFile).is_err());
    assert!(open(dir.path(), &mut Hands { passphrase: Some(GOOD), ..Hands::default() }).is_ok());
}

#[test]
fn shares_that_do_not_count_are_named() {
    let (dir, _) = fresh();
    let mut hands = Hands::default();
    for (threshold, count) in [(1, 3), (4, 3), (2, 33)] {
        let refused = seal(dir.path(), &mut hands, NewSeal::Shares { threshold, count });
        assert!(matches!(refused, Err(OpenError::Unseal(UnsealError::ShareNumbers))));
    }
    seal(dir.path(), &mut hands, NewSeal::Shares { threshold: 3, count: 5 }).unwrap();
    let mine = hands.handed_out;
    let (other, _) = fresh();
    let mut hands = Hands::default();
    seal(other.path(), &mut hands, NewSeal::Shares { threshold: 3, count: 5 }).unwrap();
    let theirs = hands.handed_out;
    let error = |shares: &[&String]| {
        let shares = shares.iter().map(|share| (*share).clone()).collect();
        unseal_error(open(dir.path(), &mut Hands { shares, ..Hands::default() }))
    };
    let too_few = error(&[&mine[0], &mine[4]]);
    assert!(matches!(too_few, UnsealError::TooFewShares { threshold: 3, have: 2 }), "{too_few}");
    let twice = error(&[&mine[0], &mine[1], &mine[0]]);
    assert!(matches!(twice, UnsealError::Share(ShareError::Duplicate { index: 1 })), "{twice}");
    let mixed = error(&[&mine[0], &theirs[1], &mine[2]]);
    assert!(matches!(mixed, UnsealError::Share(ShareError::OtherSet { index: 2, .. })), "{mixed}");
    let cut = error(&[&mine[0], &mine[1][..40].to_owned(), &mine[2]]);
    assert!(matches!(cut, UnsealError::Share(ShareError::Checksum)), "{cut}");
    // A forger can make the checksum fit, and the set: the store knows the shares by their hashes.
    let forged = forge(&mine[2]);
    assert!(Share::parse(&forged).is_ok());
    let wrong = error(&[&mine[0], &mine[1], &forged]);
    assert!(matches!(wrong, UnsealError::Share(ShareError::Wrong { index: 3 })), "{wrong}");
    for shares in [[4, 2, 0], [1, 2, 3]] {
        let shares = shares.iter().map(|at| mine[*at].clone()).collect();
        assert!(open(dir.path(), &mut Hands { shares, ..Hands::default() }).is_ok());
    }
}

/// The share with one bit of its value turned over and the checksum to go with it.
fn forge(share: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = URL_SAFE_NO_PAD.decode(share.strip_prefix("smqtt-share1.").unwrap()).unwrap();
    bytes[20] ^= 1;
    let sum = smqtt_core::crypto::sha256(&[b"SMQTT-V01 share", &bytes[..38]]);
    bytes[38..].copy_from_slice(&sum[..4]);
    format!("smqtt-share1.{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[test]
fn shares_that_nobody_got_change_nothing() {
    let (dir, _) = fresh();
    let mut hands = Hands { drops_shares: true, ..Hands::default() };
    let refused = seal(dir.path(), &mut hands, NewSeal::Shares { threshold: 2, count: 2 }).err().unwrap();
    assert!(matches!(refused, OpenError::Unseal(UnsealError::HandOut(_))), "{refused}");
    assert!(open(dir.path(), &mut Hands::default()).is_ok());
}

#[test]
fn a_credential_must_have_a_plain_name_and_be_long_enough() {
    let (dir, _) = fresh();
    for (name, bytes) in [("one", 31), ("one", 5000), ("../one", 32), ("", 32)] {
        let mut hands = Hands { credentials: vec![(name, vec![7; bytes])], ..Hands::default() };
        let refused = seal(dir.path(), &mut hands, NewSeal::Credential { name: name.into() });
        assert!(matches!(refused, Err(OpenError::Unseal(UnsealError::CredentialForm))), "{name} {bytes}");
    }
}

fn record(dir: &Path) -> Vec<u8> {
    let store = rusqlite::Connection::open(dir.join("authority/authority.db")).unwrap();
    store.query_row("SELECT bytes FROM documents WHERE name = 'seal'", [], |row| row.get(0)).unwrap()
}

fn set_record(dir: &Path, record: &[u8]) {
    let store = rusqlite::Connection::open(dir.join("authority/authority.db")).unwrap();
    store.execute("UPDATE documents SET bytes = ? WHERE name = 'seal'", [record]).unwrap();
}

#[test]
fn an_edited_or_cut_record_opens_nothing() {
    let (dir, _) = fresh();
    let good = record(dir.path());
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        set_record(dir.path(), &good[..cut]);
        unseal_error(open(dir.path(), &mut Hands::default()));
    }
    let text = String::from_utf8(good.clone()).unwrap();
    let edits = [
        text.replace("\"generation\":1", "\"generation\":2"),
        text.replace("\"wrapped\":\"", "\"wrapped\":\"AAAA"),
        text.replace("\"kind\":\"file\"", "\"kind\":\"magic\""),
    ];
    for edit in edits {
        assert_ne!(edit, text);
        set_record(dir.path(), edit.as_bytes());
        unseal_error(open(dir.path(), &mut Hands::default()));
    }
    set_record(dir.path(), &good);
    assert!(open(dir.path(), &mut Hands::default()).is_ok());
}

#[test]
fn a_record_cannot_make_the_start_take_all_memory() {
    let (dir, _) = fresh();
    seal(dir.path(), &mut Hands { next: Some(GOOD), ..Hands::default() }, NewSeal::Passphrase).unwrap();
    let text = String::from_utf8(record(dir.path())).unwrap();
    for (from, to) in [("65536", "4194304000"), ("\"passes\":3", "\"passes\":4000000000")] {
        set_record(dir.path(), text.replace(from, to).as_bytes());
        let error = unseal_error(open(dir.path(), &mut Hands { passphrase: Some(GOOD), ..Hands::default() }));
        assert!(matches!(error, UnsealError::Altered), "{error}");
    }
}

#[test]
fn seals_of_another_authority_and_of_yesterday_are_refused() {
    let ((dir, _), (other, _)) = (fresh(), fresh());
    // Key file and record of another authority, put in the place of ours, apart and together.
    let (mine, theirs) = (record(dir.path()), record(other.path()));
    set_record(dir.path(), &theirs);
    assert!(matches!(unseal_error(open(dir.path(), &mut Hands::default())), UnsealError::Altered));
    let key = std::fs::read(dir.path().join("seal/seal.key")).unwrap();
    std::fs::copy(other.path().join("seal/seal.key"), dir.path().join("seal/seal.key")).unwrap();
    assert!(matches!(unseal_error(open(dir.path(), &mut Hands::default())), UnsealError::Altered));
    set_record(dir.path(), &mine);
    let swapped = open(dir.path(), &mut Hands::default()).err().unwrap();
    assert!(matches!(swapped, OpenError::SealKeyWrong { .. }), "{swapped}");
    std::fs::write(dir.path().join("seal/seal.key"), &key).unwrap();

    // Whoever kept the old key file and the old record cannot put them back.
    seal(dir.path(), &mut Hands { next: Some(GOOD), ..Hands::default() }, NewSeal::Passphrase).unwrap();
    set_record(dir.path(), &mine);
    std::fs::write(dir.path().join("seal/seal.key"), &key).unwrap();
    let old = unseal_error(open(dir.path(), &mut Hands::default()));
    assert!(matches!(old, UnsealError::Older { got: 1, known: 2 }), "{old}");
}

#[test]
fn a_change_that_was_cut_short_leaves_the_old_seal_or_the_new_one() {
    let (dir, _) = fresh();
    let (key, next) = (dir.path().join("seal/seal.key"), dir.path().join("seal/seal.key.next"));
    let old = std::fs::read(&key).unwrap();
    // Before the commit: the new key lies there, and the store knows nothing of it.
    std::fs::write(&next, [7; 32]).unwrap();
    drop(open(dir.path(), &mut Hands::default()).unwrap());
    assert!(!next.exists() && std::fs::read(&key).unwrap() == old);
    // After the commit: the store names the key that waits.
    seal(dir.path(), &mut Hands::default(), NewSeal::KeyFile).unwrap();
    let new = std::fs::read(&key).unwrap();
    assert_ne!(old, new);
    std::fs::rename(&key, &next).unwrap();
    std::fs::write(&key, &old).unwrap();
    drop(open(dir.path(), &mut Hands::default()).unwrap());
    assert!(!next.exists() && std::fs::read(&key).unwrap() == new);
    // After the commit, on the way from a file to something else.
    seal(dir.path(), &mut Hands { next: Some(GOOD), ..Hands::default() }, NewSeal::Passphrase).unwrap();
    std::fs::write(&key, &new).unwrap();
    drop(open(dir.path(), &mut Hands { passphrase: Some(GOOD), ..Hands::default() }).unwrap());
    assert!(!key.exists());
}

#[test]
fn the_seal_is_not_changed_under_a_running_authority() {
    let (dir, _) = fresh();
    let running = open(dir.path(), &mut Hands::default()).unwrap();
    let refused = seal(dir.path(), &mut Hands::default(), NewSeal::KeyFile);
    assert!(matches!(refused, Err(OpenError::InUse { .. })));
    drop(running);
    let nowhere = seal(&dir.path().join("nowhere"), &mut Hands::default(), NewSeal::KeyFile);
    assert!(matches!(nowhere, Err(OpenError::NoAuthority { .. })));
    assert!(!dir.path().join("nowhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_secrets_the_key_file_sealed_itself_opens() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let before = (server.authority.fingerprint(), server.authority.params());
    let (dir, clock, config) = server.stop().await;
    let data = dir.path().join("data");
    as_before_data_keys(&data);
    // A seal key that is not its own opens nothing and changes nothing.
    let key = std::fs::read(data.join("seal/seal.key")).unwrap();
    std::fs::write(data.join("seal/seal.key"), [7; 32]).unwrap();
    let wrong = Authority::open(&data, config.clone(), clock.clone()).err().unwrap();
    assert!(matches!(wrong, OpenError::SealKeyWrong { .. }), "{wrong}");
    std::fs::write(data.join("seal/seal.key"), &key).unwrap();

    let server = Running::again(dir, clock, config).await;
    assert_eq!((server.authority.fingerprint(), server.authority.params()), before);
    assert!(server.authority.verify_audit().await.unwrap().is_ok());
    let keys: smqtt_core::api::Keys = server.client(&device).get("/v1/keys").await.json();
    let (header, _) = device.seal("x", &server.newest_bundle().await, START);
    header.open(&device.params(), &device.open_key(&keys.keys[0])).unwrap();
    let (dir, ..) = server.stop().await;
    assert!(record(&dir.path().join("data")).starts_with(b"{"));
}

/// Takes a store back to where the key file sealed each secret, as before there were data keys.
pub fn as_before_data_keys(data: &Path) {
    use smqtt_core::crypto::{AeadKey, Prk, random};
    let key: [u8; 32] = std::fs::read(data.join("seal/seal.key")).unwrap().try_into().unwrap();
    let store = rusqlite::Connection::open(data.join("authority/authority.db")).unwrap();
    for (name, secret) in secrets(data) {
        let nonce = random::<12>();
        let mut sealed = nonce.to_vec();
        let aad = format!("SMQTT-V01 at rest {name}");
        AeadKey::new(&key).seal_into(nonce, aad.as_bytes(), &secret, &mut sealed);
        let done = match name.starts_with("seal-") {
            true => store.execute("DELETE FROM documents WHERE name = ?", [&name]),
            false => store.execute("UPDATE documents SET bytes = ? WHERE name = ?", (&sealed, &name)),
        };
        assert_eq!(done.unwrap(), 1);
    }
    let last = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1";
    let (number, hash): (u64, Vec<u8>) =
        store.query_row(last, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let head: [u8; 32] = Prk::extract(&key, &[&number.to_be_bytes()[..], &hash].concat())
        .expand(&[b"SMQTT-V01 tag ", b"audit-head"]);
    store.execute("UPDATE documents SET bytes = ? WHERE name = 'audit-head'", [&head]).unwrap();
    let undo = "DELETE FROM documents WHERE name = 'seal'; DELETE FROM data_keys";
    store.execute_batch(undo).unwrap();
}
