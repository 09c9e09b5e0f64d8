//! Whoever edits what is sealed: refused, in one way.

use std::collections::BTreeSet;

use bls12_381::{G1Projective, Scalar};
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Labels, Scope, SuiteError};

use super::{Sealed, access, alpha, labels};
use crate::common::kp;
use crate::common::linear::Matrix;
use crate::common::small_order::{small_g1, small_g2};
use crate::common::witness::{self, shared_element};
use crate::common::witness_kp::{self, Encapsulation, Key};
use crate::{CONTEXT, M};

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
