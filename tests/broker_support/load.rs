//! Clients that put a broker under load and remember what it owes them: publishers of numbers at mixed QoS, subscribers
//! that take them as the standard demands of a client with a session.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use smqtt::mqtt::*;

use super::{Client, message};

/// QoS 1 and 2 messages that a publisher has under way at a time.
const WINDOW: usize = 20;

/// Publishes numbers to a topic of its own, each at the QoS that its number says.
pub struct Publisher {
    topic: String,
    mix: &'static [QoS],
    next: u64,
    last_id: u16,
    /// What is not acknowledged: packet identifier, and for QoS 2 whether PUBREC came.
    under_way: BTreeMap<u64, (u16, bool)>,
    /// QoS 1 and 2.
    pub acknowledged: Vec<u64>,
}

impl Publisher {
    pub fn new(topic: &str, mix: &'static [QoS]) -> Self {
        let (under_way, acknowledged) = (BTreeMap::new(), Vec::new());
        Self { topic: topic.into(), mix, next: 0, last_id: 0, under_way, acknowledged }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn qos_of(&self, number: u64) -> QoS {
        self.mix[number as usize % self.mix.len()]
    }

    /// How many numbers were sent.
    pub fn sent(&self) -> u64 {
        self.next
    }

    fn packet(&self, number: u64, packet_id: u16, received: bool, dup: bool) -> Packet {
        if received {
            return Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success));
        }
        let publish = message(&self.topic, &number.to_string(), self.qos_of(number));
        Packet::Publish(Publish { packet_id, dup, ..publish })
    }

    /// Sends again what is not acknowledged, as after a reconnect, then new numbers until `stop`; ends when all that was
    /// sent is acknowledged. `None` if the broker is gone before.
    pub async fn run(&mut self, client: &mut Client, stop: &AtomicBool) -> Option<()> {
        let again: Vec<_> = self.under_way.iter().map(|(number, (id, rec))| (*number, *id, *rec)).collect();
        for (number, id, received) in again {
            client.try_send(self.packet(number, id, received, !received)).await?;
        }
        loop {
            while self.under_way.len() < WINDOW && !stop.load(Ordering::Relaxed) {
                self.send_next(client).await?;
            }
            if self.under_way.is_empty() {
                return Some(());
            }
            match client.next().await? {
                Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                    assert!(!ack.reason.is_error() || ack.reason == ReasonCode::PacketIdentifierNotFound);
                    if let Some(number) = self.number_of(ack.packet_id) {
                        self.under_way.remove(&number);
                        self.acknowledged.push(number);
                    }
                }
                Packet::Pubrec(ack) => {
                    assert!(!ack.reason.is_error(), "{ack:?}");
                    if let Some(number) = self.number_of(ack.packet_id) {
                        self.under_way.insert(number, (ack.packet_id, true));
                    }
                    client.try_send(Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success))).await?;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send_next(&mut self, client: &mut Client) -> Option<()> {
        let number = self.next;
        self.next += 1;
        if self.qos_of(number) == QoS::AtMostOnce {
            return client.try_send(self.packet(number, 0, false, false)).await;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.under_way.values().all(|(id, _)| *id != self.last_id) {
                break;
            }
        }
        self.under_way.insert(number, (self.last_id, false));
        client.try_send(self.packet(number, self.last_id, false, false)).await
    }

    fn number_of(&self, id: u16) -> Option<u64> {
        self.under_way.iter().find(|(_, (own, _))| *own == id).map(|(number, _)| *number)
    }
}

/// What a subscriber got on one topic.
#[derive(Default)]
pub struct Got {
    pub times: HashMap<u64, usize>,
    /// Each number when it came first.
    pub order: Vec<u64>,
}

/// Takes what comes.
#[derive(Default)]
pub struct Subscriber {
    /// Packet identifiers of QoS 2 messages that were taken and not released.
    taken: HashSet<u16>,
    pub got: HashMap<String, Got>,
    /// Messages taken, repeated ones of QoS 1 included.
    pub count: usize,
}

impl Subscriber {
    /// Until `enough`, which is asked after each message, or until PINGRESP. `None` if the broker is gone before.
    pub async fn run(&mut self, client: &mut Client, mut enough: impl FnMut(&Self) -> bool) -> Option<()> {
        loop {
            match client.next().await? {
                Packet::Publish(publish) => {
                    self.take(&publish);
                    let ack = Ack::new(publish.packet_id, ReasonCode::Success);
                    match publish.qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => client.try_send(Packet::Puback(ack)).await?,
                        QoS::ExactlyOnce => client.try_send(Packet::Pubrec(ack)).await?,
                    }
                    if enough(self) {
                        return Some(());
                    }
                }
                Packet::Pubrel(ack) => {
                    self.taken.remove(&ack.packet_id);
                    client.try_send(Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success))).await?;
                }
                Packet::Pingresp => return Some(()),
                other => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, publish: &Publish) {
        if publish.qos == QoS::ExactlyOnce && !self.taken.insert(publish.packet_id) {
            return;
        }
        self.count += 1;
        let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
        let got = self.got.entry(publish.topic.to_string()).or_default();
        let times = got.times.entry(number).or_default();
        *times += 1;
        if *times == 1 {
            got.order.push(number);
        }
    }

    /// Of what a publisher got acknowledged, what has not come.
    pub fn missing(&self, publisher: &Publisher) -> Vec<u64> {
        let got = self.got.get(publisher.topic());
        let came = |number: &u64| got.is_some_and(|got| got.times.contains_key(number));
        publisher.acknowledged.iter().copied().filter(|number| !came(number)).collect()
    }

    /// Takes until nothing is missing that was acknowledged. The caller says how long that may take.
    pub async fn drain(&mut self, client: &mut Client, publishers: &[&Publisher]) {
        while publishers.iter().any(|publisher| !self.missing(publisher).is_empty()) {
            client.send(Packet::Pingreq).await;
            self.run(client, |_| false).await.expect("the connection stays open");
        }
    }

    /// No QoS 2 message came twice, and on each topic all came in the order of their numbers.
    pub fn check(&self, publishers: &[&Publisher]) {
        for publisher in publishers {
            let Some(got) = self.got.get(publisher.topic()) else { continue };
            let twice = |(number, times): &(&u64, &usize)| {
                publisher.qos_of(**number) == QoS::ExactlyOnce && **times > 1
            };
            let twice: Vec<_> = got.times.iter().filter(twice).collect();
            assert!(twice.is_empty(), "{}: more than once: {twice:?}", publisher.topic());
            let unordered: Vec<_> = got.order.windows(2).filter(|pair| pair[0] > pair[1]).collect();
            assert!(unordered.is_empty(), "{}: out of order: {unordered:?}", publisher.topic());
        }
    }
}

/// A number that looks random and is the same in each run.
pub fn scatter(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
