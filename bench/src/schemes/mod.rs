//! The schemes that are compared, each behind one small trait: ours, and those of rabe.
//!
//! **rabe protects nothing.** It hashes a label to the group as `g * SHA3(label)`, so everybody knows the discrete
//! logarithm of every label's point, and every proof needs that nobody does. It is the yardstick, never the lock.

mod ac17;
mod bsw;
mod bytes;
mod fabeo;
mod ghw11;
mod lsw;
mod yct14;

use smqtt_core::crypto::random;

pub use fabeo::{EPOCH, Fabeo, FabeoInstance, targets};

/// Bytes of the payload that is sealed.
pub const PAYLOAD_BYTES: usize = 256;
/// What goes with every figure of rabe's.
pub const RABE_NOTE: &str = "protects nothing: rabe's labels have known discrete logarithms; see README.md, \
                             \"Why rabe is not the lock\"";

/// Whether the policy is in the ciphertext or in the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The policy is in the ciphertext, attributes are in the key.
    CiphertextPolicy,
    /// Attributes are in the ciphertext, the policy is in the key.
    KeyPolicy,
}

/// Bytes of what a scheme makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Public parameters.
    pub params: usize,
    /// One user secret key.
    pub key: usize,
    /// One encapsulation. Of rabe's: the ciphertext less the payload.
    pub encapsulation: usize,
}

/// An attribute-based scheme.
pub trait Scheme: Sync {
    /// The name in tables and files.
    fn name(&self) -> &'static str;

    /// Where the policy is.
    fn mode(&self) -> Mode;

    /// Whether it protects anything: ours do, rabe's do not.
    fn protects(&self) -> bool;

    /// Whether setup has to name all attributes.
    fn small_universe(&self) -> bool {
        false
    }

    /// A policy `a1 and … and an` with everything that satisfies it.
    fn at(&self, attributes: usize) -> Box<dyn Instance>;
}

/// A scheme set up for one policy. Each operation keeps what it made for the next, so the first calls of
/// `setup`, `keygen`, `seal` and `open` are in this order; afterwards any order goes.
pub trait Instance {
    /// Public parameters and master secret key.
    fn setup(&mut self);

    /// One user secret key for all the attributes, or for the policy.
    fn keygen(&mut self);

    /// One encapsulation. rabe knows no such step: there the payload is encrypted as well.
    fn encapsulate(&mut self);

    /// The secret of the last encapsulation; whether there was one.
    fn decapsulate(&mut self) -> bool;

    /// Encapsulates afresh and seals a payload of [`PAYLOAD_BYTES`].
    fn seal(&mut self) {
        self.encapsulate();
    }

    /// Opens what [`Instance::seal`] made; whether the payload came out.
    fn open(&mut self) -> bool {
        self.decapsulate()
    }

    /// Of what is kept.
    fn sizes(&self) -> Sizes;
}

/// Every scheme of the evaluation, ours first.
pub fn all() -> Vec<&'static dyn Scheme> {
    vec![
        &Fabeo::CP,
        &Fabeo::KP,
        &bsw::Bsw,
        &ac17::Ac17Cp,
        &ac17::Ac17Kp,
        &lsw::Lsw,
        &ghw11::Ghw11,
        &yct14::Yct14,
    ]
}

/// The scheme of this name.
pub fn by_name(name: &str) -> Option<&'static dyn Scheme> {
    all().into_iter().find(|scheme| scheme.name() == name)
}

/// The names of `count` attributes, from `a1`. rabe cuts labels at the first `_`, so none has one.
fn labels(count: usize) -> Vec<String> {
    (1..=count).map(|i| format!("a{i}")).collect()
}

/// An `and` of `labels` as rabe reads it. Nested in pairs: its AC17 panics on a flat `and` of three.
fn json_policy(labels: &[String]) -> String {
    match labels {
        [one] => format!(r#"{{"name": "{one}"}}"#),
        _ => {
            let (left, right) = labels.split_at(labels.len() / 2);
            let [left, right] = [left, right].map(json_policy);
            format!(r#"{{"name": "and", "children": [{left}, {right}]}}"#)
        }
    }
}

/// A payload like no other.
fn payload() -> Vec<u8> {
    random::<PAYLOAD_BYTES>().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_opens_what_it_sealed() {
        for scheme in all() {
            for attributes in [1, 2, 3] {
                let mut instance = scheme.at(attributes);
                instance.setup();
                instance.keygen();
                instance.seal();
                assert!(instance.open(), "{} with {attributes}", scheme.name());
                instance.encapsulate();
                assert!(instance.decapsulate(), "{} with {attributes}", scheme.name());
                let sizes = instance.sizes();
                assert!(sizes.params > 100 && sizes.key > 40 && sizes.encapsulation > 40, "{sizes:?}");
            }
        }
    }

    /// The reason why rabe protects nothing: everybody can compute the logarithm of a label's point.
    #[test]
    fn rabe_knows_the_logarithm_of_every_label() {
        use rabe::utils::hash::{sha3_hash, sha3_hash_fr};
        // Points of both groups that the library itself made.
        let (params, _) = rabe::schemes::bsw::setup();
        for label in ["a1", "role=nurse", ""] {
            let logarithm = sha3_hash_fr(label).unwrap();
            assert!(sha3_hash(params.g1, label).unwrap() == params.g1 * logarithm);
            assert!(sha3_hash(params.g2, label).unwrap() == params.g2 * logarithm);
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for scheme in all() {
            let found = by_name(scheme.name()).unwrap();
            assert_eq!((found.name(), found.protects()), (scheme.name(), scheme.protects()));
            assert_eq!(scheme.protects(), scheme.name().starts_with("fabeo-"));
        }
        assert!(by_name("rot13").is_none());
    }

    #[test]
    fn policies_are_nested_in_pairs() {
        assert_eq!(json_policy(&labels(1)), r#"{"name": "a1"}"#);
        let three = r#"{"name": "and", "children": [{"name": "a1"}, {"name": "and", "children": [{"name": "a2"}, {"name": "a3"}]}]}"#;
        assert_eq!(json_policy(&labels(3)), three);
    }
}
