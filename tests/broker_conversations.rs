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
