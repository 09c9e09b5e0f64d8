//! Frames of RFC 6455, section 5, as a server reads and writes them.
//!
//! Nothing is gathered: what a data frame carries is handed on as it arrives, however long the frame, so a connection
//! keeps a few dozen bytes between reads, and no bound on frames is needed. MQTT packets may be split over frames, or
//! share one, as they like (MQTT 5.0, section 6), and have bounds of their own.

/// Longest header of a frame from a client: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Why a client is no longer listened to: the codes of section 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// A frame that section 5 does not allow.
    #[error("WebSocket: {0}")]
    Protocol(&'static str),
    /// MQTT travels in binary frames (MQTT 5.0, section 6).
    #[error("WebSocket: a text frame, where MQTT travels in binary ones")]
    Text,
}

impl Fault {
    fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Text => 1003,
        }
    }
}

/// A control frame to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    bytes: [u8; 2 + CONTROL_BYTES_MAX],
    len: u8,
}

impl Reply {
    fn new(opcode: u8, payload: &[u8]) -> Self {
        let mut bytes = [0; 2 + CONTROL_BYTES_MAX];
        bytes[0] = FINAL | opcode;
        bytes[1] = payload.len() as u8;
        bytes[2..2 + payload.len()].copy_from_slice(payload);
        Self { bytes, len: 2 + payload.len() as u8 }
    }

    /// Says goodbye, with a code of section 7.4.1.
    pub(crate) fn close(code: u16) -> Self {
        Self::new(CLOSE, &code.to_be_bytes())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(crate) fn is_close(&self) -> bool {
        self.bytes[0] == FINAL | CLOSE
    }
}

/// Reads frames from a client.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The frame whose payload comes now.
    frame: Option<Frame>,
    /// A message is unfinished: continuations must follow.
    fragmented: bool,
    control: Vec<u8>,
    end: Option<Result<(), Fault>>,
    /// What is to be answered: a pong to the last ping (section 5.5.3), or a close.
    pub(crate) reply: Option<Box<Reply>>,
}

#[derive(Debug)]
struct Frame {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
}

impl Incoming {
    /// Takes what was read, and leaves at its front what data frames carried: the number of those bytes.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && self.end.is_none() {
            let Some(frame) = &mut self.frame else {
                self.header[usize::from(self.header_len)] = bytes[from];
                self.header_len += 1;
                from += 1;
                match self.begin() {
                    Ok(()) => {}
                    Err(fault) => self.fail(fault),
                }
                continue;
            };
            let n = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len() - from);
            unmask(&mut bytes[from..from + n], frame.mask);
            frame.mask.rotate_left(n % 4);
            frame.left -= n as u64;
            if frame.opcode < CLOSE {
                bytes.copy_within(from..from + n, to);
                to += n;
            } else {
                self.control.extend_from_slice(&bytes[from..from + n]);
            }
            from += n;
            self.finish();
        }
        to
    }

    /// Whether no more is to be read, and why.
    pub(crate) fn end(&self) -> Option<Result<(), Fault>> {
        self.end
    }

    /// Looks whether the header is complete, and begins its frame if so.
    fn begin(&mut self) -> Result<(), Fault> {
        let header = &self.header[..usize::from(self.header_len)];
        let [first, second, rest @ ..] = header else {
            return Ok(());
        };
        let (is_final, opcode) = (first & FINAL != 0, first & 0x0F);
        // What can be refused is refused before it is waited for.
        if first & 0x70 != 0 {
            return Err(Fault::Protocol("a reserved bit is set, and no extension was agreed"));
        }
        if second & MASKED == 0 {
            return Err(Fault::Protocol("a frame of a client is not masked"));
        }
        match opcode {
            TEXT => return Err(Fault::Text),
            CONTINUATION if !self.fragmented => {
                return Err(Fault::Protocol("nothing to continue"));
            }
            BINARY if self.fragmented => {
                return Err(Fault::Protocol("a message within a message"));
            }
            CLOSE | PING | PONG if !is_final || second & 0x7F > CONTROL_BYTES_MAX as u8 => {
                return Err(Fault::Protocol("a control frame is fragmented or too long"));
            }
            CONTINUATION | BINARY | CLOSE | PING | PONG => {}
            _ => return Err(Fault::Protocol("unknown opcode")),
        }
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < extended + 4 {
            return Ok(());
        }
        let (length, mask) = rest.split_at(extended);
        let left = match extended {
            0 => u64::from(second & 0x7F),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let shortest = match extended {
            0 => 0,
            2 => 126,
            _ => 1 << 16,
        };
        if left < shortest || left > i64::MAX as u64 {
            return Err(Fault::Protocol("a length in a form that is not its shortest"));
        }
        if opcode < CLOSE {
            self.fragmented = !is_final;
        }
        let mask = mask.try_into().expect("four bytes are left");
        self.frame = Some(Frame { opcode, left, mask });
        self.header_len = 0;
        self.finish();
        Ok(())
    }

    /// Ends a frame whose payload is complete, and answers it.
    fn finish(&mut self) {
        let Some(frame) = self.frame.take_if(|frame| frame.left == 0) else { return };
        match frame.opcode {
            PING if !self.reply.as_ref().is_some_and(|reply| reply.is_close()) => {
                self.reply = Some(Box::new(Reply::new(PONG, &self.control)));
            }
            CLOSE => match self.control.first_chunk() {
                None if self.control.is_empty() => self.close(Reply::new(CLOSE, &[])),
                Some(code) if is_close_code(u16::from_be_bytes(*code)) => self.close(Reply::new(CLOSE, code)),
                _ => self.fail(Fault::Protocol("no code to close with")),
            },
            _ => {}
        }
        // Gives its memory back: control frames are rare.
        self.control = Vec::new();
    }

    fn close(&mut self, reply: Reply) {
        self.reply = Some(Box::new(reply));
        self.end = Some(Ok(()));
    }

    fn fail(&mut self, fault: Fault) {
        self.reply = Some(Box::new(Reply::close(fault.code())));
        self.end = Some(Err(fault));
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let mut words = bytes.chunks_exact_mut(8);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    for word in &mut words {
        let plain = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    words.into_remainder().iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Codes that may be sent (section 7.4.2, and the registry of section 11.7).
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The header of a binary frame with a payload of `len` bytes, and its length.
pub(crate) fn binary_header(len: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FINAL | BINARY;
    match len {
        0..=125 => {
            header[1] = len as u8;
            (header, 2)
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
            (header, 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let (header, len) = binary_header(payload.len());
        let mut bytes = header[..len].to_vec();
        (bytes[0], bytes[1]) = (first, bytes[1] | MASKED);
        bytes.extend(mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask);
        bytes.extend(payload);
        bytes
    }

    /// Takes the bytes in pieces of these sizes.
    fn take(incoming: &mut Incoming, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut rest, mut data) = (bytes, Vec::new());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
            let mut piece = piece.to_vec();
            let n = incoming.take(&mut piece);
            data.extend(&piece[..n]);
            rest = after;
        }
        data
    }

    fn fault(bytes: &[u8]) -> Fault {
        let mut incoming = Incoming::default();
        take(&mut incoming, bytes, &[1]);
        let fault = incoming.end().expect("refused").expect_err("a fault");
        let code = incoming.reply.expect("a close").bytes()[2..].to_vec();
        assert_eq!(code, fault.code().to_be_bytes());
        fault
    }

    #[test]
    fn what_section_5_does_not_allow_is_refused() {
        let mask = [1, 2, 3, 4];
        assert_eq!(fault(&frame(FINAL | TEXT, b"hello", mask)), Fault::Text);
        let refused = [
            vec![FINAL | BINARY, 1, 0],
            frame(FINAL | BINARY | 0x40, b"", mask),
            frame(FINAL | CONTINUATION, b"", mask),
            [frame(BINARY, b"a", mask), frame(FINAL | BINARY, b"b", mask)].concat(),
            frame(FINAL | 0x3, b"", mask),
            frame(FINAL | 0xB, b"", mask),
            frame(PING, b"", mask),
            frame(FINAL | PING, &[0; 126], mask),
            frame(FINAL | CLOSE, &[3], mask),
            frame(FINAL | CLOSE, &1005u16.to_be_bytes(), mask),
            vec![FINAL | BINARY, MASKED | 126, 0, 125, 1, 2, 3, 4],
            vec![FINAL | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4],
            vec![FINAL | BINARY, MASKED | 127, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4],
        ];
        for bytes in refused {
            assert!(matches!(fault(&bytes), Fault::Protocol(_)), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_frame_there_is_passes_through_as_it_comes() {
        let mut incoming = Incoming::default();
        let header = [FINAL | BINARY, MASKED | 127, 127, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0];
        assert_eq!(take(&mut incoming, &[&header[..], b"as it comes"].concat(), &[3]), b"as it comes");
        assert_eq!(incoming.end(), None);
    }

    #[test]
    fn a_close_is_answered_with_its_code_and_ends_it() {
        let mut incoming = Incoming::default();
        let bytes =
            [frame(FINAL | BINARY, b"last", [9; 4]), frame(FINAL | CLOSE, b"\x03\xe9bye", [7; 4])].concat();
        let with_more = [bytes, frame(FINAL | BINARY, b"too late", [9; 4])].concat();
        assert_eq!(take(&mut incoming, &with_more, &[1000]), b"last");
        assert_eq!(incoming.end(), Some(Ok(())));
        assert_eq!(incoming.reply.unwrap().bytes(), [FINAL | CLOSE, 2, 3, 0xE9]);
    }

    proptest! {
        #[test]
        fn pieces_of_a_stream_come_out_in_order_however_they_are_framed_and_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            fragments in 1usize..5,
            mask in any::<[u8; 4]>(),
            sizes in prop::collection::vec(1usize..400, 1..5),
        ) {
            let (mut bytes, mut last_ping) = (Vec::new(), None);
            for (index, message) in messages.iter().enumerate() {
                let parts: Vec<&[u8]> = message.chunks(message.len().div_ceil(fragments).max(1)).collect();
                for (at, part) in parts.iter().enumerate() {
                    let first = if at == 0 { BINARY } else { CONTINUATION };
                    let last = if at + 1 == parts.len() { FINAL } else { 0 };
                    bytes.extend(frame(first | last, part, mask));
                    // Between the fragments of a message, too.
                    let ping = (index + at).to_string();
                    bytes.extend(frame(FINAL | PING, ping.as_bytes(), mask));
                    bytes.extend(frame(FINAL | PONG, b"unasked", mask));
                    last_ping = Some(ping);
                }
            }
            let mut incoming = Incoming::default();
            prop_assert_eq!(take(&mut incoming, &bytes, &sizes), messages.concat());
            prop_assert_eq!(incoming.end(), None);
            let pong = incoming.reply.map(|reply| reply.bytes()[2..].to_vec());
            prop_assert_eq!(pong, last_ping.map(String::into_bytes));
        }

        #[test]
        fn any_bytes_give_the_same_however_they_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            sizes in prop::collection::vec(1usize..50, 1..5),
        ) {
            let (mut whole, mut cut) = (Incoming::default(), Incoming::default());
            let data = take(&mut whole, &bytes, &[bytes.len()]);
            prop_assert_eq!(data, take(&mut cut, &bytes, &sizes));
            prop_assert_eq!(whole.end(), cut.end());
            prop_assert_eq!(whole.reply, cut.reply);
        }
    }
}
