//! Envelopes and headers: no bytes but a publisher's own open.
#![no_main]

mod vectors;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smqtt_core::envelope::{ContentKey, Envelope};
use smqtt_core::header::Header;
use smqtt_core::suite::{Params, UserKey};

struct Reader {
    content: ContentKey,
    genuine: Vec<Vec<u8>>,
    signed: Vec<Vec<u8>>,
    roots: [Vec<u8>; 1],
}

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let file = vectors::envelope();
    let params = Params::decode(&vectors::bytes(&file["params"])).expect("parameters");
    let key = UserKey::decode(&vectors::bytes(&file["reader"])).expect("a key");
    let header = vectors::bytes(&file["header"]["bytes"]);
    let content = Header::parse(&header).expect("a header").open(&params, &key).expect("it opens");
    let messages =
        file["messages"].as_array().expect("messages").iter().map(|m| vectors::bytes(&m["compact"]));
    let roots = [vectors::bytes(&file["root"])];
    // Among the broken ones are some that the publisher signed itself, and more messages of its content key.
    let broken = file["broken"].as_array().expect("vectors").iter().map(|v| vectors::bytes(&v["envelope"]));
    let broken: Vec<Vec<u8>> = broken.chain([vectors::bytes(&file["signed"]["compact"])]).collect();
    let parsed = || broken.iter().filter_map(|bytes| Envelope::parse(bytes).ok());
    let genuine = messages.chain(parsed().map(|e| e.message.compact())).collect();
    let headers = parsed().filter_map(|e| e.header.map(<[u8]>::to_vec));
    let verifies = |bytes: &Vec<u8>| Header::parse(bytes).is_ok_and(|h| h.verify(&roots).is_ok());
    let signed = headers.chain([header]).filter(verifies).collect();
    Reader { content, genuine, signed, roots }
});

fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    assert_eq!(header.as_bytes(), bytes);
    _ = (header.access(), format!("{header:?}"));
    // The twin with the other ECDSA signature differs in its last half alone.
    let genuine = |own: &Vec<u8>| bytes.starts_with(&own[..own.len() - 32]);
    assert!(header.verify(&READER.roots).is_err() || READER.signed.iter().any(genuine));
}

fuzz_target!(|data: &[u8]| {
    header(data);
    let Ok(envelope) = Envelope::parse(data) else { return };
    let message = envelope.message;
    match envelope.header {
        Some(bytes) => {
            assert_eq!(message.full(bytes), data, "one encoding");
            header(bytes);
        }
        None => assert_eq!(message.compact(), data, "one encoding"),
    }
    // What is unprotected may differ, the signature; all else is as it was sealed.
    let opened = READER.content.open("ward/3/temperature", &message);
    let genuine = |own: &Vec<u8>| {
        let own = Envelope::parse(own).expect("it parses").message;
        (own.counter(), own.payload_bytes()) == (message.counter(), message.payload_bytes())
    };
    assert!(opened.is_err() || READER.genuine.iter().any(genuine));
});
