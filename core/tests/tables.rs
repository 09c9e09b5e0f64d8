//! Tables of points that come again and again: whatever is kept, forgotten or made at the same moment by another
//! thread, the bytes are those of the witness.

mod common;

use std::collections::BTreeSet;

use common::linear::Matrix;
use common::witness::{self, Coins};
use common::{kp, suite, witness_kp};
use smqtt_core::Access;
use smqtt_core::attribute::{Attributes, LABELS_MAX, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::Formula;
use smqtt_core::suite::{Labels, Params, Scope, SuiteId, UserKey};
use smqtt_core::tables;

fn secret(byte: u8) -> Secret32 {
    Secret32::new([byte; 32])
}

fn names(from: usize, n: usize) -> Vec<Label> {
    (from..from + n).map(|i| Label::attribute(&format!("n{i}").parse().unwrap(), 0)).collect()
}

/// Any of the labels.
fn any(labels: &[Label]) -> Access {
    match labels {
        [label] => Formula::Leaf(label.clone()),
        labels => Formula::Or(labels.iter().cloned().map(Formula::Leaf).collect()),
    }
}

fn encapsulated(params: &Params, scope: &Scope, coins: u8) -> Vec<u8> {
    params.suite().suite().encapsulate(params, scope, b"", &secret(coins)).unwrap().0
}

/// The same by the witness, `d` left out.
fn by_witness(params: &Params, scope: &Scope, coins: u8) -> Vec<u8> {
    match scope {
        Scope::Policy(access) => {
            let coins = Coins::derive(params.id(), access, &[coins; 32]);
            witness::Encapsulation::honest(&Matrix::of(access), &coins).c_bytes()
        }
        Scope::Labels(labels) => {
            let set: BTreeSet<_> = labels.as_slice().iter().map(|l| l.as_bytes().to_vec()).collect();
            let s = witness_kp::s(params.id(), &set, &[coins; 32]);
            witness_kp::Encapsulation::make(&set, &s).c_bytes()
        }
    }
}

/// Both suites with the same labels, and each with its own points of them.
fn both(labels: &[Label]) -> [(Params, Scope); 2] {
    let params = |suite: SuiteId| suite.suite().setup(&secret(1)).0;
    [
        (params(SuiteId::FabeoCp), Scope::Policy(any(labels))),
        (params(SuiteId::FabeoKp), Scope::Labels(labels.to_vec().into())),
    ]
}

#[test]
fn the_same_coins_make_the_same_bytes_before_and_after_there_are_tables() {
    for (params, scope) in both(&names(0, 3)) {
        let expected = by_witness(&params, &scope, 2);
        let first = encapsulated(&params, &scope, 2);
        assert_eq!(first[..expected.len()], expected);
        for round in 0..20 {
            assert_eq!(encapsulated(&params, &scope, 2), first, "round {round}");
        }
        let other = encapsulated(&params, &scope, 3);
        let expected = by_witness(&params, &scope, 3);
        assert_eq!(other[..expected.len()], expected, "other coins with the tables");
    }
    // Keys: labels in the one suite, rows in the other.
    for suite in SuiteId::ALL {
        let (_, master) = suite.suite().setup(&secret(1));
        let grant = match suite {
            SuiteId::FabeoKp => Scope::Policy(any(&names(0, 3))),
            _ => Scope::Labels(names(0, 3).into()),
        };
        let key = || suite.suite().keygen(&master, 7, &grant, &secret(4)).unwrap().encode();
        let first = key();
        (0..12).for_each(|_| assert_eq!(key(), first));
    }
}

/// Rows with tables, more than one batch of them, and rows without in between.
#[test]
fn rows_with_and_without_tables_keep_their_places() {
    let often = names(100, 18);
    for (params, scope) in both(&often) {
        (0..9).for_each(|coins| drop(encapsulated(&params, &scope, coins)));
    }
    for fresh in [1, 3, 6] {
        let mut mixed = often.clone();
        let new = names(100 * fresh + 50, fresh);
        new.into_iter().enumerate().for_each(|(i, label)| mixed.insert(4 * i, label));
        for (params, scope) in both(&mixed) {
            let made = encapsulated(&params, &scope, fresh as u8);
            let expected = by_witness(&params, &scope, fresh as u8);
            assert_eq!(made[..expected.len()], expected, "{fresh} new labels");
        }
    }
}

/// Far more labels than are kept: some forgotten, some hashed again, some with tables in between.
#[test]
fn more_labels_than_are_kept() {
    let all = names(1000, tables::LABELS_MAX + 44);
    let (params, _) = kp().setup(&secret(1));
    let scope = |labels: &[Label]| Scope::Labels(labels.to_vec().into());
    let often = scope(&all[..2]);
    let first = encapsulated(&params, &often, 1);
    (0..12).for_each(|_| assert_eq!(encapsulated(&params, &often, 1), first));
    let whole = encapsulated(&params, &scope(&all), 1);
    assert_eq!(encapsulated(&params, &scope(&all), 1), whole);
    // In pieces, forwards and backwards, with the same two in between: C_u = H(u)^s for another s each time.
    let pieces: Vec<Scope> = all.chunks(50).map(scope).collect();
    let forwards: Vec<_> = pieces.iter().map(|piece| encapsulated(&params, piece, 2)).collect();
    for (piece, expected) in pieces.iter().zip(&forwards).rev() {
        assert_eq!(encapsulated(&params, &often, 1), first);
        assert_eq!(&encapsulated(&params, piece, 2), expected);
    }
    let expected = by_witness(&params, &pieces[5], 2);
    assert_eq!(forwards[5][..expected.len()], expected);
    // More of them in one formula than are kept.
    let scope = Scope::Policy(any(&all));
    let (params, master) = suite().setup(&secret(1));
    let (bytes, made) = suite().encapsulate(&params, &scope, b"", &secret(3)).unwrap();
    for label in [&all[0], all.last().unwrap()] {
        let grant = Scope::Labels(vec![label.clone()].into());
        let key = suite().keygen(&master, 7, &grant, &secret(4)).unwrap();
        assert_eq!(suite().decapsulate(&params, &key, &scope, b"", &bytes).as_ref(), Ok(&made));
    }
}

/// Everything that is made once, made by many at once.
#[test]
fn threads_that_begin_together_agree() {
    let labels = names(2000, 5);
    let sides: Vec<_> = both(&labels)
        .into_iter()
        .map(|(params, scope)| {
            let suite = params.suite();
            let (_, master) = suite.suite().setup(&secret(1));
            let grant = match suite {
                SuiteId::FabeoKp => Scope::Policy(any(&labels)),
                _ => Scope::Labels(labels.clone().into()),
            };
            (params, scope, suite.suite().keygen(&master, 7, &grant, &secret(2)).unwrap())
        })
        .collect();
    let begin = std::sync::Barrier::new(6);
    let made: Vec<Vec<_>> = std::thread::scope(|threads| {
        let run = |thread: u8| {
            let (sides, begin) = (&sides, &begin);
            move || {
                begin.wait();
                let mut out = Vec::new();
                for round in 0..12u8 {
                    for (params, scope, key) in sides {
                        let suite = params.suite().suite();
                        let coins = secret(if round < 10 { round } else { 100 + thread });
                        let (bytes, secret) = suite.encapsulate(params, scope, b"", &coins).unwrap();
                        if round % 4 == 0 {
                            let opened = suite.decapsulate(params, key, scope, b"", &bytes);
                            assert_eq!(opened.as_ref(), Ok(&secret));
                        }
                        if round < 10 {
                            out.push(bytes);
                        }
                    }
                }
                out
            }
        };
        let running: Vec<_> = (0..6).map(|thread| threads.spawn(run(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|bytes| *bytes == made[0]));
    for (at, (params, scope, _)) in sides.iter().enumerate() {
        let expected = by_witness(params, scope, 9);
        assert_eq!(made[0][2 * 9 + at][..expected.len()], expected);
    }
}

/// A key of as many labels as a set can have, and an encapsulation under as many.
#[test]
fn as_many_labels_as_there_can_be() {
    let attributes: Vec<String> = (0..64).map(|i| format!("n{i}={i}")).collect();
    let labels: Labels =
        attributes.join(", ").parse::<Attributes>().unwrap().labels(&Versions::default(), 7).into();
    assert_eq!(labels.as_slice().len(), LABELS_MAX);
    let access = common::policy("n63=63 and n0<=0 or n5>=6").access(&Versions::default(), 7);
    for suite in SuiteId::ALL {
        let (params, master) = suite.suite().setup(&secret(1));
        let (labels, policy) = (Scope::Labels(labels.clone()), Scope::Policy(access.clone()));
        let (grant, scope) = match suite {
            SuiteId::FabeoKp => (policy, labels),
            _ => (labels, policy),
        };
        let key = suite.suite().keygen(&master, 7, &grant, &secret(2)).unwrap();
        let key = UserKey::decode(&key.encode()).unwrap();
        let (bytes, secret) = suite.suite().encapsulate(&params, &scope, b"", &secret(3)).unwrap();
        assert_eq!(suite.suite().decapsulate(&params, &key, &scope, b"", &bytes), Ok(secret));
    }
}
