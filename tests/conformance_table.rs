//! The tables of the standards' normative statements (`tests/conformance/statements-*.csv`), held against the standards'
//! own lists, this repository and the scripts; and docs/CONFORMANCE.md, which is made from them.
//!
//! `SMQTT_WRITE_CONFORMANCE=1 cargo test -p smqtt --test conformance_table` enters the scripts into the tables and writes the page.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

/// The statements of MQTT 3.1.1, appendix B: section and how many. Two have an odd spelling there: MQTT-3.1.2.7, MQTT-3-8.3-4.
const V3: [(&str, usize, usize); 39] = [
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// The statements of MQTT 5.0, appendix B: section, first and last number. There is no MQTT-2.2.1-1.
const V5: [(&str, usize, usize); 56] = [
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

const VERSIONS: [&str; 2] = ["3.1.1", "5.0"];

const COLUMNS: [&str; 6] = ["id", "statement", "for", "implemented", "shown_by", "note"];

/// What a standard demands once, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    statement: String,
    /// `server`, `client` or `both`.
    binds: String,
    /// Files, or nothing.
    implemented: Vec<String>,
    /// `FILE.rs::FUNCTION`, or `conformance/FILE.mqtt: TEST`.
    shown_by: Vec<String>,
    note: String,
}

impl Row {
    fn binds_a_server(&self) -> bool {
        self.binds != "client"
    }

    fn section(&self) -> &str {
        self.id.trim_start_matches("MQTT-").rsplit_once('-').expect("an id has a number").0
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_to_write() -> bool {
    std::env::var_os("SMQTT_WRITE_CONFORMANCE").is_some()
}

fn table_path(version: &str) -> String {
    format!("tests/conformance/statements-{version}.csv")
}

fn table(version: &str) -> Vec<Row> {
    let text = read(table_path(version));
    let mut lines = text.lines();
    assert_eq!(fields(lines.next().unwrap()), COLUMNS);
    let row = |line| {
        let fields: [String; 6] =
            fields(line).try_into().unwrap_or_else(|_| panic!("not six fields: {line}"));
        let [id, statement, binds, implemented, shown_by, note] = fields;
        let list = |text: &str, separator| {
            text.split(separator).map(str::to_owned).filter(|s| !s.is_empty()).collect()
        };
        Row {
            id,
            statement,
            binds,
            implemented: list(&implemented, " "),
            shown_by: list(&shown_by, "; "),
            note,
        }
    };
    lines.map(row).collect()
}

/// The fields of a line (RFC 4180; none holds the end of a line).
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(char) = chars.next() {
        let field = fields.last_mut().expect("there is one from the beginning");
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    assert!(!quoted, "a quote is not closed: {line}");
    fields
}

fn csv(rows: &[Row]) -> String {
    let field = |text: &str| match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut out = COLUMNS.join(",") + "\n";
    for row in rows {
        let (implemented, shown_by) = (row.implemented.join(" "), row.shown_by.join("; "));
        let all = [&row.id, &row.statement, &row.binds, &implemented, &shown_by, &row.note];
        out += &(all.map(|text| field(text)).join(",") + "\n");
    }
    out
}

/// What the scripts show: for each version and statement the tests, as the table names them.
fn scripts() -> BTreeMap<(String, String), Vec<String>> {
    let mut shown = BTreeMap::<_, Vec<String>>::new();
    let directory = root().join("tests/conformance");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "mqtt")) {
        let file = path.file_name().unwrap().to_str().unwrap();
        let mut test = String::new();
        for line in read(path).lines() {
            if let Some(name) = line.strip_prefix("test ") {
                test = format!("conformance/{file}: {}", name.split(' ').next().unwrap());
            } else if let Some(ids) = line.strip_prefix("  shows ") {
                let (version, ids) = ids.split_once(' ').unwrap_or_else(|| panic!("{file}: {line}"));
                // Sections may be named, too.
                for id in ids.split_whitespace().filter(|id| id.starts_with("MQTT-")) {
                    shown.entry((version.to_owned(), id.to_owned())).or_default().push(test.clone());
                }
            }
        }
    }
    shown
}

/// The table with all scripts that show something of it, behind what else does.
fn with_scripts(version: &str) -> Vec<Row> {
    let scripts = scripts();
    let mut rows = table(version);
    for row in &mut rows {
        row.shown_by.retain(|test| !test.starts_with("conformance/"));
        row.shown_by
            .extend(scripts.get(&(version.to_owned(), row.id.clone())).into_iter().flatten().cloned());
    }
    rows
}

#[test]
fn every_statement_has_its_row() {
    for (version, sections) in VERSIONS.into_iter().zip([&V3[..], &V5[..]]) {
        let ids = sections
            .iter()
            .flat_map(|(section, first, last)| (*first..=*last).map(move |n| format!("MQTT-{section}-{n}")));
        let expected: Vec<String> = ids.collect();
        let there: Vec<String> = table(version).into_iter().map(|row| row.id).collect();
        let missing: Vec<_> = expected.iter().filter(|id| !there.contains(id)).collect();
        let unknown: Vec<_> = there.iter().filter(|id| !expected.contains(id)).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{version}: missing {missing:?}, unknown {unknown:?}"
        );
        assert_eq!(there, expected, "{version}: in the standard's order, once each");
    }
    let count =
        |sections: &[(&str, usize, usize)]| sections.iter().map(|(_, first, last)| last + 1 - first).sum();
    let counts: [usize; 2] = [count(&V3), count(&V5)];
    assert_eq!(counts, [141, 251]);
}

#[test]
fn no_row_is_without_a_test_or_a_reason() {
    for version in VERSIONS {
        for row in table(version) {
            let id = &row.id;
            assert!(["server", "client", "both"].contains(&row.binds.as_str()), "{version} {id}: for whom?");
            assert!(!row.statement.is_empty(), "{version} {id}: no statement");
            assert!(
                !row.implemented.is_empty() || !row.note.is_empty(),
                "{version} {id}: neither a place nor a reason"
            );
            assert!(
                !row.shown_by.is_empty() || !row.note.is_empty(),
                "{version} {id}: neither a test nor a reason"
            );
        }
    }
}

#[test]
fn what_the_tables_name_is_there() {
    for version in VERSIONS {
        for row in table(version) {
            for path in &row.implemented {
                assert!(root().join(path).is_file(), "{version} {}: no file {path}", row.id);
            }
            for test in &row.shown_by {
                if let Some((file, name)) = test.split_once("::") {
                    let text = read(file);
                    assert!(text.contains(&format!("fn {name}(")), "{version} {}: no test {test}", row.id);
                } else {
                    let (file, name) = test.split_once(": ").unwrap_or_else(|| panic!("{}: {test}", row.id));
                    let text = read(Path::new("tests").join(file));
                    let is_there = text.lines().any(|line| {
                        line.strip_prefix("test ").and_then(|rest| rest.split(' ').next()) == Some(name)
                    });
                    assert!(is_there, "{version} {}: no script {test}", row.id);
                }
            }
        }
    }
}

#[test]
fn scripts_and_tables_name_each_other() {
    let known: Vec<(String, String)> = VERSIONS
        .iter()
        .flat_map(|version| table(version).into_iter().map(|row| ((*version).to_owned(), row.id)))
        .collect();
    for ((version, id), tests) in scripts() {
        assert!(known.contains(&(version.clone(), id.clone())), "{tests:?}: {version} has no {id}");
    }
    for version in VERSIONS {
        let (there, expected) = (table(version), with_scripts(version));
        if is_to_write() {
            fs::write(root().join(table_path(version)), csv(&expected)).unwrap();
            continue;
        }
        for (there, expected) in there.iter().zip(&expected) {
            assert_eq!(there.shown_by, expected.shown_by, "{version} {}: {WRITE}", there.id);
        }
        assert_eq!(read(table_path(version)), csv(&there), "{version}: {WRITE}");
    }
}

#[test]
fn the_page_is_that_of_the_tables() {
    let page = page();
    if is_to_write() {
        return fs::write(root().join(PAGE), page).unwrap();
    }
    assert!(read(PAGE) == page, "{PAGE} is of another table: {WRITE}");
}

const PAGE: &str = "docs/CONFORMANCE.md";
const WRITE: &str = "write it anew with SMQTT_WRITE_CONFORMANCE=1, and look at what changed";

const INTRODUCTION: &str = "\
# What the standards demand, and what shows that it is so

Every normative statement of MQTT 3.1.1 and 5.0, by its number in appendix B of each, in our words: where the broker does it, and
which tests show it, or why there is none. [MQTT.md](MQTT.md) says what the broker does where the standards leave a choice.

This page is made from `tests/conformance/statements-*.csv`; a test compares them, and knows how many statements there are. Tests
in `.mqtt` files are scripts in [tests/conformance](../tests/conformance), which also run against mosquitto as a control: what 2.0.11 fails of them, and
why, is in [mosquitto-2.0.11.txt](../tests/conformance/mosquitto-2.0.11.txt). The others are tests in Rust. A statement that binds a client has the file that keeps
it where our client or bridge does.
";

fn page() -> String {
    let tables = VERSIONS.map(|version| (version, with_scripts(version)));
    let mut out = INTRODUCTION.to_owned();
    out += "\n| | statements | bind a server | shown by tests | of these by scripts | by a reason alone | bind clients alone |\n";
    out += "|---|---|---|---|---|---|---|\n";
    for (version, rows) in &tables {
        let server: Vec<&Row> = rows.iter().filter(|row| row.binds_a_server()).collect();
        let shown = server.iter().filter(|row| !row.shown_by.is_empty()).count();
        let scripted = |row: &&&Row| row.shown_by.iter().any(|test| test.starts_with("conformance/"));
        let scripted = server.iter().filter(scripted).count();
        let (all, bound) = (rows.len(), server.len());
        let (reasons, clients) = (bound - shown, all - bound);
        writeln!(out, "| MQTT {version} | {all} | {bound} | {shown} | {scripted} | {reasons} | {clients} |")
            .unwrap();
    }
    out += "\nBy a reason alone:\n\n";
    for (version, rows) in &tables {
        for row in rows.iter().filter(|row| row.binds_a_server() && row.shown_by.is_empty()) {
            writeln!(out, "- {version}, {}. {}: {}", row.id, row.statement, row.note).unwrap();
        }
    }
    for (version, rows) in &tables {
        write!(out, "\n## MQTT {version}\n").unwrap();
        let mut section = "";
        for row in rows {
            if row.section() != section {
                section = row.section();
                write!(out, "\n### {version}, section {}\n\n", section.trim_end_matches(".0")).unwrap();
                out += "| | statement | for | where | shown by | note |\n|---|---|---|---|---|---|\n";
            }
            let id = row.id.trim_start_matches("MQTT-").replace('-', "‑");
            let files: Vec<String> = row.implemented.iter().map(|path| link(path)).collect();
            let tests = tests(&row.shown_by);
            let Row { statement, binds, note, .. } = row;
            let files = files.join(", ");
            writeln!(out, "| {id} | {statement} | {binds} | {files} | {tests} | {note} |").unwrap();
        }
    }
    out
}

/// A file of the repository, by the end of its path that says enough.
fn link(path: &str) -> String {
    let short = path.trim_start_matches("src/").trim_start_matches("broker/").trim_start_matches("tests/");
    format!("[{short}](../{path})")
}

/// Tests by their files, each file named once.
fn tests(shown_by: &[String]) -> String {
    let mut files: Vec<(String, Vec<&str>)> = Vec::new();
    for test in shown_by {
        let (file, name) = match test.split_once("::") {
            Some((file, name)) => (link(file), name),
            None => {
                let (file, name) = test.split_once(": ").unwrap_or((test, ""));
                (format!("[{}](../tests/{file})", file.trim_start_matches("conformance/")), name)
            }
        };
        match files.iter_mut().find(|(there, _)| *there == file) {
            Some((_, names)) => names.push(name),
            None => files.push((file, vec![name])),
        }
    }
    let files: Vec<String> =
        files.into_iter().map(|(file, names)| format!("{file} {}", names.join(", "))).collect();
    files.join("; ")
}
