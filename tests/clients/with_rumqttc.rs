//! rumqttc against a broker: QoS 0 to 2, retained messages, wills, sessions that go on, shared subscriptions, UNSUBSCRIBE; in 5.0
//! what properties carry, and topic aliases both ways.

use std::collections::HashMap;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport, v5};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::common::DEADLINE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

/// Where the broker listens, on `localhost`; with the certificate of its authority, in PEM, over TLS.
pub struct Address {
    pub port: u16,
    pub authority: Option<Vec<u8>>,
}

impl Address {
    fn transport(&self) -> Transport {
        let tls = |ca: &Vec<u8>| TlsConfiguration::Simple { ca: ca.clone(), alpn: None, client_auth: None };
        self.authority.as_ref().map_or(Transport::Tcp, |ca| Transport::Tls(tls(ca)))
    }
}

#[derive(Debug, Default, PartialEq)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Option<v5::mqttbytes::v5::PublishProperties>,
}

/// What a client is told, but for messages.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Welcome { session_present: bool },
    Done,
    Granted(u8),
}

enum Client {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A client whose loop runs in a task of its own.
struct Peer {
    client: Client,
    told: UnboundedReceiver<Told>,
    messages: UnboundedReceiver<Message>,
    task: JoinHandle<()>,
    session_present: bool,
}

#[derive(Clone, Copy, Default)]
struct Wishes<'a> {
    stays: bool,
    will: Option<&'a str>,
}

impl Peer {
    async fn connect(version: Version, address: &Address, name: &str, wishes: Wishes<'_>) -> Self {
        let ((tell, told), (deliver, messages)) = (unbounded_channel(), unbounded_channel());
        let (client, task) = match version {
            Version::V3 => connect_v3(address, name, wishes, tell, deliver),
            Version::V5 => connect_v5(address, name, wishes, tell, deliver),
        };
        let mut peer = Self { client, told, messages, task, session_present: false };
        let Told::Welcome { session_present } = peer.told().await else { panic!("CONNACK expected") };
        peer.session_present = session_present;
        peer
    }

    async fn told(&mut self) -> Told {
        timeout(DEADLINE, self.told.recv()).await.expect("the broker answers").expect("it stays connected")
    }

    async fn message(&mut self) -> Message {
        timeout(DEADLINE, self.messages.recv()).await.expect("it comes").expect("it stays connected")
    }

    async fn payload(&mut self) -> String {
        String::from_utf8(self.message().await.payload).unwrap()
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        match &self.client {
            Client::V3(client) => client.subscribe(filter, rumqttc::qos(qos).unwrap()).await.unwrap(),
            Client::V5(client) => client.subscribe(filter, qos_of(qos)).await.unwrap(),
        }
        assert_eq!(self.told().await, Told::Granted(qos));
    }

    async fn unsubscribe(&mut self, filter: &str) {
        match &self.client {
            Client::V3(client) => client.unsubscribe(filter).await.unwrap(),
            Client::V5(client) => client.unsubscribe(filter).await.unwrap(),
        }
        assert_eq!(self.told().await, Told::Done);
    }

    /// Waits for what the QoS promises.
    async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) {
        match &self.client {
            Client::V3(client) => {
                client.publish(topic, rumqttc::qos(qos).unwrap(), retain, payload).await.unwrap()
            }
            Client::V5(client) => {
                client.publish(topic, qos_of(qos), retain, payload.to_owned()).await.unwrap()
            }
        }
        if qos > 0 {
            assert_eq!(self.told().await, Told::Done);
        }
    }

    async fn disconnect(self) {
        match &self.client {
            Client::V3(client) => client.disconnect().await.unwrap(),
            Client::V5(client) => client.disconnect().await.unwrap(),
        }
        timeout(DEADLINE, self.task).await.expect("the connection ends").unwrap();
    }

    /// Without a word.
    async fn vanish(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn qos_of(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).unwrap()
}

fn connect_v3(
    address: &Address,
    name: &str,
    wishes: Wishes<'_>,
    tell: UnboundedSender<Told>,
    deliver: UnboundedSender<Message>,
) -> (Client, JoinHandle<()>) {
    use rumqttc::{Event, LastWill, MqttOptions, Packet, QoS, SubscribeReasonCode};
    let mut options = MqttOptions::new(name, "localhost", address.port);
    options.set_transport(address.transport()).set_clean_session(!wishes.stays);
    options.set_keep_alive(Duration::from_secs(30));
    if let Some(topic) = wishes.will {
        options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let task = tokio::spawn(async move {
        // Whoever does not listen any more has seen enough.
        while let Ok(event) = events.poll().await {
            let told = match event {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    Told::Welcome { session_present: connack.session_present }
                }
                Event::Incoming(Packet::SubAck(suback)) => match suback.return_codes[0] {
                    SubscribeReasonCode::Success(qos) => Told::Granted(qos as u8),
                    SubscribeReasonCode::Failure => Told::Granted(0x80),
                },
                Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_) | Packet::UnsubAck(_)) => Told::Done,
                Event::Incoming(Packet::Publish(publish)) => {
                    let _ = deliver.send(Message {
                        topic: publish.topic,
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                        retain: publish.retain,
                        properties: None,
                    });
                    continue;
                }
                _ => continue,
            };
            let _ = tell.send(told);
        }
    });
    (Client::V3(client), task)
}

fn connect_v5(
    address: &Address,
    name: &str,
    wishes: Wishes<'_>,
    tell: UnboundedSender<Told>,
    deliver: UnboundedSender<Message>,
) -> (Client, JoinHandle<()>) {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::{LastWill, Packet, SubscribeReasonCode};
    use v5::{Event, MqttOptions};
    let mut options = MqttOptions::new(name, "localhost", address.port);
    options.set_transport(address.transport()).set_clean_start(!wishes.stays);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_topic_alias_max(Some(10));
    if wishes.stays {
        options.set_session_expiry_interval(Some(60));
    }
    if let Some(topic) = wishes.will {
        options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false, None));
    }
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let mut aliases = HashMap::new();
    let task = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            let told = match event {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    Told::Welcome { session_present: connack.session_present }
                }
                Event::Incoming(Packet::SubAck(suback)) => match suback.return_codes[0] {
                    SubscribeReasonCode::Success(qos) => Told::Granted(qos as u8),
                    _ => Told::Granted(0x80),
                },
                Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_) | Packet::UnsubAck(_)) => Told::Done,
                Event::Incoming(Packet::Publish(publish)) => {
                    // 0.25 resolves aliases only after it has handed over the message.
                    let mut topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    if let Some(alias) = publish.properties.as_ref().and_then(|p| p.topic_alias) {
                        match topic.is_empty() {
                            true => topic.clone_from(&aliases[&alias]),
                            false => drop(aliases.insert(alias, topic.clone())),
                        }
                    }
                    let _ = deliver.send(Message {
                        topic,
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                        retain: publish.retain,
                        properties: publish.properties,
                    });
                    continue;
                }
                _ => continue,
            };
            let _ = tell.send(told);
        }
    });
    (Client::V5(client), task)
}

/// All of it; panics where something is not as it should be.
pub async fn run(version: Version, address: &Address) {
    let base = format!("rumqttc/{version:?}/{}", address.port);
    let topic = |name: &str| format!("{base}/{name}");
    let connect =
        async |name: &str, wishes| Peer::connect(version, address, &format!("{base}/{name}"), wishes).await;
    let mut a = connect("a", Wishes::default()).await;
    a.subscribe(&topic("#"), 2).await;
    for qos in 0..=2 {
        // Aliases take the place of the topic from the second time on.
        for _ in 0..2 {
            a.publish(&topic("qos"), "x", qos, false).await;
            let got = a.message().await;
            assert_eq!(
                (got.topic, got.payload, got.qos, got.retain),
                (topic("qos"), b"x".to_vec(), qos, false)
            );
        }
    }

    a.publish(&topic("kept"), "kept", 1, true).await;
    assert!(!a.message().await.retain);
    let mut late = connect("late", Wishes::default()).await;
    late.subscribe(&topic("kept"), 1).await;
    let got = late.message().await;
    assert_eq!((got.payload, got.retain), (b"kept".to_vec(), true));
    late.unsubscribe(&topic("kept")).await;
    a.publish(&topic("kept"), "", 1, true).await;
    a.message().await;
    // Had it come to it, it would have come before this.
    late.subscribe(&topic("kept"), 1).await;
    a.publish(&topic("kept"), "mark", 1, false).await;
    assert_eq!((late.payload().await, a.payload().await), ("mark".into(), "mark".into()));
    late.disconnect().await;

    let will = topic("will");
    connect("dying", Wishes { will: Some(&will), ..Wishes::default() }).await.vanish().await;
    assert_eq!(a.payload().await, "gone");

    let stays = Wishes { stays: true, ..Wishes::default() };
    let mut sleeper = connect("sleeper", stays).await;
    assert!(!sleeper.session_present);
    sleeper.subscribe(&topic("later"), 2).await;
    sleeper.disconnect().await;
    for qos in [1, 2] {
        a.publish(&topic("later"), "waited", qos, false).await;
        a.message().await;
    }
    let mut sleeper = connect("sleeper", stays).await;
    assert!(sleeper.session_present);
    for qos in [1, 2] {
        let got = sleeper.message().await;
        assert_eq!((got.payload, got.qos), (b"waited".to_vec(), qos));
    }
    sleeper.disconnect().await;

    let mut members = [connect("m1", Wishes::default()).await, connect("m2", Wishes::default()).await];
    for member in &mut members {
        member.subscribe(&format!("$share/group/{}", topic("shared")), 1).await;
    }
    for n in 0..4 {
        a.publish(&topic("shared"), &n.to_string(), 1, false).await;
        a.message().await;
    }
    let mut got = Vec::new();
    for member in members {
        let mut member = member;
        got.extend([member.payload().await, member.payload().await]);
        member.disconnect().await;
    }
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"]);

    if version == Version::V5 {
        properties(&mut a, &topic).await;
    }
    a.disconnect().await;
}

async fn properties(a: &mut Peer, topic: &impl Fn(&str) -> String) {
    use v5::mqttbytes::v5::{PublishProperties, SubscribeProperties};
    let pairs =
        |pairs: [(&str, &str); 3]| pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let Client::V5(client) = &a.client else { panic!("5.0") };
    let client = client.clone();
    let subscription = SubscribeProperties { id: Some(7), user_properties: Vec::new() };
    client.subscribe_with_properties(topic("properties/+"), qos_of(1), subscription).await.unwrap();
    assert_eq!(a.told().await, Told::Granted(1));
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(100),
        topic_alias: Some(3),
        response_topic: Some(topic("answer")),
        correlation_data: Some(vec![1, 2].into()),
        user_properties: pairs([("b", "2"), ("b", "1"), ("a", "3")]),
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    client.publish_with_properties(topic("properties/x"), qos_of(1), false, "x", sent.clone()).await.unwrap();
    assert_eq!(a.told().await, Told::Done);
    let got = a.message().await.properties.unwrap();
    let left = got.message_expiry_interval.unwrap();
    assert!((90..=100).contains(&left), "{left}");
    assert_eq!(got.subscription_identifiers, [7]);
    let expected = PublishProperties {
        message_expiry_interval: got.message_expiry_interval,
        topic_alias: got.topic_alias,
        subscription_identifiers: vec![7],
        ..sent
    };
    assert_eq!(got, expected);
}
