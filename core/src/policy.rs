//! Policies: monotone formulas over attributes, and templates of them.
//!
//! ```text
//! policy     = and-list *( "or" and-list )
//! and-list   = part *( "and" part )
//! part       = "(" policy ")" / k "of" "(" policy *( "," policy ) ")" / leaf
//! leaf       = name [ ( "=" / "==" ) value / ( ">=" / "<=" / ">" / "<" ) integer ]
//! ```
//!
//! Names and values are as in [`attribute`](crate::attribute), keywords are case-insensitive, whitespace is free.
//! Comparisons look at the one unsigned 32-bit integer of a name. There is no negation: attribute-based
//! encryption opens for what a key has, and cannot notice what it lacks.
//!
//! A [`Policy`] is always canonical and within its bounds, so equal policies have equal text and equal bytes.

mod explain;
mod labelling;
mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use minicbor::{Decoder, Encoder};

pub use self::explain::{Detail, Explanation, Gate, Reason};
pub use self::labelling::Labelling;
pub use self::parse::{ParseError, ParseErrorKind, Report};

use crate::attribute::{Attribute, AttributeError, Attributes, Label, Versions, check_name, decode_name};
use crate::cbor::{Malformed, Written, same_bytes, to_vec, well_formed};
use crate::formula::{self, CborLeaf, DEPTH_MAX, Formula, FormulaError, LEAVES_MAX};
use crate::word::write_word;

/// Longest text of a policy, in bytes, as read and as printed.
pub const POLICY_BYTES_MAX: usize = 16384;
/// Longest encoding of a policy; a policy of [`POLICY_BYTES_MAX`] always fits.
pub const POLICY_CBOR_BYTES_MAX: usize = 2 * POLICY_BYTES_MAX;
/// Most gates on the way to a leaf of [`Policy::access`]: the policy's, 31 of a comparison, one for the epoch.
pub const ACCESS_DEPTH_MAX: usize = DEPTH_MAX + 32;
/// Most leaves of [`Policy::access`]: the policy's and the epoch.
pub const ACCESS_LEAVES_MAX: usize = LEAVES_MAX + 1;
/// How often one attribute, or comparisons of one name, may occur: each occurrence costs whoever opens one pairing more.
pub const OCCURRENCES_MAX: usize = 16;
/// Highest `$n` of a template.
pub const PLACEHOLDER_MAX: u32 = 64;

/// What a policy asks of one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// The set has this attribute.
    Attribute(Attribute),
    /// `name>=bound`, on the one integer of that name.
    AtLeast {
        /// The name.
        name: String,
        /// The smallest integer that will do.
        bound: u32,
    },
    /// `name<=bound`, on the one integer of that name.
    AtMost {
        /// The name.
        name: String,
        /// The largest integer that will do.
        bound: u32,
    },
}

impl Leaf {
    /// The name asked about.
    pub fn name(&self) -> &str {
        match self {
            Self::Attribute(attribute) => attribute.name(),
            Self::AtLeast { name, .. } | Self::AtMost { name, .. } => name,
        }
    }

    /// How many labels the leaf becomes in [`Policy::access`]: 1 for an attribute, up to 32 for a comparison.
    pub fn cost(&self) -> usize {
        match self {
            Self::Attribute(_) => 1,
            // The bits below the lowest one of the bound may be anything.
            Self::AtLeast { bound, .. } if *bound > 0 => 32 - bound.trailing_zeros() as usize,
            Self::AtMost { bound, .. } if *bound < u32::MAX => 32 - bound.trailing_ones() as usize,
            Self::AtLeast { .. } | Self::AtMost { .. } => 2,
        }
    }

    /// Whether these attributes do.
    pub fn satisfied_by(&self, attributes: &Attributes) -> bool {
        match self {
            Self::Attribute(attribute) => attributes.contains(attribute),
            Self::AtLeast { name, bound } => attributes.int(name).is_some_and(|n| n >= *bound),
            Self::AtMost { name, bound } => attributes.int(name).is_some_and(|n| n <= *bound),
        }
    }

    fn version_key(&self) -> Attribute {
        match self {
            Self::Attribute(attribute) => attribute.version_key(),
            Self::AtLeast { name, .. } | Self::AtMost { name, .. } => {
                Attribute::flag(name).expect("the names of a policy are checked when it is made")
            }
        }
    }

    fn access(&self, versions: &Versions) -> Formula<Label> {
        match self {
            Self::Attribute(attribute) => Formula::Leaf(Label::attribute(attribute, versions.get(attribute))),
            Self::AtLeast { name, bound } => compare(name, *bound, true, versions.get_name(name)),
            Self::AtMost { name, bound } => compare(name, *bound, false, versions.get_name(name)),
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(attribute) => attribute.fmt(f),
            Self::AtLeast { name, bound } => {
                write_word(f, name)?;
                write!(f, ">={bound}")
            }
            Self::AtMost { name, bound } => {
                write_word(f, name)?;
                write!(f, "<={bound}")
            }
        }
    }
}

/// The comparison of an integer with a bound as a formula over the integer's bits ("bag of bits", Bethencourt,
/// Sahai, Waters, S&P 2007, section 4.3).
///
/// `at_least`: going up from bit 0, `f_i = (bit_i and f_{i-1})` where the bound has a 1, `(bit_i or f_{i-1})`
/// where it has a 0. At most: the same with zeros and ones exchanged.
fn compare(name: &str, bound: u32, at_least: bool, version: u32) -> Formula<Label> {
    let bit = |index: u8, bit: bool| Formula::Leaf(Label::bit(name, index, bit, version));
    // Seen as "at least", every bit of the bound that decides is a 1.
    let ones = if at_least { bound } else { !bound };
    if ones == 0 {
        return Formula::Or(vec![bit(0, false), bit(0, true)]);
    }
    let lowest = ones.trailing_zeros() as u8;
    let mut formula = bit(lowest, at_least);
    for index in lowest + 1..32 {
        let pair = vec![bit(index, at_least), formula];
        formula = if (ones >> index) & 1 == 1 { Formula::And(pair) } else { Formula::Or(pair) };
    }
    formula
}

/// A policy, canonical and within [`DEPTH_MAX`], [`LEAVES_MAX`] and [`POLICY_BYTES_MAX`].
///
/// ```
/// use smqtt_core::attribute::Attributes;
/// use smqtt_core::policy::Policy;
/// let policy: Policy = "role=nurse and (ward=3 or ward=4)".parse()?;
/// assert!(policy.satisfied_by(&Attributes::parse(["role=nurse", "ward=4"])?));
/// assert_eq!(policy, "role = nurse AND ((ward=3) OR ward=4)".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Policy(Formula<Leaf>);

impl Policy {
    /// Makes a policy of a formula built by hand: checks names and bounds, and brings it into canonical form.
    pub fn new(formula: Formula<Leaf>) -> Result<Self, PolicyError> {
        Ok(Self(within_bounds(formula)?))
    }

    /// Reads a policy. The error shows where and what to write instead.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::policy(text).map(Self)
    }

    /// The formula.
    pub fn formula(&self) -> &Formula<Leaf> {
        &self.0
    }

    /// How many labels [`access`](Self::access) has, the epoch's not counted. At most [`LEAVES_MAX`].
    pub fn leaf_cost(&self) -> usize {
        self.0.leaves().map(Leaf::cost).sum()
    }

    /// Whether these attributes satisfy the policy.
    pub fn satisfied_by(&self, attributes: &Attributes) -> bool {
        self.0.satisfied_by(&|leaf| leaf.satisfied_by(attributes))
    }

    /// Why these attributes satisfy the policy, or why not.
    pub fn explain(&self, attributes: &Attributes) -> Explanation {
        explain::explain(&self.0, attributes)
    }

    /// The attributes the policy asks for by equality.
    pub fn attributes(&self) -> BTreeSet<&Attribute> {
        let mut attributes = BTreeSet::new();
        for leaf in self.0.leaves() {
            if let Leaf::Attribute(attribute) = leaf {
                attributes.insert(attribute);
            }
        }
        attributes
    }

    /// The names the policy mentions, comparisons included.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.leaves().map(Leaf::name).collect()
    }

    /// Whether the policy compares the integer of this name.
    pub fn compares(&self, name: &str) -> bool {
        self.0.leaves().any(|leaf| leaf.is_comparison() && leaf.name() == name)
    }

    /// The keys of all versions that [`access`](Self::access) looks up.
    pub fn version_keys(&self) -> BTreeSet<Attribute> {
        self.0.leaves().map(Leaf::version_key).collect()
    }

    /// The formula over labels that a suite works on: attributes with their versions, comparisons as bits, and
    /// the label of the epoch as the last child of an `and` at the root. Canonical, at most [`ACCESS_DEPTH_MAX`]
    /// deep and [`ACCESS_LEAVES_MAX`] leaves.
    ///
    /// Satisfied by [`Attributes::labels`] of the same versions and epoch exactly if the policy is satisfied by
    /// the attributes.
    pub fn access(&self, versions: &Versions, epoch: u64) -> Formula<Label> {
        let policy = self.0.map(&mut |leaf| leaf.access(versions));
        Formula::And(vec![policy, Formula::Leaf(Label::epoch(epoch))])
            .canonical()
            .expect("a policy has no empty gate and no impossible threshold")
    }

    /// Deterministic CBOR. This is what the header carries and what is hashed and compared.
    ///
    /// ```text
    /// [0, name, null / uint / tstr]   an attribute        [3, [children]]      and
    /// [1, name, bound]                name>=bound         [4, [children]]      or
    /// [2, name, bound]                name<=bound         [5, k, [children]]   k of
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| formula::encode_to(&self.0, e))
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        decode(bytes).map(Self)
    }
}

impl FromStr for Policy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

/// Prints what [`Policy::parse`] reads, with no more brackets and quotes than needed.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({self})")
    }
}

/// A policy with places for topic levels: in `role=nurse and ward=$1`, `$1` is the level that the first `+` of a
/// rule's topic filter matched.
///
/// A level goes in as one attribute value and is never read as syntax, so whoever chooses a topic cannot choose
/// the policy:
///
/// ```
/// use smqtt_core::policy::Template;
/// let template: Template = "role=nurse and ward=$1".parse()?;
/// assert_eq!(template.instantiate(&["3"])?.to_string(), "role=nurse and ward=3");
/// let odd = template.instantiate(&["3 or role=visitor"])?;
/// assert_eq!(odd.to_string(), "role=nurse and ward=\"3 or role=visitor\"");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template(Formula<TemplateLeaf>);

impl Template {
    /// Reads a template: a policy in which `$1` to `$64`, without quotes, may stand for a value after `=`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::template(text).map(Self)
    }

    /// The highest placeholder, which is how many levels [`instantiate`](Self::instantiate) needs; 0 if there is
    /// none.
    pub fn max_placeholder(&self) -> u32 {
        self.0.leaves().map(TemplateLeaf::placeholder_number).max().unwrap_or(0)
    }

    /// Puts `levels[n - 1]` in the place of `$n`, as [`Attribute::from_value`] takes it. Levels that no
    /// placeholder asks for are not looked at.
    pub fn instantiate(&self, levels: &[&str]) -> Result<Policy, PolicyError> {
        let formula = self.0.try_map(&mut |leaf| leaf.instantiate(levels).map(Formula::Leaf))?;
        Policy::new(formula)
    }

    /// Deterministic CBOR: that of a policy, with `[0, name, [n]]` for `name=$n`.
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| formula::encode_to(&self.0, e))
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        decode(bytes).map(Self)
    }
}

impl From<&Policy> for Template {
    fn from(policy: &Policy) -> Self {
        Self(policy.0.map(&mut |leaf| Formula::Leaf(TemplateLeaf::Leaf(leaf.clone()))))
    }
}

impl FromStr for Template {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

/// Prints what [`Template::parse`] reads.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
    }
}

/// Why something is not a policy, or a template gives none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The formula is out of its bounds, or not one.
    #[error(transparent)]
    Formula(#[from] FormulaError),
    /// A name or a value is not one.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// More text than [`POLICY_BYTES_MAX`], or more bytes than [`POLICY_CBOR_BYTES_MAX`].
    #[error("the policy is too long: {bytes} bytes, more than {max}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// One attribute more than [`OCCURRENCES_MAX`] times, or as many comparisons of one name.
    #[error("`{what}` occurs more than {OCCURRENCES_MAX} times")]
    Repeated {
        /// What occurs too often.
        what: String,
    },
    /// The topic has fewer levels than the template needs.
    #[error("`${placeholder}` needs a topic level, but the filter matched {levels}")]
    MissingLevel {
        /// The number after `$`.
        placeholder: u32,
        /// How many levels there are.
        levels: usize,
    },
    /// A topic level cannot be an attribute value.
    #[error("the topic level for `${placeholder}` cannot be an attribute value")]
    Level {
        /// The number after `$`.
        placeholder: u32,
        /// Why not.
        source: AttributeError,
    },
}

impl From<Malformed> for PolicyError {
    fn from(malformed: Malformed) -> Self {
        Self::Formula(malformed.into())
    }
}

/// A leaf of a template: of a policy, or `name=$number`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TemplateLeaf {
    Leaf(Leaf),
    Placeholder { name: String, number: u32 },
}

impl TemplateLeaf {
    /// The n of `$n`; 0 where there is none.
    fn placeholder_number(&self) -> u32 {
        match self {
            Self::Placeholder { number, .. } => *number,
            Self::Leaf(_) => 0,
        }
    }

    fn instantiate(&self, levels: &[&str]) -> Result<Leaf, PolicyError> {
        let (name, number) = match self {
            Self::Leaf(leaf) => return Ok(leaf.clone()),
            Self::Placeholder { name, number } => (name, *number),
        };
        let missing = PolicyError::MissingLevel { placeholder: number, levels: levels.len() };
        let level = levels.get(number as usize - 1).ok_or(missing)?;
        let attribute = Attribute::from_value(name, level)
            .map_err(|source| PolicyError::Level { placeholder: number, source })?;
        Ok(Leaf::Attribute(attribute))
    }

    fn check(&self) -> Result<(), PolicyError> {
        Ok(check_name(BoundedLeaf::name(self))?)
    }
}

impl fmt::Display for TemplateLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(leaf) => leaf.fmt(f),
            Self::Placeholder { name, number } => {
                write_word(f, name)?;
                write!(f, "=${number}")
            }
        }
    }
}

/// What the bounds need to know about a leaf.
trait BoundedLeaf: CborLeaf<Error = PolicyError> + fmt::Display {
    fn name(&self) -> &str;
    fn cost(&self) -> usize;

    /// Whether it is about an integer's bits, which comparisons of one name share.
    fn is_comparison(&self) -> bool;
}

impl BoundedLeaf for Leaf {
    fn name(&self) -> &str {
        self.name()
    }

    fn cost(&self) -> usize {
        self.cost()
    }

    fn is_comparison(&self) -> bool {
        !matches!(self, Self::Attribute(_))
    }
}

impl BoundedLeaf for TemplateLeaf {
    fn name(&self) -> &str {
        match self {
            Self::Leaf(leaf) => leaf.name(),
            Self::Placeholder { name, .. } => name,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.cost(),
            Self::Placeholder { .. } => 1,
        }
    }

    fn is_comparison(&self) -> bool {
        matches!(self, Self::Leaf(leaf) if leaf.is_comparison())
    }
}

/// What occurs more than [`OCCURRENCES_MAX`] times: an attribute, or comparisons of one name.
fn repeated<L: BoundedLeaf>(formula: &Formula<L>) -> Option<String> {
    let mut counts = std::collections::HashMap::new();
    formula.leaves().find_map(|leaf| {
        let what = if leaf.is_comparison() { format!("{} compared", leaf.name()) } else { leaf.to_string() };
        let count = counts.entry(what.clone()).or_insert(0usize);
        *count += 1;
        (*count > OCCURRENCES_MAX).then_some(what)
    })
}

fn within_bounds<L: BoundedLeaf>(formula: Formula<L>) -> Result<Formula<L>, PolicyError> {
    if formula.deeper_than(DEPTH_MAX) {
        return Err(FormulaError::TooDeep.into());
    }
    if formula.leaves().map(L::cost).sum::<usize>() > LEAVES_MAX {
        return Err(FormulaError::TooManyLeaves.into());
    }
    formula.leaves().try_for_each(|leaf| check_name(leaf.name()))?;
    if let Some(what) = repeated(&formula) {
        return Err(PolicyError::Repeated { what });
    }
    let formula = formula.canonical()?;
    // The text is bounded as well, so that whatever prints also reads back.
    let bytes = formula.to_string().len();
    if bytes > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes, max: POLICY_BYTES_MAX });
    }
    Ok(formula)
}

fn decode<L: BoundedLeaf>(bytes: &[u8]) -> Result<Formula<L>, PolicyError> {
    if bytes.len() > POLICY_CBOR_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes: bytes.len(), max: POLICY_CBOR_BYTES_MAX });
    }
    let formula = within_bounds(formula::decode_from::<L>(&mut Decoder::new(bytes))?)?;
    same_bytes(&to_vec(|e| formula::encode_to(&formula, e)), bytes)?;
    Ok(formula)
}

impl CborLeaf for Leaf {
    type Error = PolicyError;

    fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        match self {
            Self::Attribute(attribute) => attribute.encode_to(e)?,
            Self::AtLeast { name, bound } => _ = e.array(3)?.u8(1)?.str(name)?.u32(*bound)?,
            Self::AtMost { name, bound } => _ = e.array(3)?.u8(2)?.str(name)?.u32(*bound)?,
        }
        Ok(())
    }

    fn decode_fields(tag: u8, len: u64, d: &mut Decoder<'_>) -> Result<Self, PolicyError> {
        match (tag, len) {
            (0, 3) => Ok(Self::Attribute(Attribute::decode_fields(d)?)),
            (1, 3) => Ok(Self::AtLeast { name: decode_name(d)?, bound: well_formed(d.u32())? }),
            (2, 3) => Ok(Self::AtMost { name: decode_name(d)?, bound: well_formed(d.u32())? }),
            _ => Err(Malformed("a leaf is an array of three").into()),
        }
    }
}

impl CborLeaf for TemplateLeaf {
    type Error = PolicyError;

    fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        match self {
            Self::Leaf(leaf) => leaf.encode_to(e)?,
            Self::Placeholder { name, number } => {
                e.array(3)?.u8(0)?.str(name)?.array(1)?.u32(*number)?;
            }
        }
        Ok(())
    }

    fn decode_fields(tag: u8, len: u64, d: &mut Decoder<'_>) -> Result<Self, PolicyError> {
        let mut ahead = d.clone();
        let (name, value) = (ahead.str(), ahead.array());
        if let (0, 3, Ok(name), Ok(Some(1))) = (tag, len, name, value) {
            check_name(name)?;
            let number = well_formed(ahead.u32())?;
            d.set_position(ahead.position());
            return match number {
                1..=PLACEHOLDER_MAX => Ok(Self::Placeholder { name: name.to_owned(), number }),
                _ => Err(Malformed("a placeholder is 1 to 64").into()),
            };
        }
        Leaf::decode_fields(tag, len, d).map(Self::Leaf)
    }
}
