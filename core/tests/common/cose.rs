//! COSE by ciborium, so that tests can sign what the crate itself would never write.

use ciborium::Value;
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::Signer;

pub const HEADER_AAD: &[u8] = b"SMQTT-V01 header";
pub const BUNDLE_AAD: &[u8] = b"SMQTT-V01 bundle";

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
