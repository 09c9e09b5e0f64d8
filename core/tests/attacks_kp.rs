//! Attacks on `fabeo-kp`, against its equations, as `attacks.rs` has them on `fabeo-cp`: an attacker who takes
//! keys and encapsulations apart and computes with them as it likes, and next to an attack, where it can be, the
//! broken variant on which it works.

mod common;

use std::collections::BTreeSet;

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use ciborium::Value;
use common::linear::{Matrix, Row, solve, spans};
use common::random::Rng;
use common::small_order::{minus_one_in_gt, small_g1, small_g2};
use common::witness::{self, access_value, shared_element};
use common::witness_kp::{self, Encapsulation, Key, KeyCoins, encode_key, fields};
use common::{cose, kp, policy, suite};
use smqtt_core::Access;
use smqtt_core::attribute::{Attribute, Attributes, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::Formula;
use smqtt_core::policy::{ACCESS_DEPTH_MAX, ACCESS_LEAVES_MAX};
use smqtt_core::suite::{Labels, Master, Params, Scope, SuiteError, SuiteId, UserKey};

const CONTEXT: &[u8] = b"context";
const M: [u8; 32] = [0x5a; 32];

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
    let (cp_params, cp_master) = common::setup(1);
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

#[test]
fn an_edited_list_of_labels_is_noticed() {
    let sealed = Sealed::under("a, b, c");
    // One key that the labels satisfy before and after, as far as any do.
    let strong = sealed.key("a or b or c or d or e", 2);
    assert_eq!(sealed.open(&strong, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    let mut raised = Versions::default();
    raised.raise(&"b".parse().unwrap()).unwrap();
    let raised: Labels = "a, b, c".parse::<Attributes>().unwrap().labels(&raised, 7).into();
    use SuiteError::{Inconsistent, Malformed, NotSatisfied};
    for (what, edited, error) in [
        ("added", labels("a, b, c, d", 7), Malformed),
        ("removed", labels("a, b", 7), Malformed),
        ("exchanged", labels("a, b, d", 7), Inconsistent),
        ("another exchanged", labels("d, b, c", 7), Inconsistent),
        ("all exchanged", labels("d, e, f", 7), Inconsistent),
        ("a version", raised, Inconsistent),
        ("the epoch", labels("a, b, c", 8), NotSatisfied),
        ("none", Labels::default(), Malformed),
    ] {
        assert_eq!(sealed.open_under(&strong, &edited, &sealed.bytes), Err(error), "{what}");
    }
    // As many labels, and the row that the key uses where it was: what the others say counts all the same.
    let key = sealed.key("a", 2);
    let edited = labels("a, b, d", 7);
    assert_eq!(sealed.open_under(&key, &edited, &sealed.bytes), Err(Inconsistent));
    // A list in another order is the same list; rows in another order are others.
    let mut reversed = sealed.labels.as_slice().to_vec();
    reversed.reverse();
    reversed.extend_from_within(..2);
    assert_eq!(sealed.open_under(&key, &reversed.into(), &sealed.bytes).as_ref(), Ok(&sealed.secret));
    // A key that was not meant gets nothing by an edited list.
    let other = sealed.key("d", 3);
    assert_eq!(sealed.open(&other, &sealed.bytes), Err(NotSatisfied));
    assert_eq!(sealed.open_under(&other, &labels("a, b, d", 7), &sealed.bytes), Err(Inconsistent));

    let scope = Scope::Labels(sealed.labels.clone());
    let opened = kp().decapsulate(&sealed.params, &key, &scope, b"else", &sealed.bytes);
    assert_ne!(opened.unwrap(), sealed.secret, "the context is bound into the secret");
}

/// C1, the rows of epoch, a and b, and `d`: which of the rows the key uses makes no difference.
#[test]
fn every_flipped_byte_is_noticed() {
    let sealed = Sealed::under("a, b");
    let key = sealed.key("a", 2);
    assert_eq!(sealed.bytes.len(), 96 + 3 * 48 + 32);
    assert!(sealed.open(&key, &sealed.bytes).is_ok());
    for at in 0..sealed.bytes.len() {
        let mut bad = sealed.bytes.clone();
        bad[at] ^= 1 << (at % 8);
        sealed.refuses(&key, &bad, &format!("byte {at}"));
    }
}

#[test]
fn other_lengths_are_malformed() {
    let sealed = Sealed::under("a, b");
    let key = sealed.key("a", 2);
    for cut in 0..sealed.bytes.len() {
        assert_eq!(sealed.open(&key, &sealed.bytes[..cut]), Err(SuiteError::Malformed));
    }
    for more in [1, 32, 48, 96] {
        let longer = [&sealed.bytes[..], &vec![0; more]].concat();
        assert_eq!(sealed.open(&key, &longer), Err(SuiteError::Malformed));
    }
}

/// Multiplying in an encapsulation of nothing, raising everything to a power, and parts of others.
#[test]
fn rerandomised_encapsulations_are_refused() {
    let sealed = Sealed::under("a, b");
    let key = sealed.key("a", 2);
    let matrix = Matrix::of(&access("a", 7));
    let holder = Key::parse(&key, &matrix);
    let ones = [Scalar::one(); 2];
    for (delta, power) in [(1u64, 1u64), (5, 1), (0, 2), (3, 7)] {
        let factor = Encapsulation::make(&sealed.set, &Scalar::from(delta));
        let mut moved = sealed.parsed.clone();
        moved.c1 = moved.c1 * Scalar::from(power) + factor.c1;
        for (label, row) in &mut moved.rows {
            *row = *row * Scalar::from(power) + factor.rows[label];
        }
        // It is an encapsulation in every equation: the key gets the shared element out of it.
        let s = sealed.s * Scalar::from(power) + Scalar::from(delta);
        let shared = shared_element(&alpha(), &s);
        assert_eq!(holder.combine(&matrix, &moved, &ones, |i| matrix.rows[i].occurrence), shared);
        sealed.refuses(&key, &moved.bytes(), "with the old d");
        moved.d = witness::xor(&M, &moved.mask(&shared));
        sealed.refuses(&key, &moved.bytes(), "`m` masked again");
    }
    // The coins of other labels, or of none, with these labels: right in every equation, and made by no one
    // who followed the suite.
    for s in [witness_kp::s(sealed.params.id(), &BTreeSet::new(), &M), Scalar::one(), -Scalar::one()] {
        let mut forged = Encapsulation::make(&sealed.set, &s);
        forged.d = witness::xor(&M, &forged.mask(&shared_element(&alpha(), &s)));
        sealed.refuses(&key, &forged.bytes(), "coins that are not those of `m`");
    }
    let mut other = sealed.parsed.clone();
    other.d = witness::xor(&other.d, &[1; 32]);
    sealed.refuses(&key, &other.bytes(), "another `m`");
    // Rows exchanged, in a label's place that of another, rows of another encapsulation.
    let scope = Scope::Labels(sealed.labels.clone());
    let (another, _) = kp().encapsulate(&sealed.params, &scope, CONTEXT, &Secret32::new([3; 32])).unwrap();
    for from in (96..240).step_by(48) {
        for to in (96..240).step_by(48).filter(|to| *to != from) {
            let mut bad = sealed.bytes.clone();
            bad.copy_within(from..from + 48, to);
            sealed.refuses(&key, &bad, "a row twice");
            bad[from..from + 48].copy_from_slice(&sealed.bytes[to..to + 48]);
            sealed.refuses(&key, &bad, "rows exchanged");
        }
        let mut bad = sealed.bytes.clone();
        bad[from..from + 48].copy_from_slice(&another[from..from + 48]);
        sealed.refuses(&key, &bad, "a row of another encapsulation");
    }
    let mut bad = sealed.bytes.clone();
    bad[..96].copy_from_slice(&another[..96]);
    sealed.refuses(&key, &bad, "C1 of another encapsulation");
}

/// A check by a random combination of the rows would let these pass now and then; comparing bytes never does.
#[test]
fn points_shifted_by_small_order_are_refused() {
    let sealed = Sealed::under("a, b");
    let key = sealed.key("a", 2);
    assert!(sealed.open(&key, &sealed.bytes).is_ok());
    let (small_g1, small_g2) = (small_g1(), small_g2());
    // (0, 2) and (0, -2).
    let three = small_g1[0];
    let mut by_hand = [0; 48];
    by_hand[0] = 0x80;
    assert!([three, -three].contains(&witness::g1(&by_hand)));
    let names: Vec<Vec<u8>> = sealed.set.iter().cloned().collect();
    let shifts = small_g1.iter().flat_map(|p| [*p, -p, p + three]).filter(|p| *p != G1Projective::identity());
    for (n, shift) in shifts.enumerate() {
        let with = |which: &[(usize, G1Projective)]| {
            let mut bad = sealed.parsed.clone();
            which.iter().for_each(|(i, shift)| *bad.rows.get_mut(&names[*i]).unwrap() += shift);
            bad.bytes()
        };
        for i in 0..3 {
            sealed.refuses(&key, &with(&[(i, shift)]), &format!("row {i}, shift {n}"));
        }
        sealed.refuses(&key, &with(&[(0, shift), (1, shift), (2, shift)]), "every row");
        sealed.refuses(&key, &with(&[(0, shift), (1, -shift)]), "two rows whose shifts cancel");
    }
    for shift in &small_g2 {
        for c1 in [sealed.parsed.c1 + shift, *shift] {
            sealed.refuses(&key, &Encapsulation { c1, ..sealed.parsed.clone() }.bytes(), "C1");
        }
    }
    for name in &names {
        let mut bad = sealed.parsed.clone();
        bad.rows.insert(name.clone(), three);
        sealed.refuses(&key, &bad.bytes(), "a row of order 3");
    }
    // All of it of small order: the Miller loop meets the identity on its way, and nothing worse happens.
    let mut bad = Encapsulation { c1: small_g2[0], ..sealed.parsed.clone() };
    bad.rows.values_mut().for_each(|row| *row = three);
    sealed.refuses(&key, &bad.bytes(), "nothing but points of small order");
    // Rows that cancel in the sum over a key's leaves: what is paired then is the identity.
    let both = sealed.key("a and b", 3);
    let mut bad = sealed.parsed.clone();
    let row = bad.rows[&names[0]];
    bad.rows.insert(names[1].clone(), -row);
    bad.rows.insert(names[2].clone(), G1Projective::generator());
    sealed.refuses(&both, &bad.bytes(), "two opposite rows");
    bad.rows.insert(names[1].clone(), row);
    sealed.refuses(&both, &bad.bytes(), "two equal rows");
}

#[test]
fn what_is_no_point_of_the_group_is_refused() {
    let sealed = Sealed::under("a, b");
    let key = sealed.key("a", 2);
    assert!(sealed.open(&key, &sealed.bytes).is_ok());
    for (at, len) in [(0, 96), (96, 48), (144, 48), (192, 48)] {
        let put = |what: &str, point: &dyn Fn(&mut [u8])| {
            let mut bad = sealed.bytes.clone();
            point(&mut bad[at..at + len]);
            assert_ne!(bad, sealed.bytes);
            sealed.refuses(&key, &bad, &format!("{what} at {at}"));
        };
        let filled = |head: u8, rest: u8, last: u8| {
            move |p: &mut [u8]| {
                p.fill(rest);
                p[0] = head;
                *p.last_mut().unwrap() = last;
            }
        };
        put("infinity", &filled(0xc0, 0, 0));
        put("infinity with a sign", &filled(0xe0, 0, 0));
        put("infinity with a coordinate", &|p| p[0] |= 0x40);
        put("zeros", &filled(0, 0, 0));
        put("the uncompressed form", &|p| p[0] &= 0x7f);
        put("the other sign", &|p| p[0] ^= 0x20);
        put("a coordinate above the modulus", &filled(0x9f, 0xff, 0xff));
        // Half of all x are on no point of the curve, almost all others outside the group.
        for x in 0..8 {
            put("a small x", &filled(0x80, 0, x));
        }
    }
}

#[test]
fn keys_and_parameters_with_bad_points_do_not_decode() {
    let sealed = Sealed::under("a");
    let key = sealed.key("a and (a or b)", 2).encode();
    assert!(UserKey::decode(&key).is_ok());
    // K1 of both occurrences, rows of a, a, b and the epoch.
    let material = key.len() - (2 * 96 + 4 * 48);
    let g1 = G1Projective::generator();
    let mut bad_points: Vec<[u8; 48]> =
        small_g1().iter().flat_map(|p| [*p, p + g1]).map(|p| G1Affine::from(p).to_compressed()).collect();
    bad_points.extend([G1Affine::identity().to_compressed(), [0; 48], [0xff; 48]]);
    for at in (0..4).map(|row| material + 2 * 96 + 48 * row) {
        for point in &bad_points {
            let mut bad = key.to_vec();
            bad[at..at + 48].copy_from_slice(point);
            assert!(UserKey::decode(&bad).is_err());
        }
    }
    let g2 = G2Projective::generator();
    for point in small_g2().iter().flat_map(|p| [*p, p + g2]).chain([G2Projective::identity()]) {
        for at in [material, material + 96] {
            let mut bad = key.to_vec();
            bad[at..at + 96].copy_from_slice(&G2Affine::from(point).to_compressed());
            assert!(UserKey::decode(&bad).is_err());
        }
    }
    let params = sealed.params.encode();
    assert!(Params::decode(&params).is_ok());
    let y = params.len() - 576;
    for at in (y..params.len()).step_by(31) {
        let mut bad = params.clone();
        bad[at] ^= 1;
        assert!(Params::decode(&bad).is_err(), "outside the group of prime order");
    }
    let mut one = params.clone();
    one[y..].fill(0);
    one[y + 47] = 1;
    assert!(Params::decode(&one).is_err(), "with Y = 1 everybody knows every shared element");
    assert!(Params::decode(&[&params[..y], &minus_one_in_gt()].concat()).is_err(), "-1 has order 2");
}

fn leaf(name: &str) -> Value {
    cose::bytes(Label::attribute(&name.parse().unwrap(), 0).as_bytes())
}

fn gate(tag: u8, of: Vec<Value>) -> Value {
    Value::Array(vec![tag.into(), Value::Array(of)])
}

fn threshold(k: u64, of: Vec<Value>) -> Value {
    Value::Array(vec![5.into(), k.into(), Value::Array(of)])
}

/// Every point of these keys is sound, and as many as the formula would ask for.
#[test]
fn keys_with_a_bad_formula_do_not_decode() {
    let sealed = Sealed::under("a");
    let id = sealed.params.id();
    let points = |g2s: usize, g1s: usize| {
        let k1 = G2Affine::generator().to_compressed().repeat(g2s);
        [k1, G1Affine::generator().to_compressed().repeat(g1s)].concat()
    };
    let decodes = |formula: &Value, g2s, g1s| {
        let bytes = encode_key(id, 7, formula.clone(), &points(g2s, g1s));
        UserKey::decode(&bytes).is_ok()
    };
    let abc = || vec![leaf("a"), leaf("b"), leaf("c")];
    // What is taken, so that the rest is refused for its formula alone.
    assert!(decodes(&leaf("a"), 1, 1));
    assert!(decodes(&gate(3, abc()), 1, 3) && decodes(&gate(4, abc()), 1, 3));
    assert!(decodes(&threshold(2, abc()), 1, 3));
    assert!(decodes(&gate(3, vec![leaf("a"), leaf("a"), leaf("b")]), 2, 3));
    let bad = [
        ("a gate without children", gate(3, vec![])),
        ("another without children", gate(4, vec![])),
        ("`0 of` nothing", threshold(0, vec![])),
        ("an empty gate among children", gate(3, [abc(), vec![gate(4, vec![])]].concat())),
        ("an `and` of one", gate(3, vec![leaf("a")])),
        ("an `or` of one", gate(4, vec![leaf("a")])),
        ("`1 of` one", threshold(1, vec![leaf("a")])),
        ("`0 of`", threshold(0, abc())),
        ("`1 of`, which is `or`", threshold(1, abc())),
        ("`3 of` three, which is `and`", threshold(3, abc())),
        ("`4 of` three", threshold(4, abc())),
        ("more than 32 bits", threshold(1 << 32, abc())),
        ("`and` in `and`", gate(3, vec![gate(3, vec![leaf("a"), leaf("b")]), leaf("c")])),
        ("`or` in `or`", gate(4, vec![gate(4, vec![leaf("a"), leaf("b")]), leaf("c")])),
        ("no such gate", gate(6, abc())),
        ("a leaf as a policy has it", Value::Array(vec![0.into(), "a".into(), Value::Null])),
        (
            "a gate with a count it has no use for",
            Value::Array(vec![3.into(), 2.into(), Value::Array(abc())]),
        ),
        ("a threshold without its count", gate(5, abc())),
        ("a gate of four fields", {
            Value::Array(vec![5.into(), 2.into(), Value::Array(abc()), Value::Null])
        }),
        ("an array of labels, as the other suite's keys have", Value::Array(abc())),
        ("bytes that are no label", gate(3, vec![leaf("a"), cose::bytes([0xff]), leaf("c")])),
        ("no bytes", gate(3, vec![leaf("a"), cose::bytes([]), leaf("c")])),
        ("a label in another spelling", {
            let mut label = Label::attribute(&"a".parse().unwrap(), 0).as_bytes().to_vec();
            label.splice(0..1, [0x98, 4]);
            gate(3, vec![leaf("a"), cose::bytes(label), leaf("c")])
        }),
        ("text for bytes", gate(3, vec!["a".into(), leaf("b"), leaf("c")])),
        ("nothing", Value::Null),
        ("a number", 3.into()),
        ("a map", Value::Map(vec![])),
    ];
    for (what, formula) in &bad {
        for (g2s, g1s) in [(1, 3), (1, 1), (0, 0), (1, 0), (0, 3), (1, 2), (1, 4)] {
            assert!(!decodes(formula, g2s, g1s), "{what}");
        }
    }
    // Wrong counts of points under a sound formula.
    for (g2s, g1s) in [(0, 0), (0, 3), (1, 2), (1, 4), (2, 1), (2, 3), (3, 3)] {
        assert!(!decodes(&gate(3, abc()), g2s, g1s));
    }
    for (g2s, g1s) in [(1, 3), (3, 3), (1, 5)] {
        assert!(!decodes(&gate(3, vec![leaf("a"), leaf("a"), leaf("b")]), g2s, g1s), "`a` occurs twice");
    }
    // As deep and as many as may be, and one more.
    let nested = |depth: usize| {
        (0..depth).fold(leaf("a"), |inner, at| gate(3 + (at % 2) as u8, vec![leaf("b"), inner]))
    };
    let occurrences = |depth: usize| if depth == 1 { 1 } else { depth };
    let deepest = ACCESS_DEPTH_MAX;
    assert!(decodes(&nested(deepest), occurrences(deepest), deepest + 1));
    assert!(!decodes(&nested(deepest + 1), deepest + 1, deepest + 2));
    let wide = |n: usize| gate(4, (0..n).map(|i| leaf(&format!("a={i}"))).collect());
    assert!(decodes(&wide(ACCESS_LEAVES_MAX), 1, ACCESS_LEAVES_MAX));
    assert!(!decodes(&wide(ACCESS_LEAVES_MAX + 1), 1, ACCESS_LEAVES_MAX + 1));
    let halves = gate(3, vec![wide(129), wide(129)]);
    assert!(!decodes(&halves, 2, 258), "counted over all gates");

    // Ten thousand gates deep: refused without using up the stack.
    let head = |formula: &[u8]| {
        [&[0x85, 0x68][..], b"fabeo-kp", &[0x50], id, &[7], formula, &[0x58, 144], &points(1, 1)].concat()
    };
    let inner = Label::attribute(&"a".parse().unwrap(), 0);
    let inner = [&[0x40 | inner.as_bytes().len() as u8], inner.as_bytes()].concat();
    assert!(UserKey::decode(&head(&inner)).is_ok());
    for depth in [ACCESS_DEPTH_MAX + 1, 10_000] {
        for gate in [&[0x82, 3, 0x81][..], &[0x82, 4, 0x81], &[0x83, 5, 1, 0x81]] {
            assert!(UserKey::decode(&head(&[&gate.repeat(depth)[..], &inner].concat())).is_err());
        }
    }
    // Heads that promise more than there is.
    for count in
        [&[0x98, 0xff][..], &[0x9a, 0xff, 0xff, 0xff, 0xff], &[0x9b, 0xff, 0, 0, 0, 0, 0, 0, 0], &[0x9f]]
    {
        assert!(UserKey::decode(&head(&[&[0x82, 3], count, &inner].concat())).is_err());
    }
}

/// Every way in which bytes of a key may be cut, doubled or changed: an answer, and one encoding.
#[test]
fn decoding_a_key_is_total() {
    let sealed = Sealed::under("a");
    let key = sealed.key("2 of (a, b, c) and (a or n>=4294967294)", 2).encode();
    let mut rng = Rng(25);
    for _ in 0..300 {
        let bad = rng.mutated(&key[..key.len().min(200)]);
        let bad = if rng.below(2) == 0 { [&bad[..], &key[key.len().min(200)..]].concat() } else { bad };
        if let Ok(other) = UserKey::decode(&bad) {
            assert_eq!(*other.encode(), bad);
            _ = sealed.open(&other, &sealed.bytes);
        }
    }
}

/// Scopes that no header and no authority makes, but a caller can.
#[test]
fn scopes_at_the_edges() {
    let sealed = Sealed::under("a");
    // A key whose formula is a single leaf: that row has alpha itself, behind its hash.
    let single = Formula::Leaf(Label::attribute(&"a".parse().unwrap(), 0));
    let key = sealed.key_for(&single, 7, 2);
    let decoded = UserKey::decode(&key.encode()).unwrap();
    for key in [&key, &decoded] {
        assert_eq!(sealed.open(key, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    }
    assert_eq!(key.encode().len(), 1 + 9 + 17 + 1 + (1 + key.labels()[0].as_bytes().len()) + 2 + 96 + 48);
    let other = Sealed::under("b");
    assert_eq!(other.open(&key, &other.bytes), Err(SuiteError::NotSatisfied));
    other.refuses(&other.relabelled(&key, &Formula::Leaf(Label::epoch(7))), &other.bytes, "another leaf");

    // No epoch among the labels: nobody's key has no epoch.
    let without: Labels = vec![Label::attribute(&"a".parse().unwrap(), 0)].into();
    let timeless = Sealed::new(without);
    assert_eq!(timeless.open(&sealed.key("a", 2), &timeless.bytes), Err(SuiteError::NotSatisfied));
    assert_eq!(timeless.open(&key, &timeless.bytes).as_ref(), Ok(&timeless.secret));

    // No labels at all: C1 and `d`, for no key.
    let nobody = Sealed::new(Labels::default());
    assert_eq!(nobody.bytes.len(), 96 + 32);
    assert_eq!(nobody.open(&key, &nobody.bytes), Err(SuiteError::NotSatisfied));
    // A gate without children is satisfied by them, and gives the identity for the shared element.
    let hollow = nobody.key_for(&Formula::And(vec![]), 7, 2);
    nobody.refuses(&hollow, &nobody.bytes, "a formula that asks for nothing");
    assert!(UserKey::decode(&hollow.encode()).is_err());
    let hollow = nobody.key_for(&Formula::Or(vec![]), 7, 2);
    assert_eq!(nobody.open(&hollow, &nobody.bytes), Err(SuiteError::NotSatisfied));

    // Labels repeated are labels once.
    let a = Label::attribute(&"a".parse().unwrap(), 0);
    let repeated: Labels = vec![a.clone(), Label::epoch(7), a.clone(), a].into();
    assert_eq!(Sealed::new(repeated).bytes, sealed.bytes);
}

/// As many children as a formula may have, and a polynomial of the degree that goes with it.
#[test]
fn wide_thresholds_share_and_join() {
    let n = ACCESS_LEAVES_MAX - 1;
    let names: Vec<Label> = (0..n).map(|i| Label::attribute(&format!("n{i}").parse().unwrap(), 0)).collect();
    let of: Vec<Access> = names.iter().cloned().map(Formula::Leaf).collect();
    let k = 100;
    let wide = Formula::And(vec![Formula::Threshold { k, of }, Formula::Leaf(Label::epoch(7))]);
    // The last ones: their powers are the largest.
    let with = |count: usize| -> Labels {
        names[n - count..].iter().cloned().chain([Label::epoch(7)]).collect::<Vec<_>>().into()
    };
    let sealed = Sealed::new(with(k as usize));
    let key = sealed.key_for(&wide, 7, 2);
    let key = UserKey::decode(&key.encode()).unwrap();
    assert_eq!(sealed.open(&key, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    let fewer = with(k as usize - 1);
    let scope = Scope::Labels(fewer.clone());
    let (bytes, _) = kp().encapsulate(&sealed.params, &scope, CONTEXT, &Secret32::new(M)).unwrap();
    assert_eq!(sealed.open_under(&key, &fewer, &bytes), Err(SuiteError::NotSatisfied));
}

#[test]
fn a_label_sixteen_times_over() {
    let sealed = Sealed::under("a, b");
    let text = format!("{} and b", vec!["(a or c)"; 16].join(" and "));
    let formula = access(&text, 7);
    let key = sealed.key(&text, 2);
    assert_eq!(Matrix::of(&formula).tau(), 16);
    assert_eq!(sealed.open(&key, &sealed.bytes).as_ref(), Ok(&sealed.secret));
    let scope = Scope::Policy(formula);
    assert_eq!(kp().key_shape(&scope), Some((16, 34)));
}

#[test]
fn nothing_of_a_key_is_printed() {
    let sealed = Sealed::under("a");
    let key = sealed.key("a and secret-name", 2);
    assert_eq!(format!("{key:?}"), "UserKey(fabeo-kp, epoch 7, 3 labels, ..)");
    assert_eq!(format!("{:#?}", sealed.master), "Master(fabeo-kp, ..)");
    assert_eq!(SuiteId::FabeoKp.to_string(), "fabeo-kp");
}
