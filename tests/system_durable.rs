//! A broker that is killed again and again under load: nothing that it acknowledged is lost, and nothing of QoS 2 comes
//! twice.
//!
//! `SMQTT_CRASH_CYCLES=1000` runs it for longer than the checks do.

mod broker_support;
mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use broker_support::load::{Publisher, Subscriber, scatter};
use broker_support::{Client, message, persistent};
use common::TempDir;
use common::process::{Running, run};
use common::site::smqtt;
use smqtt::mqtt::*;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

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

/// What an operator is told who finds the file damaged, and that the way out is one.
#[tokio::test]
async fn a_damaged_file_is_named_with_what_to_do() {
    let home = TempDir::new();
    let broker = Broker::start(home.path());
    let mut client = broker.connect("client").await.unwrap();
    client.subscribe("a", QoS::AtLeastOnce).await;
    client.disconnect().await;
    broker.running.signal("TERM");
    broker.running.end().success();
    let state = home.path().join("data/state");
    let file = state.join("state.redb");
    let sound = std::fs::read(&file).unwrap();
    let start = || {
        let mut command = smqtt(home.path());
        command.args(["broker", "--plain", "127.0.0.1:0", "--open", "--data"]).arg(home.path().join("data"));
        command
    };
    for damaged in
        [b"no database at all".repeat(1_000), sound[..sound.len() / 2].to_vec(), vec![0xA5; sound.len()]]
    {
        std::fs::write(&file, &damaged).unwrap();
        let refused = run(&mut start(), b"");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.err);
        // The database may panic over it, which its hook says first; the error comes all the same.
        let (_, error) = refused.err.split_once("error: cannot start the broker: ").expect(&refused.err);
        let names = [file.display(), state.display()].map(|path| format!("`{path}`"));
        for part in [names[0].as_str(), "\nhint: ", &names[1], "backup", "move it away", "retained messages"]
        {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "it is left as it was found");
    }
    std::fs::rename(&state, home.path().join("away")).unwrap();
    Broker::start(home.path()).connect("client").await.unwrap();
    // The one that was put back has what it had.
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(home.path().join("away"), &state).unwrap();
    std::fs::write(&file, &sound).unwrap();
    let broker = Broker::start(home.path());
    let stream = TcpStream::connect(broker.address).await.unwrap();
    let mut client = Client::over(stream);
    client.send(Packet::Connect(Box::new(persistent(Version::V5, "client")))).await;
    assert!(client.connack().await.session_present);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_loses_nothing_and_repeats_nothing() {
    let home = TempDir::new();
    let mut publisher = Publisher::new("load/1", &[QoS::ExactlyOnce, QoS::AtLeastOnce]);
    let mut subscriber = Subscriber::default();
    let running = AtomicBool::new(false);
    {
        let broker = Broker::start(home.path());
        let mut reader = broker.connect("reader").await.unwrap();
        reader.subscribe("load/+", QoS::ExactlyOnce).await;
        let _writer = broker.connect("writer").await.unwrap();
    }
    for cycle in 0..cycles() {
        let mut broker = Broker::start(home.path());
        let (reader, writer) = (broker.connect("reader").await, broker.connect("writer").await);
        let (mut reader, mut writer) = (reader.unwrap(), writer.unwrap());
        // Every third time the subscriber is away for half of it.
        let away = cycle % 3 == 2;
        let life = Duration::from_millis(20 + scatter(cycle as u64) % 180);
        let load = async {
            tokio::join!(publisher.run(&mut writer, &running), async {
                if away {
                    sleep(life / 2).await;
                }
                subscriber.run(&mut reader, |_| false).await
            });
        };
        let _ = timeout(life, load).await;
        broker.running.kill();
    }
    // What the broker did not acknowledge is finished now, and then everything must have come.
    let broker = Broker::start(home.path());
    let mut writer = broker.connect("writer").await.unwrap();
    let mut reader = broker.connect("reader").await.unwrap();
    publisher.run(&mut writer, &AtomicBool::new(true)).await.unwrap();
    let done = timeout(Duration::from_secs(30), subscriber.drain(&mut reader, &[&publisher])).await;
    let lost = subscriber.missing(&publisher);
    let acknowledged = publisher.acknowledged.len();
    assert!(done.is_ok() && lost.is_empty(), "{} of {acknowledged} lost: {lost:?}", lost.len());
    subscriber.check(&[&publisher]);
    let delivered = subscriber.count;
    println!("{} cycles, {acknowledged} acknowledged, {delivered} delivered", cycles());
    assert!(acknowledged > 10 * cycles(), "there was load");
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
