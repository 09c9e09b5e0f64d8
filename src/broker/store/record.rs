//! How the broker's state is written down: the values behind the keys.

use bytes::{BufMut, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use crate::broker::{
    Timestamp,
    message::Message,
    session::{Subscribed, outgoing::Queued},
};
use crate::mqtt::{
    Limits, Packet, PublishHead, QoS, RetainHandling, SubscriptionId, SubscriptionOptions, Version,
    split_frame,
};

/// SHA-256 of an attachment, cut.
pub(super) type BlobId = [u8; 16];

/// A session, without what belongs to it under keys of its own.
#[derive(Debug, Encode, Decode)]
#[cbor(array)]
pub(crate) struct SessionRecord {
    #[n(0)]
    pub(crate) client_id: String,
    #[n(1)]
    pub(crate) owner: Option<String>,
    /// Milliseconds that it outlives its connection; `None` is for ever.
    #[n(2)]
    pub(crate) expiry_ms: Option<u64>,
    /// Milliseconds since 1970; only without a connection.
    #[n(3)]
    pub(crate) expires_at: Option<u64>,
    #[n(4)]
    pub(crate) will: Option<WillRecord>,
    /// Whether subscriptions, queue and packet identifiers are kept too, and not the will alone.
    #[n(5)]
    pub(crate) whole: bool,
}

/// A will that may have to be published.
#[derive(Debug, Encode, Decode)]
#[cbor(array)]
pub(crate) struct WillRecord {
    /// As [`message`] writes it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) message: Vec<u8>,
    #[n(1)]
    pub(crate) delay_ms: u64,
    #[n(2)]
    pub(crate) expiry_ms: Option<u64>,
    /// Milliseconds since 1970; only without a connection.
    #[n(3)]
    pub(crate) due_at: Option<u64>,
    #[n(4)]
    pub(crate) v5: bool,
    #[n(5)]
    pub(crate) peer: String,
}

impl SessionRecord {
    pub(super) fn to_bytes(&self) -> Bytes {
        minicbor::to_vec(self).expect("a vector takes everything").into()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        minicbor::decode(bytes).ok()
    }
}

/// `expires at (8) | 0 or 1 | blob id (0 or 16) | the message as a PUBLISH of MQTT 5.0`.
pub(crate) fn message(message: &Message, blob: Option<&BlobId>) -> Bytes {
    let mut out = BytesMut::with_capacity(message.queue_bytes());
    out.put_u64(message.expires_at.map_or(0, |at| at.0));
    out.put_u8(blob.is_some().into());
    out.put_slice(blob.map_or(&[], |id| &id[..]));
    // Every packet of QoS 1 and 2 has a packet identifier, so this has one too.
    let packet_id = u16::from(message.qos != QoS::AtMostOnce);
    let head = PublishHead { dup: false, qos: message.qos, retain: message.retain, packet_id };
    head.encode(Version::V5, &message.topic, &message.wire, &message.payload, &mut out)
        .expect("an accepted message fits the wire format");
    out.freeze()
}

/// A message as it was written, and the attachment that belongs to it.
pub(crate) fn read_message(bytes: &Bytes) -> Option<(Message, Option<BlobId>)> {
    let (expires_at, rest) = bytes.split_first_chunk::<8>()?;
    let (&[has_blob], rest) = rest.split_first_chunk::<1>()?;
    let (blob, rest) = match has_blob {
        0 => (None, rest),
        _ => rest.split_first_chunk().map(|(id, rest)| (Some(*id), rest))?,
    };
    let frame = split_frame(rest, Limits { packet_bytes_max: usize::MAX }).ok()??;
    let at = bytes.len() - rest.len();
    let packet = Packet::decode(frame, bytes.slice(at..at + frame.bytes), Version::V5).ok()?;
    let Packet::Publish(publish) = packet else { return None };
    let expires_at = Some(u64::from_be_bytes(*expires_at)).filter(|at| *at != 0).map(Timestamp);
    Some((Message::restored(publish, expires_at)?, blob))
}

pub(super) fn blob_id(bytes: &[u8]) -> BlobId {
    let hash = smqtt_core::crypto::sha256(&[bytes]);
    hash[..16].try_into().expect("16 of 32 bytes")
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct SubscriptionRecord {
    #[n(0)]
    qos: u8,
    #[n(1)]
    no_local: bool,
    #[n(2)]
    retain_as_published: bool,
    #[n(3)]
    retain_handling: u8,
    #[n(4)]
    id: Option<u32>,
}

pub(super) fn subscription(subscribed: Subscribed) -> Bytes {
    let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = subscribed.options;
    let record = SubscriptionRecord {
        qos: qos as u8,
        no_local,
        retain_as_published,
        retain_handling: retain_handling as u8,
        id: subscribed.id.map(|id| id.0),
    };
    minicbor::to_vec(record).expect("a vector takes everything").into()
}

pub(super) fn read_subscription(bytes: &[u8]) -> Option<Subscribed> {
    let record: SubscriptionRecord = minicbor::decode(bytes).ok()?;
    let retain_handling = match record.retain_handling {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    let SubscriptionRecord { no_local, retain_as_published, .. } = record;
    let qos = qos(record.qos)?;
    Some(Subscribed {
        options: SubscriptionOptions { qos, no_local, retain_as_published, retain_handling },
        id: record.id.map(SubscriptionId),
    })
}

/// A message for one session.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct QueuedRecord {
    #[n(0)]
    pub(super) message: u64,
    #[n(1)]
    qos: u8,
    #[n(2)]
    pub(super) retain: bool,
    #[n(3)]
    pub(super) retained: bool,
    #[n(4)]
    pub(super) ids: Vec<u32>,
    /// PUBREC came: the client has it.
    #[n(5)]
    pub(super) released: bool,
    /// The shared subscription that it came by.
    #[n(6)]
    pub(super) shared: Option<String>,
}

pub(super) fn queued(message: u64, queued: &Queued, released: bool) -> Bytes {
    let Queued { qos, retain, retained, ids, shared, .. } = queued;
    let shared = shared.as_deref().map(str::to_owned);
    let ids = ids.iter().flat_map(|ids| ids.iter().map(|id| id.0)).collect();
    let record = QueuedRecord {
        message,
        qos: *qos as u8,
        retain: *retain,
        retained: *retained,
        ids,
        released,
        shared,
    };
    minicbor::to_vec(record).expect("a vector takes everything").into()
}

pub(super) fn read_queued(bytes: &[u8]) -> Option<(QueuedRecord, QoS)> {
    let record: QueuedRecord = minicbor::decode(bytes).ok()?;
    let qos = qos(record.qos)?;
    Some((record, qos))
}

fn qos(number: u8) -> Option<QoS> {
    match number {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}
