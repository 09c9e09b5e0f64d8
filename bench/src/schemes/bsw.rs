//! Bethencourt, Sahai, Waters, "Ciphertext-Policy Attribute-Based Encryption", S&P 2007, as rabe has it.

use rabe::schemes::bsw::{
    CpAbeCiphertext, CpAbeMasterKey, CpAbePublicKey, CpAbeSecretKey, decrypt, encrypt, keygen, setup,
};
use rabe::utils::policy::pest::PolicyLanguage;

use super::{Instance, Mode, Scheme, Sizes, bytes, json_policy, labels, payload};

/// rabe's `bsw`.
pub struct Bsw;

impl Scheme for Bsw {
    fn name(&self) -> &'static str {
        "bsw"
    }

    fn mode(&self) -> Mode {
        Mode::CiphertextPolicy
    }

    fn protects(&self) -> bool {
        false
    }

    fn at(&self, attributes: usize) -> Box<dyn Instance> {
        let (params, master) = setup();
        let labels = labels(attributes);
        let policy = json_policy(&labels);
        Box::new(At { params, master, labels, policy, payload: payload(), key: None, ciphertext: None })
    }
}

struct At {
    params: CpAbePublicKey,
    master: CpAbeMasterKey,
    labels: Vec<String>,
    policy: String,
    payload: Vec<u8>,
    key: Option<CpAbeSecretKey>,
    ciphertext: Option<CpAbeCiphertext>,
}

impl Instance for At {
    fn setup(&mut self) {
        (self.params, self.master) = setup();
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        self.key = keygen(&self.params, &self.master, &labels);
    }

    fn encapsulate(&mut self) {
        self.ciphertext = encrypt(&self.params, &self.policy, PolicyLanguage::JsonPolicy, &self.payload).ok();
    }

    fn decapsulate(&mut self) -> bool {
        let (Some(key), Some(ciphertext)) = (&self.key, &self.ciphertext) else { return false };
        decrypt(key, ciphertext).is_ok_and(|plain| plain == self.payload)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            params: bytes::count(&self.params),
            key: bytes::count(&self.key),
            encapsulation: bytes::count(&self.ciphertext).saturating_sub(self.payload.len()),
        }
    }
}
