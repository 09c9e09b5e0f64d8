//! Packets and their fields, by the names that scripts give them (chapters 2 and 3 of both standards).

/// What CONNECT agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

/// Type of a control packet, as in its first four bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u8);

const KINDS: [&str; 16] = [
    "RESERVED",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

impl Kind {
    pub const CONNECT: Self = Self(1);
    pub const CONNACK: Self = Self(2);
    pub const PUBLISH: Self = Self(3);
    pub const PUBACK: Self = Self(4);
    pub const PUBREC: Self = Self(5);
    pub const PUBREL: Self = Self(6);
    pub const PUBCOMP: Self = Self(7);
    pub const SUBSCRIBE: Self = Self(8);
    pub const SUBACK: Self = Self(9);
    pub const UNSUBSCRIBE: Self = Self(10);
    pub const UNSUBACK: Self = Self(11);
    pub const PINGREQ: Self = Self(12);
    pub const PINGRESP: Self = Self(13);
    pub const DISCONNECT: Self = Self(14);
    pub const AUTH: Self = Self(15);

    pub fn name(self) -> &'static str {
        KINDS[usize::from(self.0)]
    }

    pub fn named(name: &str) -> Option<Self> {
        let at = KINDS.iter().skip(1).position(|kind| *kind == name)?;
        Some(Self(at as u8 + 1))
    }

    pub fn is_ack(self) -> bool {
        (4..=7).contains(&self.0)
    }
}

/// What a field holds, in scripts and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    U8,
    U16,
    U32,
    Varint,
    /// UTF-8 string or binary data.
    Bytes,
    /// A topic or filter, which gets the test's prefix.
    Topic,
    /// A client identifier, which gets one as well.
    ClientId,
    /// A user property.
    Pair,
    /// Reason codes, one for each filter.
    Codes,
}

/// A property of MQTT 5.0.
pub struct Property {
    pub id: u8,
    pub name: &'static str,
    pub holds: Type,
    pub packets: &'static [Kind],
}

const fn property(id: u8, name: &'static str, holds: Type, packets: &'static [Kind]) -> Property {
    Property { id, name, holds, packets }
}

use Kind as K;

const ACKS: &[Kind] = &[
    K::CONNACK,
    K::PUBACK,
    K::PUBREC,
    K::PUBREL,
    K::PUBCOMP,
    K::SUBACK,
    K::UNSUBACK,
    K::DISCONNECT,
    K::AUTH,
];
const ALL: &[Kind] = &[
    K::CONNECT,
    K::CONNACK,
    K::PUBLISH,
    K::PUBACK,
    K::PUBREC,
    K::PUBREL,
    K::PUBCOMP,
    K::SUBSCRIBE,
    K::SUBACK,
    K::UNSUBSCRIBE,
    K::UNSUBACK,
    K::DISCONNECT,
    K::AUTH,
];

/// Section 2.2.2.2 of MQTT 5.0.
const PROPERTIES: [Property; 27] = [
    property(0x01, "payload-format-indicator", Type::U8, &[K::PUBLISH]),
    property(0x02, "message-expiry-interval", Type::U32, &[K::PUBLISH]),
    property(0x03, "content-type", Type::Bytes, &[K::PUBLISH]),
    property(0x08, "response-topic", Type::Bytes, &[K::PUBLISH]),
    property(0x09, "correlation-data", Type::Bytes, &[K::PUBLISH]),
    property(0x0B, "subscription-identifier", Type::Varint, &[K::PUBLISH, K::SUBSCRIBE]),
    property(0x11, "session-expiry-interval", Type::U32, &[K::CONNECT, K::CONNACK, K::DISCONNECT]),
    property(0x12, "assigned-client-identifier", Type::Bytes, &[K::CONNACK]),
    property(0x13, "server-keep-alive", Type::U16, &[K::CONNACK]),
    property(0x15, "authentication-method", Type::Bytes, &[K::CONNECT, K::CONNACK, K::AUTH]),
    property(0x16, "authentication-data", Type::Bytes, &[K::CONNECT, K::CONNACK, K::AUTH]),
    property(0x17, "request-problem-information", Type::U8, &[K::CONNECT]),
    property(0x19, "request-response-information", Type::U8, &[K::CONNECT]),
    property(0x1A, "response-information", Type::Bytes, &[K::CONNACK]),
    property(0x1C, "server-reference", Type::Bytes, &[K::CONNACK, K::DISCONNECT]),
    property(0x1F, "reason-string", Type::Bytes, ACKS),
    property(0x21, "receive-maximum", Type::U16, &[K::CONNECT, K::CONNACK]),
    property(0x22, "topic-alias-maximum", Type::U16, &[K::CONNECT, K::CONNACK]),
    property(0x23, "topic-alias", Type::U16, &[K::PUBLISH]),
    property(0x24, "maximum-qos", Type::U8, &[K::CONNACK]),
    property(0x25, "retain-available", Type::U8, &[K::CONNACK]),
    property(0x26, "user", Type::Pair, ALL),
    property(0x27, "maximum-packet-size", Type::U32, &[K::CONNECT, K::CONNACK]),
    property(0x28, "wildcard-subscription-available", Type::U8, &[K::CONNACK]),
    property(0x29, "subscription-identifiers-available", Type::U8, &[K::CONNACK]),
    property(0x2A, "shared-subscription-available", Type::U8, &[K::CONNACK]),
    property(0x18, "will-delay-interval", Type::U32, &[]),
];

/// Properties of a will, beside the delay: those of a message, under names of their own.
const WILL: [(&str, u8); 7] = [
    ("will-payload-format-indicator", 0x01),
    ("will-message-expiry-interval", 0x02),
    ("will-content-type", 0x03),
    ("will-response-topic", 0x08),
    ("will-correlation-data", 0x09),
    ("will-delay-interval", 0x18),
    ("will-user", 0x26),
];

pub fn by_id(id: u8) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.id == id)
}

/// The property that `name` means in such a packet.
pub fn by_name(kind: Kind, name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name && property.packets.contains(&kind))
}

/// The property of a will that `name` means in CONNECT.
pub fn will_property(kind: Kind, name: &str) -> Option<&'static Property> {
    let (_, id) = WILL.iter().find(|(known, _)| kind == K::CONNECT && *known == name)?;
    by_id(*id)
}

/// Whether it exists in version 5.0 only.
pub fn is_of_v5(kind: Kind, name: &str) -> bool {
    by_name(kind, name).is_some()
        || will_property(kind, name).is_some()
        || matches!(name, "no-local" | "retain-as-published" | "retain-handling")
        || (name == "reason" && (kind.is_ack() || kind == K::DISCONNECT))
        || (name == "codes" && kind == K::UNSUBACK)
}

/// What `name` holds in such a packet; `None` if there is no such field.
pub fn field(kind: Kind, name: &str) -> Option<(&'static str, Type)> {
    let own: &[(&'static str, Type)] = match kind {
        K::CONNECT => &[
            ("protocol", Type::Bytes),
            ("level", Type::U8),
            ("clean", Type::U8),
            ("keep-alive", Type::U16),
            ("client-id", Type::ClientId),
            ("will-topic", Type::Topic),
            ("will-payload", Type::Bytes),
            ("will-qos", Type::U8),
            ("will-retain", Type::U8),
            ("user-name", Type::Bytes),
            ("password", Type::Bytes),
        ],
        K::CONNACK => &[("present", Type::U8), ("reason", Type::U8)],
        K::PUBLISH => &[
            ("dup", Type::U8),
            ("qos", Type::U8),
            ("retain", Type::U8),
            ("topic", Type::Topic),
            ("id", Type::U16),
            ("payload", Type::Bytes),
        ],
        K::SUBSCRIBE => &[
            ("id", Type::U16),
            ("filter", Type::Topic),
            ("qos", Type::U8),
            ("no-local", Type::U8),
            ("retain-as-published", Type::U8),
            ("retain-handling", Type::U8),
        ],
        K::UNSUBSCRIBE => &[("id", Type::U16), ("filter", Type::Topic)],
        K::SUBACK | K::UNSUBACK => &[("id", Type::U16), ("codes", Type::Codes)],
        K::DISCONNECT | K::AUTH => &[("reason", Type::U8)],
        _ if kind.is_ack() => &[("id", Type::U16), ("reason", Type::U8)],
        _ => &[],
    };
    if let Some(found) = own.iter().find(|(known, _)| *known == name) {
        return Some(*found);
    }
    if let Some(property) = by_name(kind, name) {
        return Some((property.name, property.holds));
    }
    let (name, _) = WILL.iter().find(|(known, _)| kind == K::CONNECT && *known == name)?;
    will_property(kind, name).map(|property| (*name, property.holds))
}
