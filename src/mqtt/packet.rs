//! The fifteen packets as values.

use bytes::Bytes;

use super::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, QoS, ReasonCode, SubscribeProperties, Text, UnsubscribeProperties, Version,
    WillProperties,
};

/// One MQTT control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Packet {
    Connect(Box<Connect>),
    Connack(Box<Connack>),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    Suback(Suback),
    Unsubscribe(Unsubscribe),
    Unsuback(Unsuback),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect),
    Auth(Auth),
}

/// A client opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version that all later packets of the connection use.
    pub version: Version,
    /// Whether an existing session is dropped.
    pub clean_start: bool,
    /// Longest silence of the client, in seconds; 0 for no limit.
    pub keep_alive_secs: u16,
    /// Properties; empty in 3.1.1.
    pub properties: ConnectProperties,
    /// Client id; empty to have one assigned.
    pub client_id: Text,
    /// What to publish when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub user_name: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
}

/// The message that the broker publishes for a client that vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Topic, valid.
    pub topic: Text,
    /// Payload.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Properties; empty in 3.1.1.
    pub properties: WillProperties,
}

/// The broker's answer to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connack {
    /// Whether a stored session goes on.
    pub session_present: bool,
    /// Success, or why not.
    pub reason: ReasonCode,
    /// Properties; empty in 3.1.1.
    pub properties: ConnackProperties,
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// Whether it is, or shall be, retained.
    pub retain: bool,
    /// Topic; empty if a topic alias stands for it.
    pub topic: Text,
    /// Packet identifier; 0 exactly if QoS is 0.
    pub packet_id: u16,
    /// Properties; empty in 3.1.1.
    pub properties: PublishProperties,
    /// Payload.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Which message.
    pub packet_id: u16,
    /// How it went; always success in 3.1.1.
    pub reason: ReasonCode,
    /// Properties; empty in 3.1.1.
    pub properties: AckProperties,
}

impl Ack {
    /// One with this reason and no properties.
    pub fn new(packet_id: u16, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: AckProperties::default() }
    }
}

/// A client asks for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: u16,
    /// Properties; empty in 3.1.1.
    pub properties: SubscribeProperties,
    /// At least one. Whether the filters are valid is for the broker to say, one by one.
    pub subscriptions: Vec<Subscription>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Topic filter as sent.
    pub filter: Text,
    /// Options.
    pub options: SubscriptionOptions,
}

/// How a subscription wants its messages (section 3.8.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS to deliver with.
    pub qos: QoS,
    /// Not the messages that the subscriber published.
    pub no_local: bool,
    /// Keep the retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// What to do with retained messages now.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent for a subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl RetainHandling {
    /// Whether retained messages are sent for a subscription that is new, or takes the place of another.
    pub fn sends(self, is_new: bool) -> bool {
        match self {
            Self::Send => true,
            Self::SendIfNew => is_new,
            Self::DoNotSend => false,
        }
    }
}

/// The answer to SUBSCRIBE: one reason for each filter, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Suback {
    pub packet_id: u16,
    pub properties: AckProperties,
    pub reasons: Vec<ReasonCode>,
}

/// A client no longer wants messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Unsubscribe {
    pub packet_id: u16,
    pub properties: UnsubscribeProperties,
    pub filters: Vec<Text>,
}

/// The answer to UNSUBSCRIBE; reasons are empty in 3.1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Unsuback {
    pub packet_id: u16,
    pub properties: AckProperties,
    pub reasons: Vec<ReasonCode>,
}

/// One side ends the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Disconnect {
    pub reason: ReasonCode,
    pub properties: DisconnectProperties,
}

/// A step of enhanced authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Auth {
    pub reason: ReasonCode,
    pub properties: AuthProperties,
}
