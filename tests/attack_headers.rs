//! Attacks on the headers that the broker keeps: nobody takes another's, nobody makes it keep ever more, and what is still
//! to be delivered has its own.

mod broker_support;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/ward.rs"]
mod ward;

use broker_support::{Client, will};
use bytes::Bytes;
use lab::{Device, Lab, Scratch, full};
use smqtt::broker::{Config, Limit};
use smqtt::mqtt::{Publish, QoS, ReasonCode, Version, Will};
use smqtt::secure::{Denied, HeaderLimits};
use smqtt_core::envelope::SealingKey;
use ward::*;

const QUOTA: ReasonCode = ReasonCode::QuotaExceeded;

/// A ward whose broker keeps no more headers than that.
async fn site_with(limits: HeaderLimits) -> Site {
    let lab = Lab::start().await;
    lab.require("bed/+", "role=nurse and ward=$1").await;
    let sensor = lab.enrol("sensor", &["role=sensor"]).await;
    let nurse = lab.enrol("nurse", &["role=nurse", "ward=3"]).await;
    let visitor = lab.enrol("visitor", &["role=visitor"]).await;
    let device = lab.enrol_broker("broker").await;
    let broker =
        lab.broker_as(device, Config::default(), Vec::new(), |hook| hook.header_limits(limits)).await;
    Site { lab, broker, sensor, nurse, visitor }
}

/// A content key for a bed, and its first message.
fn fresh(device: &Device, bed: u32) -> (Vec<u8>, SealingKey, String) {
    let topic = format!("bed/{bed}");
    let (header, key) = device.header(&format!("role=nurse and ward={bed}"), &topic);
    (full(&header, &key.seal(&topic, b"first").unwrap()), key, topic)
}

async fn say(client: &mut Client, topic: &str, payload: &[u8]) -> Said {
    publish(client, topic, payload, QoS::AtLeastOnce).await
}

/// What a header costs at least.
async fn begin(client: &mut Client, device: &Device, bed: u32) -> (SealingKey, String) {
    let (payload, key, topic) = fresh(device, bed);
    assert_eq!(say(client, &topic, &payload).await, Said::Taken, "bed {bed}");
    (key, topic)
}

async fn goes_on(client: &mut Client, (key, topic): &(SealingKey, String)) -> Said {
    let compact = key.seal(topic, b"next").unwrap();
    say(client, topic, &compact).await
}

#[tokio::test]
async fn the_current_keys_of_a_connection_stay_whatever_others_of_its_device_bring() {
    let site = site_with(HeaderLimits { per_publisher: 3, ..HeaderLimits::default() }).await;
    let no_header = refused(ReasonCode::ImplementationSpecificError, "no-header");
    let mut steady = site.as_device(&site.sensor, Version::V5).await;
    let current = begin(&mut steady, &site.sensor, 1).await;
    let mut busy = site.as_device(&site.sensor, Version::V5).await;
    let mut keys = Vec::new();
    for bed in 2..20 {
        keys.push(begin(&mut busy, &site.sensor, bed).await);
    }
    assert_eq!(goes_on(&mut steady, &current).await, Said::Taken);
    // The busy one has the two that it brought last; what it had before made room for them.
    assert_eq!(site.broker.hook.headers().size().0, 3);
    assert_eq!(goes_on(&mut busy, &keys[17]).await, Said::Taken);
    assert_eq!(goes_on(&mut busy, &keys[16]).await, Said::Taken);
    assert_eq!(goes_on(&mut busy, &keys[15]).await, no_header);
    // A third connection has nothing of its own to give up, and may not take what others have.
    let mut third = site.as_device(&site.sensor, Version::V5).await;
    let (payload, _, topic) = fresh(&site.sensor, 30);
    assert_eq!(say(&mut third, &topic, &payload).await, refused(QUOTA, "headers"));
    assert_eq!(site.broker.denied(Denied::Message, "headers"), 1);
    assert_eq!(site.broker.hits(Limit::HeadersPerPublisher), 1);
    assert_eq!(goes_on(&mut steady, &current).await, Said::Taken);
    // Until one of them goes.
    busy.disconnect().await;
    assert_eq!(say(&mut third, &topic, &payload).await, Said::Taken);
    assert_eq!(goes_on(&mut steady, &current).await, Said::Taken);
    // A key that has run out is nobody's current one.
    site.lab.advance(3700);
    let mut fourth = site.as_device(&site.sensor, Version::V5).await;
    for bed in 40..43 {
        begin(&mut fourth, &site.sensor, bed).await;
    }
    assert_eq!(site.broker.hook.headers().size().0, 3);
}

#[tokio::test]
async fn a_new_key_for_the_same_topics_takes_the_place_of_the_old_one() {
    let site = site_with(HeaderLimits { per_publisher: 2, ..HeaderLimits::default() }).await;
    let mut first = site.as_device(&site.sensor, Version::V5).await;
    let mut second = site.as_device(&site.sensor, Version::V5).await;
    let other = begin(&mut second, &site.sensor, 2).await;
    for _ in 0..5 {
        let current = begin(&mut first, &site.sensor, 1).await;
        assert_eq!(goes_on(&mut first, &current).await, Said::Taken);
        assert_eq!(goes_on(&mut second, &other).await, Said::Taken);
    }
}

#[tokio::test]
async fn a_publisher_cannot_take_anothers_headers_nor_have_more_kept_than_there_is_room_for() {
    let probe = site_with(HeaderLimits::default()).await;
    let bytes = probe.sensor.header("role=nurse and ward=1", "bed/1").0.as_bytes().len();
    // Room for some six.
    let site = site_with(HeaderLimits { bytes: 6 * bytes + bytes / 2, ..HeaderLimits::default() }).await;
    let mut victim = site.as_device(&site.nurse, Version::V5).await;
    let current = begin(&mut victim, &site.nurse, 3).await;
    let mut hog = site.as_device(&site.sensor, Version::V5).await;
    let mut said = Vec::new();
    for bed in 0..40 {
        let (payload, _, topic) = fresh(&site.sensor, bed);
        said.push(say(&mut hog, &topic, &payload).await);
        assert!(site.broker.hook.headers().size().1 <= 6 * bytes + bytes / 2);
        assert_eq!(goes_on(&mut victim, &current).await, Said::Taken, "{bed}");
    }
    assert!(said.contains(&refused(QUOTA, "headers")), "{said:?}");
    assert!(site.broker.hits(Limit::HeadersBytes) > 0);
    // The hog's own connection ends, and there is room again for everybody.
    hog.disconnect().await;
    let mut third = site.as_device(&site.visitor, Version::V5).await;
    begin(&mut third, &site.visitor, 7).await;
    assert_eq!(goes_on(&mut victim, &current).await, Said::Taken);
}

#[tokio::test]
async fn what_is_retained_or_queued_has_its_header_however_many_come_after_it() {
    let data = Scratch::new();
    let site = Site::with(kept_in(data.path())).await;
    let (mut nurse, _) = site.resume(&site.nurse, "nurse/1").await;
    nurse.subscribe("bed/4", QoS::AtLeastOnce).await;
    nurse.disconnect().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let sealed = |topic: &str| {
        let (header, key) = site.sensor.header(&format!("role=nurse and ward={}", &topic[4..]), topic);
        full(&header, &key.seal(topic, b"36.6").unwrap())
    };
    let (kept, queued) = (sealed("bed/3"), sealed("bed/4"));
    let retained = Publish {
        topic: "bed/3".into(),
        payload: kept.clone().into(),
        retain: true,
        qos: QoS::AtLeastOnce,
        ..Publish::default()
    };
    assert_eq!(send(&mut sensor, retained).await, Said::Taken);
    assert_eq!(say(&mut sensor, "bed/4", &queued).await, Said::Taken);
    for n in 0..130 {
        if n % 60 == 0 {
            site.lab.advance(64);
        }
        begin(&mut sensor, &site.sensor, 100 + n).await;
    }
    assert_eq!(site.broker.hook.headers().size().0, 64);
    sensor.disconnect().await;

    let read = async |site: &Site| {
        let (mut nurse, present) = site.resume(&site.nurse, "nurse/1").await;
        assert!(present);
        assert_eq!(nurse.message().await.payload, queued);
        let mut late = site.as_device(&site.nurse, Version::V3).await;
        late.subscribe("bed/3", QoS::AtMostOnce).await;
        assert_eq!(late.message().await.payload, kept);
    };
    read(&site).await;
    // The publisher, if it still had that key, would be told to bring the header along, no more.
    let site = site.shut_down().await.start(kept_in(data.path())).await;
    read(&site).await;
}

/// A header may be 64 KiB: what is retained under many of them counts with them.
#[tokio::test]
async fn retained_messages_count_with_their_headers() {
    let mut config = Config::default();
    config.limits.retained_bytes_max = 4096;
    let site = Site::with(config).await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let mut said = Vec::new();
    for bed in 0..12 {
        let (payload, _, topic) = fresh(&site.sensor, bed);
        let retained = Publish {
            topic: topic.as_str().into(),
            payload: payload.into(),
            retain: true,
            qos: QoS::AtLeastOnce,
            ..Publish::default()
        };
        said.push(send(&mut sensor, retained).await);
    }
    let taken = said.iter().filter(|said| **said == Said::Taken).count();
    // Without their headers all would fit.
    assert!((2..8).contains(&taken), "{said:?}");
    assert!(matches!(said[11], Said::Refused(QUOTA, _)), "{said:?}");
}

/// A will may be due when its client, its connection and the broker's process are gone.
#[tokio::test]
async fn a_will_brings_its_header_itself() {
    let site = Site::new().await;
    let mut sensor = site.as_device(&site.sensor, Version::V5).await;
    let (payload, key, topic) = fresh(&site.sensor, 3);
    assert_eq!(say(&mut sensor, &topic, &payload).await, Said::Taken);
    let leaving = |payload: Vec<u8>| {
        let mut connect = broker_support::connect(Version::V5, "sensor/2");
        connect.will = Some(Will { payload: Bytes::from(payload), ..will(&topic, "") });
        connect
    };
    let compact = key.seal(&topic, b"gone").unwrap();
    let knock = site.knock(Some(site.sensor.identity()), leaving(compact)).await;
    assert_eq!(why(&knock.0), (ReasonCode::ImplementationSpecificError, "no-header".to_owned()));
    // Its header need not be among those kept, when it is left or when it is due.
    let (left, _, _) = fresh(&site.sensor, 3);
    let client = site.join(&site.sensor, leaving(left.clone())).await;
    let before = site.broker.hook.headers().size();
    let mut nurse = site.as_device(&site.nurse, Version::V5).await;
    nurse.subscribe(&topic, QoS::AtMostOnce).await;
    drop(client);
    assert_eq!(nurse.message().await.payload, left);
    assert_eq!(site.broker.hook.headers().size(), before);
}
