//! `smqtt bench` ended before its time: no process and no directory stays, and what was measured does.

mod common;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use common::process::{Running, children, is_alive, run};
use common::site::smqtt;
use common::{DEADLINE, TempDir, until};
use smqtt_bench::files;
use smqtt_bench::result::{FORMAT, Machine, Report};

/// As much as ends a program from a terminal.
const INTERRUPTED: i32 = 130;

/// A run of what MQTT costs, its temporary files in a place of their own.
struct Bench {
    running: Running,
    home: TempDir,
}

impl Bench {
    fn start() -> Self {
        let home = TempDir::new();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        let mut command = smqtt(home.path());
        command.args(["bench", "--quick", "--only", "mqtt", "--out", "report"]);
        // As from a shell: a group of its own, to which the terminal sends what is typed.
        command.env("TMPDIR", home.path().join("tmp")).process_group(0);
        Self { running: Running::spawn(&mut command), home }
    }

    fn temporary(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.home.path().join("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Authority and broker, once both are there.
    fn processes(&self) -> Vec<u32> {
        until("authority and broker", DEADLINE, || {
            Some(children(self.running.pid())).filter(|pids| pids.len() > 1)
        })
    }

    /// Ctrl-C.
    fn interrupt(&self) {
        let group = format!("-{}", self.running.pid());
        assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    }
}

fn all_end(pids: &[u32]) {
    until("the end of every process", DEADLINE, || (!pids.iter().any(|pid| is_alive(*pid))).then_some(()));
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let bench = Bench::start();
    let processes = bench.processes();
    assert_eq!(bench.temporary().len(), 1);
    bench.interrupt();
    let Bench { running, home } = bench;
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{}", ended.err);
    assert!(ended.err.contains("interrupted") && !ended.err.contains("panicked"), "{}", ended.err);
    all_end(&processes);
    assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_second_interrupt_ends_at_once_and_leaves_nothing_behind() {
    let bench = Bench::start();
    let processes = bench.processes();
    bench.interrupt();
    bench.running.err.line("once more");
    bench.interrupt();
    let Bench { running, home } = bench;
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{}", ended.err);
    all_end(&processes);
    assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_processes_end_with_one_that_is_killed() {
    let mut bench = Bench::start();
    let processes = bench.processes();
    bench.running.kill();
    all_end(&processes);
}

#[test]
fn an_interrupt_keeps_an_earlier_report_where_nothing_was_measured_yet() {
    let home = TempDir::new();
    let report = home.path().join("report");
    let earlier = Report {
        format: FORMAT.to_owned(),
        started: "2026-11-22T10:00:00Z".to_owned(),
        seconds: 1800.0,
        command: "smqtt bench --full".to_owned(),
        plan: "full".to_owned(),
        interrupted: false,
        machine: Machine::default(),
        versions: Default::default(),
        failed: Vec::new(),
        omitted: Vec::new(),
        targets: Vec::new(),
        figures: Vec::new(),
    };
    std::fs::create_dir(&report).unwrap();
    files::write(&report, &earlier).unwrap();
    let json = report.join(files::JSON);
    let before = std::fs::read(&json).unwrap();
    let mut command = smqtt(home.path());
    command.args(["bench", "--quick", "--only", "mqtt", "--out", "report"]).env("TMPDIR", home.path());
    let running = Running::spawn(&mut command);
    until("a process of the bench", DEADLINE, || (!children(running.pid()).is_empty()).then_some(()));
    running.signal("TERM");
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{}", ended.err);
    assert!(ended.err.contains("before anything was measured"), "{}", ended.err);
    assert_eq!(std::fs::read(&json).unwrap(), before);
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_measured() {
    let home = TempDir::new();
    std::fs::write(home.path().join("file"), "mine").unwrap();
    std::fs::create_dir(home.path().join("full")).unwrap();
    std::fs::write(home.path().join("full/letter"), "mine").unwrap();
    let bench = |arguments: &[&str]| {
        let ended = run(smqtt(home.path()).arg("bench").args(arguments), b"");
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(!ended.err.contains("panicked"), "{arguments:?}: {}", ended.err);
        ended.err
    };
    for slow in ["0", "-1", "nan", "inf", "1e300", "ten", ""] {
        assert!(bench(&["--only", "device", &format!("--slow={slow}")]).contains("--slow"), "{slow}");
    }
    for only in ["", "everything", "mode,,device"] {
        assert!(bench(&["--only", only]).contains("--only"), "{only}");
    }
    bench(&["--quick", "--full"]);
    for out in ["file", "full", "file/below"] {
        assert!(bench(&["--quick", "--only", "mode", "--out", out]).contains(out));
    }
    for (path, text) in [("none", None), ("broken", Some("{\"format\": \"smqtt-bench/1\"")), ("full", None)] {
        if let Some(text) = text {
            std::fs::write(home.path().join(path), text).unwrap();
        }
        let error = bench(&["compare", path, path]);
        assert!(error.contains(path) && error.contains("error: "), "{error}");
    }
    assert_eq!(std::fs::read_to_string(home.path().join("full/letter")).unwrap(), "mine");
    assert!(!home.path().join("full/results.json").exists());
}
