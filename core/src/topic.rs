//! Topic names and topic filters (MQTT 5.0, section 4.7), and which of two filters is nearer to a topic.

use std::fmt;

/// Most bytes of a topic or filter: the standard's length field.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a string is no topic or no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Nothing there.
    #[error("a topic needs at least one character")]
    Empty,
    /// Over [`TOPIC_BYTES_MAX`].
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// U+0000.
    #[error("a topic cannot hold the null character")]
    Null,
    /// `+` or `#` in the name of a topic.
    #[error("a topic to publish to cannot hold the wildcards `+` and `#`")]
    Wildcard,
    /// `a+` or `a#`, or `#` before the end.
    #[error("a wildcard fills a whole level, and `#` only the last")]
    MisplacedWildcard,
}

/// Checks the name of a topic, as PUBLISH carries it.
///
/// # Errors
/// [`TopicError`], saying what is wrong.
pub fn check_topic(topic: &str) -> Result<(), TopicError> {
    check_text(topic)?;
    if topic.contains(['+', '#']) { Err(TopicError::Wildcard) } else { Ok(()) }
}

fn check_text(text: &str) -> Result<(), TopicError> {
    match text {
        "" => Err(TopicError::Empty),
        _ if text.len() > TOPIC_BYTES_MAX => Err(TopicError::TooLong),
        _ if text.contains('\0') => Err(TopicError::Null),
        _ => Ok(()),
    }
}

/// A valid topic filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(String);

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Filter {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let whole = level == "+" || (level == "#" && levels.peek().is_none());
            if level.contains(['+', '#']) && !whole {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl Filter {
    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many `+` it has: as many values can be taken from a topic.
    pub fn captures(&self) -> usize {
        self.0.split('/').filter(|level| *level == "+").count()
    }

    /// Whether it matches `topic`. Wildcards in the first level do not match topics that begin with `$`.
    pub fn matches(&self, topic: &str) -> bool {
        self.walk(topic, |_| {})
    }

    /// The levels of `topic` that the filter's `+` match, in order; `None` if it does not match.
    pub fn capture<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        let mut captured = Vec::new();
        self.walk(topic, |level| captured.push(level)).then_some(captured)
    }

    /// Whether it matches; `plus` hears of each level that a `+` takes.
    fn walk<'t>(&self, topic: &'t str, mut plus: impl FnMut(&'t str)) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for pattern in self.0.split('/') {
            match (pattern, levels.next()) {
                // `a/#` matches `a` as well: the wildcard stands for the parent level, too.
                ("#", _) => return true,
                ("+", Some(level)) => plus(level),
                (_, Some(level)) if level == pattern => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// The filter with its `+` replaced by what they match in `topic`: the topics for which the same
    /// values are taken. `None` if it does not match.
    pub fn narrowed(&self, topic: &str) -> Option<Self> {
        let mut values = self.capture(topic)?.into_iter();
        let level = |l| if l == "+" { values.next().unwrap_or(l) } else { l };
        Some(Self(self.0.split('/').map(level).collect::<Vec<_>>().join("/")))
    }

    /// Whether every topic that `other` matches is matched by this filter, too.
    pub fn covers(&self, other: &Self) -> bool {
        if other.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut theirs = other.0.split('/');
        for pattern in self.0.split('/') {
            match (pattern, theirs.next()) {
                ("#", _) => return true,
                ("+", Some(level)) if level != "#" => {}
                (_, Some(level)) if level == pattern => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether some topic is matched by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let wild = |filter: &Self| filter.0.starts_with(['+', '#']);
        if (self.0.starts_with('$') && wild(other)) || (other.0.starts_with('$') && wild(self)) {
            return false;
        }
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                // Also where the other has ended: `a/#` matches `a`.
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
                _ => return false,
            }
        }
    }

    /// The order in which rules are asked: at the first level where two filters differ, a literal
    /// comes before `+` and `+` before `#`.
    pub fn precedence(&self) -> Vec<u8> {
        let rank = |level| match level {
            "#" => 2,
            "+" => 1,
            _ => 0,
        };
        self.0.split('/').map(rank).chain([0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap()
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (pattern, topic, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/#", "$SYS/uptime", true),
        ] {
            assert_eq!(filter(pattern).matches(topic), matches, "{pattern} on {topic}");
        }
    }

    #[test]
    fn bad_topics_and_filters_are_refused() {
        for bad in ["", "a/#/b", "a+", "a/b#", "a/+b", "\0"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad:?}");
        }
        for bad in ["", "a/+", "#", "a\0"] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert!(check_topic("/").is_ok());
    }

    #[test]
    fn captures_are_the_plus_levels() {
        let rule = filter("ward/+/bed/+");
        assert_eq!(rule.capture("ward/3 or role=x/bed/7"), Some(vec!["3 or role=x", "7"]));
        assert_eq!(rule.narrowed("ward/3/bed/7"), Some(filter("ward/3/bed/7")));
        assert_eq!(filter("ward/+/#").narrowed("ward/3/a/b"), Some(filter("ward/3/#")));
        assert_eq!(rule.captures(), 2);
    }

    #[test]
    fn covering_follows_the_sets_of_topics() {
        for (wide, narrow, covers) in [
            ("a/#", "a/+/b", true),
            ("a/#", "a", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("#", "$SYS/#", false),
            ("a/b", "a/+", false),
            ("+/b", "+/b", true),
        ] {
            assert_eq!(filter(wide).covers(&filter(narrow)), covers, "{wide} over {narrow}");
        }
    }

    #[test]
    fn overlapping_filters_share_a_topic() {
        for (a, b, overlap) in [
            ("a/#", "a", true),
            ("a/+", "+/b", true),
            ("a/+", "+/b/#", true),
            ("a/+/c", "a/b", false),
            ("a/b", "a/c", false),
            ("#", "x/y", true),
            ("#", "$SYS/#", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/+", "$SYS/uptime", true),
        ] {
            let (a, b) = (filter(a), filter(b));
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (overlap, overlap), "{a} and {b}");
        }
    }

    #[test]
    fn the_nearest_filter_comes_first() {
        let mut filters = ["#", "a/#", "a/+", "a/b", "+/b", "a"].map(filter);
        filters.sort_by_key(Filter::precedence);
        assert_eq!(filters.map(|f| f.0), ["a", "a/b", "a/+", "a/#", "+/b", "#"]);
    }
}
