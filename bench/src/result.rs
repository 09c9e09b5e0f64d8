//! What a run gives: figures with their spread, and targets held against them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::Interval;

/// Which question of the evaluation a figure answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What do the schemes cost?
    Schemes,
    /// Ciphertext-policy or key-policy?
    Mode,
    /// What does sealing add to MQTT end to end?
    Mqtt,
    /// What does one more subscriber cost the publisher?
    Subscribers,
    /// What does a small device pay?
    Device,
    /// What does the broker cost, beside others?
    Broker,
}

impl Question {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 6] =
        [Self::Schemes, Self::Mode, Self::Mqtt, Self::Subscribers, Self::Device, Self::Broker];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schemes => "schemes",
            Self::Mode => "mode",
            Self::Mqtt => "mqtt",
            Self::Subscribers => "subscribers",
            Self::Device => "device",
            Self::Broker => "broker",
        }
    }

    /// As people ask it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Schemes => "What do the schemes cost?",
            Self::Mode => "Ciphertext-policy or key-policy?",
            Self::Mqtt => "What does sealing add to MQTT end to end?",
            Self::Subscribers => "What does one more subscriber cost the publisher?",
            Self::Device => "What does a small device pay?",
            Self::Broker => "What does the broker cost, beside others?",
        }
    }
}

/// How often something was measured, and how far apart the results lay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many measurements.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// A tenth are below.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// A tenth are above.
    pub p90: f64,
    /// A hundredth are above.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `samples`, by nearest rank; `None` of none, or where one is not finite.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        if sorted.is_empty() || sorted.iter().any(|x| !x.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let rank = |p: f64| sorted[((p * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
        Some(Self {
            count: sorted.len() as u64,
            min: sorted[0],
            p10: rank(0.10),
            p50: rank(0.50),
            p90: rank(0.90),
            p99: rank(0.99),
            max: sorted[sorted.len() - 1],
        })
    }

    /// A figure that has no spread: a size, a count.
    pub fn exact(value: f64) -> Self {
        Self { count: 1, min: value, p10: value, p50: value, p90: value, p99: value, max: value }
    }

    /// The same measurements in another unit.
    pub fn scaled(&self, factor: f64) -> Self {
        Self {
            count: self.count,
            min: self.min * factor,
            p10: self.p10 * factor,
            p50: self.p50 * factor,
            p90: self.p90 * factor,
            p99: self.p99 * factor,
            max: self.max * factor,
        }
    }

    /// Whether this is what measuring can give: counted, finite and in order.
    pub fn is_sound(&self) -> bool {
        let ranks = [self.min, self.p10, self.p50, self.p90, self.p99, self.max];
        self.count > 0 && ranks.iter().all(|x| x.is_finite()) && ranks.is_sorted()
    }
}

/// One measured figure: a point of one line of one plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which question it answers.
    pub question: Question,
    /// What was measured, `decapsulate`, `latency`.
    pub measure: String,
    /// Of whom, `fabeo-cp`, `tls`.
    pub series: String,
    /// What varies along the line, `attributes`, `payload bytes`.
    pub along: String,
    /// Where on the line.
    pub at: f64,
    /// `ms`, `bytes`, `messages/s`, `ratio`.
    pub unit: String,
    /// The measurements.
    pub spread: Spread,
    /// What whoever reads the figure must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Figure {
    /// A figure of `series`, without a note.
    pub fn new(
        question: Question,
        measure: &str,
        series: &str,
        (along, at): (&str, f64),
        unit: &str,
        spread: Spread,
    ) -> Self {
        let [measure, series, along, unit] = [measure, series, along, unit].map(str::to_owned);
        Self { question, measure, series, along, at, unit, spread, note: None }
    }

    /// With what whoever reads it must know.
    pub fn with_note(mut self, note: &str) -> Self {
        self.note = Some(note.to_owned());
        self
    }
}

/// A promise held against a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What is promised.
    pub name: String,
    /// The bound, `<= 2.2`.
    pub target: String,
    /// What was measured.
    pub measured: f64,
    /// Of both.
    pub unit: String,
    /// Whether it holds in this run.
    pub met: bool,
    /// How many rounds the verdict rests on; `None` of what is counted, not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The lower end of the 95 % confidence interval of the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Its upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// Fewer rounds than this decide little.
pub const ROUNDS_FEW: u64 = 20;

impl Target {
    /// `measured` must not be above `bound`.
    pub fn at_most(name: &str, bound: f64, measured: f64, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            target: format!("<= {bound}"),
            measured,
            unit: unit.to_owned(),
            met: measured <= bound,
            count: None,
            low: None,
            high: None,
        }
    }

    /// `measured` must not be below `bound`.
    pub fn at_least(name: &str, bound: f64, measured: f64, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            target: format!(">= {bound}"),
            measured,
            unit: unit.to_owned(),
            met: measured >= bound,
            count: None,
            low: None,
            high: None,
        }
    }

    /// With the number of rounds and the confidence interval of their median.
    pub fn of(self, count: u64, interval: Interval) -> Self {
        Self { count: Some(count), low: Some(interval.low), high: Some(interval.high), ..self }
    }

    /// What keeps the verdict from being certain, where something does.
    pub fn doubt(&self) -> Option<&'static str> {
        let bound = self.target.split(' ').next_back().and_then(|bound| bound.parse::<f64>().ok());
        let crosses = |low: f64, high: f64| bound.is_some_and(|bound| low <= bound && bound <= high);
        match (self.count, self.low.zip(self.high)) {
            (Some(..ROUNDS_FEW), _) => Some("few rounds"),
            (_, Some((low, high))) if crosses(low, high) && low < high => Some("interval crosses the bound"),
            _ => None,
        }
    }
}

/// What one question gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The measurements.
    pub figures: Vec<Figure>,
    /// What was promised of them.
    pub targets: Vec<Target>,
    /// What whoever reads them must know.
    pub notes: Vec<String>,
}

impl Part {
    /// Adds what another part gave.
    pub fn extend(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.targets.extend(other.targets);
        self.notes.extend(other.notes);
    }
}

/// What the run was made on; `None` where the machine does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and its version.
    pub system: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// The processor as it names itself.
    pub processor: Option<String>,
    /// How many threads may run at once.
    pub processors: usize,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Whether it says that it is a virtual machine.
    pub hypervisor: Option<bool>,
    /// Where cycles were counted, or why not.
    pub cycles: String,
}

/// The first field of every `results.json`; the number goes up when a reader of the old form would err.
pub const FORMAT: &str = "smqtt-bench/1";

/// One whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// The command as it was given.
    pub command: String,
    /// `quick`, `standard`, `full`.
    pub plan: String,
    /// Whether somebody ended it early.
    pub interrupted: bool,
    /// Made on.
    pub machine: Machine,
    /// Of the program, the compiler and the libraries that were measured.
    pub versions: BTreeMap<String, String>,
    /// Questions that ended in an error, and in which; figures from before it stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// What was left out and why, and what is to be read with care.
    pub omitted: Vec<String>,
    /// The promises.
    pub targets: Vec<Target>,
    /// Everything measured.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The figures of one question.
    pub fn of(&self, question: Question) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| figure.question == question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_what_it_rests_on() {
        let target = |count, low, high| {
            let interval = Interval { low, median: 1.03, high };
            Target::at_most("sealed", 1.04, 1.03, "ratio").of(count, interval).doubt()
        };
        assert_eq!(target(600, 1.02, 1.035), None);
        assert_eq!(target(600, 1.02, 1.05), Some("interval crosses the bound"));
        assert_eq!(target(4, 1.02, 1.035), Some("few rounds"));
        assert_eq!(Target::at_most("header", 1_600.0, 1_600.0, "bytes").doubt(), None, "a size is certain");
    }

    #[test]
    fn ranks_are_nearest() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let spread = Spread::of(&samples).unwrap();
        assert_eq!(
            (spread.min, spread.p10, spread.p50, spread.p90, spread.p99, spread.max),
            (1., 10., 50., 90., 99., 100.)
        );
        assert_eq!(Spread::of(&[7.0]), Some(Spread::exact(7.0)));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::NAN]), None);
        assert_eq!(Spread::of(&[1.0, f64::INFINITY]), None);
    }
}
