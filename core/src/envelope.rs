//! The envelope: what an MQTT payload holds when it is sealed.
//!
//! ```text
//! compact = 1397576020(message)              the CBOR tag is the bytes da 53 4d 51 54, "SMQT"
//! full    = 1397576020([header, message])
//! message = [ << {1: 3, 4: kid, 6: partial iv} >>, {? 12: signature}, ciphertext ]
//! ```
//!
//! `message` is a COSE_Encrypt0 (RFC 9052, section 5.2) with AES-256-GCM; the optional signature a
//! Countersignature0 version 2 (RFC 9338). Key and context IV come from the header's secret and hash, once
//! for each header; what is left for each message is the cipher and the bytes around it (`wire`).

mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minicbor::Decoder;
use zeroize::Zeroizing;

use crate::crypto::{AeadKey, NONCE_BYTES, Prk, SIGNATURE_BYTES, Secret32, SigningKey, TAG_BYTES, verify};
use crate::header::{HEADER_BYTES_MAX, KID_BYTES, Kid};
use crate::identity::DeviceId;

/// The CBOR tag around every envelope, `SMQT` in ASCII.
pub const TAG: u64 = 0x534d_5154;
/// How every envelope begins.
pub const MAGIC: [u8; 5] = [0xda, 0x53, 0x4d, 0x51, 0x54];
/// Most messages under one content key: far below what AES-GCM allows for one key (2^32 random, more counted).
pub const MESSAGES_MAX: u64 = 1 << 32;
/// Most bytes that a full envelope adds to a payload.
pub const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES_MAX + 256;

/// The head of an array of two: header and message.
const FULL: u8 = 0x82;

/// Why an envelope was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Does not begin with the tag: plaintext, or something else.
    #[error("not sealed")]
    NotSealed,
    /// Begins like an envelope and is none.
    #[error("the envelope is broken")]
    Malformed,
    /// Decrypts to nothing: altered, for another topic, or under another header.
    #[error("the message was altered or belongs to another topic")]
    Altered,
    /// Its own signature does not fit.
    #[error("the message's signature does not fit")]
    Signature,
    /// The content key has sealed all that it may.
    #[error("the content key is used up")]
    Exhausted,
}

/// Whether a payload claims to be an envelope.
pub fn is_sealed(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The full envelope of `header` and a compact envelope that was parsed before.
pub fn full(header: &[u8], compact: &[u8]) -> Vec<u8> {
    let message = compact.strip_prefix(&MAGIC).unwrap_or(compact);
    [&MAGIC, &[FULL][..], header, message].concat()
}

/// An envelope taken apart, borrowed from the payload. Nothing is verified yet.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The header, if it came along.
    pub header: Option<&'a [u8]>,
    /// The message.
    pub message: Message<'a>,
}

/// The sealed message of an envelope.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    protected: &'a [u8],
    kid: Kid,
    counter: u64,
    signature: Option<&'a [u8; SIGNATURE_BYTES]>,
    ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Takes a payload apart; total on any bytes, and takes only the one encoding.
    ///
    /// # Errors
    /// [`EnvelopeError::NotSealed`] or [`EnvelopeError::Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, EnvelopeError> {
        let body = payload.strip_prefix(&MAGIC).ok_or(EnvelopeError::NotSealed)?;
        let (header, message) = match body.split_first() {
            Some((&FULL, rest)) => {
                let mut d = Decoder::new(rest);
                d.skip().map_err(|_| EnvelopeError::Malformed)?;
                let (header, message) = rest.split_at(d.position());
                if header.len() > HEADER_BYTES_MAX {
                    return Err(EnvelopeError::Malformed);
                }
                (Some(header), message)
            }
            _ => (None, body),
        };
        Ok(Self { header, message: wire::read(message).ok_or(EnvelopeError::Malformed)? })
    }
}

impl Message<'_> {
    /// Which header it belongs to.
    pub fn kid(&self) -> Kid {
        self.kid
    }

    /// Its number under the content key, from 0.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Whether the publisher signed this very message.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Bytes of the sealed payload.
    pub fn payload_bytes(&self) -> usize {
        self.ciphertext.len() - TAG_BYTES
    }

    /// The compact envelope: this message alone.
    pub fn compact(&self) -> Vec<u8> {
        [&MAGIC, self.bytes].concat()
    }

    /// The full envelope: `header` and this message.
    pub fn full(&self, header: &[u8]) -> Vec<u8> {
        [&MAGIC, &[FULL][..], header, self.bytes].concat()
    }

    /// Whether the message's own signature is by `public_key`; `None` where it has none.
    pub fn verify(
        &self,
        public_key: &[u8],
        topic: &str,
        header_hash: &[u8; 32],
        publisher: DeviceId,
    ) -> Option<bool> {
        let signature = self.signature?;
        let bound = wire::bound(header_hash, publisher);
        let signed = wire::to_be_signed(self.protected, topic, &bound, self.ciphertext);
        Some(verify(public_key, &signed, signature))
    }
}

/// Key, context IV and what messages are bound to, for one header.
struct Content {
    key: AeadKey,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
    kid: Kid,
    /// Header hash and publisher, as every message's aad ends.
    bound: [u8; 51],
}

impl Content {
    /// `prk = HKDF-Extract(header hash, secret)`; key and context IV are expanded from it.
    fn derive(secret: &Secret32, header_hash: &[u8; 32], publisher: DeviceId) -> Self {
        let prk = Prk::extract(header_hash, secret.expose());
        let key = Zeroizing::new(prk.expand(&[b"SMQTT-V01 key"]));
        let iv = Zeroizing::new(prk.expand(&[b"SMQTT-V01 iv"]));
        let kid = Kid(header_hash[..KID_BYTES].try_into().expect("16 of 32 bytes"));
        Self { key: AeadKey::new(&key), iv, kid, bound: wire::bound(header_hash, publisher) }
    }

    /// The context IV with the counter, right-aligned, exclusive-ored in (RFC 9052, section 3.1).
    fn nonce(&self, counter: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = *self.iv;
        nonce[4..].iter_mut().zip(counter.to_be_bytes()).for_each(|(n, c)| *n ^= c);
        nonce
    }
}

/// A publisher's content key: seals the messages of the header it made. There is one for each header, so
/// that counters, and with them nonces, never repeat. Wiped when dropped.
pub struct SealingKey {
    content: Content,
    signer: Option<Arc<SigningKey>>,
    sent: AtomicU64,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({}, ..)", self.kid())
    }
}

impl SealingKey {
    pub(crate) fn derive(
        secret: &Secret32,
        header_hash: &[u8; 32],
        publisher: DeviceId,
        signer: Option<Arc<SigningKey>>,
    ) -> Self {
        let content = Content::derive(secret, header_hash, publisher);
        Self { content, signer, sent: AtomicU64::new(0) }
    }

    /// Which header it belongs to.
    pub fn kid(&self) -> Kid {
        self.content.kid
    }

    /// How many messages it has sealed.
    pub fn sealed(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Seals `payload` for `topic` as a compact envelope, signed if the header says that messages are.
    ///
    /// # Errors
    /// [`EnvelopeError::Exhausted`] after [`MESSAGES_MAX`].
    pub fn seal(&self, topic: &str, payload: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let mut out = Vec::new();
        self.seal_into(topic, payload, &mut out)?;
        Ok(out)
    }

    /// As [`SealingKey::seal`], appended to `out`, which stays as it is on an error.
    ///
    /// # Errors
    /// As [`SealingKey::seal`].
    pub fn seal_into(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EnvelopeError> {
        // A nonce must never repeat under one content key: every call takes a number of its own.
        let counter = self.sent.fetch_add(1, Ordering::Relaxed);
        if counter >= MESSAGES_MAX {
            self.sent.store(MESSAGES_MAX, Ordering::Relaxed);
            return Err(EnvelopeError::Exhausted);
        }
        let Content { key, kid, bound, .. } = &self.content;
        let signed_bytes = if self.signer.is_some() { wire::SIGNED_BYTES } else { 0 };
        out.reserve(wire::OVERHEAD_BYTES_MAX + signed_bytes + payload.len());
        let protected = wire::protected(*kid, counter);
        let signature = wire::write_front(out, &protected, self.signer.is_some(), payload.len() + TAG_BYTES);
        let ciphertext = out.len();
        wire::with_enc_structure(&protected, topic, bound, |aad| {
            key.seal_into(self.content.nonce(counter), aad, payload, out);
        });
        if let Some(signer) = &self.signer {
            let signed = wire::to_be_signed(&protected, topic, bound, &out[ciphertext..]);
            out[signature].copy_from_slice(&signer.sign(&signed));
        }
        Ok(())
    }
}

/// A reader's content key: opens the messages of one header, and cannot seal, since its counter would
/// repeat the publisher's nonces. Wiped when dropped.
pub struct OpeningKey(Content);

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpeningKey({}, ..)", self.kid())
    }
}

impl OpeningKey {
    pub(crate) fn derive(secret: &Secret32, header_hash: &[u8; 32], publisher: DeviceId) -> Self {
        Self(Content::derive(secret, header_hash, publisher))
    }

    /// Which header it belongs to.
    pub fn kid(&self) -> Kid {
        self.0.kid
    }

    /// The payload of `message`, sealed for `topic` under this key.
    ///
    /// # Errors
    /// [`EnvelopeError::Altered`] for everything that does not decrypt, whatever the reason.
    pub fn open(&self, topic: &str, message: &Message<'_>) -> Result<Vec<u8>, EnvelopeError> {
        let mut out = Vec::new();
        self.open_into(topic, message, &mut out)?;
        Ok(out)
    }

    /// As [`OpeningKey::open`], appended to `out`, which stays as it is on an error. It then holds plaintext, as
    /// what [`OpeningKey::open`] gives does: to wipe it is up to the caller, who gives it room enough first, since
    /// a buffer that grows leaves its old bytes behind.
    ///
    /// # Errors
    /// As [`OpeningKey::open`].
    pub fn open_into(
        &self,
        topic: &str,
        message: &Message<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EnvelopeError> {
        let Content { key, kid, bound, .. } = &self.0;
        if message.kid != *kid {
            return Err(EnvelopeError::Altered);
        }
        let nonce = self.0.nonce(message.counter);
        wire::with_enc_structure(message.protected, topic, bound, |aad| {
            key.open_into(nonce, aad, message.ciphertext, out)
        })
        .ok_or(EnvelopeError::Altered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::to_vec;

    const SECRET: [u8; 32] = [1; 32];

    fn key() -> SealingKey {
        SealingKey::derive(&Secret32::new(SECRET), &[2; 32], DeviceId([3; 16]), None)
    }

    fn signing_key(signer: &Arc<SigningKey>) -> SealingKey {
        SealingKey::derive(&Secret32::new(SECRET), &[2; 32], DeviceId([3; 16]), Some(signer.clone()))
    }

    fn reader(header_hash: u8, publisher: u8) -> OpeningKey {
        OpeningKey::derive(&Secret32::new(SECRET), &[header_hash; 32], DeviceId([publisher; 16]))
    }

    #[test]
    fn magic_is_the_tag() {
        assert_eq!(to_vec(|e| e.tag(minicbor::data::Tag::new(TAG)).map(drop)), MAGIC);
    }

    #[test]
    fn compact_overhead_is_small() {
        let first = key().seal("t", &[0; 256]).unwrap();
        assert!(first.len() - 256 <= 56, "{} bytes", first.len() - 256);
        let signed = signing_key(&Arc::new(SigningKey::generate())).seal("t", &[0; 256]).unwrap();
        assert!(signed.len() - 256 <= 128, "{} bytes", signed.len() - 256);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (sealed, key) = (key().seal("ward/3", b"38.5").unwrap(), reader(2, 3));
        assert_eq!(key.open("ward/3", &Envelope::parse(&sealed).unwrap().message).unwrap(), b"38.5");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let opened = Envelope::parse(&bad).and_then(|e| key.open("ward/3", &e.message));
            assert!(opened.is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(Envelope::parse(&sealed[..cut]).is_err());
        }
        let longer = [&sealed[..], &[0]].concat();
        assert!(Envelope::parse(&longer).is_err());
    }

    #[test]
    fn a_message_belongs_to_its_topic_header_and_publisher() {
        let sealed = key().seal("ward/3", b"38.5").unwrap();
        let message = Envelope::parse(&sealed).unwrap().message;
        assert_eq!(reader(2, 3).open("ward/4", &message), Err(EnvelopeError::Altered));
        assert_eq!(reader(9, 3).open("ward/3", &message), Err(EnvelopeError::Altered));
        assert_eq!(reader(2, 4).open("ward/3", &message), Err(EnvelopeError::Altered));
    }

    #[test]
    fn counters_never_repeat() {
        let key = key();
        let counters: Vec<u64> = (0..300)
            .map(|_| Envelope::parse(&key.seal("t", b"").unwrap()).unwrap().message.counter())
            .collect();
        assert_eq!(counters, (0..300).collect::<Vec<_>>());
        key.sent.store(MESSAGES_MAX, Ordering::Relaxed);
        assert_eq!(key.seal("t", b""), Err(EnvelopeError::Exhausted));
    }

    /// Partial IVs as coset writes and reads them, at every counter at which they grow.
    #[test]
    fn counters_are_sealed_in_the_fewest_bytes() {
        use coset::CborSerializable;
        let (key, reader) = (key(), reader(2, 3));
        for last in [0, 0xff, 0xffff, 0xff_ffff] {
            key.sent.store(last, Ordering::Relaxed);
            for counter in [last, last + 1] {
                let sealed = key.seal("t", b"38.5").unwrap();
                let cose = coset::CoseEncrypt0::from_slice(&sealed[MAGIC.len()..]).unwrap();
                let protected = coset::HeaderBuilder::new()
                    .algorithm(coset::iana::Algorithm::A256GCM)
                    .key_id(vec![2; 16])
                    .partial_iv(counter.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect());
                let protected = match counter {
                    0 => protected.partial_iv(vec![0]),
                    _ => protected,
                };
                assert_eq!(cose.protected.header, protected.build());
                let message = Envelope::parse(&sealed).unwrap().message;
                assert_eq!(message.counter(), counter);
                assert_eq!(reader.open("t", &message).unwrap(), b"38.5");
            }
        }
        key.sent.store(MESSAGES_MAX - 1, Ordering::Relaxed);
        let sealed = key.seal("t", b"38.5").unwrap();
        assert_eq!(Envelope::parse(&sealed).unwrap().message.counter(), MESSAGES_MAX - 1);
        assert_eq!(key.seal("t", b"38.5"), Err(EnvelopeError::Exhausted));
    }

    #[test]
    fn what_is_in_the_buffer_stays() {
        for key in [key(), signing_key(&Arc::new(SigningKey::generate()))] {
            let mut sealed = b"before".to_vec();
            key.seal_into("t", b"38.5", &mut sealed).unwrap();
            let message = Envelope::parse(sealed.strip_prefix(b"before").unwrap()).unwrap().message;
            let mut opened = b"before".to_vec();
            assert_eq!(reader(2, 3).open_into("u", &message, &mut opened), Err(EnvelopeError::Altered));
            assert_eq!(reader(9, 3).open_into("t", &message, &mut opened), Err(EnvelopeError::Altered));
            assert_eq!(opened, b"before");
            reader(2, 3).open_into("t", &message, &mut opened).unwrap();
            assert_eq!(opened, b"before38.5");
            key.sent.store(MESSAGES_MAX, Ordering::Relaxed);
            assert_eq!(key.seal_into("t", b"", &mut opened), Err(EnvelopeError::Exhausted));
            assert_eq!(opened, b"before38.5");
        }
    }

    #[test]
    fn message_signatures_hold_and_break() {
        let signer = Arc::new(SigningKey::generate());
        let sealed = signing_key(&signer).seal("t", b"38.5").unwrap();
        let message = Envelope::parse(&sealed).unwrap().message;
        let check =
            |by: &SigningKey, topic| message.verify(by.public_key(), topic, &[2; 32], DeviceId([3; 16]));
        assert_eq!(check(&signer, "t"), Some(true));
        assert_eq!(check(&signer, "u"), Some(false));
        assert_eq!(check(&SigningKey::generate(), "t"), Some(false));
        let unsigned = key().seal("t", b"38.5").unwrap();
        assert!(!Envelope::parse(&unsigned).unwrap().message.is_signed());
    }

    #[test]
    fn plaintext_is_not_an_envelope() {
        assert_eq!(Envelope::parse(b"{\"t\": 21.5}").unwrap_err(), EnvelopeError::NotSealed);
        assert_eq!(Envelope::parse(&MAGIC).unwrap_err(), EnvelopeError::Malformed);
    }
}
