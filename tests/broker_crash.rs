//! A router that dies again and again under load: clients notice no more than a pause.
//!
//! `SMQTT_CRASH_CYCLES=1000` runs it for longer than the checks do.

mod broker_support;
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use broker_support::{
    load::{Publisher, Subscriber},
    *,
};
use common::TempDir;
use smqtt::{
    broker::{Config, EngineKind},
    mqtt::*,
};
use tokio::time::timeout;

const CYCLES: usize = 25;
/// Messages that one subscriber gets between two deaths, so that the new router is in use.
const MESSAGES_BETWEEN: usize = 50;
const MIX: &[QoS] = &[QoS::ExactlyOnce, QoS::AtMostOnce, QoS::AtLeastOnce];

fn cycles() -> usize {
    std::env::var("SMQTT_CRASH_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_again_and_again_loses_nothing_and_repeats_nothing() {
    let data = TempDir::new();
    let mut config = Config::default();
    config.engine = EngineKind::Rumqttd;
    config.data = Some(data.path().to_owned());
    // Nothing may be dropped because a reader is slower than the writers.
    (config.limits.queue_messages_max, config.limits.queue_bytes_max) = (1 << 30, 1 << 40);
    let broker = Arc::new(TestBroker::with(config, vec![]).await);

    let count = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for (name, hello) in [
        ("steady", persistent(Version::V5, "steady")),
        ("live", connect(Version::V3, "live")),
        ("fickle", persistent(Version::V3, "fickle")),
    ] {
        let (mut client, _) = broker.connect(hello).await;
        client.subscribe("load/+", QoS::ExactlyOnce).await;
        let (count, done, broker) = (count.clone(), done.clone(), broker.clone());
        readers.push(tokio::spawn(async move {
            let mut subscriber = Subscriber::default();
            while !done.load(Ordering::SeqCst) {
                let until = subscriber.count + 100;
                client.send(Packet::Pingreq).await;
                let enough = |subscriber: &Subscriber| {
                    if name == "steady" {
                        count.store(subscriber.count, Ordering::SeqCst);
                    }
                    subscriber.count >= until
                };
                subscriber.run(&mut client, enough).await.expect("nobody is cut off");
                if name == "fickle" && subscriber.count >= until {
                    drop(client);
                    let (again, connack) = broker.connect(persistent(Version::V3, name)).await;
                    assert!(connack.session_present);
                    client = again;
                }
            }
            (name, subscriber, client)
        }));
    }
    let mut writers = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for (number, version) in [Version::V5, Version::V3, Version::V5].into_iter().enumerate() {
        let (mut client, _) = broker.connect(persistent(version, &format!("writer{number}"))).await;
        let stop = stop.clone();
        writers.push(tokio::spawn(async move {
            let mut publisher = Publisher::new(&format!("load/{number}"), MIX);
            publisher.run(&mut client, &stop).await.expect("nobody is cut off");
            publisher
        }));
    }

    for cycle in 1..=cycles() {
        broker.handle.break_engine();
        until(|| broker.handle.engine_restarts() >= cycle as u64).await;
        let before = count.load(Ordering::SeqCst);
        until(|| count.load(Ordering::SeqCst) >= before + MESSAGES_BETWEEN).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut publishers = Vec::new();
    for writer in writers {
        publishers.push(writer.await.unwrap());
    }
    done.store(true, Ordering::SeqCst);
    let publishers: Vec<&Publisher> = publishers.iter().collect();
    for reader in readers {
        let (name, mut subscriber, mut client) = reader.await.unwrap();
        let drained = timeout(DEADLINE, subscriber.drain(&mut client, &publishers)).await;
        let lost: Vec<_> = publishers.iter().map(|publisher| subscriber.missing(publisher)).collect();
        assert!(drained.is_ok(), "{name} lost {lost:?}");
        subscriber.check(&publishers);
        if name != "fickle" {
            // Who stays connected gets everything, QoS 0 included, exactly once.
            let sent: u64 = publishers.iter().map(|publisher| publisher.sent()).sum();
            let rest = async {
                while (subscriber.count as u64) < sent {
                    client.send(Packet::Pingreq).await;
                    subscriber.run(&mut client, |_| false).await.expect("nobody is cut off");
                }
            };
            assert!(timeout(DEADLINE, rest).await.is_ok(), "{name}: {} of {sent}", subscriber.count);
            subscriber.check(&publishers);
            assert_eq!(subscriber.count as u64, sent, "{name}");
        }
    }
    let acknowledged: usize = publishers.iter().map(|publisher| publisher.acknowledged.len()).sum();
    println!(
        "{} deaths of the router, {acknowledged} messages acknowledged",
        broker.handle.engine_restarts()
    );
    assert_eq!(broker.handle.engine_restarts(), cycles() as u64);
}
