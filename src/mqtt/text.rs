//! UTF-8 strings that share the buffer they were read from.

use std::{borrow::Borrow, fmt, ops::Deref};

use bytes::Bytes;
use bytestring::ByteString;

/// A string of MQTT (section 1.5.4): well-formed UTF-8, cheap to clone.
///
/// One that was decoded holds no U+0000 and at most 65,535 bytes. One made by `From` is checked when it is encoded.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(ByteString);

impl Text {
    /// Takes bytes from the wire; `None` unless they are UTF-8 without U+0000.
    pub(super) fn from_wire(bytes: Bytes) -> Option<Self> {
        let text = ByteString::try_from(bytes).ok()?;
        (!text.as_bytes().contains(&0)).then_some(Self(text))
    }

    /// The string itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that keeps no larger buffer alive.
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }

    /// Whether it may go on the wire.
    pub fn is_valid(&self) -> bool {
        self.len() <= usize::from(u16::MAX) && !self.0.as_bytes().contains(&0)
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(ByteString::from(text))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(ByteString::from(text))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
