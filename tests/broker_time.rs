//! Everything that depends on time, with a clock that the tests move.

mod broker_support;

use std::time::Duration;

use broker_support::*;
use smqtt::mqtt::*;
use tokio::time::{Instant, advance};

#[tokio::test(start_paused = true)]
async fn who_sends_no_connect_is_dropped() {
    let broker = TestBroker::direct().await;
    let start = Instant::now();
    let mut client = broker.pipe();
    client.send_bytes(&[0x10]).await;
    assert_eq!(client.next().await, None);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_longer_than_its_keep_alive_is_dropped() {
    for version in [Version::V3, Version::V5] {
        let broker = TestBroker::direct().await;
        let mut hello = connect(version, "client");
        hello.keep_alive_secs = 10;
        let (mut client, _) = broker.pipe_connect(hello).await;
        advance(Duration::from_secs(14)).await;
        assert_eq!(client.until_ping().await, []);
        let start = Instant::now();
        let reason = (version == Version::V5).then_some(ReasonCode::KeepAliveTimeout);
        assert_eq!(client.closed().await, reason);
        assert_eq!(start.elapsed().as_secs(), 15);
    }
}

#[tokio::test(start_paused = true)]
async fn what_drips_is_silence_and_what_takes_long_is_not() {
    let broker = TestBroker::direct().await;
    let mut hello = connect(Version::V5, "client");
    hello.keep_alive_secs = 10;
    // A PUBLISH of 20,000 bytes, a kilobyte at a time.
    let (mut slow, _) = broker.pipe_connect(hello.clone()).await;
    slow.send_bytes(&[0x30, 0xA0, 0x9C, 0x01, 0, 1, b'a', 0]).await;
    for _ in 0..19 {
        advance(Duration::from_secs(14)).await;
        slow.send_bytes(&[0; 1_024]).await;
        tokio::task::yield_now().await;
    }
    slow.send_bytes(&vec![0; 20_000 - 4 - 19 * 1_024]).await;
    assert_eq!(slow.until_ping().await, []);
    // A byte of it at a time is no packet.
    let (mut drip, _) = broker.pipe_connect(hello).await;
    let start = Instant::now();
    drip.send_bytes(&[0x30, 0xA0, 0x9C, 0x01, 0, 1, b'a', 0]).await;
    advance(Duration::from_secs(8)).await;
    drip.send_bytes(&[0]).await;
    assert_eq!(drip.closed().await, Some(ReasonCode::KeepAliveTimeout));
    assert_eq!(start.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_keep_alive_of_zero_is_no_keep_alive() {
    let broker = TestBroker::direct().await;
    let (mut client, _) = broker.pipe_connect(connect(Version::V3, "client")).await;
    advance(Duration::from_secs(1_000_000)).await;
    assert_eq!(client.until_ping().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_time_is_over() {
    let broker = TestBroker::direct().await;
    for (wait, present) in [(3_500, true), (3_700, false)] {
        let (client, _) = broker.pipe_connect(persistent(Version::V5, "client")).await;
        client.disconnect().await;
        advance(Duration::from_secs(wait)).await;
        let (_, connack) = broker.pipe_connect(persistent(Version::V5, "client")).await;
        assert_eq!(connack.session_present, present);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_expire_in_the_queue_and_tell_what_is_left() {
    let broker = TestBroker::direct().await;
    let (mut reader, _) = broker.pipe_connect(persistent(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::AtLeastOnce).await;
    reader.disconnect().await;
    let (mut writer, _) = broker.pipe_connect(connect(Version::V5, "writer")).await;
    for secs in [10, 100] {
        let mut publish = Publish { retain: true, ..message("a", &secs.to_string(), QoS::AtLeastOnce) };
        publish.properties.expiry_secs = Some(secs);
        writer.publish(publish).await;
    }
    advance(Duration::from_secs(20)).await;
    let (mut reader, _) = broker.pipe_connect(persistent(Version::V5, "reader")).await;
    let got = reader.message().await;
    assert_eq!((&got.payload[..], got.properties.expiry_secs), (&b"100"[..], Some(80)));
    let (mut late, _) = broker.pipe_connect(connect(Version::V5, "late")).await;
    late.subscribe("a", QoS::AtMostOnce).await;
    assert_eq!(late.message().await.properties.expiry_secs, Some(80));
    advance(Duration::from_secs(100)).await;
    late.subscribe("a", QoS::AtMostOnce).await;
    assert_eq!(late.until_ping().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_will_is_published_when_its_delay_is_over() {
    let broker = TestBroker::direct().await;
    let (mut reader, _) = broker.pipe_connect(connect(Version::V5, "reader")).await;
    reader.subscribe("will", QoS::AtMostOnce).await;
    let mut hello = persistent(Version::V5, "sensor");
    let mut last = will("will", "gone");
    last.properties.delay_secs = Some(60);
    last.properties.expiry_secs = Some(5);
    hello.will = Some(last);
    let (sensor, _) = broker.pipe_connect(hello).await;
    sensor.vanish(&broker).await;
    advance(Duration::from_secs(59)).await;
    assert_eq!(reader.until_ping().await, []);
    let got = reader.message().await;
    assert_eq!((&got.payload[..], got.properties.expiry_secs), (&b"gone"[..], Some(5)));
}
