//! Messages from one client: acknowledgements in order, QoS 2 identifiers that must not be taken twice.

use std::collections::VecDeque;

use crate::mqtt::{Ack, AckProperties, Packet, QoS, ReasonCode, Text};

/// A QoS 2 message that was taken and is not released yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is not yet where it must be. PUBREC then goes to this connection, with this number.
    UnderWay { connection: u64, number: u64 },
    /// PUBREC may be said, and repeated. It came last on this connection.
    Settled { connection: u64, number: u64 },
}

impl Taken {
    /// The connection that it came on.
    pub(crate) fn connection(self) -> u64 {
        let (Self::UnderWay { connection, .. } | Self::Settled { connection, .. }) = self;
        connection
    }

    /// The number of its acknowledgement there.
    pub(crate) fn number(self) -> u64 {
        let (Self::UnderWay { number, .. } | Self::Settled { number, .. }) = self;
        number
    }
}

/// Acknowledgements of one connection. They go out in the order of the messages (section 4.6), though messages reach
/// their subscribers' queues when the engine gives them back.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    acks: VecDeque<PendingAck>,
    /// Number of the first entry.
    base: u64,
    /// Entries for copies.
    copies: usize,
}

#[derive(Debug)]
struct PendingAck {
    packet_id: u16,
    qos: QoS,
    /// For a copy of a message that came before; of one under way, if there is its number.
    is_copy: bool,
    first: Option<u64>,
    /// There are copies that wait with it.
    repeated: bool,
    /// Copies that came right after it.
    more: u32,
    outcome: Option<Outcome>,
}

type Outcome = (ReasonCode, Option<Text>);

impl AckQueue {
    /// A message came in that needs an acknowledgement; the number is for [`complete`](Self::complete).
    pub(crate) fn expect(&mut self, packet_id: u16, qos: QoS) -> u64 {
        self.push(PendingAck {
            packet_id,
            qos,
            is_copy: false,
            first: None,
            repeated: false,
            more: 0,
            outcome: None,
        })
    }

    fn ack(&mut self, number: u64) -> Option<&mut PendingAck> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.acks.get_mut(index)
    }

    fn push(&mut self, ack: PendingAck) -> u64 {
        self.copies += usize::from(ack.is_copy);
        self.acks.push_back(ack);
        self.base + self.acks.len() as u64 - 1
    }

    /// A QoS 2 message came again before it was released: each copy has an acknowledgement of its own (section 4.3.3), in its
    /// place (section 4.6). It is said with that of the message `first`, if that is under way.
    pub(crate) fn repeat(&mut self, packet_id: u16, first: Option<u64>) {
        let qos = QoS::ExactlyOnce;
        match self.acks.back_mut().filter(|last| (last.packet_id, last.qos) == (packet_id, qos)) {
            Some(last) => last.more = last.more.saturating_add(1),
            None => {
                if let Some(ack) = first.and_then(|first| self.ack(first)) {
                    ack.repeated = true;
                }
                let outcome = first.is_none().then_some((ReasonCode::Success, None));
                let (is_copy, repeated) = (true, false);
                self.push(PendingAck { packet_id, qos, is_copy, first, repeated, more: 0, outcome });
            }
        }
    }

    /// Copies that wait, those that came one right after the other as one.
    pub(crate) fn copies(&self) -> usize {
        self.copies
    }

    /// The message is where it had to go, or was refused. Whether something can be written now.
    pub(crate) fn complete(&mut self, number: u64, reason: ReasonCode, text: Option<Text>) -> bool {
        if let Some(ack) = self.ack(number) {
            let outcome = (reason, text);
            ack.outcome = Some(outcome.clone());
            if ack.repeated {
                let copies = self.acks.iter_mut().filter(|ack| ack.first == Some(number));
                copies.for_each(|ack| ack.outcome = Some(outcome.clone()));
            }
        }
        self.has_work()
    }

    /// Whether an acknowledgement is still to be said.
    pub(crate) fn is_unsaid(&self, number: u64) -> bool {
        number >= self.base
    }

    /// Whether nothing waits for its acknowledgement.
    pub(crate) fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Whether [`next`](Self::next) would give something.
    pub(crate) fn has_work(&self) -> bool {
        self.acks.front().is_some_and(|ack| ack.outcome.is_some())
    }

    /// The next acknowledgement to write.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        let ack = self.acks.front_mut()?;
        let (reason, reason_string) = ack.outcome.clone()?;
        let properties = AckProperties { reason_string, ..AckProperties::default() };
        let (packet, qos) = (Ack { packet_id: ack.packet_id, reason, properties }, ack.qos);
        match ack.more {
            0 => {
                self.copies -= usize::from(ack.is_copy);
                self.acks.pop_front();
                self.base += 1;
            }
            _ => ack.more -= 1,
        }
        Some(if qos == QoS::ExactlyOnce { Packet::Pubrec(packet) } else { Packet::Puback(packet) })
    }

    /// QoS 1 messages that wait for their acknowledgement.
    fn qos1_waiting(&self) -> usize {
        self.acks.iter().filter(|ack| ack.qos == QoS::AtLeastOnce).count()
    }

    /// Whether the client has more unacknowledged messages than `receive_max`, counting the QoS 2 ones: `received`.
    pub(crate) fn exceeds(&self, receive_max: u16, received: usize) -> bool {
        // Cheap bound first: the exact count walks the queue.
        let bound = self.acks.len() + received;
        bound > usize::from(receive_max) && self.qos1_waiting() + received > usize::from(receive_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(queue: &mut AckQueue) -> Vec<(u16, ReasonCode)> {
        let acks = std::iter::from_fn(|| queue.next());
        acks.map(|ack| match ack {
            Packet::Pubrec(ack) | Packet::Puback(ack) => (ack.packet_id, ack.reason),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn copies_are_acknowledged_in_their_place() {
        let (mut queue, qos) = (AckQueue::default(), QoS::ExactlyOnce);
        let (third, fourth) = (queue.expect(3, qos), queue.expect(4, qos));
        queue.repeat(3, Some(third));
        queue.repeat(3, Some(third));
        queue.repeat(4, Some(fourth));
        queue.repeat(5, None);
        assert!(!queue.complete(fourth, ReasonCode::QuotaExceeded, None));
        assert!(queue.complete(third, ReasonCode::Success, None));
        let (done, refused) = (ReasonCode::Success, ReasonCode::QuotaExceeded);
        assert_eq!(
            said(&mut queue),
            [(3, done), (4, refused), (3, done), (3, done), (4, refused), (5, done)]
        );
        assert_eq!(queue.copies(), 0);
    }

    #[test]
    fn copies_one_after_the_other_take_no_room() {
        let mut queue = AckQueue::default();
        let first = queue.expect(1, QoS::ExactlyOnce);
        (0..10_000).for_each(|_| queue.repeat(1, Some(first)));
        assert_eq!((queue.acks.len(), queue.copies()), (1, 0));
        queue.complete(first, ReasonCode::Success, None);
        assert_eq!(said(&mut queue).len(), 10_001);
    }
}
