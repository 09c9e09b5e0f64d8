//! Statistics under `$SYS/broker/`, with the names that mosquitto gave them and clients know. Who subscribes gets them as
//! retained messages, and then whatever has changed; nobody but the broker publishes there (section 4.7.2).

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{
    core::Core,
    fanout::{AckToken, Routed},
    message::Message,
};
use crate::mqtt::{QoS, filter_matches};

/// What every topic of the broker's own begins with.
const ROOT: &str = "$SYS/";

/// Whether a topic is the broker's own.
pub(crate) fn is_own(topic: &str) -> bool {
    topic.starts_with(ROOT) || topic == "$SYS"
}

/// Topics and what is to be read there now.
type Values = Vec<(&'static str, String)>;

fn values(core: &Core) -> Values {
    let (connected, sessions) = (core.gate.open() - core.gate.pending(), core.session_count());
    let (received, sent, dropped) = core.counts.messages();
    let (bytes_received, bytes_sent) = core.counts.bytes();
    let uptime_secs = core.clock.now().0.saturating_sub(core.started.0) / 1000;
    vec![
        ("$SYS/broker/version", format!("smqtt {}", env!("CARGO_PKG_VERSION"))),
        ("$SYS/broker/uptime", format!("{uptime_secs} seconds")),
        ("$SYS/broker/clients/connected", connected.to_string()),
        ("$SYS/broker/clients/disconnected", sessions.saturating_sub(connected).to_string()),
        ("$SYS/broker/clients/total", sessions.to_string()),
        ("$SYS/broker/subscriptions/count", core.subscription_counts().1.to_string()),
        ("$SYS/broker/retained messages/count", core.retained_counts().0.to_string()),
        ("$SYS/broker/publish/messages/received", received.to_string()),
        ("$SYS/broker/publish/messages/sent", sent.to_string()),
        ("$SYS/broker/publish/messages/dropped", dropped.to_string()),
        ("$SYS/broker/bytes/received", bytes_received.to_string()),
        ("$SYS/broker/bytes/sent", bytes_sent.to_string()),
    ]
}

fn message(topic: &'static str, value: String) -> Arc<Message> {
    Message::new(topic.into(), Bytes::from(value), QoS::AtMostOnce, true).share()
}

/// What a new subscription to `filter` gets.
pub(crate) fn matching(core: &Core, filter: &str) -> Vec<Arc<Message>> {
    if !is_own(filter) || core.config.sys_interval.is_none() {
        return Vec::new();
    }
    let matching = values(core).into_iter().filter(|(topic, _)| filter_matches(filter, topic));
    matching.map(|(topic, value)| message(topic, value)).collect()
}

/// Sends what has changed since `last` to those who subscribe to it.
pub(crate) fn publish(core: &Core, last: &mut Values) {
    if !core.serving.load(Ordering::Relaxed) {
        return;
    }
    let now = values(core);
    let changed: Values = now.iter().filter(|value| !last.contains(value)).cloned().collect();
    *last = now;
    let mut batch = Vec::new();
    for (topic, value) in changed {
        let targets = Arc::new(core.receivers(topic));
        if !targets.is_empty() {
            let message = message(topic, value);
            batch.push(Routed { message, targets, from: 0, ack: None::<AckToken>, will_of: None });
        }
    }
    if !batch.is_empty() {
        core.submit(batch);
    }
}
