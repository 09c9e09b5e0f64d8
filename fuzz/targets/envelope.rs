//! Envelopes and headers: no bytes but a publisher's own open.
#![no_main]

mod vectors;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smqtt_core::envelope::{Envelope, OpeningKey};
use smqtt_core::header::Header;
use smqtt_core::suite::{Params, UserKey};

struct Reader {
    /// Of the header under which messages are not signed, and of the one under which they are.
    contents: [OpeningKey; 2],
    genuine: Vec<Vec<u8>>,
    signed: Vec<Vec<u8>>,
    roots: [Vec<u8>; 1],
}

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let file = vectors::envelope();
    let params = Params::decode(&vectors::bytes(&file["params"])).expect("parameters");
    let key = UserKey::decode(&vectors::bytes(&file["reader"])).expect("a key");
    let list = |value: &serde_json::Value| value.as_array().expect("vectors").clone();
    let headers = [&file, &file["signed"]].map(|sealed| vectors::bytes(&sealed["header"]["bytes"]));
    let open =
        |header: &Vec<u8>| Header::parse(header).expect("a header").open(&params, &key).expect("it opens");
    let contents = headers.each_ref().map(open);
    let messages = [&file, &file["signed"]].map(|sealed| list(&sealed["messages"])).concat();
    let genuine = messages.iter().map(|message| vectors::bytes(&message["compact"])).collect();
    let roots = [vectors::bytes(&file["root"])];
    // More headers that the publisher signed itself, some of them among the broken envelopes.
    let broken: Vec<_> = list(&file["broken"]).iter().map(|v| vectors::bytes(&v["envelope"])).collect();
    let of_broken = broken.iter().filter_map(|bytes| Envelope::parse(bytes).ok()?.header.map(<[u8]>::to_vec));
    let of_checks = list(&file["bundle"]["checks"]).into_iter().map(|check| vectors::bytes(&check["header"]));
    let verifies = |bytes: &Vec<u8>| Header::parse(bytes).is_ok_and(|h| h.verify(&roots).is_ok());
    let signed = of_broken.chain(of_checks).chain(headers).filter(verifies).collect();
    Reader { contents, genuine, signed, roots }
});

fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    assert_eq!(header.as_bytes(), bytes);
    _ = (header.scope(), format!("{header:?}"));
    assert!(header.verify(&READER.roots).is_err() || READER.signed.iter().any(|own| own == bytes));
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
    let opens = READER.contents.iter().any(|content| content.open("ward/3/temperature", &message).is_ok());
    let genuine = |own: &Vec<u8>| {
        let own = Envelope::parse(own).expect("it parses").message;
        (own.kid(), own.counter(), own.payload_bytes())
            == (message.kid(), message.counter(), message.payload_bytes())
    };
    assert!(!opens || READER.genuine.iter().any(genuine));
});
