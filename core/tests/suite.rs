//! `fabeo-cp` through its public face: a key opens exactly what its attributes satisfy.

mod common;

use bls12_381::{G1Affine, G2Affine};
use common::random::Rng;
use common::witness::Key;
use common::{key, keygen, policy, setup, suite};
use smqtt_core::attribute::{Attributes, LABELS_MAX, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Params, Scope, SuiteError, SuiteId, UserKey};

fn encapsulate(params: &Params, policy: &Policy, versions: &Versions, coins: u8) -> (Vec<u8>, Secret32) {
    let access = policy.access(versions, 7);
    suite().encapsulate(params, &Scope::Policy(access.clone()), b"", &Secret32::new([coins; 32])).unwrap()
}

fn decapsulate(
    params: &Params,
    key: &UserKey,
    policy: &Policy,
    versions: &Versions,
    bytes: &[u8],
) -> Result<Secret32, SuiteError> {
    suite().decapsulate(params, key, &Scope::Policy(policy.access(versions, 7)), b"", bytes)
}

#[test]
fn a_key_opens_exactly_what_its_attributes_satisfy() {
    let (params, master) = setup(1);
    let mut rng = Rng(1);
    let mut opened = 0;
    for round in 0..60 {
        let policy = if round % 10 == 0 { rng.policy_with_comparison(1) } else { rng.policy(3) };
        let mut versions = Versions::default();
        for _ in 0..rng.below(4) {
            versions.raise(&rng.attribute()).unwrap();
        }
        let (bytes, secret) = encapsulate(&params, &policy, &versions, round);
        for _ in 0..4 {
            let attributes = rng.attributes();
            let coins = Secret32::new(rng.array());
            let key = keygen(&master, 7, &attributes.labels(&versions, 7), &coins);
            let result = decapsulate(&params, &key, &policy, &versions, &bytes);
            if policy.satisfied_by(&attributes) {
                assert_eq!(result, Ok(secret.clone()), "{policy} with {attributes}");
                opened += 1;
            } else {
                assert_eq!(result, Err(SuiteError::NotSatisfied), "{policy} with {attributes}");
            }
            let other_epoch = keygen(&master, 8, &attributes.labels(&versions, 8), &coins);
            let result = decapsulate(&params, &other_epoch, &policy, &versions, &bytes);
            assert_eq!(result, Err(SuiteError::NotSatisfied));
        }
    }
    assert!((20..220).contains(&opened), "both answers are tried: {opened}");
}

#[test]
fn a_raised_version_closes_to_old_keys_and_opens_to_new_ones() {
    let (params, master) = setup(1);
    let attributes: Attributes = "role=nurse, level=5".parse().unwrap();
    for text in ["role=nurse", "level>=3", "level=5"] {
        let policy = policy(text);
        let mut raised = Versions::default();
        raised.raise(policy.version_keys().first().unwrap()).unwrap();
        let [old, new] = [&Versions::default(), &raised]
            .map(|v| keygen(&master, 7, &attributes.labels(v, 7), &Secret32::new([3; 32])));
        let (bytes, secret) = encapsulate(&params, &policy, &raised, 1);
        assert_eq!(decapsulate(&params, &new, &policy, &raised, &bytes), Ok(secret));
        assert_eq!(decapsulate(&params, &old, &policy, &raised, &bytes), Err(SuiteError::NotSatisfied));
        let (bytes, _) = encapsulate(&params, &policy, &Versions::default(), 1);
        let result = decapsulate(&params, &new, &policy, &Versions::default(), &bytes);
        assert_eq!(result, Err(SuiteError::NotSatisfied), "new keys do not open the past");
    }
}

/// Two integers of one name would lend each other their bits.
#[test]
fn comparisons_need_exactly_one_integer() {
    let (params, master) = setup(1);
    let high = policy("level>=6");
    let (bytes, secret) = encapsulate(&params, &high, &Versions::default(), 1);
    let open = |attributes| {
        let key = key(&master, attributes, 7, 2);
        decapsulate(&params, &key, &high, &Versions::default(), &bytes)
    };
    assert_eq!(open("level=6"), Ok(secret));
    // 5 = 101 and 2 = 010 have between them the bits of 7 = 111.
    assert_eq!(open("level=5, level=2"), Err(SuiteError::NotSatisfied));
    assert_eq!(open("level=5"), Err(SuiteError::NotSatisfied));
}

#[test]
fn secrets_depend_on_coins_and_nothing_repeats() {
    let (params, _) = setup(1);
    let policy = policy("a and b");
    let v0 = Versions::default();
    let (first, again) = (encapsulate(&params, &policy, &v0, 1), encapsulate(&params, &policy, &v0, 1));
    assert_eq!(first, again, "the coins decide everything");
    let (bytes, secret) = encapsulate(&params, &policy, &v0, 2);
    assert_ne!((&bytes, &secret), (&first.0, &first.1));
    // The same coins under another policy, other parameters, another epoch: not one point in common.
    let points = |bytes: &[u8]| bytes[..bytes.len() - 32].chunks(48).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let others = [
        encapsulate(&params, &common::policy("a or b"), &v0, 1).0,
        encapsulate(&setup(2).0, &policy, &v0, 1).0,
        suite()
            .encapsulate(&params, &Scope::Policy(policy.access(&v0, 8)), b"", &Secret32::new([1; 32]))
            .unwrap()
            .0,
    ];
    for other in others {
        assert!(points(&other).iter().all(|point| !points(&first.0).contains(point)));
    }
}

#[test]
fn a_key_serves_its_own_parameters_alone() {
    let (params, master) = setup(1);
    let (other, _) = setup(2);
    let key = key(&master, "a", 7, 2);
    let policy = policy("a");
    let v0 = Versions::default();
    let (bytes, _) = encapsulate(&params, &policy, &v0, 1);
    assert_eq!(decapsulate(&other, &key, &policy, &v0, &bytes), Err(SuiteError::OtherParams));
    let (bytes, _) = encapsulate(&other, &policy, &v0, 1);
    assert_eq!(decapsulate(&params, &key, &policy, &v0, &bytes), Err(SuiteError::Inconsistent));
}

/// One `alpha` for both suites would void the proofs of both.
#[test]
fn a_master_secret_serves_its_own_suite_alone() {
    let scopes = [
        Scope::Policy(policy("a").access(&Versions::default(), 7)),
        Scope::Labels(vec![Label::epoch(7)].into()),
    ];
    let coins = Secret32::new([2; 32]);
    for (suite, other) in [(SuiteId::FabeoCp, SuiteId::FabeoKp), (SuiteId::FabeoKp, SuiteId::FabeoCp)] {
        let (_, master) = suite.suite().setup(&Secret32::new([1; 32]));
        let made = scopes.each_ref().map(|scope| suite.suite().keygen(&master, 7, scope, &coins).is_ok());
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        for (scope, fits) in scopes.iter().zip(made) {
            let refused = other.suite().keygen(&master, 7, scope, &coins).unwrap_err();
            assert_eq!(refused, if fits { SuiteError::OtherKind } else { SuiteError::OtherParams });
        }
    }
}

#[test]
fn sizes_are_as_documented() {
    let (params, master) = setup(1);
    let names: Vec<String> = (0..10).map(|i| format!("attribute-{i}")).collect();
    let policy = policy(&names.join(" and "));
    let (bytes, _) = encapsulate(&params, &policy, &Versions::default(), 1);
    // C1, one C2, ten rows and the epoch's, d.
    assert_eq!(bytes.len(), 96 + 96 + 48 * 11 + 32);
    assert!(bytes.len() <= 800);
    let access = policy.access(&Versions::default(), 7);
    assert_eq!(suite().encapsulation_bytes(&Scope::Policy(access.clone())), Some(bytes.len()));
    // Every further occurrence of a label costs a C2.
    let (bytes, _) = encapsulate(&params, &common::policy("a and (a or b)"), &Versions::default(), 1);
    assert_eq!(bytes.len(), 96 + 96 * 2 + 48 * 4 + 32);
    let key = key(&master, &names.join(", "), 7, 2);
    let labels: usize = key.labels().iter().map(|l| l.as_bytes().len()).sum();
    assert!(key.encode().len() - labels <= 96 + 48 * 12 + 80);
    assert_eq!(params.encode().len(), 1 + 9 + 3 + 576);
}

#[test]
fn parameters_and_keys_round_trip_in_one_encoding() {
    let (params, master) = setup(1);
    let bytes = params.encode();
    let again = Params::decode(&bytes).unwrap();
    assert_eq!((again.id(), again.suite()), (params.id(), SuiteId::FabeoCp));
    assert_eq!(again, params);
    let user = key(&master, "a, b=1, c=x", 7, 2);
    let encoded = user.encode();
    let again = UserKey::decode(&encoded).unwrap();
    assert_eq!(*again.encode(), *encoded);
    assert_eq!((again.epoch(), again.labels(), again.params_id()), (7, user.labels(), params.id()));

    for (bytes, is_params) in [(&bytes, true), (&*encoded, false)] {
        let decodes =
            |b: &[u8]| if is_params { Params::decode(b).is_ok() } else { UserKey::decode(b).is_ok() };
        assert!(decodes(bytes));
        for cut in (0..bytes.len()).step_by(5) {
            assert!(!decodes(&bytes[..cut]));
        }
        assert!(!decodes(&[&bytes[..], &[0]].concat()));
        // The same array, its head in two bytes.
        assert!(!decodes(&[&[0x98, bytes[0] & 0x1f], &bytes[1..]].concat()));
        for at in 0..10 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(!decodes(&bad), "suite name and head, byte {at}");
        }
    }
    assert!(UserKey::decode(&bytes).is_err() && Params::decode(&encoded).is_err());
}

#[test]
fn keys_with_labels_out_of_order_repeated_or_miscounted_do_not_decode() {
    let (_, master) = setup(1);
    let user = key(&master, "a, b", 7, 2);
    let encoded = user.encode();
    let label = |at: usize| {
        [&[0x40 | user.labels()[at].as_bytes().len() as u8], user.labels()[at].as_bytes()].concat()
    };
    let start = encoded.windows(2).position(|w| w[0] == 0x83 && w[1] == label(0)[0]).unwrap() + 1;
    let labels_end = start + (0..3).map(|i| label(i).len()).sum::<usize>();
    let with = |count: u8, labels: &[Vec<u8>]| {
        [&encoded[..start - 1], &[0x80 | count], &labels.concat(), &encoded[labels_end..]].concat()
    };
    assert!(UserKey::decode(&with(3, &[label(0), label(1), label(2)])).is_ok());
    for (what, bytes) in [
        ("order", with(3, &[label(1), label(0), label(2)])),
        ("repeated", with(3, &[label(0), label(0), label(2)])),
        ("one less", with(2, &[label(0), label(1)])),
        ("one more", with(4, &[label(0), label(1), label(2), vec![0x44, 0x82, 2, 0x18, 0x63]])),
        ("no label at all", with(3, &[label(0), vec![0x41, 0xff], label(2)])),
    ] {
        assert!(UserKey::decode(&bytes).is_err(), "{what}");
    }
    let many = (0..=LABELS_MAX as u64).map(Label::epoch).collect::<Vec<_>>();
    let key = keygen(&master, 7, &many, &Secret32::new([2; 32]));
    assert!(UserKey::decode(&key.encode()).is_err(), "more labels than a set can have");
}

#[test]
fn keygen_sorts_its_labels_and_takes_each_once() {
    let (_, master) = setup(1);
    let coins = Secret32::new([2; 32]);
    let mut labels = "a, b=3".parse::<Attributes>().unwrap().labels(&Versions::default(), 7);
    let key = keygen(&master, 7, &labels, &coins).encode();
    labels.reverse();
    labels.extend_from_within(..3);
    assert_eq!(*keygen(&master, 7, &labels, &coins).encode(), *key);
}

/// The coins of a key never repeat; if they do by a fault, nothing that two keys have is the same.
#[test]
fn keys_for_different_scopes_share_nothing_even_with_the_same_coins() {
    let (_, master) = setup(1);
    let (_, other_master) = setup(2);
    let points = |key: &UserKey| {
        let (k1, k3) = (Key::parse(key).k1, Key::parse(key).k3);
        let k1 = G2Affine::from(k1).to_compressed().to_vec();
        let g1s = [k3].into_iter().chain(Key::parse(key).labels.into_values());
        let g1s = g1s.map(|point| G1Affine::from(point).to_compressed().to_vec());
        [k1].into_iter().chain(g1s).collect::<Vec<_>>()
    };
    let first = points(&key(&master, "a, b", 7, 2));
    assert_eq!(first, points(&key(&master, "b, a", 7, 2)), "the same scope and coins give the same key");
    for (what, other) in [
        ("another epoch", key(&master, "a, b", 8, 2)),
        ("other attributes", key(&master, "a, c", 7, 2)),
        ("one attribute less", key(&master, "a", 7, 2)),
        ("other parameters", key(&other_master, "a, b", 7, 2)),
    ] {
        let other = points(&other);
        assert_ne!(other[0], first[0], "{what}: K1");
        assert!(other.iter().all(|point| !first.contains(point)), "{what}");
    }
    // The labels of epoch 7 in a key said to be of epoch 8: the number counts, too.
    let labels = "a, b".parse::<Attributes>().unwrap().labels(&Versions::default(), 7);
    let other = points(&keygen(&master, 8, &labels, &Secret32::new([2; 32])));
    assert!(other.iter().all(|point| !first.contains(point)));
}

#[test]
fn nothing_secret_is_printed() {
    let (params, master) = setup(1);
    let user = key(&master, "a", 7, 2);
    let (_, secret) = encapsulate(&params, &policy("a"), &Versions::default(), 1);
    assert_eq!(format!("{master:?}"), "Master(fabeo-cp, ..)");
    assert_eq!(format!("{user:?}"), "UserKey(fabeo-cp, epoch 7, 2 labels, ..)");
    assert_eq!(format!("{secret:?}"), "Secret32(..)");
    assert!(format!("{params:?}").len() < 140, "parameters are public, but nobody reads 576 bytes");
}

#[test]
fn no_other_suite_is_known() {
    for name in ["", "fabeo", "fabeo-kp ", "FABEO-CP", "bsw", "ac17", "lsw", "ghw11", "yct14", "fabeo-cp\0"] {
        assert_eq!(SuiteId::from_name(name), None, "{name}");
    }
    for suite in SuiteId::ALL {
        assert_eq!(SuiteId::from_name(suite.name()), Some(suite));
    }
}

/// Whatever the bytes: an answer, and never a panic.
#[test]
fn decoders_are_total() {
    let (params, master) = setup(1);
    let user = key(&master, "a, b=1", 7, 2);
    let (encapsulation, _) = encapsulate(&params, &policy("a and (a or b=1)"), &Versions::default(), 1);
    let (params_bytes, key_bytes) = (params.encode(), user.encode());
    let mut rng = Rng(5);
    for _ in 0..400 {
        let len = rng.below(120);
        let noise = rng.bytes(len);
        _ = (Params::decode(&noise), UserKey::decode(&noise));
        assert!(Params::decode(&rng.mutated(&params_bytes)).map_or(true, |p| p == params));
        _ = UserKey::decode(&rng.mutated(&key_bytes));
        let bad = rng.mutated(&encapsulation);
        let opened = decapsulate(&params, &user, &policy("a and (a or b=1)"), &Versions::default(), &bad);
        let expected = match bad.len() == encapsulation.len() {
            true => SuiteError::Inconsistent,
            false => SuiteError::Malformed,
        };
        assert!(opened == Err(expected) || bad == encapsulation);
    }
}
