//! Linear secret sharing over a formula: shares to the leaves, and the coefficients that undo it.
//!
//! Equivalent to the span program of the papers (Lewko-Waters rows for `and` and `or`, Vandermonde
//! rows for `k of`): the share of a leaf is its row times `(secret, v_2, …, v_m)`, and the fresh
//! values `v` are drawn in the order in which a reader meets the gates.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::attribute::Label;
use crate::cbor::{Written, to_vec};
use crate::curve::Scalar;
use crate::formula::Formula;
use crate::policy::{ACCESS_DEPTH_MAX, ACCESS_LEAVES_MAX};

/// A formula over labels: what a suite shares a secret along.
pub type Access = Formula<Label>;

/// The shares of `secret`, one for each leaf in order. `draw` gives the next fresh value.
///
/// - a leaf, and every child of an `or`, gets the value itself;
/// - `and` of n draws `v_1..v_{n-1}`: child i gets `v_i`, the last the value less their sum;
/// - `k of` draws `a_1..a_{k-1}`: child i, counted from 1, gets `value + sum a_j i^j`.
///
/// A gate draws all of its values before its first child does.
pub fn share(access: &Access, secret: &Scalar, draw: &mut impl FnMut() -> Scalar) -> Vec<Scalar> {
    let mut shares = Vec::with_capacity(access.leaves().count());
    share_into(access, secret.clone(), draw, &mut shares);
    shares
}

fn share_into(node: &Access, value: Scalar, draw: &mut impl FnMut() -> Scalar, out: &mut Vec<Scalar>) {
    match node {
        Formula::Leaf(_) => out.push(value),
        Formula::Or(children) => children.iter().for_each(|c| share_into(c, value.clone(), draw, out)),
        Formula::And(children) => {
            // Room for all: a vector that grows leaves its old scalars behind.
            let mut parts = Vec::with_capacity(children.len());
            parts.extend((1..children.len()).map(|_| draw()));
            parts.push(parts.iter().fold(value, |rest, part| rest.sub(part)));
            for (child, part) in children.iter().zip(parts) {
                share_into(child, part, draw, out);
            }
        }
        Formula::Threshold { k, of } => {
            let coefficients: Vec<Scalar> = (1..*k).map(|_| draw()).collect();
            for (i, child) in (1u64..).zip(of) {
                let x = Scalar::from_u64(i);
                let high = coefficients.iter().rev().fold(Scalar::zero(), |sum, a| sum.add(a).mul(&x));
                share_into(child, value.add(&high), draw, out);
            }
        }
    }
}

/// Leaves (by position) and their coefficients whose weighted shares give the secret back, or
/// `None` where the labels that are `held` do not satisfy the formula. Picks the fewest leaves.
pub fn reconstruct(access: &Access, held: &impl Fn(&Label) -> bool) -> Option<Vec<(usize, Scalar)>> {
    let mut position = 0;
    plan(access, held, &mut position)
}

type Plan = Vec<(usize, Scalar)>;

fn plan(node: &Access, held: &impl Fn(&Label) -> bool, position: &mut usize) -> Option<Plan> {
    let mut children = |of: &[Access]| of.iter().map(|c| plan(c, held, position)).collect::<Vec<_>>();
    match node {
        Formula::Leaf(label) => {
            let here = *position;
            *position += 1;
            held(label).then(|| vec![(here, Scalar::from_u64(1))])
        }
        Formula::Or(of) => children(of).into_iter().flatten().min_by_key(Vec::len),
        Formula::And(of) => {
            let parts = children(of).into_iter().collect::<Option<Vec<_>>>()?;
            Some(parts.into_iter().flatten().collect())
        }
        Formula::Threshold { k, of } => {
            let parts = children(of);
            let mut able: Vec<(u64, Plan)> =
                (1..).zip(parts).filter_map(|(x, part)| Some((x, part?))).collect();
            able.sort_by_key(|(_, part)| part.len());
            able.truncate(*k as usize);
            if able.len() < *k as usize {
                return None;
            }
            let xs: Vec<u64> = able.iter().map(|(x, _)| *x).collect();
            let weighted = able.into_iter().flat_map(|(x, part)| {
                let weight = lagrange_at_zero(x, &xs);
                part.into_iter().map(move |(leaf, omega)| (leaf, omega.mul(&weight)))
            });
            Some(weighted.collect())
        }
    }
}

/// `prod over other of other / (other - x)`
fn lagrange_at_zero(x: u64, xs: &[u64]) -> Scalar {
    let (mut above, mut below) = (Scalar::from_u64(1), Scalar::from_u64(1));
    for other in xs.iter().filter(|other| **other != x) {
        let other = Scalar::from_u64(*other);
        above = above.mul(&other);
        below = below.mul(&other.sub(&Scalar::from_u64(x)));
    }
    above.mul(&below.invert())
}

/// For each leaf in order, which occurrence of its label it is, from 0; and how many times the most
/// frequent label occurs. Each occurrence needs randomness of its own: with one randomness for
/// both, rows of one label combine into shares that nobody was given.
pub fn occurrences(access: &Access) -> (Vec<usize>, usize) {
    let mut seen = std::collections::BTreeMap::new();
    let which: Vec<usize> = access
        .leaves()
        .map(|label| {
            let count = seen.entry(label).or_insert(0);
            *count += 1;
            *count - 1
        })
        .collect();
    let most = which.iter().max().map_or(0, |last| last + 1);
    (which, most)
}

impl Access {
    /// Deterministic CBOR: a leaf is its label as a byte string, gates as in a policy.
    pub fn encode(&self) -> Vec<u8> {
        to_vec(|e| write(self, e))
    }
}

fn write(node: &Access, e: &mut Encoder<Vec<u8>>) -> Written {
    let children = match node {
        Formula::Leaf(label) => return e.bytes(label.as_bytes()).map(drop),
        Formula::And(of) => (e.array(2)?.u8(3)?, of).1,
        Formula::Or(of) => (e.array(2)?.u8(4)?, of).1,
        Formula::Threshold { k, of } => (e.array(3)?.u8(5)?.u32(*k)?, of).1,
    };
    e.array(children.len() as u64)?;
    children.iter().try_for_each(|child| write(child, e))
}

/// Reads a formula of at most [`ACCESS_DEPTH_MAX`] and [`ACCESS_LEAVES_MAX`] into its canonical form. Whether the
/// bytes were canonical is for the caller to check, by writing it again.
pub(crate) fn decode_access(d: &mut Decoder<'_>) -> Option<Access> {
    let mut leaves = ACCESS_LEAVES_MAX;
    read(d, ACCESS_DEPTH_MAX, &mut leaves)?.canonical().ok()
}

fn read(d: &mut Decoder<'_>, depth: usize, leaves: &mut usize) -> Option<Access> {
    if d.datatype().ok()? == Type::Bytes {
        *leaves = leaves.checked_sub(1)?;
        return Label::decode(d.bytes().ok()?).ok().map(Formula::Leaf);
    }
    let depth = depth.checked_sub(1)?;
    let (len, tag) = (d.array().ok()??, d.u8().ok()?);
    let k = if tag == 5 { d.u32().ok()? } else { 0 };
    let count = d.array().ok()??;
    if count > ACCESS_LEAVES_MAX as u64 {
        return None;
    }
    let of = (0..count).map(|_| read(d, depth, leaves)).collect::<Option<Vec<_>>>()?;
    match (tag, len) {
        (3, 2) => Some(Formula::And(of)),
        (4, 2) => Some(Formula::Or(of)),
        (5, 3) => Some(Formula::Threshold { k, of }),
        _ => None,
    }
}
