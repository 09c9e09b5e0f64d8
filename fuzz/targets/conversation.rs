//! Whole conversations of several clients with a broker, its codec and sessions included: no panic, no hang, and no
//! promise broken. The tests hold some at random.
#![no_main]

#[path = "../../tests/broker_support/conversation/mod.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    conversation::hold(data);
});
