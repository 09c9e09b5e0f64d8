//! Reproducible randomness, and policies and sets of attributes made of it.

use smqtt_core::attribute::{Attribute, Attributes};
use smqtt_core::formula::Formula;
use smqtt_core::policy::{Leaf, Policy, PolicyError};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().expect("as many as asked for")
    }

    /// Few attributes, so that policies name them again and again.
    pub fn attribute(&mut self) -> Attribute {
        match self.below(6) {
            0 => "a".parse().unwrap(),
            1 => "b".parse().unwrap(),
            2 => "c=x".parse().unwrap(),
            3 => "c=y".parse().unwrap(),
            4 => "d=1".parse().unwrap(),
            _ => "d=2".parse().unwrap(),
        }
    }

    pub fn attributes(&mut self) -> Attributes {
        let count = self.below(5);
        Attributes::new((0..count).map(|_| self.attribute())).unwrap()
    }

    pub fn policy(&mut self, depth: usize) -> Policy {
        loop {
            // So few attributes may come more often than a policy may name them.
            match Policy::new(self.formula(depth, 4)) {
                Err(PolicyError::Repeated { .. }) => {}
                policy => return policy.unwrap(),
            }
        }
    }

    /// As [`Rng::policy`], with a comparison here and there, which becomes up to 32 rows.
    pub fn policy_with_comparison(&mut self, depth: usize) -> Policy {
        let bound = [0, 1, 2, 3, 7, 8, u32::MAX][self.below(7)];
        let comparison = match self.below(2) {
            0 => Leaf::AtLeast { name: "d".into(), bound },
            _ => Leaf::AtMost { name: "d".into(), bound },
        };
        let parts = vec![self.formula(depth, 3), Formula::Leaf(comparison)];
        Policy::new(if self.below(2) == 0 { Formula::And(parts) } else { Formula::Or(parts) }).unwrap()
    }

    fn formula(&mut self, depth: usize, children_max: usize) -> Formula<Leaf> {
        if depth == 0 || self.below(4) == 0 {
            return Formula::Leaf(Leaf::Attribute(self.attribute()));
        }
        let n = 2 + self.below(children_max - 1);
        let of: Vec<_> = (0..n).map(|_| self.formula(depth - 1, children_max)).collect();
        match self.below(3) {
            0 => Formula::And(of),
            1 => Formula::Or(of),
            _ => Formula::Threshold { k: 1 + self.below(n) as u32, of },
        }
    }

    /// `bytes` with a few bytes changed, cut, doubled or inserted.
    pub fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(out.len().max(1));
            match self.below(6) {
                _ if out.is_empty() => out.push(self.next() as u8),
                0 => out[at] ^= 1 << self.below(8),
                1 => out[at] = self.next() as u8,
                2 => out.truncate(at),
                3 => out.insert(at, self.next() as u8),
                4 => out[at] = [0x00, 0x1b, 0x3b, 0x5b, 0x5f, 0x7f, 0x9b, 0x9f, 0xbf, 0xff][self.below(10)],
                _ => {
                    let tail = out[at..].to_vec();
                    out.extend(tail);
                }
            }
        }
        out
    }
}
