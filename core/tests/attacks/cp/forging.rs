//! Whoever edits, or makes up, what is read: refused, in one way.

use bls12_381::{G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use smqtt_core::attribute::{Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::Formula;
use smqtt_core::suite::{Scope, SuiteError, UserKey};

use super::Sealed;
use crate::common::small_order::{small_g1, small_g2};
use crate::common::witness::{self, Coins, Encapsulation, Key};
use crate::common::{keygen, policy, suite};
use crate::{CONTEXT, M, params_outside_the_group_are_refused};

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

    params_outside_the_group_are_refused(&sealed.params);
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
