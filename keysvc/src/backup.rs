//! The bytes of a backup: the store and its root key, sealed to recovery keys.
//!
//! ```text
//! "SMQTT-V01 backup\n" || length of the head (4, big-endian) || head, JSON || chunk…
//! chunk = AES-256-GCM(content key, nonce = 0 (3) || counter (8) || 1 if it is the last, else 0, aad = SHA-256(head))
//! ```
//!
//! Each chunk holds 64 KiB but the last, which may be shorter. The plaintext is the root key (32), then the store, as SQLite has it in one
//! snapshot. The content key is sealed with HPKE to each recovery key.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use smqtt_core::crypto::{AeadKey, NONCE_BYTES, Secret32, TAG_BYTES, sha256};
use zeroize::Zeroizing;

use crate::recovery::{RecoveryKey, RecoverySecret};

const MAGIC: &[u8] = b"SMQTT-V01 backup\n";
const INFO: &[u8] = b"SMQTT-V01 backup";
const HEAD_BYTES_MAX: usize = 64 << 10;
const CHUNK_BYTES: usize = 64 << 10;
const ROOT_KEY_BYTES: usize = 32;

/// What anybody can read of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupHead {
    /// Whose: the fingerprint of the authority's first root.
    pub authority: String,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Who can open it.
    pub recipients: Vec<Recipient>,
}

/// The content key, sealed to one recovery key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// Which recovery key.
    pub key: String,
    enc: String,
    sealed: String,
}

/// Why a backup is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The file cannot be read or written.
    #[error("the backup cannot be read or written")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("not a backup of an authority")]
    NotABackup,
    /// For somebody else.
    #[error("the backup is not sealed to the recovery key {key}, but to {others}")]
    OtherKey {
        /// The key that was tried.
        key: String,
        /// Those that fit.
        others: String,
    },
    /// Edited.
    #[error("the backup was altered")]
    Altered,
    /// Ends too early.
    #[error("the backup is incomplete: its end is missing")]
    Incomplete,
    /// What is in it does not hold together.
    #[error("what is in the backup does not hold together: {0}")]
    Content(String),
}

fn aad(authority: &str, created: u64) -> Vec<u8> {
    format!("{authority} {created}").into_bytes()
}

/// A content key and the head that tells it to its recipients.
pub(crate) fn head(authority: &str, created: u64, to: &[RecoveryKey]) -> (Zeroizing<[u8; 32]>, BackupHead) {
    let key = Zeroizing::new(*Secret32::random().expose());
    let recipient = |to: &RecoveryKey| {
        let (enc, sealed) = to.seal(INFO, &aad(authority, created), &*key);
        Recipient { key: to.id(), enc: STANDARD.encode(enc), sealed: STANDARD.encode(sealed) }
    };
    let recipients = to.iter().map(recipient).collect();
    (key, BackupHead { authority: authority.to_owned(), created, recipients })
}

impl BackupHead {
    /// The content key, for one of the recipients.
    fn open(&self, with: &RecoverySecret) -> Result<Zeroizing<[u8; 32]>, BackupError> {
        let id = with.public().id();
        let other = || BackupError::OtherKey {
            key: id.clone(),
            others: self.recipients.iter().map(|to| to.key.as_str()).collect::<Vec<_>>().join(", "),
        };
        let mine = self.recipients.iter().find(|to| to.key == id).ok_or_else(other)?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| BackupError::Altered);
        let aad = aad(&self.authority, self.created);
        let key = with.open(&bytes(&mine.enc)?, INFO, &aad, &bytes(&mine.sealed)?);
        let key = key.ok_or(BackupError::Altered)?;
        Ok(Zeroizing::new(key.as_slice().try_into().map_err(|_| BackupError::Altered)?))
    }
}

fn nonce(counter: u64, last: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[3..11].copy_from_slice(&counter.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce
}

/// Writes root key and store, sealed under the content key, and syncs them.
pub(crate) fn write(
    out: File,
    head: &BackupHead,
    key: &[u8; 32],
    root: &Secret32,
    store: &Path,
) -> Result<(), BackupError> {
    let json = serde_json::to_vec(head).expect("strings are JSON");
    let mut out = BufWriter::new(out);
    out.write_all(MAGIC)?;
    out.write_all(&(json.len() as u32).to_be_bytes())?;
    out.write_all(&json)?;
    let (aead, aad) = (AeadKey::new(key), sha256(&[&json]));
    let mut store = BufReader::new(File::open(store)?);
    let mut plain = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
    plain.extend(root.expose());
    let (mut counter, mut sealed) = (0, Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
    loop {
        let room = (CHUNK_BYTES - plain.len()) as u64;
        store.by_ref().take(room).read_to_end(&mut plain)?;
        let last = plain.len() < CHUNK_BYTES;
        sealed.clear();
        aead.seal_into(nonce(counter, last), &aad, &plain, &mut sealed);
        out.write_all(&sealed)?;
        if last {
            break;
        }
        plain.clear();
        counter += 1;
    }
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    Ok(())
}

/// The SHA-256 of a file, hexadecimal.
pub(crate) fn sha256_of(mut file: File) -> Result<String, BackupError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(sha256(&[&bytes]).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads the head, and where it ends.
fn read_head(file: &mut impl Read) -> Result<(BackupHead, Vec<u8>), BackupError> {
    let mut magic = [0; MAGIC.len()];
    let mut length = [0; 4];
    let begin = file.read_exact(&mut magic).and_then(|()| file.read_exact(&mut length));
    begin.map_err(|_| BackupError::NotABackup)?;
    let length = u32::from_be_bytes(length) as usize;
    if magic != MAGIC || length > HEAD_BYTES_MAX {
        return Err(BackupError::NotABackup);
    }
    let mut json = vec![0; length];
    file.read_exact(&mut json).map_err(|_| BackupError::Incomplete)?;
    let head = serde_json::from_slice(&json).map_err(|_| BackupError::Altered)?;
    Ok((head, json))
}

/// Who opens a backup.
pub(crate) enum Opener<'a> {
    /// Whoever has a recovery key.
    Secret(&'a RecoverySecret),
    /// Whoever has just written it.
    Content(&'a [u8; 32]),
}

/// Opens a backup: its head, its root key, and its store written to `store`.
pub(crate) fn read(
    backup: &Path,
    opener: &Opener<'_>,
    store: File,
) -> Result<(BackupHead, Secret32), BackupError> {
    let mut file = BufReader::new(File::open(backup)?);
    let (head, json) = read_head(&mut file)?;
    let key = match opener {
        Opener::Secret(secret) => head.open(secret)?,
        Opener::Content(key) => Zeroizing::new(**key),
    };
    let (aead, aad) = (AeadKey::new(&key), sha256(&[&json]));
    let mut out = BufWriter::new(store);
    let (mut counter, mut root) = (0, None);
    let (mut sealed, mut plain) = (Vec::with_capacity(CHUNK_BYTES + TAG_BYTES), Zeroizing::new(Vec::new()));
    loop {
        sealed.clear();
        file.by_ref().take((CHUNK_BYTES + TAG_BYTES) as u64).read_to_end(&mut sealed)?;
        let last = sealed.len() < CHUNK_BYTES + TAG_BYTES;
        plain.clear();
        if aead.open_into(nonce(counter, last), &aad, &sealed, &mut plain).is_none() {
            // A chunk that is whole and not the last, and nothing after it; or one that was cut.
            let whole = aead.open(nonce(counter, !last), &aad, &sealed).is_some();
            return Err(if whole || last { BackupError::Incomplete } else { BackupError::Altered });
        }
        let content = match root {
            Some(_) => &plain[..],
            None => {
                let (first, rest) =
                    plain.split_first_chunk::<ROOT_KEY_BYTES>().ok_or(BackupError::Altered)?;
                root = Some(Secret32::new(*first));
                rest
            }
        };
        out.write_all(content)?;
        if last {
            break;
        }
        counter += 1;
    }
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok((head, root.ok_or(BackupError::Altered)?))
}
