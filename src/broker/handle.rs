//! What the rest of the process may do with a running broker.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{
    core::Core,
    handshake::{self, Peer},
    hook::Denial,
    message::{Message, Publication},
    metrics::Metrics,
    session::Session,
};
use crate::mqtt::{PublishProperties, QoS, ReasonCode, Text, topic_is_valid};

/// Whom an order is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom<'a> {
    /// Every session that an identity owns.
    Identity(&'a str),
    /// The session with this client id.
    ClientId(&'a str),
}

/// What becomes of a session whose connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It goes on as if the connection had broken; its will is published.
    Keep,
    /// It is forgotten: subscriptions, queue, unacknowledged messages, will.
    Discard,
}

/// Controls a broker from inside its process. Cheap to clone; hooks may hold one.
#[derive(Clone)]
pub struct BrokerHandle {
    pub(crate) core: Arc<Core>,
}

impl BrokerHandle {
    /// Cuts connections and, if so ordered, forgets sessions, also of clients that are away. Gives the number of
    /// sessions it found.
    ///
    /// Takes effect at once: nothing more is queued for, or accepted from, a discarded session. A CONNECT whose hooks
    /// are being asked meanwhile is refused with "server busy" and may try again.
    pub fn disconnect(&self, whom: Whom<'_>, reason: ReasonCode, text: &str, stored: Stored) -> usize {
        match whom {
            Whom::ClientId(id) => {
                self.forget_late_wills(stored, |session| session.client_id == id);
                self.disconnect_sessions(reason, text, stored, || self.core.session(id).into_iter().collect())
            }
            Whom::Identity(identity) => {
                self.disconnect_identities(reason, text, stored, |owner| owner == identity)
            }
        }
    }

    /// [`Self::disconnect`] for the sessions of every identity that `whose` picks.
    pub fn disconnect_identities(
        &self,
        reason: ReasonCode,
        text: &str,
        stored: Stored,
        whose: impl Fn(&str) -> bool,
    ) -> usize {
        let is_meant = |session: &Session| session.owner.as_deref().is_some_and(&whose);
        self.forget_late_wills(stored, is_meant);
        self.disconnect_sessions(reason, text, stored, || {
            let mut sessions = self.core.sessions();
            sessions.retain(|session| is_meant(session));
            sessions
        })
    }

    /// Also of sessions that are over but for their will.
    fn forget_late_wills(&self, stored: Stored, whose: impl FnMut(&Session) -> bool) {
        if stored == Stored::Discard {
            self.core.late_wills.forget(whose);
        }
    }

    fn disconnect_sessions(
        &self,
        reason: ReasonCode,
        text: &str,
        stored: Stored,
        which: impl FnOnce() -> Vec<Arc<Session>>,
    ) -> usize {
        // Before they are looked for: who comes in afterwards asks its hooks again.
        self.core.revocations.fetch_add(1, Ordering::SeqCst);
        let sessions = which();
        for session in &sessions {
            match stored {
                Stored::Keep => session.lock().kick(reason, text),
                Stored::Discard => self.core.discard(session, reason, text),
            }
        }
        sessions.len()
    }

    /// Publishes a message of the broker's own. Publish hooks are not asked; deliver hooks are.
    ///
    /// # Errors
    /// The topic is no topic, a property does not fit the wire format, or there is no room to retain the message.
    pub fn publish(&self, message: NewMessage) -> Result<(), Denial> {
        let NewMessage { topic, payload, qos, retain, mut properties } = message;
        if !topic_is_valid(&topic) {
            return Err(Denial::new(ReasonCode::TopicNameInvalid, "not a topic"));
        }
        properties.topic_alias = None;
        properties.subscription_ids.clear();
        let expires_at = super::message::expiry(&mut properties, || self.core.clock.now());
        let message = Message { properties, expires_at, ..Message::new(topic, payload, qos, retain) };
        self.core.publish_internal(Publication::internal(message))
    }

    /// Serves a client over any stream, such as one end of a pipe. Returns when the connection ends.
    pub async fn serve<S>(&self, stream: S, address: std::net::SocketAddr)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let ticket = self.core.gate.enter_freely();
        let peer = Peer { address, certificates: None };
        handshake::serve(self.core.clone(), stream, peer, ticket).await;
    }

    /// Ends every connection with a reason; sessions stay.
    pub fn disconnect_all(&self, reason: ReasonCode, text: &str) {
        for session in self.core.sessions() {
            session.lock().kick(reason, text);
        }
    }

    /// Whether the broker does what it is there for: each part with what is wrong with it.
    pub fn health(&self) -> [(&'static str, Result<(), &'static str>); 2] {
        let serving = self.core.serving.load(Ordering::SeqCst);
        let failing = self.core.store.is_failing();
        [
            ("listeners", if serving { Ok(()) } else { Err("no connections are accepted") }),
            (
                "store",
                if failing { Err("it cannot be written: what must be kept is refused") } else { Ok(()) },
            ),
        ]
    }

    /// What the broker and its hooks count.
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// How often the engine's router died and was replaced since the start. Clients notice no more than a pause; whoever
    /// runs the broker wants to know.
    pub fn engine_restarts(&self) -> u64 {
        self.core.engine.get().map_or(0, |engine| engine.restarts())
    }

    /// Makes the engine's router die, as no client can. For tests of what happens then.
    #[doc(hidden)]
    pub fn break_engine(&self) {
        if let Some(engine) = self.core.engine.get() {
            engine.break_down();
        }
    }

    /// Connections at the moment, those not yet let in included.
    pub fn connections(&self) -> usize {
        self.core.gate.open()
    }
}

/// A message to publish from inside; see [`BrokerHandle::publish`].
#[derive(Debug, Clone, Default)]
pub struct NewMessage {
    /// Topic.
    pub topic: Text,
    /// Payload.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// Properties. Topic alias and subscription identifiers are ignored.
    pub properties: PublishProperties,
}
