//! Frozen vectors, most of them broken: an independent implementation can be held against them, and
//! this one notices when a byte of it changes. Byte strings are hexadecimal.
//!
//! `SMQTT_WRITE_VECTORS=1 cargo test -p smqtt-core --test vectors` writes them anew. Those with signatures
//! come out different each time; to write them anew is to make a new version of the protocol. With `add` in
//! place of `1`, what is frozen stays, and sections that a file lacks are added to it.

mod common;

use bls12_381::{G1Affine, G1Projective, G2Affine, Scalar};
use common::cose::{self, BUNDLE_AAD, Content, HEADER_AAD};
use common::linear::Matrix;
use common::pki::{Pki, VALID};
use common::witness::{self, Coins, Encapsulation, hkdf};
use common::witness_kp::{self, KeyCoins};
use common::{NOW, hex, keygen, kp, policy, suite, unhex};
use serde_json::{Value, json};
use smqtt_core::attribute::{Attributes, Label, Versions};
use smqtt_core::bundle::{Bundle, Epoch};
use smqtt_core::crypto::Secret32;
use smqtt_core::envelope::{Envelope, MAGIC, SealingKey};
use smqtt_core::header::{Draft, HEADER_SECONDS_MAX, Header, Signer};
use smqtt_core::identity::{DeviceId, Fingerprint, Role};
use smqtt_core::policy::{Policy, Template};
use smqtt_core::rule::{Mode, Rule};
use smqtt_core::suite::{Labels, Master, Params, Scope, SuiteId, UserKey};
use smqtt_core::target::Target;
use smqtt_core::token::Token;

/// The vectors of this name, from their file; written first if the environment asks for it.
fn vectors(name: &str, generate: impl Fn() -> Value) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let read = || std::fs::read_to_string(&path).map(|text| serde_json::from_str::<Value>(&text).unwrap());
    if let Some(how) = std::env::var_os("SMQTT_WRITE_VECTORS") {
        let mut file = generate();
        if let (true, Ok(frozen)) = (how == "add", read()) {
            file.as_object_mut().unwrap().extend(frozen.as_object().unwrap().clone());
        }
        std::fs::write(&path, serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
    }
    read().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is text in {value}"))
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    unhex(text(value, key))
}

fn array<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    bytes(value, key).try_into().unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().unwrap_or_else(|| panic!("`{key}` is a list"));
    assert!(!list.is_empty(), "`{key}` has vectors");
    list
}

/// The name of an error: its variant without what it carries.
fn name(error: impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ', '{']).next().unwrap().to_owned()
}

/// The names of errors from outside to inside: `Suite/Inconsistent`.
fn path(error: impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let variants =
        text.split(['(', ')', ' ', '{']).filter(|part| part.starts_with(|c: char| c.is_ascii_uppercase()));
    variants.take(2).collect::<Vec<_>>().join("/")
}

fn scalar_hex(scalar: &Scalar) -> String {
    let mut bytes = scalar.to_bytes();
    bytes.reverse();
    hex(bytes)
}

// --- fabeo-cp -------------------------------------------------------------------------------------

fn fabeo_setup(coins: u8) -> (Params, Master) {
    suite().setup(&Secret32::new([coins; 32]))
}

fn versions_of(texts: &[(&str, u32)]) -> Versions {
    let mut versions = Versions::default();
    for (attribute, version) in texts {
        versions.set(&attribute.parse().unwrap(), *version).unwrap();
    }
    versions
}

fn fabeo_key(attributes: &str, versions: &Versions, epoch: u64, coins: u8) -> Value {
    let labels = attributes.parse::<Attributes>().unwrap().labels(versions, epoch);
    let (params, master) = fabeo_setup(1);
    let key = keygen(&master, epoch, &labels, &Secret32::new([coins; 32]));
    let held = labels.iter().map(|label| label.as_bytes().to_vec()).collect();
    json!({
        "attributes": attributes, "versions": hex(versions.encode()), "epoch": epoch, "coins": hex([coins; 32]),
        "t": scalar_hex(&witness::t(&[coins; 32], params.id(), epoch, &held)),
        "labels": labels.iter().map(|label| hex(label.as_bytes())).collect::<Vec<_>>(),
        "key": hex(key.encode()),
    })
}

fn fabeo_encapsulation(policy: &str, versions: &Versions, epoch: u64, m: u8) -> Value {
    let (params, m) = (fabeo_setup(1).0, [m; 32]);
    let access = common::policy(policy).access(versions, epoch);
    let coins = Coins::derive(params.id(), &access, &m);
    let matrix = Matrix::of(&access);
    let mut made = Encapsulation::honest(&matrix, &coins);
    let shared = witness::shared_element(&witness::alpha(&[1; 32]), coins.s());
    made.d = witness::xor(&m, &made.mask(&shared));
    let (encapsulation, secret) =
        suite().encapsulate(&params, &Scope::Policy(access.clone()), b"context", &Secret32::new(m)).unwrap();
    assert_eq!(made.bytes(), encapsulation, "witness and suite agree before anything is frozen");
    json!({
        "policy": policy, "versions": hex(versions.encode()), "epoch": epoch,
        "access": hex(witness::access_cbor(&access)),
        "context": hex(b"context"), "m": hex(m),
        "s": scalar_hex(coins.s()),
        "drawn": coins.values[1..].iter().map(scalar_hex).collect::<Vec<_>>(),
        "shares": matrix.shares(&coins.values).iter().map(scalar_hex).collect::<Vec<_>>(),
        "occurrences": matrix.rows.iter().map(|row| row.occurrence).collect::<Vec<_>>(),
        "per_occurrence": coins.per_occurrence.iter().map(scalar_hex).collect::<Vec<_>>(),
        "c": hex(made.c_bytes()), "shared_element": hex(witness::gt_bytes(&shared)),
        "mask": hex(made.mask(&shared)), "d": hex(made.d),
        "encapsulation": hex(encapsulation), "secret": hex(secret.expose()),
    })
}

/// What an attacker makes of the encapsulation of `a or b` (C1, C2, rows a, b, epoch, d), and the answer it gets.
fn fabeo_broken(original: &Value) -> Vec<Value> {
    let good = bytes(original, "encapsulation");
    let matrix = Matrix::of(&policy("a or b").access(&Versions::default(), 7));
    let parsed = Encapsulation::parse(&good, &matrix);
    let mut out = Vec::new();
    let mut put = |what: &str, bad: Vec<u8>, error: &str| {
        out.push(json!({ "what": what, "encapsulation": hex(bad), "error": error }));
    };
    let flipped = |at: usize, bits: u8| {
        let mut bad = good.clone();
        bad[at] ^= bits;
        bad
    };
    let with = |at: usize, head: u8, len: usize, last: u8| {
        let mut bad = good.clone();
        bad[at..at + len].fill(0);
        (bad[at], bad[at + len - 1]) = (head, last);
        bad
    };
    put("cut short", good[..good.len() - 1].to_vec(), "Malformed");
    put("empty", vec![], "Malformed");
    put("a byte longer", [&good[..], &[0]].concat(), "Malformed");
    put("a row longer", [&good[..288], &good[240..]].concat(), "Malformed");
    put("d: first bit", flipped(336, 0x80), "Inconsistent");
    put("d: last bit", flipped(367, 1), "Inconsistent");
    for (at, what) in
        [(0, "C1"), (96, "C2"), (192, "the row of a"), (240, "the row of b"), (288, "the row of the epoch")]
    {
        put(&format!("{what}: the other sign"), flipped(at, 0x20), "Inconsistent");
    }
    for (at, len, what) in
        [(0, 96, "C1"), (96, 96, "C2"), (192, 48, "the row of a"), (288, 48, "the row of the epoch")]
    {
        put(&format!("{what}: the identity"), with(at, 0xc0, len, 0), "Inconsistent");
        put(&format!("{what}: not marked as compressed"), flipped(at, 0x80), "Inconsistent");
        put(
            &format!("{what}: a coordinate above the modulus"),
            {
                let mut bad = good.clone();
                bad[at..at + len].fill(0xff);
                bad[at] = 0x9f;
                bad
            },
            "Inconsistent",
        );
    }
    put("the row of a: on no point of the curve", with(192, 0x80, 48, 1), "Inconsistent");
    put("the row of a: (0, 2), of order 3", with(192, 0x80, 48, 0), "Inconsistent");
    put("the row of b, which the key does not use: the identity", with(240, 0xc0, 48, 0), "Inconsistent");
    put("the row of b, which the key does not use: on no point", with(240, 0x80, 48, 1), "Inconsistent");
    let three = witness::g1(
        &G1Affine::from_compressed_unchecked(&with(192, 0x80, 48, 0)[192..240].try_into().unwrap())
            .unwrap()
            .to_compressed(),
    );
    for (row, shift, what) in [
        (0, three, "a plus (0, 2)"),
        (0, -three, "a plus (0, -2)"),
        (1, three, "b plus (0, 2)"),
        (2, three, "the epoch plus (0, 2)"),
    ] {
        let mut bad = parsed.clone();
        bad.c3[row] += shift;
        put(&format!("the row of {what}"), bad.bytes(), "Inconsistent");
    }
    let mut bad = parsed.clone();
    bad.c3.swap(0, 1);
    put("rows of a and b exchanged", bad.bytes(), "Inconsistent");
    let mut bad = parsed.clone();
    (bad.c1, bad.c2[0]) = (bad.c2[0], bad.c1);
    put("C1 and C2 exchanged", bad.bytes(), "Inconsistent");
    // Another valid encapsulation of nothing, multiplied in.
    let mut coins = Coins::derive(&[0; 16], &policy("a or b").access(&Versions::default(), 7), &[9; 32]);
    for (delta, what) in [(0, "shared element kept"), (5, "shared element moved by Y^5")] {
        coins.values[0] = Scalar::from(delta);
        let factor = Encapsulation::honest(&matrix, &coins);
        let mut moved = parsed.clone();
        moved.c1 += factor.c1;
        moved.c2[0] += factor.c2[0];
        moved.c3.iter_mut().zip(&factor.c3).for_each(|(a, b)| *a += b);
        put(&format!("re-randomised, {what}"), moved.bytes(), "Inconsistent");
        let m = array::<32>(original, "m");
        let s = Coins::derive(fabeo_setup(1).0.id(), &policy("a or b").access(&Versions::default(), 7), &m)
            .s()
            + coins.s();
        moved.d = witness::xor(&m, &moved.mask(&witness::shared_element(&witness::alpha(&[1; 32]), &s)));
        put(&format!("re-randomised, {what}, m masked again"), moved.bytes(), "Inconsistent");
    }
    out
}

fn fabeo_generate() -> Value {
    let (params, master) = fabeo_setup(1);
    let v0 = Versions::default();
    let raised = versions_of(&[("role=nurse", 2)]);
    let hash = |label: &Label| {
        let point = witness::hash(label.as_bytes(), witness::LABEL_TAG);
        json!({ "label": hex(label.as_bytes()), "meaning": format!("{label:?}"), "point": hex(G1Affine::from(point).to_compressed()) })
    };
    let a_or_b = fabeo_encapsulation("a or b", &v0, 7, 0x22);
    let key = unhex(text(&fabeo_key("a", &v0, 7, 2), "key"));
    let good_params = params.encode();
    let y = good_params.len() - 576;
    let mut one = good_params.clone();
    one[y..].fill(0);
    one[y + 47] = 1;
    let edited = |source: &[u8], at: usize, to: &[u8]| {
        let mut out = source.to_vec();
        out[at..at + to.len()].copy_from_slice(to);
        hex(out)
    };
    let material = key.len() - (96 + 48 * 3);
    let generator = G1Affine::from(G1Projective::generator()).to_compressed();
    let mut order_three = [0; 48];
    order_three[0] = 0x80;
    json!({
        "about": "fabeo-cp: every step from coins to secret; scalars are 32 bytes big-endian. `broken` are encapsulations \
                  for the first encapsulation's policy and the first key: of another length they are Malformed, and whatever \
                  else is wrong is Inconsistent, since another answer would tell which rows the key uses.",
        "setup": {
            "coins": hex([1; 32]), "alpha": hex(master.expose().expose()), "params": hex(&good_params), "params_id": hex(params.id()),
        },
        "b": hex(G1Affine::from(witness::b()).to_compressed()),
        "hash": [
            hash(&Label::attribute(&"a".parse().unwrap(), 0)),
            hash(&Label::attribute(&"ward=3".parse().unwrap(), 0)),
            hash(&Label::attribute(&"role=nurse".parse().unwrap(), 2)),
            hash(&Label::attribute(&"\"Straße\"=\"Große 1\"".parse().unwrap(), 0)),
            hash(&Label::bit("level", 31, true, 0)),
            hash(&Label::epoch(7)),
            hash(&Label::epoch(u64::MAX)),
        ],
        "keys": [
            fabeo_key("a", &v0, 7, 2),
            fabeo_key("b", &v0, 7, 3),
            fabeo_key("b, c, d", &v0, 7, 4),
            fabeo_key("a", &v0, 8, 5),
            fabeo_key("role=nurse, ward=3", &raised, 7, 6),
            fabeo_key("role=nurse, ward=3", &v0, 7, 7),
            fabeo_key("level=5", &v0, 7, 8),
            fabeo_key("", &v0, 7, 9),
        ],
        "encapsulations": [
            a_or_b,
            fabeo_encapsulation("a", &v0, 7, 0x23),
            fabeo_encapsulation("a and (a or b)", &v0, 7, 0x24),
            fabeo_encapsulation("2 of (a, b, c and d, a or c)", &v0, 7, 0x25),
            fabeo_encapsulation("role=nurse and ward=3", &raised, 7, 0x26),
            fabeo_encapsulation("3 of (a, b, c, d, 2 of (a, b, c))", &v0, 7, 0x27),
            fabeo_encapsulation("level>=4 and level<=6", &v0, 7, 0x28),
        ],
        "broken": fabeo_broken(&a_or_b),
        "broken_scopes": [
            { "what": "or became and", "policy": "a and b", "epoch": 7, "key": 0, "error": "NotSatisfied" },
            { "what": "a label exchanged", "policy": "a or c", "epoch": 7, "key": 0, "error": "Inconsistent" },
            { "what": "order", "policy": "b or a", "epoch": 7, "key": 0, "error": "Inconsistent" },
            { "what": "another epoch", "policy": "a or b", "epoch": 8, "key": 3, "error": "Inconsistent" },
            { "what": "a label less", "policy": "a", "epoch": 7, "key": 0, "error": "Malformed" },
        ],
        "broken_params": [
            { "what": "Y = 1", "params": hex(&one) },
            { "what": "Y = 0", "params": edited(&one, y + 47, &[0]) },
            { "what": "Y outside the group of prime order", "params": edited(&good_params, y, &[good_params[y] ^ 1]) },
            { "what": "a coordinate above the modulus", "params": edited(&good_params, y, &[0xff; 48]) },
            { "what": "cut short", "params": hex(&good_params[..good_params.len() - 1]) },
            { "what": "a byte longer", "params": hex([&good_params[..], &[0]].concat()) },
            { "what": "an evaluation-only suite", "params": hex([&[0x82, 0x63], &b"bsw"[..], &good_params[10..]].concat()) },
            { "what": "a long array head", "params": hex([&[0x98, 2], &good_params[1..]].concat()) },
            { "what": "a user secret key", "params": hex(&key) },
        ],
        "broken_keys": [
            { "what": "K1 is the identity", "key": edited(&key, material, &[&[0xc0][..], &[0; 95]].concat()) },
            { "what": "K3 has order 3", "key": edited(&key, material + 96, &order_three) },
            { "what": "K of a label has order 3", "key": edited(&key, material + 144, &order_three) },
            { "what": "K1 is no point", "key": edited(&key, material, &[0xff; 96]) },
            { "what": "a point too many", "key": hex([&key[..material - 1], &[(96 + 48 * 4) as u8], &key[material..], &generator].concat()) },
            { "what": "cut short", "key": hex(&key[..key.len() - 1]) },
            { "what": "a byte longer", "key": hex([&key[..], &[0]].concat()) },
            { "what": "public parameters", "key": hex(&good_params) },
            { "what": "empty", "key": "" },
        ],
    })
}

#[test]
fn fabeo_cp() {
    let file = vectors("fabeo-cp", fabeo_generate);
    assert!(file == fabeo_generate(), "every byte comes out as it was frozen");

    let setup = &file["setup"];
    let (params, master) = suite().setup(&Secret32::new(array(setup, "coins")));
    assert_eq!(master.expose().expose(), &array::<32>(setup, "alpha"));
    assert_eq!(Params::decode(&bytes(setup, "params")).unwrap(), params);
    assert_eq!(params.id(), &array::<16>(setup, "params_id"));

    let keys: Vec<(Attributes, u64, UserKey)> = list(&file, "keys")
        .iter()
        .map(|vector| {
            let key = UserKey::decode(&bytes(vector, "key")).unwrap();
            (text(vector, "attributes").parse().unwrap(), key.epoch(), key)
        })
        .collect();
    for vector in list(&file, "encapsulations") {
        let policy = policy(text(vector, "policy"));
        let versions = Versions::decode(&bytes(vector, "versions")).unwrap();
        let epoch = vector["epoch"].as_u64().unwrap();
        let access = policy.access(&versions, epoch);
        assert_eq!(access.encode(), bytes(vector, "access"));
        let scope = &Scope::Policy(access.clone());
        let (context, m) = (bytes(vector, "context"), Secret32::new(array(vector, "m")));
        let (encapsulation, secret) = suite().encapsulate(&params, scope, &context, &m).unwrap();
        assert_eq!(
            (&encapsulation, secret.expose()),
            (&bytes(vector, "encapsulation"), &array(vector, "secret"))
        );
        let mut opened = 0;
        for (_, _, key) in &keys {
            let held = |label: &Label| key.labels().contains(label);
            let result = suite().decapsulate(&params, key, scope, &context, &encapsulation);
            match access.satisfied_by(&held) {
                true => assert_eq!(result, Ok(secret.clone())),
                false => assert_eq!(name(result.unwrap_err()), "NotSatisfied"),
            }
            opened += usize::from(access.satisfied_by(&held));
        }
        assert!((1..keys.len()).contains(&opened) || text(vector, "policy").starts_with('3'), "{policy}");
    }

    let first = &file["encapsulations"][0];
    let access = policy(text(first, "policy")).access(&Versions::default(), 7);
    for vector in list(&file, "broken") {
        let bad = bytes(vector, "encapsulation");
        let refused =
            suite().decapsulate(&params, &keys[0].2, &Scope::Policy(access.clone()), b"context", &bad);
        assert_eq!(name(refused.unwrap_err()), text(vector, "error"), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_scopes") {
        let access =
            policy(text(vector, "policy")).access(&Versions::default(), vector["epoch"].as_u64().unwrap());
        let key = &keys[vector["key"].as_u64().unwrap() as usize].2;
        let bad = bytes(first, "encapsulation");
        let refused = suite().decapsulate(&params, key, &Scope::Policy(access.clone()), b"context", &bad);
        assert_eq!(name(refused.unwrap_err()), text(vector, "error"), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_params") {
        assert!(Params::decode(&bytes(vector, "params")).is_err(), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_keys") {
        assert!(UserKey::decode(&bytes(vector, "key")).is_err(), "{}", text(vector, "what"));
    }
}

// --- fabeo-kp -------------------------------------------------------------------------------------

fn kp_setup() -> (Params, Master) {
    kp().setup(&Secret32::new([1; 32]))
}

fn kp_alpha() -> Scalar {
    witness_kp::alpha(&[1; 32])
}

fn kp_key(text: &str, versions: &Versions, epoch: u64, coins: u8) -> Value {
    let (params, master) = kp_setup();
    let access = policy(text).access(versions, epoch);
    let matrix = Matrix::of(&access);
    let made = KeyCoins::derive(kp_alpha(), params.id(), epoch, &access, &[coins; 32]);
    let key =
        kp().keygen(&master, epoch, &Scope::Policy(access.clone()), &Secret32::new([coins; 32])).unwrap();
    let witness = witness_kp::Key::honest(&matrix, &made).encode(params.id(), epoch, &access);
    assert_eq!(witness, *key.encode(), "witness and suite agree before anything is frozen");
    json!({
        "policy": text, "versions": hex(versions.encode()), "epoch": epoch, "coins": hex([coins; 32]),
        "access": hex(witness::access_cbor(&access)),
        "drawn": made.values[1..].iter().map(scalar_hex).collect::<Vec<_>>(),
        "shares": matrix.shares(&made.values).iter().map(scalar_hex).collect::<Vec<_>>(),
        "occurrences": matrix.rows.iter().map(|row| row.occurrence).collect::<Vec<_>>(),
        "per_occurrence": made.per_occurrence.iter().map(scalar_hex).collect::<Vec<_>>(),
        "key": hex(witness),
    })
}

fn kp_encapsulation(attributes: &str, versions: &Versions, epoch: u64, m: u8) -> Value {
    let (params, m) = (kp_setup().0, [m; 32]);
    let labels = attributes.parse::<Attributes>().unwrap().labels(versions, epoch);
    let held = labels.iter().map(|label| label.as_bytes().to_vec()).collect();
    let s = witness_kp::s(params.id(), &held, &m);
    let made = witness_kp::Encapsulation::honest(&kp_alpha(), params.id(), &held, &m);
    let shared = witness::shared_element(&kp_alpha(), &s);
    let scope = Scope::Labels(labels.clone().into());
    let (encapsulation, secret) = kp().encapsulate(&params, &scope, b"context", &Secret32::new(m)).unwrap();
    assert_eq!(made.bytes(), encapsulation, "witness and suite agree before anything is frozen");
    assert_eq!(&made.secret(&m, b"context"), secret.expose());
    json!({
        "attributes": attributes, "versions": hex(versions.encode()), "epoch": epoch,
        "labels": labels.iter().map(|label| hex(label.as_bytes())).collect::<Vec<_>>(),
        "context": hex(b"context"), "m": hex(m), "s": scalar_hex(&s),
        "c": hex(made.c_bytes()), "shared_element": hex(witness::gt_bytes(&shared)),
        "mask": hex(made.mask(&shared)), "d": hex(made.d),
        "encapsulation": hex(encapsulation), "secret": hex(secret.expose()),
    })
}

/// What an attacker makes of the encapsulation under `a, b` (C1, rows of epoch, a, b, then d), and the answer it
/// gets.
fn kp_broken(original: &Value) -> Vec<Value> {
    let good = bytes(original, "encapsulation");
    let names: Vec<Vec<u8>> =
        list(original, "labels").iter().map(|label| unhex(label.as_str().unwrap())).collect();
    let held = names.iter().cloned().collect();
    let parsed = witness_kp::Encapsulation::parse(&good, &held);
    let mut out = Vec::new();
    let mut put = |what: &str, bad: Vec<u8>, error: &str| {
        out.push(json!({ "what": what, "encapsulation": hex(bad), "error": error }));
    };
    let flipped = |at: usize, bits: u8| {
        let mut bad = good.clone();
        bad[at] ^= bits;
        bad
    };
    let with = |at: usize, head: u8, len: usize, last: u8| {
        let mut bad = good.clone();
        bad[at..at + len].fill(0);
        (bad[at], bad[at + len - 1]) = (head, last);
        bad
    };
    put("cut short", good[..good.len() - 1].to_vec(), "Malformed");
    put("empty", vec![], "Malformed");
    put("a byte longer", [&good[..], &[0]].concat(), "Malformed");
    put("a row longer", [&good[..240], &good[192..]].concat(), "Malformed");
    put("a row less", [&good[..192], &good[240..]].concat(), "Malformed");
    put("d: first bit", flipped(240, 0x80), "Inconsistent");
    put("d: last bit", flipped(271, 1), "Inconsistent");
    let points = [
        (0, 96, "C1"),
        (96, 48, "the row of the epoch"),
        (144, 48, "the row of a"),
        (192, 48, "the row of b"),
    ];
    for (at, len, what) in points {
        put(&format!("{what}: the other sign"), flipped(at, 0x20), "Inconsistent");
        put(&format!("{what}: the identity"), with(at, 0xc0, len, 0), "Inconsistent");
        put(&format!("{what}: not marked as compressed"), flipped(at, 0x80), "Inconsistent");
        let mut above = good.clone();
        above[at..at + len].fill(0xff);
        above[at] = 0x9f;
        put(&format!("{what}: a coordinate above the modulus"), above, "Inconsistent");
    }
    put("the row of a: on no point of the curve", with(144, 0x80, 48, 1), "Inconsistent");
    put("the row of a: (0, 2), of order 3", with(144, 0x80, 48, 0), "Inconsistent");
    put("the row of b, which the key does not use: on no point", with(192, 0x80, 48, 1), "Inconsistent");
    let three = witness::g1(with(144, 0x80, 48, 0)[144..192].try_into().unwrap());
    for (row, shift, what) in [
        (1, three, "a plus (0, 2)"),
        (1, -three, "a plus (0, -2)"),
        (2, three, "b plus (0, 2)"),
        (0, three, "the epoch plus (0, 2)"),
    ] {
        let mut bad = parsed.clone();
        *bad.rows.get_mut(&names[row]).unwrap() += shift;
        put(&format!("the row of {what}"), bad.bytes(), "Inconsistent");
    }
    put(
        "rows of a and b exchanged",
        [&good[..144], &good[192..240], &good[144..192], &good[240..]].concat(),
        "Inconsistent",
    );
    put("the row of a twice", [&good[..192], &good[144..192], &good[240..]].concat(), "Inconsistent");
    // Another valid encapsulation of nothing, multiplied in.
    let m = array::<32>(original, "m");
    let s = witness_kp::s(kp_setup().0.id(), &held, &m);
    let mut moved = parsed.clone();
    let factor = witness_kp::Encapsulation::make(&held, &Scalar::from(5));
    moved.c1 += factor.c1;
    moved.rows.iter_mut().for_each(|(label, row)| *row += factor.rows[label]);
    put("re-randomised, shared element moved by Y^5", moved.bytes(), "Inconsistent");
    moved.d = witness::xor(&m, &moved.mask(&witness::shared_element(&kp_alpha(), &(s + Scalar::from(5)))));
    put("re-randomised, shared element moved by Y^5, m masked again", moved.bytes(), "Inconsistent");
    // Right in every equation, but the coin is none of m's.
    let mut forged = witness_kp::Encapsulation::make(&held, &Scalar::one());
    forged.d = witness::xor(&m, &forged.mask(&witness::shared_element(&kp_alpha(), &Scalar::one())));
    put("s = 1", forged.bytes(), "Inconsistent");
    out
}

fn kp_generate() -> Value {
    let (params, master) = kp_setup();
    let v0 = Versions::default();
    let raised = versions_of(&[("role=nurse", 2), ("level", 1)]);
    let hash = |label: &Label| {
        let point = witness::hash(label.as_bytes(), witness_kp::LABEL_TAG);
        json!({ "label": hex(label.as_bytes()), "meaning": format!("{label:?}"), "point": hex(G1Affine::from(point).to_compressed()) })
    };
    let a_and_b = kp_encapsulation("a, b", &v0, 7, 0x22);
    let good_params = params.encode();
    let y = good_params.len() - 576;
    let mut one = good_params.clone();
    one[y..].fill(0);
    one[y + 47] = 1;
    let edited = |source: &[u8], at: usize, to: &[u8]| {
        let mut out = source.to_vec();
        out[at..at + to.len()].copy_from_slice(to);
        hex(out)
    };
    // K1 of both occurrences, rows of a, a, b and the epoch.
    let key = unhex(text(&kp_key("a and (a or b)", &v0, 7, 3), "key"));
    let material = key.len() - (2 * 96 + 4 * 48);
    let points = |g2s: usize, g1s: usize| {
        let k1 = G2Affine::generator().to_compressed().repeat(g2s);
        [k1, G1Affine::generator().to_compressed().repeat(g1s)].concat()
    };
    let generator = G1Affine::generator().to_compressed();
    let mut order_three = [0; 48];
    order_three[0] = 0x80;
    // Sound points, as many as the formula asks for, if anything does.
    let formula = |cbor: &str, g2s: usize, g1s: usize| {
        let value = cose::decode(&unhex(cbor));
        hex(witness_kp::encode_key(params.id(), 7, value, &points(g2s, g1s)))
    };
    let (a, b) = ("4684006161f600", "4684006162f600");
    let nested =
        |depth: usize| (0..depth).fold(a.to_owned(), |inner, at| format!("820{}82{b}{inner}", 3 + at % 2));
    let wide = |n: usize| {
        let leaf = |i: usize| cose::bytes(Label::attribute(&format!("a={i}").parse().unwrap(), 0).as_bytes());
        let of = ciborium::Value::Array((0..n).map(leaf).collect());
        hex(cose::encode(&ciborium::Value::Array(vec![4.into(), of])))
    };
    json!({
        "about": "fabeo-kp: every step from coins to secret; scalars are 32 bytes big-endian. In a key, `drawn` is what the shares \
                  of alpha draw and `per_occurrence` are t_0, t_1, .. `broken` are encapsulations for the first \
                  encapsulation's labels and the first key: of another length they are Malformed, and whatever else is wrong is \
                  Inconsistent, since another answer would tell which rows the key uses.",
        "setup": {
            "coins": hex([1; 32]), "alpha": hex(master.expose().expose()), "params": hex(&good_params), "params_id": hex(params.id()),
        },
        "hash": [
            hash(&Label::attribute(&"a".parse().unwrap(), 0)),
            hash(&Label::attribute(&"ward=3".parse().unwrap(), 0)),
            hash(&Label::attribute(&"role=nurse".parse().unwrap(), 2)),
            hash(&Label::attribute(&"\"Straße\"=\"Große 1\"".parse().unwrap(), 0)),
            hash(&Label::bit("level", 31, true, 0)),
            hash(&Label::epoch(7)),
            hash(&Label::epoch(u64::MAX)),
        ],
        "keys": [
            kp_key("a", &v0, 7, 2),
            kp_key("a and (a or b)", &v0, 7, 3),
            kp_key("2 of (a, b, c and d, a or c)", &v0, 7, 4),
            kp_key("a", &v0, 8, 5),
            kp_key("role=nurse and ward=3", &raised, 7, 6),
            kp_key("role=nurse and ward=3", &v0, 7, 7),
            kp_key("level>=4 and level<=6", &raised, 7, 8),
            kp_key("3 of (a, b, c, d, 2 of (a, b, c))", &v0, 7, 9),
            kp_key("a or b or c or d or role=nurse or level=5", &v0, 7, 10),
        ],
        "encapsulations": [
            a_and_b,
            kp_encapsulation("a", &v0, 7, 0x23),
            kp_encapsulation("b, c, d", &v0, 7, 0x24),
            kp_encapsulation("a", &v0, 8, 0x25),
            kp_encapsulation("role=nurse, ward=3", &raised, 7, 0x26),
            kp_encapsulation("level=5", &raised, 7, 0x27),
            kp_encapsulation("level=5, level=7", &v0, 7, 0x28),
            kp_encapsulation("", &v0, 7, 0x29),
        ],
        "broken": kp_broken(&a_and_b),
        "broken_scopes": [
            { "what": "the label that the key asks for exchanged", "attributes": "b, c", "epoch": 7, "key": 0, "error": "NotSatisfied" },
            { "what": "another label exchanged", "attributes": "a, c", "epoch": 7, "key": 0, "error": "Inconsistent" },
            { "what": "both exchanged", "attributes": "c, d", "epoch": 7, "key": 8, "error": "Inconsistent" },
            { "what": "another epoch", "attributes": "a, b", "epoch": 8, "key": 3, "error": "Inconsistent" },
            { "what": "a label less", "attributes": "a", "epoch": 7, "key": 0, "error": "Malformed" },
            { "what": "a label more", "attributes": "a, b, c", "epoch": 7, "key": 0, "error": "Malformed" },
        ],
        "broken_params": [
            { "what": "Y = 1", "params": hex(&one) },
            { "what": "Y outside the group of prime order", "params": edited(&good_params, y, &[good_params[y] ^ 1]) },
            { "what": "a coordinate above the modulus", "params": edited(&good_params, y, &[0xff; 48]) },
            { "what": "an evaluation-only suite", "params": hex([&[0x82, 0x63], &b"lsw"[..], &good_params[10..]].concat()) },
            { "what": "a user secret key", "params": hex(&key) },
        ],
        "broken_keys": [
            { "what": "K1 is the identity", "key": edited(&key, material, &[&[0xc0][..], &[0; 95]].concat()) },
            { "what": "the second K1 is no point", "key": edited(&key, material + 96, &[0xff; 96]) },
            { "what": "the first row has order 3", "key": edited(&key, material + 192, &order_three) },
            { "what": "the last row is the identity", "key": edited(&key, key.len() - 48, &[&[0xc0][..], &[0; 47]].concat()) },
            { "what": "a row too many", "key": hex([&key[..material - 2], &((2 * 96 + 5 * 48) as u16).to_be_bytes(), &key[material..], &generator].concat()) },
            { "what": "one K1 for both occurrences", "key": formula(&format!("820383{a}{a}{b}"), 1, 3) },
            { "what": "a K1 for an occurrence that is not there", "key": formula(&format!("820382{a}{b}"), 2, 2) },
            { "what": "an `and` of one", "key": formula(&format!("820381{a}"), 1, 1) },
            { "what": "`and` in `and`", "key": formula(&format!("820382820382{a}{b}43820207"), 1, 3) },
            { "what": "`1 of`, which is `or`", "key": formula(&format!("83050182{a}{b}"), 1, 2) },
            { "what": "`2 of` two, which is `and`", "key": formula(&format!("83050282{a}{b}"), 1, 2) },
            { "what": "`0 of`", "key": formula(&format!("83050082{a}{b}"), 1, 2) },
            { "what": "`3 of` two", "key": formula(&format!("83050382{a}{b}"), 1, 2) },
            { "what": "a gate of no children", "key": formula("820380", 0, 0) },
            { "what": "no such gate", "key": formula(&format!("820682{a}{b}"), 1, 2) },
            { "what": "labels, as a key of fabeo-cp has them", "key": formula(&format!("82{a}{b}"), 1, 2) },
            { "what": "a leaf that is no label", "key": formula(&format!("82038241ff{b}"), 1, 2) },
            { "what": "65 gates deep", "key": formula(&nested(65), 65, 66) },
            { "what": "258 leaves under two gates", "key": formula(&format!("820382{}{}", wide(129), wide(129)), 2, 258) },
            { "what": "258 leaves", "key": formula(&wide(258), 1, 258) },
            { "what": "said to be of fabeo-cp", "key": hex(key.iter().enumerate().map(|(i, b)| if i == 8 { b'c' } else { *b }).collect::<Vec<_>>()) },
            { "what": "cut short", "key": hex(&key[..key.len() - 1]) },
            { "what": "a byte longer", "key": hex([&key[..], &[0]].concat()) },
            { "what": "public parameters", "key": hex(&good_params) },
        ],
    })
}

#[test]
fn fabeo_kp() {
    let file = vectors("fabeo-kp", kp_generate);
    assert!(file == kp_generate(), "every byte comes out as it was frozen");

    let setup = &file["setup"];
    let (params, master) = kp().setup(&Secret32::new(array(setup, "coins")));
    assert_eq!(master.expose().expose(), &array::<32>(setup, "alpha"));
    assert_eq!(Params::decode(&bytes(setup, "params")).unwrap(), params);
    assert_eq!(params.id(), &array::<16>(setup, "params_id"));

    let labels = |vector: &Value| -> Labels {
        let versions = vector["versions"].as_str().map(|v| Versions::decode(&unhex(v)).unwrap());
        let attributes = text(vector, "attributes").parse::<Attributes>().unwrap();
        attributes.labels(&versions.unwrap_or_default(), vector["epoch"].as_u64().unwrap()).into()
    };
    let keys: Vec<UserKey> = list(&file, "keys")
        .iter()
        .map(|vector| {
            let versions = Versions::decode(&bytes(vector, "versions")).unwrap();
            let epoch = vector["epoch"].as_u64().unwrap();
            let scope = Scope::Policy(policy(text(vector, "policy")).access(&versions, epoch));
            let made = kp().keygen(&master, epoch, &scope, &Secret32::new(array(vector, "coins"))).unwrap();
            let key = UserKey::decode(&bytes(vector, "key")).unwrap();
            assert_eq!((made.encode(), key.scope(), key.epoch()), (key.encode(), &scope, epoch));
            key
        })
        .collect();
    for vector in list(&file, "encapsulations") {
        let scope = Scope::Labels(labels(vector));
        let (context, m) = (bytes(vector, "context"), Secret32::new(array(vector, "m")));
        let (encapsulation, secret) = kp().encapsulate(&params, &scope, &context, &m).unwrap();
        assert_eq!(
            (&encapsulation, secret.expose()),
            (&bytes(vector, "encapsulation"), &array(vector, "secret"))
        );
        let mut opened = 0;
        for key in &keys {
            let result = kp().decapsulate(&params, key, &scope, &context, &encapsulation);
            match key.satisfies(&scope) {
                true => assert_eq!(result, Ok(secret.clone())),
                false => assert_eq!(name(result.unwrap_err()), "NotSatisfied"),
            }
            opened += usize::from(key.satisfies(&scope));
        }
        assert_eq!(opened > 0, !text(vector, "attributes").is_empty());
        assert!(opened < keys.len());
    }

    let first = &file["encapsulations"][0];
    let bad_scope = Scope::Labels(labels(first));
    for vector in list(&file, "broken") {
        let bad = bytes(vector, "encapsulation");
        let refused = kp().decapsulate(&params, &keys[0], &bad_scope, b"context", &bad);
        assert_eq!(name(refused.unwrap_err()), text(vector, "error"), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_scopes") {
        let key = &keys[vector["key"].as_u64().unwrap() as usize];
        let scope = Scope::Labels(labels(vector));
        let refused = kp().decapsulate(&params, key, &scope, b"context", &bytes(first, "encapsulation"));
        assert_eq!(name(refused.unwrap_err()), text(vector, "error"), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_params") {
        assert!(Params::decode(&bytes(vector, "params")).is_err(), "{}", text(vector, "what"));
    }
    for vector in list(&file, "broken_keys") {
        assert!(UserKey::decode(&bytes(vector, "key")).is_err(), "{}", text(vector, "what"));
    }
}

// --- header, message, bundle ----------------------------------------------------------------------

const TOPIC: &str = "ward/3/temperature";

/// Headers under which messages are not signed, and are; and what seals them.
struct Sealed {
    header: Header,
    content: Content,
    secret: Secret32,
    key: SealingKey,
}

/// The coins of every header's encapsulation.
const M: [u8; 32] = [0x33; 32];

impl Sealed {
    fn new(draft: &Draft<'_>, publisher: &Signer) -> Self {
        let (header, key) = Header::seal_with(draft, publisher, &Secret32::new(M)).unwrap();
        let suite = draft.params.suite().suite();
        let encapsulated = suite.encapsulate(draft.params, &header.scope(), HEADER_AAD, &Secret32::new(M));
        let (_, secret) = encapsulated.unwrap();
        let content = Content {
            key: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 key"]),
            iv: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 iv"]),
            header_hash: *header.hash(),
            publisher: header.publisher().0,
        };
        Self { header, content, secret, key }
    }

    fn vector(&self, payloads: &[&[u8]]) -> Value {
        let (header, content) = (&self.header, &self.content);
        let messages: Vec<(Vec<u8>, Value)> = (0..)
            .zip(payloads)
            .map(|(counter, payload)| {
                let compact = self.key.seal(TOPIC, payload).unwrap();
                let vector = json!({
                    "topic": TOPIC, "counter": counter, "payload": hex(payload),
                    "external_aad": hex(content.external_aad(TOPIC)), "nonce": hex(content.nonce(counter)),
                    "enc_structure": hex(content.enc_structure(TOPIC, counter)), "compact": hex(&compact),
                });
                (compact, vector)
            })
            .collect();
        json!({
            "header": {
                "bytes": hex(header.as_bytes()), "hash": hex(header.hash()), "kid": header.kid().to_string(),
                "policy": header.target().to_string(), "versions": hex(header.versions().encode()),
                "epoch": header.epoch(), "filter": header.filter().as_str(),
                "publisher": header.publisher().to_string(), "created": header.created(),
                "expires": header.expires(), "messages_are_signed": header.messages_are_signed(),
                "m": hex(M), "encapsulation": hex(header.encapsulation()), "secret": hex(self.secret.expose()),
            },
            "content_key": hex(content.key), "context_iv": hex(content.iv),
            "full": hex(self.full(&messages[0].0)),
            "messages": messages.into_iter().map(|(_, vector)| vector).collect::<Vec<_>>(),
        })
    }

    fn full(&self, compact: &[u8]) -> Vec<u8> {
        Envelope::parse(compact).unwrap().message.full(self.header.as_bytes())
    }
}

fn envelope_generate() -> Value {
    let pki = Pki::new();
    let publisher = pki.device(1);
    let (params, master) = fabeo_setup(1);
    let versions = versions_of(&[("role=nurse", 2)]);
    let filter = "ward/3/#".parse().unwrap();
    let wanted = policy("role=nurse and ward=3").into();
    let draft = Draft {
        params: &params,
        epoch: 7,
        versions: &versions,
        target: &wanted,
        created: NOW,
        expires: NOW + 3600,
        filter: &filter,
        sign_messages: false,
    };
    let unsigned = Sealed::new(&draft, &publisher);
    let signing = Sealed::new(&Draft { sign_messages: true, ..draft.clone() }, &publisher);
    let header = &unsigned.header;
    let mut file = unsigned.vector(&[b"38.5", b"", b"{\"temperature\": 38.5}", &[0xff; 300]]);
    let signed_file = signing.vector(&[b"38.5"]);
    let compact = bytes(&file["messages"][0], "compact");
    let signed = bytes(&signed_file["messages"][0], "compact");
    let full = unsigned.full(&compact);

    let labels = "role=nurse, ward=3".parse::<Attributes>().unwrap().labels(&versions, 7);
    let reader = keygen(&master, 7, &labels, &Secret32::new([6; 32]));
    let outsider = keygen(&master, 7, &[Label::epoch(7)], &Secret32::new([9; 32]));

    let mut broken = Vec::new();
    let mut put = |what: &str, topic: &str, payload: Vec<u8>| {
        let vector = json!({ "what": what, "topic": topic, "envelope": hex(&payload), "key": "reader" });
        let error = envelope_open(&pki.roots(), &params, &reader, topic, &payload).expect_err(what);
        broken.push((vector, error));
    };
    let around = |header: &[u8]| [&MAGIC[..], &[0x82], header, &compact[5..]].concat();
    let flipped = |at: usize| {
        let mut bad = full.clone();
        bad[at] ^= 1;
        bad
    };
    put("empty", TOPIC, vec![]);
    put("plaintext", TOPIC, b"38.5".to_vec());
    put("the tag alone", TOPIC, MAGIC.to_vec());
    put("a compact envelope without its header", TOPIC, compact.clone());
    put("cut short", TOPIC, full[..full.len() - 1].to_vec());
    put("a byte longer", TOPIC, [&full[..], &[0]].concat());
    put(
        "header and message exchanged",
        TOPIC,
        [&MAGIC[..], &[0x82], &compact[5..], header.as_bytes()].concat(),
    );
    put("another topic", "ward/4/temperature", full.clone());
    put("the last byte of the AES-GCM tag flipped", TOPIC, flipped(full.len() - 1));
    let kid = full.windows(16).position(|w| w == header.kid().0).unwrap();
    put("kid flipped", TOPIC, flipped(kid));
    put("a byte of the header's signature flipped", TOPIC, flipped(6 + header.as_bytes().len() - 1));
    put("a byte of the certificate flipped", TOPIC, flipped(300));
    let encapsulation = full.windows(32).position(|w| w == &header.encapsulation()[..32]).unwrap();
    put("a byte of the encapsulation flipped, not signed again", TOPIC, flipped(encapsulation + 200));
    let edits: [(&str, cose::Edit); 12] = [
        ("signed messages said and signed again, but the message has no signature", |f| {
            f.push((11.into(), true.into()));
        }),
        ("`false` for unsigned messages", |f| f.push((11.into(), false.into()))),
        ("null for unsigned messages", |f| f.push((11.into(), ciborium::Value::Null))),
        ("the policy edited and signed again", |f| {
            *cose::field(f, 5) = cose::bytes(policy("role=nurse or ward=3").encode());
        }),
        ("the versions left out and signed again", |f| f.retain(|(key, _)| *key != 4.into())),
        ("the encapsulation flipped and signed again", |f| {
            let ciborium::Value::Bytes(bytes) = cose::field(f, 6) else { panic!("bytes") };
            bytes[200] ^= 1;
        }),
        ("only the times edited and signed again: another header than the message's", |f| {
            *cose::field(f, 9) = (NOW + 7200).into()
        }),
        ("an evaluation-only suite", |f| *cose::field(f, 1) = "bsw".into()),
        ("another publisher than the certificate's", |f| *cose::field(f, 7) = cose::bytes([2; 16])),
        ("other public parameters", |f| *cose::field(f, 2) = cose::bytes([2; 16])),
        ("fields in another order", |f| f.swap(0, 1)),
        ("a field too many", |f| f.push((12.into(), 0.into()))),
    ];
    for (what, edit) in edits {
        put(what, TOPIC, around(&cose::edited(header.as_bytes(), &publisher, HEADER_AAD, edit)));
    }
    let payload = &cose::parts(header.as_bytes())[1];
    put("signed as a bundle", TOPIC, around(&cose::sign1(&publisher, BUNDLE_AAD, payload)));
    let other = pki.device(2);
    put(
        "signed by another device, with its certificate",
        TOPIC,
        around(&cose::sign1(&other, HEADER_AAD, payload)),
    );
    put(
        "signed by another device, with the publisher's certificate",
        TOPIC,
        around(&cose::sign1_with(other.key(), publisher.certificate(), HEADER_AAD, payload)),
    );
    for role in [Role::Broker, Role::Admin, Role::Authority] {
        let signer = pki.signer(role, 1, VALID);
        put(
            &format!("signed by one of the role {}", role.name()),
            TOPIC,
            around(&cose::sign1(&signer, HEADER_AAD, payload)),
        );
    }
    let expired = pki.signer(Role::Device, 1, (2020, 2025));
    put("a certificate that had run out", TOPIC, around(&cose::sign1(&expired, HEADER_AAD, payload)));
    let foreign = Pki::new();
    put(
        "a certificate of another root",
        TOPIC,
        around(&cose::sign1(&foreign.device(1), HEADER_AAD, payload)),
    );
    let mut twin = header.as_bytes().to_vec();
    cose::double(&mut twin);
    put("the header's other signature, (r, -s)", TOPIC, around(&twin));
    // The signature of a message stands before the head of its ciphertext, which is a byte long.
    let signature = signed.len() - b"38.5".len() - 16 - 1 - 64;
    let with_signature = |change: &dyn Fn(&mut [u8])| {
        let mut bad = signed.clone();
        change(&mut bad[signature..][..64]);
        signing.full(&bad)
    };
    put("the message's own signature flipped", TOPIC, with_signature(&|s| s[20] ^= 1));
    put("the message's other signature, (r, -s)", TOPIC, with_signature(&|s| cose::double(s)));
    put("the message signed by somebody else", TOPIC, {
        let by_other = other.key().sign(&signing.content.to_be_signed(TOPIC, 0, b"38.5"));
        with_signature(&|s| s.copy_from_slice(&by_other))
    });
    put("the message's own signature taken away", TOPIC, signing.full(&cose::stripped(&signed)));
    put("a signed message under the header of another", TOPIC, unsigned.full(&signed));
    let silent = cose::edited(signing.header.as_bytes(), &publisher, HEADER_AAD, |f| drop(f.pop()));
    put(
        "the message's own signature taken away, and the header signed again without a word of it",
        TOPIC,
        Envelope::parse(&cose::stripped(&signed)).unwrap().message.full(&silent),
    );
    let mut broken: Vec<Value> = broken
        .into_iter()
        .map(|(mut vector, error)| {
            vector["error"] = error.into();
            vector
        })
        .collect();
    broken.push(json!({
        "what": "a key that does not satisfy the policy", "topic": TOPIC, "envelope": hex(&full), "key": "outsider",
        "error": "open: Suite/NotSatisfied",
    }));

    let more = json!({
        "about": "A header (randomised signature: frozen as bytes), messages under it, and what to refuse. `error` names the \
                  step that fails and the error. `m` are the coins of the encapsulation. Messages under the header in \
                  `signed` carry signatures of their own.",
        "root": hex(&pki.root), "params": hex(params.encode()),
        "reader": hex(reader.encode()), "outsider": hex(outsider.encode()),
        "signed": signed_file,
        "broken": broken,
        "bundle": bundle_generate(&pki, &publisher, &draft, header),
        "labels": labels_generate(),
    });
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    file
}

/// A header sealed under labels, with a root of its own, a message under it, and what to refuse.
fn labels_generate() -> Value {
    let pki = Pki::new();
    let publisher = pki.device(1);
    let (params, master) = kp_setup();
    let versions = versions_of(&[("kind=reading", 2), ("ward", 1)]);
    let filter = "ward/3/#".parse().unwrap();
    let attributes: Attributes = "kind=reading, ward=3".parse().unwrap();
    let target = Target::labels(attributes.clone()).unwrap();
    let draft = Draft {
        params: &params,
        epoch: 7,
        versions: &versions,
        target: &target,
        created: NOW,
        expires: NOW + 3600,
        filter: &filter,
        sign_messages: false,
    };
    let sealed = Sealed::new(&draft, &publisher);
    let mut file = sealed.vector(&[b"38.5"]);
    let header = file["header"].as_object_mut().unwrap();
    header.remove("policy");
    header.insert("attributes".into(), attributes.to_string().into());
    let key = |text: &str, coins: u8| {
        let scope = Scope::Policy(policy(text).access(&versions, 7));
        kp().keygen(&master, 7, &scope, &Secret32::new([coins; 32])).unwrap()
    };
    let reader_policy = "kind=reading and ward>=2 and ward<=4";
    let (reader, outsider) = (key(reader_policy, 6), key("kind=alarm", 9));

    let set = |text: &str| text.parse::<Attributes>().unwrap().encode();
    let many: Vec<String> = (0..8).map(|n| format!("n{n}=1")).collect();
    let many = set(&many.join(", "));
    let mut unsorted = set("kind=reading, ward=3");
    // [2 attributes]: the second of 8 bytes in front.
    let second = unsorted.split_off(unsorted.len() - 8);
    unsorted.splice(1..1, second);
    let replaced = |labels: Vec<u8>| {
        move |f: &mut Vec<(ciborium::Value, ciborium::Value)>| *cose::field(f, 12) = cose::bytes(labels)
    };
    type Edits<'a> = Vec<(&'a str, Box<dyn FnOnce(&mut Vec<(ciborium::Value, ciborium::Value)>)>)>;
    let with_policy = |f: &mut Vec<(ciborium::Value, ciborium::Value)>| {
        let at = f.iter().position(|(key, _)| *key == 6.into()).unwrap();
        f.insert(at, (5.into(), cose::bytes(policy("kind=reading").encode())));
    };
    let edits: Edits = vec![
        ("a policy beside the labels", Box::new(with_policy)),
        ("a policy in place of the labels", {
            Box::new(move |f| {
                with_policy(f);
                f.retain(|(key, _)| *key != 12.into());
            })
        }),
        ("neither policy nor labels", Box::new(|f| f.retain(|(key, _)| *key != 12.into()))),
        ("said to be of fabeo-cp", Box::new(|f| *cose::field(f, 1) = "fabeo-cp".into())),
        ("no labels", Box::new(replaced(vec![0x80]))),
        ("labels out of order", Box::new(replaced(unsorted))),
        ("264 labels", Box::new(replaced(many))),
        ("a label exchanged", Box::new(replaced(set("kind=reading, ward=2")))),
        ("a label added", Box::new(replaced(set("kind=reading, ward=3, x")))),
        ("the versions left out", Box::new(|f| f.retain(|(key, _)| *key != 4.into()))),
        ("the epoch edited", Box::new(|f| *cose::field(f, 3) = 8.into())),
        ("the encapsulation flipped", {
            Box::new(|f| {
                let ciborium::Value::Bytes(bytes) = cose::field(f, 6) else { panic!("bytes") };
                bytes[200] ^= 1;
            })
        }),
    ];
    let compact = bytes(&file["messages"][0], "compact");
    let mut broken = Vec::new();
    let mut put = |what: &str, key: (&str, &UserKey), payload: Vec<u8>| {
        let error = envelope_open(&pki.roots(), &params, key.1, TOPIC, &payload).expect_err(what);
        let payload = hex(payload);
        broken
            .push(json!({ "what": what, "topic": TOPIC, "envelope": payload, "key": key.0, "error": error }));
    };
    for (what, edit) in edits {
        let header = cose::edited(sealed.header.as_bytes(), &publisher, HEADER_AAD, edit);
        let what = format!("{what}, signed again");
        put(&what, ("reader", &reader), [&MAGIC[..], &[0x82], &header, &compact[5..]].concat());
    }
    put("a key that the labels do not satisfy", ("outsider", &outsider), sealed.full(&compact));
    let more = json!({
        "root": hex(&pki.root), "params": hex(params.encode()), "reader_policy": reader_policy,
        "reader": hex(reader.encode()), "outsider": hex(outsider.encode()), "broken": broken,
    });
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    file
}

/// From bytes to plaintext as a reader goes about it; the error says at which step.
fn envelope_open(
    roots: &[Vec<u8>],
    params: &Params,
    key: &UserKey,
    topic: &str,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let envelope = Envelope::parse(payload).map_err(|e| format!("envelope: {}", path(e)))?;
    let header = envelope.header.ok_or("envelope: NoHeader")?;
    let header = Header::parse(header).map_err(|e| format!("header: {}", path(e)))?;
    let certificate = header.verify(roots).map_err(|e| format!("verify: {}", path(e)))?;
    let content = header.open(params, key).map_err(|e| format!("open: {}", path(e)))?;
    let message = envelope.message;
    match message.verify(&certificate.public_key, topic, header.hash(), header.publisher()) {
        Some(false) => Err("message: Signature".to_owned()),
        None if header.messages_are_signed() => Err("message: Signature".to_owned()),
        _ => content.open(topic, &message).map_err(|e| format!("message: {}", path(e))),
    }
}

fn bundle_generate(pki: &Pki, publisher: &Signer, draft: &Draft<'_>, header: &Header) -> Value {
    let rule = |filter: &str, mode, template: Option<&str>| Rule {
        filter: filter.parse().unwrap(),
        mode,
        policy: template.map(|t| t.parse::<Template>().unwrap()),
        labels: None,
        publishers: Some(policy("sensor")),
        subscribers: None,
    };
    let bundle = Bundle {
        tenant: pki.tenant,
        number: 41,
        issued: NOW - 60,
        expires: NOW + 86_400,
        epoch: Epoch { number: 7, begins: NOW - 60, ends: NOW + 86_340 },
        grace: 600,
        rules: vec![
            rule("ward/+/temperature", Mode::Required, Some("role=nurse and ward=$1")),
            rule("ward/+/door", Mode::Warn, Some("role=guard")),
            rule("open/#", Mode::Open, None),
        ],
        versions: draft.versions.clone(),
        revoked: vec![DeviceId([8; 16]), DeviceId([9; 16])],
        params: vec![*draft.params.id()],
        lineage: None,
    };
    let authority = pki.authority();
    let good = bundle.sign(&authority);
    let mut broken = Vec::new();
    let mut put = |what: &str, bytes: Vec<u8>| {
        let error = Bundle::verify(&bytes, &pki.roots()).expect_err(what);
        broken.push(json!({ "what": what, "bytes": hex(bytes), "error": path(error) }));
    };
    put("cut short", good[..good.len() - 1].to_vec());
    put("a byte longer", [&good[..], &[0]].concat());
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    put("a byte of the signature flipped", bad);
    let mut twin = good.clone();
    cose::double(&mut twin);
    put("the other signature, (r, -s)", twin);
    put("signed by a device", bundle.sign(&pki.device(1)));
    put("signed by a broker", bundle.sign(&pki.signer(Role::Broker, 1, VALID)));
    put("signed by an administrator", bundle.sign(&pki.signer(Role::Admin, 1, VALID)));
    put("signed under another root", bundle.sign(&Pki::new().authority()));
    put(
        "signed when the certificate had run out",
        bundle.sign(&pki.signer(Role::Authority, 1, (2020, 2025))),
    );
    put("signed as a header", cose::sign1(&authority, HEADER_AAD, &cose::parts(&good)[1]));
    put("revoked devices out of order", {
        let edit = |f: &mut Vec<_>| {
            *cose::field(f, 11) = ciborium::Value::Array(vec![cose::bytes([9; 16]), cose::bytes([8; 16])]);
        };
        cose::edited(&good, &authority, BUNDLE_AAD, edit)
    });
    put("two rules of one filter", {
        let edit = |f: &mut Vec<_>| {
            let rules = cose::field(f, 9).as_array_mut().unwrap();
            let ciborium::Value::Map(open) = &mut rules[2] else { panic!("a rule") };
            *cose::field(open, 1) = "ward/+/door".into();
        };
        cose::edited(&good, &authority, BUNDLE_AAD, edit)
    });
    put(
        "another tenant",
        cose::edited(&good, &authority, BUNDLE_AAD, |f| *cose::field(f, 1) = cose::bytes([0; 8])),
    );
    put("a header", header.as_bytes().to_vec());
    let checks = [
        (TOPIC, NOW),
        (TOPIC, NOW + 3600),
        (TOPIC, NOW - 301),
        ("ward/4/temperature", NOW),
        ("ward/3/door", NOW),
        ("ward/3/unruled", NOW),
    ];
    let life = |seconds| {
        let draft = Draft { expires: NOW + seconds, ..draft.clone() };
        Header::seal_with(&draft, publisher, &Secret32::new(M)).unwrap().0
    };
    let (longest, too_long) = (life(HEADER_SECONDS_MAX), life(HEADER_SECONDS_MAX + 1));
    let checks: Vec<Value> = checks
        .into_iter()
        .map(|(topic, now)| (header, topic, now))
        .chain([(&longest, TOPIC, NOW), (&too_long, TOPIC, NOW)])
        .map(|(header, topic, now)| {
            let answer = bundle.check(header, topic, now).map_or_else(|refusal| refusal.code(), |()| "ok");
            json!({ "header": hex(header.as_bytes()), "topic": topic, "now": now, "answer": answer })
        })
        .collect();
    json!({ "bytes": hex(good), "number": 41, "broken": broken, "checks": checks })
}

/// A header, its keys and the messages under it, against everything that is said of them.
fn check_sealed(
    sealed: &Value,
    roots: &[Vec<u8>],
    params: &Params,
    reader_key: &UserKey,
    messages_are_signed: bool,
) {
    let vector = &sealed["header"];
    let header = Header::parse(&bytes(vector, "bytes")).unwrap();
    let certificate = header.verify(roots).unwrap();
    assert_eq!(
        (header.hash(), header.kid().to_string()),
        (&array(vector, "hash"), text(vector, "kid").to_owned())
    );
    let target = match vector.get("policy") {
        Some(policy) => policy.as_str().unwrap().parse::<Policy>().unwrap().into(),
        None => Target::labels(text(vector, "attributes").parse().unwrap()).unwrap(),
    };
    assert_eq!(header.target(), &target);
    assert_eq!(header.versions().encode(), bytes(vector, "versions"));
    assert_eq!((header.epoch(), header.created(), header.expires()), (7, NOW, NOW + 3600));
    assert_eq!(header.filter().as_str(), text(vector, "filter"));
    assert_eq!(header.publisher().to_string(), text(vector, "publisher"));
    assert_eq!(header.messages_are_signed(), messages_are_signed);
    assert_eq!(vector["messages_are_signed"], messages_are_signed);
    let m = Secret32::new(array(vector, "m"));
    let suite = params.suite().suite();
    let (encapsulation, secret) = suite.encapsulate(params, &header.scope(), HEADER_AAD, &m).unwrap();
    assert_eq!((&encapsulation[..], secret.expose()), (header.encapsulation(), &array(vector, "secret")));
    let content = Content {
        key: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 key"]),
        iv: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 iv"]),
        header_hash: *header.hash(),
        publisher: header.publisher().0,
    };
    assert_eq!((content.key, content.iv), (array(sealed, "content_key"), array(sealed, "context_iv")));

    let reader = header.open(params, reader_key).unwrap();
    for vector in list(sealed, "messages") {
        let (topic, payload, compact) =
            (text(vector, "topic"), bytes(vector, "payload"), bytes(vector, "compact"));
        let counter = vector["counter"].as_u64().unwrap();
        assert_eq!(content.external_aad(topic), bytes(vector, "external_aad"));
        assert_eq!(content.enc_structure(topic, counter), bytes(vector, "enc_structure"));
        assert_eq!(content.nonce(counter), array(vector, "nonce"));
        // Every byte but those of the signature, which is checked instead.
        let ends = || compact.len() - (payload.len() + 16) - 1;
        let signature = messages_are_signed.then(|| &compact[ends() - 64..ends()]);
        assert_eq!(content.compact(topic, counter, &payload, signature), compact);
        let message = Envelope::parse(&compact).unwrap().message;
        let verified = message.verify(&certificate.public_key, topic, header.hash(), header.publisher());
        assert_eq!(verified, messages_are_signed.then_some(true));
        assert_eq!((message.counter(), message.kid()), (counter, header.kid()));
        assert_eq!(reader.open(topic, &message).unwrap(), payload);
    }
    let full = bytes(sealed, "full");
    let first = bytes(&sealed["messages"][0], "compact");
    assert_eq!(full, Envelope::parse(&first).unwrap().message.full(header.as_bytes()));
    assert_eq!(envelope_open(roots, params, reader_key, TOPIC, &full).unwrap(), b"38.5");
}

fn check_broken(file: &Value, roots: &[Vec<u8>], params: &Params) {
    for vector in list(file, "broken") {
        let (topic, payload) = (text(vector, "topic"), bytes(vector, "envelope"));
        let key = UserKey::decode(&bytes(file, text(vector, "key"))).unwrap();
        let refused = envelope_open(roots, params, &key, topic, &payload);
        assert_eq!(refused.unwrap_err(), text(vector, "error"), "{}", text(vector, "what"));
    }
}

/// The section with a root of its own.
fn check_labels(file: &Value) {
    let roots = [bytes(file, "root")];
    let params = Params::decode(&bytes(file, "params")).unwrap();
    let reader = UserKey::decode(&bytes(file, "reader")).unwrap();
    let versions = Versions::decode(&bytes(&file["header"], "versions")).unwrap();
    let access = policy(text(file, "reader_policy")).access(&versions, 7);
    assert_eq!(reader.scope(), &Scope::Policy(access));
    check_sealed(file, &roots, &params, &reader, false);
    check_broken(file, &roots, &params);
}

#[test]
fn envelopes_and_bundles() {
    let file = vectors("envelope", envelope_generate);
    let (root, params) = (bytes(&file, "root"), Params::decode(&bytes(&file, "params")).unwrap());
    let key = |name: &str| UserKey::decode(&bytes(&file, name)).unwrap();
    let roots = [root];

    for (sealed, messages_are_signed) in [(&file, false), (&file["signed"], true)] {
        check_sealed(sealed, &roots, &params, &key("reader"), messages_are_signed);
    }
    check_broken(&file, &roots, &params);
    check_labels(&file["labels"]);

    let vector = &file["bundle"];
    let bundle = Bundle::verify(&bytes(vector, "bytes"), &roots).unwrap();
    assert_eq!(bundle.number, vector["number"].as_u64().unwrap());
    for check in list(vector, "checks") {
        let header = Header::parse(&bytes(check, "header")).unwrap();
        header.verify(&roots).unwrap();
        let (topic, now) = (text(check, "topic"), check["now"].as_u64().unwrap());
        let answer = bundle.check(&header, topic, now).map_or_else(|refusal| refusal.code(), |()| "ok");
        assert_eq!(answer, text(check, "answer"), "{topic} at {now}");
    }
    for vector in list(vector, "broken") {
        let refused = Bundle::verify(&bytes(vector, "bytes"), &roots).unwrap_err();
        assert_eq!(path(refused), text(vector, "error"), "{}", text(vector, "what"));
    }
}

// --- policies -------------------------------------------------------------------------------------

fn policy_generate() -> Value {
    let good = [
        "a",
        "role=nurse",
        "ward=3",
        "ward=03",
        "ward=4294967295",
        "ward=4294967296",
        "a and b and c",
        "a and (b and c)",
        "a or b and c",
        "(a or b) and c",
        "2 of (a, b, c)",
        "1 of (a, b)",
        "2 of (a, b)",
        "level>=3",
        "level>2",
        "level<=0",
        "level<4294967295",
        "level>=0",
        "\"and\" and \"a b\"=\"c=d\"",
        "\"Straße\"=\"Große \\\"1\\\"\"",
        "ROLE=nurse AND Ward=\"3\"",
        "2 of (a, b and c, 2 of (d, e, f))",
        "(role=ac-controller or role=heater-controller) and location=home-7 or role=fire-alarm",
        &["a"; 16].join(" or "),
        &[["a>=2147483648"; 8].join(" and "), ["a<=2147483647"; 8].join(" and ")].join(" or "),
    ];
    let good: Vec<Value> = good
        .into_iter()
        .map(|text| {
            let policy = policy(text);
            json!({
                "text": text, "canonical": policy.to_string(), "cbor": hex(policy.encode()), "leaf_cost": policy.leaf_cost(),
                "access_in_epoch_7": hex(witness::access_cbor(&policy.access(&Versions::default(), 7))),
            })
        })
        .collect();
    let deep = format!("{}a{}", "(".repeat(33), ")".repeat(33));
    let many: Vec<_> = (0..257).map(|n| format!("a={n}")).collect();
    let many = many.join(" or ");
    let repeated = ["a"; 17].join(" or ");
    let compared = ["level>=2147483648"; 17].join(" or ");
    let broken_texts = [
        "",
        "a and",
        "a b",
        "not a",
        "a != 3",
        "a and or b",
        "(a",
        "a)",
        "\"a",
        "\"a\\b\"",
        "a=",
        "=a",
        "and",
        "0 of (a, b)",
        "3 of (a, b)",
        "x of (a, b)",
        "2 of a",
        "level>=x",
        "level>4294967295",
        "level<0",
        "level>=4294967296",
        "a & b",
        "a = \"\"",
        "ward=$1",
        "a=>3",
        "a;b",
        &deep,
        &many,
        &repeated,
        &compared,
    ];
    let broken_texts: Vec<Value> = broken_texts
        .into_iter()
        .map(|text| {
            let error = text.parse::<Policy>().expect_err(text);
            json!({ "text": text, "error": name(error.kind()), "column": error.column() })
        })
        .collect();
    let leaf = "83006161f6";
    let broken_cbor = [
        ("empty", String::new()),
        ("an empty array", "80".into()),
        ("not an array", "00".into()),
        ("a gate of no children", "820380".into()),
        ("an `and` of one", format!("820381{leaf}")),
        ("`and` in `and`", format!("82038282038 2{leaf}{leaf}{leaf}").replace(' ', "")),
        ("`1 of`, which is `or`", format!("83050182{leaf}{leaf}")),
        ("`2 of` two, which is `and`", format!("83050282{leaf}{leaf}")),
        ("`0 of`", format!("83050082{leaf}{leaf}")),
        ("`3 of` two", format!("83050382{leaf}{leaf}")),
        ("no such gate", format!("820681{leaf}")),
        ("a leaf of two", "82006161".into()),
        ("an empty name", "830060f6".into()),
        ("an empty value", "8300616160".into()),
        ("an integer as text", "830061616133".into()),
        ("an integer in more bytes than needed", "83006161180 3".replace(' ', "")),
        ("an integer above 32 bits", "830061611b0000000100000000".into()),
        ("a negative integer", "8300616120".into()),
        ("a control character", "8300610af6".into()),
        ("text that is no UTF-8", "830061fff6".into()),
        ("bytes left over", format!("{leaf}00")),
        ("a long array head", format!("9803{}", &leaf[2..])),
        ("an indefinite array", format!("9f{}ff", &leaf[2..])),
        ("a placeholder", "830061618101".into()),
        ("a comparison without a bound", "830161 61f6".replace(' ', "")),
        (
            "33 gates deep",
            format!("{}{leaf}{}", format!("82048 2{leaf}82038 2{leaf}").replace(' ', "").repeat(17), ""),
        ),
        ("10,000 gates deep", format!("{}{leaf}", "820381".repeat(10_000))),
        ("257 leaves", {
            let leaves: String = (0..257).map(|n| format!("830063{}f6", hex(format!("{n:03}")))).collect();
            format!("8204990101{leaves}")
        }),
        ("one attribute 17 times", format!("820491{}", leaf.repeat(17))),
        (
            "17 comparisons of one name",
            format!("820492{}{}{leaf}", "830161611a80000000".repeat(9), "830261611a7fffffff".repeat(8)),
        ),
    ];
    let broken_cbor: Vec<Value> = broken_cbor
        .into_iter()
        .map(|(what, cbor)| {
            let error = Policy::decode(&unhex(&cbor)).expect_err(what);
            json!({ "what": what, "cbor": cbor, "error": path(error) })
        })
        .collect();
    let sets = [
        ("a, role=nurse, ward=3", vec![("role=nurse", 2), ("ward=3", 1)]),
        ("ward=3, ward=4, ward", vec![("ward", 5)]),
        ("", vec![]),
    ];
    let sets: Vec<Value> = sets
        .into_iter()
        .map(|(text, raised)| {
            let (set, versions) = (text.parse::<Attributes>().unwrap(), versions_of(&raised));
            let labels: Vec<String> = set.labels(&versions, 7).iter().map(|label| hex(label.as_bytes())).collect();
            json!({ "attributes": text, "cbor": hex(set.encode()), "versions": hex(versions.encode()), "labels_in_epoch_7": labels })
        })
        .collect();
    let sixteen = format!("{} or a=x", ["a=$1"; 16].join(" or "));
    let templates = [
        ("role=nurse and ward=$1", vec!["3"]),
        ("a=$2 or b=$1", vec!["x y", "4 or admin"]),
        ("a=$1", vec![""]),
        ("a=$2", vec!["x"]),
        (&sixteen, vec!["y"]),
        (&sixteen, vec!["x"]),
    ];
    let templates: Vec<Value> = templates
        .into_iter()
        .map(|(text, levels)| {
            let template = text.parse::<Template>().unwrap();
            let policy = template.instantiate(&levels);
            let answer = policy.map_or_else(|e| format!("error: {}", name(e)), |policy| policy.to_string());
            json!({ "text": text, "cbor": hex(template.encode()), "levels": levels, "policy": answer })
        })
        .collect();
    json!({
        "about": "Policies: text, canonical text, deterministic CBOR, and the formula over labels that a suite works on. \
                  `broken_texts` and `broken_cbor` are to be refused.",
        "good": good, "broken_texts": broken_texts, "broken_cbor": broken_cbor, "sets": sets, "templates": templates,
    })
}

#[test]
fn policies() {
    let file = vectors("policy", policy_generate);
    for vector in list(&file, "good") {
        let policy = policy(text(vector, "text"));
        assert_eq!(policy.to_string(), text(vector, "canonical"));
        assert_eq!(policy.encode(), bytes(vector, "cbor"));
        assert_eq!(Policy::decode(&bytes(vector, "cbor")).unwrap(), policy);
        assert_eq!(text(vector, "canonical").parse::<Policy>().unwrap(), policy);
        assert_eq!(policy.access(&Versions::default(), 7).encode(), bytes(vector, "access_in_epoch_7"));
        assert_eq!(policy.leaf_cost() as u64, vector["leaf_cost"].as_u64().unwrap());
    }
    for vector in list(&file, "broken_texts") {
        let error = text(vector, "text").parse::<Policy>().unwrap_err();
        assert_eq!(
            (name(error.kind()), error.column() as u64),
            (text(vector, "error").into(), vector["column"].as_u64().unwrap())
        );
    }
    for vector in list(&file, "broken_cbor") {
        let error = Policy::decode(&bytes(vector, "cbor")).expect_err(text(vector, "what"));
        assert_eq!(path(error), text(vector, "error"), "{}", text(vector, "what"));
    }
    for vector in list(&file, "sets") {
        let set: Attributes = text(vector, "attributes").parse().unwrap();
        assert_eq!(
            (set.encode(), Attributes::decode(&set.encode()).unwrap()),
            (bytes(vector, "cbor"), set.clone())
        );
        let labels = set.labels(&Versions::decode(&bytes(vector, "versions")).unwrap(), 7);
        let labels: Vec<Value> = labels.iter().map(|label| hex(label.as_bytes()).into()).collect();
        assert_eq!(labels, list(vector, "labels_in_epoch_7"));
    }
    for vector in list(&file, "templates") {
        let template = text(vector, "text").parse::<Template>().unwrap();
        assert_eq!(template.encode(), bytes(vector, "cbor"));
        assert_eq!(Template::decode(&template.encode()).unwrap(), template);
        let levels: Vec<&str> = list(vector, "levels").iter().map(|l| l.as_str().unwrap()).collect();
        let policy = template.instantiate(&levels);
        let answer = policy.map_or_else(|e| format!("error: {}", name(e)), |policy| policy.to_string());
        assert_eq!(answer, text(vector, "policy"));
    }
}

// --- tokens ---------------------------------------------------------------------------------------

fn token_generate() -> Value {
    let token = |url: &str, expires| Token {
        url: url.into(),
        fingerprint: Fingerprint([1; 32]),
        id: [2; 16],
        secret: [3; 16],
        expires,
    };
    let good = [
        token("https://127.0.0.1:8443", NOW),
        token("https://keys.example.org", 0),
        token("https://[::1]:1", u64::MAX),
    ];
    let text = good[0].expose();
    let body = &text[7..];
    let broken = [
        ("empty", String::new()),
        ("something else", "hello".into()),
        ("the prefix alone", "smqtt1.".into()),
        ("another version", format!("smqtt2.{body}")),
        ("cut short", text[..text.len() - 1].into()),
        ("cut by four characters", text[..text.len() - 4].into()),
        ("longer by four characters", format!("{}AAAA", *text)),
        ("padded", format!("{}==", *text)),
        (
            "in the standard alphabet",
            format!("smqtt1.{}", body.replacen('_', "/", 1).replacen('-', "+", 1).replacen('A', "+", 1)),
        ),
        ("white space inside", format!("{} {}", &text[..20], &text[20..])),
        ("another letter in front", format!("x{}", *text)),
        ("an array of four", format!("smqtt1.hH{}", &body[2..])),
        ("not CBOR", "smqtt1._____w".into()),
        ("too long", format!("smqtt1.{}", "A".repeat(1100))),
    ];
    let good: Vec<Value> = good
        .iter()
        .map(|token| {
            json!({
                "token": *token.expose(), "url": token.url, "fingerprint": token.fingerprint.to_string(),
                "id": hex(token.id), "secret": hex(token.secret), "expires": token.expires,
            })
        })
        .collect();
    let broken: Vec<Value> = broken
        .into_iter()
        .map(|(what, text)| {
            let error = Token::parse(&text).expect_err(what);
            json!({ "what": what, "token": text, "error": name(error) })
        })
        .collect();
    json!({ "about": "Enrolment tokens.", "good": good, "broken": broken })
}

#[test]
fn tokens() {
    let file = vectors("token", token_generate);
    for vector in list(&file, "good") {
        let token = Token::parse(text(vector, "token")).unwrap();
        assert_eq!(
            (&token.url[..], token.fingerprint.to_string()),
            (text(vector, "url"), text(vector, "fingerprint").into())
        );
        assert_eq!((token.id, token.secret), (array(vector, "id"), array(vector, "secret")));
        assert_eq!(token.expires, vector["expires"].as_u64().unwrap());
        assert_eq!(*token.expose(), text(vector, "token"));
    }
    for vector in list(&file, "broken") {
        let error = Token::parse(text(vector, "token")).expect_err(text(vector, "what"));
        assert_eq!(name(error), text(vector, "error"), "{}", text(vector, "what"));
    }
}

#[test]
fn vectors_name_the_suites_that_are_frozen() {
    assert_eq!(SuiteId::FabeoCp.name(), "fabeo-cp");
    assert_eq!(SuiteId::FabeoKp.name(), "fabeo-kp");
}
