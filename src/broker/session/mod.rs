//! One client's session: everything that outlives a connection, and the link to the present one.
//!
//! No I/O happens here. [`SessionState`] is the whole of what must be kept to resume a session later.

pub(crate) mod held;
pub(crate) mod incoming;
pub(crate) mod outgoing;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use self::{
    held::Total,
    incoming::{AckQueue, Taken},
    outgoing::{Outgoing, Queued},
};
use super::{
    Timestamp,
    config::Limits,
    events::{DropReason, Dropped, SessionEnd, Whose},
    fanout::AckToken,
    group::{Aside, Group},
    hook::Client,
    hooks::Hooks,
    message::Publication,
    store::{SessionRecord, Store, WillRecord},
};
use crate::mqtt::{Packet, QoS, ReasonCode, SubscriptionId, SubscriptionOptions, Text, Version};

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
    /// QoS 2 messages that were taken and not yet released, by packet identifier.
    pub(crate) received: HashMap<u16, Taken>,
    /// How long it outlives its connection; `None` is for ever.
    pub(crate) expiry: Option<Duration>,
    /// When it ends, if nobody resumes it. Only without a link.
    pub(crate) expires_at: Option<Timestamp>,
    /// Published when the connection ends badly; without a link, when it is due.
    pub(crate) will: Option<PendingWill>,
    pub(crate) link: Option<Link>,
    /// The session has ended; nothing may be queued any more.
    pub(crate) ended: bool,
    /// What of it outlives the process.
    pub(crate) kept: Kept,
}

/// What of a session is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing: it ends with its connection.
    #[default]
    Not,
    /// Its will alone, which is to be published even if the broker is killed.
    Will,
    /// Everything.
    Whole,
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

impl PendingWill {
    fn record(&self) -> WillRecord {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        WillRecord {
            message: super::store::will_message(&self.publication.message).to_vec(),
            delay_ms: millis(self.delay),
            expiry_ms: self.expiry.map(millis),
            due_at: self.due_at.map(|at| at.0),
            v5: self.client.version == Version::V5,
            peer: self.client.peer.to_string(),
        }
    }
}

/// The session's end of the present connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: Arc<Client>,
    pub(crate) control: Arc<Control>,
    pub(crate) acks: AckQueue,
    /// QoS 2 messages that came on this connection and are not released. Those of earlier connections do not count against
    /// the receive maximum (section 3.3.4).
    pub(crate) unreleased: usize,
    /// Other packets that waited for something and are to be written now.
    pub(crate) answers: Vec<Packet>,
    /// SUBACKs that wait for the disk. Messages go out after them, as clients that subscribe expect.
    pub(crate) subacks_waiting: usize,
    /// Unacknowledged messages that the client takes at once.
    pub(crate) inflight_max: u16,
    /// Wakes the connection's task; there only while it sleeps.
    pub(crate) waker: Option<Waker>,
}

/// What others do to a connection: tell it to end, or make it wait.
#[derive(Debug, Default)]
pub(crate) struct Control {
    kick: OnceLock<(ReasonCode, Text)>,
    /// Answers that wait for the disk.
    answers_waiting: AtomicUsize,
}

impl Control {
    /// Why the connection must end, if it must.
    pub(crate) fn kicked(&self) -> Option<&(ReasonCode, Text)> {
        self.kick.get()
    }

    /// An answer begins to wait for the disk. Call [`Session::answer`] when it is there.
    pub(crate) fn wait(&self) {
        self.answers_waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers wait for the disk.
    pub(crate) fn answers_waiting(&self) -> usize {
        self.answers_waiting.load(Ordering::Relaxed)
    }
}

/// How a connection ended, as far as the session cares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The client said goodbye, so its will is void.
    pub(crate) discard_will: bool,
}

/// What became of a message for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits, and will be on disk.
    Kept,
    /// It waits.
    Taken,
    /// The queue is full, of a session that should not lose any.
    NoRoom,
    /// It was of no use to the session, or of QoS 0.
    Gone,
}

/// What remains to be done after a connection has ended.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    /// To publish now.
    pub(crate) will: Option<PendingWill>,
    /// Why the session is over, if it is.
    pub(crate) ended: Option<SessionEnd>,
    /// When to look at it again.
    pub(crate) look_again_at: Option<Timestamp>,
    /// Messages that its client does not get, and why: all, or if it goes on those that may not wait for it.
    pub(crate) lost: Vec<(Queued, DropReason)>,
    /// Those of them that other members of its groups get.
    pub(crate) passed_on: Vec<Queued>,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl Session {
    /// One whose messages are part of what all sessions hold.
    pub(crate) fn new(client_id: Text, owner: Option<Text>, held: &Total) -> Self {
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        Self { key, client_id, owner, state: Mutex::new(SessionState::within(held)) }
    }

    /// One from the store, whose key nobody gets again.
    pub(crate) fn restored(key: u64, client_id: Text, owner: Option<Text>, state: SessionState) -> Self {
        Self::reserve(key);
        Self { key, client_id, owner, state: Mutex::new(state) }
    }

    /// No session gets this key any more.
    pub(crate) fn reserve(key: u64) {
        NEXT_KEY.fetch_max(key.saturating_add(1), Ordering::Relaxed);
    }

    /// Notes what the session is, without what belongs to it under keys of its own.
    pub(crate) fn note(&self, state: &SessionState, store: &Store) {
        if state.kept == Kept::Not || state.ended || !store.is_there() {
            return;
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let record = SessionRecord {
            client_id: self.client_id.as_str().into(),
            owner: self.owner.as_ref().map(|owner| owner.as_str().into()),
            expiry_ms: state.expiry.map(millis),
            expires_at: state.expires_at.map(|at| at.0),
            will: state.will.as_ref().map(PendingWill::record),
            whole: state.kept == Kept::Whole,
        };
        store.put_session(self.key, &record);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock()
    }

    /// Whether its messages are kept on disk.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.lock();
        state.kept == Kept::Whole && !state.ended
    }

    /// Notes what the session is now, or that it is over.
    pub(crate) fn note_present(&self, store: &Store) {
        let state = self.lock();
        match (state.ended, state.kept) {
            (_, Kept::Not) => {}
            (true, _) => store.end_session(self.key),
            (false, _) => self.note(&state, store),
        }
    }

    /// Whether somebody is connected, and a message that counts for so many bytes has room. If not, the group that asks
    /// hears of it when that may have changed.
    pub(crate) fn is_ready(&self, bytes: usize, limits: &Limits, group: &Arc<Group>) -> bool {
        let mut state = self.lock();
        let ready = state.link.is_some() && state.outgoing.full(bytes, limits).is_none();
        if !ready {
            state.outgoing.set_aside(Aside::new(group, self.key));
        }
        ready
    }

    /// Whether a message that counts for so many bytes has room.
    pub(crate) fn has_room(&self, bytes: usize, limits: &Limits) -> bool {
        self.lock().outgoing.full(bytes, limits).is_none()
    }

    /// Queues a message. `durable`: somebody keeps it. Wakers that must be woken once the batch is done are added to
    /// `wakers`.
    pub(crate) fn push(
        self: &Arc<Self>,
        queued: Queued,
        durable: bool,
        limits: &Limits,
        store: &Store,
        hooks: &Hooks,
        wakers: &mut Vec<Waker>,
    ) -> Pushed {
        let mut state = self.lock();
        let qos = queued.qos;
        let keep = qos != QoS::AtMostOnce && state.kept == Kept::Whole;
        let offered = if state.ended {
            Err((queued, DropReason::SessionEnded))
        } else if state.link.is_none() && qos == QoS::AtMostOnce {
            Err((queued, DropReason::NotConnected))
        } else {
            state.outgoing.offer(queued, limits)
        };
        let seq = match offered {
            Err((queued, reason)) => {
                let no_room = reason.is_no_room();
                let dropped = state.outgoing.dropped(reason);
                drop(state);
                // Every power of two, so that a log says it without being flooded.
                if no_room && dropped.is_power_of_two() {
                    match reason {
                        DropReason::AllQueuesBytes => {
                            tracing::warn!(client = %self.client_id, dropped, "all queues together are full, message dropped");
                        }
                        _ => tracing::warn!(client = %self.client_id, dropped, "queue full, message dropped"),
                    }
                }
                self.tell_dropped(hooks, &queued, reason);
                return if no_room && qos != QoS::AtMostOnce { Pushed::NoRoom } else { Pushed::Gone };
            }
            Ok(queued) => {
                if keep {
                    store.put_queued(self.key, queued, false);
                }
                queued.seq
            }
        };
        let wait = qos == QoS::ExactlyOnce && (durable || state.outgoing.is_holding());
        if wait {
            state.outgoing.hold(seq);
        }
        wakers.extend(state.link.as_mut().and_then(|link| link.waker.take()));
        drop(state);
        if wait {
            self.send_when_kept(seq, store, hooks, wakers);
        }
        if keep { Pushed::Kept } else { Pushed::Taken }
    }

    /// Tells the hooks what the session does not get. Call without its lock.
    pub(crate) fn tell_dropped(&self, hooks: &Hooks, queued: &Queued, reason: DropReason) {
        let Queued { message, qos, .. } = queued;
        hooks.dropped(&Dropped { whose: self.whose(), client: None, message, qos: *qos, reason });
    }

    /// Whose it is.
    pub(crate) fn whose(&self) -> Whose<'_> {
        Whose::new(&self.client_id, self.owner.as_ref())
    }

    /// A QoS 2 message may be sent once it is on disk.
    pub(crate) fn send_when_kept(
        self: &Arc<Self>,
        seq: u64,
        store: &Store,
        hooks: &Hooks,
        wakers: &mut Vec<Waker>,
    ) {
        let (session, row, hooks) = (self.clone(), store.clone(), hooks.clone());
        store.after(wakers, move |kept, wakers| {
            let mut state = session.lock();
            let mut withdrawn = None;
            if kept {
                state.outgoing.committed(seq);
            } else {
                // Its publisher is told that it was refused.
                withdrawn = state.outgoing.withdraw(seq);
                session.forget_row(&state, seq, &row);
            }
            wakers.extend(state.link.as_mut().and_then(|link| link.waker.take()));
            drop(state);
            if let Some(queued) = withdrawn {
                session.tell_dropped(&hooks, &queued, DropReason::StoreFailing);
            }
        });
    }

    /// Completes an acknowledgement, if the connection that waits for it still is the present one.
    pub(crate) fn complete_ack(&self, token: &AckToken, reason: ReasonCode, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        let Some((connection, number)) = state.waiting(token, true) else { return };
        let Some(link) = state.link_of(connection) else { return };
        if link.acks.complete(number, reason, None) {
            wakers.extend(link.waker.take());
        }
    }

    /// A message was not written to `connection` after all. Whether it is over thereby: where another connection has taken
    /// the session over, that one tries again.
    pub(crate) fn give_up(&self, connection: u64, queued: &Queued, store: &Store) -> bool {
        if queued.qos == QoS::AtMostOnce {
            return true;
        }
        let mut state = self.lock();
        let over = state.link_of(connection).is_some() && state.outgoing.forget(queued.seq);
        if over {
            self.forget_row(&state, queued.seq, store);
        }
        over
    }

    /// The delivery of that number is over.
    pub(crate) fn forget_row(&self, state: &SessionState, seq: u64, store: &Store) {
        if state.kept == Kept::Whole {
            store.remove_queued(self.key, seq);
        }
    }

    /// Tells the publisher that its message could not be kept. MQTT 3.1.1 knows no such answer: the connection ends, and
    /// the message comes again.
    pub(crate) fn refuse_ack(&self, token: &AckToken, text: &str, store: &Store, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        // A refused message is over: its identifier is free again.
        let waiting = state.waiting(token, false);
        if token.qos == QoS::ExactlyOnce {
            store.remove_received(self.key, token.packet_id);
        }
        let Some((connection, number)) = waiting else { return };
        let Some(link) = state.link_of(connection) else { return };
        if link.client.version == Version::V3 {
            return state.kick(ReasonCode::QuotaExceeded, text);
        }
        if link.acks.complete(number, ReasonCode::QuotaExceeded, Some(text.into())) {
            wakers.extend(link.waker.take());
        }
    }

    /// The disk has what an answer to `connection` waited for. It is written, if there still is one and that connection
    /// still is the present one.
    pub(crate) fn answer(&self, connection: u64, answer: Option<Packet>, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        let Some(link) = state.link_of(connection) else { return };
        link.control.answers_waiting.fetch_sub(1, Ordering::Relaxed);
        if matches!(answer, Some(Packet::Suback(_))) {
            link.subacks_waiting = link.subacks_waiting.saturating_sub(1);
        }
        link.answers.extend(answer);
        wakers.extend(link.waker.take());
    }
}

impl SessionState {
    /// Nothing yet; its messages are part of what all sessions hold.
    pub(crate) fn within(held: &Total) -> Self {
        Self { outgoing: Outgoing::within(held), ..Self::default() }
    }

    /// The link of `connection`, unless another connection has taken over.
    pub(crate) fn link_of(&mut self, connection: u64) -> Option<&mut Link> {
        self.link.as_mut().filter(|link| link.client.connection == connection)
    }

    /// Which connection waits for an acknowledgement, and under which number; another may have asked for it since. A QoS 2
    /// message is `settled` from now on, or over.
    fn waiting(&mut self, token: &AckToken, settled: bool) -> Option<(u64, u64)> {
        if token.qos != QoS::ExactlyOnce {
            return Some((token.connection, token.number));
        }
        let taken = self.received.get_mut(&token.packet_id)?;
        let Taken::UnderWay { connection, number } = *taken else { return None };
        match settled {
            true => *taken = Taken::Settled { connection, number },
            false => self.forget_received(token.packet_id),
        }
        Some((connection, number))
    }

    /// A QoS 2 message of the client is over.
    pub(crate) fn forget_received(&mut self, packet_id: u16) {
        let Some(taken) = self.received.remove(&packet_id) else { return };
        if let Some(link) = self.link_of(taken.connection()) {
            link.unreleased = link.unreleased.saturating_sub(1);
        }
    }

    /// A new session is to outlive the process: all of it, or the will.
    pub(crate) fn keep(&mut self, whole: bool, will: bool) {
        self.kept = match (whole, will) {
            (true, _) => Kept::Whole,
            (false, true) => Kept::Will,
            (false, false) => Kept::Not,
        };
        if whole {
            self.outgoing.keep();
        }
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
    pub(crate) fn detach(&mut self, now: Timestamp, ending: Ending, limits: &Limits) -> Aftermath {
        self.link = None;
        if ending.discard_will {
            self.will = None;
        }
        if self.expiry == Some(Duration::ZERO) {
            return self.end(SessionEnd::WithConnection);
        }
        let lost = self.outgoing.disconnected(limits);
        self.expires_at = self.expiry.map(|expiry| now.after(expiry));
        match &mut self.will {
            Some(will) if will.delay > Duration::ZERO => {
                let due_at = now.after(will.delay);
                will.due_at = Some(self.expires_at.map_or(due_at, |end| end.min(due_at)));
                Aftermath { look_again_at: will.due_at, lost, ..Aftermath::default() }
            }
            _ => Aftermath {
                will: self.will.take(),
                look_again_at: self.expires_at,
                lost,
                ..Aftermath::default()
            },
        }
    }

    /// Time has passed without a connection.
    pub(crate) fn look_again(&mut self, now: Timestamp) -> Aftermath {
        if self.link.is_some() || self.ended {
            return Aftermath::default();
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return self.end(SessionEnd::Expired);
        }
        if self.will.as_ref().and_then(|will| will.due_at).is_some_and(|at| at <= now) {
            let will = self.will.take();
            return Aftermath { will, look_again_at: self.expires_at, ..Aftermath::default() };
        }
        let due_at = self.will.as_ref().and_then(|will| will.due_at);
        Aftermath { look_again_at: due_at.or(self.expires_at), ..Aftermath::default() }
    }

    /// Another connection has come: the present one ends, and the session too if its time has come or a new one is
    /// wanted.
    pub(crate) fn make_way(&mut self, now: Timestamp, clean_start: bool, limits: &Limits) -> Aftermath {
        let mut aftermath = if self.link.is_some() {
            self.kick(ReasonCode::SessionTakenOver, "another connection uses this client id");
            self.detach(now, Ending { discard_will: false }, limits)
        } else {
            self.look_again(now)
        };
        if clean_start && !self.ended {
            let end = self.end(SessionEnd::CleanStart);
            aftermath.lost.extend(end.lost);
            aftermath = Aftermath { will: aftermath.will.or(end.will), lost: aftermath.lost, ..end };
        }
        aftermath
    }

    /// The session is over, unless it was before; its will, if not void, is due.
    pub(crate) fn end(&mut self, why: SessionEnd) -> Aftermath {
        if std::mem::replace(&mut self.ended, true) {
            return Aftermath::default();
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        let passed_on = outgoing.shared();
        let over = |queued| (queued, DropReason::SessionEnded);
        let lost = outgoing.into_undelivered().into_iter().map(over).collect();
        self.received = HashMap::new();
        Aftermath { will: self.will.take(), ended: Some(why), look_again_at: None, lost, passed_on }
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
