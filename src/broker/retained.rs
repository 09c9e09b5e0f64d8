//! Retained messages: the newest of each topic, in a tree by level, so that a filter visits only what it can match.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    Timestamp,
    limits::{Limit, Limits},
    message::Message,
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
}

const ROOT: usize = 0;

impl Default for Retained {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), messages: 0, bytes: 0 }
    }
}

impl Retained {
    /// Keeps `message` for its topic, or forgets the topic's message if the payload is empty. Where there is no room for
    /// it, the topic's older message is forgotten all the same, as it is no longer the newest. Gives whether there was
    /// one before, and what there is now.
    pub(crate) fn set(&mut self, message: &Arc<Message>, limits: &Limits) -> (bool, Kind) {
        let before = self.remove(&message.topic);
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
        let mut at = ROOT;
        for level in message.topic.levels() {
            at = match self.nodes[at].children.get(level) {
                Some(child) => *child,
                None => self.add(at, level),
            };
        }
        self.nodes[at].message = Some(message.clone());
        self.messages += 1;
        self.bytes += bytes;
        (before, Kind::Kept)
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

    /// Forgets the message of a topic, and the nodes that it alone needed; whether there was one.
    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let mut at = ROOT;
        for level in topic.split('/') {
            let Some(child) = self.nodes[at].children.get(level) else { return false };
            at = *child;
        }
        let Some(message) = self.nodes[at].message.take() else { return false };
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
        true
    }

    /// The message of a topic.
    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        let mut at = ROOT;
        for level in topic.split('/') {
            at = *self.nodes[at].children.get(level)?;
        }
        self.nodes[at].message.as_ref()
    }

    /// The messages among `count` nodes from `from` on, and where the rest begins.
    pub(crate) fn page(&self, from: usize, count: usize) -> (Vec<Arc<Message>>, Option<usize>) {
        let messages = self.nodes.iter().skip(from).take(count).filter_map(|node| node.message.clone());
        let next = from.saturating_add(count);
        (messages.collect(), (next < self.nodes.len()).then_some(next))
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
