//! Messages on their way to one client: the queue, and what was sent and not yet acknowledged (section 4.3, 4.4).

use std::{collections::VecDeque, sync::Arc};

use crate::{
    broker::{config::Limits, message::Message},
    mqtt::{PublishHead, QoS, SubscriptionId},
};

/// Subscription identifiers that go with a delivery, usually none.
pub(crate) type SubscriptionIds = Option<Arc<[SubscriptionId]>>;

/// A message for one session, before it has a packet identifier.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    /// QoS to deliver with: no more than publisher and subscription allow.
    pub(crate) qos: QoS,
    /// Retain flag to write.
    pub(crate) retain: bool,
    /// Whether it comes from the retained messages.
    pub(crate) retained: bool,
    pub(crate) ids: SubscriptionIds,
}

/// Something to write to the client now.
#[derive(Debug)]
pub(crate) enum Sending {
    Publish { queued: Queued, head: PublishHead },
    Pubrel(u16),
}

/// How far a QoS 1 or 2 delivery has come.
#[derive(Debug)]
enum Stage {
    /// PUBLISH sent; PUBACK or PUBREC is awaited.
    Sent(Queued),
    /// PUBREC came; PUBCOMP is awaited. The message is no longer needed.
    Released,
}

#[derive(Debug)]
struct Inflight {
    packet_id: u16,
    /// How many packet identifiers had been given before this one.
    serial: u64,
    stage: Stage,
    /// Whether it went out on the present connection.
    written: bool,
    /// Whether it went out on an earlier connection, so that it needs DUP.
    dup: bool,
}

/// What happened to a message that was offered to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Queued,
    /// The queue is full.
    Dropped,
}

/// The outgoing half of a session.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Retained messages in the queue.
    retained_waiting: usize,
    inflight: VecDeque<Inflight>,
    /// Inflight entries not yet written to the present connection.
    unwritten: usize,
    last_packet_id: u16,
    serial: u64,
    dropped: u64,
}

impl Outgoing {
    /// Appends a message, unless that would exceed the limits.
    pub(crate) fn offer(&mut self, queued: Queued, limits: &Limits) -> Offered {
        let bytes = queued.message.queue_bytes();
        if self.queue.len() >= limits.queue_messages_max || self.queue_bytes + bytes > limits.queue_bytes_max
        {
            self.dropped += 1;
            return Offered::Dropped;
        }
        self.push(queued, bytes);
        Offered::Queued
    }

    /// Appends the retained messages for a new subscription. They are in memory anyway, so one such set at a time may
    /// exceed the limits.
    pub(crate) fn offer_retained(&mut self, set: Vec<Queued>, limits: &Limits) {
        let exempt = self.retained_waiting == 0;
        for queued in set {
            if exempt {
                let bytes = queued.message.queue_bytes();
                self.push(queued, bytes);
            } else {
                self.offer(queued, limits);
            }
        }
    }

    fn push(&mut self, queued: Queued, bytes: usize) {
        self.queue_bytes += bytes;
        self.retained_waiting += usize::from(queued.retained);
        self.queue.push_back(queued);
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.message.queue_bytes();
        self.retained_waiting -= usize::from(queued.retained);
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_CAPACITY_KEPT {
            self.queue = VecDeque::new();
        }
        Some(queued)
    }

    /// A new connection resumes the session: everything unacknowledged goes out again, in order.
    pub(crate) fn resume(&mut self) {
        for entry in &mut self.inflight {
            entry.dup |= entry.written;
            entry.written = false;
        }
        self.unwritten = self.inflight.len();
    }

    /// Whether [`take`](Self::take) would give something.
    pub(crate) fn has_work(&self, inflight_max: u16) -> bool {
        let room = self.inflight.len() - self.unwritten < usize::from(inflight_max);
        if self.unwritten > 0 {
            return room;
        }
        self.queue.front().is_some_and(|next| next.qos == QoS::AtMostOnce || room)
    }

    /// Moves up to `count_max` things to write into `batch`, giving out packet identifiers.
    pub(crate) fn take(&mut self, inflight_max: u16, count_max: usize, batch: &mut Vec<Sending>) {
        let mut active = self.inflight.len() - self.unwritten;
        if self.unwritten > 0 {
            for entry in self.inflight.iter_mut().filter(|entry| !entry.written) {
                if active >= usize::from(inflight_max) || batch.len() >= count_max {
                    return;
                }
                batch.push(match &entry.stage {
                    Stage::Released => Sending::Pubrel(entry.packet_id),
                    Stage::Sent(queued) => Sending::Publish {
                        head: head(queued, entry.packet_id, entry.dup),
                        queued: queued.clone(),
                    },
                });
                entry.written = true;
                self.unwritten -= 1;
                active += 1;
            }
        }
        while batch.len() < count_max {
            let Some(next) = self.queue.front() else { return };
            if next.qos == QoS::AtMostOnce {
                let Some(queued) = self.pop() else { return };
                batch.push(Sending::Publish { head: head(&queued, 0, false), queued });
                continue;
            }
            if active >= usize::from(inflight_max) {
                return;
            }
            let Some(queued) = self.pop() else { return };
            let packet_id = self.next_packet_id();
            batch.push(Sending::Publish { head: head(&queued, packet_id, false), queued: queued.clone() });
            self.inflight.push_back(Inflight {
                packet_id,
                serial: self.serial,
                stage: Stage::Sent(queued),
                written: true,
                dup: false,
            });
            active += 1;
        }
    }

    /// The next packet identifier that no unacknowledged message uses.
    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.serial += 1;
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            // Identifiers are given in order, so one can be in use only if the oldest is a whole round behind.
            let wrapped = self.inflight.front().is_some_and(|oldest| self.serial - oldest.serial >= 65_535);
            if !wrapped || self.inflight.iter().all(|entry| entry.packet_id != id) {
                return id;
            }
        }
    }

    fn position(&self, packet_id: u16) -> Option<usize> {
        self.inflight.iter().position(|entry| entry.packet_id == packet_id && entry.written)
    }

    /// PUBACK. Whether it was awaited.
    pub(crate) fn puback(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        let awaited =
            matches!(&self.inflight[index].stage, Stage::Sent(queued) if queued.qos == QoS::AtLeastOnce);
        if awaited {
            self.inflight.remove(index);
        }
        awaited
    }

    /// PUBREC. Whether PUBREL must follow with success; `refused` ends the delivery instead.
    pub(crate) fn pubrec(&mut self, packet_id: u16, refused: bool) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        match &self.inflight[index].stage {
            Stage::Sent(queued) if queued.qos != QoS::ExactlyOnce => false,
            Stage::Sent(_) if refused => {
                self.inflight.remove(index);
                true
            }
            _ => {
                self.inflight[index].stage = Stage::Released;
                true
            }
        }
    }

    /// PUBCOMP. Whether it was awaited.
    pub(crate) fn pubcomp(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        let awaited = matches!(self.inflight[index].stage, Stage::Released);
        if awaited {
            self.inflight.remove(index);
        }
        awaited
    }

    /// A message that got a packet identifier was not written after all: expired, too large, or refused by a hook.
    pub(crate) fn forget(&mut self, packet_id: u16) {
        if let Some(index) = self.position(packet_id) {
            self.inflight.remove(index);
        }
    }

    /// Drops QoS 0 messages: nobody is connected to take them.
    pub(crate) fn disconnected(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        (self.queue_bytes, self.retained_waiting) = (0, 0);
        for queued in queue.into_iter().filter(|queued| queued.qos != QoS::AtMostOnce) {
            let bytes = queued.message.queue_bytes();
            self.push(queued, bytes);
        }
    }

    /// Messages dropped because the queue was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// A drained queue that had more room than this gives its memory back.
const QUEUE_CAPACITY_KEPT: usize = 64;

fn head(queued: &Queued, packet_id: u16, dup: bool) -> PublishHead {
    PublishHead { dup, qos: queued.qos, retain: queued.retain, packet_id }
}
