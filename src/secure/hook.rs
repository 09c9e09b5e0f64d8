//! The secure-publish hook: identities, topic rules, headers.
//!
//! Checked for every message, not once for each header: publisher, topic, policy, epoch, versions, rule.
//! A compact message counts only from the device that signed its header.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use smqtt_core::identity::DeviceId;
use smqtt_core::policy::Policy;

use super::brought::Bridges;
use super::headers::Headers;
use super::session::Session;
use super::view::View;
use crate::broker::{
    Attachment, Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Delivery, Dropped, Hook, HookFuture,
    Message, Point, Publication, SubscribeRequest, Verdict, Whose,
};
use crate::mqtt::QoS;

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sealed messages let through.
    pub sealed: AtomicU64,
    /// Plain messages let through.
    pub plain: AtomicU64,
    /// Messages that a `warn` rule would refuse if it were `required`.
    pub warned: AtomicU64,
    /// Messages refused.
    pub refused: AtomicU64,
    /// Headers verified.
    pub headers: AtomicU64,
}

/// Lets in whom the authority knows, and lets through what its rules allow.
pub struct SecurePublish {
    pub(super) view: Arc<View>,
    pub(super) headers: Headers,
    pub(super) counters: Arc<Counters>,
    /// Whether clients without a certificate are let in (only a listener without TLS has such).
    pub(super) anonymous: bool,
    pub(super) bridges: Bridges,
}

impl SecurePublish {
    /// The hook over `view`; `anonymous`: clients without a certificate are let in.
    pub fn new(view: Arc<View>, anonymous: bool) -> Self {
        Self {
            view,
            headers: Headers::default(),
            counters: Arc::default(),
            anonymous,
            bridges: Bridges::default(),
        }
    }

    /// Lets pass what bridges bring and its publishers did not sign, so that whoever reads it elsewhere can forge it.
    pub fn unsigned_over_bridges(mut self, unsigned: bool) -> Self {
        self.bridges.unsigned = unsigned;
        self
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Whether a device's attributes satisfy `policy`; those of nobody satisfy nothing.
    pub(super) fn satisfies(&self, device: Option<DeviceId>, policy: &Option<Policy>) -> bool {
        match policy {
            None => true,
            Some(policy) => device
                .and_then(|id| self.view.peer(id))
                .is_some_and(|peer| peer.active && policy.satisfied_by(&peer.attributes)),
        }
    }
}

impl Hook for SecurePublish {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(async move {
            match self.admit(request).await {
                Ok(admission) => ConnectVerdict::Allow(admission),
                Err(refused) => {
                    tracing::info!(peer = %request.peer, code = refused.code, text = %refused.text, "refused a connection");
                    ConnectVerdict::Deny(refused.denial())
                }
            }
        })
    }

    fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        match self.check_subscribe(client, request) {
            Ok(verdict) => verdict,
            Err(refused) => {
                tracing::info!(client = %client.client_id, code = refused.code, text = %refused.text, "refused a subscription");
                Verdict::Deny(refused.denial())
            }
        }
    }

    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        let Err(refused) = self.check_publish(client, publication) else { return Verdict::Allow };
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            client = %client.client_id,
            code = refused.code,
            text = %refused.text,
            "refused a message"
        );
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
