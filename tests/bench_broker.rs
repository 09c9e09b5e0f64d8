//! The broker's part of the evaluation, with as little as goes through every line, and nothing left behind.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::peers::is_there;
use common::process::children;
use common::site::SMQTT;
use smqtt_bench::broker::{Peer, Plan, run};
use smqtt_bench::mqtt::MqttBenchError;
use smqtt_bench::progress::{Progress, Silent};
use smqtt_bench::result::{Part, Question};

/// Directories of the bench that are there now.
fn directories() -> Vec<String> {
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("smqtt-bench-")).collect()
}

/// Wants to end after a few measurements.
struct Impatient(AtomicUsize);

impl Progress for Impatient {
    fn begin(&self, _: &str, _: u64) {}

    fn step(&self, _: &str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn reached(&self, _: &str, _: f64) {}

    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

fn has(part: &Part, measure: &str, series: &str) -> bool {
    part.figures.iter().any(|figure| figure.measure == measure && figure.series == series)
}

// One test, so that each part can see that nothing is left of the other.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_measured_and_nothing_is_left_behind() {
    let before = directories();
    let mosquitto = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().any(is_there);
    let (part, done) = run(Path::new(SMQTT), &Plan::tiny(), Peer::Mosquitto, &Silent).await;
    done.unwrap();
    let wrong: Vec<&String> =
        part.notes.iter().filter(|note| note.contains("not measured: ") || note.contains("lost")).collect();
    if mosquitto {
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    assert!(part.figures.iter().all(|figure| figure.question == Question::Broker));
    for shape in ["1 to 1", "20 to 1", "1 to 20"] {
        for qos in [0, 1] {
            for series in ["smqtt", "rumqttd", "smqtt, direct", "smqtt, router"] {
                for measure in ["deliveries", "CPU of the broker per delivery"] {
                    let measure = format!("{measure}, {shape}, QoS {qos}");
                    assert!(has(&part, &measure, series), "{measure} of {series}");
                    assert!(!mosquitto || has(&part, &measure, "mosquitto"), "{measure} of mosquitto");
                }
            }
        }
    }
    let target = |name: &str| part.targets.iter().any(|target| target.name.contains(name));
    for name in
        ["CPU per delivery against rumqttd", "memory of an idle", "300 filters, not matched", "with the hook"]
    {
        assert!(target(name), "{name}");
    }
    for name in ["against mosquitto, 1 to 20", "p50 latency", "mosquitto that saves"] {
        assert_eq!(target(name), mosquitto, "{name}");
    }
    assert_eq!(directories(), before);
    assert!(children(std::process::id()).is_empty());

    let impatient = Impatient(AtomicUsize::new(0));
    let (part, done) = run(Path::new(SMQTT), &Plan::tiny(), Peer::Mosquitto, &impatient).await;
    assert!(matches!(done, Err(MqttBenchError::Stopped)), "{done:?}");
    assert!(part.targets.is_empty(), "it ended before the first comparison did");
    assert_eq!(directories(), before);
    assert!(children(std::process::id()).is_empty());
}
