//! What a suite hashes to the curve.

use std::fmt;

use minicbor::{Decoder, Encoder};

use super::{Attribute, AttributeError, Value, decode_name};
use crate::cbor::{Malformed, Written, array_len, same_bytes, to_vec, well_formed};
use crate::word::write_word;

/// What a suite hashes to the curve. Deterministic CBOR, so that no two meanings share their bytes:
///
/// ```text
/// attribute  [0, name, null / uint / tstr, version]
/// bit        [1, name, index, 0 or 1, version]        index 31 is the most significant
/// epoch      [2, epoch]
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<[u8]>);

impl Label {
    /// The label of an attribute at a version.
    pub fn attribute(attribute: &Attribute, version: u32) -> Self {
        Self::encode(|e| {
            e.array(4)?.u8(0)?.str(&attribute.name)?;
            attribute.value.encode_to(e)?;
            e.u32(version)?;
            Ok(())
        })
    }

    /// The label of one bit of the integer called `name`; `index` counts from the least significant bit.
    pub fn bit(name: &str, index: u8, bit: bool, version: u32) -> Self {
        Self::encode(|e| {
            e.array(5)?.u8(1)?.str(name)?.u8(index)?.u8(u8::from(bit))?.u32(version)?;
            Ok(())
        })
    }

    /// The label of an epoch.
    pub fn epoch(epoch: u64) -> Self {
        Self::encode(|e| {
            e.array(2)?.u8(2)?.u64(epoch)?;
            Ok(())
        })
    }

    /// Reads the bytes of a label, and refuses what none of the constructors makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, AttributeError> {
        let label = Parts::decode(bytes)?.label();
        same_bytes(label.as_bytes(), bytes)?;
        Ok(label)
    }

    /// The bytes to hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The attribute it stands for, and in which version; `None` for bits and epochs.
    pub fn to_attribute(&self) -> Option<(Attribute, u32)> {
        match Parts::decode(&self.0) {
            Ok(Parts::Attribute(attribute, version)) => Some((attribute, version)),
            _ => None,
        }
    }

    /// What its version is kept under, and the version; `None` for epochs.
    pub fn version(&self) -> Option<(Attribute, u32)> {
        match Parts::decode(&self.0) {
            Ok(Parts::Attribute(attribute, version)) => Some((attribute.version_key(), version)),
            Ok(Parts::Bit(name, _, _, version)) => Some((Attribute { name, value: Value::Flag }, version)),
            Ok(Parts::Epoch(_)) | Err(_) => None,
        }
    }

    /// The same label at version 0: what remains when versions do not count.
    pub fn unversioned(&self) -> Self {
        match Parts::decode(&self.0) {
            Ok(Parts::Attribute(attribute, _)) => Self::attribute(&attribute, 0),
            Ok(Parts::Bit(name, index, bit, _)) => Self::bit(&name, index, bit, 0),
            Ok(Parts::Epoch(_)) | Err(_) => self.clone(),
        }
    }

    fn encode(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Written) -> Self {
        Self(to_vec(write).into_boxed_slice())
    }
}

/// `Label(role=nurse v0)`, `Label(ward bit 31 = 1 v0)`, `Label(epoch 41)`.
impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Parts::decode(&self.0) {
            Ok(Parts::Attribute(attribute, version)) => write!(f, "Label({attribute} v{version})"),
            Ok(Parts::Bit(name, index, bit, version)) => {
                f.write_str("Label(")?;
                write_word(f, &name)?;
                write!(f, " bit {index} = {} v{version})", u8::from(bit))
            }
            Ok(Parts::Epoch(epoch)) => write!(f, "Label(epoch {epoch})"),
            Err(_) => f.debug_tuple("Label").field(&self.0).finish(),
        }
    }
}

enum Parts {
    Attribute(Attribute, u32),
    Bit(String, u8, bool, u32),
    Epoch(u64),
}

impl Parts {
    fn decode(bytes: &[u8]) -> Result<Self, AttributeError> {
        let mut d = Decoder::new(bytes);
        let len = array_len(&mut d, "a label is an array")?;
        match (well_formed(d.u8())?, len) {
            (0, 4) => Ok(Self::Attribute(Attribute::decode_fields(&mut d)?, well_formed(d.u32())?)),
            (1, 5) => {
                let name = decode_name(&mut d)?;
                let (index, bit) = (well_formed(d.u8())?, well_formed(d.u8())?);
                if index > 31 || bit > 1 {
                    return Err(Malformed("a bit label has an index up to 31 and a bit of 0 or 1").into());
                }
                Ok(Self::Bit(name, index, bit == 1, well_formed(d.u32())?))
            }
            (2, 2) => Ok(Self::Epoch(well_formed(d.u64())?)),
            _ => Err(Malformed("a label is of an attribute, a bit or an epoch").into()),
        }
    }

    fn label(&self) -> Label {
        match self {
            Self::Attribute(attribute, version) => Label::attribute(attribute, *version),
            Self::Bit(name, index, bit, version) => Label::bit(name, *index, *bit, *version),
            Self::Epoch(epoch) => Label::epoch(*epoch),
        }
    }
}
