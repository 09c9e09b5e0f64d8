//! Attacks on the suites, against their equations: an attacker who takes keys and encapsulations apart
//! and computes with them as it likes. Each attack once found on a library for attribute-based
//! encryption is here, and where it can be, next to a broken variant on which it works.

#[path = "../common/mod.rs"]
mod common;

mod cp;
mod kp;

use common::small_order::minus_one_in_gt;
use smqtt_core::suite::Params;

const CONTEXT: &[u8] = b"context";
const M: [u8; 32] = [0x5a; 32];

/// Of both suites the last element of the parameters is one of the target group.
fn params_outside_the_group_are_refused(params: &Params) {
    let params = params.encode();
    assert!(Params::decode(&params).is_ok());
    let y = params.len() - 576;
    for at in (y..params.len()).step_by(7) {
        let mut bad = params.clone();
        bad[at] ^= 1;
        assert!(Params::decode(&bad).is_err(), "outside the group of prime order");
    }
    let mut one = params.clone();
    one[y..].fill(0);
    one[y + 47] = 1;
    assert!(Params::decode(&one).is_err(), "with Y = 1 everybody knows every shared element");
    one[y + 47] = 0;
    assert!(Params::decode(&one).is_err(), "zero is in no group");
    let minus_one = [&params[..y], &minus_one_in_gt()].concat();
    assert!(Params::decode(&minus_one).is_err(), "-1 has order 2");
}
