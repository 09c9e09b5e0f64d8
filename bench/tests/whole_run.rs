//! A whole run with a plan that goes through every line once.

use std::sync::atomic::{AtomicU64, Ordering};

use smqtt_bench::files;
use smqtt_bench::plan::Plan;
use smqtt_bench::progress::{Progress, Silent};
use smqtt_bench::result::{Figure, Part, Question, Report, Spread, Target};
use smqtt_bench::role::Roles;
use smqtt_bench::run::{Mqtt, Options, run};

fn options<'a>(questions: &[Question], mqtt: Option<&'a mut Mqtt<'a>>) -> Options<'a> {
    Options {
        plan: Plan::TINY,
        questions: questions.to_vec(),
        slow: Some(30.0),
        command: "smqtt bench".to_owned(),
        started: "2026-11-22T10:00:00Z".to_owned(),
        roles: Roles::none(),
        mqtt,
        broker: None,
    }
}

fn has(report: &Report, question: Question, measure: &str, series: &str) -> bool {
    report.of(question).any(|f| f.measure == measure && f.series == series)
}

#[test]
fn a_run_answers_every_question() {
    let mut mqtt = |_: &Plan, _: &dyn Progress| {
        let at = ("payload bytes", 256.0);
        let figure = Figure::new(Question::Mqtt, "latency", "sealed", at, "ms", Spread::exact(1.0));
        let lost = Figure::new(Question::Mqtt, "latency", "lost", at, "ms", Spread::exact(f64::NAN));
        (Part { figures: vec![figure, lost], ..Part::default() }, Ok(()))
    };
    let mut broker = |_: &Plan, _: &dyn Progress| {
        let at = ("payload bytes", 256.0);
        let spread = Spread::exact(1.0);
        let figure = Figure::new(Question::Broker, "deliveries", "smqtt", at, "messages/s", spread);
        (Part { figures: vec![figure], ..Part::default() }, Ok(()))
    };
    let options = Options { broker: Some(&mut broker), ..options(&Question::ALL, Some(&mut mqtt)) };
    let report = run(options, &Silent);
    assert!(!report.interrupted && report.failed.is_empty());
    for scheme in ["fabeo-cp", "fabeo-kp", "bsw", "ac17-cp", "ac17-kp", "lsw", "ghw11", "yct14"] {
        for measure in ["setup", "keygen", "encapsulate", "decapsulate", "params", "key", "encapsulation"] {
            assert!(has(&report, Question::Schemes, measure, scheme), "{measure} of {scheme}");
        }
    }
    for question in Question::ALL {
        assert!(report.of(question).next().is_some(), "{question:?}");
    }
    assert!(!has(&report, Question::Mqtt, "latency", "lost"), "what is no number is left out");
    for figure in &report.figures {
        assert!(figure.spread.is_sound());
        let rabe =
            ["bsw", "ac17", "lsw", "ghw11", "yct14"].iter().any(|name| figure.series.starts_with(name));
        let note = figure.note.as_deref().unwrap_or_default();
        assert_eq!(rabe, note.contains("protects nothing"), "{figure:?}");
        let estimate = figure.question == Question::Device
            && !["this machine", "instructions here"].contains(&figure.series.as_str());
        assert_eq!(estimate, note.starts_with("estimate"), "{figure:?}");
    }
    for name in ["decapsulate at 10", "decapsulate at 50", "encapsulate at 10", "keygen at 10", "(stretch)"] {
        for suite in ["fabeo-cp", "fabeo-kp"] {
            let found = report.targets.iter().any(|t| t.name.starts_with(suite) && t.name.contains(name));
            assert!(found, "{name} of {suite}");
        }
    }
    for suite in ["fabeo-cp / floor of 3", "fabeo-kp / floor of 2"] {
        assert!(has(&report, Question::Schemes, "decapsulate, key decoded each time, in turn", suite));
    }
    for target in &report.targets {
        assert_eq!(target.count.is_some(), target.unit == "ratio", "a ratio says its rounds: {target:?}");
        assert!(target.low.is_none_or(|low| low <= target.measured), "{target:?}");
        assert!(target.high.is_none_or(|high| high >= target.measured), "{target:?}");
    }
    let ac17 = |t: &&Target| t.name.starts_with("open at 10: the faster of ac17-cp and ac17-kp (ac17-");
    assert_eq!(report.targets.iter().filter(ac17).count(), 1);
    for name in
        ["message overhead, compact", "message overhead, signed", "encapsulation at 10", "whole header"]
    {
        let target = report.targets.iter().find(|t| t.name.contains(name)).unwrap();
        assert!(target.met, "sizes do not depend on the machine: {target:?}");
    }
    assert!(report.omitted.iter().any(|what| what.starts_with("peak memory")));

    let directory = tempfile::tempdir().unwrap();
    files::write(directory.path(), &report).unwrap();
    assert_eq!(files::read(directory.path()).unwrap(), report);
}

/// Wants to end after a few measurements.
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn begin(&self, _: &str, _: u64) {}

    fn step(&self, _: &str) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn reached(&self, _: &str, _: f64) {}

    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_run_that_is_ended_early_says_so_and_keeps_what_there_is() {
    let report = run(options(&[Question::Mode, Question::Subscribers], None), &Impatient(AtomicU64::new(3)));
    assert!(report.interrupted);
    assert!(report.of(Question::Mode).next().is_some());
    assert!(report.of(Question::Subscribers).next().is_none());
}

#[test]
fn a_question_that_fails_keeps_what_there_was_and_is_said() {
    let mut mqtt = |_: &Plan, _: &dyn Progress| {
        let figure =
            Figure::new(Question::Mqtt, "latency", "tls", ("payload bytes", 16.0), "ms", Spread::exact(1.0));
        (Part { figures: vec![figure], ..Part::default() }, Err("no broker".into()))
    };
    let report = run(options(&[Question::Mqtt], Some(&mut mqtt)), &Silent);
    assert!(has(&report, Question::Mqtt, "latency", "tls"));
    assert_eq!(report.failed, ["MQTT end to end: no broker"]);
    assert!(!report.interrupted);

    let mut mqtt = |_: &Plan, _: &dyn Progress| panic!("on purpose");
    let report = run(options(&[Question::Mode, Question::Mqtt], Some(&mut mqtt)), &Silent);
    assert!(report.of(Question::Mode).next().is_some());
    assert_eq!(report.failed, ["mqtt: a measurement panicked; please report it"]);
}
