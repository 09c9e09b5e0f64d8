//! The one form of a message, written and read by hand: no tree, no second pass, no allocation.
//!
//! ```text
//! compact       = da 53 4d 51 54 message
//! message       = 83 bytes(protected) ( a0 / a1 0c 58 40 signature ) bytes(ciphertext)
//! protected     = a3 01 03 04 50 kid 06 bytes(partial iv)
//! aad           = 84 71 "SMQTT-V01 message" text(topic) bound
//! bound         = 58 20 header-hash 50 publisher
//! Enc_structure = 83 68 "Encrypt0" bytes(protected) bytes(aad)
//! to be signed  = 84 71 "CounterSignature0" bytes(protected) bytes(aad) bytes(ciphertext)
//! ```
//! `bytes` and `text` begin with their length in the fewest bytes (RFC 8949, section 4.2.1); the partial IV is
//! the counter in the fewest bytes, at least one. The reader takes this and nothing else, so that two
//! messages that say the same have the same bytes.

use super::{MAGIC, Message};
use crate::crypto::{SIGNATURE_BYTES, TAG_BYTES};
use crate::header::{KID_BYTES, Kid};
use crate::identity::DeviceId;

/// Most bytes of a protected header.
const PROTECTED_BYTES_MAX: usize = 31;
/// Most bytes that a message without a signature has besides its payload: magic, heads, protected header, tag.
pub(super) const OVERHEAD_BYTES_MAX: usize =
    MAGIC.len() + 3 + PROTECTED_BYTES_MAX + 1 + HEAD_BYTES_MAX + TAG_BYTES;
/// Bytes that a signature adds to that.
pub(super) const SIGNED_BYTES: usize = SIGNATURE.len() + SIGNATURE_BYTES;
/// An Enc_structure up to this size is put together on the stack: with topics of up to 393 bytes.
const STACK_BYTES: usize = 512;

/// `[`, and the head of a byte string whose length follows in one byte.
const MESSAGE: [u8; 2] = [0x83, 0x58];
/// `{1: 3, 4:` and the head of the kid.
const PROTECTED: [u8; 5] = [0xa3, 0x01, 0x03, 0x04, 0x50];
const PARTIAL_IV: u8 = 6;
/// What comes after the protected header: no more headers,
const UNSIGNED: u8 = 0xa0;
/// or one, `{12:` and the head of the signature.
const SIGNED: u8 = 0xa1;
const SIGNATURE: [u8; 3] = [0x0c, 0x58, SIGNATURE_BYTES as u8];
const AAD: &[u8; 19] = b"\x84\x71SMQTT-V01 message";
const ENC_STRUCTURE: &[u8; 10] = b"\x83\x68Encrypt0";
/// A COSE_Encrypt0 has no byte strings besides protected header and ciphertext, so the structure has no
/// `other_fields` and the context no `V2` (RFC 9338, section 3.3).
const COUNTERSIGN_STRUCTURE: &[u8; 19] = b"\x84\x71CounterSignature0";

/// The major types (RFC 8949, section 3.1).
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const HEAD_BYTES_MAX: usize = 9;

/// A few bytes of which a part is used.
pub(super) struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> std::ops::Deref for Short<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The protected header `{1: 3, 4: kid, 6: partial iv}`.
pub(super) fn protected(kid: Kid, counter: u64) -> Short<PROTECTED_BYTES_MAX> {
    let zeros = (counter.leading_zeros() / 8).min(7);
    let iv_bytes = 8 - zeros as usize;
    let mut bytes = [0; PROTECTED_BYTES_MAX];
    bytes[..5].copy_from_slice(&PROTECTED);
    bytes[5..21].copy_from_slice(&kid.0);
    bytes[21] = PARTIAL_IV;
    bytes[22] = BYTES | iv_bytes as u8;
    bytes[23..].copy_from_slice(&(counter << (8 * zeros)).to_be_bytes());
    Short { bytes, len: 23 + iv_bytes }
}

/// What a message is bound to besides its topic: how its header's hash and its publisher end the aad.
pub(super) fn bound(header_hash: &[u8; 32], publisher: DeviceId) -> [u8; 51] {
    let mut bytes = [0; 51];
    bytes[..2].copy_from_slice(&[0x58, 32]);
    bytes[2..34].copy_from_slice(header_hash);
    bytes[34] = BYTES | 16;
    bytes[35..].copy_from_slice(&publisher.0);
    bytes
}

/// Appends a compact envelope up to its ciphertext. A signature is left zero: gives where it goes.
pub(super) fn write_front(
    out: &mut Vec<u8>,
    protected: &[u8],
    signed: bool,
    ciphertext_bytes: usize,
) -> std::ops::Range<usize> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&MESSAGE);
    out.push(protected.len() as u8);
    out.extend_from_slice(protected);
    let signature = if signed {
        out.push(SIGNED);
        out.extend_from_slice(&SIGNATURE);
        let from = out.len();
        out.extend_from_slice(&[0; SIGNATURE_BYTES]);
        from..out.len()
    } else {
        out.push(UNSIGNED);
        out.len()..out.len()
    };
    out.extend_from_slice(&head(BYTES, ciphertext_bytes));
    signature
}

/// Calls `then` with the Enc_structure, which AES-GCM authenticates.
pub(super) fn with_enc_structure<R>(
    protected: &[u8],
    topic: &str,
    bound: &[u8; 51],
    then: impl FnOnce(&[u8]) -> R,
) -> R {
    let topic_head = head(TEXT, topic.len());
    let aad_bytes = AAD.len() + topic_head.len() + topic.len() + bound.len();
    let aad_head = head(BYTES, aad_bytes);
    let len = ENC_STRUCTURE.len() + 2 + protected.len() + aad_head.len() + aad_bytes;
    let fill = |room: &mut [u8]| {
        let mut room = Room(room);
        room.put(ENC_STRUCTURE);
        room.put(&[0x58, protected.len() as u8]);
        room.put(protected);
        room.put(&aad_head);
        room.put(AAD);
        room.put(&topic_head);
        room.put(topic.as_bytes());
        room.put(bound);
        debug_assert!(room.0.is_empty());
    };
    if len <= STACK_BYTES {
        let mut stack = [0; STACK_BYTES];
        let structure = &mut stack[..len];
        fill(structure);
        then(structure)
    } else {
        let mut structure = vec![0; len];
        fill(&mut structure);
        then(&structure)
    }
}

/// What a message's signature is over.
pub(super) fn to_be_signed(protected: &[u8], topic: &str, bound: &[u8; 51], ciphertext: &[u8]) -> Vec<u8> {
    with_enc_structure(protected, topic, bound, |structure| {
        // The same but for the context, and with the ciphertext at the end.
        let same = &structure[ENC_STRUCTURE.len()..];
        [&COUNTERSIGN_STRUCTURE[..], same, &head(BYTES, ciphertext.len()), ciphertext].concat()
    })
}

/// Reads a message (without the tag); `None` for everything that is not written here.
pub(super) fn read(bytes: &[u8]) -> Option<Message<'_>> {
    let mut r = Reader(bytes);
    r.expect(&MESSAGE)?;
    let [protected_bytes] = *r.take()?;
    let protected = r.slice(protected_bytes.into())?;
    let signature = match *r.take()? {
        [UNSIGNED] => None,
        [SIGNED] => {
            r.expect(&SIGNATURE)?;
            Some(r.take()?)
        }
        _ => return None,
    };
    let ciphertext_bytes = r.byte_string()?;
    let ciphertext = r.0;
    if ciphertext.len() as u64 != ciphertext_bytes || ciphertext.len() < TAG_BYTES {
        return None;
    }
    let (kid, counter) = read_protected(protected)?;
    Some(Message { bytes, protected, kid, counter, signature, ciphertext })
}

/// Kid and counter. That it has 24 to 31 bytes, as its own head should say, follows.
fn read_protected(bytes: &[u8]) -> Option<(Kid, u64)> {
    let mut r = Reader(bytes);
    r.expect(&PROTECTED)?;
    let kid: &[u8; KID_BYTES] = r.take()?;
    let [PARTIAL_IV, head] = *r.take()? else { return None };
    let partial_iv = r.0;
    if !matches!(partial_iv, [_] | [1..=u8::MAX, ..])
        || partial_iv.len() > 8
        || head != BYTES | partial_iv.len() as u8
    {
        return None;
    }
    let counter = partial_iv.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    Some((Kid(*kid), counter))
}

/// The head of a string: its type, and its length in the fewest bytes.
fn head(major: u8, len: usize) -> Short<HEAD_BYTES_MAX> {
    let len = len as u64;
    let (first, width) = match len {
        0..24 => (len as u8, 0),
        24..0x100 => (24, 1),
        0x100..0x1_0000 => (25, 2),
        0x1_0000..0x1_0000_0000 => (26, 4),
        0x1_0000_0000.. => (27, 8),
    };
    let mut bytes = [0; HEAD_BYTES_MAX];
    bytes[0] = major | first;
    // The bytes that count come first, what comes after them is not used.
    bytes[1..].copy_from_slice(&len.checked_shl(64 - 8 * width).unwrap_or(0).to_be_bytes());
    Short { bytes, len: 1 + width as usize }
}

/// Room that is filled from the front.
struct Room<'a>(&'a mut [u8]);

impl Room<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (to, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        to.copy_from_slice(bytes);
        self.0 = rest;
    }
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(bytes)?;
        Some(())
    }

    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// The head of a byte string: its length, which must be in the fewest bytes.
    fn byte_string(&mut self) -> Option<u64> {
        let [first] = *self.take()?;
        let (len, least) = match first {
            0x40..=0x57 => (u64::from(first - BYTES), 0),
            0x58 => (u8::from_be_bytes(*self.take()?).into(), 24),
            0x59 => (u16::from_be_bytes(*self.take()?).into(), 0x100),
            0x5a => (u32::from_be_bytes(*self.take()?).into(), 0x1_0000),
            0x5b => (u64::from_be_bytes(*self.take()?), 0x1_0000_0000),
            _ => return None,
        };
        (len >= least).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::to_vec;

    /// The sizes that the documentation gives.
    #[test]
    fn sizes_are_as_said() {
        for (counter, bytes) in [(0, 24), (255, 24), (256, 25), (u64::MAX, PROTECTED_BYTES_MAX)] {
            assert_eq!(protected(Kid([1; KID_BYTES]), counter).len(), bytes);
        }
        let longest = protected(Kid([1; KID_BYTES]), u64::MAX);
        let mut out = Vec::new();
        write_front(&mut out, &longest, false, usize::MAX);
        assert_eq!(out.len() + TAG_BYTES, OVERHEAD_BYTES_MAX);
        let unsigned = out.len();
        let signature = write_front(&mut out, &longest, true, usize::MAX);
        assert_eq!(out.len() - unsigned, unsigned + SIGNED_BYTES);
        assert_eq!((signature.len(), out[signature.start - 1]), (SIGNATURE_BYTES, 64));
        let size = |topic| with_enc_structure(&longest, &"a".repeat(topic), &[0; 51], <[u8]>::len);
        assert_eq!((size(393), size(394)), (STACK_BYTES, STACK_BYTES + 1));
    }

    /// Every length's head, where they change, is minicbor's, and reads back; with a longer one it does not.
    #[test]
    fn heads_are_the_shortest() {
        let at = [0, 1, 15, 16, 23, 24, 255, 256, 65_535, 65_536, u32::MAX as usize, 1 << 32, usize::MAX];
        for len in at {
            for (major, least) in [(BYTES, 0x40), (TEXT, 0x60)] {
                // An unsigned integer has the same form, with major type 0.
                let mut same = to_vec(|e| e.u64(len as u64).map(drop));
                same[0] |= least;
                assert_eq!(*head(major, len), same);
            }
            assert_eq!(Reader(&head(BYTES, len)).byte_string(), Some(len as u64));
            for longer in [
                [&[0x58][..], &(len as u8).to_be_bytes()].concat(),
                [&[0x59][..], &(len as u16).to_be_bytes()].concat(),
                [&[0x5a][..], &(len as u32).to_be_bytes()].concat(),
                [&[0x5b][..], &(len as u64).to_be_bytes()].concat(),
            ] {
                let read = Reader(&longer).byte_string();
                assert!(read.is_none_or(|n| *head(BYTES, n as usize) == longer), "{longer:x?}");
            }
        }
        for first in (0..=0x3f).chain(0x5c..=0xff) {
            assert_eq!(Reader(&[&[first], &[0; 8][..]].concat()).byte_string(), None);
        }
    }
}
