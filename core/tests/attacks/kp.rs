//! `fabeo-kp`: something sealed under labels, taken apart; and that the witness agrees with it.

mod combining;
mod forging;
mod keys;

use std::collections::BTreeSet;

use bls12_381::Scalar;
use smqtt_core::Access;
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Labels, Master, Params, Scope, SuiteError, UserKey};

use crate::common::linear::Matrix;
use crate::common::random::Rng;
use crate::common::witness::{self, access_value, shared_element};
use crate::common::witness_kp::{self, Encapsulation, Key, KeyCoins, encode_key, fields};
use crate::common::{kp, policy};
use crate::{CONTEXT, M};

fn setup(coins: u8) -> (Params, Master) {
    kp().setup(&Secret32::new([coins; 32]))
}

fn alpha() -> Scalar {
    witness_kp::alpha(&[1; 32])
}

/// A policy's formula without versions.
fn access(text: &str, epoch: u64) -> Access {
    policy(text).access(&Versions::default(), epoch)
}

/// The labels of attributes written `a, b=1`, without versions.
fn labels(attributes: &str, epoch: u64) -> Labels {
    attributes.parse::<Attributes>().unwrap().labels(&Versions::default(), epoch).into()
}

fn set(labels: &Labels) -> BTreeSet<Vec<u8>> {
    labels.as_slice().iter().map(|label| label.as_bytes().to_vec()).collect()
}

/// Something sealed under labels, and everything the attacker could learn of it taken apart.
struct Sealed {
    params: Params,
    master: Master,
    labels: Labels,
    set: BTreeSet<Vec<u8>>,
    bytes: Vec<u8>,
    parsed: Encapsulation,
    s: Scalar,
    secret: Secret32,
}

impl Sealed {
    fn new(labels: Labels) -> Self {
        let (params, master) = setup(1);
        let scope = Scope::Labels(labels.clone());
        let (bytes, secret) = kp().encapsulate(&params, &scope, CONTEXT, &Secret32::new(M)).unwrap();
        let set = set(&labels);
        let parsed = Encapsulation::parse(&bytes, &set);
        let s = witness_kp::s(params.id(), &set, &M);
        Self { params, master, labels, set, bytes, parsed, s, secret }
    }

    /// Under attributes in epoch 7.
    fn under(attributes: &str) -> Self {
        Self::new(labels(attributes, 7))
    }

    fn key_for(&self, access: &Access, epoch: u64, coins: u8) -> UserKey {
        let scope = Scope::Policy(access.clone());
        kp().keygen(&self.master, epoch, &scope, &Secret32::new([coins; 32])).unwrap()
    }

    /// A key of epoch 7.
    fn key(&self, text: &str, coins: u8) -> UserKey {
        self.key_for(&access(text, 7), 7, coins)
    }

    fn open_under(&self, key: &UserKey, labels: &Labels, bytes: &[u8]) -> Result<Secret32, SuiteError> {
        kp().decapsulate(&self.params, key, &Scope::Labels(labels.clone()), CONTEXT, bytes)
    }

    fn open(&self, key: &UserKey, bytes: &[u8]) -> Result<Secret32, SuiteError> {
        self.open_under(key, &self.labels, bytes)
    }

    /// Refused, in the one way, by a key that opens the original.
    fn refuses(&self, key: &UserKey, bytes: &[u8], what: &str) {
        assert_eq!(self.open(key, bytes), Err(SuiteError::Inconsistent), "{what}");
    }

    /// Whether this key, combined with `omega`, gives the element that unmasks `m`.
    fn recovers(&self, key: &Key, matrix: &Matrix, omega: &[Scalar]) -> bool {
        let shared = key.combine(matrix, &self.parsed, omega, |i| matrix.rows[i].occurrence);
        self.parsed.unmask(&shared) == M
    }

    fn shared(&self) -> bls12_381::Gt {
        shared_element(&alpha(), &self.s)
    }

    /// The scope of a key replaced, its points kept.
    fn relabelled(&self, key: &UserKey, formula: &Access) -> UserKey {
        let [.., material] = fields(&key.encode());
        let formula = access_value(formula);
        let bytes = encode_key(self.params.id(), key.epoch(), formula, &material.into_bytes().unwrap());
        UserKey::decode(&bytes).expect("as many points, each of its group")
    }
}

#[test]
fn witness_makes_the_same_keys_and_encapsulations() {
    let (params, master) = setup(1);
    assert_eq!(master.expose().expose(), &witness::reversed(&alpha()));
    assert!(params.encode().ends_with(&witness::gt_bytes(&shared_element(&alpha(), &Scalar::one()))));
    assert!(params.encode().starts_with(b"\x82\x68fabeo-kp"));

    let mut rng = Rng(21);
    for round in 0..6u8 {
        let policy = if round == 5 { rng.policy_with_comparison(1) } else { rng.policy(3) };
        let access = policy.access(&Versions::default(), 7);
        let matrix = Matrix::of(&access);
        let sealed = Sealed::new(rng.attributes().labels(&Versions::default(), 7).into());
        let key = sealed.key_for(&access, 7, round);
        let coins = KeyCoins::derive(alpha(), params.id(), 7, &access, &[round; 32]);
        let made = Key::honest(&matrix, &coins);
        assert_eq!(made.encode(params.id(), 7, &access), *key.encode(), "{access:?}");
        assert_eq!(Key::parse(&key, &matrix), made);

        let again = Encapsulation::honest(&alpha(), params.id(), &sealed.set, &M);
        assert_eq!(again.bytes(), sealed.bytes);
        assert_eq!(&again.secret(&M, CONTEXT), sealed.secret.expose());
    }
}

#[test]
fn witness_opens_with_an_honest_key() {
    for (text, attributes) in [
        ("a", "a"),
        ("2 of (a, b, c and d, a or e)", "a"),
        ("2 of (a, b, c and d, a or e)", "b, c, d"),
        ("2 of (a, b, c and d, a or e)", "c, d, e"),
        ("a and (a or b) and 2 of (a, b, c)", "a, c"),
        ("n>=5", "n=6"),
    ] {
        let sealed = Sealed::under(attributes);
        let key = sealed.key(text, 2);
        assert_eq!(sealed.open(&key, &sealed.bytes).as_ref(), Ok(&sealed.secret));
        let matrix = Matrix::of(&access(text, 7));
        let omega = matrix.attack(&sealed.set, |row| row.occurrence).expect("they satisfy the policy");
        assert!(sealed.recovers(&Key::parse(&key, &matrix), &matrix, &omega), "{text} for {attributes}");
    }
}
