//! The symmetric and signature primitives, all from one provider, behind this file alone.
//!
//! AES-256-GCM was picked by measurement against the `aes-gcm` crate: ARCHITECTURE.md has the figures, and the
//! command that measures them again. So there is one provider and no trait between it and us.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use aws_lc_rs::{digest, hkdf, rand};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes that AES-256-GCM adds to what it seals.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce of AES-256-GCM.
pub const NONCE_BYTES: usize = 12;
/// Bytes of an ECDSA P-256 signature, `r || s`.
pub const SIGNATURE_BYTES: usize = 64;

/// 32 secret bytes: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret32([u8; 32]);

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret32(..)")
    }
}

impl Secret32 {
    /// Takes over `bytes`.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Fresh from the operating system.
    pub fn random() -> Self {
        Self(random())
    }

    /// The bytes themselves. Whoever takes them keeps them secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// `N` random bytes from the operating system.
///
/// # Panics
/// If the operating system has no randomness to give, since nothing safe can follow.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::fill(&mut out).expect("the operating system gives random bytes");
    out
}

/// SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Equality of byte strings in time that depends on their length alone.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// A pseudorandom key of HKDF-SHA-256 (RFC 5869).
pub struct Prk(hkdf::Prk);

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Prk {
    /// `HKDF-Extract(salt, secret)`
    pub fn extract(salt: &[u8], secret: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret))
    }

    /// `HKDF-Expand(self, concatenation of info, N)`; N at most 8,160.
    pub fn expand<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        self.0
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(&mut out))
            .expect("callers ask for less than 255 hashes");
        out
    }
}

/// An AES-256-GCM key.
pub struct AeadKey(LessSafeKey);

impl AeadKey {
    /// The key from its 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, key).expect("the key has the length of the cipher");
        Self(LessSafeKey::new(unbound))
    }

    /// Seals `out[from..]` in place and appends the tag.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], out: &mut Vec<u8>, from: usize) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[from..])
            .expect("payloads are far below 64 GiB");
        out.extend_from_slice(tag.as_ref());
    }

    /// Seals `plain` and appends ciphertext and tag to `out`, which never holds a byte of `plain`.
    pub fn seal_into(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        out.resize(from + plain.len() + TAG_BYTES, 0);
        let (ciphertext, tag) = out[from..].split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, ciphertext, &[], tag)
            .expect("payloads are far below 64 GiB");
    }

    /// The plaintext of `sealed` (ciphertext and tag), or `None` where anything was altered.
    pub fn open(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.open_into(nonce, aad, sealed, &mut out)?;
        Some(out)
    }

    /// As [`AeadKey::open`], appended to `out`, which stays as it is where anything was altered.
    pub fn open_into(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        let from = out.len();
        out.resize(from + ciphertext.len(), 0);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, &mut out[from..]);
        if opened.is_err() {
            // Nobody is to find in spare capacity what an altered message decrypts to.
            out[from..].zeroize();
            out.truncate(from);
        }
        opened.ok()
    }
}

/// An ECDSA P-256 key that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// A fresh key.
    pub fn generate() -> Self {
        let pkcs8 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .expect("the operating system gives random bytes");
        Self::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made")
    }

    /// A key from PKCS #8; `None` where it is no P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()?;
        Some(Self { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// The key as PKCS #8 DER. Whoever takes it keeps it secret.
    pub fn expose_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public point, uncompressed, 65 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// `r || s` over the SHA-256 of `message`, `s` in the lower half of the order.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self
            .pair
            .sign(&rand::SystemRandom::new(), message)
            .expect("the operating system gives random bytes");
        let mut signature: [u8; SIGNATURE_BYTES] =
            signature.as_ref().try_into().expect("fixed-length ECDSA gives 64 bytes");
        lower_s(&mut signature);
        signature
    }
}

/// The order of P-256, big-endian (FIPS 186-4, D.1.2.3), and half of it, rounded down.
const P256_ORDER: [u64; 4] =
    [0xffff_ffff_0000_0000, 0xffff_ffff_ffff_ffff, 0xbce6_faad_a717_9e84, 0xf3b9_cac2_fc63_2551];
const P256_HALF: [u64; 4] =
    [0x7fff_ffff_8000_0000, 0x7fff_ffff_ffff_ffff, 0xde73_7d56_d38b_cf42, 0x79dc_e561_7e31_92a8];

/// The big-endian words of `s`.
fn s_of(signature: &[u8; SIGNATURE_BYTES]) -> [u64; 4] {
    let (words, _) = signature[32..].as_chunks::<8>();
    [0, 1, 2, 3].map(|i| u64::from_be_bytes(words[i]))
}

/// Of the two signatures `(r, s)` and `(r, -s)`, both valid, the one with the smaller `s`.
fn lower_s(signature: &mut [u8; SIGNATURE_BYTES]) {
    let s = s_of(signature);
    if s <= P256_HALF {
        return;
    }
    let mut borrow = false;
    for i in (0..4).rev() {
        let (difference, first) = P256_ORDER[i].overflowing_sub(s[i]);
        let (difference, second) = difference.overflowing_sub(u64::from(borrow));
        borrow = first || second;
        signature[32 + 8 * i..40 + 8 * i].copy_from_slice(&difference.to_be_bytes());
    }
}

/// Whether `signature` (`r || s`) over `message` is by the P-256 key `public_key` (uncompressed point), with
/// `s` in the lower half of the order: otherwise anybody could turn one signature into another.
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(fixed) = <&[u8; SIGNATURE_BYTES]>::try_from(signature) else { return false };
    if s_of(fixed) > P256_HALF {
        return false;
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_have_one_form() {
        let key = SigningKey::generate();
        for i in 0..16u8 {
            let signature = key.sign(&[i]);
            assert!(s_of(&signature) <= P256_HALF);
            assert!(verify(key.public_key(), &[i], &signature));
            let mut twin = signature;
            let s = s_of(&signature);
            let mut borrow = false;
            for w in (0..4).rev() {
                let (difference, first) = P256_ORDER[w].overflowing_sub(s[w]);
                let (difference, second) = difference.overflowing_sub(u64::from(borrow));
                borrow = first || second;
                twin[32 + 8 * w..40 + 8 * w].copy_from_slice(&difference.to_be_bytes());
            }
            let library = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key());
            assert!(library.verify(&[i], &twin).is_ok(), "the other signature is as good to the library");
            assert!(!verify(key.public_key(), &[i], &twin), "but not to us");
        }
        assert!(!verify(key.public_key(), b"", &[0; 63]));
    }
}
