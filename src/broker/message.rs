//! A message on its way through the broker.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use bytes::Bytes;

use super::{Timestamp, hook::Client, session::held::Counted, store::StoredMessage};
use crate::mqtt::{Publish, PublishProperties, QoS, Text, UserProperties, WireProperties};

/// Something a publish hook leaves with a message for a deliver hook to find. It lives as long as any queued or
/// retained copy of the message.
pub type Attachment = Arc<dyn Any + Send + Sync>;

/// Finds in an attachment what is to be kept with its message, should that outlive the process.
pub type Keepsake = fn(&Attachment) -> Option<&Bytes>;

/// From what a hook makes its attachment again after a restart.
pub(crate) enum Remembered {
    Nothing,
    InAttachment(Keepsake),
    Itself(Bytes),
}

/// A message that was accepted. Shared by all who get it; never changed again.
pub struct Message {
    pub(crate) topic: Text,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Without alias, expiry and subscription identifiers: those belong to a connection.
    pub(crate) properties: PublishProperties,
    pub(crate) wire: WireProperties,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) publisher: Option<Arc<Client>>,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) remembered: Remembered,
    /// What a deliver hook makes of the payload for more than one connection.
    pub(crate) shared_payload: OnceLock<Bytes>,
    /// What it counts for in a queue's limit of bytes; asked for several times for each copy.
    pub(crate) queue_bytes: usize,
    /// That it counts among what all sessions hold, once it does.
    pub(crate) counted: OnceLock<Counted>,
    /// Whether it is the retained message of its topic, and counts as that.
    pub(crate) is_newest: AtomicBool,
    /// Where it is in the store, once it is there.
    pub(crate) stored: OnceLock<StoredMessage>,
}

impl Message {
    /// One that hooks and properties have not touched yet.
    pub(crate) fn new(topic: Text, payload: Bytes, qos: QoS, retain: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain,
            properties: PublishProperties::default(),
            wire: WireProperties::default(),
            expires_at: None,
            publisher: None,
            attachment: None,
            remembered: Remembered::Nothing,
            shared_payload: OnceLock::new(),
            queue_bytes: 0,
            counted: OnceLock::new(),
            is_newest: AtomicBool::new(false),
            stored: OnceLock::new(),
        }
    }

    /// One from the store; `None` if its properties do not fit the wire format.
    pub(crate) fn restored(publish: Publish, expires_at: Option<Timestamp>) -> Option<Self> {
        let Publish { topic, payload, qos, retain, properties, .. } = publish;
        let wire = WireProperties::new(&properties).ok()?;
        Some(Self { properties, wire, expires_at, ..Self::new(topic, payload, qos, retain) })
    }

    /// Topic, valid and with its alias resolved.
    pub fn topic(&self) -> &Text {
        &self.topic
    }

    /// Payload as it left the publish hooks.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// QoS that the publisher sent it with.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether the publisher asked to retain it.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// MQTT 5.0 properties; topic alias, expiry and subscription identifiers are not set.
    pub fn properties(&self) -> &PublishProperties {
        &self.properties
    }

    /// When it expires, if ever.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Connection it came from; `None` for messages from inside the broker or from before a restart.
    pub fn publisher(&self) -> Option<&Arc<Client>> {
        self.publisher.as_ref()
    }

    /// What a publish hook attached.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// What a hook needs to make the attachment again after a restart.
    pub(crate) fn keepsake(&self) -> Option<&Bytes> {
        match &self.remembered {
            Remembered::Nothing => None,
            Remembered::InAttachment(find) => self.attachment.as_ref().and_then(find),
            Remembered::Itself(bytes) => Some(bytes),
        }
    }

    /// What it counts for in a queue's limit of bytes, with what a hook keeps for it: a header, though it be shared.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Ends what may be done with it alone.
    pub(crate) fn share(mut self) -> Arc<Self> {
        let properties = self.wire.bytes() + self.properties.user.len() * USER_PROPERTY_OVERHEAD_BYTES;
        let kept = self.keepsake().map_or(0, Bytes::len);
        let bytes = self.topic.len() + self.payload.len() + properties + kept + MESSAGE_OVERHEAD_BYTES;
        self.queue_bytes = bytes;
        Arc::new(self)
    }
}

/// Bookkeeping of one message, roughly.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Bookkeeping of one user property: two texts.
const USER_PROPERTY_OVERHEAD_BYTES: usize = 64;

/// Payload and topic stay out of logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

/// Where a message that a publish hook sees comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A PUBLISH of a connected client.
    Publish,
    /// The will in a CONNECT. Nothing is published yet; a refusal refuses the CONNECT.
    WillAtConnect,
    /// A will that is now due. Its client is gone. A refusal drops it, unless the reason is
    /// [`ReasonCode::ServerBusy`](crate::mqtt::ReasonCode::ServerBusy): then the hook is asked again.
    Will,
}

/// A message before it is accepted: what a publish hook judges and may change.
#[derive(Debug)]
pub struct Publication {
    pub(crate) message: Message,
    pub(crate) origin: Origin,
}

impl Publication {
    /// The message as it stands, changes of earlier hooks included.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Replaces the payload.
    pub fn set_payload(&mut self, payload: Bytes) {
        self.message.payload = payload;
    }

    /// User properties, to change.
    pub fn user_properties_mut(&mut self) -> &mut UserProperties {
        &mut self.message.properties.user
    }

    /// Attaches something for deliver hooks, in place of what an earlier hook attached. If the message outlives the
    /// process, what `keepsake` finds there is kept with it, and [`Hook::recall`](super::Hook::recall) makes the attachment
    /// from it again. Messages may share an attachment.
    pub fn set_attachment(&mut self, attachment: Attachment, keepsake: Option<Keepsake>) {
        self.message.attachment = Some(attachment);
        self.message.remembered = keepsake.map_or(Remembered::Nothing, Remembered::InAttachment);
    }

    /// The same once more, untouched by hooks.
    pub(crate) fn copied(&self, origin: Origin) -> Self {
        let Message { topic, payload, qos, retain, properties, publisher, .. } = &self.message;
        let message = Message::new(topic.clone(), payload.clone(), *qos, *retain);
        let (properties, publisher) = (properties.clone(), publisher.clone());
        Self { message: Message { properties, publisher, ..message }, origin }
    }

    /// One that hooks have nothing to do with.
    pub(crate) fn internal(message: Message) -> Self {
        Self { message, origin: Origin::Publish }
    }

    pub(crate) fn from_publish(
        publish: Publish,
        publisher: &Arc<Client>,
        now: impl FnOnce() -> Timestamp,
    ) -> Self {
        let mut properties = publish.properties;
        properties.topic_alias = None;
        let expires_at = expiry(&mut properties, now);
        let message = Message::new(publish.topic, publish.payload, publish.qos, publish.retain);
        Self {
            message: Message { properties, expires_at, publisher: Some(publisher.clone()), ..message },
            origin: Origin::Publish,
        }
    }

    /// Ends the changes. Whether a hook made a property that does not fit the wire format.
    pub(crate) fn accept(mut self) -> (Arc<Message>, Result<(), crate::mqtt::EncodeError>) {
        let encoded = WireProperties::new(&self.message.properties).map(|wire| self.message.wire = wire);
        (self.message.share(), encoded)
    }
}

/// Takes the expiry interval out of the properties and turns it into a time.
pub(crate) fn expiry(
    properties: &mut PublishProperties,
    now: impl FnOnce() -> Timestamp,
) -> Option<Timestamp> {
    let secs = properties.expiry_secs.take()?;
    Some(now().after(std::time::Duration::from_secs(secs.into())))
}

/// One message about to be written to one connection: what a deliver hook judges and may change.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub(crate) message: &'a Message,
    pub(crate) retained: bool,
    pub(crate) resent: bool,
    pub(crate) qos: QoS,
    pub(crate) payload: Option<Bytes>,
}

impl<'a> Delivery<'a> {
    /// The message, shared with its other receivers.
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// Whether it comes from the retained messages, because of a new subscription.
    pub fn is_retained(&self) -> bool {
        self.retained
    }

    /// Whether it was already written to an earlier connection of this session.
    pub fn is_resent(&self) -> bool {
        self.resent
    }

    /// QoS of this delivery.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The payload that will be written.
    pub fn payload(&self) -> &Bytes {
        self.payload.as_ref().unwrap_or(&self.message.payload)
    }

    /// Writes another payload to this connection.
    pub fn set_payload(&mut self, payload: Bytes) {
        self.payload = Some(payload);
    }

    /// The same with one that is made once, for all connections for which this is called.
    pub fn set_shared_payload(&mut self, make: impl FnOnce() -> Bytes) {
        self.payload = Some(self.message.shared_payload.get_or_init(make).clone());
    }
}
