//! Topic names and topic filters (section 4.7).

use super::Text;

/// Whether `topic` may be published to: not empty, no wildcard, no U+0000, at most 65,535 bytes.
pub fn topic_is_valid(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= 65_535 && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// Whether `filter` may be subscribed to. `#` only as the whole last level, `+` only as a whole level.
pub fn filter_is_valid(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > 65_535 || filter.bytes().any(|byte| byte == 0) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wildcard = level.bytes().any(|byte| matches!(byte, b'+' | b'#'));
        let fine = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !wildcard,
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Whether a valid `filter` matches a valid `topic`. A leading wildcard does not match a topic that starts with `$`.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (name, Some(other)) if name == other => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// The two parts of `$share/{group}/{filter}` (section 4.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// Name of the group.
    pub group: &'a str,
    /// What the group subscribes to.
    pub filter: &'a str,
}

impl<'a> SharedFilter<'a> {
    /// Takes a filter apart. `None` if it is no shared subscription, an error in the inner option if it is a bad one.
    pub fn parse(filter: &'a str) -> Option<Option<Self>> {
        let rest = filter.strip_prefix("$share/")?;
        let Some((group, filter)) = rest.split_once('/') else { return Some(None) };
        let fine = !group.is_empty() && !group.contains(['+', '#']) && filter_is_valid(filter);
        Some(fine.then_some(Self { group, filter }))
    }
}

impl Text {
    /// Levels between the slashes.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.as_str().split('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_section_4_7_1() {
        for good in ["#", "+", "a/#", "+/a/+", "/", "a//b", "$SYS/#", "a b", "é/+"] {
            assert!(filter_is_valid(good), "{good}");
        }
        for bad in ["", "a#", "a/#/b", "a+", "+a/b", "##", "a/\0"] {
            assert!(!filter_is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/monitor"),
            ("#", "a/b"),
        ] {
            assert!(filter_matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/a", "$SYS/a"),
            ("a/b", "a"),
            ("a", "a/b"),
        ] {
            assert!(!filter_matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn shared_filters_need_group_and_filter() {
        assert_eq!(SharedFilter::parse("a/b"), None);
        assert_eq!(
            SharedFilter::parse("$share/g/a/#"),
            Some(Some(SharedFilter { group: "g", filter: "a/#" }))
        );
        for bad in ["$share/g", "$share//a", "$share/g/", "$share/g+/a", "$share/g/a/#/b"] {
            assert_eq!(SharedFilter::parse(bad), Some(None), "{bad}");
        }
    }
}
