//! Properties of MQTT 5.0 (section 2.2.2): one struct for each packet, holding what that packet may carry.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Text,
    wire::{self, Reader},
};

/// Name and value pairs, in the order they were sent.
pub type UserProperties = Vec<(Text, Text)>;

const DUPLICATE: DecodeError = DecodeError::Protocol("property given twice");

/// One value on the wire.
trait Value: Sized {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError>;
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError>;
    fn bytes(&self) -> usize;
}

/// A field that holds none, one or several values.
trait Field: Default {
    fn fill(&mut self, reader: &mut Reader) -> Result<(), DecodeError>;
    fn write(&self, id: u8, out: &mut BytesMut) -> Result<(), EncodeError>;
    fn bytes(&self) -> usize;
}

impl<T: Value> Field for Option<T> {
    fn fill(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        if self.is_some() {
            return Err(DUPLICATE);
        }
        *self = Some(T::read(reader)?);
        Ok(())
    }

    fn write(&self, id: u8, out: &mut BytesMut) -> Result<(), EncodeError> {
        let Some(value) = self else { return Ok(()) };
        out.put_u8(id);
        value.write(out)
    }

    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, |value| 1 + value.bytes())
    }
}

impl<T: Value> Field for Vec<T> {
    fn fill(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        self.push(T::read(reader)?);
        Ok(())
    }

    fn write(&self, id: u8, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.iter().try_for_each(|value| {
            out.put_u8(id);
            value.write(out)
        })
    }

    fn bytes(&self) -> usize {
        self.iter().map(|value| 1 + value.bytes()).sum()
    }
}

macro_rules! integer {
    ($type:ty, $get:ident, $put:ident) => {
        impl Value for $type {
            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                reader.$get()
            }
            fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
                out.$put(*self);
                Ok(())
            }
            fn bytes(&self) -> usize {
                size_of::<$type>()
            }
        }
    };
}
integer!(u16, u16, put_u16);
integer!(u32, u32, put_u32);

/// Byte properties are all flags: anything but 0 and 1 is a protocol error.
impl Value for bool {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Protocol("flag is neither 0 nor 1")),
        }
    }
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(u8::from(*self));
        Ok(())
    }
    fn bytes(&self) -> usize {
        1
    }
}

impl Value for Text {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.text()
    }
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        wire::put_text(out, self)
    }
    fn bytes(&self) -> usize {
        2 + self.len()
    }
}

impl Value for Bytes {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.binary()
    }
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        wire::put_binary(out, self)
    }
    fn bytes(&self) -> usize {
        2 + self.len()
    }
}

impl Value for (Text, Text) {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok((reader.text()?, reader.text()?))
    }
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.0.write(out)?;
        self.1.write(out)
    }
    fn bytes(&self) -> usize {
        self.0.bytes() + self.1.bytes()
    }
}

/// A subscription identifier, a variable byte integer that is not zero.
impl Value for SubscriptionId {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.varint()? {
            0 => Err(DecodeError::Protocol("subscription identifier is zero")),
            id => Ok(Self(id as u32)),
        }
    }
    fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        if self.0 == 0 || self.0 as usize > wire::VARINT_MAX {
            return Err(EncodeError::Field);
        }
        wire::put_varint(out, self.0 as usize);
        Ok(())
    }
    fn bytes(&self) -> usize {
        wire::varint_len(self.0 as usize)
    }
}

/// Number that a subscriber gave to a subscription, 1 to 268,435,455.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u32);

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $id:literal,)* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// Reads the length and that many bytes of properties.
            pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                let mut properties = Self::default();
                let mut block = reader.block()?;
                while !block.is_empty() {
                    match block.u8()? {
                        $($id => properties.$field.fill(&mut block)?,)*
                        id => return Err(unexpected(id)),
                    }
                }
                Ok(properties)
            }

            /// Writes the length and the properties.
            #[allow(dead_code)]
            pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
                wire::put_varint(out, self.bytes());
                self.write_fields(out)
            }

            pub(super) fn write_fields(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
                $(Field::write(&self.$field, $id, out)?;)*
                Ok(())
            }

            /// Bytes of the properties, without their length.
            pub(super) fn bytes(&self) -> usize {
                0 $(+ Field::bytes(&self.$field))*
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> bool {
                self.bytes() == 0
            }
        }
    )* };
}

/// Malformed, whether another packet knows it or none (section 2.2.2.2).
fn unexpected(id: u8) -> DecodeError {
    match id {
        0x01..=0x03 | 0x08 | 0x09 | 0x0B | 0x11..=0x13 | 0x15..=0x19 | 0x1A | 0x1C | 0x1F | 0x21..=0x2A => {
            DecodeError::Malformed("property not allowed in this packet")
        }
        _ => DecodeError::Malformed("unknown property"),
    }
}

properties! {
    /// Properties of CONNECT.
    ConnectProperties {
        /// Seconds that the session outlives its connection; `u32::MAX` is for ever.
        session_expiry_secs: Option<u32> = 0x11,
        /// Unacknowledged QoS 1 and 2 messages that the client takes at once.
        receive_max: Option<u16> = 0x21,
        /// Largest packet that the client takes, in bytes.
        packet_bytes_max: Option<u32> = 0x27,
        /// Highest topic alias that the client takes.
        topic_alias_max: Option<u16> = 0x22,
        /// Whether the client wants response information.
        request_response: Option<bool> = 0x19,
        /// Whether reason strings and user properties may come with any packet.
        request_problem: Option<bool> = 0x17,
        /// User properties.
        user: UserProperties = 0x26,
        /// Method of enhanced authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of enhanced authentication.
        authentication_data: Option<Bytes> = 0x16,
    }
    /// Properties of CONNACK.
    ConnackProperties {
        /// Session expiry that the broker chose instead, in seconds.
        session_expiry_secs: Option<u32> = 0x11,
        /// Unacknowledged QoS 1 and 2 messages that the broker takes at once.
        receive_max: Option<u16> = 0x21,
        /// `false` for QoS 0, `true` for QoS 1, absent for 2.
        qos_max: Option<bool> = 0x24,
        /// Whether messages can be retained.
        retain_available: Option<bool> = 0x25,
        /// Largest packet that the broker takes, in bytes.
        packet_bytes_max: Option<u32> = 0x27,
        /// Client id that the broker chose.
        assigned_client_id: Option<Text> = 0x12,
        /// Highest topic alias that the broker takes.
        topic_alias_max: Option<u16> = 0x22,
        /// Explanation for people.
        reason_string: Option<Text> = 0x1F,
        /// User properties.
        user: UserProperties = 0x26,
        /// Whether wildcards may be subscribed to.
        wildcard_available: Option<bool> = 0x28,
        /// Whether subscription identifiers may be used.
        subscription_ids_available: Option<bool> = 0x29,
        /// Whether shared subscriptions may be used.
        shared_available: Option<bool> = 0x2A,
        /// Keep alive that the client must use instead, in seconds.
        server_keep_alive_secs: Option<u16> = 0x13,
        /// Basis for response topics.
        response_information: Option<Text> = 0x1A,
        /// Another server to use.
        server_reference: Option<Text> = 0x1C,
        /// Method of enhanced authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of enhanced authentication.
        authentication_data: Option<Bytes> = 0x16,
    }
    /// Properties of PUBLISH.
    PublishProperties {
        /// `true` if the payload is UTF-8 text.
        payload_is_text: Option<bool> = 0x01,
        /// Lifetime in seconds.
        expiry_secs: Option<u32> = 0x02,
        /// Number that stands for the topic.
        topic_alias: Option<u16> = 0x23,
        /// Where to answer.
        response_topic: Option<Text> = 0x08,
        /// What the answer must repeat.
        correlation_data: Option<Bytes> = 0x09,
        /// User properties.
        user: UserProperties = 0x26,
        /// Numbers of the subscriptions that matched.
        subscription_ids: Vec<SubscriptionId> = 0x0B,
        /// Media type of the payload.
        content_type: Option<Text> = 0x03,
    }
    /// Properties of the will in CONNECT.
    WillProperties {
        /// Seconds between the end of the connection and the will.
        delay_secs: Option<u32> = 0x18,
        /// `true` if the payload is UTF-8 text.
        payload_is_text: Option<bool> = 0x01,
        /// Lifetime in seconds.
        expiry_secs: Option<u32> = 0x02,
        /// Media type of the payload.
        content_type: Option<Text> = 0x03,
        /// Where to answer.
        response_topic: Option<Text> = 0x08,
        /// What the answer must repeat.
        correlation_data: Option<Bytes> = 0x09,
        /// User properties.
        user: UserProperties = 0x26,
    }
    /// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    AckProperties {
        /// Explanation for people.
        reason_string: Option<Text> = 0x1F,
        /// User properties.
        user: UserProperties = 0x26,
    }
    /// Properties of SUBSCRIBE.
    SubscribeProperties {
        /// Number that comes back with every message that these subscriptions match.
        subscription_id: Option<SubscriptionId> = 0x0B,
        /// User properties.
        user: UserProperties = 0x26,
    }
    /// Properties of UNSUBSCRIBE.
    UnsubscribeProperties {
        /// User properties.
        user: UserProperties = 0x26,
    }
    /// Properties of DISCONNECT.
    DisconnectProperties {
        /// Session expiry that replaces the one of CONNECT, in seconds.
        session_expiry_secs: Option<u32> = 0x11,
        /// Explanation for people.
        reason_string: Option<Text> = 0x1F,
        /// User properties.
        user: UserProperties = 0x26,
        /// Another server to use.
        server_reference: Option<Text> = 0x1C,
    }
    /// Properties of AUTH.
    AuthProperties {
        /// Method of enhanced authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of enhanced authentication.
        authentication_data: Option<Bytes> = 0x16,
        /// Explanation for people.
        reason_string: Option<Text> = 0x1F,
        /// User properties.
        user: UserProperties = 0x26,
    }
}
