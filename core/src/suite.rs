//! A suite: an attribute-based encryption scheme used as a key encapsulation mechanism.

use std::fmt;

use minicbor::{Decoder, Encoder};
use zeroize::Zeroizing;

use crate::access::Access;
use crate::attribute::{LABELS_MAX, Label};
use crate::crypto::{Secret32, sha256};
use crate::fabeo::FabeoCp;

/// Bytes of the identifier of public parameters.
pub const PARAMS_ID_BYTES: usize = 16;
/// Most bytes that any encoded key or parameters may have.
pub const KEY_BYTES_MAX: usize = 1 << 20;

/// Which suite. The name is what goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SuiteId {
    /// FABEO, ciphertext-policy: the policy is in the header, attributes are in the key.
    FabeoCp,
}

impl SuiteId {
    /// The suite of this name; `None` for names nobody knows, those of evaluation-only schemes among them.
    pub fn from_name(name: &str) -> Option<Self> {
        (name == "fabeo-cp").then_some(Self::FabeoCp)
    }

    /// The name in headers and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::FabeoCp => "fabeo-cp",
        }
    }

    /// The implementation.
    pub fn suite(self) -> &'static dyn Suite {
        match self {
            Self::FabeoCp => &FabeoCp,
        }
    }
}

impl fmt::Display for SuiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a key, parameters or an encapsulation was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// The key's labels do not satisfy the access formula.
    #[error("the key does not satisfy the policy")]
    NotSatisfied,
    /// The key was made under other public parameters.
    #[error("the key belongs to other public parameters")]
    OtherParams,
    /// Not as many bytes as the policy needs.
    #[error("the encapsulation is malformed")]
    Malformed,
    /// The bytes decode, but nobody who followed the suite made them: altered or forged.
    #[error("the encapsulation was altered")]
    Inconsistent,
    /// Encoded parameters or key that cannot be read.
    #[error("not a valid {0}")]
    Encoding(&'static str),
}

/// Public parameters: what everyone needs to encapsulate. CBOR `[suite, material]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Params {
    suite: SuiteId,
    material: Vec<u8>,
    id: [u8; PARAMS_ID_BYTES],
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Params({}, {:02x?})", self.suite, self.id)
    }
}

impl Params {
    /// Parameters of `suite`, whose material the caller has checked.
    pub(crate) fn from_material(suite: SuiteId, material: Vec<u8>) -> Self {
        let mut params = Self { suite, material, id: [0; PARAMS_ID_BYTES] };
        let hash = sha256(&[&params.encode()]);
        params.id.copy_from_slice(&hash[..PARAMS_ID_BYTES]);
        params
    }

    /// Which suite they are of.
    pub fn suite(&self) -> SuiteId {
        self.suite
    }

    /// The first 16 bytes of the SHA-256 of the encoding.
    pub fn id(&self) -> &[u8; PARAMS_ID_BYTES] {
        &self.id
    }

    pub(crate) fn material(&self) -> &[u8] {
        &self.material
    }

    /// Deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        let written = e.array(2).and_then(|e| e.str(self.suite.name())).and_then(|e| e.bytes(&self.material));
        written.expect("writing to memory cannot fail");
        e.into_writer()
    }

    /// Reads what `encode` wrote and checks that it is in the right group.
    ///
    /// # Errors
    /// [`SuiteError::Encoding`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuiteError> {
        const ERROR: SuiteError = SuiteError::Encoding("set of public parameters");
        let mut d = Decoder::new(bytes);
        let mut read = || {
            let two = d.array()? == Some(2);
            Ok::<_, minicbor::decode::Error>((two, d.str()?, d.bytes()?))
        };
        let Ok((true, name, material)) = read() else { return Err(ERROR) };
        let suite = SuiteId::from_name(name).ok_or(ERROR)?;
        let params = suite.suite().check_params(material).ok_or(ERROR)?;
        (params.encode() == bytes).then_some(params).ok_or(ERROR)
    }
}

/// The master secret key of a suite. Never leaves the authority; wiped when dropped; never printed.
#[derive(Clone)]
pub struct Master {
    /// Which suite it is of.
    pub suite: SuiteId,
    /// The identifier of the parameters it belongs to.
    pub params_id: [u8; PARAMS_ID_BYTES],
    secret: Secret32,
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Master({}, ..)", self.suite)
    }
}

impl Master {
    /// A master secret key from its 32 bytes.
    pub fn new(params: &Params, secret: Secret32) -> Self {
        Self { suite: params.suite, params_id: params.id, secret }
    }

    /// The 32 bytes. Whoever takes them can read everything.
    pub fn expose(&self) -> &Secret32 {
        &self.secret
    }
}

/// A user secret key: opens what its labels satisfy. Wiped when dropped; never printed.
///
/// CBOR `[suite, params id, epoch, [label, …], material]`, labels sorted.
#[derive(Clone)]
pub struct UserKey {
    suite: SuiteId,
    params_id: [u8; PARAMS_ID_BYTES],
    epoch: u64,
    labels: Vec<Label>,
    material: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({}, epoch {}, {} labels, ..)", self.suite, self.epoch, self.labels.len())
    }
}

impl UserKey {
    pub(crate) fn from_material(
        master: &Master,
        epoch: u64,
        labels: Vec<Label>,
        material: Zeroizing<Vec<u8>>,
    ) -> Self {
        Self { suite: master.suite, params_id: master.params_id, epoch, labels, material }
    }

    /// Which suite it is of.
    pub fn suite(&self) -> SuiteId {
        self.suite
    }

    /// The identifier of the parameters it belongs to.
    pub fn params_id(&self) -> &[u8; PARAMS_ID_BYTES] {
        &self.params_id
    }

    /// The epoch it was issued for. A note for the holder: what binds is the epoch's label.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What it was issued for, sorted.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    pub(crate) fn material(&self) -> &[u8] {
        &self.material
    }

    /// Deterministic CBOR; as secret as the key.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let room = self.material.len() + self.labels.iter().map(|l| l.as_bytes().len() + 3).sum::<usize>();
        // Enough room at once: a vector that grows leaves copies of the key behind.
        let mut e = Encoder::new(Vec::with_capacity(room + 64));
        let write = |e: &mut Encoder<Vec<u8>>| {
            e.array(5)?.str(self.suite.name())?.bytes(&self.params_id)?.u64(self.epoch)?;
            e.array(self.labels.len() as u64)?;
            for label in &self.labels {
                e.bytes(label.as_bytes())?;
            }
            e.bytes(&self.material)?;
            Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
        };
        write(&mut e).expect("writing to memory cannot fail");
        Zeroizing::new(e.into_writer())
    }

    /// Reads what `encode` wrote; the points are checked against the suite.
    ///
    /// # Errors
    /// [`SuiteError::Encoding`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuiteError> {
        const ERROR: SuiteError = SuiteError::Encoding("user secret key");
        let key = Self::decode_fields(bytes).ok().flatten().ok_or(ERROR)?;
        let sound = key.labels.is_sorted_by(|a, b| a < b)
            && key.suite.suite().check_key(&key)
            && *key.encode() == bytes;
        sound.then_some(key).ok_or(ERROR)
    }

    fn decode_fields(bytes: &[u8]) -> Result<Option<Self>, minicbor::decode::Error> {
        let mut d = Decoder::new(bytes);
        if bytes.len() > KEY_BYTES_MAX || d.array()? != Some(5) {
            return Ok(None);
        }
        let Some(suite) = SuiteId::from_name(d.str()?) else { return Ok(None) };
        let Ok(params_id) = d.bytes()?.try_into() else { return Ok(None) };
        let epoch = d.u64()?;
        let count = match d.array()? {
            Some(count) if count <= LABELS_MAX as u64 => count,
            _ => return Ok(None),
        };
        let mut labels = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let Ok(label) = Label::decode(d.bytes()?) else { return Ok(None) };
            labels.push(label);
        }
        let material = Zeroizing::new(d.bytes()?.to_vec());
        Ok(Some(Self { suite, params_id, epoch, labels, material }))
    }
}

/// What is bound into an encapsulation: in a ciphertext-policy suite the access formula.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// Whoever holds labels that satisfy this formula.
    Policy(&'a Access),
}

/// An attribute-based scheme as a CCA-secure key encapsulation mechanism. Functions take their
/// coins as 32 uniform bytes, so that vectors can be frozen; use them once, from [`Secret32::random`].
pub trait Suite: Send + Sync {
    /// Fresh public parameters and master secret key.
    fn setup(&self, coins: &Secret32) -> (Params, Master);

    /// A key for `labels`, tagged with `epoch`.
    fn keygen(&self, master: &Master, epoch: u64, labels: &[Label], coins: &Secret32) -> UserKey;

    /// An encapsulation under `scope` and the secret in it. `context` is bound into the secret only.
    ///
    /// # Errors
    /// [`SuiteError::OtherParams`] where the parameters are of another suite.
    fn encapsulate(
        &self,
        params: &Params,
        scope: Scope<'_>,
        context: &[u8],
        coins: &Secret32,
    ) -> Result<(Vec<u8>, Secret32), SuiteError>;

    /// The secret in `encapsulation`, if the key satisfies `scope` and nothing was altered.
    ///
    /// # Errors
    /// Every [`SuiteError`] but `Encoding`.
    fn decapsulate(
        &self,
        params: &Params,
        key: &UserKey,
        scope: Scope<'_>,
        context: &[u8],
        encapsulation: &[u8],
    ) -> Result<Secret32, SuiteError>;

    /// Bytes of an encapsulation under `scope`.
    fn encapsulation_bytes(&self, scope: Scope<'_>) -> usize;

    /// Parameters from their material, every element checked.
    fn check_params(&self, material: &[u8]) -> Option<Params>;

    /// Whether the material of a decoded key is well formed, every element checked.
    fn check_key(&self, key: &UserKey) -> bool;
}
