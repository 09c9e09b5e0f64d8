//! Why a set of attributes satisfies a policy, or why not.

use std::fmt;

use super::Leaf;
use crate::attribute::{Attribute, Attributes, Value};
use crate::formula::Formula;
use crate::word::write_word;

/// The verdict on a policy and on each of its parts. Prints as an indented tree:
///
/// ```text
/// ✗ all of these (1 of 2 hold)
///   ✓ role=nurse
///   ✗ any of these (0 of 2 hold)
///     ✗ ward=3: has ward=5
///     ✗ ward=4: has ward=5
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    text: String,
    satisfied: bool,
    detail: Detail,
}

/// What stands behind a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A leaf, and the reason if it does not hold.
    Leaf(Option<Reason>),
    /// A gate, and the verdicts on its children.
    Gate(Gate, Vec<Explanation>),
}

/// The kind of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// All children must hold.
    All,
    /// One child must hold.
    Any,
    /// That many children must hold.
    AtLeast(u32),
}

/// Why a leaf does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing has that name.
    Missing(String),
    /// The name has only these.
    Has(Vec<Attribute>),
    /// A comparison, but the name has only these and none is an integer.
    NoInteger(Vec<Attribute>),
    /// A comparison, but the name has several integers.
    SeveralIntegers(String),
}

impl Explanation {
    /// The text of this part of the policy.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds.
    pub fn satisfied(&self) -> bool {
        self.satisfied
    }

    /// What stands behind that.
    pub fn detail(&self) -> &Detail {
        &self.detail
    }

    /// The verdicts on the children; none for a leaf.
    pub fn children(&self) -> &[Explanation] {
        match &self.detail {
            Detail::Leaf(_) => &[],
            Detail::Gate(_, children) => children,
        }
    }

    /// How many children hold.
    pub fn holding(&self) -> usize {
        self.children().iter().filter(|child| child.satisfied).count()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        write!(f, "{:indent$}{} ", "", if self.satisfied { '✓' } else { '✗' })?;
        match &self.detail {
            Detail::Leaf(None) => f.write_str(&self.text),
            Detail::Leaf(Some(reason)) => write!(f, "{}: {reason}", self.text),
            Detail::Gate(gate, children) => {
                write!(f, "{gate} of these ({} of {} hold)", self.holding(), children.len())?;
                children.iter().try_for_each(|child| {
                    f.write_str("\n")?;
                    child.write(f, indent + 2)
                })
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Any => f.write_str("any"),
            Self::AtLeast(k) => write!(f, "at least {k}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => {
                f.write_str("has no ")?;
                write_word(f, name)
            }
            Self::Has(attributes) => write_has(f, attributes),
            Self::NoInteger(attributes) => {
                write_has(f, attributes)?;
                f.write_str(": comparisons need an integer")
            }
            Self::SeveralIntegers(name) => {
                f.write_str("has several values of ")?;
                write_word(f, name)?;
                f.write_str(": comparisons need exactly one")
            }
        }
    }
}

fn write_has(f: &mut fmt::Formatter<'_>, attributes: &[Attribute]) -> fmt::Result {
    for (i, attribute) in attributes.iter().enumerate() {
        write!(f, "{}{attribute}", if i == 0 { "has " } else { ", " })?;
    }
    Ok(())
}

pub(super) fn explain(formula: &Formula<Leaf>, attributes: &Attributes) -> Explanation {
    let text = formula.to_string();
    let (gate, needed) = match formula {
        Formula::Leaf(leaf) => {
            let satisfied = leaf.satisfied_by(attributes);
            let reason = if satisfied { None } else { Some(reason(leaf, attributes)) };
            return Explanation { text, satisfied, detail: Detail::Leaf(reason) };
        }
        Formula::And(children) => (Gate::All, children.len()),
        Formula::Or(_) => (Gate::Any, 1),
        Formula::Threshold { k, .. } => (Gate::AtLeast(*k), *k as usize),
    };
    let children: Vec<_> = formula.children().iter().map(|child| explain(child, attributes)).collect();
    let satisfied = children.iter().filter(|child| child.satisfied).count() >= needed;
    Explanation { text, satisfied, detail: Detail::Gate(gate, children) }
}

fn reason(leaf: &Leaf, attributes: &Attributes) -> Reason {
    let has: Vec<_> = attributes.named(leaf.name()).cloned().collect();
    let integers = has.iter().filter(|attribute| matches!(attribute.value(), Value::Int(_))).count();
    match (leaf, integers) {
        _ if has.is_empty() => Reason::Missing(leaf.name().to_owned()),
        (Leaf::Attribute(_), _) | (_, 1) => Reason::Has(has),
        (_, 0) => Reason::NoInteger(has),
        _ => Reason::SeveralIntegers(leaf.name().to_owned()),
    }
}
