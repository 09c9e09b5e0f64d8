//! Statistics under `$SYS/`.

mod broker_support;

use std::time::Duration;

use broker_support::*;
use smqtt::broker::Config;
use smqtt::mqtt::*;

/// The number at the beginning of a payload.
fn number(publish: &Publish) -> u64 {
    let text = std::str::from_utf8(&publish.payload).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn statistics_come_at_once_and_when_they_change() {
    let broker = TestBroker::direct().await;
    let (mut client, _) = broker.pipe_connect(connect(Version::V5, "client")).await;
    client.subscribe("$SYS/broker/clients/connected", QoS::AtMostOnce).await;
    let first = client.message().await;
    assert!(first.retain);
    assert_eq!(number(&first), 1);
    let (_other, _) = broker.pipe_connect(connect(Version::V3, "other")).await;
    let changed = client.message().await;
    assert!(!changed.retain);
    assert_eq!(number(&changed), 2);
    client.subscribe("$SYS/broker/uptime", QoS::AtMostOnce).await;
    let (then, later) = (number(&client.message().await), number(&client.message().await));
    assert!((then..=then + 10).contains(&later) && later > then, "{then} {later}");
}

#[tokio::test(start_paused = true)]
async fn statistics_are_no_retained_messages() {
    let broker = TestBroker::direct().await;
    let (mut client, _) = broker.pipe_connect(connect(Version::V5, "client")).await;
    client.subscribe("$SYS/broker/retained messages/count", QoS::AtMostOnce).await;
    assert_eq!(number(&client.message().await), 0);
    tokio::time::advance(Duration::from_secs(60)).await;
    client.subscribe("$SYS/broker/retained messages/count", QoS::AtMostOnce).await;
    assert_eq!(number(&client.message().await), 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_interval_there_are_none() {
    let mut config = Config::default();
    config.sys_interval = None;
    let broker = TestBroker::with(config, vec![]).await;
    let (mut client, _) = broker.pipe_connect(connect(Version::V5, "client")).await;
    client.subscribe("$SYS/#", QoS::AtMostOnce).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(client.until_ping().await, []);
}
