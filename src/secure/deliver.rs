//! What is delivered, and in which form.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::full;
use smqtt_core::header::{Header, KID_BYTES, Kid};

use super::headers::Kept;
use super::hook::{SecurePublish, lock};
use super::refused::Refused;
use super::session::Session;
use crate::broker::{Attachment, Client, DeliverVerdict, Delivery, Dropped};

/// What goes along with a sealed message: its header, and the full form once somebody needs it.
pub(super) struct Sealed {
    header: Arc<Kept>,
    full: OnceLock<Bytes>,
}

impl Sealed {
    pub(super) fn new(header: Arc<Kept>) -> Self {
        Self { header, full: OnceLock::new() }
    }

    /// Header and message: made once, shared by all who need it.
    fn full(&self, compact: &Bytes) -> Bytes {
        let make = || Bytes::from(full(self.header.as_bytes(), compact));
        self.full.get_or_init(make).clone()
    }
}

impl SecurePublish {
    /// The keepsake is the header. It was verified before it was kept, and is by every reader.
    pub(super) fn remember(&self, keepsake: &Bytes) -> Option<Attachment> {
        let kid = Kid(sha256(&[keepsake])[..KID_BYTES].try_into().ok()?);
        let header = match self.headers.get(kid) {
            Some(header) => header,
            None => {
                let header = Arc::new(Kept::new(Header::parse(keepsake).ok()?));
                self.headers.keep(header.clone());
                header
            }
        };
        Some(Arc::new(Sealed::new(header)))
    }

    /// The client did not get a message after all.
    pub(super) fn take_back(&self, dropped: &Dropped<'_>) {
        let sealed = dropped.message.attachment().and_then(|any| any.downcast_ref::<Sealed>());
        if let (Some(session), Some(sealed)) = (dropped.client.and_then(Session::of), sealed) {
            // The header may have gone down with it: the next message brings it.
            lock(&session.introduced).forget(sealed.header.kid());
        }
    }

    /// Whether a message is for this client, and in which form.
    pub(super) fn hand_over(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        let Some(session) = Session::of(client) else {
            return DeliverVerdict::Drop(Refused::stranger().text);
        };
        let message = delivery.message();
        let bundle = self.view.bundle();
        // Mostly nobody is kept from subscribing, and then nothing need be looked up.
        if bundle.rules.iter().any(|rule| rule.subscribers.is_some()) {
            let rule = bundle.rule_for(message.topic());
            if let Some(rule) = rule.filter(|rule| !self.satisfies(session.device, &rule.subscribers)) {
                return DeliverVerdict::Drop(format!("the rule `{}` keeps it from this client", rule.filter));
            }
        }
        let Some(sealed) = message.attachment().and_then(|any| any.downcast_ref::<Sealed>()) else {
            return DeliverVerdict::Deliver;
        };
        let kid = sealed.header.kid();
        let known = session.reader && lock(&session.introduced).knows(kid);
        if !known {
            delivery.set_payload(sealed.full(message.payload()));
        }
        DeliverVerdict::Deliver
    }
}
