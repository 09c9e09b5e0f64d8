//! The secure-publish hook: identities, topic rules, headers.
//!
//! Checked for every message, not once for each header: publisher, topic, policy, epoch, versions, rule.
//! A compact message counts only from the device that signed its header.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use smqtt_client::mqtt::READER_PROPERTY;
use smqtt_client::opener::HEADERS_MAX;
use smqtt_core::bundle::{Bundle, Refusal};
use smqtt_core::crypto::sha256;
use smqtt_core::envelope::{Envelope, full, is_sealed};
use smqtt_core::header::{Header, KID_BYTES, Kid};
use smqtt_core::identity::{DeviceId, Role, verify_certificate};
use smqtt_core::policy::Policy;
use smqtt_core::rule::{Mode, Rule};
use smqtt_core::topic::Filter;

use super::headers::{Headers, Kept};
use super::view::View;
use crate::broker::{
    Admission, Attachment, Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Delivery, Denial, Dropped,
    Hook, HookFuture, Message, Origin, Point, Publication, SubscribeRequest, Verdict, Whose,
};
use crate::mqtt::{QoS, ReasonCode, Text, Version};

/// How long a client may wait for the authority, which perhaps knows it better. Less than clients and
/// [`Limits::connect_timeout`](crate::broker::Limits::connect_timeout) wait.
const DIRECTORY_WAIT: Duration = Duration::from_secs(3);

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
    view: Arc<View>,
    headers: Headers,
    counters: Arc<Counters>,
    /// Whether clients without a certificate are let in (only a listener without TLS has such).
    anonymous: bool,
}

/// A connection, as this hook knows it.
struct Session {
    device: Option<DeviceId>,
    reader: bool,
    introduced: Mutex<Introduced>,
    agreed: Mutex<Option<Agreed>>,
}

impl Session {
    /// The header of a compact message, if the last message under it agreed and whatever was asked then need not be
    /// asked again.
    fn agreed(&self, bundle: &Bundle, kid: Kid, topic: &Text, now: u64) -> Option<Arc<Kept>> {
        let agreed = lock(&self.agreed);
        let agreed =
            agreed.as_ref().filter(|agreed| agreed.anybody && agreed.covers(bundle, kid, topic, now));
        agreed.and_then(|agreed| agreed.header.upgrade())
    }
}

/// That the last sealed message of this connection agreed with a bundle. Only time can change that for the next one
/// under the same header, on the same topic, while there is no newer bundle; to find out again takes longer than all
/// else that is done with a message.
struct Agreed {
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
    fn new(bundle: &Bundle, header: &Arc<Kept>, topic: &Text, anybody: bool, now: u64) -> Self {
        // Of what `Bundle::check` asks of time, all but these two only becomes truer as time goes on.
        let graced = header.epoch() != bundle.epoch.number;
        let grace_ends = if graced { bundle.epoch.begins.saturating_add(bundle.grace) } else { u64::MAX };
        let until = header.expires().min(grace_ends);
        let (kid, bundle) = (header.kid(), bundle.number);
        let (header, topic) = (Arc::downgrade(header), topic.detached());
        Self { kid, header, topic, bundle, anybody, from: now, until }
    }

    fn covers(&self, bundle: &Bundle, kid: Kid, topic: &Text, now: u64) -> bool {
        self.bundle == bundle.number
            && self.kid == kid
            && self.topic == *topic
            && (self.from..self.until).contains(&now)
    }
}

/// Content keys whose header this connection got, oldest first. Readers keep four times as many headers, so none of
/// these is forgotten there.
#[derive(Default)]
struct Introduced {
    kids: HashSet<Kid>,
    order: VecDeque<Kid>,
}

impl Introduced {
    /// Whether the connection has the header of `kid`; from now on it does.
    fn knows(&mut self, kid: Kid) -> bool {
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
    fn forget(&mut self, kid: Kid) {
        if self.kids.remove(&kid) {
            self.order.retain(|other| *other != kid);
        }
    }
}

/// What goes along with a sealed message: its header, and the full form once somebody needs it.
struct Sealed {
    header: Arc<Kept>,
    full: OnceLock<Bytes>,
}

/// Why something is refused: a word for programs, a sentence for people.
struct Refused {
    code: &'static str,
    text: String,
    reason: ReasonCode,
}

impl Refused {
    fn new(code: &'static str, reason: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), reason }
    }

    /// A connection without what this hook left at its CONNECT: another hook's attachment came first. What cannot be
    /// checked is not let through.
    fn stranger() -> Self {
        let text = "another hook has taken the place of this client's identity";
        Self::new("no-identity", ReasonCode::NotAuthorized, text)
    }

    fn denial(&self) -> Denial {
        Denial::new(self.reason, format!("{}: {}", self.code, self.text))
    }
}

impl SecurePublish {
    /// The hook over `view`; `anonymous`: clients without a certificate are let in.
    pub fn new(view: Arc<View>, anonymous: bool) -> Self {
        Self { view, headers: Headers::default(), counters: Arc::default(), anonymous }
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    async fn admit(&self, request: &ConnectRequest) -> Result<Admission, Refused> {
        let wants = request.client_id.as_str();
        let who = match request.certificates.as_ref().and_then(|chain| chain.first()) {
            Some(leaf) => Some(self.identify(leaf).await?),
            None if self.anonymous => None,
            None => {
                let text = "a client certificate of the authority is needed";
                return Err(Refused::new("no-certificate", ReasonCode::NotAuthorized, text));
            }
        };
        let device = who.as_ref().map(|(id, _)| *id);
        // `name` and `name/anything` belong to the device of that name.
        let stem = wants.split('/').next().unwrap_or_default();
        let own = who.as_ref().is_some_and(|(id, name)| stem == *name || id.to_string() == stem);
        if !wants.is_empty() && !own {
            if self.view.owner_of(stem).is_none() {
                // Perhaps it enrolled a moment ago.
                let _ = self.ask_directory().await;
            }
            if self.view.owner_of(stem).is_some_and(|owner| Some(owner) != device) {
                let text = format!("the client id `{wants}` belongs to another device");
                return Err(Refused::new("client-id", ReasonCode::ClientIdentifierNotValid, text));
            }
        }
        let property = |(k, v): &(Text, Text)| (k.as_str(), v.as_str()) == READER_PROPERTY;
        let reader = request.version == Version::V5 && request.user_properties.iter().any(property);
        let assigned = who.as_ref().map(|(_, name)| {
            let random: [u8; 8] = smqtt_core::crypto::random();
            Text::from(format!("{name}/{:016x}", u64::from_be_bytes(random)))
        });
        let session = Session { device, reader, introduced: Mutex::default(), agreed: Mutex::default() };
        // Who asks for compact messages learns that it gets them.
        let answer = reader.then(|| (READER_PROPERTY.0.into(), READER_PROPERTY.1.into()));
        Ok(Admission {
            identity: device.map(|id| Text::from(id.to_string())),
            client_id: assigned,
            attachment: Some(Arc::new(session)),
            user_properties: answer.into_iter().collect(),
        })
    }

    /// Who holds this certificate; a device of the authority that was not revoked.
    async fn identify(&self, leaf: &[u8]) -> Result<(DeviceId, String), Refused> {
        let refused = |text: String| Refused::new("certificate", ReasonCode::NotAuthorized, text);
        let verified = verify_certificate(leaf, &self.view.roots(), self.view.now())
            .map_err(|error| refused(error.to_string()))?;
        let identity = verified.identity;
        if identity.role != Role::Device {
            return Err(refused(format!(
                "a certificate of the role `{}` is no device's",
                identity.role.name()
            )));
        }
        if self.view.peer(identity.id).is_none() {
            let asked = self.ask_directory().await;
            match self.view.peer(identity.id) {
                None if asked => return Err(refused("the authority does not know this device".into())),
                None => {
                    tracing::warn!(device = %identity.id, "cannot ask the authority for a device's attributes")
                }
                Some(_) => {}
            }
        }
        let inactive = self.view.peer(identity.id).is_some_and(|peer| !peer.active);
        if inactive || self.view.bundle().is_revoked(identity.id) {
            return Err(Refused::new("revoked", ReasonCode::NotAuthorized, "this device was revoked"));
        }
        Ok((identity.id, identity.name))
    }

    /// Whether the authority answered, in time to answer the client.
    async fn ask_directory(&self) -> bool {
        match tokio::time::timeout(DIRECTORY_WAIT, self.view.refresh_directory()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the directory is not to be had");
                false
            }
            Err(_) => false,
        }
    }

    /// Whether a device's attributes satisfy `policy`; those of nobody satisfy nothing.
    fn satisfies(&self, device: Option<DeviceId>, policy: &Option<Policy>) -> bool {
        match policy {
            None => true,
            Some(policy) => device
                .and_then(|id| self.view.peer(id))
                .is_some_and(|peer| peer.active && policy.satisfied_by(&peer.attributes)),
        }
    }

    fn check_publish(&self, client: &Client, publication: &mut Publication) -> Result<(), Refused> {
        let session = session(client).ok_or_else(Refused::stranger)?;
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
        let rule = bundle.rule_for(&topic);
        if let Some(rule) = rule.filter(|rule| !self.satisfies(session.device, &rule.publishers)) {
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
    fn pass(&self, publication: &mut Publication, header: Arc<Kept>) {
        let keepsake = header.bytes().clone();
        publication.set_attachment(Arc::new(Sealed { header, full: OnceLock::new() }), Some(keepsake));
        self.counters.sealed.fetch_add(1, Ordering::Relaxed);
    }

    fn check_plain(
        &self,
        session: &Session,
        publication: &Publication,
        rule: Option<&Rule>,
    ) -> Result<(), Refused> {
        let message = publication.message();
        // An empty retained message is no reading: it takes the kept one away.
        let clears = message.retain() && message.payload().is_empty() && session.device.is_some();
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
        let Some(session) = session(client) else { return Verdict::Deny(Refused::stranger().denial()) };
        let Ok(filter) = request.filter.parse::<Filter>() else { return Verdict::Defer };
        let bundle = self.view.bundle();
        let covering = bundle.rules.iter().filter(|rule| rule.filter.covers(&filter));
        let nearest = covering.min_by_key(|rule| rule.filter.precedence());
        // Of a wildcard's messages those that the client may not have are left out when they are delivered; but what a
        // member of a group may not have would then reach nobody.
        let nearer = |rule: &Rule| nearest.is_none_or(|n| rule.filter.precedence() < n.filter.precedence());
        let within = |rule: &&Rule| request.group.is_some() && rule.filter.overlaps(&filter) && nearer(rule);
        let mut asked = nearest.into_iter().chain(bundle.rules.iter().filter(within));
        match asked.find(|rule| !self.satisfies(session.device, &rule.subscribers)) {
            Some(rule) => {
                let text = format!("the rule `{}` does not let you subscribe", rule.filter);
                tracing::info!(client = %client.client_id, rule = %rule.filter, "refused a subscription");
                Verdict::deny(ReasonCode::NotAuthorized, format!("not-allowed: {text}"))
            }
            None => Verdict::Allow,
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
        // QoS 0 has no acknowledgement to refuse in, and silence would be worse.
        let silent = publication.message().qos() == QoS::AtMostOnce;
        Verdict::Deny(if silent { denial.disconnecting() } else { denial })
    }

    /// The keepsake is the header. It was verified before it was kept, and is by every reader.
    fn recall(&self, _: &Message, keepsake: &Bytes) -> Option<Attachment> {
        let kid = Kid(sha256(&[keepsake])[..KID_BYTES].try_into().ok()?);
        let header = match self.headers.get(kid) {
            Some(header) => header,
            None => {
                let header = Arc::new(Kept::new(Header::parse(keepsake).ok()?));
                self.headers.keep(header.clone());
                header
            }
        };
        Some(Arc::new(Sealed { header, full: OnceLock::new() }))
    }

    fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        let device = client.identity.and_then(|id| id.parse().ok());
        if device.is_some_and(|device| self.view.bundle().is_revoked(device)) {
            return None;
        }
        Some(Arc::new(Session {
            device,
            reader: false,
            introduced: Mutex::default(),
            agreed: Mutex::default(),
        }))
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Publish, Point::Deliver, Point::Dropped]
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        let sealed = dropped.message.attachment().and_then(|any| any.downcast_ref::<Sealed>());
        if let (Some(session), Some(sealed)) = (dropped.client.and_then(session), sealed) {
            // The header may have gone down with it: the next message brings it.
            lock(&session.introduced).forget(sealed.header.kid());
        }
    }

    fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        let Some(session) = session(client) else { return DeliverVerdict::Drop(Refused::stranger().text) };
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

impl Sealed {
    /// Header and message: made once, shared by all who need it.
    fn full(&self, compact: &Bytes) -> Bytes {
        let make = || Bytes::from(full(self.header.as_bytes(), compact));
        self.full.get_or_init(make).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn session(client: &Client) -> Option<&Session> {
    client.attachment.as_ref().and_then(|any| any.downcast_ref())
}
