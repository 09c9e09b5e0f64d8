//! What is published: real readings, repeated to the size asked for, behind a stamp.
//!
//! ```text
//! 0..8    when it was published, nanoseconds of CLOCK_MONOTONIC, big-endian
//! 8..12   number of the message; the highest bit asks for an echo
//! 12..    readings, a line each
//! ```

/// The readings of the demo: one office room, a reading a minute (UCI "Occupancy Detection").
const READINGS: &str = include_str!("../../../src/cli/demo/office-sensors.csv");
/// Smallest payload: the stamp and something of a reading.
pub const PAYLOAD_BYTES_MIN: usize = 16;
const STAMP_BYTES: usize = 12;
const ECHO: u32 = 1 << 31;

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it was published, nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// Its number, below 2³¹.
    pub number: u32,
    /// Whether the subscriber is to say that it came.
    pub echo: bool,
}

impl Stamp {
    /// Writes it over the beginning of `payload`.
    pub fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&self.at.to_be_bytes());
        let echo = if self.echo { ECHO } else { 0 };
        payload[8..STAMP_BYTES].copy_from_slice(&((self.number & !ECHO) | echo).to_be_bytes());
    }

    /// Reads it off `payload`; `None` where that is too short.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (at, rest) = payload.split_first_chunk()?;
        let word = u32::from_be_bytes(*rest.first_chunk()?);
        Some(Self { at: u64::from_be_bytes(*at), number: word & !ECHO, echo: word & ECHO != 0 })
    }
}

/// A payload of `bytes`, not stamped yet.
pub fn make(bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; STAMP_BYTES];
    payload.extend(readings().flat_map(str::as_bytes).take(bytes.max(PAYLOAD_BYTES_MIN) - STAMP_BYTES));
    payload
}

/// Whether `payload` is one of ours, whatever its stamp.
pub fn is_whole(payload: &[u8]) -> bool {
    payload.len() >= PAYLOAD_BYTES_MIN && payload[STAMP_BYTES..] == make(payload.len())[STAMP_BYTES..]
}

/// The readings with their line ends, over and over.
fn readings() -> impl Iterator<Item = &'static str> {
    let lines = READINGS.split_inclusive('\n').filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    lines.cycle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_hold_readings() {
        for bytes in [16, 256, 1024, 65_536] {
            let payload = make(bytes);
            assert_eq!(payload.len(), bytes);
            assert!(payload[STAMP_BYTES..].starts_with(b"2015"), "{bytes}");
            assert!(is_whole(&payload));
        }
        let text = String::from_utf8(make(256)[STAMP_BYTES..].to_vec()).unwrap();
        assert!(text.starts_with("2015-02-02 14:19:00,23.7,26.272,585.2,749.2,"), "{text}");
        assert!(text.lines().count() > 3);
    }

    #[test]
    fn what_was_altered_is_not_whole() {
        let mut payload = make(64);
        payload[63] ^= 1;
        assert!(!is_whole(&payload));
        assert!(!is_whole(&make(64)[..15]));
    }

    #[test]
    fn stamps_come_back() {
        let mut payload = make(PAYLOAD_BYTES_MIN);
        for stamp in [
            Stamp { at: u64::MAX, number: 0, echo: true },
            Stamp { at: 1, number: (1 << 31) - 1, echo: false },
        ] {
            stamp.write(&mut payload);
            assert_eq!(Stamp::read(&payload), Some(stamp));
            assert!(is_whole(&payload));
        }
        assert_eq!(Stamp::read(&payload[..11]), None);
    }
}
