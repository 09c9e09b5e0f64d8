//! The MQTT part of the evaluation, with a handful of messages: all of it works, and leaves nothing behind.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::process::children;
use common::site::SMQTT;
use smqtt_bench::mqtt::{MODES, MqttBenchError, Plan, run};
use smqtt_bench::result::Question;

/// Directories of the bench that are there now.
fn directories() -> Vec<String> {
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("smqtt-bench-")).collect()
}

// One test, so that each half can see that nothing is left of the other.
#[tokio::test]
async fn every_mode_is_measured_and_nothing_is_left_behind() {
    let plan = Plan::smoke();
    let before = directories();
    let mut told = Vec::new();
    let (outcome, done) =
        run(Path::new(SMQTT), &plan, &mut |_: &str, done: f64| told.push(done), &|| false).await;
    done.unwrap();
    assert!(told.is_sorted() && told.last().is_some_and(|done| *done > 0.9), "{told:?}");
    assert!(outcome.figures.iter().all(|figure| figure.question == Question::Mqtt));
    let find = |measure: &str, series: &str, at: usize| {
        let found = outcome
            .figures
            .iter()
            .find(|f| (f.measure.as_str(), f.series.as_str(), f.at) == (measure, series, at as f64));
        found.unwrap_or_else(|| panic!("no `{measure}` of `{series}` at {at}")).spread
    };
    for mode in MODES {
        for cell in &plan.cells {
            let (qos, at) = (cell.qos, cell.payload_bytes);
            assert!(find(&format!("latency, QoS {qos}"), mode.name(), at).min > 0.0);
            for way in ["from publisher to broker", "from broker to subscriber"] {
                let bytes = find(&format!("bytes {way}, QoS {qos}"), mode.name(), at).p50;
                assert!(bytes > at as f64, "{mode:?} {cell:?} {bytes}");
            }
        }
        assert!(find("throughput, QoS 1", mode.name(), 256).min > 0.0);
    }
    let bytes = |series| find("bytes from publisher to broker, QoS 1", series, 256).p50;
    // A pre-shared key costs a nonce and a tag; TLS a record; and a header is the largest thing of all.
    assert_eq!(bytes("psk") - bytes("tls"), 28.0);
    let order = ["plain", "tls", "psk", "sealed", "sealed-signed", "sealed-per-message"].map(bytes);
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(outcome.targets.len(), 1);
    assert!(outcome.headline.is_some());
    assert_eq!(directories(), before);
    assert!(children(std::process::id()).is_empty());

    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) > 6;
    let (kept, stopped) = run(Path::new(SMQTT), &plan, &mut |_: &str, _: f64| {}, &stop).await;
    assert!(matches!(stopped, Err(MqttBenchError::Stopped)), "{stopped:?}");
    assert!(kept.headline.is_some() && kept.targets.len() == 1, "what was measured before stays");
    assert!(kept.figures.len() < outcome.figures.len());
    assert_eq!(directories(), before);
    assert!(children(std::process::id()).is_empty());
}
