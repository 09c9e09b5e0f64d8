//! Attacks on readers by an evil broker: headers of its own, messages moved, repeated, cut, mixed, bent; alone, and
//! together with a device that was enrolled.

#[path = "common/lab.rs"]
mod lab;

use lab::*;
use smqtt_client::mqtt::{self, Options, QoS};
use smqtt_client::opener::{Broken, Opener, Outcome};
use smqtt_client::replay::WINDOW;
use smqtt_core::crypto::{AeadKey, Prk, SIGNATURE_BYTES, sha256};
use smqtt_core::envelope::{Envelope, MAGIC};
use smqtt_core::header::{Header, HeaderError};
use smqtt_core::identity::{Identity, Role};
use smqtt_core::target::Target;

const WARD: &str = "ward/3/temperature";
const POLICY: &str = "role=nurse and ward=3";

/// A sensor that publishes, a nurse who reads, a visitor who may not.
struct Cast {
    lab: Lab,
    sensor: Device,
    nurse: Device,
    visitor: Device,
}

impl Cast {
    async fn new() -> Self {
        let lab = Lab::start().await;
        lab.require("ward/+/temperature", "role=nurse and ward=$1").await;
        let sensor = lab.enrol("sensor", &["role=sensor"]).await;
        let nurse = lab.enrol("nurse", &["role=nurse", "ward=3", "ward=4"]).await;
        let visitor = lab.enrol("visitor", &["role=visitor"]).await;
        Self { lab, sensor, nurse, visitor }
    }
}

/// A header signed again by `signer`, after `edit` of what it says.
fn signed_again(header: &Header, signer: &Device, edit: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let payload = edit(cose::payload(header.as_bytes()));
    signer.with(|k| cose::sign1(k.signer().key(), k.signer().certificate(), cose::HEADER_AAD, &payload))
}

/// A message that whoever can decapsulate a header could make under it, unsigned: the best that an attacker can do.
fn sealed_by(reader: &Device, header: &[u8], topic: &str, counter: u8, payload: &[u8]) -> Vec<u8> {
    let hash = sha256(&[header]);
    let header = Header::parse(header).unwrap();
    let (suite, scope) = (header.suite().suite(), &header.scope());
    let secret = reader.with(|k| {
        let opens = |key: &_| {
            suite.decapsulate(&k.params()[0], key, scope, b"SMQTT-V01 header", header.encapsulation()).ok()
        };
        k.keys().iter().find_map(opens).expect("the reader satisfies the policy")
    });
    let prk = Prk::extract(&hash, secret.expose());
    let mut nonce: [u8; 12] = prk.expand(&[b"SMQTT-V01 iv"]);
    nonce[11] ^= counter;
    let protected =
        [&[0xa3, 1, 3, 4][..], &cose::bytes(&hash[..16]), &[6], &cose::bytes(&[counter])].concat();
    let aad = [
        vec![0x84],
        cose::text("SMQTT-V01 message"),
        cose::text(topic),
        cose::bytes(&hash),
        cose::bytes(&header.publisher().0),
    ];
    let aad = [vec![0x83], cose::text("Encrypt0"), cose::bytes(&protected), cose::bytes(&aad.concat())];
    let mut sealed = payload.to_vec();
    AeadKey::new(&prk.expand(&[b"SMQTT-V01 key"])).seal(nonce, &aad.concat(), &mut sealed, 0);
    [&MAGIC[..], &[0x83], &cose::bytes(&protected), &[0xa0], &cose::bytes(&sealed)].concat()
}

fn joined(header: &[u8], compact: &[u8]) -> Vec<u8> {
    smqtt_core::envelope::full(header, compact)
}

fn source(outcome: &Outcome) -> &HeaderError {
    match outcome {
        Outcome::Broken(Broken::Publisher(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_header_counts_only_from_the_device_it_names() {
    let Cast { lab, sensor, nurse, visitor } = Cast::new().await;
    let broker = lab.enrol_broker("broker").await;
    let mut opener = nurse.opener();
    let (honest, key) = sensor.header(POLICY, WARD);
    let payload = full(&honest, &key.seal(WARD, b"36.6").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "opened 36.6");

    // The broker's own certificate, in its own name.
    let (own, key) = broker.header(POLICY, WARD);
    let payload = full(&own, &key.seal(WARD, b"41.0").unwrap());
    assert_eq!(*source(&nurse.open(&mut opener, WARD, &payload)), HeaderError::NotPublisher);

    // In the sensor's name: by the broker, by another device, and by both with the certificate the sensor shows.
    let claim = |payload: &[u8], of: &Device| cose::replace(payload, &of.id().0, &sensor.id().0);
    let shown = sensor.identity().0;
    for forger in [&broker, &visitor] {
        let (theirs, _) = forger.header(POLICY, WARD);
        let header = signed_again(&theirs, forger, |payload| claim(payload, forger));
        let payload = joined(&header, &sealed_by(&nurse, &header, WARD, 0, b"41.0"));
        assert_eq!(*source(&nurse.open(&mut opener, WARD, &payload)), HeaderError::NotPublisher);
        let claimed = claim(cose::payload(theirs.as_bytes()), forger);
        let header = forger.with(|k| cose::sign1(k.signer().key(), &shown, cose::HEADER_AAD, &claimed));
        let payload = joined(&header, &sealed_by(&nurse, &header, WARD, 0, b"41.0"));
        assert_eq!(*source(&nurse.open(&mut opener, WARD, &payload)), HeaderError::Signature);
    }

    // A root made at home vouches for the sensor's name; and the sensor's signature on something else than a header.
    let named = sensor.with(|k| k.signer().identity().clone());
    let forger = HomeMade::new().issue(&named);
    let said = cose::payload(honest.as_bytes());
    let header = cose::sign1(forger.key(), forger.certificate(), cose::HEADER_AAD, said);
    let payload = joined(&header, &sealed_by(&nurse, &header, WARD, 0, b"41.0"));
    let outcome = nurse.open(&mut opener, WARD, &payload);
    assert!(matches!(source(&outcome), HeaderError::Certificate(_)), "{outcome:?}");
    let other_use =
        sensor.with(|k| cose::sign1(k.signer().key(), k.signer().certificate(), cose::BUNDLE_AAD, said));
    let payload = joined(&other_use, &sealed_by(&nurse, &other_use, WARD, 0, b"41.0"));
    assert_eq!(*source(&nurse.open(&mut opener, WARD, &payload)), HeaderError::Signature);

    // What the visitor signs in its own name does open, as the visitor's: that is for the application to look at.
    let (theirs, key) = visitor.header(POLICY, WARD);
    let payload = full(&theirs, &key.seal(WARD, b"41.0").unwrap());
    match nurse.open(&mut opener, WARD, &payload) {
        Outcome::Opened(opened) => assert_eq!(opened.publisher.name, "visitor"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_header_of_another_authority_or_time_is_refused() {
    let Cast { lab, sensor, nurse, .. } = Cast::new().await;
    let foreign = Lab::start().await.enrol("sensor", &["role=sensor"]).await;
    let mut opener = nurse.opener();
    let (header, key) = foreign.header(POLICY, WARD);
    let payload = full(&header, &key.seal(WARD, b"41.0").unwrap());
    let outcome = nurse.open(&mut opener, WARD, &payload);
    assert!(matches!(source(&outcome), HeaderError::Certificate(_)), "{outcome:?}");

    // Under the other authority's parameters, though signed by a device of ours.
    let theirs = foreign.with(|k| k.params()[0].clone());
    let (target, filter) = (Target::Policy(POLICY.parse().unwrap()), WARD.parse().unwrap());
    let (header, key) = sensor.with(|k| {
        let draft = smqtt_core::header::Draft {
            params: &theirs,
            epoch: 1,
            versions: &k.bundle().versions,
            target: &target,
            created: now(),
            expires: now() + 3600,
            filter: &filter,
            sign_messages: false,
        };
        Header::seal(&draft, k.signer()).unwrap()
    });
    let payload = full(&header, &key.seal(WARD, b"41.0").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "not-for-me params");

    let sealed_at = |created: u64| {
        let (header, key) = sensor.header_with(POLICY, WARD, |draft| {
            (draft.created, draft.expires) = (created, created + 3600);
        });
        full(&header, &key.seal(WARD, b"36.6").unwrap())
    };
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed_at(now() + 310)), "broken clock");
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed_at(now() + 290)), "opened 36.6");
    // Before the certificate began, and after it ran out, when that time has come.
    let outcome = nurse.open(&mut opener, WARD, &sealed_at(now() - DAY));
    assert!(matches!(source(&outcome), HeaderError::Certificate(_)), "{outcome:?}");
    lab.advance(31 * DAY);
    let outcome = nurse.open(&mut opener, WARD, &sealed_at(now()));
    assert!(matches!(source(&outcome), HeaderError::Certificate(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_message_stays_on_its_topic() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let mut opener = nurse.opener();
    let (header, key) = sensor.header("role=nurse", "ward/+/temperature");
    let compact = key.seal(WARD, b"36.6").unwrap();
    let payload = full(&header, &compact);
    // Within the header's filter, and outside; as it came, and when the header is known already.
    assert_eq!(nurse.sees(&mut opener, "ward/4/temperature", &payload), "broken broken");
    assert_eq!(nurse.sees(&mut opener, "ward/3/humidity", &payload), "broken topic");
    for topic in ["ward/4/temperature", "ward//temperature", "ward/+/temperature", "ward/3 /temperature"] {
        assert_eq!(nurse.sees(&mut opener, topic, &compact), "broken broken", "{topic}");
    }
    for topic in ["ward/3/temperature/", "/ward/3/temperature", "WARD/3/temperature", "$x/3/temperature", ""]
    {
        assert_eq!(nurse.sees(&mut opener, topic, &compact), "broken topic", "{topic}");
    }
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "opened 36.6");
}

#[tokio::test]
async fn a_message_opens_once() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let mut opener = nurse.opener();
    let (header, key) = sensor.header(POLICY, WARD);
    let sealed: Vec<Vec<u8>> =
        (0..=WINDOW + 1).map(|n| key.seal(WARD, n.to_string().as_bytes()).unwrap()).collect();
    let first = full(&header, &sealed[0]);
    let Outcome::Opened(opened) = nurse.open(&mut opener, WARD, &first) else { panic!() };
    assert_eq!((opened.counter, opened.kid), (0, header.kid()));
    // The same bytes, and the same message in its other form. The protocol's DUP says nothing here.
    assert_eq!(nurse.sees(&mut opener, WARD, &first), "repeated");
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed[0]), "repeated");
    opener.record(&opened).unwrap();

    // A reader that starts again has the windows of the one before.
    drop(opener);
    let mut opener = nurse.opener();
    assert_eq!(nurse.sees(&mut opener, WARD, &first), "repeated");
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed[2]), "opened 2");
    // Late, but not repeated.
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed[1]), "opened 1");
    assert_eq!(nurse.sees(&mut opener, WARD, &sealed[1]), "repeated");

    // The window's edge: its oldest number may still come, the one below it not.
    let last = WINDOW as usize + 1;
    let mut narrow = nurse.opener();
    assert_eq!(nurse.sees(&mut narrow, WARD, &full(&header, &sealed[last])), format!("opened {last}"));
    assert_eq!(nurse.sees(&mut narrow, WARD, &sealed[2]), "opened 2");
    assert_eq!(nurse.sees(&mut narrow, WARD, &sealed[2]), "repeated");
    assert_eq!(nurse.sees(&mut narrow, WARD, &sealed[1]), "repeated");

    // The retained flag is the broker's word: such a message opens again and says that it was retained.
    let again = nurse.with(|k| opener.open(k, WARD, &first, true, now()));
    assert_eq!(word(&again), "opened 0");
    assert_eq!(nurse.sees(&mut opener, WARD, &first), "repeated");
}

#[tokio::test]
async fn headers_cannot_be_stripped_or_mixed() {
    let Cast { lab, sensor, nurse, visitor } = Cast::new().await;
    let other = lab.enrol("other", &["role=sensor"]).await;
    let (one, key) = sensor.header(POLICY, WARD);
    let (two, other_key) = other.header(POLICY, WARD);
    let (message, second) = (key.seal(WARD, b"36.6").unwrap(), key.seal(WARD, b"36.7").unwrap());
    let theirs = other_key.seal(WARD, b"41.0").unwrap();
    let mut opener = nurse.opener();
    assert_eq!(nurse.sees(&mut opener, WARD, &message), "broken no-header");
    // Another header than the message's: unknown, then known.
    assert_eq!(nurse.sees(&mut opener, WARD, &full(&two, &message)), "broken broken");
    assert_eq!(nurse.sees(&mut opener, WARD, &full(&one, &message)), "opened 36.6");
    assert_eq!(nurse.sees(&mut opener, WARD, &full(&two, &second)), "broken kid");
    assert_eq!(nurse.sees(&mut opener, WARD, &full(&one, &theirs)), "broken broken");
    // A message that names a known header and is another's: its kid overwritten.
    let moved = cose::replace(&theirs, &two.kid().0, &one.kid().0);
    assert_eq!(nurse.sees(&mut opener, WARD, &moved), "broken broken");
    // Two headers, no message, a header twice.
    let broken = [
        [&MAGIC[..], &[0x82], one.as_bytes(), two.as_bytes()].concat(),
        [&MAGIC[..], one.as_bytes()].concat(),
        [&MAGIC[..], &[0x83], one.as_bytes(), one.as_bytes(), &message[5..]].concat(),
        [&MAGIC[..], &full(&one, &second)].concat(),
    ];
    for payload in broken {
        assert_eq!(nurse.sees(&mut opener, WARD, &payload), "broken broken");
    }
    assert_eq!(nurse.sees(&mut opener, WARD, &second), "opened 36.7");
    // To whom it is not addressed a known header opens nothing, either.
    let mut blind = visitor.opener();
    assert_eq!(visitor.sees(&mut blind, WARD, &full(&one, &message)), "not-for-me attributes");
    assert_eq!(visitor.sees(&mut blind, WARD, &message), "not-for-me attributes");
}

#[tokio::test]
async fn no_bent_envelope_opens() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let (header, key) = sensor.header_with(POLICY, WARD, |draft| draft.sign_messages = true);
    let message = key.seal(WARD, b"36.6").unwrap();
    let honest = full(&header, &message);
    let opens = |payload: &[u8]| {
        let mut opener = Opener::with(smqtt_client::replay::Replay::in_memory());
        let outcome = nurse.open(&mut opener, WARD, payload);
        matches!(outcome, Outcome::Opened(_) | Outcome::Unsealed(_)).then(|| word(&outcome))
    };
    assert_eq!(opens(&honest).as_deref(), Some("opened 36.6"));
    for at in 0..honest.len() {
        for bit in [0x01, 0x80] {
            let mut bent = honest.clone();
            bent[at] ^= bit;
            assert_eq!(opens(&bent), None, "byte {at}");
        }
        assert_eq!(opens(&honest[..at]), None, "the first {at} bytes");
    }
    for tail in [&[0][..], &[0xff], &[0xa0], &message] {
        assert_eq!(opens(&[&honest[..], tail].concat()), None, "longer by {}", tail.len());
    }
    // Where the broker makes kid and hash agree again, the signature stands in its way.
    let header = header.as_bytes();
    for at in 0..header.len() {
        let mut bent = header.to_vec();
        bent[at] ^= 1;
        let kid: [u8; 16] = sha256(&[&bent])[..16].try_into().unwrap();
        let message = cose::replace(&message, &sha256(&[header])[..16], &kid);
        assert_eq!(opens(&joined(&bent, &message)), None, "byte {at} of the header");
    }
    // Deep nesting where a header or message belongs.
    for head in [0x81, 0xc1, 0x9f, 0xbf, 0x5f, 0xd8] {
        let deep = [&MAGIC[..], &[0x82], &vec![head; 100_000]].concat();
        assert_eq!(opens(&deep), None);
    }
}

#[tokio::test]
async fn plaintext_is_never_taken_for_sealed() {
    let Cast { lab, nurse, .. } = Cast::new().await;
    lab.rule("notes/#", "open", None, None, None).await;
    nurse.refresh().await.unwrap();
    let mut opener = nurse.opener();
    for payload in [&b"41.0"[..], b"", b"\xda", &MAGIC[..4], b" \xdaSMQT"] {
        assert_eq!(nurse.sees(&mut opener, WARD, payload), "broken plaintext");
        // Retained makes no difference.
        let retained = nurse.with(|k| opener.open(k, WARD, payload, true, now()));
        assert_eq!(word(&retained), "broken plaintext");
    }
    assert_eq!(nurse.sees(&mut opener, WARD, &MAGIC), "broken broken");
    // Elsewhere it is shown for what it is, without a publisher.
    assert_eq!(nurse.sees(&mut opener, "notes/1", b"hello"), "unsealed hello");
    assert_eq!(nurse.sees(&mut opener, "nowhere", b"hello"), "unsealed hello");
}

#[tokio::test]
async fn suites_for_evaluation_never_open() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let mut opener = nurse.opener();
    let (header, key) = sensor.header(POLICY, WARD);
    let message = key.seal(WARD, b"36.6").unwrap();
    for name in
        ["bsw", "ac17", "ac17-cp", "ac17-kp", "lsw", "ghw11", "yct14", "aw11", "fabeo", "FABEO-CP", ""]
    {
        // The sensor itself signs, as a device with another program would.
        let other = signed_again(&header, &sensor, |payload| {
            cose::replace(payload, &cose::text("fabeo-cp"), &cose::text(name))
        });
        let kid = &sha256(&[&other])[..16];
        let payload = joined(&other, &cose::replace(&message, &header.kid().0, kid));
        let outcome = nurse.open(&mut opener, WARD, &payload);
        assert_eq!(*source(&outcome), HeaderError::UnknownSuite, "{name}");
        assert_eq!(word(&outcome), "broken publisher-not-verified");
    }
    // A suite that does open, but of the other kind.
    let other = signed_again(&header, &sensor, |payload| {
        cose::replace(payload, &cose::text("fabeo-cp"), &cose::text("fabeo-kp"))
    });
    let kid = &sha256(&[&other])[..16];
    let payload = joined(&other, &cose::replace(&message, &header.kid().0, kid));
    let seen = nurse.sees(&mut opener, WARD, &payload);
    assert!(!seen.starts_with("opened"), "{seen}");
    assert_eq!(nurse.sees(&mut opener, WARD, &full(&header, &message)), "opened 36.6");
}

/// Readers of a policy trust each other not to forge, unless messages are signed; and signatures cannot be taken away.
#[tokio::test]
async fn signatures_of_messages_hold() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let mut opener = nurse.opener();
    let (header, key) = sensor.header_with(POLICY, WARD, |draft| draft.sign_messages = true);
    let message = key.seal(WARD, b"36.6").unwrap();
    let at = message.windows(4).position(|w| w == [0xa1, 0x0c, 0x58, 0x40]).unwrap();
    let end = at + 4 + SIGNATURE_BYTES;
    let stripped = [&message[..at], &[0xa0], &message[end..]].concat();
    assert!(!Envelope::parse(&stripped).unwrap().message.is_signed());
    let outcome = nurse.open(&mut opener, WARD, &full(&header, &stripped));
    assert!(matches!(outcome, Outcome::Broken(Broken::Signature)), "{outcome:?}");
    let forged = nurse.with(|k| k.signer().key().sign(b"whatever"));
    let forged = [&message[..at + 4], &forged, &message[end..]].concat();
    let outcome = nurse.open(&mut opener, WARD, &full(&header, &forged));
    assert!(matches!(outcome, Outcome::Broken(Broken::Signature)), "{outcome:?}");
    // A reader of the policy makes a message of its own: it cannot sign it.
    let theirs = sealed_by(&nurse, header.as_bytes(), WARD, 7, b"41.0");
    assert_eq!(nurse.sees(&mut opener, WARD, &theirs), "broken broken");
    match nurse.open(&mut opener, WARD, &full(&header, &message)) {
        Outcome::Opened(opened) => assert!(opened.signed),
        other => panic!("{other:?}"),
    }

    // Where messages are not signed it can, and the outcome says so.
    let (header, key) = sensor.header(POLICY, WARD);
    let honest = key.seal(WARD, b"36.6").unwrap();
    let theirs = sealed_by(&nurse, header.as_bytes(), WARD, 7, b"41.0");
    for (payload, text) in [(full(&header, &honest), "36.6"), (theirs, "41.0")] {
        match nurse.open(&mut opener, WARD, &payload) {
            Outcome::Opened(opened) => {
                assert_eq!((&opened.payload[..], opened.signed), (text.as_bytes(), false));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_was_revoked_is_not_believed_and_does_not_read() {
    let Cast { lab, sensor, nurse, .. } = Cast::new().await;
    let colleague = lab.enrol("colleague", &["role=nurse", "ward=3"]).await;
    let honest = lab.enrol("honest", &["role=sensor"]).await;
    let (header, key) = sensor.header(POLICY, WARD);
    let before = full(&header, &key.seal(WARD, b"36.6").unwrap());
    let mut opener = nurse.opener();
    assert_eq!(nurse.sees(&mut opener, WARD, &before), "opened 36.6");

    lab.revoke("sensor").await;
    lab.revoke("colleague").await;
    nurse.refresh().await.unwrap();
    honest.refresh().await.unwrap();
    // Under a header known before, and under a new one.
    let after = key.seal(WARD, b"41.0").unwrap();
    assert_eq!(nurse.sees(&mut opener, WARD, &after), "broken revoked");
    let (header, key) = sensor.header(POLICY, WARD);
    let fresh = full(&header, &key.seal(WARD, b"41.0").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &fresh), "broken revoked");
    let retained = nurse.with(|k| opener.open(k, WARD, &before, true, now()));
    assert_eq!(word(&retained), "broken revoked");

    let (header, key) = honest.header(POLICY, WARD);
    let payload = full(&header, &key.seal(WARD, b"36.8").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "opened 36.8");
    assert!(colleague.refresh().await.is_err());
    assert_eq!(colleague.sees(&mut colleague.opener(), WARD, &payload), "newer");
    // Even with the newest bundle, which is no secret, it has no key for it.
    let bundle = nurse.with(|k| k.bundle_bytes().to_vec());
    colleague.with(|k| k.take_bundle(&bundle)).unwrap();
    assert_eq!(colleague.sees(&mut colleague.opener(), WARD, &payload), "not-for-me version");
}

/// An enrolled device that claims an epoch or versions that nobody has begun can make readers ask, not open.
#[tokio::test]
async fn what_claims_to_be_newer_does_not_open() {
    let Cast { lab: _lab, sensor, nurse, .. } = Cast::new().await;
    let mut opener = nurse.opener();
    for epoch in [2, 1000, u64::MAX] {
        let (header, key) = sensor.header_with(POLICY, WARD, |draft| draft.epoch = epoch);
        let payload = full(&header, &key.seal(WARD, b"41.0").unwrap());
        assert_eq!(nurse.sees(&mut opener, WARD, &payload), "newer");
    }
    let mut versions = smqtt_core::attribute::Versions::default();
    versions.set(&"role=nurse".parse().unwrap(), u32::MAX).unwrap();
    let versions = &versions;
    let (target, filter) = (Target::Policy(POLICY.parse().unwrap()), WARD.parse().unwrap());
    let (header, key) = sensor.with(|k| {
        let draft = smqtt_core::header::Draft {
            params: &k.params()[0],
            epoch: 1,
            versions,
            target: &target,
            created: now(),
            expires: now() + 3600,
            filter: &filter,
            sign_messages: false,
        };
        Header::seal(&draft, k.signer()).unwrap()
    });
    let payload = full(&header, &key.seal(WARD, b"41.0").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "newer");
    let (header, key) = sensor.header(POLICY, WARD);
    let payload = full(&header, &key.seal(WARD, b"36.6").unwrap());
    assert_eq!(nurse.sees(&mut opener, WARD, &payload), "opened 36.6");
}

/// The same over connections: a broker that delivers what it likes, on whatever topic.
#[tokio::test]
async fn an_evil_broker_gets_nothing_past_a_connected_reader() {
    let Cast { lab, sensor, nurse, visitor } = Cast::new().await;
    let broker = lab.enrol_broker("broker").await;
    let mut evil = EvilBroker::start(None).await;
    let options = Options { broker: Some(evil.url.clone()), ..Options::default() };
    let (client, mut inbox) = mqtt::connect(nurse.keyring.clone(), &options).unwrap();
    client.connected(1).await.unwrap();
    client.subscribe("ward/+/temperature", QoS::AtLeastOnce).await.unwrap();

    let (header, key) = sensor.header(POLICY, "ward/+/temperature");
    let (first, second) = (key.seal(WARD, b"36.6").unwrap(), key.seal(WARD, b"36.7").unwrap());
    let (own, own_key) = broker.header(POLICY, WARD);
    let (theirs, _) = visitor.header(POLICY, WARD);
    let claimed =
        signed_again(&theirs, &visitor, |payload| cose::replace(payload, &visitor.id().0, &sensor.id().0));
    let script = [
        (WARD, second.clone(), false, "broken no-header"),
        (WARD, full(&own, &own_key.seal(WARD, b"41.0").unwrap()), false, "broken publisher-not-verified"),
        (
            WARD,
            joined(&claimed, &sealed_by(&nurse, &claimed, WARD, 0, b"41.0")),
            false,
            "broken publisher-not-verified",
        ),
        (WARD, b"41.0".to_vec(), false, "broken plaintext"),
        (WARD, full(&header, &first), false, "opened 36.6"),
        (WARD, full(&header, &first), false, "repeated"),
        (WARD, first.clone(), false, "repeated"),
        ("ward/4/temperature", second.clone(), false, "broken broken"),
        ("elsewhere", second.clone(), false, "broken topic"),
        (WARD, first, true, "opened 36.6"),
        (WARD, second, false, "opened 36.7"),
    ];
    for (topic, payload, retain, expected) in script {
        for dup in [false, true] {
            evil.deliver(topic, &payload, retain, dup);
            let delivery = inbox.next().await.unwrap();
            let again = if expected.starts_with("opened") && !retain { "repeated" } else { expected };
            assert_eq!(word(&delivery.outcome), if dup { again } else { expected });
            assert_eq!((delivery.retained, delivery.dup), (retain, dup));
            inbox.acknowledge(&delivery).await.unwrap();
        }
    }

    // What the publisher says to such a broker is sealed, and in full wherever the broker asks again.
    let options = Options { broker: Some(evil.url.clone()), ..Options::default() };
    client.disconnect().await;
    let (publisher, _inbox) = mqtt::connect(sensor.keyring.clone(), &options).unwrap();
    publisher.connected(1).await.unwrap();
    let order = mqtt::Order {
        topic: WARD,
        payload: b"a secret reading",
        wish: smqtt_client::sealer::Wish::Rule,
        qos: QoS::AtLeastOnce,
        retain: false,
    };
    for word in
        ["no-header: send it", "epoch: a newer one", "version: other ones", "plaintext: leave it plain"]
    {
        evil.refuse_with(word);
        let error = publisher.publish(&order).await.unwrap_err();
        assert!(matches!(error, mqtt::MqttError::Refused(_)), "{error}");
    }
    let heard = evil.heard();
    assert!(heard.len() >= 4);
    for payload in heard {
        assert!(smqtt_core::envelope::is_sealed(&payload));
        assert!(!payload.windows(6).any(|w| w == b"secret"));
    }
}

/// Devices, brokers and the authority are all of one root: only a broker may serve MQTT.
#[tokio::test]
async fn a_device_does_not_pass_for_a_broker() {
    let Cast { lab, nurse, visitor, .. } = Cast::new().await;
    let home_made = HomeMade::new();
    let named = Identity { role: Role::Broker, ..nurse.with(|k| k.signer().identity().clone()) };
    let forged = home_made.issue(&named);
    let forged = (forged.certificate().to_vec(), forged.key().expose_pkcs8().to_vec());
    for identity in [visitor.identity(), lab.admin_identity(), forged] {
        let evil = EvilBroker::start(Some(server_config(&identity, &lab.authority.root(), false))).await;
        let options = Options { broker: Some(evil.url.clone()), ..Options::default() };
        let (client, _inbox) = mqtt::connect(nurse.keyring.clone(), &options).unwrap();
        assert!(client.connected(1).await.is_err());
    }
    let broker = lab.broker().await;
    let options = Options { broker: Some(broker.url()), ..Options::default() };
    let (client, _inbox) = mqtt::connect(nurse.keyring.clone(), &options).unwrap();
    client.connected(1).await.unwrap();
}
