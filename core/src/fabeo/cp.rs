//! `fabeo-cp`: the policy in the header, attributes in the key.
//!
//! Written multiplicatively, `H` hashes to G1, `b = H("b")` under a tag of its own:
//!
//! - params `Y = e(g1, g2)^alpha`;
//! - key for labels S: `K1 = g2^t`, `K3 = g1^alpha b^t`, `K_u = H(u)^t` for u in S;
//! - encapsulation: shares `lambda` of `s` along the formula; `C1 = g2^s`, `C2_j = g2^{s'_j}`,
//!   `C3_i = b^{lambda_i} H(label_i)^{s'_{occ(i)}}`; shared element `Y^s`. `occ(i)` counts the
//!   occurrences of row i's label: each has randomness of its own, or a key for `B` opens `A and (A or B)`.

use std::sync::{Arc, LazyLock};

use minicbor::Decoder;
use zeroize::Zeroizing;

use super::{Domain, GENERATOR, MASKED_BYTES, alpha, encode, present, second};
use crate::access::{Access, occurrences, reconstruct, share};
use crate::attribute::Label;
use crate::crypto::{Prk, Secret32, sha256};
use crate::curve::{
    Base, Elements, G1, G1_BYTES, G1Affine, G2_BYTES, G2Affine, Gt, Scalar, Second, products,
};
use crate::suite::{Labels, Master, Params, Scope, Suite, SuiteError, SuiteId, UserKey, decode_labels};

const DOMAIN: Domain = Domain {
    suite: SuiteId::FabeoCp,
    label: b"SMQTT-V01-fabeo-cp-label-BLS12381G1_XMD:SHA-256_SSWU_RO_",
    setup: b"SMQTT-V01 fabeo-cp setup",
    keygen: b"SMQTT-V01 fabeo-cp keygen",
    coins: b"SMQTT-V01 fabeo-cp coins",
    mask: b"SMQTT-V01 fabeo-cp mask",
    secret: b"SMQTT-V01 fabeo-cp secret",
};
const B_TAG: &[u8] = b"SMQTT-V01-fabeo-cp-b-BLS12381G1_XMD:SHA-256_SSWU_RO_";

/// The suite `fabeo-cp`.
pub struct FabeoCp;

impl Suite for FabeoCp {
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
        let Scope::Labels(labels) = grant else { return Err(SuiteError::OtherKind) };
        DOMAIN.check_master(master)?;
        // Bound to what the key is for: coins that repeat by a fault must not give two holders one `t`.
        let scope = sha256(&labels.as_slice().iter().map(Label::as_bytes).collect::<Vec<_>>());
        let t = Prk::extract(DOMAIN.keygen, coins.expose()).expand(&[
            &master.params_id,
            &epoch.to_be_bytes(),
            &scope,
        ]);
        let t = Scalar::from_wide(&Zeroizing::new(t));
        let k3 = products(&[[(&*GENERATOR, &alpha(master)), (&*B, &t)]]);
        let points = DOMAIN.points(labels.as_slice().iter());
        let rows: Vec<_> = points.iter().map(|point| [(&**point, &t)]).collect();
        let g1 = [present(k3), present(products(&rows))].concat();
        Ok(UserKey::new(master, epoch, grant.clone(), Elements::new(vec![second(&t)], g1)))
    }

    fn encapsulate(
        &self,
        params: &Params,
        scope: &Scope,
        context: &[u8],
        coins: &Secret32,
    ) -> Result<(Vec<u8>, Secret32), SuiteError> {
        let Scope::Policy(access) = scope else { return Err(SuiteError::OtherKind) };
        if params.suite() != SuiteId::FabeoCp {
            return Err(SuiteError::OtherParams);
        }
        let (c, s) = ciphertext(params, access, coins);
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
        let (Scope::Policy(access), Scope::Labels(held)) = (scope, key.scope()) else {
            return Err(SuiteError::OtherKind);
        };
        if Some(encapsulation.len()) != self.encapsulation_bytes(scope) {
            return Err(SuiteError::Malformed);
        }
        let plan = reconstruct(access, &|label| held.has(label)).ok_or(SuiteError::NotSatisfied)?;
        let shared = |c: &[u8]| shared_element(access, held, key.elements(), &plan, c);
        DOMAIN.open(encapsulation, context, shared, |m| ciphertext(params, access, m).0)
    }

    fn encapsulation_bytes(&self, scope: &Scope) -> Option<usize> {
        let Scope::Policy(access) = scope else { return None };
        let (rows, tau) = occurrences(access);
        Some(G2_BYTES * (1 + tau) + G1_BYTES * rows.len() + MASKED_BYTES)
    }

    fn check_params(&self, material: &[u8]) -> Option<Params> {
        DOMAIN.check_params(material)
    }

    fn decode_grant(&self, d: &mut Decoder<'_>) -> Option<Scope> {
        decode_labels(d)
    }

    fn key_shape(&self, grant: &Scope) -> Option<(usize, usize)> {
        let Scope::Labels(labels) = grant else { return None };
        Some((1, 1 + labels.as_slice().len()))
    }
}

static B: LazyLock<Base> =
    LazyLock::new(|| Base::fixed(G1::hash(b"b", B_TAG).to_affine().expect("not the identity")));

/// `C = C1 || C2_1.. || C3_1..` made of the coins in `m`: first `s`, then what the shares draw, then
/// `s'_1..s'_tau`. Gives `s` as well.
fn ciphertext(params: &Params, access: &Access, m: &Secret32) -> (Vec<u8>, Scalar) {
    let mut draw = DOMAIN.coins(params, &access.encode(), m);
    let s = draw();
    let shares = share(access, &s, &mut draw);
    let (occurrence, tau) = occurrences(access);
    let per_occurrence: Vec<Scalar> = (0..tau).map(|_| draw()).collect();

    let g2: Vec<_> = std::iter::once(&s).chain(&per_occurrence).map(second).collect();
    let points = DOMAIN.points(access.leaves());
    let row = |((point, share), occurrence): ((_, _), usize)| {
        [(&*B, share), (Arc::as_ref(point), &per_occurrence[occurrence])]
    };
    let rows: Vec<_> = points.iter().zip(&shares).zip(occurrence).map(row).collect();
    (encode(&g2, &present(products(&rows))), s)
}

/// `e(K3, C1) prod_j e(prod_{occ(i)=j} K_i^{omega_i}, C2_j) / e(prod_i C3_i^{omega_i}, K1)`
fn shared_element(
    access: &Access,
    held: &Labels,
    key: &Elements,
    plan: &[(usize, Scalar)],
    c: &[u8],
) -> Option<Gt> {
    let (occurrence, tau) = occurrences(access);
    let labels: Vec<&Label> = access.leaves().collect();
    let (c2s, rows) = c.split_at_checked(G2_BYTES * (1 + tau))?;
    let (c2s, rows) = (c2s.as_chunks::<G2_BYTES>().0, rows.as_chunks::<G1_BYTES>().0);
    let (k1, (k3, parts)) = (key.seconds().next()?, key.g1.split_first()?);

    let mut row_sum = G1::identity();
    let mut key_sums = vec![G1::identity(); tau];
    for (leaf, omega) in plan {
        let row = G1Affine::from_bytes_any_order(rows.get(*leaf)?)?;
        let part = parts.get(held.position(labels[*leaf])?)?;
        let sum = &mut key_sums[occurrence[*leaf]];
        if omega.is_one() {
            (row_sum, *sum) = (row_sum.add_affine(&row), sum.add_affine(part));
        } else {
            row_sum = row_sum.add(&G1::from(row).mul(omega));
            *sum = sum.add(&G1::from(*part).mul(omega));
        }
    }
    let c2s = c2s.iter().map(G2Affine::from_bytes_any_order).collect::<Option<Vec<_>>>()?;
    let mut pairs = vec![(Some(*k3), Second::Point(&c2s[0])), (row_sum.neg().to_affine(), k1)];
    pairs.extend(key_sums.into_iter().map(G1::to_affine).zip(c2s[1..].iter().map(Second::Point)));
    Some(Gt::multi_pairing(&pairs))
}
