//! Labels to seal under: how many there may be, and that a header's are held to it.

mod common;

use common::NOW;
use common::cose::{self, HEADER_AAD};
use common::pki::Pki;
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::formula::LEAVES_MAX;
use smqtt_core::header::{Draft, Header, HeaderError};
use smqtt_core::suite::{Scope, SuiteId};
use smqtt_core::target::{Target, TargetError};

/// `ints` integers, 33 labels each, and `texts` others.
fn attributes(ints: usize, texts: usize) -> Attributes {
    let ints = (0..ints).map(|i| format!("n{i}={i}"));
    let texts = (0..texts).map(|i| format!("t{i}=x"));
    ints.chain(texts).collect::<Vec<_>>().join(", ").parse().unwrap()
}

#[test]
fn labels_are_some_and_not_too_many() {
    assert_eq!(Target::labels(attributes(0, 0)), Err(TargetError::Empty));
    for (ints, texts) in [(0, 1), (0, 64), (7, 25), (6, 58)] {
        let count = 33 * ints + texts;
        let target = Target::labels(attributes(ints, texts)).unwrap();
        assert_eq!(target.suite(), SuiteId::FabeoKp);
        let Scope::Labels(labels) = target.scope(&Versions::default(), 7) else { panic!("labels") };
        assert_eq!(labels.as_slice().len(), count + 1, "and the epoch's");
        assert!(count <= LEAVES_MAX);
    }
    for (ints, texts) in [(7, 26), (8, 0), (64, 0)] {
        let count = 33 * ints + texts;
        assert_eq!(Target::labels(attributes(ints, texts)), Err(TargetError::TooMany { count }));
    }
    // Two integers of a name have no bits.
    let two = (0..20).flat_map(|i| [format!("n{i}=1"), format!("n{i}=2")]).collect::<Vec<_>>().join(", ");
    assert!(Target::labels(two.parse().unwrap()).is_ok());
}

/// Nothing else is wrong with these headers: no versions that they would have no use for.
#[test]
fn a_header_has_some_labels_and_not_too_many() {
    let (params, _) = SuiteId::FabeoKp.suite().setup(&Secret32::new([1; 32]));
    let publisher = Pki::new().device(1);
    let target = Target::labels(attributes(1, 1)).unwrap();
    let draft = Draft {
        params: &params,
        epoch: 7,
        versions: &Versions::default(),
        target: &target,
        created: NOW,
        expires: NOW + 3600,
        filter: &"#".parse().unwrap(),
        sign_messages: false,
    };
    let (header, _) = Header::seal(&draft, &publisher).unwrap();
    let with = |attributes: &Attributes| {
        let edit = |f: &mut cose::Fields| *cose::field(f, 12) = cose::bytes(attributes.encode());
        Header::parse(&cose::edited(header.as_bytes(), &publisher, HEADER_AAD, edit))
    };
    for fine in [attributes(1, 1), attributes(0, 1), attributes(7, 25)] {
        assert_eq!(with(&fine).unwrap().target(), &Target::Labels(fine.clone()));
    }
    for bad in [attributes(0, 0), attributes(7, 26), attributes(64, 0)] {
        assert_eq!(with(&bad).map(drop), Err(HeaderError::Malformed));
    }
}
