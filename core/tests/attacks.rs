//! Attacks on `fabeo-cp`, against its equations: an attacker who takes keys and encapsulations apart
//! and computes with them as it likes. Each attack once found on a library for attribute-based
//! encryption is here, and where it can be, next to a broken variant on which it works.

mod common;

use std::collections::BTreeSet;

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use common::linear::{Matrix, spans};
use common::random::Rng;
use common::small_order::{minus_one_in_gt, small_g1, small_g2};
use common::witness::{self, Coins, Encapsulation, Key};
use common::{key, keygen, policy, setup, suite};
use smqtt_core::Access;
use smqtt_core::attribute::{Attribute, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::Formula;
use smqtt_core::suite::{Master, Params, Scope, SuiteError, UserKey};

const CONTEXT: &[u8] = b"context";
const M: [u8; 32] = [0x5a; 32];

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

/// Linear algebra and `satisfied_by` agree, and a solution of the one opens the other's bytes.
#[test]
fn no_combination_of_rows_opens_what_a_key_does_not_satisfy() {
    let mut rng = Rng(2);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..400 {
        let policy = rng.policy(3);
        let attributes = rng.attributes();
        let access = policy.access(&Versions::default(), 7);
        let matrix = Matrix::of(&access);
        let held: BTreeSet<Vec<u8>> =
            attributes.labels(&Versions::default(), 7).iter().map(|l| l.as_bytes().to_vec()).collect();
        let found = matrix.attack(&held, |row| row.occurrence);
        assert_eq!(found.is_some(), policy.satisfied_by(&attributes), "{policy} with {attributes}");
        match found {
            Some(omega) if round % 20 == 0 => {
                let sealed = Sealed::new(access);
                let key = sealed.key(&attributes.to_string(), 7, 3);
                assert!(sealed.recovers(&Key::parse(&key), &omega), "{policy} with {attributes}");
            }
            Some(_) => opened += 1,
            None => refused += 1,
        }
    }
    assert!(opened > 50 && refused > 50, "both sides are tried: {opened} and {refused}");
}

/// circl's bug of 2022 to 2026: a child of a gate was handed the gate's own share.
#[test]
fn fewer_children_than_a_gate_needs_know_nothing_of_its_share() {
    let mut rng = Rng(3);
    for _ in 0..200 {
        let matrix = Matrix::of(&rng.policy(3).access(&Versions::default(), 7));
        for gate in matrix.gates.iter().filter(|gate| gate.children.len() <= 8) {
            for subset in 0u32..1 << gate.children.len() {
                let chosen: Vec<_> = (0..gate.children.len())
                    .filter(|i| subset >> i & 1 == 1)
                    .map(|i| &gate.children[i])
                    .collect();
                assert_eq!(spans(&chosen, &gate.value), chosen.len() >= gate.k);
            }
        }
    }
    // The broken sharing: the first child of `and` gets the value, the others something else.
    let value = vec![Scalar::one()];
    assert!(spans(&[&value.clone()], &value), "the check above notices a child that got it all");
}

/// The same on the bytes: with the hashes taken off, no row under an `and` is its parent's share.
#[test]
fn rows_on_the_wire_carry_the_shares_of_the_rules() {
    let sealed = Sealed::policy("(a or b) and (c and d or a) and 2 of (a, e, f)");
    let shares = sealed.matrix.shares(&sealed.coins.values);
    let whole = witness::b() * sealed.coins.s();
    for (i, row) in sealed.matrix.rows.iter().enumerate() {
        let hashed =
            witness::hash(&row.label, witness::LABEL_TAG) * sealed.coins.per_occurrence[row.occurrence];
        let share = sealed.parsed.c3[i] - hashed;
        assert_eq!(share, witness::b() * shares[i]);
        assert_ne!(share, whole, "row {i} has the secret itself");
    }
}

/// FABEO.md, "One use per label": a key for `b` alone against `a and (a or b)`.
#[test]
fn a_label_used_twice_does_not_cancel() {
    let sealed = Sealed::policy("a and (a or b)");
    let key = Key::parse(&sealed.key("b", 7, 2));
    let held = labels(&["b"], 7);
    assert_eq!(key.held(), held);
    let shared = witness::shared_element(&witness::alpha(&[1; 32]), sealed.coins.s());

    // The broken variant: one randomness for both occurrences. Rows: a, a, b, epoch.
    let broken = Encapsulation::make(&sealed.matrix, &sealed.coins, |_| 0);
    let omega = sealed.matrix.attack(&held, |_| 0).expect("the attack works on the broken variant");
    assert_eq!(key.combine(&sealed.matrix, &broken, &omega, |_| 0), shared);
    let two = Scalar::from(2);
    let by_hand = [Scalar::one(), -Scalar::one(), two, Scalar::one()];
    assert_eq!(key.combine(&sealed.matrix, &broken, &by_hand, |_| 0), shared);

    // Ours: no such combination, and that one gives nothing, whichever C2 stands for the rows of `a`.
    assert!(sealed.matrix.attack(&held, |row| row.occurrence).is_none());
    for omega in [&omega[..], &by_hand[..]] {
        assert_ne!(key.combine(&sealed.matrix, &sealed.parsed, omega, sealed.occurrence()), shared);
        assert_ne!(key.combine(&sealed.matrix, &sealed.parsed, omega, |_| 0), shared);
        assert_ne!(key.combine(&sealed.matrix, &sealed.parsed, omega, |_| 1), shared);
        assert!(!sealed.recovers(&key, omega));
    }
    assert_eq!(sealed.open(&sealed.key("b", 7, 2), &sealed.bytes), Err(SuiteError::NotSatisfied));
}

/// How often one randomness for all would have been fatal, and that ours never is.
#[test]
fn repeated_labels_would_be_fatal_with_one_randomness() {
    let mut rng = Rng(4);
    let mut broken = 0;
    for _ in 0..400 {
        let (policy, attributes) = (rng.policy(3), rng.attributes());
        if policy.satisfied_by(&attributes) {
            continue;
        }
        let matrix = Matrix::of(&policy.access(&Versions::default(), 7));
        let held = attributes.labels(&Versions::default(), 7).iter().map(|l| l.as_bytes().to_vec()).collect();
        assert!(matrix.attack(&held, |row| row.occurrence).is_none());
        broken += usize::from(matrix.attack(&held, |_| 0).is_some());
    }
    assert!(broken > 5, "only {broken} of the random policies show the difference");
}

/// Two holders, `a` and `b`, against `a and b`: every mixture of their key material.
#[test]
fn keys_of_two_holders_do_not_combine() {
    let sealed = Sealed::policy("a and b");
    let (first, second) = (Key::parse(&sealed.key("a", 7, 2)), Key::parse(&sealed.key("b", 7, 3)));
    let omega = vec![Scalar::one(); 3];
    let whole = Key::parse(&sealed.key("a, b", 7, 4));
    assert!(sealed.recovers(&whole, &omega), "one holder of both opens it");

    let both = [&first, &second];
    for choice in 0..16 {
        let pick = |bit: u32| both[(choice >> bit & 1) as usize];
        let mut spliced = Key { k1: pick(0).k1, k3: pick(1).k3, labels: first.labels.clone() };
        spliced.labels.extend(second.labels.clone());
        let epoch = Label::epoch(7).as_bytes().to_vec();
        spliced.labels.insert(epoch.clone(), pick(2).labels[&epoch]);
        assert!(!sealed.recovers(&spliced, &omega), "choice {choice}");
        // The sum of two keys is a key with the sum of the randomness, and alpha twice.
        let half = Scalar::from(2).invert().unwrap();
        let sum = Key {
            k1: (first.k1 + second.k1) * half,
            k3: (first.k3 + second.k3) * half,
            labels: spliced.labels.clone(),
        };
        assert!(!sealed.recovers(&sum, &omega));
    }
    assert_eq!(sealed.open(&sealed.key("a", 7, 2), &sealed.bytes), Err(SuiteError::NotSatisfied));
}

/// The same through the front door: labels of one key over the material of another.
#[test]
fn a_spliced_key_does_not_open() {
    let sealed = Sealed::policy("a and b");
    let (a, b) = (sealed.key("a", 7, 2), sealed.key("b", 7, 3));
    let whole = sealed.key("a, b", 7, 4).encode();
    let (a, b) = (a.encode(), b.encode());
    let material = |key: &[u8], labels: usize| key[key.len() - (96 + 48 * (1 + labels))..].to_vec();
    let (of_a, of_b) = (material(&a, 2), material(&b, 2));
    let head = &whole[..whole.len() - (96 + 48 * 4)];
    // Labels in order: a, b, epoch.
    let rows = [&of_a[144..192], &of_b[144..192], &of_a[192..]].concat();
    for (k1, k3) in
        [(&of_a[..96], &of_a[96..144]), (&of_b[..96], &of_b[96..144]), (&of_a[..96], &of_b[96..144])]
    {
        let spliced = UserKey::decode(&[head, k1, k3, &rows].concat()).expect("every point is in its group");
        assert_eq!(sealed.open(&spliced, &sealed.bytes), Err(SuiteError::Inconsistent));
    }
}

/// Coins that repeat, by a fault of the authority's: what the key is for goes into its randomness, so that two
/// holders still have none in common.
#[test]
fn keys_made_of_the_same_coins_do_not_combine() {
    let sealed = Sealed::policy("a and b");
    let (of_a, of_b) = (sealed.key("a", 7, 2), sealed.key("b", 7, 2));
    let (first, second) = (Key::parse(&of_a), Key::parse(&of_b));
    let omega = vec![Scalar::one(); 3];
    let splice = |first: &Key, second: &Key| {
        let mut spliced = first.clone();
        spliced.labels.extend(second.labels.clone());
        spliced.labels.extend(first.labels.clone());
        spliced
    };
    assert!(!sealed.recovers(&splice(&first, &second), &omega));
    assert!(!sealed.recovers(&splice(&second, &first), &omega));

    // The broken variant: the coins decide alone, so that both holders have one `t`.
    let (alpha, t) = (witness::alpha(&[1; 32]), witness::scalar([2; 48]));
    let broken = |held: BTreeSet<Vec<u8>>| Key {
        k1: G2Projective::generator() * t,
        k3: G1Projective::generator() * alpha + witness::b() * t,
        labels: held.into_iter().map(|u| (u.clone(), witness::hash(&u, witness::LABEL_TAG) * t)).collect(),
    };
    let (first, second) = (broken(first.held()), broken(second.held()));
    assert!(sealed.recovers(&splice(&first, &second), &omega), "the attack works on the broken variant");
}

/// A key of another epoch or version is a key for another label, and renaming the label does not help.
#[test]
fn keys_of_other_epochs_versions_and_parameters_do_not_open() {
    let sealed = Sealed::policy("role=nurse");
    let right = sealed.key("role=nurse", 7, 2);
    assert!(sealed.open(&right, &sealed.bytes).is_ok());
    for epoch in [0, 6, 8, u64::MAX] {
        let key = sealed.key("role=nurse", epoch, 2);
        assert_eq!(sealed.open(&key, &sealed.bytes), Err(SuiteError::NotSatisfied));
        sealed.forced(&key, &Label::epoch(epoch), &Label::epoch(7));
    }

    let nurse: Attribute = "role=nurse".parse().unwrap();
    let mut versions = Versions::default();
    versions.raise(&nurse).unwrap();
    let labels = [Label::attribute(&nurse, 1), Label::epoch(7)];
    let key = keygen(&sealed.master, 7, &labels, &Secret32::new([2; 32]));
    assert_eq!(sealed.open(&key, &sealed.bytes), Err(SuiteError::NotSatisfied));
    sealed.forced(&key, &labels[0], &Label::attribute(&nurse, 0));
    // And the revoked device's old key against what is sealed from now on.
    let raised = Sealed::new(policy("role=nurse").access(&versions, 7));
    assert_eq!(raised.open(&right, &raised.bytes), Err(SuiteError::NotSatisfied));
    raised.forced(&right, &Label::attribute(&nurse, 0), &labels[0]);

    let (other_params, other_master) = setup(9);
    let foreign = common::key(&other_master, "role=nurse", 7, 2);
    assert_eq!(sealed.open(&foreign, &sealed.bytes), Err(SuiteError::OtherParams));
    let omega = vec![Scalar::one(); 2];
    assert!(!sealed.recovers(&Key::parse(&foreign), &omega));
    let scope = &Scope::Policy(sealed.access.clone());
    let opened = suite().decapsulate(&other_params, &foreign, scope, CONTEXT, &sealed.bytes);
    assert_eq!(opened, Err(SuiteError::Inconsistent), "under the other parameters altogether");
}

impl Sealed {
    /// The holder of `key` pretends that its point for one label is that of another.
    fn forced(&self, key: &UserKey, from: &Label, to: &Label) {
        let mut key = Key::parse(key);
        let point = key.labels.remove(from.as_bytes()).unwrap();
        key.labels.insert(to.as_bytes().to_vec(), point);
        let omega = self.matrix.attack(&key.held(), |row| row.occurrence).expect("it looks satisfied");
        assert!(!self.recovers(&key, &omega));
    }
}

/// rabe's flaw: with `H(label) = g^known`, a key for any attribute opens everything. Ours hashes to
/// the curve (RFC 9380), and the witness finds the same points.
#[test]
fn labels_are_hashed_to_the_curve_under_a_tag_of_their_own() {
    let sealed = Sealed::policy("a");
    let key = Key::parse(&sealed.key("a, b, ward=3, \"é\"=\"x y\"", 7, 2));
    let t = witness::t(&[2; 32], sealed.params.id(), 7, &key.held()).invert().unwrap();
    assert_eq!(key.labels.len(), 4 + 32 + 1);
    let mut seen = BTreeSet::new();
    for (label, point) in &key.labels {
        let hashed = point * t;
        assert_eq!(hashed, witness::hash(label, witness::LABEL_TAG));
        for other in [witness::B_TAG, b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_"] {
            assert_ne!(hashed, witness::hash(label, other), "tags separate");
        }
        // The shortcuts that libraries take: the label's hash as a scalar.
        let digest: [u8; 32] = witness::sha256(&[label]);
        let mut wide = [0; 48];
        wide[16..].copy_from_slice(&digest);
        assert_ne!(hashed, G1Projective::generator() * witness::scalar(wide));
        assert!(seen.insert(G1Affine::from(hashed).to_compressed()));
    }
    // `b` is no label's point, that of a label "b" included.
    let alpha = witness::alpha(&[1; 32]);
    assert_eq!((key.k3 - G1Projective::generator() * alpha) * t, witness::b());
    assert_ne!(witness::b(), witness::hash(b"b", witness::LABEL_TAG));
    assert!(!seen.contains(&G1Affine::from(witness::b()).to_compressed()));
}

#[test]
fn an_edited_scope_is_noticed() {
    let sealed = Sealed::policy("a and b and c");
    let key = sealed.key("a, b, c, d", 7, 2);
    assert!(sealed.open(&key, &sealed.bytes).is_ok());
    let v0 = Versions::default();
    let mut raised = Versions::default();
    raised.raise(&"a".parse().unwrap()).unwrap();
    let old_and_new = [key.labels(), &[Label::attribute(&"a".parse().unwrap(), 1), Label::epoch(8)]].concat();
    let strong = keygen(&sealed.master, 7, &old_and_new, &Secret32::new([2; 32]));
    let edits = [
        ("a label", policy("a and b and d").access(&v0, 7)),
        ("order", policy("b and a and c").access(&v0, 7)),
        (
            "a threshold",
            Formula::Threshold {
                k: 3,
                of: ["a", "b", "c"]
                    .map(|a| Formula::Leaf(Label::attribute(&a.parse().unwrap(), 0)))
                    .into_iter()
                    .chain([Formula::Leaf(Label::epoch(7))])
                    .collect(),
            },
        ),
        ("or for and", policy("a or b or c").access(&v0, 7)),
        ("the epoch", policy("a and b and c").access(&v0, 8)),
        ("a version", policy("a and b and c").access(&raised, 7)),
    ];
    for (what, access) in edits {
        for key in [&key, &strong] {
            let opened = suite().decapsulate(
                &sealed.params,
                key,
                &Scope::Policy(access.clone()),
                CONTEXT,
                &sealed.bytes,
            );
            assert!(
                matches!(
                    opened,
                    Err(SuiteError::Inconsistent | SuiteError::Malformed | SuiteError::NotSatisfied)
                ),
                "{what}"
            );
        }
        let opened = suite().decapsulate(
            &sealed.params,
            &strong,
            &Scope::Policy(access.clone()),
            CONTEXT,
            &sealed.bytes,
        );
        assert_ne!(opened, Err(SuiteError::NotSatisfied), "{what}: the strong key gets as far as the check");
    }
    let opened = suite().decapsulate(
        &sealed.params,
        &key,
        &Scope::Policy(sealed.access.clone()),
        b"else",
        &sealed.bytes,
    );
    assert_ne!(opened.unwrap(), sealed.secret, "the context is bound into the secret");
}

#[test]
fn every_flipped_bit_is_noticed() {
    // A row that the key does not use is among them.
    let sealed = Sealed::policy("a or b");
    let key = sealed.opener("a");
    for at in 0..sealed.bytes.len() {
        let mut bad = sealed.bytes.clone();
        bad[at] ^= 1 << (at % 8);
        sealed.refuses(&key, &bad, &format!("byte {at}"));
    }
}

#[test]
fn other_lengths_are_malformed() {
    let sealed = Sealed::policy("a or b");
    let key = sealed.key("a", 7, 2);
    for cut in 0..sealed.bytes.len() {
        assert_eq!(sealed.open(&key, &sealed.bytes[..cut]), Err(SuiteError::Malformed));
    }
    for more in [1, 32, 48, 96] {
        let longer = [&sealed.bytes[..], &vec![0; more]].concat();
        assert_eq!(sealed.open(&key, &longer), Err(SuiteError::Malformed));
    }
    // As many bytes, but for another count of rows: two rows stand where a C2 should.
    let (a, twice) = (Sealed::policy("a and b and c and d"), Sealed::policy("a and a"));
    assert_eq!(a.bytes.len(), twice.bytes.len());
    let key = a.key("a, b, c, d", 7, 2);
    assert_eq!(twice.open(&key, &a.bytes), Err(SuiteError::Inconsistent));
}

/// An attacker multiplies `C` by a valid encapsulation of nothing: still the right shape, with the
/// shared element moved by a known factor.
#[test]
fn rerandomised_encapsulations_are_refused() {
    let sealed = Sealed::policy("a and (b or c)");
    let key = sealed.opener("a, b");
    let alpha = witness::alpha(&[1; 32]);
    for delta in [0u64, 1, 5] {
        let mut change = Coins::derive(&[0; 16], &sealed.access, &[9; 32]);
        change.values[0] = Scalar::from(delta);
        let factor = Encapsulation::honest(&sealed.matrix, &change);
        let moved = Encapsulation {
            c1: sealed.parsed.c1 + factor.c1,
            c2: sealed.parsed.c2.iter().zip(&factor.c2).map(|(a, b)| a + b).collect(),
            c3: sealed.parsed.c3.iter().zip(&factor.c3).map(|(a, b)| a + b).collect(),
            d: sealed.parsed.d,
        };
        // It is an encapsulation in every equation: the key gets the shared element out of it.
        let s = sealed.coins.s() + Scalar::from(delta);
        let shared = witness::shared_element(&alpha, &s);
        let holder = Key::parse(&key);
        let omega = sealed.matrix.attack(&holder.held(), |row| row.occurrence).unwrap();
        assert_eq!(holder.combine(&sealed.matrix, &moved, &omega, sealed.occurrence()), shared);
        sealed.refuses(&key, &moved.bytes(), "with the old d");
        // A holder of a key can even mask `m` again, and is refused all the same.
        let remade = Encapsulation { d: witness::xor(&M, &moved.mask(&shared)), ..moved };
        assert_eq!(remade.unmask(&shared), M);
        assert_eq!(sealed.open(&key, &remade.bytes()), Err(SuiteError::Inconsistent));
    }
    // Another `m` in `d` with the same `C`.
    let other = Encapsulation { d: witness::xor(&sealed.parsed.d, &[1; 32]), ..sealed.parsed.clone() };
    assert_eq!(sealed.open(&key, &other.bytes()), Err(SuiteError::Inconsistent));
    // Rows, and the C2 with them, exchanged; rows of one encapsulation in another.
    let mut swapped = sealed.parsed.clone();
    swapped.c3.swap(1, 2);
    sealed.refuses(&key, &swapped.bytes(), "rows exchanged");
    let other = suite().encapsulate(
        &sealed.params,
        &Scope::Policy(sealed.access.clone()),
        CONTEXT,
        &Secret32::new([3; 32]),
    );
    let other = Encapsulation::parse(&other.unwrap().0, &sealed.matrix);
    for i in 0..sealed.parsed.c3.len() {
        let mut mixed = sealed.parsed.clone();
        mixed.c3[i] = other.c3[i];
        sealed.refuses(&key, &mixed.bytes(), "a row of another encapsulation");
    }
}

/// A check by a random combination of the rows would let these pass now and then, since the cofactor of
/// G1 is divisible by 3 and 11; comparing bytes never does.
#[test]
fn points_shifted_by_small_order_are_refused() {
    let sealed = Sealed::policy("a or b");
    let key = sealed.opener("a");
    let (small_g1, small_g2) = (small_g1(), small_g2());
    // (0, 2) and (0, -2).
    let three = small_g1[0];
    let mut by_hand = [0; 48];
    by_hand[0] = 0x80;
    assert!([three, -three].contains(&witness::g1(&by_hand)));
    let shifts =
        small_g1.iter().flat_map(|p| [*p, -p, p + small_g1[0]]).filter(|p| *p != G1Projective::identity());
    for (n, shift) in shifts.enumerate() {
        // The rows of a, of b (which the key does not use) and of the epoch.
        for i in 0..3 {
            let mut bad = sealed.parsed.clone();
            bad.c3[i] += shift;
            sealed.refuses(&key, &bad.bytes(), &format!("row {i}, shift {n}"));
        }
        let mut all = sealed.parsed.clone();
        all.c3.iter_mut().for_each(|row| *row += shift);
        sealed.refuses(&key, &all.bytes(), "every row");
        let mut cancelling = sealed.parsed.clone();
        (cancelling.c3[0], cancelling.c3[2]) = (cancelling.c3[0] + shift, cancelling.c3[2] - shift);
        sealed.refuses(&key, &cancelling.bytes(), "two rows whose shifts cancel");
    }
    for shift in &small_g2 {
        let mut bad = sealed.parsed.clone();
        bad.c1 += shift;
        sealed.refuses(&key, &bad.bytes(), "C1");
        let mut bad = sealed.parsed.clone();
        bad.c2[0] += shift;
        sealed.refuses(&key, &bad.bytes(), "C2");
    }
    // In place of a point altogether.
    for i in 0..3 {
        let mut bad = sealed.parsed.clone();
        bad.c3[i] = three;
        sealed.refuses(&key, &bad.bytes(), "a row of order 3");
    }
}

#[test]
fn what_is_no_point_of_the_group_is_refused() {
    let sealed = Sealed::policy("a or b");
    let key = sealed.opener("a");
    let points = [(0, 96), (96, 96), (192, 48), (240, 48), (288, 48)];
    assert_eq!(sealed.bytes.len(), 288 + 48 + 32);
    for (at, len) in points {
        let put = |what: &str, point: &dyn Fn(&mut [u8])| {
            let mut bad = sealed.bytes.clone();
            point(&mut bad[at..at + len]);
            if bad != sealed.bytes {
                sealed.refuses(&key, &bad, &format!("{what} at {at}"));
            }
        };
        put("infinity", &|p| {
            p.fill(0);
            p[0] = 0xc0;
        });
        put("infinity with a sign", &|p| {
            p.fill(0);
            p[0] = 0xe0;
        });
        put("infinity with a coordinate", &|p| p[0] |= 0x40);
        put("zeros", &|p| p.fill(0));
        put("the uncompressed form", &|p| p[0] &= 0x7f);
        put("the other sign", &|p| p[0] ^= 0x20);
        put("a coordinate above the modulus", &|p| {
            p.fill(0xff);
            p[0] = 0x9f;
        });
        // Half of all x are on no point of the curve, almost all others outside the group.
        for x in 0..16 {
            put("a small x", &|p| {
                p.fill(0);
                p[0] = 0x80;
                p[len - 1] = x;
            });
        }
    }
}

/// Keys and parameters are checked when they are read: what is no point of the group never gets near a pairing.
#[test]
fn keys_and_parameters_with_bad_points_do_not_decode() {
    let sealed = Sealed::policy("a");
    let key = sealed.key("a", 7, 2).encode();
    assert!(UserKey::decode(&key).is_ok());
    let material = key.len() - (96 + 48 * 3);
    let mut bad_points: Vec<[u8; 48]> =
        small_g1().iter().map(|p| G1Affine::from(p + witness::b()).to_compressed()).collect();
    bad_points.push(G1Affine::identity().to_compressed());
    for at in [material + 96, material + 144, material + 192] {
        for point in &bad_points {
            let mut bad = key.to_vec();
            bad[at..at + 48].copy_from_slice(point);
            assert!(UserKey::decode(&bad).is_err());
        }
    }
    let g2 = G2Projective::generator();
    for point in small_g2().iter().map(|p| p + g2).chain([G2Projective::identity()]) {
        let mut bad = key.to_vec();
        bad[material..material + 96].copy_from_slice(&G2Affine::from(point).to_compressed());
        assert!(UserKey::decode(&bad).is_err());
    }

    let params = sealed.params.encode();
    assert!(Params::decode(&params).is_ok());
    let y = params.len() - 576;
    for at in (y..params.len()).step_by(7) {
        let mut bad = params.clone();
        bad[at] ^= 1;
        assert!(Params::decode(&bad).is_err(), "outside the group of prime order");
    }
    let mut one = params.clone();
    one[y..].fill(0);
    one[y + 47] = 1;
    assert!(Params::decode(&one).is_err(), "with Y = 1 everybody knows every shared element");
    one[y + 47] = 0;
    assert!(Params::decode(&one).is_err(), "zero is in no group");
    let minus_one = [&params[..y], &minus_one_in_gt()].concat();
    assert!(Params::decode(&minus_one).is_err(), "-1 has order 2");
}

/// Gates within gates, far deeper than any policy may be: refused without using up the stack.
#[test]
fn ten_thousand_gates_deep_is_refused() {
    use smqtt_core::policy::{Policy, Template};
    for depth in [33, 10_000] {
        let text = format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        assert!(text.parse::<Policy>().is_err());
        let text = format!("{}a{}", "(b or (c and ".repeat(depth), "))".repeat(depth));
        assert!(text.parse::<Policy>().is_err());
        let text = format!("{}a{}", "1 of (".repeat(depth), ")".repeat(depth));
        assert!(text.parse::<Template>().is_err());
        for gate in [&[0x82, 3, 0x81][..], &[0x82, 4, 0x81], &[0x83, 5, 1, 0x81]] {
            let leaf = [0x83, 0, 0x61, b'a', 0xf6];
            let bytes = [&gate.repeat(depth)[..], &leaf].concat();
            assert!(Policy::decode(&bytes).is_err() && Template::decode(&bytes).is_err());
        }
    }
}
