//! What all connections of a broker share, and what happens to messages and sessions there.

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
    events::{Attempt, Begun, DropReason, Published, SessionEnd},
    fanout::{self, AckToken, Routed},
    gate::Gate,
    hook::{Client, Denial},
    hooks::Hooks,
    late_wills::LateWills,
    limits::Limit,
    message::{Message, Origin, Publication},
    metrics::Metrics,
    retained::{self, InDoubt, Kind, Retained},
    session::{
        Aftermath, Control, Ending, Kept, Link, PendingWill, Session, Subscribed, held::Total,
        outgoing::Queued,
    },
    store::{Restored, Store},
    sys,
    timers::Timers,
    trie::{Targets, Trie},
};
use crate::mqtt::{QoS, ReasonCode, RetainHandling, SharedFilter, Text};

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

/// A message that was accepted, and who gets it.
pub(crate) type Accepted = (Arc<Message>, Arc<Targets>);

/// What a publisher remembers about the topics it publishes to.
#[derive(Default)]
pub(crate) struct RouteCache {
    known: HashMap<Text, (u64, Arc<Targets>)>,
    /// Nodes of trees that were looked at for the connection since others had their turn.
    pub(crate) looked_at: usize,
}

/// Topics that a publisher remembers.
const ROUTES_MAX: usize = 32;

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

    // ---- messages

    /// Asks the hooks, keeps the message if it is to be retained, and finds out who gets it. Once it is on its way to
    /// them, call [`published`](Self::published). Hooks are told of a message that is refused; of a will, by the caller.
    pub(crate) fn accept(
        &self,
        mut publication: Publication,
        client: &Client,
        routes: &mut RouteCache,
    ) -> Result<Accepted, Denial> {
        let is_will = publication.origin != Origin::Publish;
        let refused = |message: &Message, denial: &Denial| {
            if !is_will {
                self.hooks.refused(&Attempt::Publish(client, message), denial);
            }
        };
        if sys::is_own(&publication.message.topic) {
            let denial = Denial::new(ReasonCode::TopicNameInvalid, "`$SYS/` is the broker's own");
            refused(&publication.message, &denial);
            return Err(denial);
        }
        self.hooks
            .publish(client, &mut publication)
            .inspect_err(|denial| refused(&publication.message, denial))?;
        self.route(publication, routes).map_err(|(message, denial)| {
            refused(&message, &denial);
            denial
        })
    }

    /// [`accept`](Self::accept) without asking the hooks.
    fn route(
        &self,
        publication: Publication,
        routes: &mut RouteCache,
    ) -> Result<Accepted, (Arc<Message>, Denial)> {
        let is_will = publication.origin != Origin::Publish;
        let (message, encoded) = publication.accept();
        // Before the lock, which goes inside those of sessions.
        let disk_is_full = self.store.is_failing()
            && ((message.retain && !message.payload.is_empty())
                || (message.qos != QoS::AtMostOnce && self.targets(&message.topic, routes).any_kept()));
        let _together = message.retain.then(|| self.store.together());
        // Held over both, as by whoever subscribes: it gets the message as a retained one or as one just published, and
        // never neither nor both.
        let mut retained = message.retain.then(|| self.retained.write());
        let targets = self.targets(&message.topic, routes);
        let denial = if encoded.is_err() {
            Err(Denial::new(
                ReasonCode::ImplementationSpecificError,
                "a hook made a property that does not fit",
            ))
        } else if disk_is_full {
            Err(Denial::new(ReasonCode::QuotaExceeded, "the broker cannot store it now"))
        } else if let Some(retained) = &mut retained {
            // To empty a topic makes room on the disk, so that stays, whatever its publisher is told.
            let in_doubt = !is_will && message.qos != QoS::AtMostOnce && !message.payload.is_empty();
            self.retain(retained, &message, in_doubt && self.store.is_there())
        } else {
            Ok(())
        };
        match denial {
            Ok(()) => Ok((message, targets)),
            Err(denial) => Err((message, denial)),
        }
    }

    /// Tells the hooks of an accepted message.
    pub(crate) fn published(&self, message: &Message, origin: Origin, targets: &Targets) {
        self.hooks.published(&Published { message, origin, receivers: targets.count() });
    }

    /// Keeps a message as the newest of its topic, or forgets that one if the payload is empty. Its caller holds the store
    /// together, as the message before goes with its row, not without it.
    fn retain(&self, retained: &mut Retained, message: &Arc<Message>, in_doubt: bool) -> Result<(), Denial> {
        let (before, after) = retained.set(message, &self.config.limits, in_doubt);
        // Under the lock, so that the last one here is the last one there.
        match after {
            Kind::Kept => self.store.put_retained(message),
            Kind::Gone | Kind::NoRoom(_) if before.is_some() => self.store.remove_retained(&message.topic),
            Kind::Gone | Kind::NoRoom(_) => {}
        }
        match after {
            Kind::NoRoom(limit) => Err(self.exceeds(limit)),
            Kind::Kept | Kind::Gone => Ok(()),
        }
    }

    /// What settles a message that was accepted and whose publisher waits for an answer, if it is to be retained.
    pub(crate) fn in_doubt(&self, message: &Arc<Message>) -> Option<InDoubt> {
        let in_doubt = message.retain && self.store.is_there();
        in_doubt.then(|| InDoubt { all: self.retained.clone(), message: message.clone() })
    }

    pub(crate) fn targets(&self, topic: &Text, routes: &mut RouteCache) -> Arc<Targets> {
        let version = self.trie_version.load(Ordering::Acquire);
        if let Some((known, targets)) = routes.known.get(topic)
            && *known == version
        {
            return targets.clone();
        }
        let targets = Arc::new(self.receivers(topic));
        routes.looked_at += targets.looked_at;
        if routes.known.len() >= ROUTES_MAX {
            routes.known.clear();
        }
        routes.known.insert(topic.detached(), (version, targets.clone()));
        targets
    }

    /// Who gets the messages of a topic now.
    pub(crate) fn receivers(&self, topic: &str) -> Targets {
        self.trie.read().matches(topic)
    }

    /// Hands accepted messages to the engine.
    pub(crate) fn submit(&self, batch: Vec<Routed>) {
        match self.engine.get() {
            Some(engine) => engine.submit(batch),
            None => fanout::fan_out(batch, &self.config.limits, &self.store, &self.hooks),
        }
    }

    /// Publishes on behalf of the broker itself; hooks are not asked.
    pub(crate) fn publish_internal(&self, publication: Publication) -> Result<(), Denial> {
        let routed = self.route(publication, &mut RouteCache::default());
        let (message, targets) = routed.map_err(|(_, denial)| denial)?;
        if !targets.is_empty() {
            let (message, targets) = (message.clone(), targets.clone());
            self.submit(vec![Routed { message, targets, from: 0, ack: None::<AckToken>, will_of: None }]);
        }
        self.published(&message, Origin::Publish, &targets);
        Ok(())
    }

    /// Publishes a will, now or as soon as it can be. What its session is now is noted after it or with it: a broker that
    /// is killed in between publishes the will twice rather than never.
    fn publish_will(&self, will: PendingWill, session: &Arc<Session>) {
        let mut publication = will.publication.copied(Origin::Will);
        publication.message.expires_at = will.expiry.map(|expiry| self.clock.now().after(expiry));
        match self.accept(publication, &will.client, &mut RouteCache::default()) {
            Ok((message, targets)) => {
                if targets.is_empty() {
                    session.note_present(&self.store);
                } else {
                    let (message, targets, will_of) =
                        (message.clone(), targets.clone(), Some(session.clone()));
                    self.submit(vec![Routed { message, targets, from: session.key, ack: None, will_of }]);
                }
                self.published(&message, Origin::Will, &targets);
            }
            Err(denial) => {
                let later = self.may_come_later(&denial);
                let refused = if later { self.late_wills.add(will, session) } else { Some(will) };
                let Some(will) = refused else { return self.timers.wake() };
                self.hooks.refused(&Attempt::Will(&will.client, &will.publication.message), &denial);
                self.counts.refuse("will", denial.reason);
                tracing::info!(client = %session.client_id, reason = ?denial.reason, text = denial.text, "will refused");
                session.note_present(&self.store);
            }
        }
    }

    /// Whether what was refused may be taken a moment later: a disk that is full, or a hook that does not know yet.
    fn may_come_later(&self, denial: &Denial) -> bool {
        match denial.reason {
            ReasonCode::ServerBusy => true,
            ReasonCode::QuotaExceeded => self.store.is_failing(),
            _ => false,
        }
    }

    /// Tries again to publish the wills that could not be.
    pub(crate) fn publish_late_wills(&self) {
        for (will, session) in self.late_wills.take() {
            self.publish_will(will, &session);
        }
    }

    // ---- subscriptions

    /// Adds or replaces a subscription that was allowed, and queues the retained messages that belong to it. Names the
    /// limit that keeps it out.
    pub(crate) fn subscribe(
        &self,
        session: &Arc<Session>,
        filter: &Text,
        subscribed: Subscribed,
        routes: &mut RouteCache,
    ) -> Result<(), Limit> {
        let (group, plain) = split(filter);
        let statistics = sys::matching(self, plain);
        // Until the retained messages are in the queue, or a newer one could come to stand before them.
        let mut state = session.lock();
        if state.ended {
            return Ok(());
        }
        // None changes between the subscription and the look at them.
        let retained = self.retained.read();
        {
            // Under the session's lock, so that an end of the session removes it.
            let mut trie = self.trie.write();
            if !trie.has_room(plain, self.config.limits.filters_max) {
                return Err(Limit::Filters);
            }
            trie.insert(plain, group, session, subscribed);
        }
        self.trie_version.fetch_add(1, Ordering::Release);
        if state.kept == Kept::Whole {
            self.store.put_subscription(session.key, filter, subscribed);
        }
        let is_new = state.subscriptions.insert(filter.detached(), subscribed).is_none();
        let wanted = match subscribed.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if !wanted || group.is_some() {
            return Ok(());
        }
        let ids = subscribed.id.map(|id| Arc::from([id]));
        let (mut found, looked_at) = retained.matching(plain, self.clock.now());
        drop(retained);
        routes.looked_at += looked_at;
        found.extend(statistics);
        if found.is_empty() {
            return Ok(());
        }
        let own = |message: &Message| {
            message.publisher.as_ref().is_some_and(|publisher| publisher.client_id == session.client_id)
        };
        let set = found
            .into_iter()
            .filter(|message| !(subscribed.options.no_local && own(message)))
            .map(|message| Queued {
                seq: 0,
                qos: message.qos.min(subscribed.options.qos),
                message,
                retain: true,
                retained: true,
                ids: ids.clone(),
                shared: None,
            })
            .collect();
        let whole = state.kept == Kept::Whole;
        let mut waiting = Vec::new();
        let left_out = state.outgoing.offer_retained(set, &self.config.limits, |queued| {
            if whole && queued.qos != QoS::AtMostOnce {
                self.store.put_queued(session.key, queued, false);
            }
            if whole && queued.qos == QoS::ExactlyOnce {
                waiting.push(queued.seq);
            }
        });
        drop(state);
        let mut wakers = Vec::new();
        waiting
            .into_iter()
            .for_each(|seq| session.send_when_kept(seq, &self.store, &self.hooks, &mut wakers));
        wakers.into_iter().for_each(std::task::Waker::wake);
        for (queued, reason) in &left_out {
            session.tell_dropped(&self.hooks, queued, *reason);
        }
        Ok(())
    }

    /// Removes a subscription; whether there was one.
    pub(crate) fn unsubscribe(&self, session: &Session, filter: &Text) -> bool {
        let mut state = session.lock();
        if state.subscriptions.remove(filter).is_none() {
            return false;
        }
        if state.kept == Kept::Whole {
            self.store.remove_subscription(session.key, filter);
        }
        let (group, plain) = split(filter);
        self.trie.write().remove(plain, group, session.key);
        self.trie_version.fetch_add(1, Ordering::Release);
        true
    }

    // ---- sessions

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

/// Group and filter of a subscription that was found valid.
fn split(filter: &str) -> (Option<&str>, &str) {
    match SharedFilter::parse(filter) {
        Some(Some(shared)) => (Some(shared.group), shared.filter),
        _ => (None, filter),
    }
}

/// Reason to grant a QoS with.
pub(crate) fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
