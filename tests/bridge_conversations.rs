//! The bridge between two brokers that the test plays itself: what it says to whom, when, and what it does where a broker
//! breaks the protocol.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;

use broker_support::{Client, DEADLINE, message};
use lab::Lab;
use smqtt::bridge::{self, BridgeError, Config, Endpoint, RECEIVE_MAX, Route, Security};
use smqtt::mqtt::*;
use smqtt_client::keyring::SharedKeyring;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Packet identifier of what is dropped and acknowledged at once.
const ELSEWHERE: u16 = 999;

/// A broker that the test plays.
struct Played {
    listener: TcpListener,
    connection: Option<Client>,
}

impl Played {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), connection: None }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".into(),
            port: self.listener.local_addr().unwrap().port(),
            security: Security::None,
            client_id: "north/test".into(),
            user_name: None,
            password: None,
            version: None,
            session_expiry_seconds: 3600,
            keep_alive_seconds: 60,
        }
    }

    /// The next connection, and its CONNECT.
    async fn accept(&mut self) -> Connect {
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.expect("it connects").unwrap();
        let mut client = Client::over(stream);
        let Packet::Connect(connect) = client.packet().await else { panic!("CONNECT expected") };
        client.version = connect.version;
        self.connection = Some(client);
        *connect
    }

    fn client(&mut self) -> &mut Client {
        self.connection.as_mut().unwrap()
    }

    async fn send(&mut self, packet: Packet) {
        self.client().send(packet).await;
    }

    async fn let_in(&mut self, session_present: bool, properties: ConnackProperties) -> Connect {
        let connect = self.accept().await;
        let reason = ReasonCode::Success;
        self.send(Packet::Connack(Box::new(Connack { session_present, reason, properties }))).await;
        connect
    }

    /// Lets it in and grants what it subscribes to.
    async fn welcome(&mut self, session_present: bool) -> Subscribe {
        self.let_in(session_present, ConnackProperties::default()).await;
        self.grant().await
    }

    async fn grant(&mut self) -> Subscribe {
        let Packet::Subscribe(subscribe) = self.client().packet().await else { panic!("SUBSCRIBE expected") };
        let reasons = vec![ReasonCode::GrantedQoS1; subscribe.subscriptions.len()];
        let (packet_id, properties) = (subscribe.packet_id, AckProperties::default());
        self.send(Packet::Suback(Suback { packet_id, properties, reasons })).await;
        subscribe
    }

    async fn publish(&mut self, packet_id: u16, dup: bool, text: &str) {
        let publish = Publish { packet_id, dup, ..message("t/1", text, QoS::AtLeastOnce) };
        self.send(Packet::Publish(publish)).await;
    }

    /// The next message: identifier, whether it is a repetition, payload.
    async fn message(&mut self) -> (u16, bool, String) {
        let publish = self.client().message().await;
        assert_eq!((publish.qos, publish.topic.as_str()), (QoS::AtLeastOnce, "t/1"));
        (publish.packet_id, publish.dup, String::from_utf8(publish.payload.to_vec()).unwrap())
    }

    async fn ack(&mut self, packet_id: u16, reason: ReasonCode) {
        self.send(Packet::Puback(Ack::new(packet_id, reason))).await;
    }

    /// The next acknowledgement.
    async fn acked(&mut self) -> u16 {
        match self.client().packet().await {
            Packet::Puback(ack) => ack.packet_id,
            other => panic!("PUBACK expected, got {other:?}"),
        }
    }

    /// Sends a message that no route asks for.
    async fn publish_elsewhere(&mut self) {
        let publish = Publish { packet_id: ELSEWHERE, ..message("elsewhere", "", QoS::AtLeastOnce) };
        self.send(Packet::Publish(publish)).await;
    }

    /// It has said all that it has to say: what comes next is the answer to this.
    async fn hears_nothing_more(&mut self) {
        self.publish_elsewhere().await;
        assert_eq!(self.acked().await, ELSEWHERE);
    }
}

fn routes(filter: &str) -> Vec<Route> {
    vec![Route { filter: filter.parse().unwrap(), prefix: String::new(), qos: QoS::AtLeastOnce }]
}

struct Bridged {
    _lab: Lab,
    local: Played,
    remote: Played,
    running: JoinHandle<Result<(), BridgeError>>,
}

impl Bridged {
    async fn start(out: &str, inward: &str) -> Self {
        let lab = Lab::start().await;
        let bridge = lab.enrol_bridge("north", &[]).await;
        let (local, remote) = (Played::new().await, Played::new().await);
        let config = Config {
            local: local.endpoint(),
            remote: remote.endpoint(),
            out: routes(out),
            inward: routes(inward),
            remote_name: "far".into(),
        };
        let keyring: SharedKeyring = bridge.keyring.clone();
        let running = tokio::spawn(bridge::run(config, keyring, std::future::pending()));
        Self { _lab: lab, local, remote, running }
    }

    /// Both brokers let it in.
    async fn connected() -> Self {
        let mut bridged = Self::start("out/#", "t/#").await;
        bridged.local.welcome(false).await;
        bridged.remote.welcome(false).await;
        bridged
    }

    async fn ends(self) -> BridgeError {
        timeout(DEADLINE, self.running).await.expect("it ends").unwrap().unwrap_err()
    }
}

#[tokio::test]
async fn it_asks_for_a_session_that_lasts_and_for_nothing_of_its_own() {
    let mut bridged = Bridged::start("out/#", "t/#").await;
    let connect = bridged.local.let_in(false, ConnackProperties::default()).await;
    assert!(!connect.clean_start && connect.version == Version::V5);
    assert_eq!(connect.properties.session_expiry_secs, Some(3600));
    assert_eq!(connect.properties.receive_max, Some(RECEIVE_MAX));
    assert!(connect.properties.user.is_empty(), "it is no reader: it wants full envelopes");
    let options = bridged.local.grant().await.subscriptions[0].options;
    assert!(options.no_local && options.retain_as_published);
    assert_eq!((options.qos, options.retain_handling), (QoS::AtLeastOnce, RetainHandling::SendIfNew));
}

#[tokio::test]
async fn a_message_is_acknowledged_after_the_other_broker_has_it_and_in_order() {
    let mut bridged = Bridged::connected().await;
    for number in 1..4 {
        bridged.remote.publish(number, false, &number.to_string()).await;
    }
    let mut ids = Vec::new();
    for number in 1..4 {
        let (id, dup, text) = bridged.local.message().await;
        assert_eq!((dup, text), (false, number.to_string()));
        ids.push(id);
    }
    bridged.remote.publish_elsewhere().await;
    bridged.local.ack(ids[1], ReasonCode::Success).await;
    bridged.local.ack(ids[0], ReasonCode::NoMatchingSubscribers).await;
    assert_eq!((bridged.remote.acked().await, bridged.remote.acked().await), (1, 2));
    bridged.local.ack(ids[2], ReasonCode::Success).await;
    assert_eq!((bridged.remote.acked().await, bridged.remote.acked().await), (3, ELSEWHERE));
}

#[tokio::test]
async fn what_a_lost_broker_has_not_acknowledged_is_sent_again_and_not_taken_twice_from_the_other() {
    let mut bridged = Bridged::connected().await;
    bridged.remote.publish(1, false, "1").await;
    bridged.remote.publish(2, false, "2").await;
    let (first, ..) = bridged.local.message().await;
    bridged.local.message().await;
    bridged.local.ack(first, ReasonCode::Success).await;
    assert_eq!(bridged.remote.acked().await, 1);
    bridged.local.connection = None;
    bridged.local.welcome(true).await;
    assert_eq!(bridged.local.message().await, (first + 1, true, "2".into()));
    // Now the other one is lost, and sends again what it knows no better of.
    bridged.remote.connection = None;
    bridged.remote.welcome(true).await;
    bridged.remote.publish(2, true, "2").await;
    bridged.remote.publish(3, false, "3").await;
    let (third, _, text) = bridged.local.message().await;
    assert_eq!(text, "3", "what is under way is not sent a second time");
    bridged.local.ack(third, ReasonCode::Success).await;
    bridged.local.ack(first + 1, ReasonCode::Success).await;
    assert_eq!((bridged.remote.acked().await, bridged.remote.acked().await), (2, 3));
}

#[tokio::test]
async fn a_refusal_ends_the_matter_unless_it_may_pass() {
    let mut bridged = Bridged::connected().await;
    bridged.remote.publish(1, false, "never").await;
    let (id, ..) = bridged.local.message().await;
    bridged.local.ack(id, ReasonCode::PayloadFormatInvalid).await;
    assert_eq!(bridged.remote.acked().await, 1);
    bridged.remote.publish(2, false, "later").await;
    for _ in 0..2 {
        let (id, _, text) = bridged.local.message().await;
        assert_eq!(text, "later");
        bridged.local.ack(id, ReasonCode::QuotaExceeded).await;
    }
    let (id, ..) = bridged.local.message().await;
    bridged.local.ack(id, ReasonCode::Success).await;
    assert_eq!(bridged.remote.acked().await, 2);
}

#[tokio::test]
async fn it_sends_no_more_and_no_larger_than_a_broker_takes() {
    let mut bridged = Bridged::start("out/#", "t/#").await;
    let takes = ConnackProperties {
        receive_max: Some(2),
        packet_bytes_max: Some(200),
        retain_available: Some(false),
        ..ConnackProperties::default()
    };
    bridged.local.let_in(false, takes).await;
    bridged.local.grant().await;
    bridged.remote.welcome(false).await;
    bridged.remote.publish(1, false, &"x".repeat(300)).await;
    for number in 2..5 {
        let publish = Publish { packet_id: number, retain: true, ..message("t/1", "kept", QoS::AtLeastOnce) };
        bridged.remote.send(Packet::Publish(publish)).await;
    }
    assert_eq!(bridged.remote.acked().await, 1, "dropped");
    let (first, second) = (bridged.local.client().message().await, bridged.local.client().message().await);
    assert!(!first.retain && !second.retain);
    bridged.local.hears_nothing_more().await;
    bridged.local.ack(first.packet_id, ReasonCode::Success).await;
    bridged.local.client().message().await;
}

#[tokio::test]
async fn a_broker_that_breaks_the_protocol_is_left_and_tried_again() {
    let mut bridged = Bridged::connected().await;
    let too_many =
        (1..=RECEIVE_MAX + 1).map(|id| Publish { packet_id: id, ..message("t/1", "x", QoS::AtLeastOnce) });
    for publish in too_many {
        bridged.remote.send(Packet::Publish(publish)).await;
    }
    assert_eq!(bridged.remote.client().closed().await, Some(ReasonCode::ReceiveMaximumExceeded));
    let rude: [&[u8]; 6] = [
        b"\x00\x00",
        b"\xf0\x00",
        b"\x10\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        // QoS 2, a packet of clients, and a length beyond everything.
        b"\x34\x08\x00\x03t/1\x00\x01\x00",
        b"\x30\xff\xff\xff\x7f",
    ];
    for bytes in rude {
        bridged.remote.welcome(true).await;
        bridged.remote.client().send_bytes(bytes).await;
        bridged.remote.client().closed().await;
    }
    // And still it works.
    bridged.remote.welcome(false).await;
    bridged.remote.publish(7, false, "good").await;
    while bridged.local.message().await.2 != "good" {}
}

#[tokio::test]
async fn whoever_takes_its_session_over_ends_it() {
    let mut bridged = Bridged::connected().await;
    let reason = ReasonCode::SessionTakenOver;
    bridged
        .remote
        .send(Packet::Disconnect(Disconnect { reason, properties: DisconnectProperties::default() }))
        .await;
    let ended = bridged.ends().await;
    assert!(matches!(ended, BridgeError::TakenOver { .. }), "{ended}");
    assert!(ended.hint().is_some());
}

#[tokio::test]
async fn a_broker_that_knows_only_3_1_1_is_spoken_to_in_3_1_1() {
    let mut bridged = Bridged::start("out/#", "t/#").await;
    bridged.local.welcome(false).await;
    // As brokers of that time answer what they do not know.
    assert_eq!(bridged.remote.accept().await.version, Version::V5);
    bridged.remote.client().send_bytes(b"\x20\x02\x00\x01").await;
    bridged.remote.connection = None;
    let connect = bridged.remote.let_in(false, ConnackProperties::default()).await;
    assert!(connect.version == Version::V3 && !connect.clean_start);
    bridged.remote.grant().await;
    bridged.remote.publish(1, false, "1").await;
    let (id, ..) = bridged.local.message().await;
    bridged.local.ack(id, ReasonCode::Success).await;
    assert_eq!(bridged.remote.acked().await, 1);
    // It cannot be told how much to send at once: no more is read.
    for number in 2..RECEIVE_MAX + 10 {
        bridged.remote.publish(number, false, "x").await;
    }
    for _ in 0..RECEIVE_MAX {
        bridged.local.message().await;
    }
    bridged.local.hears_nothing_more().await;
}

#[tokio::test]
async fn with_3_1_1_nothing_may_go_in_a_circle() {
    let mut bridged = Bridged::start("a/#", "+/1").await;
    bridged.local.welcome(false).await;
    bridged.remote.accept().await;
    bridged.remote.client().send_bytes(b"\x20\x02\x00\x01").await;
    bridged.remote.connection = None;
    bridged.remote.let_in(false, ConnackProperties::default()).await;
    let ended = bridged.ends().await;
    assert!(matches!(ended, BridgeError::Circle { .. }), "{ended}");
}
