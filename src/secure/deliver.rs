//! What is delivered, and in which form.

use std::sync::Arc;

use bytes::Bytes;
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::full;
use smqtt_core::header::{Header, KID_BYTES, Kid};
use smqtt_core::identity::DeviceId;

use super::denials::Denied;
use super::headers::Kept;
use super::hook::{SecurePublish, lock};
use super::refused::Refused;
use super::rules::{Form, Judged, Place, rule_at};
use super::session::Session;
use super::view::Ruled;
use crate::broker::{Attachment, Client, DeliverVerdict, Delivery, Dropped, Message};

/// What goes along with a message, for as long as any queued or retained copy of it. Those of one connection that have all
/// of it in common share it. Aligned, so that what is read of it for each message does not lie beside the count of who shares
/// it, which publisher and readers change from different processors.
#[repr(align(64))]
pub(super) struct Carried {
    what: What,
    judged: Judged,
}

enum What {
    /// Its header.
    Sealed(Arc<Kept>),
    /// Who published it, with the bytes of that to keep; `None` for a client without a certificate.
    Plain(Option<(DeviceId, Bytes)>),
}

impl Carried {
    pub(super) fn sealed(header: Arc<Kept>, judged: Judged) -> Self {
        Self { what: What::Sealed(header), judged }
    }

    pub(super) fn plain(device: Option<DeviceId>, judged: Judged) -> Self {
        let device = device.map(|device| (device, Bytes::copy_from_slice(&device.0)));
        Self { what: What::Plain(device), judged }
    }

    /// From what it is made again after a restart: the header, or the device's identifier.
    pub(super) fn keepsake(attachment: &Attachment) -> Option<&Bytes> {
        match &attachment.downcast_ref::<Self>()?.what {
            What::Sealed(header) => Some(header.bytes()),
            What::Plain(device) => device.as_ref().map(|(_, bytes)| bytes),
        }
    }

    /// What the hook left with a message.
    fn of(message: &Message) -> Option<&Self> {
        message.attachment().and_then(|any| any.downcast_ref())
    }

    fn header(&self) -> Option<&Arc<Kept>> {
        match &self.what {
            What::Sealed(header) => Some(header),
            What::Plain(_) => None,
        }
    }
}

impl SecurePublish {
    /// What goes along with a message from before a restart. The keepsake of a sealed one is its header: it was verified
    /// before it was kept, and is by every reader. That of a plain one is the device's identifier.
    pub(super) fn remember(&self, keepsake: &Bytes) -> Option<Attachment> {
        if let Ok(id) = <[u8; 16]>::try_from(&keepsake[..]) {
            return Some(Arc::new(Carried::plain(Some(DeviceId(id)), Judged::default())));
        }
        let kid = Kid(sha256(&[keepsake])[..KID_BYTES].try_into().ok()?);
        let header = match self.headers.get(kid) {
            Some(header) => header,
            None => {
                let header = Arc::new(Kept::new(Header::parse(keepsake).ok()?));
                // Where there is no room the message has it all the same.
                self.headers.keep(header.clone(), self.view.now()).unwrap_or(header)
            }
        };
        Some(Arc::new(Carried::sealed(header, Judged::default())))
    }

    /// The client did not get a message after all.
    pub(super) fn take_back(&self, dropped: &Dropped<'_>) {
        let header = Carried::of(dropped.message).and_then(Carried::header);
        if let (Some(session), Some(header)) = (dropped.client.and_then(Session::of), header) {
            // The header may have gone down with it: the next message brings it.
            lock(&session.introduced).forget(header.kid());
        }
    }

    /// Whether a message is for this client, and in which form.
    pub(super) fn hand_over(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        let Err(refused) = self.check_delivery(client, delivery) else { return DeliverVerdict::Deliver };
        self.denials.note(Denied::Delivery, &refused, &client.client_id, self.view.now());
        DeliverVerdict::Drop(format!("{}: {}", refused.code, refused.text))
    }

    fn check_delivery(&self, client: &Client, delivery: &mut Delivery<'_>) -> Result<(), Refused> {
        let session = Session::of(client).ok_or_else(Refused::stranger)?;
        let message = delivery.message();
        let carried = Carried::of(message);
        if !carried.is_some_and(|carried| carried.judged.is_for_all(self.view.number(), self.is_closed())) {
            self.may_have(session.device, message)?;
        }
        let Some(header) = carried.and_then(Carried::header) else { return Ok(()) };
        if !(session.reader && lock(&session.introduced).knows(header.kid())) {
            delivery.set_shared_payload(|| Bytes::from(full(header.as_bytes(), message.payload())));
        }
        Ok(())
    }

    /// Whether the rules let a device have a message now.
    fn may_have(&self, device: Option<DeviceId>, message: &Message) -> Result<(), Refused> {
        let bundle = self.view.bundle();
        let Some(rule) = rule_at(&bundle, self.still_good(&bundle, message)?) else { return Ok(()) };
        if !self.satisfies(device, &rule.subscribers) {
            return Err(Refused::not_allowed(rule, "have this message"));
        }
        self.check_open(Some(rule))
    }

    /// Whether a message that was taken still is what the rules say; by which of them.
    pub(super) fn still_good(&self, bundle: &Ruled, message: &Message) -> Result<Place, Refused> {
        let carried = Carried::of(message);
        if let Some(place) = carried.and_then(|carried| carried.judged.get(bundle)) {
            return Ok(place);
        }
        let clears = message.retain() && message.payload().is_empty();
        let (publisher, form) = match carried.map(|carried| &carried.what) {
            Some(What::Sealed(header)) => (Some(header.publisher()), Form::Sealed(header)),
            Some(What::Plain(Some((device, _)))) if clears => (Some(*device), Form::Clears),
            Some(What::Plain(device)) => (device.as_ref().map(|(device, _)| *device), Form::Plain),
            // Another hook's attachment is there, or nobody's.
            None => {
                (message.publisher().and_then(|by| Session::of(by)).and_then(|by| by.device), Form::Plain)
            }
        };
        let place = self.judge(bundle, message.topic(), publisher, &form)?;
        if let Some(carried) = carried {
            carried.judged.good(bundle, place);
        }
        Ok(place)
    }

    /// The header of a sealed message.
    pub(super) fn sealed_under(message: &Message) -> Option<&Header> {
        Carried::of(message).and_then(Carried::header).map(|kept| &***kept)
    }

    /// Whether a message that passes would not if its rule were `required`; for a retained one under a rule that warns.
    pub(super) fn would_go(&self, bundle: &Ruled, message: &Message) -> bool {
        match Carried::of(message).and_then(Carried::header) {
            Some(header) => bundle.check_topic(header, message.topic()).is_err(),
            None => true,
        }
    }
}
