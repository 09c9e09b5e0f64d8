//! Timing: samples one by one, or two operations in turn.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::result::{Spread, Target};
use crate::stats::{Interval, SEED, median_interval};

/// How long to go on measuring one thing.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Never fewer samples than this, however long they take.
    pub at_least: u32,
    /// Never more.
    pub at_most: u32,
    /// No further sample begins after this long, once there are enough.
    pub budget: Duration,
    /// Nor after this long, even where there are not: a few operations of other libraries take seconds.
    pub ceiling: Duration,
}

/// Seconds of each sample, and CPU cycles of each where the machine tells.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Wall-clock seconds.
    pub seconds: Vec<f64>,
    /// Cycles in user mode.
    pub cycles: Vec<f64>,
}

impl Samples {
    /// The spread in milliseconds.
    pub fn milliseconds(&self) -> Option<Spread> {
        Spread::of(&self.seconds).map(|s| s.scaled(1e3))
    }

    /// The spread in microseconds.
    pub fn microseconds(&self) -> Option<Spread> {
        Spread::of(&self.seconds).map(|s| s.scaled(1e6))
    }
}

/// Runs `operation` once unmeasured, then measures it as `effort` says or until `stopped`. What takes longer than all
/// of the budget needs no warming up: there the first time counts, too.
pub fn repeat<T>(
    effort: Effort,
    counters: &mut Counters,
    stopped: impl Fn() -> bool,
    mut operation: impl FnMut() -> T,
) -> Samples {
    let mut samples = Samples::default();
    let began = Instant::now();
    for done in 0..=effort.at_most {
        let (taken, counted) = (began.elapsed(), samples.seconds.len() as u32);
        let enough = counted >= effort.at_least && taken >= effort.budget;
        if stopped() || counted > 0 && (enough || taken >= effort.ceiling || counted >= effort.at_most) {
            break;
        }
        counters.begin();
        let start = Instant::now();
        black_box(operation());
        let seconds = start.elapsed().as_secs_f64();
        let cycles = counters.end_cycles();
        if done > 0 || seconds > effort.budget.as_secs_f64() {
            samples.seconds.push(seconds);
            samples.cycles.extend(cycles);
        }
    }
    samples
}

/// Two operations measured in turn, A, B, A, B…, so that both see the same machine.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The first, seconds for one operation.
    pub a: Spread,
    /// The second, seconds for one operation.
    pub b: Spread,
    /// `A / B`, round by round. Its median is what targets are held against.
    pub ratio: Spread,
    /// How sure that median is.
    pub interval: Interval,
}

impl Pair {
    /// `A / B` must not be above `bound`.
    pub fn at_most(&self, name: &str, bound: f64) -> Target {
        Target::at_most(name, bound, self.ratio.p50, "ratio").of(self.ratio.count, self.interval)
    }

    /// `A / B` must not be below `bound`.
    pub fn at_least(&self, name: &str, bound: f64) -> Target {
        Target::at_least(name, bound, self.ratio.p50, "ratio").of(self.ratio.count, self.interval)
    }
}

/// How [`paired`] goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds before the first that counts: caches fill, the clock of the processor settles.
    pub warm_up: u32,
    /// Rounds that count.
    pub count: u32,
    /// How often each operation runs in one round: more where one is too short for the clock.
    pub batch: u32,
}

/// Measures `a` and `b` in turn; `None` if `stopped` before the first round.
pub fn paired<T, U>(
    rounds: Rounds,
    stopped: impl Fn() -> bool,
    mut a: impl FnMut() -> T,
    mut b: impl FnMut() -> U,
) -> Option<Pair> {
    let batch = rounds.batch.max(1);
    let (mut first, mut second, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.warm_up + rounds.count {
        if stopped() {
            break;
        }
        let one = seconds(batch, &mut a);
        let two = seconds(batch, &mut b);
        if round >= rounds.warm_up {
            first.push(one);
            second.push(two);
            ratio.push(one / two);
        }
    }
    Some(Pair {
        a: Spread::of(&first)?,
        b: Spread::of(&second)?,
        ratio: Spread::of(&ratio)?,
        interval: median_interval(&ratio, SEED)?,
    })
}

/// Seconds that one call takes, the mean of `batch`.
fn seconds<T>(batch: u32, operation: &mut impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..batch {
        black_box(operation());
    }
    start.elapsed().as_secs_f64() / f64::from(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_bounds_the_samples_from_below_and_above() {
        const LONG: Duration = Duration::from_secs(3600);
        let effort = |budget, ceiling| Effort { at_least: 3, at_most: 9, budget, ceiling };
        let count = |effort, nap: u64| {
            let operation = || std::thread::sleep(Duration::from_micros(nap));
            repeat(effort, &mut Counters::none(), || false, operation).seconds.len()
        };
        let nothing = Duration::ZERO;
        assert_eq!(count(effort(nothing, LONG), 1), 3, "the budget is used up at once, the minimum holds");
        assert_eq!(
            count(effort(nothing, nothing), 1),
            1,
            "the ceiling is, too: the first counts, and is all"
        );
        assert_eq!(count(effort(LONG, LONG), 0), 9);
        let effort = |at_least, at_most| Effort { at_least, at_most, budget: nothing, ceiling: LONG };
        let stopped = repeat(effort(3, 9), &mut Counters::none(), || true, || ());
        assert!(stopped.seconds.is_empty());
        assert_eq!(stopped.milliseconds(), None);
    }

    #[test]
    fn pairs_take_turns_and_warm_up_first() {
        let order = std::cell::RefCell::new(String::new());
        let rounds = Rounds { warm_up: 1, count: 2, batch: 2 };
        let slow = || {
            order.borrow_mut().push('a');
            std::hint::black_box([0u8; 4096])
        };
        let pair = paired(rounds, || false, slow, || order.borrow_mut().push('b')).unwrap();
        assert_eq!(*order.borrow(), "aabbaabbaabb");
        assert_eq!((pair.a.count, pair.b.count, pair.ratio.count), (2, 2, 2));
        assert!(paired(rounds, || true, || (), || ()).is_none());
    }
}
