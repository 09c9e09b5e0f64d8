//! From rounds to ratios, and from ratios to verdicts.

use super::orders::Streamed;
use crate::result::Target;
use crate::stats::{SEED, median_interval};

/// What the sides of a comparison did, round by round.
pub struct Rounds(Vec<(&'static str, Vec<Streamed>)>);

impl Rounds {
    /// None yet.
    pub fn new(names: impl Iterator<Item = &'static str>) -> Self {
        Self(names.map(|name| (name, Vec::new())).collect())
    }

    /// The next of a side.
    pub fn add(&mut self, side: usize, streamed: Streamed) {
        self.0[side].1.push(streamed);
    }

    /// All sides.
    pub fn sides(&self) -> impl Iterator<Item = (&'static str, &[Streamed])> {
        self.0.iter().map(|(name, streams)| (*name, &streams[..]))
    }

    /// A value of one side divided by that of another, round by round; none where a side or a value is not there.
    pub fn ratios(&self, of: &str, to: &str, value: impl Fn(&Streamed) -> Option<f64>) -> Vec<f64> {
        let side =
            |name| self.sides().find(|(other, _)| *other == name).map_or(&[][..], |(_, streams)| streams);
        let ratios = side(of).iter().zip(side(to)).map(|(a, b)| Some(value(a)? / value(b)?));
        ratios.flatten().filter(|ratio| ratio.is_finite()).collect()
    }
}

/// What a median of ratios is held against.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// It must not be below.
    AtLeast(f64),
    /// It must not be above.
    AtMost(f64),
}

impl Bound {
    /// The verdict; `None` of nothing.
    pub fn hold(self, name: &str, ratios: &[f64]) -> Option<Target> {
        let interval = median_interval(ratios, SEED)?;
        let target = match self {
            Self::AtLeast(bound) => Target::at_least(name, bound, interval.median, "ratio"),
            Self::AtMost(bound) => Target::at_most(name, bound, interval.median, "ratio"),
        };
        Some(target.of(ratios.len() as u64, interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(deliveries: u64, cpu: Option<f64>) -> Streamed {
        Streamed { deliveries, seconds: 2.0, broker_cpu_seconds: cpu, load_cpu_seconds: 1.0, wrong: 0 }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut rounds = Rounds::new(["a", "b"].into_iter());
        for (side, deliveries) in [(0, 100), (1, 50), (1, 200), (0, 100)] {
            rounds.add(side, streamed(deliveries, None));
        }
        assert_eq!(rounds.ratios("a", "b", |one| Some(one.rate())), [2.0, 0.5]);
        assert!(rounds.ratios("a", "nobody", |one| Some(one.rate())).is_empty());
        assert!(rounds.ratios("a", "b", Streamed::broker_us).is_empty(), "who tells no CPU time has none");
        assert!(Bound::AtLeast(1.0).hold("x", &[]).is_none());
        let target = Bound::AtLeast(2.0).hold("x", &[1.0, 2.0, 3.0]).unwrap();
        assert!(target.met && target.count == Some(3) && target.measured == 2.0);
        assert!(!Bound::AtMost(1.9).hold("x", &[1.0, 2.0, 3.0]).unwrap().met);
    }

    #[test]
    fn a_stream_says_rate_cost_and_how_busy_the_load_was() {
        let one = streamed(1_000, Some(0.002));
        assert_eq!((one.rate(), one.broker_us(), one.load_share()), (500.0, Some(2.0), 0.5));
        assert!(streamed(0, Some(0.0)).broker_us().is_some_and(f64::is_nan));
    }
}
