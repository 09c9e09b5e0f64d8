//! Attacks through a bridge: what strangers on another broker say passes only where a device of the authority signed it,
//! and what the bridge itself may do is what its own attributes allow.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;

use std::io::Write;
use std::sync::{Arc, Mutex};

use broker_support::{Client, connect as connect_packet, will};
use bytes::Bytes;
use lab::{Device, HomeMade, Lab, LabBroker, full};
use smqtt::bridge::{self, Endpoint, Route, Security};
use smqtt::broker::{Config, Limit};
use smqtt::mqtt::{
    Ack, Connack, Connect, Packet, Publish, QoS, ReasonCode, SubscriptionOptions, Text, Version, Will,
};
use smqtt::secure::{Denied, HeaderLimits, SecurePublish};
use smqtt_core::envelope::SealingKey;
use smqtt_core::header::Header;
use smqtt_core::identity::{Identity, Role};

const WARD: &str = "ward/3/temperature";
const POLICY: &str = "role=nurse and ward=3";

/// What became of a message: `taken`, `cut`, or the first word of the reason.
async fn publish(client: &mut Client, topic: &str, payload: &[u8], qos: QoS) -> String {
    send(client, topic, payload, qos, false).await
}

async fn send(client: &mut Client, topic: &str, payload: &[u8], qos: QoS, retain: bool) -> String {
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { client.id() };
    let payload = Bytes::copy_from_slice(payload);
    let publish = Publish { topic: topic.into(), payload, qos, retain, packet_id, ..Publish::default() };
    client.send(Packet::Publish(publish)).await;
    if qos == QoS::AtMostOnce {
        client.send(Packet::Pingreq).await;
    }
    loop {
        match client.next().await {
            None => return "cut".into(),
            Some(Packet::Disconnect(d)) => return format!("cut {}", word(&d.properties.reason_string)),
            Some(Packet::Puback(ack) | Packet::Pubrec(ack)) if ack.reason.is_error() => {
                return word(&ack.properties.reason_string);
            }
            Some(Packet::Pingresp | Packet::Puback(_) | Packet::Pubcomp(_)) => return "taken".into(),
            Some(Packet::Pubrec(_)) => {
                client.send(Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success))).await;
            }
            Some(_) => {}
        }
    }
}

fn word(text: &Option<Text>) -> String {
    text.as_deref().unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
}

/// A ward with rules, a broker that knows them, and a bridge.
struct Site {
    lab: Lab,
    broker: LabBroker,
    sensor: Device,
    nurse: Device,
    visitor: Device,
    bridge: Device,
}

impl Site {
    async fn new() -> Self {
        Self::with(false).await
    }

    /// `unsigned`: as an operator who trusts all readers on the other side has it.
    async fn with(unsigned: bool) -> Self {
        let lab = Lab::start().await;
        lab.rule("ward/+/temperature", "required", Some("role=nurse and ward=$1"), Some("role=sensor"), None)
            .await;
        lab.rule("staff/rota", "open", None, Some("role=nurse"), Some("role=nurse")).await;
        lab.rule("north/#", "open", None, Some("zone=north"), Some("zone=north")).await;
        let sensor = lab.enrol("sensor", &["role=sensor"]).await;
        let nurse = lab.enrol("nurse", &["role=nurse", "ward=3"]).await;
        let visitor = lab.enrol("visitor", &["role=visitor"]).await;
        let bridge = lab.enrol_bridge("bridge", &["zone=north"]).await;
        let broker = lab.enrol_broker("broker").await;
        let shape = |hook: SecurePublish| hook.unsigned_over_bridges(unsigned);
        let broker = lab.broker_as(broker, Config::default(), Vec::new(), shape).await;
        Self { lab, broker, sensor, nurse, visitor, bridge }
    }

    async fn knock(&self, who: &Device, connect: Connect) -> (Connack, Client) {
        let stream = self.broker.dial(&self.lab.roots(), Some(&who.identity())).await.unwrap();
        let mut client = Client::over(stream);
        client.send(Packet::Connect(Box::new(connect))).await;
        (client.connack().await, client)
    }

    async fn as_device(&self, who: &Device) -> Client {
        let (connack, client) = self.knock(who, connect_packet(Version::V5, "")).await;
        assert_eq!(connack.reason, ReasonCode::Success, "{connack:?}");
        client
    }

    async fn bridge(&self) -> Client {
        self.as_device(&self.bridge).await
    }
}

/// A header of `device` all of whose messages are signed.
fn signing(device: &Device, policy: &str, filter: &str) -> (Header, SealingKey) {
    device.header_with(policy, filter, |draft| draft.sign_messages = true)
}

/// A full envelope.
fn sealed((header, key): &(Header, SealingKey), topic: &str, text: &str) -> Vec<u8> {
    full(header, &key.seal(topic, text.as_bytes()).unwrap())
}

/// The message without its signature.
fn stripped(envelope: &[u8]) -> Vec<u8> {
    let parsed = smqtt_core::envelope::Envelope::parse(envelope).unwrap();
    let (header, message) = (parsed.header.unwrap(), parsed.message.compact());
    // `a1 0c 58 40` and 64 bytes stand where `a0` does without.
    let at = message.windows(4).position(|bytes| bytes == [0xa1, 0x0c, 0x58, 0x40]).unwrap();
    let compact = [&message[..at], &[0xa0], &message[at + 68..]].concat();
    smqtt_core::envelope::full(header, &compact)
}

#[tokio::test]
async fn what_a_device_sealed_and_signed_elsewhere_passes_and_opens() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    let mut reader = site.as_device(&site.nurse).await;
    reader.subscribe("ward/#", QoS::AtLeastOnce).await;
    let content = signing(&site.sensor, POLICY, "ward/3/temperature");
    let mut opener = site.nurse.opener();
    for (qos, text) in [(QoS::AtMostOnce, "1"), (QoS::AtLeastOnce, "2"), (QoS::ExactlyOnce, "3")] {
        let envelope = sealed(&content, WARD, text);
        assert_eq!(publish(&mut bridge, WARD, &envelope, qos).await, "taken");
        let got = reader.message().await;
        assert_eq!(got.payload, envelope, "untouched");
        assert_eq!(site.nurse.sees(&mut opener, WARD, &got.payload), format!("opened {text}"));
        // Again: the broker cannot know, and a reader does.
        assert_eq!(publish(&mut bridge, WARD, &envelope, qos).await, "taken");
        let again = reader.message().await;
        assert_eq!(site.nurse.sees(&mut opener, WARD, &again.payload), "repeated");
    }
    // Two publishers in turn, each with its own header.
    let other = site.lab.enrol("sensor-2", &["role=sensor"]).await;
    let second = signing(&other, POLICY, WARD);
    for content in [&content, &second, &content, &second] {
        let said = publish(&mut bridge, WARD, &sealed(content, WARD, "x"), QoS::AtLeastOnce).await;
        // A device that enrolled a moment ago is looked up first.
        assert!(said == "taken" || said == "unknown-publisher", "{said}");
    }
}

/// Whoever reads a policy knows its content keys. The connection of a device keeps readers from publishing under the
/// key of another; behind a bridge there is no such connection.
#[tokio::test]
async fn a_reader_on_the_other_side_cannot_forge_a_publisher() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    // The content key in other hands: a message that the sensor never made, and did not sign.
    let shared = site.sensor.header(POLICY, WARD);
    let forged = sealed(&shared, WARD, "99.9");
    assert_eq!(publish(&mut bridge, WARD, &forged, QoS::AtLeastOnce).await, "signature");
    let content = signing(&site.sensor, POLICY, WARD);
    let honest = sealed(&content, WARD, "36.6");
    assert_eq!(publish(&mut bridge, WARD, &stripped(&honest), QoS::AtLeastOnce).await, "signature");
    let mut altered = honest.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(publish(&mut bridge, WARD, &altered, QoS::AtLeastOnce).await, "signature");
    assert_eq!(publish(&mut bridge, WARD, &honest, QoS::AtLeastOnce).await, "taken");
    // The device itself need not sign: nobody else speaks on its connection.
    let mut sensor = site.as_device(&site.sensor).await;
    assert_eq!(publish(&mut sensor, WARD, &forged, QoS::AtLeastOnce).await, "taken");
}

/// What the switch gives away.
#[tokio::test]
async fn an_operator_can_let_unsigned_messages_pass_and_then_readers_can_forge() {
    let site = Site::with(true).await;
    let mut bridge = site.bridge().await;
    let shared = site.sensor.header(POLICY, WARD);
    let forged = sealed(&shared, WARD, "99.9");
    assert_eq!(publish(&mut bridge, WARD, &forged, QoS::AtLeastOnce).await, "taken");
    let mut opener = site.nurse.opener();
    assert_eq!(site.nurse.sees(&mut opener, WARD, &forged), "opened 99.9");
    // A header that promises signatures is held to it, and a signature that does not fit is none.
    let content = signing(&site.sensor, POLICY, WARD);
    let honest = sealed(&content, WARD, "36.6");
    assert_eq!(publish(&mut bridge, WARD, &stripped(&honest), QoS::AtLeastOnce).await, "signature");
    let mut altered = honest;
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(publish(&mut bridge, WARD, &altered, QoS::AtLeastOnce).await, "signature");
}

#[tokio::test]
async fn headers_that_no_device_signed_are_refused() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    let named = |role| Identity { role, ..site.sensor.with(|k| k.signer().identity().clone()) };
    let home_made = HomeMade::new();
    for role in [Role::Device, Role::Bridge] {
        let forger = home_made.issue(&named(role));
        let forged = site.sensor.with(|k| {
            let target = smqtt_core::target::Target::Policy(POLICY.parse().unwrap());
            let filter = WARD.parse().unwrap();
            let draft = smqtt_core::header::Draft {
                params: &k.params()[0],
                epoch: k.bundle().epoch.number,
                versions: &k.bundle().versions,
                target: &target,
                created: lab::now(),
                expires: lab::now() + 3600,
                filter: &filter,
                sign_messages: true,
            };
            Header::seal(&draft, &forger).unwrap()
        });
        let said = publish(&mut bridge, WARD, &sealed(&forged, WARD, "x"), QoS::AtLeastOnce).await;
        assert_eq!(said, "publisher", "{role:?} of another root");
    }
    // The bridge is no publisher in its own right.
    site.bridge.with(|k| assert_eq!(k.signer().identity().role, Role::Bridge));
    let params = site.sensor.with(|k| k.params().to_vec());
    let own = site.bridge.with(|k| {
        let target = smqtt_core::target::Target::Policy(POLICY.parse().unwrap());
        let filter = WARD.parse().unwrap();
        let draft = smqtt_core::header::Draft {
            params: &params[0],
            epoch: k.bundle().epoch.number,
            versions: &k.bundle().versions,
            target: &target,
            created: lab::now(),
            expires: lab::now() + 3600,
            filter: &filter,
            sign_messages: true,
        };
        Header::seal(&draft, k.signer()).unwrap()
    });
    let envelope = sealed(&own, WARD, "x");
    assert_eq!(publish(&mut bridge, WARD, &envelope, QoS::AtLeastOnce).await, "publisher");
    let mut opener = site.nurse.opener();
    assert_eq!(site.nurse.sees(&mut opener, WARD, &envelope), "broken publisher-not-verified");
    // Bytes of a good header, changed anywhere.
    let (header, key) = signing(&site.sensor, POLICY, WARD);
    let compact = key.seal(WARD, b"x").unwrap();
    for at in (0..header.as_bytes().len()).step_by(97) {
        let mut bytes = header.as_bytes().to_vec();
        bytes[at] ^= 1;
        let said =
            publish(&mut bridge, WARD, &smqtt_core::envelope::full(&bytes, &compact), QoS::AtLeastOnce).await;
        assert!(["kid", "broken"].contains(&said.as_str()), "byte {at}: {said}");
    }
}

#[tokio::test]
async fn the_signer_is_asked_what_publishers_may_and_the_bridge_what_it_may_itself() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    // Sealed: the signer counts.
    let visitor = signing(&site.visitor, POLICY, WARD);
    let said = publish(&mut bridge, WARD, &sealed(&visitor, WARD, "x"), QoS::AtLeastOnce).await;
    assert_eq!(said, "not-allowed");
    let nurse = signing(&site.nurse, "role=nurse", "north/1");
    let said = publish(&mut bridge, "north/1", &sealed(&nurse, "north/1", "x"), QoS::AtLeastOnce).await;
    assert_eq!(said, "not-allowed", "that the bridge may does not help");
    let nurse = signing(&site.nurse, "role=nurse", "staff/rota");
    let said = publish(&mut bridge, "staff/rota", &sealed(&nurse, "staff/rota", "x"), QoS::AtLeastOnce).await;
    assert_eq!(said, "taken", "that the bridge may not does not hurt");
    // Plain: the bridge does.
    assert_eq!(publish(&mut bridge, "staff/rota", b"x", QoS::AtLeastOnce).await, "not-allowed");
    assert_eq!(publish(&mut bridge, "north/1", b"x", QoS::AtLeastOnce).await, "taken");
    assert_eq!(publish(&mut bridge, "elsewhere", b"x", QoS::AtLeastOnce).await, "taken");
    // Subscribing: the bridge does.
    let options = SubscriptionOptions::default();
    assert!(bridge.subscribe_with("staff/rota", options, None).await[0].is_error());
    assert!(!bridge.subscribe_with("north/#", options, None).await[0].is_error());
}

#[tokio::test]
async fn a_revoked_signer_is_refused_and_a_revoked_bridge_is_cut() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    let content = signing(&site.sensor, POLICY, WARD);
    assert_eq!(publish(&mut bridge, WARD, &sealed(&content, WARD, "1"), QoS::AtLeastOnce).await, "taken");
    let number = site.lab.revoke("sensor").await.bundle;
    site.broker.knows(number).await;
    let known = publish(&mut bridge, WARD, &sealed(&content, WARD, "2"), QoS::AtLeastOnce).await;
    let fresh = signing(&site.sensor, POLICY, WARD);
    let new = publish(&mut bridge, WARD, &sealed(&fresh, WARD, "3"), QoS::AtLeastOnce).await;
    // Either because of the bundle, or because of the directory.
    for said in [known, new] {
        assert!(["revoked", "not-allowed"].contains(&said.as_str()), "{said}");
    }
    site.lab.revoke("bridge").await;
    assert_eq!(bridge.closed().await, Some(ReasonCode::NotAuthorized));
    let (connack, _) = site.knock(&site.bridge, connect_packet(Version::V5, "")).await;
    assert_eq!(word(&connack.properties.reason_string), "revoked");
}

#[tokio::test]
async fn compact_moved_stale_and_plain_messages_are_refused() {
    let site = Site::new().await;
    let (mut bridge, mut sensor) = (site.bridge().await, site.as_device(&site.sensor).await);
    let content = signing(&site.sensor, POLICY, "ward/3/temperature");
    assert_eq!(publish(&mut sensor, WARD, &sealed(&content, WARD, "1"), QoS::AtLeastOnce).await, "taken");
    // The broker keeps the sensor's header: that is for the sensor.
    let compact = content.1.seal(WARD, b"2").unwrap();
    assert_eq!(publish(&mut bridge, WARD, &compact, QoS::AtLeastOnce).await, "bridge");
    assert_eq!(publish(&mut sensor, WARD, &compact, QoS::AtLeastOnce).await, "taken");
    // Another topic, with the same rule, or none.
    let envelope = sealed(&content, WARD, "3");
    for topic in ["ward/4/temperature", "mosquitto/ward/3/temperature"] {
        assert_eq!(publish(&mut bridge, topic, &envelope, QoS::AtLeastOnce).await, "filter", "{topic}");
    }
    // A policy that the rule does not yield.
    let own = signing(&site.sensor, "role=nurse", WARD);
    assert_eq!(publish(&mut bridge, WARD, &sealed(&own, WARD, "4"), QoS::AtLeastOnce).await, "policy");
    // Plaintext where a rule requires sealing, and nothing in place of what is retained there.
    assert_eq!(publish(&mut bridge, WARD, b"36.6", QoS::AtLeastOnce).await, "not-allowed");
    site.lab.require("bed/+", "role=nurse").await;
    let number = site.lab.require("bed/+/x", "role=nurse").await;
    site.broker.knows(number).await;
    assert_eq!(publish(&mut bridge, "bed/1", b"36.6", QoS::AtLeastOnce).await, "plaintext");
    assert_eq!(send(&mut bridge, "bed/1", b"", QoS::AtLeastOnce, true).await, "plaintext");
    assert_eq!(send(&mut sensor, "bed/1", b"", QoS::AtLeastOnce, true).await, "taken");
    // Too late.
    let old = site.sensor.header_with(POLICY, WARD, |draft| {
        (draft.sign_messages, draft.created, draft.expires) = (true, lab::now() - 200, lab::now() - 100);
    });
    let said = publish(&mut bridge, WARD, &sealed(&old, WARD, "5"), QoS::AtLeastOnce).await;
    assert!(["expired", "clock"].contains(&said.as_str()), "{said}");
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Warnings of rules.
    fn warnings(&self) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("would be refused if the rule were `required`")).count()
    }
}

/// A fleet behind another broker moves over topic by topic like any other: what `required` would refuse passes, is counted
/// and logged. Who is not believed anywhere is not believed here.
#[tokio::test]
async fn a_rule_that_warns_warns_of_what_a_bridge_brings() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let site = Site::new().await;
    let rule = async |mode: &str| {
        let number = site.lab.rule("move/+", mode, Some("role=nurse and ward=$1"), None, None).await;
        site.broker.knows(number).await;
    };
    rule("warn").await;
    let topic = "move/3";
    let signed = |policy: &str, filter: &str, edit: &dyn Fn(&mut smqtt_core::header::Draft<'_>)| {
        let content = site.sensor.header_with(policy, filter, |draft| {
            draft.sign_messages = true;
            edit(draft);
        });
        sealed(&content, topic, "36.6")
    };
    let good = signed(POLICY, topic, &|_| ());
    let compact = signing(&site.sensor, POLICY, topic).1.seal(topic, b"36.6").unwrap();
    let wrongs = [
        ("plaintext", false, b"36.6".to_vec()),
        ("policy", false, signed("role=nurse", topic, &|_| ())),
        ("epoch", false, signed(POLICY, topic, &|draft| draft.epoch = 1000)),
        ("clock", false, signed(POLICY, topic, &|draft| draft.created = lab::now() + 1000)),
        ("expired", false, signed(POLICY, topic, &|draft| draft.expires = draft.created)),
        ("filter", true, signed(POLICY, "elsewhere/#", &|_| ())),
        ("signature", true, stripped(&good)),
        ("bridge", true, compact),
        ("broken", true, b"\xdaSMQTnonsense".to_vec()),
    ];
    let mut bridge = site.bridge().await;
    let mut warned = 0;
    for (code, everywhere, payload) in &wrongs {
        let said = publish(&mut bridge, topic, payload, QoS::AtLeastOnce).await;
        if *everywhere {
            assert_eq!(said, *code);
            continue;
        }
        assert_eq!(said, "taken", "{code}");
        warned += 1;
        assert_eq!(site.broker.denied(Denied::Warning, code), 1, "{code}");
        assert_eq!(log.warnings(), warned, "{code}");
    }
    let counts = site.broker.hook.denials().counts();
    let warnings = || counts.iter().filter(|count| count.denied == Denied::Warning);
    assert_eq!(warnings().count(), warned);
    assert!(warnings().all(|count| &*count.rule == "move/+"));
    assert_eq!(publish(&mut bridge, topic, &good, QoS::AtLeastOnce).await, "taken");
    assert_eq!(log.warnings(), warned);

    rule("required").await;
    for (code, _, payload) in &wrongs {
        assert_eq!(publish(&mut bridge, topic, payload, QoS::AtLeastOnce).await, *code);
    }
    assert_eq!(site.broker.hook.denials().total(Denied::Warning), warned as u64);
}

/// One bad message of a stranger must not end the connection over which everybody else's come.
#[tokio::test]
async fn what_is_refused_of_qos_0_does_not_cut_a_bridge() {
    let site = Site::new().await;
    let mut bridge = site.bridge().await;
    assert_eq!(publish(&mut bridge, WARD, b"36.6", QoS::AtMostOnce).await, "taken", "in silence");
    let content = signing(&site.sensor, POLICY, WARD);
    let envelope = sealed(&content, WARD, "1");
    assert_eq!(publish(&mut bridge, WARD, &stripped(&envelope), QoS::AtMostOnce).await, "taken");
    let mut reader = site.as_device(&site.nurse).await;
    reader.subscribe("ward/#", QoS::AtLeastOnce).await;
    assert_eq!(publish(&mut bridge, WARD, &envelope, QoS::AtMostOnce).await, "taken");
    assert_eq!(reader.message().await.payload, envelope, "the only one that passed");
    let mut sensor = site.as_device(&site.sensor).await;
    assert_eq!(publish(&mut sensor, WARD, b"36.6", QoS::AtMostOnce).await, "cut plaintext");
}

#[tokio::test]
async fn whoever_is_no_bridge_brings_nothing_of_others() {
    let site = Site::new().await;
    let content = signing(&site.sensor, POLICY, WARD);
    let another = site.lab.enrol("sensor-2", &["role=sensor"]).await;
    let mut client = site.as_device(&another).await;
    let said = publish(&mut client, WARD, &sealed(&content, WARD, "1"), QoS::AtLeastOnce).await;
    assert_eq!(said, "publisher");
    // Nor does it help to have been let in as a bridge before.
    let mut bridge = site.bridge().await;
    assert_eq!(publish(&mut bridge, WARD, &sealed(&content, WARD, "2"), QoS::AtLeastOnce).await, "taken");
    let said = publish(&mut client, WARD, &sealed(&content, WARD, "3"), QoS::AtLeastOnce).await;
    assert_eq!(said, "publisher");
    // A client id of somebody else is not for a bridge either.
    let (connack, _) = site.knock(&site.bridge, connect_packet(Version::V5, "sensor/1")).await;
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
}

/// A sealed will is looked at when its client connects and goes out later: for a bridge nobody vouches that long.
#[tokio::test]
async fn a_bridge_has_no_sealed_will() {
    let site = Site::new().await;
    let content = signing(&site.sensor, POLICY, WARD);
    let envelope = Bytes::from(sealed(&content, WARD, "1"));
    let connect = Connect {
        will: Some(Will { payload: envelope, ..will(WARD, "") }),
        ..connect_packet(Version::V5, "")
    };
    let (connack, _) = site.knock(&site.bridge, connect).await;
    assert_eq!(word(&connack.properties.reason_string), "bridge");
}

#[tokio::test]
async fn a_bridge_spends_nobody_elses_credit_and_drives_out_nobody_elses_headers() {
    let site = Site::new().await;
    let (mut bridge, mut sensor) = (site.bridge().await, site.as_device(&site.sensor).await);
    let own = site.sensor.header(POLICY, WARD);
    assert_eq!(publish(&mut sensor, WARD, &sealed(&own, WARD, "1"), QoS::AtLeastOnce).await, "taken");
    // Forged in the sensor's name: they cost the sensor nothing.
    let home_made = HomeMade::new();
    let named = site.sensor.with(|k| k.signer().identity().clone());
    let forger = home_made.issue(&named);
    for _ in 0..70 {
        let forged = site.sensor.with(|k| {
            let target = smqtt_core::target::Target::Policy(POLICY.parse().unwrap());
            let filter = WARD.parse().unwrap();
            let draft = smqtt_core::header::Draft {
                params: &k.params()[0],
                epoch: k.bundle().epoch.number,
                versions: &k.bundle().versions,
                target: &target,
                created: lab::now(),
                expires: lab::now() + 3600,
                filter: &filter,
                sign_messages: true,
            };
            Header::seal(&draft, &forger).unwrap()
        });
        let said = publish(&mut bridge, WARD, &sealed(&forged, WARD, "x"), QoS::AtLeastOnce).await;
        assert_eq!(said, "publisher");
    }
    // The sensor's own, more than a publisher may bring: the bridge is told so.
    assert!(taken_until_refused(&site, &mut bridge).await >= 64);
    assert_eq!(site.broker.hits(Limit::NewHeaders), 1);
    // Where it is connected itself it goes on, compact, and with new headers.
    let compact = own.1.seal(WARD, b"2").unwrap();
    assert_eq!(publish(&mut sensor, WARD, &compact, QoS::AtLeastOnce).await, "taken");
    let next = site.sensor.header(POLICY, WARD);
    assert_eq!(publish(&mut sensor, WARD, &sealed(&next, WARD, "3"), QoS::AtLeastOnce).await, "taken");
    // And a new connection of the bridge begins with no more credit than the last one ended, but for what time gives.
    let mut again = site.bridge().await;
    assert!(taken_until_refused(&site, &mut again).await < 64);
}

/// Each signature costs the broker as much, whoever it is of: so there is a bound for what a bridge brings in all.
#[tokio::test]
async fn a_bridge_brings_only_so_many_new_headers_in_all() {
    let lab = Lab::start().await;
    let sensor = lab.enrol("sensor", &["role=sensor"]).await;
    let bridge = lab.enrol_bridge("bridge", &[]).await;
    let limits = HeaderLimits { new_per_second_per_bridge: 1, ..HeaderLimits::default() };
    let device = lab.enrol_broker("broker").await;
    let broker =
        lab.broker_as(device, Config::default(), Vec::new(), |hook| hook.header_limits(limits)).await;
    let stream = broker.dial(&lab.roots(), Some(&bridge.identity())).await.unwrap();
    let mut client = Client::over(stream);
    client.send(Packet::Connect(Box::new(connect_packet(Version::V5, "")))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::Success);
    let mut taken = 0;
    let said = loop {
        let content = signing(&sensor, POLICY, WARD);
        match publish(&mut client, WARD, &sealed(&content, WARD, "x"), QoS::AtLeastOnce).await {
            said if said == "taken" && taken < 64 => taken += 1,
            said => break said,
        }
    };
    // 32 saved up, and one for each second that this takes.
    assert!(said == "headers" && taken >= 32, "{said} after {taken}");
    assert_eq!(broker.hits(Limit::NewHeadersPerBridge), 1);
}

/// How many new headers of the sensor are taken from a bridge before it is told that they are too many.
async fn taken_until_refused(site: &Site, bridge: &mut Client) -> usize {
    for count in 0..1000 {
        let content = signing(&site.sensor, POLICY, WARD);
        match publish(bridge, WARD, &sealed(&content, WARD, "x"), QoS::AtLeastOnce).await.as_str() {
            "taken" => {}
            "headers" => return count,
            other => panic!("{other}"),
        }
    }
    panic!("a thousand new headers were taken")
}

/// Two sites under one authority, and the program between them: the far broker knows it as a bridge as well.
#[tokio::test]
async fn two_brokers_of_one_authority_are_bridged() {
    let site = Site::new().await;
    let far = site.lab.enrol_broker("far").await;
    let far = site.lab.broker_of(far, Config::default(), Vec::new()).await;
    let endpoint = |broker: &LabBroker| Endpoint {
        host: broker.address.ip().to_string(),
        port: broker.address.port(),
        security: Security::Keyring,
        client_id: "bridge/far".into(),
        user_name: None,
        password: None,
        version: None,
        session_expiry_seconds: 60,
        keep_alive_seconds: 60,
    };
    let route =
        || vec![Route { filter: "ward/#".parse().unwrap(), prefix: String::new(), qos: QoS::AtLeastOnce }];
    let (local, remote) = (endpoint(&site.broker), endpoint(&far));
    let config = bridge::Config { local, remote, out: route(), inward: route(), remote_name: "far".into() };
    tokio::spawn(bridge::run(config, site.bridge.keyring.clone(), std::future::pending()));

    let stream = far.dial(&site.lab.roots(), Some(&site.nurse.identity())).await.unwrap();
    let mut reader = Client::over(stream);
    reader.send(Packet::Connect(Box::new(connect_packet(Version::V5, "")))).await;
    assert_eq!(reader.connack().await.reason, ReasonCode::Success);
    reader.subscribe("ward/#", QoS::AtLeastOnce).await;
    let mut sensor = site.as_device(&site.sensor).await;
    let (header, key) = signing(&site.sensor, POLICY, WARD);
    // Retained, so that it gets there whenever the bridge has subscribed.
    let envelope = full(&header, &key.seal(WARD, b"1").unwrap());
    assert_eq!(send(&mut sensor, WARD, &envelope, QoS::AtLeastOnce, true).await, "taken");
    let got = reader.message().await;
    assert_eq!(got.payload, envelope);
    let via: Vec<_> = got.properties.user.iter().map(|(_, broker)| broker.to_string()).collect();
    assert_eq!(via, [site.broker.device.id().to_string()], "named by its certificate");
    // Compact on the one side, full on the other.
    let compact = key.seal(WARD, b"2").unwrap();
    assert_eq!(publish(&mut sensor, WARD, &compact, QoS::AtLeastOnce).await, "taken");
    assert_eq!(reader.message().await.payload, full(&header, &compact));
}
