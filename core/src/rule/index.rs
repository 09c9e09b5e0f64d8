//! The rules of a bundle by topic.

use std::collections::HashMap;

use super::Rule;

/// Finds the rule for a topic in a time that grows with the topic's levels and not with the number of rules: a tree with a
/// node for each level of a filter. For brokers, which ask for every message.
#[derive(Debug, Clone)]
pub struct RuleIndex {
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    plus: Option<usize>,
    /// Of a filter that goes on with `#`.
    hash: Option<usize>,
    /// Of a filter that ends here.
    end: Option<usize>,
}

impl RuleIndex {
    /// The index of these rules. Of two with the same filter the first counts.
    pub fn new(rules: &[Rule]) -> Self {
        let mut index = Self { nodes: vec![Node::default()] };
        for (place, rule) in rules.iter().enumerate() {
            index.insert(rule.filter.as_str(), place);
        }
        index
    }

    fn insert(&mut self, filter: &str, place: usize) {
        let mut at = 0;
        for level in filter.split('/') {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            let child = match level {
                "#" => {
                    node.hash.get_or_insert(place);
                    return;
                }
                "+" => *node.plus.get_or_insert(next),
                name => *node.literals.entry(name.into()).or_insert(next),
            };
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child;
        }
        self.nodes[at].end.get_or_insert(place);
    }

    /// The place of what [`rule_for`](super::rule_for) finds: depth first in the order of
    /// [`Filter::precedence`](crate::topic::Filter::precedence), so that the first that is found is the nearest. No node is
    /// visited twice.
    pub fn find(&self, topic: &str) -> Option<usize> {
        let mut ahead = vec![Step::Node { at: 0, levels: Some(topic) }];
        while let Some(step) = ahead.pop() {
            let (node, levels, first) = match step {
                Step::Found(place) => return Some(place),
                Step::Node { at, levels } => (&self.nodes[at], levels, at == 0),
            };
            let Some(levels) = levels else {
                match node.end.or(node.hash) {
                    None => continue,
                    found => return found,
                }
            };
            let (level, rest) = match levels.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (levels, None),
            };
            // The last one in is the first one out.
            // Wildcards on the first level leave topics with a leading `$` alone.
            if !(first && topic.starts_with('$')) {
                ahead.extend(node.hash.map(Step::Found));
                ahead.extend(node.plus.map(|at| Step::Node { at, levels: rest }));
            }
            ahead.extend(node.literals.get(level).map(|at| Step::Node { at: *at, levels: rest }));
        }
        None
    }
}

/// What is still to be looked at.
enum Step<'t> {
    /// A node, for the levels that are left.
    Node { at: usize, levels: Option<&'t str> },
    /// A rule that matches, if nothing before it did.
    Found(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Mode, rule_for};

    fn rules(filters: &[&str]) -> Vec<Rule> {
        let rule = |filter: &&str| Rule {
            filter: filter.parse().unwrap(),
            mode: Mode::Open,
            policy: None,
            labels: None,
            publishers: None,
            subscribers: None,
        };
        filters.iter().map(rule).collect()
    }

    #[test]
    fn the_tree_finds_what_asking_one_after_the_other_finds() {
        let levels = ["", "a", "b", "+", "$x"];
        let mut filters: Vec<String> = Vec::new();
        for first in levels {
            filters.push(first.to_owned());
            for second in levels {
                filters.push(format!("{first}/{second}"));
                filters.push(format!("{first}/{second}/#"));
                filters.extend(levels.map(|third| format!("{first}/{second}/{third}")));
            }
        }
        filters.extend(["#", "+/#", "a/#"].map(str::to_owned));
        filters.retain(|filter| !filter.is_empty());
        let topics: Vec<&String> = filters.iter().filter(|filter| !filter.contains(['+', '#'])).collect();
        // All of them, and every so-manieth: what is near is not always there.
        for step in 1..12 {
            for from in 0..step {
                let some: Vec<&str> = filters.iter().skip(from).step_by(step).map(String::as_str).collect();
                let rules = rules(&some);
                let index = RuleIndex::new(&rules);
                for topic in &topics {
                    let found = index.find(topic).map(|place| &rules[place].filter);
                    assert_eq!(
                        found,
                        rule_for(&rules, topic).map(|rule| &rule.filter),
                        "{topic} in {some:?}"
                    );
                }
            }
        }
        assert_eq!(RuleIndex::new(&[]).find("a"), None);
    }

    #[test]
    fn of_two_rules_with_one_filter_the_first_counts() {
        assert_eq!(RuleIndex::new(&rules(&["a/+", "a/+", "a/#", "a/#"])).find("a/b"), Some(0));
        assert_eq!(RuleIndex::new(&rules(&["a/#", "a/#"])).find("a"), Some(0));
    }
}
