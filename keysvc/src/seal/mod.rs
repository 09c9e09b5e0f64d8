//! The seal: what the root key is sealed under. One small record in the store, so that another seal rewraps 32 bytes.
//!
//! ```text
//! seal  ->  root key  ->  a data key for each secret  ->  the secret
//! ```

mod custodian;
mod key_file;
mod shares;

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use smqtt_core::crypto::{AeadKey, NONCE_BYTES, Prk, Secret32, TAG_BYTES, random};
use zeroize::Zeroizing;

use crate::error::OpenError;

pub use custodian::{Custodian, Unattended};
pub(crate) use key_file::KeyFile;
pub use shares::{SHARES_MAX, Share, ShareError};

/// Fewest bytes of a passphrase: what is sealed under it may be tried out at leisure by whoever has a copy.
pub const PASSPHRASE_BYTES_MIN: usize = 12;
/// Fewest bytes of a systemd credential, which is taken to be random.
pub const CREDENTIAL_BYTES_MIN: usize = 32;
/// Most bytes of a passphrase or credential.
pub const SECRET_BYTES_MAX: usize = 4096;
/// Argon2id as RFC 9106, section 4, has it for machines with little memory, one lane.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// What a record may ask for: it is read before anything vouches for it.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// Why the seal does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealError {
    /// Nobody there to ask.
    #[error("the store is sealed under a passphrase, and none was given")]
    NoPassphrase,
    /// Not that one.
    #[error("the passphrase is wrong")]
    Passphrase,
    /// Not as long as it has to be.
    #[error("a passphrase has {PASSPHRASE_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
    PassphraseLength,
    /// systemd did not give it.
    #[error("the store is sealed under the credential `{name}`, which is not among those of this process")]
    NoCredential {
        /// Its name.
        name: String,
    },
    /// Another one.
    #[error("the credential `{name}` does not fit this store")]
    Credential {
        /// Its name.
        name: String,
    },
    /// Too short, too long or no name.
    #[error("a credential has a plain name and {CREDENTIAL_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes")]
    CredentialForm,
    /// Not enough of them.
    #[error("the store is sealed under {threshold} shares, and {have} were given")]
    TooFewShares {
        /// How many it takes.
        threshold: u8,
        /// How many there were.
        have: usize,
    },
    /// One that does not belong to the others.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Numbers that make no sense.
    #[error("shares are 2 to {SHARES_MAX}, of which at least 2 are needed")]
    ShareNumbers,
    /// The record was edited, or is another authority's.
    #[error("the sealed root key was altered, or is another authority's")]
    Altered,
    /// The record is one from before a change of the seal or of the root key.
    #[error("the sealed root key is number {got}, and the store has seen number {known}")]
    Older {
        /// Its number.
        got: u64,
        /// The store's.
        known: u64,
    },
    /// The shares did not reach their holders.
    #[error("the shares could not be handed out")]
    HandOut(#[source] std::io::Error),
    /// The terminal, or a file.
    #[error("what opens the seal cannot be read")]
    Read(#[source] std::io::Error),
}

impl UnsealError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPassphrase => {
                "start it in a terminal, give the passphrase on standard input, or `--passphrase-file FILE`"
            }
            Self::Passphrase => "is the keyboard's layout the right one?",
            Self::PassphraseLength => "five random words are good",
            Self::NoCredential { .. } => {
                "`LoadCredentialEncrypted=` in its unit names it; see systemd.exec(5)"
            }
            Self::Credential { .. } => "put the credential back that was there when the seal was changed",
            Self::CredentialForm => {
                "`head -c 32 /dev/urandom | systemd-creds encrypt - FILE` makes a good one"
            }
            Self::TooFewShares { .. } => "give `--share FILE` for each, or start it in a terminal",
            Self::Share(_) => "ask its holder for the whole line, as it was handed out",
            Self::ShareNumbers => "three of five is a usual choice",
            Self::Altered | Self::Older { .. } => {
                "restore a backup: the store's files do not belong together"
            }
            Self::HandOut(_) => "the seal is as it was; destroy what was handed out",
            Self::Read(_) => "check the file, or the terminal",
        }
    }
}

/// What to seal under from now on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NewSeal {
    /// A key in a file beside the data.
    KeyFile,
    /// A passphrase, asked of the custodian.
    Passphrase,
    /// A credential that systemd gives.
    Credential {
        /// Its name.
        name: String,
    },
    /// Shares, of which any `threshold` open it.
    Shares {
        /// How many open it.
        threshold: u8,
        /// How many there are.
        count: u8,
    },
}

/// How the root key is sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Method {
    File { key: String },
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
    Credential { name: String },
    Shares { set: String, threshold: u8, digests: Vec<String> },
}

impl Method {
    fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Passphrase { .. } => "passphrase",
            Self::Credential { .. } => "credential",
            Self::Shares { .. } => "shares",
        }
    }
}

/// What the wrapped root key is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    /// The fingerprint of the authority's first root.
    authority: String,
    /// Rises with every change of seal or root key.
    generation: u64,
    method: Method,
}

/// The record in the store, JSON.
#[derive(Serialize, Deserialize)]
struct Record {
    head: Head,
    /// Nonce, ciphertext, tag.
    wrapped: String,
}

/// A seal that is open: it can seal another root key.
#[derive(Clone)]
pub(crate) struct Seal {
    method: Method,
    key: Secret32,
}

/// A root key that was just unsealed.
pub(crate) struct Unsealed {
    pub(crate) seal: Seal,
    pub(crate) generation: u64,
    pub(crate) root: Secret32,
}

impl Seal {
    /// What it is called on the command line, in the audit log and in metrics.
    pub(crate) fn name(&self) -> &'static str {
        self.method.name()
    }

    pub(crate) fn of_key_file(file: &KeyFile) -> Self {
        Self { method: Method::File { key: file.id() }, key: file.key().clone() }
    }

    /// A seal that nobody ever opens: its key is nowhere but here. For a store that is looked at and thrown away.
    pub(crate) fn of_nobody() -> Self {
        Self { method: Method::File { key: "nobody".to_owned() }, key: Secret32::random() }
    }

    pub(crate) fn of_passphrase(passphrase: &[u8]) -> Result<Self, UnsealError> {
        if !(PASSPHRASE_BYTES_MIN..=SECRET_BYTES_MAX).contains(&passphrase.len()) {
            return Err(UnsealError::PassphraseLength);
        }
        let salt = STANDARD.encode(random::<16>());
        let method = Method::Passphrase { salt, memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let key = stretch(&method, passphrase).ok_or(UnsealError::Altered)?;
        Ok(Self { method, key })
    }

    pub(crate) fn of_credential(name: String, secret: &[u8]) -> Result<Self, UnsealError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let named = (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.');
        if !named || !(CREDENTIAL_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(UnsealError::CredentialForm);
        }
        Ok(Self { key: extract(secret), method: Method::Credential { name } })
    }

    /// A seal that any `threshold` of the shares open. The shares are all that there is of its key.
    pub(crate) fn of_shares(threshold: u8, count: u8) -> Result<(Self, Vec<Share>), UnsealError> {
        let key = Secret32::random();
        let shares = shares::split(&key, threshold, count).ok_or(UnsealError::ShareNumbers)?;
        let set = shares[0].set();
        let digests = shares.iter().map(Share::digest).collect();
        Ok((Self { method: Method::Shares { set, threshold, digests }, key }, shares))
    }

    /// The record of `root`, sealed for this authority under this generation.
    pub(crate) fn wrap(&self, authority: &str, generation: u64, root: &Secret32) -> Vec<u8> {
        let head = Head { authority: authority.to_owned(), generation, method: self.method.clone() };
        let nonce = random::<NONCE_BYTES>();
        let mut wrapped = Vec::with_capacity(NONCE_BYTES + 32 + TAG_BYTES);
        wrapped.extend(nonce);
        AeadKey::new(self.key.expose()).seal_into(nonce, &aad(&head), root.expose(), &mut wrapped);
        serde_json::to_vec(&Record { head, wrapped: STANDARD.encode(wrapped) }).expect("strings are JSON")
    }

    /// Opens the record of `authority`, asking `custodian` for what it takes; a key file is looked for in `dir`.
    pub(crate) fn open(
        record: &[u8],
        authority: &str,
        dir: &Path,
        custodian: &mut dyn Custodian,
    ) -> Result<Unsealed, OpenError> {
        let Record { head, wrapped } = serde_json::from_slice(record).map_err(|_| UnsealError::Altered)?;
        let wrapped = STANDARD.decode(wrapped).map_err(|_| UnsealError::Altered)?;
        if head.authority != authority {
            return Err(UnsealError::Altered.into());
        }
        // What a record that does not open with this key means.
        let (key, wrong): (Secret32, OpenError) = match &head.method {
            Method::File { key } => (KeyFile::find(dir, key)?.key().clone(), UnsealError::Altered.into()),
            Method::Passphrase { .. } => {
                let passphrase = custodian.passphrase().map_err(UnsealError::Read)?;
                let passphrase = passphrase.ok_or(UnsealError::NoPassphrase)?;
                let key = stretch(&head.method, &passphrase).ok_or(UnsealError::Altered)?;
                (key, UnsealError::Passphrase.into())
            }
            Method::Credential { name } => {
                let secret = custodian.credential(name).map_err(UnsealError::Read)?;
                let secret = secret.ok_or_else(|| UnsealError::NoCredential { name: name.clone() })?;
                (extract(&secret), UnsealError::Credential { name: name.clone() }.into())
            }
            Method::Shares { set, threshold, digests } => {
                let key = shares::gather(custodian, set, *threshold, digests)?;
                (key, UnsealError::Altered.into())
            }
        };
        let opened = wrapped.split_first_chunk::<NONCE_BYTES>().and_then(|(nonce, sealed)| {
            AeadKey::new(key.expose()).open(*nonce, &aad(&head), sealed).map(Zeroizing::new)
        });
        let Some(opened) = opened else { return Err(wrong) };
        let root: [u8; 32] = opened.as_slice().try_into().map_err(|_| UnsealError::Altered)?;
        Ok(Unsealed {
            seal: Self { method: head.method, key },
            generation: head.generation,
            root: Secret32::new(root),
        })
    }
}

fn aad(head: &Head) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("strings and numbers are JSON");
    [b"SMQTT-V01 root key ", head.as_slice()].concat()
}

/// The key of a passphrase; `None` where the record asks for what no record of ours asks for.
fn stretch(method: &Method, passphrase: &[u8]) -> Option<Secret32> {
    let Method::Passphrase { salt, memory_kib, passes, lanes } = method else { return None };
    let salt = STANDARD.decode(salt).ok().filter(|salt| salt.len() == 16)?;
    if *memory_kib > MEMORY_KIB_MAX || *passes > PASSES_MAX || *lanes > LANES_MAX {
        return None;
    }
    let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(passphrase, &salt, &mut *key).ok()?;
    Some(Secret32::new(*key))
}

fn extract(secret: &[u8]) -> Secret32 {
    Secret32::new(Prk::extract(b"", secret).expand(&[b"SMQTT-V01 seal credential"]))
}
