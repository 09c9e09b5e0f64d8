//! Keys and parameters have one encoding, and every point of theirs is in its group, whichever the suite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smqtt_core::suite::{Params, Scope, SuiteId, UserKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(params) = Params::decode(data) {
        assert_eq!(params.encode(), data);
    }
    if let Ok(key) = UserKey::decode(data) {
        assert_eq!(*key.encode(), data);
        assert!(key.labels().is_sorted_by(|a, b| a < b));
        match key.scope() {
            Scope::Labels(labels) => {
                assert_eq!((key.suite(), labels.as_slice()), (SuiteId::FabeoCp, key.labels()));
            }
            Scope::Policy(access) => {
                assert_eq!(key.suite(), SuiteId::FabeoKp);
                assert_eq!(access.clone().canonical().as_ref(), Ok(access), "one formula, one spelling");
            }
        }
        // What it satisfies is decided without its points, and on any formula it can carry.
        let all = Scope::Labels(key.labels().to_vec().into());
        assert_eq!(key.satisfies(&all), key.suite() == SuiteId::FabeoKp);
    }
});
