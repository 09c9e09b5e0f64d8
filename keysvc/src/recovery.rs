//! Recovery keys: backups are sealed to them. The secret half is kept away from the authority; the public half is text.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey};
use smqtt_core::crypto::sha256;
use zeroize::Zeroizing;

use crate::error::OpenError;
use crate::files;
use crate::hpke::SealTo;
use crate::pki::pem;

const PREFIX: &str = "smqtt-recovery1.";
const LABEL: &str = "SMQTT RECOVERY KEY";
const SECRET_BYTES: usize = 32;
/// Most keys that a backup is sealed to.
pub const RECOVERY_KEYS_MAX: usize = 16;

/// The public half: `smqtt-recovery1.` and the base64url of the uncompressed point of P-256.
#[derive(Clone)]
pub struct RecoveryKey(SealTo);

impl RecoveryKey {
    /// Reads what `Display` wrote; white space around it does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(PREFIX).filter(|body| body.len() <= 128)?;
        SealTo::new(&URL_SAFE_NO_PAD.decode(body).ok()?).map(Self)
    }

    /// Which key it is: 8 bytes of its hash, hexadecimal.
    pub fn id(&self) -> String {
        sha256(&[self.0.as_bytes()])[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Says in `data_dir` that backups may be sealed to it: whoever can write there, and nobody over HTTPS, decides that.
    ///
    /// # Errors
    /// [`OpenError::File`].
    pub fn trust(&self, data_dir: &Path) -> Result<(), OpenError> {
        let dir = directory(data_dir);
        files::make_dir(&dir)?;
        files::write_secret(&dir.join(format!("{}.pub", self.id())), format!("{self}\n").as_bytes())
    }

    /// The keys that backups may be sealed to, by identifier.
    ///
    /// # Errors
    /// [`OpenError::File`]; a file that is no key is left out, and the log says so.
    pub fn trusted(data_dir: &Path) -> Result<Vec<Self>, OpenError> {
        let dir = directory(data_dir);
        let failed = |source| OpenError::File { verb: "read", path: dir.clone(), source };
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "pub") {
                continue;
            }
            let text = files::read(&path)?.and_then(|bytes| String::from_utf8(bytes).ok());
            match text.and_then(|text| Self::parse(&text)) {
                Some(key) => keys.push(key),
                None => tracing::warn!(path = %path.display(), "not a recovery key"),
            }
        }
        keys.sort_by_key(Self::id);
        Ok(keys)
    }

    pub(crate) fn seal(&self, info: &[u8], aad: &[u8], secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.0.seal(info, aad, secret)
    }
}

fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("recovery")
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryKey({})", self.id())
    }
}

/// Both halves. Whoever has it opens every backup that was sealed to it.
pub struct RecoverySecret {
    public: RecoveryKey,
    secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for RecoverySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoverySecret({}, ..)", self.public.id())
    }
}

impl RecoverySecret {
    /// A fresh pair.
    pub fn generate() -> Self {
        let (public, secret) = SUITE.generate_key_pair().expect("the operating system gives random bytes");
        let public = RecoveryKey(SealTo::new(&public.0).expect("a key that was just made"));
        Self { public, secret: Zeroizing::new(secret.secret_bytes().to_vec()) }
    }

    /// The public half.
    pub fn public(&self) -> &RecoveryKey {
        &self.public
    }

    /// PEM: a secret.
    pub fn expose(&self) -> Zeroizing<String> {
        let both = Zeroizing::new([&self.secret[..], self.public.0.as_bytes()].concat());
        Zeroizing::new(pem(LABEL, &both))
    }

    /// Reads what `expose` gave. That the halves belong together shows when a backup opens.
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(&format!("-----BEGIN {LABEL}-----"))?;
        let body = body.strip_suffix(&format!("-----END {LABEL}-----"))?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let both = STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)?;
        let (secret, public) = both.split_at_checked(SECRET_BYTES)?;
        Some(Self { public: RecoveryKey(SealTo::new(public)?), secret: Zeroizing::new(secret.to_vec()) })
    }

    pub(crate) fn open(
        &self,
        enc: &[u8],
        info: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let secret = HpkePrivateKey::from(self.secret.to_vec());
        let enc = EncapsulatedSecret(enc.to_vec());
        SUITE.open(&enc, info, aad, sealed, &secret).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_round_trip_and_nothing_else_parses() {
        let secret = RecoverySecret::generate();
        let again = RecoverySecret::parse(&secret.expose()).unwrap();
        assert_eq!(again.public().to_string(), secret.public().to_string());
        let public = RecoveryKey::parse(&format!(" {}\n", secret.public())).unwrap();
        let (enc, sealed) = public.seal(b"info", b"aad", b"hello");
        assert_eq!(&again.open(&enc, b"info", b"aad", &sealed).unwrap()[..], b"hello");
        assert!(RecoverySecret::generate().open(&enc, b"info", b"aad", &sealed).is_none());
        let text = public.to_string();
        for bad in ["", "smqtt-recovery1.", &text[..60], &text.replace(PREFIX, "x"), &format!("{text}A")] {
            assert!(RecoveryKey::parse(bad).is_none(), "{bad}");
        }
        assert!(RecoverySecret::parse("").is_none());
        assert!(!format!("{secret:?}").contains(&secret.expose()[40..60]));
    }
}
