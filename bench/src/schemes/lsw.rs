//! Lewko, Sahai, Waters, "Revocation Systems with Very Small Private Keys", S&P 2010, key-policy, as rabe has it.

use rabe::schemes::lsw::{
    KpAbeCiphertext, KpAbeMasterKey, KpAbePublicKey, KpAbeSecretKey, decrypt, encrypt, keygen, setup,
};
use rabe::utils::policy::pest::PolicyLanguage;

use super::{Instance, Mode, Scheme, Sizes, bytes, json_policy, labels, payload};

/// rabe's `lsw`.
pub struct Lsw;

impl Scheme for Lsw {
    fn name(&self) -> &'static str {
        "lsw"
    }

    fn mode(&self) -> Mode {
        Mode::KeyPolicy
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
    params: KpAbePublicKey,
    master: KpAbeMasterKey,
    labels: Vec<String>,
    policy: String,
    payload: Vec<u8>,
    key: Option<KpAbeSecretKey>,
    ciphertext: Option<KpAbeCiphertext>,
}

impl Instance for At {
    fn setup(&mut self) {
        (self.params, self.master) = setup();
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        self.key = keygen(&self.params, &self.master, &self.policy, PolicyLanguage::JsonPolicy).ok();
    }

    fn encapsulate(&mut self) {
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        self.ciphertext = encrypt(&self.params, &labels, &self.payload).ok();
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
