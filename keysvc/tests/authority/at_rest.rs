//! What lies in the store of an authority, opened as its key file opens it.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The root key and the data keys of an authority in `data` that is sealed under its key file.
pub fn keys_at_rest(data: &Path) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let seal = std::fs::read(data.join("seal/seal.key")).unwrap();
    let store = rusqlite::Connection::open(data.join("authority/authority.db")).unwrap();
    let record: Vec<u8> =
        store.query_row("SELECT bytes FROM documents WHERE name = 'seal'", [], |row| row.get(0)).unwrap();
    // The head as it stands in the record, to the byte.
    let text = String::from_utf8(record).unwrap();
    let head = text.strip_prefix("{\"head\":").unwrap().split(",\"wrapped\":").next().unwrap();
    let wrapped =
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["wrapped"].as_str().unwrap().to_owned();
    let root = open_at_rest(&seal, &format!("SMQTT-V01 root key {head}"), &STANDARD.decode(wrapped).unwrap());
    let mut keys = store.prepare("SELECT name, sealed FROM data_keys").unwrap();
    let keys = keys.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let open = |(name, sealed): (String, Vec<u8>)| {
        let key = open_at_rest(&root, &format!("SMQTT-V01 data key {name}"), &sealed);
        (name, key)
    };
    let keys = keys.map(|row| open(row.unwrap())).collect();
    (root, keys)
}

/// What an authority in `data` keeps sealed, opened.
pub fn secrets(data: &Path) -> Vec<(String, Vec<u8>)> {
    let store = rusqlite::Connection::open(data.join("authority/authority.db")).unwrap();
    let mut secrets = Vec::new();
    for (name, key) in keys_at_rest(data).1 {
        let sealed = store.query_row("SELECT bytes FROM documents WHERE name = ?", [&name], |row| row.get(0));
        let Ok(sealed) = sealed else { continue };
        let sealed: Vec<u8> = sealed;
        let secret = open_at_rest(&key, &format!("SMQTT-V01 at rest {name}"), &sealed);
        secrets.push((name, secret));
    }
    secrets
}

fn open_at_rest(key: &[u8], aad: &str, sealed: &[u8]) -> Vec<u8> {
    let (nonce, ciphertext) = sealed.split_at(12);
    let key = smqtt_core::crypto::AeadKey::new(key.try_into().unwrap());
    key.open(nonce.try_into().unwrap(), aad.as_bytes(), ciphertext).unwrap()
}
