//! Packets by field, and their bytes: the suite's own reading of chapters 2 and 3, so that it shares no fault with the broker's.

use super::value::Value;

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

    fn is_ack(self) -> bool {
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

struct Property {
    id: u8,
    name: &'static str,
    holds: Type,
    packets: &'static [Kind],
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

fn by_id(id: u8) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.id == id)
}

/// The property that `name` means in such a packet.
fn by_name(kind: Kind, name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name && property.packets.contains(&kind))
}

fn will_property(kind: Kind, name: &str) -> Option<&'static Property> {
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

/// A packet by its fields, in the order in which they were written or came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    pub fields: Vec<(&'static str, Value)>,
}

impl Packet {
    pub fn new(kind: Kind) -> Self {
        Self { kind, fields: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.fields.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.all(name).next()
    }

    pub fn number(&self, name: &str) -> Option<u32> {
        self.get(name).and_then(Value::number)
    }

    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.get(name).and_then(Value::bytes)
    }

    /// Puts a value in place of what is there.
    pub fn set(&mut self, name: &'static str, value: Value) {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value));
    }

    /// The bytes of it. Fields that the version does not have are left out.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let v5 = version == Version::V5;
        let n = |name: &str| self.number(name).unwrap_or(0);
        let mut body = Vec::new();
        let mut flags = 0;
        match self.kind {
            K::CONNECT => self.encode_connect(version, &mut body),
            K::PUBLISH => {
                flags = (n("dup") << 3 | n("qos") << 1 | n("retain")) as u8;
                put_string(&mut body, self.bytes("topic").unwrap_or_default());
                if n("qos") > 0 {
                    body.extend((n("id") as u16).to_be_bytes());
                }
                if v5 {
                    self.put_properties(&mut body);
                }
                body.extend(self.bytes("payload").unwrap_or_default());
            }
            K::SUBSCRIBE => {
                flags = 2;
                body.extend((n("id") as u16).to_be_bytes());
                if v5 {
                    self.put_properties(&mut body);
                }
                self.put_subscriptions(version, &mut body);
            }
            K::UNSUBSCRIBE => {
                flags = 2;
                body.extend((n("id") as u16).to_be_bytes());
                if v5 {
                    self.put_properties(&mut body);
                }
                self.all("filter")
                    .for_each(|filter| put_string(&mut body, filter.bytes().unwrap_or_default()));
            }
            kind if kind.is_ack() || kind == K::DISCONNECT || kind == K::AUTH => {
                if kind == K::PUBREL {
                    flags = 2;
                }
                if kind.is_ack() {
                    body.extend((n("id") as u16).to_be_bytes());
                }
                let has_properties = self.fields.iter().any(|(name, _)| by_name(kind, name).is_some());
                if v5 && (has_properties || self.get("reason").is_some()) {
                    body.push(n("reason") as u8);
                    if has_properties {
                        self.put_properties(&mut body);
                    }
                }
            }
            _ => {}
        }
        framed(self.kind.0 << 4 | flags, &body)
    }

    fn encode_connect(&self, version: Version, body: &mut Vec<u8>) {
        let v5 = version == Version::V5;
        let n = |name: &str| self.number(name).unwrap_or(0);
        put_string(body, self.bytes("protocol").unwrap_or(b"MQTT"));
        body.push(self.number("level").map_or(if v5 { 5 } else { 4 }, |level| level as u8));
        let has = |name: &str| u32::from(self.get(name).is_some());
        let flags = n("clean") << 1
            | has("will-topic") << 2
            | n("will-qos") << 3
            | n("will-retain") << 5
            | has("password") << 6
            | has("user-name") << 7;
        body.push(flags as u8);
        body.extend((n("keep-alive") as u16).to_be_bytes());
        if v5 {
            self.put_properties(body);
        }
        put_string(body, self.bytes("client-id").unwrap_or_default());
        if let Some(topic) = self.bytes("will-topic") {
            if v5 {
                self.put_properties_by(body, |name| will_property(K::CONNECT, name));
            }
            put_string(body, topic);
            put_string(body, self.bytes("will-payload").unwrap_or_default());
        }
        for name in ["user-name", "password"] {
            if let Some(text) = self.bytes(name) {
                put_string(body, text);
            }
        }
    }

    fn put_subscriptions(&self, version: Version, body: &mut Vec<u8>) {
        let mut options: Option<u8> = None;
        for (name, value) in &self.fields {
            let number = value.number().unwrap_or(0) as u8;
            match *name {
                "filter" => {
                    body.extend(options.take());
                    put_string(body, value.bytes().unwrap_or_default());
                    options = Some(0);
                }
                "qos" => options = options.map(|bits| bits | number),
                "no-local" if version == Version::V5 => options = options.map(|bits| bits | number << 2),
                "retain-as-published" if version == Version::V5 => {
                    options = options.map(|bits| bits | number << 3)
                }
                "retain-handling" if version == Version::V5 => {
                    options = options.map(|bits| bits | number << 4)
                }
                _ => {}
            }
        }
        body.extend(options);
    }

    fn put_properties(&self, body: &mut Vec<u8>) {
        self.put_properties_by(body, |name| by_name(self.kind, name));
    }

    fn put_properties_by(&self, body: &mut Vec<u8>, find: impl Fn(&str) -> Option<&'static Property>) {
        let mut block = Vec::new();
        for (name, value) in &self.fields {
            let Some(property) = find(name) else { continue };
            block.push(property.id);
            match (property.holds, value) {
                (Type::U8, Value::Number(number)) => block.push(*number as u8),
                (Type::U16, Value::Number(number)) => block.extend((*number as u16).to_be_bytes()),
                (Type::U32, Value::Number(number)) => block.extend(number.to_be_bytes()),
                (_, Value::Number(number)) => put_varint(&mut block, *number),
                (_, Value::Bytes(bytes)) => put_string(&mut block, bytes),
                (_, Value::Pair(name, value)) => {
                    put_string(&mut block, name);
                    put_string(&mut block, value);
                }
            }
        }
        put_varint(body, block.len() as u32);
        body.extend(block);
    }
}

pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_varint(&mut out, body.len() as u32);
    out.extend(body);
    out
}

/// The bytes of the first packet in `input`, if all of it is there: how many it takes, and where its body begins.
pub fn frame(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut length = 0usize;
    for at in 0..4 {
        let Some(byte) = input.get(1 + at) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let total = 2 + at + length;
            return Ok((input.len() >= total).then_some((total, 2 + at)));
        }
    }
    Err("a remaining length of more than four bytes".into())
}

/// Reads a packet of a broker, and refuses whatever the standard does not let it send.
pub fn decode(first: u8, body: &[u8], version: Version) -> Result<Packet, String> {
    let kind = Kind(first >> 4);
    let v5 = version == Version::V5;
    let mut packet = Packet::new(kind);
    let mut body = Reader(body);
    let reserved = if kind == K::PUBREL { 2 } else { 0 };
    if kind != K::PUBLISH && first & 0x0F != reserved {
        return Err(format!("reserved flags {:#x} of {}", first & 0x0F, kind.name()));
    }
    let number = |value: u32| Value::Number(value);
    match kind {
        K::CONNACK => {
            packet.fields.push(("present", number(body.number(1)?)));
            let reason = body.number(1)?;
            packet.fields.push(("reason", number(reason)));
            // A refusal may have the form of 3.1.1: the server cannot know which the client reads.
            if v5 && !(reason > 0 && body.0.is_empty()) {
                body.properties(&mut packet)?;
            }
        }
        K::PUBLISH => {
            let qos = u32::from(first >> 1 & 3);
            packet.fields.push(("dup", number(u32::from(first >> 3 & 1))));
            packet.fields.push(("qos", number(qos)));
            packet.fields.push(("retain", number(u32::from(first & 1))));
            if qos == 3 || (qos == 0 && first & 8 != 0) {
                return Err("a PUBLISH with QoS 3, or with DUP at QoS 0".into());
            }
            packet.fields.push(("topic", Value::Bytes(body.text()?)));
            if qos > 0 {
                packet.fields.push(("id", number(body.id()?)));
            }
            if v5 {
                body.properties(&mut packet)?;
            }
            packet.fields.push(("payload", Value::Bytes(std::mem::take(&mut body.0).to_vec())));
        }
        K::SUBACK | K::UNSUBACK => {
            packet.fields.push(("id", number(body.id()?)));
            if v5 {
                body.properties(&mut packet)?;
            }
            if v5 || kind == K::SUBACK {
                packet.fields.push(("codes", Value::Bytes(std::mem::take(&mut body.0).to_vec())));
            }
        }
        K::PINGRESP => {}
        K::DISCONNECT if !v5 => return Err("a DISCONNECT from a broker that speaks 3.1.1".into()),
        K::AUTH if !v5 => return Err("an AUTH in 3.1.1".into()),
        kind if kind.is_ack() || kind == K::DISCONNECT || kind == K::AUTH => {
            if kind.is_ack() {
                packet.fields.push(("id", number(body.id()?)));
            }
            let reason = if v5 && !body.0.is_empty() { body.number(1)? } else { 0 };
            packet.fields.push(("reason", number(reason)));
            if v5 && !body.0.is_empty() {
                body.properties(&mut packet)?;
            }
        }
        _ => return Err(format!("{} from a broker", kind.name())),
    }
    if !body.0.is_empty() {
        return Err(format!("{} bytes after the end of {}", body.0.len(), kind.name()));
    }
    Ok(packet)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        if count > self.0.len() {
            return Err("the packet ends too early".into());
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn id(&mut self) -> Result<u32, String> {
        match self.number(2)? {
            0 => Err("packet identifier 0".into()),
            id => Ok(id),
        }
    }

    fn varint(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.number(1)?;
            value |= (byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                return if at > 0 && byte == 0 {
                    Err("a variable byte integer that is too long".into())
                } else {
                    Ok(value)
                };
            }
        }
        Err("a variable byte integer of more than four bytes".into())
    }

    fn binary(&mut self) -> Result<Vec<u8>, String> {
        let length = self.number(2)? as usize;
        Ok(self.take(length)?.to_vec())
    }

    fn text(&mut self) -> Result<Vec<u8>, String> {
        let bytes = self.binary()?;
        match std::str::from_utf8(&bytes) {
            Ok(text) if !text.contains('\0') => Ok(bytes),
            _ => Err("a string that is not UTF-8, or holds U+0000".into()),
        }
    }

    fn properties(&mut self, packet: &mut Packet) -> Result<(), String> {
        let length = self.varint()? as usize;
        let mut block = Reader(self.take(length)?);
        while !block.0.is_empty() {
            let id = block.number(1)? as u8;
            let found = by_id(id).filter(|property| property.packets.contains(&packet.kind));
            let Some(Property { name, holds, .. }) = found else {
                return Err(format!("property {id:#04x} in {}", packet.kind.name()));
            };
            let repeats = matches!(*name, "user" | "subscription-identifier");
            if !repeats && packet.get(name).is_some() {
                return Err(format!("{name} twice"));
            }
            let value = match holds {
                Type::U8 => Value::Number(block.number(1)?),
                Type::U16 => Value::Number(block.number(2)?),
                Type::U32 => Value::Number(block.number(4)?),
                Type::Varint => Value::Number(block.varint()?),
                Type::Pair => Value::Pair(block.text()?, block.text()?),
                _ if matches!(*name, "correlation-data" | "authentication-data") => {
                    Value::Bytes(block.binary()?)
                }
                _ => Value::Bytes(block.text()?),
            };
            packet.fields.push((name, value));
        }
        Ok(())
    }
}

impl std::fmt::Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.kind.name())?;
        for (name, value) in &self.fields {
            match (*name, value) {
                ("codes", Value::Bytes(codes)) => {
                    let codes: Vec<String> = codes.iter().map(|code| format!("{code:#04x}")).collect();
                    write!(f, " codes={}", codes.join(","))?;
                }
                ("reason", Value::Number(reason)) => write!(f, " reason={reason:#04x}")?,
                _ => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}
