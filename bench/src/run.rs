//! One run: the questions asked, in order, into one report.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::counters::Counters;
use crate::machine;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::questions::{Context, device, mode, schemes, subscribers};
use crate::result::{FORMAT, Part, Question, Report};
use crate::role::Roles;

/// Measures what needs processes of the whole program. An error is said in the report, beside what was measured before it, and the rest goes on.
pub type Mqtt<'a> = dyn FnMut(&Plan, &dyn Progress) -> (Part, Result<(), Box<dyn Error>>) + 'a;

/// What a run does.
pub struct Options<'a> {
    /// How much is measured.
    pub plan: Plan,
    /// Which questions are answered.
    pub questions: Vec<Question>,
    /// The user's device: so many times slower than this machine.
    pub slow: Option<f64>,
    /// The command as it was given.
    pub command: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// How to start processes of their own.
    pub roles: Roles,
    /// Question 3.
    pub mqtt: Option<&'a mut Mqtt<'a>>,
    /// Question 6.
    pub broker: Option<&'a mut Mqtt<'a>>,
}

/// Answers the questions in the thread of the caller. Ends early where `progress` says so; the report has what there
/// is and says that it was interrupted.
pub fn run(options: Options<'_>, progress: &dyn Progress) -> Report {
    let began = Instant::now();
    let Options { plan, questions, slow, command, started, roles, mut mqtt, mut broker } = options;
    let counters = Counters::new();
    let machine = machine::describe(&counters);
    let mut context = Context { plan: &plan, progress, counters, roles: &roles, slow, omitted: Vec::new() };
    if cfg!(debug_assertions) {
        context.omitted.push("optimisation: this is a debug build, and its times mean nothing".to_owned());
    }
    let (mut all, mut failed) = (Part::default(), Vec::new());
    for question in Question::ALL.into_iter().filter(|question| questions.contains(question)) {
        if progress.stopped() {
            break;
        }
        // One that panics takes its own figures with it, not those of the others.
        let answered = catch_unwind(AssertUnwindSafe(|| match question {
            Question::Schemes => schemes::run(&mut context),
            Question::Mode => mode::run(&mut context),
            Question::Subscribers => subscribers::run(&mut context),
            Question::Device => device::run(&mut context),
            Question::Mqtt => whole(&mut context, "MQTT end to end", &mut mqtt, &mut failed),
            Question::Broker => whole(&mut context, "the broker", &mut broker, &mut failed),
        }));
        match answered {
            Ok(part) => all.extend(part),
            Err(_) => failed.push(format!("{}: a measurement panicked; please report it", question.name())),
        }
    }
    // What is not a number cannot be written, and nobody could hold it against anything.
    all.figures.retain(|figure| figure.spread.is_sound() && figure.at.is_finite());
    all.targets.retain(|target| target.measured.is_finite());
    Report {
        format: FORMAT.to_owned(),
        started,
        seconds: began.elapsed().as_secs_f64(),
        command,
        plan: plan.name.to_owned(),
        interrupted: progress.stopped(),
        machine,
        versions: machine::versions(),
        failed,
        omitted: context.omitted.into_iter().chain(all.notes).collect(),
        targets: all.targets,
        figures: all.figures,
    }
}

/// What needs processes of the whole program.
fn whole(
    context: &mut Context<'_>,
    name: &str,
    measure: &mut Option<&mut Mqtt<'_>>,
    failed: &mut Vec<String>,
) -> Part {
    let Some(measure) = measure else {
        context.omitted.push(format!("{name}: not in this build"));
        return Part::default();
    };
    let (part, done) = measure(context.plan, context.progress);
    // Whoever ended it knows.
    let error = done.err().filter(|_| !context.progress.stopped());
    failed.extend(error.map(|error| format!("{name}: {}", with_causes(&*error))));
    part
}

/// What went wrong, and what was behind it.
fn with_causes(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    // What passes on its cause's words says them once.
    texts.dedup();
    texts.join(": ")
}
