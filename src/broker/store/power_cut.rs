//! Whole sessions over the wire, on a disk that is full, or that forgets what was not synced when the power goes, again and
//! again: nothing acknowledged is lost, nothing of QoS 2 comes twice, each topic keeps its order.
//!
//! `SMQTT_CRASH_CYCLES=1000` runs it for longer than the checks do.

// The clients of the tests in `tests/`, to which the structs that they fill are not to be had in one go.
#![allow(clippy::field_reassign_with_default)]

#[path = "../../../tests/broker_support/mod.rs"]
mod broker_support;

use std::{sync::atomic::AtomicBool, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
    time::timeout,
};

use self::broker_support::{
    Client, connect,
    load::{Publisher, Subscriber, scatter},
    message, persistent, will,
};
use super::tests::Storage;
use crate::{
    broker::{Broker, BrokerHandle, Config, EngineKind},
    mqtt::{Ack, Connect, Packet, QoS, ReasonCode, Version},
};

const CYCLES: usize = 25;

fn cycles() -> usize {
    std::env::var("SMQTT_CRASH_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

/// A broker on a disk, with threads of its own, so that it can go at once and entirely.
struct Life {
    storage: Storage,
    runtime: Runtime,
    handle: BrokerHandle,
}

impl Life {
    fn begin(storage: Storage) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = Config::default();
        config.engine = EngineKind::Direct;
        // Nothing may be dropped because a reader is slower than the writers.
        (config.limits.queue_messages_max, config.limits.queue_bytes_max) = (usize::MAX, usize::MAX);
        let _inside = runtime.enter();
        let broker = Broker::over(Some(storage.disk()), config, vec![]).expect("it starts");
        let handle = broker.handle();
        runtime.spawn(broker.run(std::future::pending()));
        drop(_inside);
        Self { storage, runtime, handle }
    }

    async fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(persistent(version, client_id)).await
    }

    async fn connect_with(&self, connect: Connect) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let handle = self.handle.clone();
        self.runtime.spawn(async move { handle.serve(theirs, ([127, 0, 0, 1], 1).into()).await });
        let mut client = Client::over(ours);
        client.version = connect.version;
        client.send(Packet::Connect(Box::new(connect))).await;
        assert_eq!(client.connack().await.reason, ReasonCode::Success);
        client
    }

    /// The power goes: what the disk has afterwards.
    fn end(self, survives: impl FnMut() -> bool) -> Storage {
        let after = self.storage.cut(survives);
        self.storage.let_go();
        drop(self.handle);
        self.runtime.shutdown_background();
        after
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_goes_again_and_again_and_nothing_acknowledged_is_lost() {
    let versions = [Version::V5, Version::V3];
    let mut publishers =
        versions.map(|v| Publisher::new(&format!("load/{v:?}"), &[QoS::ExactlyOnce, QoS::AtLeastOnce]));
    let mut subscribers = versions.map(|_| Subscriber::default());
    let mut storage = Storage::default();
    let running = AtomicBool::new(false);
    let (mut within_a_sync, mut unsynced) = (0, 0);
    {
        let life = Life::begin(storage);
        for version in versions {
            let mut reader = life.connect(version, &format!("reader {version:?}")).await;
            reader.subscribe("load/+", QoS::ExactlyOnce).await;
        }
        storage = life.end(|| false);
    }
    for cycle in 0..cycles() as u64 {
        let life = Life::begin(storage);
        let mut clients = Vec::new();
        for version in versions {
            clients.push(life.connect(version, &format!("reader {version:?}")).await);
            clients.push(life.connect(version, &format!("writer {version:?}")).await);
        }
        let [r0, w0, r1, w1] = &mut clients[..] else { unreachable!() };
        let ([p0, p1], [s0, s1]) = (&mut publishers, &mut subscribers);
        let load = async {
            tokio::join!(
                p0.run(w0, &running),
                p1.run(w1, &running),
                s0.run(r0, |_| false),
                s1.run(r1, |_| false)
            )
        };
        // In turn: within a sync, before it has done anything, and at any moment.
        let within = cycle.is_multiple_of(2);
        let cut = async {
            if within {
                life.storage.hold_sync(1 + scatter(cycle) % 12);
                life.storage.held().await;
            } else {
                tokio::time::sleep(Duration::from_micros(scatter(cycle) % 20_000)).await;
            }
        };
        // From here on the clients hear nothing more.
        tokio::select! {
            biased;
            () = cut => {}
            ended = load => panic!("{ended:?}"),
        }
        within_a_sync += usize::from(within);
        unsynced += usize::from(life.storage.has_unsynced());
        let mut random = cycle;
        storage = life.end(|| {
            random += 1;
            scatter(random).is_multiple_of(2)
        });
    }
    let life = Life::begin(storage);
    let stop = AtomicBool::new(true);
    for (publisher, version) in publishers.iter_mut().zip(versions) {
        let mut writer = life.connect(version, &format!("writer {version:?}")).await;
        publisher.run(&mut writer, &stop).await.expect("the connection stays open");
    }
    let publishers: Vec<&Publisher> = publishers.iter().collect();
    for (subscriber, version) in subscribers.iter_mut().zip(versions) {
        let mut reader = life.connect(version, &format!("reader {version:?}")).await;
        let drained = timeout(broker_support::DEADLINE, subscriber.drain(&mut reader, &publishers)).await;
        let lost: Vec<_> = publishers.iter().map(|publisher| subscriber.missing(publisher)).collect();
        assert!(drained.is_ok(), "lost: {lost:?}");
        subscriber.check(&publishers);
    }
    life.end(|| false);
    let acknowledged: usize = publishers.iter().map(|publisher| publisher.acknowledged.len()).sum();
    println!(
        "{} power cuts, {within_a_sync} of them within a sync, {unsynced} with writes unsynced; {acknowledged} acknowledged",
        cycles()
    );
    assert!(acknowledged > 10 * cycles() && unsynced >= within_a_sync, "there was something to lose");
}

#[tokio::test]
async fn a_qos_2_message_that_cannot_be_kept_reaches_nobody_and_may_come_again() {
    for version in [Version::V5, Version::V3] {
        let life = Life::begin(Storage::default());
        let mut absent = life.connect(Version::V5, "absent").await;
        absent.subscribe("a", QoS::ExactlyOnce).await;
        let mut live = life.connect_with(connect(Version::V5, "live")).await;
        live.subscribe("a", QoS::ExactlyOnce).await;
        let mut writer = life.connect(version, "writer").await;
        life.storage.fill(true);
        let once = || crate::mqtt::Publish { packet_id: 9, ..message("a", "once", QoS::ExactlyOnce) };
        writer.send(Packet::Publish(once())).await;
        match (version, writer.next().await) {
            (Version::V5, Some(Packet::Pubrec(ack))) => assert_eq!(ack.reason, ReasonCode::QuotaExceeded),
            // MQTT 3.1.1 knows no such answer.
            (Version::V3, None) => writer = life.connect(version, "writer").await,
            (_, other) => panic!("{other:?}"),
        }
        assert_eq!(live.until_ping().await, []);
        // One for each of the two that would have got it.
        let dropped = "smqtt_messages_dropped_total{reason=\"store_failing\"} 2\n";
        assert!(life.handle.metrics().render().contains(dropped));
        life.storage.fill(false);
        // Until the disk is found writable again, it is refused again.
        loop {
            writer.send(Packet::Publish(once())).await;
            match writer.next().await {
                Some(Packet::Pubrec(ack)) if ack.reason.is_error() => {}
                Some(Packet::Pubrec(_)) => break,
                None => writer = life.connect(version, "writer").await,
                other => panic!("{other:?}"),
            }
        }
        for reader in [&mut live, &mut absent] {
            let got = reader.message().await;
            assert_eq!((&got.payload[..], got.qos), (&b"once"[..], QoS::ExactlyOnce));
            reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
            assert!(matches!(reader.packet().await, Packet::Pubrel(_)));
            assert_eq!(reader.until_ping().await, []);
        }
        life.end(|| false);
    }
}

/// Packets that are answered when the disk has something cost a client a few bytes each. While the disk stands still only so
/// many pile up, the rest waits with the client, and in the end each has its answer.
#[tokio::test]
async fn what_waits_for_a_stalled_disk_is_bounded() {
    const FLOOD: usize = 50_000;
    for what in ["released", "acknowledged", "sent"] {
        let life = Life::begin(Storage::default());
        let mut client = life.connect(Version::V3, "client").await;
        // A message is released once; what came after that is told again.
        let mut count = FLOOD;
        let (packets, expected) = match what {
            // One that nobody sent, over and over.
            "released" => (vec![0x62, 2, 0, 1], vec![0x70, 2, 0, 1]),
            // One that the client has.
            "acknowledged" => {
                client.subscribe("a", QoS::ExactlyOnce).await;
                let mut writer = life.connect(Version::V5, "writer").await;
                writer.publish(message("a", "x", QoS::ExactlyOnce)).await;
                let [high, low] = client.message().await.packet_id.to_be_bytes();
                count = FLOOD - 1_023;
                (vec![0x50, 2, high, low], vec![0x62, 2, high, low])
            }
            // Two, and copies of them in turn. The sync fails in the end, and 3.1.1 has no word for that.
            _ => {
                count = 0;
                let retained = |id| [0x35, 6, 0, 1, b'a', 0, id, b'x'];
                ([retained(1), retained(2)].concat(), vec![0])
            }
        };
        let flood = packets.repeat(FLOOD);
        life.storage.hold_sync(1);
        let (mut input, mut output) = tokio::io::split(&mut client.stream);
        let mut sent = 0;
        let mut held = false;
        while !held {
            tokio::select! {
                biased;
                written = output.write(&flood[sent..]) => sent += written.unwrap(),
                () = tokio::task::yield_now() => held = shows(&life, "smqtt_limit_hits_total{limit=\"answers_waiting_max\"} 1"),
            }
        }
        // What is handled, what was read with it, and what the pipe holds.
        assert!(sent <= packets.len() * 1_024 + 3 * (64 << 10), "{sent}");
        life.storage.let_go();
        let mut answers = vec![0; expected.len() * count];
        let (written, read) = tokio::join!(output.write_all(&flood[sent..]), input.read_exact(&mut answers));
        assert!(read.is_ok() && (written.is_ok() || count == 0), "{what}");
        assert!(answers.chunks(expected.len()).all(|answers| answers == expected), "{what}");
        life.end(|| false);
    }
}

#[tokio::test]
async fn a_will_that_a_full_disk_refuses_is_published_when_there_is_room() {
    let life = Life::begin(Storage::default());
    let mut reader = life.connect(Version::V5, "reader").await;
    reader.subscribe("wills/#", QoS::AtLeastOnce).await;
    let mut sensor = persistent(Version::V5, "sensor");
    sensor.will = Some(crate::mqtt::Will { qos: QoS::AtLeastOnce, retain: true, ..will("wills/1", "gone") });
    let sensor = life.connect_with(sensor).await;
    life.storage.fill(true);
    let mut writer = life.connect_with(connect(Version::V5, "writer")).await;
    let refused = writer.publish(message("wills/2", "x", QoS::AtLeastOnce)).await;
    assert_eq!(refused, ReasonCode::QuotaExceeded);
    // QoS 1 goes out before it is known whether it can be kept; it is not over for that.
    assert_eq!(reader.payload().await, "x");
    drop(sensor);
    broker_support::until(|| life.handle.connections() == 2).await;
    assert_eq!(reader.until_ping().await, []);
    life.storage.fill(false);
    assert_eq!(reader.payload().await, "gone");
    let mut late = life.connect_with(connect(Version::V5, "late")).await;
    late.subscribe("wills/1", QoS::AtMostOnce).await;
    assert_eq!(late.payload().await, "gone");
    life.end(|| false);
}

/// What a new subscriber gets of a topic.
async fn retained_on(life: &Life, topic: &str) -> Vec<String> {
    let mut late = life.connect_with(connect(Version::V5, "late")).await;
    late.subscribe(topic, QoS::AtMostOnce).await;
    let payload = |packet| match packet {
        Packet::Publish(publish) => String::from_utf8(publish.payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    late.until_ping().await.into_iter().map(payload).collect()
}

/// Publishes, over and over, until there is room again.
async fn until_kept(writer: &mut Client, topic: &str, payload: &str) {
    let retained = || crate::mqtt::Publish { retain: true, ..message(topic, payload, QoS::AtLeastOnce) };
    while writer.publish(retained()).await.is_error() {}
}

#[tokio::test]
async fn a_retained_message_that_a_full_disk_refuses_is_as_if_it_had_never_come() {
    for (old, has_room_again) in [(None, false), (None, true), (Some("old"), false), (Some("old"), true)] {
        let there: Vec<&str> = old.into_iter().collect();
        let life = Life::begin(Storage::default());
        let mut writer = life.connect_with(connect(Version::V5, "writer")).await;
        let mut live = life.connect_with(connect(Version::V5, "live")).await;
        if let Some(old) = old {
            until_kept(&mut writer, "a", old).await;
        }
        live.subscribe("a", QoS::AtLeastOnce).await;
        for old in &there {
            assert_eq!(live.payload().await, *old);
        }
        life.storage.fill(true);
        // The first one finds out that the disk is full: who subscribed before has got it.
        let new = || crate::mqtt::Publish { retain: true, ..message("a", "new", QoS::AtLeastOnce) };
        for _ in 0..2 {
            assert_eq!(writer.publish(new()).await, ReasonCode::QuotaExceeded);
            assert_eq!(retained_on(&life, "a").await, there);
        }
        assert_eq!(live.payload().await, "new");
        assert_eq!(live.until_ping().await, []);
        if has_room_again {
            life.storage.fill(false);
            until_kept(&mut writer, "b", "x").await;
            assert_eq!(retained_on(&life, "a").await, there);
        }
        drop((writer, live));

        let life = Life::begin(life.end(|| false));
        assert_eq!(retained_on(&life, "a").await, there);
        // It may come again.
        let mut writer = life.connect_with(connect(Version::V5, "writer")).await;
        until_kept(&mut writer, "a", "new").await;
        assert_eq!(retained_on(&life, "a").await, ["new"]);
        drop(writer);
        let life = Life::begin(life.end(|| false));
        assert_eq!(retained_on(&life, "a").await, ["new"]);
        life.end(|| false);
    }
}

/// One commit fails with the older of two messages; what becomes of the newer one decides what the topic has.
#[tokio::test]
async fn a_newer_retained_message_does_not_go_with_an_older_one() {
    for full in [false, true] {
        let life = Life::begin(Storage::default());
        let mut writer = life.connect_with(connect(Version::V5, "writer")).await;
        until_kept(&mut writer, "a", "old").await;
        life.storage.hold_sync(1);
        let mut refused = Vec::new();
        for (packet_id, payload) in [(1, "older"), (2, "newer")] {
            let retained = message("a", payload, QoS::AtLeastOnce);
            writer.send(Packet::Publish(crate::mqtt::Publish { packet_id, retain: true, ..retained })).await;
            if packet_id == 1 {
                life.storage.held().await;
            }
        }
        while retained_on(&life, "a").await != ["newer"] {}
        life.storage.fill(full);
        life.storage.let_go();
        for _ in 0..2 {
            let Packet::Puback(ack) = writer.packet().await else { panic!("PUBACK expected") };
            refused.push(ack.reason.is_error());
        }
        assert_eq!(refused, [true, full]);
        let there = [if full { "old" } else { "newer" }];
        assert_eq!(retained_on(&life, "a").await, there);
        drop(writer);
        let life = Life::begin(life.end(|| false));
        assert_eq!(retained_on(&life, "a").await, there);
        life.end(|| false);
    }
}

/// PUBREL and PUBCOMP wait for the disk in silence, and come when there is room; everything else is answered.
#[tokio::test]
async fn qos_2_goes_on_when_a_full_disk_has_room_again() {
    let life = Life::begin(Storage::default());
    let mut reader = life.connect(Version::V5, "reader").await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    let mut writer = life.connect(Version::V5, "writer").await;
    let publish = crate::mqtt::Publish { packet_id: 9, ..message("a", "x", QoS::ExactlyOnce) };
    writer.send(Packet::Publish(publish)).await;
    assert!(matches!(writer.packet().await, Packet::Pubrec(ack) if !ack.reason.is_error()));
    let got = reader.message().await;
    life.storage.fill(true);
    for _ in 0..2 {
        reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
        writer.send(Packet::Pubrel(Ack::new(9, ReasonCode::Success))).await;
        let failed = life.handle.metrics().render();
        let failed = failed
            .lines()
            .find(|line| line.starts_with("smqtt_store_commits_failed_total "))
            .map(str::to_owned);
        broker_support::until(|| {
            let text = life.handle.metrics().render();
            !text.lines().any(|line| Some(line) == failed.as_deref())
        })
        .await;
        assert_eq!((reader.until_ping().await, writer.until_ping().await), (vec![], vec![]));
    }
    life.storage.fill(false);
    assert!(matches!(reader.packet().await, Packet::Pubrel(ack) if ack.packet_id == got.packet_id));
    assert!(matches!(writer.packet().await, Packet::Pubcomp(ack) if ack.packet_id == 9));
    life.end(|| false);
}

#[tokio::test]
async fn retained_messages_can_be_taken_away_while_the_disk_is_full() {
    let life = Life::begin(Storage::default());
    let mut writer = life.connect_with(connect(Version::V5, "writer")).await;
    let retained = |topic: &str, payload: &str| {
        let mut publish = message(topic, payload, QoS::AtLeastOnce);
        publish.retain = true;
        publish
    };
    assert!(!writer.publish(retained("kept/1", "x")).await.is_error());
    life.storage.fill(true);
    for _ in 0..2 {
        assert_eq!(writer.publish(retained("kept/2", "y")).await, ReasonCode::QuotaExceeded);
    }
    // It is tried, though not acknowledged as done before the disk has it.
    assert_eq!(writer.publish(retained("kept/1", "")).await, ReasonCode::QuotaExceeded);
    let mut late = life.connect_with(connect(Version::V5, "late")).await;
    late.subscribe("kept/1", QoS::AtMostOnce).await;
    assert_eq!(late.until_ping().await, []);
    life.storage.fill(false);
    while writer.publish(retained("kept/3", "z")).await.is_error() {}
    drop((writer, late));

    // What was written when there was room again is without it.
    let life = Life::begin(life.end(|| false));
    let mut late = life.connect_with(connect(Version::V5, "late")).await;
    late.subscribe("kept/1", QoS::AtMostOnce).await;
    assert_eq!(late.until_ping().await, []);
    life.end(|| false);
}

fn shows(life: &Life, line: &str) -> bool {
    life.handle.metrics().render().lines().any(|shown| shown == line)
}

/// PUBCOMP comes after the PUBREC that it belongs to, also where that waits for the acknowledgement of a message before.
#[tokio::test]
async fn nothing_overtakes_an_acknowledgement_that_waits_for_the_disk() {
    let life = Life::begin(Storage::default());
    let mut client = life.connect_with(connect(Version::V5, "client")).await;
    life.storage.hold_sync(1);
    let kept = crate::mqtt::Publish { retain: true, packet_id: 1, ..message("a", "x", QoS::AtLeastOnce) };
    client.send(Packet::Publish(kept)).await;
    let publish = crate::mqtt::Publish { packet_id: 2, ..message("b", "x", QoS::ExactlyOnce) };
    client.send(Packet::Publish(publish)).await;
    client.send(Packet::Pubrel(Ack::new(2, ReasonCode::Success))).await;
    client.send(Packet::Pingreq).await;
    // The last has not been read either, so there is no other sign that the others were.
    broker_support::until(|| shows(&life, "smqtt_messages_received_total{qos=\"2\"} 1")).await;
    life.storage.let_go();
    assert!(matches!(client.packet().await, Packet::Puback(ack) if ack.packet_id == 1));
    assert!(matches!(client.packet().await, Packet::Pubrec(ack) if ack.packet_id == 2));
    assert!(matches!(client.packet().await, Packet::Pubcomp(ack) if ack.packet_id == 2));
    assert_eq!(client.packet().await, Packet::Pingresp);
    life.end(|| false);
}

/// Whoever leaves does not wait for answers that a full disk keeps back.
#[tokio::test]
async fn who_leaves_while_the_disk_is_full_is_gone() {
    let life = Life::begin(Storage::default());
    let mut reader = life.connect(Version::V5, "reader").await;
    reader.subscribe("a", QoS::ExactlyOnce).await;
    let mut writer = life.connect(Version::V5, "writer").await;
    writer.publish(message("a", "x", QoS::ExactlyOnce)).await;
    let got = reader.message().await;
    life.storage.fill(true);
    reader.send(Packet::Pubrec(Ack::new(got.packet_id, ReasonCode::Success))).await;
    reader
        .send(Packet::Disconnect(crate::mqtt::Disconnect {
            reason: ReasonCode::Success,
            properties: Default::default(),
        }))
        .await;
    drop(reader);
    let is_there = || {
        let mut there = false;
        life.handle
            .look_at_sessions(|session| there |= session.client_id == "reader" && session.client.is_some());
        there
    };
    broker_support::until(|| !is_there()).await;
    life.end(|| false);
}

/// Messages of the broker's own have nobody who waits to hear whether they were kept, and leave nothing behind.
#[tokio::test]
async fn retained_messages_of_the_broker_leave_nothing_behind() {
    let life = Life::begin(Storage::default());
    for number in 0..100 {
        let message = crate::broker::NewMessage {
            topic: "a".into(),
            payload: number.to_string().into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Default::default(),
        };
        life.handle.publish(message).unwrap();
    }
    broker_support::until(|| shows(&life, "smqtt_queued_bytes 0.0")).await;
    assert_eq!(retained_on(&life, "a").await, ["99"]);
    life.end(|| false);
}
