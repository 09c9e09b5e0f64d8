//! Question 1: what setup, key generation, encapsulation and decapsulation cost, scheme by scheme.

use std::time::Instant;

use super::{Context, ratios};
use crate::measure::{Samples, repeat};
use crate::result::{Figure, Part, Question, Spread};
use crate::role::RoleError;
use crate::schemes::{Instance, RABE_NOTE, Scheme, all};

/// What varies along the lines.
pub const ATTRIBUTES: &str = "attributes";

/// Processes in which peak memory is measured.
const PROCESSES: usize = 3;

/// Something that an instance does.
type Operation = fn(&mut dyn Instance);

/// The operations, in the order in which an [`Instance`] wants their first calls.
const OPERATIONS: [(&str, Operation); 4] = [
    ("setup", |i| i.setup()),
    ("keygen", |i| i.keygen()),
    ("encapsulate", |i| i.encapsulate()),
    ("decapsulate", |i| {
        assert!(i.decapsulate(), "an instance opens what it sealed");
    }),
];

/// How many measurements it takes.
fn steps(context: &Context<'_>) -> u64 {
    let points =
        |s: &&dyn Scheme| if s.protects() { context.plan.attributes } else { context.plan.rabe_attributes };
    let each = OPERATIONS.len() as u64 + 2;
    all().iter().map(|s| points(s).len() as u64 * each).sum::<u64>() + ratios::STEPS
}

/// Measures every scheme, then the ratios that were promised.
pub fn run(context: &mut Context<'_>) -> Part {
    context.progress.begin(Question::Schemes.name(), steps(context));
    let mut part = ratios::run(context);
    for scheme in all() {
        let points = if scheme.protects() { context.plan.attributes } else { context.plan.rabe_attributes };
        for &attributes in points {
            if context.stopped() {
                return part;
            }
            part.figures.extend(at(context, scheme, attributes));
        }
    }
    part
}

/// All that is known of one scheme at one number of attributes.
fn at(context: &mut Context<'_>, scheme: &dyn Scheme, attributes: usize) -> Vec<Figure> {
    let name = scheme.name();
    let effort = if scheme.protects() { context.plan.effort } else { context.plan.rabe_effort };
    let note = (!scheme.protects()).then_some(RABE_NOTE);
    let figure = |measure: &str, unit: &str, spread: Spread| {
        let at = (ATTRIBUTES, attributes as f64);
        let mut figure = Figure::new(Question::Schemes, measure, name, at, unit, spread);
        figure.note = note.map(str::to_owned);
        figure
    };
    let mut figures = Vec::new();
    let mut instance = scheme.at(attributes);
    for (measure, operation) in OPERATIONS {
        if !context.step(&format!("{name}, {attributes} attributes: {measure}")) {
            return figures;
        }
        let progress = context.progress;
        // Ours remember labels they have seen; what the first time costs is measured apart.
        for _ in 0..if scheme.protects() && measure != "setup" { context.plan.rounds.warm_up } else { 0 } {
            if progress.stopped() {
                return figures;
            }
            operation(instance.as_mut());
        }
        let samples =
            repeat(effort, &mut context.counters, || progress.stopped(), || operation(instance.as_mut()));
        figures.extend(times(&samples).map(|(unit, spread)| figure(measure, unit, spread)));
    }
    if context.stopped() {
        return figures;
    }
    let sizes = instance.sizes();
    for (measure, bytes) in
        [("params", sizes.params), ("key", sizes.key), ("encapsulation", sizes.encapsulation)]
    {
        figures.push(figure(measure, "bytes", Spread::exact(bytes as f64)));
    }
    let here = context.plan.memory_at.contains(&attributes);
    if here && context.step(&format!("{name}, {attributes} attributes: memory")) {
        match memory(context, name, attributes) {
            Ok(samples) => {
                figures.extend(Spread::of(&samples).map(|spread| figure("peak memory", "bytes", spread)));
            }
            Err(error) => context.omit(format!("peak memory: {error}")),
        }
    }
    figures
}

/// Peaks of processes of their own, as many as fit into the time that one operation of rabe's gets.
fn memory(context: &Context<'_>, scheme: &str, attributes: usize) -> Result<Vec<f64>, RoleError> {
    let (began, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty()
        || samples.len() < PROCESSES && began.elapsed() < context.plan.rabe_effort.ceiling
    {
        samples.push(context.roles.peak_memory(scheme, attributes, &|| context.stopped())?);
    }
    Ok(samples)
}

/// Time, and cycles where they were counted.
fn times(samples: &Samples) -> impl Iterator<Item = (&'static str, Spread)> {
    let cycles = Spread::of(&samples.cycles).map(|spread| ("cycles", spread));
    samples.milliseconds().map(|spread| ("ms", spread)).into_iter().chain(cycles)
}
