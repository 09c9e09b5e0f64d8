//! What was refused, dropped and warned of: all of it counted, by rule and code; logged at a rate that floods nobody.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::hook::lock;
use super::refused::Refused;
use crate::broker::{Counter, Counters, Metrics, SERIES_MAX};

/// Lines that one rule may log at once, and then one each second; what is left out is counted in the next line.
pub const LINES_BURST_MAX: u64 = 10;
/// Most counters, one for each rule and code. What comes after is counted without its rule: that takes at most
/// `CODES_MAX` more.
pub const DENIALS_MAX: usize = SERIES_MAX - CODES_MAX;
const CODES_MAX: usize = 200;

/// What a rule spoke against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Denied {
    /// A connection that was not let in.
    Connection,
    /// A subscription.
    Subscription,
    /// A message that was not taken from its publisher.
    Message,
    /// A message that passed, and would not if the rule were `required`.
    Warning,
    /// A message that was taken earlier and is not delivered now.
    Delivery,
    /// A retained message that was taken earlier and is removed.
    Retained,
    /// A connection that was cut.
    Session,
}

impl Denied {
    /// One word for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Subscription => "subscription",
            Self::Message => "message",
            Self::Warning => "warning",
            Self::Delivery => "delivery",
            Self::Retained => "retained",
            Self::Session => "session",
        }
    }

    fn line(self) -> &'static str {
        match self {
            Self::Connection => "refused a connection",
            Self::Subscription => "refused a subscription",
            Self::Message => "refused a message",
            Self::Warning => "a message passed that would be refused if the rule were `required`",
            Self::Delivery => "did not deliver a message",
            Self::Retained => "removed a retained message",
            Self::Session => "cut a connection",
        }
    }
}

/// How often something was denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DenialCount {
    /// What.
    pub denied: Denied,
    /// The rule's filter; empty where no rule is concerned.
    pub rule: Arc<str>,
    /// The code, as in the reason that the client was told.
    pub code: &'static str,
    /// How often since the start.
    pub count: u64,
}

/// Counts and logs.
#[derive(Debug)]
pub struct Denials {
    counters: Counters<3>,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    by_rule: HashMap<(Denied, Arc<str>), ByRule>,
    counters: usize,
}

#[derive(Debug, Default)]
struct ByRule {
    codes: Vec<(&'static str, Counter)>,
    /// Lines that may be written, and when that was found out; seconds since 1970.
    credit: u64,
    at: u64,
    suppressed: u64,
}

impl ByRule {
    fn may_log(&mut self, now: u64) -> bool {
        let earned = if self.at == 0 { LINES_BURST_MAX } else { now.saturating_sub(self.at) };
        self.credit = self.credit.saturating_add(earned).min(LINES_BURST_MAX);
        self.at = now;
        let may = self.credit > 0;
        self.credit -= u64::from(may);
        may
    }
}

impl Default for Denials {
    fn default() -> Self {
        Self { counters: Counters::new(["denied", "rule", "code"]), all: Mutex::default() }
    }
}

impl Denials {
    /// Shows the counters.
    pub(super) fn register(&self, metrics: &Metrics) {
        let help = "What was refused, cut, dropped, removed or warned of, by rule and code";
        metrics.register("smqtt_denials", help, &self.counters);
    }

    /// Counts a denial, and logs it if there was not too much of that lately. `whom`: the client.
    pub(super) fn note(&self, denied: Denied, refused: &Refused, whom: &dyn fmt::Display, now: u64) {
        let rule = refused.rule.as_deref().unwrap_or_default();
        let mut guard = lock(&self.all);
        let All { by_rule, counters } = &mut *guard;
        // Where there are too many rules to count apart, they are counted together.
        let full = *counters >= DENIALS_MAX && !by_rule.contains_key(&(denied, Arc::from(rule)));
        let counted = if full { "" } else { rule };
        let entry = by_rule.entry((denied, Arc::from(counted))).or_default();
        match entry.codes.iter().find(|(code, _)| *code == refused.code) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = self.counters.with([denied.name(), counted, refused.code]);
                counter.inc();
                entry.codes.push((refused.code, counter));
                *counters += 1;
            }
        }
        if !entry.may_log(now) {
            entry.suppressed += 1;
            return;
        }
        let suppressed = std::mem::take(&mut entry.suppressed);
        drop(guard);
        let (code, text, line) = (refused.code, &refused.text, denied.line());
        if denied == Denied::Warning {
            tracing::warn!(client = %whom, rule, code, %text, suppressed, "{line}");
        } else {
            tracing::info!(client = %whom, rule, code, %text, suppressed, "{line}");
        }
    }

    /// Says how many lines were left out where nothing came after them.
    pub(super) fn flush(&self, now: u64) {
        let mut lines = Vec::new();
        for ((denied, rule), entry) in &mut lock(&self.all).by_rule {
            if entry.suppressed > 0 && entry.may_log(now) {
                lines.push((*denied, rule.clone(), std::mem::take(&mut entry.suppressed)));
            }
        }
        for (denied, rule, suppressed) in lines {
            tracing::info!(%rule, suppressed, what = denied.name(), "more of the same");
        }
    }

    /// All counts, in order.
    pub fn counts(&self) -> Vec<DenialCount> {
        let all = lock(&self.all);
        let counts = all.by_rule.iter().flat_map(|((denied, rule), entry)| {
            entry.codes.iter().map(|(code, count)| DenialCount {
                denied: *denied,
                rule: rule.clone(),
                code,
                count: count.get(),
            })
        });
        let mut counts: Vec<DenialCount> = counts.collect();
        counts.sort_unstable();
        counts
    }

    /// How often that was denied, by whatever rule.
    pub fn total(&self, denied: Denied) -> u64 {
        let of_kind = |count: &DenialCount| count.denied == denied;
        self.counts().iter().filter(|count| of_kind(count)).map(|count| count.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::ReasonCode;

    fn refused(rule: &str, code: &'static str) -> Refused {
        Refused::new(code, ReasonCode::NotAuthorized, "no").by(rule)
    }

    #[test]
    fn everything_is_counted_by_rule_and_code() {
        let denials = Denials::default();
        for n in 0..100 {
            denials.note(Denied::Message, &refused("a/#", "policy"), &"client", 1000 + n / 50);
        }
        denials.note(Denied::Message, &refused("a/#", "epoch"), &"client", 1000);
        denials.note(Denied::Warning, &refused("a/#", "epoch"), &"client", 1000);
        let counts: Vec<(&str, &str, u64)> =
            denials.counts().into_iter().map(|c| (c.denied.name(), c.code, c.count)).collect();
        assert_eq!(counts, [("message", "epoch", 1), ("message", "policy", 100), ("warning", "epoch", 1)]);
    }

    #[test]
    fn lines_are_left_out_and_counted() {
        let mut entry = ByRule::default();
        let written = (0..1000).filter(|_| entry.may_log(1000)).count();
        assert_eq!(written as u64, LINES_BURST_MAX);
        assert!(entry.may_log(1001) && !entry.may_log(1001));
        // A clock that goes back gives nothing, and takes nothing.
        assert!(!entry.may_log(900) && entry.may_log(901));
    }

    #[test]
    fn counters_are_bounded_however_many_rules_come_and_go() {
        let denials = Denials::default();
        for n in 0..2 * DENIALS_MAX {
            denials.note(Denied::Message, &refused(&format!("rule/{n}"), "policy"), &"client", 1000);
        }
        assert!(denials.counts().len() <= DENIALS_MAX + 1);
        assert_eq!(denials.total(Denied::Message), 2 * DENIALS_MAX as u64);
        let metrics = Metrics::default();
        denials.register(&metrics);
        let shown = metrics.render();
        assert!(shown.lines().count() < SERIES_MAX + 10);
        assert!(shown.contains("smqtt_denials_total{denied=\"message\",rule=\"rule/0\",code=\"policy\"} 1"));
    }
}
