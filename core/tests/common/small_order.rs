//! Points of the curves outside the groups, of small order, and what else no decoder may take.

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective};

use super::unhex;

/// The cofactor of G1 without its powers of 3, of 11, of 10177, and that of G2 without its powers of 13 and
/// of 23: times the order and this, a point is left with an order that divides such a power.
const WITHOUT: [(u64, &str); 3] = [
    (3, "13242eaac71ca0722eaae38e55558e39"),
    (11, "797dfbc5773068627ab75c63702343"),
    (10_177, "094d4c6a74630149c028dca02b"),
];
const G2_WITHOUT: [(u64, &str); 2] = [
    (
        13,
        "08d5fc7522f6c4d5a3c5663541d68b60a5f9bdc250555d81be2a9b0c6483045a5b213dcb71085945e0aef29c5e8629edf4046db800a8373336b3150941cfdd",
    ),
    (
        23,
        "02d2a367b86ae74a8af1a258a2d34cf3528b4f0309b1c647efceb33a28d243b0771fe9a3b739d5ddb42e36473f96c739a13152f610a9e2359fc03a804bb595",
    ),
];
/// The order of the groups.
const ORDER: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";

/// `factor point` on the whole curve, where scalars modulo the order of the group would not do.
fn times<P: Copy + std::ops::AddAssign>(point: P, zero: P, factor: &[u8]) -> P {
    let mut out = zero;
    for bit in factor.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        let copy = out;
        out += copy;
        if bit == 1 {
            out += point;
        }
    }
    out
}

/// A point of the small prime order `prime`, made of a point of the curve by clearing everything else.
fn of_order<P: Copy + std::ops::AddAssign + PartialEq>(
    point: P,
    zero: P,
    prime: u64,
    without: &str,
) -> Option<P> {
    let cleared = times(times(point, zero, &unhex(ORDER)), zero, &unhex(without));
    let next = times(cleared, zero, &prime.to_be_bytes());
    let found = if next == zero { cleared } else { next };
    (found != zero).then(|| {
        assert!(times(found, zero, &prime.to_be_bytes()) == zero, "of order {prime}");
        found
    })
}

/// Points of order 3, 11 and 10177 on the curve of G1.
pub fn small_g1() -> Vec<G1Projective> {
    let zero = G1Projective::identity();
    WITHOUT
        .iter()
        .map(|(prime, without)| {
            let on_curve = (1u8..).filter_map(|x| {
                let mut bytes = [0; 48];
                (bytes[0], bytes[47]) = (0x80, x);
                Option::from(G1Affine::from_compressed_unchecked(&bytes).map(G1Projective::from))
            });
            on_curve.filter_map(|p| of_order(p, zero, *prime, without)).next().unwrap()
        })
        .collect()
}

/// Points of order 13 and 23 on the curve of G2.
pub fn small_g2() -> Vec<G2Projective> {
    let zero = G2Projective::identity();
    G2_WITHOUT
        .iter()
        .map(|(prime, without)| {
            let on_curve = (1u8..).filter_map(|x| {
                let mut bytes = [0; 96];
                (bytes[0], bytes[95]) = (0x80, x);
                Option::from(G2Affine::from_compressed_unchecked(&bytes).map(G2Projective::from))
            });
            on_curve.filter_map(|p| of_order(p, zero, *prime, without)).next().unwrap()
        })
        .collect()
}

/// p - 1 in the first coordinate.
pub fn minus_one_in_gt() -> Vec<u8> {
    let p =
        "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";
    let mut out = unhex(p);
    out[47] -= 1;
    out.resize(576, 0);
    out
}
