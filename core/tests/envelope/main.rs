//! Headers, messages and bundles, held against independent COSE and CBOR, and against forgers.

#[path = "../common/mod.rs"]
mod common;

mod bundle;
mod header;
mod labels;
mod message;

use common::cose::{Content, HEADER_AAD};
use common::pki::Pki;
use common::random::Rng;
use common::witness::hkdf;
use common::{NOW, keygen, policy, setup, suite};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::{Bundle, Epoch};
use smqtt_core::crypto::Secret32;
use smqtt_core::envelope::{Envelope, EnvelopeError, MAGIC, SealingKey};
use smqtt_core::header::{Draft, Header, HeaderError, Signer};
use smqtt_core::identity::DeviceId;
use smqtt_core::policy::{Policy, Template};
use smqtt_core::rule::{Mode, Rule};
use smqtt_core::suite::{Master, Params, Scope, UserKey};
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
