//! A connection, as the hook knows it.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use smqtt_client::opener::HEADERS_MAX;
use smqtt_core::bundle::Bundle;
use smqtt_core::header::Kid;
use smqtt_core::identity::{DeviceId, fingerprint};
use smqtt_core::rule::{Mode, Rule};

use super::brought::Bridge;
use super::deliver::Carried;
use super::headers::{Headers, Kept, Live, NoRoom};
use super::hook::lock;
use super::rules::{Judged, Place, rule_at};
use crate::broker::{Attachment, Client};
use crate::mqtt::Text;

/// A connection, as this hook knows it.
pub(super) struct Session {
    pub(super) device: Option<DeviceId>,
    /// The root that its certificate was issued from.
    pub(super) root: Option<RootTag>,
    pub(super) reader: bool,
    /// If it is a bridge's: what it may bring is judged by other signatures than its own.
    pub(super) bridge: Option<Arc<Bridge>>,
    pub(super) introduced: Mutex<Introduced>,
    pub(super) agreed: Mutex<Option<Agreed>>,
    plain: Mutex<Option<PlainAgreed>>,
    /// Whether it published where sealing is required.
    pub(super) on_required: AtomicBool,
    standing: Mutex<Standing>,
}

/// What tells a root from others: the beginning of its fingerprint.
pub(super) type RootTag = u64;

/// The tag of a root certificate.
pub(super) fn root_tag(root: &[u8]) -> RootTag {
    let start = fingerprint(root).map_or([0; 8], |root| root.tenant().0);
    u64::from_be_bytes(start)
}

/// What a connection takes up elsewhere, for as long as it lasts.
#[derive(Default)]
struct Standing {
    live: Live,
    _expiry: Option<Expiry>,
}

impl Session {
    pub(super) fn new(device: Option<DeviceId>, reader: bool) -> Self {
        Self {
            device,
            root: None,
            reader,
            bridge: None,
            introduced: Mutex::default(),
            agreed: Mutex::default(),
            plain: Mutex::default(),
            on_required: AtomicBool::new(false),
            standing: Mutex::default(),
        }
    }

    /// The same of a bridge.
    pub(super) fn bridged(mut self, bridge: Option<Arc<Bridge>>) -> Self {
        self.bridge = bridge;
        self
    }

    /// One whose certificate is from this root, and runs out.
    pub(super) fn expiring(self, root: RootTag, expiry: Expiry) -> Self {
        Self {
            root: Some(root),
            standing: Mutex::new(Standing { live: Live::default(), _expiry: Some(expiry) }),
            ..self
        }
    }

    /// What the connect hook left with a client.
    pub(super) fn of(client: &Client) -> Option<&Self> {
        client.attachment()
    }

    /// What a compact message carries, if the last message under its header agreed and whatever was asked then need not be
    /// asked again under the bundle of this number.
    pub(super) fn agreed(&self, number: u64, kid: Kid, topic: &Text, now: u64) -> Option<Arc<Carried>> {
        let mut agreed = lock(&self.agreed);
        let agreed = agreed.as_mut()?;
        if !(agreed.anybody && agreed.covers(number, kid, topic, now)) {
            return None;
        }
        if let Some(carried) = agreed.carried.upgrade() {
            return Some(carried);
        }
        let carried = Arc::new(Carried::sealed(agreed.header.upgrade()?, agreed.judged.clone()));
        agreed.carried = Arc::downgrade(&carried);
        Some(carried)
    }

    /// What the last plain message left with it, if this one on the same topic need not be judged again under the bundle of
    /// this number.
    pub(super) fn agreed_plain(&self, number: u64, topic: &Text) -> Option<Attachment> {
        let agreed = lock(&self.plain);
        let agreed = agreed.as_ref().filter(|agreed| agreed.bundle == number && agreed.topic == *topic);
        agreed.map(|agreed| agreed.carried.clone())
    }

    /// A plain message passed.
    pub(super) fn agrees_plain(&self, bundle: &Bundle, topic: &Text, place: Place, carried: &Attachment) {
        let nothing_asked = |rule: &Rule| rule.publishers.is_none() && rule.mode == Mode::Open;
        if rule_at(bundle, place).is_none_or(nothing_asked) {
            let (topic, carried) = (topic.detached(), carried.clone());
            *lock(&self.plain) = Some(PlainAgreed { topic, bundle: bundle.number, carried });
        }
    }

    /// The connection seals under this header.
    pub(super) fn seals_under(&self, header: &Arc<Kept>) {
        lock(&self.standing).live.uses(header);
    }

    /// Has a new header kept. What this connection has longest makes room for it if need be, what others have does not.
    pub(super) fn keep(&self, headers: &Headers, header: &Arc<Kept>, now: u64) -> Result<Arc<Kept>, NoRoom> {
        let live = &mut lock(&self.standing).live;
        live.make_way(header);
        loop {
            match headers.keep(header.clone(), now) {
                Err(NoRoom::Publisher) if live.let_go() => {}
                kept => return kept,
            }
        }
    }

    /// The connection has ended. Messages may hold on to this for much longer.
    pub(super) fn end(&self) {
        *lock(&self.standing) = Standing::default();
        *lock(&self.introduced) = Introduced::default();
        *lock(&self.agreed) = None;
        *lock(&self.plain) = None;
    }
}

/// Connections in the order in which their certificates run out.
#[derive(Default)]
pub(super) struct Expiries(Mutex<BTreeSet<(u64, u64)>>);

/// That a connection is among them.
pub(super) struct Expiry {
    until: u64,
    connection: u64,
    all: Arc<Expiries>,
}

impl Expiries {
    pub(super) fn add(self: &Arc<Self>, until: u64, connection: u64) -> Expiry {
        lock(&self.0).insert((until, connection));
        Expiry { until, connection, all: self.clone() }
    }

    /// Connections whose certificate ran out before `now`.
    pub(super) fn past(&self, now: u64) -> HashSet<u64> {
        let past = lock(&self.0);
        past.range(..(now, 0)).map(|(_, connection)| *connection).collect()
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&(self.until, self.connection));
    }
}

/// That the last sealed message of this connection agreed with a bundle. Only time can change that for the next one
/// under the same header, on the same topic, while there is no newer bundle; to find out again takes longer than all
/// else that is done with a message.
pub(super) struct Agreed {
    kid: Kid,
    /// Not what keeps it: how many headers are kept is bounded elsewhere.
    header: Weak<Kept>,
    /// What the last message carries, while it is anywhere.
    carried: Weak<Carried>,
    topic: Text,
    bundle: u64,
    judged: Judged,
    /// Whether the topic's rule asks nothing of publishers. If it does, attributes that changed count at once.
    anybody: bool,
    /// The time it was checked at, and the time from which it would be another answer, in seconds since 1970.
    from: u64,
    until: u64,
}

impl Agreed {
    pub(super) fn new(bundle: &Bundle, header: &Arc<Kept>, topic: &Text, place: Place, now: u64) -> Self {
        let anybody = rule_at(bundle, place).is_none_or(|rule| rule.publishers.is_none());
        // Of what `Bundle::check` asks of time, all but these two only becomes truer as time goes on.
        let graced = header.epoch() != bundle.epoch.number;
        let grace_ends = if graced { bundle.epoch.begins.saturating_add(bundle.grace) } else { u64::MAX };
        let until = header.expires().min(grace_ends);
        let (kid, judged, bundle) = (header.kid(), Judged::under(bundle, place), bundle.number);
        let (header, topic) = (Arc::downgrade(header), topic.detached());
        Self { kid, header, carried: Weak::new(), topic, bundle, judged, anybody, from: now, until }
    }

    pub(super) fn covers(&self, number: u64, kid: Kid, topic: &Text, now: u64) -> bool {
        self.bundle == number
            && self.kid == kid
            && self.topic == *topic
            && (self.from..self.until).contains(&now)
    }
}

/// That the last plain message of this connection passed a rule that asks nothing of it or its publisher. What such
/// messages carry depends on topic, publisher and bundle alone, so they share it.
struct PlainAgreed {
    topic: Text,
    bundle: u64,
    carried: Attachment,
}

/// Content keys whose header this connection got, oldest first. Readers keep four times as many headers, so none of
/// these is forgotten there.
#[derive(Default)]
pub(super) struct Introduced {
    kids: HashSet<Kid>,
    order: VecDeque<Kid>,
}

impl Introduced {
    /// Whether the connection has the header of `kid`; from now on it does.
    pub(super) fn knows(&mut self, kid: Kid) -> bool {
        // Mostly it is the newest.
        if self.order.back() == Some(&kid) || !self.kids.insert(kid) {
            return true;
        }
        self.order.push_back(kid);
        if self.order.len() > HEADERS_MAX / 4 {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.kids.remove(&oldest));
        }
        false
    }

    /// The connection may not have it after all.
    pub(super) fn forget(&mut self, kid: Kid) {
        if self.kids.remove(&kid) {
            self.order.retain(|other| *other != kid);
        }
    }
}
