//! A suite: an attribute-based encryption scheme used as a key encapsulation mechanism.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use minicbor::{Decoder, Encoder};
use zeroize::Zeroizing;

use crate::access::{Access, decode_access};
use crate::attribute::{LABELS_MAX, Label};
use crate::cbor::{Written, to_vec};
use crate::crypto::{Secret32, sha256};
use crate::curve::{Elements, Gt, GtBase};
use crate::fabeo::{FabeoCp, FabeoKp};

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
    /// FABEO, key-policy: attributes are in the header, the policy is in the key.
    FabeoKp,
}

impl SuiteId {
    /// Every suite, the default first.
    pub const ALL: [Self; 2] = [Self::FabeoCp, Self::FabeoKp];

    /// The suite of this name; `None` for names nobody knows, those of evaluation-only schemes among them.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// The name in headers and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::FabeoCp => "fabeo-cp",
            Self::FabeoKp => "fabeo-kp",
        }
    }

    /// The implementation.
    pub fn suite(self) -> &'static dyn Suite {
        match self {
            Self::FabeoCp => &FabeoCp,
            Self::FabeoKp => &FabeoKp,
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
    /// The labels do not satisfy the access formula, whichever side they are on.
    #[error("the key does not satisfy the policy")]
    NotSatisfied,
    /// A policy where the suite takes labels, or labels where it takes a policy.
    #[error("the suite takes a policy where it was given labels, or labels where it was given a policy")]
    OtherKind,
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
#[derive(Clone)]
pub struct Params {
    suite: SuiteId,
    y: Arc<GtBase>,
    id: [u8; PARAMS_ID_BYTES],
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        (self.suite, self.y.to_bytes()) == (other.suite, other.y.to_bytes())
    }
}

impl Eq for Params {}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Params({}, {:02x?})", self.suite, self.id)
    }
}

impl Params {
    pub(crate) fn new(suite: SuiteId, y: Gt) -> Self {
        let mut params = Self { suite, y: Arc::new(GtBase::new(y)), id: [0; PARAMS_ID_BYTES] };
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

    /// `Y = e(g1, g2)^alpha`
    pub(crate) fn y(&self) -> &GtBase {
        &self.y
    }

    /// Deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        let written =
            e.array(2).and_then(|e| e.str(self.suite.name())).and_then(|e| e.bytes(&self.y.to_bytes()));
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

/// Labels, sorted and each of them once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Vec<Label>);

impl From<Vec<Label>> for Labels {
    fn from(mut labels: Vec<Label>) -> Self {
        labels.sort_unstable();
        labels.dedup();
        Self(labels)
    }
}

impl Labels {
    /// The labels, sorted.
    pub fn as_slice(&self) -> &[Label] {
        &self.0
    }

    /// Where the label is, if it is there.
    pub fn position(&self, label: &Label) -> Option<usize> {
        self.0.binary_search(label).ok()
    }

    /// Whether the label is there.
    pub fn has(&self, label: &Label) -> bool {
        self.position(label).is_some()
    }

    /// Deterministic CBOR: an array of byte strings.
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| self.encode_to(e))
    }

    fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        e.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|label| e.bytes(label.as_bytes()).map(drop))
    }
}

/// What goes into a key, or what a secret is encapsulated under: a suite takes a policy for the one and labels
/// for the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A formula over labels.
    Policy(Access),
    /// Labels.
    Labels(Labels),
}

impl Scope {
    /// The labels, or those that the formula asks for.
    fn labels(&self) -> Labels {
        match self {
            Self::Policy(access) => access.leaves().cloned().collect::<Vec<_>>().into(),
            Self::Labels(labels) => labels.clone(),
        }
    }
}

/// A user secret key: opens what satisfies it, or what it satisfies. Wiped when dropped; never printed.
///
/// CBOR `[suite, params id, epoch, scope, material]`; the scope is an array of labels, sorted, in a
/// ciphertext-policy suite, and the access formula in a key-policy suite. The material is the key's points of G2,
/// then those of G1, compressed.
#[derive(Clone)]
pub struct UserKey {
    suite: SuiteId,
    params_id: [u8; PARAMS_ID_BYTES],
    epoch: u64,
    scope: Scope,
    labels: Labels,
    elements: Arc<Elements>,
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({}, epoch {}, {} labels, ..)", self.suite, self.epoch, self.labels.0.len())
    }
}

impl UserKey {
    pub(crate) fn new(master: &Master, epoch: u64, scope: Scope, elements: Elements) -> Self {
        let (suite, params_id) = (master.suite, master.params_id);
        Self { suite, params_id, epoch, labels: scope.labels(), scope, elements: Arc::new(elements) }
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

    /// What it was issued for: labels, or a formula over them.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The labels it was issued for, or those that its formula names; sorted.
    pub fn labels(&self) -> &[Label] {
        self.labels.as_slice()
    }

    /// Whether it satisfies what was sealed under `scope`, versions and epochs included. Says nothing about
    /// parameters.
    pub fn satisfies(&self, scope: &Scope) -> bool {
        let Some((labels, access)) = self.sides(scope) else { return false };
        access.satisfied_by(&|label| labels.has(label))
    }

    /// Whether it would satisfy what was sealed under `scope` if versions did not count.
    pub fn satisfies_but_for_versions(&self, scope: &Scope) -> bool {
        let Some((labels, access)) = self.sides(scope) else { return false };
        let held: HashSet<Label> = labels.0.iter().map(Label::unversioned).collect();
        access.satisfied_by(&|label| held.contains(&label.unversioned()))
    }

    /// The labels and the formula, whichever side has which.
    fn sides<'a>(&'a self, scope: &'a Scope) -> Option<(&'a Labels, &'a Access)> {
        match (&self.scope, scope) {
            (Scope::Labels(labels), Scope::Policy(access)) => Some((labels, access)),
            (Scope::Policy(access), Scope::Labels(labels)) => Some((labels, access)),
            _ => None,
        }
    }

    pub(crate) fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Deterministic CBOR; as secret as the key.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let material = self.elements.to_bytes();
        let scope = match &self.scope {
            Scope::Policy(access) => access.encode(),
            Scope::Labels(labels) => labels.encode(),
        };
        // Enough room at once: a vector that grows leaves copies of the key behind.
        let mut e = Encoder::new(Vec::with_capacity(material.len() + scope.len() + 64));
        let write = |e: &mut Encoder<Vec<u8>>| {
            e.array(5)?.str(self.suite.name())?.bytes(&self.params_id)?.u64(self.epoch)?;
            e.writer_mut().extend_from_slice(&scope);
            e.bytes(&material)?;
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
        (*key.encode() == bytes).then_some(key).ok_or(ERROR)
    }

    fn decode_fields(bytes: &[u8]) -> Result<Option<Self>, minicbor::decode::Error> {
        let mut d = Decoder::new(bytes);
        if bytes.len() > KEY_BYTES_MAX || d.array()? != Some(5) {
            return Ok(None);
        }
        let Some(suite) = SuiteId::from_name(d.str()?) else { return Ok(None) };
        let Ok(params_id) = d.bytes()?.try_into() else { return Ok(None) };
        let epoch = d.u64()?;
        let Some(scope) = suite.suite().decode_grant(&mut d) else { return Ok(None) };
        let Some((g2, g1)) = suite.suite().key_shape(&scope) else { return Ok(None) };
        let Some(elements) = Elements::from_bytes(d.bytes()?, g2, g1) else { return Ok(None) };
        let labels = scope.labels();
        Ok(Some(Self { suite, params_id, epoch, scope, labels, elements: Arc::new(elements) }))
    }
}

/// Labels as a key carries them, sorted, at most [`LABELS_MAX`].
pub(crate) fn decode_labels(d: &mut Decoder<'_>) -> Option<Scope> {
    let count = d.array().ok()?.filter(|count| *count <= LABELS_MAX as u64)?;
    let mut labels = Vec::with_capacity(count as usize);
    for _ in 0..count {
        labels.push(Label::decode(d.bytes().ok()?).ok()?);
    }
    labels.is_sorted_by(|a, b| a < b).then_some(Scope::Labels(Labels(labels)))
}

/// A formula as a key carries it.
pub(crate) fn decode_policy(d: &mut Decoder<'_>) -> Option<Scope> {
    decode_access(d).map(Scope::Policy)
}

/// An attribute-based scheme as a CCA-secure key encapsulation mechanism. Functions take their
/// coins as 32 uniform bytes, so that vectors can be frozen; use them once, from [`Secret32::random`].
pub trait Suite: Send + Sync {
    /// Fresh public parameters and master secret key.
    fn setup(&self, coins: &Secret32) -> (Params, Master);

    /// A key for `grant`, tagged with `epoch`.
    ///
    /// # Errors
    /// [`SuiteError::OtherKind`] for a policy where keys have labels and the reverse, [`SuiteError::OtherParams`]
    /// where the master secret key is of another suite.
    fn keygen(
        &self,
        master: &Master,
        epoch: u64,
        grant: &Scope,
        coins: &Secret32,
    ) -> Result<UserKey, SuiteError>;

    /// An encapsulation under `scope` and the secret in it. `context` is bound into the secret only.
    ///
    /// # Errors
    /// [`SuiteError::OtherParams`] where the parameters are of another suite, [`SuiteError::OtherKind`] where
    /// the scope is.
    fn encapsulate(
        &self,
        params: &Params,
        scope: &Scope,
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
        scope: &Scope,
        context: &[u8],
        encapsulation: &[u8],
    ) -> Result<Secret32, SuiteError>;

    /// Bytes of an encapsulation under `scope`; `None` where the scope is of the other kind.
    fn encapsulation_bytes(&self, scope: &Scope) -> Option<usize>;

    /// Parameters from their material, every element checked.
    fn check_params(&self, material: &[u8]) -> Option<Params>;

    /// Reads the scope of a key.
    fn decode_grant(&self, d: &mut Decoder<'_>) -> Option<Scope>;

    /// How many points of G2 and of G1 a key for `grant` has; `None` where the scope is of the other kind.
    fn key_shape(&self, grant: &Scope) -> Option<(usize, usize)>;
}
