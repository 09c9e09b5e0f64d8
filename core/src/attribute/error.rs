//! Why something is no attribute.

use super::{ATTRIBUTES_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX, VERSIONS_MAX};
use crate::cbor::Malformed;

/// Why something is not an attribute, or not a set of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// A name of no characters.
    #[error("the name is empty")]
    EmptyName,
    /// A value of no characters.
    #[error("the value is empty")]
    EmptyValue,
    /// A name over [`NAME_BYTES_MAX`].
    #[error("the name has {0} bytes, more than {NAME_BYTES_MAX}")]
    NameTooLong(usize),
    /// A value over [`VALUE_BYTES_MAX`].
    #[error("the value has {0} bytes, more than {VALUE_BYTES_MAX}")]
    ValueTooLong(usize),
    /// A control character in a name or a value.
    #[error("the control character `{}` is not allowed", .0.escape_default())]
    ControlCharacter(char),
    /// Text that is not `name` or `name=value`; the column counts characters from 1.
    #[error("expected {expected} at column {column}")]
    Syntax {
        /// Where, in characters from 1.
        column: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A keyword of the policy language as name or value, without quotes.
    #[error("`{0}` is a keyword")]
    Keyword(String),
    /// A quote without its end.
    #[error("the quote that begins at column {0} has no end")]
    UnclosedQuote(usize),
    /// A backslash before something else than `"` or `\`.
    #[error("unknown escape at column {0}")]
    Escape(usize),
    /// More than [`ATTRIBUTES_MAX`].
    #[error("more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    /// More than [`VERSIONS_MAX`].
    #[error("more than {VERSIONS_MAX} versions")]
    TooManyVersions,
    /// A version that cannot be raised any more.
    #[error("the version is as high as it can be")]
    VersionExhausted,
    /// Bytes that are not the encoding.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl AttributeError {
    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Syntax { .. } => {
                Some("write `name` or `name=value`, with double quotes around spaces and signs")
            }
            Self::EmptyValue => Some("an attribute without a value is its name alone, without `=`"),
            Self::Keyword(_) => Some("put it in double quotes"),
            Self::UnclosedQuote(_) => Some("end it with `\"`; a quote inside is written `\\\"`"),
            Self::Escape(_) => Some("a backslash is written `\\\\`, a quote `\\\"`"),
            _ => None,
        }
    }
}
