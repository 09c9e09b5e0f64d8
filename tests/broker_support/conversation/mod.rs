//! Whole conversations of several clients with a broker, in one thread and on a clock that stands still, said by bytes:
//! any bytes say one, and the same bytes always the same. What the broker answers is held against [`model`].
//!
//! A conversation is polite or not. In a rude one anything may be said at any time, and what is checked are the promises
//! that hold for everybody. In a polite one the clients keep to the standard, and then nothing may be lost, and each topic
//! keeps its order.

mod model;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use smqtt::{
    broker::{
        Broker, BrokerHandle, Client, Config, Denial, EngineKind, Hook, Publication, Stored,
        SubscribeRequest, Verdict, Whom,
    },
    mqtt::*,
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, runtime, sync::oneshot, time::sleep};

use self::model::{Model, Talk};

/// What happened in a conversation, or in many.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Connections that were let in.
    pub connections: usize,
    /// Messages that clients got.
    pub deliveries: usize,
    /// QoS 2 messages among them that had to come exactly once.
    pub exactly_once: usize,
    /// Acknowledged messages that had to arrive at somebody.
    pub owed: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.deliveries += other.deliveries;
        self.exactly_once += other.exactly_once;
        self.owed += other.owed;
    }
}

/// Steps of one conversation; what is left of the bytes is not said.
const STEPS_MAX: usize = 64;
/// Rounds after which a broker that still has something to do has gone mad.
const ROUNDS_MAX: usize = 10_000;
/// Bytes that wait to be said and are not doubled any more.
const TWICE_BYTES_MAX: usize = 1 << 16;
/// A topic that nobody may publish to or ask for.
const FORBIDDEN: &str = "n";
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "b", "$x", "été", "/", FORBIDDEN];
const FILTERS: [&str; 16] = [
    "#",
    "a/#",
    "a/+",
    "+/b",
    "a/b",
    "a",
    "b",
    "+",
    "$x",
    "été",
    "/#",
    "$share/g/a/#",
    "$share/h/+",
    "$share/g/b",
    "a/#/b",
    FORBIDDEN,
];
const CLIENT_IDS: [&str; 3] = ["a", "b", "c"];

thread_local! {
    static RUNTIME: runtime::Runtime =
        runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
}

/// Holds the conversation that these bytes say.
///
/// # Panics
/// The broker panics, hangs, or breaks a promise.
pub fn hold(bytes: &[u8]) -> Tally {
    RUNTIME.with(|runtime| runtime.block_on(Conversation::of(bytes)))
}

/// Bytes that are read one after the other; there is a zero wherever they have ended.
struct Script<'s>(&'s [u8]);

impl<'s> Script<'s> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, count: usize) -> &'s [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Refuses what is about the forbidden topic.
struct Forbid;

impl Forbid {
    fn judge(topic: &str) -> Verdict {
        match topic == FORBIDDEN {
            true => Verdict::Deny(Denial::new(ReasonCode::NotAuthorized, "forbidden")),
            false => Verdict::Defer,
        }
    }
}

impl Hook for Forbid {
    fn subscribe(&self, _: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        Self::judge(request.filter)
    }

    fn publish(&self, _: &Client, publication: &mut Publication) -> Verdict {
        Self::judge(publication.message().topic())
    }
}

struct Conversation<'s> {
    script: Script<'s>,
    handle: BrokerHandle,
    model: Model,
    talks: Vec<Talk>,
    /// Serial number of the last message.
    serial: u32,
}

impl<'s> Conversation<'s> {
    async fn of(bytes: &'s [u8]) -> Tally {
        let mut script = Script(bytes);
        let manner = script.byte();
        let polite = manner & 1 == 1;
        let mut config = Config::default();
        config.engine = EngineKind::Direct;
        // Few of them are heard, and in the hours that pass here they would be most of the work.
        config.sys_interval = Some(Duration::from_secs(600));
        let limits = &mut config.limits;
        (limits.receive_max, limits.inflight_messages_max, limits.topic_alias_max) = (8, 6, 2);
        (limits.packet_bytes_max, limits.connect_bytes_max) = (4_096, 2_048);
        if !polite {
            (limits.queue_messages_max, limits.queue_bytes_max) = (12, 4_096);
            (limits.subscriptions_per_session_max, limits.sessions_max) = (4, 5);
            (limits.retained_messages_max, limits.retained_bytes_max) = (3, 1_000);
            limits.session_expiry_max = (manner & 2 > 0).then_some(Duration::from_secs(60));
            limits.keep_alive_max = (manner & 4 > 0).then_some(Duration::from_secs(20));
        }
        let model = Model::new(polite, config.limits.clone());
        let broker = Broker::new(config, vec![Box::new(Forbid)]).expect("it starts");
        let handle = broker.handle();
        let (end, ended) = oneshot::channel::<()>();
        let running = tokio::spawn(broker.run(async { drop(ended.await) }));
        let mut conversation = Self { script, handle, model, talks: Vec::new(), serial: 0 };
        for _ in 0..STEPS_MAX {
            if conversation.script.0.is_empty() {
                break;
            }
            conversation.step().await;
        }
        conversation.finish().await;
        drop(end);
        running.await.expect("the broker ends as it should");
        conversation.model.tally
    }

    async fn step(&mut self) {
        let polite = self.model.polite;
        let op = self.script.byte();
        let slot = usize::from(op >> 5) % CLIENT_IDS.len();
        match op & 0x1f {
            0..=3 => self.connect(slot),
            4 => self.talks.retain(|talk| talk.slot != slot),
            5 => self.say_disconnect(slot),
            6..=8 => self.say_subscribe(slot),
            9 => self.say_unsubscribe(slot),
            10..=16 => self.say_publish(slot),
            17 | 18 => self.say_answers(slot),
            19 => self.say(slot, &Packet::Pingreq),
            20 => self.wait().await,
            21 | 22 => {
                let count = 1 + self.script.below(4);
                if let Some(talk) = self.talk(slot) {
                    talk.corked = count;
                }
            }
            _ if polite => {}
            23 => self.say_any_ack(slot),
            24 => self.say_what_only_a_broker_says(slot),
            25 => {
                let count = self.script.below(24);
                let bytes = self.script.bytes(count);
                if let Some(talk) = self.talk(slot) {
                    talk.out.extend_from_slice(bytes);
                }
            }
            26..=28 => self.say_garbled(slot),
            29 => {
                let stored = self.script.pick(&[Stored::Keep, Stored::Discard]);
                self.handle.disconnect(
                    Whom::ClientId(CLIENT_IDS[slot]),
                    ReasonCode::AdministrativeAction,
                    "",
                    stored,
                );
            }
            _ => self.say_twice(slot),
        }
        if let Some(talk) = self.talk(slot) {
            talk.corked = talk.corked.saturating_sub(1);
        }
        self.settle().await;
    }

    /// The connection that a client uses now.
    fn talk(&mut self, slot: usize) -> Option<&mut Talk> {
        self.talks.iter_mut().rev().find(|talk| talk.slot == slot && !talk.closed)
    }

    fn say(&mut self, slot: usize, packet: &Packet) {
        if let Some(talk) = self.talk(slot) {
            talk.say(packet);
        }
    }

    fn connect(&mut self, slot: usize) {
        let (choice, manner) = (self.script.byte(), self.script.byte());
        let polite = self.model.polite;
        let version = if choice & 1 == 0 { Version::V5 } else { Version::V3 };
        let mut properties = ConnectProperties::default();
        if version == Version::V5 {
            properties.session_expiry_secs =
                [None, Some(5), Some(3_600), Some(u32::MAX)][usize::from(choice >> 1 & 3)];
            if choice & 0x80 > 0 {
                properties.receive_max = Some(1 + u16::from(manner & 3));
                properties.topic_alias_max = Some(u16::from(manner >> 2 & 1));
                properties.packet_bytes_max = (!polite && manner & 0x40 > 0).then_some(60);
                properties.request_problem = Some(manner & 0x80 > 0);
            }
        }
        // Expiry of a few seconds has nothing to do with politeness, but with what can be said of loss.
        if polite && properties.session_expiry_secs == Some(5) {
            properties.session_expiry_secs = None;
        }
        let will = (choice & 0x18 == 0x18).then(|| {
            let (payload, mut properties) = (self.payload(manner), WillProperties::default());
            if version == Version::V5 {
                properties.delay_secs = (manner & 1 > 0).then_some(10);
            }
            Will {
                topic: TOPICS[usize::from(manner >> 3) % (TOPICS.len() - usize::from(polite))].into(),
                payload: payload.into(),
                qos: QoS::from_bits(manner & 3).unwrap_or_default(),
                retain: manner & 0x40 > 0,
                properties,
            }
        });
        let connect = Connect {
            version,
            clean_start: choice & 0x60 == 0,
            keep_alive_secs: if !polite && manner & 0x20 > 0 { 15 } else { 0 },
            properties,
            client_id: CLIENT_IDS[slot].into(),
            will,
            user_name: None,
            password: None,
        };
        // Whoever is on the way is not overtaken: nobody could say which of the two came first.
        self.talks.retain(|talk| talk.slot != slot || talk.is_in());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.serve(theirs, ([127, 0, 0, 1], 1).into()).await });
        let mut talk = Talk::new(slot, ours, manner & 0x18 != 0);
        talk.say(&Packet::Connect(Box::new(connect)));
        self.talks.push(talk);
    }

    fn payload(&mut self, manner: u8) -> Vec<u8> {
        self.serial += 1;
        let mut payload = model::payload(self.serial);
        payload.resize(payload.len() + [0, 3, 30, 300][usize::from(manner >> 6)], b'.');
        payload
    }

    fn say_disconnect(&mut self, slot: usize) {
        let choice = self.script.byte();
        let mut properties = DisconnectProperties::default();
        let reason = if choice & 1 == 0 { ReasonCode::Success } else { ReasonCode::DisconnectWithWill };
        properties.session_expiry_secs = (!self.model.polite && choice & 2 > 0).then_some(u32::from(choice));
        self.say(slot, &Packet::Disconnect(Disconnect { reason, properties }));
    }

    fn say_subscribe(&mut self, slot: usize) {
        let (choice, more) = (self.script.byte(), self.script.byte());
        let options = SubscriptionOptions {
            qos: QoS::from_bits(choice & 3).unwrap_or(QoS::ExactlyOnce),
            no_local: choice & 0x0c == 0x0c,
            retain_as_published: choice & 0x10 > 0,
            retain_handling: [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
                [usize::from(choice >> 5) % 3],
        };
        let count = 1 + usize::from(more >> 6) % 3;
        let subscriptions = (0..count)
            .map(|n| {
                let filter = FILTERS[(usize::from(more & 0x0f) + 5 * n) % FILTERS.len()];
                // To be said of a shared subscription it would be an error.
                let no_local = options.no_local && !filter.starts_with("$share");
                Subscription { filter: filter.into(), options: SubscriptionOptions { no_local, ..options } }
            })
            .collect();
        let subscription_id = (more & 0x30 == 0x30).then(|| SubscriptionId(1 + u32::from(choice)));
        let properties = SubscribeProperties { subscription_id, ..SubscribeProperties::default() };
        let packet_id = 1 + u16::from(choice);
        self.say(slot, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
    }

    fn say_unsubscribe(&mut self, slot: usize) {
        let choice = self.script.byte();
        let filters =
            vec![FILTERS[usize::from(choice & 0x0f)].into(), FILTERS[usize::from(choice >> 4)].into()];
        let properties = UnsubscribeProperties::default();
        self.say(slot, &Packet::Unsubscribe(Unsubscribe { packet_id: 1, properties, filters }));
    }

    fn say_publish(&mut self, slot: usize) {
        let (choice, manner) = (self.script.byte(), self.script.byte());
        let polite = self.model.polite;
        let qos = QoS::from_bits(choice & 3).unwrap_or(QoS::ExactlyOnce);
        let topic = TOPICS[usize::from(choice >> 2) % (TOPICS.len() - usize::from(polite))];
        let payload = self.payload(manner);
        let free_id = self.model.free_id(CLIENT_IDS[slot]);
        let saying = self.talk(slot).map_or(0, |talk| talk.saying);
        // The receive maximum (section 4.9), also in version 3.1.1: the next connection may be one of 5.0.
        if polite && qos != QoS::AtMostOnce && !self.model.has_room(CLIENT_IDS[slot], saying) {
            return;
        }
        let Some(talk) = self.talk(slot) else { return };
        let mut publish = Publish {
            qos,
            retain: choice & 0xc0 == 0xc0,
            topic: topic.into(),
            payload: payload.into(),
            dup: !polite && manner & 0x10 > 0 && qos != QoS::AtMostOnce,
            ..Publish::default()
        };
        if talk.version() == Version::V5 && manner & 0x20 > 0 {
            publish.properties.topic_alias = Some(if polite { 1 } else { u16::from(manner & 3) });
            if talk.knows_alias(1, topic) || (!polite && manner & 4 > 0) {
                publish.topic = Text::default();
            }
            publish.properties.expiry_secs = (!polite && manner & 8 > 0).then_some(20);
        }
        if qos != QoS::AtMostOnce {
            publish.packet_id = if polite { free_id } else { 1 + u16::from(manner & 3) };
        }
        // Who has not been let in yet does not know whether it has sent this before.
        if let Some(talk) = self.talk(slot).filter(|talk| !polite || talk.is_in()) {
            talk.saying += usize::from(qos != QoS::AtMostOnce);
            talk.say(&Packet::Publish(publish));
        }
    }

    /// Some of the answers that a client that does not answer by itself owes.
    fn say_answers(&mut self, slot: usize) {
        let (count, from) = (1 + self.script.below(4), self.script.below(4));
        let polite = self.model.polite;
        let Some(talk) = self.talk(slot) else { return };
        for _ in 0..count {
            // In the order of the messages, if one is polite (section 4.6).
            let index = if polite { 0 } else { from.min(talk.unsaid.len().saturating_sub(1)) };
            let Some(packet) = talk.unsaid.remove(index) else { return };
            talk.say(&packet);
        }
    }

    fn say_any_ack(&mut self, slot: usize) {
        let choice = self.script.byte();
        let reason = match choice & 0x18 {
            0x18 => ReasonCode::QuotaExceeded,
            _ => ReasonCode::Success,
        };
        let ack = Ack::new(1 + u16::from(choice & 7), reason);
        let release = Ack::new(1 + u16::from(choice & 7), ReasonCode::Success);
        let packet = match choice >> 6 {
            0 => Packet::Puback(ack),
            1 => Packet::Pubrec(ack),
            2 => Packet::Pubrel(release),
            _ => Packet::Pubcomp(release),
        };
        self.say(slot, &packet);
    }

    fn say_what_only_a_broker_says(&mut self, slot: usize) {
        let properties = AckProperties::default();
        let reasons = vec![ReasonCode::Success];
        let packet = match self.script.below(4) {
            0 => Packet::Pingresp,
            1 => Packet::Suback(Suback { packet_id: 1, properties, reasons }),
            2 => Packet::Auth(Auth { reason: ReasonCode::Success, properties: AuthProperties::default() }),
            _ => Packet::Connack(Box::new(Connack {
                session_present: false,
                reason: ReasonCode::Success,
                properties: ConnackProperties::default(),
            })),
        };
        self.say(slot, &packet);
    }

    /// Something that is meant well, with a byte of it wrong, or cut off, or with more behind it.
    fn say_garbled(&mut self, slot: usize) {
        let (what, at, with) = (self.script.byte(), self.script.below(64), self.script.byte());
        let Some(before) = self.talk(slot).map(|talk| talk.out.len()) else { return };
        match what & 3 {
            0 => self.say_subscribe(slot),
            1 => self.say_publish(slot),
            2 => self.say_any_ack(slot),
            _ => {
                self.connect(slot);
                let Some(talk) = self.talk(slot) else { return };
                return garble(&mut talk.out[..], at, with);
            }
        }
        let Some(talk) = self.talk(slot) else { return };
        match what >> 2 & 3 {
            0 => talk.out.truncate(before + at),
            1 => talk.out.extend_from_slice(&[with]),
            _ => garble(&mut talk.out[before..], at, with),
        }
    }

    /// All that waits to be said, once more.
    fn say_twice(&mut self, slot: usize) {
        self.say_publish(slot);
        if let Some(talk) = self.talk(slot).filter(|talk| talk.out.len() <= TWICE_BYTES_MAX) {
            let again = talk.out.clone();
            talk.out.extend_from_slice(&again);
        }
    }

    async fn wait(&mut self) {
        let millis = match self.model.polite {
            true => self.script.pick(&[1, 1_000, 11_000, 30_000]),
            false => self.script.pick(&[1, 1_000, 6_000, 16_000, 100_000, 8_000_000]),
        };
        sleep(Duration::from_millis(millis)).await;
    }

    /// Writes what is to be said, and takes what is answered, until nothing more comes.
    async fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for index in 0..self.talks.len() {
                let talk = &mut self.talks[index];
                if talk.corked == 0 && !talk.closed && !talk.out.is_empty() {
                    let out = talk.out.split();
                    talk.saying = 0;
                    self.model.said(talk, &out);
                    // A closed pipe says so when it is read.
                    let written =
                        tokio::time::timeout(Duration::from_secs(60), talk.stream.write_all(&out)).await;
                    assert!(written.is_ok(), "the broker reads what it is sent");
                }
            }
            // The clock moves only when nobody has anything to do.
            sleep(Duration::from_millis(1)).await;
            let mut quiet = true;
            for index in 0..self.talks.len() {
                quiet &= !self.listen(index);
            }
            if quiet {
                self.model.settled(&self.talks);
                return self.talks.retain(|talk| !talk.closed);
            }
        }
        panic!("the broker has something to do without end");
    }

    /// Takes what one connection has got; whether there was anything.
    fn listen(&mut self, index: usize) -> bool {
        let mut any = false;
        loop {
            let talk = &mut self.talks[index];
            if talk.closed {
                return any;
            }
            match now(talk.stream.read_buf(&mut talk.input)) {
                None => return any || (talk.corked == 0 && !talk.out.is_empty()),
                Some(Ok(0) | Err(_)) => {
                    assert!(talk.input.is_empty(), "a packet that does not end: {:02x?}", &talk.input[..]);
                    talk.closed = true;
                    return true;
                }
                Some(Ok(_)) => any = true,
            }
            self.model.heard(talk);
        }
    }

    /// Everybody comes back, and takes what is there; then all are gone.
    async fn finish(&mut self) {
        for slot in 0..CLIENT_IDS.len() {
            self.talks.iter_mut().filter(|talk| talk.slot == slot).for_each(|talk| talk.corked = 0);
            self.settle().await;
        }
        if self.model.polite {
            for slot in 0..CLIENT_IDS.len() {
                self.talks.retain(|talk| talk.slot != slot);
                // Version 5.0, session expiry 3,600 s, no clean start, answers by itself.
                self.script = Script(&[0x24, 0x08]);
                self.connect(slot);
                self.settle().await;
            }
            self.model.nothing_is_lost();
        }
        for slot in 0..CLIENT_IDS.len() {
            self.say(slot, &Packet::Pingreq);
        }
        self.settle().await;
        self.talks.clear();
        sleep(Duration::from_secs(3)).await;
        assert_eq!(self.handle.connections(), 0, "no connection is left");
    }
}

fn garble(bytes: &mut [u8], at: usize, with: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= with;
    }
}

/// Polls once: what the future gives without waiting.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
