//! What a bridge brings: messages that others published at another broker.
//!
//! A device that is connected itself is known by its certificate, and nobody else speaks on its connection. Behind a
//! bridge there is no such connection: anybody there may have sent what it brings, so the publisher's signatures are all
//! that counts. Its header's says who it is and for whom it seals. That the *message* is the publisher's its own
//! signature says; without, any reader of the policy who can publish there could have made it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::{Envelope, EnvelopeError, Message};
use smqtt_core::header::{Header, KID_BYTES, Kid};
use smqtt_core::identity::{DeviceId, read_certificate};
use smqtt_core::rule::Rule;

use super::deliver::Carried;
use super::headers::{HeaderLimits, Headers, Kept};
use super::hook::{SecurePublish, lock};
use super::publish::{passes_with_a_warning, warns};
use super::refused::Refused;
use super::rules::{Judged, Place, disagrees, rule_at};
use super::view::Ruled;
use crate::broker::{Client, Limit, Origin, Publication};
use crate::mqtt::{ReasonCode, Text};

/// For how long a bridge that brings no new headers saves up what its rate allows.
const CHECKS_BURST_SECONDS: f64 = 32.0;

/// One bridge, whichever of its connections. It has headers and credit of its own, for each signer: what it brings in a
/// device's name neither spends that device's credit nor takes the place of its headers.
pub(super) struct Bridge {
    headers: Headers,
    /// New headers whose signatures may be checked, and when that was found out.
    checks: Mutex<(f64, u64)>,
    /// When the directory was last asked about a signer, in seconds since 1970.
    asked: AtomicU64,
}

/// All bridges. As many as the authority lets enrol.
#[derive(Default)]
pub(super) struct Bridges {
    by_id: Mutex<HashMap<DeviceId, Arc<Bridge>>>,
    /// Whether messages pass that their publishers did not sign.
    unsigned: bool,
}

impl Bridges {
    /// None yet; `unsigned`: what their publishers did not sign passes.
    pub(super) fn new(unsigned: bool) -> Self {
        Self { unsigned, ..Self::default() }
    }

    /// The one of this identity.
    pub(super) fn get(&self, id: DeviceId, limits: HeaderLimits, now: u64) -> Arc<Bridge> {
        let new = || {
            let (headers, asked) = (Headers::new(limits), AtomicU64::new(0));
            Arc::new(Bridge { headers, checks: Mutex::new((f64::INFINITY, now)), asked })
        };
        lock(&self.by_id).entry(id).or_insert_with(new).clone()
    }

    /// Forgets a device that is one no longer: the headers that it signed, and if it was a bridge, those that it brought.
    pub(super) fn forget(&self, id: DeviceId) {
        let mut bridges = lock(&self.by_id);
        bridges.remove(&id);
        bridges.values().for_each(|bridge| bridge.headers.forget(id));
    }
}

impl Bridge {
    /// Whether another signature may be checked; takes the credit.
    fn may_check(&self, now: u64) -> bool {
        let mut checks = lock(&self.checks);
        let (credit, at) = *checks;
        let rate = f64::from(self.headers.limits().new_per_second_per_bridge);
        let earned = now.saturating_sub(at) as f64 * rate;
        let credit = (credit + earned).min(rate * CHECKS_BURST_SECONDS);
        let may = credit >= 1.0;
        *checks = (if may { credit - 1.0 } else { credit }, now);
        may
    }
}

impl SecurePublish {
    /// Whether a sealed message passes that a bridge brings.
    pub(super) fn check_brought(
        &self,
        client: &Client,
        bridge: &Bridge,
        envelope: Result<Envelope<'_>, EnvelopeError>,
        bundle: &Ruled,
        place: Place,
        publication: &mut Publication,
    ) -> Result<(), Refused> {
        let topic = publication.message().topic().clone();
        let rule = rule_at(bundle, place);
        if publication.origin() != Origin::Publish {
            // It would be checked now and go out some time.
            return Err(only("a bridge leaves no sealed will"));
        }
        let broken = |error: EnvelopeError| invalid("broken", error.to_string());
        let envelope = envelope.map_err(broken)?;
        let header = self.header_brought(bridge, &envelope)?;
        self.check_signer(bridge, &header, rule)?;
        self.check_open(rule)?;
        match bundle.check(&header, &topic, self.view.now()) {
            Ok(()) => {}
            Err(refusal) if warns(rule) && passes_with_a_warning(&refusal, &header, &topic) => {
                self.warn(client, &disagrees(&refusal, rule));
            }
            Err(refusal) => return Err(disagrees(&refusal, rule)),
        }
        self.check_signature(&header, &envelope.message, &topic)?;
        publication.set_payload(Bytes::from(envelope.message.compact()));
        let judged = Judged::under(bundle, place);
        self.pass(publication, Arc::new(Carried::sealed(header, judged)));
        Ok(())
    }

    /// The verified header of a message: it must have come along.
    fn header_brought(&self, bridge: &Bridge, envelope: &Envelope<'_>) -> Result<Arc<Kept>, Refused> {
        let kid = envelope.message.kid();
        let Some(bytes) = envelope.header else {
            return Err(only(
                "a bridge brings full envelopes: the header that is kept is for its publisher alone",
            ));
        };
        match self.headers.get(kid).or_else(|| bridge.headers.get(kid)) {
            Some(kept) if kept.as_bytes() == bytes => Ok(kept),
            Some(_) => Err(invalid("kid", "another header is known under this kid".into())),
            None => self.learn_brought(bridge, kid, bytes),
        }
    }

    fn learn_brought(&self, bridge: &Bridge, kid: Kid, bytes: &[u8]) -> Result<Arc<Kept>, Refused> {
        if sha256(&[bytes])[..KID_BYTES] != kid.0 {
            return Err(invalid("kid", "the message belongs to another header".into()));
        }
        let header = Header::parse(bytes).map_err(|error| invalid("broken", error.to_string()))?;
        let (publisher, now) = (header.publisher(), self.view.now());
        if !bridge.may_check(now) {
            let text = "too many new headers over this bridge: try again later";
            return Err(Refused::headers(Limit::NewHeadersPerBridge, text));
        }
        // Before it costs its signer anything: whoever forges it is somebody else.
        header
            .verify(&self.view.roots())
            .map_err(|error| Refused::new("publisher", ReasonCode::NotAuthorized, error.to_string()))?;
        if !bridge.headers.admit(publisher, now) {
            let text = "too many new headers of this publisher: use a content key for longer";
            return Err(Refused::headers(Limit::NewHeaders, text));
        }
        self.passed.headers.inc();
        let header = Arc::new(Kept::new(header));
        // None of them is live, so there always is room.
        Ok(bridge.headers.keep(header.clone(), now).unwrap_or(header))
    }

    /// Whether the rule lets the signer publish.
    fn check_signer(&self, bridge: &Bridge, header: &Header, rule: Option<&Rule>) -> Result<(), Refused> {
        let Some(rule) = rule.filter(|rule| rule.publishers.is_some()) else { return Ok(()) };
        let signer = header.publisher();
        if self.view.peer(signer).is_none() {
            // Perhaps it enrolled a moment ago.
            let now = self.view.now();
            if bridge.asked.swap(now, Ordering::Relaxed) != now {
                let view = self.view.clone();
                tokio::spawn(async move {
                    if let Err(error) = view.refresh_directory().await {
                        tracing::debug!(%error, "the directory is not to be had");
                    }
                });
            }
            let text = "the publisher is not known yet: try again";
            return Err(Refused::new("unknown-publisher", ReasonCode::ImplementationSpecificError, text));
        }
        if self.satisfies(Some(signer), &rule.publishers) {
            return Ok(());
        }
        let text = format!("the rule `{}` does not let its publisher publish", rule.filter);
        Err(Refused::new("not-allowed", ReasonCode::NotAuthorized, text).by(rule.filter.as_str()))
    }

    /// Whether the message is the publisher's, and not of somebody who knows the content key.
    fn check_signature(&self, header: &Header, message: &Message<'_>, topic: &Text) -> Result<(), Refused> {
        let refused = |text: &str| Err(Refused::new("signature", ReasonCode::NotAuthorized, text));
        let signer = read_certificate(header.certificate());
        let signer = signer.map_err(|error| invalid("broken", error.to_string()))?;
        match message.verify(&signer.public_key, topic, header.hash(), header.publisher()) {
            Some(true) => Ok(()),
            Some(false) => refused("the message's signature is not its publisher's"),
            None if self.bridges.unsigned && !header.messages_are_signed() => Ok(()),
            None => refused("what a bridge brings must be signed by its publisher: publish with `--sign`"),
        }
    }
}

fn invalid(code: &'static str, text: String) -> Refused {
    Refused::new(code, ReasonCode::PayloadFormatInvalid, text)
}

/// What bridges may not.
fn only(text: &str) -> Refused {
    Refused::new("bridge", ReasonCode::NotAuthorized, text)
}
