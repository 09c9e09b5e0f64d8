//! What may be published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smqtt_core::bundle::Refusal;
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::{Envelope, is_sealed};
use smqtt_core::header::{Header, KID_BYTES, Kid};
use smqtt_core::rule::{Mode, Rule};

use super::deliver::Carried;
use super::denials::Denied;
use super::headers::{Kept, NoRoom};
use super::hook::{SecurePublish, lock};
use super::refused::Refused;
use super::rules::{Judged, Place, disagrees, plaintext, rule_at};
use super::session::{Agreed, Session};
use super::view::Ruled;
use crate::broker::{Attachment, Client, Limit, Message, Origin, Publication};
use crate::mqtt::{ReasonCode, Text};

impl SecurePublish {
    /// Whether a message passes; it then has its header with it, and is compact.
    pub(super) fn check_publish(
        &self,
        client: &Client,
        publication: &mut Publication,
    ) -> Result<(), Refused> {
        let session = Session::of(client).ok_or_else(Refused::stranger)?;
        if publication.origin() == Origin::Publish && self.pass_again(session, publication) {
            return Ok(());
        }
        let bundle = self.view.bundle();
        // It is about to be cut, and may have sent this before.
        if session.device.is_some_and(|device| bundle.is_revoked(device)) {
            return Err(Refused::revoked());
        }
        let topic = publication.message().topic().clone();
        let payload = publication.message().payload().clone();
        let envelope = is_sealed(&payload).then(|| Envelope::parse(&payload));
        let place = bundle.place_of(&topic);
        let rule = rule_at(&bundle, place);
        if rule.is_some_and(|rule| rule.mode == Mode::Required) {
            session.on_required.store(true, Ordering::Relaxed);
        }
        let envelope = match (envelope, &session.bridge) {
            (Some(envelope), Some(bridge)) => {
                return self.check_brought(client, bridge, envelope, &bundle, place, publication);
            }
            (envelope, _) => envelope,
        };
        self.may_publish(session.device, rule).map_err(|refused| match publication.origin() {
            Origin::Will => self.later(refused),
            _ => refused,
        })?;
        let Some(envelope) = envelope else {
            return self.check_plain(client, session, &bundle, place, publication);
        };
        let malformed = |text: &str| Refused::new("broken", ReasonCode::PayloadFormatInvalid, text);
        let envelope = envelope.map_err(|error| malformed(&error.to_string()))?;
        let header = self.header_of(session, &envelope, publication.origin())?;
        let judged =
            self.check_header(client, session, &bundle, &header, &topic, place, publication.origin())?;
        if envelope.header.is_some() {
            publication.set_payload(Bytes::from(envelope.message.compact()));
        }
        self.pass(publication, Arc::new(Carried::sealed(header, judged)));
        Ok(())
    }

    /// Lets a message through that is like the last one of its connection in all that was asked then.
    fn pass_again(&self, session: &Session, publication: &mut Publication) -> bool {
        let number = self.view.number();
        let message = publication.message();
        if !is_sealed(message.payload()) {
            if takes_away(message) || message.attachment().is_some() {
                return false;
            }
            let Some(carried) = session.agreed_plain(number, message.topic()) else { return false };
            publication.set_attachment(carried, Some(Carried::keepsake));
            self.passed.plain.inc();
            return true;
        }
        let Ok(Envelope { header: None, message: sealed }) = Envelope::parse(message.payload()) else {
            return false;
        };
        if self.is_closed() {
            return false;
        }
        let Some(carried) = session.agreed(number, sealed.kid(), message.topic(), self.view.now()) else {
            return false;
        };
        self.pass(publication, carried);
        true
    }

    /// A will that cannot be judged yet is asked about again: a broker that has just started may not know anybody, and one
    /// without its authority may know better soon.
    fn later(&self, refused: Refused) -> Refused {
        match refused.code {
            "stale" => Refused { reason: ReasonCode::ServerBusy, ..refused },
            _ if !self.view.has_directory() => {
                let text = "the broker has no directory yet";
                Refused::new("no-directory", ReasonCode::ServerBusy, text)
            }
            _ => refused,
        }
    }

    /// Lets a sealed message through, with the header that its readers may need.
    pub(super) fn pass(&self, publication: &mut Publication, carried: Arc<Carried>) {
        publication.set_attachment(carried, Some(Carried::keepsake));
        self.passed.sealed.inc();
    }

    fn check_plain(
        &self,
        client: &Client,
        session: &Session,
        bundle: &Ruled,
        place: Place,
        publication: &mut Publication,
    ) -> Result<(), Refused> {
        let clears = clears(session, publication.message());
        match rule_at(bundle, place) {
            Some(rule) if rule.mode == Mode::Required && !clears => return Err(plaintext(rule)),
            Some(rule) if rule.mode == Mode::Warn && !clears => self.warn(client, &plaintext(rule)),
            _ => {}
        }
        if publication.message().attachment().is_none() {
            let carried: Attachment = Arc::new(Carried::plain(session.device, Judged::under(bundle, place)));
            if publication.origin() == Origin::Publish && !takes_away(publication.message()) {
                session.agrees_plain(bundle, publication.message().topic(), place, &carried);
            }
            publication.set_attachment(carried, Some(Carried::keepsake));
        }
        self.passed.plain.inc();
        Ok(())
    }

    /// A message passes that would not if the rule were `required`.
    pub(super) fn warn(&self, client: &Client, refused: &Refused) {
        self.denials.note(Denied::Warning, refused, &client.client_id, self.view.now());
    }

    /// The verified header of a message, from the message itself or kept from an earlier one.
    fn header_of(
        &self,
        session: &Session,
        envelope: &Envelope<'_>,
        origin: Origin,
    ) -> Result<Arc<Kept>, Refused> {
        let kid = envelope.message.kid();
        let foreign = || {
            let text = "the header is signed by another device than the one connected";
            Refused::new("publisher", ReasonCode::NotAuthorized, text)
        };
        let no_header = |text| Refused::new("no-header", ReasonCode::ImplementationSpecificError, text);
        let kept = self.headers.get(kid);
        let header = match (envelope.header, kept) {
            // It may be due when nothing else of its client is left, after a restart for one.
            (None, _) if origin != Origin::Publish => {
                return Err(no_header("a will brings its header itself"));
            }
            (None, None) => return Err(no_header("no header is kept under this kid: send it along")),
            (None, Some(kept)) => kept,
            (Some(bytes), Some(kept)) if kept.as_bytes() == bytes => kept,
            (Some(_), Some(_)) => {
                let text = "another header is known under this kid";
                return Err(Refused::new("kid", ReasonCode::PayloadFormatInvalid, text));
            }
            (Some(bytes), None) => self.learn(session, kid, bytes, origin)?,
        };
        if Some(header.publisher()) == session.device { Ok(header) } else { Err(foreign()) }
    }

    fn learn(&self, session: &Session, kid: Kid, bytes: &[u8], origin: Origin) -> Result<Arc<Kept>, Refused> {
        let invalid = |code, text: String| Refused::new(code, ReasonCode::PayloadFormatInvalid, text);
        if sha256(&[bytes])[..KID_BYTES] != kid.0 {
            return Err(invalid("kid", "the message belongs to another header".into()));
        }
        let header = Header::parse(bytes).map_err(|error| invalid("broken", error.to_string()))?;
        let publisher = header.publisher();
        if Some(publisher) != session.device {
            let text = "the header is signed by another device than the one connected";
            return Err(Refused::new("publisher", ReasonCode::NotAuthorized, text));
        }
        // A will that is due was paid for when it was left.
        if origin != Origin::Will && !self.headers.admit(publisher, self.view.now()) {
            let text = "too many new headers: use a content key for longer";
            return Err(Refused::headers(Limit::NewHeaders, text));
        }
        header
            .verify(&self.view.roots())
            .map_err(|error| Refused::new("publisher", ReasonCode::NotAuthorized, error.to_string()))?;
        self.passed.headers.inc();
        let header = Arc::new(Kept::new(header));
        // Nothing else comes under a will's.
        if origin != Origin::Publish {
            return Ok(header);
        }
        session.keep(&self.headers, &header, self.view.now()).map_err(|no_room| match no_room {
            NoRoom::Publisher => {
                let text = "this device has too many content keys in use: use fewer, or fewer connections";
                Refused::headers(Limit::HeadersPerPublisher, text)
            }
            NoRoom::Broker => {
                let text = "the broker has no room for another header: try again later";
                Refused::headers(Limit::HeadersBytes, text)
            }
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn check_header(
        &self,
        client: &Client,
        session: &Session,
        bundle: &Ruled,
        header: &Arc<Kept>,
        topic: &Text,
        place: Place,
        origin: Origin,
    ) -> Result<Judged, Refused> {
        let rule = rule_at(bundle, place);
        let good = || Judged::under(bundle, place);
        let checked = match origin {
            // A will was sealed when its client connected, maybe epochs ago; all else must be of now.
            Origin::Will => bundle.check_topic(header, topic),
            _ => {
                let now = self.view.now();
                let mut agreed = lock(&session.agreed);
                let known = agreed
                    .as_ref()
                    .is_some_and(|agreed| agreed.covers(bundle.number, header.kid(), topic, now));
                let checked = if known { Ok(()) } else { bundle.check(header, topic, now) };
                if checked.is_ok() && !known {
                    *agreed = Some(Agreed::new(bundle, header, topic, place, now));
                }
                checked
            }
        };
        match checked {
            Ok(()) => {}
            Err(refusal) if warns(rule) && passes_with_a_warning(&refusal, header, topic) => {
                self.warn(client, &disagrees(&refusal, rule));
            }
            Err(refusal) => return Err(disagrees(&refusal, rule)),
        }
        if origin == Origin::Publish {
            session.seals_under(header);
        }
        Ok(good())
    }
}

/// An empty retained message is no reading: it takes the kept one away.
fn takes_away(message: &Message) -> bool {
    message.retain() && message.payload().is_empty()
}

/// Whether it may. Of who sent it to a bridge nothing is known.
fn clears(session: &Session, message: &Message) -> bool {
    takes_away(message) && session.device.is_some() && session.bridge.is_none()
}

pub(super) fn warns(rule: Option<&Rule>) -> bool {
    rule.is_some_and(|rule| rule.mode == Mode::Warn)
}

/// Whether a rule that warns lets it pass: what it is sealed under is wrong, not who sealed it for which topic.
pub(super) fn passes_with_a_warning(refusal: &Refusal, header: &Header, topic: &str) -> bool {
    !matches!(refusal, Refusal::Revoked | Refusal::Filter { .. }) && header.filter().matches(topic)
}
