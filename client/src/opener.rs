//! Opening: who sealed it, is it for me, was it here before. Verifies before it opens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use smqtt_core::bundle::{Bundle, CLOCK_SKEW_SECONDS};
use smqtt_core::envelope::{Envelope, MESSAGES_MAX, Message, OpeningKey, is_sealed};
use smqtt_core::header::{Header, HeaderError, KID_BYTES, Kid};
use smqtt_core::identity::{Identity, IdentityError, VerifiedCertificate};
use smqtt_core::rule::Mode;
use smqtt_core::suite::{SuiteError, SuiteId, UserKey};
use smqtt_core::target::Target;

use crate::files::FileError;
use crate::keyring::Keyring;
use crate::replay::Replay;

/// Most headers that are held at once; the least recently used goes first.
pub const HEADERS_MAX: usize = 1024;

/// What became of a payload.
#[derive(Debug)]
pub enum Outcome {
    /// It was for this device.
    Opened(Opened),
    /// Not sealed, on a topic where that is allowed. Anybody may have sent it.
    Unsealed(Vec<u8>),
    /// Sealed properly, for others.
    NotForMe(NotForMe),
    /// Opened before.
    Repeated,
    /// Sealed under a newer bundle than the keyring's: fetch that, then open it again.
    Newer,
    /// Altered, forged, or not to be trusted.
    Broken(Broken),
}

/// A payload in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The payload.
    pub payload: Vec<u8>,
    /// Who published it: verified.
    pub publisher: Arc<Identity>,
    /// When its header was made, by the publisher's clock.
    pub created: u64,
    /// Whether the message has a signature of its own; without, any reader of the policy could have made it.
    pub signed: bool,
    /// The content key.
    pub kid: Kid,
    /// Its number under the content key.
    pub counter: u64,
}

/// Why a sealed message is not for this device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotForMe {
    /// The attributes do not satisfy the policy.
    #[error("my attributes do not satisfy `{policy}`")]
    Attributes {
        /// The policy.
        policy: String,
    },
    /// My key's policy does not hold for the labels.
    #[error("my key's policy `{policy}` does not hold for the labels `{labels}`")]
    Labels {
        /// What it was sealed under.
        labels: String,
        /// The key's.
        policy: String,
    },
    /// Sealed under labels, and I have no key that carries a policy.
    #[error("sealed under the labels `{labels}`, and my keys carry no policy")]
    NoPolicy {
        /// What it was sealed under.
        labels: String,
    },
    /// They fit, but in other versions.
    #[error("{fits}, but in other versions than it was sealed under")]
    Version {
        /// What fits what.
        fits: String,
    },
    /// No key of that epoch.
    #[error("sealed in epoch {sealed}, {mine}")]
    Epoch {
        /// The header's.
        sealed: u64,
        /// What there is instead, in words.
        mine: String,
    },
    /// Other public parameters.
    #[error("sealed under the public parameters of another authority")]
    Params,
}

impl NotForMe {
    /// One word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Attributes { .. } => "attributes",
            Self::Labels { .. } => "labels",
            Self::NoPolicy { .. } => "no-policy",
            Self::Version { .. } => "version",
            Self::Epoch { .. } => "epoch",
            Self::Params => "params",
        }
    }
}

/// Why a message was not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Plaintext where a rule requires sealing.
    #[error("plaintext on a topic that the rule `{rule}` requires to be sealed")]
    Plaintext {
        /// The rule's filter.
        rule: String,
    },
    /// Not an envelope.
    #[error("the envelope is broken")]
    Envelope,
    /// No header came along, and none is known.
    #[error("no header for this message was seen on this connection")]
    NoHeader,
    /// The header does not hold.
    #[error("publisher not verified")]
    Publisher(#[source] HeaderError),
    /// The publisher was revoked.
    #[error("the publisher `{0}` was revoked")]
    Revoked(String),
    /// The topic is not the header's.
    #[error("the header is for `{filter}`: the message was moved to another topic")]
    Topic {
        /// The header's filter.
        filter: String,
    },
    /// A second header under a known kid.
    #[error("another header under the kid of one seen before")]
    Kid,
    /// The header or message was altered.
    #[error("the message was altered")]
    Altered,
    /// The message's own signature does not fit, or is missing where the header says that there is one.
    #[error("the message's signature does not fit, or was taken away")]
    Signature,
    /// Made in the future.
    #[error("the header was made in the future: check the clocks")]
    Clock,
}

impl Broken {
    /// One word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plaintext { .. } => "plaintext",
            Self::NoHeader => "no-header",
            Self::Publisher(_) => "publisher-not-verified",
            Self::Revoked(_) => "revoked",
            Self::Topic { .. } => "topic",
            Self::Kid => "kid",
            Self::Clock => "clock",
            Self::Envelope | Self::Altered | Self::Signature => "broken",
        }
    }
}

/// A header whose publisher was verified.
struct Known {
    header: Header,
    publisher: Arc<Identity>,
    /// The publisher's, uncompressed.
    public_key: [u8; 65],
    /// `None` until somebody's key was tried; then the content key, or why there is none, for that
    /// many keys.
    tried: Option<(usize, Result<OpeningKey, Closed>)>,
    used: u64,
}

/// Why a header gives no content key.
enum Closed {
    NotForMe(NotForMe),
    Altered,
}

/// Opens messages for one device.
pub struct Opener {
    known: HashMap<Kid, Known>,
    /// By which they were verified.
    roots: Vec<Vec<u8>>,
    replay: Replay,
    uses: u64,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({} headers)", self.known.len())
    }
}

impl Opener {
    /// An opener whose replay windows live in the keyring's directory.
    ///
    /// # Errors
    /// [`FileError`] where they cannot be read.
    pub fn new(keyring: &Path) -> Result<Self, FileError> {
        Ok(Self::with(Replay::open(keyring)?))
    }

    /// An opener with these replay windows.
    pub fn with(replay: Replay) -> Self {
        Self { known: HashMap::new(), roots: Vec::new(), replay, uses: 0 }
    }

    /// Opens what arrived on `topic`; `retained` as the PUBLISH says: retained messages open outside
    /// the replay window, so that they may come with every new subscription.
    pub fn open(
        &mut self,
        keyring: &Keyring,
        topic: &str,
        payload: &[u8],
        retained: bool,
        now: u64,
    ) -> Outcome {
        self.try_open(keyring, topic, payload, retained, now).unwrap_or_else(|other| *other)
    }

    fn try_open(
        &mut self,
        keyring: &Keyring,
        topic: &str,
        payload: &[u8],
        retained: bool,
        now: u64,
    ) -> Result<Outcome, Box<Outcome>> {
        let broken = |why| Box::new(Outcome::Broken(why));
        if !is_sealed(payload) {
            return match keyring.bundle().rule_for(topic) {
                Some(rule) if rule.mode == Mode::Required => {
                    Err(broken(Broken::Plaintext { rule: rule.filter.to_string() }))
                }
                _ => Ok(Outcome::Unsealed(payload.to_vec())),
            };
        }
        let envelope = Envelope::parse(payload).map_err(|_| broken(Broken::Envelope))?;
        let message = envelope.message;
        if message.counter() >= MESSAGES_MAX {
            return Err(broken(Broken::Envelope));
        }
        self.follow_roots(keyring);
        if let Some(header) = envelope.header {
            self.learn(keyring, &message, header, now)?;
        }
        self.uses += 1;
        let known = self.known.get_mut(&message.kid()).ok_or_else(|| broken(Broken::NoHeader))?;
        known.used = self.uses;
        let bundle = keyring.bundle();
        if bundle.is_revoked(known.header.publisher()) {
            return Err(broken(Broken::Revoked(known.publisher.name.clone())));
        }
        if !known.header.filter().matches(topic) {
            let filter = known.header.filter().to_string();
            return Err(broken(Broken::Topic { filter }));
        }
        known.try_keys(keyring);
        let Known { header, publisher, public_key, tried, .. } = known;
        let key = match tried {
            Some((_, Ok(key))) => key,
            _ if is_newer(header, bundle) => return Err(Box::new(Outcome::Newer)),
            Some((_, Err(Closed::NotForMe(why)))) => return Err(Box::new(Outcome::NotForMe(why.clone()))),
            Some((_, Err(Closed::Altered))) | None => return Err(broken(Broken::Altered)),
        };
        let payload = key.open(topic, &message).map_err(|_| broken(Broken::Altered))?;
        let signature = message.verify(public_key, topic, header.hash(), header.publisher());
        if signature == Some(false) || (signature.is_none() && header.messages_are_signed()) {
            return Err(broken(Broken::Signature));
        }
        let (by, created) = (header.publisher(), header.created());
        if !retained && !self.replay.take(message.kid(), by, created, message.counter()) {
            return Err(Box::new(Outcome::Repeated));
        }
        Ok(Outcome::Opened(Opened {
            payload,
            publisher: publisher.clone(),
            created: header.created(),
            signed: signature.is_some(),
            kid: message.kid(),
            counter: message.counter(),
        }))
    }

    /// Forgets publishers for whom no root vouches any more.
    fn follow_roots(&mut self, keyring: &Keyring) {
        if self.roots != keyring.roots() {
            self.roots = keyring.roots().to_vec();
            self.known.retain(|_, known| known.header.verify(&self.roots).is_ok());
        }
    }

    /// Verifies a header that came along, once.
    fn learn(
        &mut self,
        keyring: &Keyring,
        message: &Message<'_>,
        bytes: &[u8],
        now: u64,
    ) -> Result<(), Box<Outcome>> {
        let broken = |why| Box::new(Outcome::Broken(why));
        if let Some(known) = self.known.get(&message.kid()) {
            let is_same = known.header.as_bytes() == bytes;
            return if is_same { Ok(()) } else { Err(broken(Broken::Kid)) };
        }
        let hash = smqtt_core::crypto::sha256(&[bytes]);
        if hash[..KID_BYTES] != message.kid().0 {
            return Err(broken(Broken::Altered));
        }
        let header = Header::parse(bytes).map_err(|error| match error {
            HeaderError::UnknownSuite => broken(Broken::Publisher(error)),
            _ => broken(Broken::Envelope),
        })?;
        let verified = header.verify(keyring.roots()).map_err(|error| match error {
            // A later bundle may know the root.
            HeaderError::Certificate(IdentityError::UnknownIssuer) if is_newer(&header, keyring.bundle()) => {
                Box::new(Outcome::Newer)
            }
            error => broken(Broken::Publisher(error)),
        })?;
        let VerifiedCertificate { identity, public_key } = verified;
        if header.created() > now.saturating_add(CLOCK_SKEW_SECONDS) {
            return Err(broken(Broken::Clock));
        }
        if self.known.len() >= HEADERS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(kid, _)| *kid);
            oldest.map(|kid| self.known.remove(&kid));
        }
        let publisher = Arc::new(identity);
        let known = Known { header, publisher, public_key, tried: None, used: self.uses };
        self.known.insert(message.kid(), known);
        Ok(())
    }

    /// Writes down that a message (not a retained one) was dealt with: it opens no more, in later processes either.
    ///
    /// # Errors
    /// [`FileError`] where that cannot be written; it must then not be acknowledged.
    pub fn record(&mut self, opened: &Opened) -> Result<(), FileError> {
        self.replay.record(opened.kid, opened.publisher.id, opened.created, opened.counter)
    }

    /// The header of a kid, if it was seen and verified.
    pub fn header(&self, kid: Kid) -> Option<&Header> {
        self.known.get(&kid).map(|known| &known.header)
    }
}

impl Known {
    /// Tries the keyring's keys, if it has others than last time and those did not open it.
    fn try_keys(&mut self, keyring: &Keyring) {
        let generation = keyring.key_generation();
        let stale = match &self.tried {
            Some((_, Ok(_))) => false,
            Some((at, Err(_))) => *at != generation,
            None => true,
        };
        if stale {
            self.tried = Some((generation, decapsulate(&self.header, keyring)));
        }
    }
}

/// Tries the keyring's keys of the header's epoch, newest first.
fn decapsulate(header: &Header, keyring: &Keyring) -> Result<OpeningKey, Closed> {
    let Some(params) = keyring.params_of(header) else { return Err(Closed::NotForMe(NotForMe::Params)) };
    let scope = header.scope();
    // While a master secret key is rotated there are keys for the same labels under two sets of parameters.
    let fits = |key: &&UserKey| key.epoch() == header.epoch() && key.params_id() == header.params_id();
    let Some(key) = keyring.keys().iter().rev().filter(fits).find(|key| key.satisfies(&scope)) else {
        return Err(Closed::NotForMe(why_not(header, keyring)));
    };
    header.open(params, key).map_err(|error| match error {
        HeaderError::Suite(SuiteError::OtherParams) => Closed::NotForMe(NotForMe::Params),
        _ => Closed::Altered,
    })
}

/// Why no key of the keyring fits, for people.
pub fn why_not(header: &Header, keyring: &Keyring) -> NotForMe {
    let target = match header.target() {
        Target::Policy(policy) => policy.to_string(),
        Target::Labels(labels) => labels.to_string(),
    };
    if header.suite() == SuiteId::FabeoKp && keyring.policy().is_none() {
        return NotForMe::NoPolicy { labels: target };
    }
    let of_suite = keyring.keys().iter().filter(|key| key.params_id() == header.params_id());
    if of_suite.clone().next().is_none() && keyring.keys().iter().any(|key| key.suite() == header.suite()) {
        return NotForMe::Params;
    }
    let mut of_epoch = of_suite.clone().filter(|key| key.epoch() == header.epoch());
    let mut epochs: Vec<u64> = of_suite.map(|key| key.epoch()).collect();
    epochs.sort_unstable();
    epochs.dedup();
    if of_epoch.clone().next().is_none() {
        let sealed = header.epoch();
        let mine = match (epochs.iter().find(|epoch| **epoch > sealed), epochs.last()) {
            (Some(next), _) if epochs.first() == Some(next) => format!("my keys begin at {next}"),
            (Some(next), _) => format!("my keys begin again at {next}"),
            (None, Some(last)) => format!("my keys end at {last}"),
            (None, None) => "I have no keys at all".into(),
        };
        return NotForMe::Epoch { sealed, mine };
    }
    // Would it fit if versions did not count? Then that is the reason.
    let scope = header.scope();
    if of_epoch.any(|key| key.satisfies_but_for_versions(&scope)) {
        let fits = match header.suite() {
            SuiteId::FabeoKp => format!("my key's policy holds for the labels `{target}`"),
            _ => format!("my attributes satisfy `{target}`"),
        };
        return NotForMe::Version { fits };
    }
    match keyring.policy() {
        Some(policy) if header.suite() == SuiteId::FabeoKp => {
            NotForMe::Labels { labels: target, policy: policy.to_string() }
        }
        _ => NotForMe::Attributes { policy: target },
    }
}

/// Whether the header was sealed under a later bundle than ours, as far as one can tell.
fn is_newer(header: &Header, bundle: &Bundle) -> bool {
    header.epoch() > bundle.epoch.number
        || header.versions().iter().any(|(key, version)| version > bundle.versions.get(key))
}
