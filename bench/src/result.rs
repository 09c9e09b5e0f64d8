//! What a run gives: figures with their spread, and targets held against them.

use serde::{Deserialize, Serialize};

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
    /// The spread of `samples`, by nearest rank; `None` of none, or where one is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        if sorted.is_empty() || sorted.iter().any(|x| x.is_nan()) {
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
}

impl Target {
    /// `measured` must not be above `bound`.
    pub fn at_most(name: &str, bound: f64, measured: f64, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            target: format!("<= {bound}"),
            measured,
            unit: unit.to_owned(),
            met: measured <= bound,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
