//! Keys that nobody issued, and those at the edges of what there can be.

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective};
use ciborium::Value;
use smqtt_core::Access;
use smqtt_core::attribute::Label;
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::Formula;
use smqtt_core::policy::{ACCESS_DEPTH_MAX, ACCESS_LEAVES_MAX};
use smqtt_core::suite::{Labels, Scope, SuiteError, SuiteId, UserKey};

use super::{Sealed, access};
use crate::common::linear::Matrix;
use crate::common::random::Rng;
use crate::common::small_order::{small_g1, small_g2};
use crate::common::witness_kp::encode_key;
use crate::common::{cose, kp};
use crate::{CONTEXT, M, params_outside_the_group_are_refused};

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
    params_outside_the_group_are_refused(&sealed.params);
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
