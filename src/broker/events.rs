//! What hooks are told.

use super::{
    hook::{Client, ConnectRequest},
    message::{Message, Origin},
    session::outgoing::Queued,
};
use crate::mqtt::{QoS, ReasonCode, Text};

/// What was refused.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Attempt<'a> {
    /// A CONNECT, perhaps because of its will.
    Connect(&'a ConnectRequest),
    /// A filter, as the client sent it, valid or not.
    Subscribe(&'a Client, &'a str),
    /// A message, as far as hooks had changed it.
    Publish(&'a Client, &'a Message),
    /// A will that was due, as it was sent. Nobody is there to be told.
    Will(&'a Client, &'a Message),
}

/// A message that was accepted.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Published<'a> {
    /// The message as it left the hooks. Its [`publisher`](Message::publisher) is `None` if it comes from inside the broker.
    pub message: &'a Message,
    /// Whether it is a message or a will.
    pub origin: Origin,
    /// Sessions whose subscriptions match, and groups of shared ones. Some may not get it: see
    /// [`Hook::dropped`](super::Hook::dropped).
    pub receivers: usize,
}

/// A message that a client has.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Acknowledged<'a> {
    /// The message.
    pub message: &'a Message,
    /// QoS of the delivery.
    pub qos: QoS,
}

/// What a client gets when it is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begun {
    /// A new session.
    New,
    /// The one that it had, maybe from before a restart.
    Resumed,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEnd {
    /// Its connection ended, and it was not to outlive it.
    WithConnection,
    /// Nobody came back for it in time.
    Expired,
    /// Its client wanted a new one.
    CleanStart,
    /// [`BrokerHandle::disconnect`](super::BrokerHandle::disconnect) discarded it.
    Discarded,
}

/// Whose a session is, also while the client is away.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Whose<'a> {
    /// Client id.
    pub client_id: &'a Text,
    /// Who it is, as a hook found out when the session began.
    pub identity: Option<&'a Text>,
}

impl<'a> Whose<'a> {
    pub(crate) fn new(client_id: &'a Text, identity: Option<&'a Text>) -> Self {
        Self { client_id, identity }
    }
}

/// A message that one session does not get, though it was queued for it or should have been.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Dropped<'a> {
    /// Whose session it was for.
    pub whose: Whose<'a>,
    /// The connection that it was to be written to; `None` if it never came that far.
    pub client: Option<&'a Client>,
    /// The message.
    pub message: &'a Message,
    /// QoS of the delivery.
    pub qos: QoS,
    /// Why.
    pub reason: DropReason,
}

impl<'a> Dropped<'a> {
    /// On its way to a connection.
    pub(crate) fn on(client: &'a Client, queued: &'a Queued, reason: DropReason) -> Self {
        let whose = Whose::new(&client.client_id, client.identity.as_ref());
        Self { whose, client: Some(client), message: &queued.message, qos: queued.qos, reason }
    }
}

/// Why a session does not get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// As many messages as [`Limits::queue_messages_max`](super::Limits::queue_messages_max) wait for it.
    QueueMessages,
    /// As many bytes as [`Limits::queue_bytes_max`](super::Limits::queue_bytes_max) wait for it.
    QueueBytes,
    /// Sessions together hold as many bytes as [`Limits::all_queues_bytes_max`](super::Limits::all_queues_bytes_max).
    AllQueuesBytes,
    /// QoS 0, and nobody is connected to take it.
    NotConnected,
    /// It waited for longer than its publisher wanted.
    Expired,
    /// It is larger than the client takes.
    TooLarge,
    /// [`Hook::deliver`](super::Hook::deliver) refused it.
    RefusedByHook,
    /// The client refused it, in PUBACK or PUBREC.
    RefusedByClient,
    /// The session ended first. What came by a shared subscription, another member of its group may get.
    SessionEnded,
    /// It could not be written to disk. Its publisher was told so, and brings it again.
    StoreFailing,
    /// A hook gave it a payload or property that MQTT has no bytes for.
    NotEncodable,
}

impl DropReason {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::QueueMessages,
        Self::QueueBytes,
        Self::AllQueuesBytes,
        Self::NotConnected,
        Self::Expired,
        Self::TooLarge,
        Self::RefusedByHook,
        Self::RefusedByClient,
        Self::SessionEnded,
        Self::StoreFailing,
        Self::NotEncodable,
    ];

    /// Whether the message found no room in the session's queue: its client is told how many did not.
    pub(crate) fn is_no_room(self) -> bool {
        matches!(self, Self::QueueMessages | Self::QueueBytes | Self::AllQueuesBytes)
    }

    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueMessages => "queue_messages",
            Self::QueueBytes => "queue_bytes",
            Self::AllQueuesBytes => "all_queues_bytes",
            Self::NotConnected => "not_connected",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::RefusedByHook => "refused_by_hook",
            Self::RefusedByClient => "refused_by_client",
            Self::SessionEnded => "session_ended",
            Self::StoreFailing => "store_failing",
            Self::NotEncodable => "not_encodable",
        }
    }
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
