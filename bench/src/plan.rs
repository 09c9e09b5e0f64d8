//! How much is measured: under a minute, a few minutes, or for a paper.

use std::time::Duration;

use crate::measure::{Effort, Rounds};

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// `quick`, `standard`, `full`.
    pub name: &'static str,
    /// Numbers of attributes at which our suites are measured.
    pub attributes: &'static [usize],
    /// Numbers of attributes at which rabe's schemes are measured; they take up to a second a time.
    pub rabe_attributes: &'static [usize],
    /// How long to measure one operation of ours.
    pub effort: Effort,
    /// How long to measure one operation of rabe's.
    pub rabe_effort: Effort,
    /// Rounds of a ratio against the floor.
    pub rounds: Rounds,
    /// Rounds of a ratio against bare AES-GCM.
    pub aes_rounds: Rounds,
    /// Rounds of a ratio against rabe.
    pub rabe_rounds: Rounds,
    /// Numbers of attributes at which peak memory is measured, in a process of its own.
    pub memory_at: &'static [usize],
    /// Measurements of what begins with labels never seen.
    pub cold: u32,
    /// Numbers of subscribers.
    pub subscribers: &'static [usize],
    /// Whether instructions may be counted with callgrind, which takes tens of seconds.
    pub callgrind: bool,
}

/// Rounds before the first that counts, where a target says "labels seen before".
pub const WARM_UP: u32 = 64;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

impl Plan {
    /// Everything in under a minute.
    pub const QUICK: Self = Self {
        name: "quick",
        attributes: &[1, 10, 50],
        rabe_attributes: &[1, 10],
        effort: Effort { at_least: 5, at_most: 200, budget: Duration::from_millis(60), ceiling: MINUTE },
        rabe_effort: Effort {
            at_least: 3,
            at_most: 200,
            budget: Duration::from_millis(60),
            ceiling: Duration::from_millis(300),
        },
        rounds: Rounds { warm_up: WARM_UP, count: 40, batch: 1 },
        aes_rounds: Rounds { warm_up: WARM_UP, count: 200, batch: 64 },
        rabe_rounds: Rounds { warm_up: 1, count: 4, batch: 1 },
        memory_at: &[10],
        cold: 10,
        subscribers: &[1, 3, 10, 30, 100, 300, 1_000],
        callgrind: false,
    };

    /// A few minutes.
    pub const STANDARD: Self = Self {
        name: "standard",
        attributes: &[1, 5, 10, 20, 30, 50],
        rabe_attributes: &[1, 5, 10, 20, 30, 50],
        effort: Effort { at_least: 10, at_most: 1_000, budget: Duration::from_millis(500), ceiling: MINUTE },
        rabe_effort: Effort {
            at_least: 5,
            at_most: 1_000,
            budget: Duration::from_millis(500),
            ceiling: Duration::from_secs(3),
        },
        rounds: Rounds { count: 300, ..Self::QUICK.rounds },
        aes_rounds: Rounds { count: 2_000, ..Self::QUICK.aes_rounds },
        rabe_rounds: Rounds { count: 20, ..Self::QUICK.rabe_rounds },
        memory_at: &[10, 50],
        cold: 100,
        subscribers: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000],
        callgrind: true,
    };

    /// Half an hour on two processors. Thirty measurements of everything at least, but where an operation takes seconds
    /// as many as ten seconds allow.
    pub const FULL: Self = Self {
        name: "full",
        attributes: &[1, 5, 10, 20, 30, 40, 50],
        rabe_attributes: &[1, 5, 10, 20, 30, 40, 50],
        effort: Effort { at_least: 30, at_most: 10_000, budget: Duration::from_millis(1_500), ceiling: HOUR },
        rabe_effort: Effort {
            at_least: 30,
            at_most: 10_000,
            budget: Duration::from_secs(1),
            ceiling: Duration::from_secs(10),
        },
        rounds: Rounds { count: 1_000, ..Self::QUICK.rounds },
        aes_rounds: Rounds { count: 10_000, ..Self::QUICK.aes_rounds },
        rabe_rounds: Rounds { count: 60, ..Self::QUICK.rabe_rounds },
        memory_at: &[1, 10, 50],
        cold: 400,
        ..Self::STANDARD
    };

    /// As little as goes through every line: for tests.
    pub const TINY: Self = Self {
        name: "tiny",
        attributes: &[1, 2],
        rabe_attributes: &[2],
        effort: Effort { at_least: 1, at_most: 1, budget: Duration::ZERO, ceiling: Duration::ZERO },
        rabe_effort: Effort { at_least: 1, at_most: 1, budget: Duration::ZERO, ceiling: Duration::ZERO },
        rounds: Rounds { warm_up: 0, count: 2, batch: 1 },
        aes_rounds: Rounds { warm_up: 0, count: 2, batch: 1 },
        rabe_rounds: Rounds { warm_up: 0, count: 1, batch: 1 },
        memory_at: &[2],
        cold: 1,
        subscribers: &[1, 2],
        callgrind: false,
    };
}
