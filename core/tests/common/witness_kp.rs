//! `fabeo-kp` once more, by the witness: written from PROTOCOL.md and not from `kp.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective, Gt, Scalar};
use ciborium::Value;
use smqtt_core::Access;
use smqtt_core::suite::UserKey;

use super::cose;
use super::linear::Matrix;
use super::witness::{access_cbor, access_value, g1, g2, gt_bytes, hash, hkdf, pairing, scalar, sha256, xor};

pub const LABEL_TAG: &[u8] = b"SMQTT-V01-fabeo-kp-label-BLS12381G1_XMD:SHA-256_SSWU_RO_";

/// `alpha` from the coins of `setup`.
pub fn alpha(coins: &[u8; 32]) -> Scalar {
    scalar(hkdf(b"SMQTT-V01 fabeo-kp setup", coins, &[]))
}

/// What a key is made of: `alpha` and what the shares draw, `t_1..t_tau`.
#[derive(Clone)]
pub struct KeyCoins {
    /// `alpha, v_1, v_2, …`
    pub values: Vec<Scalar>,
    /// `t_1, …`
    pub per_occurrence: Vec<Scalar>,
}

impl KeyCoins {
    pub fn derive(
        alpha: Scalar,
        params_id: &[u8; 16],
        epoch: u64,
        access: &Access,
        coins: &[u8; 32],
    ) -> Self {
        let matrix = Matrix::of(access);
        let formula = sha256(&[&access_cbor(access)]);
        let coin = |index: usize| {
            let info: [&[u8]; 4] = [params_id, &epoch.to_be_bytes(), &formula, &(index as u32).to_be_bytes()];
            scalar(hkdf(b"SMQTT-V01 fabeo-kp keygen", coins, &info))
        };
        let values = [alpha].into_iter().chain((0..matrix.draws).map(coin)).collect();
        let per_occurrence = (0..matrix.tau()).map(|j| coin(matrix.draws + j)).collect();
        Self { values, per_occurrence }
    }
}

/// A user secret key as group elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub k1: Vec<G2Projective>,
    pub k2: Vec<G1Projective>,
}

impl Key {
    /// From the equations: `K1_j = g2^{t_j}`, `K2_i = g1^{lambda_i} H(label_i)^{t_{r(i)}}`, where `r` says which
    /// randomness a row uses.
    pub fn make(matrix: &Matrix, coins: &KeyCoins, randomness: impl Fn(usize) -> usize) -> Self {
        let rows = matrix.rows.iter().zip(matrix.shares(&coins.values)).enumerate();
        let row = |(i, (row, share)): (usize, (&super::linear::Row, Scalar))| {
            let hashed = hash(&row.label, LABEL_TAG) * coins.per_occurrence[randomness(i)];
            G1Projective::generator() * share + hashed
        };
        let k1 = coins.per_occurrence.iter().map(|t| G2Projective::generator() * t).collect();
        Self { k1, k2: rows.map(row).collect() }
    }

    /// As the suite makes it.
    pub fn honest(matrix: &Matrix, coins: &KeyCoins) -> Self {
        Self::make(matrix, coins, |i| matrix.rows[i].occurrence)
    }

    /// From the encoding that a device keeps.
    pub fn parse(key: &UserKey, matrix: &Matrix) -> Self {
        let [.., material] = fields(&key.encode());
        let material = material.into_bytes().unwrap();
        let (k1, k2) = material.split_at(96 * matrix.tau());
        assert_eq!(k2.len(), 48 * matrix.rows.len());
        Self {
            k1: k1.chunks(96).map(|p| g2(p.try_into().unwrap())).collect(),
            k2: k2.chunks(48).map(|p| g1(p.try_into().unwrap())).collect(),
        }
    }

    pub fn material(&self) -> Vec<u8> {
        let k1 = self.k1.iter().flat_map(|point| G2Affine::from(point).to_compressed());
        k1.chain(self.k2.iter().flat_map(|point| G1Affine::from(point).to_compressed())).collect()
    }

    /// The encoding that a device keeps.
    pub fn encode(&self, params_id: &[u8; 16], epoch: u64, access: &Access) -> Vec<u8> {
        encode_key(params_id, epoch, access_value(access), &self.material())
    }

    /// `e(prod K2_i^{omega_i}, C1) / prod_j e(prod_{r(i)=j} C_{label_i}^{omega_i}, K1_j)`; rows of labels that the
    /// encapsulation is not for go in without their `C`.
    pub fn combine(
        &self,
        matrix: &Matrix,
        encapsulation: &Encapsulation,
        omega: &[Scalar],
        randomness: impl Fn(usize) -> usize,
    ) -> Gt {
        let mut rows = G1Projective::identity();
        let mut hashes = vec![G1Projective::identity(); self.k1.len()];
        for (i, row) in matrix.rows.iter().enumerate() {
            rows += self.k2[i] * omega[i];
            if let Some(point) = encapsulation.rows.get(&row.label) {
                hashes[randomness(i)] += point * omega[i];
            }
        }
        let mut pairs = vec![(rows, encapsulation.c1)];
        pairs.extend(hashes.into_iter().map(|sum| -sum).zip(self.k1.iter().copied()));
        pairing(&pairs)
    }
}

/// The five fields of an encoded key.
pub fn fields(key: &[u8]) -> [Value; 5] {
    cose::decode(key).into_array().unwrap().try_into().unwrap()
}

/// A key with any formula and any material.
pub fn encode_key(params_id: &[u8; 16], epoch: u64, formula: Value, material: &[u8]) -> Vec<u8> {
    let fields =
        vec!["fabeo-kp".into(), cose::bytes(params_id), epoch.into(), formula, cose::bytes(material)];
    cose::encode(&Value::Array(fields))
}

/// `labels` as they are hashed.
pub fn labels_cbor(labels: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    cose::encode(&Value::Array(labels.iter().map(cose::bytes).collect()))
}

/// The only coin of an encapsulation.
pub fn s(params_id: &[u8; 16], labels: &BTreeSet<Vec<u8>>, m: &[u8; 32]) -> Scalar {
    let info: [&[u8]; 3] = [params_id, &sha256(&[&labels_cbor(labels)]), &[0; 4]];
    scalar(hkdf(b"SMQTT-V01 fabeo-kp coins", m, &info))
}

/// `C` and `d` as group elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Encapsulation {
    pub c1: G2Projective,
    pub rows: BTreeMap<Vec<u8>, G1Projective>,
    pub d: [u8; 32],
}

impl Encapsulation {
    /// From the equations: `C1 = g2^s`, `C_u = H(u)^s`.
    pub fn make(labels: &BTreeSet<Vec<u8>>, s: &Scalar) -> Self {
        let rows = labels.iter().map(|label| (label.clone(), hash(label, LABEL_TAG) * s)).collect();
        Self { c1: G2Projective::generator() * s, rows, d: [0; 32] }
    }

    /// As the suite makes it.
    pub fn honest(alpha: &Scalar, params_id: &[u8; 16], labels: &BTreeSet<Vec<u8>>, m: &[u8; 32]) -> Self {
        let s = s(params_id, labels, m);
        let mut out = Self::make(labels, &s);
        out.d = xor(m, &out.mask(&super::witness::shared_element(alpha, &s)));
        out
    }

    /// Points of any order, as an attacker would send them.
    pub fn parse(bytes: &[u8], labels: &BTreeSet<Vec<u8>>) -> Self {
        let (c1, rest) = bytes.split_at(96);
        let (rows, d) = rest.split_at(48 * labels.len());
        let points = rows.chunks(48).map(|p| g1(p.try_into().unwrap()));
        Self {
            c1: g2(c1.try_into().unwrap()),
            rows: labels.iter().cloned().zip(points).collect(),
            d: d.try_into().unwrap(),
        }
    }

    /// `C`
    pub fn c_bytes(&self) -> Vec<u8> {
        let mut out = G2Affine::from(self.c1).to_compressed().to_vec();
        out.extend(self.rows.values().flat_map(|point| G1Affine::from(point).to_compressed()));
        out
    }

    /// `C || d`
    pub fn bytes(&self) -> Vec<u8> {
        [self.c_bytes(), self.d.to_vec()].concat()
    }

    /// `KDF(shared element, C)`
    pub fn mask(&self, shared: &Gt) -> [u8; 32] {
        hkdf(b"SMQTT-V01 fabeo-kp mask", &gt_bytes(shared), &[&sha256(&[&self.c_bytes()])])
    }

    /// `d` with the mask taken off.
    pub fn unmask(&self, shared: &Gt) -> [u8; 32] {
        xor(&self.d, &self.mask(shared))
    }

    /// The shared secret: `KDF(m, C, d, context)`.
    pub fn secret(&self, m: &[u8; 32], context: &[u8]) -> [u8; 32] {
        hkdf(b"SMQTT-V01 fabeo-kp secret", m, &[&sha256(&[&self.bytes()]), context])
    }
}
