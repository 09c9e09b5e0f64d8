//! Agrawal, Chase, "FAME: Fast Attribute-based Message Encryption", CCS 2017, both modes, as rabe has it.

use rabe::schemes::ac17::{
    Ac17CpCiphertext, Ac17CpSecretKey, Ac17KpCiphertext, Ac17KpSecretKey, Ac17MasterKey, Ac17PublicKey,
    cp_decrypt, cp_encrypt, cp_keygen, kp_decrypt, kp_encrypt, kp_keygen, setup,
};
use rabe::utils::policy::pest::PolicyLanguage;

use super::{Instance, Mode, Scheme, Sizes, bytes, json_policy, labels, payload};

/// rabe's `ac17`, ciphertext-policy.
pub struct Ac17Cp;

/// rabe's `ac17`, key-policy.
pub struct Ac17Kp;

impl Scheme for Ac17Cp {
    fn name(&self) -> &'static str {
        "ac17-cp"
    }

    fn mode(&self) -> Mode {
        Mode::CiphertextPolicy
    }

    fn protects(&self) -> bool {
        false
    }

    fn at(&self, attributes: usize) -> Box<dyn Instance> {
        Box::new(AtCp { common: Common::new(attributes), key: None, ciphertext: None })
    }
}

impl Scheme for Ac17Kp {
    fn name(&self) -> &'static str {
        "ac17-kp"
    }

    fn mode(&self) -> Mode {
        Mode::KeyPolicy
    }

    fn protects(&self) -> bool {
        false
    }

    fn at(&self, attributes: usize) -> Box<dyn Instance> {
        Box::new(AtKp { common: Common::new(attributes), key: None, ciphertext: None })
    }
}

struct Common {
    params: Ac17PublicKey,
    master: Ac17MasterKey,
    labels: Vec<String>,
    policy: String,
    payload: Vec<u8>,
}

impl Common {
    fn new(attributes: usize) -> Self {
        let (params, master) = setup();
        let labels = labels(attributes);
        let policy = json_policy(&labels);
        Self { params, master, labels, policy, payload: payload() }
    }

    fn labels(&self) -> Vec<&str> {
        self.labels.iter().map(String::as_str).collect()
    }
}

struct AtCp {
    common: Common,
    key: Option<Ac17CpSecretKey>,
    ciphertext: Option<Ac17CpCiphertext>,
}

impl Instance for AtCp {
    fn setup(&mut self) {
        (self.common.params, self.common.master) = setup();
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        self.key = cp_keygen(&self.common.master, &self.common.labels()).ok();
    }

    fn encapsulate(&mut self) {
        let Common { params, policy, payload, .. } = &self.common;
        self.ciphertext = cp_encrypt(params, policy, payload, PolicyLanguage::JsonPolicy).ok();
    }

    fn decapsulate(&mut self) -> bool {
        let (Some(key), Some(ciphertext)) = (&self.key, &self.ciphertext) else { return false };
        cp_decrypt(key, ciphertext).is_ok_and(|plain| plain == self.common.payload)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            params: bytes::count(&self.common.params),
            key: bytes::count(&self.key),
            encapsulation: bytes::count(&self.ciphertext).saturating_sub(self.common.payload.len()),
        }
    }
}

struct AtKp {
    common: Common,
    key: Option<Ac17KpSecretKey>,
    ciphertext: Option<Ac17KpCiphertext>,
}

impl Instance for AtKp {
    fn setup(&mut self) {
        (self.common.params, self.common.master) = setup();
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        self.key = kp_keygen(&self.common.master, &self.common.policy, PolicyLanguage::JsonPolicy).ok();
    }

    fn encapsulate(&mut self) {
        let Common { params, payload, .. } = &self.common;
        self.ciphertext = kp_encrypt(params, &self.common.labels(), payload).ok();
    }

    fn decapsulate(&mut self) -> bool {
        let (Some(key), Some(ciphertext)) = (&self.key, &self.ciphertext) else { return false };
        kp_decrypt(key, ciphertext).is_ok_and(|plain| plain == self.common.payload)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            params: bytes::count(&self.common.params),
            key: bytes::count(&self.key),
            encapsulation: bytes::count(&self.ciphertext).saturating_sub(self.common.payload.len()),
        }
    }
}
