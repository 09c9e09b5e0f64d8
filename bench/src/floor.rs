//! The floor: what no pairing-based scheme goes below, measured beside what is held against it.
//!
//! k single Miller loops and one final exponentiation of the same library in the same thread: what it takes to
//! pair k times and compare, with no group operation, hash or check at all. k is 3 for ciphertext-policy FABEO
//! and 2 for key-policy FABEO.

use std::hint::black_box;

use blst::{blst_fp12, blst_p1_affine, blst_p2_affine, min_pk, min_sig};

/// Points to pair.
pub struct Floor {
    g1: [blst_p1_affine; 3],
    g2: [blst_p2_affine; 3],
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}

impl Floor {
    /// Three pairs of points.
    pub fn new() -> Self {
        let seeds = [[1u8; 32], [2; 32], [3; 32]];
        // Public keys are the points that the safe part of the library makes, in G1 and in G2.
        let g1 = seeds.map(|seed| {
            min_pk::SecretKey::key_gen(&seed, b"").expect("the seed is long enough").sk_to_pk().into()
        });
        let g2 = seeds.map(|seed| {
            min_sig::SecretKey::key_gen(&seed, b"").expect("the seed is long enough").sk_to_pk().into()
        });
        Self { g1, g2 }
    }

    /// `pairings` single Miller loops, at most three, and one final exponentiation.
    pub fn single(&self, pairings: usize) -> blst_fp12 {
        let pairs = self.g2.iter().zip(&self.g1).take(pairings);
        let mut last = blst_fp12::default();
        for (q, p) in pairs {
            last = black_box(blst_fp12::miller_loop(black_box(q), black_box(p)));
        }
        last.final_exp()
    }

    /// The tighter floor: the Miller loops share their squarings.
    pub fn joint(&self, pairings: usize) -> blst_fp12 {
        let count = pairings.clamp(1, self.g1.len());
        blst_fp12::miller_loop_n(black_box(&self.g2[..count]), black_box(&self.g1[..count])).final_exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_loops_give_the_product_of_single_ones() {
        let floor = Floor::new();
        let mut product = blst_fp12::miller_loop(&floor.g2[0], &floor.g1[0]);
        for i in 1..3 {
            product *= blst_fp12::miller_loop(&floor.g2[i], &floor.g1[i]);
        }
        assert_eq!(floor.joint(3), product.final_exp());
        assert_eq!(floor.single(1), floor.joint(1));
        assert_ne!(floor.single(1), blst_fp12::default(), "points at infinity would pair for nothing");
    }
}
