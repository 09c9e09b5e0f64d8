//! Attacks on the suites, against their equations: an attacker who takes keys and encapsulations apart
//! and computes with them as it likes. Each attack once found on a library for attribute-based
//! encryption is here, and where it can be, next to a broken variant on which it works.

#[path = "../common/mod.rs"]
mod common;

mod cp;
mod kp;

const CONTEXT: &[u8] = b"context";
const M: [u8; 32] = [0x5a; 32];
