//! Cuts the byte stream into packets (section 2.1, fixed header).

use super::{DecodeError, wire};

/// Largest packet that the fixed header can describe.
pub const FRAME_BYTES_MAX: usize = 5 + wire::VARINT_MAX;

/// Bounds on what [`decode`](super::decode) accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Size of a whole packet, fixed header included.
    pub packet_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packet_bytes_max: FRAME_BYTES_MAX }
    }
}

/// Where the first packet of a buffer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// First byte: packet type and flags.
    pub first: u8,
    /// Bytes of the fixed header.
    pub header_bytes: usize,
    /// Bytes of the whole packet.
    pub bytes: usize,
}

/// Finds the first packet in `buffer`. `None` means: not all of it is there yet.
///
/// # Errors
/// A type that does not exist, flags that its type does not allow, a remaining length that is malformed or beyond
/// `limits`: each is known before the body has arrived.
pub fn split_frame(buffer: &[u8], limits: Limits) -> Result<Option<Frame>, DecodeError> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0f);
    match kind {
        0 => return Err(DecodeError::Malformed("packet type 0")),
        3 => {}
        6 | 8 | 10 if flags == 2 => {}
        6 | 8 | 10 => return Err(DecodeError::Malformed("reserved flags")),
        _ if flags == 0 => {}
        _ => return Err(DecodeError::Malformed("reserved flags")),
    }
    let Some((remaining, len)) = wire::varint(&buffer[1..])? else { return Ok(None) };
    let frame = Frame { first, header_bytes: 1 + len, bytes: 1 + len + remaining };
    if frame.bytes > limits.packet_bytes_max {
        return Err(DecodeError::TooLarge { bytes: frame.bytes, bytes_max: limits.packet_bytes_max });
    }
    Ok((buffer.len() >= frame.bytes).then_some(frame))
}
