//! What the system tests share: processes with deadlines, a site of authority and broker, programs that others
//! wrote, a relay that records.
#![allow(dead_code)]

pub mod authority;
pub mod needles;
pub mod open;
pub mod peers;
pub mod process;
pub mod relay;
pub mod site;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing here takes that long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A directory that goes away with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("smqtt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Asks again until `probe` gives something; fails loudly if it never does.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether `needle` is somewhere in `hay`.
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    assert!(!needle.is_empty());
    let (first, rest) = (needle[0], &needle[1..]);
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| *byte == first) {
        from += at + 1;
        if hay[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// Every file below `dir`; no sockets.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The bytes in lines of a word and hexadecimal digits.
pub fn unhex_lines(text: &str) -> Vec<u8> {
    text.lines().filter_map(|line| line.split_once(' ')).flat_map(|(_, hex)| unhex(hex)).collect()
}

/// `a3` as 163.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Says that a test shows less than it could. Past the runner, which keeps what `eprintln!` says in a test that passes to itself.
pub fn skipped(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}
