//! Attributes `name=value`, their versions, and the labels a suite hashes.
//!
//! An attribute has one spelling. Names and values are compared byte by byte: no case folding and no Unicode
//! normalisation, so `é` in one code point and `é` in two are different values.
//!
//! ```text
//! attribute = word [ "=" word ]
//! word      = 1*( letter or digit of any script | _ - . : / @ + ) | DQUOTE *( char | \" | \\ ) DQUOTE
//! ```
//!
//! `and`, `or`, `of` and `not` in any case must be quoted to be a name or a value. Quoting never changes the type:
//! `ward="3"` is `ward=3`, the integer.

mod error;
mod label;
mod versions;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

pub use self::error::AttributeError;
pub use self::label::Label;
pub use self::versions::Versions;
pub use crate::cbor::Malformed;
use crate::cbor::{Written, array_len, expect_array, expect_tag, same_bytes, to_vec, well_formed};
use crate::word::{QuoteError, bare_word, column, is_keyword, quoted_word, skip_space, write_word};

/// Longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest text value, in bytes of UTF-8.
pub const VALUE_BYTES_MAX: usize = 256;

/// Most attributes in one set.
pub const ATTRIBUTES_MAX: usize = 64;

/// Most labels of one set: each attribute, 32 bits for each integer, the epoch.
pub const LABELS_MAX: usize = ATTRIBUTES_MAX * 33 + 1;

/// Most entries in one [`Versions`].
pub const VERSIONS_MAX: usize = 4096;

/// What a device is or has: `role=nurse`, `ward=3`, `admin`.
///
/// ```
/// use smqtt_core::attribute::{Attribute, Value};
/// let ward: Attribute = "ward=3".parse()?;
/// assert_eq!(ward.value(), &Value::Int(3));
/// assert_eq!(ward, "\"ward\" = \"3\"".parse()?);
/// # Ok::<(), smqtt_core::attribute::AttributeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    name: String,
    value: Value,
}

/// The value of an attribute. Values of different kinds are never equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An attribute without a value, `admin`.
    Flag,
    /// A value written as decimal `u32` without leading zeros: `0`, `3`, `4294967295`.
    Int(u32),
    /// Everything else, `03` and `4294967296` included. Never empty.
    Text(String),
}

impl Attribute {
    /// The attribute `name`, without a value.
    pub fn flag(name: &str) -> Result<Self, AttributeError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), value: Value::Flag })
    }

    /// The attribute `name=value` with an integer value.
    pub fn int(name: &str, value: u32) -> Result<Self, AttributeError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), value: Value::Int(value) })
    }

    /// The attribute `name=value` from raw text, such as a topic level, taken as one value and never as syntax:
    /// an integer if it is a decimal `u32` without leading zeros, text otherwise.
    pub fn from_value(name: &str, value: &str) -> Result<Self, AttributeError> {
        check_name(name)?;
        check_value(value)?;
        let value = match decimal_u32(value) {
            Some(n) => Value::Int(n),
            None => Value::Text(value.to_owned()),
        };
        Ok(Self { name: name.to_owned(), value })
    }

    /// The name, without quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// What this attribute's version is kept under: text and flags under themselves, integers under the flag of
    /// their name, because the bits of a comparison belong to the name and not to one value.
    pub fn version_key(&self) -> Attribute {
        match self.value {
            Value::Int(_) => Self { name: self.name.clone(), value: Value::Flag },
            Value::Flag | Value::Text(_) => self.clone(),
        }
    }

    /// Deterministic CBOR: `[0, name, null / uint / tstr]`.
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| self.encode_to(e))
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, AttributeError> {
        let mut d = Decoder::new(bytes);
        let attribute = Self::decode_from(&mut d)?;
        same_bytes(&attribute.encode(), bytes)?;
        Ok(attribute)
    }

    pub(crate) fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        e.array(3)?.u8(0)?.str(&self.name)?;
        self.value.encode_to(e)
    }

    fn decode_from(d: &mut Decoder<'_>) -> Result<Self, AttributeError> {
        expect_array(d, 3, "an attribute is an array of three")?;
        expect_tag(d, 0, "an attribute starts with 0")?;
        Self::decode_fields(d)
    }

    /// Name and value, the array's head and its tag being read already.
    pub(crate) fn decode_fields(d: &mut Decoder<'_>) -> Result<Self, AttributeError> {
        let name = decode_name(d)?;
        let value = match well_formed(d.datatype())? {
            Type::Null => {
                well_formed(d.null())?;
                Value::Flag
            }
            Type::U8 | Type::U16 | Type::U32 => Value::Int(well_formed(d.u32())?),
            Type::String => {
                let text = well_formed(d.str())?;
                check_value(text)?;
                if decimal_u32(text).is_some() {
                    return Err(Malformed("a decimal value is an integer, not text").into());
                }
                Value::Text(text.to_owned())
            }
            _ => return Err(Malformed("a value is null, an unsigned integer or text").into()),
        };
        Ok(Self { name, value })
    }
}

impl Value {
    fn encode_to(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        match self {
            Value::Flag => e.null()?,
            Value::Int(n) => e.u32(*n)?,
            Value::Text(text) => e.str(text)?,
        };
        Ok(())
    }
}

impl FromStr for Attribute {
    type Err = AttributeError;

    fn from_str(text: &str) -> Result<Self, AttributeError> {
        let (attribute, end) = read_attribute(text, 0)?;
        match text[end..].is_empty() {
            true => Ok(attribute),
            false => Err(syntax(text, end, "the end of the attribute")),
        }
    }
}

/// Prints what [`FromStr`] reads, quoted where it must be.
impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_word(f, &self.name)?;
        match &self.value {
            Value::Flag => Ok(()),
            Value::Int(n) => write!(f, "={n}"),
            Value::Text(text) => {
                f.write_str("=")?;
                write_word(f, text)
            }
        }
    }
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attribute({self})")
    }
}

/// A set of attributes: what a device has, or what a message is sealed under in key-policy mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(BTreeSet<Attribute>);

impl Attributes {
    /// The set of these attributes. Repeated ones count once.
    pub fn new(attributes: impl IntoIterator<Item = Attribute>) -> Result<Self, AttributeError> {
        let mut set = BTreeSet::new();
        for attribute in attributes {
            set.insert(attribute);
            if set.len() > ATTRIBUTES_MAX {
                return Err(AttributeError::TooManyAttributes);
            }
        }
        Ok(Self(set))
    }

    /// The set of attributes written one by one: `["role=nurse", "ward=3"]`.
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self, AttributeError> {
        let mut set = BTreeSet::new();
        for text in texts {
            set.insert(text.as_ref().parse()?);
            if set.len() > ATTRIBUTES_MAX {
                return Err(AttributeError::TooManyAttributes);
            }
        }
        Ok(Self(set))
    }

    /// The attributes, sorted by name, then flag before integers before text.
    pub fn iter(&self) -> impl Iterator<Item = &Attribute> {
        self.0.iter()
    }

    /// The attributes of one name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Attribute> {
        self.0.iter().filter(move |attribute| attribute.name == name)
    }

    /// Whether the set has exactly this attribute.
    pub fn contains(&self, attribute: &Attribute) -> bool {
        self.0.contains(attribute)
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The integer that comparisons on `name` look at, if there is exactly one.
    ///
    /// With `ward=3` and `ward=4` both equalities hold but no comparison does: if the bits of both were in one
    /// key, they would mix into integers the device never had.
    pub fn int(&self, name: &str) -> Option<u32> {
        let mut ints = self.named(name).filter_map(|attribute| match attribute.value {
            Value::Int(n) => Some(n),
            Value::Flag | Value::Text(_) => None,
        });
        match (ints.next(), ints.next()) {
            (Some(n), None) => Some(n),
            _ => None,
        }
    }

    /// The labels of this set in an epoch, sorted and without repeats, at most [`LABELS_MAX`]: one for each
    /// attribute, 32 bits for each name with exactly one integer, and the epoch's.
    pub fn labels(&self, versions: &Versions, epoch: u64) -> Vec<Label> {
        let mut labels = BTreeSet::from([Label::epoch(epoch)]);
        for attribute in &self.0 {
            let version = versions.get(attribute);
            labels.insert(Label::attribute(attribute, version));
            if let Some(value) = self.int(&attribute.name) {
                for index in 0..32 {
                    let bit = (value >> index) & 1 == 1;
                    // The flag or text of a name that also has an integer must not lend the bits its version.
                    let version = versions.get_name(&attribute.name);
                    labels.insert(Label::bit(&attribute.name, index, bit, version));
                }
            }
        }
        labels.into_iter().collect()
    }

    /// Deterministic CBOR: an array of attributes, in the order of [`iter`](Self::iter).
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| {
            e.array(self.0.len() as u64)?;
            self.0.iter().try_for_each(|attribute| attribute.encode_to(e))
        })
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, AttributeError> {
        let mut d = Decoder::new(bytes);
        let len = array_len(&mut d, "attributes are an array")?;
        if len > ATTRIBUTES_MAX as u64 {
            return Err(AttributeError::TooManyAttributes);
        }
        let set = (0..len).map(|_| Attribute::decode_from(&mut d)).collect::<Result<_, _>>()?;
        let attributes = Self(set);
        same_bytes(&attributes.encode(), bytes)?;
        Ok(attributes)
    }
}

impl FromStr for Attributes {
    type Err = AttributeError;

    /// Attributes separated by `,`. An empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, AttributeError> {
        let mut set = BTreeSet::new();
        let mut at = 0;
        while !text[at..].trim_start().is_empty() || at > 0 {
            let (attribute, end) = read_attribute(text, at)?;
            set.insert(attribute);
            if set.len() > ATTRIBUTES_MAX {
                return Err(AttributeError::TooManyAttributes);
            }
            match text[end..].chars().next() {
                None => break,
                Some(',') => at = end + 1,
                Some(_) => return Err(syntax(text, end, "`,` or the end of the attributes")),
            }
        }
        Ok(Self(set))
    }
}

/// Joined by `, `.
impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, attribute) in self.0.iter().enumerate() {
            write!(f, "{}{attribute}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

pub(crate) fn decode_name(d: &mut Decoder<'_>) -> Result<String, AttributeError> {
    let name = well_formed(d.str())?;
    check_name(name)?;
    Ok(name.to_owned())
}

pub(crate) fn check_name(name: &str) -> Result<(), AttributeError> {
    match name.len() {
        0 => Err(AttributeError::EmptyName),
        len if len > NAME_BYTES_MAX => Err(AttributeError::NameTooLong(len)),
        _ => check_characters(name),
    }
}

fn check_value(value: &str) -> Result<(), AttributeError> {
    match value.len() {
        0 => Err(AttributeError::EmptyValue),
        len if len > VALUE_BYTES_MAX => Err(AttributeError::ValueTooLong(len)),
        _ => check_characters(value),
    }
}

fn check_characters(text: &str) -> Result<(), AttributeError> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(AttributeError::ControlCharacter(c)),
        None => Ok(()),
    }
}

/// The integer that `text` is the one decimal spelling of.
pub(crate) fn decimal_u32(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Reads one attribute and the whitespace on both sides of it; also the byte where it ends.
fn read_attribute(text: &str, at: usize) -> Result<(Attribute, usize), AttributeError> {
    let (name, end) = read_word(text, at, "a name")?;
    if !text[end..].starts_with('=') {
        return Ok((Attribute::flag(&name)?, end));
    }
    let (value, end) = read_word(text, end + 1, "a value")?;
    Ok((Attribute::from_value(&name, &value)?, end))
}

fn read_word(text: &str, at: usize, expected: &'static str) -> Result<(String, usize), AttributeError> {
    let at = skip_space(text, at);
    let (word, end) = if text[at..].starts_with('"') {
        quoted_word(text, at).map_err(|error| match error {
            QuoteError::Unclosed => AttributeError::UnclosedQuote(column(text, at)),
            QuoteError::Escape(byte) => AttributeError::Escape(column(text, byte)),
            QuoteError::Control(_, c) => AttributeError::ControlCharacter(c),
        })?
    } else {
        let word = bare_word(text, at);
        if word.is_empty() {
            return Err(syntax(text, at, expected));
        }
        if is_keyword(word) {
            return Err(AttributeError::Keyword(word.to_owned()));
        }
        (word.to_owned(), at + word.len())
    };
    Ok((word, skip_space(text, end)))
}

fn syntax(text: &str, byte: usize, expected: &'static str) -> AttributeError {
    AttributeError::Syntax { column: column(text, byte), expected }
}
