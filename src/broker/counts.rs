//! What the broker counts of itself. Names are in `docs/OPERATING.md`.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    core::Core,
    events::DropReason,
    limits::Limit,
    metrics::{Counter, Counters, Metrics, Readings, reading},
};
use crate::mqtt::{QoS, ReasonCode};

/// The broker's counters. Those that every message moves are plain numbers of each connection, see [`Tally`].
pub(crate) struct Counts {
    limits: Vec<Counter>,
    dropped: Vec<Counter>,
    received: [Counter; 3],
    sent: [Counter; 3],
    bytes_received: Counter,
    bytes_sent: Counter,
    connects: Counters<1>,
    disconnects: Counters<1>,
    refusals: Counters<2>,
    handshakes: Counters<2>,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Arc<Self> {
        let limits = Counters::new(["limit"]);
        metrics.register(
            "smqtt_limit_hits",
            "Times that a limit refused, dropped, closed or made wait",
            &limits,
        );
        let (received, sent) = (Counters::new(["qos"]), Counters::new(["qos"]));
        metrics.register("smqtt_messages_received", "PUBLISH packets from clients", &received);
        metrics.register("smqtt_messages_sent", "PUBLISH packets to clients", &sent);
        let dropped = Counters::new(["reason"]);
        metrics.register(
            "smqtt_messages_dropped",
            "Messages that a session did not get, by reason",
            &dropped,
        );
        let each_qos = |counters: &Counters<1>| ["0", "1", "2"].map(|qos| counters.with([qos]));
        let counts = Self {
            limits: Limit::ALL.iter().map(|limit| limits.with([limit.name()])).collect(),
            dropped: DropReason::ALL.iter().map(|reason| dropped.with([reason.name()])).collect(),
            received: each_qos(&received),
            sent: each_qos(&sent),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            connects: Counters::new(["result"]),
            disconnects: Counters::new(["reason"]),
            refusals: Counters::new(["point", "reason"]),
            handshakes: Counters::new(["kind", "result"]),
        };
        metrics.register("smqtt_received_bytes", "Bytes of MQTT from clients", &counts.bytes_received);
        metrics.register("smqtt_sent_bytes", "Bytes of MQTT to clients", &counts.bytes_sent);
        metrics.register("smqtt_connects", "Connections by what became of their CONNECT", &counts.connects);
        metrics.register("smqtt_disconnects", "Ends of connections that were let in", &counts.disconnects);
        metrics.register(
            "smqtt_refusals",
            "What was refused to clients, by point and reason",
            &counts.refusals,
        );
        metrics.register(
            "smqtt_handshakes",
            "Handshakes of TLS and WebSocket by their result",
            &counts.handshakes,
        );
        // What is there from the start can be seen to be zero.
        for result in ["accepted", "gone", "timeout", "evicted"] {
            counts.connects.with([result]);
        }
        for result in ["done", "failed", "timeout", "evicted"] {
            counts.handshakes.with(["tls", result]);
        }
        Arc::new(counts)
    }

    /// PUBLISH packets from clients and to clients, and messages that sessions did not get.
    pub(crate) fn messages(&self) -> (u64, u64, u64) {
        let sum = |counters: &[Counter]| counters.iter().map(Counter::get).sum();
        (sum(&self.received), sum(&self.sent), sum(&self.dropped))
    }

    /// Bytes from clients and to clients.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_received.get(), self.bytes_sent.get())
    }

    /// A limit took effect.
    pub(crate) fn hit(&self, limit: Limit) {
        self.limits[limit as usize].inc();
    }

    /// A session does not get a message.
    pub(crate) fn message_dropped(&self, reason: DropReason) {
        self.dropped[reason as usize].inc();
        match reason {
            DropReason::QueueMessages => self.hit(Limit::QueueMessages),
            DropReason::QueueBytes => self.hit(Limit::QueueBytes),
            DropReason::AllQueuesBytes => self.hit(Limit::AllQueuesBytes),
            _ => {}
        }
    }

    /// What became of a connection's CONNECT: `accepted`, `gone`, `timeout`, `evicted`.
    pub(crate) fn connect(&self, result: &str) {
        self.connects.with([result]).inc();
    }

    /// A CONNECT was refused.
    pub(crate) fn connect_refused(&self, reason: ReasonCode) {
        self.connects.with([&word(reason)]).inc();
    }

    /// A connection that was let in ended.
    pub(crate) fn disconnect(&self, reason: ReasonCode) {
        self.disconnects.with([&word(reason)]).inc();
    }

    /// Something was refused to a client that is connected.
    pub(crate) fn refuse(&self, point: &str, reason: ReasonCode) {
        self.refusals.with([point, &word(reason)]).inc();
    }

    /// How a handshake of `tls` or `websocket` ended: `done`, `failed`, `timeout`, `evicted`.
    pub(crate) fn handshake(&self, kind: &str, result: &str) {
        self.handshakes.with([kind, result]).inc();
    }
}

/// A reason code as the value of a label: `quota_exceeded`.
fn word(reason: ReasonCode) -> String {
    let mut word = String::new();
    let name = format!("{reason:?}").replace("QoS", "Qos");
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

/// What one connection counted since it last added it to the broker's counters: a few numbers for a batch of messages
/// instead of shared memory for each.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: [u64; 3],
    sent: [u64; 3],
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    /// Times that messages had to wait for the client's acknowledgements.
    pub(crate) stalled: u64,
}

impl Tally {
    pub(crate) fn received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    pub(crate) fn sent(&mut self, qos: QoS) {
        self.sent[qos as usize] += 1;
    }

    /// Adds it to the broker's counters.
    pub(crate) fn flush(&mut self, counts: &Counts) {
        let Self { received, sent, bytes_received, bytes_sent, stalled } = std::mem::take(self);
        let messages = received.into_iter().chain(sent).zip(counts.received.iter().chain(&counts.sent));
        let rest = [
            (bytes_received, &counts.bytes_received),
            (bytes_sent, &counts.bytes_sent),
            (stalled, &counts.limits[Limit::InflightMessages as usize]),
        ];
        for (count, counter) in messages.chain(rest).filter(|(count, _)| *count > 0) {
            counter.add(count);
        }
    }
}

/// How long what was found in the sessions is shown again: several metrics come from one walk.
const WALK_KEPT: Duration = Duration::from_secs(1);

/// What waits in all sessions.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    messages: usize,
    bytes_largest: usize,
    inflight: usize,
}

/// Registers what is read when somebody looks.
pub(crate) fn register_readings(core: &Arc<Core>) {
    let metrics = core.metrics.clone();
    core.store.register(&metrics);
    smqtt_metrics::register_process(&metrics);
    let of = |read: fn(&Core) -> usize| {
        let core = Arc::downgrade(core);
        reading(move || core.upgrade().map_or(0, |core| read(&core)) as f64)
    };
    let show = |name, help, read| metrics.register(name, help, &of(read));
    show("smqtt_connections", "Connections, those not yet let in included", |core| core.gate.open());
    show("smqtt_connections_pending", "Connections that have not said CONNECT", |core| core.gate.pending());
    show("smqtt_connect_bytes_pending", "Bytes of CONNECTs under way, beyond 4 KiB of each", |core| {
        core.gate.connect_bytes()
    });
    show("smqtt_sessions", "Sessions, connected or stored", |core| core.session_count());
    show("smqtt_subscriptions", "Subscriptions of all sessions", |core| core.subscription_counts().1);
    show("smqtt_filters", "Distinct filters that are subscribed to", |core| core.subscription_counts().0);
    show("smqtt_retained_messages", "Retained messages", |core| core.retained_counts().0);
    show("smqtt_retained_bytes", "Bytes of retained messages", |core| core.retained_counts().1);
    show("smqtt_queued_bytes", "Bytes that sessions hold together, each message counted once", |core| {
        core.held.bytes()
    });
    let walked = Arc::new(Mutex::new(None::<(Instant, Waiting)>));
    let waiting = |read: fn(Waiting) -> usize| {
        let (core, walked) = (Arc::downgrade(core), walked.clone());
        reading(move || read(waiting(&core, &walked)) as f64)
    };
    let show = |name, help, read| metrics.register(name, help, &waiting(read));
    show("smqtt_queued_messages", "Messages that wait for sessions", |waiting| waiting.messages);
    show("smqtt_queued_bytes_largest", "Bytes that the fullest session holds", |waiting| {
        waiting.bytes_largest
    });
    show("smqtt_inflight_messages", "Messages sent to clients and not acknowledged", |waiting| {
        waiting.inflight
    });
    let restarts = {
        let core = Arc::downgrade(core);
        let restarts = move |core: Arc<Core>| core.engine.get().map_or(0, |engine| engine.restarts());
        reading(move || core.upgrade().map_or(0, restarts) as f64).rising()
    };
    metrics.register("smqtt_router_restarts", "Routers that died and were replaced", &restarts);
    let limits = core.config.limits.clone();
    let limits = Readings::new(["limit"], move |give| {
        for limit in Limit::ALL {
            if let Some(amount) = limits.get(*limit) {
                give([limit.name()], amount);
            }
        }
    });
    metrics.register("smqtt_limit", "What each limit is set to", &limits);
    let version = Readings::new(["version"], |give| give([env!("CARGO_PKG_VERSION")], 1.0));
    metrics.register("smqtt_build_info", "Version of the broker", &version);
}

fn waiting(core: &Weak<Core>, walked: &Mutex<Option<(Instant, Waiting)>>) -> Waiting {
    let mut walked = walked.lock();
    if let Some((at, waiting)) = *walked
        && at.elapsed() < WALK_KEPT
    {
        return waiting;
    }
    let mut waiting = Waiting::default();
    for session in core.upgrade().iter().flat_map(|core| core.sessions()) {
        let (messages, bytes, inflight) = session.lock().outgoing.held();
        waiting.messages += messages;
        waiting.bytes_largest = waiting.bytes_largest.max(bytes);
        waiting.inflight += inflight;
    }
    *walked = Some((Instant::now(), waiting));
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_read_as_words() {
        assert_eq!(word(ReasonCode::QuotaExceeded), "quota_exceeded");
        assert_eq!(word(ReasonCode::QoSNotSupported), "qos_not_supported");
        assert_eq!(word(ReasonCode::GrantedQoS1), "granted_qos1");
    }
}
