//! Who subscribes to a topic.
//!
//! A tree with one node for each level of a filter. Matching a topic follows at each node the level itself and `+`, and
//! no others, so filters that have nothing to do with it cost nothing. Filters that branch at every level are all walked; how
//! many nodes that were is told, and counts against the publisher's turn.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    group::Group,
    session::{Session, Subscribed, outgoing::SubscriptionIds},
};
use crate::mqtt::QoS;

/// Everybody who gets the messages of one topic. Kept by publishers between messages.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// At most one for each session, overlapping subscriptions merged.
    pub(crate) each: Vec<Target>,
    /// Of each of these, one member.
    pub(crate) groups: Vec<Arc<Group>>,
    /// Nodes that were looked at to find them.
    pub(crate) looked_at: usize,
}

impl Targets {
    pub(crate) fn is_empty(&self) -> bool {
        self.each.is_empty() && self.groups.is_empty()
    }

    /// Sessions and groups.
    pub(crate) fn count(&self) -> usize {
        self.each.len() + self.groups.len()
    }

    /// Whether it may have to be kept on disk for somebody.
    pub(crate) fn any_kept(&self) -> bool {
        self.each.iter().any(|target| target.session.is_kept()) || !self.groups.is_empty()
    }
}

/// A session that gets the messages of one topic.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: Arc<Session>,
    /// For messages of others.
    pub(crate) grant: Grant,
    /// For messages that the session published itself; `None` if all its subscriptions say no local.
    pub(crate) own: Option<Grant>,
}

impl Target {
    fn new(entry: &Entry) -> Self {
        let grant = Grant::new(&entry.subscribed);
        let own = (!entry.subscribed.options.no_local).then(|| grant.clone());
        Self { session: entry.session.clone(), grant, own }
    }
}

/// With what a message is delivered.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) qos_max: QoS,
    pub(crate) retain_as_published: bool,
    pub(crate) ids: SubscriptionIds,
}

impl Grant {
    pub(crate) fn new(subscribed: &Subscribed) -> Self {
        Self {
            qos_max: subscribed.options.qos,
            retain_as_published: subscribed.options.retain_as_published,
            ids: subscribed.id.map(|id| Arc::from([id])),
        }
    }

    fn merge(&mut self, other: &Subscribed) {
        self.qos_max = self.qos_max.max(other.options.qos);
        self.retain_as_published |= other.options.retain_as_published;
        if let Some(id) = other.id {
            self.ids = Some(self.ids.iter().flat_map(|ids| ids.iter().copied()).chain([id]).collect());
        }
    }
}

/// A session with its subscription.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) session: Arc<Session>,
    pub(crate) subscribed: Subscribed,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    children: HashMap<Box<str>, usize>,
    /// Child for `+`; 0 for none.
    plus: usize,
    /// Child for `#`; 0 for none.
    hash: usize,
    each: HashMap<u64, Entry>,
    groups: HashMap<Box<str>, Arc<Group>>,
}

impl Node {
    fn is_unused(&self) -> bool {
        self.children.is_empty()
            && self.plus == 0
            && self.hash == 0
            && self.each.is_empty()
            && self.groups.is_empty()
    }

    /// Whether somebody subscribes to just this.
    fn is_filter(&self) -> bool {
        !self.each.is_empty() || !self.groups.is_empty()
    }
}

/// All subscriptions of all sessions.
#[derive(Debug)]
pub(crate) struct Trie {
    /// The first is the root. Removed nodes are in `free`.
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// Nodes that are somebody's filter.
    filters: usize,
    subscriptions: usize,
}

const ROOT: usize = 0;

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), filters: 0, subscriptions: 0 }
    }
}

impl Trie {
    /// Adds or replaces the subscription of a session to a valid filter.
    pub(crate) fn insert(
        &mut self,
        filter: &str,
        group: Option<&str>,
        session: &Arc<Session>,
        subscribed: Subscribed,
    ) {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.add(at, level),
            };
        }
        let node = &mut self.nodes[at];
        self.filters += usize::from(!node.is_filter());
        let entry = Entry { session: session.clone(), subscribed };
        match group {
            None => {
                self.subscriptions += usize::from(node.each.insert(session.key, entry).is_none());
            }
            Some(name) => {
                let new = || Arc::new(Group::new(format!("$share/{name}/{filter}")));
                let group = node.groups.entry(name.into()).or_insert_with(new);
                self.subscriptions += usize::from(group.insert(entry));
            }
        }
    }

    /// Removes the subscription of a session, and the nodes that it alone needed.
    pub(crate) fn remove(&mut self, filter: &str, group: Option<&str>, session_key: u64) {
        let mut at = ROOT;
        for level in filter.split('/') {
            let Some(child) = self.child(at, level) else { return };
            at = child;
        }
        let node = &mut self.nodes[at];
        let was_filter = node.is_filter();
        match group {
            None => {
                self.subscriptions -= usize::from(node.each.remove(&session_key).is_some());
            }
            Some(name) => {
                let Some(group) = node.groups.get_mut(name) else { return };
                self.subscriptions -= usize::from(group.remove(session_key));
                if group.is_empty() {
                    node.groups.remove(name);
                }
            }
        }
        self.filters -= usize::from(was_filter && !node.is_filter());
        let levels: Vec<&str> = filter.split('/').collect();
        for level in levels.into_iter().rev() {
            if at == ROOT || !self.nodes[at].is_unused() {
                return;
            }
            let parent = self.nodes[at].parent;
            self.nodes[at] = Node::default();
            self.free.push(at);
            let node = &mut self.nodes[parent];
            match level {
                "+" => node.plus = 0,
                "#" => node.hash = 0,
                name => {
                    node.children.remove(name);
                }
            }
            at = parent;
        }
    }

    /// Whether a subscription to this filter makes no more than `filters_max` distinct ones.
    pub(crate) fn has_room(&self, filter: &str, filters_max: usize) -> bool {
        let there = || filter.split('/').try_fold(ROOT, |at, level| self.child(at, level));
        self.filters < filters_max || there().is_some_and(|at| self.nodes[at].is_filter())
    }

    /// Distinct filters, and subscriptions to them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.filters, self.subscriptions)
    }

    fn child(&self, at: usize, level: &str) -> Option<usize> {
        let node = &self.nodes[at];
        match level {
            "+" => Some(node.plus).filter(|child| *child != 0),
            "#" => Some(node.hash).filter(|child| *child != 0),
            name => node.children.get(name).copied(),
        }
    }

    fn add(&mut self, parent: usize, level: &str) -> usize {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
        self.nodes[child].parent = parent;
        let node = &mut self.nodes[parent];
        match level {
            "+" => node.plus = child,
            "#" => node.hash = child,
            name => {
                node.children.insert(name.into(), child);
            }
        }
        child
    }

    /// A group of a valid filter.
    pub(crate) fn group(&self, filter: &str, name: &str) -> Option<Arc<Group>> {
        let at = filter.split('/').try_fold(ROOT, |at, level| self.child(at, level))?;
        self.nodes[at].groups.get(name).cloned()
    }

    /// Everybody who subscribes to a valid topic.
    pub(crate) fn matches(&self, topic: &str) -> Targets {
        let system = topic.starts_with('$');
        // Most topics lead straight to one filter, without a need for either list.
        let (mut hit, mut hits) = (None, Vec::new());
        let mut looked_at = 0;
        let (mut next, mut stack) = (Some((ROOT, Some(topic))), Vec::new());
        while let Some((at, rest)) = next {
            looked_at += 1;
            let node = &self.nodes[at];
            // Wildcards on the first level leave topics with a leading `$` alone (section 4.7.2).
            let wildcards = !(system && at == ROOT);
            if node.hash != 0 && wildcards {
                hits.extend(hit.replace(node.hash));
            }
            next = match rest {
                None => {
                    hits.extend(hit.replace(at));
                    None
                }
                Some(rest) => {
                    let (level, below) = match rest.split_once('/') {
                        Some((level, below)) => (level, Some(below)),
                        None => (rest, None),
                    };
                    let child = node.children.get(level).map(|child| (*child, below));
                    let plus = (node.plus != 0 && wildcards).then_some((node.plus, below));
                    if child.is_some() {
                        stack.extend(plus);
                    }
                    child.or(plus)
                }
            };
            next = next.or_else(|| stack.pop());
        }
        let hits = || hits.iter().chain(&hit).map(|hit| &self.nodes[*hit]);
        let groups = hits().flat_map(|node| node.groups.values().cloned()).collect();
        let looked_at = looked_at + hits().count();
        let entries = || hits().flat_map(|node| node.each.values());
        if hits().nth(1).is_none() {
            return Targets { each: entries().map(Target::new).collect(), groups, looked_at };
        }
        let mut found: Vec<&Entry> = entries().collect();
        found.sort_by_key(|entry| entry.session.key);
        let mut each: Vec<Target> = Vec::with_capacity(found.len());
        for entry in found {
            let local = !entry.subscribed.options.no_local;
            match each.last_mut().filter(|last| last.session.key == entry.session.key) {
                Some(last) => {
                    last.grant.merge(&entry.subscribed);
                    match &mut last.own {
                        Some(own) if local => own.merge(&entry.subscribed),
                        None if local => last.own = Some(Grant::new(&entry.subscribed)),
                        _ => {}
                    }
                }
                None => each.push(Target::new(entry)),
            }
        }
        Targets { each, groups, looked_at }
    }

    /// Nodes in use, the root included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{SubscriptionId, filter_matches};

    fn session() -> Arc<Session> {
        Arc::new(Session::new("c".into(), None, &Default::default()))
    }

    fn subscribed(id: u32) -> Subscribed {
        Subscribed { options: Default::default(), id: Some(SubscriptionId(id)) }
    }

    #[test]
    fn the_tree_agrees_with_the_plain_comparison() {
        let filters = [
            "#", "+", "a", "a/#", "a/+", "+/+", "a/b", "a//b", "/", "+/", "/#", "$x/#", "$x/+", "+/b/#",
            "a/+/#",
        ];
        let topics = ["a", "a/b", "a/b/c", "a//b", "/", "//", "$x", "$x/a", "$x/b/c", "b", "x/b"];
        let mut trie = Trie::default();
        let sessions: Vec<_> = filters.iter().map(|_| session()).collect();
        for (filter, session) in filters.iter().zip(&sessions) {
            trie.insert(filter, None, session, subscribed(1));
        }
        for topic in topics {
            let mut found: Vec<u64> =
                trie.matches(topic).each.iter().map(|target| target.session.key).collect();
            found.sort_unstable();
            let matching = filters.iter().zip(&sessions).filter(|(filter, _)| filter_matches(filter, topic));
            let expected: Vec<u64> = matching.map(|(_, session)| session.key).collect();
            assert_eq!(found, expected, "{topic}");
        }
    }

    #[test]
    fn what_is_removed_leaves_no_node_behind() {
        let (mut trie, session) = (Trie::default(), session());
        for round in 0..2 {
            for filter in ["a/b/c", "a/+/#", "a/b", "#"] {
                trie.insert(filter, None, &session, subscribed(1));
                trie.insert(filter, Some("g"), &session, subscribed(1));
                trie.insert(filter, Some("g"), &session, subscribed(2));
            }
            assert_eq!(trie.counts(), (4, 8));
            assert!(trie.has_room("a/b", 4) && !trie.has_room("a/b/d", 4) && !trie.has_room("a/+", 4));
            assert!(trie.has_room("a/b/d", 5));
            for filter in ["a/b", "#", "a/b/c", "a/+/#", "not/there"] {
                trie.remove(filter, Some("g"), session.key);
                trie.remove(filter, None, session.key);
            }
            assert_eq!((trie.len(), trie.counts()), (1, (0, 0)), "round {round}");
        }
        assert!(trie.matches("a/b/c").is_empty());
    }
}
