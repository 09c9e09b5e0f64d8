//! Labels with places for topic levels.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use minicbor::Decoder;

use super::{CborLeaf, Formula, Leaf, ParseError, PolicyError, TemplateLeaf, parse};
use crate::attribute::{ATTRIBUTES_MAX, Attribute, AttributeError, Attributes};
use crate::cbor::{Malformed, array_len, same_bytes, to_vec, well_formed};
use crate::formula;

/// Attributes that a rule labels messages with; in `kind=reading, ward=$1`, `$1` is the level that the first `+`
/// of the rule's topic filter matched.
///
/// A level goes in as one attribute value and is never read as syntax:
///
/// ```
/// use smqtt_core::policy::Labelling;
/// let labelling: Labelling = "kind=reading, ward=$1".parse()?;
/// assert_eq!(labelling.instantiate(&["3"])?.to_string(), "kind=reading, ward=3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labelling(Vec<TemplateLeaf>);

impl Labelling {
    /// Reads attributes separated by `,`, in which `$1` to `$64`, without quotes, may stand for a value.
    ///
    /// # Errors
    /// [`ParseError`], which shows where and what to write instead.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Ok(Self::sorted(parse::labels(text)?))
    }

    /// The same labels have one order, whoever wrote them down.
    fn sorted(leaves: Vec<TemplateLeaf>) -> Self {
        let by_bytes: BTreeSet<(Vec<u8>, usize)> =
            leaves.iter().enumerate().map(|(i, leaf)| (bytes(leaf), i)).collect();
        let mut sorted: Vec<TemplateLeaf> = by_bytes.into_iter().map(|(_, i)| leaves[i].clone()).collect();
        sorted.dedup();
        Self(sorted)
    }

    /// The highest placeholder; 0 if there is none.
    pub fn max_placeholder(&self) -> u32 {
        self.0.iter().map(TemplateLeaf::placeholder_number).max().unwrap_or(0)
    }

    /// The attributes without a placeholder.
    pub fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.0.iter().filter_map(|leaf| match leaf {
            TemplateLeaf::Leaf(Leaf::Attribute(attribute)) => Some(attribute),
            _ => None,
        })
    }

    /// The attributes that mean the same whatever the topic: no placeholder has their name.
    pub(crate) fn certain(&self) -> Attributes {
        let open: BTreeSet<&str> = self.placeholder_names().collect();
        let certain = self.attributes().filter(|attribute| !open.contains(attribute.name()));
        Attributes::new(certain.cloned()).expect("a labelling has no more attributes than a set")
    }

    /// The names of the attributes with a placeholder.
    pub fn placeholder_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|leaf| match leaf {
            TemplateLeaf::Placeholder { name, .. } => Some(name.as_str()),
            TemplateLeaf::Leaf(_) => None,
        })
    }

    /// Puts `levels[n - 1]` in the place of `$n`, as [`Attribute::from_value`] takes it.
    ///
    /// # Errors
    /// [`PolicyError`] where a level is missing or cannot be a value.
    pub fn instantiate(&self, levels: &[&str]) -> Result<Attributes, PolicyError> {
        let attribute = |leaf: &TemplateLeaf| match leaf.instantiate(levels)? {
            Leaf::Attribute(attribute) => Ok(attribute),
            Leaf::AtLeast { .. } | Leaf::AtMost { .. } => Err(NOT_A_LABEL.into()),
        };
        let attributes = self.0.iter().map(attribute).collect::<Result<Vec<_>, PolicyError>>()?;
        Ok(Attributes::new(attributes)?)
    }

    /// Deterministic CBOR: an array of attributes, `[0, name, [n]]` for `name=$n`, sorted by their bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| {
            e.array(self.0.len() as u64)?;
            self.0.iter().try_for_each(|leaf| leaf.encode_to(e))
        })
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    ///
    /// # Errors
    /// [`PolicyError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        let mut d = Decoder::new(bytes);
        let count = array_len(&mut d, "labels are an array")?;
        if count > ATTRIBUTES_MAX as u64 {
            return Err(AttributeError::TooManyAttributes.into());
        }
        let mut leaves = Vec::new();
        for _ in 0..count {
            let len = array_len(&mut d, "a label is an array")?;
            let tag = well_formed(d.u8())?;
            let leaf = TemplateLeaf::decode_fields(tag, len, &mut d)?;
            if tag != 0 {
                return Err(NOT_A_LABEL.into());
            }
            leaf.check()?;
            leaves.push(leaf);
        }
        let labelling = Self::sorted(leaves);
        same_bytes(&labelling.encode(), bytes)?;
        if labelling.0.is_empty() { Err(Malformed("no labels").into()) } else { Ok(labelling) }
    }
}

const NOT_A_LABEL: Malformed = Malformed("a label is an attribute");

fn bytes(leaf: &TemplateLeaf) -> Vec<u8> {
    to_vec(|e| formula::encode_to(&Formula::Leaf(leaf.clone()), e))
}

impl FromStr for Labelling {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

/// Prints what [`Labelling::parse`] reads.
impl fmt::Display for Labelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, leaf) in self.0.iter().enumerate() {
            write!(f, "{}{leaf}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Labelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Labelling({self})")
    }
}
