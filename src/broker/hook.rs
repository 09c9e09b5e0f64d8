//! The joint between the broker and whoever decides what clients may do.
//!
//! Hooks run in the order in which they were given. Each answers *allow*, *deny* or *defer*; the first refusal ends the
//! matter and no later hook is asked. If all defer, the broker does what [`Config::default_verdict`] says.
//!
//! Every point but [`Hook::connect`] runs on the path of the messages and must not block.
//!
//! [`Config::default_verdict`]: super::Config::default_verdict

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::message::{Attachment, Delivery, Message, Publication};
use crate::mqtt::{ReasonCode, SubscriptionOptions, Text, UserProperties, Version, Will};

/// What a hook thinks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody else needs to allow it; later hooks may still refuse.
    Allow,
    /// Refused; no later hook is asked.
    Deny(Denial),
    /// No opinion.
    #[default]
    Defer,
}

/// A refusal and how the client learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Reason code, at least `0x80`. One that the answering packet cannot carry becomes `0x83`.
    pub reason: ReasonCode,
    /// Explanation for people; goes out as Reason String in MQTT 5.0 unless the client declined such.
    pub text: String,
    /// Whether to end an MQTT 5.0 connection even where there is an acknowledgement to refuse with. A refused QoS 0
    /// message has none: without this it is dropped in silence. MQTT 3.1.1 knows no refusal of a message, so there the
    /// connection always ends.
    pub disconnect: bool,
}

impl Denial {
    /// Refuses in the acknowledgement.
    pub fn new(reason: ReasonCode, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), disconnect: false }
    }

    /// Also ends the connection, with the same reason.
    pub fn disconnecting(mut self) -> Self {
        self.disconnect = true;
        self
    }
}

impl Verdict {
    /// A refusal in the acknowledgement.
    pub fn deny(reason: ReasonCode, text: impl Into<String>) -> Self {
        Self::Deny(Denial::new(reason, text))
    }
}

/// A CONNECT before it is answered.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// Number of the connection, never given twice while the process runs.
    pub connection: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The client's certificate chain in DER, leaf first, as TLS verified it. `None` without TLS or without a client
    /// certificate.
    pub certificates: Option<Vec<Bytes>>,
    /// Version of the protocol.
    pub version: Version,
    /// Client id as sent, maybe empty.
    pub client_id: Text,
    /// User name.
    pub user_name: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// Whether the client wants a new session.
    pub clean_start: bool,
    /// User properties of CONNECT.
    pub user_properties: UserProperties,
    /// The will. It also passes [`Hook::publish`] before CONNECT is accepted.
    pub will: Option<Will>,
}

/// What a hook thinks of a CONNECT.
#[derive(Debug, Clone, Default)]
pub enum ConnectVerdict {
    /// Let it in, under these names.
    Allow(Admission),
    /// Refuse; goes out in CONNACK.
    Deny(Denial),
    /// No opinion.
    #[default]
    Defer,
}

/// What a hook gives to a connection it lets in. Where several hooks set the same field, the first wins.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Who this is. Owns the session: another identity can neither resume it nor take it over.
    pub identity: Option<Text>,
    /// Client id, for a client that sent none. Ignored otherwise.
    pub client_id: Option<Text>,
    /// Found again in [`Client::attachment`].
    pub attachment: Option<Attachment>,
    /// User properties for CONNACK; those of all hooks are sent.
    pub user_properties: UserProperties,
}

/// A connection that was let in.
#[non_exhaustive]
pub struct Client {
    /// Number of the connection, never given twice while the process runs.
    pub connection: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Version of the protocol.
    pub version: Version,
    /// Client id, assigned or as sent.
    pub client_id: Text,
    /// Who it is, as a hook found out.
    pub identity: Option<Text>,
    /// User properties of CONNECT.
    pub user_properties: UserProperties,
    /// What the connect hook left here.
    pub attachment: Option<Attachment>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("connection", &self.connection)
            .field("peer", &self.peer)
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A client of a session from before a restart, of which a will is still to be published.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Returning<'a> {
    /// Client id.
    pub client_id: &'a Text,
    /// Who it was, as a hook found out.
    pub identity: Option<&'a Text>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug)]
#[non_exhaustive]
pub struct SubscribeRequest<'a> {
    /// Filter, valid, without the `$share/{group}/` of a shared subscription.
    pub filter: &'a str,
    /// Group of a shared subscription.
    pub group: Option<&'a str>,
    /// Options asked for.
    pub options: SubscriptionOptions,
    /// User properties of SUBSCRIBE.
    pub user_properties: &'a UserProperties,
}

/// What a hook thinks of one delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeliverVerdict {
    /// Write it.
    #[default]
    Deliver,
    /// Do not write it to this connection. The text goes to the log.
    Drop(String),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnection {
    /// Reason code of the DISCONNECT that was received or sent; [`ReasonCode::UnspecifiedError`] if the connection just
    /// broke.
    pub reason: ReasonCode,
    /// Whether the client said DISCONNECT.
    pub by_client: bool,
}

/// A future that a hook returns; see [`Hook::connect`].
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides what clients may do, and may change what they send and get.
///
/// Every point has a default that defers, so a hook writes only those it is about.
///
/// ```
/// use smqtt::broker::{Client, Hook, Publication, Verdict};
/// use smqtt::mqtt::ReasonCode;
///
/// struct NoSecrets;
///
/// impl Hook for NoSecrets {
///     fn publish(&self, _: &Client, publication: &mut Publication) -> Verdict {
///         if publication.message().topic().starts_with("secret/") {
///             return Verdict::deny(ReasonCode::NotAuthorized, "nobody publishes secrets");
///         }
///         Verdict::Defer
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait Hook: Send + Sync + 'static {
    /// A client wants to connect. May take its time, within [`Limits::connect_timeout`](super::Limits::connect_timeout).
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(std::future::ready(ConnectVerdict::Defer))
    }

    /// A client wants to subscribe to a filter. Asked for each filter, and again when a stored session is resumed.
    fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        Verdict::Defer
    }

    /// A client wants to publish, or its will is at stake (see [`Publication::origin`]). May change the publication.
    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        Verdict::Defer
    }

    /// A message is being encoded for the socket of `client`. Called only when nothing but the write remains, in the
    /// order of the bytes on the connection, so the first call for a connection is the first message that it gets.
    /// May replace the payload. Must be cheap: it runs once for each delivery.
    fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        DeliverVerdict::Deliver
    }

    /// What [`Hook::deliver`] let through was not written to `client` after all: too large for it.
    fn undelivered(&self, client: &Client, message: &Message) {}

    /// The broker starts, and a message from before has the keepsake that a publish hook left with it: what was
    /// attached, made anew. See [`Publication::set_attachment`].
    fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        None
    }

    /// The broker starts, and the will of a client from before is still to be published: what the connect hook would
    /// find in [`Client::attachment`].
    fn revive(&self, client: &Returning<'_>) -> Option<Attachment> {
        None
    }

    /// A connection that was let in has ended. Called exactly once for each.
    fn disconnect(&self, client: &Client, end: Disconnection) {}
}

/// The hooks of a broker, in order.
#[derive(Clone)]
pub(crate) struct Hooks {
    pub(crate) hooks: Arc<[Box<dyn Hook>]>,
    pub(crate) allow_by_default: bool,
}

impl Hooks {
    /// Runs `ask` on each hook until one refuses.
    fn decide(&self, mut ask: impl FnMut(&dyn Hook) -> Verdict) -> Result<(), Denial> {
        let mut allowed = self.allow_by_default;
        for hook in self.hooks.iter() {
            match ask(hook.as_ref()) {
                Verdict::Allow => allowed = true,
                Verdict::Deny(denial) => return Err(denial),
                Verdict::Defer => {}
            }
        }
        if allowed { Ok(()) } else { Err(Denial::new(ReasonCode::NotAuthorized, "not allowed by any hook")) }
    }

    pub(crate) async fn connect(&self, request: &ConnectRequest) -> Result<Admission, Denial> {
        let mut allowed = self.allow_by_default;
        let mut admission = Admission::default();
        for hook in self.hooks.iter() {
            match hook.connect(request).await {
                ConnectVerdict::Allow(given) => {
                    allowed = true;
                    admission.identity = admission.identity.or(given.identity);
                    admission.client_id = admission.client_id.or(given.client_id);
                    admission.attachment = admission.attachment.or(given.attachment);
                    admission.user_properties.extend(given.user_properties);
                }
                ConnectVerdict::Deny(denial) => return Err(denial),
                ConnectVerdict::Defer => {}
            }
        }
        if allowed {
            Ok(admission)
        } else {
            Err(Denial::new(ReasonCode::NotAuthorized, "not allowed by any hook"))
        }
    }

    pub(crate) fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Result<(), Denial> {
        self.decide(|hook| hook.subscribe(client, request))
    }

    pub(crate) fn publish(&self, client: &Client, publication: &mut Publication) -> Result<(), Denial> {
        self.decide(|hook| hook.publish(client, publication))
    }

    pub(crate) fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        for hook in self.hooks.iter() {
            if let DeliverVerdict::Drop(text) = hook.deliver(client, delivery) {
                return DeliverVerdict::Drop(text);
            }
        }
        DeliverVerdict::Deliver
    }

    pub(crate) fn undelivered(&self, client: &Client, message: &Message) {
        for hook in self.hooks.iter() {
            hook.undelivered(client, message);
        }
    }

    pub(crate) fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        self.hooks.iter().find_map(|hook| hook.recall(message, keepsake))
    }

    pub(crate) fn revive(&self, client: &Returning<'_>) -> Option<Attachment> {
        self.hooks.iter().find_map(|hook| hook.revive(client))
    }

    pub(crate) fn disconnect(&self, client: &Client, end: Disconnection) {
        for hook in self.hooks.iter() {
            hook.disconnect(client, end);
        }
    }
}
