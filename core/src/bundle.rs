//! The bundle: what the authority tells everyone. Signed, numbered, never older than the last one seen.
//!
//! COSE_Sign1 by a certificate of the role `authority`, over
//!
//! ```text
//! { 1: tenant, 2: number, 3: issued, 4: expires, 5: epoch, 6: epoch begins, 7: epoch ends, 8: grace,
//!   9: [ rule ], 10: << versions >>, 11: [ revoked device id ], 12: [ params id ],
//!   ? 13: [ root ], ? 14: [ link ], ? 15: number of retired roots,
//!   ? 16: number of the root that issues }
//! rule = { 1: filter, 2: mode, ? 3: << policy template >>, ? 4: << publishers >>, ? 5: << subscribers >> }
//! ```

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::attribute::Versions;
use crate::cose::{Sign1, sign1};
use crate::header::{HEADER_SECONDS_MAX, Header, Signer};
use crate::identity::{
    DeviceId, IdentityError, Role, TenantId, verify_certificate, verify_certificate_through,
};
use crate::lineage::Lineage;
use crate::policy::{Labelling, Policy, Template};
use crate::rule::{Mode, RULES_MAX, Rule, rule_for};
use crate::suite::PARAMS_ID_BYTES;

/// Most bytes of a bundle.
pub const BUNDLE_BYTES_MAX: usize = 4 << 20;
/// How far a publisher's clock may be ahead of or behind ours, in seconds.
pub const CLOCK_SKEW_SECONDS: u64 = 300;

const AAD: &[u8] = b"SMQTT-V01 bundle";

/// An epoch: while it lasts, its keys open what is sealed. Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub begins: u64,
    /// When the next is due.
    pub ends: u64,
}

/// What everyone must know, and nobody may change but the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose.
    pub tenant: TenantId,
    /// Rises by one with every change.
    pub number: u64,
    /// When it was signed, seconds since 1970.
    pub issued: u64,
    /// After this nobody seals under it, seconds since 1970.
    pub expires: u64,
    /// The current epoch.
    pub epoch: Epoch,
    /// How long brokers go on accepting the previous epoch, in seconds.
    pub grace: u64,
    /// Topic rules.
    pub rules: Vec<Rule>,
    /// Attribute versions that are not 0.
    pub versions: Versions,
    /// Devices that are nobody's any more, sorted.
    pub revoked: Vec<DeviceId>,
    /// Public parameters that are in use.
    pub params: Vec<[u8; PARAMS_ID_BYTES]>,
    /// The authority's roots, once it has begun to exchange the first: readers of before that know no such key.
    pub lineage: Option<Lineage>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(1)]
    tenant: ByteArray<8>,
    #[n(2)]
    number: u64,
    #[n(3)]
    issued: u64,
    #[n(4)]
    expires: u64,
    #[n(5)]
    epoch: u64,
    #[n(6)]
    begins: u64,
    #[n(7)]
    ends: u64,
    #[n(8)]
    grace: u64,
    #[n(9)]
    rules: Vec<RuleWire>,
    #[n(10)]
    versions: ByteVec,
    #[n(11)]
    revoked: Vec<ByteArray<16>>,
    #[n(12)]
    params: Vec<ByteArray<PARAMS_ID_BYTES>>,
    #[n(13)]
    roots: Option<Vec<ByteVec>>,
    #[n(14)]
    links: Option<Vec<ByteVec>>,
    #[n(15)]
    retired: Option<u64>,
    #[n(16)]
    issuing: Option<u64>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct RuleWire {
    #[n(1)]
    filter: String,
    #[n(2)]
    mode: Mode,
    #[n(3)]
    policy: Option<ByteVec>,
    #[n(4)]
    publishers: Option<ByteVec>,
    #[n(5)]
    subscribers: Option<ByteVec>,
    #[n(6)]
    labels: Option<ByteVec>,
}

/// Why a bundle was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not a bundle in its one encoding.
    #[error("not a bundle")]
    Malformed,
    /// The signer's certificate does not hold.
    #[error("the bundle's certificate does not hold: {0}")]
    Certificate(IdentityError),
    /// Not signed by the authority.
    #[error("the bundle is not signed by the authority")]
    Signature,
    /// Older than one seen before.
    #[error("bundle {got} is older than bundle {known}, which was seen before")]
    Older {
        /// Its number.
        got: u64,
        /// The highest number known.
        known: u64,
    },
}

/// Why a header or message may not be used now. Each has a word for logs and `--json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The publisher was revoked.
    #[error("the publisher was revoked")]
    Revoked,
    /// Sealed in an epoch that is over.
    #[error("sealed in epoch {sealed}, but it is epoch {current}")]
    Epoch {
        /// The header's.
        sealed: u64,
        /// The bundle's.
        current: u64,
    },
    /// Attribute versions differ from the bundle's.
    #[error("sealed under other attribute versions than the current ones")]
    Versions,
    /// The policy, or the labels, are not what the rule says for this topic.
    #[error("sealed under `{sealed}`, but the rule `{rule}` says `{wanted}`")]
    Policy {
        /// The header's policy.
        sealed: String,
        /// The rule's filter.
        rule: String,
        /// What it yields for the topic.
        wanted: String,
    },
    /// The topic gives nothing to seal under.
    #[error("a level of the topic cannot be an attribute's value, or makes too many labels")]
    TopicLevel,
    /// The message's topic is not among the header's.
    #[error("the header is for `{filter}`, which does not match the topic")]
    Filter {
        /// The header's filter.
        filter: String,
    },
    /// After `expires`.
    #[error("the header has expired")]
    Expired,
    /// Created in the future, or before the epoch by more than the skew allowed, or with a life of none or of
    /// more than [`HEADER_SECONDS_MAX`].
    #[error(
        "the header's times are off by more than {CLOCK_SKEW_SECONDS} seconds, or it lives longer than a day"
    )]
    Clock,
    /// Other public parameters than those in use.
    #[error("sealed under other public parameters")]
    Params,
}

impl Refusal {
    /// One word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Epoch { .. } => "epoch",
            Self::Versions => "version",
            Self::Policy { .. } => "policy",
            Self::TopicLevel => "topic",
            Self::Filter { .. } => "filter",
            Self::Expired => "expired",
            Self::Clock => "clock",
            Self::Params => "params",
        }
    }
}

impl Bundle {
    /// Signs the bundle.
    pub fn sign(&self, signer: &Signer) -> Vec<u8> {
        sign1(signer.key(), signer.certificate(), AAD, &self.payload())
    }

    /// Checks signature and certificate (valid when issued, of the role `authority`) and reads it. Where the bundle tells of
    /// more roots than one, its signer's is one of those that it says are in trust, and `roots` are followed to it by links.
    ///
    /// # Errors
    /// [`BundleError`], saying what does not hold.
    pub fn verify(bytes: &[u8], roots: &[Vec<u8>]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::Malformed);
        }
        let sign1 = Sign1::parse(bytes).ok_or(BundleError::Malformed)?;
        let wire: Wire = minicbor::decode(sign1.payload).map_err(|_| BundleError::Malformed)?;
        let bundle = Self::from_wire(wire).ok_or(BundleError::Malformed)?;
        if bundle.payload() != sign1.payload {
            return Err(BundleError::Malformed);
        }
        let verified = match &bundle.lineage {
            None => verify_certificate(sign1.certificate, roots, bundle.issued),
            // By a root that the bundle itself trusts: one that was retired signs nothing. And by one that we do.
            Some(lineage) => verify_certificate(sign1.certificate, lineage.in_trust(), bundle.issued)
                .and_then(|_| {
                    verify_certificate_through(sign1.certificate, roots, lineage.links(), bundle.issued)
                }),
        };
        let certificate = verified.map_err(BundleError::Certificate)?;
        let by_authority = certificate.identity.role == Role::Authority
            && certificate.identity.tenant == bundle.tenant
            && sign1.verify(&certificate.public_key, AAD);
        if by_authority { Ok(bundle) } else { Err(BundleError::Signature) }
    }

    fn payload(&self) -> Vec<u8> {
        let rule = |rule: &Rule| RuleWire {
            filter: rule.filter.to_string(),
            mode: rule.mode,
            policy: rule.policy.as_ref().map(|p| p.encode().into()),
            publishers: rule.publishers.as_ref().map(|p| p.encode().into()),
            subscribers: rule.subscribers.as_ref().map(|p| p.encode().into()),
            labels: rule.labels.as_ref().map(|l| l.encode().into()),
        };
        let lineage = self.lineage.as_ref();
        let list = |all: &[Vec<u8>]| all.iter().map(|der| der.clone().into()).collect();
        let wire = Wire {
            tenant: self.tenant.0.into(),
            number: self.number,
            issued: self.issued,
            expires: self.expires,
            epoch: self.epoch.number,
            begins: self.epoch.begins,
            ends: self.epoch.ends,
            grace: self.grace,
            rules: self.rules.iter().map(rule).collect(),
            versions: self.versions.encode().into(),
            revoked: self.revoked.iter().map(|id| id.0.into()).collect(),
            params: self.params.iter().map(|id| (*id).into()).collect(),
            roots: lineage.map(|lineage| list(lineage.roots())),
            links: lineage.map(|lineage| list(lineage.links())),
            retired: lineage.map(|lineage| lineage.retired() as u64),
            issuing: lineage.map(|lineage| lineage.issuing() as u64),
        };
        minicbor::to_vec(&wire).expect("writing to memory cannot fail")
    }

    fn from_wire(wire: Wire) -> Option<Self> {
        if wire.rules.len() > RULES_MAX {
            return None;
        }
        let policy = |bytes: Option<ByteVec>| match bytes {
            None => Some(None),
            Some(bytes) => Policy::decode(&bytes).ok().map(Some),
        };
        let rule = |wire: RuleWire| {
            let template = match wire.policy {
                None => None,
                Some(bytes) => Some(Template::decode(&bytes).ok()?),
            };
            let labels = match wire.labels {
                None => None,
                Some(bytes) => Some(Labelling::decode(&bytes).ok()?),
            };
            let rule = Rule {
                filter: wire.filter.parse().ok()?,
                mode: wire.mode,
                policy: template,
                labels,
                publishers: policy(wire.publishers)?,
                subscribers: policy(wire.subscribers)?,
            };
            rule.check().ok()?;
            Some(rule)
        };
        let rules: Vec<Rule> = wire.rules.into_iter().map(rule).collect::<Option<_>>()?;
        let filters: std::collections::HashSet<_> = rules.iter().map(|rule| &rule.filter).collect();
        if filters.len() != rules.len() {
            return None;
        }
        let tenant = TenantId(wire.tenant.into());
        let lineage = match (wire.roots, wire.links, wire.retired, wire.issuing) {
            (None, None, None, None) => None,
            (Some(roots), Some(links), Some(retired), Some(issuing)) => {
                let list = |all: Vec<ByteVec>| all.into_iter().map(Vec::from).collect();
                let [retired, issuing] = [retired, issuing].map(usize::try_from);
                let lineage = Lineage::new(list(roots), list(links), retired.ok()?, issuing.ok()?)?;
                Some(lineage.is_of(tenant).then_some(lineage)?)
            }
            _ => return None,
        };
        let revoked: Vec<DeviceId> = wire.revoked.into_iter().map(|id| DeviceId(id.into())).collect();
        Some(Self {
            tenant,
            number: wire.number,
            issued: wire.issued,
            expires: wire.expires,
            epoch: Epoch { number: wire.epoch, begins: wire.begins, ends: wire.ends },
            grace: wire.grace,
            rules,
            versions: Versions::decode(&wire.versions).ok()?,
            revoked: revoked.is_sorted_by(|a, b| a < b).then_some(revoked)?,
            params: wire.params.into_iter().map(Into::into).collect(),
            lineage,
        })
    }

    /// Whether nobody may seal under it any more at `now` (seconds since 1970).
    pub fn is_expired(&self, now: u64) -> bool {
        now >= self.expires
    }

    /// Whether this device was revoked.
    pub fn is_revoked(&self, device: DeviceId) -> bool {
        self.revoked.binary_search(&device).is_ok()
    }

    /// The rule for `topic`, if one matches.
    pub fn rule_for(&self, topic: &str) -> Option<&Rule> {
        rule_for(&self.rules, topic)
    }

    /// Whether a message on `topic` under `header` agrees with this bundle at `now`: publisher not
    /// revoked, parameters, epoch, versions, times, filter, and the policy that the rule yields for
    /// this very topic. For the broker, on every message; the header's signature was checked before.
    ///
    /// # Errors
    /// [`Refusal`]: the first thing that does not agree.
    pub fn check(&self, header: &Header, topic: &str, now: u64) -> Result<(), Refusal> {
        if self.is_revoked(header.publisher()) {
            return Err(Refusal::Revoked);
        }
        if !self.params.contains(header.params_id()) {
            return Err(Refusal::Params);
        }
        let sealed = header.epoch();
        let in_grace = sealed.checked_add(1) == Some(self.epoch.number)
            && now < self.epoch.begins.saturating_add(self.grace);
        if sealed != self.epoch.number && !in_grace {
            return Err(Refusal::Epoch { sealed, current: self.epoch.number });
        }
        if header.target().used_versions(&self.versions) != *header.versions() {
            return Err(Refusal::Versions);
        }
        if now >= header.expires() {
            return Err(Refusal::Expired);
        }
        let ahead = header.created() > now.saturating_add(CLOCK_SKEW_SECONDS);
        // A certificate holds for `created`: backdating would keep one that has run out in use for ever.
        let backdated = !in_grace && header.created().saturating_add(CLOCK_SKEW_SECONDS) < self.epoch.begins;
        let life = header.expires().checked_sub(header.created());
        let lives_too_long = life.is_none_or(|life| life == 0 || life > HEADER_SECONDS_MAX);
        if ahead || backdated || lives_too_long {
            return Err(Refusal::Clock);
        }
        self.check_topic(header, topic)
    }

    /// The part of [`Bundle::check`] that holds for ever: filter, and policy as the rule says.
    ///
    /// # Errors
    /// [`Refusal`]: the first thing that does not agree.
    pub fn check_topic(&self, header: &Header, topic: &str) -> Result<(), Refusal> {
        if !header.filter().matches(topic) {
            return Err(Refusal::Filter { filter: header.filter().to_string() });
        }
        let Some(rule) = self.rule_for(topic) else { return Ok(()) };
        let wanted = rule.target_for(topic).map_err(|_| Refusal::TopicLevel)?;
        match wanted {
            Some(wanted) if wanted != *header.target() => Err(Refusal::Policy {
                sealed: header.target().to_string(),
                rule: rule.filter.to_string(),
                wanted: wanted.to_string(),
            }),
            _ => Ok(()),
        }
    }
}
