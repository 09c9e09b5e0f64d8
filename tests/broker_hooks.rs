//! Hooks: refuse, change, be told; orders through the handle.

mod broker_support;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use broker_support::*;
use bytes::{Bytes, BytesMut};
use smqtt::{
    broker::{
        Acknowledged, Admission, Attachment, Begun, BrokerHandle, Config, ConnectRequest, ConnectVerdict,
        DefaultVerdict, DeliverVerdict, Delivery, Denial, Disconnection, DropReason, Dropped, EngineKind,
        Hook, HookFuture, NewMessage, Origin, Publication, Published, Stored, SubscribeRequest, Verdict,
        Whom,
    },
    mqtt::*,
};

type Peer = smqtt::broker::Client;

/// Refuses what is named after a refusal, changes what is named after a change.
#[derive(Default)]
struct Rules {
    ended: Arc<AtomicUsize>,
}

impl Hook for Rules {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(async move {
            if request.user_name.as_deref() == Some("stranger") {
                let denial = Denial::new(ReasonCode::BadUserNameOrPassword, "who are you");
                return ConnectVerdict::Deny(denial);
            }
            ConnectVerdict::Allow(Admission {
                identity: request.user_name.clone(),
                client_id: Some("given".into()),
                attachment: Some(Arc::new(request.user_properties.len())),
                ..Admission::default()
            })
        })
    }

    fn subscribe(&self, client: &Peer, request: &SubscribeRequest<'_>) -> Verdict {
        assert!(client.attachment::<usize>().is_some());
        if request.filter.starts_with("secret") {
            return Verdict::deny(ReasonCode::NotAuthorized, "not for you");
        }
        Verdict::Defer
    }

    fn publish(&self, _: &Peer, publication: &mut Publication) -> Verdict {
        let topic = publication.message().topic().clone();
        match topic.as_str() {
            "refused" => return Verdict::deny(ReasonCode::QuotaExceeded, "enough"),
            "odd" => return Verdict::deny(ReasonCode::ServerBusy, "no code of PUBACK"),
            "cut" => return Verdict::Deny(Denial::new(ReasonCode::NotAuthorized, "out").disconnecting()),
            "late" if publication.origin() == Origin::Will => {
                return Verdict::deny(ReasonCode::NotAuthorized, "too late");
            }
            "changed" => {
                publication.set_payload(Bytes::from_static(b"new"));
                publication.user_properties_mut().push(("checked".into(), "yes".into()));
                publication.set_attachment(Arc::new(42u32), None);
            }
            _ => {}
        }
        Verdict::Defer
    }

    fn deliver(&self, client: &Peer, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        if client.client_id == "deaf" {
            return DeliverVerdict::Drop("deaf".into());
        }
        if let Some(number) = delivery.message().attachment().and_then(|any| any.downcast_ref::<u32>()) {
            let text = format!("{number} {} {}", delivery.is_retained(), delivery.is_resent());
            delivery.set_payload(text.into());
        }
        DeliverVerdict::Deliver
    }

    fn disconnected(&self, _: &Peer, _: Disconnection) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

async fn ruled() -> TestBroker {
    TestBroker::with(Config::default(), vec![Box::new(Rules::default())]).await
}

#[tokio::test]
async fn a_refused_connect_gets_the_reason() {
    let broker = ruled().await;
    for version in [Version::V3, Version::V5] {
        let mut client = broker.raw().await;
        client.version = version;
        let mut hello = connect(version, "x");
        hello.user_name = Some("stranger".into());
        client.send(Packet::Connect(Box::new(hello))).await;
        let connack = client.connack().await;
        assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword);
        let text = (version == Version::V5).then(|| "who are you".into());
        assert_eq!(connack.properties.reason_string, text);
        assert_eq!(client.next().await, None);
    }
}

#[tokio::test]
async fn a_hook_may_assign_the_client_id() {
    let broker = ruled().await;
    let (_client, connack) = broker.connect(connect(Version::V5, "")).await;
    assert_eq!(connack.properties.assigned_client_id, Some("given".into()));
}

#[tokio::test]
async fn a_refused_message_is_refused_in_its_acknowledgement_or_by_closing() {
    let broker = ruled().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    let mut client = broker.v5("client").await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(client.publish(message("refused", "x", qos)).await, ReasonCode::QuotaExceeded);
        assert_eq!(client.publish(message("odd", "x", qos)).await, ReasonCode::ImplementationSpecificError);
    }
    client.publish(message("refused", "x", QoS::AtMostOnce)).await;
    assert_eq!(client.until_ping().await, []);
    client.publish(message("cut", "x", QoS::AtMostOnce)).await;
    assert_eq!(client.closed().await, Some(ReasonCode::NotAuthorized));

    let mut client = broker.v3("client").await;
    client.publish(message("refused", "x", QoS::AtMostOnce)).await;
    assert_eq!(client.closed().await, None);
    assert_eq!(reader.until_ping().await, []);
}

#[tokio::test]
async fn a_refused_qos_2_identifier_is_free_again() {
    let broker = ruled().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("fine", QoS::AtMostOnce).await;
    let mut client = broker.v5("client").await;
    for topic in ["refused", "fine"] {
        let publish = Publish { packet_id: 1, ..message(topic, "x", QoS::ExactlyOnce) };
        client.send(Packet::Publish(publish)).await;
        let Packet::Pubrec(ack) = client.packet().await else { panic!("PUBREC expected") };
        assert_eq!(ack.reason.is_error(), topic == "refused");
    }
    assert_eq!(reader.payload().await, "x");
}

#[tokio::test]
async fn refused_filters_are_refused_one_by_one() {
    let broker = ruled().await;
    for version in [Version::V3, Version::V5] {
        let (mut client, _) = broker.connect(connect(version, "client")).await;
        let subscription =
            |filter: &str| Subscription { filter: filter.into(), options: SubscriptionOptions::default() };
        client
            .send(Packet::Subscribe(Subscribe {
                packet_id: 1,
                properties: SubscribeProperties::default(),
                subscriptions: ["open", "secret/#", "$share/g/secret", "a/#/b"].map(subscription).into(),
            }))
            .await;
        let Packet::Suback(suback) = client.packet().await else { panic!("SUBACK expected") };
        let codes: Vec<u8> = suback.reasons.iter().map(|reason| *reason as u8).collect();
        let expected = if version == Version::V5 { [0, 0x87, 0x87, 0x8F] } else { [0, 0x80, 0x80, 0x80] };
        assert_eq!(codes, expected);
    }
}

#[tokio::test]
async fn hooks_change_messages_for_all_and_for_one() {
    let broker = ruled().await;
    let mut deaf = broker.v5("deaf").await;
    deaf.subscribe("changed", QoS::AtLeastOnce).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("changed", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(Publish { retain: true, ..message("changed", "old", QoS::AtLeastOnce) }).await;
    let got = reader.message().await;
    assert_eq!(&got.payload[..], b"42 false false");
    assert_eq!(got.properties.user, vec![("checked".into(), "yes".into())]);
    reader.vanish(&broker).await;
    let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
    assert_eq!(&reader.message().await.payload[..], b"42 false true");
    let mut late = broker.v3("late").await;
    late.subscribe("changed", QoS::AtMostOnce).await;
    assert_eq!(&late.message().await.payload[..], b"42 true false");
    assert_eq!(deaf.until_ping().await, []);
}

#[tokio::test]
async fn a_will_is_judged_at_connect_and_again_when_it_is_due() {
    let broker = ruled().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("late", QoS::AtMostOnce).await;
    let mut client = broker.raw().await;
    let mut hello = connect(Version::V5, "client");
    hello.will = Some(will("refused", "x"));
    client.send(Packet::Connect(Box::new(hello.clone()))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::QuotaExceeded);
    hello.will = Some(will("late", "x"));
    let (client, _) = broker.connect(hello).await;
    client.vanish(&broker).await;
    assert_eq!(settle(&broker, &mut reader).await, []);
}

#[tokio::test]
async fn a_broker_may_refuse_what_no_hook_allows() {
    let mut config = Config::default();
    config.default_verdict = DefaultVerdict::Deny;
    let broker = TestBroker::with(config, vec![]).await;
    let mut client = broker.raw().await;
    client.send(Packet::Connect(Box::new(connect(Version::V5, "x")))).await;
    assert_eq!(client.connack().await.reason, ReasonCode::NotAuthorized);
}

#[tokio::test]
async fn a_revoked_identity_is_cut_and_forgotten() {
    let rules = Rules::default();
    let ended = rules.ended.clone();
    let broker = TestBroker::with(Config::default(), vec![Box::new(rules)]).await;
    let alice = |id: &str| {
        let mut hello = persistent(Version::V5, id);
        hello.user_name = Some("alice".into());
        hello.will = Some(will("will", "x"));
        hello
    };
    let mut reader = broker.v5("reader").await;
    reader.subscribe("will", QoS::AtMostOnce).await;
    let (mut here, _) = broker.connect(alice("here")).await;
    here.subscribe("a", QoS::AtLeastOnce).await;
    let (away, _) = broker.connect(alice("away")).await;
    away.disconnect().await;
    let cut = broker.handle.disconnect(
        Whom::Identity("alice"),
        ReasonCode::NotAuthorized,
        "revoked",
        Stored::Discard,
    );
    assert_eq!(cut, 2);
    assert_eq!(here.closed().await, Some(ReasonCode::NotAuthorized));
    until(|| ended.load(Ordering::SeqCst) == 2).await;
    assert_eq!(settle(&broker, &mut reader).await, []);
    for id in ["here", "away"] {
        let (_, connack) = broker.connect(alice(id)).await;
        assert!(!connack.session_present);
    }
}

#[tokio::test]
async fn a_connection_can_be_cut_and_its_session_kept() {
    let broker = ruled().await;
    let (mut client, _) = broker.connect(persistent(Version::V3, "client")).await;
    client.subscribe("a", QoS::AtLeastOnce).await;
    let whom = Whom::ClientId("client");
    assert_eq!(broker.handle.disconnect(whom, ReasonCode::AdministrativeAction, "", Stored::Keep), 1);
    assert_eq!(client.closed().await, None);
    until(|| broker.handle.connections() == 0).await;
    let hello = NewMessage {
        topic: "a".into(),
        payload: "hi".into(),
        qos: QoS::AtLeastOnce,
        ..NewMessage::default()
    };
    broker.handle.publish(hello).unwrap();
    let (mut client, connack) = broker.connect(persistent(Version::V3, "client")).await;
    assert!(connack.session_present);
    assert_eq!(client.payload().await, "hi");
}

/// Counts what it let through, and what was not written all the same.
#[derive(Default)]
struct Tally(Arc<[AtomicUsize; 2]>);

impl Hook for Tally {
    fn deliver(&self, _: &Peer, _: &mut Delivery<'_>) -> DeliverVerdict {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        DeliverVerdict::Deliver
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        assert_eq!((dropped.reason, dropped.qos), (DropReason::TooLarge, QoS::AtLeastOnce));
        assert_eq!(
            (dropped.whose.client_id.as_str(), &dropped.message.payload()[..]),
            ("reader", &[b'x'; 64][..])
        );
        assert!(dropped.client.is_some());
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_hook_hears_of_what_was_too_large_to_write() {
    let counts = Arc::<[AtomicUsize; 2]>::default();
    let broker = TestBroker::with(Config::default(), vec![Box::new(Tally(counts.clone()))]).await;
    let mut hello = connect(Version::V5, "reader");
    hello.properties.packet_bytes_max = Some(64);
    let (mut reader, _) = broker.connect(hello).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = broker.v5("writer").await;
    writer.publish(message("a", &"x".repeat(64), QoS::AtLeastOnce)).await;
    writer.publish(message("a", "small", QoS::AtLeastOnce)).await;
    assert_eq!(reader.payload().await, "small");
    assert_eq!(counts.each_ref().map(|count| count.load(Ordering::SeqCst)), [2, 1]);
}

/// Does not know at first whether a will may be published.
#[derive(Clone, Default)]
struct Undecided(Arc<AtomicBool>);

impl Hook for Undecided {
    fn publish(&self, _: &Peer, publication: &mut Publication) -> Verdict {
        publication.user_properties_mut().push(("seen".into(), "once".into()));
        let known = self.0.load(Ordering::SeqCst);
        match publication.origin() {
            Origin::Will if !known => Verdict::Deny(Denial::new(ReasonCode::ServerBusy, "not yet")),
            _ => Verdict::Defer,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_will_that_a_hook_puts_off_is_judged_again_as_it_was_sent() {
    let hook = Undecided::default();
    let mut config = Config::default();
    config.engine = EngineKind::Direct;
    let broker = TestBroker::with(config, vec![Box::new(hook.clone())]).await;
    let (mut reader, _) = broker.pipe_connect(connect(Version::V5, "reader")).await;
    reader.subscribe("will", QoS::AtMostOnce).await;
    for client_id in ["sensor", "revoked"] {
        let mut hello = persistent(Version::V5, client_id);
        hello.will = Some(will("will", client_id));
        let (client, _) = broker.pipe_connect(hello).await;
        client.vanish(&broker).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    assert_eq!(reader.until_ping().await, []);
    // Who is discarded meanwhile has no will any more.
    broker.handle.disconnect(Whom::ClientId("revoked"), ReasonCode::NotAuthorized, "", Stored::Discard);
    hook.0.store(true, Ordering::SeqCst);
    let got = reader.message().await;
    assert_eq!(&got.payload[..], b"sensor");
    assert_eq!(got.properties.user, [("seen".into(), "once".into())]);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(reader.until_ping().await, []);
}

/// Panics where its name says.
struct Broken(&'static str);

impl Broken {
    fn at(&self, point: &str) {
        assert!(self.0 != point, "a hook that panics on purpose");
    }
}

impl Hook for Broken {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let victim = request.client_id == "victim";
        if victim {
            self.at("connect at once");
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            if victim {
                self.at("connect later");
            }
            ConnectVerdict::Defer
        })
    }

    fn publish(&self, _: &Peer, _: &mut Publication) -> Verdict {
        self.at("publish");
        Verdict::Defer
    }

    fn deliver(&self, _: &Peer, _: &mut Delivery<'_>) -> DeliverVerdict {
        self.at("deliver");
        DeliverVerdict::Deliver
    }

    fn connected(&self, _: &Peer) {
        self.at("told");
    }

    fn published(&self, _: &Published<'_>) {
        self.at("told");
    }

    fn dropped(&self, _: &Dropped<'_>) {
        self.at("told");
    }

    fn disconnected(&self, _: &Peer, _: Disconnection) {
        self.at("told");
    }
}

#[tokio::test]
async fn a_hook_that_panics_refuses_and_brings_nothing_down() {
    for point in ["connect at once", "connect later", "publish", "deliver", "told"] {
        let mut config = Config::default();
        config.limits.queue_messages_max = 1;
        let broker = TestBroker::with(config, vec![Box::new(Broken(point))]).await;
        let mut victim = broker.raw().await;
        victim.send(Packet::Connect(Box::new(connect(Version::V5, "victim")))).await;
        let refused = ReasonCode::ImplementationSpecificError;
        let connects = point.starts_with("connect");
        assert_eq!(victim.connack().await.reason, if connects { refused } else { ReasonCode::Success });
        let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
        reader.subscribe("a", QoS::AtLeastOnce).await;
        let mut writer = broker.v5("writer").await;
        let published = writer.publish(message("a", "1", QoS::AtLeastOnce)).await;
        assert_eq!(published, if point == "publish" { refused } else { ReasonCode::Success });
        match point {
            "publish" | "deliver" => assert_eq!(reader.until_ping().await, []),
            _ => assert_eq!(reader.payload().await, "1"),
        }
        // The second is dropped, by a task that serves everybody.
        reader.vanish(&broker).await;
        for payload in ["2", "3"] {
            writer.publish(message("a", payload, QoS::AtLeastOnce)).await;
        }
        broker.handle.publish(NewMessage { topic: "b".into(), ..NewMessage::default() }).unwrap();
        let mut late = broker.v5("late").await;
        late.subscribe("c", QoS::AtMostOnce).await;
        broker
            .handle
            .publish(NewMessage { topic: "c".into(), payload: "on".into(), ..NewMessage::default() })
            .unwrap();
        match point {
            "deliver" => assert_eq!(late.until_ping().await, []),
            _ => assert_eq!(late.payload().await, "on"),
        }
        broker.shutdown().await;
    }
}

/// Leaves something of a type of its own with each client, and looks for it.
struct Leaves<T>(T);

impl<T: Clone + Eq + std::fmt::Debug + Send + Sync + 'static> Hook for Leaves<T> {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let attachment: Option<Attachment> = Some(Arc::new(self.0.clone()));
        let admission = Admission { attachment, ..Admission::default() };
        Box::pin(std::future::ready(ConnectVerdict::Allow(admission)))
    }

    fn publish(&self, client: &Peer, _: &mut Publication) -> Verdict {
        assert_eq!(client.attachment::<T>(), Some(&self.0));
        assert_eq!(client.attachment::<i8>(), None);
        Verdict::Allow
    }
}

#[tokio::test]
async fn each_hook_finds_what_it_left_with_a_client() {
    let hooks: Vec<Box<dyn Hook>> = vec![Box::new(Leaves(7u32)), Box::new(Leaves("seven"))];
    let broker = TestBroker::with(Config::default(), hooks).await;
    let mut client = broker.v5("a").await;
    let accepted = client.publish(message("a", "1", QoS::AtLeastOnce)).await;
    assert_eq!(accepted, ReasonCode::NoMatchingSubscribers);
}

/// Cuts whoever is named `victim` at the point it is named after, and publishes from there.
#[derive(Clone)]
struct Cuts(&'static str, Arc<OnceLock<BrokerHandle>>);

impl Cuts {
    fn at(&self, point: &'static str, client_id: &str) {
        let Some(handle) = self.1.get().filter(|_| self.0 == point && client_id == "victim") else { return };
        if point != "dropped" {
            let cut = NewMessage { topic: "cut".into(), payload: point.into(), ..NewMessage::default() };
            handle.publish(cut).unwrap();
        }
        let whom = Whom::ClientId("victim");
        handle.disconnect(whom, ReasonCode::AdministrativeAction, "cut", Stored::Discard);
    }
}

impl Hook for Cuts {
    fn subscribe(&self, client: &Peer, _: &SubscribeRequest<'_>) -> Verdict {
        self.at("subscribe", &client.client_id);
        Verdict::Defer
    }

    fn subscribed(&self, client: &Peer, _: &SubscribeRequest<'_>) {
        self.at("subscribed", &client.client_id);
    }

    fn connected(&self, client: &Peer) {
        self.at("connected", &client.client_id);
    }

    fn session_begun(&self, client: &Peer, _: Begun) {
        self.at("session_begun", &client.client_id);
    }

    fn session_taken_over(&self, client: &Peer, _: &Peer) {
        self.at("session_taken_over", &client.client_id);
    }

    fn publish(&self, client: &Peer, _: &mut Publication) -> Verdict {
        self.at("publish", &client.client_id);
        Verdict::Defer
    }

    fn published(&self, published: &Published<'_>) {
        // Its own messages come by here, too.
        if let Some(client) = published.message.publisher() {
            self.at("published", &client.client_id);
        }
    }

    fn deliver(&self, client: &Peer, _: &mut Delivery<'_>) -> DeliverVerdict {
        self.at("deliver", &client.client_id);
        DeliverVerdict::Deliver
    }

    fn acknowledged(&self, client: &Peer, _: &Acknowledged<'_>) {
        self.at("acknowledged", &client.client_id);
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        self.at("dropped", dropped.whose.client_id);
    }

    fn unsubscribed(&self, client: &Peer, _: &str) {
        self.at("unsubscribed", &client.client_id);
    }
}

#[tokio::test]
async fn a_hook_may_cut_a_client_from_wherever_it_is_called() {
    let points = [
        "session_begun",
        "connected",
        "session_taken_over",
        "subscribe",
        "subscribed",
        "publish",
        "published",
        "deliver",
        "acknowledged",
        "dropped",
        "unsubscribed",
    ];
    for engine in [EngineKind::Direct, EngineKind::Rumqttd] {
        for point in points {
            let cuts = Cuts(point, Arc::default());
            let mut config = Config::default();
            config.engine = engine;
            config.limits.queue_bytes_max = 1_000;
            let broker = TestBroker::with(config, vec![Box::new(cuts.clone())]).await;
            assert!(cuts.1.set(broker.handle.clone()).is_ok());
            let mut witness = broker.v5("witness").await;
            witness.subscribe("cut", QoS::AtMostOnce).await;
            let mut victim = broker.raw().await;
            victim.send(Packet::Connect(Box::new(persistent(Version::V5, "victim")))).await;
            // Whatever it may do, up to where it is cut.
            for packet in [
                Packet::Subscribe(Subscribe {
                    packet_id: 1,
                    properties: SubscribeProperties::default(),
                    subscriptions: vec![Subscription {
                        filter: "a".into(),
                        options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() },
                    }],
                }),
                Packet::Publish(Publish { packet_id: 1, ..message("a", "x", QoS::AtLeastOnce) }),
                Packet::Publish(Publish {
                    packet_id: 2,
                    ..message("a", &"x".repeat(2_000), QoS::AtLeastOnce)
                }),
                Packet::Puback(Ack::new(1, ReasonCode::Success)),
                Packet::Unsubscribe(Unsubscribe {
                    packet_id: 3,
                    properties: Default::default(),
                    filters: vec!["a".into()],
                }),
            ] {
                let mut bytes = BytesMut::new();
                packet.encode(Version::V5, &mut bytes).unwrap();
                if let Packet::Puback(_) = packet {
                    // Not before the message.
                    while !matches!(victim.next().await, Some(Packet::Publish(_)) | None) {}
                }
                // It may be cut already.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut victim.stream, &bytes).await;
            }
            let second = match point {
                "session_taken_over" => {
                    let mut second = broker.raw().await;
                    let hello = persistent(Version::V5, "victim");
                    second.send(Packet::Connect(Box::new(hello))).await;
                    Some(second)
                }
                _ => None,
            };
            victim.closed().await;
            if let Some(mut second) = second {
                second.closed().await;
            }
            drop(victim);
            until(|| broker.handle.connections() == 1).await;
            if point != "dropped" {
                assert_eq!(witness.payload().await, point);
            }
        }
    }
}
