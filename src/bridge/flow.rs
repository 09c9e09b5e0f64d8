//! The QoS 1 messages of one direction that are under way: taken from one broker, not yet acknowledged by the other.
//!
//! A message is acknowledged to the broker that it comes from only after the broker that it goes to has it, and in the
//! order in which it came. So whatever a killed bridge had in hand comes again. How many there are at once is what the
//! bridge announces as its Receive Maximum: a broker that is not told that a message arrived sends no more.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::RECEIVE_MAX;
use crate::mqtt::{Publish, Text};

/// How often a message is sent again that was refused for a reason that may pass.
const TRIES_MAX: u32 = 8;
/// The pause before the first of these tries; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be sent.
    Waiting,
    /// Sent on the present connection, not acknowledged.
    Sent,
    /// The other broker has it, or it was dropped: to be acknowledged.
    Done,
}

#[derive(Debug)]
struct Entry {
    /// As it came, but for its packet identifier: that is the one where it goes to; 0: none yet.
    message: Publish,
    arrived: Instant,
    /// Its packet identifier where it comes from; `None` if that broker forgot it.
    source: Option<u16>,
    /// It came on an earlier connection, and nothing may be said about it before it came again: its identifier may
    /// be another message's by now.
    expected: bool,
    state: State,
    tries: u32,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Flow {
    entries: VecDeque<Entry>,
    /// The last packet identifier that was given out.
    last_id: u16,
    paused_until: Option<Instant>,
}

impl Flow {
    /// Whether as many messages are under way as may be.
    pub fn is_full(&self) -> bool {
        self.entries.iter().filter(|entry| entry.source.is_some()).count() >= usize::from(RECEIVE_MAX)
    }

    /// Takes a message as it came. One that came before, on an earlier connection, is the same one. `false`: there is
    /// no room for it, and the broker knew that.
    pub fn take(&mut self, message: Publish, now: Instant) -> bool {
        let source = message.packet_id;
        let same = |entry: &&mut Entry| {
            entry.expected
                && entry.source == Some(source)
                && entry.message.topic == message.topic
                && entry.message.payload == message.payload
        };
        if message.dup
            && let Some(entry) = self.entries.iter_mut().find(same)
        {
            entry.expected = false;
            return true;
        }
        if !message.dup || self.is_full() {
            // All that was to come again has.
            self.give_up_expecting();
        }
        if self.is_full() {
            return false;
        }
        let message = Publish { dup: false, packet_id: 0, ..message };
        let (source, state) = (Some(source), State::Waiting);
        self.entries.push_back(Entry { message, arrived: now, source, expected: false, state, tries: 0 });
        true
    }

    fn give_up_expecting(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.expected) {
            (entry.expected, entry.source) = (false, None);
        }
    }

    /// Another connection to where the messages come from: `resumed`, it sends again what was not acknowledged;
    /// otherwise it has forgotten. Gives the number of messages that are dropped, since a broker that forgets again and
    /// again must not fill the memory here.
    pub fn source_connected(&mut self, resumed: bool) -> usize {
        self.entries.iter_mut().for_each(|entry| entry.expected = resumed && entry.source.is_some());
        if !resumed {
            self.entries.iter_mut().for_each(|entry| entry.source = None);
        }
        let mut orphans = self.entries.iter().filter(|entry| entry.source.is_none()).count();
        let before = orphans;
        self.entries.retain(|entry| {
            let drop = entry.source.is_none() && orphans > usize::from(RECEIVE_MAX);
            orphans -= usize::from(drop);
            !drop
        });
        before - orphans
    }

    /// Another connection to where the messages go: what it has not acknowledged is sent again.
    pub fn destination_connected(&mut self) {
        self.paused_until = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Sent) {
            entry.state = State::Waiting;
            entry.message.dup = true;
        }
    }

    /// The next message to send, as it came but with the packet identifier for the other broker and what is left of its
    /// lifetime, if that broker takes `window` at once. It counts as sent.
    pub fn next(&mut self, window: u16, now: Instant) -> Option<Publish> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        let under_way = self.entries.iter().filter(|entry| entry.state == State::Sent).count();
        if under_way >= usize::from(window) {
            return None;
        }
        let at = self.entries.iter().position(|entry| entry.state == State::Waiting)?;
        if self.entries[at].message.packet_id == 0 {
            self.entries[at].message.packet_id = self.free_id();
        }
        let entry = &mut self.entries[at];
        entry.state = State::Sent;
        let mut message = entry.message.clone();
        if let Some(seconds) = &mut message.properties.expiry_secs {
            let waited = now.saturating_duration_since(entry.arrived).as_secs();
            *seconds = seconds.saturating_sub(u32::try_from(waited).unwrap_or(u32::MAX));
        }
        Some(message)
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // There are never as many messages as identifiers.
            if self.entries.iter().all(|entry| entry.message.packet_id != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The other broker has the message, or it goes no further. Whether there was such a message.
    pub fn done(&mut self, id: u16) -> bool {
        self.sent(id).map(|entry| entry.state = State::Done).is_some()
    }

    /// The other broker refused the message for a reason that may pass: it is sent again after a pause. `false`: it
    /// was often enough, or there is none.
    pub fn retry(&mut self, id: u16, now: Instant) -> bool {
        let Some(entry) = self.sent(id).filter(|entry| entry.tries < TRIES_MAX) else { return false };
        let pause = PAUSE.saturating_mul(2u32.saturating_pow(entry.tries)).min(PAUSE_MAX);
        entry.tries += 1;
        entry.state = State::Waiting;
        self.paused_until = Some(now + pause);
        true
    }

    fn sent(&mut self, id: u16) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.message.packet_id == id && entry.state == State::Sent)
    }

    /// The topic of a message that was sent.
    pub fn topic(&mut self, id: u16) -> Text {
        self.sent(id).map_or_else(Text::default, |entry| entry.message.topic.clone())
    }

    /// When a pause ends.
    pub fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// The next acknowledgement that is due where the messages come from: in the order in which they came (MQTT 5.0,
    /// section 4.6).
    pub fn next_ack(&mut self) -> Option<u16> {
        loop {
            let first = self.entries.front().filter(|entry| entry.state == State::Done && !entry.expected)?;
            let source = first.source;
            self.entries.pop_front();
            if source.is_some() {
                return source;
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;

    fn message(packet_id: u16, dup: bool, text: &str) -> Publish {
        let payload = text.as_bytes().to_vec().into();
        Publish { topic: "t".into(), payload, qos: QoS::AtLeastOnce, packet_id, dup, ..Publish::default() }
    }

    fn take(flow: &mut Flow, source: u16, dup: bool) {
        assert!(flow.take(message(source, dup, &source.to_string()), Instant::now()));
    }

    /// What is sent now, as text, with identifiers and whether it is a repetition.
    fn sent(flow: &mut Flow, window: u16) -> Vec<(u16, String, bool)> {
        let text = |m: Publish| (m.packet_id, String::from_utf8(m.payload.to_vec()).unwrap(), m.dup);
        std::iter::from_fn(|| flow.next(window, Instant::now())).map(text).collect()
    }

    fn acks(flow: &mut Flow) -> Vec<u16> {
        std::iter::from_fn(|| flow.next_ack()).collect()
    }

    #[test]
    fn what_the_other_broker_has_is_acknowledged_in_order_and_nothing_else() {
        let mut flow = Flow::default();
        (11..15).for_each(|source| take(&mut flow, source, false));
        let out = sent(&mut flow, 3);
        assert_eq!(out.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [1, 2, 3], "no more than it takes");
        assert!(acks(&mut flow).is_empty());
        assert!(flow.done(2) && !flow.done(2) && !flow.done(9));
        assert!(acks(&mut flow).is_empty(), "the first comes first");
        assert!(flow.done(1));
        assert_eq!(acks(&mut flow), [11, 12]);
        assert_eq!(sent(&mut flow, 3).len(), 1);
    }

    #[test]
    fn a_lost_destination_gets_again_what_it_did_not_acknowledge_in_order() {
        let mut flow = Flow::default();
        (1..4).for_each(|source| take(&mut flow, source, false));
        sent(&mut flow, 9);
        flow.done(2);
        flow.destination_connected();
        take(&mut flow, 4, false);
        let again = sent(&mut flow, 9);
        assert_eq!(again, [(1, "1".into(), true), (3, "3".into(), true), (4, "4".into(), false)]);
    }

    #[test]
    fn what_comes_again_from_a_resumed_session_is_the_same_message() {
        let mut flow = Flow::default();
        (1..4).for_each(|source| take(&mut flow, source, false));
        sent(&mut flow, 9);
        flow.done(1);
        assert_eq!(flow.source_connected(true), 0);
        assert!(acks(&mut flow).is_empty(), "the identifier may be another message's by now");
        (1..4).for_each(|source| take(&mut flow, source, true));
        assert_eq!(acks(&mut flow), [1]);
        assert!(sent(&mut flow, 9).is_empty(), "nothing goes out twice");
        assert!(flow.done(2) && flow.done(3));
        assert_eq!(acks(&mut flow), [2, 3]);
    }

    #[test]
    fn an_identifier_that_stands_for_another_message_is_another_message() {
        let mut flow = Flow::default();
        take(&mut flow, 1, false);
        sent(&mut flow, 9);
        flow.done(1);
        flow.source_connected(true);
        assert!(flow.take(message(1, false, "other"), Instant::now()));
        assert!(acks(&mut flow).is_empty());
        assert_eq!(sent(&mut flow, 9).len(), 1);
        flow.done(2);
        assert_eq!(acks(&mut flow), [1]);
        assert_eq!(flow.len(), 0);
    }

    #[test]
    fn a_source_that_forgets_its_session_does_not_fill_the_memory() {
        let mut flow = Flow::default();
        for round in 0..5 {
            (1..=RECEIVE_MAX).for_each(|source| take(&mut flow, source, false));
            assert!(flow.is_full());
            let dropped = flow.source_connected(false);
            assert_eq!(dropped, if round == 0 { 0 } else { usize::from(RECEIVE_MAX) });
            assert!(!flow.is_full() && flow.len() == usize::from(RECEIVE_MAX));
        }
        let passed_on = sent(&mut flow, u16::MAX);
        assert_eq!(passed_on.len(), usize::from(RECEIVE_MAX), "what was taken is passed on");
        passed_on.iter().for_each(|(id, ..)| assert!(flow.done(*id)));
        assert!(acks(&mut flow).is_empty(), "and nothing is acknowledged that nobody asked about");
        assert_eq!(flow.len(), 0);
    }

    #[test]
    fn there_is_room_for_what_comes_again_and_no_more_than_was_announced() {
        let mut flow = Flow::default();
        (1..=RECEIVE_MAX).for_each(|source| take(&mut flow, source, false));
        assert!(!flow.take(message(RECEIVE_MAX + 1, false, "x"), Instant::now()));
        flow.source_connected(true);
        (1..=RECEIVE_MAX).for_each(|source| take(&mut flow, source, true));
        assert_eq!(flow.len(), usize::from(RECEIVE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_may_pass_is_tried_again_for_a_while_and_not_for_ever() {
        let mut flow = Flow::default();
        take(&mut flow, 1, false);
        let mut tries = 0;
        loop {
            let out = sent(&mut flow, 9);
            assert_eq!(out.len(), 1);
            if !flow.retry(out[0].0, Instant::now()) {
                break;
            }
            tries += 1;
            assert!(sent(&mut flow, 9).is_empty(), "not at once");
            tokio::time::sleep_until(flow.paused_until().unwrap()).await;
        }
        assert_eq!(tries, TRIES_MAX);
        assert!(flow.done(1));
        assert_eq!(acks(&mut flow), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_counts_towards_expiry() {
        let mut flow = Flow::default();
        let mut lasting = message(1, false, "x");
        lasting.properties.expiry_secs = Some(60);
        assert!(flow.take(lasting, Instant::now()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(flow.next(1, Instant::now()).unwrap().properties.expiry_secs, Some(40));
        flow.destination_connected();
        tokio::time::sleep(Duration::from_secs(41)).await;
        assert_eq!(flow.next(1, Instant::now()).unwrap().properties.expiry_secs, Some(0));
    }

    /// A broker that keeps a session: what it sent and was not told about it sends again, in order, with DUP.
    #[derive(Default)]
    struct Source {
        next: u32,
        under_way: Vec<(u16, u32)>,
        to_repeat: Vec<(u16, u32)>,
        acknowledged: Vec<u32>,
    }

    impl Source {
        /// Sends another message, if there is one and it may; whether it did.
        fn send(&mut self, flow: &mut Flow, count: u32) -> bool {
            let (id, number, dup) = if !self.to_repeat.is_empty() {
                let (id, number) = self.to_repeat.remove(0);
                (id, number, true)
            } else if self.next < count && self.under_way.len() < usize::from(RECEIVE_MAX) {
                let free = |id: &u16| self.under_way.iter().all(|(used, _)| used != id);
                let (id, number) = ((1..).find(free).unwrap(), self.next);
                self.next += 1;
                self.under_way.push((id, number));
                (id, number, false)
            } else {
                return false;
            };
            assert!(flow.take(message(id, dup, &number.to_string()), Instant::now()), "there is room");
            true
        }

        fn hear(&mut self, flow: &mut Flow, answered: &[u32]) {
            for id in acks(flow) {
                // In order, and nothing that is not on the other side.
                let (first, number) = self.under_way.remove(0);
                assert_eq!(first, id);
                assert!(answered.contains(&number), "{number} is acknowledged and not there");
                self.to_repeat.retain(|(repeated, _)| *repeated != id);
                self.acknowledged.push(number);
            }
        }
    }

    proptest::proptest! {
        /// Whatever is lost in whatever order, connections and the bridge itself: what is acknowledged is on the other
        /// side, everything gets there in the end, and in order.
        #[test]
        fn nothing_acknowledged_is_lost(steps in proptest::collection::vec(0..8u8, 0..300), window in 1..20u16) {
            const COUNT: u32 = 60;
            let (mut flow, mut source) = (Flow::default(), Source::default());
            let (mut arrived, mut answered, mut under_way) = (Vec::new(), Vec::new(), Vec::new());
            // In the end all goes well for as long as it takes.
            for step in steps.into_iter().chain([5]).chain((0..8 * COUNT).map(|step| (step % 4) as u8)) {
                match step {
                    0 | 1 => drop(source.send(&mut flow, COUNT)),
                    2 => while let Some(sent) = flow.next(window, Instant::now()) {
                        let number: u32 = std::str::from_utf8(&sent.payload).unwrap().parse().unwrap();
                        arrived.push(number);
                        under_way.push((sent.packet_id, number));
                    },
                    3 => for (id, number) in under_way.drain(..) {
                        answered.push(number);
                        assert!(flow.done(id));
                    },
                    // Another connection to where they come from, to where they go, both after the bridge was killed.
                    4 => {
                        flow.source_connected(true);
                        source.to_repeat = source.under_way.clone();
                    }
                    5 => {
                        flow.destination_connected();
                        under_way.clear();
                    }
                    6 => {
                        flow = Flow::default();
                        under_way.clear();
                        source.to_repeat = source.under_way.clone();
                    }
                    // The other broker answers one of them alone.
                    _ => if let Some((id, number)) = under_way.pop() {
                        answered.push(number);
                        assert!(flow.done(id));
                    },
                }
                source.hear(&mut flow, &answered);
                assert!(flow.len() <= 2 * usize::from(RECEIVE_MAX));
            }
            proptest::prop_assert_eq!(source.acknowledged, (0..COUNT).collect::<Vec<_>>());
            let mut seen = std::collections::HashSet::new();
            arrived.retain(|number| seen.insert(*number));
            proptest::prop_assert_eq!(arrived, (0..COUNT).collect::<Vec<_>>());
        }
    }
}
