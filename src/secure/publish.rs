//! What may be published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smqtt_core::bundle::{Bundle, Refusal};
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::{Envelope, is_sealed};
use smqtt_core::header::{Header, KID_BYTES, Kid};
use smqtt_core::rule::{Mode, Rule};

use super::deliver::Sealed;
use super::headers::Kept;
use super::hook::{SecurePublish, lock};
use super::refused::Refused;
use super::session::{Agreed, Session};
use crate::broker::{Client, Origin, Publication};
use crate::mqtt::{ReasonCode, Text};

impl SecurePublish {
    /// Whether a message passes; it then has its header with it, and is compact.
    pub(super) fn check_publish(
        &self,
        client: &Client,
        publication: &mut Publication,
    ) -> Result<(), Refused> {
        let session = Session::of(client).ok_or_else(Refused::stranger)?;
        let bundle = self.view.bundle();
        let topic = publication.message().topic().clone();
        let payload = publication.message().payload().clone();
        let envelope = is_sealed(&payload).then(|| Envelope::parse(&payload));
        if let Some(Ok(Envelope { header: None, message })) = &envelope
            && let Some(header) = session.agreed(&bundle, message.kid(), &topic, self.view.now())
        {
            self.pass(publication, header);
            return Ok(());
        }
        let envelope = match (envelope, &session.bridge) {
            (Some(envelope), Some(bridge)) => return self.check_brought(bridge, envelope, publication),
            (envelope, _) => envelope,
        };
        let rule = bundle.rule_for(&topic);
        if let Some(rule) = rule.filter(|rule| !self.satisfies(session.device, &rule.publishers)) {
            // A broker that has just started may have a will to publish before it knows anybody. It is asked again.
            if publication.origin() == Origin::Will && !self.view.has_directory() {
                let text = "the broker has no directory yet";
                return Err(Refused::new("no-directory", ReasonCode::ServerBusy, text));
            }
            let text = format!("the rule `{}` does not let you publish", rule.filter);
            return Err(Refused::new("not-allowed", ReasonCode::NotAuthorized, text));
        }
        let Some(envelope) = envelope else { return self.check_plain(session, publication, rule) };
        let malformed = |text: &str| Refused::new("broken", ReasonCode::PayloadFormatInvalid, text);
        let envelope = envelope.map_err(|error| malformed(&error.to_string()))?;
        let header = self.header_of(session, &envelope)?;
        let anybody = rule.is_none_or(|rule| rule.publishers.is_none());
        self.check_header(session, &bundle, &header, &topic, anybody, publication.origin())?;
        if envelope.header.is_some() {
            publication.set_payload(Bytes::from(envelope.message.compact()));
        }
        self.pass(publication, header);
        Ok(())
    }

    /// Lets a sealed message through, with the header that its readers may need.
    pub(super) fn pass(&self, publication: &mut Publication, header: Arc<Kept>) {
        let keepsake = header.bytes().clone();
        publication.set_attachment(Arc::new(Sealed::new(header)), Some(keepsake));
        self.counters.sealed.fetch_add(1, Ordering::Relaxed);
    }

    fn check_plain(
        &self,
        session: &Session,
        publication: &Publication,
        rule: Option<&Rule>,
    ) -> Result<(), Refused> {
        let message = publication.message();
        // An empty retained message is no reading: it takes the kept one away. Of who sent it to a bridge nothing is known.
        let clears = message.retain()
            && message.payload().is_empty()
            && session.device.is_some()
            && session.bridge.is_none();
        match rule {
            Some(rule) if rule.mode == Mode::Required && !clears => {
                let text = format!("the rule `{}` requires messages to be sealed", rule.filter);
                return Err(Refused::new("plaintext", ReasonCode::PayloadFormatInvalid, text));
            }
            Some(rule) if rule.mode == Mode::Warn && !clears => {
                self.counters.warned.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(rule = %rule.filter, "a plain message passed where the rule warns");
            }
            _ => {}
        }
        self.counters.plain.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The verified header of a message, from the message itself or kept from an earlier one.
    fn header_of(&self, session: &Session, envelope: &Envelope<'_>) -> Result<Arc<Kept>, Refused> {
        let kid = envelope.message.kid();
        let foreign = || {
            let text = "the header is signed by another device than the one connected";
            Refused::new("publisher", ReasonCode::NotAuthorized, text)
        };
        let kept = self.headers.get(kid);
        let header = match (envelope.header, kept) {
            (None, None) => {
                let text = "no header is kept under this kid: send it along";
                return Err(Refused::new("no-header", ReasonCode::ImplementationSpecificError, text));
            }
            (None, Some(kept)) => kept,
            (Some(bytes), Some(kept)) if kept.as_bytes() == bytes => kept,
            (Some(_), Some(_)) => {
                let text = "another header is known under this kid";
                return Err(Refused::new("kid", ReasonCode::PayloadFormatInvalid, text));
            }
            (Some(bytes), None) => self.learn(session, kid, bytes)?,
        };
        if Some(header.publisher()) == session.device { Ok(header) } else { Err(foreign()) }
    }

    fn learn(&self, session: &Session, kid: Kid, bytes: &[u8]) -> Result<Arc<Kept>, Refused> {
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
        if !self.headers.admit(publisher, self.view.now()) {
            let text = "too many new headers: use a content key for longer";
            return Err(Refused::new("headers", ReasonCode::QuotaExceeded, text));
        }
        header
            .verify(&self.view.roots())
            .map_err(|error| Refused::new("publisher", ReasonCode::NotAuthorized, error.to_string()))?;
        let header = Arc::new(Kept::new(header));
        self.headers.keep(header.clone());
        self.counters.headers.fetch_add(1, Ordering::Relaxed);
        Ok(header)
    }

    fn check_header(
        &self,
        session: &Session,
        bundle: &Bundle,
        header: &Arc<Kept>,
        topic: &Text,
        anybody: bool,
        origin: Origin,
    ) -> Result<(), Refused> {
        let refused = |refusal: Refusal| {
            Refused::new(refusal.code(), ReasonCode::PayloadFormatInvalid, refusal.to_string())
        };
        // A will was sealed when its client connected, maybe epochs ago; all else must be of now.
        if origin == Origin::Will {
            return bundle.check_topic(header, topic).map_err(refused);
        }
        let now = self.view.now();
        let mut agreed = lock(&session.agreed);
        if !agreed.as_ref().is_some_and(|agreed| agreed.covers(bundle, header.kid(), topic, now)) {
            bundle.check(header, topic, now).map_err(refused)?;
            *agreed = Some(Agreed::new(bundle, header, topic, anybody, now));
        }
        Ok(())
    }
}
