//! Without tables, everything comes out as it was frozen with them. A program of its own: the profile is the
//! whole process's.

mod common;

use common::unhex;
use serde_json::Value;
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Params, Scope, SuiteId, UserKey};
use smqtt_core::tables::{self, Profile};

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    unhex(value[key].as_str().unwrap())
}

fn coins(value: &Value, key: &str) -> Secret32 {
    Secret32::new(bytes(value, key).try_into().unwrap())
}

/// Policy or labels, whichever the vector has.
fn scope(vector: &Value) -> Scope {
    let versions = Versions::decode(&bytes(vector, "versions")).unwrap();
    let epoch = vector["epoch"].as_u64().unwrap();
    match (vector["policy"].as_str(), vector["attributes"].as_str()) {
        (Some(policy), None) => Scope::Policy(policy.parse::<Policy>().unwrap().access(&versions, epoch)),
        (None, Some(set)) => {
            Scope::Labels(set.parse::<Attributes>().unwrap().labels(&versions, epoch).into())
        }
        _ => panic!("one of both"),
    }
}

fn frozen_vectors_come_out(suite: SuiteId, file: &str) {
    tables::choose(Profile::Small);
    assert_eq!(tables::profile(), Profile::Small);
    let file: Value = serde_json::from_str(file).unwrap();
    let params = Params::decode(&bytes(&file["setup"], "params")).unwrap();
    let (made, master) = suite.suite().setup(&coins(&file["setup"], "coins"));
    assert_eq!(made, params);
    let keys: Vec<UserKey> = file["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vector| {
            let epoch = vector["epoch"].as_u64().unwrap();
            let key = suite.suite().keygen(&master, epoch, &scope(vector), &coins(vector, "coins")).unwrap();
            assert_eq!(*key.encode(), bytes(vector, "key"));
            key
        })
        .collect();
    let encapsulations = file["encapsulations"].as_array().unwrap();
    // More than once: where there are tables, they are made after a while.
    for round in 0..10 {
        for vector in encapsulations.iter().take(if round == 0 { usize::MAX } else { 2 }) {
            let (scope, context) = (scope(vector), bytes(vector, "context"));
            let (made, secret) =
                suite.suite().encapsulate(&params, &scope, &context, &coins(vector, "m")).unwrap();
            assert_eq!(made, bytes(vector, "encapsulation"));
            assert_eq!(secret.expose()[..], bytes(vector, "secret"));
            for key in keys.iter().filter(|key| round == 0 && key.satisfies(&scope)) {
                let opened = suite.suite().decapsulate(&params, key, &scope, &context, &made);
                assert_eq!(opened.as_ref(), Ok(&secret));
            }
        }
    }
}

#[test]
fn fabeo_cp_without_tables() {
    frozen_vectors_come_out(SuiteId::FabeoCp, include_str!("vectors/fabeo-cp.json"));
}

#[test]
fn fabeo_kp_without_tables() {
    frozen_vectors_come_out(SuiteId::FabeoKp, include_str!("vectors/fabeo-kp.json"));
}

/// Bytes cannot tell, memory can: under the standard profile each label would have a table by now.
#[test]
fn there_are_no_tables() {
    tables::choose(Profile::Small);
    let (params, _) = SuiteId::FabeoKp.suite().setup(&Secret32::new([1; 32]));
    let labels = "a, b, c, d".parse::<Attributes>().unwrap().labels(&Versions::default(), 7);
    let scope = Scope::Labels(labels.into());
    let grown = allocation_counter::measure(|| {
        for coins in 0..20 {
            let made =
                SuiteId::FabeoKp.suite().encapsulate(&params, &scope, b"", &Secret32::new([coins; 32]));
            drop(made.unwrap());
        }
    });
    assert!(grown.count_total > 0, "the counter counts");
    let (params, master) = SuiteId::FabeoKp.suite().setup(&Secret32::new([1; 32]));
    let policy: Policy = "a and b or a and c".parse().unwrap();
    let own = Scope::Policy(policy.access(&Versions::default(), 7));
    let key = SuiteId::FabeoKp.suite().keygen(&master, 7, &own, &Secret32::new([2; 32])).unwrap();
    let made = SuiteId::FabeoKp.suite().encapsulate(&params, &scope, b"", &Secret32::new([3; 32])).unwrap();
    let kept = allocation_counter::measure(|| {
        let opened = SuiteId::FabeoKp.suite().decapsulate(&params, &key, &scope, b"", &made.0);
        assert_eq!(opened.as_ref(), Ok(&made.1));
    });
    assert!(
        kept.bytes_current < tables::LINES_BYTES as i64,
        "{} bytes stay with the key",
        kept.bytes_current
    );
    assert!(grown.bytes_current < tables::TABLE_BYTES as i64, "{} bytes stay", grown.bytes_current);
    assert!(grown.bytes_max < tables::TABLE_BYTES as u64, "{} bytes at a time", grown.bytes_max);
}
