//! Headers under labels.

use ciborium::Value;
use smqtt_core::attribute::{Attribute, Attributes, Versions};
use smqtt_core::bundle::{Bundle, BundleError};
use smqtt_core::crypto::Secret32;
use smqtt_core::envelope::{Envelope, SealingKey};
use smqtt_core::header::{Draft, Header, HeaderError};
use smqtt_core::suite::{Master, Params, Scope, SuiteError, SuiteId, UserKey};
use smqtt_core::target::Target;

use crate::common::cose::{self, BUNDLE_AAD, HEADER_AAD};
use crate::common::{NOW, policy};
use crate::{TOPIC, World};

/// What a header under labels needs beside a world.
struct Labelled {
    params: Params,
    master: Master,
    target: Target,
}

impl Labelled {
    fn new() -> Self {
        let (params, master) = SuiteId::FabeoKp.suite().setup(&Secret32::new([1; 32]));
        Self { params, master, target: labels("role=nurse, ward=3") }
    }

    fn seal(&self, world: &World) -> (Header, SealingKey) {
        let draft = Draft { params: &self.params, target: &self.target, ..world.draft() };
        Header::seal(&draft, &world.publisher).unwrap()
    }

    fn key(&self, policy: &str, versions: &Versions) -> UserKey {
        let access = Scope::Policy(self::policy(policy).access(versions, 7));
        SuiteId::FabeoKp.suite().keygen(&self.master, 7, &access, &Secret32::new([2; 32])).unwrap()
    }
}

fn labels(text: &str) -> Target {
    Target::labels(text.parse().unwrap()).unwrap()
}

#[test]
fn a_header_under_labels_opens_for_keys_whose_policy_holds() {
    let (world, labelled) = (World::new(), Labelled::new());
    let (header, content) = labelled.seal(&world);
    assert_eq!((header.suite(), header.target()), (SuiteId::FabeoKp, &labelled.target));
    world.verify(&header).unwrap();
    let fields = cose::fields(header.as_bytes());
    let keys: Vec<Value> = fields.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [1, 2, 3, 4, 6, 7, 8, 9, 10, 12].map(Value::from), "field 12 in place of field 5");
    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let message = Envelope::parse(&sealed).unwrap().message;
    for (policy, opens) in [
        ("role=nurse and ward>=3", true),
        ("ward=3 or ward=4", true),
        ("ward>=4", false),
        ("role=nurse and ward=3 and level=1", false),
    ] {
        let opened = header.open(&labelled.params, &labelled.key(policy, &world.versions));
        assert_eq!(opened.is_ok(), opens, "{policy}");
        let payload = opened.ok().map(|key| key.open(TOPIC, &message).unwrap());
        assert_eq!(payload.as_deref(), opens.then_some(&b"38.5"[..]));
    }
    // The versions of the labels are those of the header, and an older key of the same policy does not fit.
    let old = labelled.key("role=nurse", &Versions::default());
    assert_eq!(header.open(&labelled.params, &old).unwrap_err(), SuiteError::NotSatisfied.into());
    // Labels edited by the publisher itself: there is no row for them.
    let edited = cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, |f| {
        *cose::field(f, 12) = cose::bytes(attributes("role=nurse, ward=4").encode());
    });
    let edited = Header::parse(&edited).unwrap();
    let key = labelled.key("ward=4", &world.versions);
    assert_eq!(edited.open(&labelled.params, &key).unwrap_err(), SuiteError::Inconsistent.into());
}

fn attributes(text: &str) -> Attributes {
    text.parse().unwrap()
}

/// An encoding of attributes as they are given, in this order.
fn as_written(texts: &[&str]) -> Value {
    let each = texts.iter().flat_map(|text| text.parse::<Attribute>().unwrap().encode());
    cose::bytes([0x80 | texts.len() as u8].into_iter().chain(each).collect::<Vec<u8>>())
}

#[test]
fn a_header_has_a_policy_or_labels_as_its_suite_says() {
    let (world, labelled) = (World::new(), Labelled::new());
    let (by_policy, _) = world.seal();
    let (by_labels, _) = labelled.seal(&world);
    let parse = |header: &Header, edit: cose::Edit| {
        Header::parse(&cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, edit)).map(drop)
    };
    assert_eq!(parse(&by_labels, |_| ()), Ok(()));
    let of_labels: [(&str, cose::Edit); 12] = [
        ("a policy beside", |f| f.insert(4, (5.into(), cose::bytes(policy("role=nurse").encode())))),
        ("neither", |f| drop(f.pop())),
        ("under the other suite", |f| *cose::field(f, 1) = "fabeo-cp".into()),
        ("no labels", |f| *cose::field(f, 12) = cose::bytes([0x80])),
        ("null for labels", |f| *cose::field(f, 12) = Value::Null),
        ("labels in place, not in bytes", |f| *cose::field(f, 12) = Value::Array(vec![])),
        ("a policy for labels", |f| *cose::field(f, 12) = cose::bytes(policy("role=nurse").encode())),
        ("another order", |f| *cose::field(f, 12) = as_written(&["ward=3", "role=nurse"])),
        ("a label twice", |f| *cose::field(f, 12) = as_written(&["role=nurse", "ward=3", "ward=3"])),
        ("versions of what is no label", |f| {
            *cose::field(f, 12) = cose::bytes(attributes("ward=3").encode())
        }),
        ("264 labels", |f| {
            let eight: Vec<String> = (0..8).map(|n| format!("a{n}=1")).collect();
            let texts: Vec<&str> = eight.iter().map(String::as_str).chain(["role=nurse"]).collect();
            *cose::field(f, 12) = as_written(&texts);
        }),
        ("labels before the filter", |f| f.swap(8, 9)),
    ];
    for (what, edit) in of_labels {
        assert_eq!(parse(&by_labels, edit), Err(HeaderError::Malformed), "{what}");
    }
    let of_policy: [(&str, cose::Edit); 3] = [
        ("labels beside", |f| f.push((12.into(), as_written(&["role=nurse", "ward=3"])))),
        ("labels in its place", |f| {
            f.retain(|(key, _)| *key != 5.into());
            f.push((12.into(), as_written(&["role=nurse", "ward=3"])));
        }),
        ("under the other suite", |f| *cose::field(f, 1) = "fabeo-kp".into()),
    ];
    for (what, edit) in of_policy {
        assert_eq!(parse(&by_policy, edit), Err(HeaderError::Malformed), "{what}");
    }
    // Nobody makes them, either.
    let crossed = Draft { params: &world.params, target: &labelled.target, ..world.draft() };
    assert!(Header::seal(&crossed, &world.publisher).is_err());
    let crossed = Draft { params: &labelled.params, ..world.draft() };
    assert!(Header::seal(&crossed, &world.publisher).is_err());
}

#[test]
fn a_bundle_holds_labels_to_its_rule() {
    let (world, mut labelled) = (World::new(), Labelled::new());
    let mut bundle = world.bundle();
    bundle.params.push(*labelled.params.id());
    bundle.rules[0].policy = None;
    bundle.rules[0].labels = Some("ward=$1, role=nurse".parse().unwrap());
    let bytes = bundle.sign(&world.pki.authority());
    assert_eq!(Bundle::verify(&bytes, &world.pki.roots()).unwrap(), bundle);
    assert_eq!(bundle.check(&labelled.seal(&world).0, TOPIC, NOW), Ok(()));
    let by_policy = bundle.check(&world.seal().0, TOPIC, NOW).unwrap_err();
    assert_eq!(by_policy.code(), "policy");
    assert!(by_policy.to_string().contains("`role=nurse and ward=3`, but the rule"), "{by_policy}");
    for other in ["role=nurse", "role=nurse, ward=4", "admin, role=nurse, ward=3"] {
        labelled.target = labels(other);
        assert_eq!(
            bundle.check(&labelled.seal(&world).0, TOPIC, NOW).unwrap_err().code(),
            "policy",
            "{other}"
        );
    }
    // A rule has a policy or labels.
    let with_rule = |fields: Vec<(i64, Value)>| {
        let edit = |f: &mut cose::Fields| *cose::field(f, 9) = Value::Array(vec![cose::map(fields.clone())]);
        Bundle::verify(&cose::edited(&bytes, &world.pki.authority(), BUNDLE_AAD, edit), &world.pki.roots())
    };
    let base = || vec![(1, Value::from("a/+")), (2, 2.into())];
    let field = |key: i64, value: Value| [base(), vec![(key, value)]].concat();
    assert!(with_rule(field(6, as_written(&["role=nurse"]))).is_ok());
    let template = cose::bytes(policy("role=nurse").encode());
    let both = [field(3, template), vec![(6, as_written(&["role=nurse"]))]].concat();
    assert_eq!(with_rule(both), Err(BundleError::Malformed));
    for bad in [
        cose::bytes([0x80]),
        as_written(&["b", "a"]),
        as_written(&["a", "a"]),
        cose::bytes([0x81, 0x83, 1, 0x61, b'a', 1]),
    ] {
        assert_eq!(with_rule(field(6, bad)), Err(BundleError::Malformed));
    }
}
