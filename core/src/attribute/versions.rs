//! How often each attribute was raised.

use std::collections::BTreeMap;

use minicbor::Decoder;

use super::{Attribute, AttributeError, VERSIONS_MAX, Value};
use crate::cbor::{array_len, expect_array, same_bytes, to_vec, well_formed};

/// How often each attribute was raised by a revocation. What was never raised has version 0.
///
/// Entries are kept under [`Attribute::version_key`]; every method takes any attribute and finds its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Versions(BTreeMap<Attribute, u32>);

impl Versions {
    /// The version of an attribute.
    pub fn get(&self, attribute: &Attribute) -> u32 {
        self.0.get(&attribute.version_key()).copied().unwrap_or(0)
    }

    /// The version of the integers of a name.
    pub(crate) fn get_name(&self, name: &str) -> u32 {
        self.0.get(&Attribute { name: name.to_owned(), value: Value::Flag }).copied().unwrap_or(0)
    }

    /// Raises the version of an attribute by one and returns it.
    pub fn raise(&mut self, attribute: &Attribute) -> Result<u32, AttributeError> {
        let version = self.get(attribute).checked_add(1).ok_or(AttributeError::VersionExhausted)?;
        self.set(attribute, version)?;
        Ok(version)
    }

    /// Sets the version of an attribute. Version 0 takes no entry.
    pub fn set(&mut self, attribute: &Attribute, version: u32) -> Result<(), AttributeError> {
        let key = attribute.version_key();
        if version == 0 {
            self.0.remove(&key);
        } else if self.0.len() < VERSIONS_MAX || self.0.contains_key(&key) {
            self.0.insert(key, version);
        } else {
            return Err(AttributeError::TooManyVersions);
        }
        Ok(())
    }

    /// The entries that are not 0, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Attribute, u32)> {
        self.0.iter().map(|(key, version)| (key, *version))
    }

    /// Deterministic CBOR: an array of `[attribute, uint]`, in the order of [`iter`](Self::iter).
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| {
            e.array(self.0.len() as u64)?;
            for (key, version) in &self.0 {
                e.array(2)?;
                key.encode_to(e)?;
                e.u32(*version)?;
            }
            Ok(())
        })
    }

    /// Reads exactly what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, AttributeError> {
        let mut d = Decoder::new(bytes);
        let len = array_len(&mut d, "versions are an array")?;
        if len > VERSIONS_MAX as u64 {
            return Err(AttributeError::TooManyVersions);
        }
        let mut versions = Self::default();
        for _ in 0..len {
            expect_array(&mut d, 2, "a version is an array of two")?;
            let key = Attribute::decode_from(&mut d)?;
            versions.set(&key, well_formed(d.u32())?)?;
        }
        // Also refuses an integer as key, a zero, a repeated key and another order.
        same_bytes(&versions.encode(), bytes)?;
        Ok(versions)
    }
}
