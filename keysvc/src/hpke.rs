//! Sealing to a device's HPKE key (RFC 9180: DHKEM P-256, HKDF-SHA-256, AES-256-GCM, base mode).

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};

use crate::pki::Point;

/// A public key to seal to; the point was checked.
#[derive(Clone)]
pub(crate) struct SealTo(HpkePublicKey);

impl SealTo {
    /// Checks that `bytes` are an uncompressed point of P-256.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let point: Point = bytes.try_into().ok()?;
        let key = HpkePublicKey(point.to_vec());
        SUITE.setup_sealer(b"", &key).ok()?;
        Some(Self(key))
    }

    /// A key that was checked when it was taken, as the store has it. To check it again takes as long as to seal.
    pub(crate) fn stored(bytes: &[u8]) -> Self {
        Self(HpkePublicKey(bytes.to_vec()))
    }

    /// The encapsulated key and the ciphertext.
    pub(crate) fn seal(&self, info: &[u8], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.try_seal(info, aad, plaintext).expect("the key was checked when it was taken")
    }

    /// The same; `None` if a stored key turns out to be none.
    pub(crate) fn try_seal(&self, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (enc, ciphertext) = SUITE.seal(info, aad, plaintext, &self.0).ok()?;
        Some((enc.0, ciphertext))
    }

    /// The point.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_on_the_curve_are_taken() {
        let (public, _) = SUITE.generate_key_pair().unwrap();
        assert!(SealTo::new(&public.0).is_some());
        let mut off = public.0.clone();
        off[64] ^= 1;
        let mut compressed = public.0[..33].to_vec();
        compressed[0] = 2;
        for bad in [&off[..], &compressed, &[], &[0; 65], &[4; 65], &public.0[..64]] {
            assert!(SealTo::new(bad).is_none());
        }
    }
}
