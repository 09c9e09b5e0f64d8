//! The data types of section 1.5: integers, variable byte integers, strings, binary data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DecodeError, EncodeError, Text};

/// Largest variable byte integer: four bytes of seven bits.
pub(super) const VARINT_MAX: usize = 268_435_455;

/// Reads a packet's body. Every method fails instead of reading past the end.
pub(super) struct Reader(Bytes);

type Read<T> = Result<T, DecodeError>;

const SHORT: DecodeError = DecodeError::Malformed("packet ends too early");

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Fails unless everything has been read.
    pub(super) fn finish(self) -> Read<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("bytes after the end of the packet"))
        }
    }

    pub(super) fn u8(&mut self) -> Read<u8> {
        self.0.try_get_u8().map_err(|_| SHORT)
    }

    pub(super) fn u16(&mut self) -> Read<u16> {
        self.0.try_get_u16().map_err(|_| SHORT)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.0.try_get_u32().map_err(|_| SHORT)
    }

    /// A packet identifier, which must not be zero.
    pub(super) fn packet_id(&mut self) -> Read<u16> {
        match self.u16()? {
            0 => Err(DecodeError::Malformed("packet identifier is zero")),
            id => Ok(id),
        }
    }

    /// A variable byte integer in its shortest form.
    pub(super) fn varint(&mut self) -> Read<usize> {
        let (value, len) = varint(&self.0)?.ok_or(SHORT)?;
        shortest(value, len)?;
        self.0.advance(len);
        Ok(value)
    }

    pub(super) fn take(&mut self, len: usize) -> Read<Bytes> {
        if len > self.0.len() { Err(SHORT) } else { Ok(self.0.split_to(len)) }
    }

    pub(super) fn binary(&mut self) -> Read<Bytes> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub(super) fn text(&mut self) -> Read<Text> {
        Text::from_wire(self.binary()?).ok_or(DecodeError::Malformed("string is not UTF-8 without U+0000"))
    }

    /// A block led by its length as a variable byte integer, as properties are.
    pub(super) fn block(&mut self) -> Read<Reader> {
        let len = self.varint()?;
        self.take(len).map(Reader)
    }
}

/// Reads a variable byte integer: value and bytes used, or `None` if more bytes are needed.
pub(super) fn varint(bytes: &[u8]) -> Read<Option<(usize, usize)>> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        Err(DecodeError::Malformed("variable byte integer exceeds four bytes"))
    } else {
        Ok(None)
    }
}

/// That a value came in the fewest bytes: section 1.5.5 of 5.0. 3.1.1 does not ask for it.
pub(super) fn shortest(value: usize, len: usize) -> Read<()> {
    match len == varint_len(value) {
        true => Ok(()),
        false => Err(DecodeError::Malformed("variable byte integer is not in its shortest form")),
    }
}

/// Bytes that [`put_varint`] writes for `value`.
pub(super) fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(super) fn put_varint(out: &mut BytesMut, mut value: usize) {
    debug_assert!(value <= VARINT_MAX);
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.put_u8(byte);
        }
        out.put_u8(byte | 0x80);
    }
}

pub(super) fn put_text(out: &mut BytesMut, text: &Text) -> Result<(), EncodeError> {
    if !text.is_valid() {
        return Err(EncodeError::Field);
    }
    put_binary(out, text.as_bytes())
}

pub(super) fn put_binary(out: &mut BytesMut, bytes: &[u8]) -> Result<(), EncodeError> {
    out.put_u16(u16::try_from(bytes.len()).map_err(|_| EncodeError::Field)?);
    out.put_slice(bytes);
    Ok(())
}
