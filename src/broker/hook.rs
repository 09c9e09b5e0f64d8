//! The joint between the broker and whoever decides what clients may do.
//!
//! Hooks run in the order in which they were given. Each answers *allow*, *deny* or *defer*; the first refusal ends the
//! matter and no later hook is asked. If all defer, the broker does what [`Config::default_verdict`] says.
//!
//! Every point but [`Hook::connect`] runs on the path of the messages and must not block.
//!
//! [`Config::default_verdict`]: super::Config::default_verdict

use std::{future::Future, net::SocketAddr, pin::Pin};

use bytes::Bytes;

use super::{
    events::{Disconnection, Dropped, Whose},
    message::{Attachment, Delivery, Message, Publication},
    metrics::Metrics,
};
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

/// A CONNECT before it is answered. What it shows for [`Debug`](std::fmt::Debug) has no password in it.
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

impl std::fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("connection", &self.connection)
            .field("peer", &self.peer)
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("clean_start", &self.clean_start)
            .finish_non_exhaustive()
    }
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

/// A point that messages pass; see [`Hook::points`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// [`Hook::publish`].
    Publish,
    /// [`Hook::deliver`].
    Deliver,
    /// [`Hook::dropped`].
    Dropped,
}

impl Point {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Deliver, Self::Dropped];
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
    /// Which of the points that messages pass are to be called. Asked once, when the broker is made; a point that no hook
    /// names costs nothing.
    fn points(&self) -> &'static [Point] {
        &Point::ALL
    }

    /// What logs call this hook.
    fn name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }

    /// The broker is being made: what this hook counts may be registered, to be shown with what the broker counts.
    fn metrics(&self, metrics: &Metrics) {}

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

    /// A session does not get a message. Where [`Hook::deliver`] had been asked, the next delivery to that connection has
    /// not been yet.
    fn dropped(&self, dropped: &Dropped<'_>) {}

    /// The broker starts, and a message from before has the keepsake that a publish hook left with it: what was
    /// attached, made anew. See [`Publication::set_attachment`].
    fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        None
    }

    /// The broker starts, and the will of a client from before is still to be published: what the connect hook would
    /// find in [`Client::attachment`].
    fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        None
    }

    /// A connection that was let in has ended. Called exactly once for each.
    fn disconnect(&self, client: &Client, end: Disconnection) {}
}
