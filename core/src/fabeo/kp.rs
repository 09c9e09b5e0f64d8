//! `fabeo-kp`: attributes in the header, the policy in the key.
//!
//! Written multiplicatively, `H` hashes to G1:
//!
//! - params `Y = e(g1, g2)^alpha`;
//! - key for a formula: shares `lambda` of `alpha` along it; `K1_j = g2^{t_j}`,
//!   `K2_i = g1^{lambda_i} H(label_i)^{t_{occ(i)}}`. `occ(i)` counts the occurrences of row i's label: each has
//!   randomness of its own, or rows of one label combine into shares that nobody was given;
//! - encapsulation for labels S: `C1 = g2^s`, `C_u = H(u)^s` for u in S; shared element `Y^s`.

use std::sync::Arc;

use minicbor::Decoder;
use zeroize::Zeroizing;

use super::{Domain, GENERATOR, MASKED_BYTES, alpha, encode, present, second};
use crate::access::{Access, occurrences, reconstruct, share};
use crate::attribute::Label;
use crate::crypto::{Prk, Secret32, sha256};
use crate::curve::{Elements, G1, G1_BYTES, G1Affine, G2_BYTES, G2Affine, Gt, Scalar, Second, products};
use crate::suite::{Labels, Master, Params, Scope, Suite, SuiteError, SuiteId, UserKey, decode_policy};

const DOMAIN: Domain = Domain {
    suite: SuiteId::FabeoKp,
    label: b"SMQTT-V01-fabeo-kp-label-BLS12381G1_XMD:SHA-256_SSWU_RO_",
    setup: b"SMQTT-V01 fabeo-kp setup",
    keygen: b"SMQTT-V01 fabeo-kp keygen",
    coins: b"SMQTT-V01 fabeo-kp coins",
    mask: b"SMQTT-V01 fabeo-kp mask",
    secret: b"SMQTT-V01 fabeo-kp secret",
};

/// The suite `fabeo-kp`.
pub struct FabeoKp;

impl Suite for FabeoKp {
    fn setup(&self, coins: &Secret32) -> (Params, Master) {
        DOMAIN.setup(coins)
    }

    fn keygen(
        &self,
        master: &Master,
        epoch: u64,
        grant: &Scope,
        coins: &Secret32,
    ) -> Result<UserKey, SuiteError> {
        let Scope::Policy(access) = grant else { return Err(SuiteError::OtherKind) };
        DOMAIN.check_master(master)?;
        // Bound to what the key is for: coins that repeat by a fault must not give two holders one `t`.
        let (prk, scope) = (Prk::extract(DOMAIN.keygen, coins.expose()), sha256(&[&access.encode()]));
        let mut index = 0u32;
        let mut draw = || {
            let info: [&[u8]; 4] = [&master.params_id, &epoch.to_be_bytes(), &scope, &index.to_be_bytes()];
            let wide = Zeroizing::new(prk.expand(&info));
            index += 1;
            Scalar::from_wide(&wide)
        };
        let shares = share(access, &alpha(master), &mut draw);
        let (occurrence, tau) = occurrences(access);
        let per_occurrence: Vec<Scalar> = (0..tau).map(|_| draw()).collect();
        let points = DOMAIN.points(access.leaves());
        let row = |((point, share), occurrence): ((_, _), usize)| {
            [(&*GENERATOR, share), (Arc::as_ref(point), &per_occurrence[occurrence])]
        };
        let rows: Vec<_> = points.iter().zip(&shares).zip(occurrence).map(row).collect();
        let g2 = per_occurrence.iter().map(second).collect();
        let elements = Elements::new(g2, present(products(&rows)));
        Ok(UserKey::new(master, epoch, grant.clone(), elements))
    }

    fn encapsulate(
        &self,
        params: &Params,
        scope: &Scope,
        context: &[u8],
        coins: &Secret32,
    ) -> Result<(Vec<u8>, Secret32), SuiteError> {
        let Scope::Labels(labels) = scope else { return Err(SuiteError::OtherKind) };
        if params.suite() != SuiteId::FabeoKp {
            return Err(SuiteError::OtherParams);
        }
        let (c, s) = ciphertext(params, labels, coins);
        Ok(DOMAIN.seal(params, coins, c, &s, context))
    }

    fn decapsulate(
        &self,
        params: &Params,
        key: &UserKey,
        scope: &Scope,
        context: &[u8],
        encapsulation: &[u8],
    ) -> Result<Secret32, SuiteError> {
        DOMAIN.check(params, key)?;
        let (Scope::Labels(sealed), Scope::Policy(access)) = (scope, key.scope()) else {
            return Err(SuiteError::OtherKind);
        };
        if Some(encapsulation.len()) != self.encapsulation_bytes(scope) {
            return Err(SuiteError::Malformed);
        }
        let plan = reconstruct(access, &|label| sealed.has(label)).ok_or(SuiteError::NotSatisfied)?;
        let shared = |c: &[u8]| shared_element(access, sealed, key.elements(), &plan, c);
        DOMAIN.open(encapsulation, context, shared, |m| ciphertext(params, sealed, m).0)
    }

    fn encapsulation_bytes(&self, scope: &Scope) -> Option<usize> {
        let Scope::Labels(labels) = scope else { return None };
        Some(G2_BYTES + G1_BYTES * labels.as_slice().len() + MASKED_BYTES)
    }

    fn check_params(&self, material: &[u8]) -> Option<Params> {
        DOMAIN.check_params(material)
    }

    fn decode_grant(&self, d: &mut Decoder<'_>) -> Option<Scope> {
        decode_policy(d)
    }

    fn key_shape(&self, grant: &Scope) -> Option<(usize, usize)> {
        let Scope::Policy(access) = grant else { return None };
        let (rows, tau) = occurrences(access);
        Some((tau, rows.len()))
    }
}

/// `C = C1 || C_u..`, labels in their order, made of the coin `s` in `m`. Gives `s` as well.
fn ciphertext(params: &Params, labels: &Labels, m: &Secret32) -> (Vec<u8>, Scalar) {
    let s = DOMAIN.coins(params, &labels.encode(), m)();
    let points = DOMAIN.points(labels.as_slice().iter());
    let rows: Vec<_> = points.iter().map(|point| [(&**point, &s)]).collect();
    (encode(&[second(&s)], &present(products(&rows))), s)
}

/// `e(prod_i K2_i^{omega_i}, C1) / prod_j e(prod_{occ(i)=j} C_{label_i}^{omega_i}, K1_j)`
fn shared_element(
    access: &Access,
    sealed: &Labels,
    key: &Elements,
    plan: &[(usize, Scalar)],
    c: &[u8],
) -> Option<Gt> {
    let (occurrence, tau) = occurrences(access);
    let labels: Vec<&Label> = access.leaves().collect();
    let (c1, rows) = c.split_first_chunk::<G2_BYTES>()?;
    let rows = rows.as_chunks::<G1_BYTES>().0;

    let mut key_sum = G1::identity();
    let mut row_sums = vec![G1::identity(); tau];
    for (leaf, omega) in plan {
        let row = G1Affine::from_bytes_any_order(rows.get(sealed.position(labels[*leaf])?)?)?;
        let part = key.g1.get(*leaf)?;
        let sum = &mut row_sums[occurrence[*leaf]];
        if omega.is_one() {
            (key_sum, *sum) = (key_sum.add_affine(part), sum.add_affine(&row));
        } else {
            key_sum = key_sum.add(&G1::from(*part).mul(omega));
            *sum = sum.add(&G1::from(row).mul(omega));
        }
    }
    let c1 = G2Affine::from_bytes_any_order(c1)?;
    let mut pairs = vec![(key_sum.to_affine(), Second::Point(&c1))];
    let row_sums = row_sums.into_iter().map(|sum| sum.neg().to_affine());
    pairs.extend(row_sums.zip(key.seconds()));
    Some(Gt::multi_pairing(&pairs))
}
