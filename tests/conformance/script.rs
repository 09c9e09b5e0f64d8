//! Scripts as tests: what a file says, before anybody speaks. README.md describes the language.

use super::wire::Version;

/// One test of a file.
#[derive(Debug, Clone)]
pub struct Test {
    /// The subject, as the file is called.
    pub file: String,
    pub name: String,
    pub line: usize,
    /// Statements and sections that it shows.
    pub shows: Vec<(Version, Vec<String>)>,
    /// Where it makes no sense, and why.
    pub not: Vec<(String, String)>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub line: usize,
    /// Only for this version of the test.
    pub version: Option<Version>,
    pub text: String,
}

/// Where a test may not make sense.
const PLACES: [&str; 6] = ["sealed", "tls", "websocket", "data", "foreign", "mosquitto"];

impl Test {
    pub fn runs_as(&self) -> Vec<Version> {
        [Version::V3, Version::V5]
            .into_iter()
            .filter(|version| self.shows.iter().any(|(v, _)| v == version))
            .collect()
    }

    pub fn full_name(&self) -> String {
        format!("{}/{}", self.file, self.name)
    }

    /// Whether real time passes in it, so that it should begin early.
    pub fn waits(&self) -> bool {
        self.steps.iter().any(|step| step.text.starts_with("wait ") || step.text.contains(" after "))
    }
}

/// The tests of a file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Test>, String> {
    let mut tests: Vec<Test> = Vec::new();
    for (number, text) in joined(text) {
        let wrong = |why: &str| format!("{file}.mqtt:{number}: {why}: {text}");
        if let Some(name) = text.strip_prefix("test ") {
            let name = name.split(' ').next().unwrap_or_default().to_owned();
            if tests.iter().any(|test| test.name == name) {
                return Err(wrong("a second test of that name"));
            }
            tests.push(Test {
                file: file.into(),
                name,
                line: number,
                shows: Vec::new(),
                not: Vec::new(),
                steps: Vec::new(),
            });
            continue;
        }
        let Some(text) = text.strip_prefix("  ") else { return Err(wrong("neither a test nor indented")) };
        let test = tests.last_mut().ok_or(wrong("before the first test"))?;
        if let Some(shows) = text.strip_prefix("shows ") {
            let (version, ids) = shows.split_once(' ').ok_or(wrong("no statement"))?;
            let version = match version {
                "5.0" => Version::V5,
                "3.1.1" => Version::V3,
                _ => return Err(wrong("no version")),
            };
            let ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
            if !ids.iter().all(|id| is_statement(id) || is_section(id)) {
                return Err(wrong("neither MQTT-1.2.3-4 nor a section"));
            }
            test.shows.push((version, ids));
        } else if let Some(not) = text.strip_prefix("not ") {
            let (place, why) = not.split_once(": ").ok_or(wrong("no reason"))?;
            if !PLACES.contains(&place) || why.trim().is_empty() {
                return Err(wrong("no such place, or no reason"));
            }
            test.not.push((place.into(), why.into()));
        } else {
            let (version, text) = match text.split_at_checked(4) {
                Some(("[3] ", rest)) => (Some(Version::V3), rest),
                Some(("[5] ", rest)) => (Some(Version::V5), rest),
                _ => (None, text),
            };
            let expanded = expand(text).map_err(|why| wrong(&why))?;
            test.steps.extend(expanded.into_iter().map(|text| Step { line: number, version, text }));
        }
    }
    match tests.iter().find(|test| test.shows.is_empty() || test.steps.is_empty()) {
        Some(test) => Err(format!("{file}.mqtt:{}: {} shows nothing, or does nothing", test.line, test.name)),
        None => Ok(tests),
    }
}

/// Lines without comments, each with its number; what is indented deeper goes on with the line before.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.trim_start().starts_with("# ") || line.trim_start() == "#" {
            continue;
        }
        match lines.last_mut() {
            Some((_, before)) if line.starts_with("    ") => {
                before.push(' ');
                before.push_str(line.trim_start());
            }
            _ => lines.push((at + 1, line.to_owned())),
        }
    }
    lines
}

/// `for n in 1..3: LINE` as three lines, and `a gets for n in 1..3: ITEM` as one line of three items in any order.
fn expand(text: &str) -> Result<Vec<String>, String> {
    let at = text.find(" for ").map(|at| at + 1).filter(|_| !text.starts_with("for ")).or(text.find("for "));
    let Some((at, (name, rest))) = at.and_then(|at| Some((at, text[at + 4..].split_once(" in ")?))) else {
        return Ok(vec![text.to_owned()]);
    };
    let parsed = rest.split_once(": ").and_then(|(range, rest)| {
        let (first, last) = range.split_once("..")?;
        Some((first.parse::<u32>().ok()?, last.parse::<u32>().ok()?, rest))
    });
    let Some((first, last, rest)) = parsed else { return Err("no `for NAME in 1..9: `".into()) };
    let (before, name) = (&text[..at], format!("{{{name}}}"));
    let each: Vec<String> = (first..=last).map(|n| rest.replace(&name, &n.to_string())).collect();
    Ok(if before.is_empty() { each } else { vec![format!("{before}{}", each.join(" & "))] })
}

fn is_statement(id: &str) -> bool {
    let Some((section, number)) = id.strip_prefix("MQTT-").and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    is_section(section) && number.parse::<u32>().is_ok()
}

fn is_section(id: &str) -> bool {
    id.contains('.') && id.split('.').all(|part| part.parse::<u32>().is_ok())
}
