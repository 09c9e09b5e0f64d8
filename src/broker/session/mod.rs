//! One client's session: everything that outlives a connection, and the link to the present one.
//!
//! No I/O happens here. [`SessionState`] is the whole of what must be kept to resume a session later.

pub(crate) mod incoming;
pub(crate) mod outgoing;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, MutexGuard};

use self::{
    incoming::AckQueue,
    outgoing::{Offered, Outgoing, Queued},
};
use super::{Timestamp, config::Limits, hook::Client, message::Publication};
use crate::mqtt::{QoS, ReasonCode, SubscriptionId, SubscriptionOptions, Text};

/// One client's session. Two sessions never have the same key, also if they have the same client id.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: u64,
    pub(crate) client_id: Text,
    /// Whose it is. Nobody else can resume it or take it over.
    pub(crate) owner: Option<Text>,
    state: Mutex<SessionState>,
}

/// What a session holds.
#[derive(Debug, Default)]
pub(crate) struct SessionState {
    /// By the filter as the client sent it.
    pub(crate) subscriptions: HashMap<Text, Subscribed>,
    pub(crate) outgoing: Outgoing,
    /// Packet identifiers of QoS 2 messages that were taken and not yet released.
    pub(crate) received: HashSet<u16>,
    /// How long it outlives its connection; `None` is for ever.
    pub(crate) expiry: Option<Duration>,
    /// When it ends, if nobody resumes it. Only without a link.
    pub(crate) expires_at: Option<Timestamp>,
    /// Published when the connection ends badly; without a link, when it is due.
    pub(crate) will: Option<PendingWill>,
    pub(crate) link: Option<Link>,
    /// The session has ended; nothing may be queued any more.
    pub(crate) ended: bool,
}

/// A subscription as the session knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) options: SubscriptionOptions,
    pub(crate) id: Option<SubscriptionId>,
}

/// A will that may have to be published.
#[derive(Debug)]
pub(crate) struct PendingWill {
    pub(crate) publication: Publication,
    pub(crate) client: Arc<Client>,
    pub(crate) delay: Duration,
    /// Lifetime; counts from publication, not from CONNECT.
    pub(crate) expiry: Option<Duration>,
    /// When it is due. Only without a link.
    pub(crate) due_at: Option<Timestamp>,
}

/// The session's end of the present connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: Arc<Client>,
    pub(crate) control: Arc<Control>,
    pub(crate) acks: AckQueue,
    /// Unacknowledged messages that the client takes at once.
    pub(crate) inflight_max: u16,
    /// Wakes the connection's task; there only while it sleeps.
    pub(crate) waker: Option<Waker>,
}

/// Tells a connection to end.
#[derive(Debug, Default)]
pub(crate) struct Control {
    kick: OnceLock<(ReasonCode, Text)>,
}

impl Control {
    /// Why the connection must end, if it must.
    pub(crate) fn kicked(&self) -> Option<&(ReasonCode, Text)> {
        self.kick.get()
    }
}

/// How a connection ended, as far as the session cares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The client said goodbye, so its will is void.
    pub(crate) discard_will: bool,
}

/// What remains to be done after a connection has ended.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    /// To publish now.
    pub(crate) will: Option<PendingWill>,
    /// Whether the session is over.
    pub(crate) ended: bool,
    /// When to look at it again.
    pub(crate) look_again_at: Option<Timestamp>,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl Session {
    pub(crate) fn new(client_id: Text, owner: Option<Text>) -> Self {
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        Self { key, client_id, owner, state: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock()
    }

    /// Whether somebody is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.lock().link.is_some()
    }

    /// Queues a message. Wakers that must be woken once the batch is done are added to `wakers`.
    pub(crate) fn push(&self, queued: Queued, limits: &Limits, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        if state.ended || (state.link.is_none() && queued.qos == QoS::AtMostOnce) {
            return;
        }
        if state.outgoing.offer(queued, limits) == Offered::Dropped {
            // Every power of two, so that a log says it without being flooded.
            let dropped = state.outgoing.dropped();
            if dropped.is_power_of_two() {
                tracing::warn!(client = %self.client_id, dropped, "queue full, message dropped");
            }
        }
        wakers.extend(state.link.as_mut().and_then(|link| link.waker.take()));
    }

    /// Completes an acknowledgement, if `connection` still is the present one.
    pub(crate) fn complete_ack(
        &self,
        connection: u64,
        number: u64,
        reason: ReasonCode,
        wakers: &mut Vec<Waker>,
    ) {
        let mut state = self.lock();
        let Some(link) = state.link.as_mut().filter(|link| link.client.connection == connection) else {
            return;
        };
        if link.acks.complete(number, reason, None) {
            wakers.extend(link.waker.take());
        }
    }
}

impl SessionState {
    /// The link of `connection`, unless another connection has taken over.
    pub(crate) fn link_of(&mut self, connection: u64) -> Option<&mut Link> {
        self.link.as_mut().filter(|link| link.client.connection == connection)
    }

    /// A connection takes the session; what was unacknowledged goes out again.
    pub(crate) fn attach(&mut self, link: Link, expiry: Option<Duration>, will: Option<PendingWill>) {
        self.outgoing.resume();
        self.link = Some(link);
        self.expiry = expiry;
        self.expires_at = None;
        self.will = will;
    }

    /// The connection has ended. Call once for each link.
    pub(crate) fn detach(&mut self, now: Timestamp, ending: Ending) -> Aftermath {
        self.link = None;
        self.outgoing.disconnected();
        if ending.discard_will {
            self.will = None;
        }
        if self.expiry == Some(Duration::ZERO) {
            return self.end();
        }
        self.expires_at = self.expiry.map(|expiry| now.after(expiry));
        match &mut self.will {
            Some(will) if will.delay > Duration::ZERO => {
                let due_at = now.after(will.delay);
                will.due_at = Some(self.expires_at.map_or(due_at, |end| end.min(due_at)));
                Aftermath { look_again_at: will.due_at, ..Aftermath::default() }
            }
            _ => Aftermath { will: self.will.take(), look_again_at: self.expires_at, ended: false },
        }
    }

    /// Time has passed without a connection.
    pub(crate) fn look_again(&mut self, now: Timestamp) -> Aftermath {
        if self.link.is_some() || self.ended {
            return Aftermath::default();
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return self.end();
        }
        if self.will.as_ref().and_then(|will| will.due_at).is_some_and(|at| at <= now) {
            return Aftermath { will: self.will.take(), look_again_at: self.expires_at, ended: false };
        }
        let due_at = self.will.as_ref().and_then(|will| will.due_at);
        Aftermath { look_again_at: due_at.or(self.expires_at), ..Aftermath::default() }
    }

    /// The session is over; its will, if not void, is due.
    pub(crate) fn end(&mut self) -> Aftermath {
        self.ended = true;
        self.outgoing = Outgoing::default();
        self.received = HashSet::new();
        Aftermath { will: self.will.take(), ended: true, look_again_at: None }
    }

    /// Tells the present connection to end, and wakes it. It no longer owns the session afterwards; the caller detaches.
    pub(crate) fn kick(&mut self, reason: ReasonCode, text: &str) {
        let Some(link) = &mut self.link else { return };
        // Who comes first decides what the client is told.
        let _ = link.control.kick.set((reason, Text::from(text)));
        if let Some(waker) = link.waker.take() {
            waker.wake();
        }
    }
}
