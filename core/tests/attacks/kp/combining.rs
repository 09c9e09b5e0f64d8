//! Whoever combines rows, keys and labels opens nothing that one key does not.

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use smqtt_core::Access;
use smqtt_core::attribute::{Attribute, Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Labels, Master, Params, Scope, SuiteError, UserKey};

use super::{Sealed, access, alpha, labels, set, setup};
use crate::common::linear::{Matrix, Row, solve, spans};
use crate::common::random::Rng;
use crate::common::witness::{self, shared_element};
use crate::common::witness_kp::{self, Encapsulation, Key, KeyCoins};
use crate::common::{kp, policy, suite};
use crate::{CONTEXT, M};

/// Linear algebra and `satisfied_by` agree: the hash of a label that nothing is sealed under goes away only where
/// its rows cancel, and `alpha` is in no combination of the rest unless they satisfy the policy.
#[test]
fn no_combination_of_rows_opens_where_the_labels_do_not_satisfy_the_key() {
    let mut rng = Rng(22);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..120 {
        let (policy, attributes) = (rng.policy(3), rng.attributes());
        let access = policy.access(&Versions::default(), 7);
        let matrix = Matrix::of(&access);
        let labels: Labels = attributes.labels(&Versions::default(), 7).into();
        let found = matrix.attack(&set(&labels), |row| row.occurrence);
        assert_eq!(found.is_some(), policy.satisfied_by(&attributes), "{policy} for {attributes}");
        (opened, refused) = (opened + u32::from(found.is_some()), refused + u32::from(found.is_none()));
        if round % 12 != 0 {
            continue;
        }
        let sealed = Sealed::new(labels);
        let key = sealed.key_for(&access, 7, 3);
        let result = sealed.open(&key, &sealed.bytes);
        match found {
            Some(omega) => {
                assert!(sealed.recovers(&Key::parse(&key, &matrix), &matrix, &omega));
                assert_eq!(result.as_ref(), Ok(&sealed.secret));
            }
            None => assert_eq!(result, Err(SuiteError::NotSatisfied)),
        }
    }
    assert!(opened > 20 && refused > 20, "both sides are tried: {opened} and {refused}");
}

/// Rows that do not suffice are rows of a key for any other `alpha` as well: whoever has them, and takes every hash
/// off, has learnt nothing.
#[test]
fn fewer_rows_than_a_key_needs_know_nothing_of_alpha() {
    let mut rng = Rng(23);
    let (params, _) = setup(1);
    let (mut tried, mut on_points) = (0, 0);
    while tried < 60 {
        let access = rng.policy(3).access(&Versions::default(), 7);
        let matrix = Matrix::of(&access);
        let known: Vec<usize> = (0..matrix.rows.len()).filter(|_| rng.below(3) != 0).collect();
        let forms: Vec<_> = known.iter().map(|i| &matrix.rows[*i].form).collect();
        if spans(&forms, &vec![Scalar::one()]) {
            continue;
        }
        tried += 1;
        let coins = KeyCoins::derive(alpha(), params.id(), 7, &access, &[4; 32]);
        let shares = matrix.shares(&coins.values);
        // Other values, with another alpha, and the same shares in these rows.
        let mut other = coins.clone();
        other.values[0] += Scalar::from(tried);
        let equations = known.iter().map(|i| {
            let form = &matrix.rows[*i].form;
            let at = |column: usize| form.get(column).copied().unwrap_or_default();
            let drawn = (1..=matrix.draws).map(at);
            drawn.chain([shares[*i] - at(0) * other.values[0]]).collect::<Vec<_>>()
        });
        let drawn = solve(equations.collect(), matrix.draws).expect("there are such values");
        other.values[1..].copy_from_slice(&drawn);
        let again = matrix.shares(&other.values);
        assert!(known.iter().all(|i| again[*i] == shares[*i]));
        assert_ne!(again, shares, "but in the others");
        if on_points < 4 && !known.is_empty() {
            on_points += 1;
            let (first, second) = (Key::honest(&matrix, &coins), Key::honest(&matrix, &other));
            assert!(known.iter().all(|i| first.k2[*i] == second.k2[*i]));
            assert!(first.k2 != second.k2 && first.k1 == second.k1);
        }
    }
    // What the broken sharing does, where the first child of `and` gets the value itself.
    let value = vec![Scalar::one()];
    assert!(spans(&[&value.clone()], &value), "the check above notices a child that got it all");
}

/// The same on the bytes of a key: with the hashes taken off, every row has its share and none has `alpha`.
#[test]
fn rows_of_a_key_carry_the_shares_of_the_rules() {
    let sealed = Sealed::under("a");
    let formula = access("(a or b) and (c and d or a) and 2 of (a, e, f)", 7);
    let matrix = Matrix::of(&formula);
    let key = Key::parse(&sealed.key_for(&formula, 7, 2), &matrix);
    let coins = KeyCoins::derive(alpha(), sealed.params.id(), 7, &formula, &[2; 32]);
    let shares = matrix.shares(&coins.values);
    let whole = G1Projective::generator() * alpha();
    for (i, row) in matrix.rows.iter().enumerate() {
        let t = coins.per_occurrence[row.occurrence];
        let share = key.k2[i] - witness::hash(&row.label, witness_kp::LABEL_TAG) * t;
        assert_eq!(share, G1Projective::generator() * shares[i]);
        assert_ne!(share, whole, "row {i} has alpha itself");
        assert_eq!(key.k1[row.occurrence], G2Projective::generator() * t);
    }
    assert_eq!(key.k1.len(), 3, "`a` occurs three times");
    assert!(key.k1[0] != key.k1[1] && key.k1[1] != key.k1[2] && key.k1[0] != key.k1[2]);
}

/// "One use per label", on the key's side: a key for `a and (a or b)`, and something sealed under `b` alone.
#[test]
fn a_label_used_twice_does_not_cancel() {
    let sealed = Sealed::under("b");
    let formula = access("a and (a or b)", 7);
    let matrix = Matrix::of(&formula);
    let coins = KeyCoins::derive(alpha(), sealed.params.id(), 7, &formula, &[2; 32]);

    // The broken variant: one `t` for both occurrences. Rows: a, a, b, epoch.
    let broken = Key::make(&matrix, &coins, |_| 0);
    let omega = matrix.attack(&sealed.set, |_| 0).expect("the attack works on the broken variant");
    let by_hand = [Scalar::one(), -Scalar::one(), Scalar::from(2), Scalar::one()];
    for omega in [&omega[..], &by_hand] {
        assert_eq!(broken.combine(&matrix, &sealed.parsed, omega, |_| 0), sealed.shared());
        assert_eq!(sealed.parsed.unmask(&broken.combine(&matrix, &sealed.parsed, omega, |_| 0)), M);
    }

    // Ours: no such combination, and those give nothing, whichever K1 stands for the rows of `a`.
    let user = sealed.key("a and (a or b)", 2);
    let key = Key::parse(&user, &matrix);
    assert!(matrix.attack(&sealed.set, |row| row.occurrence).is_none());
    for omega in [&omega[..], &by_hand] {
        for randomness in [|_| 0, |_| 1, |i| usize::from(i == 1)] as [fn(usize) -> usize; 3] {
            assert_ne!(key.combine(&matrix, &sealed.parsed, omega, randomness), sealed.shared());
        }
        assert!(!sealed.recovers(&key, &matrix, omega));
    }
    assert_eq!(sealed.open(&user, &sealed.bytes), Err(SuiteError::NotSatisfied));
    // And with `a` it opens by either way.
    let with_a = Sealed::under("a");
    assert_eq!(with_a.open(&user, &with_a.bytes).as_ref(), Ok(&with_a.secret));
}

/// The rows of two keys as one attacker has them: `alpha` in common, all other values and randomness apart.
fn pooled(first: &Matrix, second: &Matrix) -> Matrix {
    let shifted = |row: &Row| {
        let mut form = row.form.clone();
        let tail = form.split_off(1);
        form.extend(vec![Scalar::zero(); first.draws].into_iter().chain(tail));
        Row { form, occurrence: row.occurrence + first.tau(), ..row.clone() }
    };
    let rows = first.rows.iter().cloned().chain(second.rows.iter().map(shifted)).collect();
    Matrix { rows, gates: vec![], draws: first.draws + second.draws }
}

/// Whatever two holders compute of all of their rows: it opens what one of them opens alone.
#[test]
fn no_combination_of_two_keys_opens_what_neither_does() {
    let mut rng = Rng(24);
    let (mut neither, mut fatal) = (0, 0);
    for _ in 0..150 {
        let (first, second, attributes) = (rng.policy(2), rng.policy(2), rng.attributes());
        let of = |policy: &smqtt_core::policy::Policy| Matrix::of(&policy.access(&Versions::default(), 7));
        let both = pooled(&of(&first), &of(&second));
        let held = set(&attributes.labels(&Versions::default(), 7).into());
        let found = both.attack(&held, |row| row.occurrence);
        let alone = first.satisfied_by(&attributes) || second.satisfied_by(&attributes);
        assert_eq!(found.is_some(), alone, "{first}; {second}; for {attributes}");
        neither += u32::from(!alone);
        // One `t` for both holders.
        fatal += u32::from(!alone && both.attack(&held, |_| 0).is_some());
    }
    assert!(neither > 40, "only {neither} are of interest");
    assert!(fatal > 3, "only {fatal} would show what one randomness for two keys does");
}

/// Two holders against what neither opens, on the bytes and through the front door: rows of the one with K1 and
/// rows of the other.
#[test]
fn spliced_keys_do_not_open() {
    let sealed = Sealed::under("a, c");
    let formula = access("a and b and c", 7);
    let matrix = Matrix::of(&formula);
    let (first, second) = (sealed.key("a and b", 2), sealed.key("b and c", 3));
    for key in [&first, &second] {
        assert_eq!(sealed.open(key, &sealed.bytes), Err(SuiteError::NotSatisfied));
    }
    // Any key material at all: rows of a, b, epoch; b, c, epoch.
    let two = Matrix::of(&access("a and b", 7));
    let (one, other) = (Key::parse(&first, &two), Key::parse(&second, &two));
    let target = access("a and c", 7);
    let wanted = Matrix::of(&target);
    let all_ones = vec![Scalar::one(); 3];
    for k1 in [one.k1[0], other.k1[0], one.k1[0] + other.k1[0]] {
        for a in [one.k2[0], one.k2[0] + other.k2[0] - other.k2[1], one.k2[1]] {
            for epoch in [one.k2[2], other.k2[2]] {
                let spliced = Key { k1: vec![k1], k2: vec![a, other.k2[1], epoch] };
                assert!(!sealed.recovers(&spliced, &wanted, &all_ones));
                let bytes = spliced.encode(sealed.params.id(), 7, &target);
                let key = UserKey::decode(&bytes).expect("every point is in its group");
                sealed.refuses(&key, &sealed.bytes, "a spliced key");
            }
        }
    }
    // Two keys of one policy: each opens alone, rows of the one with K1 or a row of the other do not.
    let sealed = Sealed::under("a, b, c");
    let (first, second) = (sealed.key("a and b and c", 2), sealed.key("a and b and c", 3));
    let (one, other) = (Key::parse(&first, &matrix), Key::parse(&second, &matrix));
    for (choice, k1) in [(1..15u32, &one.k1), (0..15, &other.k1)] {
        for choice in choice {
            let k2: Vec<_> =
                (0..4).map(|i| if choice >> i & 1 == 1 { other.k2[i] } else { one.k2[i] }).collect();
            let spliced = Key { k1: k1.clone(), k2 };
            assert!(!sealed.recovers(&spliced, &matrix, &[Scalar::one(); 4]), "choice {choice}");
        }
    }
    for key in [&first, &second] {
        assert_eq!(sealed.open(key, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    }
    let mixed = Key { k1: other.k1.clone(), k2: one.k2.clone() }.encode(sealed.params.id(), 7, &formula);
    sealed.refuses(&UserKey::decode(&mixed).unwrap(), &sealed.bytes, "rows of key 1, K1 of key 2");
    // The mean of two keys is a key, for the same policy and no other.
    let half = Scalar::from(2).invert().unwrap();
    let mean = Key {
        k1: vec![(one.k1[0] + other.k1[0]) * half],
        k2: one.k2.iter().zip(&other.k2).map(|(a, b)| (a + b) * half).collect(),
    };
    assert!(sealed.recovers(&mean, &matrix, &[Scalar::one(); 4]));
}

/// Coins that repeat, by a fault of the authority's: the policy and the epoch go into what is drawn, so that two
/// holders still have nothing in common.
#[test]
fn keys_made_of_the_same_coins_do_not_combine() {
    let sealed = Sealed::under("a, c");
    let (left, right) = (access("a and b", 7), access("b and c", 7));
    let matrix = Matrix::of(&left);
    let target = Matrix::of(&access("a and c", 7));
    let ones = vec![Scalar::one(); 3];
    // v_1 stands in the row of a, v_2 in that of c.
    let splice = |first: &Key, second: &Key| Key {
        k1: first.k1.clone(),
        k2: vec![first.k2[0], second.k2[1], first.k2[2]],
    };
    let (first, second) = (sealed.key_for(&left, 7, 2), sealed.key_for(&right, 7, 2));
    let (one, other) = (Key::parse(&first, &matrix), Key::parse(&second, &matrix));
    assert!(!sealed.recovers(&splice(&one, &other), &target, &ones));
    assert!(!sealed.recovers(&splice(&other, &one), &target, &ones));

    // The broken variant: the coins decide alone.
    let coins = KeyCoins::derive(alpha(), sealed.params.id(), 7, &left, &[2; 32]);
    let (one, other) = (Key::honest(&matrix, &coins), Key::honest(&Matrix::of(&right), &coins));
    assert!(sealed.recovers(&splice(&one, &other), &target, &ones), "the attack works on the broken variant");

    // Nothing in common with any of these.
    let points = |key: &UserKey, access: &Access| {
        let key = Key::parse(key, &Matrix::of(access));
        let k1 = key.k1.iter().map(|point| G2Affine::from(point).to_compressed().to_vec());
        k1.chain(key.k2.iter().map(|p| G1Affine::from(p).to_compressed().to_vec())).collect::<Vec<_>>()
    };
    let of_first = points(&first, &left);
    assert_eq!(of_first, points(&sealed.key_for(&left, 7, 2), &left), "the coins decide everything else");
    let (_, foreign) = setup(9);
    let foreign = kp().keygen(&foreign, 7, &Scope::Policy(left.clone()), &Secret32::new([2; 32])).unwrap();
    for (what, key, access) in [
        ("another policy", second, right),
        ("another order", sealed.key("b and a", 2), access("b and a", 7)),
        ("another gate", sealed.key("a or b", 2), access("a or b", 7)),
        ("another epoch", sealed.key_for(&access("a and b", 8), 8, 2), access("a and b", 8)),
        ("another number of the epoch alone", sealed.key_for(&left, 8, 2), left.clone()),
        ("other parameters", foreign, left),
    ] {
        assert!(points(&key, &access).iter().all(|point| !of_first.contains(point)), "{what}");
    }
}

/// A key of another epoch or version is a key for another label, and renaming the label does not help.
#[test]
fn keys_of_other_epochs_versions_and_parameters_do_not_open() {
    let sealed = Sealed::under("role=nurse");
    let right = sealed.key("role=nurse", 2);
    assert_eq!(sealed.open(&right, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    for epoch in [0, 6, 8, u64::MAX] {
        let key = sealed.key_for(&access("role=nurse", epoch), epoch, 2);
        assert_eq!(sealed.open(&key, &sealed.bytes), Err(SuiteError::NotSatisfied));
        let renamed = sealed.relabelled(&key, &access("role=nurse", 7));
        sealed.refuses(&renamed, &sealed.bytes, "a key of another epoch, renamed");
    }
    // The number is a note for the holder.
    let noted = sealed.key_for(&access("role=nurse", 7), 99, 2);
    assert_eq!((noted.epoch(), sealed.open(&noted, &sealed.bytes).as_ref()), (99, Ok(&sealed.secret)));

    let nurse: Attribute = "role=nurse".parse().unwrap();
    let mut versions = Versions::default();
    versions.raise(&nurse).unwrap();
    let raised = policy("role=nurse").access(&versions, 7);
    let key = sealed.key_for(&raised, 7, 2);
    assert_eq!(sealed.open(&key, &sealed.bytes), Err(SuiteError::NotSatisfied));
    sealed.refuses(&sealed.relabelled(&key, &access("role=nurse", 7)), &sealed.bytes, "renamed");
    // And the revoked device's old key against what is sealed from now on.
    let now = Sealed::new("role=nurse".parse::<Attributes>().unwrap().labels(&versions, 7).into());
    assert_eq!(now.open(&right, &now.bytes), Err(SuiteError::NotSatisfied));
    now.refuses(&now.relabelled(&right, &raised), &now.bytes, "renamed");
    assert_eq!(now.open(&key, &now.bytes).as_ref(), Ok(&now.secret));

    let (other_params, other_master) = setup(9);
    let scope = Scope::Policy(access("role=nurse", 7));
    let foreign = kp().keygen(&other_master, 7, &scope, &Secret32::new([2; 32])).unwrap();
    assert_eq!(sealed.open(&foreign, &sealed.bytes), Err(SuiteError::OtherParams));
    let matrix = Matrix::of(&access("role=nurse", 7));
    assert!(!sealed.recovers(&Key::parse(&foreign, &matrix), &matrix, &[Scalar::one(); 2]));
    let scope = Scope::Labels(sealed.labels.clone());
    let opened = kp().decapsulate(&other_params, &foreign, &scope, CONTEXT, &sealed.bytes);
    assert_eq!(opened, Err(SuiteError::Inconsistent), "under the other parameters altogether");
}

/// Both suites with one `alpha`, as no setup makes them: tags keep them apart, and what they would do with one tag.
#[test]
fn the_two_suites_do_not_meet_even_with_one_alpha() {
    let (cp_params, cp_master) = crate::common::setup(1);
    let mut encoded = cp_params.encode();
    encoded[2..10].copy_from_slice(b"fabeo-kp");
    let params = Params::decode(&encoded).unwrap();
    assert_ne!(params.id(), cp_params.id());
    let master = Master::new(&params, cp_master.expose().clone());
    let coins = Secret32::new([2; 32]);
    let (policy_scope, labels_scope) = (Scope::Policy(access("a", 7)), Scope::Labels(labels("a", 7)));
    let cp_key = suite().keygen(&cp_master, 7, &labels_scope, &coins).unwrap();
    let kp_key = kp().keygen(&master, 7, &policy_scope, &coins).unwrap();
    let (cp_sealed, _) = suite().encapsulate(&cp_params, &policy_scope, CONTEXT, &Secret32::new(M)).unwrap();
    let (kp_sealed, secret) = kp().encapsulate(&params, &labels_scope, CONTEXT, &Secret32::new(M)).unwrap();
    let opened = kp().decapsulate(&params, &kp_key, &labels_scope, CONTEXT, &kp_sealed);
    assert_eq!(opened, Ok(secret));

    // The front door, whoever asks for what.
    use SuiteError::{OtherKind, OtherParams};
    for (who, params, key) in [(suite(), &cp_params, &kp_key), (kp(), &params, &cp_key)] {
        for (scope, bytes) in [(&policy_scope, &cp_sealed), (&labels_scope, &kp_sealed)] {
            assert_eq!(who.decapsulate(params, key, scope, CONTEXT, bytes), Err(OtherParams));
        }
    }
    let opened = |s: &dyn smqtt_core::suite::Suite, p, k, scope, b| s.decapsulate(p, k, scope, CONTEXT, b);
    assert_eq!(opened(suite(), &cp_params, &cp_key, &labels_scope, &kp_sealed), Err(OtherKind));
    assert_eq!(opened(kp(), &params, &kp_key, &policy_scope, &cp_sealed), Err(OtherKind));
    assert_eq!(opened(suite(), &params, &kp_key, &labels_scope, &kp_sealed), Err(OtherParams));
    assert_eq!(opened(kp(), &cp_params, &cp_key, &policy_scope, &cp_sealed), Err(OtherParams));
    for (suite, own, other, fits, not) in [
        (suite(), &cp_params, &params, &policy_scope, &labels_scope),
        (kp(), &params, &cp_params, &labels_scope, &policy_scope),
    ] {
        assert_eq!(suite.encapsulate(own, not, CONTEXT, &coins), Err(OtherKind));
        assert_eq!(suite.encapsulate(other, fits, CONTEXT, &coins), Err(OtherParams));
    }
    assert_eq!(suite().keygen(&cp_master, 7, &policy_scope, &coins).unwrap_err(), OtherKind);
    assert_eq!(kp().keygen(&master, 7, &labels_scope, &coins).unwrap_err(), OtherKind);
    assert_eq!(suite().keygen(&master, 7, &labels_scope, &coins).unwrap_err(), OtherParams);
    assert_eq!(kp().keygen(&cp_master, 7, &policy_scope, &coins).unwrap_err(), OtherParams);
    // A key's bytes under the other suite's name.
    for (key, name) in [(&cp_key, b"fabeo-kp"), (&kp_key, b"fabeo-cp")] {
        let mut bytes = key.encode().to_vec();
        bytes[2..10].copy_from_slice(name);
        assert!(UserKey::decode(&bytes).is_err());
    }

    // Or with the other parameters' id, written into them.
    let (kp_id, cp_id) = (params.id(), cp_params.id());
    for (who, params, key, id) in [(suite(), &cp_params, &kp_key, cp_id), (kp(), &params, &cp_key, kp_id)] {
        let mut bytes = key.encode().to_vec();
        bytes[11..27].copy_from_slice(id);
        let forged = UserKey::decode(&bytes).unwrap();
        assert_eq!(forged.params_id(), id);
        for (scope, bytes) in [(&policy_scope, &cp_sealed), (&labels_scope, &kp_sealed)] {
            assert_eq!(who.decapsulate(params, &forged, scope, CONTEXT, bytes), Err(OtherParams));
        }
    }

    // The equations. Whoever can name a label that hashes to `b` opens with any key of the other suite:
    // e(K3, C1) / e(C_u, K1) = e(g1^alpha b^t, g2^s) / e(b^s, g2^t).
    let key = witness::Key::parse(&cp_key);
    let held = set(&labels("a", 7));
    let s = witness_kp::s(params.id(), &held, &M);
    let shared = shared_element(&witness::alpha(&[1; 32]), &s);
    let parsed = Encapsulation::parse(&kp_sealed, &held);
    let meet = |row: G1Projective| witness::pairing(&[(key.k3, parsed.c1), (-row, key.k1)]);
    assert_eq!(meet(witness::b() * s), shared, "the attack works if a label hashes to `b`");
    for (label, row) in &parsed.rows {
        assert_ne!(meet(*row), shared);
        assert_ne!(witness::hash(label, witness_kp::LABEL_TAG), witness::hash(label, witness::LABEL_TAG));
    }
    assert_ne!(meet(witness::hash(b"b", witness_kp::LABEL_TAG) * s), shared);
    // A key of `fabeo-cp` has K_u = H(u)^t: with one tag that and C_u would be about the same points.
    for (label, point) in &key.labels {
        let with_own = witness::pairing(&[(*point, parsed.c1)]);
        assert_ne!(with_own, witness::pairing(&[(parsed.rows[label], key.k1)]), "two tags");
        let one_tag = witness::hash(label, witness::LABEL_TAG) * s;
        assert_eq!(with_own, witness::pairing(&[(one_tag, key.k1)]), "what one tag would do");
    }
}
