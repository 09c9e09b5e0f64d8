//! Keeps the hook's view fresh, and applies what is new to what is there already: connections, sessions, retained messages.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smqtt_core::identity::DeviceId;
use smqtt_core::rule::Mode;
use smqtt_core::topic::Filter;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::denials::Denied;
use super::hook::{STALENESS_FACTOR, SecurePublish};
use super::refused::Refused;
use super::revocations::Tally;
use super::rules::rule_at;
use super::session::{Session, root_tag};
use crate::broker::{BrokerHandle, Message, SessionInfo, Stored};
use crate::mqtt::ReasonCode;

/// Longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause between two questions of which the last brought no newer bundle, and at once.
const DIRECTORY_PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked who has run out. A client is cut within a second of that.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a directory that changes is written down.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

impl SecurePublish {
    /// Learns what the authority has to say before the broker begins, if it answers within `patience`: who was revoked
    /// while the broker was away leaves no will.
    pub async fn catch_up(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.view.ask()).await.is_ok_and(|asked| asked.is_ok()) {
            self.view.take_bundle();
            self.view.heard();
        }
    }

    /// Follows the authority for as long as it is polled. Cuts who was revoked or has expired, applies rules that changed to
    /// what is retained and to shared subscriptions, and closes what must be closed while the authority is away. `renewed`
    /// hears of every renewed certificate of the broker's own, and of every change of the roots.
    pub async fn follow(self, broker: BrokerHandle, renewed: impl Fn()) {
        tokio::join!(self.chase(&broker, renewed), self.watch(&broker), self.tell_revocations(&broker));
    }

    async fn chase(&self, broker: &BrokerHandle, renewed: impl Fn()) {
        let (mut failures, mut revision) = (0u32, None);
        self.cut_revoked(broker, &self.view.bundle().revoked);
        let mut review = Review(self.review(broker));
        let mut roots = self.view.roots();
        loop {
            let begun = Instant::now();
            let asked = self.view.ask().await;
            let newest = self.view.roots();
            if newest != roots {
                renewed();
                self.cut_strangers(broker, &newest);
                roots = newest;
            }
            // Also where something failed after the bundle was there.
            if let Some(gone) = self.view.take_bundle() {
                tracing::info!(
                    bundle = self.view.bundle().number,
                    revoked = gone.len(),
                    "took a newer bundle"
                );
                self.cut_revoked(broker, &gone);
                review = Review(self.review(broker));
            }
            match asked {
                Ok(done) => {
                    if failures > 0 {
                        tracing::info!("the authority is there again");
                    }
                    failures = 0;
                    self.view.heard();
                    if done.certificate {
                        renewed();
                    }
                    if done.revision != revision {
                        // Perhaps an order about somebody who is revoked already.
                        revision = done.revision;
                        self.cuts.news.notify_one();
                    }
                    // Where many devices change one after the other, they are asked for together.
                    if !done.bundle && begun.elapsed() < DIRECTORY_PAUSE {
                        self.view.pause(DIRECTORY_PAUSE).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, "cannot reach the authority: going on with what is known");
                    }
                    let pause = Duration::from_millis(100) * 2u32.saturating_pow(failures.min(8) - 1);
                    self.view.pause(pause.min(PAUSE_MAX)).await;
                }
            }
            // What is under way ends with this.
            let _ = &review;
        }
    }

    async fn watch(&self, broker: &BrokerHandle) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut write_at = Instant::now();
        let mut alone = false;
        loop {
            looks.tick().await;
            self.cut_expired(broker);
            alone = self.look_at_staleness(broker, alone);
            self.denials.flush(self.view.now());
            if Instant::now() >= write_at
                && let Some(writing) = self.view.directory_to_write()
            {
                write_at = Instant::now() + WRITE_INTERVAL;
                let written = tokio::task::spawn_blocking(move || writing.write()).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(%error, "cannot write down the directory of devices");
                }
            }
        }
    }

    /// Ends all that a revoked device has here.
    fn cut_revoked(&self, broker: &BrokerHandle, devices: &[DeviceId]) {
        let tally = self.discard(broker, devices, &Refused::revoked());
        self.cuts.note(devices, &tally, self.view.now());
        for device in devices {
            self.headers.forget(*device);
            self.bridges.forget(*device);
        }
    }

    fn discard(&self, broker: &BrokerHandle, devices: &[DeviceId], why: &Refused) -> Tally {
        let tally = Tally::default();
        if devices.is_empty() {
            return tally;
        }
        let owners: HashSet<String> = devices.iter().map(DeviceId::to_string).collect();
        let theirs = |session: &SessionInfo<'_>| {
            let is_theirs = session.identity.is_some_and(|id| owners.contains(id.as_str()));
            if is_theirs {
                tally.count(session);
            }
            is_theirs
        };
        self.cut(broker, theirs, why, Stored::Discard);
        tally
    }

    fn cut(
        &self,
        broker: &BrokerHandle,
        which: impl Fn(&SessionInfo<'_>) -> bool,
        why: &Refused,
        stored: Stored,
    ) {
        let denial = why.denial();
        for client_id in broker.disconnect_where(which, denial.reason, &denial.text, stored) {
            self.denials.note(Denied::Session, why, &client_id, self.view.now());
        }
    }

    /// Cuts whose certificate is from a root that is trusted no more.
    fn cut_strangers(&self, broker: &BrokerHandle, roots: &[Vec<u8>]) {
        let text = "the root that issued this connection's certificate was retired: connect with a newer one";
        let why = Refused::new("root", ReasonCode::AdministrativeAction, text);
        let known: Vec<_> = roots.iter().map(|root| root_tag(root)).collect();
        let is_strange = |session: &SessionInfo<'_>| {
            let root = session.client.and_then(Session::of).and_then(|session| session.root);
            root.is_some_and(|root| !known.contains(&root))
        };
        self.cut(broker, is_strange, &why, Stored::Keep);
    }

    /// Cuts whose certificate has run out. A device that has a newer one keeps what it left here.
    fn cut_expired(&self, broker: &BrokerHandle) {
        let text = "the certificate of this device has run out";
        let why = Refused::new("expired", ReasonCode::NotAuthorized, text);
        self.discard(broker, &self.view.take_expired(), &why);
        let past = self.expiries.past(self.view.now());
        if !past.is_empty() {
            let text = "the certificate of this connection has run out: connect with the newer one";
            // Not `NotAuthorized`, at which a client gives up.
            let why = Refused::new("expired", ReasonCode::AdministrativeAction, text);
            let connected = |session: &SessionInfo<'_>| {
                session.client.is_some_and(|client| past.contains(&client.connection))
            };
            self.cut(broker, connected, &why, Stored::Keep);
        }
    }

    /// Whether the authority was away for too long; `alone`: whether it was so at the last look.
    fn look_at_staleness(&self, broker: &BrokerHandle, alone: bool) -> bool {
        let (seconds, max) = (self.view.staleness(), self.max_staleness);
        if seconds <= max {
            if alone {
                tracing::info!("the authority was heard: letting clients in again");
            }
            self.close(false);
            return false;
        }
        if !alone {
            tracing::warn!(seconds, max, "the authority was not heard for too long: letting nobody in");
            self.view.hurry();
        }
        // After a sleep of the machine it may just not have been asked yet.
        if seconds > max.saturating_mul(STALENESS_FACTOR) && self.view.is_failing() && self.close(true) {
            tracing::warn!(seconds, "closing the sessions where sealing is required");
            self.cut(
                broker,
                |session| self.is_on_required(session),
                &Refused::stale(ReasonCode::ServerBusy),
                Stored::Keep,
            );
        }
        true
    }

    /// Whether a connection has to do with a topic where sealing is required.
    fn is_on_required(&self, session: &SessionInfo<'_>) -> bool {
        let Some(client) = session.client else { return false };
        let bundle = self.view.bundle();
        let published = Session::of(client).is_none_or(|s| s.on_required.load(Ordering::Relaxed));
        let filters = session.filters().filter_map(|filter| filter.parse::<Filter>().ok());
        published || filters.into_iter().any(|filter| self.required_within(&bundle, &filter).is_some())
    }

    /// Goes through what is retained and through shared subscriptions, and removes what the rules do not allow any more.
    /// What is queued is judged when it is delivered, and so is all else until this is done.
    fn review(&self, broker: &BrokerHandle) -> JoinHandle<()> {
        let (hook, broker) = (self.clone(), broker.clone());
        tokio::spawn(async move {
            let bundle = hook.view.bundle();
            let mut would_go = 0u64;
            let refused = |message: &Message| match hook.still_good(&bundle, message) {
                Ok(place) => {
                    let warns = rule_at(&bundle, place).is_some_and(|rule| rule.mode == Mode::Warn);
                    would_go += u64::from(warns && hook.would_go(&bundle, message));
                    false
                }
                Err(refused) => {
                    let publisher = message.publisher().map_or("-", |client| client.client_id.as_str());
                    hook.denials.note(Denied::Retained, &refused, &publisher, hook.view.now());
                    true
                }
            };
            let removed = broker.remove_retained(refused).await;
            if removed > 0 {
                tracing::info!(removed, "removed retained messages that the rules do not allow any more");
            }
            if would_go > 0 {
                tracing::info!(
                    messages = would_go,
                    "retained messages would go if rules that warn were `required`"
                );
            }
            broker.review_shared().await;
        })
    }
}

/// A review under way, which ends with the next.
struct Review(JoinHandle<()>);

impl Drop for Review {
    fn drop(&mut self) {
        self.0.abort();
    }
}
