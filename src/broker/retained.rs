//! Retained messages: the newest of each topic, in a tree by level, so that a filter visits only what it can match.
//!
//! The newest is the last one that was not refused. Whether the disk takes a message is known later than it is here: until then it
//! is in doubt, and what was there before it is remembered.

use std::sync::{Arc, atomic::Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::{
    Timestamp,
    limits::{Limit, Limits},
    message::Message,
    session::held::{Counted, Total},
    store::Store,
};
use crate::mqtt::Text;

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    children: HashMap<Box<str>, usize>,
    message: Option<Arc<Message>>,
}

/// What there is for a topic after a message was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The message.
    Kept,
    /// Nothing, as it was empty.
    Gone,
    /// Nothing, as this limit left no room.
    NoRoom(Limit),
}

/// The retained messages of all topics.
#[derive(Debug)]
pub(crate) struct Retained {
    /// The first is the root. Removed nodes are in `free`.
    nodes: Vec<Node>,
    free: Vec<usize>,
    messages: usize,
    bytes: usize,
    /// Of topics with messages that may yet be refused.
    doubts: HashMap<Text, Doubt>,
    /// Where messages count that have left here.
    held: Total,
}

/// Messages of a topic of which it is not known yet whether they can be kept.
#[derive(Debug)]
struct Doubt {
    /// What the topic had before them.
    before: Option<Arc<Message>>,
    /// In their order; the last one is what the topic has now.
    messages: Vec<Arc<Message>>,
}

const ROOT: usize = 0;

impl Default for Retained {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            messages: 0,
            bytes: 0,
            doubts: HashMap::new(),
            held: Total::default(),
        }
    }
}

impl Retained {
    /// None yet. Messages that were here and are still in queues count among what sessions hold.
    pub(crate) fn beside(held: &Total) -> Self {
        Self { held: held.clone(), ..Self::default() }
    }

    /// Keeps `message` for its topic, or forgets the topic's message if the payload is empty. Where there is no room for
    /// it, the topic's older message is forgotten all the same, as it is no longer the newest. Gives what there was
    /// before, and what there is now.
    ///
    /// One that is `in_doubt` may be refused later: then call [`forget`](Self::forget), otherwise [`keep`](Self::keep).
    pub(crate) fn set(
        &mut self,
        message: &Arc<Message>,
        limits: &Limits,
        in_doubt: bool,
    ) -> (Option<Arc<Message>>, Kind) {
        let before = self.remove(&message.topic);
        // Whatever becomes of those before a message that stays.
        let doubt = self.doubts.remove(&message.topic);
        if message.payload.is_empty() {
            return (before, Kind::Gone);
        }
        let bytes = message.queue_bytes();
        if self.messages >= limits.retained_messages_max {
            return (before, Kind::NoRoom(Limit::RetainedMessages));
        }
        if self.bytes.saturating_add(bytes) > limits.retained_bytes_max {
            return (before, Kind::NoRoom(Limit::RetainedBytes));
        }
        self.put(message);
        if in_doubt {
            let none = || Doubt { before: before.clone(), messages: Vec::new() };
            let mut doubt = doubt.unwrap_or_else(none);
            doubt.messages.push(message.clone());
            self.doubts.insert(message.topic.clone(), doubt);
        }
        (before, Kind::Kept)
    }

    /// Puts a message where there is none.
    fn put(&mut self, message: &Arc<Message>) {
        let mut at = ROOT;
        for level in message.topic.levels() {
            at = match self.nodes[at].children.get(level) {
                Some(child) => *child,
                None => self.add(at, level),
            };
        }
        self.nodes[at].message = Some(message.clone());
        message.is_newest.store(true, Ordering::Relaxed);
        message.counted.get().into_iter().for_each(Counted::pause);
        self.messages += 1;
        self.bytes += message.queue_bytes();
    }

    /// A message that was in doubt stays.
    pub(crate) fn keep(&mut self, message: &Arc<Message>) {
        let Some(doubt) = self.doubts.get_mut(&message.topic) else { return };
        let Some(at) = doubt.messages.iter().position(|other| Arc::ptr_eq(other, message)) else { return };
        doubt.messages.drain(..=at);
        doubt.before = Some(message.clone());
        if doubt.messages.is_empty() {
            self.doubts.remove(&message.topic);
        }
    }

    /// Forgets one message: the topic has what it would have without it. Whether it was there.
    pub(crate) fn forget(&mut self, message: &Arc<Message>) -> bool {
        let topic = &message.topic;
        let is_it = |other: &Arc<Message>| Arc::ptr_eq(other, message);
        let Some(doubt) = self.doubts.get_mut(topic) else {
            return self.get(topic).is_some_and(is_it) && self.remove(topic).is_some();
        };
        if doubt.before.take_if(|before| is_it(before)).is_some() {
            return true;
        }
        let Some(at) = doubt.messages.iter().position(is_it) else { return false };
        doubt.messages.remove(at);
        let now = doubt.messages.last().or(doubt.before.as_ref()).cloned();
        if doubt.messages.is_empty() {
            self.doubts.remove(topic);
        }
        self.remove(topic);
        now.iter().for_each(|now| self.put(now));
        true
    }

    /// Messages and their bytes.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    fn add(&mut self, parent: usize, level: &str) -> usize {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
        self.nodes[child].parent = parent;
        self.nodes[parent].children.insert(level.into(), child);
        child
    }

    /// Takes out the message of a topic, and the nodes that it alone needed.
    fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let mut at = ROOT;
        for level in topic.split('/') {
            at = *self.nodes[at].children.get(level)?;
        }
        let message = self.nodes[at].message.take()?;
        message.is_newest.store(false, Ordering::Relaxed);
        self.held.count(&message);
        self.messages -= 1;
        self.bytes -= message.queue_bytes();
        for level in topic.rsplit('/') {
            let node = &self.nodes[at];
            if at == ROOT || node.message.is_some() || !node.children.is_empty() {
                break;
            }
            let parent = node.parent;
            self.nodes[at] = Node::default();
            self.free.push(at);
            self.nodes[parent].children.remove(level);
            at = parent;
        }
        Some(message)
    }

    /// The message of a topic.
    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        let mut at = ROOT;
        for level in topic.split('/') {
            at = *self.nodes[at].children.get(level)?;
        }
        self.nodes[at].message.as_ref()
    }

    /// The messages among `count` nodes from `from` on, with those that may come back to their topics, and where the rest
    /// begins.
    pub(crate) fn page(&self, from: usize, count: usize) -> (Vec<Arc<Message>>, Option<usize>) {
        let messages = self.nodes.iter().skip(from).take(count).filter_map(|node| node.message.as_ref());
        let with_others = messages.flat_map(|message| {
            let doubt = self.doubts.get(&message.topic);
            let others = doubt.into_iter().flat_map(|doubt| doubt.before.iter().chain(&doubt.messages));
            others.filter(|other| !Arc::ptr_eq(other, message)).chain([message]).cloned()
        });
        let next = from.saturating_add(count);
        (with_others.collect(), (next < self.nodes.len()).then_some(next))
    }

    /// The messages that a valid filter matches and that have not expired, and how many nodes were looked at.
    pub(crate) fn matching(&self, filter: &str, now: Timestamp) -> (Vec<Arc<Message>>, usize) {
        let levels: Vec<&str> = filter.split('/').collect();
        let mut found = Vec::new();
        let mut take = |node: &Node| {
            let live = |message: &&Arc<Message>| message.expires_at.is_none_or(|at| at > now);
            found.extend(node.message.as_ref().filter(live).cloned());
        };
        let mut looked_at = 0;
        let mut stack = vec![(ROOT, 0)];
        while let Some((at, depth)) = stack.pop() {
            looked_at += 1;
            let node = &self.nodes[at];
            // Wildcards on the first level leave topics with a leading `$` alone (section 4.7.2).
            let allowed = |name: &str| depth > 0 || !name.starts_with('$');
            match levels.get(depth) {
                // Everything below, and the parent level itself. The depth stays on the `#`.
                Some(&"#") => {
                    take(node);
                    let below = node.children.iter().filter(|(name, _)| at != ROOT || allowed(name));
                    stack.extend(below.map(|(_, child)| (*child, depth)));
                }
                Some(&"+") => {
                    let below = node.children.iter().filter(|(name, _)| allowed(name));
                    stack.extend(below.map(|(_, child)| (*child, depth + 1)));
                }
                Some(name) => stack.extend(node.children.get(*name).map(|child| (*child, depth + 1))),
                None => take(node),
            }
        }
        (found, looked_at)
    }

    /// Forgets what has expired, and gives the topics.
    pub(crate) fn sweep(&mut self, now: Timestamp) -> Vec<Text> {
        let expired: Vec<Text> = self
            .nodes
            .iter()
            .filter_map(|node| node.message.as_ref())
            .filter(|message| message.expires_at.is_some_and(|at| at <= now))
            .map(|message| message.topic.clone())
            .collect();
        for topic in &expired {
            self.remove(topic);
        }
        expired
    }
}

/// A retained message whose publisher waits to hear whether it is kept.
pub(crate) struct InDoubt {
    pub(crate) all: Arc<RwLock<Retained>>,
    pub(crate) message: Arc<Message>,
}

impl std::fmt::Debug for InDoubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InDoubt({:?})", self.message)
    }
}

impl InDoubt {
    /// The publisher is told that it is kept, or that it is refused: then it is as if it had never come, here and on disk.
    pub(crate) fn settle(&self, kept: bool, store: &Store) {
        match kept {
            true => self.all.write().keep(&self.message),
            false => {
                forget(&self.all, &self.message, store);
            }
        }
    }
}

/// Forgets a retained message, here and on disk; whether it was there.
pub(crate) fn forget(all: &RwLock<Retained>, message: &Arc<Message>, store: &Store) -> bool {
    // The message goes with its row, not without it.
    let _together = store.together();
    let mut retained = all.write();
    let was_there = retained.forget(message);
    if was_there {
        match retained.get(&message.topic) {
            Some(now) => store.put_retained(now),
            None => store.remove_retained(&message.topic),
        }
    }
    was_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;

    fn message(payload: &'static str) -> Arc<Message> {
        Message::new("a/b".into(), payload.into(), QoS::AtLeastOnce, true).share()
    }

    /// What the topic has, and whether the bookkeeping is that of nothing else.
    fn now(retained: &Retained) -> Option<&str> {
        let message = retained.get("a/b");
        let bytes = message.map_or(0, |message| message.queue_bytes());
        assert_eq!(retained.counts(), (usize::from(message.is_some()), bytes));
        message.map(|message| std::str::from_utf8(&message.payload).unwrap())
    }

    /// Three messages in doubt, which are kept and refused in any order: the topic has the last that was not refused.
    #[test]
    fn the_last_that_was_not_refused_counts() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for (order, refused) in orders.iter().flat_map(|order| (0..8).map(move |refused| (order, refused))) {
            for old in [None, Some("old")] {
                let mut retained = Retained::default();
                let limits = Limits::default();
                old.iter().for_each(|old| drop(retained.set(&message(old), &limits, false)));
                let messages = ["0", "1", "2"].map(message);
                messages.iter().for_each(|message| drop(retained.set(message, &limits, true)));
                assert_eq!(now(&retained), Some("2"));
                assert_eq!(retained.page(0, 10).0.len(), 3 + usize::from(old.is_some()));
                for number in order {
                    match refused >> number & 1 {
                        0 => retained.keep(&messages[*number]),
                        _ => assert!(retained.forget(&messages[*number]) || *order != [0, 1, 2]),
                    }
                }
                let expected = (0..3).rev().find(|number| refused >> number & 1 == 0);
                let expected = expected.map(|number| ["0", "1", "2"][number]).or(old);
                assert_eq!(now(&retained), expected, "{order:?} {refused:03b}");
                assert!(retained.doubts.is_empty());
            }
        }
    }

    #[test]
    fn what_is_back_in_its_place_counts_there_alone() {
        let mut retained = Retained::default();
        let (old, doubtful, last) = (message("old"), message("doubtful"), message("last"));
        retained.set(&old, &Limits::default(), false);
        retained.set(&doubtful, &Limits::default(), true);
        retained.set(&last, &Limits::default(), true);
        assert_eq!(retained.held.bytes(), old.queue_bytes() + doubtful.queue_bytes());
        assert!(retained.forget(&doubtful));
        drop(doubtful);
        assert_eq!((now(&retained), retained.held.bytes()), (Some("last"), old.queue_bytes()));
        assert!(retained.forget(&last));
        drop(last);
        assert_eq!((now(&retained), retained.held.bytes()), (Some("old"), 0));
    }

    #[test]
    fn one_that_stays_ends_all_doubts_before_it() {
        let limits = Limits::default();
        for (last, there) in [("stays", Some("stays")), ("", None)] {
            let mut retained = Retained::default();
            let doubtful = message("doubtful");
            retained.set(&message("old"), &limits, false);
            retained.set(&doubtful, &limits, true);
            retained.set(&message(last), &limits, false);
            assert!(!retained.forget(&doubtful));
            assert_eq!((now(&retained), retained.doubts.len()), (there, 0));
        }
    }

    /// What a rule no longer allows does not come back when another message is refused.
    #[test]
    fn what_was_forgotten_meanwhile_does_not_come_back() {
        let mut retained = Retained::default();
        let (old, doubtful) = (message("old"), message("doubtful"));
        retained.set(&old, &Limits::default(), false);
        retained.set(&doubtful, &Limits::default(), true);
        assert!(retained.forget(&old) && now(&retained) == Some("doubtful"));
        assert!(retained.forget(&doubtful) && now(&retained).is_none());
        assert!(!retained.forget(&doubtful) && !retained.forget(&old));
    }
}
