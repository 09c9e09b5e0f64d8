//! COSE_Sign1 (RFC 9052, section 4.2) in the one form that headers and bundles use.
//!
//! ```text
//! [ << {1: -7, 33: certificate} >>, {}, payload, signature ]
//! ```
//! ES256 over `["Signature1", protected, external_aad, payload]`; x5chain (RFC 9360) holds the leaf.
//! Deterministic encoding only: other spellings of the same data are refused.

use minicbor::{Decoder, Encoder};

use crate::cbor::to_vec;
use crate::crypto::{SIGNATURE_BYTES, SigningKey, verify};

const ALGORITHM: i8 = 1;
const ES256: i8 = -7;
const X5CHAIN: i8 = 33;

/// A signed structure, borrowed from its bytes; the signature is **not** checked yet.
pub(crate) struct Sign1<'a> {
    pub certificate: &'a [u8],
    pub payload: &'a [u8],
    protected: &'a [u8],
    signature: [u8; SIGNATURE_BYTES],
}

/// Signs `payload`; `aad` separates uses.
pub(crate) fn sign1(key: &SigningKey, certificate: &[u8], aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let protected = protected(certificate);
    let signature = key.sign(&to_be_signed(&protected, aad, payload));
    encode(&protected, payload, &signature)
}

impl<'a> Sign1<'a> {
    /// `None` for anything that `sign1` does not write.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let sign1 = Self::fields(bytes).ok().flatten()?;
        let again = protected(sign1.certificate);
        let canonical =
            again == sign1.protected && encode(sign1.protected, sign1.payload, &sign1.signature) == bytes;
        canonical.then_some(sign1)
    }

    fn fields(bytes: &'a [u8]) -> Result<Option<Self>, minicbor::decode::Error> {
        let mut d = Decoder::new(bytes);
        if d.array()? != Some(4) {
            return Ok(None);
        }
        let protected = d.bytes()?;
        if d.map()? != Some(0) {
            return Ok(None);
        }
        let payload = d.bytes()?;
        let Ok(signature) = d.bytes()?.try_into() else { return Ok(None) };
        let mut d = Decoder::new(protected);
        if (d.map()?, d.i8()?, d.i8()?, d.i8()?) != (Some(2), ALGORITHM, ES256, X5CHAIN) {
            return Ok(None);
        }
        Ok(Some(Self { certificate: d.bytes()?, payload, protected, signature }))
    }

    /// Whether the signature is by `public_key` (uncompressed P-256 point) under the same `aad`.
    pub fn verify(&self, public_key: &[u8], aad: &[u8]) -> bool {
        verify(public_key, &to_be_signed(self.protected, aad, self.payload), &self.signature)
    }
}

fn protected(certificate: &[u8]) -> Vec<u8> {
    to_vec(|e| e.map(2)?.i8(ALGORITHM)?.i8(ES256)?.i8(X5CHAIN)?.bytes(certificate).map(drop))
}

fn to_be_signed(protected: &[u8], aad: &[u8], payload: &[u8]) -> Vec<u8> {
    to_vec(|e| e.array(4)?.str("Signature1")?.bytes(protected)?.bytes(aad)?.bytes(payload).map(drop))
}

fn encode(protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    to_vec(|e: &mut Encoder<Vec<u8>>| {
        e.array(4)?.bytes(protected)?.map(0)?.bytes(payload)?.bytes(signature).map(drop)
    })
}
