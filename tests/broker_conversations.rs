//! Whole conversations at random, a thousand of them. `fuzz/targets/conversation.rs` holds millions, and learns.

mod broker_support;
#[path = "broker_support/conversation/mod.rs"]
mod conversation;

use broker_support::load::scatter;
use conversation::{Tally, hold};

const CONVERSATIONS: u64 = 1_000;

#[test]
fn no_conversation_breaks_a_promise() {
    // Another number begins elsewhere.
    let from = std::env::var("SMQTT_CONVERSATIONS_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut tally = Tally::default();
    for seed in from..from + CONVERSATIONS {
        let words = 8 + scatter(seed) % 40;
        let bytes: Vec<u8> = (1..=words).flat_map(|n| scatter(seed << 8 | n).to_le_bytes()).collect();
        let held = std::panic::catch_unwind(|| hold(&bytes));
        tally += held.unwrap_or_else(|_| panic!("conversation {seed}"));
    }
    println!("{CONVERSATIONS} conversations: {tally:?}");
    assert!(tally.deliveries > 1_000 && tally.exactly_once > 100 && tally.owed > 100, "{tally:?}");
}

/// Conversations that the fuzzer stopped at, with what was wrong: with the model where it says so, else with the broker.
const FOUND: &[(&str, &str)] = &[
    (
        "the model: a QoS 2 message sent again, taken before its publisher subscribed to it with more than QoS 0",
        "010024080600012024082a04002a04fbd5fbffeeeffffb2a04002a040028746f7003012508066b6b0500002408",
    ),
    (
        "copies of a QoS 2 message under way acknowledged before messages that came before them",
        "00e2e2e200e2e2e273729b8d8c28869e968b696e615f6d61782fd535fa4c73729b8d8c0202020202020202020202022886\
         9e968b696e615f6d61802fd535fa4cbb",
    ),
    (
        "the model: a client that keeps to the standard said more than the receive maximum",
        "0304000624080100240806028120de242a06002a065b736d71cfcfcfcfcfcf20cf46cfcf2a0624080120ccdae2daccdae2\
         dadad0da6e6fc9dad0da6e6fc964cf2a0608",
    ),
    (
        "the model: an identifier that PUBREL set free, before PUBREC answered copies of its message",
        "040025080602012025002773004c002a05002a05082a06412a06003673004c323f92009292929292612f922a05002a2a24\
         05f6",
    ),
];

#[test]
fn what_was_found_stays_mended() {
    for (what, bytes) in FOUND {
        let held = std::panic::catch_unwind(|| hold(&bytes_of(bytes)));
        assert!(held.is_ok(), "{what}");
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
