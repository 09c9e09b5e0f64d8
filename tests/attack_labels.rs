//! Attacks on what is sealed under labels, and what a device does to keep reading it: labels are the rule's, a topic
//! chooses none, and nobody's keys open more than their policy says.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;

use broker_support::{Client, connect as connect_packet};
use bytes::Bytes;
use lab::{Device, Lab, LabBroker, cose, full, now};
use smqtt::mqtt::{Packet, Publish, QoS, Version};
use smqtt_client::keyring::Keyring;
use smqtt_client::opener::{Broken, Outcome};
use smqtt_client::sealer::{Outgoing, SealError, Sealed, Sealer, Wish};
use smqtt_core::header::{Header, HeaderError};
use smqtt_core::suite::SuiteId;
use smqtt_core::target::Target;

const FILTER: &str = "ward/+/t";
const TOPIC: &str = "ward/3/t";
const LABELS: &str = "kind=reading, ward=3";

async fn join(lab: &Lab, broker: &LabBroker, device: &Device) -> Client {
    let stream = broker.dial(&lab.roots(), Some(&device.identity())).await.unwrap();
    let mut client = Client::over(stream);
    client.send(Packet::Connect(Box::new(connect_packet(Version::V5, "")))).await;
    client.connack().await;
    client
}

/// The first word of the reason why a message is refused; empty if it is not.
async fn publish(client: &mut Client, topic: &str, payload: &[u8]) -> String {
    let payload = Bytes::copy_from_slice(payload);
    let packet_id = client.id();
    let publish =
        Publish { topic: topic.into(), payload, qos: QoS::AtLeastOnce, packet_id, ..Publish::default() };
    client.send(Packet::Publish(publish)).await;
    match client.next().await {
        Some(Packet::Puback(ack)) if ack.reason.is_error() => {
            let text = ack.properties.reason_string.unwrap_or_default();
            text.split(':').next().unwrap_or_default().to_owned()
        }
        Some(Packet::Puback(_)) => String::new(),
        other => panic!("{other:?}"),
    }
}

fn seal(device: &Device, topic: &str, wish: Wish<'_>) -> Result<Sealed, SealError> {
    match device.with(|k| Sealer::new(false).seal(k, topic, b"36.6", wish, now()))? {
        Outgoing::Sealed(sealed) => Ok(sealed),
        Outgoing::Plain(_) => panic!("in the clear"),
    }
}

fn labels(text: &str) -> Target {
    Target::labels(text.parse().unwrap()).unwrap()
}

/// The keyring as its files have it now.
fn reloaded(device: &Device) -> Device {
    Device::new(device.with(|k| Keyring::load(k.dir())).unwrap())
}

async fn ward() -> (Lab, Device) {
    let lab = Lab::start().await;
    lab.label(FILTER, "kind=reading, ward=$1").await;
    lab.require("bed/+", "role=nurse and ward=$1").await;
    let sensor = lab.enrol("sensor", &["role=sensor"]).await;
    (lab, sensor)
}

#[tokio::test]
async fn the_broker_takes_the_labels_of_the_rule_and_no_others() {
    let (lab, sensor) = ward().await;
    let broker = lab.broker().await;
    let mut client = join(&lab, &broker, &sensor).await;
    let policy = |text: &str| Target::Policy(text.parse().unwrap());
    for (target, filter, topic, word) in [
        (labels(LABELS), TOPIC, TOPIC, ""),
        // Fewer, more, others: each would open for somebody else.
        (labels("kind=reading"), TOPIC, TOPIC, "policy"),
        (labels("kind=reading, ward=3, admin"), TOPIC, TOPIC, "policy"),
        (labels("kind=reading, ward=4"), TOPIC, TOPIC, "policy"),
        (labels("kind=reading, ward=03"), TOPIC, TOPIC, "policy"),
        // One header for many topics is fine, the labels still have to be each topic's.
        (labels(LABELS), "#", TOPIC, ""),
        (labels(LABELS), "#", "ward/4/t", "policy"),
        (labels(LABELS), "#", "ward/03/t", "policy"),
        (labels(LABELS), "#", "ward//t", "topic"),
        (labels(LABELS), "ward/4/t", TOPIC, "filter"),
        // What reads the same is not: the one is for keys with a policy, the other for those with attributes.
        (policy("kind=reading and ward=3"), TOPIC, TOPIC, "policy"),
        (labels("role=nurse, ward=3"), "bed/3", "bed/3", "policy"),
        (policy("role=nurse and ward=3"), "bed/3", "bed/3", ""),
        // Without a rule as the publisher likes.
        (labels("anything"), "notes/1", "notes/1", ""),
    ] {
        let (header, key) = sensor.header_under(&target, filter, |_| ());
        let payload = full(&header, &key.seal(topic, b"36.6").unwrap());
        assert_eq!(publish(&mut client, topic, &payload).await, word, "{target} for {filter} on {topic}");
    }
    // Also once the broker knows the header, by a compact message on another topic.
    let (header, key) = sensor.labelled(LABELS, "#");
    let payload = full(&header, &key.seal(TOPIC, b"36.6").unwrap());
    assert_eq!(publish(&mut client, TOPIC, &payload).await, "");
    assert_eq!(publish(&mut client, TOPIC, &key.seal(TOPIC, b"36.7").unwrap()).await, "");
    assert_eq!(publish(&mut client, "ward/4/t", &key.seal("ward/4/t", b"36.7").unwrap()).await, "policy");
    // A device that nobody gave the sensor's key is nobody under its header.
    let other = lab.enrol("other", &[]).await;
    let mut other = join(&lab, &broker, &other).await;
    assert_eq!(publish(&mut other, TOPIC, &payload).await, "publisher");
}

#[tokio::test]
async fn a_topic_level_is_one_label_and_never_two() {
    let (lab, sensor) = ward().await;
    let broker = lab.broker().await;
    let mut client = join(&lab, &broker, &sensor).await;
    let chief = lab.enrol_with_policy("chief", "admin or ward=4").await;
    for level in ["3, admin", "3\", admin, x=\"", "3,ward=4", "$1", "4 ", "04", "admin"] {
        let topic = format!("ward/{level}/t");
        let sealed = seal(&sensor, &topic, Wish::Rule).unwrap();
        let labels = sealed.header().target().as_labels().unwrap();
        assert_eq!(labels.len(), 2, "{labels}");
        assert_eq!(publish(&mut client, &topic, &sealed.full()).await, "");
        assert_eq!(chief.sees(&mut chief.opener(), &topic, &sealed.full()), "not-for-me labels", "{level}");
    }
    let sealed = seal(&sensor, "ward/4/t", Wish::Rule).unwrap();
    assert_eq!(chief.sees(&mut chief.opener(), "ward/4/t", &sealed.full()), "opened 36.6");
    // A key whose policy asks for that odd value is the one that opens.
    let odd = lab.enrol_with_policy("odd", "ward=\"3, admin\"").await;
    let sealed = seal(&sensor, "ward/3, admin/t", Wish::Rule).unwrap();
    assert_eq!(odd.sees(&mut odd.opener(), "ward/3, admin/t", &sealed.full()), "opened 36.6");
    for level in ["", "a\u{7f}", &"x".repeat(300)] {
        let error = seal(&sensor, &format!("ward/{level}/t"), Wish::Rule).unwrap_err();
        assert!(matches!(error, SealError::Level { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_reader_takes_no_labels_but_those_that_the_publisher_signed() {
    let (lab, sensor) = ward().await;
    let reader = lab.enrol_with_policy("reader", "kind=reading and (ward=3 or ward=4)").await;
    let broker = lab.enrol_broker("broker").await;
    let mut opener = reader.opener();
    let (honest, key) = sensor.labelled(LABELS, FILTER);
    let compact = key.seal(TOPIC, b"36.6").unwrap();
    assert_eq!(reader.sees(&mut opener, TOPIC, &full(&honest, &compact)), "opened 36.6");
    assert_eq!(reader.sees(&mut opener, TOPIC, &full(&honest, &compact)), "repeated");
    assert_eq!(reader.sees(&mut opener, "ward/4/t", &full(&honest, &compact)), "broken broken");
    assert_eq!(reader.sees(&mut opener, "bed/3", &full(&honest, &compact)), "broken topic");
    let not_publisher = |outcome: Outcome, expected: HeaderError| match outcome {
        Outcome::Broken(Broken::Publisher(error)) => assert_eq!(error, expected),
        other => panic!("{other:?}"),
    };
    // A broker that labels something itself.
    let (own, key) = broker.labelled(LABELS, FILTER);
    let payload = full(&own, &key.seal(TOPIC, b"41.0").unwrap());
    not_publisher(reader.open(&mut opener, TOPIC, &payload), HeaderError::NotPublisher);
    // Other labels over the publisher's encapsulation: signed by nobody, and by the publisher itself.
    let ward = [&[0x83, 0, 0x64][..], b"ward", &[3]].concat();
    let other = [&ward[..7], &[4]].concat();
    let edited = cose::payload(honest.as_bytes());
    let edited = cose::replace(edited, &ward, &other);
    let joined = |header: &[u8]| {
        let kid = &smqtt_core::crypto::sha256(&[header])[..16];
        let header = Header::parse(header).unwrap();
        assert_eq!(header.target().to_string(), "[kind=reading, ward=4]");
        full(&header, &cose::replace(&compact, &honest.kid().0, kid))
    };
    let shown = sensor.identity().0;
    let forged = broker.with(|k| cose::sign1(k.signer().key(), &shown, cose::HEADER_AAD, &edited));
    not_publisher(reader.open(&mut opener, TOPIC, &joined(&forged)), HeaderError::Signature);
    let signed = sensor.with(|k| cose::sign1(k.signer().key(), &shown, cose::HEADER_AAD, &edited));
    assert_eq!(reader.sees(&mut opener, TOPIC, &joined(&signed)), "broken broken");
}

#[tokio::test]
async fn whoever_cannot_open_labels_learns_why() {
    let (lab, sensor) = ward().await;
    lab.label("level/+", "level=$1").await;
    sensor.refresh().await.unwrap();
    let nurse = lab.enrol("nurse", &["kind=reading", "ward=3"]).await;
    let reader = lab.enrol_with_policy("reader", "ward=3 and kind=reading").await;
    let high = lab.enrol_with_policy("high", "level>=3").await;
    let sealed = seal(&sensor, TOPIC, Wish::Rule).unwrap().full();
    let why = |device: &Device, topic: &str, payload: &[u8]| match device.open(
        &mut device.opener(),
        topic,
        payload,
    ) {
        Outcome::NotForMe(why) => format!("{}: {why}", why.code()),
        other => lab::word(&other),
    };
    assert_eq!(why(&reader, TOPIC, &sealed), "opened 36.6");
    // The same names and values as attributes are another thing.
    let none = "no-policy: sealed under the labels `kind=reading, ward=3`, and my keys carry no policy";
    assert_eq!(why(&nurse, TOPIC, &sealed), none);
    let not = "labels: my key's policy `level>=3` does not hold for the labels `kind=reading, ward=3`";
    assert_eq!(why(&high, TOPIC, &sealed), not);
    for (level, opens) in [("2", false), ("3", true), ("5", true), ("5x", false)] {
        let topic = format!("level/{level}");
        let sealed = seal(&sensor, &topic, Wish::Rule).unwrap().full();
        assert_eq!(why(&high, &topic, &sealed).starts_with("opened"), opens, "{level}");
    }
    // Keys of a later epoch alone.
    let late = {
        lab.rotate().await;
        reader.refresh().await.unwrap();
        reader
    };
    let (header, key) = sensor.header_under(&labels(LABELS), TOPIC, |draft| draft.epoch = 9);
    let sealed = full(&header, &key.seal(TOPIC, b"36.6").unwrap());
    assert_eq!(why(&late, TOPIC, &sealed), "newer");
    let refused = late.with(|k| smqtt_client::opener::why_not(&header, k));
    assert_eq!(refused.to_string(), "sealed in epoch 9, my keys end at 2");
}

#[tokio::test]
async fn revocation_shuts_out_its_holder_and_the_others_renew() {
    let (lab, sensor) = ward().await;
    lab.label("level/+", "level=$1").await;
    sensor.refresh().await.unwrap();
    let lost = lab.enrol_with_policy("lost", "level>=3 and level<=9").await;
    // One names the same integers by comparisons alone, one none of it.
    let kept = lab.enrol_with_policy("kept", "level>=4").await;
    let apart = lab.enrol_with_policy("apart", "kind=reading").await;
    let before = seal(&sensor, "level/5", Wish::Rule).unwrap().full();
    for device in [&lost, &kept] {
        assert_eq!(device.sees(&mut device.opener(), "level/5", &before), "opened 36.6");
    }
    let keys = |device: &Device| device.with(|k| k.keys().len());
    let (kept_keys, apart_keys) = (keys(&kept), keys(&apart));

    assert_eq!(lab.revoke("lost").await.raised, ["level"]);
    sensor.refresh().await.unwrap();
    let after = seal(&sensor, "level/5", Wish::Rule).unwrap();
    assert_eq!(after.header().versions().get(&"level".parse().unwrap()), 1);
    let after = after.full();
    assert!(lost.refresh().await.is_err());
    // It takes the bundle from wherever, and stays shut out.
    let bundle = sensor.with(|k| k.bundle_bytes().to_vec());
    lost.with(|k| k.take_bundle(&bundle)).unwrap();
    assert_eq!(lost.sees(&mut lost.opener(), "level/5", &after), "not-for-me version");
    assert_eq!(kept.sees(&mut kept.opener(), "level/5", &after), "newer", "it holds the message, and asks");
    kept.refresh().await.unwrap();
    assert_eq!(kept.sees(&mut kept.opener(), "level/5", &after), "opened 36.6");
    assert_eq!(keys(&kept), kept_keys + 1, "the old key stays for what was sealed before");
    // Whoever names none of it need not renew; asking again brings nothing.
    apart.refresh().await.unwrap();
    assert_eq!(keys(&apart), apart_keys);
    kept.refresh().await.unwrap();
    assert_eq!(kept.with(|k| k.key_generation()), 2, "once when it enrolled, once for the version");
}

#[tokio::test]
async fn a_keyring_gets_the_policy_keys_and_parameters_that_it_lacks() {
    let (lab, sensor) = ward().await;
    let reader = lab.enrol_with_policy("reader", "ward=3").await;
    let sealed = seal(&sensor, TOPIC, Wish::Rule).unwrap().full();
    let dir = lab.device_dir("reader");
    let keep_first = |file: &str| {
        let texts: Vec<String> = serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        assert_eq!(texts.len(), 2);
        std::fs::write(dir.join(file), serde_json::to_vec(&texts[..1]).unwrap()).unwrap();
    };
    // A key that got lost: there is one of the current epoch, but not of the suite.
    keep_first("keys.json");
    let again = reloaded(&reader);
    assert_eq!(again.sees(&mut again.opener(), TOPIC, &sealed).split(' ').next(), Some("not-for-me"));
    again.refresh().await.unwrap();
    assert_eq!(again.sees(&mut again.opener(), TOPIC, &sealed), "opened 36.6");
    assert!(reloaded(&again).with(|k| k.policy().is_some_and(|policy| policy.to_string() == "ward=3")));
    // Parameters that the authority drew later; nobody else's, whoever sends them.
    keep_first("params.json");
    let again = reloaded(&reader);
    assert_eq!(again.sees(&mut again.opener(), TOPIC, &sealed), "not-for-me params");
    let other = Lab::start().await;
    let foreign: smqtt_core::api::Params = lab.as_holder(&reader.identity()).get("/v1/params").await.unwrap();
    let of_other: smqtt_core::api::Params = other.admin().get("/v1/params").await.unwrap();
    assert_ne!(foreign.params, of_other.params);
    let bundle = again.with(|k| k.bundle().clone());
    again.with(|k| k.take_params(&bundle, &of_other.params)).unwrap();
    assert_eq!(again.with(|k| k.params().len()), 1);
    again.refresh().await.unwrap();
    assert_eq!(again.sees(&mut again.opener(), TOPIC, &sealed), "opened 36.6");
    assert_eq!(reloaded(&again).with(|k| k.params().len()), 2);
}

#[tokio::test]
async fn a_publisher_seals_under_the_labels_of_the_rule() {
    let (lab, sensor) = ward().await;
    let names: Vec<String> = (1..=8).map(|n| format!("n{n}=$1")).collect();
    lab.label("many/+", &names.join(", ")).await;
    sensor.refresh().await.unwrap();
    let ruled = seal(&sensor, TOPIC, Wish::Rule).unwrap();
    assert_eq!((ruled.header().suite(), ruled.header().target()), (SuiteId::FabeoKp, &labels(LABELS)));
    assert!(ruled.header().filter().matches(TOPIC) && !ruled.header().filter().matches("ward/4/t"));
    assert!(seal(&sensor, TOPIC, Wish::Under(&labels("ward=3, kind=reading"))).is_ok(), "in any order");
    let policy = Target::Policy("kind=reading and ward=3".parse().unwrap());
    for other in [labels("kind=reading"), labels("kind=reading, ward=4"), policy] {
        let error = seal(&sensor, TOPIC, Wish::Under(&other)).unwrap_err();
        assert!(matches!(error, SealError::OtherPolicy { .. }), "{error}");
    }
    let error = seal(&sensor, "bed/3", Wish::Under(&labels("role=nurse, ward=3"))).unwrap_err();
    assert!(error.to_string().contains("under `role=nurse and ward=3`, not under `[role=nurse, ward=3]`"));
    // Eight integers are 264 labels, eight words are eight: the same rule, other topics.
    let error = seal(&sensor, "many/1", Wish::Rule).unwrap_err();
    assert!(matches!(error, SealError::Labels { .. }), "{error}");
    assert!(error.hint().unwrap().contains("use text"));
    assert!(seal(&sensor, "many/w1", Wish::Rule).is_ok());
}
