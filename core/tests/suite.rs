//! The suites through their public face: a key opens exactly what it should, whichever side the policy is on.

mod common;

use bls12_381::{G1Affine, G2Affine};
use common::random::Rng;
use common::witness::Key;
use common::{grant, key, keygen, policy, scope, setup};
use smqtt_core::attribute::{Attributes, LABELS_MAX, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, SuiteError, SuiteId, UserKey};

/// Parameters and master of one suite.
struct World {
    suite: SuiteId,
    params: Params,
    master: Master,
}

impl World {
    fn of(suite: SuiteId, coins: u8) -> Self {
        let (params, master) = suite.suite().setup(&Secret32::new([coins; 32]));
        Self { suite, params, master }
    }

    /// Each suite with coins of its own.
    fn each() -> impl Iterator<Item = Self> {
        SuiteId::ALL.into_iter().map(|suite| Self::of(suite, 1))
    }

    /// A policy and the attributes that it is held against.
    fn pair(&self, policy: &str, attributes: &str) -> Pair {
        Pair { suite: self.suite, policy: common::policy(policy), attributes: attributes.parse().unwrap() }
    }

    fn key(&self, grant: &Scope, coins: u8) -> UserKey {
        self.suite.suite().keygen(&self.master, 7, grant, &Secret32::new([coins; 32])).unwrap()
    }

    fn encapsulate(&self, scope: &Scope, coins: u8) -> (Vec<u8>, Secret32) {
        self.suite.suite().encapsulate(&self.params, scope, b"", &Secret32::new([coins; 32])).unwrap()
    }

    fn decapsulate(&self, key: &UserKey, scope: &Scope, bytes: &[u8]) -> Result<Secret32, SuiteError> {
        self.suite.suite().decapsulate(&self.params, key, scope, b"", bytes)
    }
}

/// A policy and attributes, one in the key, the other what is sealed under.
struct Pair {
    suite: SuiteId,
    policy: Policy,
    attributes: Attributes,
}

impl Pair {
    fn grant(&self, versions: &Versions, epoch: u64) -> Scope {
        grant(self.suite, &self.policy, &self.attributes, versions, epoch)
    }

    fn scope(&self, versions: &Versions, epoch: u64) -> Scope {
        scope(self.suite, &self.policy, &self.attributes, versions, epoch)
    }
}

#[test]
fn a_key_opens_exactly_what_it_should() {
    let mut rng = Rng(1);
    for world in World::each() {
        let mut opened = 0;
        for round in 0..24 {
            let policy = if round % 8 == 0 { rng.policy_with_comparison(1) } else { rng.policy(3) };
            let mut versions = Versions::default();
            for _ in 0..rng.below(4) {
                versions.raise(&rng.attribute()).unwrap();
            }
            for _ in 0..3 {
                let attributes = rng.attributes();
                let pair = Pair { suite: world.suite, policy: policy.clone(), attributes };
                let scope = pair.scope(&versions, 7);
                let (bytes, secret) = world.encapsulate(&scope, round);
                let key = world.key(&pair.grant(&versions, 7), round);
                let (satisfied, result) =
                    (policy.satisfied_by(&pair.attributes), world.decapsulate(&key, &scope, &bytes));
                assert_eq!(key.satisfies(&scope), satisfied);
                match satisfied {
                    true => assert_eq!(result, Ok(secret), "{policy} with {}", pair.attributes),
                    false => {
                        assert_eq!(result, Err(SuiteError::NotSatisfied), "{policy} with {}", pair.attributes)
                    }
                }
                opened += usize::from(satisfied);
                let other_epoch = world.key(&pair.grant(&versions, 8), round);
                let result = world.decapsulate(&other_epoch, &scope, &bytes);
                assert_eq!(result, Err(SuiteError::NotSatisfied));
            }
        }
        assert!((10..62).contains(&opened), "both answers are tried: {opened}");
    }
}

#[test]
fn a_raised_version_closes_to_old_keys_and_opens_to_new_ones() {
    for world in World::each() {
        for text in ["role=nurse", "level>=3", "level=5"] {
            let pair = world.pair(text, "role=nurse, level=5");
            let (before, mut raised) = (Versions::default(), Versions::default());
            raised.raise(pair.policy.version_keys().first().unwrap()).unwrap();
            let [old, new] = [&before, &raised].map(|v| world.key(&pair.grant(v, 7), 3));
            let scope = pair.scope(&raised, 7);
            let (bytes, secret) = world.encapsulate(&scope, 1);
            assert_eq!(world.decapsulate(&new, &scope, &bytes), Ok(secret));
            assert_eq!(world.decapsulate(&old, &scope, &bytes), Err(SuiteError::NotSatisfied));
            assert!(old.satisfies_but_for_versions(&scope));
            let scope = pair.scope(&before, 7);
            let (bytes, _) = world.encapsulate(&scope, 1);
            let result = world.decapsulate(&new, &scope, &bytes);
            assert_eq!(result, Err(SuiteError::NotSatisfied), "new keys do not open the past");
        }
    }
}

/// Two integers of one name would lend each other their bits.
#[test]
fn comparisons_need_exactly_one_integer() {
    for world in World::each() {
        let open = |attributes| {
            let pair = world.pair("level>=6", attributes);
            let v0 = Versions::default();
            let (bytes, secret) = world.encapsulate(&pair.scope(&v0, 7), 1);
            let result = world.decapsulate(&world.key(&pair.grant(&v0, 7), 2), &pair.scope(&v0, 7), &bytes);
            result.map(|opened| assert_eq!(opened, secret))
        };
        assert_eq!(open("level=6"), Ok(()));
        // 5 = 101 and 2 = 010 have between them the bits of 7 = 111.
        assert_eq!(open("level=5, level=2"), Err(SuiteError::NotSatisfied));
        assert_eq!(open("level=5"), Err(SuiteError::NotSatisfied));
    }
}

#[test]
fn secrets_depend_on_coins_and_nothing_repeats() {
    let v0 = Versions::default();
    for world in World::each() {
        let scope = |policy: &str, attributes: &str, epoch| world.pair(policy, attributes).scope(&v0, epoch);
        let sealed = scope("a and b", "a, b", 7);
        let (first, again) = (world.encapsulate(&sealed, 1), world.encapsulate(&sealed, 1));
        assert_eq!(first, again, "the coins decide everything");
        let (bytes, secret) = world.encapsulate(&sealed, 2);
        assert_ne!((&bytes, &secret), (&first.0, &first.1));
        // The same coins under something else, other parameters, another epoch: not one point in common.
        let points =
            |bytes: &[u8]| bytes[..bytes.len() - 32].chunks(48).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let others = [
            world.encapsulate(&scope("a or b", "a, c", 7), 1).0,
            world.encapsulate(&scope("a", "a", 7), 1).0,
            World::of(world.suite, 2).encapsulate(&sealed, 1).0,
            world.encapsulate(&scope("a and b", "a, b", 8), 1).0,
        ];
        for other in others {
            assert!(points(&other).iter().all(|point| !points(&first.0).contains(point)));
        }
    }
}

#[test]
fn a_key_serves_its_own_parameters_alone() {
    let v0 = Versions::default();
    for world in World::each() {
        let (other, pair) = (World::of(world.suite, 2), world.pair("a", "a"));
        let (key, scope) = (world.key(&pair.grant(&v0, 7), 2), pair.scope(&v0, 7));
        let (bytes, _) = world.encapsulate(&scope, 1);
        assert_eq!(other.decapsulate(&key, &scope, &bytes), Err(SuiteError::OtherParams));
        let (bytes, _) = other.encapsulate(&scope, 1);
        assert_eq!(world.decapsulate(&key, &scope, &bytes), Err(SuiteError::Inconsistent));
    }
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
    let v0 = Versions::default();
    let names: Vec<String> = (0..10).map(|i| format!("attribute-{i}")).collect();
    for world in World::each() {
        let pair = world.pair(&names.join(" and "), &names.join(", "));
        let (scope, grant) = (pair.scope(&v0, 7), pair.grant(&v0, 7));
        let (bytes, _) = world.encapsulate(&scope, 1);
        let repeated = world.pair("a and (a or b)", "a, b");
        let (again, _) = world.encapsulate(&repeated.scope(&v0, 7), 1);
        let (sealed, twice, key, shape) = match world.suite {
            // C1 and rows of ten labels and the epoch's; a key has rows for its leaves, and a K1 for every
            // occurrence of a label.
            SuiteId::FabeoKp => (96 + 48 * 11 + 32, 96 + 48 * 3 + 32, 96 + 48 * 11, (2, 4)),
            // C1, one C2, ten rows and the epoch's, d; every further occurrence of a label costs a C2.
            _ => (96 + 96 + 48 * 11 + 32, 96 + 96 * 2 + 48 * 4 + 32, 96 + 48 * 12, (1, 4)),
        };
        assert_eq!((bytes.len(), again.len()), (sealed, twice));
        assert!(bytes.len() <= 800);
        let suite = world.suite.suite();
        assert_eq!(suite.encapsulation_bytes(&scope), Some(bytes.len()));
        assert_eq!(suite.key_shape(&repeated.grant(&v0, 7)), Some(shape));
        assert_eq!((suite.encapsulation_bytes(&grant), suite.key_shape(&scope)), (None, None));
        let user = world.key(&grant, 2);
        let labels: usize = user.labels().iter().map(|l| l.as_bytes().len()).sum();
        assert!((key..=key + 80).contains(&(user.encode().len() - labels)));
        assert_eq!(world.params.encode().len(), 1 + 9 + 3 + 576);
    }
}

#[test]
fn parameters_and_keys_round_trip_in_one_encoding() {
    for world in World::each() {
        let bytes = world.params.encode();
        let again = Params::decode(&bytes).unwrap();
        assert_eq!((again.id(), again.suite()), (world.params.id(), world.suite));
        assert_eq!(again, world.params);
        let pair = world.pair("a and (a or 2 of (b=1, c=x, d))", "a, b=1, c=x");
        let user = world.key(&pair.grant(&Versions::default(), 7), 2);
        let encoded = user.encode();
        let again = UserKey::decode(&encoded).unwrap();
        assert_eq!(*again.encode(), *encoded);
        assert_eq!((again.epoch(), again.params_id(), again.suite()), (7, world.params.id(), world.suite));
        assert_eq!((again.labels(), again.scope()), (user.labels(), user.scope()));

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
    for world in World::each() {
        let (pair, v0) = (world.pair("a", "a"), Versions::default());
        let (key, (_, secret)) =
            (world.key(&pair.grant(&v0, 7), 2), world.encapsulate(&pair.scope(&v0, 7), 1));
        assert_eq!(format!("{:?}", world.master), format!("Master({}, ..)", world.suite));
        assert_eq!(format!("{key:?}"), format!("UserKey({}, epoch 7, 2 labels, ..)", world.suite));
        assert_eq!(format!("{secret:?}"), "Secret32(..)");
        let params = format!("{:?}", world.params);
        assert!(params.len() < 140, "parameters are public, but nobody reads 576 bytes");
    }
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
    for world in World::each() {
        let (pair, v0) = (world.pair("a and (a or b=1)", "a, b=1"), Versions::default());
        let (user, scope) = (world.key(&pair.grant(&v0, 7), 2), pair.scope(&v0, 7));
        let (encapsulation, _) = world.encapsulate(&scope, 1);
        let (params_bytes, key_bytes) = (world.params.encode(), user.encode());
        let mut rng = Rng(5);
        for _ in 0..200 {
            let len = rng.below(120);
            let noise = rng.bytes(len);
            _ = (Params::decode(&noise), UserKey::decode(&noise));
            assert!(Params::decode(&rng.mutated(&params_bytes)).map_or(true, |p| p == world.params));
            _ = UserKey::decode(&rng.mutated(&key_bytes));
            let bad = rng.mutated(&encapsulation);
            let opened = world.decapsulate(&user, &scope, &bad);
            let expected = match bad.len() == encapsulation.len() {
                true => SuiteError::Inconsistent,
                false => SuiteError::Malformed,
            };
            assert!(opened == Err(expected) || bad == encapsulation);
        }
    }
}
