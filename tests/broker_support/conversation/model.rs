//! What a broker owes the clients of a conversation: each packet that they say is noted as the broker must read it, and
//! each that they get is held against that.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::OnceLock,
};

use bytes::BytesMut;
use smqtt::{broker::Limits, mqtt::*};
use tokio::io::DuplexStream;

use super::{FORBIDDEN, Tally};

/// What a payload of a conversation begins with.
const MARK: u8 = b'#';

/// The beginning of a message's payload, from which it is known again.
pub fn payload(serial: u32) -> Vec<u8> {
    [&[MARK][..], &serial.to_be_bytes()].concat()
}

fn serial_of(payload: &[u8]) -> Option<u32> {
    let serial = payload.strip_prefix(&[MARK])?.first_chunk()?;
    Some(u32::from_be_bytes(*serial))
}

/// A message that somebody sent, as often as it was sent.
struct Sent {
    topic: Text,
    payload: bytes::Bytes,
    qos: QoS,
    retain: bool,
    from: usize,
    /// How often at most it counts as a new message, if it is of QoS 2.
    times: u32,
    /// It was sent in more than one form, so little can be said of it.
    odd: bool,
    is_will: bool,
    /// Who must get it, whichever time it was taken.
    owed: Vec<Owed>,
}

/// A client, which is its client id, with its session.
#[derive(Default)]
pub struct Peer {
    /// Filters that it asked for since its session began, with the QoS.
    asked: Vec<(Text, QoS)>,
    /// Ordinary subscriptions that it was granted and has not given up, with QoS and no local.
    active: BTreeMap<Text, (QoS, bool)>,
    /// QoS 2 messages that it has got and that are not released, by packet identifier.
    taken: HashSet<u16>,
    /// How often each QoS 2 message came anew.
    fresh: HashMap<u32, u32>,
    /// Which messages came at all.
    got: HashSet<u32>,
    /// The last message of each publisher and topic.
    last: HashMap<(usize, Text), u32>,
    /// Packet identifiers that the broker has said PUBREC to, and that were not released since.
    received: HashSet<u16>,
    /// What it sent and is not acknowledged, oldest first; of what got PUBREC only the identifier counts.
    unacknowledged: Vec<Publish>,
    unreleased: Vec<u16>,
    last_id: u16,
    /// Sessions that it has had.
    epoch: u32,
}

/// Somebody who must get a message once it is acknowledged: client, session, message.
type Owed = (usize, u32, u32);

/// Filters of a SUBSCRIBE, or of an UNSUBSCRIBE, which has no options.
type Filters = Vec<(Text, SubscriptionOptions)>;

struct Expected {
    packet_id: u16,
    qos: QoS,
    owed: Vec<Owed>,
    /// PUBREL was said after the message, without waiting.
    released: bool,
}

/// One connection.
pub struct Talk {
    pub slot: usize,
    pub stream: DuplexStream,
    /// To be written.
    pub out: BytesMut,
    /// Read, and not decoded yet.
    pub input: BytesMut,
    /// Acknowledged messages among it.
    pub saying: usize,
    /// How many steps are still said in one go.
    pub corked: usize,
    pub closed: bool,
    /// Whether it answers by itself.
    answers: bool,
    /// Answers that wait to be said.
    pub unsaid: VecDeque<Packet>,
    /// Said, and not decoded yet.
    said: BytesMut,
    peer: usize,
    /// Its CONNECT.
    hello: Option<Connect>,
    /// Let in; whether to a session that there was.
    welcome: Option<bool>,
    /// The broker must end it.
    doomed: bool,
    asked: Vec<(Text, QoS)>,
    expected: VecDeque<Expected>,
    /// SUBACK and UNSUBACK: first byte, identifier, filters.
    asking: VecDeque<(u8, u16, Filters)>,
    pings: usize,
    releases: usize,
    /// Messages that it has not acknowledged.
    inflight: HashMap<u16, QoS>,
    aliases_in: HashMap<u16, Text>,
    aliases_out: HashMap<u16, Text>,
}

impl Talk {
    pub fn new(slot: usize, stream: DuplexStream, answers: bool) -> Self {
        Self {
            slot,
            stream,
            answers,
            out: BytesMut::new(),
            saying: 0,
            input: BytesMut::new(),
            corked: 0,
            closed: false,
            unsaid: VecDeque::new(),
            said: BytesMut::new(),
            peer: usize::MAX,
            hello: None,
            welcome: None,
            doomed: false,
            asked: Vec::new(),
            expected: VecDeque::new(),
            asking: VecDeque::new(),
            pings: 0,
            releases: 0,
            inflight: HashMap::new(),
            aliases_in: HashMap::new(),
            aliases_out: HashMap::new(),
        }
    }

    pub fn version(&self) -> Version {
        self.hello.as_ref().map_or(Version::V5, |hello| hello.version)
    }

    pub fn is_in(&self) -> bool {
        self.welcome.is_some()
    }

    /// Puts a packet to what is to be written; one that the version does not have is left out.
    pub fn say(&mut self, packet: &Packet) {
        let version = match packet {
            Packet::Connect(connect) => connect.version,
            _ => self.version(),
        };
        let _ = packet.encode(version, &mut self.out);
    }

    /// Whether the broker knows the topic by this alias.
    pub fn knows_alias(&self, alias: u16, topic: &str) -> bool {
        self.aliases_in.get(&alias).is_some_and(|known| known == topic)
    }

    fn property<T>(&self, of: impl Fn(&ConnectProperties) -> Option<T>) -> Option<T> {
        self.hello.as_ref().and_then(|hello| of(&hello.properties))
    }
}

pub struct Model {
    pub polite: bool,
    pub tally: Tally,
    limits: Limits,
    peers: Vec<Peer>,
    ids: HashMap<Text, usize>,
    sent: HashMap<u32, Sent>,
    owed: Vec<Owed>,
}

impl Model {
    pub fn new(polite: bool, limits: Limits) -> Self {
        let (peers, ids, sent) = (Vec::new(), HashMap::new(), HashMap::new());
        Self { polite, limits, peers, ids, sent, owed: Vec::new(), tally: Tally::default() }
    }

    /// A packet identifier that no message of a client has.
    pub fn free_id(&mut self, client_id: &str) -> u16 {
        let Some(peer) = self.ids.get(client_id) else { return 1 };
        self.peers[*peer].last_id += 1;
        self.peers[*peer].last_id
    }

    /// Whether one more message of a client's may wait for its acknowledgements, beside those that it is about to say.
    pub fn has_room(&self, client_id: &str, saying: usize) -> bool {
        let peer = self.ids.get(client_id).map(|peer| &self.peers[*peer]);
        let waiting = peer.map_or(0, |peer| peer.unacknowledged.len() + peer.unreleased.len());
        waiting + saying < usize::from(self.limits.receive_max)
    }

    // ---- what clients say

    /// Notes bytes that are about to be written.
    pub fn said(&mut self, talk: &mut Talk, bytes: &[u8]) {
        talk.said.extend_from_slice(bytes);
        while !talk.doomed {
            let packet_bytes_max = match &talk.hello {
                None if talk.said.first().is_some_and(|first| first >> 4 != 1) => return talk.doomed = true,
                None => self.limits.connect_bytes_max,
                Some(_) => self.limits.packet_bytes_max,
            };
            let version = talk.version();
            match decode(&mut talk.said, version, smqtt::mqtt::Limits { packet_bytes_max }) {
                Ok(Some(packet)) => self.note(talk, packet),
                Ok(None) => return,
                Err(_) => talk.doomed = true,
            }
        }
    }

    fn note(&mut self, talk: &mut Talk, packet: Packet) {
        trace(talk, "says", &packet);
        if let Packet::Connect(connect) = packet {
            return self.note_connect(talk, *connect);
        }
        let peer = &mut self.peers[talk.peer];
        match packet {
            Packet::Publish(publish) => self.note_publish(talk, publish),
            Packet::Puback(ack) => {
                if talk.inflight.get(&ack.packet_id) == Some(&QoS::AtLeastOnce) {
                    talk.inflight.remove(&ack.packet_id);
                }
            }
            Packet::Pubrec(ack) => {
                if ack.reason.is_error() && talk.inflight.get(&ack.packet_id) == Some(&QoS::ExactlyOnce) {
                    talk.inflight.remove(&ack.packet_id);
                    peer.taken.remove(&ack.packet_id);
                }
            }
            Packet::Pubcomp(ack) => {
                if talk.inflight.get(&ack.packet_id) == Some(&QoS::ExactlyOnce) {
                    talk.inflight.remove(&ack.packet_id);
                }
            }
            Packet::Pubrel(ack) => {
                talk.releases += 1;
                peer.received.remove(&ack.packet_id);
                let expected = talk.expected.iter_mut();
                let copies = expected.filter(|e| (e.packet_id, e.qos) == (ack.packet_id, QoS::ExactlyOnce));
                copies.for_each(|expected| expected.released = true);
            }
            Packet::Subscribe(subscribe) => {
                // Until SUBACK either may hold: what there was, or what takes its place.
                for Subscription { filter, options } in &subscribe.subscriptions {
                    if let Some((qos, no_local)) = peer.active.get_mut(filter) {
                        (*qos, *no_local) = ((*qos).min(options.qos), *no_local | options.no_local);
                    }
                }
                let asked = subscribe.subscriptions.iter().map(|s| (s.filter.clone(), s.options.qos));
                peer.asked.extend(asked.clone());
                talk.asked.extend(asked);
                let filters = subscribe.subscriptions.into_iter().map(|s| (s.filter, s.options)).collect();
                talk.asking.push_back((0x90, subscribe.packet_id, filters));
            }
            Packet::Unsubscribe(unsubscribe) => {
                peer.active.retain(|filter, _| !unsubscribe.filters.contains(filter));
                let filters = unsubscribe.filters.into_iter().map(|filter| (filter, Default::default()));
                talk.asking.push_back((0xb0, unsubscribe.packet_id, filters.collect()));
            }
            Packet::Pingreq => talk.pings += 1,
            // The end, said or earned.
            _ => talk.doomed = true,
        }
    }

    fn note_connect(&mut self, talk: &mut Talk, connect: Connect) {
        if talk.hello.is_some() {
            return talk.doomed = true;
        }
        let fresh = self.peers.len();
        // Who has no name gets one of its own.
        let nameless = connect.client_id.is_empty();
        let known =
            if nameless { fresh } else { *self.ids.entry(connect.client_id.clone()).or_insert(fresh) };
        if known == fresh {
            self.peers.push(Peer::default());
        }
        talk.peer = known;
        if let Some(will) = &connect.will {
            let publish = Publish {
                topic: will.topic.clone(),
                payload: will.payload.clone(),
                qos: will.qos,
                retain: will.retain,
                ..Publish::default()
            };
            self.note_sent(&publish, known, true, true);
        }
        talk.hello = Some(connect);
    }

    fn note_publish(&mut self, talk: &mut Talk, mut publish: Publish) {
        match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                let Some(topic) = talk.aliases_in.get(&alias) else { return };
                publish.topic = topic.clone();
            }
            Some(alias) => drop(talk.aliases_in.insert(alias, publish.topic.clone())),
            None => {}
        }
        let peer = &mut self.peers[talk.peer];
        // Before CONNACK nobody knows whether the session goes on.
        let again = talk.is_in() && peer.received.contains(&publish.packet_id);
        if publish.qos != QoS::AtMostOnce && !publish.dup {
            peer.unacknowledged.push(publish.clone());
        }
        self.note_sent(&publish, talk.peer, !again, false);
        if publish.qos != QoS::AtMostOnce {
            let owed = self.owed(talk.peer, &publish);
            let (packet_id, qos) = (publish.packet_id, publish.qos);
            talk.expected.push_back(Expected { packet_id, qos, owed, released: false });
        }
    }

    fn note_sent(&mut self, publish: &Publish, from: usize, counts: bool, is_will: bool) {
        let Some(serial) = serial_of(&publish.payload) else { return };
        let owed = self.wanting(from, &publish.topic, serial);
        let sent = self.sent.entry(serial).or_insert_with(|| Sent {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            qos: publish.qos,
            retain: publish.retain,
            from,
            times: 0,
            odd: false,
            is_will,
            owed: owed.clone(),
        });
        sent.owed.retain(|one| owed.contains(one));
        sent.times += u32::from(counts && publish.qos == QoS::ExactlyOnce);
        sent.odd |= sent.topic != publish.topic
            || sent.payload != publish.payload
            || (sent.qos, sent.retain, sent.from) != (publish.qos, publish.retain, from);
    }

    /// Who gets a message for sure that was just noted. One of QoS 2 that was sent before may have been taken then, for those
    /// who subscribed then.
    fn owed(&self, from: usize, publish: &Publish) -> Vec<Owed> {
        let Some(serial) = serial_of(&publish.payload) else { return Vec::new() };
        match publish.qos {
            QoS::ExactlyOnce => self.sent[&serial].owed.clone(),
            _ => self.wanting(from, &publish.topic, serial),
        }
    }

    /// Who gets a message for sure, if it is taken now.
    fn wanting(&self, from: usize, topic: &str, serial: u32) -> Vec<Owed> {
        let wants = |peer: &Peer, own: bool| {
            let mut active = peer.active.iter();
            active.any(|(filter, (qos, no_local))| {
                *qos != QoS::AtMostOnce && !(own && *no_local) && filter_matches(filter, topic)
            })
        };
        let all = self.peers.iter().enumerate();
        let wanting = all.filter(|(index, peer)| wants(peer, *index == from));
        wanting.map(|(index, peer)| (index, peer.epoch, serial)).collect()
    }

    // ---- what clients get

    /// Takes all packets that have come.
    pub fn heard(&mut self, talk: &mut Talk) {
        loop {
            let before = talk.input.len();
            let version = match &talk.hello {
                Some(hello) => hello.version,
                // A CONNACK for what could not be read is in one of the two.
                None if talk.input.get(1) == Some(&2) => Version::V3,
                None => Version::V5,
            };
            let limits = smqtt::mqtt::Limits::default();
            match decode(&mut talk.input, version, limits).expect("the broker writes what can be read") {
                Some(packet) => self.check(talk, packet, before - talk.input.len()),
                None => return,
            }
        }
    }

    fn check(&mut self, talk: &mut Talk, packet: Packet, bytes: usize) {
        trace(talk, "hears", &packet);
        assert_eq!(
            talk.is_in(),
            !matches!(packet, Packet::Connack(_)),
            "CONNACK comes first and once: {packet:?}"
        );
        let most = talk.property(|properties| properties.packet_bytes_max).unwrap_or(u32::MAX);
        let is_message = matches!(packet, Packet::Publish(_));
        assert!(!is_message || bytes <= most as usize, "{bytes} bytes for who takes {most}");
        match packet {
            Packet::Connack(connack) => self.check_connack(talk, &connack),
            Packet::Publish(publish) => self.check_publish(talk, publish),
            Packet::Puback(ack) => self.check_acknowledged(talk, &ack, QoS::AtLeastOnce),
            Packet::Pubrec(ack) => self.check_acknowledged(talk, &ack, QoS::ExactlyOnce),
            Packet::Pubrel(ack) => {
                self.peers[talk.peer].taken.remove(&ack.packet_id);
                answer(talk, Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Pubcomp(ack) => {
                talk.releases = talk.releases.checked_sub(1).expect("PUBCOMP for a PUBREL");
                self.peers[talk.peer].unreleased.retain(|id| *id != ack.packet_id);
            }
            Packet::Suback(suback) => {
                let filters = asked_for(talk, 0x90, suback.packet_id, suback.reasons.len());
                let peer = &mut self.peers[talk.peer];
                for ((filter, options), reason) in filters.into_iter().zip(suback.reasons) {
                    assert!(filter != FORBIDDEN || reason.is_error(), "granted what is forbidden");
                    let valid = filter_is_valid(&filter);
                    if !reason.is_error() && valid && !filter.starts_with("$share/") {
                        peer.active.insert(filter, (options.qos, options.no_local));
                    }
                }
            }
            Packet::Unsuback(unsuback) => {
                let count = match talk.version() {
                    Version::V3 => talk.asking.front().map_or(0, |(_, _, filters)| filters.len()),
                    Version::V5 => unsuback.reasons.len(),
                };
                asked_for(talk, 0xb0, unsuback.packet_id, count);
            }
            Packet::Pingresp => talk.pings = talk.pings.checked_sub(1).expect("PINGRESP for a PINGREQ"),
            Packet::Disconnect(_) => {
                assert_eq!(talk.version(), Version::V5);
                talk.doomed = true;
            }
            other => panic!("no broker says {other:?}"),
        }
    }

    fn check_connack(&mut self, talk: &mut Talk, connack: &Connack) {
        if connack.reason.is_error() {
            assert!(!connack.session_present);
            return talk.doomed = true;
        }
        let hello = talk.hello.as_ref().expect("who is let in has said CONNECT");
        assert!(!(connack.session_present && hello.clean_start));
        let forbidden = hello.will.as_ref().is_some_and(|will| will.topic == FORBIDDEN);
        assert!(!forbidden, "let in with a will that is forbidden");
        self.tally.connections += 1;
        talk.welcome = Some(connack.session_present);
        let peer = &mut self.peers[talk.peer];
        if !connack.session_present {
            let (epoch, last_id) = (peer.epoch + 1, peer.last_id);
            *peer = Peer { epoch, last_id, asked: talk.asked.clone(), ..Peer::default() };
        } else if self.polite {
            // What was not acknowledged is said again, in its order, before anything new (section 4.4).
            for publish in peer.unacknowledged.clone() {
                talk.say(&Packet::Publish(Publish { dup: true, ..with_topic(publish) }));
            }
            for packet_id in peer.unreleased.clone() {
                talk.say(&Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success)));
            }
        }
    }

    fn check_acknowledged(&mut self, talk: &mut Talk, ack: &Ack, qos: QoS) {
        // In the order of the messages; what was sent twice may get one answer.
        let expected = loop {
            let next = talk.expected.pop_front().expect("an acknowledgement of a message, in order");
            if (next.packet_id, next.qos) == (ack.packet_id, qos) {
                break next;
            }
            assert!(!self.polite, "an acknowledgement is missing");
        };
        let peer = &mut self.peers[talk.peer];
        peer.unacknowledged.retain(|publish| (publish.packet_id, publish.qos) != (ack.packet_id, qos));
        if ack.reason.is_error() {
            return;
        }
        self.owed.extend(expected.owed);
        if qos == QoS::ExactlyOnce {
            // Otherwise it is free for another message already, or may be.
            if !expected.released {
                peer.received.insert(ack.packet_id);
                peer.unreleased.push(ack.packet_id);
            }
            answer(talk, Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success)));
        }
    }

    fn check_publish(&mut self, talk: &mut Talk, mut publish: Publish) {
        self.tally.deliveries += 1;
        match publish.properties.topic_alias {
            Some(alias) => {
                let most = talk.property(|properties| properties.topic_alias_max).unwrap_or(0);
                assert!((1..=most).contains(&alias), "alias {alias} of {most}");
                if publish.topic.is_empty() {
                    publish.topic =
                        talk.aliases_out.get(&alias).expect("an alias that was said before").clone();
                } else {
                    talk.aliases_out.insert(alias, publish.topic.clone());
                }
            }
            None => assert!(!publish.topic.is_empty()),
        }
        let peer = &mut self.peers[talk.peer];
        let topic = publish.topic.as_str();
        assert!(topic != FORBIDDEN, "nobody may publish there");
        let plain = |filter: &str| match SharedFilter::parse(filter) {
            Some(Some(shared)) => shared.filter.to_owned(),
            _ => filter.to_owned(),
        };
        let matching = peer.asked.iter().filter(|(filter, _)| filter_matches(&plain(filter), topic));
        let granted = matching.clone().map(|(_, qos)| *qos).max();
        let granted = granted.unwrap_or_else(|| panic!("`{topic}` for who asked for {:?}", peer.asked));
        assert!(publish.qos <= granted, "{:?} for who asked for {granted:?}", publish.qos);
        let groups = matching.filter(|(filter, _)| filter.starts_with("$share/")).count() as u32;
        if publish.qos != QoS::AtMostOnce {
            let again = talk.inflight.insert(publish.packet_id, publish.qos);
            assert!(again.is_none(), "identifier {} is in use", publish.packet_id);
            let most = talk.property(|properties| properties.receive_max).unwrap_or(u16::MAX);
            let most = most.min(self.limits.inflight_messages_max);
            assert!(talk.inflight.len() <= usize::from(most), "more than {most} unacknowledged");
        }
        let fresh = publish.qos != QoS::ExactlyOnce || peer.taken.insert(publish.packet_id);
        let ack = Ack::new(publish.packet_id, ReasonCode::Success);
        let Some(serial) = serial_of(&publish.payload) else {
            assert!(!self.polite);
            return answer_to(talk, publish.qos, ack);
        };
        let sent = &self.sent[&serial];
        if !sent.odd {
            assert_eq!((topic, &publish.payload), (sent.topic.as_str(), &sent.payload));
            assert!(publish.qos <= sent.qos);
            if fresh && publish.qos == QoS::ExactlyOnce && !sent.retain {
                self.tally.exactly_once += 1;
                let times = peer.fresh.entry(serial).or_default();
                *times += 1;
                // A shared subscription beside an ordinary one is another way.
                let most = sent.times * (1 + groups);
                assert!(*times <= most, "message {serial} came {times} times, and was sent {most}");
            }
            let first = peer.got.insert(serial);
            if self.polite && first && groups == 0 && !sent.retain && !sent.is_will {
                let last = peer.last.entry((sent.from, sent.topic.clone())).or_default();
                assert!(*last < serial, "message {serial} after {last} on {topic}");
                *last = serial;
            }
        }
        answer_to(talk, publish.qos, ack);
    }

    // ---- when nothing more comes

    /// All is said and answered for now.
    pub fn settled(&self, talks: &[Talk]) {
        let mut present = HashSet::new();
        for talk in talks.iter().filter(|talk| !talk.closed) {
            assert!(!talk.doomed, "this connection must be closed");
            assert!(!talk.is_in() || present.insert(talk.peer), "two connections in one session");
            if talk.is_in() {
                assert_eq!((talk.pings, talk.asking.len()), (0, 0), "everything is answered");
                assert!(!self.polite || talk.expected.is_empty(), "everything is acknowledged");
            }
        }
    }

    /// Whatever was acknowledged has come to everybody whose session is still the same.
    pub fn nothing_is_lost(&mut self) {
        for (peer, epoch, serial) in std::mem::take(&mut self.owed) {
            let peer = &self.peers[peer];
            if peer.epoch == epoch {
                self.tally.owed += 1;
                assert!(peer.got.contains(&serial), "message {serial} is lost");
            }
        }
    }
}

/// Prints what is said, if `SMQTT_CONVERSATION_TRACE` is set: to find out what led to a broken promise.
fn trace(talk: &Talk, verb: &str, packet: &Packet) {
    static ON: OnceLock<bool> = OnceLock::new();
    if *ON.get_or_init(|| std::env::var_os("SMQTT_CONVERSATION_TRACE").is_some()) {
        eprintln!("{}/{:p} {verb} {packet:?}", talk.slot, &talk.stream);
    }
}

/// The alias is known on the connection before, not on this one.
fn with_topic(publish: Publish) -> Publish {
    let properties = PublishProperties { topic_alias: None, ..publish.properties };
    Publish { properties, ..publish }
}

fn asked_for(talk: &mut Talk, first: u8, packet_id: u16, count: usize) -> Filters {
    let (kind, id, filters) = talk.asking.pop_front().expect("an answer to something that was asked");
    assert_eq!(
        (kind, id, filters.len()),
        (first, packet_id, count),
        "answers come in order, one for each filter"
    );
    filters
}

fn answer_to(talk: &mut Talk, qos: QoS, ack: Ack) {
    match qos {
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce => answer(talk, Packet::Puback(ack)),
        QoS::ExactlyOnce => answer(talk, Packet::Pubrec(ack)),
    }
}

/// Says it now, or keeps it for when the client is told to.
fn answer(talk: &mut Talk, packet: Packet) {
    if talk.answers { talk.say(&packet) } else { talk.unsaid.push_back(packet) }
}
