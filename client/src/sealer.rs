//! Sealing: which policy, which content key, and when to make a new one.

use std::collections::HashMap;
use std::sync::Arc;

use smqtt_core::bundle::Bundle;
use smqtt_core::envelope::{EnvelopeError, SealingKey, full};
use smqtt_core::header::{Draft, Header, HeaderError, Kid};
use smqtt_core::policy::PolicyError;
use smqtt_core::rule::{LevelError, Mode};
use smqtt_core::suite::Params;
use smqtt_core::target::{Target, TargetError};
use smqtt_core::topic::{Filter, TopicError, check_topic};

use crate::keyring::Keyring;

/// How long a content key is used, in seconds.
pub const KEY_AGE_SECONDS_MAX: u64 = 3600;
/// How long brokers take messages under a header after that, in seconds.
const LATE_SECONDS: u64 = 600;
/// How many messages a content key seals.
pub const KEY_MESSAGES_MAX: u64 = 1 << 24;
/// How many content keys are held at once; the oldest goes first.
pub const KEYS_MAX: usize = 64;
/// For how many topics it is remembered what their rules say; then all is worked out anew.
const TOPICS_MAX: usize = 1024;

/// How a message is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    /// As the topic's rule says.
    Rule,
    /// Under this policy or these labels; must agree with the rule, if there is one.
    Under(&'a Target),
    /// In the clear.
    Plain,
}

/// Why a message was not sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Not a topic.
    #[error("`{topic}` is not a topic to publish to")]
    Topic {
        /// What was given.
        topic: String,
        /// Why.
        #[source]
        source: TopicError,
    },
    /// Neither a rule nor an option says for whom.
    #[error("no policy for `{0}`")]
    NoPolicy(String),
    /// The rule says otherwise.
    #[error("the rule `{rule}` seals `{topic}` under `{wanted}`, not under `{given}`")]
    OtherPolicy {
        /// The topic.
        topic: String,
        /// The rule's filter.
        rule: String,
        /// What it yields.
        wanted: String,
        /// What was asked for.
        given: String,
    },
    /// The rule forbids plaintext.
    #[error("the rule `{rule}` requires messages on `{topic}` to be sealed")]
    PlainForbidden {
        /// The topic.
        topic: String,
        /// The rule's filter.
        rule: String,
    },
    /// The topic does not fit the rule's policy or labels.
    #[error("a level of `{topic}` cannot be an attribute's value")]
    Level {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: PolicyError,
    },
    /// The rule's labels come out as none that can be sealed under.
    #[error("the labels for `{topic}` cannot be used")]
    Labels {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: TargetError,
    },
    /// The bundle is too old to seal under.
    #[error("the newest bundle, number {0}, has expired")]
    Expired(u64),
    /// The device was revoked.
    #[error("this device was revoked")]
    Revoked,
    /// The authority has given no parameters that are in use.
    #[error("no public parameters that are in use")]
    NoParams,
    /// From the suite.
    #[error("cannot make a header")]
    Header(#[from] HeaderError),
    /// From the envelope.
    #[error("cannot seal")]
    Envelope(#[from] EnvelopeError),
}

impl SealError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoPolicy(_) => {
                Some("give `--policy` or `--label`, set a rule for the topic, or say `--plain`")
            }
            Self::OtherPolicy { .. } => Some("leave `--policy` and `--label` away: the rule decides"),
            Self::PlainForbidden { .. } => Some("leave `--plain` away: the rule decides for whom"),
            Self::Labels { source, .. } => source.hint(),
            Self::Expired(_) => Some("the authority must be reachable now and then: is it running?"),
            Self::NoParams => Some("enrol again"),
            _ => None,
        }
    }
}

/// A message ready to be published.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// Plaintext, as asked for.
    Plain(Vec<u8>),
    /// Sealed.
    Sealed(Sealed),
}

/// A sealed message, which can go compact or full.
#[derive(Clone, Debug)]
pub struct Sealed {
    header: Arc<Header>,
    compact: Vec<u8>,
}

impl Sealed {
    /// Its content key.
    pub fn kid(&self) -> Kid {
        self.header.kid()
    }

    /// The header it goes with.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The message alone.
    pub fn compact(&self) -> &[u8] {
        &self.compact
    }

    /// The message alone, taken out.
    pub fn into_compact(self) -> Vec<u8> {
        self.compact
    }

    /// The header and the message.
    pub fn full(&self) -> Vec<u8> {
        full(self.header.as_bytes(), &self.compact)
    }
}

struct Cached {
    header: Arc<Header>,
    key: SealingKey,
    bundle: u64,
    made: u64,
}

impl Cached {
    fn is_usable(&self, bundle: &Bundle, now: u64) -> bool {
        self.bundle == bundle.number
            && now < self.made.saturating_add(KEY_AGE_SECONDS_MAX)
            && now.saturating_add(60) >= self.made
            && self.key.sealed() < KEY_MESSAGES_MAX
    }

    fn seal(&self, topic: &str, payload: &[u8]) -> Result<Outgoing, SealError> {
        let compact = self.key.seal(topic, payload)?;
        Ok(Outgoing::Sealed(Sealed { header: self.header.clone(), compact }))
    }
}

/// What is sealed under, and the topics for which a header under it serves.
type Slot = (Target, Filter);

/// Seals for one process of one device.
#[derive(Default)]
pub struct Sealer {
    keys: HashMap<Slot, Arc<Cached>>,
    /// The content keys that the rules came to for topics, none of which `keys` does not hold: to work out which it is
    /// takes longer than to seal.
    ruled: HashMap<String, Arc<Cached>>,
    sign: bool,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} content keys)", self.keys.len())
    }
}

impl Sealer {
    /// A sealer without content keys; `sign`: every message carries a signature of its own.
    pub fn new(sign: bool) -> Self {
        Self { sign, ..Self::default() }
    }

    /// Seals `payload` for `topic` as `wish` and the rules of the keyring's bundle say. Makes a header
    /// where none fits: content keys live for one policy, one topic filter, one bundle, a bounded time.
    ///
    /// # Errors
    /// [`SealError`]: nothing may then be sent.
    pub fn seal(
        &mut self,
        keyring: &Keyring,
        topic: &str,
        payload: &[u8],
        wish: Wish<'_>,
        now: u64,
    ) -> Result<Outgoing, SealError> {
        let bundle = keyring.bundle();
        if let Some(cached) = self.remembered(bundle, topic, wish, now) {
            check_current(keyring, now)?;
            return cached.seal(topic, payload);
        }
        check_topic(topic).map_err(|source| SealError::Topic { topic: topic.to_owned(), source })?;
        // Nothing to hide in nothing: an empty retained message takes the kept one away.
        if wish == Wish::Plain && payload.is_empty() {
            return Ok(Outgoing::Plain(Vec::new()));
        }
        let Some(slot) = decide(bundle, topic, wish)? else {
            return Ok(Outgoing::Plain(payload.to_vec()));
        };
        check_current(keyring, now)?;
        let cached = self.content_key(keyring, slot, now)?;
        let sealed = cached.seal(topic, payload)?;
        if wish == Wish::Rule {
            if self.ruled.len() >= TOPICS_MAX {
                self.ruled.clear();
            }
            self.ruled.insert(topic.to_owned(), cached);
        }
        Ok(sealed)
    }

    /// The content key that the topic's rule came to before, under this very bundle, if it is good for more.
    fn remembered(&self, bundle: &Bundle, topic: &str, wish: Wish<'_>, now: u64) -> Option<&Cached> {
        let cached = self.ruled.get(topic).filter(|_| wish == Wish::Rule)?;
        cached.is_usable(bundle, now).then_some(cached)
    }

    fn content_key(&mut self, keyring: &Keyring, slot: Slot, now: u64) -> Result<Arc<Cached>, SealError> {
        let bundle = keyring.bundle();
        if let Some(cached) = self.keys.get(&slot).filter(|cached| cached.is_usable(bundle, now)) {
            return Ok(cached.clone());
        }
        // The bundle says of each suite which parameters come first.
        let suite = slot.0.suite();
        let known = |id: &_| keyring.params().iter().find(|p: &&Params| p.id() == id && p.suite() == suite);
        let params = bundle.params.iter().find_map(known).ok_or(SealError::NoParams)?;
        let draft = Draft {
            params,
            epoch: bundle.epoch.number,
            versions: &bundle.versions,
            target: &slot.0,
            created: now,
            expires: now.saturating_add(KEY_AGE_SECONDS_MAX + LATE_SECONDS),
            filter: &slot.1,
            sign_messages: self.sign,
        };
        let (header, key) = Header::seal(&draft, keyring.signer())?;
        self.keys.retain(|_, c| c.bundle == bundle.number);
        if self.keys.len() >= KEYS_MAX {
            let oldest = self.keys.iter().min_by_key(|(_, c)| c.made).map(|(slot, _)| slot.clone());
            oldest.map(|slot| self.keys.remove(&slot));
        }
        let cached = Arc::new(Cached { header: Arc::new(header), key, bundle: bundle.number, made: now });
        self.keys.insert(slot, cached.clone());
        // One of its keys may have gone, or been replaced.
        self.ruled.clear();
        Ok(cached)
    }

    /// Drops all content keys: the next message of each policy gets a new header.
    pub fn forget(&mut self) {
        self.keys.clear();
        self.ruled.clear();
    }
}

/// Whether the device may seal at all, and under this bundle.
fn check_current(keyring: &Keyring, now: u64) -> Result<(), SealError> {
    let bundle = keyring.bundle();
    if bundle.is_revoked(keyring.id()) {
        return Err(SealError::Revoked);
    }
    if bundle.is_expired(now) {
        return Err(SealError::Expired(bundle.number));
    }
    Ok(())
}

/// Under which policy, and for which topics its header can serve; `None` for plaintext.
fn decide(bundle: &Bundle, topic: &str, wish: Wish<'_>) -> Result<Option<(Target, Filter)>, SealError> {
    let rule = bundle.rule_for(topic);
    if wish == Wish::Plain {
        return match rule {
            Some(rule) if rule.mode == Mode::Required => {
                Err(SealError::PlainForbidden { topic: topic.to_owned(), rule: rule.filter.to_string() })
            }
            _ => Ok(None),
        };
    }
    let from_rule = match rule {
        None => None,
        Some(rule) => {
            let topic = topic.to_owned();
            let target = rule.target_for(&topic).map_err(|error| match error {
                LevelError::Target(source) => SealError::Labels { topic, source },
                LevelError::Policy(source) => SealError::Level { topic, source },
            });
            target?.map(|target| (target, rule))
        }
    };
    match (from_rule, wish) {
        (Some((wanted, rule)), Wish::Under(given)) if wanted != *given => Err(SealError::OtherPolicy {
            topic: topic.to_owned(),
            rule: rule.filter.to_string(),
            wanted: wanted.to_string(),
            given: given.to_string(),
        }),
        (Some((wanted, rule)), _) => Ok(Some((wanted, rule.header_filter(topic)))),
        (None, Wish::Under(given)) => {
            let exact =
                topic.parse().map_err(|source| SealError::Topic { topic: topic.to_owned(), source })?;
            Ok(Some((given.clone(), exact)))
        }
        (None, _) => Err(SealError::NoPolicy(topic.to_owned())),
    }
}
