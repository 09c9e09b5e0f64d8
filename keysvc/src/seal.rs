//! Secrets at rest: sealed under a key that lies in a file beside, not inside, the data.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use smqtt_core::crypto::{AeadKey, NONCE_BYTES, Prk, Secret32, random};
use zeroize::Zeroizing;

use crate::error::OpenError;
use crate::files;

const KEY_BYTES: usize = 32;

/// What seals and opens the records of the store.
#[derive(Clone)]
pub(crate) struct SealKey {
    key: Secret32,
    path: PathBuf,
}

/// A sealed record: the nonce, then ciphertext and tag.
pub(crate) type Sealed = Vec<u8>;

impl SealKey {
    /// Reads the key; makes one where there is none, provided that nothing was sealed before.
    pub(crate) fn open(path: &Path, may_create: bool) -> Result<Self, OpenError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound && may_create => {
                let fresh = Secret32::random();
                files::write_secret(path, fresh.expose())?;
                Zeroizing::new(fresh.expose().to_vec())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(OpenError::SealKeyMissing { path: path.to_owned() });
            }
            Err(source) => return Err(OpenError::File { verb: "read", path: path.to_owned(), source }),
        };
        files::warn_if_others_read(path);
        let wrong = || OpenError::SealKeyWrong { path: path.to_owned() };
        let key: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| wrong())?;
        Ok(Self { key: Secret32::new(key), path: path.to_owned() })
    }

    /// Seals `secret` as the record `name`: it opens under no other name.
    pub(crate) fn seal(&self, name: &str, secret: &[u8]) -> Sealed {
        let nonce = random::<NONCE_BYTES>();
        let mut out = Vec::with_capacity(NONCE_BYTES + secret.len() + 16);
        out.extend(nonce);
        out.extend(secret);
        AeadKey::new(self.key.expose()).seal(nonce, &aad(name), &mut out, NONCE_BYTES);
        out
    }

    /// Opens the record `name`; `None` where key, name or bytes are not those that sealed it.
    pub(crate) fn open_record(&self, name: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        AeadKey::new(self.key.expose()).open(*nonce, &aad(name), ciphertext).map(Zeroizing::new)
    }

    /// A tag on `message` as the record `name`: HMAC-SHA-256 under this key, then HKDF-Expand.
    pub(crate) fn tag(&self, name: &str, message: &[u8]) -> [u8; 32] {
        Prk::extract(self.key.expose(), message).expand(&[b"SMQTT-V01 tag ", name.as_bytes()])
    }

    /// The error for a record that does not open.
    pub(crate) fn wrong(&self) -> OpenError {
        OpenError::SealKeyWrong { path: self.path.clone() }
    }
}

fn aad(name: &str) -> Vec<u8> {
    format!("SMQTT-V01 at rest {name}").into_bytes()
}
