//! Whoever combines rows, keys and labels opens nothing that one key does not.

use std::collections::BTreeSet;

use bls12_381::{G1Affine, G1Projective, G2Projective, Scalar};
use smqtt_core::attribute::{Attribute, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Scope, SuiteError, UserKey};

use super::{Sealed, labels};
use crate::CONTEXT;
use crate::common::linear::{Matrix, spans};
use crate::common::random::Rng;
use crate::common::witness::{self, Encapsulation, Key};
use crate::common::{keygen, policy, setup, suite};

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
    let foreign = crate::common::key(&other_master, "role=nurse", 7, 2);
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
