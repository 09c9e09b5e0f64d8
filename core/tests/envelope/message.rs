//! Messages: COSE Encrypt0 to the byte, one encoding, and nothing altered that is not noticed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ciborium::Value;
use coset::{CborSerializable, CoseEncrypt0, iana};
use smqtt_core::crypto::{SigningKey, verify};
use smqtt_core::envelope::{Envelope, EnvelopeError, MAGIC, OpeningKey, is_sealed};
use smqtt_core::header::{Header, HeaderError};
use smqtt_core::identity::DeviceId;
use smqtt_core::suite::SuiteError;

use crate::common::cose::{self, HEADER_AAD};
use crate::common::random::Rng;
use crate::common::{key, setup};
use crate::{TOPIC, World};

#[test]
fn message_is_a_cose_encrypt0() {
    let world = World::new();
    let (header, content) = world.seal();
    let derived = world.content(&header);
    for counter in 0..300u64 {
        let sealed = content.seal(TOPIC, b"38.5").unwrap();
        assert_eq!(sealed, derived.compact(TOPIC, counter, b"38.5", None), "every byte");
        if !matches!(counter, 0 | 1 | 255..258) {
            continue;
        }
        let cose = CoseEncrypt0::from_slice(&sealed[MAGIC.len()..]).unwrap();
        let protected = &cose.protected.header;
        assert_eq!(protected.alg, Some(coset::Algorithm::Assigned(iana::Algorithm::A256GCM)));
        assert_eq!(protected.key_id, header.kid().0);
        assert_eq!(protected.key_id, header.hash()[..16]);
        let shortest = if counter < 256 { vec![counter as u8] } else { vec![1, counter as u8] };
        assert_eq!(protected.partial_iv, shortest);
        assert!(protected.rest.is_empty() && cose.unprotected.is_empty());

        let decrypt = |ciphertext: &[u8], aad: &[u8]| {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived.key).unwrap());
            let mut buffer = ciphertext.to_vec();
            let nonce = Nonce::assume_unique_for_key(derived.nonce(counter));
            key.open_in_place(nonce, Aad::from(aad), &mut buffer).map(|plain| plain.to_vec())
        };
        let aad = derived.external_aad(TOPIC);
        assert_eq!(cose.decrypt_ciphertext(&aad, || unreachable!(), decrypt).unwrap(), b"38.5");
        let other = derived.external_aad("ward/4/temperature");
        assert!(cose.decrypt_ciphertext(&other, || unreachable!(), decrypt).is_err());
    }
}

/// Where the length of anything in a message takes one more byte: topic, aad, ciphertext; and where a topic is
/// too long for what is put together on the stack.
#[test]
fn messages_of_every_length_are_those_of_coset() {
    let world = World::new();
    let reader = world.reader();
    let mut rng = Rng(11);
    for (header, content) in [world.seal(), world.seal_signing()] {
        let (derived, signed) = (world.content(&header), header.messages_are_signed());
        let reader = header.open(&world.params, &reader).unwrap();
        let mut lengths = Vec::new();
        for n in (0..600).step_by(if signed { 41 } else { 1 }) {
            lengths.extend([(n, rng.below(300)), (rng.below(600), n)]);
        }
        for large in [4096, 65_462, 65_463, 65_519, 65_520, 65_535, 65_536] {
            lengths.extend([(large, 4), (18, large)]);
        }
        let mut out = Vec::new();
        for (counter, (topic_bytes, payload_bytes)) in (0..).zip(lengths) {
            let topic: String = (0..topic_bytes).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
            let payload = rng.bytes(payload_bytes);
            let sealed = content.seal(&topic, &payload).unwrap();
            let said = by_coset(&sealed).unwrap();
            assert_eq!((said.kid, said.counter), (header.kid().0, counter));
            assert_eq!((said.payload_bytes, said.signature.is_some()), (payload_bytes, signed));
            let expected = derived.compact(&topic, counter, &payload, said.signature.as_deref());
            assert!(sealed == expected, "topic of {topic_bytes}, payload of {payload_bytes} bytes");

            let message = Envelope::parse(&sealed).unwrap().message;
            out.clear();
            reader.open_into(&topic, &message, &mut out).unwrap();
            assert!(out == payload);
            let by = world.publisher.key().public_key();
            let verified = message.verify(by, &topic, header.hash(), header.publisher());
            assert_eq!(verified, signed.then_some(true));
        }
    }
}

#[test]
fn counters_of_every_length_are_read() {
    let world = World::new();
    let (header, _) = world.seal();
    let reader = header.open(&world.params, &world.reader()).unwrap();
    let derived = world.content(&header);
    for topic in ["t", "st\u{fc}ble/\u{6e29}\u{5ea6}"] {
        for power in (0..64).step_by(8) {
            for counter in [1 << power, (1 << power) - 1, u64::MAX >> power] {
                let sealed = derived.compact(topic, counter, b"38.5", None);
                let message = Envelope::parse(&sealed).unwrap().message;
                assert_eq!(message.counter(), counter);
                assert_eq!(reader.open(topic, &message).unwrap(), b"38.5");
            }
        }
    }
}

/// What a compact envelope says.
struct Said {
    kid: [u8; 16],
    counter: u64,
    signature: Option<Vec<u8>>,
    payload_bytes: usize,
}

/// A compact envelope by coset, if what it says gives the same bytes again.
fn by_coset(bytes: &[u8]) -> Option<Said> {
    let cose = CoseEncrypt0::from_slice(bytes.strip_prefix(&MAGIC)?).ok()?;
    let kid = cose.protected.header.key_id.try_into().ok()?;
    let iv = cose.protected.header.partial_iv;
    let shortest = iv.len() == 1 || (2..=8).contains(&iv.len()) && iv[0] != 0;
    let signature = match &cose.unprotected.rest[..] {
        [] => None,
        [(coset::Label::Int(cose::COUNTERSIGNATURE0_V2), Value::Bytes(s))] if s.len() == 64 => Some(s),
        _ => return None,
    };
    let protected = cose::encode(&cose::map([(1, 3.into()), (4, cose::bytes(kid)), (6, cose::bytes(&iv))]));
    let unprotected = cose::map(signature.map(|s| (cose::COUNTERSIGNATURE0_V2, cose::bytes(s))));
    let ciphertext = cose.ciphertext?;
    let message = vec![cose::bytes(protected), unprotected, cose::bytes(&ciphertext)];
    let again = [&MAGIC[..], &cose::encode(&Value::Array(message))].concat();
    let counter = iv.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let payload_bytes = ciphertext.len().checked_sub(16)?;
    let signature = signature.cloned();
    (shortest && again == bytes).then_some(Said { kid, counter, signature, payload_bytes })
}

/// Every byte of a message in every other value: not a message, to us as to coset; or another message, and
/// then not the one that was sealed.
#[test]
fn every_value_of_every_byte_is_malformed_or_noticed() {
    let world = World::new();
    let reader = world.reader();
    let mut rng = Rng(12);
    for (header, content) in [world.seal(), world.seal_signing()] {
        let reader = header.open(&world.params, &reader).unwrap();
        let derived = world.content(&header);
        let sealed = content.seal(TOPIC, b"38.5").unwrap();
        let signature = by_coset(&sealed).unwrap().signature;
        let by = world.publisher.key().public_key();
        let check = |bad: &[u8]| {
            let parsed = Envelope::parse(bad).map(|envelope| envelope.message);
            let Some(said) = by_coset(bad) else {
                let error = if is_sealed(bad) { EnvelopeError::Malformed } else { EnvelopeError::NotSealed };
                return assert_eq!(parsed.unwrap_err(), error, "{bad:x?}");
            };
            let message = parsed.unwrap();
            assert_eq!((message.kid().0, message.counter()), (said.kid, said.counter));
            assert_eq!(message.is_signed(), said.signature.is_some());
            assert_eq!((message.payload_bytes(), &message.compact()[..]), (said.payload_bytes, bad));
            let altered = reader.open(TOPIC, &message) == Err(EnvelopeError::Altered);
            let verify = || message.verify(by, TOPIC, header.hash(), header.publisher());
            assert!(altered || verify() == Some(false), "{bad:x?}");
        };
        // The signature is of the first message alone.
        let counters = if signature.is_some() { &[0][..] } else { &[0, 65_536] };
        for counter in counters {
            let sealed = derived.compact(TOPIC, *counter, b"38.5", signature.as_deref());
            for at in 0..sealed.len() {
                let mut bad = sealed.clone();
                for value in (0..=255).filter(|value| *value != sealed[at]) {
                    bad[at] = value;
                    check(&bad);
                }
            }
        }
        for _ in 0..2_000 {
            let bad = rng.mutated(&sealed);
            let stripped = signature.is_some() && bad == cose::stripped(&sealed);
            if bad != sealed && !stripped && !bad.starts_with(&[&MAGIC[..], &[0x82]].concat()) {
                check(&bad);
            }
        }
    }
}

/// What [`OpeningKey`] would do if it had no `seal` of its own: one of its own would be called instead.
trait CannotSeal {
    fn seal(&self, _topic: &str, _payload: &[u8]) -> &'static str {
        "cannot"
    }
}

impl CannotSeal for OpeningKey {}

/// A reader has the same key and a counter of its own: sealing with it would repeat the publisher's nonces.
#[test]
fn a_reader_cannot_seal() {
    let world = World::new();
    let (header, _) = world.seal();
    let key: OpeningKey = header.open(&world.params, &world.reader()).unwrap();
    assert_eq!(key.seal(TOPIC, b"38.5"), "cannot");
}

#[test]
fn envelope_is_one_tag_around_message_or_header_and_message() {
    let world = World::new();
    let (header, content) = world.seal();
    let compact = content.seal(TOPIC, b"x").unwrap();
    let message = Envelope::parse(&compact).unwrap().message;
    assert_eq!(message.compact(), compact);
    let full = message.full(header.as_bytes());
    assert!(is_sealed(&compact) && is_sealed(&full));

    let Value::Tag(tag, inner) = cose::decode(&compact) else { panic!("a tag") };
    assert_eq!((tag, cose::encode(&inner)), (0x534d_5154, compact[5..].to_vec()));
    let Value::Tag(tag, inner) = cose::decode(&full) else { panic!("a tag") };
    let [first, second] = <[Value; 2]>::try_from(inner.into_array().unwrap()).unwrap();
    assert_eq!(tag, 0x534d_5154);
    assert_eq!(
        (cose::encode(&first), cose::encode(&second)),
        (header.as_bytes().to_vec(), compact[5..].to_vec())
    );

    let parsed = Envelope::parse(&full).unwrap();
    assert_eq!(parsed.header, Some(header.as_bytes()));
    assert_eq!(parsed.message.compact(), compact);
}

#[test]
fn message_signature_is_a_countersignature0() {
    let world = World::new();
    let (header, content) = world.seal_signing();
    let derived = world.content(&header);
    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let message = cose::decode(&sealed[MAGIC.len()..]).into_array().unwrap();
    let [_, unprotected, _] = <[Value; 3]>::try_from(message).unwrap();
    let [(label, signature)] = <[(Value, Value); 1]>::try_from(unprotected.into_map().unwrap()).unwrap();
    assert_eq!(label, cose::COUNTERSIGNATURE0_V2.into());
    let signature = signature.into_bytes().unwrap();
    let by = world.publisher.key().public_key();
    assert!(verify(by, &derived.to_be_signed(TOPIC, 0, b"38.5"), &signature));
    assert_eq!(sealed, derived.compact(TOPIC, 0, b"38.5", Some(&signature)), "every other byte");
    assert!(CoseEncrypt0::from_slice(&sealed[MAGIC.len()..]).is_ok());

    let message = Envelope::parse(&sealed).unwrap().message;
    assert_eq!(message.verify(by, TOPIC, header.hash(), header.publisher()), Some(true));
    let other = SigningKey::generate();
    assert_eq!(message.verify(other.public_key(), TOPIC, header.hash(), header.publisher()), Some(false));
    assert_eq!(message.verify(by, "ward/4", header.hash(), header.publisher()), Some(false));
    assert_eq!(message.verify(by, TOPIC, &[0; 32], header.publisher()), Some(false));
    assert_eq!(message.verify(by, TOPIC, header.hash(), DeviceId([2; 16])), Some(false));
}

/// A message's signature is outside its ciphertext: without it, it decrypts all the same. That the header
/// asks for one cannot be taken away with it.
#[test]
fn a_signature_taken_away_is_noticed() {
    let world = World::new();
    let (reader, roots) = (world.reader(), world.pki.roots());
    let (header, content) = world.seal_signing();
    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let message = Envelope::parse(&sealed).unwrap().message;
    assert_eq!(world.open(&message.full(header.as_bytes()), TOPIC, &reader).unwrap(), b"38.5");

    let stripped = cose::stripped(&sealed);
    let message = Envelope::parse(&stripped).unwrap().message;
    assert!(!message.is_signed());
    assert_eq!(header.open(&world.params, &reader).unwrap().open(TOPIC, &message).unwrap(), b"38.5");
    let refused = world.open(&message.full(header.as_bytes()), TOPIC, &reader);
    assert_eq!(refused, Err(EnvelopeError::Signature.to_string()), "the header says that there is one");

    // A header that does not say so, under the old signature and under a new one of the publisher's.
    let [_, payload, _] = cose::parts(header.as_bytes());
    let field = [0x0b, 0xf5];
    let unsaid = [&[payload[0] - 1], payload[1..].strip_suffix(&field).unwrap()].concat();
    let at = header.as_bytes().windows(payload.len()).position(|w| w == payload).unwrap();
    let head = at - 3;
    let mut same_signature = header.as_bytes()[..head].to_vec();
    same_signature.extend(cose::encode(&cose::bytes(&unsaid)));
    same_signature.extend(&header.as_bytes()[at + payload.len()..]);
    let same_signature = Header::parse(&same_signature).unwrap();
    assert!(!same_signature.messages_are_signed());
    assert_eq!(same_signature.verify(&roots), Err(HeaderError::Signature));
    let signed_again = cose::sign1(&world.publisher, HEADER_AAD, &unsaid);
    assert_eq!(world.verify(&Header::parse(&signed_again).unwrap()), Ok(()));
    let refused = world.open(&message.full(&signed_again), TOPIC, &reader);
    assert_eq!(refused, Err(EnvelopeError::Altered.to_string()), "it is another header");
}

#[test]
fn sealed_opens_for_readers_and_nobody_else() {
    let world = World::new();
    let (header, content) = world.seal();
    let full =
        Envelope::parse(&content.seal(TOPIC, b"38.5").unwrap()).unwrap().message.full(header.as_bytes());
    assert_eq!(world.open(&full, TOPIC, &world.reader()).unwrap(), b"38.5");
    let outsider = key(&world.master, "role=nurse, ward=4", 7, 3);
    let not_satisfied = HeaderError::Suite(SuiteError::NotSatisfied);
    assert_eq!(header.open(&world.params, &outsider).unwrap_err(), not_satisfied);
    let old = key(&world.master, "role=nurse, ward=3", 7, 3);
    assert_eq!(header.open(&world.params, &old).unwrap_err(), not_satisfied, "of the version before");
    let other_params = HeaderError::Suite(SuiteError::OtherParams);
    assert_eq!(header.open(&setup(2).0, &world.reader()).unwrap_err(), other_params);
    assert!(world.open(&full, "ward/4/temperature", &world.reader()).is_err());
}

#[test]
fn every_flipped_byte_of_a_full_envelope_is_noticed() {
    let world = World::new();
    let reader = world.reader();
    for (header, content) in [world.seal(), world.seal_signing()] {
        let compact = content.seal(TOPIC, b"38.5").unwrap();
        let full = Envelope::parse(&compact).unwrap().message.full(header.as_bytes());
        assert!(world.open(&full, TOPIC, &reader).is_ok());
        for at in 0..full.len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut bad = full.clone();
                bad[at] ^= flip;
                assert!(world.open(&bad, TOPIC, &reader).is_err(), "byte {at} of {}", full.len());
            }
        }
        for cut in 0..full.len() {
            assert!(world.open(&full[..cut], TOPIC, &reader).is_err());
        }
        assert!(world.open(&[&full[..], &[0]].concat(), TOPIC, &reader).is_err());
    }
}

#[test]
fn messages_have_one_encoding() {
    let world = World::new();
    let (header, content) = world.seal();
    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let parts = cose::decode(&sealed[5..]).into_array().unwrap();
    let kid = cose::bytes(header.kid().0);
    let message = |protected: Value, unprotected: Value, ciphertext: Value| {
        [
            &MAGIC[..],
            &cose::encode(&Value::Array(vec![
                cose::bytes(cose::encode(&protected)),
                unprotected,
                ciphertext,
            ])),
        ]
        .concat()
    };
    let map = |iv: &[u8]| cose::map([(1, 3.into()), (4, kid.clone()), (6, cose::bytes(iv))]);
    let (empty, ciphertext) = (Value::Map(vec![]), parts[2].clone());
    assert_eq!(message(map(&[0]), empty.clone(), ciphertext.clone()), sealed);
    for (what, bytes) in [
        ("no partial IV", message(map(&[]), empty.clone(), ciphertext.clone())),
        ("a zero before it", message(map(&[0, 0]), empty.clone(), ciphertext.clone())),
        ("nine bytes of it", message(map(&[1; 9]), empty.clone(), ciphertext.clone())),
        (
            "A128GCM",
            message(
                cose::map([(1, 1.into()), (4, kid.clone()), (6, cose::bytes([0]))]),
                empty.clone(),
                ciphertext.clone(),
            ),
        ),
        (
            "a short kid",
            message(
                cose::map([(1, 3.into()), (4, cose::bytes([0; 15])), (6, cose::bytes([0]))]),
                empty.clone(),
                ciphertext.clone(),
            ),
        ),
        (
            "more in the protected header",
            message(
                cose::map([(1, 3.into()), (4, kid.clone()), (6, cose::bytes([0])), (7, 0.into())]),
                empty.clone(),
                ciphertext.clone(),
            ),
        ),
        (
            "something unprotected",
            message(map(&[0]), cose::map([(5, cose::bytes([0; 12]))]), ciphertext.clone()),
        ),
        (
            "a signature of 63 bytes",
            message(map(&[0]), cose::map([(12, cose::bytes([0; 63]))]), ciphertext.clone()),
        ),
        ("no room for the tag", message(map(&[0]), empty.clone(), cose::bytes([0; 15]))),
        ("a detached ciphertext", message(map(&[0]), empty.clone(), Value::Null)),
    ] {
        assert_eq!(Envelope::parse(&bytes).unwrap_err(), EnvelopeError::Malformed, "{what}");
    }
    // Lengths in more bytes than needed, indefinite lengths, other tags.
    let body = &sealed[5..];
    for (what, bytes) in [
        ("a long array head", [&MAGIC[..], &[0x98, 3], &body[1..]].concat()),
        ("an indefinite array", [&MAGIC[..], &[0x9f], &body[1..], &[0xff]].concat()),
        ("a header alone", [&MAGIC[..], &[0x81], header.as_bytes()].concat()),
        ("three parts", [&MAGIC[..], &[0x83], header.as_bytes(), body, body].concat()),
        ("a long head of two", [&MAGIC[..], &[0x98, 2], header.as_bytes(), body].concat()),
        ("the tag again", [&MAGIC[..], &sealed].concat()),
    ] {
        assert_eq!(Envelope::parse(&bytes).unwrap_err(), EnvelopeError::Malformed, "{what}");
    }
    for other in [&[0xd0][..], &[0xdb, 0, 0, 0, 0, 0x53, 0x4d, 0x51, 0x54], &[]] {
        assert_eq!(Envelope::parse(&[other, body].concat()).unwrap_err(), EnvelopeError::NotSealed);
    }
    // Ten thousand arrays where the header should be.
    let deep = [&MAGIC[..], &[0x82], &[0x81].repeat(10_000)[..], &[0], body].concat();
    let header = Envelope::parse(&deep).unwrap().header.unwrap();
    assert_eq!(Header::parse(header).unwrap_err(), HeaderError::Malformed);
    let deep = [&MAGIC[..], &[0x82], &[0x9f].repeat(10_000)[..]].concat();
    assert_eq!(Envelope::parse(&deep).unwrap_err(), EnvelopeError::Malformed);
}
