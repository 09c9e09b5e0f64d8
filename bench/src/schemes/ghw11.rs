//! Green, Hohenberger, Waters, "Outsourcing the Decryption of ABE Ciphertexts", USENIX Security 2011, as rabe has it.
//!
//! To open is to transform, which a helper may do, and to decrypt what is left; both are counted.

use rabe::schemes::ghw11::{
    Ghw11Ciphertext, Ghw11MasterKey, Ghw11PublicKey, Ghw11RetrieveKey, Ghw11TransformKey, decrypt_out,
    encrypt, keygen, setup, tkgen, transform,
};
use rabe::utils::policy::pest::PolicyLanguage;

use super::{Instance, Mode, Scheme, Sizes, bytes, json_policy, labels, payload};

/// rabe's `ghw11`.
pub struct Ghw11;

impl Scheme for Ghw11 {
    fn name(&self) -> &'static str {
        "ghw11"
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
    params: Ghw11PublicKey,
    master: Ghw11MasterKey,
    labels: Vec<String>,
    policy: String,
    payload: Vec<u8>,
    key: Option<(Ghw11TransformKey, Ghw11RetrieveKey)>,
    ciphertext: Option<Ghw11Ciphertext>,
}

impl Instance for At {
    fn setup(&mut self) {
        (self.params, self.master) = setup();
        (self.key, self.ciphertext) = (None, None);
    }

    fn keygen(&mut self) {
        self.key = keygen(&self.params, &self.master, &self.labels).and_then(tkgen);
    }

    fn encapsulate(&mut self) {
        self.ciphertext = encrypt(&self.params, &self.policy, PolicyLanguage::JsonPolicy, &self.payload).ok();
    }

    fn decapsulate(&mut self) -> bool {
        let (Some((helper, own)), Some(ciphertext)) = (&self.key, &self.ciphertext) else { return false };
        // The library takes everything by value; the copies are small beside the pairings.
        let Ok(rest) = transform(ciphertext.clone(), helper.clone()) else { return false };
        decrypt_out(rest, own.clone(), ciphertext.data.clone()).is_ok_and(|plain| plain == self.payload)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            params: bytes::count(&self.params),
            key: bytes::count(&self.key),
            encapsulation: bytes::count(&self.ciphertext).saturating_sub(self.payload.len()),
        }
    }
}
