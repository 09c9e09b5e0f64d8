//! Messages from one client: acknowledgements in order, QoS 2 identifiers that must not be taken twice.

use std::collections::VecDeque;

use crate::mqtt::{Ack, AckProperties, Packet, QoS, ReasonCode, Text};

/// A QoS 2 message that was taken and is not released yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is not yet where it must be. PUBREC then goes to this connection, with this number.
    UnderWay { connection: u64, number: u64 },
    /// PUBREC may be said, and repeated.
    Settled,
}

/// Acknowledgements of one connection. They go out in the order of the messages (section 4.6), though messages reach
/// their subscribers' queues when the engine gives them back.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    acks: VecDeque<PendingAck>,
    /// Number of the first entry.
    base: u64,
}

#[derive(Debug)]
struct PendingAck {
    packet_id: u16,
    qos: QoS,
    /// Copies of the message that came before it could be acknowledged.
    copies: u32,
    outcome: Option<(ReasonCode, Option<Text>)>,
}

impl AckQueue {
    /// A message came in that needs an acknowledgement; the number is for [`complete`](Self::complete).
    pub(crate) fn expect(&mut self, packet_id: u16, qos: QoS) -> u64 {
        self.acks.push_back(PendingAck { packet_id, qos, copies: 0, outcome: None });
        self.base + self.acks.len() as u64 - 1
    }

    /// The message of that number came again: each copy has an acknowledgement of its own (section 4.3.3).
    pub(crate) fn repeat(&mut self, number: u64) {
        if let Some(ack) = self.ack(number) {
            ack.copies = ack.copies.saturating_add(1);
        }
    }

    fn ack(&mut self, number: u64) -> Option<&mut PendingAck> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.acks.get_mut(index)
    }

    /// The message is where it had to go, or was refused. Whether something can be written now.
    pub(crate) fn complete(&mut self, number: u64, reason: ReasonCode, text: Option<Text>) -> bool {
        if let Some(ack) = self.ack(number) {
            ack.outcome = Some((reason, text));
        }
        self.has_work()
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
        match ack.copies {
            0 => {
                self.acks.pop_front();
                self.base += 1;
            }
            _ => ack.copies -= 1,
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
