//! Question 2: ciphertext-policy or key-policy, along the paper's own axis: storage, computation, round trips to the
//! authority, on line and off line.
//!
//! The paper: M. Singh et al., "Secure MQTT for Internet of Things (IoT)", CSNT 2015. There a device in key-policy
//! mode asks the key generator on line and one in ciphertext-policy mode works off line; here both hold keys.

use super::Context;
use crate::measure::repeat;
use crate::result::{Figure, Part, Question, Spread};
use crate::schemes::{RABE_NOTE, Scheme, Sizes, all};

/// At how many attributes the modes are compared.
pub const COMPARED_AT: usize = 10;
/// Milliseconds of one round trip to the authority: on one site, across a country, over a mobile network.
const ROUND_TRIPS_MS: [f64; 5] = [1.0, 10.0, 50.0, 100.0, 300.0];
/// The schemes that exist in both modes.
const BOTH_MODES: [&str; 4] = ["fabeo-cp", "fabeo-kp", "ac17-cp", "ac17-kp"];

/// Measures the schemes that exist in both modes side by side.
pub fn run(context: &mut Context<'_>) -> Part {
    context.progress.begin(Question::Mode.name(), 3 * BOTH_MODES.len() as u64);
    let mut part = Part::default();
    for scheme in all().into_iter().filter(|scheme| BOTH_MODES.contains(&scheme.name())) {
        part.figures.extend(of(context, scheme));
    }
    part
}

fn of(context: &mut Context<'_>, scheme: &dyn Scheme) -> Vec<Figure> {
    let name = scheme.name();
    let attributes = ("attributes", COMPARED_AT as f64);
    let figure = |measure: &str, series: &str, at: (&str, f64), unit: &str, spread: Spread| {
        let figure = Figure::new(Question::Mode, measure, series, at, unit, spread);
        if scheme.protects() { figure } else { figure.with_note(RABE_NOTE) }
    };
    let effort = if scheme.protects() { context.plan.effort } else { context.plan.rabe_effort };
    let progress = context.progress;
    let mut instance = scheme.at(COMPARED_AT);
    instance.keygen();
    instance.seal();
    for _ in 0..if scheme.protects() { context.plan.rounds.warm_up } else { 0 } {
        instance.keygen();
        instance.seal();
        assert!(instance.open(), "an instance opens what it sealed");
        if context.stopped() {
            return Vec::new();
        }
    }
    let mut figures = Vec::new();
    let mut spreads = Vec::new();
    for measure in ["keygen", "encapsulate", "decapsulate"] {
        if !context.step(&format!("{name}: {measure}")) {
            return figures;
        }
        let samples = repeat(
            effort,
            &mut context.counters,
            || progress.stopped(),
            || match measure {
                "keygen" => instance.keygen(),
                "encapsulate" => instance.encapsulate(),
                _ => assert!(instance.decapsulate(), "an instance opens what it sealed"),
            },
        );
        let Some(spread) = samples.milliseconds() else { return figures };
        spreads.push(spread);
        figures.push(figure(measure, name, attributes, "ms", spread));
        // A new key would no longer be the one that the ciphertext was made for.
        if measure == "keygen" {
            instance.seal();
        }
    }
    let Sizes { params, key, encapsulation } = instance.sizes();
    let exact = |measure: &str, series: &str, unit: &str, value: f64| {
        figure(measure, series, attributes, unit, Spread::exact(value))
    };
    let by_construction = |figure: Figure| {
        let note = "by construction: who asks on line keeps no key";
        let all = figure.note.as_ref().map_or(note.to_owned(), |other| format!("{note}; {other}"));
        figure.with_note(&all)
    };
    let (off, on) = (format!("{name}, off line"), format!("{name}, on line"));
    figures.extend([
        exact("storage of a reader", &off, "bytes", (params + key) as f64),
        by_construction(exact("storage of a reader", &on, "bytes", params as f64)),
        exact("header on the wire", name, "bytes", encapsulation as f64),
        by_construction(exact("round trips to open", &off, "round trips", 0.0)),
        by_construction(exact("round trips to open", &on, "round trips", 1.0)),
    ]);
    let (keygen, open) = (spreads[0], spreads[2]);
    for trip in ROUND_TRIPS_MS {
        let at = ("round trip, ms", trip);
        figures.push(figure("time to open", &off, at, "ms", open));
        let all = plus(&plus(&keygen, &open), &Spread::exact(trip));
        let note = "the round trip given, key generation and decapsulation as measured; spreads added";
        let mut on_line = figure("time to open", &on, at, "ms", Spread { count: open.count, ..all });
        on_line.note = Some(on_line.note.map_or(note.to_owned(), |other| format!("{note}; {other}")));
        figures.push(on_line);
    }
    figures
}

/// One after the other; the worst of both together is worse than will happen.
fn plus(a: &Spread, b: &Spread) -> Spread {
    Spread {
        count: a.count.min(b.count),
        min: a.min + b.min,
        p10: a.p10 + b.p10,
        p50: a.p50 + b.p50,
        p90: a.p90 + b.p90,
        p99: a.p99 + b.p99,
        max: a.max + b.max,
    }
}
