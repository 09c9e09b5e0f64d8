//! Topic rules that meet: which of two holds, and whether that was meant.

use smqtt_core::rule::{Mode, Rule};

use super::Finding;

/// Pairs that are listed; a thousand rules can make half a million.
const PAIRS_MAX: usize = 50;

/// Looks at every pair of rules that some topic falls under both of.
pub(super) fn look(rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut left_out = 0usize;
    for (index, one) in rules.iter().enumerate() {
        for other in rules[index + 1..].iter().filter(|other| one.filter.overlaps(&other.filter)) {
            let one_holds = one.filter.precedence() < other.filter.precedence();
            let (holds, yields) = if one_holds { (one, other) } else { (other, one) };
            let Some(finding) = pair(holds, yields) else { continue };
            match findings.len() < PAIRS_MAX {
                true => findings.push(finding),
                false => left_out += 1,
            }
        }
    }
    if left_out > 0 {
        let text = format!("{left_out} more pairs are not listed");
        findings.push(Finding::warn("rules", text, "fewer and wider rules are easier to keep right"));
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok("rules", format!("{}, none opens what another closes", count(rules.len()))));
    }
    findings
}

fn count(rules: usize) -> String {
    match rules {
        1 => "1 rule".into(),
        rules => format!("{rules} rules"),
    }
}

/// What is lost where `holds` stands instead of `yields`.
fn pair(holds: &Rule, yields: &Rule) -> Option<Finding> {
    let (near, far) = (&holds.filter, &yields.filter);
    let strict = |rule: &Rule| rule.mode == Mode::Required;
    let lost = if strict(yields) && !strict(holds) {
        format!("need not be sealed (`{}`)", holds.mode.name())
    } else if yields.publishers.is_some() && holds.publishers.is_none() {
        "may be published to by anybody".into()
    } else if yields.subscribers.is_some() && holds.subscribers.is_none() {
        "may be subscribed to by anybody".into()
    } else {
        return None;
    };
    let text = format!("topics of both `{near}` and `{far}` follow `{near}` alone and so {lost}");
    let hint = format!("if that is not meant, say it in the rule `{near}`, too");
    Some(Finding::warn("rules", text, hint))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use smqtt_core::policy::{Policy, Template};

    fn rule(filter: &str, mode: Mode) -> Rule {
        Rule {
            filter: filter.parse().unwrap(),
            mode,
            policy: Some(Template::parse("role=nurse").unwrap()),
            labels: None,
            publishers: None,
            subscribers: None,
        }
    }

    #[test]
    fn a_narrow_rule_that_opens_what_a_wide_one_closes_is_found() {
        let rules =
            [rule("ward/#", Mode::Required), rule("ward/+/door", Mode::Open), rule("car/+", Mode::Open)];
        let found = look(&rules);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].level, Level::Warn);
        assert!(
            found[0].text.contains("follow `ward/+/door` alone and so need not be sealed"),
            "{}",
            found[0].text
        );
        // The other way round nothing is lost, and apart from each other they do not meet.
        let rules =
            [rule("ward/#", Mode::Open), rule("ward/+/door", Mode::Required), rule("car/+", Mode::Warn)];
        assert_eq!(look(&rules)[0].level, Level::Ok);
    }

    #[test]
    fn who_may_publish_or_subscribe_counts_as_well() {
        let only = |who| Some(Policy::parse(who).unwrap());
        let wide = Rule { publishers: only("role=sensor"), ..rule("a/#", Mode::Required) };
        let found = look(&[wide, rule("a/b", Mode::Required)]);
        assert!(found[0].text.contains("may be published to by anybody"), "{}", found[0].text);
        let wide = Rule { subscribers: only("role=nurse"), ..rule("a/#", Mode::Required) };
        let found = look(&[rule("a/b", Mode::Required), wide]);
        assert!(found[0].text.contains("may be subscribed to by anybody"), "{}", found[0].text);
    }

    #[test]
    fn many_pairs_are_counted_and_not_all_listed() {
        let mut rules: Vec<Rule> = (0..60).map(|n| rule(&format!("a/{n}"), Mode::Open)).collect();
        rules.push(rule("#", Mode::Required));
        let found = look(&rules);
        assert_eq!(found.len(), PAIRS_MAX + 1);
        assert_eq!(found[PAIRS_MAX].text, "10 more pairs are not listed");
    }
}
