//! Topic rules: what must hold for messages on the topics of a filter.

use minicbor::{Decode, Encode};

use crate::policy::{Policy, PolicyError, Template};
use crate::topic::Filter;

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
    #[error("the policy uses `${used}`, but the filter has {available} `+`")]
    Placeholder {
        /// The largest placeholder.
        used: usize,
        /// How many `+` the filter has.
        available: usize,
    },
    /// Sealed, but nobody says for whom.
    #[error("a rule that requires sealing needs a policy")]
    NoPolicy,
}

impl Rule {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`RuleError`], saying what does not.
    pub fn check(&self) -> Result<(), RuleError> {
        let available = self.filter.captures();
        let used = self.policy.as_ref().map_or(0, |p| p.max_placeholder() as usize);
        if used > available {
            return Err(RuleError::Placeholder { used, available });
        }
        if self.mode == Mode::Required && self.policy.is_none() {
            return Err(RuleError::NoPolicy);
        }
        Ok(())
    }

    /// The policy for messages on `topic`, its levels put in as single values; `None` where the rule
    /// names none or does not match.
    ///
    /// # Errors
    /// A level that cannot be an attribute's value.
    pub fn policy_for(&self, topic: &str) -> Result<Option<Policy>, PolicyError> {
        match (&self.policy, self.filter.capture(topic)) {
            (Some(template), Some(levels)) => template.instantiate(&levels).map(Some),
            _ => Ok(None),
        }
    }

    /// The topics for which one header can serve: those where the policy comes out the same.
    pub fn header_filter(&self, topic: &str) -> Filter {
        match &self.policy {
            Some(template) if template.max_placeholder() > 0 => {
                self.filter.narrowed(topic).unwrap_or_else(|| self.filter.clone())
            }
            _ => self.filter.clone(),
        }
    }
}

/// The rule for `topic`: that with the nearest filter (see [`Filter::precedence`]).
pub fn rule_for<'r>(rules: &'r [Rule], topic: &str) -> Option<&'r Rule> {
    rules.iter().filter(|rule| rule.filter.matches(topic)).min_by_key(|rule| rule.filter.precedence())
}
