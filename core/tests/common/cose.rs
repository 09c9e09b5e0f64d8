//! COSE by ciborium, so that tests can sign what the crate itself would never write.

use ciborium::Value;
use smqtt_core::crypto::{AeadKey, SigningKey};
use smqtt_core::envelope::MAGIC;
use smqtt_core::header::Signer;

use super::unhex;

pub const HEADER_AAD: &[u8] = b"SMQTT-V01 header";
pub const BUNDLE_AAD: &[u8] = b"SMQTT-V01 bundle";
/// Where a message has its signature (RFC 9338, section 3.3).
pub const COUNTERSIGNATURE0_V2: i64 = 12;

pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).unwrap();
    out
}

pub fn decode(bytes: &[u8]) -> Value {
    ciborium::from_reader(bytes).unwrap()
}

pub fn bytes(value: impl AsRef<[u8]>) -> Value {
    Value::Bytes(value.as_ref().to_vec())
}

/// A map with integer keys.
pub fn map(fields: impl IntoIterator<Item = (i64, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// `COSE_Sign1` over any payload, by the signer.
pub fn sign1(signer: &Signer, aad: &[u8], payload: &[u8]) -> Vec<u8> {
    sign1_with(signer.key(), signer.certificate(), aad, payload)
}

/// `COSE_Sign1` with one signer's key and perhaps another's certificate.
pub fn sign1_with(key: &SigningKey, certificate: &[u8], aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let protected = encode(&map([(1, (-7).into()), (33, bytes(certificate))]));
    let structure = vec!["Signature1".into(), bytes(&protected), bytes(aad), bytes(payload)];
    let signature = key.sign(&encode(&Value::Array(structure)));
    let sign1 = vec![bytes(protected), Value::Map(vec![]), bytes(payload), bytes(signature)];
    encode(&Value::Array(sign1))
}

/// The four parts of a `COSE_Sign1`: protected header, payload, signature as bytes; the third is the empty map.
pub fn parts(sign1: &[u8]) -> [Vec<u8>; 3] {
    let [protected, _, payload, signature] =
        <[Value; 4]>::try_from(decode(sign1).into_array().unwrap()).unwrap();
    [protected, payload, signature].map(|part| part.into_bytes().unwrap())
}

/// The fields of a map.
pub type Fields = Vec<(Value, Value)>;
/// A change to them.
pub type Edit = fn(&mut Fields);

/// The payload of a `COSE_Sign1` as a list of fields.
pub fn fields(sign1: &[u8]) -> Fields {
    decode(&parts(sign1)[1]).into_map().unwrap()
}

/// The value of a field.
pub fn field(fields: &mut [(Value, Value)], key: i64) -> &mut Value {
    &mut fields.iter_mut().find(|(k, _)| *k == key.into()).expect("the field is there").1
}

/// `sign1` with its fields changed and signed again by `signer`.
pub fn edited(sign1: &[u8], signer: &Signer, aad: &[u8], edit: impl FnOnce(&mut Fields)) -> Vec<u8> {
    let mut fields = fields(sign1);
    edit(&mut fields);
    self::sign1(signer, aad, &encode(&Value::Map(fields)))
}

/// Turns the signature at the end of `bytes` from `(r, s)` into `(r, -s)`, as anybody can.
pub fn double(bytes: &mut [u8]) {
    let order = unhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let s = bytes.last_chunk_mut::<32>().unwrap();
    let mut borrow = 0;
    for (byte, of_order) in s.iter_mut().zip(order).rev() {
        let difference = i16::from(of_order) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = difference.rem_euclid(256) as u8;
    }
}

/// A message's content key and what its header binds it to.
pub struct Content {
    pub key: [u8; 32],
    pub iv: [u8; 12],
    pub header_hash: [u8; 32],
    pub publisher: [u8; 16],
}

impl Content {
    /// `["SMQTT-V01 message", topic, header hash, publisher]`
    pub fn external_aad(&self, topic: &str) -> Vec<u8> {
        let hash = bytes(self.header_hash);
        encode(&Value::Array(vec!["SMQTT-V01 message".into(), topic.into(), hash, bytes(self.publisher)]))
    }

    pub fn enc_structure(&self, topic: &str, counter: u64) -> Vec<u8> {
        let (protected, aad) = (bytes(self.protected(counter)), bytes(self.external_aad(topic)));
        encode(&Value::Array(vec!["Encrypt0".into(), protected, aad]))
    }

    /// What a signature of the message is over (RFC 9338, section 3.3): COSE_Encrypt0 has no byte strings but
    /// protected header and ciphertext, so there are no `other_fields`, and the context is `CounterSignature0`.
    pub fn to_be_signed(&self, topic: &str, counter: u64, payload: &[u8]) -> Vec<u8> {
        let (protected, aad) = (bytes(self.protected(counter)), bytes(self.external_aad(topic)));
        let ciphertext = bytes(self.ciphertext(topic, counter, payload));
        encode(&Value::Array(vec!["CounterSignature0".into(), protected, aad, ciphertext]))
    }

    pub fn nonce(&self, counter: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(counter.to_be_bytes()).for_each(|(n, c)| *n ^= c);
        nonce
    }

    /// The compact envelope, byte by byte, with this signature if there is one.
    pub fn compact(&self, topic: &str, counter: u64, payload: &[u8], signature: Option<&[u8]>) -> Vec<u8> {
        let protected = bytes(self.protected(counter));
        let unprotected = map(signature.map(|s| (COUNTERSIGNATURE0_V2, bytes(s))));
        let message = vec![protected, unprotected, bytes(self.ciphertext(topic, counter, payload))];
        [&MAGIC[..], &encode(&Value::Array(message))].concat()
    }

    /// `{1: 3, 4: kid, 6: counter in as few bytes as will do}`
    fn protected(&self, counter: u64) -> Vec<u8> {
        let counter = counter.to_be_bytes();
        let zeros = counter.iter().take(7).take_while(|byte| **byte == 0).count();
        encode(&map([(1, 3.into()), (4, bytes(&self.header_hash[..16])), (6, bytes(&counter[zeros..]))]))
    }

    fn ciphertext(&self, topic: &str, counter: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = payload.to_vec();
        let aad = self.enc_structure(topic, counter);
        AeadKey::new(&self.key).seal(self.nonce(counter), &aad, &mut out, 0);
        out
    }
}

/// The compact envelope without its message's signature.
pub fn stripped(compact: &[u8]) -> Vec<u8> {
    let mut message = decode(&compact[MAGIC.len()..]).into_array().unwrap();
    assert_eq!(message[1].as_map().unwrap().len(), 1, "there is a signature to take away");
    message[1] = Value::Map(vec![]);
    [&MAGIC[..], &encode(&Value::Array(message))].concat()
}
