//! `fabeo-cp`: something sealed under a policy, taken apart; and that the witness agrees with it.

mod combining;
mod forging;

use std::collections::BTreeSet;

use bls12_381::{G2Projective, Scalar};
use smqtt_core::Access;
use smqtt_core::attribute::{Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Master, Params, Scope, SuiteError, UserKey};

use crate::common::linear::Matrix;
use crate::common::random::Rng;
use crate::common::witness::{self, Coins, Encapsulation, Key};
use crate::common::{key, policy, setup, suite};
use crate::{CONTEXT, M};

/// A policy sealed, and everything the attacker could learn of it taken apart.
struct Sealed {
    params: Params,
    master: Master,
    access: Access,
    matrix: Matrix,
    bytes: Vec<u8>,
    parsed: Encapsulation,
    coins: Coins,
    secret: Secret32,
}

impl Sealed {
    fn new(access: Access) -> Self {
        let (params, master) = setup(1);
        let (bytes, secret) =
            suite().encapsulate(&params, &Scope::Policy(access.clone()), CONTEXT, &Secret32::new(M)).unwrap();
        let matrix = Matrix::of(&access);
        let parsed = Encapsulation::parse(&bytes, &matrix);
        let coins = Coins::derive(params.id(), &access, &M);
        Self { params, master, access, matrix, bytes, parsed, coins, secret }
    }

    fn policy(text: &str) -> Self {
        Self::new(policy(text).access(&Versions::default(), 7))
    }

    fn key(&self, attributes: &str, epoch: u64, coins: u8) -> UserKey {
        key(&self.master, attributes, epoch, coins)
    }

    fn open(&self, key: &UserKey, bytes: &[u8]) -> Result<Secret32, SuiteError> {
        suite().decapsulate(&self.params, key, &Scope::Policy(self.access.clone()), CONTEXT, bytes)
    }

    /// A key that opens the original.
    fn opener(&self, attributes: &str) -> UserKey {
        let key = self.key(attributes, 7, 2);
        assert_eq!(self.open(&key, &self.bytes).as_ref(), Ok(&self.secret));
        key
    }

    /// Refused in the one way: an answer that depends on which bytes are wrong would tell which rows the key uses.
    fn refuses(&self, key: &UserKey, bytes: &[u8], what: &str) {
        assert_eq!(self.open(key, bytes), Err(SuiteError::Inconsistent), "{what}");
    }

    fn occurrence(&self) -> impl Fn(usize) -> usize + '_ {
        |i| self.matrix.rows[i].occurrence
    }

    /// Whether this key, combined with `omega`, gives the element that unmasks `m`.
    fn recovers(&self, key: &Key, omega: &[Scalar]) -> bool {
        let shared = key.combine(&self.matrix, &self.parsed, omega, self.occurrence());
        self.parsed.unmask(&shared) == M
    }
}

fn labels(texts: &[&str], epoch: u64) -> BTreeSet<Vec<u8>> {
    let attributes = texts.iter().map(|t| Label::attribute(&t.parse().unwrap(), 0).as_bytes().to_vec());
    attributes.chain([Label::epoch(epoch).as_bytes().to_vec()]).collect()
}

#[test]
fn witness_makes_the_same_bytes() {
    let alpha = witness::alpha(&[1; 32]);
    let (params, master) = setup(1);
    assert_eq!(master.expose().expose(), &witness::reversed(&alpha));
    // blst's pairing is the witness's, power and coordinates alike.
    let y = witness::gt_bytes(&witness::shared_element(&alpha, &Scalar::one()));
    assert!(params.encode().ends_with(&y));

    let mut rng = Rng(1);
    for _ in 0..8 {
        let sealed = Sealed::new(rng.policy(3).access(&Versions::default(), 7));
        let mut again = Encapsulation::honest(&sealed.matrix, &sealed.coins);
        assert_eq!(again.c_bytes(), sealed.parsed.c_bytes(), "{:?}", sealed.access);
        let shared = witness::shared_element(&alpha, sealed.coins.s());
        again.d = witness::xor(&M, &again.mask(&shared));
        assert_eq!(again.bytes(), sealed.bytes);
        assert_eq!(&again.secret(&M, CONTEXT), sealed.secret.expose());
    }
}

#[test]
fn witness_opens_with_an_honest_key() {
    let sealed = Sealed::policy("2 of (a, b, c and d, a or e)");
    for attributes in ["a", "a, b", "b, c, d", "c, d, e"] {
        let key = Key::parse(&sealed.key(attributes, 7, 2));
        let omega = sealed.matrix.attack(&key.held(), |row| row.occurrence).expect("it satisfies the policy");
        assert!(sealed.recovers(&key, &omega), "{attributes}");
        let t = witness::t(&[2; 32], sealed.params.id(), 7, &key.held());
        assert_eq!(key.k1, G2Projective::generator() * t);
    }
}
