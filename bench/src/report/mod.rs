//! A report as people and programs read it: HTML, CSV, and the targets as a table of text.

mod html;
mod number;
mod plot;
mod words;

use crate::result::{Report, Target};

pub use html::html;
pub use number::{amount, rounded, significant};

/// The figures, one a line, RFC 4180.
pub fn csv(report: &Report) -> String {
    let mut out =
        String::from("question,measure,series,along,at,unit,count,min,p10,p50,p90,p99,max,note\r\n");
    for figure in &report.figures {
        let s = &figure.spread;
        let numbers = [s.min, s.p10, s.p50, s.p90, s.p99, s.max].map(|x| x.to_string());
        let mut fields = vec![
            figure.question.name().to_owned(),
            figure.measure.clone(),
            figure.series.clone(),
            figure.along.clone(),
            figure.at.to_string(),
            figure.unit.clone(),
            s.count.to_string(),
        ];
        fields.extend(numbers);
        fields.push(figure.note.clone().unwrap_or_default());
        let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// "target, measured, met or not", aligned; empty without targets.
pub fn target_table(targets: &[Target]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    let rows = targets.iter().map(|target| {
        let count = target.count.map_or(String::new(), |count| count.to_string());
        let measured = amount(target.measured, &target.unit);
        [target.name.clone(), target.target.clone(), measured, count, verdict(target)]
    });
    let head = ["", "target", "measured", "rounds", ""].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (name, target, measured, count) = (width(0), width(1), width(2), width(3));
    let line = |[a, b, c, d, e]: &[String; 5]| {
        format!("{a:<name$}  {b:>target$}  {c:>measured$}  {d:>count$}  {e}").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `met` or `not met`, and what speaks against relying on it.
fn verdict(target: &Target) -> String {
    let met = if target.met { "met" } else { "not met" };
    match (target.doubt(), target.low.zip(target.high)) {
        (None, _) => met.to_owned(),
        (Some(doubt), None) => format!("{met}, {doubt}"),
        (Some(doubt), Some((low, high))) => {
            format!("{met}, {doubt} (95 %: {} to {})", rounded(low, 4), rounded(high, 4))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::result::{FORMAT, Figure, Machine, Question, Spread};
    use crate::schemes::RABE_NOTE;
    use crate::stats::Interval;

    const INTERVAL: Interval = Interval { low: 37.0, median: 39.0, high: 41.0 };

    /// A report with something of everything, awkward text among it.
    pub fn sample() -> Report {
        let mut figures = Vec::new();
        for question in Question::ALL {
            for (series, base) in [("fabeo-cp", 1.0), ("bsw", 40.0), ("a, \"b\" <script>&\n", 7.5)] {
                for at in [1.0, 10.0, 50.0] {
                    let spread = Spread::of(&[base * at, base * at * 1.5, base * at * 1.25]).unwrap();
                    for (measure, unit) in [("decapsulate", "ms"), ("key", "bytes"), ("latency", "ms")] {
                        figures.push(Figure::new(
                            question,
                            measure,
                            series,
                            ("attributes", at),
                            unit,
                            spread,
                        ));
                    }
                }
            }
        }
        figures[0].note = Some("protects nothing, </td> \"not even\" this".to_owned());
        figures[1].note = Some(RABE_NOTE.to_owned());
        Report {
            format: FORMAT.to_owned(),
            started: "2026-11-22T10:00:00Z".to_owned(),
            seconds: 12.5,
            command: "smqtt bench --out '<b>'".to_owned(),
            plan: "tiny".to_owned(),
            interrupted: true,
            machine: Machine { system: "Test & Co".to_owned(), ..Machine::default() },
            versions: [("blst".to_owned(), "0.3".to_owned())].into(),
            failed: vec!["MQTT end to end: <no broker>".to_owned()],
            omitted: vec!["cycles: not told".to_owned()],
            targets: vec![
                Target::at_most("open <10>", 2.2, 1.9, "ratio"),
                Target::at_least("seal", 40.0, 39.0, "ratio").of(4, INTERVAL),
                Target::at_least("header", 38.0, 39.0, "ratio").of(40, INTERVAL),
            ],
            figures,
        }
    }

    #[test]
    fn csv_has_a_line_for_each_figure_and_quotes() {
        let report = sample();
        let csv = csv(&report);
        let mut fields = vec![vec![String::new()]];
        let mut quoted = false;
        for c in csv.chars() {
            let row = fields.last_mut().unwrap();
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(String::new()),
                '\r' if !quoted => {}
                '\n' if !quoted => fields.push(vec![String::new()]),
                c => row.last_mut().unwrap().push(c),
            }
        }
        assert_eq!(fields.pop().unwrap(), [""], "the last line ends");
        assert_eq!(fields.len(), 1 + report.figures.len());
        assert!(fields.iter().all(|row| row.len() == 14));
        assert_eq!(fields[1][1], "decapsulate");
    }

    #[test]
    fn targets_are_aligned() {
        let table = target_table(&sample().targets);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].ends_with("  met"), "{table}");
        assert!(lines[2].ends_with("  4  not met, few rounds (95 %: 37 to 41)"), "{table}");
        assert!(lines[3].ends_with("  40  met, interval crosses the bound (95 %: 37 to 41)"), "{table}");
        assert_eq!(lines[1].find("<= 2.2").unwrap() + 6, lines[2].find(">= 40").unwrap() + 5);
        assert_eq!(target_table(&[]), "");
    }
}
