//! The header: who sealed, for whom, and the encapsulated secret. One for many messages.
//!
//! COSE_Sign1 by the publisher's device key, its certificate in x5chain, over
//!
//! ```text
//! { 1: suite, 2: params id, 3: epoch, ? 4: << versions >>, ? 5: << policy >>, 6: encapsulation,
//!   7: publisher, 8: created, 9: expires, 10: topic filter, ? 11: true, messages are signed,
//!   ? 12: << labels >> }
//! ```
//! with a policy in a ciphertext-policy suite, labels in a key-policy suite.
//!
//! `kid` is the first 16 bytes of the SHA-256 of all of it. Anyone can encapsulate, so a reader takes
//! no header whose signer it has not verified.

use std::fmt;
use std::sync::Arc;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::attribute::{Attributes, Versions};
use crate::cose::{Sign1, sign1};
use crate::crypto::{Secret32, SigningKey, sha256};
use crate::envelope::{OpeningKey, SealingKey};
use crate::identity::{
    DeviceId, Identity, IdentityError, Role, VerifiedCertificate, read_certificate, verify_certificate,
};
use crate::policy::Policy;
use crate::suite::{PARAMS_ID_BYTES, Params, Scope, SuiteError, SuiteId, UserKey};
use crate::target::Target;
use crate::topic::Filter;

/// Bytes of a `kid`.
pub const KID_BYTES: usize = 16;
/// Most bytes of a header.
pub const HEADER_BYTES_MAX: usize = 65_536;
/// Longest life of a header, from `created` to `expires`, in seconds.
pub const HEADER_SECONDS_MAX: u64 = 86_400;

const AAD: &[u8] = b"SMQTT-V01 header";
const CONTEXT: &[u8] = b"SMQTT-V01 header";

/// The first 16 bytes of a header's hash: which content key seals a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kid(pub [u8; KID_BYTES]);

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(1)]
    suite: String,
    #[n(2)]
    params: ByteArray<PARAMS_ID_BYTES>,
    #[n(3)]
    epoch: u64,
    #[n(4)]
    versions: Option<ByteVec>,
    #[n(5)]
    policy: Option<ByteVec>,
    #[n(6)]
    encapsulation: ByteVec,
    #[n(7)]
    publisher: ByteArray<16>,
    #[n(8)]
    created: u64,
    #[n(9)]
    expires: u64,
    #[n(10)]
    filter: String,
    #[n(11)]
    signed: Option<bool>,
    #[n(12)]
    labels: Option<ByteVec>,
}

/// What a publisher decides about a header. Times in seconds since 1970.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// The public parameters to encapsulate under.
    pub params: &'a Params,
    /// The epoch of the newest bundle.
    pub epoch: u64,
    /// The versions of the newest bundle; only those that the target names are written.
    pub versions: &'a Versions,
    /// What to seal under.
    pub target: &'a Target,
    /// From when on.
    pub created: u64,
    /// Until when messages may be sealed and accepted under it; readers open for longer.
    pub expires: u64,
    /// For which topics.
    pub filter: &'a Filter,
    /// Whether each message carries a signature of its own. Said in the header, so that nobody can strip them.
    pub sign_messages: bool,
}

/// A device's certificate with its key: what signs headers.
#[derive(Debug)]
pub struct Signer {
    key: Arc<SigningKey>,
    certificate: Vec<u8>,
    identity: Identity,
}

impl Signer {
    /// Pairs `key` with the certificate (DER) that names it.
    ///
    /// # Errors
    /// [`IdentityError`] where the certificate is none of ours or for another key.
    pub fn new(key: SigningKey, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        let read = read_certificate(&certificate)?;
        if read.public_key[..] != *key.public_key() {
            return Err(IdentityError::OtherUse);
        }
        Ok(Self { key: Arc::new(key), certificate, identity: read.identity })
    }

    /// Who signs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// Why a header was not made or not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not a header in its one encoding.
    #[error("not a header")]
    Malformed,
    /// A suite this program does not open, evaluation-only schemes among them.
    #[error("sealed with a suite that is not supported")]
    UnknownSuite,
    /// The signer's certificate does not hold.
    #[error("the publisher's certificate does not hold: {0}")]
    Certificate(IdentityError),
    /// Signed by what is no device, or for somebody else.
    #[error("signed by somebody who is not the publisher")]
    NotPublisher,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    Signature,
    /// From the suite.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// A parsed header. Its signature is checked by [`Header::verify`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    hash: [u8; 32],
    certificate: Vec<u8>,
    suite: SuiteId,
    params_id: [u8; PARAMS_ID_BYTES],
    epoch: u64,
    versions: Versions,
    target: Target,
    encapsulation: Vec<u8>,
    publisher: DeviceId,
    created: u64,
    expires: u64,
    filter: Filter,
    signed: bool,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}, {} by {})", self.kid(), self.target, self.publisher)
    }
}

impl Header {
    /// Encapsulates a fresh secret as `draft` says, signs, and gives the header with its content key.
    ///
    /// # Errors
    /// [`HeaderError::Suite`] where the parameters do not fit the suite.
    pub fn seal(draft: &Draft<'_>, signer: &Signer) -> Result<(Self, SealingKey), HeaderError> {
        Self::seal_with(draft, signer, &Secret32::random())
    }

    /// As [`Header::seal`], the coins given: for frozen vectors.
    ///
    /// # Errors
    /// As [`Header::seal`].
    pub fn seal_with(
        draft: &Draft<'_>,
        signer: &Signer,
        coins: &Secret32,
    ) -> Result<(Self, SealingKey), HeaderError> {
        let versions = draft.target.used_versions(draft.versions);
        let scope = draft.target.scope(&versions, draft.epoch);
        let suite = draft.params.suite();
        let (encapsulation, secret) = suite.suite().encapsulate(draft.params, &scope, CONTEXT, coins)?;
        let (policy, labels) = match draft.target {
            Target::Policy(policy) => (Some(policy.encode().into()), None),
            Target::Labels(labels) => (None, Some(labels.encode().into())),
        };
        let wire = Wire {
            suite: suite.name().to_owned(),
            params: (*draft.params.id()).into(),
            epoch: draft.epoch,
            versions: versions.iter().next().map(|_| versions.encode().into()),
            policy,
            encapsulation: encapsulation.into(),
            publisher: signer.identity.id.0.into(),
            created: draft.created,
            expires: draft.expires,
            filter: draft.filter.to_string(),
            signed: draft.sign_messages.then_some(true),
            labels,
        };
        let bytes = sign1(&signer.key, &signer.certificate, AAD, &payload(&wire));
        let header = Self::parse(&bytes)?;
        let message_signer = draft.sign_messages.then(|| signer.key.clone());
        let key = SealingKey::derive(&secret, &header.hash, header.publisher, message_signer);
        Ok((header, key))
    }

    /// Parses a header; total on any bytes, and takes only the one encoding.
    ///
    /// # Errors
    /// [`HeaderError::Malformed`] or [`HeaderError::UnknownSuite`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() > HEADER_BYTES_MAX {
            return Err(HeaderError::Malformed);
        }
        let sign1 = Sign1::parse(bytes).ok_or(HeaderError::Malformed)?;
        let wire: Wire = minicbor::decode(sign1.payload).map_err(|_| HeaderError::Malformed)?;
        if payload(&wire) != sign1.payload || wire.signed == Some(false) {
            return Err(HeaderError::Malformed);
        }
        let suite = SuiteId::from_name(&wire.suite).ok_or(HeaderError::UnknownSuite)?;
        let versions = match &wire.versions {
            Some(bytes) => Versions::decode(bytes).map_err(|_| HeaderError::Malformed)?,
            None => Versions::default(),
        };
        let target = wire.target().ok_or(HeaderError::Malformed)?;
        let present = wire.versions.is_none() || versions.iter().next().is_some();
        if !present || target.used_versions(&versions) != versions || target.suite() != suite {
            return Err(HeaderError::Malformed);
        }
        Ok(Self {
            hash: sha256(&[bytes]),
            certificate: sign1.certificate.to_vec(),
            bytes: bytes.to_vec(),
            suite,
            params_id: wire.params.into(),
            epoch: wire.epoch,
            versions,
            target,
            encapsulation: wire.encapsulation.into(),
            publisher: DeviceId(wire.publisher.into()),
            created: wire.created,
            expires: wire.expires,
            filter: wire.filter.parse().map_err(|_| HeaderError::Malformed)?,
            signed: wire.signed.is_some(),
        })
    }

    /// Checks that the publisher itself signed: its certificate chains to one of `roots`, was valid
    /// when the header was created, is a device's, and names the publisher. Gives that certificate.
    ///
    /// Whether the device was revoked is for the caller to ask its bundle.
    ///
    /// # Errors
    /// [`HeaderError`], saying what does not hold.
    pub fn verify(&self, roots: &[Vec<u8>]) -> Result<VerifiedCertificate, HeaderError> {
        let certificate =
            verify_certificate(&self.certificate, roots, self.created).map_err(HeaderError::Certificate)?;
        if certificate.identity.role != Role::Device || certificate.identity.id != self.publisher {
            return Err(HeaderError::NotPublisher);
        }
        let sign1 = Sign1::parse(&self.bytes).ok_or(HeaderError::Malformed)?;
        if !sign1.verify(&certificate.public_key, AAD) {
            return Err(HeaderError::Signature);
        }
        Ok(certificate)
    }

    /// The content key, for whoever holds a key that satisfies the policy. Verify first.
    ///
    /// # Errors
    /// [`HeaderError::Suite`], saying whether the key does not fit or the header was forged.
    pub fn open(&self, params: &Params, key: &UserKey) -> Result<OpeningKey, HeaderError> {
        if *params.id() != self.params_id || params.suite() != self.suite {
            return Err(SuiteError::OtherParams.into());
        }
        let suite = self.suite.suite();
        let secret = suite.decapsulate(params, key, &self.scope(), CONTEXT, &self.encapsulation)?;
        Ok(OpeningKey::derive(&secret, &self.hash, self.publisher))
    }

    /// What the secret is encapsulated under: target, versions and epoch.
    pub fn scope(&self) -> Scope {
        self.target.scope(&self.versions, self.epoch)
    }

    /// As it goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The SHA-256 of the bytes.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The first 16 bytes of the hash.
    pub fn kid(&self) -> Kid {
        Kid(self.hash[..KID_BYTES].try_into().expect("16 of 32 bytes"))
    }

    /// The suite.
    pub fn suite(&self) -> SuiteId {
        self.suite
    }

    /// The identifier of the public parameters.
    pub fn params_id(&self) -> &[u8; PARAMS_ID_BYTES] {
        &self.params_id
    }

    /// The epoch it was sealed in.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The versions of the target's attributes; those not named are 0.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// What it is sealed under.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Bytes of the encapsulation.
    pub fn encapsulation(&self) -> &[u8] {
        &self.encapsulation
    }

    /// Who signed, if [`Header::verify`] agrees.
    pub fn publisher(&self) -> DeviceId {
        self.publisher
    }

    /// The publisher's certificate, DER, not checked.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// When it was made, seconds since 1970, by the publisher's clock.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Until when it may be used to seal, seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// For which topics.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether its messages carry signatures of their own: one without is then broken.
    pub fn messages_are_signed(&self) -> bool {
        self.signed
    }
}

fn payload(wire: &Wire) -> Vec<u8> {
    minicbor::to_vec(wire).expect("writing to memory cannot fail")
}

impl Wire {
    /// The one target that is there.
    fn target(&self) -> Option<Target> {
        match (&self.policy, &self.labels) {
            (Some(policy), None) => Policy::decode(policy).ok().map(Target::Policy),
            (None, Some(labels)) => Target::labels(Attributes::decode(labels).ok()?).ok(),
            _ => None,
        }
    }
}
