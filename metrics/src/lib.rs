//! What is counted and measured, and the page that shows it to Prometheus.
//!
//! Each broker and each authority has a registry of its own, [`Metrics`]. Counters, gauges and histograms are made free of
//! it, counted in wherever they are needed, and registered once under a name.
//!
//! ```
//! use smqtt_metrics::{Counter, Metrics};
//!
//! let (metrics, seen) = (Metrics::default(), Counter::default());
//! metrics.register("audit_seen", "Messages that the audit saw", &seen);
//! seen.inc();
//! assert!(metrics.render().contains("audit_seen_total 1"));
//! ```
#![forbid(unsafe_code)]

mod process;

use std::{collections::HashSet, fmt, sync::Arc};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, prometheus_text},
    metrics::{MetricType, counter, gauge, histogram},
    registry::Registry,
};

/// `Content-Type` of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Most label values of one metric; what comes after counts under [`OTHER`].
pub const SERIES_MAX: usize = 1_000;

/// The value of every label beyond [`SERIES_MAX`].
pub const OTHER: &str = "other";

pub use process::register as register_process;

/// The metrics of one broker or authority. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registered>>);

#[derive(Default)]
struct Registered {
    registry: Registry,
    names: HashSet<String>,
}

impl Metrics {
    /// Shows `metric` under `name` from now on. Names are those of Prometheus, with the unit last and without the
    /// `_total` that counters get. A name can be taken once: who comes second is left out, and the log says so.
    pub fn register(&self, name: &str, help: &str, metric: &impl Metric) {
        let mut registered = self.0.lock();
        let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty()
            && !name.ends_with("_total");
        if !valid || !registered.names.insert(name.to_owned()) {
            return tracing::error!(metric = name, "a metric cannot be shown: its name is taken, or is none");
        }
        metric.add_to(&mut registered.registry, name, help.trim_end_matches('.'));
    }

    /// The metrics as text, in version 0.0.4 of Prometheus's format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if prometheus_text::encode(&mut text, &self.0.lock().registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({})", self.0.lock().names.len())
    }
}

/// What can be registered: the types of this module.
pub trait Metric: sealed::Metric {}
impl<M: sealed::Metric> Metric for M {}

mod sealed {
    use prometheus_client::{encoding::MetricEncoder, metrics::MetricType, registry::Registry};

    /// What a family has many of.
    pub trait Single: Clone + Send + Sync + std::fmt::Debug + 'static {
        const TYPE: MetricType;
        fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result;
    }

    pub trait Metric {
        fn add_to(&self, registry: &mut Registry, name: &str, help: &str);
    }
}

/// Counts up. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl sealed::Metric for Counter {
    fn add_to(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }
}

/// Goes up and down. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Gauge(gauge::Gauge);

impl Gauge {
    /// It is this now.
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// One less.
    pub fn dec(&self) {
        self.0.dec();
    }

    /// What it is.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

impl sealed::Metric for Gauge {
    fn add_to(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }
}

/// How often something took how long, or was how large. Clones are one.
#[derive(Debug, Clone)]
pub struct Histogram(histogram::Histogram);

impl Histogram {
    /// One whose buckets end at these values, in rising order.
    pub fn new(bounds: &[f64]) -> Self {
        Self(histogram::Histogram::new(bounds.iter().copied()))
    }

    /// One of seconds, from a tenth of a millisecond to ten seconds.
    pub fn seconds() -> Self {
        Self::new(&[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
    }

    /// It was this.
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }
}

impl sealed::Metric for Histogram {
    fn add_to(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }
}

/// Counters that differ in the values of their labels. Clones are one.
///
/// [`with`](Self::with) looks the counter up; where that is too slow, keep what it gives.
pub type Counters<const LABELS: usize> = Family<Counter, LABELS>;

/// Histograms that differ in the values of their labels. Clones are one.
pub type Histograms<const LABELS: usize> = Family<Histogram, LABELS>;

/// Metrics of one kind that differ in the values of their labels. Clones are one.
#[derive(Clone)]
pub struct Family<M, const LABELS: usize> {
    labels: [&'static str; LABELS],
    make: Arc<dyn Fn() -> M + Send + Sync>,
    series: Arc<RwLock<HashMap<[String; LABELS], M>>>,
}

impl<const LABELS: usize> Counters<LABELS> {
    /// Counters with these labels, none of them yet.
    pub fn new(labels: [&'static str; LABELS]) -> Self {
        Self { labels, make: Arc::new(Counter::default), series: Arc::default() }
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.series.read().values().map(Counter::get).sum()
    }
}

impl<const LABELS: usize> Histograms<LABELS> {
    /// Histograms with these labels, none of them yet, whose buckets end at `bounds`, in rising order.
    pub fn with_bounds(labels: [&'static str; LABELS], bounds: &'static [f64]) -> Self {
        Self { labels, make: Arc::new(|| Histogram::new(bounds)), series: Arc::default() }
    }
}

impl<M: Clone, const LABELS: usize> Family<M, LABELS> {
    /// The one with these values of the labels. Beyond [`SERIES_MAX`] it is the one of [`OTHER`].
    pub fn with(&self, values: [&str; LABELS]) -> M {
        let mut key = values.map(str::to_owned);
        if let Some(metric) = self.series.read().get(&key) {
            return metric.clone();
        }
        let mut series = self.series.write();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            key = [OTHER; LABELS].map(str::to_owned);
        }
        series.entry(key).or_insert_with(|| (self.make)()).clone()
    }
}

impl<M, const LABELS: usize> fmt::Debug for Family<M, LABELS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl<M: sealed::Single, const LABELS: usize> sealed::Metric for Family<M, LABELS> {
    fn add_to(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

impl<M: sealed::Single, const LABELS: usize> EncodeMetric for Family<M, LABELS> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let series = self.series.read();
        let mut sorted: Vec<_> = series.iter().collect();
        sorted.sort_unstable_by_key(|(values, _)| *values);
        for (values, metric) in sorted {
            let labels: Vec<(&str, &str)> =
                self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

impl sealed::Single for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

impl sealed::Single for Histogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

/// Gauges that are read when somebody looks: a closure that gives values with labels' values.
#[derive(Clone)]
pub struct Readings<const LABELS: usize> {
    labels: [&'static str; LABELS],
    read: Arc<Read<LABELS>>,
    rises: bool,
}

type Read<const LABELS: usize> = dyn Fn(&mut dyn FnMut([&str; LABELS], f64)) + Send + Sync;

/// A gauge without labels that is read when somebody looks.
pub fn reading(read: impl Fn() -> f64 + Send + Sync + 'static) -> Readings<0> {
    Readings::new([], move |give| give([], read()))
}

impl<const LABELS: usize> Readings<LABELS> {
    /// Gauges with these labels. `read` gives each to the function that it gets.
    pub fn new(
        labels: [&'static str; LABELS],
        read: impl Fn(&mut dyn FnMut([&str; LABELS], f64)) + Send + Sync + 'static,
    ) -> Self {
        Self { labels, read: Arc::new(read), rises: false }
    }

    /// They only rise: counters.
    pub fn rising(mut self) -> Self {
        self.rises = true;
        self
    }
}

impl<const LABELS: usize> fmt::Debug for Readings<LABELS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl<const LABELS: usize> sealed::Metric for Readings<LABELS> {
    fn add_to(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

impl<const LABELS: usize> EncodeMetric for Readings<LABELS> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut result = Ok(());
        (self.read)(&mut |values, value| {
            let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values).collect();
            let mut give = || {
                let encoder = encoder.encode_family(&labels)?;
                match self.rises {
                    true => counter::ConstCounter::new(value).encode(encoder),
                    false => gauge::ConstGauge::new(value).encode(encoder),
                }
            };
            result = result.and_then(|()| give());
        });
        result
    }

    fn metric_type(&self) -> MetricType {
        if self.rises { MetricType::Counter } else { MetricType::Gauge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_shown_with_its_labels() {
        let metrics = Metrics::default();
        let (drops, depth, took) = (Counters::new(["reason"]), Gauge::default(), Histogram::seconds());
        metrics.register("drops", "Messages dropped.", &drops);
        metrics.register("depth", "Depth", &depth);
        metrics.register("took_seconds", "Time", &took);
        metrics.register("rising", "Read when asked", &reading(|| 7.0).rising());
        metrics.register("half", "Read when asked", &reading(|| 0.5));
        metrics.register(
            "each",
            "Several",
            &Readings::new(["k"], |give| {
                give(["a"], 1.0);
                give(["b"], 2.0);
            }),
        );
        drops.with(["queue \"full\"\n"]).add(2);
        drops.with(["expired"]).inc();
        depth.set(-3);
        took.observe(0.002);
        let text = metrics.render();
        for line in [
            "# HELP drops_total Messages dropped.",
            "# TYPE drops_total counter",
            "drops_total{reason=\"expired\"} 1",
            "drops_total{reason=\"queue \\\"full\\\"\\n\"} 2",
            "depth -3",
            "took_seconds_bucket{le=\"0.003\"} 1",
            "took_seconds_count 1",
            "half 0.5",
            "rising_total 7.0",
            "each{k=\"b\"} 2.0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_name_is_taken_once_and_must_be_one() {
        let metrics = Metrics::default();
        let (first, second) = (Counter::default(), Counter::default());
        metrics.register("seen", "First", &first);
        metrics.register("seen", "Second", &second);
        for name in ["", "7up", "with space", "x\n", "seen_total"] {
            metrics.register(name, "No name", &second);
        }
        second.inc();
        let text = metrics.render();
        assert!(text.contains("seen_total 0"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn labels_from_outside_do_not_grow_without_end() {
        let counters = Counters::new(["client"]);
        for number in 0..SERIES_MAX + 50 {
            counters.with([&number.to_string()]).inc();
        }
        assert_eq!(counters.series.read().len(), SERIES_MAX + 1);
        assert_eq!(counters.with(["yet another"]).get(), 50);
        assert_eq!(counters.sum(), SERIES_MAX as u64 + 50);
    }
}
