//! The keyring: everything a device holds, in one directory that only its owner can enter.
//!
//! ```text
//! device.key  hpke.key     made on the device, never sent            certificate.pem  root.pem, one root or two
//! identity.json            who, and where authority and broker are  bundle.cose  params.json
//! keys.json                user secret keys                         replay.log
//! revision                 that of the device when they were issued certificate.next.pem, on trial
//! ```

mod next;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use smqtt_core::api::{Enrolment, KEY_HPKE_INFO, SealedKey};
use smqtt_core::bundle::{BUNDLE_BYTES_MAX, Bundle, BundleError};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::{Header, Signer};
use smqtt_core::identity::{DeviceId, IdentityError, verify_certificate};
use smqtt_core::lineage::Lineage;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Params, SuiteError, UserKey};
use zeroize::Zeroizing;

use crate::authority::Kept;
use crate::files::{FileError, private_dir, read_bounded, read_if_any, write_private};

/// Most bytes of any file of a keyring.
const FILE_BYTES_MAX: usize = 16 << 20;
/// How long keys of past epochs are kept, in epochs.
pub const PAST_EPOCHS_KEPT: u64 = 35;

const DEVICE_KEY: &str = "device.key";
const HPKE_KEY: &str = "hpke.key";
const CERTIFICATE: &str = "certificate.pem";
const ROOT: &str = "root.pem";
const IDENTITY: &str = "identity.json";
const BUNDLE: &str = "bundle.cose";
const PARAMS: &str = "params.json";
const KEYS: &str = "keys.json";
const REVISION: &str = "revision";

/// Why a keyring cannot be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Nobody enrolled here.
    #[error("no enrolled device in `{}`", .0.display())]
    NotEnrolled(PathBuf),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that is not what it should be.
    #[error("`{file}` in the keyring is damaged")]
    Damaged {
        /// Which.
        file: &'static str,
    },
    /// What the authority sent does not hold.
    #[error("the authority's certificate for this device does not hold")]
    Certificate(#[source] IdentityError),
    /// What the authority sent does not hold.
    #[error("the authority's bundle does not hold")]
    Bundle(#[source] BundleError),
    /// What the authority sent does not hold.
    #[error("the authority's keys or parameters do not hold")]
    Suite(#[source] SuiteError),
    /// What the authority sent cannot be read.
    #[error("the authority's answer cannot be read")]
    Answer,
}

impl KeyringError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotEnrolled(_) => Some("enrol first: `smqtt enrol --dir DIR` with a token on stdin"),
            Self::Damaged { .. } => Some("enrol again into another directory, with a new token"),
            _ => None,
        }
    }
}

/// Who the device is and where to turn to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The device's identifier, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `device` or `broker`.
    pub role: String,
    /// The authority's address.
    pub authority: String,
    /// The broker's address, if the authority knows one.
    pub broker: Option<String>,
    /// The policy that its key-policy keys carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// The device's own key pairs, made before anything is sent.
pub struct OwnKeys {
    /// Signs, and proves who it is in TLS.
    pub signing: SigningKey,
    /// The authority seals user secret keys to it.
    pub hpke_public: Vec<u8>,
    hpke_secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnKeys(..)")
    }
}

impl OwnKeys {
    /// The key pairs in `dir`, made and written first if there are none: a retry uses the same.
    ///
    /// # Errors
    /// [`KeyringError`] where they cannot be read or written.
    pub fn load_or_make(dir: &Path) -> Result<Self, KeyringError> {
        private_dir(dir)?;
        if let Some(keys) = Self::load(dir)? {
            return Ok(keys);
        }
        let signing = SigningKey::generate();
        let (public, secret) =
            hpke().generate_key_pair().map_err(|_| KeyringError::Damaged { file: HPKE_KEY })?;
        let stored = Zeroizing::new([secret.secret_bytes(), &public.0].concat());
        write_private(&dir.join(HPKE_KEY), pem("SMQTT HPKE KEY", &stored).as_bytes())?;
        write_private(&dir.join(DEVICE_KEY), pem("PRIVATE KEY", signing.expose_pkcs8()).as_bytes())?;
        let hpke_secret = Zeroizing::new(secret.secret_bytes().to_vec());
        Ok(Self { signing, hpke_public: public.0, hpke_secret })
    }

    fn load(dir: &Path) -> Result<Option<Self>, KeyringError> {
        let Some(signing) = read_if_any(&dir.join(DEVICE_KEY), FILE_BYTES_MAX)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let damaged = |file| KeyringError::Damaged { file };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&signing).map_err(|_| damaged(DEVICE_KEY))?;
        let signing = SigningKey::from_pkcs8(key.secret_pkcs8_der()).ok_or(damaged(DEVICE_KEY))?;
        let hpke = Zeroizing::new(read_bounded(&dir.join(HPKE_KEY), FILE_BYTES_MAX)?);
        let hpke = unpem("SMQTT HPKE KEY", &hpke).ok_or(damaged(HPKE_KEY))?;
        let (secret, public) = hpke.split_at_checked(32).ok_or(damaged(HPKE_KEY))?;
        if public.len() != 65 {
            return Err(damaged(HPKE_KEY));
        }
        let hpke_secret = Zeroizing::new(secret.to_vec());
        Ok(Some(Self { signing, hpke_public: public.to_vec(), hpke_secret }))
    }

    /// Opens a user secret key that the authority sealed to this device.
    fn unseal(&self, device: DeviceId, sealed: &SealedKey) -> Result<UserKey, KeyringError> {
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| KeyringError::Answer);
        let enc = rustls::crypto::hpke::EncapsulatedSecret(bytes(&sealed.enc)?);
        let secret = rustls::crypto::hpke::HpkePrivateKey::from(self.hpke_secret.to_vec());
        let key = hpke()
            .open(&enc, KEY_HPKE_INFO, &device.0, &bytes(&sealed.ciphertext)?, &secret)
            .map(Zeroizing::new)
            .map_err(|_| KeyringError::Answer)?;
        UserKey::decode(&key).map_err(KeyringError::Suite)
    }
}

fn hpke() -> &'static dyn rustls::crypto::hpke::Hpke {
    rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256
}

/// An enrolled device.
#[derive(Debug)]
pub struct Keyring {
    dir: PathBuf,
    place: Place,
    hpke: OwnKeys,
    signer: Signer,
    roots: Vec<Vec<u8>>,
    bundle_bytes: Vec<u8>,
    bundle: Bundle,
    params: Vec<Params>,
    keys: Vec<UserKey>,
    policy: Option<Policy>,
    key_generation: usize,
    revision: u64,
    /// A certificate on trial.
    next: Option<Vec<u8>>,
    /// Before then none is asked for, as the last one did not work.
    renewal_not_before: u64,
    /// To the authority, as the holder of the certificate.
    connection: Kept,
}

impl Keyring {
    /// Reads the keyring in `dir`.
    ///
    /// # Errors
    /// [`KeyringError`], saying what is missing or damaged.
    pub fn load(dir: &Path) -> Result<Self, KeyringError> {
        let Some(identity) = read_if_any(&dir.join(IDENTITY), FILE_BYTES_MAX)? else {
            return Err(KeyringError::NotEnrolled(dir.to_owned()));
        };
        let damaged = |file| KeyringError::Damaged { file };
        let place: Place = serde_json::from_slice(&identity).map_err(|_| damaged(IDENTITY))?;
        let policy = place.policy.as_deref().map(Policy::parse).transpose();
        let own = OwnKeys::load(dir)?.ok_or(damaged(DEVICE_KEY))?;
        let certificate = read_certificate(dir, CERTIFICATE)?;
        let known = read_certificates(dir, ROOT)?;
        let signing = SigningKey::from_pkcs8(own.signing.expose_pkcs8()).ok_or(damaged(DEVICE_KEY))?;
        let signer = Signer::new(signing, certificate).map_err(|_| damaged(CERTIFICATE))?;
        let bundle_bytes = read_bounded(&dir.join(BUNDLE), BUNDLE_BYTES_MAX)?;
        let bundle = Bundle::verify(&bundle_bytes, &known).map_err(|_| damaged(BUNDLE))?;
        let roots = roots_under(&bundle, &known);
        if roots != known {
            // The bundle came, and the process ended before the roots were written. Where they cannot be, the bundle says
            // the same the next time.
            let _ = write_private(&dir.join(ROOT), pem_all(&roots).as_bytes());
        }
        let texts = |file| {
            let bytes = Zeroizing::new(read_bounded(&dir.join(file), FILE_BYTES_MAX)?);
            let texts: Vec<Zeroizing<String>> = serde_json::from_slice::<Vec<String>>(&bytes)
                .map_err(|_| damaged(file))?
                .into_iter()
                .map(Zeroizing::new)
                .collect();
            let decode = |t: &Zeroizing<String>| STANDARD.decode(t.as_bytes()).map(Zeroizing::new);
            texts.iter().map(decode).collect::<Result<Vec<_>, _>>().map_err(|_| damaged(file))
        };
        // Without it the keys are fetched once more.
        let revision = read_if_any(&dir.join(REVISION), 64)?.and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).ok()?;
            text.trim().parse::<u64>().ok()
        });
        let next = next::load(dir, &signer)?;
        let params = texts(PARAMS)?.iter().map(|b| Params::decode(b)).collect::<Result<_, _>>();
        let keys = texts(KEYS)?.iter().map(|b| UserKey::decode(b)).collect::<Result<_, _>>();
        Ok(Self {
            dir: dir.to_owned(),
            place,
            hpke: own,
            signer,
            roots,
            bundle_bytes,
            bundle,
            params: params.map_err(|_| damaged(PARAMS))?,
            keys: keys.map_err(|_| damaged(KEYS))?,
            policy: policy.map_err(|_| damaged(IDENTITY))?,
            key_generation: 0,
            revision: revision.unwrap_or_default(),
            next,
            renewal_not_before: 0,
            connection: Kept::default(),
        })
    }

    /// Stores what the authority answered to an enrolment with the keys in `dir`, after checking all of
    /// it. The file that makes the keyring complete comes last: a crash leaves it enrolled or not.
    ///
    /// # Errors
    /// [`KeyringError`]; nothing is usable then.
    pub fn create(
        dir: &Path,
        authority: &str,
        own: OwnKeys,
        enrolment: &Enrolment,
        now: u64,
    ) -> Result<Self, KeyringError> {
        let bytes = |text: &String| STANDARD.decode(text).map_err(|_| KeyringError::Answer);
        let (certificate, root) = (bytes(&enrolment.certificate)?, bytes(&enrolment.root)?);
        let bundle_bytes = bytes(&enrolment.bundle)?;
        let known = [root];
        let bundle = Bundle::verify(&bundle_bytes, &known).map_err(KeyringError::Bundle)?;
        let roots = roots_under(&bundle, &known);
        // The device's clock may be behind; its certificate says when the authority's clock was.
        verify_certificate(&certificate, &roots, now)
            .or_else(|error| match error {
                IdentityError::NotValidThen => verify_certificate(&certificate, &roots, bundle.issued),
                other => Err(other),
            })
            .map_err(KeyringError::Certificate)?;
        let signing = SigningKey::from_pkcs8(own.signing.expose_pkcs8()).ok_or(KeyringError::Answer)?;
        let signer = Signer::new(signing, certificate.clone()).map_err(KeyringError::Certificate)?;
        let params = enrolment.params.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
        let params = params.iter().map(|b| Params::decode(b)).collect::<Result<_, _>>();
        let place = Place {
            id: enrolment.id.clone(),
            name: enrolment.name.clone(),
            role: enrolment.role.clone(),
            authority: authority.to_owned(),
            broker: enrolment.broker.clone(),
            policy: enrolment.policy.clone(),
        };
        let policy = place.policy.as_deref().map(Policy::parse).transpose();
        let mut keyring = Self {
            dir: dir.to_owned(),
            place,
            hpke: own,
            signer,
            roots,
            bundle_bytes,
            bundle,
            params: params.map_err(KeyringError::Suite)?,
            keys: Vec::new(),
            policy: policy.map_err(|_| KeyringError::Answer)?,
            key_generation: 0,
            revision: 0,
            next: None,
            renewal_not_before: 0,
            connection: Kept::default(),
        };
        write_private(&dir.join(CERTIFICATE), pem("CERTIFICATE", &certificate).as_bytes())?;
        write_private(&dir.join(ROOT), pem_all(&keyring.roots).as_bytes())?;
        keyring.write_params()?;
        write_private(&dir.join(BUNDLE), &keyring.bundle_bytes)?;
        keyring.take_keys(&enrolment.keys)?;
        keyring.take_revision(enrolment.revision)?;
        let place = serde_json::to_vec_pretty(&keyring.place).map_err(|_| KeyringError::Answer)?;
        write_private(&dir.join(IDENTITY), &place)?;
        Ok(keyring)
    }

    fn write_params(&self) -> Result<(), KeyringError> {
        let texts: Vec<String> = self.params.iter().map(|p| STANDARD.encode(p.encode())).collect();
        let json = serde_json::to_vec(&texts).map_err(|_| KeyringError::Answer)?;
        Ok(write_private(&self.dir.join(PARAMS), &json)?)
    }

    /// Adds public parameters that the bundle names, whoever gave them: their identifier is their hash.
    ///
    /// # Errors
    /// [`KeyringError::File`]; the keyring is then as it was.
    pub fn take_params(&mut self, bundle: &Bundle, texts: &[String]) -> Result<(), KeyringError> {
        let had = self.params.len();
        for text in texts {
            let bytes = STANDARD.decode(text).map_err(|_| KeyringError::Answer)?;
            // Of a suite that this program does not know, perhaps.
            let Ok(params) = Params::decode(&bytes) else { continue };
            let known = self.params.iter().any(|own| own.id() == params.id());
            if !known && bundle.params.contains(params.id()) {
                self.params.push(params);
            }
        }
        let written = if self.params.len() > had { self.write_params() } else { Ok(()) };
        written.inspect_err(|_| self.params.truncate(had))
    }

    /// Adds user secret keys that the authority sealed to this device, and forgets those of epochs
    /// long past. A key for other labels of the same epoch stays: it opens what was sealed before a
    /// version was raised. One that is there already stays as well, as it has been seen to work.
    ///
    /// # Errors
    /// [`KeyringError`]; the keyring is then as it was.
    pub fn take_keys(&mut self, sealed: &[SealedKey]) -> Result<(), KeyringError> {
        let fresh =
            sealed.iter().map(|key| self.hpke.unseal(self.id(), key)).collect::<Result<Vec<_>, _>>()?;
        let mut keys = self.keys.clone();
        for key in fresh {
            let is_same = |old: &UserKey| {
                (old.suite(), old.epoch(), old.scope(), old.params_id())
                    == (key.suite(), key.epoch(), key.scope(), key.params_id())
            };
            if !keys.iter().any(is_same) {
                keys.push(key);
            }
        }
        // After a long sleep keys come before the bundle that tells of their epochs.
        let newest = keys.iter().map(UserKey::epoch).chain([self.bundle.epoch.number]).max();
        let oldest = newest.unwrap_or_default().saturating_sub(PAST_EPOCHS_KEPT);
        keys.retain(|key| key.epoch() >= oldest);
        let texts: Vec<String> = keys.iter().map(|k| STANDARD.encode(&*k.encode())).collect();
        let texts = Zeroizing::new(texts);
        let json = Zeroizing::new(serde_json::to_vec(&*texts).map_err(|_| KeyringError::Answer)?);
        write_private(&self.dir.join(KEYS), &json)?;
        self.keys = keys;
        self.key_generation += 1;
        Ok(())
    }

    /// Notes the policy that its key-policy keys carry from now on.
    ///
    /// # Errors
    /// [`KeyringError::Answer`] where it is none, or a file error; the keyring is then as it was.
    pub fn take_policy(&mut self, policy: Option<&str>) -> Result<(), KeyringError> {
        if policy == self.place.policy.as_deref() {
            return Ok(());
        }
        let parsed = policy.map(Policy::parse).transpose().map_err(|_| KeyringError::Answer)?;
        let place = Place { policy: policy.map(str::to_owned), ..self.place.clone() };
        let json = serde_json::to_vec_pretty(&place).map_err(|_| KeyringError::Answer)?;
        write_private(&self.dir.join(IDENTITY), &json)?;
        (self.place, self.policy) = (place, parsed);
        Ok(())
    }

    /// Notes the revision of the device at which the authority issued these keys.
    ///
    /// # Errors
    /// A file error.
    pub fn take_revision(&mut self, revision: u64) -> Result<(), KeyringError> {
        if revision != self.revision {
            write_private(&self.dir.join(REVISION), revision.to_string().as_bytes())?;
            self.revision = revision;
        }
        Ok(())
    }

    /// The revision of the device, as the authority counts, at which its keys were issued.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes a newer bundle; an older one is refused, one with the same number changes nothing.
    ///
    /// # Errors
    /// [`KeyringError::Bundle`] or a file error; the keyring is then as it was.
    pub fn take_bundle(&mut self, bytes: &[u8]) -> Result<bool, KeyringError> {
        let bundle = Bundle::verify(bytes, &self.roots).map_err(KeyringError::Bundle)?;
        let (got, known) = (bundle.number, self.bundle.number);
        if got < known || (got == known && bytes != self.bundle_bytes && bundle != self.bundle) {
            return Err(KeyringError::Bundle(BundleError::Older { got, known }));
        }
        if got == known {
            return Ok(false);
        }
        write_private(&self.dir.join(BUNDLE), bytes)?;
        let roots = roots_under(&bundle, &self.roots);
        if roots != self.roots {
            // After the bundle, which leads from the old roots to these; where they cannot be written, at the next load.
            let _ = write_private(&self.dir.join(ROOT), pem_all(&roots).as_bytes());
            self.roots = roots;
            // The server was believed for the sake of others.
            self.connection = Kept::default();
        }
        self.bundle_bytes = bytes.to_vec();
        self.bundle = bundle;
        Ok(true)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who it is, and where to turn to.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The device's identifier.
    pub fn id(&self) -> DeviceId {
        self.signer.identity().id
    }

    /// The device's key pairs.
    pub fn own(&self) -> &OwnKeys {
        &self.hpke
    }

    /// What signs headers.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The roots that vouch for everyone.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// The connection to the authority that was asked over last.
    pub(crate) fn connection(&self) -> &Kept {
        &self.connection
    }

    /// The roots that did before they were retired.
    pub fn past_roots(&self) -> &[Vec<u8>] {
        self.bundle.lineage.as_ref().map_or(&[], Lineage::past)
    }

    /// What a TLS server sends after its own certificate, so that whoever knows but one root, or its fingerprint, follows.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        match &self.bundle.lineage {
            Some(lineage) => lineage.chain().map(<[u8]>::to_vec).collect(),
            None => self.roots.clone(),
        }
    }

    /// The newest bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The newest bundle as the authority signed it.
    pub fn bundle_bytes(&self) -> &[u8] {
        &self.bundle_bytes
    }

    /// The public parameters.
    pub fn params(&self) -> &[Params] {
        &self.params
    }

    /// The user secret keys.
    pub fn keys(&self) -> &[UserKey] {
        &self.keys
    }

    /// The policy that its key-policy keys carry; `None`: it has none.
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Changes whenever [`Keyring::take_keys`] did: whoever was refused may try again.
    pub fn key_generation(&self) -> usize {
        self.key_generation
    }

    /// The parameters of a header, if they are known.
    pub fn params_of(&self, header: &Header) -> Option<&Params> {
        self.params.iter().find(|params| params.id() == header.params_id())
    }
}

/// A keyring that publishing, opening and refreshing share.
#[derive(Clone, Debug)]
pub struct SharedKeyring(Arc<Mutex<Keyring>>);

impl SharedKeyring {
    /// Shares `keyring`.
    pub fn new(keyring: Keyring) -> Self {
        Self(Arc::new(Mutex::new(keyring)))
    }

    /// Runs `act` on the keyring; never across an await.
    pub fn with<T>(&self, act: impl FnOnce(&mut Keyring) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_certificate(dir: &Path, file: &'static str) -> Result<Vec<u8>, KeyringError> {
    let pem = read_bounded(&dir.join(file), FILE_BYTES_MAX)?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|_| KeyringError::Damaged { file })?;
    Ok(der.to_vec())
}

fn read_certificates(dir: &Path, file: &'static str) -> Result<Vec<Vec<u8>>, KeyringError> {
    let pem = read_bounded(&dir.join(file), FILE_BYTES_MAX)?;
    certificates_of(&pem).ok_or(KeyringError::Damaged { file })
}

/// The certificates of a PEM file (DER), at least one; what else is in it is passed over. `None` where it has none, or is no PEM.
pub fn certificates_of(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all: Vec<_> = all.ok()?.into_iter().map(|der| der.to_vec()).collect();
    (!all.is_empty()).then_some(all)
}

/// The roots in trust under a bundle that was verified by those known before.
fn roots_under(bundle: &Bundle, known: &[Vec<u8>]) -> Vec<Vec<u8>> {
    bundle.lineage.as_ref().map_or_else(|| known.to_vec(), |lineage| lineage.in_trust().to_vec())
}

fn pem_all(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem("CERTIFICATE", der).to_string()).collect()
}

/// RFC 7468 text.
pub fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut out = Zeroizing::new(String::with_capacity(body.len() * 2 + 2 * label.len() + 64));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn unpem(label: &str, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(text).ok()?;
    let body = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}
