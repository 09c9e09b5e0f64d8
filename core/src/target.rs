//! What a message is sealed under: a policy, or labels for keys that carry the policy.

use std::fmt;

use crate::attribute::{Attribute, AttributeError, Attributes, Versions};
use crate::formula::LEAVES_MAX;
use crate::policy::Policy;
use crate::suite::{Scope, SuiteId};

/// What a message is sealed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Whoever has attributes that satisfy it opens it: `fabeo-cp`.
    Policy(Policy),
    /// Whoever has a key whose policy they satisfy opens it: `fabeo-kp`.
    Labels(Attributes),
}

impl Target {
    /// Labels to seal under, at most [`LEAVES_MAX`] when each integer is counted with its bits.
    ///
    /// # Errors
    /// [`TargetError`] for none or too many.
    pub fn labels(attributes: Attributes) -> Result<Self, TargetError> {
        let count = attributes.labels(&Versions::default(), 0).len() - 1;
        match count {
            0 => Err(TargetError::Empty),
            count if count > LEAVES_MAX => Err(TargetError::TooMany { count }),
            _ => Ok(Self::Labels(attributes)),
        }
    }

    /// The suite that seals under such a target.
    pub fn suite(&self) -> SuiteId {
        match self {
            Self::Policy(_) => SuiteId::FabeoCp,
            Self::Labels(_) => SuiteId::FabeoKp,
        }
    }

    /// The labels, where it is labels.
    pub fn as_labels(&self) -> Option<&Attributes> {
        match self {
            Self::Policy(_) => None,
            Self::Labels(labels) => Some(labels),
        }
    }

    /// The policy, where it is one.
    pub fn as_policy(&self) -> Option<&Policy> {
        match self {
            Self::Policy(policy) => Some(policy),
            Self::Labels(_) => None,
        }
    }

    /// What the suite works on: labels with versions, and the epoch.
    pub fn scope(&self, versions: &Versions, epoch: u64) -> Scope {
        match self {
            Self::Policy(policy) => Scope::Policy(policy.access(versions, epoch)),
            Self::Labels(attributes) => Scope::Labels(attributes.labels(versions, epoch).into()),
        }
    }

    /// Of `versions`, those of the attributes that are named.
    pub fn used_versions(&self, versions: &Versions) -> Versions {
        let keys: Vec<Attribute> = match self {
            Self::Policy(policy) => policy.version_keys().into_iter().collect(),
            Self::Labels(attributes) => attributes.iter().map(Attribute::version_key).collect(),
        };
        let mut used = Versions::default();
        for key in keys {
            let set = used.set(&key, versions.get(&key));
            set.expect("a target has fewer attributes than versions can hold");
        }
        used
    }
}

impl From<Policy> for Target {
    fn from(policy: Policy) -> Self {
        Self::Policy(policy)
    }
}

/// The policy, or the labels in square brackets: no policy looks like that.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Labels(attributes) => write!(f, "[{attributes}]"),
        }
    }
}

/// Why attributes cannot be labels to seal under.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// None at all.
    #[error("no labels to seal under")]
    Empty,
    /// Too many.
    #[error("{count} labels, more than {LEAVES_MAX}: an integer counts 33")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A label, or the topic level in its place, is no attribute.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
}

impl TargetError {
    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("write `name` or `name=value`, several with `,` between them"),
            Self::TooMany { .. } => Some("where nobody compares use text, such as `ward=w3`: it counts 1"),
            Self::Attribute(error) => error.hint(),
        }
    }
}
