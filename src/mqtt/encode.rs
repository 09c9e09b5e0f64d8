//! Packets to bytes (chapter 3 of both standards).

use bytes::{BufMut, Bytes, BytesMut};

use super::property::*;
use super::wire::{VARINT_MAX, put_binary, put_text, put_varint, varint_len};
use super::*;

type Encoded = Result<(), EncodeError>;

impl Packet {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// See [`EncodeError`]; `out` then is as before.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Encoded {
        let start = out.len();
        let done = self.try_encode(version, out);
        if done.is_err() {
            out.truncate(start);
        }
        done
    }

    /// Appends a packet of no more than `bytes_max` bytes. Without reason string and user properties, if it would exceed that
    /// with them (sections 3.2.2.3.9, 3.2.2.3.10 and their like).
    ///
    /// # Errors
    /// See [`EncodeError`]; [`EncodeError::TooLarge`] also if there is nothing to leave out. `out` then is as before.
    pub fn encode_within(&mut self, version: Version, bytes_max: usize, out: &mut BytesMut) -> Encoded {
        let start = out.len();
        loop {
            self.encode(version, out)?;
            if out.len() - start <= bytes_max {
                return Ok(());
            }
            out.truncate(start);
            let (reason_string, user) = match self {
                Self::Connack(packet) => (&mut packet.properties.reason_string, &mut packet.properties.user),
                Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack) => {
                    (&mut ack.properties.reason_string, &mut ack.properties.user)
                }
                Self::Suback(packet) => (&mut packet.properties.reason_string, &mut packet.properties.user),
                Self::Unsuback(packet) => (&mut packet.properties.reason_string, &mut packet.properties.user),
                Self::Disconnect(packet) => {
                    (&mut packet.properties.reason_string, &mut packet.properties.user)
                }
                _ => return Err(EncodeError::TooLarge),
            };
            if reason_string.take().is_none() && std::mem::take(user).is_empty() {
                return Err(EncodeError::TooLarge);
            }
        }
    }

    fn try_encode(&self, version: Version, out: &mut BytesMut) -> Encoded {
        let v5 = version == Version::V5;
        match self {
            Self::Publish(publish) => {
                let properties = WireProperties::new(&publish.properties)?;
                PublishHead::from(publish).encode(version, &publish.topic, &properties, &publish.payload, out)
            }
            Self::Puback(packet) => ack(0x40, packet, v5, out),
            Self::Pubrec(packet) => ack(0x50, packet, v5, out),
            Self::Pubrel(packet) => ack(0x62, packet, v5, out),
            Self::Pubcomp(packet) => ack(0x70, packet, v5, out),
            Self::Pingreq => framed(0xC0, out, |_| Ok(())),
            Self::Pingresp => framed(0xD0, out, |_| Ok(())),
            Self::Connect(packet) => framed(0x10, out, |out| connect(packet, out)),
            Self::Connack(packet) => framed(0x20, out, |out| {
                out.put_u8(u8::from(packet.session_present));
                if v5 {
                    out.put_u8(packet.reason as u8);
                    packet.properties.write(out)
                } else {
                    out.put_u8(packet.reason.to_v3_connack());
                    Ok(())
                }
            }),
            Self::Subscribe(packet) => framed(0x82, out, |out| {
                out.put_u16(packet.packet_id);
                if v5 {
                    packet.properties.write(out)?;
                }
                packet.subscriptions.iter().try_for_each(|subscription| {
                    put_text(out, &subscription.filter)?;
                    out.put_u8(options(subscription.options, v5));
                    Ok(())
                })
            }),
            Self::Suback(packet) => framed(0x90, out, |out| {
                out.put_u16(packet.packet_id);
                if v5 {
                    packet.properties.write(out)?;
                }
                out.extend(packet.reasons.iter().map(|reason| match reason {
                    reason if reason.is_error() && !v5 => 0x80,
                    reason => *reason as u8,
                }));
                Ok(())
            }),
            Self::Unsubscribe(packet) => framed(0xA2, out, |out| {
                out.put_u16(packet.packet_id);
                if v5 {
                    packet.properties.write(out)?;
                }
                packet.filters.iter().try_for_each(|filter| put_text(out, filter))
            }),
            Self::Unsuback(packet) => framed(0xB0, out, |out| {
                out.put_u16(packet.packet_id);
                if v5 {
                    packet.properties.write(out)?;
                    out.extend(packet.reasons.iter().map(|reason| *reason as u8));
                }
                Ok(())
            }),
            Self::Disconnect(packet) => framed(0xE0, out, |out| {
                let bare = packet.properties.is_empty();
                if v5 && !(bare && packet.reason == ReasonCode::Success) {
                    out.put_u8(packet.reason as u8);
                    if !bare {
                        packet.properties.write(out)?;
                    }
                }
                Ok(())
            }),
            Self::Auth(_) if !v5 => Err(EncodeError::Version(version)),
            Self::Auth(packet) => framed(0xF0, out, |out| {
                if packet.reason == ReasonCode::Success && packet.properties.is_empty() {
                    return Ok(());
                }
                out.put_u8(packet.reason as u8);
                packet.properties.write(out)
            }),
        }
    }
}

/// Writes first byte, length and what `body` writes.
fn framed(first: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Encoded) -> Encoded {
    let mut scratch = BytesMut::with_capacity(64);
    body(&mut scratch)?;
    if scratch.len() > VARINT_MAX {
        return Err(EncodeError::TooLarge);
    }
    out.put_u8(first);
    put_varint(out, scratch.len());
    out.put_slice(&scratch);
    Ok(())
}

fn ack(first: u8, ack: &Ack, v5: bool, out: &mut BytesMut) -> Encoded {
    if !v5 || (ack.reason == ReasonCode::Success && ack.properties.is_empty()) {
        // The four bytes that nearly every acknowledgement is.
        out.put_slice(&[first, 2]);
        out.put_u16(ack.packet_id);
        return Ok(());
    }
    framed(first, out, |out| {
        out.put_u16(ack.packet_id);
        out.put_u8(ack.reason as u8);
        if ack.properties.is_empty() { Ok(()) } else { ack.properties.write(out) }
    })
}

fn options(options: SubscriptionOptions, v5: bool) -> u8 {
    let qos = options.qos as u8;
    if !v5 {
        return qos;
    }
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn connect(packet: &Connect, out: &mut BytesMut) -> Encoded {
    let v5 = packet.version == Version::V5;
    put_binary(out, b"MQTT")?;
    out.put_u8(if v5 { 5 } else { 4 });
    let will = packet.will.as_ref();
    out.put_u8(
        u8::from(packet.clean_start) << 1
            | will.map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5)
            | u8::from(packet.password.is_some()) << 6
            | u8::from(packet.user_name.is_some()) << 7,
    );
    out.put_u16(packet.keep_alive_secs);
    if v5 {
        packet.properties.write(out)?;
    }
    put_text(out, &packet.client_id)?;
    if let Some(will) = will {
        if v5 {
            will.properties.write(out)?;
        }
        put_text(out, &will.topic)?;
        put_binary(out, &will.payload)?;
    }
    if let Some(user_name) = &packet.user_name {
        put_text(out, user_name)?;
    }
    if let Some(password) = &packet.password {
        put_binary(out, password)?;
    }
    Ok(())
}

/// The properties of a message that are the same for every subscriber, encoded once.
///
/// Expiry, topic alias and subscription identifiers are not among them: they belong to one delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireProperties {
    shared: Bytes,
    own: Option<Box<PublishProperties>>,
}

impl WireProperties {
    /// Encodes every property of `properties`.
    ///
    /// # Errors
    /// A field that does not fit the wire format.
    pub fn new(properties: &PublishProperties) -> Result<Self, EncodeError> {
        if properties.is_empty() {
            return Ok(Self::default());
        }
        let mut shared = BytesMut::with_capacity(properties.bytes());
        properties.write_fields(&mut shared)?;
        Ok(Self { shared: shared.freeze(), own: None })
    }

    /// The same with what belongs to one delivery. Only expiry, alias, subscription identifiers and user properties of
    /// `own` may be set.
    pub fn with_own(&self, own: PublishProperties) -> Self {
        Self { shared: self.shared.clone(), own: (!own.is_empty()).then(|| Box::new(own)) }
    }

    /// Bytes on the wire, without their length.
    pub fn bytes(&self) -> usize {
        self.shared.len() + self.own.as_ref().map_or(0, |own| own.bytes())
    }
}

/// What differs between two deliveries of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PublishHead {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Packet identifier; 0 exactly if QoS is 0.
    pub packet_id: u16,
}

impl From<&Publish> for PublishHead {
    fn from(publish: &Publish) -> Self {
        Self { dup: publish.dup, qos: publish.qos, retain: publish.retain, packet_id: publish.packet_id }
    }
}

impl PublishHead {
    /// Bytes that [`encode`](Self::encode) will write.
    pub fn encoded_bytes(
        &self,
        version: Version,
        topic: &Text,
        properties: &WireProperties,
        payload: &[u8],
    ) -> usize {
        let remaining = self.remaining(version, topic, properties, payload);
        1 + varint_len(remaining) + remaining
    }

    fn remaining(
        &self,
        version: Version,
        topic: &Text,
        properties: &WireProperties,
        payload: &[u8],
    ) -> usize {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match version {
            Version::V3 => 0,
            Version::V5 => varint_len(properties.bytes()) + properties.bytes(),
        };
        2 + topic.len() + id + properties + payload.len()
    }

    /// Appends a PUBLISH whose parts lie in different places.
    ///
    /// # Errors
    /// See [`EncodeError`]; nothing is written then.
    pub fn encode(
        &self,
        version: Version,
        topic: &Text,
        properties: &WireProperties,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Encoded {
        let remaining = self.remaining(version, topic, properties, payload);
        if remaining > VARINT_MAX {
            return Err(EncodeError::TooLarge);
        }
        if topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::Field);
        }
        out.reserve(5 + remaining);
        out.put_u8(0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain));
        put_varint(out, remaining);
        put_binary(out, topic.as_bytes())?;
        if self.qos != QoS::AtMostOnce {
            out.put_u16(self.packet_id);
        }
        if version == Version::V5 {
            put_varint(out, properties.bytes());
            if let Some(own) = &properties.own {
                own.write_fields(out)?;
            }
            out.put_slice(&properties.shared);
        }
        out.put_slice(payload);
        Ok(())
    }
}
