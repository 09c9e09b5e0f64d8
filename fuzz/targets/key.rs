//! Keys and parameters have one encoding, and every point of theirs is in its group.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smqtt_core::suite::{Params, UserKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(params) = Params::decode(data) {
        assert_eq!(params.encode(), data);
    }
    if let Ok(key) = UserKey::decode(data) {
        assert_eq!(*key.encode(), data);
        assert!(key.labels().is_sorted_by(|a, b| a < b));
    }
});
