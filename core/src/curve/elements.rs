//! The points of a user secret key, decoded once.

use std::sync::OnceLock;

use zeroize::{Zeroize, Zeroizing};

use super::gt::{Lines, Second};
use super::{G1_BYTES, G1Affine, G2_BYTES, G2Affine};
use crate::tables::{Profile, profile};

/// The points of a user secret key. Wiped when dropped.
pub struct Elements {
    /// Those of G2.
    pub g2: Vec<G2Affine>,
    /// Those of G1.
    pub g1: Vec<G1Affine>,
    /// What pairing with those of G2 needs of them, made when first used.
    lines: OnceLock<Vec<Lines>>,
}

impl Drop for Elements {
    fn drop(&mut self) {
        self.g2.iter_mut().for_each(Zeroize::zeroize);
        self.g1.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl Elements {
    /// These points.
    pub fn new(g2: Vec<G2Affine>, g1: Vec<G1Affine>) -> Self {
        Self { g2, g1, lines: OnceLock::new() }
    }

    /// Each point of G2, to be paired: by its lines, which are kept from the first time on, where there is memory.
    pub fn seconds(&self) -> impl Iterator<Item = Second<'_>> {
        let lines = (profile() == Profile::Standard)
            .then(|| self.lines.get_or_init(|| self.g2.iter().map(Lines::of).collect()));
        let second = move |(i, point)| lines.map_or(Second::Point(point), |lines| Second::Lines(&lines[i]));
        self.g2.iter().enumerate().map(second)
    }

    /// The points of G2, then those of G1, compressed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let room = G2_BYTES * self.g2.len() + G1_BYTES * self.g1.len();
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        self.g2.iter().for_each(|p| out.extend_from_slice(&p.to_bytes()));
        self.g1.iter().for_each(|p| out.extend_from_slice(&p.to_bytes()));
        out
    }

    /// As many points as said, each of its group; `None` for anything else.
    pub fn from_bytes(bytes: &[u8], g2: usize, g1: usize) -> Option<Self> {
        if bytes.len() != g2.checked_mul(G2_BYTES)?.checked_add(g1.checked_mul(G1_BYTES)?)? {
            return None;
        }
        let (of_g2, of_g1) = bytes.split_at(g2 * G2_BYTES);
        let mut out = Self::new(Vec::with_capacity(g2), Vec::with_capacity(g1));
        for point in of_g2.as_chunks().0 {
            out.g2.push(G2Affine::from_bytes(point)?);
        }
        for point in of_g1.as_chunks().0 {
            out.g1.push(G1Affine::from_bytes(point)?);
        }
        Some(out)
    }
}
