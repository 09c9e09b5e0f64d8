//! What all connections of a broker share, and what happens to sessions there.

mod routing;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::{
    Timestamp,
    clock::Clock,
    config::{Config, Limits},
    counts::Counts,
    engine::Engine,
    events::{Begun, DropReason, SessionEnd},
    gate::Gate,
    hook::{Client, Denial},
    hooks::Hooks,
    late_wills::LateWills,
    limits::Limit,
    message::Message,
    metrics::Metrics,
    retained::{self, Retained},
    session::{Aftermath, Control, Ending, Link, PendingWill, Session, held::Total, outgoing::Queued},
    store::{Restored, Store},
    timers::Timers,
    trie::Trie,
};
use crate::mqtt::{QoS, ReasonCode, Text};

use routing::split;
pub(crate) use routing::{Accepted, RouteCache, granted};

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) hooks: Hooks,
    pub(crate) clock: Clock,
    /// When the broker began.
    pub(crate) started: Timestamp,
    pub(crate) timers: Timers,
    pub(crate) late_wills: LateWills,
    pub(crate) engine: OnceLock<Box<dyn Engine>>,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) counts: Arc<Counts>,
    pub(crate) gate: Arc<Gate>,
    /// Connections are accepted.
    pub(crate) serving: AtomicBool,
    /// Raised by every revocation, so that a CONNECT under way asks its hooks again.
    pub(crate) revocations: AtomicU64,
    next_connection: AtomicU64,
    trie: RwLock<Trie>,
    /// Raised by every change of the trie.
    trie_version: AtomicU64,
    retained: Arc<RwLock<Retained>>,
    sessions: Mutex<HashMap<Text, Arc<Session>>>,
    /// What they hold together.
    pub(crate) held: Total,
}

/// What a connection brings to its session.
pub(crate) struct Attaching {
    pub(crate) client: Arc<Client>,
    pub(crate) control: Arc<Control>,
    pub(crate) clean_start: bool,
    pub(crate) expiry: Option<Duration>,
    pub(crate) inflight_max: u16,
    pub(crate) will: Option<PendingWill>,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        hooks: Hooks,
        store: Store,
        metrics: Metrics,
        counts: Arc<Counts>,
        held: Total,
    ) -> Self {
        let clock = Clock::new();
        Self {
            config,
            hooks,
            started: clock.now(),
            clock,
            timers: Timers::default(),
            late_wills: LateWills::default(),
            engine: OnceLock::new(),
            store,
            counts,
            metrics,
            gate: Arc::default(),
            serving: AtomicBool::new(false),
            revocations: AtomicU64::new(0),
            next_connection: AtomicU64::new(1),
            trie: RwLock::default(),
            trie_version: AtomicU64::new(0),
            retained: Arc::new(RwLock::new(Retained::beside(&held))),
            sessions: Mutex::default(),
            held,
        }
    }

    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// A limit takes effect: counts it, and says how a client is told.
    pub(crate) fn exceeds(&self, limit: Limit) -> Denial {
        self.counts.hit(limit);
        let reason = limit.reasons().first().copied().unwrap_or(ReasonCode::QuotaExceeded);
        Denial::new(reason, format!("beyond the broker's `{}`", limit.name()))
    }

    /// Finds or makes the session of a client that was let in. The flag says whether a stored one goes on.
    pub(crate) fn attach(&self, attaching: Attaching) -> Result<(Arc<Session>, bool), Denial> {
        let Attaching { client, control, clean_start, expiry, inflight_max, will } = attaching;
        let link = Link {
            client: client.clone(),
            control,
            acks: Default::default(),
            unreleased: 0,
            answers: Vec::new(),
            subacks_waiting: 0,
            inflight_max,
            waker: None,
        };
        let now = self.clock.now();
        let mut settle = None;
        let mut loser = None;
        let (session, goes_on) = {
            let mut sessions = self.sessions.lock();
            let existing = sessions.get(&client.client_id).cloned();
            if let Some(session) = &existing {
                if session.owner != client.identity {
                    let text = "the client id belongs to somebody else";
                    return Err(Denial::new(ReasonCode::ClientIdentifierNotValid, text));
                }
            } else if sessions.len() >= self.config.limits.sessions_max {
                return Err(self.exceeds(Limit::Sessions));
            }
            let is_new = existing.is_none() || clean_start;
            if is_new && expiry != Some(Duration::ZERO) && self.store.is_failing() {
                return Err(Denial::new(ReasonCode::QuotaExceeded, "the broker cannot store it now"));
            }
            let mut link = Some((link, will));
            let resumed = existing.filter(|session| {
                let mut state = session.lock();
                loser = state.link.as_ref().map(|link| link.client.clone());
                let aftermath = state.make_way(now, clean_start, &self.config.limits);
                let goes_on = !state.ended;
                if let Some((link, will)) = link.take_if(|_| goes_on) {
                    state.attach(link, expiry, will);
                    // With a will to publish it is noted after that.
                    if aftermath.will.is_none() {
                        session.note(&state, &self.store);
                    }
                }
                settle = Some((session.clone(), aftermath));
                goes_on
            });
            match (resumed, link) {
                (Some(session), _) => (session, true),
                (None, link) => {
                    let (link, will) = link.expect("only a session that goes on has taken it");
                    // With the end of the one before: two under one client id must never be on disk.
                    let _together = self.store.together();
                    if let Some((before, _)) =
                        settle.as_ref().filter(|(_, aftermath)| aftermath.will.is_none())
                    {
                        before.note_present(&self.store);
                    }
                    let client_id = client.client_id.detached();
                    let session = Arc::new(Session::new(client_id, client.identity.clone(), &self.held));
                    let mut state = session.lock();
                    if self.store.is_there() {
                        state.keep(expiry != Some(Duration::ZERO), will.is_some());
                    }
                    state.attach(link, expiry, will);
                    session.note(&state, &self.store);
                    drop(state);
                    sessions.insert(session.client_id.clone(), session.clone());
                    (session, false)
                }
            }
        };
        if let Some((session, mut aftermath)) = settle {
            // The session is in use again if it goes on: nothing to look at later.
            aftermath.look_again_at = None;
            if let Some(loser) = loser {
                self.hooks.session_taken_over(&loser, &client);
            }
            self.settle(&session, aftermath);
        }
        self.hooks.session_begun(&client, if goes_on { Begun::Resumed } else { Begun::New });
        Ok((session, goes_on))
    }

    /// A connection has ended. Does nothing if another has taken the session over, or if it was discarded.
    pub(crate) fn detach(&self, session: &Arc<Session>, connection: u64, ending: Ending) {
        let aftermath = {
            let mut state = session.lock();
            if state.link_of(connection).is_none() {
                return;
            }
            state.detach(self.clock.now(), ending, &self.config.limits)
        };
        self.settle(session, aftermath);
    }

    /// Time has passed for a session without a connection.
    pub(crate) fn look_again(&self, session: &Arc<Session>) {
        let aftermath = session.lock().look_again(self.clock.now());
        self.settle(session, aftermath);
    }

    fn settle(&self, session: &Arc<Session>, aftermath: Aftermath) {
        let ended = aftermath.ended;
        let is_kept = !aftermath.lost.is_empty() && session.is_kept();
        for (queued, reason) in &aftermath.lost {
            let reason = if ended.is_some() { DropReason::SessionEnded } else { *reason };
            if is_kept && queued.qos != QoS::AtMostOnce {
                self.store.remove_queued(session.key, queued.seq);
            }
            session.tell_dropped(&self.hooks, queued, reason);
        }
        if ended.is_some() {
            let subscriptions = std::mem::take(&mut session.lock().subscriptions);
            if !subscriptions.is_empty() {
                let mut trie = self.trie.write();
                for filter in subscriptions.keys() {
                    let (group, plain) = split(filter);
                    trie.remove(plain, group, session.key);
                }
                self.trie_version.fetch_add(1, Ordering::Release);
            }
            let mut sessions = self.sessions.lock();
            // A new session may be there under the same client id.
            if sessions.get(&session.client_id).is_some_and(|there| there.key == session.key) {
                sessions.remove(&session.client_id);
            }
        }
        if let Some(at) = aftermath.look_again_at {
            self.timers.add(at, session);
        }
        {
            // With the end of the session, or a broker that is killed in between gives them to both.
            let _together = self.store.together();
            self.pass_on(aftermath.passed_on);
            if aftermath.will.is_none() {
                session.note_present(&self.store);
            }
        }
        if let Some(will) = aftermath.will {
            self.publish_will(will, session);
        }
        if let Some(end) = ended {
            self.hooks.session_ended(&session.whose(), end);
        }
    }

    /// Gives other members of its groups what a session leaves behind.
    fn pass_on(&self, messages: Vec<Queued>) {
        let mut wakers = Vec::new();
        for queued in messages {
            let Some(shared) = queued.shared else { continue };
            let (Some(name), filter) = split(&shared) else { continue };
            let Some(group) = self.trie.read().group(filter, name) else { continue };
            let limits = &self.config.limits;
            if let Some((session, grant)) = group.next(queued.message.queue_bytes(), limits) {
                let queued = Queued::live(&queued.message, &grant, Some(shared.clone()));
                session.push(queued, false, limits, &self.store, &self.hooks, &mut wakers);
            }
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// All sessions, connected or stored.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Distinct filters, and subscriptions to them.
    pub(crate) fn subscription_counts(&self) -> (usize, usize) {
        self.trie.read().counts()
    }

    /// Retained messages and their bytes.
    pub(crate) fn retained_counts(&self) -> (usize, usize) {
        self.retained.read().counts()
    }

    pub(crate) fn session(&self, client_id: &str) -> Option<Arc<Session>> {
        self.sessions.lock().get(client_id).cloned()
    }

    /// Ends a session at once: connection, subscriptions, queue, will.
    pub(crate) fn discard(&self, session: &Arc<Session>, reason: ReasonCode, text: &str) {
        let mut aftermath = {
            let mut state = session.lock();
            state.kick(reason, text);
            state.link = None;
            state.end(SessionEnd::Discarded)
        };
        aftermath.will = None;
        self.late_wills.forget(|other| other.key == session.key);
        self.settle(session, aftermath);
    }

    /// Forgets retained messages that have expired.
    pub(crate) fn sweep(&self) {
        let _together = self.store.together();
        let mut retained = self.retained.write();
        retained.sweep(self.clock.now()).iter().for_each(|topic| self.store.remove_retained(topic));
    }

    /// Some retained messages, from a place that was given before, and the place of those that follow.
    pub(crate) fn retained_page(&self, from: usize, count: usize) -> (Vec<Arc<Message>>, Option<usize>) {
        self.retained.read().page(from, count)
    }

    /// Forgets a retained message, unless another has taken its place; whether it was there.
    pub(crate) fn forget_retained(&self, message: &Arc<Message>) -> bool {
        retained::forget(&self.retained, message, &self.store)
    }

    /// Puts what was read from the store in its place, before anybody connects.
    pub(crate) fn adopt(self: &Arc<Self>, restored: Restored) {
        let now = self.clock.now();
        {
            let mut retained = self.retained.write();
            for message in restored.retained {
                // It was taken once: limits that were lowered since do not throw it away.
                retained.set(&message, &Limits::unbounded(), false);
            }
        }
        for session in restored.sessions {
            let before = self.sessions.lock().insert(session.client_id.clone(), session);
            if let Some(before) = before {
                // A crash between its end and the other's beginning: the newer one counts.
                tracing::warn!(client = %before.client_id, "two stored sessions under one client id");
                before.lock().end(SessionEnd::Discarded);
                before.note_present(&self.store);
            }
        }
        let sessions = self.sessions();
        {
            let mut trie = self.trie.write();
            for session in &sessions {
                for (filter, subscribed) in &session.lock().subscriptions {
                    let (group, plain) = split(filter);
                    trie.insert(plain, group, session, *subscribed);
                }
            }
        }
        // When all are there: a will may be for any of them.
        for session in sessions {
            // Who was connected lost the connection with the process before.
            let aftermath = {
                let mut state = session.lock();
                let away =
                    state.expires_at.is_some() || state.will.as_ref().is_some_and(|w| w.due_at.is_some());
                match away {
                    true => state.look_again(now),
                    false => state.detach(now, Ending { discard_will: false }, &self.config.limits),
                }
            };
            self.settle(&session, aftermath);
        }
        self.trie_version.fetch_add(1, Ordering::Release);
    }
}

/// What is in memory is being taken down, and the store must not follow.
impl Drop for Core {
    fn drop(&mut self) {
        self.store.close();
    }
}
