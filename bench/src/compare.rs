//! Two reports held against each other, figure by figure.

use serde::Serialize;

use crate::result::{Figure, Question, Report, Spread};

/// What two spreads of one thing say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The second is more: p10 of the second is above p90 of the first.
    More,
    /// The second is less.
    Less,
    /// The spreads overlap: nothing can be said.
    Unclear,
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which question.
    pub question: Question,
    /// What was measured.
    pub measure: String,
    /// Of whom.
    pub series: String,
    /// What varies.
    pub along: String,
    /// Where.
    pub at: f64,
    /// Of both medians.
    pub unit: String,
    /// The median of the first.
    pub a: f64,
    /// The median of the second.
    pub b: f64,
    /// `b / a`; `None` where the first is 0.
    pub ratio: Option<f64>,
    /// What can be said.
    pub verdict: Verdict,
}

/// Both reports, side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// In what the machines, versions or plans differ: then ratios say little.
    pub differences: Vec<String>,
    /// What is in both.
    pub rows: Vec<Row>,
    /// How many figures only the first has.
    pub only_a: usize,
    /// How many figures only the second has.
    pub only_b: usize,
}

/// What makes two figures the same figure.
type Key<'a> = (Question, &'a str, &'a str, &'a str, u64, &'a str);

fn key(figure: &Figure) -> Key<'_> {
    let at = if figure.at == 0.0 { 0.0f64.to_bits() } else { figure.at.to_bits() };
    (figure.question, &figure.measure, &figure.series, &figure.along, at, &figure.unit)
}

/// Compares `b` with `a`; of figures that a report has twice, the first counts.
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let mut second = std::collections::HashMap::new();
    for figure in &b.figures {
        second.entry(key(figure)).or_insert(figure);
    }
    let (mut seen, mut rows, mut only_a) = (std::collections::HashSet::new(), Vec::new(), 0);
    for figure in &a.figures {
        if !seen.insert(key(figure)) {
            continue;
        }
        match second.get(&key(figure)) {
            Some(other) => rows.push(row(figure, other)),
            None => only_a += 1,
        }
    }
    let only_b = second.keys().filter(|key| !seen.contains(*key)).count();
    Comparison { differences: differences(a, b), rows, only_a, only_b }
}

fn row(a: &Figure, b: &Figure) -> Row {
    let ratio = b.spread.p50 / a.spread.p50;
    Row {
        question: a.question,
        measure: a.measure.clone(),
        series: a.series.clone(),
        along: a.along.clone(),
        at: a.at,
        unit: a.unit.clone(),
        a: a.spread.p50,
        b: b.spread.p50,
        ratio: ratio.is_finite().then_some(ratio),
        verdict: verdict(&a.spread, &b.spread),
    }
}

fn verdict(a: &Spread, b: &Spread) -> Verdict {
    match () {
        () if b.p10 > a.p90 => Verdict::More,
        () if b.p90 < a.p10 => Verdict::Less,
        () => Verdict::Unclear,
    }
}

fn differences(a: &Report, b: &Report) -> Vec<String> {
    let text = |x: &Option<String>| x.clone().unwrap_or_else(|| "not told".to_owned());
    let pairs = [
        ("processor", text(&a.machine.processor), text(&b.machine.processor)),
        ("processors", a.machine.processors.to_string(), b.machine.processors.to_string()),
        ("system", a.machine.system.clone(), b.machine.system.clone()),
        ("plan", a.plan.clone(), b.plan.clone()),
    ];
    let mut out: Vec<String> = Vec::new();
    let mut differ = |what: &str, a: &str, b: &str| {
        if a != b {
            out.push(format!("{what}: {a} and {b}"));
        }
    };
    pairs.iter().for_each(|(what, a, b)| differ(what, a, b));
    let names: std::collections::BTreeSet<&String> = a.versions.keys().chain(b.versions.keys()).collect();
    for name in names {
        let of = |report: &Report| report.versions.get(name).cloned().unwrap_or_else(|| "none".to_owned());
        differ(name, &of(a), &of(b));
    }
    for (report, which) in [(a, "the first"), (b, "the second")] {
        if report.interrupted {
            out.push(format!("{which} was interrupted"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_report_compared_with_itself_says_nothing() {
        let compared = compare(&sample(), &sample());
        assert_eq!((compared.rows.len(), compared.only_a, compared.only_b), (sample().figures.len(), 0, 0));
        assert!(compared.rows.iter().all(|r| r.ratio == Some(1.0) && r.verdict == Verdict::Unclear));
        assert_eq!(compared.differences, ["the first was interrupted", "the second was interrupted"]);
    }

    #[test]
    fn a_verdict_needs_spreads_apart() {
        let (a, mut b) = (sample(), sample());
        b.figures[0].spread = a.figures[0].spread.scaled(1.2);
        b.figures[1].spread = a.figures[1].spread.scaled(2.0);
        b.figures[2].spread = a.figures[2].spread.scaled(0.5);
        b.figures.pop();
        let compared = compare(&a, &b);
        let verdicts: Vec<Verdict> = compared.rows.iter().take(3).map(|r| r.verdict).collect();
        assert_eq!(verdicts, [Verdict::Unclear, Verdict::More, Verdict::Less]);
        assert_eq!(compared.rows[1].ratio, Some(2.0));
        assert_eq!((compared.only_a, compared.only_b), (1, 0));
    }

    #[test]
    fn other_machines_and_versions_are_said() {
        let (a, mut b) = (sample(), sample());
        b.machine.processor = Some("Z80".to_owned());
        b.versions.insert("rabe".to_owned(), "0.4.2".to_owned());
        let differences = compare(&a, &b).differences;
        assert!(differences.contains(&"processor: not told and Z80".to_owned()));
        assert!(differences.contains(&"rabe: none and 0.4.2".to_owned()));
    }

    #[test]
    fn nothing_over_nothing_has_no_ratio() {
        let (mut a, mut b) = (sample(), sample());
        a.figures[0].spread = Spread::exact(0.0);
        b.figures[0].spread = Spread::exact(0.0);
        let row = &compare(&a, &b).rows[0];
        assert_eq!((row.ratio, row.verdict), (None, Verdict::Unclear));
        b.figures[0].spread = Spread::exact(3.0);
        let row = &compare(&a, &b).rows[0];
        assert_eq!((row.ratio, row.verdict), (None, Verdict::More));
    }
}
