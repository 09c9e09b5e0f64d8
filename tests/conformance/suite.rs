//! All scripts against one broker, many at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::control;
use super::run::{Failure, Target, run};
use super::script::{self, Test};
use super::wire::Version;

/// Conversations at a time. Most of the time they wait.
const AT_A_TIME: usize = 16;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// All tests, by file and place.
pub fn tests() -> Vec<Test> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "mqtt"));
    files.sort();
    let parse = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        script::parse(&name, &std::fs::read_to_string(path).unwrap()).unwrap_or_else(|why| panic!("{why}"))
    };
    files.into_iter().flat_map(parse).collect()
}

/// What became of each test that makes sense there.
pub struct Results {
    target: &'static str,
    passed: Vec<(Test, Version)>,
    failed: Vec<(Test, Version, Failure)>,
}

impl Results {
    pub fn of(target: &Target) -> Self {
        let only = std::env::var("CONFORM").unwrap_or_default();
        let mut all: Vec<(Test, Version)> = Vec::new();
        for test in tests() {
            let apart = test.not.iter().any(|(place, _)| target.places.contains(&place.as_str()));
            if !apart && test.full_name().contains(&only) {
                all.extend(test.runs_as().into_iter().map(|version| (test.clone(), version)));
            }
        }
        // The longest first.
        all.sort_by_key(|(test, _)| !test.waits());
        let begun = Instant::now();
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let this_run = run_name();
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some((test, version)) = all.get(number) else { return };
                        let result = run(test, *version, target, &this_run, number);
                        results.lock().unwrap().push((test.clone(), *version, result));
                    }
                });
            }
        });
        let mut this = Self { target: target.name, passed: Vec::new(), failed: Vec::new() };
        for (test, version, result) in results.into_inner().unwrap() {
            match result {
                Ok(()) => this.passed.push((test, version)),
                Err(failure) => this.failed.push((test, version, failure)),
            }
        }
        this.failed.sort_by_key(|(test, _, _)| (test.file.clone(), test.line));
        let (passed, failed) = (this.passed.len(), this.failed.len());
        println!("{}: {passed} passed, {failed} failed in {:.1?}", target.name, begun.elapsed());
        this
    }

    pub fn all_pass(&self) {
        self.failed.iter().for_each(tell);
        assert!(self.failed.is_empty(), "{}: {} tests fail", self.target, self.failed.len());
    }

    /// Says what was found, and fails for nothing.
    pub fn are_told(&self) {
        self.failed.iter().for_each(tell);
    }

    /// Those of this list fail, and no others.
    pub fn are_those_of(&self, list: &str) {
        let mut listed = control::parse(list).unwrap();
        let mut wrong = 0;
        for failed in &self.failed {
            let (test, version, _) = failed;
            if listed.remove(&key(test, *version)).is_none() {
                tell(failed);
                wrong += 1;
            }
        }
        let passed: BTreeMap<_, _> =
            self.passed.iter().map(|(test, version)| (key(test, *version), ())).collect();
        let filtered = std::env::var("CONFORM").is_ok();
        for (version, name) in listed.keys().filter(|key| passed.contains_key(*key) || !filtered) {
            println!(
                "{version} {name} is listed among those that {} fails, and passes or is gone",
                self.target
            );
            wrong += 1;
        }
        assert_eq!(wrong, 0, "the list of what {} fails is not true", self.target);
    }
}

fn key(test: &Test, version: Version) -> (String, String) {
    (control::version(version).to_owned(), test.full_name())
}

fn tell((test, version, failure): &(Test, Version, Failure)) {
    let Failure { line, step, why, log } = failure;
    println!(
        "\n{} as {}: tests/conformance/{}.mqtt:{line}",
        test.full_name(),
        control::version(*version),
        test.file
    );
    println!("    {}", step.chars().take(300).collect::<String>());
    println!("    {why}");
    log.iter().for_each(|line| println!("        {}", line.chars().take(600).collect::<String>()));
}

/// Six letters and digits that no run before has had.
fn run_name() -> String {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as usize;
    let mut number = (now << 4) + RUNS.fetch_add(1, Ordering::Relaxed);
    let mut name = String::new();
    for _ in 0..6 {
        name.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[number % 32]));
        number /= 32;
    }
    name
}
