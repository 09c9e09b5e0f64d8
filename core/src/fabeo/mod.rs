//! FABEO over BLS12-381 as CCA-secure key encapsulation mechanisms: `fabeo-cp` and `fabeo-kp`.
//!
//! Scheme: D. Riepel, H. Wee, "FABEO: Fast Attribute-Based Encryption with Optimal Security", CCS 2022
//! (ePrint 2022/1415), figure 1; made secure against chosen ciphertexts by the Fujisaki-Okamoto transform:
//! every coin of an encapsulation `C` comes from a 32-byte `m`, which travels as `d = m xor KDF(Y^s, C)`; whoever
//! opens recovers `m`, makes `C` again and refuses on any difference.
//!
//! Here is what both suites share. Each has its own `alpha`, parameters and tags: one `alpha` for both would void
//! the proofs of both. PROTOCOL.md gives the bytes of every derivation.

mod cp;
mod kp;
mod labels;

use std::sync::{Arc, LazyLock};

use zeroize::Zeroizing;

pub use self::cp::FabeoCp;
pub use self::kp::FabeoKp;
use crate::attribute::Label;
use crate::crypto::{Prk, Secret32, equal, sha256};
use crate::curve::{Base, G1, G1_BYTES, G1Affine, G2_BYTES, G2Affine, Gt, Scalar, secret_g2};
use crate::suite::{Master, Params, SuiteError, SuiteId, UserKey};

/// Bytes of `d`, the masked `m`.
const MASKED_BYTES: usize = 32;

/// The tags of one suite: no derivation of one is ever one of the other.
struct Domain {
    suite: SuiteId,
    label: &'static [u8],
    setup: &'static [u8],
    keygen: &'static [u8],
    coins: &'static [u8],
    mask: &'static [u8],
    secret: &'static [u8],
}

impl Domain {
    /// `alpha`, and `Y = e(g1, g2)^alpha`.
    fn setup(&self, coins: &Secret32) -> (Params, Master) {
        let wide = Zeroizing::new(Prk::extract(self.setup, coins.expose()).expand(&[]));
        let alpha = Scalar::from_wide(&wide);
        let y = Gt::generator().pow(&alpha);
        let params = Params::new(self.suite, y);
        let master = Master::new(&params, Secret32::new(alpha.to_bytes()));
        (params, master)
    }

    /// `H(label)` of each label.
    fn points<'l>(&self, labels: impl Iterator<Item = &'l Label>) -> Vec<Arc<Base>> {
        labels::points(self.suite, labels, |label| G1::hash(label.as_bytes(), self.label))
    }

    /// The scalars that an encapsulation is made of: the i-th is
    /// `HKDF-Expand(HKDF-Extract(salt, m), params id || SHA-256(scope) || i, 48)` modulo the order.
    fn coins(&self, params: &Params, scope: &[u8], m: &Secret32) -> impl FnMut() -> Scalar + use<> {
        let (prk, params_id, scope) = (Prk::extract(self.coins, m.expose()), *params.id(), sha256(&[scope]));
        let mut index = 0u32;
        move || {
            let wide = Zeroizing::new(prk.expand(&[&params_id, &scope, &index.to_be_bytes()]));
            index += 1;
            Scalar::from_wide(&wide)
        }
    }

    /// `C || d` and the secret, of the `C` that was made of the coins in `m`, and its `s`.
    fn seal(
        &self,
        params: &Params,
        m: &Secret32,
        c: Vec<u8>,
        s: &Scalar,
        context: &[u8],
    ) -> (Vec<u8>, Secret32) {
        let mask = self.mask(&params.y().pow(s), &c);
        let mut out = c;
        out.extend(m.expose().iter().zip(mask.iter()).map(|(m, k)| m ^ k));
        let secret = self.secret(m, &out, context);
        (out, secret)
    }

    /// The secret, given how the shared element and how `C` are made.
    ///
    /// `shared` takes points of any order: what comes of them is compared with what `again` makes.
    fn open(
        &self,
        encapsulation: &[u8],
        context: &[u8],
        shared: impl FnOnce(&[u8]) -> Option<Gt>,
        again: impl FnOnce(&Secret32) -> Vec<u8>,
    ) -> Result<Secret32, SuiteError> {
        let at = encapsulation.len().checked_sub(MASKED_BYTES).ok_or(SuiteError::Malformed)?;
        let (c, masked) = encapsulation.split_at(at);
        // Whatever is wrong with the points gives one answer: another would tell which rows the key uses.
        let shared = shared(c).ok_or(SuiteError::Inconsistent)?;
        let mut m = self.mask(&shared, c);
        m.iter_mut().zip(masked).for_each(|(m, d)| *m ^= d);
        let m = Secret32::new(*m);
        // The check that makes it CCA-secure: only who knew `m` beforehand makes these bytes.
        if !equal(&again(&m), c) {
            return Err(SuiteError::Inconsistent);
        }
        Ok(self.secret(&m, encapsulation, context))
    }

    /// `HKDF-Expand(HKDF-Extract(salt, shared element), SHA-256(C), 32)`
    fn mask(&self, shared: &Gt, c: &[u8]) -> Zeroizing<[u8; 32]> {
        let shared = Zeroizing::new(shared.to_bytes());
        Zeroizing::new(Prk::extract(self.mask, &*shared).expand(&[&sha256(&[c])]))
    }

    /// `HKDF-Expand(HKDF-Extract(salt, m), SHA-256(C || d) || context, 32)`
    fn secret(&self, m: &Secret32, encapsulation: &[u8], context: &[u8]) -> Secret32 {
        let hash = sha256(&[encapsulation]);
        Secret32::new(Prk::extract(self.secret, m.expose()).expand(&[&hash, context]))
    }

    /// Whether the master secret is of this suite: another's `alpha` would serve both.
    fn check_master(&self, master: &Master) -> Result<(), SuiteError> {
        (master.suite == self.suite).then_some(()).ok_or(SuiteError::OtherParams)
    }

    /// Whether key and parameters are of this suite and belong together.
    fn check(&self, params: &Params, key: &UserKey) -> Result<(), SuiteError> {
        let fits =
            key.params_id() == params.id() && key.suite() == self.suite && params.suite() == self.suite;
        fits.then_some(()).ok_or(SuiteError::OtherParams)
    }

    /// Parameters from their material: an element of GT.
    fn check_params(&self, material: &[u8]) -> Option<Params> {
        Some(Params::new(self.suite, Gt::from_bytes(material.try_into().ok()?)?))
    }
}

/// `g1`
static GENERATOR: LazyLock<Base> =
    LazyLock::new(|| Base::fixed(G1::generator().to_affine().expect("not the identity")));

/// Nothing here is the identity, unless a scalar made of 48 pseudorandom bytes is 0 or two meet.
const NOT_IDENTITY: &str = "a pseudorandom scalar is not 0";

/// `g2^scalar`
fn second(scalar: &Scalar) -> G2Affine {
    secret_g2(scalar).expect(NOT_IDENTITY)
}

/// None of the points is the identity.
fn present(points: Vec<Option<G1Affine>>) -> Vec<G1Affine> {
    points.into_iter().map(|point| point.expect(NOT_IDENTITY)).collect()
}

/// Points of G2, then points of G1, with room for `d`.
fn encode(g2: &[G2Affine], g1: &[G1Affine]) -> Vec<u8> {
    let mut out = Vec::with_capacity(G2_BYTES * g2.len() + G1_BYTES * g1.len() + MASKED_BYTES);
    g2.iter().for_each(|point| out.extend_from_slice(&point.to_bytes()));
    g1.iter().for_each(|point| out.extend_from_slice(&point.to_bytes()));
    out
}

fn alpha(master: &Master) -> Scalar {
    Scalar::from_bytes(master.expose().expose()).expect("setup makes scalars")
}
