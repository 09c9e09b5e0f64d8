//! Every point of a hook: when it is called, how often, in which order.

mod broker_support;
mod common;

use std::{sync::Arc, time::Duration};

use broker_support::*;
use common::TempDir;
use parking_lot::Mutex;
use smqtt::{
    broker::{
        Acknowledged, Admission, Attachment, Attempt, Begun, Client as Peer, Config, ConnectRequest,
        ConnectVerdict, DeliverVerdict, Delivery, Denial, Disconnection, Dropped, EngineKind, Hook,
        HookFuture, Origin, Point, Publication, Published, SessionEnd, Stored, SubscribeRequest, Verdict,
        Whom, Whose,
    },
    mqtt::*,
};

/// Writes down each call, under the client id that it is about. Refuses what is named after it.
#[derive(Clone)]
struct Recorder {
    lines: Arc<Mutex<Vec<(String, String)>>>,
    points: &'static [Point],
}

impl Default for Recorder {
    fn default() -> Self {
        Self { lines: Arc::default(), points: &Point::ALL }
    }
}

/// What the recorder leaves with a client.
struct Mark;

impl Recorder {
    fn note(&self, client: &str, what: String) {
        self.lines.lock().push((client.to_owned(), what));
    }

    /// What was noted about a client so far.
    fn of(&self, client: &str) -> Vec<String> {
        let lines = self.lines.lock();
        lines.iter().filter(|(whose, _)| whose == client).map(|(_, what)| what.clone()).collect()
    }

    fn count(&self, client: &str, begins: &str) -> usize {
        self.of(client).iter().filter(|what| what.starts_with(begins)).count()
    }

    /// Waits for the last of these lines, and expects all of them.
    async fn expect(&self, client: &str, lines: &[&str]) {
        until(|| self.of(client).iter().any(|line| Some(&line.as_str()) == lines.last())).await;
        assert_eq!(self.of(client), lines);
    }

    fn clear(&self) {
        self.lines.lock().clear();
    }

    async fn broker(&self) -> TestBroker {
        self.with(Config::default()).await
    }

    /// Without the router, so that what one connection does is done by one task.
    async fn with(&self, mut config: Config) -> TestBroker {
        config.engine = EngineKind::Direct;
        TestBroker::with(config, vec![Box::new(self.clone())]).await
    }
}

impl Hook for Recorder {
    fn points(&self) -> &'static [Point] {
        self.points
    }

    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        self.note(&request.client_id, "connect".into());
        let attachment: Option<Attachment> = Some(Arc::new(Mark));
        let admission = Admission { attachment, ..Admission::default() };
        Box::pin(async move {
            match request.user_name.as_deref() {
                Some("stranger") => {
                    ConnectVerdict::Deny(Denial::new(ReasonCode::BadUserNameOrPassword, "who are you"))
                }
                Some("riddle") => std::future::pending().await,
                _ => ConnectVerdict::Allow(admission),
            }
        })
    }

    fn subscribe(&self, client: &Peer, request: &SubscribeRequest<'_>) -> Verdict {
        let SubscribeRequest { filter, group, resumed, .. } = request;
        self.note(&client.client_id, format!("subscribe {filter} {group:?} resumed={resumed}"));
        match filter.starts_with("secret") || (*resumed && filter.starts_with("since")) {
            true => Verdict::deny(ReasonCode::NotAuthorized, "not for you"),
            false => Verdict::Defer,
        }
    }

    fn publish(&self, client: &Peer, publication: &mut Publication) -> Verdict {
        assert_eq!(publication.origin(), Origin::Publish);
        let topic = publication.message().topic();
        self.note(&client.client_id, format!("publish {topic}"));
        match topic.starts_with("refused") {
            true => Verdict::deny(ReasonCode::QuotaExceeded, "enough"),
            false => Verdict::Defer,
        }
    }

    fn will(&self, client: &Peer, publication: &mut Publication) -> Verdict {
        assert!(client.attachment::<Mark>().is_some());
        let origin = publication.origin();
        self.note(&client.client_id, format!("will {origin:?}"));
        let refuses = match publication.message().topic().as_str() {
            "refused/at-connect" => Origin::WillAtConnect,
            "refused/late" => Origin::Will,
            _ => return Verdict::Defer,
        };
        if origin == refuses { Verdict::deny(ReasonCode::NotAuthorized, "no will") } else { Verdict::Defer }
    }

    fn deliver(&self, client: &Peer, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        let topic = delivery.message().topic();
        let (qos, retained, resent) = (delivery.qos() as u8, delivery.is_retained(), delivery.is_resent());
        self.note(
            &client.client_id,
            format!("deliver {topic} qos={qos} retained={retained} resent={resent}"),
        );
        match topic.starts_with("kept-from") {
            true => DeliverVerdict::Drop("not for you".into()),
            false => DeliverVerdict::Deliver,
        }
    }

    fn connected(&self, client: &Peer) {
        self.note(&client.client_id, "connected".into());
    }

    fn disconnected(&self, client: &Peer, end: Disconnection) {
        self.note(&client.client_id, format!("disconnected {:?} by_client={}", end.reason, end.by_client));
    }

    fn refused(&self, attempt: &Attempt<'_>, denial: &Denial) {
        let reason = denial.reason;
        match attempt {
            Attempt::Connect(request) => self.note(&request.client_id, format!("refused connect {reason:?}")),
            Attempt::Subscribe(client, filter) => {
                self.note(&client.client_id, format!("refused subscribe {filter} {reason:?}"));
            }
            Attempt::Publish(client, message) => {
                self.note(&client.client_id, format!("refused publish {} {reason:?}", message.topic()));
            }
            Attempt::Will(client, message) => {
                self.note(&client.client_id, format!("refused will {} {reason:?}", message.topic()));
            }
            _ => unreachable!("no other attempts"),
        }
    }

    fn subscribed(&self, client: &Peer, request: &SubscribeRequest<'_>) {
        self.note(&client.client_id, format!("subscribed {}", request.filter));
    }

    fn unsubscribed(&self, client: &Peer, filter: &str) {
        self.note(&client.client_id, format!("unsubscribed {filter}"));
    }

    fn published(&self, published: &Published<'_>) {
        let Published { message, origin, receivers, .. } = published;
        let publisher = message.publisher().map_or("", |client| client.client_id.as_str());
        let topic = message.topic();
        self.note(publisher, format!("published {topic} {origin:?} receivers={receivers}"));
    }

    fn acknowledged(&self, client: &Peer, acknowledged: &Acknowledged<'_>) {
        let (topic, qos) = (acknowledged.message.topic(), acknowledged.qos as u8);
        self.note(&client.client_id, format!("acknowledged {topic} qos={qos}"));
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        let (topic, reason) = (dropped.message.topic(), dropped.reason.name());
        assert!(dropped.client.is_none_or(|client| client.client_id == *dropped.whose.client_id));
        self.note(dropped.whose.client_id, format!("dropped {topic} {reason}"));
    }

    fn session_begun(&self, client: &Peer, begun: Begun) {
        self.note(&client.client_id, format!("session_begun {begun:?}"));
    }

    fn session_taken_over(&self, client: &Peer, by: &Peer) {
        assert!(client.connection < by.connection);
        self.note(&client.client_id, "session_taken_over".into());
    }

    fn session_ended(&self, whose: &Whose<'_>, end: SessionEnd) {
        self.note(whose.client_id, format!("session_ended {end:?}"));
    }

    fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        self.note(client.client_id, "revive".into());
        Some(Arc::new(Mark))
    }
}

async fn ack(client: &mut Client, packet_id: u16, reason: ReasonCode) {
    client.send(Packet::Puback(Ack::new(packet_id, reason))).await;
}

async fn pubrec(client: &mut Client, packet_id: u16, reason: ReasonCode) {
    client.send(Packet::Pubrec(Ack::new(packet_id, reason))).await;
}

fn short(version: Version, client_id: &str, expiry_secs: u32) -> Connect {
    let mut hello = connect(version, client_id);
    hello.clean_start = false;
    hello.properties.session_expiry_secs = Some(expiry_secs);
    hello
}

#[tokio::test]
async fn a_connection_is_followed_from_connect_to_its_end() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let mut client = broker.v5("a").await;
    client.subscribe("x", QoS::AtLeastOnce).await;
    let publish = Publish { packet_id: 9, ..message("x", "1", QoS::AtLeastOnce) };
    client.send(Packet::Publish(publish)).await;
    let Packet::Puback(_) = client.packet().await else { panic!("PUBACK expected") };
    let got = client.message().await;
    ack(&mut client, got.packet_id, ReasonCode::Success).await;
    // Said twice: heard once.
    ack(&mut client, got.packet_id, ReasonCode::Success).await;
    client.publish(message("x", "2", QoS::AtMostOnce)).await;
    assert_eq!(client.payload().await, "2");
    let filters = vec!["x".into(), "never".into()];
    let unsubscribe = Unsubscribe { packet_id: 7, properties: Default::default(), filters };
    client.send(Packet::Unsubscribe(unsubscribe)).await;
    let Packet::Unsuback(_) = client.packet().await else { panic!("UNSUBACK expected") };
    client.publish(message("x", "3", QoS::AtMostOnce)).await;
    client.disconnect().await;
    let lines = [
        "connect",
        "session_begun New",
        "connected",
        "subscribe x None resumed=false",
        "subscribed x",
        "publish x",
        "published x Publish receivers=1",
        "deliver x qos=1 retained=false resent=false",
        "acknowledged x qos=1",
        "publish x",
        "published x Publish receivers=1",
        "deliver x qos=0 retained=false resent=false",
        "unsubscribed x",
        "publish x",
        "published x Publish receivers=0",
        "disconnected Success by_client=true",
        "session_ended WithConnection",
    ];
    recorder.expect("a", &lines).await;
}

#[tokio::test]
async fn a_connection_that_breaks_ends_once_and_its_session_stays() {
    for engine in [EngineKind::Direct, EngineKind::Rumqttd] {
        let recorder = Recorder::default();
        let mut config = Config::default();
        config.engine = engine;
        let broker = TestBroker::with(config, vec![Box::new(recorder.clone())]).await;
        let (client, _) = broker.connect(persistent(Version::V5, "a")).await;
        client.vanish(&broker).await;
        let begun = ["connect", "session_begun New", "connected"];
        let end = "disconnected UnspecifiedError by_client=false";
        recorder.expect("a", &[&begun[..], &[end]].concat()).await;
        recorder.clear();
        let (client, _) = broker.connect(persistent(Version::V5, "a")).await;
        client.disconnect().await;
        let resumed =
            ["connect", "session_begun Resumed", "connected", "disconnected Success by_client=true"];
        recorder.expect("a", &resumed).await;
        broker.shutdown().await;
        assert_eq!(recorder.of("a"), resumed);
    }
}

#[tokio::test]
async fn a_broker_that_shuts_down_ends_connections_and_what_does_not_outlive_them() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let (_stays, _) = broker.connect(persistent(Version::V5, "stays")).await;
    let _goes = broker.v3("goes").await;
    broker.shutdown().await;
    let begun = ["connect", "session_begun New", "connected"];
    let cut = "disconnected ServerShuttingDown by_client=false";
    recorder.expect("stays", &[&begun[..], &[cut]].concat()).await;
    recorder.expect("goes", &[&begun[..], &[cut, "session_ended WithConnection"]].concat()).await;
}

#[tokio::test]
async fn a_takeover_is_told_before_what_follows_from_it() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let (mut first, _) = broker.connect(persistent(Version::V5, "a")).await;
    first.subscribe("x", QoS::AtLeastOnce).await;
    recorder.clear();
    let (mut second, _) = broker.connect(persistent(Version::V5, "a")).await;
    first.closed().await;
    let cut = "disconnected SessionTakenOver by_client=false";
    until(|| recorder.count("a", cut) == 1).await;
    // When the loser hears of it is its own matter.
    let mut lines = recorder.of("a");
    lines.retain(|line| line != cut);
    let resumed = [
        "connect",
        "session_taken_over",
        "session_begun Resumed",
        "subscribe x None resumed=true",
        "connected",
    ];
    assert_eq!(lines, resumed);

    // A clean start ends the session, and all that waits in it.
    let mut writer = broker.v5("writer").await;
    writer.publish(message("x", "1", QoS::AtLeastOnce)).await;
    assert_eq!(second.payload().await, "1");
    recorder.clear();
    let _third = broker.v5("a").await;
    second.closed().await;
    until(|| recorder.count("a", cut) == 1).await;
    let mut lines = recorder.of("a");
    lines.retain(|line| line != cut);
    let anew = [
        "connect",
        "session_taken_over",
        "dropped x session_ended",
        "session_ended CleanStart",
        "session_begun New",
        "connected",
    ];
    assert_eq!(lines, anew);
    recorder.clear();
    let _fourth = broker.v5("a").await;
    until(|| recorder.count("a", cut) == 1).await;
    assert_eq!(recorder.count("a", "session_ended WithConnection"), 1);
    assert_eq!(recorder.count("a", "session_"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_ends_once_with_what_waited_in_it() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let mut hello = short(Version::V5, "a", 60);
    let mut last = will("last", "words");
    last.properties.delay_secs = Some(30);
    hello.will = Some(last);
    let (mut client, _) = broker.pipe_connect(hello).await;
    client.subscribe("x", QoS::ExactlyOnce).await;
    let (mut writer, _) = broker.pipe_connect(connect(Version::V5, "writer")).await;
    client.vanish(&broker).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        writer.publish(message("x", "1", qos)).await;
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let begun = [
        "connect",
        "will WillAtConnect",
        "session_begun New",
        "connected",
        "subscribe x None resumed=false",
        "subscribed x",
        "disconnected UnspecifiedError by_client=false",
        "dropped x not_connected",
        "will Will",
        "published last Will receivers=0",
        "dropped x session_ended",
        "dropped x session_ended",
        "session_ended Expired",
    ];
    recorder.expect("a", &begun).await;
}

#[tokio::test]
async fn a_session_that_is_discarded_ends_without_a_will() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let mut hello = persistent(Version::V5, "a");
    hello.will = Some(will("last", "words"));
    let (mut client, _) = broker.connect(hello).await;
    recorder.clear();
    for expected in [1, 0] {
        let whom = Whom::ClientId("a");
        assert_eq!(broker.handle.disconnect(whom, ReasonCode::NotAuthorized, "", Stored::Discard), expected);
    }
    client.closed().await;
    let end = "disconnected NotAuthorized by_client=false";
    recorder.expect("a", &["session_ended Discarded", end]).await;
}

#[tokio::test]
async fn a_will_is_asked_about_apart_from_messages() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let with_will = |topic: &str| {
        let mut hello = connect(Version::V5, "a");
        hello.will = Some(will(topic, "x"));
        hello
    };
    let mut client = broker.raw().await;
    client.send(Packet::Connect(Box::new(with_will("refused/at-connect")))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::NotAuthorized);
    recorder.expect("a", &["connect", "will WillAtConnect", "refused connect NotAuthorized"]).await;

    let let_in = ["connect", "will WillAtConnect", "session_begun New", "connected"];
    let lost = "disconnected UnspecifiedError by_client=false";
    for (topic, outcome) in [
        ("refused/late", "refused will refused/late NotAuthorized"),
        ("fine", "published fine Will receivers=0"),
    ] {
        recorder.clear();
        let (client, _) = broker.connect(with_will(topic)).await;
        client.vanish(&broker).await;
        let end = [lost, "will Will", outcome, "session_ended WithConnection"];
        recorder.expect("a", &[&let_in[..], &end].concat()).await;
    }

    recorder.clear();
    let (client, _) = broker.connect(with_will("fine")).await;
    client.disconnect().await;
    let end = ["disconnected Success by_client=true", "session_ended WithConnection"];
    recorder.expect("a", &[&let_in[..], &end].concat()).await;
}

#[tokio::test]
async fn what_is_refused_is_told_whoever_refused_it() {
    let recorder = Recorder::default();
    let mut config = Config::default();
    config.limits.client_id_bytes_max = 8;
    config.limits.retained_bytes_max = 1;
    let broker = recorder.with(config).await;
    for (id, user, reason) in [
        ("a", Some("stranger"), ReasonCode::BadUserNameOrPassword),
        ("far-too-long", None, ReasonCode::ClientIdentifierNotValid),
    ] {
        let mut client = broker.raw().await;
        let mut hello = connect(Version::V5, id);
        hello.user_name = user.map(Into::into);
        client.send(Packet::Connect(Box::new(hello))).await;
        assert_eq!(client.connack().await.reason, reason);
    }
    let asked = ["connect", "refused connect BadUserNameOrPassword"];
    recorder.expect("a", &asked).await;
    recorder.expect("far-too-long", &["refused connect ClientIdentifierNotValid"]).await;

    let mut client = broker.v5("b").await;
    recorder.clear();
    let options = SubscriptionOptions::default();
    for filter in ["secret/x", "a/#/b"] {
        client.subscribe_with(filter, options, None).await;
    }
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish(message("refused", "x", qos)).await;
    }
    client.publish(Publish { retain: true, ..message("kept", "x", QoS::AtLeastOnce) }).await;
    let lines = [
        "subscribe secret/x None resumed=false",
        "refused subscribe secret/x NotAuthorized",
        "refused subscribe a/#/b TopicFilterInvalid",
        "publish refused",
        "refused publish refused QuotaExceeded",
        "publish refused",
        "refused publish refused QuotaExceeded",
        "publish refused",
        "refused publish refused QuotaExceeded",
        "publish kept",
        "refused publish kept QuotaExceeded",
    ];
    recorder.expect("b", &lines).await;
    // MQTT 3.1.1 loses the connection, the other points are the same.
    let mut client = broker.v3("c").await;
    client.publish(message("refused", "x", QoS::AtMostOnce)).await;
    client.closed().await;
    until(|| recorder.count("c", "session_ended") == 1).await;
    assert_eq!(recorder.count("c", "refused publish refused QuotaExceeded"), 1);
    assert_eq!(recorder.count("c", "published"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_does_not_come_to_an_end_refuses() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    for version in [Version::V3, Version::V5] {
        let mut client = broker.pipe();
        client.version = version;
        let mut hello = connect(version, "a");
        hello.user_name = Some("riddle".into());
        client.send(Packet::Connect(Box::new(hello))).await;
        // MQTT 3.1.1 has one code for both.
        let reason =
            if version == Version::V5 { ReasonCode::ServerBusy } else { ReasonCode::ServerUnavailable };
        assert_eq!(client.connack().await.reason, reason);
        assert_eq!(client.next().await, None);
        recorder.expect("a", &["connect", "refused connect ServerBusy"]).await;
        recorder.clear();
    }
}

#[tokio::test]
async fn each_reason_to_drop_a_delivery_is_told() {
    let recorder = Recorder::default();
    let mut config = Config::default();
    config.limits.queue_messages_max = 3;
    config.limits.queue_bytes_max = 2_000;
    let broker = recorder.with(config).await;
    let mut hello = persistent(Version::V5, "a");
    hello.properties.packet_bytes_max = Some(500);
    let (mut reader, _) = broker.connect(hello.clone()).await;
    reader.subscribe("#", QoS::ExactlyOnce).await;
    let mut writer = broker.v5("writer").await;
    recorder.clear();

    writer.publish(message("kept-from", "x", QoS::AtLeastOnce)).await;
    recorder
        .expect(
            "a",
            &["deliver kept-from qos=1 retained=false resent=false", "dropped kept-from refused_by_hook"],
        )
        .await;
    recorder.clear();
    writer.publish(message("large", &"x".repeat(600), QoS::AtLeastOnce)).await;
    recorder
        .expect("a", &["deliver large qos=1 retained=false resent=false", "dropped large too_large"])
        .await;
    recorder.clear();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        writer.publish(message("unwanted", "x", qos)).await;
        let got = reader.message().await;
        match qos {
            QoS::AtLeastOnce => ack(&mut reader, got.packet_id, ReasonCode::QuotaExceeded).await,
            _ => pubrec(&mut reader, got.packet_id, ReasonCode::QuotaExceeded).await,
        }
        until(|| recorder.count("a", "dropped unwanted refused_by_client") == 1).await;
        assert_eq!(recorder.of("a").len(), 2);
        recorder.clear();
    }

    reader.disconnect().await;
    recorder.clear();
    writer.publish(message("away", "x", QoS::AtMostOnce)).await;
    for _ in 0..2 {
        writer.publish(message("long", &"x".repeat(900), QoS::AtLeastOnce)).await;
    }
    let mut gone = message("gone", "x", QoS::AtLeastOnce);
    gone.properties.expiry_secs = Some(0);
    writer.publish(gone).await;
    writer.publish(message("one", "x", QoS::AtLeastOnce)).await;
    writer.publish(message("many", "x", QoS::AtLeastOnce)).await;
    let away = ["dropped away not_connected", "dropped long queue_bytes", "dropped many queue_messages"];
    recorder.expect("a", &away).await;
    recorder.clear();
    let (mut reader, _) = broker.connect(hello).await;
    assert_eq!(reader.payload().await, "x");
    until(|| recorder.count("a", "dropped") == 2).await;
    let dropped: Vec<String> =
        recorder.of("a").into_iter().filter(|line| line.starts_with("dropped")).collect();
    assert_eq!(dropped, ["dropped long too_large", "dropped gone expired"]);
}

/// Every copy ends in one way: written for QoS 0, acknowledged, or dropped.
#[tokio::test]
async fn what_a_client_that_does_not_read_loses_is_told() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let (mut reader, _) = broker.pipe_connect(persistent(Version::V5, "a")).await;
    reader.subscribe("x", QoS::AtMostOnce).await;
    let (mut writer, _) = broker.pipe_connect(connect(Version::V5, "writer")).await;
    let payload = "x".repeat(50_000);
    for _ in 0..40 {
        writer.publish(message("x", &payload, QoS::AtMostOnce)).await;
    }
    writer.until_ping().await;
    reader.vanish(&broker).await;
    let (written, lost) = (recorder.count("a", "deliver"), recorder.count("a", "dropped x not_connected"));
    assert_eq!(written + lost, 40);
    assert!(lost > 0);
}

#[tokio::test]
async fn an_acknowledgement_is_told_once_whatever_comes_between() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "a")).await;
    reader.subscribe("x", QoS::ExactlyOnce).await;
    let mut writer = broker.v5("writer").await;
    recorder.clear();
    writer.publish(message("x", "1", QoS::AtLeastOnce)).await;
    writer.publish(message("x", "2", QoS::ExactlyOnce)).await;
    for _ in 0..2 {
        reader.message().await;
    }
    reader.vanish(&broker).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "a")).await;
    let first = reader.message().await;
    let second = reader.message().await;
    assert!(first.dup && second.dup);
    assert_eq!(recorder.count("a", "acknowledged"), 0);
    ack(&mut reader, first.packet_id, ReasonCode::Success).await;
    for _ in 0..2 {
        pubrec(&mut reader, second.packet_id, ReasonCode::Success).await;
        let Packet::Pubrel(_) = reader.packet().await else { panic!("PUBREL expected") };
    }
    assert_eq!(recorder.count("a", "acknowledged x qos=1"), 1);
    assert_eq!(recorder.count("a", "acknowledged x qos=2"), 1);
    // What follows is about the identifier: also where the session ends before that.
    let _anew = broker.v5("a").await;
    until(|| recorder.count("a", "session_ended CleanStart") == 1).await;
    assert_eq!(recorder.count("a", "acknowledged"), 2);
    assert_eq!(recorder.count("a", "dropped"), 0);
    assert_eq!(recorder.count("writer", "published x Publish receivers=1"), 2);
    assert_eq!(recorder.count("a", "deliver x qos=1 retained=false resent=true"), 1);
}

#[tokio::test]
async fn retained_and_shared_deliveries_pass_the_same_points() {
    let recorder = Recorder::default();
    let broker = recorder.broker().await;
    let mut writer = broker.v5("writer").await;
    writer.publish(Publish { retain: true, ..message("x", "old", QoS::AtLeastOnce) }).await;
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let mut member = broker.v5(id).await;
        member.subscribe("$share/g/x", QoS::AtLeastOnce).await;
        members.push(member);
    }
    let mut reader = broker.v5("c").await;
    reader.subscribe("x", QoS::AtLeastOnce).await;
    let got = reader.message().await;
    ack(&mut reader, got.packet_id, ReasonCode::Success).await;
    reader.until_ping().await;
    assert_eq!(recorder.count("c", "deliver x qos=1 retained=true resent=false"), 1);
    assert_eq!(recorder.count("c", "acknowledged x qos=1"), 1);
    reader.disconnect().await;
    assert_eq!(recorder.count("a", "subscribe x Some(\"g\") resumed=false"), 1);
    for _ in 0..2 {
        writer.publish(message("x", "new", QoS::AtLeastOnce)).await;
    }
    for (member, id) in members.iter_mut().zip(["a", "b"]) {
        let got = member.message().await;
        ack(member, got.packet_id, ReasonCode::Success).await;
        member.until_ping().await;
        assert_eq!(recorder.count(id, "deliver x"), 1);
        assert_eq!(recorder.count(id, "acknowledged x"), 1);
    }
    // The reader had left before, a group counts as one.
    assert_eq!(recorder.count("writer", "published x Publish receivers=1"), 2);
}

#[tokio::test]
async fn a_session_and_a_will_from_before_a_restart_go_on() {
    let dir = TempDir::new();
    let before = Recorder::default();
    let broker = TestBroker::on(dir.path(), vec![Box::new(before.clone())]).await;
    let mut hello = persistent(Version::V5, "a");
    let mut late = will("last", "words");
    late.properties.delay_secs = Some(1_000);
    hello.will = Some(late);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("x", QoS::ExactlyOnce).await;
    reader.subscribe("since/x", QoS::ExactlyOnce).await;
    reader.vanish(&broker).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("x", "1", QoS::ExactlyOnce)).await;
    broker.shutdown().await;
    assert_eq!(before.count("a", "session_ended") + before.count("a", "dropped"), 0);

    let recorder = Recorder::default();
    let broker = TestBroker::on(dir.path(), vec![Box::new(recorder.clone())]).await;
    assert_eq!(recorder.of("a"), ["revive"]);
    let (mut reader, connack) = broker.connect(persistent(Version::V5, "a")).await;
    assert!(connack.session_present);
    let got = reader.message().await;
    pubrec(&mut reader, got.packet_id, ReasonCode::Success).await;
    let Packet::Pubrel(_) = reader.packet().await else { panic!("PUBREL expected") };
    let mut lines = recorder.of("a");
    // Subscriptions come in no order.
    lines[3..7].sort();
    let expected = [
        "revive",
        "connect",
        "session_begun Resumed",
        "refused subscribe since/x NotAuthorized",
        "subscribe since/x None resumed=true",
        "subscribe x None resumed=true",
        "unsubscribed since/x",
        "connected",
        "deliver x qos=2 retained=false resent=false",
        "acknowledged x qos=2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn points_that_a_hook_does_not_name_are_not_called() {
    let all = Recorder::default();
    let deaf = Recorder { points: &[], ..Recorder::default() };
    let hooks: Vec<Box<dyn Hook>> = vec![Box::new(deaf.clone()), Box::new(all.clone())];
    let broker = TestBroker::with(Config::default(), hooks).await;
    let mut hello = connect(Version::V5, "a");
    hello.will = Some(will("last", "words"));
    let (mut client, _) = broker.connect(hello).await;
    client.subscribe("x", QoS::AtLeastOnce).await;
    client.subscribe("kept-from", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("x", "1", QoS::AtLeastOnce)).await;
    let got = client.message().await;
    ack(&mut client, got.packet_id, ReasonCode::Success).await;
    writer.publish(message("kept-from", "1", QoS::AtLeastOnce)).await;
    until(|| all.count("a", "dropped") == 1).await;
    client.vanish(&broker).await;
    until(|| all.count("a", "session_ended") == 1 && deaf.count("a", "session_ended") == 1).await;
    let of_messages = ["publish ", "published ", "deliver ", "acknowledged ", "dropped "];
    let named = |recorder: &Recorder, line: &&str| recorder.count("a", line) + recorder.count("writer", line);
    assert!(of_messages.iter().all(|line| named(&all, line) > 0));
    assert!(of_messages.iter().all(|line| named(&deaf, line) == 0));
    let mut others = all.of("a");
    others.retain(|line| !of_messages.iter().any(|begins| line.starts_with(begins)));
    assert_eq!(deaf.of("a"), others);
}
