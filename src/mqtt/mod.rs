//! The MQTT 3.1.1 and 5.0 wire format, both directions.
//!
//! [`decode`] takes packets out of a receive buffer without copying them; [`Packet::encode`] appends one to a send
//! buffer. Decoding is total: any bytes give a packet, a request for more bytes, or a [`DecodeError`] that carries the
//! reason code to answer with. It does not recurse, and it allocates no more than the bytes it was given can justify.
//!
//! What it refuses to do: guess. Reserved bits, duplicated properties, properties that a packet must not carry, text
//! with U+0000 and packet identifiers of zero are errors, as OASIS MQTT 5.0 and 3.1.1 demand.

mod decode;
mod encode;
mod error;
mod frame;
mod packet;
mod property;
mod reason;
mod text;
mod topic;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::{PublishHead, WireProperties};
pub use error::{DecodeError, EncodeError};
pub use frame::{FRAME_BYTES_MAX, Frame, Limits, split_frame};
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, Publish, RetainHandling, Suback, Subscribe,
    Subscription, SubscriptionOptions, Unsuback, Unsubscribe, Will,
};
pub use property::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, SubscriptionId, UnsubscribeProperties, UserProperties,
    WillProperties,
};
pub use reason::ReasonCode;
pub use text::Text;
pub use topic::{SharedFilter, filter_is_valid, filter_matches, topic_is_valid};

/// Quality of service of a message or of a subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once: may be lost.
    #[default]
    AtMostOnce = 0,
    /// At least once: may be repeated.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS for the two bits on the wire; `None` for 3, which the standard forbids.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Version of the protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V3,
    /// MQTT 5.0, protocol level 5.
    V5,
}
