//! `fabeo-cp`: ciphertext-policy FABEO over BLS12-381 as a CCA-secure key encapsulation mechanism.
//!
//! Scheme: D. Riepel, H. Wee, "FABEO: Fast Attribute-Based Encryption with Optimal Security", CCS 2022
//! (ePrint 2022/1415), figure 1; made secure against chosen ciphertexts by the Fujisaki-Okamoto
//! transform. Written multiplicatively, `H` hashes to G1, `b = H("b")` under a tag of its own:
//!
//! - setup: `alpha`; params `Y = e(g1, g2)^alpha`;
//! - key for labels S: `K1 = g2^t`, `K3 = g1^alpha b^t`, `K_u = H(u)^t` for u in S;
//! - encapsulation: shares `lambda` of `s` along the formula; `C1 = g2^s`, `C2_j = g2^{s'_j}`,
//!   `C3_i = b^{lambda_i} H(label_i)^{s'_{occ(i)}}`; shared element `Y^s`. `occ(i)` counts the
//!   occurrences of row i's label: each has randomness of its own, or a key for `B` opens `A and (A or B)`;
//! - every coin comes from a 32-byte `m`, which travels as `d = m xor KDF(Y^s, C)`; whoever opens
//!   recovers `m`, makes `C` again and refuses on any difference.
//!
//! PROTOCOL.md gives the bytes of every derivation.

use zeroize::Zeroizing;

use crate::access::{Access, occurrences, reconstruct, share};
use crate::attribute::Label;
use crate::crypto::{Prk, Secret32, equal, sha256};
use crate::curve::{G1, G1_BYTES, G2, G2_BYTES, GT_BYTES, Gt, Scalar};
use crate::formula::Formula;
use crate::suite::{Master, Params, Scope, Suite, SuiteError, SuiteId, UserKey};

const LABEL_TAG: &[u8] = b"SMQTT-V01-fabeo-cp-label-BLS12381G1_XMD:SHA-256_SSWU_RO_";
const B_TAG: &[u8] = b"SMQTT-V01-fabeo-cp-b-BLS12381G1_XMD:SHA-256_SSWU_RO_";
const SETUP_SALT: &[u8] = b"SMQTT-V01 fabeo-cp setup";
const KEYGEN_SALT: &[u8] = b"SMQTT-V01 fabeo-cp keygen";
const COINS_SALT: &[u8] = b"SMQTT-V01 fabeo-cp coins";
const MASK_SALT: &[u8] = b"SMQTT-V01 fabeo-cp mask";
const SECRET_SALT: &[u8] = b"SMQTT-V01 fabeo-cp secret";

/// Bytes of `d`, the masked `m`.
const MASKED_BYTES: usize = 32;

/// The suite `fabeo-cp`.
pub struct FabeoCp;

impl Suite for FabeoCp {
    fn setup(&self, coins: &Secret32) -> (Params, Master) {
        let alpha = Scalar::from_wide(&Prk::extract(SETUP_SALT, coins.expose()).expand(&[]));
        let y = Gt::multi_pairing(&[(G1::generator(), G2::generator())]).pow(&alpha);
        let params = Params::from_material(SuiteId::FabeoCp, y.to_bytes().to_vec());
        let master = Master::new(&params, Secret32::new(alpha.to_bytes()));
        (params, master)
    }

    fn keygen(&self, master: &Master, epoch: u64, labels: &[Label], coins: &Secret32) -> UserKey {
        let mut labels = labels.to_vec();
        labels.sort();
        labels.dedup();
        let alpha = Scalar::from_bytes(master.expose().expose()).expect("setup makes scalars");
        // Bound to what the key is for: coins that repeat by a fault must not give two holders one `t`.
        let scope = sha256(&labels.iter().map(Label::as_bytes).collect::<Vec<_>>());
        let t = Prk::extract(KEYGEN_SALT, coins.expose()).expand(&[
            &master.params_id,
            &epoch.to_be_bytes(),
            &scope,
        ]);
        let t = Scalar::from_wide(&Zeroizing::new(t));
        let mut material = Zeroizing::new(Vec::with_capacity(key_bytes(labels.len())));
        material.extend_from_slice(&G2::generator().mul(&t).to_bytes());
        material.extend_from_slice(&G1::generator().mul(&alpha).add(&b().mul(&t)).to_bytes());
        for label in &labels {
            material.extend_from_slice(&hash(label).mul(&t).to_bytes());
        }
        UserKey::from_material(master, epoch, labels, material)
    }

    fn encapsulate(
        &self,
        params: &Params,
        scope: Scope<'_>,
        context: &[u8],
        coins: &Secret32,
    ) -> Result<(Vec<u8>, Secret32), SuiteError> {
        let Scope::Policy(access) = scope;
        let material = params.material().try_into().map_err(|_| SuiteError::OtherParams)?;
        let (mut out, s) = ciphertext(params, access, coins);
        let shared = Gt::from_own_bytes(material).pow(&s);
        let mask = mask(&shared, &out);
        out.extend(coins.expose().iter().zip(mask.iter()).map(|(m, k)| m ^ k));
        let secret = secret(coins, &out, context);
        Ok((out, secret))
    }

    fn decapsulate(
        &self,
        params: &Params,
        key: &UserKey,
        scope: Scope<'_>,
        context: &[u8],
        encapsulation: &[u8],
    ) -> Result<Secret32, SuiteError> {
        let Scope::Policy(access) = scope;
        if key.params_id() != params.id() || key.suite() != SuiteId::FabeoCp {
            return Err(SuiteError::OtherParams);
        }
        if encapsulation.len() != self.encapsulation_bytes(scope) {
            return Err(SuiteError::Malformed);
        }
        let held = |label: &Label| key.labels().binary_search(label).is_ok();
        let plan = reconstruct(access, &held).ok_or(SuiteError::NotSatisfied)?;
        let (c, masked) = encapsulation.split_at(encapsulation.len() - MASKED_BYTES);
        // Whatever is wrong with the points gives one answer: another would tell which rows the key uses.
        let shared = shared_element(access, key, &plan, c).ok_or(SuiteError::Inconsistent)?;
        let mut m = mask(&shared, c);
        m.iter_mut().zip(masked).for_each(|(m, d)| *m ^= d);
        let m = Secret32::new(*m);
        // The check that makes it CCA-secure: only who knew `m` beforehand makes these bytes.
        let (again, _) = ciphertext(params, access, &m);
        if !equal(&again, c) {
            return Err(SuiteError::Inconsistent);
        }
        Ok(secret(&m, encapsulation, context))
    }

    fn encapsulation_bytes(&self, scope: Scope<'_>) -> usize {
        let Scope::Policy(access) = scope;
        let (rows, tau) = occurrences(access);
        G2_BYTES * (1 + tau) + G1_BYTES * rows.len() + MASKED_BYTES
    }

    fn check_params(&self, material: &[u8]) -> Option<Params> {
        let bytes: &[u8; GT_BYTES] = material.try_into().ok()?;
        Gt::from_bytes(bytes)?;
        Some(Params::from_material(SuiteId::FabeoCp, material.to_vec()))
    }

    fn check_key(&self, key: &UserKey) -> bool {
        let Some((k1, rest)) = key.material().split_first_chunk::<G2_BYTES>() else { return false };
        let (points, tail) = rest.as_chunks::<G1_BYTES>();
        G2::from_bytes(k1).is_some()
            && tail.is_empty()
            && points.len() == 1 + key.labels().len()
            && points.iter().all(|p| G1::from_bytes(p).is_some())
    }
}

fn key_bytes(labels: usize) -> usize {
    G2_BYTES + G1_BYTES * (1 + labels)
}

fn hash(label: &Label) -> G1 {
    G1::hash(label.as_bytes(), LABEL_TAG)
}

fn b() -> G1 {
    G1::hash(b"b", B_TAG)
}

/// `C = C1 || C2_1.. || C3_1..` made of the coins in `m`, and `s`.
///
/// Coin i is `HKDF-Expand(HKDF-Extract(salt, m), params id || SHA-256(formula) || i, 48)` modulo the
/// order: first `s`, then what the shares draw, then `s'_1..s'_tau`.
fn ciphertext(params: &Params, access: &Access, m: &Secret32) -> (Vec<u8>, Scalar) {
    let prk = Prk::extract(COINS_SALT, m.expose());
    let formula = sha256(&[&access.encode()]);
    let mut index = 0u32;
    let mut draw = || {
        let wide = Zeroizing::new(prk.expand(&[params.id(), &formula, &index.to_be_bytes()]));
        index += 1;
        Scalar::from_wide(&wide)
    };
    let s = draw();
    let shares = share(access, &s, &mut draw);
    let (occurrence, tau) = occurrences(access);
    let per_occurrence: Vec<Scalar> = (0..tau).map(|_| draw()).collect();

    let mut out = Vec::with_capacity(G2_BYTES * (1 + tau) + G1_BYTES * shares.len() + MASKED_BYTES);
    out.extend_from_slice(&G2::generator().mul(&s).to_bytes());
    for s in &per_occurrence {
        out.extend_from_slice(&G2::generator().mul(s).to_bytes());
    }
    let b = b();
    for ((label, share), occurrence) in access.leaves().zip(&shares).zip(occurrence) {
        let row = b.mul(share).add(&hash(label).mul(&per_occurrence[occurrence]));
        out.extend_from_slice(&row.to_bytes());
    }
    (out, s)
}

/// `e(K3, C1) prod_j e(prod_{occ(i)=j} K_i^{omega_i}, C2_j) / e(prod_i C3_i^{omega_i}, K1)`, the
/// points of `c` of any order: the caller compares with a recomputation.
fn shared_element(access: &Access, key: &UserKey, plan: &[(usize, Scalar)], c: &[u8]) -> Option<Gt> {
    let (occurrence, tau) = occurrences(access);
    let labels: Vec<&Label> = access.leaves().collect();
    let (c2s, rows) = c.split_at_checked(G2_BYTES * (1 + tau))?;
    let (c2s, rows) = (c2s.as_chunks::<G2_BYTES>().0, rows.as_chunks::<G1_BYTES>().0);
    let (k1, rest) = key.material().split_first_chunk::<G2_BYTES>()?;
    let points = rest.as_chunks::<G1_BYTES>().0;

    let mut row_sum = G1::identity();
    let mut key_sums = vec![G1::identity(); tau];
    for (leaf, omega) in plan {
        let row = G1::from_bytes_any_order(rows.get(*leaf)?)?;
        let at = key.labels().binary_search(labels[*leaf]).ok()?;
        let part = G1::from_bytes_any_order(points.get(1 + at)?)?;
        let weighted = |p: G1| if omega.is_one() { p } else { p.mul(omega) };
        row_sum = row_sum.add(&weighted(row));
        let sum = &mut key_sums[occurrence[*leaf]];
        *sum = sum.add(&weighted(part));
    }
    let c2s = c2s.iter().map(G2::from_bytes_any_order).collect::<Option<Vec<_>>>()?;
    let mut pairs = vec![
        (G1::from_bytes_any_order(points.first()?)?, c2s[0]),
        (row_sum.neg(), G2::from_bytes_any_order(k1)?),
    ];
    pairs.extend(key_sums.into_iter().zip(c2s.into_iter().skip(1)));
    Some(Gt::multi_pairing(&pairs))
}

/// `HKDF-Expand(HKDF-Extract(salt, shared element), SHA-256(C), 32)`
fn mask(shared: &Gt, c: &[u8]) -> Zeroizing<[u8; 32]> {
    let shared = Zeroizing::new(shared.to_bytes());
    Zeroizing::new(Prk::extract(MASK_SALT, &*shared).expand(&[&sha256(&[c])]))
}

/// `HKDF-Expand(HKDF-Extract(salt, m), SHA-256(C || d) || context, 32)`
fn secret(m: &Secret32, encapsulation: &[u8], context: &[u8]) -> Secret32 {
    Secret32::new(Prk::extract(SECRET_SALT, m.expose()).expand(&[&sha256(&[encapsulation]), context]))
}

/// The access formula as the suites hash it.
impl Access {
    /// Deterministic CBOR: a leaf is its label as a byte string, gates as in a policy.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::new());
        fn write(
            node: &Access,
            e: &mut minicbor::Encoder<Vec<u8>>,
        ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            let children = match node {
                Formula::Leaf(label) => return e.bytes(label.as_bytes()).map(drop),
                Formula::And(of) => (e.array(2)?.u8(3)?, of).1,
                Formula::Or(of) => (e.array(2)?.u8(4)?, of).1,
                Formula::Threshold { k, of } => (e.array(3)?.u8(5)?.u32(*k)?, of).1,
            };
            e.array(children.len() as u64)?;
            children.iter().try_for_each(|child| write(child, e))
        }
        write(self, &mut e).expect("writing to memory cannot fail");
        e.into_writer()
    }
}
