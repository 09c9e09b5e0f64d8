//! Topic rules: what must hold for messages on the topics of a filter.

mod index;

use minicbor::{Decode, Encode};

use crate::policy::{Labelling, Policy, PolicyError, Template};
use crate::target::{Target, TargetError};
use crate::topic::Filter;

pub use index::RuleIndex;

/// Most rules in one bundle.
pub const RULES_MAX: usize = 1024;

/// Whether messages on a rule's topics must be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Mode {
    /// Sealed or plain, as the publisher likes.
    #[n(0)]
    Open,
    /// Plain passes, but is counted and logged.
    #[n(1)]
    Warn,
    /// Sealed under the rule's policy, or refused.
    #[n(2)]
    Required,
}

impl Mode {
    /// The word for it on command lines and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Warn => "warn",
            Self::Required => "required",
        }
    }

    /// The mode of this word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Warn, Self::Required].into_iter().find(|mode| mode.name() == name)
    }
}

/// What must hold on the topics that a filter matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which topics. At most one rule for each filter.
    pub filter: Filter,
    /// Whether messages must be sealed.
    pub mode: Mode,
    /// Under which policy; `$n` stands for the level that the n-th `+` of the filter matches.
    pub policy: Option<Template>,
    /// Or under which labels, for keys that carry a policy; `$n` as there. Not both.
    pub labels: Option<Labelling>,
    /// Who may publish, by attributes; `None`: whoever is connected.
    pub publishers: Option<Policy>,
    /// Who may subscribe, by attributes; `None`: whoever is connected.
    pub subscribers: Option<Policy>,
}

/// Why a rule makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// `$n` without an n-th `+`.
    #[error("the rule uses `${used}`, but the filter has {available} `+`")]
    Placeholder {
        /// The largest placeholder.
        used: usize,
        /// How many `+` the filter has.
        available: usize,
    },
    /// Sealed, but nobody says for whom.
    #[error("a rule that requires sealing needs a policy or labels")]
    NoPolicy,
    /// Sealed in two ways at once.
    #[error("a rule has a policy or labels, not both")]
    Both,
    /// Labels that are too many whatever the topic.
    #[error(transparent)]
    Labels(#[from] TargetError),
}

/// Why a topic gives nothing to seal under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// A level is no value, or the policy that comes out is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The labels that come out are none, or too many.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Rule {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`RuleError`], saying what does not.
    pub fn check(&self) -> Result<(), RuleError> {
        let available = self.filter.captures();
        let used = self.max_placeholder() as usize;
        if used > available {
            return Err(RuleError::Placeholder { used, available });
        }
        match (&self.policy, &self.labels) {
            (Some(_), Some(_)) => Err(RuleError::Both),
            (None, None) if self.mode == Mode::Required => Err(RuleError::NoPolicy),
            (None, Some(labels)) => match Target::labels(labels.certain()) {
                Err(error @ TargetError::TooMany { .. }) => Err(error.into()),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn max_placeholder(&self) -> u32 {
        let of_policy = self.policy.as_ref().map_or(0, Template::max_placeholder);
        of_policy.max(self.labels.as_ref().map_or(0, Labelling::max_placeholder))
    }

    /// What messages on `topic` are sealed under, its levels put in as single values; `None` where the rule
    /// names nothing or does not match.
    ///
    /// # Errors
    /// A level that cannot be an attribute's value, or labels that are too many.
    pub fn target_for(&self, topic: &str) -> Result<Option<Target>, LevelError> {
        let Some(levels) = self.filter.capture(topic) else { return Ok(None) };
        if let Some(template) = &self.policy {
            return Ok(Some(Target::Policy(template.instantiate(&levels)?)));
        }
        let labels = |labelling: &Labelling| Ok(Target::labels(labelling.instantiate(&levels)?)?);
        self.labels.as_ref().map(labels).transpose()
    }

    /// The topics for which one header can serve: those where the policy or the labels come out the same.
    pub fn header_filter(&self, topic: &str) -> Filter {
        match self.max_placeholder() {
            0 => self.filter.clone(),
            _ => self.filter.narrowed(topic).unwrap_or_else(|| self.filter.clone()),
        }
    }
}

/// The rule for `topic`: that with the nearest filter (see [`Filter::precedence`]).
pub fn rule_for<'r>(rules: &'r [Rule], topic: &str) -> Option<&'r Rule> {
    rules.iter().filter(|rule| rule.filter.matches(topic)).min_by_key(|rule| rule.filter.precedence())
}
