//! A connection, as the hook knows it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use smqtt_client::opener::HEADERS_MAX;
use smqtt_core::bundle::Bundle;
use smqtt_core::header::Kid;
use smqtt_core::identity::DeviceId;

use super::brought::Bridge;
use super::headers::Kept;
use super::hook::lock;
use crate::broker::Client;
use crate::mqtt::Text;

/// A connection, as this hook knows it.
pub(super) struct Session {
    pub(super) device: Option<DeviceId>,
    pub(super) reader: bool,
    /// If it is a bridge's: what it may bring is judged by other signatures than its own.
    pub(super) bridge: Option<Arc<Bridge>>,
    pub(super) introduced: Mutex<Introduced>,
    pub(super) agreed: Mutex<Option<Agreed>>,
}

impl Session {
    pub(super) fn new(device: Option<DeviceId>, reader: bool) -> Self {
        Self { device, reader, bridge: None, introduced: Mutex::default(), agreed: Mutex::default() }
    }

    /// The same of a bridge.
    pub(super) fn bridged(mut self, bridge: Option<Arc<Bridge>>) -> Self {
        self.bridge = bridge;
        self
    }

    /// What the connect hook left with a client.
    pub(super) fn of(client: &Client) -> Option<&Self> {
        client.attachment()
    }

    /// The header of a compact message, if the last message under it agreed and whatever was asked then need not be
    /// asked again.
    pub(super) fn agreed(&self, bundle: &Bundle, kid: Kid, topic: &Text, now: u64) -> Option<Arc<Kept>> {
        let agreed = lock(&self.agreed);
        let agreed =
            agreed.as_ref().filter(|agreed| agreed.anybody && agreed.covers(bundle, kid, topic, now));
        agreed.and_then(|agreed| agreed.header.upgrade())
    }
}

/// That the last sealed message of this connection agreed with a bundle. Only time can change that for the next one
/// under the same header, on the same topic, while there is no newer bundle; to find out again takes longer than all
/// else that is done with a message.
pub(super) struct Agreed {
    kid: Kid,
    /// Not what keeps it: how many headers are kept is bounded elsewhere.
    header: Weak<Kept>,
    topic: Text,
    bundle: u64,
    /// Whether the topic's rule asks nothing of publishers. If it does, attributes that changed count at once.
    anybody: bool,
    /// The time it was checked at, and the time from which it would be another answer, in seconds since 1970.
    from: u64,
    until: u64,
}

impl Agreed {
    pub(super) fn new(bundle: &Bundle, header: &Arc<Kept>, topic: &Text, anybody: bool, now: u64) -> Self {
        // Of what `Bundle::check` asks of time, all but these two only becomes truer as time goes on.
        let graced = header.epoch() != bundle.epoch.number;
        let grace_ends = if graced { bundle.epoch.begins.saturating_add(bundle.grace) } else { u64::MAX };
        let until = header.expires().min(grace_ends);
        let (kid, bundle) = (header.kid(), bundle.number);
        let (header, topic) = (Arc::downgrade(header), topic.detached());
        Self { kid, header, topic, bundle, anybody, from: now, until }
    }

    pub(super) fn covers(&self, bundle: &Bundle, kid: Kid, topic: &Text, now: u64) -> bool {
        self.bundle == bundle.number
            && self.kid == kid
            && self.topic == *topic
            && (self.from..self.until).contains(&now)
    }
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
