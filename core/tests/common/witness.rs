//! `fabeo-cp` once more, by somebody else: `bls12_381` instead of blst, RustCrypto's HKDF instead of
//! AWS-LC's, ciborium instead of minicbor; written from PROTOCOL.md and not from `fabeo.rs`.
//!
//! blst and `bls12_381` compute the same power of the textbook's pairing, its cube, so elements of
//! the target group agree to the byte. `bls12_381` shows them only through `Debug`, as twelve
//! coordinates of 96 digits, in the order of our encoding.

use std::collections::{BTreeMap, BTreeSet};

use bls12_381::hash_to_curve::{ExpandMsgXmd, HashToCurve};
use bls12_381::{G1Affine, G1Projective, G2Affine, G2Prepared, G2Projective, Gt, Scalar, multi_miller_loop};
use ciborium::Value;
use sha2::{Digest, Sha256};
use smqtt_core::Access;
use smqtt_core::formula::Formula;
use smqtt_core::suite::UserKey;

use super::linear::Matrix;

pub const LABEL_TAG: &[u8] = b"SMQTT-V01-fabeo-cp-label-BLS12381G1_XMD:SHA-256_SSWU_RO_";
pub const B_TAG: &[u8] = b"SMQTT-V01-fabeo-cp-b-BLS12381G1_XMD:SHA-256_SSWU_RO_";

pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

/// `HKDF-Expand(HKDF-Extract(salt, ikm), info, N)`
pub fn hkdf<const N: usize>(salt: &[u8], ikm: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    hkdf::Hkdf::<Sha256>::new(Some(salt), ikm).expand(&info.concat(), &mut out).unwrap();
    out
}

/// 48 big-endian bytes modulo the order.
pub fn scalar(wide: [u8; 48]) -> Scalar {
    let mut little = [0; 64];
    little[..48].copy_from_slice(&wide);
    little[..48].reverse();
    Scalar::from_bytes_wide(&little)
}

/// 32 big-endian bytes.
pub fn reversed(scalar: &Scalar) -> [u8; 32] {
    let mut bytes = scalar.to_bytes();
    bytes.reverse();
    bytes
}

pub fn hash(message: &[u8], tag: &[u8]) -> G1Projective {
    <G1Projective as HashToCurve<ExpandMsgXmd<Sha256>>>::hash_to_curve([message], tag)
}

pub fn b() -> G1Projective {
    hash(b"b", B_TAG)
}

/// The product of the pairings.
pub fn pairing(pairs: &[(G1Projective, G2Projective)]) -> Gt {
    let prepared: Vec<(G1Affine, G2Prepared)> =
        pairs.iter().map(|(p, q)| (p.into(), G2Affine::from(q).into())).collect();
    let terms: Vec<_> = prepared.iter().map(|(p, q)| (p, q)).collect();
    multi_miller_loop(&terms).final_exponentiation()
}

/// 576 bytes, as `curve.rs` writes them.
pub fn gt_bytes(element: &Gt) -> Vec<u8> {
    let text = format!("{element:?}");
    let bytes: Vec<u8> =
        text.split("0x").skip(1).flat_map(|coordinate| super::unhex(&coordinate[..96])).collect();
    assert_eq!(bytes.len(), 576);
    bytes
}

/// `alpha` from the coins of `setup`.
pub fn alpha(coins: &[u8; 32]) -> Scalar {
    scalar(hkdf(b"SMQTT-V01 fabeo-cp setup", coins, &[]))
}

/// `t` from the coins of `keygen` and what the key is for.
pub fn t(coins: &[u8; 32], params_id: &[u8; 16], epoch: u64, labels: &BTreeSet<Vec<u8>>) -> Scalar {
    let scope = sha256(&labels.iter().map(Vec::as_slice).collect::<Vec<_>>());
    scalar(hkdf(b"SMQTT-V01 fabeo-cp keygen", coins, &[params_id, &epoch.to_be_bytes(), &scope]))
}

/// `Y^s` where everything is known.
pub fn shared_element(alpha: &Scalar, s: &Scalar) -> Gt {
    pairing(&[(G1Projective::generator() * alpha, G2Projective::generator() * s)])
}

/// The access formula as CBOR has it.
pub fn access_value(node: &Access) -> Value {
    let gate = |head: Vec<u32>, of: &[Access]| {
        let head = head.into_iter().map(Value::from);
        Value::Array(head.chain([Value::Array(of.iter().map(access_value).collect())]).collect())
    };
    match node {
        Formula::Leaf(label) => Value::Bytes(label.as_bytes().to_vec()),
        Formula::And(of) => gate(vec![3], of),
        Formula::Or(of) => gate(vec![4], of),
        Formula::Threshold { k, of } => gate(vec![5, *k], of),
    }
}

/// The access formula in CBOR.
pub fn access_cbor(access: &Access) -> Vec<u8> {
    super::cose::encode(&access_value(access))
}

/// The coins that come of `m`: `s`, what the shares draw, `s'_1..s'_tau`.
#[derive(Clone)]
pub struct Coins {
    /// `s, v_1, v_2, …`
    pub values: Vec<Scalar>,
    /// `s'_1, …`
    pub per_occurrence: Vec<Scalar>,
}

impl Coins {
    pub fn derive(params_id: &[u8], access: &Access, m: &[u8; 32]) -> Self {
        let matrix = Matrix::of(access);
        let formula = sha256(&[&access_cbor(access)]);
        let coin = |index: usize| {
            let index = (index as u32).to_be_bytes();
            scalar(hkdf(b"SMQTT-V01 fabeo-cp coins", m, &[params_id, &formula, &index]))
        };
        let values = (0..=matrix.draws).map(coin).collect();
        let per_occurrence = (0..matrix.tau()).map(|j| coin(1 + matrix.draws + j)).collect();
        Self { values, per_occurrence }
    }

    pub fn s(&self) -> &Scalar {
        &self.values[0]
    }
}

/// `C` and `d` as group elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Encapsulation {
    pub c1: G2Projective,
    pub c2: Vec<G2Projective>,
    pub c3: Vec<G1Projective>,
    pub d: [u8; 32],
}

impl Encapsulation {
    /// From the equations: `C1 = g2^s`, `C2_j = g2^{s'_j}`, `C3_i = b^{lambda_i} H(label_i)^{s'_{r(i)}}`,
    /// where `r` says which randomness a row uses.
    pub fn make(matrix: &Matrix, coins: &Coins, randomness: impl Fn(usize) -> usize) -> Self {
        let g2 = G2Projective::generator();
        let rows = matrix.rows.iter().zip(matrix.shares(&coins.values)).enumerate();
        let row = |(i, (row, share)): (usize, (&super::linear::Row, Scalar))| {
            b() * share + hash(&row.label, LABEL_TAG) * coins.per_occurrence[randomness(i)]
        };
        Self {
            c1: g2 * coins.s(),
            c2: coins.per_occurrence.iter().map(|s| g2 * s).collect(),
            c3: rows.map(row).collect(),
            d: [0; 32],
        }
    }

    /// As the suite makes it.
    pub fn honest(matrix: &Matrix, coins: &Coins) -> Self {
        Self::make(matrix, coins, |i| matrix.rows[i].occurrence)
    }

    /// Points of any order, as an attacker would send them.
    pub fn parse(bytes: &[u8], matrix: &Matrix) -> Self {
        let (g2s, rest) = bytes.split_at(96 * (1 + matrix.tau()));
        let (g1s, d) = rest.split_at(48 * matrix.rows.len());
        let mut g2s = g2s.chunks(96).map(|p| g2(p.try_into().unwrap()));
        Self {
            c1: g2s.next().unwrap(),
            c2: g2s.collect(),
            c3: g1s.chunks(48).map(|p| g1(p.try_into().unwrap())).collect(),
            d: d.try_into().unwrap(),
        }
    }

    /// `C`
    pub fn c_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for point in [self.c1].iter().chain(&self.c2) {
            out.extend(G2Affine::from(point).to_compressed());
        }
        for point in &self.c3 {
            out.extend(G1Affine::from(point).to_compressed());
        }
        out
    }

    /// `C || d`
    pub fn bytes(&self) -> Vec<u8> {
        [self.c_bytes(), self.d.to_vec()].concat()
    }

    /// `KDF(shared element, C)`
    pub fn mask(&self, shared: &Gt) -> [u8; 32] {
        hkdf(b"SMQTT-V01 fabeo-cp mask", &gt_bytes(shared), &[&sha256(&[&self.c_bytes()])])
    }

    /// `d` with the mask taken off.
    pub fn unmask(&self, shared: &Gt) -> [u8; 32] {
        xor(&self.d, &self.mask(shared))
    }

    /// The shared secret: `KDF(m, C, d, context)`.
    pub fn secret(&self, m: &[u8; 32], context: &[u8]) -> [u8; 32] {
        hkdf(b"SMQTT-V01 fabeo-cp secret", m, &[&sha256(&[&self.bytes()]), context])
    }
}

/// A point on the curve, of any order.
pub fn g1(bytes: &[u8; 48]) -> G1Projective {
    G1Affine::from_compressed_unchecked(bytes).unwrap().into()
}

/// A point on the curve, of any order.
pub fn g2(bytes: &[u8; 96]) -> G2Projective {
    G2Affine::from_compressed_unchecked(bytes).unwrap().into()
}

pub fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// A user secret key as group elements.
#[derive(Clone)]
pub struct Key {
    pub k1: G2Projective,
    pub k3: G1Projective,
    pub labels: BTreeMap<Vec<u8>, G1Projective>,
}

impl Key {
    /// From the encoding that a device keeps.
    pub fn parse(key: &UserKey) -> Self {
        let value: Value = ciborium::from_reader(&key.encode()[..]).unwrap();
        let fields = value.into_array().unwrap();
        let [_, _, _, labels, material] = <[Value; 5]>::try_from(fields).unwrap();
        let labels = labels.into_array().unwrap().into_iter().map(|label| label.into_bytes().unwrap());
        let material = material.into_bytes().unwrap();
        let (k1, rest) = material.split_at(96);
        let mut points = rest.chunks(48).map(|p| {
            let point = G1Affine::from_compressed(p.try_into().unwrap());
            G1Projective::from(point.unwrap())
        });
        Self {
            k1: G2Affine::from_compressed(k1.try_into().unwrap()).unwrap().into(),
            k3: points.next().unwrap(),
            labels: labels.zip(points).collect(),
        }
    }

    pub fn held(&self) -> BTreeSet<Vec<u8>> {
        self.labels.keys().cloned().collect()
    }

    /// `e(K3, C1) prod_j e(prod K_i^{omega_i}, C2_j) / e(prod C3_i^{omega_i}, K1)`; rows of labels that
    /// are not held go in without their `K`.
    pub fn combine(
        &self,
        matrix: &Matrix,
        encapsulation: &Encapsulation,
        omega: &[Scalar],
        randomness: impl Fn(usize) -> usize,
    ) -> Gt {
        let mut rows = G1Projective::identity();
        let mut keys = vec![G1Projective::identity(); encapsulation.c2.len()];
        for (i, row) in matrix.rows.iter().enumerate() {
            rows += encapsulation.c3[i] * omega[i];
            if let Some(point) = self.labels.get(&row.label) {
                keys[randomness(i)] += point * omega[i];
            }
        }
        let mut pairs = vec![(self.k3, encapsulation.c1), (-rows, self.k1)];
        pairs.extend(keys.into_iter().zip(encapsulation.c2.iter().copied()));
        pairing(&pairs)
    }
}
