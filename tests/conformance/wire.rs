//! Packets and their bytes: the suite's own encoder and decoder, so that it shares no fault with the broker's.

use super::fields::{Kind as K, Property, by_id, by_name, will_property};
pub use super::fields::{Kind, Type, Version, field, is_of_v5};
use super::value::Value;

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
