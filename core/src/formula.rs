//! Monotone formulas: `and`, `or`, `k of n` over leaves of any kind.
//!
//! One type serves the policies people write and the labels a suite works on. The canonical form flattens what
//! is the same gate twice and keeps the order: `a and (b and c)` is `a and b and c`, `1 of (a, b)` is `a or b`,
//! `2 of (a, b)` is `a and b`, and a gate of one child is the child.

use std::fmt;

use minicbor::{Decoder, Encoder};

use crate::cbor::{Malformed, Written, array_len, well_formed};

/// Most gates on the way from the root of a policy to a leaf.
pub const DEPTH_MAX: usize = 32;
/// Most leaves of a policy, every comparison counted as the bit labels it becomes.
pub const LEAVES_MAX: usize = 256;

/// A monotone formula over leaves `L`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Formula<L> {
    /// Holds if the leaf does.
    Leaf(L),
    /// Holds if all children do.
    And(Vec<Formula<L>>),
    /// Holds if any child does.
    Or(Vec<Formula<L>>),
    /// Holds if at least `k` children do.
    Threshold {
        /// How many must hold.
        k: u32,
        /// The children.
        of: Vec<Formula<L>>,
    },
}

use Formula::{And, Leaf, Or, Threshold};

impl<L> Formula<L> {
    /// All of the children, canonical if they are.
    pub fn all(children: Vec<Self>) -> Result<Self, FormulaError> {
        let mut flat = Vec::with_capacity(children.len());
        for child in children {
            match child {
                And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        only_child(flat, And)
    }

    /// Any of the children, canonical if they are.
    pub fn any(children: Vec<Self>) -> Result<Self, FormulaError> {
        let mut flat = Vec::with_capacity(children.len());
        for child in children {
            match child {
                Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        only_child(flat, Or)
    }

    /// At least `k` of the children, canonical if they are.
    pub fn threshold(k: u32, of: Vec<Self>) -> Result<Self, FormulaError> {
        match (k as usize, of.len()) {
            (0, n) => Err(FormulaError::Threshold { k, n }),
            (needed, n) if needed > n => Err(FormulaError::Threshold { k, n }),
            (needed, n) if needed == n => Self::all(of),
            (1, _) => Self::any(of),
            _ => Ok(Threshold { k, of }),
        }
    }

    /// The canonical form. Gates without children, `0 of` and `k of` fewer than `k` are errors.
    pub fn canonical(self) -> Result<Self, FormulaError> {
        let each = |children: Vec<Self>| children.into_iter().map(Self::canonical).collect::<Result<_, _>>();
        match self {
            Leaf(leaf) => Ok(Leaf(leaf)),
            And(children) => Self::all(each(children)?),
            Or(children) => Self::any(each(children)?),
            Threshold { k, of } => Self::threshold(k, each(of)?),
        }
    }

    /// The leaves from left to right, as often as they occur.
    pub fn leaves(&self) -> Leaves<'_, L> {
        Leaves { open: vec![self] }
    }

    /// Puts a formula in each leaf's place. The result may need [`canonical`](Self::canonical).
    pub fn map<M>(&self, f: &mut impl FnMut(&L) -> Formula<M>) -> Formula<M> {
        match self {
            Leaf(leaf) => f(leaf),
            And(children) => And(children.iter().map(|child| child.map(f)).collect()),
            Or(children) => Or(children.iter().map(|child| child.map(f)).collect()),
            Threshold { k, of } => Threshold { k: *k, of: of.iter().map(|child| child.map(f)).collect() },
        }
    }

    /// Like [`map`](Self::map), and stops at the first leaf that fails.
    pub fn try_map<M, E>(&self, f: &mut impl FnMut(&L) -> Result<Formula<M>, E>) -> Result<Formula<M>, E> {
        Ok(match self {
            Leaf(leaf) => f(leaf)?,
            And(children) => And(children.iter().map(|child| child.try_map(f)).collect::<Result<_, _>>()?),
            Or(children) => Or(children.iter().map(|child| child.try_map(f)).collect::<Result<_, _>>()?),
            Threshold { k, of } => {
                Threshold { k: *k, of: of.iter().map(|child| child.try_map(f)).collect::<Result<_, _>>()? }
            }
        })
    }

    /// Whether the formula holds, given which leaves do.
    pub fn satisfied_by(&self, holds: &impl Fn(&L) -> bool) -> bool {
        match self {
            Leaf(leaf) => holds(leaf),
            And(children) => children.iter().all(|child| child.satisfied_by(holds)),
            Or(children) => children.iter().any(|child| child.satisfied_by(holds)),
            Threshold { k, of } => of.iter().filter(|child| child.satisfied_by(holds)).count() >= *k as usize,
        }
    }

    /// Most gates between the root and a leaf; 0 for a leaf alone.
    pub fn depth(&self) -> usize {
        self.children().iter().map(|child| child.depth() + 1).max().unwrap_or(0)
    }

    /// How many leaves there are, repeated ones counted.
    pub fn leaf_count(&self) -> usize {
        self.leaves().count()
    }

    /// The children of a gate; none for a leaf.
    pub fn children(&self) -> &[Self] {
        match self {
            Leaf(_) => &[],
            And(children) | Or(children) | Threshold { of: children, .. } => children,
        }
    }

    /// Whether there are more than `limit` gates on the way to a leaf, without going deeper to find out.
    pub(crate) fn deeper_than(&self, limit: usize) -> bool {
        match (self.children(), limit) {
            ([], _) => false,
            (_, 0) => true,
            (children, _) => children.iter().any(|child| child.deeper_than(limit - 1)),
        }
    }
}

/// Prints with no more brackets than the policy language needs to read it back.
impl<L: fmt::Display> fmt::Display for Formula<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self {
            Leaf(leaf) => return leaf.fmt(f),
            And(_) => " and ",
            Or(_) => " or ",
            Threshold { k, .. } => {
                write!(f, "{k} of (")?;
                ", "
            }
        };
        for (i, child) in self.children().iter().enumerate() {
            f.write_str(if i == 0 { "" } else { separator })?;
            match (self, child) {
                (And(_), Or(_)) => write!(f, "({child})")?,
                _ => write!(f, "{child}")?,
            }
        }
        f.write_str(if matches!(self, Threshold { .. }) { ")" } else { "" })
    }
}

/// The leaves of a formula, from left to right.
#[derive(Debug)]
pub struct Leaves<'a, L> {
    /// What is still to visit, the next one last.
    open: Vec<&'a Formula<L>>,
}

impl<'a, L> Iterator for Leaves<'a, L> {
    type Item = &'a L;

    fn next(&mut self) -> Option<&'a L> {
        loop {
            match self.open.pop()? {
                Leaf(leaf) => return Some(leaf),
                gate => self.open.extend(gate.children().iter().rev()),
            }
        }
    }
}

/// Why something is not a formula.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormulaError {
    /// `and`, `or` or `k of` over nothing.
    #[error("a gate without children")]
    EmptyGate,
    /// `0 of n`, or more than there are.
    #[error("`{k} of` {n}")]
    Threshold {
        /// How many must hold.
        k: u32,
        /// How many there are.
        n: usize,
    },
    /// More than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More than [`LEAVES_MAX`].
    #[error("more than {LEAVES_MAX} leaves")]
    TooManyLeaves,
    /// Bytes that are not the encoding.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A leaf that has a place in the encoding: an array that starts with 0, 1 or 2.
pub(crate) trait CborLeaf: Sized {
    /// What reading a leaf can end in.
    type Error: From<FormulaError>;
    /// Writes the whole array.
    fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written;
    /// Reads what follows the head of an array of `len` items and its first item, `tag`.
    fn decode_fields(tag: u8, len: u64, d: &mut Decoder<'_>) -> Result<Self, Self::Error>;
}

/// `[3, children]` for and, `[4, children]` for or, `[5, k, children]` for a threshold.
pub(crate) fn encode_to<L: CborLeaf>(formula: &Formula<L>, e: &mut Encoder<Vec<u8>>) -> Written {
    match formula {
        Leaf(leaf) => return leaf.encode_to(e),
        And(_) => e.array(2)?.u8(3)?,
        Or(_) => e.array(2)?.u8(4)?,
        Threshold { k, .. } => e.array(3)?.u8(5)?.u32(*k)?,
    };
    e.array(formula.children().len() as u64)?;
    formula.children().iter().try_for_each(|child| encode_to(child, e))
}

/// Reads a formula of at most [`DEPTH_MAX`] and [`LEAVES_MAX`] into its canonical form. Whether the bytes were
/// canonical is for the caller to check, by writing it again.
pub(crate) fn decode_from<L: CborLeaf>(d: &mut Decoder<'_>) -> Result<Formula<L>, L::Error> {
    let mut leaves = LEAVES_MAX;
    decode_within(d, DEPTH_MAX, &mut leaves)
}

/// Reads a formula of at most `depth`, and takes its leaves from those that are left.
fn decode_within<L: CborLeaf>(
    d: &mut Decoder<'_>,
    depth: usize,
    leaves: &mut usize,
) -> Result<Formula<L>, L::Error> {
    let len = array_len(d, "a formula is an array").map_err(FormulaError::from)?;
    let tag = well_formed(d.u8()).map_err(FormulaError::from)?;
    match (tag, len) {
        (3, 2) => Ok(Formula::all(decode_children::<L>(d, depth, leaves)?)?),
        (4, 2) => Ok(Formula::any(decode_children::<L>(d, depth, leaves)?)?),
        (5, 3) => {
            let k = well_formed(d.u32()).map_err(FormulaError::from)?;
            Ok(Formula::threshold(k, decode_children::<L>(d, depth, leaves)?)?)
        }
        (0..=2, _) => {
            *leaves = leaves.checked_sub(1).ok_or(FormulaError::TooManyLeaves)?;
            Ok(Leaf(L::decode_fields(tag, len, d)?))
        }
        _ => Err(FormulaError::from(Malformed("no such gate")).into()),
    }
}

fn decode_children<L: CborLeaf>(
    d: &mut Decoder<'_>,
    depth: usize,
    leaves: &mut usize,
) -> Result<Vec<Formula<L>>, L::Error> {
    let depth = depth.checked_sub(1).ok_or(FormulaError::TooDeep)?;
    let len = array_len(d, "the children of a gate are an array").map_err(FormulaError::from)?;
    if len > LEAVES_MAX as u64 {
        return Err(FormulaError::TooManyLeaves.into());
    }
    (0..len).map(|_| decode_within(d, depth, leaves)).collect()
}

/// The gate over `children`, or the child if it is alone.
fn only_child<L>(
    mut children: Vec<Formula<L>>,
    gate: fn(Vec<Formula<L>>) -> Formula<L>,
) -> Result<Formula<L>, FormulaError> {
    match children.len() {
        0 => Err(FormulaError::EmptyGate),
        1 => children.pop().ok_or(FormulaError::EmptyGate),
        _ => Ok(gate(children)),
    }
}
