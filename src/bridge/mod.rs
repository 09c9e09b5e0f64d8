//! Carries messages between a broker of ours and any other, sealed ones untouched.
//!
//! ```text
//! route      what is carried where, and under which topic
//! flow       the QoS 1 messages of one direction that are under way
//! endpoint   a broker, and the handshake with it
//! side       a connection that is made again whenever it is lost; transport: its bytes
//! ```
//!
//! It links no broker: it is a client of both, in a process of its own, and an enrolled one of the role `bridge` at ours.
//! It opens and seals nothing and has no key that could; whether what it brings may pass is for the broker to check.
//!
//! A QoS 1 message is acknowledged on one side only after the other side has acknowledged it, and both brokers keep the
//! bridge's session: what was acknowledged to a publisher is not lost when the bridge is killed, and may then come twice.

mod endpoint;
mod flow;
mod route;
mod side;
mod transport;

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use smqtt_client::enrol::{EnrolError, keep_fresh};
use smqtt_client::keyring::SharedKeyring;
use smqtt_client::printable;
use tokio::time::Instant;

pub use endpoint::{Endpoint, Security};
pub use route::{Dropped, HOPS_MAX, Route, VIA_PROPERTY};

use crate::mqtt::{
    Ack, Packet, Publish, QoS, ReasonCode, RetainHandling, Suback, Subscribe, SubscribeProperties,
    Subscription, SubscriptionOptions, Version,
};
use endpoint::{Session, version_name};
use flow::Flow;
use side::{Event, Side};

/// Most QoS 1 messages of one direction that wait for their acknowledgement: what is announced as Receive Maximum.
pub const RECEIVE_MAX: u16 = 64;
/// Largest packet that is taken: what a broker of ours takes by default.
pub const PACKET_BYTES_MAX: u32 = 1088 << 10;
/// Bytes that wait for a broker to read them beyond which QoS 0 messages for it are dropped.
const QOS0_BACKLOG_BYTES_MAX: usize = 1 << 20;
/// How often one reason for dropping messages makes a line in the log.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a bridge does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker of ours.
    pub local: Endpoint,
    /// The other.
    pub remote: Endpoint,
    /// What goes from ours to the other.
    pub out: Vec<Route>,
    /// What comes from the other to ours.
    pub inward: Vec<Route>,
    /// What messages that were there are marked with: the name of the other broker, the same at all bridges to it.
    pub remote_name: String,
}

/// Why a bridge ends, or does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// There is nothing to do.
    #[error("nothing to carry: neither direction has a filter")]
    Idle,
    /// A filter that another one of its direction makes superfluous: its messages could come twice.
    #[error("`{narrow}` is within `{wide}`")]
    Redundant {
        /// The one.
        wide: String,
        /// The other.
        narrow: String,
    },
    /// MQTT 3.1.1 cannot tell a bridge which messages it brought itself.
    #[error("what goes out by `{out}` would come back by `{inward}`, and with MQTT 3.1.1 nobody could tell")]
    Circle {
        /// A filter of one direction.
        out: String,
        /// One of the other.
        inward: String,
    },
    /// Somebody else uses the same client id.
    #[error("another client took over the session `{client_id}` at {broker}")]
    TakenOver {
        /// Where.
        broker: String,
        /// Which.
        client_id: String,
    },
    /// The authority says so.
    #[error(transparent)]
    Revoked(EnrolError),
}

impl BridgeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Idle => Some("give `--out FILTER` or `--in FILTER`"),
            Self::Redundant { .. } => Some("leave the narrower one away"),
            Self::Circle { .. } => {
                Some("carry different topics in the two directions, or use a broker with MQTT 5.0")
            }
            Self::TakenOver { .. } => {
                Some("run one bridge only under a client id: give the other one another `--id`")
            }
            Self::Revoked(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    Local,
    Remote,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Local => Self::Remote,
            Self::Remote => Self::Local,
        }
    }
}

/// What is known of a broker, and of the messages that come from it.
struct Shore {
    endpoint: Endpoint,
    /// What its messages are marked with.
    name: String,
    routes: Vec<Route>,
    flow: Flow,
    side: Side,
    session: Option<Session>,
    /// Packet identifier of the last SUBSCRIBE.
    subscribe_id: u16,
}

impl Shore {
    fn new(endpoint: Endpoint, name: String, routes: Vec<Route>, keyring: &SharedKeyring) -> Self {
        let side = Side::new(endpoint.clone(), keyring.clone());
        Self { endpoint, name, routes, flow: Flow::default(), side, session: None, subscribe_id: 0 }
    }

    /// Writes a message from here to the other broker, as the routes say; with the QoS that it then has.
    fn send(&self, to: &mut Shore, message: Publish) -> Result<QoS, Dropped> {
        let mut message = route::carry(&self.routes, &self.name, &to.name, message)?;
        let session = to.session.as_ref().ok_or(Dropped::NotNow)?;
        if !session.takes_qos1 || message.qos == QoS::AtMostOnce {
            (message.qos, message.packet_id, message.dup) = (QoS::AtMostOnce, 0, false);
        }
        message.retain &= session.retains;
        let (qos, bytes_max) = (message.qos, session.packet_bytes_max);
        match to.side.send(&Packet::Publish(message), bytes_max) {
            Ok(()) => Ok(qos),
            Err(0) => Err(Dropped::NotNow),
            Err(bytes) => Err(Dropped::TooLarge { bytes, bytes_max }),
        }
    }

    /// Whether to listen to it. A broker of MQTT 5.0 knows how much it may send, and must be heard in any case:
    /// acknowledgements come the same way.
    fn listens(&self) -> bool {
        let polite = self.session.as_ref().is_none_or(|session| session.version == Version::V5);
        polite || !self.flow.is_full()
    }
}

struct Bridge {
    local: Shore,
    remote: Shore,
    /// Messages that were carried from our broker, and to it.
    carried: [u64; 2],
    complaints: HashMap<(Which, &'static str), (Option<Instant>, u64)>,
}

/// Carries messages until `stop`.
///
/// # Errors
/// [`BridgeError`], for what will not get better by itself. An absent broker does.
pub async fn run(
    config: Config,
    keyring: SharedKeyring,
    stop: impl Future<Output = ()>,
) -> Result<(), BridgeError> {
    if config.out.is_empty() && config.inward.is_empty() {
        return Err(BridgeError::Idle);
    }
    for routes in [&config.out, &config.inward] {
        if let Some((wide, narrow)) = route::redundant(routes) {
            let (wide, narrow) = (wide.filter.to_string(), narrow.filter.to_string());
            return Err(BridgeError::Redundant { wide, narrow });
        }
    }
    let local_name = format!("{}:{}", config.local.host, config.local.port);
    let mut bridge = Bridge {
        local: Shore::new(config.local, local_name, config.out, &keyring),
        remote: Shore::new(config.remote, config.remote_name, config.inward, &keyring),
        carried: [0; 2],
        complaints: HashMap::new(),
    };
    let result = tokio::select! {
        result = bridge.turn() => result,
        error = keep_fresh(&keyring, smqtt_client::system_now) => Err(BridgeError::Revoked(error)),
        () = stop => Ok(()),
    };
    let Bridge { local, remote, carried: [out, inward], .. } = bridge;
    tracing::info!(out, inward, "ends: messages carried");
    let leave = async { tokio::join!(local.side.close(), remote.side.close()) };
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, leave).await;
    result
}

impl Bridge {
    async fn turn(&mut self) -> Result<(), BridgeError> {
        loop {
            let pause =
                [&self.local, &self.remote].into_iter().filter_map(|shore| shore.flow.paused_until()).min();
            let timer = async {
                match pause {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let (hear_local, hear_remote) = (self.local.listens(), self.remote.listens());
            let (which, event) = tokio::select! {
                event = self.local.side.next(hear_local) => (Which::Local, Some(event)),
                event = self.remote.side.next(hear_remote) => (Which::Remote, Some(event)),
                () = timer => (Which::Local, None),
            };
            if let Some(event) = event {
                self.on(which, event)?;
            }
            self.pass_on(Which::Local);
            self.pass_on(Which::Remote);
        }
    }

    fn at(&mut self, which: Which) -> &mut Shore {
        match which {
            Which::Local => &mut self.local,
            Which::Remote => &mut self.remote,
        }
    }

    /// A broker, and the one to which its messages go.
    fn both(&mut self, which: Which) -> (&mut Shore, &mut Shore) {
        match which {
            Which::Local => (&mut self.local, &mut self.remote),
            Which::Remote => (&mut self.remote, &mut self.local),
        }
    }

    fn on(&mut self, which: Which, event: Event) -> Result<(), BridgeError> {
        match event {
            Event::Up(session) => self.connected(which, session),
            Event::Down { reason, said } => {
                let shore = self.at(which);
                if said == Some(ReasonCode::SessionTakenOver) {
                    let client_id = shore.endpoint.client_id.clone();
                    return Err(BridgeError::TakenOver { broker: shore.name.clone(), client_id });
                }
                shore.session = None;
                // One line for each time that it is lost, and one for each quarter of an hour that it stays away.
                if shore.side.failures() % 32 == 1 {
                    tracing::warn!(side = which.name(), broker = %shore.name, %reason, "broker away: trying again");
                } else {
                    tracing::debug!(side = which.name(), %reason, "broker still away");
                }
                Ok(())
            }
            Event::Packet(Packet::Publish(message)) => self.arrived(which, message),
            Event::Packet(Packet::Puback(ack)) => {
                self.acknowledged(which, &ack);
                Ok(())
            }
            Event::Packet(Packet::Suback(suback)) => {
                self.subscribed(which, &suback);
                Ok(())
            }
            Event::Packet(_) => {
                self.fail(which, ReasonCode::ProtocolError, "the broker sent what only clients send")
            }
        }
    }

    fn fail(&mut self, which: Which, reason: ReasonCode, text: &str) -> Result<(), BridgeError> {
        let event = self.at(which).side.fail(reason, text);
        self.on(which, event)
    }

    fn connected(&mut self, which: Which, session: Session) -> Result<(), BridgeError> {
        if session.version == Version::V3
            && let Some((out, inward)) = route::circular(&self.local.routes, &self.remote.routes)
        {
            let (out, inward) = (out.filter.to_string(), inward.filter.to_string());
            return Err(BridgeError::Circle { out, inward });
        }
        // From there come the messages of its own flow, and there go those of the other's.
        self.at(which.other()).flow.destination_connected();
        let shore = self.at(which);
        if let Some(identity) = &session.identity {
            shore.name = identity.id.to_string();
        }
        let version = version_name(session.version);
        tracing::info!(side = which.name(), broker = %shore.name, version, resumed = session.resumed, "connected");
        let dropped = shore.flow.source_connected(session.resumed);
        if dropped > 0 {
            tracing::warn!(
                side = which.name(),
                dropped,
                "the broker forgot the session again: dropped messages"
            );
        }
        let no_flag = session.version == Version::V3 && !shore.routes.is_empty();
        shore.session = Some(session);
        if no_flag {
            let text = "MQTT 3.1.1 does not say which messages are retained: only those kept before go on so";
            tracing::warn!(side = which.name(), "{text}");
        }
        let options = |route: &Route| SubscriptionOptions {
            qos: route.qos,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::SendIfNew,
        };
        let subscription =
            |route: &Route| Subscription { filter: route.filter.as_str().into(), options: options(route) };
        if !shore.routes.is_empty() {
            shore.subscribe_id = shore.subscribe_id.checked_add(1).unwrap_or(1);
            let subscribe = Subscribe {
                packet_id: shore.subscribe_id,
                properties: SubscribeProperties::default(),
                subscriptions: shore.routes.iter().map(subscription).collect(),
            };
            let _ = shore.side.send(&Packet::Subscribe(subscribe), usize::MAX);
        }
        Ok(())
    }

    fn subscribed(&mut self, which: Which, suback: &Suback) {
        let shore = self.at(which);
        for (route, reason) in shore.routes.iter().zip(&suback.reasons) {
            let filter = &route.filter;
            if reason.is_error() {
                let text = suback.properties.reason_string.as_deref().map(printable).unwrap_or_default();
                tracing::error!(side = which.name(), %filter, ?reason, text, "subscription refused: nothing of it is carried");
            } else {
                tracing::info!(side = which.name(), %filter, qos = *reason as u8, "subscribed");
            }
        }
    }

    /// A message from a broker.
    fn arrived(&mut self, which: Which, message: Publish) -> Result<(), BridgeError> {
        match message.qos {
            QoS::AtMostOnce => self.hand_over(which, message),
            QoS::AtLeastOnce => {
                if !self.at(which).flow.take(message, Instant::now()) {
                    let text = "the broker sent more at once than was asked for";
                    return self.fail(which, ReasonCode::ReceiveMaximumExceeded, text);
                }
            }
            QoS::ExactlyOnce => {
                let text = "the broker sent QoS 2, which was not asked for";
                return self.fail(which, ReasonCode::ProtocolError, text);
            }
        }
        Ok(())
    }

    /// A message of QoS 0: at once or not at all.
    fn hand_over(&mut self, which: Which, message: Publish) {
        let topic = message.topic.clone();
        let (from, to) = self.both(which);
        let room = to.side.is_up() && to.side.backlog_bytes() < QOS0_BACKLOG_BYTES_MAX;
        let done = if room { from.send(to, message) } else { Err(Dropped::NotNow) };
        match done {
            Ok(_) => self.carried[which as usize] += 1,
            Err(why) => self.complain(which, &topic, &why),
        }
    }

    /// A broker has, or refuses, a message that came from the other.
    fn acknowledged(&mut self, which: Which, ack: &Ack) {
        let flow = &mut self.at(which.other()).flow;
        if !ack.reason.is_error() {
            self.carried[which.other() as usize] += u64::from(flow.done(ack.packet_id));
            return;
        }
        // Of these, a full disk or too many new headers may be over in a while; the others stay.
        let passes = matches!(
            ack.reason,
            ReasonCode::QuotaExceeded
                | ReasonCode::ImplementationSpecificError
                | ReasonCode::UnspecifiedError
        );
        if passes && flow.retry(ack.packet_id, Instant::now()) {
            return;
        }
        let topic = flow.topic(ack.packet_id);
        flow.done(ack.packet_id);
        let text = ack.properties.reason_string.as_deref().map(printable);
        let why = Dropped::Refused(text.unwrap_or_else(|| format!("{:?}", ack.reason)));
        self.complain(which.other(), &topic, &why);
    }

    /// Sends what may be sent of the messages that come from `which`, and acknowledges there what the other broker has.
    fn pass_on(&mut self, which: Which) {
        let now = Instant::now();
        let (mut dropped, mut carried) = (Vec::new(), 0);
        let (from, to) = self.both(which);
        if let Some(window) = to.session.as_ref().map(|session| session.receive_max) {
            while let Some(message) = from.flow.next(window, now) {
                let (topic, id) = (message.topic.clone(), message.packet_id);
                match from.send(to, message) {
                    Ok(QoS::AtMostOnce) => carried += u64::from(from.flow.done(id)),
                    Ok(_) => {}
                    Err(why) => {
                        from.flow.done(id);
                        dropped.push((topic, why));
                    }
                }
            }
        }
        if from.side.is_up() {
            while let Some(source) = from.flow.next_ack() {
                let ack = Packet::Puback(Ack::new(source, ReasonCode::Success));
                let _ = from.side.send(&ack, usize::MAX);
            }
        }
        self.carried[which as usize] += carried;
        for (topic, why) in dropped {
            self.complain(which, &topic, &why);
        }
    }

    /// Says in the log that a message from `which` is dropped; not for each one of many.
    fn complain(&mut self, which: Which, topic: &str, why: &Dropped) {
        let (code, now) = (why.code(), Instant::now());
        let (last, unsaid) = self.complaints.entry((which, code)).or_default();
        if last.is_some_and(|last| now < last + COMPLAINT_PAUSE) {
            *unsaid += 1;
            return;
        }
        let topic = printable(topic);
        // That a message is not sent back to where it came from is as it should be.
        match why {
            Dropped::Loop | Dropped::Unasked => {
                tracing::debug!(from = which.name(), topic, code, "not carried: {why}")
            }
            _ => tracing::warn!(
                from = which.name(),
                topic,
                code,
                and_before = *unsaid,
                "dropped a message: {why}"
            ),
        }
        (*last, *unsaid) = (Some(now), 0);
    }
}
