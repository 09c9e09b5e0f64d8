//! The ratios that were promised, each measured in turn with what it is held against, in one thread.
//!
//! Every ratio is the median of per-round ratios; its spread is that of the rounds.

use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use smqtt_core::envelope::Envelope;

use super::Context;
use super::schemes::ATTRIBUTES;
use crate::floor::Floor;
use crate::measure::{Pair, paired};
use crate::plan::Plan;
use crate::publisher::{Publisher, TOPIC};
use crate::report::target_table;
use crate::result::{Figure, Part, Question, Spread, Target};
use crate::role::Roles;
use crate::schemes::{Fabeo, FabeoInstance, Instance, PAYLOAD_BYTES, RABE_NOTE, Scheme, by_name};

/// About how many measurements these are.
pub const STEPS: u64 = 26;

/// Decapsulation of who has the key as bytes: decoded, checked and forgotten each time. Without a target.
pub const KEY_DECODED: &str = "decapsulate, key decoded each time";
/// How a ratio is to be read.
const PAIRED: &str = "median of ratios of interleaved rounds";

/// All of them.
pub fn run(context: &mut Context<'_>) -> Part {
    let mut part = Part::default();
    for step in [against_floor, against_rabe, header_bytes, steady_state, cold] {
        if context.stopped() {
            break;
        }
        part.extend(step(context));
    }
    part
}

/// One operation of ours against the floor.
struct Promise {
    measure: &'static str,
    attributes: usize,
    /// Pairings of the floor, where it is not the suite's own.
    pairings: Option<usize>,
    bound: f64,
    stretch: Option<f64>,
    operation: fn(&mut FabeoInstance),
}

const PROMISES: [Promise; 4] = [
    Promise {
        measure: "decapsulate",
        attributes: 10,
        pairings: None,
        bound: 2.2,
        stretch: Some(1.6),
        operation: open,
    },
    Promise {
        measure: "decapsulate",
        attributes: 50,
        pairings: None,
        bound: 5.0,
        stretch: Some(3.5),
        operation: open,
    },
    Promise {
        measure: "encapsulate",
        attributes: 10,
        pairings: Some(3),
        bound: 1.1,
        stretch: None,
        operation: FabeoInstance::encapsulate,
    },
    Promise {
        measure: "keygen",
        attributes: 10,
        pairings: None,
        bound: 2.0,
        stretch: None,
        operation: FabeoInstance::keygen,
    },
];

fn open(instance: &mut FabeoInstance) {
    assert!(instance.decapsulate(), "an instance opens what it sealed");
}

/// Our suites, labels seen before, against the floor.
pub fn against_floor(context: &mut Context<'_>) -> Part {
    let mut part = Part::default();
    let floor = Floor::new();
    for suite in Fabeo::ALL {
        for promise in &PROMISES {
            let Promise { measure, attributes, bound, .. } = *promise;
            let name = suite.name();
            if !context.step(&format!("{name}, {attributes} attributes: {measure} against the floor")) {
                return part;
            }
            let pairings = promise.pairings.unwrap_or_else(|| suite.pairings());
            let mut instance = suite.with_prefix("a", attributes);
            let progress = context.progress;
            let Some(pair) = paired(
                context.plan.rounds,
                || progress.stopped(),
                || (promise.operation)(&mut instance),
                || floor.single(pairings),
            ) else {
                return part;
            };
            part.figures.extend(figures(measure, name, &format!("floor of {pairings}"), attributes, &pair));
            let of = format!("{name}: {measure} at {attributes} / floor of {pairings} pairings");
            part.targets.push(pair.at_most(&of, bound));
            if let Some(stretch) = promise.stretch {
                part.targets.push(pair.at_most(&format!("{of} (stretch)"), stretch));
            }
        }
        for attributes in [10, 50] {
            let name = suite.name();
            if !context.step(&format!("{name}, {attributes} attributes: decapsulate, key decoded")) {
                return part;
            }
            let instance = suite.with_prefix("a", attributes);
            let [_, key, _] = instance.exported();
            let (progress, pairings) = (context.progress, suite.pairings());
            let pair = paired(
                context.plan.rounds,
                || progress.stopped(),
                || assert!(instance.decapsulate_with(&key), "an instance opens what it sealed"),
                || floor.single(pairings),
            );
            let Some(pair) = pair else { return part };
            let floor = format!("floor of {pairings}");
            part.figures.extend(figures(KEY_DECODED, name, &floor, attributes, &pair));
        }
    }
    if context.step("the floor with joint squarings") {
        for pairings in [2, 3] {
            let progress = context.progress;
            let pair = paired(
                context.plan.rounds,
                || progress.stopped(),
                || floor.joint(pairings),
                || floor.single(pairings),
            );
            if let Some(pair) = pair {
                part.figures.extend(floors(pairings, &pair));
            }
        }
    }
    part
}

fn floors(pairings: usize, pair: &Pair) -> [Figure; 2] {
    let figure = |series: &str, spread: Spread| {
        let at = ("pairings", pairings as f64);
        Figure::new(Question::Schemes, "floor", series, at, "ms", spread.scaled(1e3))
    };
    [figure("single loops", pair.b), figure("joint squarings", pair.a)]
}

/// Both sides in milliseconds, and the ratio.
fn figures(measure: &str, ours: &str, theirs: &str, attributes: usize, pair: &Pair) -> [Figure; 3] {
    let figure = |series: &str, unit: &str, spread: Spread| {
        let measure = format!("{measure}, in turn");
        let at = (ATTRIBUTES, attributes as f64);
        Figure::new(Question::Schemes, &measure, series, at, unit, spread).with_note(PAIRED)
    };
    [
        figure(&format!("{ours} beside {theirs}"), "ms", pair.a.scaled(1e3)),
        figure(&format!("{theirs} beside {ours}"), "ms", pair.b.scaled(1e3)),
        figure(&format!("{ours} / {theirs}"), "ratio", pair.ratio),
    ]
}

/// How many times faster than rabe, sealing and opening 256 bytes under ten attributes.
pub fn against_rabe(context: &mut Context<'_>) -> Part {
    const ATTRIBUTES_OF_ALL: usize = 10;
    const AC17: &[&str] = &["ac17-cp", "ac17-kp"];
    let mut part = Part::default();
    let (mut seal, mut open_ac17, mut open_bsw) = (Vec::new(), Vec::new(), Vec::new());
    for theirs in ["ac17-cp", "ac17-kp", "bsw"] {
        let scheme = by_name(theirs).expect("both are in the list");
        let mut rabe = scheme.at(ATTRIBUTES_OF_ALL);
        rabe.keygen();
        rabe.seal();
        let mut ours = Fabeo::CP.with_prefix("a", ATTRIBUTES_OF_ALL);
        for _ in 0..context.plan.rounds.warm_up {
            if context.stopped() {
                return part;
            }
            ours.seal();
            open(&mut ours);
        }
        for measure in ["seal", "open"] {
            if !context.step(&format!("{measure} against {theirs}")) {
                return part;
            }
            let run = |instance: &mut dyn Instance| match measure {
                "seal" => instance.seal(),
                _ => assert!(instance.open(), "an instance opens what it sealed"),
            };
            let progress = context.progress;
            let Some(pair) = paired(
                context.plan.rabe_rounds,
                || progress.stopped(),
                || run(rabe.as_mut()),
                || run(&mut ours),
            ) else {
                return part;
            };
            let suite_name = Fabeo::CP.name();
            let figures = figures(measure, theirs, suite_name, ATTRIBUTES_OF_ALL, &pair);
            part.figures.extend(figures.map(|f| match f.series.starts_with(suite_name) {
                true => f,
                false => f.with_note(&format!("{PAIRED}; {RABE_NOTE}")),
            }));
            match measure {
                "seal" => seal.push((theirs, pair)),
                _ if AC17.contains(&theirs) => open_ac17.push((theirs, pair)),
                _ => open_bsw.push((theirs, pair)),
            }
        }
    }
    // The fastest of theirs is the one to beat.
    for (what, bound, pairs) in [
        ("seal 256 bytes at 10: the fastest of ac17-cp, ac17-kp and bsw", 40.0, seal),
        ("open at 10: the faster of ac17-cp and ac17-kp", 12.0, open_ac17),
        ("open at 10: bsw", 50.0, open_bsw),
    ] {
        let of_all = pairs.len() > 1;
        let fastest = pairs.into_iter().min_by(|(_, a), (_, b)| a.ratio.p50.total_cmp(&b.ratio.p50));
        if let Some((theirs, pair)) = fastest {
            let which = if of_all { format!(" ({theirs})") } else { String::new() };
            part.targets.push(pair.at_least(&format!("{what}{which} / fabeo-cp"), bound));
        }
    }
    part
}

/// What a header weighs, part by part.
pub fn header_bytes(context: &mut Context<'_>) -> Part {
    let mut part = Part::default();
    if !context.step("bytes of headers and messages") {
        return part;
    }
    for suite in Fabeo::ALL {
        let at = |attributes: usize, measure: &str, series: &str, bytes: usize| {
            let at = (ATTRIBUTES, attributes as f64);
            Figure::new(Question::Schemes, measure, series, at, "bytes", Spread::exact(bytes as f64))
        };
        let mut numbers = context.plan.attributes.to_vec();
        numbers.extend((!numbers.contains(&10)).then_some(10));
        for attributes in numbers {
            let header = Publisher::new(suite, attributes, false).header_parts();
            for (name, bytes) in header.parts {
                part.figures.push(at(
                    attributes,
                    "header bytes",
                    &format!("{}: {name}", suite.name()),
                    bytes,
                ));
            }
            let all = format!("{}: whole", suite.name());
            part.figures.push(at(attributes, "header bytes", &all, header.whole));
            if attributes == 10 {
                let name = format!("{}: encapsulation at 10 and epoch", suite.name());
                part.targets.push(Target::at_most(&name, 800.0, header.encapsulation() as f64, "bytes"));
                let name =
                    format!("{}: whole header at 10, signature and certificate included", suite.name());
                part.targets.push(Target::at_most(&name, 1_600.0, header.whole as f64, "bytes"));
            }
        }
    }
    for (form, signed, bound) in [("compact", false, 56.0), ("signed", true, 128.0)] {
        let publisher = Publisher::new(&Fabeo::CP, 3, signed);
        let sealed = publisher.key.seal(TOPIC, &[7; PAYLOAD_BYTES]).expect("the first of many messages");
        let overhead = (sealed.len() - PAYLOAD_BYTES) as f64;
        let at = ("payload bytes", PAYLOAD_BYTES as f64);
        let spread = Spread::exact(overhead);
        part.figures.push(Figure::new(Question::Schemes, "message overhead", form, at, "bytes", spread));
        part.targets.push(Target::at_most(&format!("message overhead, {form}"), bound, overhead, "bytes"));
    }
    part
}

/// Sealing and opening under a key that is there, against bare AES-256-GCM of the same library.
pub fn steady_state(context: &mut Context<'_>) -> Part {
    let mut part = Part::default();
    let publisher = Publisher::new(&Fabeo::CP, 3, false);
    let payload = [7; PAYLOAD_BYTES];
    let sealed = publisher.key.seal(TOPIC, &payload).expect("the first of many messages");
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    // One buffer for all: the bare cipher pays for no allocation.
    let mut buffer = payload.to_vec();
    let tag = bare.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut buffer).expect("256 bytes");
    let bare_sealed = [&buffer[..], tag.as_ref()].concat();
    let progress = context.progress;
    if !context.step("envelope: seal against bare AES-GCM") {
        return part;
    }
    let seal = paired(
        context.plan.aes_rounds,
        || progress.stopped(),
        || publisher.key.seal(TOPIC, &payload),
        || {
            buffer.copy_from_slice(&payload);
            bare.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut buffer).is_ok()
        },
    );
    if !context.step("envelope: open against bare AES-GCM") {
        return part;
    }
    let mut buffer = bare_sealed.clone();
    let open = paired(
        context.plan.aes_rounds,
        || progress.stopped(),
        || {
            let envelope = Envelope::parse(&sealed).expect("it was just sealed");
            publisher.opening.open(TOPIC, &envelope.message).expect("it was just sealed").len()
        },
        || {
            buffer.copy_from_slice(&bare_sealed);
            bare.open_in_place(nonce(), Aad::empty(), &mut buffer).expect("it was just sealed").len()
        },
    );
    for (measure, pair) in [("seal", seal), ("open", open)] {
        let Some(pair) = pair else { continue };
        let at = ("payload bytes", PAYLOAD_BYTES as f64);
        let measure_of = format!("message: {measure}");
        let figure = |series: &str, unit: &str, spread: Spread| {
            Figure::new(Question::Schemes, &measure_of, series, at, unit, spread).with_note(PAIRED)
        };
        part.figures.extend([
            figure("envelope", "us", pair.a.scaled(1e6)),
            figure("bare AES-256-GCM", "us", pair.b.scaled(1e6)),
            figure("envelope / bare AES-256-GCM", "ratio", pair.ratio),
        ]);
        let name = format!("{measure} a message of 256 bytes / bare AES-256-GCM");
        part.targets.push(pair.at_most(&name, 3.0));
    }
    part
}

/// The first time with labels: nothing about them is remembered. Without a target. Decapsulation runs in a process
/// of its own, since whoever made the key has seen its labels.
pub fn cold(context: &mut Context<'_>) -> Part {
    let mut part = Part::default();
    for suite in Fabeo::ALL {
        for attributes in [10, 50].into_iter().filter(|n| context.plan.attributes.contains(n)) {
            if !context.step(&format!("{}, {attributes} attributes never seen", suite.name())) {
                return part;
            }
            let (mut encapsulate, mut keygen) = (Vec::new(), Vec::new());
            let mut instance = suite.with_prefix("a", attributes);
            for round in 0..context.plan.cold + COLD_WARM_UP {
                if context.stopped() {
                    break;
                }
                let one = seconds_at(&mut instance, &format!("e{round}x"), FabeoInstance::encapsulate);
                let two = seconds_at(&mut instance, &format!("k{round}x"), FabeoInstance::keygen);
                if round >= COLD_WARM_UP {
                    encapsulate.push(one);
                    keygen.push(two);
                }
            }
            part.figures.extend(cold_figure(suite.name(), "encapsulate", attributes, &encapsulate));
            part.figures.extend(cold_figure(suite.name(), "keygen", attributes, &keygen));
            let progress = context.progress;
            match context
                .roles
                .cold_decapsulation(suite, attributes, context.plan.cold, &|| progress.stopped())
            {
                Ok(samples) => {
                    part.figures.extend(cold_figure(suite.name(), "decapsulate", attributes, &samples));
                }
                Err(error) => context.omit(format!("decapsulation with labels never seen: {error}")),
            }
        }
    }
    part
}

/// Rounds with labels that are not counted: everything but the labels is warm.
const COLD_WARM_UP: u32 = 4;

/// Seconds of one operation, the first with these labels.
fn seconds_at(instance: &mut FabeoInstance, prefix: &str, operation: fn(&mut FabeoInstance)) -> f64 {
    instance.relabel(prefix);
    let start = Instant::now();
    operation(instance);
    start.elapsed().as_secs_f64()
}

fn cold_figure(suite: &str, measure: &str, attributes: usize, seconds: &[f64]) -> Option<Figure> {
    let spread = Spread::of(seconds)?.scaled(1e3);
    let at = (ATTRIBUTES, attributes as f64);
    let measure = format!("{measure}, labels never seen");
    Some(Figure::new(Question::Schemes, &measure, suite, at, "ms", spread))
}

/// After `cargo bench`: these ratios, measured as `smqtt bench` does, as a table on standard output. Nothing where
/// the benches only run as tests.
pub fn print_after_bench(steps: &[fn(&mut Context<'_>) -> Part]) {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let roles = Roles::none();
    let mut context = Context::silent(&Plan::STANDARD, &roles);
    let targets: Vec<Target> = steps.iter().flat_map(|step| step(&mut context).targets).collect();
    println!("{}", target_table(&targets));
}
