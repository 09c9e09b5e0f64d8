//! Headers, messages and bundles, held against independent COSE and CBOR, and against forgers.

mod common;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use ciborium::Value;
use common::cose::{self, BUNDLE_AAD, Content, HEADER_AAD};
use common::pki::{Pki, VALID};
use common::random::Rng;
use common::witness::hkdf;
use common::{NOW, key, keygen, policy, setup, suite};
use coset::{CborSerializable, CoseEncrypt0, CoseSign1, iana};
use smqtt_core::attribute::{Attribute, Attributes, Versions};
use smqtt_core::bundle::{Bundle, BundleError, CLOCK_SKEW_SECONDS, Epoch, Refusal};
use smqtt_core::crypto::{Secret32, SigningKey, verify};
use smqtt_core::envelope::{Envelope, EnvelopeError, MAGIC, OpeningKey, SealingKey, is_sealed};
use smqtt_core::header::{Draft, HEADER_SECONDS_MAX, Header, HeaderError, Signer};
use smqtt_core::identity::{DeviceId, IdentityError, Role, TenantId};
use smqtt_core::policy::{Policy, Template};
use smqtt_core::rule::{Mode, Rule};
use smqtt_core::suite::{Master, Params, Scope, SuiteError, SuiteId, UserKey};
use smqtt_core::target::Target;
use smqtt_core::token::Token;
use smqtt_core::topic::Filter;

const TOPIC: &str = "ward/3/temperature";
const COINS: [u8; 32] = [0x5a; 32];

/// A publisher, a reader and an authority.
struct World {
    pki: Pki,
    params: Params,
    master: Master,
    publisher: Signer,
    policy: Policy,
    target: Target,
    filter: Filter,
    versions: Versions,
}

impl World {
    fn new() -> Self {
        let (pki, (params, master)) = (Pki::new(), setup(1));
        let mut versions = Versions::default();
        versions.raise(&"role=nurse".parse().unwrap()).unwrap();
        versions.raise(&"nobody=asks".parse().unwrap()).unwrap();
        Self {
            publisher: pki.device(1),
            pki,
            params,
            master,
            policy: policy("role=nurse and ward=3"),
            target: policy("role=nurse and ward=3").into(),
            filter: "ward/3/#".parse().unwrap(),
            versions,
        }
    }

    fn draft(&self) -> Draft<'_> {
        Draft {
            params: &self.params,
            epoch: 7,
            versions: &self.versions,
            target: &self.target,
            created: NOW,
            expires: NOW + 3600,
            filter: &self.filter,
            sign_messages: false,
        }
    }

    fn seal(&self) -> (Header, SealingKey) {
        Header::seal_with(&self.draft(), &self.publisher, &Secret32::new(COINS)).unwrap()
    }

    /// A header that says that its messages are signed, and what signs them.
    fn seal_signing(&self) -> (Header, SealingKey) {
        let draft = Draft { sign_messages: true, ..self.draft() };
        Header::seal_with(&draft, &self.publisher, &Secret32::new(COINS)).unwrap()
    }

    /// The content key of a header made by [`World::seal`] or [`World::seal_signing`], derived here.
    fn content(&self, header: &Header) -> Content {
        let access = self.policy.access(header.versions(), 7);
        let (_, secret) = suite()
            .encapsulate(&self.params, &Scope::Policy(access.clone()), HEADER_AAD, &Secret32::new(COINS))
            .unwrap();
        Content {
            key: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 key"]),
            iv: hkdf(header.hash(), secret.expose(), &[b"SMQTT-V01 iv"]),
            header_hash: *header.hash(),
            publisher: header.publisher().0,
        }
    }

    fn seal_by(&self, signer: &Signer) -> Header {
        Header::seal(&self.draft(), signer).unwrap().0
    }

    fn reader(&self) -> UserKey {
        let labels = "role=nurse, ward=3".parse::<smqtt_core::attribute::Attributes>().unwrap();
        keygen(&self.master, 7, &labels.labels(&self.versions, 7), &Secret32::new([2; 32]))
    }

    fn verify(&self, header: &Header) -> Result<(), HeaderError> {
        header.verify(&self.pki.roots()).map(drop)
    }

    /// A full envelope from the payload's bytes to the plaintext, as a reader goes about it.
    fn open(&self, payload: &[u8], topic: &str, key: &UserKey) -> Result<Vec<u8>, String> {
        let envelope = Envelope::parse(payload).map_err(|e| e.to_string())?;
        let header = Header::parse(envelope.header.ok_or("no header")?).map_err(|e| e.to_string())?;
        let certificate = header.verify(&self.pki.roots()).map_err(|e| e.to_string())?;
        let content = header.open(&self.params, key).map_err(|e| e.to_string())?;
        let message = envelope.message;
        match message.verify(&certificate.public_key, topic, header.hash(), header.publisher()) {
            None if !header.messages_are_signed() => {}
            Some(true) => {}
            _ => return Err(EnvelopeError::Signature.to_string()),
        }
        content.open(topic, &message).map_err(|e| e.to_string())
    }

    /// A bundle under which the header of [`World::seal`] is in order.
    fn bundle(&self) -> Bundle {
        let rule = Rule {
            filter: "ward/+/temperature".parse().unwrap(),
            mode: Mode::Required,
            policy: Some("role=nurse and ward=$1".parse().unwrap()),
            labels: None,
            publishers: None,
            subscribers: Some(policy("role=nurse")),
        };
        Bundle {
            tenant: self.pki.tenant,
            number: 41,
            issued: NOW - 60,
            expires: NOW + 86_400,
            epoch: Epoch { number: 7, begins: NOW - 60, ends: NOW + 86_340 },
            grace: 600,
            rules: vec![rule],
            versions: self.versions.clone(),
            revoked: vec![DeviceId([9; 16])],
            params: vec![*self.params.id()],
            lineage: None,
        }
    }
}

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
fn header_is_a_cose_sign1() {
    let world = World::new();
    let (header, _) = world.seal();
    let cose = CoseSign1::from_slice(header.as_bytes()).unwrap();
    let protected = &cose.protected.header;
    assert_eq!(protected.alg, Some(coset::Algorithm::Assigned(iana::Algorithm::ES256)));
    let x5chain = (coset::Label::Int(33), cose::bytes(world.publisher.certificate()));
    assert_eq!(protected.rest, [x5chain]);
    let check =
        |signature: &[u8], data: &[u8]| match verify(world.publisher.key().public_key(), data, signature) {
            true => Ok(()),
            false => Err(()),
        };
    cose.verify_signature(HEADER_AAD, check).unwrap();
    cose.verify_signature(BUNDLE_AAD, check).unwrap_err();

    let mut versions = Versions::default();
    versions.raise(&"role=nurse".parse().unwrap()).unwrap();
    let expected = cose::map([
        (1, "fabeo-cp".into()),
        (2, cose::bytes(world.params.id())),
        (3, 7.into()),
        (4, cose::bytes(versions.encode())),
        (5, cose::bytes(world.policy.encode())),
        (6, cose::bytes(header.encapsulation())),
        (7, cose::bytes([1; 16])),
        (8, NOW.into()),
        (9, (NOW + 3600).into()),
        (10, "ward/3/#".into()),
    ]);
    assert_eq!(cose.payload.unwrap(), cose::encode(&expected), "only the versions that the policy asks for");

    let (signing, _) = world.seal_signing();
    let mut fields = expected.into_map().unwrap();
    fields.push((11.into(), true.into()));
    assert_eq!(cose::parts(signing.as_bytes())[1], cose::encode(&Value::Map(fields)));
    assert!(signing.messages_are_signed() && !header.messages_are_signed());
    assert_eq!(world.verify(&signing), Ok(()));
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
fn header_verifies_for_the_publisher_alone() {
    let world = World::new();
    let pki = &world.pki;
    let (header, _) = world.seal();
    assert_eq!(header.verify(&pki.roots()).unwrap().identity, pki.identity(Role::Device, 1));
    assert!(header.verify(&[Pki::new().root, pki.root.clone()]).is_ok(), "one root of several");

    let certificate = HeaderError::Certificate;
    assert_eq!(header.verify(&[]).unwrap_err(), certificate(IdentityError::UnknownIssuer));
    let other = Pki::new();
    assert_eq!(header.verify(&other.roots()).unwrap_err(), certificate(IdentityError::UnknownIssuer));
    for role in [Role::Broker, Role::Bridge, Role::Admin, Role::Authority] {
        let header = world.seal_by(&pki.signer(role, 1, VALID));
        assert_eq!(world.verify(&header), Err(HeaderError::NotPublisher), "{role:?}");
    }
    for years in [(2020, 2025), (2028, 2036)] {
        let header = world.seal_by(&pki.signer(Role::Device, 1, years));
        assert_eq!(world.verify(&header), Err(certificate(IdentityError::NotValidThen)));
    }
    // A certificate of this root that claims another tenant's name.
    let mut stranger = pki.identity(Role::Device, 1);
    stranger.tenant = other.tenant;
    let (key, der) = pki.issue(&[stranger.uri()], VALID, |_| ());
    let header = world.seal_by(&Signer::new(key, der).unwrap());
    assert_eq!(world.verify(&header), Err(certificate(IdentityError::UnknownIssuer)));
}

#[test]
fn certificates_for_other_uses_are_refused() {
    let world = World::new();
    let uri = || world.pki.identity(Role::Device, 1).uri();
    let signer = |uris: &[String], change: fn(&mut rcgen::CertificateParams)| {
        let (key, der) = world.pki.issue(uris, VALID, change);
        Signer::new(key, der)
    };
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
    let server =
        signer(&[uri()], |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).unwrap();
    let ca = signer(&[uri()], |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).unwrap();
    for signer in [server, ca] {
        let refused = world.verify(&world.seal_by(&signer));
        assert_eq!(refused, Err(HeaderError::Certificate(IdentityError::OtherUse)));
    }
    // No identity, or two of them: nobody could say who it is.
    let other = world.pki.identity(Role::Device, 2).uri();
    for uris in [vec![], vec![uri(), other], vec!["https://example.org/".to_owned()]] {
        assert_eq!(signer(&uris, |_| ()).unwrap_err(), IdentityError::Malformed);
    }
    let (key, _) = world.pki.issue(&[uri()], VALID, |_| ());
    let mismatch = Signer::new(key, world.publisher.certificate().to_vec());
    assert_eq!(mismatch.unwrap_err(), IdentityError::OtherUse, "a key that the certificate does not name");
}

/// A publisher that signs what the library would not, and others who sign in its name.
#[test]
fn headers_signed_by_forgers_are_refused() {
    let world = World::new();
    let (header, _) = world.seal();
    let bytes = header.as_bytes();
    let payload = &cose::parts(bytes)[1];
    let forger = world.pki.device(2);

    let by_forger = Header::parse(&cose::sign1(&forger, HEADER_AAD, payload)).unwrap();
    assert_eq!(world.verify(&by_forger), Err(HeaderError::NotPublisher), "its own certificate");
    let stolen = cose::sign1_with(forger.key(), world.publisher.certificate(), HEADER_AAD, payload);
    assert_eq!(
        world.verify(&Header::parse(&stolen).unwrap()),
        Err(HeaderError::Signature),
        "somebody else's"
    );
    let as_bundle = cose::sign1(&world.publisher, BUNDLE_AAD, payload);
    assert_eq!(world.verify(&Header::parse(&as_bundle).unwrap()), Err(HeaderError::Signature), "another use");
    let [_, _, signature] = cose::parts(bytes);
    for at in 0..64 {
        let mut bad = bytes.to_vec();
        let from = bad.len() - signature.len();
        bad[from + at] ^= 1;
        assert_eq!(world.verify(&Header::parse(&bad).unwrap()), Err(HeaderError::Signature));
    }

    // An honest signature over an edited header: the encapsulation knows what it was made for.
    let reader = world.reader();
    let edits: [(&str, cose::Edit); 4] = [
        ("policy", |f| *cose::field(f, 5) = cose::bytes(policy("role=nurse or ward=3").encode())),
        ("epoch", |f| *cose::field(f, 3) = 8.into()),
        ("no versions", |f| f.retain(|(key, _)| *key != 4.into())),
        ("encapsulation", |f| {
            let Value::Bytes(bytes) = cose::field(f, 6) else { panic!("bytes") };
            bytes[300] ^= 1;
        }),
    ];
    let all = {
        let strong = "role=nurse, ward=3".parse::<smqtt_core::attribute::Attributes>().unwrap();
        let mut labels = strong.labels(&world.versions, 7);
        labels.extend(strong.labels(&Versions::default(), 8));
        keygen(&world.master, 7, &labels, &Secret32::new([2; 32]))
    };
    for (what, edit) in edits {
        let edited = Header::parse(&cose::edited(bytes, &world.publisher, HEADER_AAD, edit)).unwrap();
        assert_eq!(world.verify(&edited), Ok(()), "{what}");
        for key in [&reader, &all] {
            assert!(edited.open(&world.params, key).is_err(), "{what}");
        }
        let opened = edited.open(&world.params, &all).unwrap_err();
        assert!(
            matches!(opened, HeaderError::Suite(SuiteError::Inconsistent | SuiteError::Malformed)),
            "{what}"
        );
    }
}

/// ECDSA is malleable: from `(r, s)` anybody makes `(r, -s)`, which is as good to the library. It would be
/// another header, with another kid: one message would count as two.
#[test]
fn the_other_signature_is_refused() {
    let world = World::new();
    let roots = world.pki.roots();
    let by_library = |bytes: &[u8], by: &Signer, aad: &[u8]| {
        let cose = CoseSign1::from_slice(bytes).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, by.key().public_key());
        cose.verify_signature(aad, |signature, data| key.verify(data, signature))
    };
    let (header, content) = world.seal_signing();
    let mut twin = header.as_bytes().to_vec();
    cose::double(&mut twin);
    assert!(by_library(&twin, &world.publisher, HEADER_AAD).is_ok());
    assert_eq!(Header::parse(&twin).unwrap().verify(&roots), Err(HeaderError::Signature));

    let authority = world.pki.authority();
    let mut twin = world.bundle().sign(&authority);
    cose::double(&mut twin);
    assert!(by_library(&twin, &authority, BUNDLE_AAD).is_ok());
    assert_eq!(Bundle::verify(&twin, &roots), Err(BundleError::Signature));

    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let by = world.publisher.key().public_key();
    let verify = |sealed: &[u8]| {
        let message = Envelope::parse(sealed).unwrap().message;
        message.verify(by, TOPIC, header.hash(), header.publisher())
    };
    assert_eq!(verify(&sealed), Some(true));
    let ends = sealed.len() - b"38.5".len() - 16 - 1;
    let mut twin = sealed.clone();
    cose::double(&mut twin[..ends]);
    assert_eq!(verify(&twin), Some(false));
    cose::double(&mut twin[..ends]);
    assert_eq!(twin, sealed, "the signature ends where we think");
}

#[test]
fn headers_have_one_encoding() {
    let world = World::new();
    let (header, _) = world.seal();
    let parse = |edit: cose::Edit| {
        Header::parse(&cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, edit)).map(drop)
    };
    assert_eq!(parse(|_| ()), Ok(()));
    assert_eq!(parse(|f| f.push((11.into(), true.into()))), Ok(()));
    let suites = ["bsw", "ac17", "fabeo", "lsw", "ghw11", "yct14", ""];
    for suite in suites {
        let bytes = cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, |f| {
            *cose::field(f, 1) = suite.into();
        });
        assert_eq!(Header::parse(&bytes).unwrap_err(), HeaderError::UnknownSuite, "{suite}");
    }
    let malformed: [(&str, cose::Edit); 18] = [
        ("a field too many", |f| f.push((12.into(), 0.into()))),
        ("`false` for unsigned messages", |f| f.push((11.into(), false.into()))),
        ("null for unsigned messages", |f| f.push((11.into(), Value::Null))),
        ("1 for signed messages", |f| f.push((11.into(), 1.into()))),
        ("signed messages twice", |f| f.extend([(11.into(), true.into()), (11.into(), true.into())])),
        ("a field twice", |f| f.push(f[9].clone())),
        ("another order", |f| f.swap(0, 1)),
        ("a field missing", |f| drop(f.remove(7))),
        ("empty versions", |f| *cose::field(f, 4) = cose::bytes(Versions::default().encode())),
        ("null versions", |f| *cose::field(f, 4) = Value::Null),
        ("versions nobody asked for", |f| {
            let mut versions = Versions::default();
            versions.raise(&"other".parse().unwrap()).unwrap();
            *cose::field(f, 4) = cose::bytes(versions.encode());
        }),
        ("a short params id", |f| *cose::field(f, 2) = cose::bytes([1; 15])),
        ("a long publisher", |f| *cose::field(f, 7) = cose::bytes([1; 17])),
        ("a policy that is none", |f| *cose::field(f, 5) = cose::bytes([0x80])),
        ("a policy not canonical", |f| {
            let leaf = [0x83, 0, 0x61, b'a', 0xf6];
            *cose::field(f, 5) = cose::bytes([&[0x82, 3, 0x81][..], &leaf].concat());
        }),
        ("a filter that is none", |f| *cose::field(f, 10) = "a/#/b".into()),
        ("a negative time", |f| *cose::field(f, 8) = (-1).into()),
        ("text for bytes", |f| *cose::field(f, 6) = "text".into()),
    ];
    for (what, edit) in malformed {
        assert_eq!(parse(edit), Err(HeaderError::Malformed), "{what}");
    }

    let [protected, payload, signature] = cose::parts(header.as_bytes()).map(cose::bytes);
    let other_algorithm =
        cose::encode(&cose::map([(1, (-35).into()), (33, cose::bytes(world.publisher.certificate()))]));
    let chain = Value::Array(vec![cose::bytes(world.publisher.certificate())]);
    let as_array = cose::encode(&cose::map([(1, (-7).into()), (33, chain)]));
    let empty = || Value::Map(vec![]);
    for (what, parts) in [
        (
            "an unprotected header",
            vec![protected.clone(), cose::map([(4, 1.into())]), payload.clone(), signature.clone()],
        ),
        (
            "another algorithm",
            vec![cose::bytes(other_algorithm), empty(), payload.clone(), signature.clone()],
        ),
        ("a chain in an array", vec![cose::bytes(as_array), empty(), payload.clone(), signature.clone()]),
        ("a detached payload", vec![protected.clone(), empty(), Value::Null, signature.clone()]),
        ("a short signature", vec![protected.clone(), empty(), payload.clone(), cose::bytes([0; 63])]),
        ("no signature", vec![protected.clone(), empty(), payload.clone()]),
    ] {
        let bytes = cose::encode(&Value::Array(parts));
        assert_eq!(Header::parse(&bytes).unwrap_err(), HeaderError::Malformed, "{what}");
    }
    let tagged = [&[0xd2], header.as_bytes()].concat();
    assert_eq!(Header::parse(&tagged).unwrap_err(), HeaderError::Malformed, "a COSE tag");
    assert_eq!(Header::parse(&vec![0; 70_000]).unwrap_err(), HeaderError::Malformed);
}

/// What a header under labels needs beside a world.
struct Labelled {
    params: Params,
    master: Master,
    target: Target,
}

impl Labelled {
    fn new() -> Self {
        let (params, master) = SuiteId::FabeoKp.suite().setup(&Secret32::new([1; 32]));
        Self { params, master, target: labels("role=nurse, ward=3") }
    }

    fn seal(&self, world: &World) -> (Header, SealingKey) {
        let draft = Draft { params: &self.params, target: &self.target, ..world.draft() };
        Header::seal(&draft, &world.publisher).unwrap()
    }

    fn key(&self, policy: &str, versions: &Versions) -> UserKey {
        let access = Scope::Policy(self::policy(policy).access(versions, 7));
        SuiteId::FabeoKp.suite().keygen(&self.master, 7, &access, &Secret32::new([2; 32])).unwrap()
    }
}

fn labels(text: &str) -> Target {
    Target::labels(text.parse().unwrap()).unwrap()
}

#[test]
fn a_header_under_labels_opens_for_keys_whose_policy_holds() {
    let (world, labelled) = (World::new(), Labelled::new());
    let (header, content) = labelled.seal(&world);
    assert_eq!((header.suite(), header.target()), (SuiteId::FabeoKp, &labelled.target));
    world.verify(&header).unwrap();
    let fields = cose::fields(header.as_bytes());
    let keys: Vec<Value> = fields.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [1, 2, 3, 4, 6, 7, 8, 9, 10, 12].map(Value::from), "field 12 in place of field 5");
    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let message = Envelope::parse(&sealed).unwrap().message;
    for (policy, opens) in [
        ("role=nurse and ward>=3", true),
        ("ward=3 or ward=4", true),
        ("ward>=4", false),
        ("role=nurse and ward=3 and level=1", false),
    ] {
        let opened = header.open(&labelled.params, &labelled.key(policy, &world.versions));
        assert_eq!(opened.is_ok(), opens, "{policy}");
        let payload = opened.ok().map(|key| key.open(TOPIC, &message).unwrap());
        assert_eq!(payload.as_deref(), opens.then_some(&b"38.5"[..]));
    }
    // The versions of the labels are those of the header, and an older key of the same policy does not fit.
    let old = labelled.key("role=nurse", &Versions::default());
    assert_eq!(header.open(&labelled.params, &old).unwrap_err(), SuiteError::NotSatisfied.into());
    // Labels edited by the publisher itself: there is no row for them.
    let edited = cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, |f| {
        *cose::field(f, 12) = cose::bytes(attributes("role=nurse, ward=4").encode());
    });
    let edited = Header::parse(&edited).unwrap();
    let key = labelled.key("ward=4", &world.versions);
    assert_eq!(edited.open(&labelled.params, &key).unwrap_err(), SuiteError::Inconsistent.into());
}

fn attributes(text: &str) -> Attributes {
    text.parse().unwrap()
}

/// An encoding of attributes as they are given, in this order.
fn as_written(texts: &[&str]) -> Value {
    let each = texts.iter().flat_map(|text| text.parse::<Attribute>().unwrap().encode());
    cose::bytes([0x80 | texts.len() as u8].into_iter().chain(each).collect::<Vec<u8>>())
}

#[test]
fn a_header_has_a_policy_or_labels_as_its_suite_says() {
    let (world, labelled) = (World::new(), Labelled::new());
    let (by_policy, _) = world.seal();
    let (by_labels, _) = labelled.seal(&world);
    let parse = |header: &Header, edit: cose::Edit| {
        Header::parse(&cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, edit)).map(drop)
    };
    assert_eq!(parse(&by_labels, |_| ()), Ok(()));
    let of_labels: [(&str, cose::Edit); 12] = [
        ("a policy beside", |f| f.insert(4, (5.into(), cose::bytes(policy("role=nurse").encode())))),
        ("neither", |f| drop(f.pop())),
        ("under the other suite", |f| *cose::field(f, 1) = "fabeo-cp".into()),
        ("no labels", |f| *cose::field(f, 12) = cose::bytes([0x80])),
        ("null for labels", |f| *cose::field(f, 12) = Value::Null),
        ("labels in place, not in bytes", |f| *cose::field(f, 12) = Value::Array(vec![])),
        ("a policy for labels", |f| *cose::field(f, 12) = cose::bytes(policy("role=nurse").encode())),
        ("another order", |f| *cose::field(f, 12) = as_written(&["ward=3", "role=nurse"])),
        ("a label twice", |f| *cose::field(f, 12) = as_written(&["role=nurse", "ward=3", "ward=3"])),
        ("versions of what is no label", |f| {
            *cose::field(f, 12) = cose::bytes(attributes("ward=3").encode())
        }),
        ("264 labels", |f| {
            let eight: Vec<String> = (0..8).map(|n| format!("a{n}=1")).collect();
            let texts: Vec<&str> = eight.iter().map(String::as_str).chain(["role=nurse"]).collect();
            *cose::field(f, 12) = as_written(&texts);
        }),
        ("labels before the filter", |f| f.swap(8, 9)),
    ];
    for (what, edit) in of_labels {
        assert_eq!(parse(&by_labels, edit), Err(HeaderError::Malformed), "{what}");
    }
    let of_policy: [(&str, cose::Edit); 3] = [
        ("labels beside", |f| f.push((12.into(), as_written(&["role=nurse", "ward=3"])))),
        ("labels in its place", |f| {
            f.retain(|(key, _)| *key != 5.into());
            f.push((12.into(), as_written(&["role=nurse", "ward=3"])));
        }),
        ("under the other suite", |f| *cose::field(f, 1) = "fabeo-kp".into()),
    ];
    for (what, edit) in of_policy {
        assert_eq!(parse(&by_policy, edit), Err(HeaderError::Malformed), "{what}");
    }
    // Nobody makes them, either.
    let crossed = Draft { params: &world.params, target: &labelled.target, ..world.draft() };
    assert!(Header::seal(&crossed, &world.publisher).is_err());
    let crossed = Draft { params: &labelled.params, ..world.draft() };
    assert!(Header::seal(&crossed, &world.publisher).is_err());
}

#[test]
fn a_bundle_holds_labels_to_its_rule() {
    let (world, mut labelled) = (World::new(), Labelled::new());
    let mut bundle = world.bundle();
    bundle.params.push(*labelled.params.id());
    bundle.rules[0].policy = None;
    bundle.rules[0].labels = Some("ward=$1, role=nurse".parse().unwrap());
    let bytes = bundle.sign(&world.pki.authority());
    assert_eq!(Bundle::verify(&bytes, &world.pki.roots()).unwrap(), bundle);
    assert_eq!(bundle.check(&labelled.seal(&world).0, TOPIC, NOW), Ok(()));
    let by_policy = bundle.check(&world.seal().0, TOPIC, NOW).unwrap_err();
    assert_eq!(by_policy.code(), "policy");
    assert!(by_policy.to_string().contains("`role=nurse and ward=3`, but the rule"), "{by_policy}");
    for other in ["role=nurse", "role=nurse, ward=4", "admin, role=nurse, ward=3"] {
        labelled.target = labels(other);
        assert_eq!(
            bundle.check(&labelled.seal(&world).0, TOPIC, NOW).unwrap_err().code(),
            "policy",
            "{other}"
        );
    }
    // A rule has a policy or labels.
    let with_rule = |fields: Vec<(i64, Value)>| {
        let edit = |f: &mut cose::Fields| *cose::field(f, 9) = Value::Array(vec![cose::map(fields.clone())]);
        Bundle::verify(&cose::edited(&bytes, &world.pki.authority(), BUNDLE_AAD, edit), &world.pki.roots())
    };
    let base = || vec![(1, Value::from("a/+")), (2, 2.into())];
    let field = |key: i64, value: Value| [base(), vec![(key, value)]].concat();
    assert!(with_rule(field(6, as_written(&["role=nurse"]))).is_ok());
    let template = cose::bytes(policy("role=nurse").encode());
    let both = [field(3, template), vec![(6, as_written(&["role=nurse"]))]].concat();
    assert_eq!(with_rule(both), Err(BundleError::Malformed));
    for bad in [
        cose::bytes([0x80]),
        as_written(&["b", "a"]),
        as_written(&["a", "a"]),
        cose::bytes([0x81, 0x83, 1, 0x61, b'a', 1]),
    ] {
        assert_eq!(with_rule(field(6, bad)), Err(BundleError::Malformed));
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

#[test]
fn bundle_verifies_for_the_authority_alone() {
    let world = World::new();
    let (pki, bundle) = (&world.pki, world.bundle());
    let bytes = bundle.sign(&pki.authority());
    assert_eq!(Bundle::verify(&bytes, &pki.roots()).unwrap(), bundle);
    let cose = CoseSign1::from_slice(&bytes).unwrap();
    assert_eq!(cose.payload.as_deref(), Some(&cose::parts(&bytes)[1][..]));

    for role in [Role::Device, Role::Broker, Role::Bridge, Role::Admin] {
        let bytes = bundle.sign(&pki.signer(role, 1, VALID));
        assert_eq!(Bundle::verify(&bytes, &pki.roots()), Err(BundleError::Signature), "{role:?}");
    }
    let unknown = BundleError::Certificate(IdentityError::UnknownIssuer);
    assert_eq!(Bundle::verify(&bytes, &Pki::new().roots()).unwrap_err(), unknown);
    let bytes_by_other = bundle.sign(&Pki::new().authority());
    assert_eq!(Bundle::verify(&bytes_by_other, &pki.roots()).unwrap_err(), unknown);
    let expired = bundle.sign(&pki.signer(Role::Authority, 1, (2020, 2025)));
    let not_then = BundleError::Certificate(IdentityError::NotValidThen);
    assert_eq!(Bundle::verify(&expired, &pki.roots()).unwrap_err(), not_then);
    let other_tenant = Bundle { tenant: TenantId([0; 8]), ..bundle.clone() };
    let bytes_for_other = other_tenant.sign(&pki.authority());
    assert_eq!(
        Bundle::verify(&bytes_for_other, &pki.roots()),
        Err(BundleError::Signature),
        "another tenant's"
    );
    // Signed by the authority, but as a header.
    let as_header = cose::sign1(&pki.authority(), HEADER_AAD, &cose::parts(&bytes)[1]);
    assert_eq!(Bundle::verify(&as_header, &pki.roots()), Err(BundleError::Signature));

    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Bundle::verify(&bad, &pki.roots()).is_err(), "byte {at}");
    }
    for cut in 0..bytes.len() {
        assert_eq!(Bundle::verify(&bytes[..cut], &pki.roots()), Err(BundleError::Malformed));
    }
    assert!(bundle.is_expired(bundle.expires) && !bundle.is_expired(bundle.expires - 1));
    assert!(bundle.is_revoked(DeviceId([9; 16])) && !bundle.is_revoked(DeviceId([1; 16])));
}

fn rule(filter: &str) -> Value {
    cose::map([(1, filter.into()), (2, 0.into())])
}

#[test]
fn bundles_have_one_encoding() {
    let world = World::new();
    let authority = world.pki.authority();
    let bytes = world.bundle().sign(&authority);
    let verify = |edit: cose::Edit| {
        Bundle::verify(&cose::edited(&bytes, &authority, BUNDLE_AAD, edit), &world.pki.roots()).map(drop)
    };
    assert_eq!(verify(|_| ()), Ok(()));
    assert_eq!(verify(|f| *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("a/#")])), Ok(()));
    let malformed: [(&str, cose::Edit); 11] = [
        ("two rules of one filter", |f| *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("a")])),
        ("two rules of one filter that say different things", |f| {
            let other = cose::map([(1, "a".into()), (2, 0.into()), (4, cose::bytes(policy("a").encode()))]);
            *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("b"), other]);
        }),
        ("a field too many", |f| f.push((13.into(), 0.into()))),
        ("another order", |f| f.swap(0, 1)),
        ("a field missing", |f| drop(f.pop())),
        ("revoked out of order", |f| {
            *cose::field(f, 11) = Value::Array(vec![cose::bytes([2; 16]), cose::bytes([1; 16])]);
        }),
        ("revoked twice", |f| {
            *cose::field(f, 11) = Value::Array(vec![cose::bytes([2; 16]), cose::bytes([2; 16])])
        }),
        ("a rule without a policy that requires one", |f| {
            let rule = cose::map([(1, "a".into()), (2, 2.into())]);
            *cose::field(f, 9) = Value::Array(vec![rule]);
        }),
        ("a placeholder without its `+`", |f| {
            let template = "a=$1".parse::<Template>().unwrap().encode();
            let rule = cose::map([(1, "a".into()), (2, 0.into()), (3, cose::bytes(template))]);
            *cose::field(f, 9) = Value::Array(vec![rule]);
        }),
        ("an unknown mode", |f| {
            *cose::field(f, 9) = Value::Array(vec![cose::map([(1, "a".into()), (2, 3.into())])]);
        }),
        ("too many rules", |f| {
            *cose::field(f, 9) = Value::Array((0..1025).map(|i| rule(&i.to_string())).collect());
        }),
    ];
    for (what, edit) in malformed {
        assert_eq!(verify(edit), Err(BundleError::Malformed), "{what}");
    }
}

#[test]
fn a_bundle_refuses_what_does_not_agree_with_it() {
    let world = World::new();
    let (header, _) = world.seal();
    let good = world.bundle();
    assert_eq!(good.check(&header, TOPIC, NOW), Ok(()));
    let check = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle.check(&header, TOPIC, NOW)
    };
    let code = |result: Result<(), Refusal>| result.unwrap_err().code();

    assert_eq!(check(&|b| b.revoked = vec![DeviceId([1; 16])]), Err(Refusal::Revoked));
    assert_eq!(check(&|b| b.params = vec![[0; 16]]), Err(Refusal::Params));
    assert_eq!(check(&|b| b.params.clear()), Err(Refusal::Params));
    for current in [0, 6, 9, u64::MAX] {
        assert_eq!(check(&|b| b.epoch.number = current), Err(Refusal::Epoch { sealed: 7, current }));
    }
    assert_eq!(check(&|b| b.versions = Versions::default()), Err(Refusal::Versions));
    assert_eq!(check(&|b| drop(b.versions.raise(&"role=nurse".parse().unwrap()))), Err(Refusal::Versions));
    assert_eq!(check(&|b| drop(b.versions.raise(&"ward=3".parse().unwrap()))), Err(Refusal::Versions));
    assert_eq!(
        check(&|b| drop(b.versions.raise(&"nobody=asks".parse().unwrap()))),
        Ok(()),
        "not in the policy"
    );
    let other = |template: &str| Some(template.parse::<Template>().unwrap());
    assert_eq!(code(check(&|b| b.rules[0].policy = other("role=nurse or ward=$1"))), "policy");
    assert_eq!(
        code(check(&|b| b.rules[0].policy = other("ward=$1 and role=nurse"))),
        "policy",
        "order counts"
    );
    assert_eq!(check(&|b| b.rules[0].policy = None), Ok(()));
    assert_eq!(check(&|b| b.rules.clear()), Ok(()));

    // Topics: outside the filter, inside it but with another policy, and one that gives no value.
    assert_eq!(
        good.check(&header, "ward/4/temperature", NOW),
        Err(Refusal::Filter { filter: "ward/3/#".into() })
    );
    let wide = Draft { filter: &"ward/#".parse().unwrap(), ..world.draft() };
    let wide = Header::seal(&wide, &world.publisher).unwrap().0;
    let wanted = Refusal::Policy {
        sealed: "role=nurse and ward=3".into(),
        rule: "ward/+/temperature".into(),
        wanted: "role=nurse and ward=4".into(),
    };
    assert_eq!(good.check(&wide, "ward/4/temperature", NOW), Err(wanted));
    assert_eq!(good.check(&wide, "ward//temperature", NOW), Err(Refusal::TopicLevel));
    let injected = good.check(&wide, "ward/3 or role=visitor/temperature", NOW);
    assert_eq!(code(injected), "policy", "a level is a value and never syntax");

    // Times: at `expires` it is over, and `created` may be ahead by the skew and no more.
    assert_eq!(good.check(&header, TOPIC, NOW + 3599), Ok(()));
    assert_eq!(good.check(&header, TOPIC, NOW + 3600), Err(Refusal::Expired));
    assert_eq!(good.check(&header, TOPIC, NOW - CLOCK_SKEW_SECONDS), Ok(()));
    assert_eq!(good.check(&header, TOPIC, NOW - CLOCK_SKEW_SECONDS - 1), Err(Refusal::Clock));
    let life = |created, expires, now| {
        let draft = Draft { created, expires, ..world.draft() };
        good.check(&Header::seal(&draft, &world.publisher).unwrap().0, TOPIC, now)
    };
    assert_eq!(life(NOW, NOW, NOW - 10), Err(Refusal::Clock));
    assert_eq!(life(NOW, NOW - 1, NOW - 10), Err(Refusal::Clock), "it ends before it begins");
    assert_eq!(HEADER_SECONDS_MAX, 86_400, "a day");
    assert_eq!(life(NOW, NOW + HEADER_SECONDS_MAX, NOW), Ok(()));
    assert_eq!(life(NOW, NOW + HEADER_SECONDS_MAX + 1, NOW), Err(Refusal::Clock));
    assert_eq!(life(NOW, u64::MAX, NOW), Err(Refusal::Clock));
    assert_eq!(
        life(NOW - 60, NOW + HEADER_SECONDS_MAX, NOW),
        Err(Refusal::Clock),
        "however much is left of it"
    );
    // Backdated to before the epoch: a certificate that has run out since would otherwise do for ever.
    for (created, expected) in [(360, Ok(())), (361, Err(Refusal::Clock))] {
        let draft = Draft { created: NOW - created, ..world.draft() };
        let backdated = Header::seal(&draft, &world.publisher).unwrap().0;
        assert_eq!(good.check(&backdated, TOPIC, NOW), expected, "{created} seconds ago");
    }

    // The previous epoch, as long as the grace lasts.
    let next = |begins| {
        let mut bundle = good.clone();
        bundle.epoch = Epoch { number: 8, begins, ends: begins + 86_400 };
        bundle.check(&header, TOPIC, NOW)
    };
    assert_eq!(next(NOW - 599), Ok(()));
    assert_eq!(next(NOW - 600), Err(Refusal::Epoch { sealed: 7, current: 8 }));
}

/// Whatever the bytes: an answer, and never a panic.
#[test]
fn parsers_are_total() {
    let world = World::new();
    let (header, content) = world.seal_signing();
    let roots = world.pki.roots();
    let reader = header.open(&world.params, &world.reader()).unwrap();
    let compact = content.seal(TOPIC, b"38.5").unwrap();
    let full = Envelope::parse(&compact).unwrap().message.full(header.as_bytes());
    let bundle = world.bundle().sign(&world.pki.authority());
    let template = world.bundle().rules[0].policy.as_ref().unwrap().encode();
    let token = Token {
        url: "https://localhost:8443".into(),
        fingerprint: smqtt_core::identity::fingerprint(&world.pki.root).unwrap(),
        id: [1; 16],
        secret: [2; 16],
        expires: NOW,
    };
    let token = token.expose();
    let feed = |bytes: &[u8]| {
        if let Ok(envelope) = Envelope::parse(bytes) {
            _ = reader.open(TOPIC, &envelope.message);
            _ = envelope.header.map(Header::parse);
        }
        _ = Header::parse(bytes).map(|header| header.verify(&roots));
        _ = Bundle::verify(bytes, &roots);
        _ = Policy::decode(bytes).map(|p| p.to_string());
        _ = Template::decode(bytes).map(|t| t.instantiate(&["3"]));
        _ = (Versions::decode(bytes), smqtt_core::attribute::Attributes::decode(bytes));
        _ = (smqtt_core::identity::read_certificate(bytes), smqtt_core::identity::fingerprint(bytes));
        if let Ok(text) = std::str::from_utf8(bytes) {
            _ = (
                Token::parse(text),
                text.parse::<Policy>(),
                text.parse::<Template>(),
                text.parse::<Filter>(),
            );
        }
    };
    let mut rng = Rng(7);
    let seeds: [&[u8]; 7] =
        [&full, &compact, header.as_bytes(), &bundle, &world.policy.encode(), &template, token.as_bytes()];
    for _ in 0..300 {
        let len = rng.below(100);
        let noise = rng.bytes(len);
        feed(&noise);
        feed(&[&MAGIC[..], &noise].concat());
        for seed in seeds {
            feed(&rng.mutated(seed));
        }
    }
}
