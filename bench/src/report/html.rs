//! The report as one page: no script, no font, nothing fetched.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::number::{amount, rounded, significant};
use super::plot::{LINES_MAX, Plot, mark};
use super::words::answer;
use crate::mqtt::MODES;
use crate::questions::device::CLASSES;
use crate::result::{Figure, Question, ROUNDS_FEW, Report, Spread, Target};
use crate::schemes::RABE_NOTE;

const STYLE: &str = include_str!("report.css");

/// Text as it may stand between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in XML, and nothing that anybody reads.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut out = String::new();
    let title = format!("SMQTT: what it costs, {}", &report.started.get(..10).unwrap_or(&report.started));
    _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <meta name=\"color-scheme\" content=\"light dark\"/>\
         <title>{}</title><style>{STYLE}</style></head><body><main>",
        escape(&title)
    );
    out += &head(report);
    out += &targets(&report.targets);
    for question in Question::ALL {
        out += &section(report, question);
    }
    out += &why_rabe(report);
    out += &method(report);
    out + "</main></body></html>\n"
}

fn head(report: &Report) -> String {
    let mut out = String::from("<header><h1>SMQTT: what it costs</h1>");
    if report.interrupted {
        out += "<p class=\"warn\"><strong>Interrupted.</strong> The run was ended early; this is what there was.</p>";
    }
    for failed in &report.failed {
        _ = write!(out, "<p class=\"warn\"><strong>Not measured to the end.</strong> {}</p>", escape(failed));
    }
    let machine = &report.machine;
    let memory =
        machine.memory_bytes.map(|bytes| format!("{:.1} GiB of memory", bytes as f64 / (1u64 << 30) as f64));
    let virtual_machine = machine.hypervisor.filter(|v| *v).map(|_| "a virtual machine".to_owned());
    let processor = machine.processor.clone().unwrap_or_else(|| "an unnamed processor".to_owned());
    let count = format!("{} processor{}", machine.processors, if machine.processors == 1 { "" } else { "s" });
    let machine_line =
        [Some(processor), Some(count), memory, virtual_machine, Some(machine.architecture.clone())];
    let machine_line: Vec<String> = machine_line.into_iter().flatten().filter(|s| !s.is_empty()).collect();
    let versions: Vec<String> =
        report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let rows = [
        ("Begun", format!("{}, took {}", report.started, amount(report.seconds * 1e3, "ms"))),
        ("Machine", machine_line.join(", ")),
        ("System", machine.system.clone()),
        ("Versions", versions.join(", ")),
        ("CPU cycles", machine.cycles.clone()),
        ("Plan", report.plan.clone()),
    ];
    out += "<dl>";
    for (name, text) in rows {
        _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&text));
    }
    _ = write!(out, "<dt>Command</dt><dd><code>{}</code></dd></dl>", escape(&report.command));
    if !report.omitted.is_empty() {
        let items = report.omitted.iter().map(|what| format!("<li>{}</li>", escape(what)));
        _ = write!(out, "<p>Left out, or to be read with care:</p><ul>{}</ul>", items.collect::<String>());
    }
    out + "</header>"
}

fn targets(targets: &[Target]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    let met = targets.iter().filter(|target| target.met).count();
    let mut out = format!(
        "<section><h2>Targets</h2><p>{met} of {} met. A ratio is the median of the ratios of interleaved rounds, with the \
         95 % confidence interval of that median. Both sides of it run in turn: in one thread where the floor, rabe or the bare \
         cipher is one of them; for MQTT, in blocks of messages between processes. Bytes are counted, not measured. A verdict from fewer than \
         {ROUNDS_FEW} rounds decides little, and one whose interval crosses the bound may be the other way next time; both are marked.</p>\
         <div class=\"scroll\"><table><thead><tr><th>What</th><th>Met</th><th class=\"n\">Target</th>\
         <th class=\"n\">Measured</th><th class=\"n\">95 %</th><th class=\"n\">Rounds</th></tr></thead><tbody>",
        targets.len()
    );
    for target in targets {
        let (class, word) = if target.met { ("yes", "met") } else { ("no", "not met") };
        let doubt = target.doubt().map_or(String::new(), |doubt| format!("<small>{}</small>", escape(doubt)));
        let interval = target.low.zip(target.high);
        let interval = interval
            .map_or(String::new(), |(low, high)| format!("{} to {}", rounded(low, 4), rounded(high, 4)));
        let count = target.count.map_or(String::new(), |count| count.to_string());
        _ = write!(
            out,
            "<tr><td>{}</td><td class=\"{class}\">{word}{doubt}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{count}</td></tr>",
            escape(&target.name),
            escape(&target.target),
            escape(&amount(target.measured, &target.unit)),
            escape(&interval),
        );
    }
    out + "</tbody></table></div></section>"
}

fn section(report: &Report, question: Question) -> String {
    let Some(text) = answer(report, question) else { return String::new() };
    let figures: Vec<&Figure> = report.of(question).collect();
    let mut out = format!(
        "<section id=\"{}\"><h2>{}</h2><p>{}</p>",
        question.name(),
        escape(question.title()),
        escape(&text)
    );
    out += &plots(question, &figures);
    if question == Question::Schemes {
        out += &overview(&figures);
    }
    if question == Question::Mqtt {
        out += &protections(&figures);
    }
    if question == Question::Mode {
        out += &pivot(&figures, "attributes", |figure| amount(figure.spread.p50, &figure.unit));
    }
    if question == Question::Device {
        out += &pivot(&figures, "attributes", |figure| match figure.note.as_deref() {
            Some(note) if note.starts_with("estimate") && figure.spread.min < figure.spread.max => format!(
                "{} to {}",
                amount(figure.spread.p10, &figure.unit),
                amount(figure.spread.p90, &figure.unit)
            ),
            _ => amount(figure.spread.p50, &figure.unit),
        });
        out += &assumptions();
    }
    out += &table(&figures);
    out + "</section>"
}

/// One plot for each measure that was taken at more than one place; all of a section share a legend.
fn plots(question: Question, figures: &[&Figure]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut drawn: Vec<(&str, &str, &str)> = Vec::new();
    for figure in figures {
        let key = (figure.measure.as_str(), figure.along.as_str(), figure.unit.as_str());
        let places: BTreeSet<u64> = figures
            .iter()
            .filter(|f| (f.measure.as_str(), f.along.as_str(), f.unit.as_str()) == key)
            .map(|f| f.at.to_bits())
            .collect();
        if places.len() > 1 && !drawn.contains(&key) && !is_detail(figure) {
            drawn.push(key);
        }
    }
    let lines_of = |key: &(&str, &str, &str)| {
        let mut lines: Vec<(&str, Vec<&Figure>)> = Vec::new();
        for figure in figures {
            if (figure.measure.as_str(), figure.along.as_str(), figure.unit.as_str()) != *key {
                continue;
            }
            match lines.iter_mut().find(|(name, _)| *name == figure.series) {
                Some((_, line)) => line.push(figure),
                None => lines.push((&figure.series, vec![figure])),
            }
        }
        for (_, line) in &mut lines {
            line.sort_by(|a, b| a.at.total_cmp(&b.at));
        }
        lines.truncate(LINES_MAX);
        lines
    };
    for key in &drawn {
        for (name, _) in lines_of(key) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if drawn.is_empty() {
        return String::new();
    }
    let floors = if question == Question::Schemes { floors(figures) } else { Vec::new() };
    let mut out = String::from("<div class=\"plots\">");
    for key in &drawn {
        let (measure, along, unit) = *key;
        let lines = lines_of(key)
            .into_iter()
            .map(|(name, line)| (names.iter().position(|n| *n == name).unwrap_or_default(), name, line));
        let lines: Vec<_> = lines.collect();
        let farthest = lines.iter().flat_map(|(_, _, line)| line).map(|f| f.at).fold(f64::MIN, f64::max);
        let timed = unit == "ms" && matches!(measure, "keygen" | "encapsulate" | "decapsulate");
        let plot = Plot {
            title: measure.to_owned(),
            along: along.to_owned(),
            unit: unit.to_owned(),
            log_x: farthest >= 200.0,
            floors: if timed { floors.clone() } else { Vec::new() },
            lines,
        };
        _ = write!(
            out,
            "<figure><figcaption>{} <span>{}</span></figcaption>{}</figure>",
            escape(measure),
            escape(unit),
            plot.svg()
        );
    }
    out += "</div><ul class=\"legend\">";
    for (index, name) in names.iter().enumerate() {
        _ = write!(
            out,
            "<li><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><g class=\"s{}\"><path class=\"line\" d=\"M0 6H22\"/>{}</g></svg> {}</li>",
            index % LINES_MAX,
            mark(index, 11.0, 6.0),
            escape(name)
        );
    }
    if !floors.is_empty() {
        out += "<li><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><path class=\"floor\" d=\"M0 6H22\"/></svg> floors: 3 pairings for CP, 2 for KP</li>";
    }
    out + "</ul><p class=\"small\">Marks are medians; bars go from the tenth to the ninetieth percentile.</p>"
}

/// What is in the table and would only crowd the plots.
fn is_detail(figure: &Figure) -> bool {
    figure.measure.ends_with(", in turn")
        || matches!(figure.measure.as_str(), "header bytes" | "floor" | "setup" | "params")
        || figure.measure.ends_with(", labels never seen")
}

/// The higher first.
fn floors(figures: &[&Figure]) -> Vec<(String, f64)> {
    let floor = |(mode, pairings): (&str, f64)| {
        let of = |f: &&&Figure| f.measure == "floor" && f.series == "single loops" && f.at == pairings;
        let floor = figures.iter().find(of)?;
        Some((format!("{mode} floor: {pairings} pairings"), floor.spread.p50))
    };
    [("CP", 3.0), ("KP", 2.0)].into_iter().filter_map(floor).collect()
}

/// Every scheme in one row, at ten attributes or the nearest that was measured.
fn overview(figures: &[&Figure]) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("setup", "ms"),
        ("keygen", "ms"),
        ("encapsulate", "ms"),
        ("decapsulate", "ms"),
        ("params", "bytes"),
        ("key", "bytes"),
        ("encapsulation", "bytes"),
        ("peak memory", "bytes"),
    ];
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        if figure.measure == "decapsulate" && !names.contains(&figure.series.as_str()) {
            names.push(&figure.series);
        }
    }
    let cell = |name: &str, measure: &str, unit: &str| {
        let of = figures.iter().filter(|f| f.series == name && f.measure == measure && f.unit == unit);
        of.min_by(|a, b| (a.at - 10.0).abs().total_cmp(&(b.at - 10.0).abs()))
    };
    if names.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h3>At ten attributes</h3><div class=\"scroll\"><table><thead><tr><th>Scheme</th><th>Protects</th>\
         <th class=\"n\">Attributes</th>",
    );
    for (measure, _) in COLUMNS {
        _ = write!(out, "<th class=\"n\">{measure}</th>");
    }
    out += "</tr></thead><tbody>";
    for name in names {
        let row = cell(name, "decapsulate", "ms");
        let protects = row.is_some_and(|f| f.note.is_none());
        let (class, word) =
            if protects { ("yes", "yes") } else { ("no", "<a href=\"#why-rabe\">nothing</a>") };
        let at = row.map_or(String::new(), |f| significant(f.at));
        _ = write!(
            out,
            "<tr><td>{}</td><td class=\"{class}\">{word}</td><td class=\"n\">{at}</td>",
            escape(name)
        );
        for (measure, unit) in COLUMNS {
            let text = cell(name, measure, unit).map_or("not told".to_owned(), |f| {
                let few = unit == "ms" && f.spread.count < ROUNDS_FEW;
                let count =
                    if few { format!("<small>n = {}</small>", f.spread.count) } else { String::new() };
                escape(&amount(f.spread.p50, unit)) + &count
            });
            _ = write!(out, "<td class=\"n\">{text}</td>");
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

/// What each protection costs, where the line to beat is: a column each.
fn protections(figures: &[&Figure]) -> String {
    const AT: f64 = 256.0;
    type Of = fn(&Spread) -> f64;
    const ROWS: [(&str, &str, Of); 10] = [
        ("latency, p50", "latency, QoS 1", |s| s.p50),
        ("latency, p90", "latency, QoS 1", |s| s.p90),
        ("latency, p99", "latency, QoS 1", |s| s.p99),
        ("throughput", "throughput, QoS 1", |s| s.p50),
        ("CPU of publisher", "CPU of publisher, QoS 1", |s| s.p50),
        ("CPU of broker", "CPU of broker, QoS 1", |s| s.p50),
        ("CPU of subscriber", "CPU of subscriber, QoS 1", |s| s.p50),
        ("to the broker", "bytes from publisher to broker, QoS 1", |s| s.p50),
        ("to the subscriber", "bytes from broker to subscriber, QoS 1", |s| s.p50),
        ("both ways, all", "bytes on both connections, acknowledgements too, QoS 1", |s| s.p50),
    ];
    let cell = |measure: &str, series: &str, of: Of| {
        let here = |f: &&&Figure| f.measure == measure && f.series == series && f.at == AT;
        let figure = figures.iter().find(here);
        figure.map_or(String::new(), |f| escape(&amount(of(&f.spread), &f.unit)))
    };
    if !figures.iter().any(|f| f.at == AT && ROWS.iter().any(|(_, measure, _)| f.measure == *measure)) {
        return String::new();
    }
    let mut out = format!(
        "<h3>At {AT} bytes, QoS 1</h3><div class=\"scroll\"><table><thead><tr><th></th>{}</tr></thead><tbody>",
        MODES.map(|mode| format!("<th class=\"n\">{}</th>", mode.name())).concat()
    );
    for (name, measure, of) in ROWS {
        _ = write!(out, "<tr><td>{name}</td>");
        for mode in MODES {
            _ = write!(out, "<td class=\"n\">{}</td>", cell(measure, mode.name(), of));
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

/// A row for each series and a column for each measure, of what was measured along `along`.
fn pivot(figures: &[&Figure], along: &str, show: impl Fn(&Figure) -> String) -> String {
    let (mut rows, mut columns): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let figures: Vec<&&Figure> = figures.iter().filter(|f| f.along == along && f.unit != "cycles").collect();
    for figure in &figures {
        for (name, list) in [(figure.series.as_str(), &mut rows), (figure.measure.as_str(), &mut columns)] {
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
    let Some(at) = figures.first().map(|f| f.at) else { return String::new() };
    let mut out =
        format!("<div class=\"scroll\"><table><thead><tr><th>At {} {}</th>", significant(at), escape(along));
    for column in &columns {
        _ = write!(out, "<th class=\"n\">{}</th>", escape(column));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        _ = write!(out, "<tr><td>{}</td>", escape(row));
        for column in &columns {
            let figure = figures.iter().find(|f| f.series == row && f.measure == *column && f.at == at);
            _ = write!(out, "<td class=\"n\">{}</td>", figure.map_or(String::new(), |f| escape(&show(f))));
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

fn assumptions() -> String {
    let mut out = String::from(
        "<h3>What the estimates assume</h3><div class=\"scroll\"><table><thead><tr><th>Class</th>\
         <th class=\"n\">Instructions grow by</th><th class=\"n\">Cycles for each</th><th>Why</th></tr></thead><tbody>",
    );
    for class in &CLASSES {
        let range = |(low, high): (f64, f64)| format!("{} to {}", significant(low), significant(high));
        _ = write!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(class.name),
            range(class.growth),
            range(class.cycles),
            escape(class.why)
        );
    }
    out + "</tbody></table></div>"
}

/// Every figure of a question; notes once below, by number.
fn table(figures: &[&Figure]) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let mut rows = String::new();
    for figure in figures {
        let note = figure.note.as_deref().map(|note| {
            let known = notes.iter().position(|n| *n == note);
            1 + known.unwrap_or_else(|| {
                notes.push(note);
                notes.len() - 1
            })
        });
        let Spread { count, min, p10, p50, p90, max, .. } = figure.spread;
        let cells = if count == 1 && min == max { vec![p50] } else { vec![p50, p10, p90, min, max] };
        let cells: Vec<String> = cells.into_iter().map(|value| amount(value, &figure.unit)).collect();
        _ = write!(
            rows,
            "<tr><td>{}</td><td>{}{}</td><td>{} {}</td><td class=\"n\">{count}</td>",
            escape(&figure.measure),
            escape(&figure.series),
            note.map_or(String::new(), |n| format!("<sup>{n}</sup>")),
            significant(figure.at),
            escape(&figure.along),
        );
        for i in 0..5 {
            _ = write!(rows, "<td class=\"n\">{}</td>", cells.get(i).map_or(String::new(), |c| escape(c)));
        }
        rows += "</tr>";
    }
    let mut out = format!(
        "<details><summary>All {} figures</summary><div class=\"scroll\"><table><thead><tr><th>Measure</th>\
         <th>Of</th><th>At</th><th class=\"n\">Count</th><th class=\"n\">Median</th><th class=\"n\">p10</th>\
         <th class=\"n\">p90</th><th class=\"n\">Min</th><th class=\"n\">Max</th></tr></thead><tbody>{rows}</tbody>\
         </table></div></details>",
        figures.len()
    );
    if !notes.is_empty() {
        let items = notes.iter().map(|note| {
            let why = if note.contains(RABE_NOTE) { " (<a href=\"#why-rabe\">why</a>)" } else { "" };
            format!("<li>{}{why}</li>", escape(note))
        });
        _ = write!(out, "<ol class=\"small\">{}</ol>", items.collect::<String>());
    }
    out
}

/// Where the links of rabe's rows lead.
fn why_rabe(report: &Report) -> String {
    let noted = |note: &str| note.contains(RABE_NOTE);
    if !report.figures.iter().any(|figure| figure.note.as_deref().is_some_and(noted)) {
        return String::new();
    }
    "<section id=\"why-rabe\"><h2>Why rabe is not the lock</h2><p>rabe turns an attribute into a point by multiplying the \
     generator with a hash of its name, so that everybody knows the discrete logarithm of every attribute's point, which the \
     proofs of its schemes rule out. A key for any attribute is then enough to open any ciphertext: its rows are a \
     yardstick and protect nothing. SMQTT's README.md says more under \"Why rabe is not the lock\".</p></section>"
        .to_owned()
}

fn method(report: &Report) -> String {
    let mut out = String::from("<section><h2>How it was measured</h2><p class=\"small\">");
    out += "Schemes: one thread, one process. A policy is an <code>and</code> of attributes a1, a2, and so on; our suites add \
            the label of the epoch. Ours decapsulate from bytes: the \
            policy made a formula, every point decoded and every coin checked, with a key that was decoded before, but where it is said to be decoded each time; rabe's \
            keys and ciphertexts are values in memory, and its encapsulation encrypts 256 bytes in the same step. \
            Sizes of rabe's are of a plain binary form of what it serialises, whose points are uncompressed, three \
            coordinates each; ours are compressed. Bytes on the wire are those of TCP's payload, IP and TCP headers not counted. The \
            floor is single Miller loops of blst and one final exponentiation: 3 for fabeo-cp, 2 for fabeo-kp. Peak \
            memory is what key generation, sealing and opening add to the resident set of a process of its own; the \
            system counts it in pages, so small schemes can show none.</p>";
    _ = write!(
        out,
        "<p class=\"small\">The same figures are in <code>results.json</code> and <code>results.csv</code>; \
         <code>smqtt bench compare A B</code> holds two runs against each other. Plan {}.</p></section>",
        escape(&report.plan)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    /// Tags in pairs, attributes quoted, nothing but known entities: what XML asks for.
    fn well_formed(text: &str) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['<', '&']) {
            let tail = &rest[at..];
            if tail.starts_with('&') {
                let end = tail.find(';').ok_or("a bare &")?;
                if !["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].contains(&&tail[..=end]) {
                    return Err(format!("the entity {}", &tail[..=end]));
                }
                rest = &tail[end + 1..];
                continue;
            }
            let end = tail.find('>').ok_or("a tag without an end")?;
            let tag = &tail[1..end];
            rest = &tail[end + 1..];
            if tag.starts_with('!') || tag.ends_with('/') {
                continue;
            }
            if !tag.matches('"').count().is_multiple_of(2) {
                return Err(format!("quotes in <{tag}>"));
            }
            match tag.strip_prefix('/') {
                Some(name) if open.pop() != Some(name) => return Err(format!("</{name}> closes another")),
                Some(_) => {}
                None => open.push(tag.split(' ').next().unwrap_or_default()),
            }
        }
        open.is_empty().then_some(()).ok_or(format!("left open: {open:?}"))
    }

    #[test]
    fn the_page_is_well_formed_and_escapes_everything() {
        let page = html(&sample());
        well_formed(&page).unwrap();
        for raw in ["<script", "'<b>'", "Test & Co", "open <10>", "</td> \"not"] {
            assert!(!page.contains(raw), "{raw}");
        }
        assert!(page.contains("Test &amp; Co") && page.contains("Interrupted"));
        assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
        assert!(page.matches("<figure>").count() >= 2 * Question::ALL.len());
        for fetched in ["http://", "https://", "url(", "@import", "<link"] {
            assert!(!page.contains(fetched), "the page fetches nothing: {fetched}");
        }
        assert!(page.contains("few rounds") && page.contains("interval crosses the bound"));
        assert!(page.contains("href=\"#why-rabe\"") && page.contains("id=\"why-rabe\""));
        assert!(well_formed("<a><b></a></b>").is_err() && well_formed("a & b").is_err());
    }

    #[test]
    fn a_report_without_figures_is_a_page_too() {
        let mut report = sample();
        report.figures.clear();
        report.targets.clear();
        well_formed(&html(&report)).unwrap();
    }

    #[test]
    fn control_characters_do_not_reach_the_page() {
        assert_eq!(escape("a\u{1b}[31m\u{0}\n"), "a\u{fffd}[31m\u{fffd}\n");
    }
}
