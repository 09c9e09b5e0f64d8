//! What can be wrong with bytes that came in, or with a packet that should go out.

use super::{ReasonCode, Version};

/// Bytes that are no packet. [`reason`](Self::reason) is what MQTT 5.0 answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes break the wire format.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The packet can be read and breaks a rule.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The remaining length exceeds the limit.
    #[error("packet of {bytes} bytes, allowed are {bytes_max}")]
    TooLarge {
        /// Size of the whole packet, as its fixed header announces it.
        bytes: usize,
        /// The limit that was set.
        bytes_max: usize,
    },
    /// CONNECT with a protocol name and level that are neither 3.1.1 nor 5.0.
    #[error("unsupported protocol level {level}")]
    UnsupportedVersion {
        /// Protocol level of the CONNECT.
        level: u8,
        /// The version in whose form an answer will be understood.
        form: Version,
    },
    /// A 3.1.1 CONNECT without client id that wants a persistent session, which has an answer of its own.
    #[error("client id missing")]
    ClientIdMissing,
    /// The topic of a PUBLISH or of a will is not a topic.
    #[error("invalid topic")]
    TopicInvalid,
    /// A topic alias of 0, which has an answer of its own (section 3.3.4).
    #[error("topic alias is zero")]
    TopicAliasInvalid,
}

impl DecodeError {
    /// The reason code for CONNACK or DISCONNECT.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed(_) => ReasonCode::MalformedPacket,
            Self::Protocol(_) => ReasonCode::ProtocolError,
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::ClientIdMissing => ReasonCode::ClientIdentifierNotValid,
            Self::TopicInvalid => ReasonCode::TopicNameInvalid,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
        }
    }
}

/// A packet that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field exceeds 65,535 bytes or holds U+0000.
    #[error("a field does not fit the wire format")]
    Field,
    /// The whole packet exceeds what a remaining length can say, or what its receiver takes.
    #[error("packet is too large")]
    TooLarge,
    /// The packet does not exist in this version.
    #[error("no such packet in {0:?}")]
    Version(Version),
}
