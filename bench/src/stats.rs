//! Medians and how sure one can be of them.

use serde::{Deserialize, Serialize};

/// How often samples are drawn anew for an interval.
const RESAMPLES: usize = 2000;
/// The intervals are the same for the same samples.
pub const SEED: u64 = 0x534d_5154_5400_0003;

/// A median with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the resampled medians are below.
    pub low: f64,
    /// The median of the samples.
    pub median: f64,
    /// 2.5 % of the resampled medians are above.
    pub high: f64,
}

/// The median of `samples` by nearest rank; `None` of none. Reorders them.
pub fn median(samples: &mut [f64]) -> Option<f64> {
    let at = samples.len().checked_sub(1)? / 2;
    Some(*samples.select_nth_unstable_by(at, f64::total_cmp).1)
}

/// The median of `samples` with its interval by the percentile bootstrap (Efron and Tibshirani, "An Introduction to
/// the Bootstrap", 1993, section 13.3). The same samples and seed give the same interval.
pub fn median_interval(samples: &[f64], seed: u64) -> Option<Interval> {
    let middle = median(&mut samples.to_vec())?;
    let mut random = SplitMix64(seed);
    let mut drawn = vec![0.0; samples.len()];
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.fill_with(|| samples[random.below(samples.len())]);
        medians.extend(median(&mut drawn));
    }
    medians.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    Some(Interval { low: medians[tail], median: middle, high: medians[RESAMPLES - 1 - tail] })
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. Not for secrets.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert!((0..1000).all(|_| random.below(7) < 7));
    }

    #[test]
    fn medians_are_by_nearest_rank() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!(median(&mut []), None);
        assert_eq!(median_interval(&[], 1), None);
    }

    #[test]
    fn intervals_hold_the_median_and_can_be_repeated() {
        let samples: Vec<f64> = (0..401).map(f64::from).collect();
        let interval = median_interval(&samples, 7).unwrap();
        assert_eq!(interval.median, 200.0);
        // For 401 even steps the order statistics say 180 to 220: n/2 ± 1.96 √n/2.
        assert!((176.0..=186.0).contains(&interval.low), "{interval:?}");
        assert!((214.0..=224.0).contains(&interval.high), "{interval:?}");
        assert_eq!(median_interval(&samples, 7), Some(interval));
        let same = median_interval(&[1.5; 40], 7).unwrap();
        assert_eq!((same.low, same.median, same.high), (1.5, 1.5, 1.5));
    }

    #[test]
    fn two_equal_distributions_are_not_told_apart() {
        let mut random = SplitMix64(99);
        let samples: Vec<f64> = (0..500).map(|_| 0.9 + random.below(2001) as f64 / 10_000.0).collect();
        let interval = median_interval(&samples, 3).unwrap();
        assert!(interval.low <= 1.0 && 1.0 <= interval.high, "{interval:?}");
        assert!(interval.high - interval.low < 0.03, "{interval:?}");
    }
}
