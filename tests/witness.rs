//! The independent witness: both suites written a second time, in Python, from PROTOCOL.md alone. It makes and opens the
//! frozen vectors, and so it fails where the text and the bytes differ.

mod common;

use std::process::{Command, Stdio};

use common::skipped;

const PACKAGES: &str = "import cryptography, py_ecc, regex";

#[test]
fn the_witness_makes_and_opens_the_frozen_vectors() {
    let there = Command::new("python3").args(["-c", PACKAGES]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        skipped("python3 with the packages of tests/witness/requirements.txt is not installed");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/test_vectors.py");
    let output = Command::new("python3").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
