//! What a run was made on, and of what.

use std::collections::BTreeMap;

use crate::counters::Counters;
use crate::result::Machine;

/// What the workspace was built from.
const LOCK: &str = include_str!("../../Cargo.lock");
/// What is measured, directly or as the yardstick.
const MEASURED: [&str; 8] =
    ["smqtt-core", "blst", "aws-lc-rs", "aws-lc-sys", "rustls", "rumqttd", "rabe", "rabe-bn"];

/// This machine.
pub fn describe(counters: &Counters) -> Machine {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = field(&memory, "MemTotal").and_then(|text| text.strip_suffix("kB")?.trim().parse().ok());
    Machine {
        system: system(),
        architecture: std::env::consts::ARCH.to_owned(),
        processor: field(&cpu, "model name").or_else(|| field(&cpu, "Model")).map(str::to_owned),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_bytes: kilobytes.and_then(|kb: u64| kb.checked_mul(1024)),
        hypervisor: field(&cpu, "flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        cycles: counters.state().to_owned(),
    }
}

/// The clock that the processor says it has now, MHz.
pub fn clock_mhz() -> Option<f64> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    field(&cpu, "cpu MHz")?.parse().ok().filter(|mhz: &f64| mhz.is_finite() && *mhz > 0.0)
}

/// Versions of the program, the compiler and the libraries that are measured.
pub fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([
        ("smqtt".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("rustc".to_owned(), env!("SMQTT_BENCH_RUSTC").trim_start_matches("rustc ").to_owned()),
        ("build".to_owned(), if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
    ]);
    let mut lines = LOCK.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = ").map(unquoted) else { continue };
        if let Some(version) = lines.next().and_then(|line| line.strip_prefix("version = "))
            && MEASURED.contains(&name)
        {
            versions.insert(name.to_owned(), unquoted(version).to_owned());
        }
    }
    versions
}

fn unquoted(text: &str) -> &str {
    text.trim_matches('"')
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).find(|value| !value.is_empty())
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(unquoted);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let parts = [pretty.unwrap_or_default(), std::env::consts::OS, kernel.trim()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock() {
        let versions = versions();
        for name in MEASURED.iter().chain(&["smqtt", "rustc"]) {
            assert!(
                versions.get(*name).is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())),
                "{name}"
            );
        }
        assert_eq!(versions["rabe"], "0.4.2");
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(field("a\t: 1\nmodel name\t: X\n", "model name"), Some("X"));
        assert_eq!(field("model name:\n", "model name"), None);
    }
}
