//! Question 5: what a small device pays. An estimate, and marked as one wherever it is shown.
//!
//! Our suites run as on a small device, without tables of multiples. Instructions of one operation are counted and
//! scaled: a device class has a range of cycles for each x86-64 instruction of this kind of work (multiplication of
//! 64-bit words), and a clock. The classes are always there; `--slow N` adds a device that is N times slower than this
//! machine by wall time.

use super::Context;
use super::mode::COMPARED_AT;
use crate::machine;
use crate::measure::repeat;
use crate::result::{Figure, Part, Question, Spread};
use crate::role::{RoleError, Small};
use crate::schemes::{Fabeo, FabeoInstance, Instance, Scheme};

/// A class of devices. Cycles for each x86-64 instruction are what its word size multiplies instructions by, times
/// its cycles for each instruction; both ends of both ranges.
pub struct Class {
    /// As people call it.
    pub name: &'static str,
    /// Its clock, MHz.
    pub mhz: f64,
    /// By how much instructions grow.
    pub growth: (f64, f64),
    /// Cycles for each of its own instructions.
    pub cycles: (f64, f64),
    /// Why.
    pub why: &'static str,
}

/// The classes, from large to small.
pub const CLASSES: [Class; 5] = [
    Class {
        name: "Cortex-A53, 1.2 GHz",
        mhz: 1_200.0,
        growth: (1.0, 1.3),
        cycles: (1.0, 2.0),
        why: "64-bit words; in order, and a 64-bit multiplication occupies the multiplier for several cycles",
    },
    Class {
        name: "Cortex-M7, 480 MHz",
        mhz: 480.0,
        growth: (4.0, 6.0),
        cycles: (0.7, 1.2),
        why: "one 64-bit multiply-add is four UMAAL; loads and stores double; two instructions a cycle at best",
    },
    Class {
        name: "Cortex-M4, 168 MHz",
        mhz: 168.0,
        growth: (4.0, 6.0),
        cycles: (1.1, 1.8),
        why: "one 64-bit multiply-add is four UMAAL of one cycle; loads take two; flash has wait states",
    },
    Class {
        name: "ESP32 (LX6), 240 MHz",
        mhz: 240.0,
        growth: (6.0, 10.0),
        cycles: (1.1, 1.6),
        why: "the two halves of a 32-bit product are two instructions, and carries are handled by comparison",
    },
    Class {
        name: "Cortex-M0+, 133 MHz",
        mhz: 133.0,
        growth: (14.0, 24.0),
        cycles: (1.2, 1.6),
        why: "only the low 32 bits of a product: one 64-bit multiplication is sixteen of 16-bit halves",
    },
];

/// What every estimate carries.
pub const NOTE: &str = "estimate: instructions on this machine, times the range given for the class, at its clock; \
                        not measured on such a device";

/// What an estimate for the device of `--slow` carries.
pub const SLOW_NOTE: &str = "estimate: wall times on this machine, times the factor given with --slow; no instructions \
                             are counted for it";

/// Instructions that this machine finishes in a cycle, where it counts neither.
const INSTRUCTIONS_PER_CYCLE: f64 = 2.5;
/// The clock where the machine does not tell it, MHz.
const NOMINAL_MHZ: f64 = 3_000.0;

/// Where a count of instructions comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Processor,
    Callgrind,
    Clock,
}

impl Source {
    fn note(self) -> &'static str {
        match self {
            Self::Processor => "counted by the processor, user mode",
            Self::Callgrind => "counted by callgrind, which has no ADX: more than this machine runs",
            Self::Clock => {
                "not counted: time x nominal clock x 2.5 instructions a cycle, since this machine tells neither \
                 cycles nor instructions"
            }
        }
    }
}

/// Something that an instance does.
type Operation = fn(&mut FabeoInstance);

/// Estimates for every class, and for the device given by `--slow`.
pub fn run(context: &mut Context<'_>) -> Part {
    let operations: [(&str, Operation); 2] = [
        ("encapsulate", FabeoInstance::encapsulate),
        ("decapsulate", |i| {
            i.decapsulate();
        }),
    ];
    context.progress.begin(Question::Device.name(), operations.len() as u64 * Fabeo::ALL.len() as u64);
    let mut part = Part::default();
    for suite in Fabeo::ALL {
        for (measure, operation) in operations {
            if !context.step(&format!("{}: instructions of {measure}", suite.name())) {
                return part;
            }
            let Some((small, profile)) = measured(context, suite, measure, operation) else { return part };
            let Some(time) = Spread::of(&small.seconds).map(|s| s.scaled(1e3)) else { return part };
            let (instructions, source) = instructions(context, suite, measure, time, &small);
            part.figures.extend(estimates(suite.name(), measure, &instructions, source));
            let own = |series: &str, spread| figure(suite.name(), measure, series, "ms", spread);
            part.figures.push(own("this machine", time).with_note(profile));
            if let Some(slow) = context.slow {
                let name = format!("{slow} times slower than this machine");
                part.figures.push(own(&name, time.scaled(slow)).with_note(SLOW_NOTE));
            }
        }
    }
    part
}

/// What a device with no megabytes to spare does.
const WITHOUT_TABLES: &str = "without tables of multiples, as a small device that has no megabytes to spare";

/// Without tables, in a process of its own; as it comes, where no process can be started.
fn measured(
    context: &mut Context<'_>,
    suite: &Fabeo,
    measure: &str,
    operation: Operation,
) -> Option<(Small, &'static str)> {
    let progress = context.progress;
    let count = context.plan.rounds.count;
    match context.roles.small(suite.name(), measure, COMPARED_AT, count, &|| progress.stopped()) {
        Ok(small) => return Some((small, WITHOUT_TABLES)),
        Err(RoleError::Ended) => return None,
        Err(error) => context.omit(format!("operations without tables: {error}")),
    }
    let mut instance = suite.with_prefix("a", COMPARED_AT);
    let samples = repeat(
        context.plan.effort,
        &mut context.counters,
        || progress.stopped(),
        || operation(&mut instance),
    );
    Some((Small { seconds: samples.seconds, instructions: Vec::new() }, "with tables of multiples"))
}

fn figure(suite: &str, measure: &str, series: &str, unit: &str, spread: Spread) -> Figure {
    let at = ("attributes", COMPARED_AT as f64);
    Figure::new(Question::Device, &format!("{suite}: {measure}"), series, at, unit, spread)
}

/// The processor's count; callgrind's; or a guess from the clock.
fn instructions(
    context: &mut Context<'_>,
    suite: &Fabeo,
    measure: &str,
    time_ms: Spread,
    small: &Small,
) -> (Spread, Source) {
    if let Some(spread) = Spread::of(&small.instructions) {
        return (spread, Source::Processor);
    }
    if context.plan.callgrind {
        let progress = context.progress;
        let stopped = || progress.stopped();
        let counted =
            context.roles.instructions(suite.name(), measure, COMPARED_AT, (CALLGRIND_WARM_UP, 2), &stopped);
        match counted {
            Ok(count) if count > 0.0 => return (Spread::exact(count), Source::Callgrind),
            Ok(_) => {}
            Err(error) => context.omit(format!("instructions under callgrind: {error}")),
        }
    }
    let mhz = machine::clock_mhz().unwrap_or(NOMINAL_MHZ);
    (time_ms.scaled(mhz * 1e3 * INSTRUCTIONS_PER_CYCLE), Source::Clock)
}

/// Operations before the first that callgrind counts; each takes a hundred times as long there.
const CALLGRIND_WARM_UP: u32 = 4;

fn estimates(suite: &str, measure: &str, instructions: &Spread, source: Source) -> Vec<Figure> {
    let counted = figure(suite, measure, "instructions here", "instructions", *instructions);
    let classes = CLASSES.iter().map(|class| {
        let milliseconds = |count: f64, growth: f64, cycles: f64| count * growth * cycles / (class.mhz * 1e3);
        let low = milliseconds(instructions.p50, class.growth.0, class.cycles.0);
        let high = milliseconds(instructions.p50, class.growth.1, class.cycles.1);
        // The range of the assumptions is wider than anything that was measured.
        let spread = Spread {
            count: instructions.count,
            min: low,
            p10: low,
            p50: (low * high).sqrt(),
            p90: high,
            p99: high,
            max: high,
        };
        let note = format!("{NOTE}; {}", source.note());
        figure(suite, measure, class.name, "ms", spread).with_note(&note)
    });
    std::iter::once(counted.with_note(source.note())).chain(classes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_ranges_and_say_what_they_are() {
        let figures = estimates("fabeo-cp", "decapsulate", &Spread::exact(1e6), Source::Callgrind);
        assert_eq!(figures.len(), 1 + CLASSES.len());
        let m4 = figures.iter().find(|f| f.series.starts_with("Cortex-M4")).unwrap();
        assert!((m4.spread.min - 1e6 * 4.4 / 168e3).abs() < 1e-6);
        assert!((m4.spread.max - 1e6 * 10.8 / 168e3).abs() < 1e-6);
        for estimate in &figures[1..] {
            assert!(estimate.spread.is_sound());
            assert!(estimate.note.as_ref().unwrap().starts_with("estimate"));
        }
    }
}
