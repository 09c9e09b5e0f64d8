//! Yao, Chen, Tian, "A lightweight attribute-based encryption scheme for the Internet of Things", 2015, key-policy and
//! without pairings, as rabe has it. Broken by design: two keys for `A and B` make a key for `A`.

use rabe::schemes::yct14::{
    Yct14AbeCiphertext, Yct14AbeMasterKey, Yct14AbePublicKey, Yct14AbeSecretKey, decrypt, encrypt, keygen,
    setup,
};
use rabe::utils::policy::pest::PolicyLanguage;

use super::{Instance, Mode, Scheme, Sizes, bytes, json_policy, labels, payload};

/// rabe's `yct14`.
pub struct Yct14;

impl Scheme for Yct14 {
    fn name(&self) -> &'static str {
        "yct14"
    }

    fn mode(&self) -> Mode {
        Mode::KeyPolicy
    }

    fn protects(&self) -> bool {
        false
    }

    fn small_universe(&self) -> bool {
        true
    }

    fn at(&self, attributes: usize) -> Box<dyn Instance> {
        let labels = labels(attributes);
        let (params, master) = setup(borrowed(&labels));
        let policy = json_policy(&labels);
        Box::new(At { params, master, labels, policy, payload: payload(), key: None, ciphertext: None })
    }
}

fn borrowed(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

struct At {
    params: Yct14AbePublicKey,
    master: Yct14AbeMasterKey,
    labels: Vec<String>,
    policy: String,
    payload: Vec<u8>,
    key: Option<Yct14AbeSecretKey>,
    ciphertext: Option<Yct14AbeCiphertext>,
}

impl Instance for At {
    fn setup(&mut self) {
        (self.params, self.master) = setup(borrowed(&self.labels));
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        self.key = keygen(&self.master, &self.policy, PolicyLanguage::JsonPolicy).ok();
    }

    fn encapsulate(&mut self) {
        self.ciphertext = encrypt(&self.params, &borrowed(&self.labels), &self.payload).ok();
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
