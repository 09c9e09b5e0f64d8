//! A ward with rules, a broker that knows them, and clients that say what they were told.
#![allow(dead_code)]

use bytes::{Bytes, BytesMut};
use smqtt::broker::Config;
use smqtt::mqtt::{
    Ack, Connack, Connect, Packet, Publish, QoS, ReasonCode, SubscriptionOptions, Text, Version,
};
use smqtt::secure::Denied;
use smqtt_client::keyring::Keyring;
use tokio::io::AsyncWriteExt;

use crate::broker_support::{Client, connect as connect_packet};
use crate::lab::{Device, Lab, LabBroker, Line};

pub const BOTH: [Version; 2] = [Version::V5, Version::V3];
pub const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
pub const WARD: &str = "ward/3/temperature";
pub const POLICY: &str = "role=nurse and ward=3";

/// What became of a message, and the first word of the reason.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Taken,
    Refused(ReasonCode, String),
    /// DISCONNECT.
    Cut(ReasonCode, String),
    /// Closed without a word, as MQTT 3.1.1 has it.
    Closed,
}

pub fn refused(reason: ReasonCode, word: &str) -> Said {
    Said::Refused(reason, word.into())
}

pub fn cut(reason: ReasonCode, word: &str) -> Said {
    Said::Cut(reason, word.into())
}

pub fn first_word(text: &Option<Text>) -> String {
    text.as_deref().unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
}

pub async fn publish(client: &mut Client, topic: &str, payload: &[u8], qos: QoS) -> Said {
    send(
        client,
        Publish { topic: topic.into(), payload: Bytes::copy_from_slice(payload), qos, ..Publish::default() },
    )
    .await
}

pub async fn send(client: &mut Client, mut publish: Publish) -> Said {
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
pub struct Site {
    pub lab: Lab,
    pub broker: LabBroker,
    pub sensor: Device,
    pub nurse: Device,
    pub visitor: Device,
}

impl Site {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let lab = Lab::start().await;
        lab.rule("ward/+/temperature", "required", Some("role=nurse and ward=$1"), Some("role=sensor"), None)
            .await;
        lab.require("bed/+", "role=nurse and ward=$1").await;
        lab.rule("notes/#", "open", None, None, None).await;
        lab.rule("staff/rota", "open", None, Some("role=nurse"), Some("role=nurse")).await;
        let sensor = lab.enrol("sensor", &["role=sensor"]).await;
        let nurse = lab.enrol("nurse", &["role=nurse", "ward=3"]).await;
        let visitor = lab.enrol("visitor", &["role=visitor"]).await;
        let broker = lab.broker_with(config, Vec::new()).await;
        Self { lab, broker, sensor, nurse, visitor }
    }

    /// The same, the broker's word with its authority going over this line.
    pub async fn behind_a_line() -> (Self, Line) {
        let site = Self::new().await;
        let url = site.lab.authority.url().to_owned();
        let line = Line::to(url.strip_prefix("https://").unwrap()).await;
        let dir = site.lab.device_dir("broker");
        site.broker.stop().await;
        let file = dir.join("identity.json");
        let place = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, place.replace(&url, &format!("https://{}", line.address))).unwrap();
        let broker =
            site.lab.broker_of(Device::new(Keyring::load(&dir).unwrap()), Config::default(), vec![]).await;
        (Self { broker, lab: site.lab, sensor: site.sensor, nurse: site.nurse, visitor: site.visitor }, line)
    }

    /// Ends the broker; what happens next it does not see.
    pub async fn shut_down(self) -> Closed {
        let device = self.broker.stop().await;
        Closed { lab: self.lab, sensor: self.sensor, nurse: self.nurse, visitor: self.visitor, device }
    }

    /// A session that outlives its connections.
    pub fn persistent(client_id: &str) -> Connect {
        let mut connect = connect_packet(Version::V5, client_id);
        connect.clean_start = false;
        connect.properties.session_expiry_secs = Some(u32::MAX);
        connect
    }

    /// Connects again, and says whether the session was there.
    pub async fn resume(&self, device: &Device, client_id: &str) -> (Client, bool) {
        let (connack, client) = self.knock(Some(device.identity()), Self::persistent(client_id)).await;
        let connack = connack.expect("an answer");
        assert_eq!(connack.reason, ReasonCode::Success, "{connack:?}");
        (client.unwrap(), connack.session_present)
    }

    /// Client ids of the sessions that the broker has, connected or not.
    pub fn sessions(&self) -> Vec<String> {
        let mut seen = Vec::new();
        self.broker.handle.look_at_sessions(|session| seen.push(session.client_id.to_string()));
        seen.sort();
        seen
    }

    /// The answer to a CONNECT of whoever holds this; `None` where TLS or the broker just closes.
    pub async fn knock(
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
    pub async fn join(&self, device: &Device, connect: Connect) -> Client {
        let (connack, client) = self.knock(Some(device.identity()), connect).await;
        let connack = connack.expect("an answer");
        assert_eq!(connack.reason, ReasonCode::Success, "{connack:?}");
        client.unwrap()
    }

    pub async fn as_device(&self, device: &Device, version: Version) -> Client {
        self.join(device, connect_packet(version, "")).await
    }

    /// A connection without TLS, as nobody.
    pub async fn as_nobody(&self, version: Version, client_id: &str) -> (Option<Connack>, Option<Client>) {
        let stream = tokio::net::TcpStream::connect(self.broker.plain).await.unwrap();
        answer(Client::over(stream), connect_packet(version, client_id)).await
    }
}

/// A configuration that keeps state in this directory.
pub fn kept_in(data: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.data = Some(data.to_owned());
    config
}

/// A site whose broker is down.
pub struct Closed {
    pub lab: Lab,
    pub sensor: Device,
    pub nurse: Device,
    pub visitor: Device,
    device: Device,
}

impl Closed {
    pub async fn start(self, config: Config) -> Site {
        let Self { lab, sensor, nurse, visitor, device } = self;
        // As a process does that begins.
        let keyring = Keyring::load(&lab.device_dir("broker")).unwrap();
        drop(device);
        let broker = lab.broker_of(Device::new(keyring), config, Vec::new()).await;
        Site { lab, broker, sensor, nurse, visitor }
    }
}

pub async fn answer(mut client: Client, connect: Connect) -> (Option<Connack>, Option<Client>) {
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

pub fn why(connack: &Option<Connack>) -> (ReasonCode, String) {
    let connack = connack.as_ref().expect("an answer");
    (connack.reason, first_word(&connack.properties.reason_string))
}

pub fn reader(mut connect: Connect) -> Connect {
    connect.properties.user.push(("smqtt".into(), "1".into()));
    connect
}

/// Every refusal below goes through this: what a client of either version learns, at every quality of service.
pub async fn everywhere_refused(
    site: &Site,
    device: &Device,
    topic: &str,
    payload: &[u8],
    reason: ReasonCode,
    word: &str,
) {
    let before = site.broker.hook.denials().total(Denied::Message);
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
    let after = site.broker.hook.denials().total(Denied::Message);
    assert_eq!(after - before, 6);
}

pub async fn subscribe(client: &mut Client, filter: &str) -> ReasonCode {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    client.subscribe_with(filter, options, None).await[0]
}
