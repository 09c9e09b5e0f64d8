//! A broker that is killed again and again under load: nothing that it acknowledged is lost, and nothing of QoS 2 comes
//! twice.
//!
//! `SMQTT_CRASH_CYCLES=1000` runs it for longer than the checks do.

mod broker_support;
mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use broker_support::{Client, message, persistent};
use common::TempDir;
use common::process::Running;
use common::site::smqtt;
use smqtt::mqtt::*;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Messages under way at a time.
const WINDOW: usize = 20;
const CYCLES: usize = 12;

fn cycles() -> usize {
    std::env::var("SMQTT_CRASH_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

struct Broker {
    running: Running,
    address: SocketAddr,
}

impl Broker {
    fn start(home: &Path) -> Self {
        let mut command = smqtt(home);
        command.args(["broker", "--plain", "127.0.0.1:0", "--open", "--data"]).arg(home.join("data"));
        let running = Running::spawn(&mut command);
        let line = running.out.line("mqtt://");
        let address = line.rsplit_once("mqtt://").unwrap().1.trim().parse().unwrap();
        Self { running, address }
    }

    async fn connect(&self, client_id: &str) -> Option<Client> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let mut client = Client::over(stream);
        client.send(Packet::Connect(Box::new(persistent(Version::V5, client_id)))).await;
        match client.next().await? {
            Packet::Connack(connack) if connack.reason == ReasonCode::Success => Some(client),
            other => panic!("{other:?}"),
        }
    }
}

/// Writes a packet unless the broker is gone.
async fn send(client: &mut Client, packet: Packet) -> Option<()> {
    use tokio::io::AsyncWriteExt;
    let mut out = bytes::BytesMut::new();
    packet.encode(client.version, &mut out).unwrap();
    client.stream.write_all(&out).await.ok()
}

/// Publishes numbers, at QoS 1 and 2 in turn, as the standard demands of a client with a session.
#[derive(Default)]
struct Publisher {
    next: u64,
    last_id: u16,
    /// By packet identifier, in the order of sending: the number, and for QoS 2 whether PUBREC came.
    under_way: BTreeMap<u64, (u16, bool)>,
    acknowledged: Vec<u64>,
}

fn qos_of(number: u64) -> QoS {
    if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
}

impl Publisher {
    fn packet(number: u64, packet_id: u16, received: bool, dup: bool) -> Packet {
        if received {
            return Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success));
        }
        let publish = message("load/1", &number.to_string(), qos_of(number));
        Packet::Publish(Publish { packet_id, dup, ..publish })
    }

    /// Until the broker is gone.
    async fn run(&mut self, mut client: Client) -> Option<()> {
        let again: Vec<_> = self.under_way.iter().map(|(number, (id, rec))| (*number, *id, *rec)).collect();
        for (number, id, received) in again {
            send(&mut client, Self::packet(number, id, received, !received)).await?;
        }
        loop {
            while self.under_way.len() < WINDOW {
                let number = self.next;
                self.next += 1;
                loop {
                    self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                    if self.under_way.values().all(|(id, _)| *id != self.last_id) {
                        break;
                    }
                }
                self.under_way.insert(number, (self.last_id, false));
                send(&mut client, Self::packet(number, self.last_id, false, false)).await?;
            }
            let number_of = |id: u16, under_way: &BTreeMap<u64, (u16, bool)>| {
                under_way.iter().find(|(_, (own, _))| *own == id).map(|(number, _)| *number)
            };
            match client.next().await? {
                Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                    assert!(!ack.reason.is_error() || ack.reason == ReasonCode::PacketIdentifierNotFound);
                    if let Some(number) = number_of(ack.packet_id, &self.under_way) {
                        self.under_way.remove(&number);
                        self.acknowledged.push(number);
                    }
                }
                Packet::Pubrec(ack) => {
                    assert!(!ack.reason.is_error(), "{ack:?}");
                    if let Some(number) = number_of(ack.packet_id, &self.under_way) {
                        self.under_way.insert(number, (ack.packet_id, true));
                    }
                    send(&mut client, Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success))).await?;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Takes what comes, as the standard demands of a client with a session.
#[derive(Default)]
struct Subscriber {
    /// Packet identifiers of QoS 2 messages that were taken and not released.
    taken: HashSet<u16>,
    got: HashMap<u64, usize>,
    order: Vec<u64>,
}

impl Subscriber {
    async fn run(&mut self, client: &mut Client) -> Option<()> {
        loop {
            match client.next().await? {
                Packet::Publish(publish) => {
                    let id = publish.packet_id;
                    let number: u64 = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                    assert_eq!(publish.qos, qos_of(number));
                    let fresh = publish.qos == QoS::AtLeastOnce || self.taken.insert(id);
                    if fresh {
                        let times = self.got.entry(number).or_default();
                        *times += 1;
                        if *times == 1 {
                            self.order.push(number);
                        }
                    }
                    let ack = Ack::new(id, ReasonCode::Success);
                    let answer = match publish.qos {
                        QoS::ExactlyOnce => Packet::Pubrec(ack),
                        _ => Packet::Puback(ack),
                    };
                    send(client, answer).await?;
                }
                Packet::Pubrel(ack) => {
                    self.taken.remove(&ack.packet_id);
                    send(client, Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success))).await?;
                }
                Packet::Pingresp => return Some(()),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A number that looks random and is the same in each run.
fn scatter(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_loses_nothing_and_repeats_nothing() {
    let home = TempDir::new();
    let (mut publisher, mut subscriber) = (Publisher::default(), Subscriber::default());
    {
        let broker = Broker::start(home.path());
        let mut reader = broker.connect("reader").await.unwrap();
        reader.subscribe("load/+", QoS::ExactlyOnce).await;
        let _writer = broker.connect("writer").await.unwrap();
    }
    for cycle in 0..cycles() {
        let mut broker = Broker::start(home.path());
        let (reader, writer) = (broker.connect("reader").await, broker.connect("writer").await);
        let (mut reader, writer) = (reader.unwrap(), writer.unwrap());
        // Every third time the subscriber is away for half of it.
        let away = cycle % 3 == 2;
        let life = Duration::from_millis(20 + scatter(cycle as u64) % 180);
        let load = async {
            tokio::join!(publisher.run(writer), async {
                if away {
                    sleep(life / 2).await;
                }
                subscriber.run(&mut reader).await
            });
        };
        let _ = timeout(life, load).await;
        broker.running.kill();
    }
    // What the broker did not acknowledge is finished now, and then everything must have come.
    let broker = Broker::start(home.path());
    let mut writer = broker.connect("writer").await.unwrap();
    let mut reader = broker.connect("reader").await.unwrap();
    let under_way: Vec<_> = publisher.under_way.iter().map(|(n, (id, rec))| (*n, *id, *rec)).collect();
    for (number, id, received) in under_way {
        send(&mut writer, Publisher::packet(number, id, received, !received)).await.unwrap();
        loop {
            match writer.packet().await {
                Packet::Pubrec(ack) => {
                    send(&mut writer, Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success)))
                        .await
                        .unwrap();
                }
                Packet::Puback(_) | Packet::Pubcomp(_) => break,
                other => panic!("{other:?}"),
            }
        }
        publisher.acknowledged.push(number);
    }
    let missing = |subscriber: &Subscriber| -> Vec<u64> {
        publisher.acknowledged.iter().copied().filter(|n| !subscriber.got.contains_key(n)).collect()
    };
    let all = async {
        while !missing(&subscriber).is_empty() {
            send(&mut reader, Packet::Pingreq).await.unwrap();
            subscriber.run(&mut reader).await.unwrap();
        }
    };
    let done = timeout(Duration::from_secs(30), all).await;
    let lost = missing(&subscriber);
    assert!(
        done.is_ok() && lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        publisher.acknowledged.len()
    );
    let twice: Vec<_> =
        subscriber.got.iter().filter(|(n, times)| qos_of(**n) == QoS::ExactlyOnce && **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let in_order = subscriber.order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    println!(
        "{} cycles, {} acknowledged, {} delivered, {in_order} out of order after a retry",
        cycles(),
        publisher.acknowledged.len(),
        subscriber.got.len()
    );
    assert!(publisher.acknowledged.len() > 10 * cycles(), "there was load");
}

#[tokio::test]
async fn the_will_of_who_was_connected_is_published_once_the_broker_is_back() {
    let home = TempDir::new();
    let mut broker = Broker::start(home.path());
    let mut device = Client::over(TcpStream::connect(broker.address).await.unwrap());
    let mut connect = broker_support::connect(Version::V5, "device");
    connect.will = Some(Will { qos: QoS::AtLeastOnce, ..broker_support::will("wills/1", "gone") });
    device.send(Packet::Connect(Box::new(connect))).await;
    device.connack().await;
    // Who hears of it comes after it, and so do its rows on disk.
    let mut monitor = broker.connect("monitor").await.unwrap();
    monitor.subscribe("wills/#", QoS::AtLeastOnce).await;
    broker.running.kill();

    let mut broker = Broker::start(home.path());
    let mut monitor = broker.connect("monitor").await.unwrap();
    let will = monitor.message().await;
    assert_eq!((&*will.topic, &will.payload[..]), ("wills/1", &b"gone"[..]));
    monitor.send(Packet::Puback(Ack::new(will.packet_id, ReasonCode::Success))).await;
    assert_eq!(monitor.until_ping().await, []);
    // An acknowledgement is written within a moment, and a new subscription waits for all that came before it.
    monitor.subscribe("other", QoS::AtLeastOnce).await;
    broker.running.kill();
    let broker = Broker::start(home.path());
    let mut monitor = broker.connect("monitor").await.unwrap();
    assert_eq!(monitor.until_ping().await, []);
}

#[tokio::test]
async fn a_disk_that_is_full_refuses_what_must_be_kept_and_nothing_else() {
    let home = TempDir::new();
    // No file may grow beyond 4 MiB.
    let script = r#"trap "" XFSZ; ulimit -f 4096; exec "$0" broker --plain 127.0.0.1:0 --open --data "$1""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script, common::site::SMQTT]).arg(home.path().join("data"));
    command.env("HOME", home.path()).env_remove("SMQTT_DATA");
    let running = Running::spawn(&mut command);
    let line = running.out.line("mqtt://");
    let address = line.rsplit_once("mqtt://").unwrap().1.trim().parse().unwrap();
    let mut broker = Broker { running, address };
    let mut writer = broker.connect("writer").await.unwrap();
    let large = "x".repeat(64 << 10);
    let retained = |number: usize| Publish {
        retain: true,
        ..message(&format!("kept/{number}"), &large, QoS::AtLeastOnce)
    };
    let mut taken = 0;
    let refused = loop {
        let reason = writer.publish(retained(taken)).await;
        if reason.is_error() {
            break reason;
        }
        taken += 1;
        assert!(taken < 200, "the disk is full at last");
    };
    assert_eq!(refused, ReasonCode::QuotaExceeded);
    assert!(taken > 3, "{taken}");
    // What nobody keeps goes on.
    let stream = TcpStream::connect(broker.address).await.unwrap();
    let mut reader = Client::over(stream);
    reader.send(Packet::Connect(Box::new(broker_support::connect(Version::V5, "reader")))).await;
    reader.connack().await;
    reader.subscribe("live", QoS::ExactlyOnce).await;
    assert!(!writer.publish(message("live", "1", QoS::AtLeastOnce)).await.is_error());
    assert_eq!(reader.payload().await, "1");
    assert_eq!(writer.publish(retained(1_000)).await, ReasonCode::QuotaExceeded);
    broker.running.kill();

    let broker = Broker::start(home.path());
    let mut reader = broker.connect("late").await.unwrap();
    reader.subscribe("kept/#", QoS::AtMostOnce).await;
    let mut found = HashSet::new();
    while found.len() < taken {
        found.insert(reader.message().await.topic.to_string());
    }
    assert!((0..taken).all(|number| found.contains(&format!("kept/{number}"))));
}
