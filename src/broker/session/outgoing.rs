//! Messages on their way to one client: the queue, and what was sent and not yet acknowledged (section 4.3, 4.4).

use std::{collections::VecDeque, sync::Arc};

use super::held::{Held, PLACE_BYTES, Total};
use crate::{
    broker::{config::Limits, events::DropReason, group::Aside, message::Message},
    mqtt::{PublishHead, QoS, SubscriptionId},
};

/// Subscription identifiers that go with a delivery, usually none.
pub(crate) type SubscriptionIds = Option<Arc<[SubscriptionId]>>;

/// A message for one session.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    /// Its number among the session's QoS 1 and 2 messages, from 1, given by the queue. The packet identifier follows
    /// from it, so that a restart cannot change it. One of QoS 0 repeats the last number before it.
    pub(crate) seq: u64,
    pub(crate) message: Arc<Message>,
    /// QoS to deliver with: no more than publisher and subscription allow.
    pub(crate) qos: QoS,
    /// Retain flag to write.
    pub(crate) retain: bool,
    /// Whether it comes from the retained messages.
    pub(crate) retained: bool,
    pub(crate) ids: SubscriptionIds,
    /// The shared subscription that it came by, as clients write it, if it did.
    pub(crate) shared: Option<Arc<str>>,
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

impl Stage {
    /// The message, while it is needed.
    fn message(&self) -> Option<&Message> {
        match self {
            Self::Sent(queued) => Some(&queued.message),
            Self::Released => None,
        }
    }
}

#[derive(Debug)]
struct Inflight {
    seq: u64,
    stage: Stage,
    /// Whether it went out on the present connection.
    written: bool,
    /// Whether it went out on an earlier connection, so that it needs DUP.
    dup: bool,
    /// PUBREC came, perhaps on an earlier connection or not yet on disk: the client has the message.
    received: bool,
}

const _: () = assert!(size_of::<Inflight>() <= PLACE_BYTES);

impl Inflight {
    /// The message, while it is needed.
    fn message(self) -> Option<Queued> {
        match self.stage {
            Stage::Sent(queued) => Some(queued),
            Stage::Released => None,
        }
    }
}

/// What a PUBREC is about.
#[derive(Debug, Default)]
pub(crate) enum Recorded {
    /// Nothing that awaits one.
    #[default]
    Unknown,
    /// The client does not want it: over.
    Refused(Queued),
    /// The client has this. Whether it said so for the first time; the disk may not know yet.
    First(Queued, bool),
    /// It said so before.
    Again,
}

/// The outgoing half of a session.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Queued>,
    /// By all messages here, those sent and not yet acknowledged included.
    held: Held,
    /// Whether a connection takes them.
    connected: bool,
    /// Retained messages in the queue.
    retained_waiting: usize,
    inflight: VecDeque<Inflight>,
    /// Inflight entries not yet written to the present connection.
    unwritten: usize,
    /// The number of the last QoS 1 or 2 message.
    last_seq: u64,
    /// Up to which number messages are on disk, where they are kept at all: one of QoS 2 must be there before it is
    /// sent, since a broker that forgot it would take it from its publisher once more.
    committed: Option<u64>,
    /// Whether that is so for good; otherwise only until what waits is on disk.
    kept: bool,
    /// What [`newly_sent`](Self::newly_sent) gave last.
    sent: u64,
    /// Groups that pass the session over until it may have room again.
    aside: Vec<Aside>,
    /// Messages that found no room, and how many of them the client was told of.
    dropped: u64,
    told: u64,
}

/// Packet identifiers that there are.
const PACKET_IDS: u64 = 65_535;

/// The packet identifier of a message: those of the numbers from 1 on are 1 to 65,535, over and over.
fn packet_id(seq: u64) -> u16 {
    let id = seq.wrapping_sub(1) % PACKET_IDS + 1;
    u16::try_from(id).expect("at most 65,535")
}

impl Outgoing {
    /// Nothing yet; what comes is part of what all sessions hold.
    pub(crate) fn within(total: &Total) -> Self {
        Self { held: Held::within(total), ..Self::default() }
    }

    /// From now on the messages are kept on disk.
    pub(crate) fn keep(&mut self) {
        self.committed = Some(0);
        self.kept = true;
    }

    /// A QoS 2 message that is not kept here waits for the disk all the same, since others keep it: if it cannot be
    /// written there, its publisher is told that it was refused, and may send it again.
    pub(crate) fn hold(&mut self, seq: u64) {
        self.committed.get_or_insert(seq - 1);
    }

    /// Whether QoS 2 messages wait for the disk.
    pub(crate) fn is_holding(&self) -> bool {
        self.committed.is_some()
    }

    /// Appends a message and numbers it, unless that would exceed the limits.
    pub(crate) fn offer(&mut self, queued: Queued, limits: &Limits) -> Result<&Queued, (Queued, DropReason)> {
        let bytes = queued.message.queue_bytes();
        if let Some(reason) = self.full(bytes, limits) {
            self.dropped += 1;
            return Err((queued, reason));
        }
        Ok(self.number_and_push(queued))
    }

    /// Why a message that counts for so many bytes has no room, if it has none.
    pub(crate) fn full(&self, bytes: usize, limits: &Limits) -> Option<DropReason> {
        self.full_itself(bytes, limits).or_else(|| self.full_with_others(bytes, limits))
    }

    /// By the session's own limits. One that is alone always has room.
    fn full_itself(&self, bytes: usize, limits: &Limits) -> Option<DropReason> {
        if self.queue.len() >= limits.queue_messages_max {
            return Some(DropReason::QueueMessages);
        }
        let held = self.held.bytes();
        (held > 0 && held + bytes > limits.queue_bytes_max).then_some(DropReason::QueueBytes)
    }

    /// By what all sessions hold. Each may hold as much as is left, and no more: whoever holds most is the first to lose, and
    /// a few that never take anything leave something to the others. A client that does take its messages always gets some.
    fn full_with_others(&self, bytes: usize, limits: &Limits) -> Option<DropReason> {
        let fits = self.held.fits(bytes, limits.all_queues_bytes_max)
            || (self.connected && self.held.bytes() < CONNECTED_BYTES_MIN);
        (!fits).then_some(DropReason::AllQueuesBytes)
    }

    /// A group passes the session over, until it hears that something has changed.
    pub(crate) fn set_aside(&mut self, aside: Aside) {
        // A group that came and went, and came again, is here once.
        if self.aside.len() == self.aside.capacity() {
            self.aside.retain(|other| other.is_beside(&aside));
        }
        self.aside.push(aside);
    }

    /// A connection has come, or something has left: groups may ask again.
    fn stir(&mut self) {
        if !self.aside.is_empty() {
            std::mem::take(&mut self.aside).into_iter().for_each(Aside::end);
        }
    }

    /// How many messages found no room since this was asked last.
    pub(crate) fn take_untold(&mut self) -> u64 {
        self.dropped - std::mem::replace(&mut self.told, self.dropped)
    }

    /// Appends the retained messages for a new subscription; `taken` hears of each that found room, and the others come
    /// back. They are in memory anyway, so one such set at a time may exceed the limits of the session, for as long as its client
    /// is there to take it.
    pub(crate) fn offer_retained(
        &mut self,
        set: Vec<Queued>,
        limits: &Limits,
        mut taken: impl FnMut(&Queued),
    ) -> Vec<(Queued, DropReason)> {
        let exempt = self.connected && self.retained_waiting == 0;
        let mut left_out = Vec::new();
        for queued in set {
            let bytes = queued.message.queue_bytes();
            let full = if exempt { self.full_with_others(bytes, limits) } else { self.full(bytes, limits) };
            match full {
                None => taken(self.number_and_push(queued)),
                Some(reason) => {
                    self.dropped += 1;
                    left_out.push((queued, reason));
                }
            }
        }
        left_out
    }

    fn number_and_push(&mut self, mut queued: Queued) -> &Queued {
        self.last_seq += u64::from(queued.qos != QoS::AtMostOnce);
        queued.seq = self.last_seq;
        self.push(queued);
        self.queue.back().expect("it was just appended")
    }

    /// Puts back, in order, what was there before a restart; `sent`: PUBLISH may have gone out.
    pub(crate) fn restore(&mut self, queued: Queued, sent: bool) {
        self.begin_after(queued.seq);
        if sent {
            self.restore_inflight(queued.seq, Stage::Sent(queued));
        } else {
            self.push(queued);
        }
    }

    /// Puts back a message that the client has, and of which it awaits PUBREL.
    pub(crate) fn restore_released(&mut self, seq: u64) {
        self.begin_after(seq);
        self.restore_inflight(seq, Stage::Released);
    }

    fn restore_inflight(&mut self, seq: u64, stage: Stage) {
        self.held.add(stage.message());
        self.inflight.push_back(Inflight { seq, stage, written: false, dup: true, received: false });
        self.unwritten += 1;
    }

    /// Up to which number messages went out at least once, if that is further than when it was asked last.
    pub(crate) fn newly_sent(&mut self) -> Option<u64> {
        let waiting = self.queue.iter().find(|queued| queued.qos != QoS::AtMostOnce);
        let sent = waiting.map_or(self.last_seq, |queued| queued.seq - 1);
        (std::mem::replace(&mut self.sent, sent) != sent).then_some(sent)
    }

    /// No number up to this one is given again.
    pub(crate) fn begin_after(&mut self, seq: u64) {
        self.last_seq = self.last_seq.max(seq);
        self.committed = self.committed.max(Some(seq));
    }

    /// Messages up to this number are on disk.
    pub(crate) fn committed(&mut self, seq: u64) {
        self.committed = self.committed.map(|before| before.max(seq));
        if !self.kept && self.committed >= Some(self.last_seq) {
            self.committed = None;
        }
    }

    /// A message that could not be written to disk, of QoS 2 and so not sent yet: as if it had never come.
    pub(crate) fn withdraw(&mut self, seq: u64) -> Option<Queued> {
        let of_seq = |queued: &Queued| queued.seq == seq && queued.qos != QoS::AtMostOnce;
        let index = self.queue.iter().position(of_seq)?;
        let queued = self.queue.remove(index)?;
        self.held.remove(Some(&queued.message));
        self.retained_waiting -= usize::from(queued.retained);
        self.stir();
        Some(queued)
    }

    fn push(&mut self, queued: Queued) {
        self.held.add(Some(&queued.message));
        self.retained_waiting += usize::from(queued.retained);
        self.queue.push_back(queued);
    }

    /// Takes the first, which goes out: one of QoS 1 or 2 is held until it is acknowledged.
    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        if queued.qos == QoS::AtMostOnce {
            self.held.remove(Some(&queued.message));
        }
        self.retained_waiting -= usize::from(queued.retained);
        self.stir();
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_CAPACITY_KEPT {
            self.queue = VecDeque::new();
        }
        Some(queued)
    }

    /// A new connection resumes the session: everything unacknowledged goes out again, in order.
    pub(crate) fn resume(&mut self) {
        self.connected = true;
        self.stir();
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
        self.queue.front().is_some_and(|next| next.qos == QoS::AtMostOnce || (room && self.may_send(next)))
    }

    /// Whether messages wait only because the client has not acknowledged enough of those before.
    pub(crate) fn waits_for_acks(&self, inflight_max: u16) -> bool {
        let full = self.inflight.len() - self.unwritten >= usize::from(inflight_max);
        full && (self.unwritten > 0 || self.queue.front().is_some_and(|next| next.qos != QoS::AtMostOnce))
    }

    /// Whether the next message may go out: its packet identifier is free, and it is on disk if it must be.
    fn may_send(&self, next: &Queued) -> bool {
        // Identifiers are given in order, so one can be in use only if the oldest is a whole round behind.
        let free =
            self.inflight.front().is_none_or(|oldest| next.seq.saturating_sub(oldest.seq) < PACKET_IDS);
        free && (next.qos != QoS::ExactlyOnce || self.committed.is_none_or(|seq| next.seq <= seq))
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
                    Stage::Released => Sending::Pubrel(packet_id(entry.seq)),
                    Stage::Sent(queued) => {
                        Sending::Publish { head: head(queued, entry.dup), queued: queued.clone() }
                    }
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
                batch.push(Sending::Publish { head: head(&queued, false), queued });
                continue;
            }
            if active >= usize::from(inflight_max) || !self.may_send(next) {
                return;
            }
            let Some(queued) = self.pop() else { return };
            batch.push(Sending::Publish { head: head(&queued, false), queued: queued.clone() });
            let seq = queued.seq;
            let stage = Stage::Sent(queued);
            self.inflight.push_back(Inflight { seq, stage, written: true, dup: false, received: false });
            active += 1;
        }
    }

    fn position(&self, id: u16) -> Option<usize> {
        self.inflight.iter().position(|entry| packet_id(entry.seq) == id && entry.written)
    }

    /// PUBACK. The message that is over, if it was awaited.
    pub(crate) fn puback(&mut self, id: u16) -> Option<Queued> {
        let index = self.position(id)?;
        let entry = &self.inflight[index];
        let awaited = matches!(&entry.stage, Stage::Sent(queued) if queued.qos == QoS::AtLeastOnce);
        if awaited { self.remove(index).message() } else { None }
    }

    /// PUBREC: what it is about. `refused` ends the delivery.
    pub(crate) fn pubrec(&mut self, id: u16, refused: bool) -> Recorded {
        let Some(index) = self.position(id) else { return Recorded::Unknown };
        let entry = &mut self.inflight[index];
        match &entry.stage {
            Stage::Sent(queued) if queued.qos != QoS::ExactlyOnce => Recorded::Unknown,
            Stage::Sent(_) if refused && !entry.received => {
                self.remove(index).message().map_or(Recorded::Unknown, Recorded::Refused)
            }
            Stage::Sent(queued) => {
                let again = std::mem::replace(&mut entry.received, true);
                Recorded::First(queued.clone(), !again)
            }
            Stage::Released => Recorded::Again,
        }
    }

    /// The client has the message, and that is on disk where it must be: PUBREL may follow.
    pub(crate) fn release(&mut self, seq: u64) -> Option<u16> {
        let entry = self.inflight.iter_mut().find(|entry| entry.seq == seq && entry.written)?;
        if let Stage::Sent(queued) = std::mem::replace(&mut entry.stage, Stage::Released) {
            self.held.release(&queued.message);
            self.stir();
        }
        Some(packet_id(seq))
    }

    /// PUBCOMP. The number of the message, if it was awaited.
    pub(crate) fn pubcomp(&mut self, id: u16) -> Option<u64> {
        let index = self.position(id)?;
        let awaited = matches!(self.inflight[index].stage, Stage::Released);
        awaited.then(|| self.remove(index).seq)
    }

    /// The message of that number was not written after all: expired, too large, or refused by a hook. Whether it was on
    /// its way.
    pub(crate) fn forget(&mut self, seq: u64) -> bool {
        let index = self.inflight.iter().position(|entry| entry.seq == seq && entry.written);
        index.map(|index| self.remove(index)).is_some()
    }

    fn remove(&mut self, index: usize) -> Inflight {
        let entry = self.inflight.remove(index).expect("an entry that was just found");
        self.held.remove(entry.stage.message());
        self.stir();
        entry
    }

    /// The client has gone. Takes out what does not wait for it, and says why: QoS 0 messages, and retained ones that only a
    /// client that takes them may have beyond the limits.
    pub(crate) fn disconnected(&mut self, limits: &Limits) -> Vec<(Queued, DropReason)> {
        self.connected = false;
        let queue = std::mem::take(&mut self.queue);
        queue.iter().for_each(|queued| self.held.remove(Some(&queued.message)));
        self.retained_waiting = 0;
        let mut lost = Vec::new();
        for queued in queue {
            let reason = match queued.qos {
                QoS::AtMostOnce => Some(DropReason::NotConnected),
                _ if queued.retained => self.full_itself(queued.message.queue_bytes(), limits),
                _ => None,
            };
            self.dropped += u64::from(reason.is_some_and(DropReason::is_no_room));
            match reason {
                Some(reason) => lost.push((queued, reason)),
                None => self.push(queued),
            }
        }
        lost
    }

    /// What the client does not have, in order.
    pub(crate) fn into_undelivered(mut self) -> Vec<Queued> {
        let (inflight, queue) = (std::mem::take(&mut self.inflight), std::mem::take(&mut self.queue));
        inflight.iter().for_each(|entry| self.held.remove(entry.stage.message()));
        queue.iter().for_each(|queued| self.held.remove(Some(&queued.message)));
        let sent = inflight.into_iter().filter(|entry| !entry.received).filter_map(Inflight::message);
        sent.chain(queue).collect()
    }

    /// What another member of a group may have if the session ends: all that came by shared subscriptions and that the client has
    /// not acknowledged, but no QoS 2 message that may have reached it (section 4.8.2).
    pub(crate) fn shared(&self) -> Vec<Queued> {
        let sent = self.inflight.iter().filter_map(|entry| match &entry.stage {
            Stage::Sent(queued) if queued.qos == QoS::AtLeastOnce => Some(queued),
            _ => None,
        });
        let all = sent.chain(&self.queue);
        all.filter(|queued| queued.shared.is_some() && queued.qos != QoS::AtMostOnce).cloned().collect()
    }

    /// Messages that wait, bytes that are held, messages sent and not acknowledged.
    pub(crate) fn held(&self) -> (usize, usize, usize) {
        (self.queue.len(), self.held.bytes(), self.inflight.len())
    }

    /// How often a message was dropped for this reason, the present one included: for want of room in the queue, or in all
    /// queues of all sessions.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::AllQueuesBytes => self.held.dropped(),
            _ => self.dropped,
        }
    }
}

/// What a session whose client is there may hold, however much others do.
const CONNECTED_BYTES_MIN: usize = 16 << 10;

/// A drained queue that had more room than this gives its memory back.
const QUEUE_CAPACITY_KEPT: usize = 64;

fn head(queued: &Queued, dup: bool) -> PublishHead {
    let packet_id = if queued.qos == QoS::AtMostOnce { 0 } else { packet_id(queued.seq) };
    PublishHead { dup, qos: queued.qos, retain: queued.retain, packet_id }
}
