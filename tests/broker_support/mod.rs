//! A broker on a free port, and a client that speaks packets or bytes.
#![allow(dead_code)]

pub mod load;

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use smqtt::{
    broker::{Broker, BrokerHandle, Config, EngineKind, Hook},
    mqtt::*,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Nothing here takes that long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What a test client runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub struct TestBroker {
    pub address: SocketAddr,
    pub handle: BrokerHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl TestBroker {
    /// Every other test runs with the router, so that both ways are used.
    pub async fn start() -> Self {
        let mut config = Config::default();
        config.engine = EngineKind::Rumqttd;
        Self::with(config, vec![]).await
    }

    pub async fn direct() -> Self {
        let mut config = Config::default();
        config.engine = EngineKind::Direct;
        Self::with(config, vec![]).await
    }

    /// One that keeps its state in this directory.
    pub async fn on(data: &std::path::Path, hooks: Vec<Box<dyn Hook>>) -> Self {
        let mut config = Config::default();
        config.data = Some(data.to_owned());
        Self::with(config, hooks).await
    }

    pub async fn with(config: Config, hooks: Vec<Box<dyn Hook>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut broker = Broker::new(config, hooks).unwrap();
        broker.listen_tcp(listener);
        let handle = broker.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(broker.run(async {
            let _ = stopped.await;
        }));
        Self { address, handle, stop: Some(stop), task }
    }

    pub async fn shutdown(mut self) {
        let _ = self.stop.take().unwrap().send(());
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }

    /// Lets people in and delivers, whatever somebody has done to it.
    pub async fn works(&self) {
        for version in [Version::V3, Version::V5] {
            let (mut client, _) = self.connect(connect(version, "probe")).await;
            client.subscribe("probe", QoS::AtLeastOnce).await;
            let publish = Publish { packet_id: 9, ..message("probe", "x", QoS::AtLeastOnce) };
            client.send(Packet::Publish(publish)).await;
            let (first, second) = (client.packet().await, client.packet().await);
            let kinds = [first, second].map(|packet| matches!(packet, Packet::Publish(_)));
            assert_eq!(kinds.iter().filter(|is_message| **is_message).count(), 1);
            client.disconnect().await;
        }
    }

    /// One for each engine.
    pub async fn of_each_engine() -> [Self; 2] {
        let of = |engine| {
            let mut config = Config::default();
            config.engine = engine;
            Self::with(config, vec![])
        };
        [of(EngineKind::Rumqttd).await, of(EngineKind::Direct).await]
    }

    pub async fn raw(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::over(stream)
    }

    /// A client at the other end of a pipe, for tests that stop the clock: sockets do not stop with it.
    pub fn pipe(&self) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.serve(theirs, ([127, 0, 0, 1], 1).into()).await });
        Client::over(ours)
    }

    /// Connects through a pipe and expects success.
    pub async fn pipe_connect(&self, connect: Connect) -> (Client, Connack) {
        let mut client = self.pipe();
        client.version = connect.version;
        client.send(Packet::Connect(Box::new(connect))).await;
        let connack = client.connack().await;
        assert_eq!(connack.reason, ReasonCode::Success);
        (client, connack)
    }

    /// Connects and expects success; gives CONNACK too.
    pub async fn connect(&self, connect: Connect) -> (Client, Connack) {
        let mut client = self.raw().await;
        client.version = connect.version;
        client.send(Packet::Connect(Box::new(connect))).await;
        let connack = client.connack().await;
        assert_eq!(connack.reason, ReasonCode::Success);
        (client, connack)
    }

    pub async fn v5(&self, client_id: &str) -> Client {
        self.connect(connect(Version::V5, client_id)).await.0
    }

    pub async fn v3(&self, client_id: &str) -> Client {
        self.connect(connect(Version::V3, client_id)).await.0
    }
}

pub fn connect(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_secs: 0,
        properties: ConnectProperties::default(),
        client_id: client_id.into(),
        will: None,
        user_name: None,
        password: None,
    }
}

/// A session that outlives its connections.
pub fn persistent(version: Version, client_id: &str) -> Connect {
    let mut connect = connect(version, client_id);
    connect.clean_start = false;
    if version == Version::V5 {
        connect.properties.session_expiry_secs = Some(3_600);
    }
    connect
}

pub fn message(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        ..Publish::default()
    }
}

pub fn will(topic: &str, payload: &str) -> Will {
    Will {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: WillProperties::default(),
    }
}

pub struct Client {
    pub stream: Box<dyn Io>,
    pub input: BytesMut,
    pub version: Version,
    pub next_id: u16,
}

impl Client {
    pub fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), input: BytesMut::new(), version: Version::V5, next_id: 0 }
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet.encode(self.version, &mut out).unwrap();
        self.send_bytes(&out).await;
    }

    /// Writes a packet unless the broker is gone.
    pub async fn try_send(&mut self, packet: Packet) -> Option<()> {
        let mut out = BytesMut::new();
        packet.encode(self.version, &mut out).unwrap();
        self.stream.write_all(&out).await.ok()
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet, or `None` if the broker closed the connection.
    pub async fn next(&mut self) -> Option<Packet> {
        timeout(DEADLINE, async {
            loop {
                if let Some(packet) = decode(&mut self.input, self.version, Limits::default()).unwrap() {
                    return Some(packet);
                }
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
        .expect("the broker answers in time")
    }

    pub async fn packet(&mut self) -> Packet {
        self.next().await.expect("the connection stays open")
    }

    pub async fn connack(&mut self) -> Connack {
        match self.packet().await {
            Packet::Connack(connack) => *connack,
            other => panic!("CONNACK expected, got {other:?}"),
        }
    }

    pub async fn message(&mut self) -> Publish {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH expected, got {other:?}"),
        }
    }

    pub async fn payload(&mut self) -> String {
        String::from_utf8(self.message().await.payload.to_vec()).unwrap()
    }

    pub fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let reasons = self.subscribe_with(filter, options, None).await;
        assert_eq!(reasons[0] as u8, qos as u8);
    }

    pub async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Vec<ReasonCode> {
        let packet_id = self.id();
        let properties =
            SubscribeProperties { subscription_id: id.map(SubscriptionId), ..SubscribeProperties::default() };
        let subscriptions = vec![Subscription { filter: filter.into(), options }];
        self.send(Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })).await;
        match self.packet().await {
            Packet::Suback(suback) => {
                assert_eq!(suback.packet_id, packet_id);
                suback.reasons
            }
            other => panic!("SUBACK expected, got {other:?}"),
        }
    }

    /// Publishes and waits for whatever the QoS promises.
    pub async fn publish(&mut self, mut publish: Publish) -> ReasonCode {
        if publish.qos != QoS::AtMostOnce {
            publish.packet_id = self.id();
        }
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        self.send(Packet::Publish(publish)).await;
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => match self.packet().await {
                Packet::Puback(ack) => {
                    assert_eq!(ack.packet_id, packet_id);
                    ack.reason
                }
                other => panic!("PUBACK expected, got {other:?}"),
            },
            QoS::ExactlyOnce => match self.packet().await {
                Packet::Pubrec(ack) if ack.reason.is_error() => ack.reason,
                Packet::Pubrec(ack) => {
                    self.send(Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success))).await;
                    let Packet::Pubcomp(done) = self.packet().await else { panic!("PUBCOMP expected") };
                    assert_eq!(done.packet_id, packet_id);
                    ack.reason
                }
                other => panic!("PUBREC expected, got {other:?}"),
            },
        }
    }

    /// Everything the broker sent before it answers a ping: what it had to say is said.
    pub async fn until_ping(&mut self) -> Vec<Packet> {
        self.send(Packet::Pingreq).await;
        let mut packets = Vec::new();
        loop {
            match self.packet().await {
                Packet::Pingresp => return packets,
                packet => packets.push(packet),
            }
        }
    }

    pub async fn disconnect(mut self) {
        self.send(Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            properties: DisconnectProperties::default(),
        }))
        .await;
        assert_eq!(self.next().await, None);
    }

    /// Breaks the connection without a word, and waits until the broker has noticed.
    pub async fn vanish(self, broker: &TestBroker) {
        let before = broker.handle.connections();
        drop(self.stream);
        until(|| broker.handle.connections() < before).await;
    }

    /// The reason that the broker gave before it closed, or `None` if it closed without one.
    pub async fn closed(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = Some(disconnect.reason);
            }
        }
        reason
    }
}

/// Waits for a condition of the broker.
pub async fn until(mut condition: impl FnMut() -> bool) {
    timeout(DEADLINE, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it becomes true in time");
}

/// Publishes a mark with a second client and waits for it: whatever was published before has been delivered.
pub async fn settle(broker: &TestBroker, subscriber: &mut Client) -> Vec<Packet> {
    let topic = "mark/of/the/test";
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription { filter: topic.into(), options }];
    let packet_id = subscriber.id();
    let properties = SubscribeProperties::default();
    subscriber.send(Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })).await;
    let mut packets = Vec::new();
    loop {
        match subscriber.packet().await {
            Packet::Suback(_) => break,
            packet => packets.push(packet),
        }
    }
    let mut marker = broker.v5("marker").await;
    marker.publish(message(topic, "mark", QoS::AtLeastOnce)).await;
    loop {
        match subscriber.packet().await {
            Packet::Publish(publish) if publish.topic == topic => {
                subscriber.send(Packet::Puback(Ack::new(publish.packet_id, ReasonCode::Success))).await;
                return packets;
            }
            packet => packets.push(packet),
        }
    }
}
