//! What the tests of this crate share.
// Each test file is a program of its own and uses a part of it.
#![allow(dead_code)]

pub mod cose;
pub mod linear;
pub mod pki;
pub mod random;
pub mod small_order;
pub mod witness;
pub mod witness_kp;

use smqtt_core::attribute::{Attributes, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteId, UserKey};

/// Seconds since 1970, in January 2027: inside the validity of every certificate of [`pki`].
pub const NOW: u64 = 1_800_000_000;

/// `fabeo-cp`
pub fn suite() -> &'static dyn Suite {
    SuiteId::FabeoCp.suite()
}

/// `fabeo-kp`
pub fn kp() -> &'static dyn Suite {
    SuiteId::FabeoKp.suite()
}

/// What a key of the suite is for: labels or a policy.
pub fn grant(
    suite: SuiteId,
    policy: &Policy,
    attributes: &Attributes,
    versions: &Versions,
    epoch: u64,
) -> Scope {
    match suite {
        SuiteId::FabeoKp => Scope::Policy(policy.access(versions, epoch)),
        _ => Scope::Labels(attributes.labels(versions, epoch).into()),
    }
}

/// What the suite seals under: a policy or labels.
pub fn scope(
    suite: SuiteId,
    policy: &Policy,
    attributes: &Attributes,
    versions: &Versions,
    epoch: u64,
) -> Scope {
    match suite {
        SuiteId::FabeoKp => Scope::Labels(attributes.labels(versions, epoch).into()),
        _ => Scope::Policy(policy.access(versions, epoch)),
    }
}

/// Parameters and master from coins of one repeated byte.
pub fn setup(coins: u8) -> (Params, Master) {
    suite().setup(&Secret32::new([coins; 32]))
}

/// A key for these labels.
pub fn keygen(master: &Master, epoch: u64, labels: &[Label], coins: &Secret32) -> UserKey {
    suite().keygen(master, epoch, &Scope::Labels(labels.to_vec().into()), coins).unwrap()
}

/// A key for attributes written `a, b=1`, in an epoch, without versions.
pub fn key(master: &Master, attributes: &str, epoch: u64, coins: u8) -> UserKey {
    let labels = attributes.parse::<Attributes>().unwrap().labels(&Versions::default(), epoch);
    keygen(master, epoch, &labels, &Secret32::new([coins; 32]))
}

pub fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "an odd number of hexadecimal digits");
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}
