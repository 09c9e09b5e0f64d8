//! What the control fails, and why: `VERSION FILE/TEST: explanation` in each line.

use std::collections::BTreeMap;

use super::wire::Version;

/// Explanations, by version and name of a test.
pub fn parse(text: &str) -> Result<BTreeMap<(String, String), String>, String> {
    let mut listed = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let parts = line.split_once(' ').and_then(|(version, rest)| Some((version, rest.split_once(": ")?)));
        let Some((version, (name, why))) = parts else {
            return Err(format!("no `VERSION FILE/TEST: why`: {line}"));
        };
        if listed.insert((version.to_owned(), name.to_owned()), why.to_owned()).is_some() {
            return Err(format!("listed twice: {line}"));
        }
    }
    Ok(listed)
}

pub fn version(version: Version) -> &'static str {
    match version {
        Version::V3 => "3.1.1",
        Version::V5 => "5.0",
    }
}
