//! The joint between the broker and whoever decides what clients may do; [`Hook`] has the table of its points.
//!
//! What hooks are asked with and answer is here, what they are told is in `events`, who asks and tells them in `hooks`.

use std::{any::Any, fmt, future::Future, net::SocketAddr, pin::Pin};

use bytes::Bytes;

use super::{
    events::{Acknowledged, Attempt, Begun, Disconnection, Dropped, Published, SessionEnd, Whose},
    limits::Limit,
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
    /// The limit that refuses, if one does: it is counted as such.
    pub limit: Option<Limit>,
}

impl Denial {
    /// Refuses in the acknowledgement.
    pub fn new(reason: ReasonCode, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), disconnect: false, limit: None }
    }

    /// Because of a limit.
    pub fn beyond(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
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
    /// The will. It also passes [`Hook::will`] before CONNECT is accepted.
    pub will: Option<Will>,
}

/// Neither password nor will: this may end in a log.
impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// What a hook gives to a connection it lets in. Of identities and client ids the first wins.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Who this is. Owns the session: another identity can neither resume it nor take it over.
    pub identity: Option<Text>,
    /// Client id, for a client that sent none. Ignored otherwise.
    pub client_id: Option<Text>,
    /// Found again by its type with [`Client::attachment`], so each hook may leave one.
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
    /// What connect hooks left here.
    pub(crate) attachments: Box<[Attachment]>,
}

impl Client {
    /// What a connect hook left here, if that is a `T`; of several the first. A type of the hook's own is nobody else's.
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        self.attachments.iter().find_map(|any| any.downcast_ref())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// User properties of SUBSCRIBE; none if it is resumed.
    pub user_properties: &'a UserProperties,
    /// Whether it is a subscription of a stored session that its client has come back to.
    pub resumed: bool,
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
    /// [`Hook::publish`]; [`Hook::will`] is always asked.
    Publish,
    /// [`Hook::published`].
    Published,
    /// [`Hook::deliver`].
    Deliver,
    /// [`Hook::acknowledged`].
    Acknowledged,
    /// [`Hook::dropped`].
    Dropped,
}

impl Point {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Publish, Self::Published, Self::Deliver, Self::Acknowledged, Self::Dropped];
}

/// A future that a hook returns; see [`Hook::connect`].
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides what clients may do, may change what they send and get, and is told what became of it.
///
/// Every point has a default, which defers or does nothing, so a hook writes only those it is about.
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
///
/// # The points
///
/// A hook is *asked* before something happens and *told* after it has. Whatever it was asked about it is told of exactly
/// once: in the second column, or as refused, by whomever, in the third.
///
/// | asked | when | told if it happens | told if not |
/// |---|---|---|---|
/// | [`connect`](Self::connect), the only asynchronous one | CONNECT is read, before the session is looked up | [`connected`](Self::connected), in the end [`disconnected`](Self::disconnected) | [`refused`](Self::refused) |
/// | [`subscribe`](Self::subscribe) | for each filter of a SUBSCRIBE, and of a stored session that is resumed | [`subscribed`](Self::subscribed), in the end [`unsubscribed`](Self::unsubscribed) or the end of the session | [`refused`](Self::refused) |
/// | [`publish`](Self::publish); may change the message | for each PUBLISH but QoS 2 ones that are repeated | [`published`](Self::published) | [`refused`](Self::refused) |
/// | [`will`](Self::will); may change the message | at CONNECT, and when the will is due; asks `publish` by default | [`published`](Self::published), when it is due | [`refused`](Self::refused): the CONNECT, or the will |
/// | [`deliver`](Self::deliver); may change the payload | a message is encoded for one connection; again if it is sent again | [`acknowledged`](Self::acknowledged) for QoS 1 and 2; nothing for QoS 0, which is then over | [`dropped`](Self::dropped), also before anybody was asked |
///
/// | told | when |
/// |---|---|
/// | [`session_begun`](Self::session_begun) | a session is made, or resumed |
/// | [`session_taken_over`](Self::session_taken_over) | another connection has come for the session of this one |
/// | [`session_ended`](Self::session_ended) | it is over, and its subscriptions, queue and will with it |
///
/// [`recall`](Self::recall) and [`revive`](Self::revive) restore, when the broker starts, what hooks attached.
///
/// # Verdicts
///
/// Hooks run in the order in which they were given. Each answers *allow*, *deny* or *defer*; the first refusal ends the
/// matter and no later hook is asked. If all defer, the broker does what [`Config::default_verdict`] says. All hooks are
/// told, in the same order. A hook that panics is logged; what it was asked is refused.
///
/// # Order
///
/// For one connection: `connect`, `session_begun`, `connected`, then what it does in the order of its packets, and
/// `disconnected` last, but for what follows from the end: messages `dropped`, the will, `session_ended`. Where it takes a
/// session over or starts clean, `session_taken_over` and `session_ended` of the one before come between `connect` and
/// `session_begun`; `disconnected` of the connection that loses comes whenever its task gets to it, so two connections
/// that meet under one client id may interleave.
///
/// `publish` and `published` of one connection are called in the order of its messages, `deliver` in the order of the
/// bytes to its client. Between publisher and receivers nothing is promised: a message may be `acknowledged` on one
/// thread before it is `published` on another.
///
/// A session that began is told to have ended once, unless the broker ends first; one that outlives the broker goes on in
/// the next process, where `session_begun` says *resumed*, or `session_ended` comes first. A crash may have the last of
/// what was told happen again.
///
/// # What it may cost
///
/// `connect` may take its time, within [`Limits::connect_timeout`]; the client waits, and nobody else. All other points
/// run where the messages do, on the threads that serve everybody, and must not block: what takes longer than a lookup is
/// handed to a task through a queue that has a bound. `deliver`, `acknowledged` and `dropped` run once for each delivery,
/// `publish` and `published` once for each message. A hook that does without some of these five says so in
/// [`points`](Self::points), and then they cost nothing.
///
/// No lock of a session is held at any point, so a hook may cut connections and discard sessions
/// ([`BrokerHandle::disconnect`]) from every one. It may publish ([`BrokerHandle::publish`]) from all but `dropped`, which
/// is called while messages are being queued: the message could be dropped again, and so on. What it publishes is
/// `published` and delivered, and nobody is asked.
///
/// [`Config::default_verdict`]: super::Config::default_verdict
/// [`Limits::connect_timeout`]: super::Limits::connect_timeout
/// [`BrokerHandle::disconnect`]: super::BrokerHandle::disconnect
/// [`BrokerHandle::publish`]: super::BrokerHandle::publish
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
    ///
    /// ```
    /// use smqtt::broker::{Counter, Hook, Metrics};
    ///
    /// #[derive(Default)]
    /// struct Audit {
    ///     seen: Counter,
    /// }
    ///
    /// impl Hook for Audit {
    ///     fn metrics(&self, metrics: &Metrics) {
    ///         metrics.register("audit_seen", "Messages that the audit saw", &self.seen);
    ///     }
    /// }
    /// ```
    fn metrics(&self, metrics: &Metrics) {}

    // ---- asked

    /// A client wants to connect. May take its time; who does not answer within
    /// [`Limits::connect_timeout`](super::Limits::connect_timeout) is given up, and the connection with it.
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(std::future::ready(ConnectVerdict::Defer))
    }

    /// A client wants to subscribe to a filter. Asked for each filter, and again when a stored session is resumed.
    fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        Verdict::Defer
    }

    /// A client wants to publish. May change the publication.
    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        Verdict::Defer
    }

    /// A client wants to leave a will, or its will is due; [`Publication::origin`] says which. May change the publication:
    /// what is changed at CONNECT is forgotten again, since the will is asked about as it was sent once it is due. By then
    /// the client is gone, maybe since before a restart.
    ///
    /// One that is due and refused as [`ServerBusy`](ReasonCode::ServerBusy) is asked about again a moment later.
    ///
    /// Asks [`publish`](Self::publish) unless it is written: who may not publish a message may not leave it behind either.
    fn will(&self, client: &Client, publication: &mut Publication) -> Verdict {
        self.publish(client, publication)
    }

    /// A message is being encoded for the socket of `client`. Called only when nothing but the write remains, in the
    /// order of the bytes on the connection, so the first call for a connection is the first message that it gets.
    /// May replace the payload. Must be cheap: it runs once for each delivery.
    fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        DeliverVerdict::Deliver
    }

    // ---- told

    /// A client was let in; CONNACK is the next thing it gets. [`disconnected`](Self::disconnected) follows.
    fn connected(&self, client: &Client) {}

    /// A connection that was let in has ended. Called exactly once for each.
    fn disconnected(&self, client: &Client, end: Disconnection) {}

    /// A client was not let in, a filter not subscribed to, a message not accepted: by a hook, or because of a limit. Nobody
    /// hears of connections that are turned away before their CONNECT counts, as there are too many.
    fn refused(&self, attempt: &Attempt<'_>, denial: &Denial) {}

    /// A filter was subscribed to, or subscribed to anew with other options.
    fn subscribed(&self, client: &Client, request: &SubscribeRequest<'_>) {}

    /// A subscription has gone: its client said so, or it was refused when the session was resumed. `filter` is as the
    /// client sent it, with `$share/{group}/` if it was a shared one. Those that go with their session are not told.
    fn unsubscribed(&self, client: &Client, filter: &str) {}

    /// A message was accepted and handed on to whoever subscribes, or kept as a retained one. Its publisher may yet be told
    /// that it was of no use, and bring it again: if it cannot be written to disk, or finds no room in any queue.
    fn published(&self, published: &Published<'_>) {}

    /// The client has a QoS 1 or 2 message: PUBACK or PUBREC came, for the first time. What follows PUBREC is about the
    /// packet identifier alone.
    fn acknowledged(&self, client: &Client, acknowledged: &Acknowledged<'_>) {}

    /// A session does not get a message that was queued for it or should have been. Where [`deliver`](Self::deliver) let it
    /// pass, this comes before the next one is asked about on that connection.
    fn dropped(&self, dropped: &Dropped<'_>) {}

    /// A client that is being let in has a session, a new one or the one it had. It may not be
    /// [`connected`](Self::connected) in the end.
    fn session_begun(&self, client: &Client, begun: Begun) {}

    /// The session of `client` goes to another connection, `by`, with the same client id and identity. The connection of
    /// `client` is being ended.
    fn session_taken_over(&self, client: &Client, by: &Client) {}

    /// A session is over, and its will, if one was due, is published, refused or put off.
    fn session_ended(&self, whose: &Whose<'_>, end: SessionEnd) {}

    // ---- after a restart

    /// The broker starts, and a message from before has the keepsake that a publish hook left with it: what was
    /// attached, made anew. See [`Publication::set_attachment`].
    fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        None
    }

    /// The broker starts, and the will of a client from before is still to be published: what [`connect`](Self::connect)
    /// would leave with [`Client::attachment`].
    fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        None
    }
}
