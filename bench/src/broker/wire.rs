//! The few packets of MQTT 3.1.1, and of 5.0, that the load needs, made once and patched, and the way back, counted rather than
//! decoded: a load generator must cost less than what it measures.

use std::io::{self, ErrorKind, Read};

use smqtt_client::mqtt::READER_PROPERTY;

/// Number of the publisher, and of the message among its messages: what a payload begins with.
pub const STAMP_BYTES: usize = 10;
/// The identifier of a user property (section 2.2.2.2 of 5.0).
const USER_PROPERTY: u8 = 0x26;
/// Longest packet that the load ever gets.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// What packets look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// 5.0, as a reader of sealed messages; else 3.1.1.
    pub v5: bool,
    /// Where in a payload the stamp is, in bytes from its end: what comes before may differ.
    pub stamp_from_end: usize,
}

impl Form {
    /// 3.1.1, with payloads of so many bytes that begin with the stamp.
    pub fn plain(payload_bytes: usize) -> Self {
        Self { v5: false, stamp_from_end: payload_bytes.max(STAMP_BYTES) }
    }
}

/// CONNECT; `clean`: without a session that outlives the connection.
pub fn connect(form: Form, client_id: &str, clean: bool) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4 + u8::from(form.v5), u8::from(clean) << 1];
    // An hour: some brokers refuse none at all.
    body.extend(3_600_u16.to_be_bytes());
    if form.v5 {
        let mut properties = vec![USER_PROPERTY];
        put_text(&mut properties, READER_PROPERTY.0);
        put_text(&mut properties, READER_PROPERTY.1);
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    put_text(&mut body, client_id);
    framed(0x10, &body)
}

/// SUBSCRIBE to all of `filters`.
pub fn subscribe<'a>(
    form: Form,
    packet_id: u16,
    filters: impl IntoIterator<Item = &'a str>,
    qos: u8,
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(form.v5.then_some(0));
    for filter in filters {
        put_text(&mut body, filter);
        body.push(qos);
    }
    framed(0x82, &body)
}

/// PUBACK.
pub fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            out.push(byte);
            break;
        }
        out.push(byte | 0x80);
    }
    out.extend(body);
    out
}

/// A PUBLISH of one topic: everything but stamp and packet identifier stays.
pub struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    stamp_at: usize,
}

impl Template {
    /// A payload is at least as long as a stamp from its place on.
    pub fn new(form: Form, topic: &str, qos: u8, payload: &[u8]) -> Self {
        let mut body = Vec::new();
        put_text(&mut body, topic);
        let mut packet_id_at = None;
        if qos > 0 {
            packet_id_at = Some(body.len());
            body.extend([0, 0]);
        }
        body.extend(form.v5.then_some(0));
        body.extend(payload);
        let mut stamp_at = body.len() - form.stamp_from_end;
        let bytes = framed(0x30 | qos << 1, &body);
        let head = bytes.len() - body.len();
        packet_id_at = packet_id_at.map(|at| at + head);
        stamp_at += head;
        Self { bytes, packet_id_at, stamp_at }
    }

    /// With a payload of so many bytes, the stamp included.
    pub fn plain(topic: &str, qos: u8, payload_bytes: usize) -> Self {
        let form = Form::plain(payload_bytes);
        let payload: Vec<u8> = (0..form.stamp_from_end).map(|n| n as u8).collect();
        Self::new(form, topic, qos, &payload)
    }

    /// Appends the message of this number.
    pub fn put(&self, stamp: Stamp, packet_id: u16, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[from + at..from + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let at = from + self.stamp_at;
        out[at..at + 2].copy_from_slice(&stamp.publisher.to_be_bytes());
        out[at + 2..at + STAMP_BYTES].copy_from_slice(&stamp.number.to_be_bytes());
    }
}

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Whose.
    pub publisher: u16,
    /// From 0.
    pub number: u64,
}

/// What came from the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// A message, with its packet identifier if it wants an acknowledgement.
    Publish { stamp: Stamp, packet_id: Option<u16> },
    /// PUBACK.
    Puback,
    /// CONNACK with its return code.
    Connack(u8),
    /// SUBACK; whether every filter was granted.
    Suback(bool),
    /// Nothing that counts.
    Other,
}

/// Reads what is there into `scratch`, behind what `rest` has of a packet that has begun, and hands over each packet
/// that is complete. The number of bytes read; 0 at the end of the stream.
pub fn read(
    form: Form,
    from: &mut impl Read,
    rest: &mut Vec<u8>,
    scratch: &mut [u8],
    mut take: impl FnMut(Got),
) -> io::Result<usize> {
    let begun = rest.len();
    scratch[..begun].copy_from_slice(rest);
    let read = from.read(&mut scratch[begun..])?;
    rest.clear();
    let mut bytes = &scratch[..begun + read];
    while let Some((packet, more)) = split(bytes)? {
        take(parse(form, packet)?);
        bytes = more;
    }
    rest.extend_from_slice(bytes);
    Ok(read)
}

struct Frame<'a> {
    first: u8,
    body: &'a [u8],
}

/// The first packet, if all of it is there, and what follows it.
fn split(bytes: &[u8]) -> io::Result<Option<(Frame<'_>, &[u8])>> {
    let (mut length, mut at) = (0, 1);
    loop {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            return Err(nonsense());
        }
    }
    if length > PACKET_BYTES_MAX {
        return Err(nonsense());
    }
    let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
    Ok(Some((Frame { first: bytes[0], body }, &bytes[at + length..])))
}

fn parse(form: Form, frame: Frame<'_>) -> io::Result<Got> {
    let Frame { first, body } = frame;
    match first >> 4 {
        2 => body.get(1).map(|code| Got::Connack(*code)).ok_or_else(nonsense),
        3 => {
            let u16_at = |at: usize| {
                body.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])).ok_or_else(nonsense)
            };
            let mut at = 2 + usize::from(u16_at(0)?);
            let mut packet_id = None;
            if first & 0x06 != 0 {
                packet_id = Some(u16_at(at)?);
                at += 2;
            }
            let at = body
                .len()
                .checked_sub(form.stamp_from_end)
                .filter(|from| *from >= at)
                .ok_or_else(nonsense)?;
            let publisher = u16_at(at)?;
            let number = body.get(at + 2..at + STAMP_BYTES).ok_or_else(nonsense)?;
            let number = u64::from_be_bytes(number.try_into().map_err(|_| nonsense())?);
            Ok(Got::Publish { stamp: Stamp { publisher, number }, packet_id })
        }
        4 => Ok(Got::Puback),
        // Of 5.0 there is the length of properties as well, which is 0 if there is nothing to say.
        9 => Ok(Got::Suback(body.iter().skip(2).all(|code| *code <= 2))),
        _ => Ok(Got::Other),
    }
}

fn nonsense() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the broker sent what is no packet")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { v5: false, stamp_from_end: 256 };

    /// Gives a few bytes at a time, as sockets may.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn all(bytes: &[u8], at_a_time: usize) -> Vec<Got> {
        let (mut from, mut rest, mut scratch) = (Drops(bytes, at_a_time), Vec::new(), vec![0; 4096]);
        let mut got = Vec::new();
        while read(FORM, &mut from, &mut rest, &mut scratch, |one| got.push(one)).unwrap() > 0 {}
        assert!(rest.is_empty());
        got
    }

    #[test]
    fn what_is_put_is_what_comes_back_however_it_is_cut() {
        let mut bytes = vec![0x20, 2, 0, 0, 0x90, 4, 0, 1, 1, 0x80];
        for qos in [0, 1] {
            let template = Template::plain("a/b", qos, 256);
            template.put(Stamp { publisher: 3, number: 1 << 40 }, 77, &mut bytes);
        }
        bytes.extend(puback(77));
        let stamp = Stamp { publisher: 3, number: 1 << 40 };
        for at_a_time in [1, 7, 100, 4096] {
            assert_eq!(
                all(&bytes, at_a_time),
                [
                    Got::Connack(0),
                    Got::Suback(false),
                    Got::Publish { stamp, packet_id: None },
                    Got::Publish { stamp, packet_id: Some(77) },
                    Got::Puback,
                ]
            );
        }
    }

    #[test]
    fn packets_are_those_of_the_standard() {
        assert_eq!(connect(FORM, "c", true), b"\x10\x0d\0\x04MQTT\x04\x02\x0e\x10\0\x01c");
        assert_eq!(subscribe(FORM, 1, ["a", "b/#"], 1), b"\x82\x0c\0\x01\0\x01a\x01\0\x03b/#\x01");
        let mut out = Vec::new();
        Template::plain("a", 0, 256).put(Stamp { publisher: 0, number: 0 }, 0, &mut out);
        // 3 bytes of topic and 256 of payload.
        assert_eq!(out[..6], [0x30, 0x83, 2, 0, 1, b'a']);
        assert_eq!(out.len(), 3 + 3 + 256);
    }

    #[test]
    fn version_5_has_properties_and_payloads_of_any_beginning() {
        let form = Form { v5: true, stamp_from_end: 12 };
        let connect = connect(form, "c", true);
        assert_eq!(connect[..10], *b"\x10\x19\0\x04MQTT\x05\x02");
        assert_eq!(connect[12..], *b"\x0b\x26\0\x05smqtt\0\x011\0\x01c");
        assert_eq!(subscribe(form, 1, ["a"], 1), b"\x82\x07\0\x01\0\0\x01a\x01");
        let stamp = Stamp { publisher: 1, number: 2 };
        let mut bytes = vec![0x90, 4, 0, 1, 0, 1];
        for payload in [&b"a beginning, and stamp here"[..], b"twelve bytes"] {
            Template::new(form, "a", 1, payload).put(stamp, 7, &mut bytes);
        }
        let (mut rest, mut scratch, mut got) = (Vec::new(), vec![0; 4096], Vec::new());
        read(form, &mut &bytes[..], &mut rest, &mut scratch, |one| got.push(one)).unwrap();
        let publish = || Got::Publish { stamp, packet_id: Some(7) };
        assert_eq!(got, [Got::Suback(true), publish(), publish()]);
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for bytes in
            [&b"\x30\xff\xff\xff\xff\x01"[..], b"\x30\x02\0\x09", b"\x20\x00", b"\x30\xff\xff\xff\x7f"]
        {
            let (mut rest, mut scratch) = (Vec::new(), vec![0; 64]);
            assert!(read(FORM, &mut &bytes[..], &mut rest, &mut scratch, |_| {}).is_err(), "{bytes:?}");
        }
    }
}
