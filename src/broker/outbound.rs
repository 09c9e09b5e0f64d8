//! Encodes what goes to one client: deliver hooks, topic aliases, expiry, the client's limits.

use bytes::BytesMut;
use hashbrown::HashMap;

use super::{
    core::Core,
    counts::Tally,
    events::DropReason,
    hook::{Client, DeliverVerdict},
    message::Delivery,
    session::outgoing::{Queued, Sending},
};
use crate::mqtt::{Ack, EncodeError, Packet, PublishHead, PublishProperties, ReasonCode, Text, Version};

/// What a connection knows about its client's wishes.
pub(crate) struct Outbound {
    /// Largest packet that the client takes.
    packet_bytes_max: usize,
    /// Highest alias to use; 0 for none.
    alias_max: u16,
    aliases: HashMap<Text, u16>,
    /// Whether reason strings may come with any packet.
    problem_information: bool,
    /// Messages that the session's queue had no room for, and that the client has not been told of. The next message
    /// tells.
    pub(crate) untold: u64,
}

/// User property of a CONNACK or PUBLISH from the broker: how many messages for this session were dropped since it was
/// told last, because its queue was full.
pub const DROPPED_PROPERTY: &str = "smqtt-dropped";

impl Outbound {
    pub(crate) fn new(packet_bytes_max: usize, alias_max: u16, problem_information: bool) -> Self {
        Self { packet_bytes_max, alias_max, aliases: HashMap::new(), problem_information, untold: 0 }
    }

    /// Encodes a packet that is no message, without what the client did not want or has no room for. Whether it fits at
    /// all: every packet but SUBACK and UNSUBACK does, of a client that took its CONNACK.
    pub(crate) fn say(&self, mut packet: Packet, version: Version, out: &mut BytesMut) -> bool {
        let reason_string = match &mut packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack) | Packet::Pubrel(ack) => {
                Some(&mut ack.properties.reason_string)
            }
            Packet::Suback(suback) => Some(&mut suback.properties.reason_string),
            Packet::Unsuback(unsuback) => Some(&mut unsuback.properties.reason_string),
            _ => None,
        };
        if let Some(reason_string) = reason_string
            && !self.problem_information
        {
            *reason_string = None;
        }
        match packet.encode_within(version, self.packet_bytes_max, out) {
            Ok(()) => true,
            Err(EncodeError::TooLarge) => false,
            // A bug of a hook.
            Err(error) => {
                tracing::error!(%error, "a packet could not be encoded");
                true
            }
        }
    }

    /// Whether the client takes a SUBACK or UNSUBACK with so many reason codes.
    pub(crate) fn has_room_for(&self, reason_codes: usize) -> bool {
        reason_codes.saturating_add(SUBACK_BYTES_MAX) <= self.packet_bytes_max
    }

    /// Encodes one thing to write. Gives back a message that was not written after all, and why.
    pub(crate) fn write(
        &mut self,
        core: &Core,
        client: &Client,
        sending: Sending,
        out: &mut BytesMut,
        tally: &mut Tally,
    ) -> Result<(), (Queued, DropReason)> {
        match sending {
            Sending::Pubrel(packet_id) => {
                let packet = Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success));
                // Four bytes: always fit.
                let _ = packet.encode(client.version, out);
                Ok(())
            }
            Sending::Publish { queued, head } => match self.publish(core, client, &queued, head, out) {
                Ok(()) => {
                    tally.sent(head.qos);
                    Ok(())
                }
                Err(reason) => Err((queued, reason)),
            },
        }
    }

    fn publish(
        &mut self,
        core: &Core,
        client: &Client,
        queued: &Queued,
        head: PublishHead,
        out: &mut BytesMut,
    ) -> Result<(), DropReason> {
        let message = &*queued.message;
        let mut own = PublishProperties::default();
        if let Some(expires_at) = message.expires_at {
            let left = core.clock.now().until(expires_at);
            // What was sent before may be finished (section 3.3.2.3.3).
            if left.is_zero() && !head.dup {
                return Err(DropReason::Expired);
            }
            own.expiry_secs = Some(u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
        }
        let mut delivery =
            Delivery { message, retained: queued.retained, resent: head.dup, qos: queued.qos, payload: None };
        if let DeliverVerdict::Drop(text) = core.hooks.deliver(client, &mut delivery) {
            tracing::debug!(client = %client.client_id, text, "delivery dropped by a hook");
            return Err(DropReason::RefusedByHook);
        }
        let payload = delivery.payload.as_ref().unwrap_or(&message.payload);
        let v5 = client.version == Version::V5;
        if v5 && let Some(ids) = &queued.ids {
            own.subscription_ids = ids.to_vec();
        }
        let (alias, known) = if v5 { self.alias(&message.topic) } else { (None, false) };
        own.topic_alias = alias;
        let topic = if known { &Text::default() } else { &message.topic };
        let tells = v5 && self.untold > 0 && {
            let bytes = head.encoded_bytes(client.version, topic, &message.wire, payload);
            self.packet_bytes_max.saturating_sub(bytes) >= OWN_BYTES_MAX
        };
        if tells {
            own.user.push((DROPPED_PROPERTY.into(), self.untold.to_string().into()));
        }
        let with_own;
        let properties = if v5 && !own.is_empty() {
            with_own = message.wire.with_own(own);
            &with_own
        } else {
            &message.wire
        };
        let bytes = head.encoded_bytes(client.version, topic, properties, payload);
        let written = if bytes > self.packet_bytes_max {
            tracing::debug!(client = %client.client_id, bytes, "message exceeds the client's maximum packet size");
            Err(DropReason::TooLarge)
        } else {
            head.encode(client.version, topic, properties, payload, out)
                .inspect_err(|error| tracing::error!(%error, "a message could not be encoded"))
                .map_err(|_| DropReason::NotEncodable)
        };
        if written.is_ok() && tells {
            self.untold = 0;
        }
        if written.is_err() {
            self.forget_alias(alias, known, &message.topic);
        }
        written
    }

    /// The alias of a topic, and whether the client knows it already.
    fn alias(&mut self, topic: &Text) -> (Option<u16>, bool) {
        if self.alias_max == 0 {
            return (None, false);
        }
        if let Some(alias) = self.aliases.get(topic) {
            return (Some(*alias), true);
        }
        let next = self.aliases.len() + 1;
        if next > usize::from(self.alias_max) {
            return (None, false);
        }
        self.aliases.insert(topic.detached(), next as u16);
        (Some(next as u16), false)
    }

    /// The client has not learned a new alias after all.
    fn forget_alias(&mut self, alias: Option<u16>, known: bool, topic: &Text) {
        if alias.is_some() && !known {
            self.aliases.remove(topic);
        }
    }
}

/// Bytes of what the broker adds to a message, generously.
const OWN_BYTES_MAX: usize = 512;

/// Bytes of a SUBACK beside its reason codes, if it has no other properties: a type, a length, an identifier, another length.
const SUBACK_BYTES_MAX: usize = 1 + 4 + 2 + 1;
