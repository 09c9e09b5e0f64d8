//! Attacks on the broker by its clients: what is not sealed as the rules say, by the device that signed it, now, goes
//! nowhere, and whoever sent it learns why.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;

use std::sync::Arc;

use broker_support::{Client, connect as connect_packet, will};
use bytes::Bytes;
use lab::{Device, HomeMade, Lab, LabBroker, full, now, until};
use smqtt::broker::{Admission, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture};
use smqtt::mqtt::{
    Ack, Connack, Connect, Packet, Publish, QoS, ReasonCode, SubscriptionOptions, Text, Version, Will,
};
use smqtt_client::keyring::Keyring;
use smqtt_client::sealer::{Outgoing, SealError, Sealer, Wish};
use smqtt_core::header::{HEADER_BYTES_MAX, HEADER_SECONDS_MAX};

const BOTH: [Version; 2] = [Version::V5, Version::V3];
const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const WARD: &str = "ward/3/temperature";
const POLICY: &str = "role=nurse and ward=3";

/// What became of a message, and the first word of the reason.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Taken,
    Refused(ReasonCode, String),
    /// DISCONNECT.
    Cut(ReasonCode, String),
    /// Closed without a word, as MQTT 3.1.1 has it.
    Closed,
}

fn refused(reason: ReasonCode, word: &str) -> Said {
    Said::Refused(reason, word.into())
}

fn cut(reason: ReasonCode, word: &str) -> Said {
    Said::Cut(reason, word.into())
}

fn first_word(text: &Option<Text>) -> String {
    text.as_deref().unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
}

async fn publish(client: &mut Client, topic: &str, payload: &[u8], qos: QoS) -> Said {
    send(
        client,
        Publish { topic: topic.into(), payload: Bytes::copy_from_slice(payload), qos, ..Publish::default() },
    )
    .await
}

async fn send(client: &mut Client, mut publish: Publish) -> Said {
    let qos = publish.qos;
    if qos != QoS::AtMostOnce {
        publish.packet_id = client.id();
    }
    let packet_id = publish.packet_id;
    client.send(Packet::Publish(publish)).await;
    if qos == QoS::AtMostOnce {
        client.send(Packet::Pingreq).await;
    }
    loop {
        match client.next().await {
            None => return Said::Closed,
            Some(Packet::Pingresp | Packet::Pubcomp(_)) => return Said::Taken,
            Some(Packet::Disconnect(d)) => {
                return Said::Cut(d.reason, first_word(&d.properties.reason_string));
            }
            Some(Packet::Puback(ack) | Packet::Pubrec(ack)) if ack.reason.is_error() => {
                return Said::Refused(ack.reason, first_word(&ack.properties.reason_string));
            }
            Some(Packet::Puback(_)) => return Said::Taken,
            Some(Packet::Pubrec(_)) => {
                client.send(Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success))).await;
            }
            Some(Packet::Publish(_)) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// A ward with rules, and a broker that knows them.
struct Site {
    lab: Lab,
    broker: LabBroker,
    sensor: Device,
    nurse: Device,
    visitor: Device,
}

impl Site {
    async fn new() -> Self {
        let lab = Lab::start().await;
        lab.rule("ward/+/temperature", "required", Some("role=nurse and ward=$1"), Some("role=sensor"), None)
            .await;
        lab.require("bed/+", "role=nurse and ward=$1").await;
        lab.rule("notes/#", "open", None, None, None).await;
        lab.rule("staff/rota", "open", None, Some("role=nurse"), Some("role=nurse")).await;
        let sensor = lab.enrol("sensor", &["role=sensor"]).await;
        let nurse = lab.enrol("nurse", &["role=nurse", "ward=3"]).await;
        let visitor = lab.enrol("visitor", &["role=visitor"]).await;
        let broker = lab.broker().await;
        Self { lab, broker, sensor, nurse, visitor }
    }

    /// The answer to a CONNECT of whoever holds this; `None` where TLS or the broker just closes.
    async fn knock(
        &self,
        identity: Option<(Vec<u8>, Vec<u8>)>,
        connect: Connect,
    ) -> (Option<Connack>, Option<Client>) {
        let Ok(stream) = self.broker.dial(&self.lab.roots(), identity.as_ref()).await else {
            return (None, None);
        };
        answer(Client::over(stream), connect).await
    }

    /// A connection of a device, let in.
    async fn join(&self, device: &Device, connect: Connect) -> Client {
        let (connack, client) = self.knock(Some(device.identity()), connect).await;
        let connack = connack.expect("an answer");
        assert_eq!(connack.reason, ReasonCode::Success, "{connack:?}");
        client.unwrap()
    }

    async fn as_device(&self, device: &Device, version: Version) -> Client {
        self.join(device, connect_packet(version, "")).await
    }

    /// A connection without TLS, as nobody.
    async fn as_nobody(&self, version: Version, client_id: &str) -> (Option<Connack>, Option<Client>) {
        let stream = tokio::net::TcpStream::connect(self.broker.plain).await.unwrap();
        answer(Client::over(stream), connect_packet(version, client_id)).await
    }
}

async fn answer(mut client: Client, connect: Connect) -> (Option<Connack>, Option<Client>) {
    use bytes::BytesMut;
    use tokio::io::AsyncWriteExt;
    client.version = connect.version;
    let mut out = BytesMut::new();
    Packet::Connect(Box::new(connect)).encode(client.version, &mut out).unwrap();
    // In TLS 1.3 a client learns after its handshake that its certificate is not taken.
    if client.stream.write_all(&out).await.is_err() {
        return (None, None);
    }
    match client.next().await {
        Some(Packet::Connack(connack)) => (Some(*connack), Some(client)),
        None => (None, None),
        other => panic!("{other:?}"),
    }
}

fn why(connack: &Option<Connack>) -> (ReasonCode, String) {
    let connack = connack.as_ref().expect("an answer");
    (connack.reason, first_word(&connack.properties.reason_string))
}

fn reader(mut connect: Connect) -> Connect {
    connect.properties.user.push(("smqtt".into(), "1".into()));
    connect
}

#[tokio::test]
async fn only_devices_of_the_authority_are_let_in() {
    let site = Site::new().await;
    let other = Lab::start().await;
    let foreign = other.enrol("nurse", &["role=nurse"]).await;
    let named = site.nurse.with(|k| k.signer().identity().clone());
    let home_made = HomeMade::new().issue(&named);
    let home_made = (home_made.certificate().to_vec(), home_made.key().expose_pkcs8().to_vec());
    for version in BOTH {
        let connect = || connect_packet(version, "");
        for identity in [None, Some(foreign.identity()), Some(home_made.clone())] {
            assert_eq!(site.knock(identity, connect()).await.0, None);
        }
        for identity in [site.broker.device.identity(), site.lab.admin_identity()] {
            let (reason, word) = why(&site.knock(Some(identity), connect()).await.0);
            assert_eq!(reason, ReasonCode::NotAuthorized);
            assert!(version == Version::V3 || word == "certificate", "{word}");
        }
        site.as_device(&site.nurse, version).await;
    }
}

#[tokio::test]
async fn a_client_id_belongs_to_the_device_of_that_name() {
    let site = Site::new().await;
    let id = site.nurse.id().to_string();
    let taken = ["nurse".to_owned(), "nurse/1".into(), "nurse/".into(), id.clone(), format!("{id}/1")];
    for version in BOTH {
        for client_id in &taken {
            let identity = Some(site.visitor.identity());
            let (reason, word) = why(&site.knock(identity, connect_packet(version, client_id)).await.0);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "{client_id}");
            assert!(version == Version::V3 || word == "client-id", "{word}");
            let (reason, _) = why(&site.as_nobody(version, client_id).await.0);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid, "{client_id}");
            site.join(&site.nurse, connect_packet(version, client_id)).await;
        }
        // What belongs to nobody belongs to whoever has a session under it.
        let mut first = site.join(&site.nurse, connect_packet(version, "dashboard")).await;
        let second = site.knock(Some(site.visitor.identity()), connect_packet(version, "dashboard")).await;
        assert_eq!(why(&second.0).0, ReasonCode::ClientIdentifierNotValid);
        let nobody = site.as_nobody(version, "dashboard").await;
        assert_eq!(why(&nobody.0).0, ReasonCode::ClientIdentifierNotValid);
        assert_eq!(first.until_ping().await, []);
        first.disconnect().await;
    }
    // A device that enrolled a moment ago is protected as well.
    site.lab.enrol("late", &[]).await;
    let knock = site.knock(Some(site.visitor.identity()), connect_packet(Version::V5, "late/1")).await;
    assert_eq!(why(&knock.0).0, ReasonCode::ClientIdentifierNotValid);
}

/// Every refusal below goes through this: what a client of either version learns, at every quality of service.
async fn everywhere_refused(
    site: &Site,
    device: &Device,
    topic: &str,
    payload: &[u8],
    reason: ReasonCode,
    word: &str,
) {
    let before = site.broker.counters.refused.load(std::sync::atomic::Ordering::Relaxed);
    for qos in EVERY_QOS {
        let mut client = site.as_device(device, Version::V5).await;
        let said = publish(&mut client, topic, payload, qos).await;
        match qos {
            QoS::AtMostOnce => assert_eq!(said, cut(reason, word), "{topic}"),
            _ => {
                assert_eq!(said, refused(reason, word), "{topic}");
                // The connection goes on.
                assert_eq!(publish(&mut client, "notes/1", b"hello", qos).await, Said::Taken);
            }
        }
        let mut old = site.as_device(device, Version::V3).await;
        assert_eq!(publish(&mut old, topic, payload, qos).await, Said::Closed);
    }
    let after = site.broker.counters.refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(after - before, 6);
}

#[tokio::test]
async fn plaintext_goes_nowhere_where_sealing_is_required() {
    let site = Site::new().await;
    for payload in [&b"41.0"[..], b"", b"\xdaSMQ"] {
        let (reason, word) = (ReasonCode::PayloadFormatInvalid, "plaintext");
        everywhere_refused(&site, &site.sensor, WARD, payload, reason, word).await;
    }
    everywhere_refused(&site, &site.sensor, WARD, b"\xdaSMQT", ReasonCode::PayloadFormatInvalid, "broken")
        .await;
    // A client without a certificate may not even clear what is retained; a device that may publish can.
    let clear =
        || Publish { topic: "bed/3".into(), retain: true, qos: QoS::AtLeastOnce, ..Publish::default() };
    let (header, key) = site.sensor.header("role=nurse and ward=3", "bed/3");
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let payload = full(&header, &key.seal("bed/3", b"taken").unwrap());
    assert_eq!(send(&mut sensor, Publish { payload: payload.into(), ..clear() }).await, Said::Taken);
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    assert_eq!(send(&mut nobody, clear()).await, refused(ReasonCode::PayloadFormatInvalid, "plaintext"));
    let topic = || Publish { topic: WARD.into(), ..clear() };
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    assert_eq!(send(&mut visitor, topic()).await, refused(ReasonCode::NotAuthorized, "not-allowed"));
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe("bed/3", QoS::AtLeastOnce).await;
    assert!(nurse.message().await.retain);
    assert_eq!(send(&mut sensor, clear()).await, Said::Taken);
}

#[tokio::test]
async fn a_message_counts_only_from_the_device_that_signed_its_header() {
    let site = Site::new().await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let compact = key.seal(WARD, b"36.6").unwrap();
    let captured = full(&header, &compact);
    // Before the broker knows the header: a compact message has none, a captured envelope is somebody else's.
    let unknown = (ReasonCode::ImplementationSpecificError, "no-header");
    everywhere_refused(&site, &site.sensor, WARD, &compact, unknown.0, unknown.1).await;
    let foreign = (ReasonCode::NotAuthorized, "publisher");
    everywhere_refused(&site, &other, WARD, &captured, foreign.0, foreign.1).await;
    // And after.
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    assert_eq!(publish(&mut sensor, WARD, &captured, QoS::AtLeastOnce).await, Said::Taken);
    for payload in [&captured, &compact, &key.seal(WARD, b"36.7").unwrap()] {
        everywhere_refused(&site, &other, WARD, payload, foreign.0, foreign.1).await;
    }
    // A reader of the policy is no publisher under that header, on a topic where anyone may publish; nor is nobody.
    let (header, key) = site.sensor.header(POLICY, "bed/3");
    let captured = full(&header, &key.seal("bed/3", b"taken").unwrap());
    assert_eq!(publish(&mut sensor, "bed/3", &captured, QoS::AtLeastOnce).await, Said::Taken);
    let compact = key.seal("bed/3", b"free").unwrap();
    everywhere_refused(&site, &site.nurse, "bed/3", &compact, foreign.0, foreign.1).await;
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    for payload in [&captured, &compact] {
        let said = publish(&mut nobody, "bed/3", payload, QoS::AtLeastOnce).await;
        assert_eq!(said, refused(foreign.0, foreign.1));
    }
    assert_eq!(publish(&mut sensor, "bed/3", &compact, QoS::AtMostOnce).await, Said::Taken);

    // Headers that the sensor did not sign, or that are another's than the message's.
    let bent = {
        let mut bytes = header.as_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let kid = &smqtt_core::crypto::sha256(&[&bytes])[..16];
        smqtt_core::envelope::full(&bytes, &lab::cose::replace(&compact, &header.kid().0, kid))
    };
    everywhere_refused(&site, &site.sensor, "bed/3", &bent, foreign.0, foreign.1).await;
    let (second, _) = site.sensor.header(POLICY, "bed/3");
    let mixed = full(&second, &compact);
    everywhere_refused(&site, &site.sensor, "bed/3", &mixed, ReasonCode::PayloadFormatInvalid, "kid").await;
    let (fresh, fresh_key) = site.sensor.header(POLICY, "bed/3");
    let mixed = full(&second, &fresh_key.seal("bed/3", b"").unwrap());
    everywhere_refused(&site, &site.sensor, "bed/3", &mixed, ReasonCode::PayloadFormatInvalid, "kid").await;
    let honest = full(&fresh, &fresh_key.seal("bed/3", b"").unwrap());
    assert_eq!(publish(&mut sensor, "bed/3", &honest, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn a_message_is_sealed_as_the_rule_of_its_topic_says() {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for (policy, filter, topic, word) in [
        (POLICY, "ward/3/temperature", WARD, ""),
        ("role=nurse", "ward/3/temperature", WARD, "policy"),
        ("role=nurse and ward=4", "ward/3/temperature", WARD, "policy"),
        ("ward=3 and role=nurse", "ward/3/temperature", WARD, "policy"),
        ("role=nurse and ward=3 or role=visitor", "#", WARD, "policy"),
        // One header for many topics is fine, the policy still has to be each topic's.
        (POLICY, "#", WARD, ""),
        (POLICY, "ward/+/temperature", "ward/4/temperature", "policy"),
        (POLICY, "ward/4/temperature", WARD, "filter"),
        (POLICY, "bed/#", WARD, "filter"),
        // The number three is not the text "03", and a level cannot be empty.
        (POLICY, "#", "ward/03/temperature", "policy"),
        (POLICY, "#", "ward//temperature", "topic"),
    ] {
        let (header, key) = site.sensor.header(policy, filter);
        let payload = full(&header, &key.seal(topic, b"36.6").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await;
        let expected = if word.is_empty() { Said::Taken } else { refused(invalid, word) };
        assert_eq!(said, expected, "{policy} for {filter} on {topic}");
        if word.is_empty() {
            continue;
        }
        // Also once the broker knows the header, by a compact message.
        let good = match site.broker.view.bundle().rule_for(topic).unwrap().target_for(topic) {
            Ok(Some(policy)) => policy.to_string(),
            _ => continue,
        };
        if good != policy {
            let said = publish(&mut sensor, topic, &key.seal(topic, b"36.6").unwrap(), QoS::AtMostOnce).await;
            assert_eq!(said, cut(invalid, word));
            sensor = site.as_device(&site.sensor, Version::V5).await;
        }
    }
}

/// Whoever chooses a topic does not choose the policy.
#[tokio::test]
async fn a_topic_level_is_a_value_and_never_syntax() {
    let site = Site::new().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let levels =
        ["3 or role=visitor", "3) or (role=visitor", "3\" or role=visitor or x=\"", "$1", "3,4", "x"];
    for level in levels {
        let topic = format!("bed/{level}");
        let mut sealer = Sealer::new(false);
        let sealed = site.sensor.with(|k| sealer.seal(k, &topic, b"taken", Wish::Rule, now()).unwrap());
        let Outgoing::Sealed(sealed) = sealed else { panic!("sealed") };
        let policy = sealed.header().target().as_policy().unwrap();
        assert_eq!(policy.attributes().len(), 2, "{policy}");
        assert_eq!(policy.names().into_iter().collect::<Vec<_>>(), ["role", "ward"]);
        assert_eq!(publish(&mut sensor, &topic, &sealed.full(), QoS::AtLeastOnce).await, Said::Taken);
        let seen = site.visitor.sees(&mut site.visitor.opener(), &topic, &sealed.full());
        assert_eq!(seen, "not-for-me attributes");
        // A device whose attribute is that odd value is the one that reads.
        let (wide, key) = site.sensor.header("role=nurse and ward=3 or role=visitor", "bed/#");
        let payload = full(&wide, &key.seal(&topic, b"taken").unwrap());
        let said = publish(&mut sensor, &topic, &payload, QoS::AtLeastOnce).await;
        assert_eq!(said, refused(ReasonCode::PayloadFormatInvalid, "policy"));
    }
    let odd = site.lab.enrol("odd", &["role=nurse", "ward=\"3 or role=visitor\""]).await;
    let (header, key) = site.sensor.header("role=nurse and ward=\"3 or role=visitor\"", "bed/#");
    let topic = "bed/3 or role=visitor";
    let payload = full(&header, &key.seal(topic, b"taken").unwrap());
    assert_eq!(odd.sees(&mut odd.opener(), topic, &payload), "opened taken");

    for level in ["", "a\u{7f}", &"x".repeat(5000)] {
        let topic = format!("bed/{level}");
        let mut sealer = Sealer::new(false);
        let error = site.sensor.with(|k| sealer.seal(k, &topic, b"taken", Wish::Rule, now()).unwrap_err());
        assert!(matches!(error, SealError::Level { .. }), "{error}");
    }
    let (header, key) = site.sensor.header("role=nurse", "bed/#");
    let payload = full(&header, &key.seal("bed/", b"taken").unwrap());
    everywhere_refused(&site, &site.sensor, "bed/", &payload, ReasonCode::PayloadFormatInvalid, "topic")
        .await;
}

/// Where a rule says who may publish, that is asked each time. Where it does not, a message like the last one passes
/// without being asked again: until something is not like it any more.
#[tokio::test]
async fn headers_of_another_time_are_refused() {
    refuses_headers_of_another_time(WARD).await;
}

#[tokio::test]
async fn headers_of_another_time_are_refused_where_anyone_may_publish() {
    refuses_headers_of_another_time("bed/3").await;
}

async fn refuses_headers_of_another_time(topic: &str) {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (first, first_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 7200);
    let message = |n: u8| first_key.seal(topic, &[n]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &full(&first, &message(1)), QoS::AtLeastOnce).await, Said::Taken);

    let times: [(i64, i64, &str); 7] = [
        (0, 60, ""),
        (290, 60, ""),
        (310, 60, "clock"),
        (-200, 3600, ""),
        (-100, 100, "expired"),
        (0, 0, "expired"),
        (0, HEADER_SECONDS_MAX as i64 + 1, "clock"),
    ];
    for (created, life, word) in times {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| {
            draft.created = now().checked_add_signed(created).unwrap();
            draft.expires = draft.created.checked_add_signed(life).unwrap();
        });
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce);
        let expected = if word.is_empty() { Said::Taken } else { refused(invalid, word) };
        assert_eq!(said.await, expected, "{created}, {life}");
    }
    for epoch in [2, 1000, u64::MAX] {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| draft.epoch = epoch);
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        let said = publish(&mut sensor, topic, &payload, QoS::AtLeastOnce);
        assert_eq!(said.await, refused(invalid, "epoch"));
    }

    // A new epoch: the old one is good for ten minutes more.
    site.broker.knows(site.lab.rotate().await).await;
    assert_eq!(publish(&mut sensor, topic, &message(2), QoS::AtLeastOnce).await, Said::Taken);
    site.lab.advance(601);
    // The sensor's certificate was good then, and perhaps is not any more.
    site.broker.knows(site.lab.rotate().await).await;
    site.sensor.refresh().await.unwrap();
    for (ago, expected) in [(200, Said::Taken), (310, refused(invalid, "clock"))] {
        let (header, key) = site.sensor.header_with(POLICY, topic, |draft| draft.created = now() - ago);
        let payload = full(&header, &key.seal(topic, b"").unwrap());
        assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, expected);
    }
    assert_eq!(publish(&mut sensor, topic, &message(3), QoS::AtLeastOnce).await, refused(invalid, "epoch"));
    everywhere_refused(&site, &site.sensor, topic, &full(&first, &message(4)), invalid, "epoch").await;
    site.sensor.refresh().await.unwrap();
    let (second, second_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 600);
    let payload = full(&second, &second_key.seal(topic, &[5]).unwrap());
    assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, Said::Taken);

    // A version is raised: there is no grace.
    site.lab.enrol("colleague", &["role=nurse"]).await;
    site.broker.knows(site.lab.revoke("colleague").await.bundle).await;
    let late = second_key.seal(topic, &[6]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &late, QoS::AtLeastOnce).await, refused(invalid, "version"));
    site.sensor.refresh().await.unwrap();
    let (third, third_key) = site.sensor.header_with(POLICY, topic, |d| d.expires = d.created + 600);
    let payload = full(&third, &third_key.seal(topic, &[7]).unwrap());
    assert_eq!(publish(&mut sensor, topic, &payload, QoS::AtLeastOnce).await, Said::Taken);
    site.lab.advance(600);
    let late = third_key.seal(topic, &[8]).unwrap();
    assert_eq!(publish(&mut sensor, topic, &late, QoS::AtLeastOnce).await, refused(invalid, "expired"));
}

#[tokio::test]
async fn a_message_like_the_last_one_passes_only_while_nothing_changed() {
    let site = Site::new().await;
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (header, key) = site.sensor.header(POLICY, "bed/#");
    let message = |topic: &str| key.seal(topic, b"36.6").unwrap();
    let whole = full(&header, &message("bed/3"));
    assert_eq!(publish(&mut sensor, "bed/3", &whole, QoS::AtLeastOnce).await, Said::Taken);
    for topic in ["bed/3", "bed/4", "bed/3", "bed/3"] {
        let expected = if topic == "bed/3" { Said::Taken } else { refused(invalid, "policy") };
        assert_eq!(publish(&mut sensor, topic, &message(topic), QoS::AtLeastOnce).await, expected);
    }
    // Another header of the same device, which the broker never saw.
    let (_, other) = site.sensor.header(POLICY, "bed/3");
    let unseen = other.seal("bed/3", b"").unwrap();
    let no_header = refused(ReasonCode::ImplementationSpecificError, "no-header");
    assert_eq!(publish(&mut sensor, "bed/3", &unseen, QoS::AtLeastOnce).await, no_header);
    // The sensor may not publish there any more; then again; then under another policy.
    let nobody =
        site.lab.rule("bed/+", "required", Some("role=nurse and ward=$1"), Some("role=chief"), None).await;
    site.broker.knows(nobody).await;
    let forbidden = refused(ReasonCode::NotAuthorized, "not-allowed");
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, forbidden);
    site.broker.knows(site.lab.require("bed/+", "role=nurse and ward=$1").await).await;
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await, Said::Taken);
    site.broker.knows(site.lab.require("bed/+", "role=chief and ward=$1").await).await;
    let said = publish(&mut sensor, "bed/3", &message("bed/3"), QoS::AtLeastOnce).await;
    assert_eq!(said, refused(invalid, "policy"));
}

#[tokio::test]
async fn a_flood_of_headers_ends_at_the_quota() {
    let site = Site::new().await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let fresh = |device: &Device| {
        let (header, key) = device.header(POLICY, WARD);
        (full(&header, &key.seal(WARD, b"").unwrap()), key)
    };
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    // Connecting again brings no new credit.
    for n in 0..64 {
        assert_eq!(
            publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await,
            Said::Taken,
            "{n}"
        );
        if n == 40 {
            sensor = site.as_device(&site.sensor, Version::V5).await;
        }
    }
    let mut over = Said::Taken;
    // The clock of the machine may have gone on by a few seconds.
    for _ in 0..64 {
        over = publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await;
        if over != Said::Taken {
            break;
        }
    }
    assert_eq!(over, refused(ReasonCode::QuotaExceeded, "headers"));
    assert_eq!(ReasonCode::QuotaExceeded as u8, 0x97);
    // Nobody else pays for it.
    let mut honest = site.as_device(&other, Version::V5).await;
    let (payload, key) = fresh(&other);
    assert_eq!(publish(&mut honest, WARD, &payload, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(
        publish(&mut honest, WARD, &key.seal(WARD, b"").unwrap(), QoS::AtLeastOnce).await,
        Said::Taken
    );
    site.lab.advance(10);
    assert_eq!(publish(&mut sensor, WARD, &fresh(&site.sensor).0, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_refused() {
    let site = Site::new().await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let compact = key.seal(WARD, b"36.6").unwrap();
    let magic = smqtt_core::envelope::MAGIC;
    let long = lab::cose::bytes(&vec![0; HEADER_BYTES_MAX - 2]);
    let deep = |head: u8, n: usize| [&magic[..], &[0x82], &vec![head; n]].concat();
    for payload in [
        [&magic[..], &[0x82], &long, &compact[5..]].concat(),
        deep(0x81, 10_000),
        deep(0x81, 1_000_000),
        deep(0xc1, 10_000),
        deep(0x9f, 10_000),
        [&full(&header, &compact)[..], &[0]].concat(),
        [&magic[..], &[0x98, 2], header.as_bytes(), &compact[5..]].concat(),
    ] {
        let mut sensor = site.as_device(&site.sensor, Version::V5).await;
        let said = publish(&mut sensor, WARD, &payload, QoS::AtLeastOnce).await;
        let (invalid, kid) =
            (ReasonCode::PayloadFormatInvalid, refused(ReasonCode::PayloadFormatInvalid, "kid"));
        assert!(said == refused(invalid, "broken") || said == kid, "{said:?}");
    }
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let huge = full(&header, &key.seal(WARD, &vec![0; 2 << 20]).unwrap());
    let said = publish(&mut sensor, WARD, &huge, QoS::AtLeastOnce).await;
    assert!(matches!(said, Said::Cut(ReasonCode::PacketTooLarge, _)), "{said:?}");
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let large = full(&header, &key.seal(WARD, &vec![0; 1 << 20]).unwrap());
    assert_eq!(publish(&mut sensor, WARD, &large, QoS::AtLeastOnce).await, Said::Taken);
}

#[tokio::test]
async fn a_will_is_held_to_the_rules_when_it_is_left_and_when_it_is_due() {
    let site = Site::new().await;
    let sealed = |device: &Device, topic: &str, policy: &str| {
        let (header, key) = device.header(policy, topic);
        full(&header, &key.seal(topic, b"gone").unwrap())
    };
    let leaving = |version, topic: &str, payload: &[u8]| {
        let mut connect = connect_packet(version, "");
        connect.will = Some(Will { payload: Bytes::copy_from_slice(payload), ..will(topic, "") });
        connect
    };
    let theirs = sealed(&site.sensor, "bed/3", "role=nurse and ward=3");
    let wrong = sealed(&site.visitor, "bed/3", "role=nurse");
    let visitors = sealed(&site.visitor, WARD, POLICY);
    let (invalid, forbidden) = (ReasonCode::PayloadFormatInvalid, ReasonCode::NotAuthorized);
    for (topic, payload, reason, code) in [
        ("bed/3", &b"gone"[..], invalid, "plaintext"),
        ("bed/3", b"", invalid, "plaintext"),
        ("bed/3", &theirs, forbidden, "publisher"),
        ("bed/3", &wrong, invalid, "policy"),
        (WARD, &visitors, forbidden, "not-allowed"),
        ("staff/rota", b"gone", forbidden, "not-allowed"),
    ] {
        let identity = Some(site.visitor.identity());
        let knock = site.knock(identity.clone(), leaving(Version::V5, topic, payload)).await;
        assert_eq!(why(&knock.0), (reason, code.to_owned()), "{topic}");
        let (connack, _) = site.knock(identity, leaving(Version::V3, topic, payload)).await;
        assert!(connack.is_none_or(|connack| connack.reason.is_error()), "{topic}");
    }

    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe("bed/+", QoS::AtMostOnce).await;
    for version in BOTH {
        let own = sealed(&site.visitor, "bed/3", "role=nurse and ward=3");
        let visitor = site.join(&site.visitor, leaving(version, "bed/3", &own)).await;
        drop(visitor);
        let got = nurse.message().await.payload;
        assert_eq!(site.nurse.sees(&mut site.nurse.opener(), "bed/3", &got), "opened gone");
    }
    // The rule changes while the will waits: what it says now counts. And who was revoked leaves nothing behind.
    let own = sealed(&site.visitor, "bed/3", "role=nurse and ward=3");
    let visitor = site.join(&site.visitor, leaving(Version::V5, "bed/3", &own)).await;
    let other = site.lab.enrol("other", &["role=sensor"]).await;
    let plain = site.join(&other, leaving(Version::V5, "notes/1", b"gone")).await;
    let rule = site.lab.rule("bed/+", "required", Some("role=chief and ward=$1"), None, None).await;
    site.broker.knows(rule).await;
    drop(visitor);
    nurse.subscribe("notes/#", QoS::AtMostOnce).await;
    site.broker.knows(site.lab.revoke("other").await.bundle).await;
    drop(plain);
    until(|| site.broker.handle.connections() == 1).await;
    assert_eq!(nurse.until_ping().await, []);
}

#[tokio::test]
async fn a_revoked_device_is_cut_and_stays_out() {
    let site = Site::new().await;
    let mut persistent = connect_packet(Version::V5, "visitor/1");
    persistent.clean_start = false;
    persistent.properties.session_expiry_secs = Some(3600);
    let mut visitor = site.join(&site.visitor, persistent.clone()).await;
    visitor.subscribe("notes/#", QoS::AtLeastOnce).await;
    let mut old = site.as_device(&site.visitor, Version::V3).await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    site.broker.knows(site.lab.revoke("visitor").await.bundle).await;
    match visitor.next().await {
        Some(Packet::Disconnect(said)) => {
            assert_eq!(said.reason, ReasonCode::NotAuthorized);
            assert_eq!(first_word(&said.properties.reason_string), "revoked");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(old.closed().await, None);
    for version in BOTH {
        let (reason, word) =
            why(&site.knock(Some(site.visitor.identity()), connect_packet(version, "")).await.0);
        assert_eq!(reason, ReasonCode::NotAuthorized);
        assert!(version == Version::V3 || word == "revoked", "{word}");
    }
    assert_eq!(why(&site.knock(Some(site.visitor.identity()), persistent.clone()).await.0).1, "revoked");
    assert_eq!(publish(&mut nurse, "notes/1", b"hello", QoS::AtLeastOnce).await, Said::Taken);
    // The name is free again, and nothing of the old session is left for whoever takes it.
    std::fs::remove_dir_all(site.lab.device_dir("visitor")).unwrap();
    let again = site.lab.enrol("visitor", &["role=visitor"]).await;
    let (connack, client) = site.knock(Some(again.identity()), persistent).await;
    let connack = connack.unwrap();
    assert_eq!((connack.reason, connack.session_present), (ReasonCode::Success, false));
    assert_eq!(client.unwrap().until_ping().await, []);
}

async fn subscribe(client: &mut Client, filter: &str) -> ReasonCode {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    client.subscribe_with(filter, options, None).await[0]
}

#[tokio::test]
async fn rules_say_who_publishes_and_who_subscribes() {
    let site = Site::new().await;
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    let rota = || Publish {
        topic: "staff/rota".into(),
        payload: "night: anyone".into(),
        retain: true,
        qos: QoS::AtLeastOnce,
        ..Publish::default()
    };
    assert_eq!(send(&mut nurse, rota()).await, Said::Taken);
    everywhere_refused(
        &site,
        &site.visitor,
        "staff/rota",
        b"night: me",
        ReasonCode::NotAuthorized,
        "not-allowed",
    )
    .await;
    let mut nobody = site.as_nobody(Version::V5, "").await.1.unwrap();
    assert_eq!(send(&mut nobody, rota()).await, refused(ReasonCode::NotAuthorized, "not-allowed"));

    // By name, by wildcard, by shared subscription; what is retained and what comes.
    let mut visitor = site.as_device(&site.visitor, Version::V5).await;
    let mut old = site.as_device(&site.visitor, Version::V3).await;
    for client in [&mut visitor, &mut old, &mut nobody] {
        // A member of a group that may not have a message would swallow it.
        for filter in ["staff/rota", "$share/group/staff/rota", "$share/group/staff/#", "$share/group/#"] {
            let refused = match client.version {
                Version::V5 => ReasonCode::NotAuthorized,
                Version::V3 => ReasonCode::UnspecifiedError,
            };
            assert_eq!(subscribe(client, filter).await, refused, "{filter}");
        }
        for filter in ["#", "staff/#", "staff/+", "+/rota", "staff/rota/#", "$share/group/staff/menu"] {
            assert!(!subscribe(client, filter).await.is_error(), "{filter}");
        }
    }
    assert_eq!(send(&mut nurse, rota()).await, Said::Taken);
    assert_eq!(publish(&mut nurse, "staff/menu", b"soup", QoS::AtMostOnce).await, Said::Taken);
    for client in [&mut visitor, &mut old, &mut nobody] {
        // The menu comes once for every subscription or once for all; the rota never does.
        let topics: Vec<String> = client
            .until_ping()
            .await
            .into_iter()
            .map(|packet| match packet {
                Packet::Publish(publish) => publish.topic.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(!topics.is_empty() && topics.iter().all(|topic| topic == "staff/menu"), "{topics:?}");
    }
    assert!(!subscribe(&mut nurse, "staff/rota").await.is_error());
    assert_eq!(nurse.payload().await, "night: anyone");

    // A subscription that was allowed when it was made is not for ever.
    site.broker.knows(site.lab.rule("notes/#", "open", None, None, Some("role=nurse")).await).await;
    assert_eq!(publish(&mut nurse, "notes/1", b"hello", QoS::AtMostOnce).await, Said::Taken);
    assert_eq!(visitor.until_ping().await, []);
}

#[tokio::test]
async fn topic_aliases_lead_nobody_astray() {
    let site = Site::new().await;
    let mut client = site.as_device(&site.visitor, Version::V5).await;
    let aliased = |topic: &str, payload: &[u8]| {
        let mut publish = Publish {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            ..Publish::default()
        };
        publish.properties.topic_alias = Some(1);
        publish
    };
    let plaintext = || refused(ReasonCode::PayloadFormatInvalid, "plaintext");
    assert_eq!(send(&mut client, aliased("notes/1", b"hello")).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("", b"hello")).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("bed/3", b"free")).await, plaintext());
    assert_eq!(send(&mut client, aliased("", b"free")).await, plaintext());
    // A message that was sealed for one topic, sent to another by alias.
    let (header, key) = site.visitor.header("role=nurse and ward=3", "bed/3");
    let payload = full(&header, &key.seal("bed/3", b"free").unwrap());
    assert_eq!(send(&mut client, aliased("", &payload)).await, Said::Taken);
    assert_eq!(send(&mut client, aliased("bed/4", b"")).await, plaintext());
    let said = send(&mut client, aliased("", &payload)).await;
    assert_eq!(said, refused(ReasonCode::PayloadFormatInvalid, "filter"));
}

/// Compact messages are for those who ask for them, and reach nobody who never got the header.
#[tokio::test]
async fn every_reader_gets_the_header_before_it_needs_it() {
    let site = Site::new().await;
    let mut first = site.join(&site.nurse, reader(connect_packet(Version::V5, ""))).await;
    let mut stock = site.as_device(&site.nurse, Version::V3).await;
    first.subscribe("#", QoS::AtMostOnce).await;
    stock.subscribe("#", QoS::AtMostOnce).await;
    let (header, key) = site.sensor.header(POLICY, WARD);
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let message = full(&header, &key.seal(WARD, b"1").unwrap());
    assert_eq!(publish(&mut sensor, WARD, &message, QoS::AtLeastOnce).await, Said::Taken);
    let mut late = site.join(&site.nurse, reader(connect_packet(Version::V5, ""))).await;
    late.subscribe("#", QoS::AtMostOnce).await;
    let compact = key.seal(WARD, b"2").unwrap();
    assert_eq!(publish(&mut sensor, WARD, &compact, QoS::AtLeastOnce).await, Said::Taken);
    let second = full(&header, &compact);
    assert_eq!(first.message().await.payload, message);
    assert_eq!(first.message().await.payload, compact);
    assert_eq!(stock.message().await.payload, message);
    assert_eq!(stock.message().await.payload, second);
    assert_eq!(late.message().await.payload, second);
}

/// Takes the attachment of every connection for itself.
struct Greedy;

impl Hook for Greedy {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let admission = Admission { attachment: Some(Arc::new(())), ..Admission::default() };
        Box::pin(std::future::ready(ConnectVerdict::Allow(admission)))
    }
}

/// Another hook in front, by mistake or not, does not switch the rules off.
#[tokio::test]
async fn without_its_own_notes_on_a_client_the_hook_lets_nothing_through() {
    let mut site = Site::new().await;
    std::fs::remove_dir_all(site.lab.device_dir("broker")).unwrap();
    site.lab.revoke("broker").await;
    site.broker = site.lab.broker_with(Config::default(), vec![Box::new(Greedy)]).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    for topic in [WARD, "bed/3", "notes/1"] {
        let said = publish(&mut sensor, topic, b"41.0", QoS::AtLeastOnce).await;
        assert_eq!(said, refused(ReasonCode::NotAuthorized, "no-identity"));
    }
    assert_eq!(subscribe(&mut sensor, "#").await, ReasonCode::NotAuthorized);
}

/// An authority that is there and says nothing, which is easy to bring about, does not keep devices from the broker.
#[tokio::test]
async fn a_silent_authority_shuts_nobody_out() {
    let site = Site::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = site.lab.device_dir("broker").join("identity.json");
    let place = std::fs::read_to_string(&file).unwrap();
    let elsewhere = format!("https://{}", silent.local_addr().unwrap());
    std::fs::write(&file, place.replace(site.lab.authority.url(), &elsewhere)).unwrap();
    let keyring = Keyring::load(&site.lab.device_dir("broker")).unwrap();
    let broker = site.lab.broker_of(Device::new(keyring), Config::default(), Vec::new()).await;
    let site = Site { broker, ..site };
    // Both are new to this broker, and it cannot ask about one's client id.
    let joining = [
        site.join(&site.sensor, connect_packet(Version::V5, "")),
        site.join(&site.nurse, connect_packet(Version::V5, "dashboard")),
    ];
    let mut joined = Vec::new();
    for client in joining {
        joined.push(client.await);
    }
    let (header, key) = site.sensor.header(POLICY, "bed/3");
    joined[1].subscribe("bed/+", QoS::AtMostOnce).await;
    let payload = full(&header, &key.seal("bed/3", b"free").unwrap());
    assert_eq!(publish(&mut joined[0], "bed/3", &payload, QoS::AtLeastOnce).await, Said::Taken);
    assert_eq!(joined[1].message().await.payload, payload);
    // What it would have to know somebody's attributes for it refuses.
    let (header, key) = site.sensor.header(POLICY, WARD);
    let payload = full(&header, &key.seal(WARD, b"36.6").unwrap());
    let said = publish(&mut joined[0], WARD, &payload, QoS::AtLeastOnce).await;
    assert_eq!(said, refused(ReasonCode::NotAuthorized, "not-allowed"));
    assert_eq!(subscribe(&mut joined[1], "staff/rota").await, ReasonCode::NotAuthorized);
}
