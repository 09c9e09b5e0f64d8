//! The secure-publish hook: identities, topic rules, headers.
//!
//! Checked for every message, not once for each header: publisher, topic, policy, epoch, versions, rule.
//! A compact message counts only from the device that signed its header.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
pub use smqtt_core::api::{MAX_STALENESS_SECONDS, STALENESS_FACTOR};

use super::brought::Bridges;
use super::denials::{Denials, Denied};
use super::headers::{HeaderLimits, Headers};
use super::revocations::Cuts;
use super::session::{Expiries, Session};
use super::view::View;
use crate::broker::{
    Attachment, Client, ConnectRequest, ConnectVerdict, Counter, DeliverVerdict, Delivery, Disconnection,
    Dropped, Hook, HookFuture, Message, Metrics, Point, Publication, SubscribeRequest, Verdict, Whose,
    reading,
};
use crate::mqtt::QoS;

/// What is counted of messages that pass.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) sealed: Counter,
    pub(super) plain: Counter,
    /// Headers verified.
    pub(super) headers: Counter,
}

/// Lets in whom the authority knows, and lets through what its rules allow. Clones share all of it.
#[derive(Clone)]
pub struct SecurePublish {
    pub(super) view: Arc<View>,
    pub(super) headers: Arc<Headers>,
    pub(super) passed: Arc<Passed>,
    pub(super) denials: Arc<Denials>,
    pub(super) expiries: Arc<Expiries>,
    /// Whether clients without a certificate are let in (only a listener without TLS has such).
    pub(super) anonymous: bool,
    pub(super) bridges: Arc<Bridges>,
    pub(super) cuts: Arc<Cuts>,
    pub(super) max_staleness: u64,
    closed: Arc<AtomicBool>,
}

impl SecurePublish {
    /// The hook over `view`; `anonymous`: clients without a certificate are let in.
    pub fn new(view: Arc<View>, anonymous: bool) -> Self {
        Self {
            view,
            headers: Arc::default(),
            passed: Arc::default(),
            denials: Arc::default(),
            expiries: Arc::default(),
            anonymous,
            max_staleness: MAX_STALENESS_SECONDS,
            closed: Arc::default(),
            bridges: Arc::default(),
            cuts: Arc::default(),
        }
    }

    /// Lets pass what bridges bring and its publishers did not sign, so that whoever reads it elsewhere can forge it.
    pub fn unsigned_over_bridges(mut self, unsigned: bool) -> Self {
        self.bridges = Arc::new(Bridges::new(unsigned));
        self
    }

    /// With another time than [`MAX_STALENESS_SECONDS`].
    pub fn max_staleness(mut self, seconds: u64) -> Self {
        self.max_staleness = seconds;
        self
    }

    /// With other limits for kept headers.
    pub fn header_limits(mut self, limits: HeaderLimits) -> Self {
        self.headers = Arc::new(Headers::new(limits));
        self
    }

    /// What was refused, dropped and warned of.
    pub fn denials(&self) -> Arc<Denials> {
        self.denials.clone()
    }

    /// The headers that it keeps.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// What it knows of the authority.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether what is `required` is closed, since the authority was not heard for too long.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes or opens it; whether that is a change.
    pub(super) fn close(&self, closed: bool) -> bool {
        self.closed.swap(closed, Ordering::Relaxed) != closed
    }
}

impl Hook for SecurePublish {
    fn metrics(&self, metrics: &Metrics) {
        self.denials.register(metrics);
        metrics.register("smqtt_sealed_messages", "Sealed messages let through", &self.passed.sealed);
        metrics.register("smqtt_plain_messages", "Plain messages let through", &self.passed.plain);
        metrics.register("smqtt_headers_verified", "Headers verified", &self.passed.headers);
        let view = self.view.clone();
        let stale = reading(move || view.staleness() as f64);
        metrics.register("smqtt_staleness_seconds", "Since the authority was heard", &stale);
        let headers = self.headers.clone();
        let kept = reading(move || headers.size().0 as f64);
        metrics.register("smqtt_headers", "Headers kept", &kept);
        let headers = self.headers.clone();
        let bytes = reading(move || headers.size().1 as f64);
        metrics.register("smqtt_headers_bytes", "Bytes of headers kept", &bytes);
        let (view, hook) = (self.view.clone(), self.clone());
        let number = reading(move || view.bundle().number as f64);
        metrics.register("smqtt_bundle_number", "Number of the bundle in force", &number);
        let closed = reading(move || f64::from(u8::from(hook.is_closed())));
        metrics.register("smqtt_required_closed", "1 while what must be sealed is closed", &closed);
    }

    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(async move {
            match self.admit(request).await {
                Ok(admission) => ConnectVerdict::Allow(admission),
                Err(refused) => {
                    self.denials.note(Denied::Connection, &refused, &request.peer, self.view.now());
                    ConnectVerdict::Deny(refused.denial())
                }
            }
        })
    }

    fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        match self.check_subscribe(client, request) {
            Ok(verdict) => verdict,
            Err(refused) => {
                self.denials.note(Denied::Subscription, &refused, &client.client_id, self.view.now());
                Verdict::Deny(refused.denial())
            }
        }
    }

    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        let Err(refused) = self.check_publish(client, publication) else { return Verdict::Allow };
        self.denials.note(Denied::Message, &refused, &client.client_id, self.view.now());
        let denial = refused.denial();
        // QoS 0 has no acknowledgement to refuse in, and silence would be worse; but a bridge is not to blame for what
        // others send, and carries more than that.
        let bridged = Session::of(client).is_some_and(|session| session.bridge.is_some());
        let silent = publication.message().qos() == QoS::AtMostOnce && !bridged;
        Verdict::Deny(if silent { denial.disconnecting() } else { denial })
    }

    fn recall(&self, _: &Message, keepsake: &Bytes) -> Option<Attachment> {
        self.remember(keepsake)
    }

    fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        self.readmit(client)
    }

    fn disconnected(&self, client: &Client, _: Disconnection) {
        if let Some(session) = Session::of(client) {
            session.end();
        }
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Publish, Point::Deliver, Point::Dropped]
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        self.take_back(dropped);
    }

    fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        self.hand_over(client, delivery)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
