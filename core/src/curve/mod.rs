//! BLS12-381 as the suites need it: the one place of the workspace that calls C.
//!
//! Every function is total. Points that come from outside are decoded compressed, canonical, on the
//! curve and never the identity; whether the subgroup is checked is said at each decoder. Scalars
//! that are secret go through constant-time multiplication, and are wiped when dropped.
//!
//! Encodings are those of the IETF pairing-friendly-curves draft: 48 bytes for G1, 96 for G2, flags
//! in the top three bits, big-endian.
#![allow(unsafe_code)]

mod elements;
mod gt;
mod table;

use blst::*;
use zeroize::Zeroize;

pub use self::elements::Elements;
pub use self::gt::{Gt, GtBase, LINES_BYTES, Second};
pub use self::table::{Base, TABLE_BYTES, products, secret_g2};

/// Bytes of a compressed point of G1.
pub const G1_BYTES: usize = 48;
/// Bytes of a compressed point of G2.
pub const G2_BYTES: usize = 96;
/// Bytes that are reduced to one scalar; 2^-129 from uniform.
pub const SCALAR_WIDE_BYTES: usize = 48;

/// Bits of the group order.
const ORDER_BITS: usize = 255;

/// An integer modulo the group order. Wiped when dropped.
#[derive(Clone)]
pub struct Scalar(blst_fr);

impl Drop for Scalar {
    fn drop(&mut self) {
        self.0.l.zeroize();
    }
}

impl Scalar {
    /// The scalar 0.
    pub fn zero() -> Self {
        Self(blst_fr::default())
    }

    /// The scalar `n`.
    pub fn from_u64(n: u64) -> Self {
        let mut out = blst_fr::default();
        let limbs = [n, 0, 0, 0];
        // SAFETY: `limbs` has the four words that the function reads.
        unsafe { blst_fr_from_uint64(&mut out, limbs.as_ptr()) };
        Self(out)
    }

    /// 48 big-endian bytes reduced modulo the group order.
    pub fn from_wide(bytes: &[u8; SCALAR_WIDE_BYTES]) -> Self {
        let (mut raw, mut out) = (blst_scalar::default(), blst_fr::default());
        // SAFETY: the length passed is that of `bytes`; the scalar is reduced, so `fr` takes it.
        unsafe {
            blst_scalar_from_be_bytes(&mut raw, bytes.as_ptr(), bytes.len());
            blst_fr_from_scalar(&mut out, &raw);
        }
        raw.b.zeroize();
        Self(out)
    }

    /// 32 big-endian bytes below the group order; `None` for any other.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let (mut raw, mut out) = (blst_scalar::default(), blst_fr::default());
        // SAFETY: `bytes` has the 32 bytes that the function reads.
        let valid = unsafe {
            blst_scalar_from_bendian(&mut raw, bytes.as_ptr());
            blst_scalar_fr_check(&raw)
        };
        if valid {
            // SAFETY: plain values, and the scalar was just checked to be below the order.
            unsafe { blst_fr_from_scalar(&mut out, &raw) };
        }
        raw.b.zeroize();
        valid.then_some(Self(out))
    }

    /// 32 big-endian bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut bytes = self.to_le_bytes();
        bytes.reverse();
        bytes
    }

    fn to_le_bytes(&self) -> [u8; 32] {
        let mut raw = blst_scalar::default();
        // SAFETY: plain values.
        unsafe { blst_scalar_from_fr(&mut raw, &self.0) };
        let bytes = raw.b;
        raw.b.zeroize();
        bytes
    }

    /// `self + other`
    pub fn add(&self, other: &Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: plain values.
        unsafe { blst_fr_add(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self - other`
    pub fn sub(&self, other: &Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: plain values.
        unsafe { blst_fr_sub(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self * other`
    pub fn mul(&self, other: &Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: plain values.
        unsafe { blst_fr_mul(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `1 / self`, and 0 for 0. Not constant-time: for public values.
    pub fn invert(&self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: plain values.
        unsafe { blst_fr_eucl_inverse(&mut out, &self.0) };
        Self(out)
    }

    /// Whether this is 1. For public values.
    pub fn is_one(&self) -> bool {
        self.0 == Self::from_u64(1).0
    }
}

/// A point of the first group (or, if decoded unchecked, of its curve).
#[derive(Clone, Copy)]
pub struct G1(blst_p1);

/// A point of the second group (or, if decoded unchecked, of its curve).
#[derive(Clone, Copy)]
pub struct G2(blst_p2);

/// The same in affine coordinates, as it is decoded, kept and paired. Never the identity.
#[derive(Clone, Copy)]
pub struct G1Affine(blst_p1_affine);

/// The same in affine coordinates, as it is decoded, kept and paired. Never the identity.
#[derive(Clone, Copy)]
pub struct G2Affine(blst_p2_affine);

impl Zeroize for G1Affine {
    fn zeroize(&mut self) {
        self.0.x.l.zeroize();
        self.0.y.l.zeroize();
    }
}

impl Zeroize for G2Affine {
    fn zeroize(&mut self) {
        self.0.x.fp.iter_mut().chain(&mut self.0.y.fp).for_each(|fp| fp.l.zeroize());
    }
}

impl G1 {
    /// The generator of the standard.
    pub fn generator() -> Self {
        // SAFETY: the function returns a pointer to a constant.
        Self(unsafe { *blst_p1_generator() })
    }

    /// The identity.
    pub fn identity() -> Self {
        Self(blst_p1::default())
    }

    /// `BLS12381G1_XMD:SHA-256_SSWU_RO_` of RFC 9380 with the domain separation tag `tag`.
    pub fn hash(message: &[u8], tag: &[u8]) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: every pointer goes with its length; no augmentation.
        unsafe {
            blst_hash_to_g1(
                &mut out,
                message.as_ptr(),
                message.len(),
                tag.as_ptr(),
                tag.len(),
                std::ptr::null(),
                0,
            )
        };
        Self(out)
    }

    /// `scalar * self`, constant-time in the scalar.
    pub fn mul(&self, scalar: &Scalar) -> Self {
        let mut out = blst_p1::default();
        let mut bytes = scalar.to_le_bytes();
        // SAFETY: `bytes` has 32 bytes, more than ORDER_BITS.
        unsafe { blst_p1_mult(&mut out, &self.0, bytes.as_ptr(), ORDER_BITS) };
        bytes.zeroize();
        Self(out)
    }

    /// `2 self`
    fn double(&self) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: plain values.
        unsafe { blst_p1_double(&mut out, &self.0) };
        Self(out)
    }

    /// `self + other`
    pub fn add(&self, other: &Self) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: plain values; the function handles equal points and the identity.
        unsafe { blst_p1_add_or_double(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `-self`
    pub fn neg(&self) -> Self {
        let mut out = *self;
        // SAFETY: plain value.
        unsafe { blst_p1_cneg(&mut out.0, true) };
        out
    }

    /// The point in affine coordinates; `None` for the identity.
    pub fn to_affine(self) -> Option<G1Affine> {
        let mut out = blst_p1_affine::default();
        // SAFETY: plain values.
        unsafe {
            blst_p1_to_affine(&mut out, &self.0);
            (!blst_p1_affine_is_inf(&out)).then_some(G1Affine(out))
        }
    }

    /// `self + other`
    pub fn add_affine(&self, other: &G1Affine) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: plain values; the function handles equal points and the identity.
        unsafe { blst_p1_add_or_double_affine(&mut out, &self.0, &other.0) };
        Self(out)
    }
}

impl G1Affine {
    /// A compressed point on the curve, canonical, not the identity, **of any order**: only where
    /// what comes of it is compared with a recomputation.
    pub fn from_bytes_any_order(bytes: &[u8; G1_BYTES]) -> Option<Self> {
        let mut out = blst_p1_affine::default();
        // SAFETY: `bytes` has the 48 bytes that the function reads; the rest are plain values.
        unsafe {
            let sound = blst_p1_uncompress(&mut out, bytes.as_ptr()) == BLST_ERROR::BLST_SUCCESS;
            (sound && !blst_p1_affine_is_inf(&out)).then_some(Self(out))
        }
    }

    /// A compressed point of the group, canonical, not the identity.
    pub fn from_bytes(bytes: &[u8; G1_BYTES]) -> Option<Self> {
        let point = Self::from_bytes_any_order(bytes)?;
        // SAFETY: plain value, on the curve.
        unsafe { blst_p1_affine_in_g1(&point.0) }.then_some(point)
    }

    /// 48 bytes, compressed.
    pub fn to_bytes(self) -> [u8; G1_BYTES] {
        let mut out = [0; G1_BYTES];
        // SAFETY: `out` has the 48 bytes that the function writes.
        unsafe { blst_p1_affine_compress(out.as_mut_ptr(), &self.0) };
        out
    }
}

impl From<G2Affine> for G2 {
    fn from(point: G2Affine) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: plain values.
        unsafe { blst_p2_from_affine(&mut out, &point.0) };
        Self(out)
    }
}

impl From<G1Affine> for G1 {
    fn from(point: G1Affine) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: plain values.
        unsafe { blst_p1_from_affine(&mut out, &point.0) };
        Self(out)
    }
}

impl G2 {
    /// The generator of the standard.
    pub fn generator() -> Self {
        // SAFETY: the function returns a pointer to a constant.
        Self(unsafe { *blst_p2_generator() })
    }

    /// `scalar * self`, constant-time in the scalar.
    pub fn mul(&self, scalar: &Scalar) -> Self {
        let mut out = blst_p2::default();
        let mut bytes = scalar.to_le_bytes();
        // SAFETY: `bytes` has 32 bytes, more than ORDER_BITS.
        unsafe { blst_p2_mult(&mut out, &self.0, bytes.as_ptr(), ORDER_BITS) };
        bytes.zeroize();
        Self(out)
    }

    /// `2 self`
    fn double(&self) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: plain values.
        unsafe { blst_p2_double(&mut out, &self.0) };
        Self(out)
    }

    /// `self + other`
    fn add(&self, other: &Self) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: plain values; the function handles equal points and the identity.
        unsafe { blst_p2_add_or_double(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self + other`
    fn add_affine(&self, other: &G2Affine) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: plain values; the function handles equal points and the identity.
        unsafe { blst_p2_add_or_double_affine(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// The point in affine coordinates; `None` for the identity.
    pub fn to_affine(self) -> Option<G2Affine> {
        let mut out = blst_p2_affine::default();
        // SAFETY: plain values.
        unsafe {
            blst_p2_to_affine(&mut out, &self.0);
            (!blst_p2_affine_is_inf(&out)).then_some(G2Affine(out))
        }
    }
}

impl G2Affine {
    /// A compressed point on the curve, canonical, not the identity, **of any order**: only where
    /// what comes of it is compared with a recomputation.
    pub fn from_bytes_any_order(bytes: &[u8; G2_BYTES]) -> Option<Self> {
        let mut out = blst_p2_affine::default();
        // SAFETY: `bytes` has the 96 bytes that the function reads; the rest are plain values.
        unsafe {
            let sound = blst_p2_uncompress(&mut out, bytes.as_ptr()) == BLST_ERROR::BLST_SUCCESS;
            (sound && !blst_p2_affine_is_inf(&out)).then_some(Self(out))
        }
    }

    /// A compressed point of the group, canonical, not the identity.
    pub fn from_bytes(bytes: &[u8; G2_BYTES]) -> Option<Self> {
        let point = Self::from_bytes_any_order(bytes)?;
        // SAFETY: plain value, on the curve.
        unsafe { blst_p2_affine_in_g2(&point.0) }.then_some(point)
    }

    /// 96 bytes, compressed.
    pub fn to_bytes(self) -> [u8; G2_BYTES] {
        let mut out = [0; G2_BYTES];
        // SAFETY: `out` has the 96 bytes that the function writes.
        unsafe { blst_p2_affine_compress(out.as_mut_ptr(), &self.0) };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_rfc_9380() {
        // Appendix J.9.1, the message "abc".
        let tag = b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_";
        let point = G1::hash(b"abc", tag).to_affine().unwrap().to_bytes();
        let x = "03567bc5ef9c690c2ab2ecdf6a96ef1c139cc0b2f284dca0a9a7943388a49a3aee664ba5379a7655d3c68900be2f6903";
        let mut hex: String = point.iter().map(|b| format!("{b:02x}")).collect();
        hex.replace_range(0..1, "0"); // the three flag bits share the first digit
        assert_eq!(hex, x);
        assert!(G1Affine::from_bytes(&point).is_some());
    }

    #[test]
    fn decoders_refuse_what_is_no_point() {
        assert!(G1Affine::from_bytes(&[0; 48]).is_none(), "not marked as compressed");
        let mut infinity = [0; 48];
        infinity[0] = 0xc0;
        assert!(G1Affine::from_bytes_any_order(&infinity).is_none(), "the identity");
        let mut infinity = [0; 96];
        infinity[0] = 0xc0;
        assert!(G2Affine::from_bytes_any_order(&infinity).is_none(), "the identity");
        assert!(G1Affine::from_bytes(&[0xff; 48]).is_none(), "coordinate above the modulus");
        let mut off = G1::generator().to_affine().unwrap().to_bytes();
        let refused = (0..=255u8).filter(|b| {
            off[47] = *b;
            G1Affine::from_bytes(&off).is_none()
        });
        assert_eq!(refused.count(), 255, "only the generator itself is in the group");
    }

    #[test]
    fn a_point_of_order_three_is_refused() {
        // (0, 2), on the curve.
        let mut bytes = [0; 48];
        bytes[0] = 0x80;
        assert!(G1Affine::from_bytes(&bytes).is_none());
    }

    #[test]
    fn scalars_reduce_and_refuse() {
        let wide = Scalar::from_wide(&[0xff; 48]);
        assert_eq!(Scalar::from_bytes(&wide.to_bytes()).unwrap().to_bytes(), wide.to_bytes());
        assert!(Scalar::from_bytes(&[0xff; 32]).is_none());
        let seven = Scalar::from_u64(7);
        assert!(seven.mul(&seven.invert()).is_one());
        assert_eq!(seven.sub(&seven).to_bytes(), Scalar::zero().to_bytes());
    }
}
