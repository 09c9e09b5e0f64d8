//! Bytes to packets (chapter 3 of both standards).

use bytes::{Buf, Bytes, BytesMut};

use super::*;
use super::{
    property::*,
    wire::{self, Reader},
};

type Decoded<T> = Result<T, DecodeError>;

/// Takes the next packet out of `buffer`. `None` means: not all of it is there yet.
///
/// `version` is what CONNECT agreed on; CONNECT itself says its own. The packet shares the buffer's memory.
///
/// # Errors
/// See [`DecodeError`]. After an error the connection must end: the buffer is not advanced past the fault.
pub fn decode(buffer: &mut BytesMut, version: Version, limits: Limits) -> Decoded<Option<Packet>> {
    let Some(frame) = split_frame(buffer, limits)? else { return Ok(None) };
    Packet::decode(frame, buffer.split_to(frame.bytes).freeze(), version).map(Some)
}

impl Packet {
    /// Reads the packet that `bytes` holds entirely, as [`split_frame`] cut it.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(frame: Frame, mut bytes: Bytes, version: Version) -> Decoded<Self> {
        if frame.bytes != bytes.len() || frame.header_bytes > bytes.len() {
            return Err(DecodeError::Malformed("frame does not fit its bytes"));
        }
        bytes.advance(frame.header_bytes);
        let shortest = wire::shortest(bytes.len(), frame.header_bytes.saturating_sub(1));
        let mut body = Reader::new(bytes);
        let v5 = version == Version::V5;
        if frame.first >> 4 == 1 {
            let connect = connect(body)?;
            if connect.version == Version::V5 {
                shortest?;
            }
            return Ok(Self::Connect(Box::new(connect)));
        }
        if v5 {
            shortest?;
        }
        Ok(match frame.first >> 4 {
            2 => Self::Connack(Box::new(connack(body, v5)?)),
            3 => Self::Publish(publish(frame.first, body, v5)?),
            4 => Self::Puback(ack(body, v5, PUBACK)?),
            5 => Self::Pubrec(ack(body, v5, PUBACK)?),
            6 => Self::Pubrel(ack(body, v5, PUBREL)?),
            7 => Self::Pubcomp(ack(body, v5, PUBREL)?),
            8 => Self::Subscribe(subscribe(body, v5)?),
            9 => Self::Suback(suback(body, v5)?),
            10 => Self::Unsubscribe(unsubscribe(body, v5)?),
            11 => Self::Unsuback(unsuback(body, v5)?),
            12 => body.finish().map(|()| Self::Pingreq)?,
            13 => body.finish().map(|()| Self::Pingresp)?,
            14 => Self::Disconnect(disconnect(body, v5)?),
            15 if v5 => {
                if body.is_empty() {
                    return Ok(Self::Auth(Auth {
                        reason: ReasonCode::Success,
                        properties: AuthProperties::default(),
                    }));
                }
                let reason = reason(&mut body, &[0x00, 0x18, 0x19])?;
                let properties = AuthProperties::read(&mut body)?;
                body.finish()?;
                Self::Auth(Auth { reason, properties })
            }
            _ => return Err(DecodeError::Malformed("packet type does not exist")),
        })
    }
}

fn connect(mut body: Reader) -> Decoded<Connect> {
    let name = body.binary()?;
    let level = body.u8()?;
    let version = match (name.as_ref(), level) {
        (b"MQTT", 4) => Version::V3,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT", _) | (b"MQIsdp", 3) => {
            // Whoever comes from the future is answered in the form that its packet has.
            let is_v5 = level > 5 && connect_as(Version::V5, body).is_ok();
            let form = if is_v5 { Version::V5 } else { Version::V3 };
            return Err(DecodeError::UnsupportedVersion { level, form });
        }
        _ => return Err(DecodeError::Malformed("protocol name is not MQTT")),
    };
    connect_as(version, body)
}

/// CONNECT behind its protocol level.
fn connect_as(version: Version, mut body: Reader) -> Decoded<Connect> {
    let flags = body.u8()?;
    let has = |bit: u8| flags & bit != 0;
    if has(0x01) {
        return Err(DecodeError::Malformed("reserved connect flag"));
    }
    let will_qos = QoS::from_bits(flags >> 3 & 3).ok_or(DecodeError::Malformed("will with QoS 3"))?;
    if !has(0x04) && (flags & 0x38) != 0 {
        return Err(DecodeError::Malformed("will options without a will"));
    }
    if version == Version::V3 && has(0x40) && !has(0x80) {
        return Err(DecodeError::Malformed("password without user name"));
    }
    let keep_alive_secs = body.u16()?;
    let properties = if version == Version::V5 {
        ConnectProperties::read(&mut body)?
    } else {
        ConnectProperties::default()
    };
    if properties.receive_max == Some(0) {
        return Err(DecodeError::Protocol("receive maximum is zero"));
    }
    if properties.packet_bytes_max == Some(0) {
        return Err(DecodeError::Protocol("maximum packet size is zero"));
    }
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(DecodeError::Protocol("authentication data without method"));
    }
    let client_id = body.text()?;
    let will = has(0x04).then(|| will(&mut body, version, will_qos, has(0x20))).transpose()?;
    let user_name = has(0x80).then(|| body.text()).transpose()?;
    let password = has(0x40).then(|| body.binary()).transpose()?;
    body.finish()?;
    let clean_start = has(0x02);
    if version == Version::V3 && client_id.is_empty() && !clean_start {
        return Err(DecodeError::ClientIdMissing);
    }
    Ok(Connect { version, clean_start, keep_alive_secs, properties, client_id, will, user_name, password })
}

fn will(body: &mut Reader, version: Version, qos: QoS, retain: bool) -> Decoded<Will> {
    let properties =
        if version == Version::V5 { WillProperties::read(body)? } else { WillProperties::default() };
    response_topic(properties.response_topic.as_ref())?;
    let topic = body.text()?;
    if !topic_is_valid(&topic) {
        return Err(DecodeError::TopicInvalid);
    }
    Ok(Will { topic, payload: body.binary()?, qos, retain, properties })
}

fn response_topic(topic: Option<&Text>) -> Decoded<()> {
    match topic {
        Some(topic) if !topic_is_valid(topic) => Err(DecodeError::Protocol("response topic is not a topic")),
        _ => Ok(()),
    }
}

fn connack(mut body: Reader, v5: bool) -> Decoded<Connack> {
    let flags = body.u8()?;
    if flags > 1 {
        return Err(DecodeError::Malformed("reserved connack flags"));
    }
    let code = body.u8()?;
    let (reason, properties) = if v5 {
        let reason = ReasonCode::from_u8(code).filter(|code| *code == ReasonCode::Success || code.is_error());
        (reason, ConnackProperties::read(&mut body)?)
    } else {
        (ReasonCode::from_v3_connack(code), ConnackProperties::default())
    };
    body.finish()?;
    let reason = reason.ok_or(DecodeError::Malformed("unknown reason code"))?;
    Ok(Connack { session_present: flags == 1, reason, properties })
}

fn publish(first: u8, mut body: Reader, v5: bool) -> Decoded<Publish> {
    let dup = first & 0x08 != 0;
    let qos = QoS::from_bits(first >> 1 & 3).ok_or(DecodeError::Malformed("QoS 3"))?;
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::Malformed("DUP with QoS 0"));
    }
    let topic = body.text()?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { body.packet_id()? };
    let properties = if v5 { PublishProperties::read(&mut body)? } else { PublishProperties::default() };
    match properties.topic_alias {
        Some(0) => return Err(DecodeError::TopicAliasInvalid),
        Some(_) if topic.is_empty() => {}
        None if topic.is_empty() && v5 => return Err(DecodeError::Protocol("neither topic nor topic alias")),
        _ if topic_is_valid(&topic) => {}
        _ => return Err(DecodeError::TopicInvalid),
    }
    response_topic(properties.response_topic.as_ref())?;
    Ok(Publish { dup, qos, retain: first & 1 != 0, topic, packet_id, properties, payload: body.rest() })
}

const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL: &[u8] = &[0x00, 0x92];

/// A reason code that this packet may carry.
fn reason(body: &mut Reader, allowed: &[u8]) -> Decoded<ReasonCode> {
    let code = body.u8()?;
    ReasonCode::from_u8(code)
        .filter(|_| allowed.contains(&code))
        .ok_or(DecodeError::Malformed("reason code not allowed in this packet"))
}

fn ack(mut body: Reader, v5: bool, allowed: &[u8]) -> Decoded<Ack> {
    let mut ack = Ack::new(body.packet_id()?, ReasonCode::Success);
    // Section 3.4.2.1: reason code and properties may be left out when they say nothing.
    if v5 && !body.is_empty() {
        ack.reason = reason(&mut body, allowed)?;
        if !body.is_empty() {
            ack.properties = AckProperties::read(&mut body)?;
        }
    }
    body.finish()?;
    Ok(ack)
}

fn subscribe(mut body: Reader, v5: bool) -> Decoded<Subscribe> {
    let packet_id = body.packet_id()?;
    let properties = if v5 { SubscribeProperties::read(&mut body)? } else { SubscribeProperties::default() };
    let mut subscriptions = Vec::new();
    while !body.is_empty() {
        let filter = body.text()?;
        let options = options(body.u8()?, v5)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::Protocol("no local on a shared subscription"));
        }
        subscriptions.push(Subscription { filter, options });
    }
    if subscriptions.is_empty() {
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { packet_id, properties, subscriptions })
}

fn options(bits: u8, v5: bool) -> Decoded<SubscriptionOptions> {
    let reserved = if v5 { 0xC0 } else { 0xFC };
    if bits & reserved != 0 {
        return Err(DecodeError::Malformed("reserved subscription options"));
    }
    // Section 3.8.3.1, unlike the QoS 3 of a PUBLISH or a will.
    let qos = QoS::from_bits(bits & 3).ok_or(DecodeError::Protocol("subscription with QoS 3"))?;
    let retain_handling = match bits >> 4 & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::Protocol("retain handling 3")),
    };
    Ok(SubscriptionOptions {
        qos,
        no_local: bits & 0x04 != 0,
        retain_as_published: bits & 0x08 != 0,
        retain_handling,
    })
}

fn suback(mut body: Reader, v5: bool) -> Decoded<Suback> {
    let packet_id = body.packet_id()?;
    let properties = if v5 { AckProperties::read(&mut body)? } else { AckProperties::default() };
    let allowed: &[u8] = if v5 {
        &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]
    } else {
        &[0x00, 0x01, 0x02, 0x80]
    };
    Ok(Suback { packet_id, properties, reasons: reasons(body, allowed)? })
}

fn unsuback(mut body: Reader, v5: bool) -> Decoded<Unsuback> {
    let packet_id = body.packet_id()?;
    if !v5 {
        body.finish()?;
        return Ok(Unsuback { packet_id, properties: AckProperties::default(), reasons: Vec::new() });
    }
    let properties = AckProperties::read(&mut body)?;
    Ok(Unsuback {
        packet_id,
        properties,
        reasons: reasons(body, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91])?,
    })
}

fn reasons(mut body: Reader, allowed: &[u8]) -> Decoded<Vec<ReasonCode>> {
    let mut reasons = Vec::new();
    while !body.is_empty() {
        reasons.push(reason(&mut body, allowed)?);
    }
    if reasons.is_empty() { Err(DecodeError::Protocol("no reason codes")) } else { Ok(reasons) }
}

fn unsubscribe(mut body: Reader, v5: bool) -> Decoded<Unsubscribe> {
    let packet_id = body.packet_id()?;
    let properties =
        if v5 { UnsubscribeProperties::read(&mut body)? } else { UnsubscribeProperties::default() };
    let mut filters = Vec::new();
    while !body.is_empty() {
        filters.push(body.text()?);
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Unsubscribe { packet_id, properties, filters })
}

const DISCONNECT: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

fn disconnect(mut body: Reader, v5: bool) -> Decoded<Disconnect> {
    let mut packet = Disconnect { reason: ReasonCode::Success, properties: DisconnectProperties::default() };
    if v5 && !body.is_empty() {
        packet.reason = reason(&mut body, DISCONNECT)?;
        if !body.is_empty() {
            packet.properties = DisconnectProperties::read(&mut body)?;
        }
    }
    body.finish()?;
    Ok(packet)
}
