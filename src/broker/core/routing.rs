//! How messages find their receivers, and subscriptions the messages that are retained.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering},
};

use hashbrown::HashMap;

use super::Core;
use crate::{
    broker::{
        events::{Attempt, Published},
        fanout::{self, AckToken, Routed},
        hook::{Client, Denial},
        limits::Limit,
        message::{Message, Origin, Publication},
        retained::{InDoubt, Kind, Retained},
        session::{Kept, PendingWill, Session, Subscribed, outgoing::Queued},
        sys,
        trie::Targets,
    },
    mqtt::{QoS, ReasonCode, SharedFilter, Text},
};

/// A message that was accepted, and who gets it.
pub(crate) type Accepted = (Arc<Message>, Arc<Targets>);

/// Topics of which it is noted that they were met, out of the bits that there are.
const MET_MAX: u32 = 64;

/// Topics that a publisher remembers.
const ROUTES_MAX: usize = 32;

/// What a publisher remembers about the topics it publishes to.
#[derive(Default)]
pub(crate) struct RouteCache {
    known: HashMap<Text, (u64, Arc<Targets>)>,
    /// A bit for each topic that was not known lately: one that comes once in a while is not worth a place.
    met: [u64; 4],
    /// Nodes of trees that were looked at for the connection since others had their turn.
    pub(crate) looked_at: usize,
}

impl RouteCache {
    /// Whether a topic that is not known was so before, not long ago.
    fn is_worth_a_place(&mut self, topic: &Text) -> bool {
        let hash = self.known.hasher().hash_one(topic);
        let (word, bit) = ((hash >> 6 & 3) as usize, 1 << (hash & 63));
        if self.met[word] & bit != 0 {
            return true;
        }
        if self.met.iter().map(|word| word.count_ones()).sum::<u32>() >= MET_MAX {
            self.met = [0; 4];
        }
        self.met[word] |= bit;
        false
    }
}

impl Core {
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
        self.route(publication, routes, !is_will).map_err(|(message, denial)| {
            refused(&message, &denial);
            denial
        })
    }

    /// [`accept`](Self::accept) without asking the hooks. `answered`: somebody waits to hear that it is kept, or that it is
    /// not, which settles what is in doubt.
    fn route(
        &self,
        publication: Publication,
        routes: &mut RouteCache,
        answered: bool,
    ) -> Result<Accepted, (Arc<Message>, Denial)> {
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
            let in_doubt = answered && message.qos != QoS::AtMostOnce && !message.payload.is_empty();
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
        if routes.is_worth_a_place(topic) {
            if routes.known.len() >= ROUTES_MAX {
                routes.known.clear();
            }
            routes.known.insert(topic.detached(), (version, targets.clone()));
        }
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
        let routed = self.route(publication, &mut RouteCache::default(), false);
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
    pub(super) fn publish_will(&self, will: PendingWill, session: &Arc<Session>) {
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
        let wanted = subscribed.options.retain_handling.sends(is_new);
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
}

/// Group and filter of a subscription that was found valid.
pub(super) fn split(filter: &str) -> (Option<&str>, &str) {
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
