//! `smqtt bench`: what it costs, measured here.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use smqtt_bench::broker::{self, Peer, Subject};
use smqtt_bench::compare::{Comparison, Verdict, compare};
use smqtt_bench::files::{self, FilesError};
use smqtt_bench::plan::Plan;
use smqtt_bench::progress::{Bars, Progress};
use smqtt_bench::report::{amount, significant, target_table};
use smqtt_bench::result::{Part, Question, Report, Target};
use smqtt_bench::role::{self, Roles};
use smqtt_bench::run::{self, Options};
use smqtt_bench::{leftovers, mqtt};

use super::authority::stop_signal;
use super::failure::Failure;
use super::{date, print_line};

/// What a shell reports of a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// The fastest and the slowest device of `--slow`.
const SLOW_MIN: f64 = 0.001;
const SLOW_MAX: f64 = 1e9;

/// Arguments of `smqtt bench`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// Under a minute
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// For a paper, half an hour: an operation 30 times or more, one that takes seconds as often as ten seconds allow;
    /// each figure says how often
    #[arg(long)]
    full: bool,
    /// Where the report goes; made if missing [default: smqtt-bench-DATE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these questions
    #[arg(long, value_name = "QUESTIONS", value_delimiter = ',')]
    only: Vec<Asked>,
    /// Also estimate for a device N times slower than this machine, by wall time; the named microcontrollers are
    /// estimated in any case, by counted instructions
    #[arg(long, value_name = "N", value_parser = factor)]
    slow: Option<f64>,
    /// Exit with 1 if a target is not met
    #[arg(long)]
    strict: bool,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Hold two reports against each other
    Compare(CompareArgs),
    /// What the broker costs, beside mosquitto and stock rumqttd
    Broker(BrokerBenchArgs),
}

/// Arguments of `smqtt bench broker`.
#[derive(Args)]
struct BrokerBenchArgs {
    /// Whom to hold it against: `mosquitto`, which is started, or HOST:PORT, of whom nobody tells what it costs
    #[arg(long, value_name = "PEER", default_value = "mosquitto", value_parser = peer)]
    peer: Peer,
    /// About two minutes
    #[arg(long)]
    quick: bool,
    /// Where the report goes; made if missing [default: smqtt-bench-DATE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these
    #[arg(long, value_name = "SUBJECTS", value_delimiter = ',')]
    only: Vec<AskedOfBroker>,
    /// Exit with 1 if a target is not met
    #[arg(long)]
    strict: bool,
}

/// The subjects as arguments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum AskedOfBroker {
    Throughput,
    Latency,
    Durable,
    Memory,
    Scale,
    Hook,
    Engine,
}

impl AskedOfBroker {
    fn subject(self) -> Subject {
        match self {
            Self::Throughput => Subject::Throughput,
            Self::Latency => Subject::Latency,
            Self::Durable => Subject::Durable,
            Self::Memory => Subject::Memory,
            Self::Scale => Subject::Scale,
            Self::Hook => Subject::Hook,
            Self::Engine => Subject::Engine,
        }
    }
}

fn peer(text: &str) -> Result<Peer, String> {
    if text == "mosquitto" {
        return Ok(Peer::Mosquitto);
    }
    let addresses =
        text.to_socket_addrs().map_err(|error| format!("neither `mosquitto` nor HOST:PORT: {error}"))?;
    addresses.into_iter().next().map(Peer::At).ok_or_else(|| "this name has no address".to_owned())
}

/// Arguments of `smqtt bench compare`.
#[derive(Args)]
struct CompareArgs {
    /// A `results.json`, or the directory of a report
    a: PathBuf,
    /// Another
    b: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The questions as arguments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Asked {
    Schemes,
    Mode,
    Mqtt,
    Subscribers,
    Device,
}

impl Asked {
    fn question(self) -> Question {
        match self {
            Self::Schemes => Question::Schemes,
            Self::Mode => Question::Mode,
            Self::Mqtt => Question::Mqtt,
            Self::Subscribers => Question::Subscribers,
            Self::Device => Question::Device,
        }
    }
}

/// Arguments of the hidden `smqtt bench-role`.
#[derive(Args)]
pub struct RoleArgs {
    arguments: Vec<String>,
}

fn factor(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (SLOW_MIN..=SLOW_MAX).contains(n));
    number.ok_or_else(|| format!("not a number from {SLOW_MIN} to {SLOW_MAX}"))
}

impl From<FilesError> for Failure {
    fn from(error: FilesError) -> Self {
        Self::new(error.to_string()).because(&error).hint(error.hint())
    }
}

/// Measures, or compares what was measured.
pub async fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        Some(BenchCommand::Compare(args)) => compare_reports(args),
        Some(BenchCommand::Broker(args)) => measure_broker(args).await,
        None => measure(args).await,
    }
}

/// What `smqtt bench` starts itself as.
pub async fn role(args: &RoleArgs) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(error.to_string()).because(error);
    if matches!(&args.arguments[..], [name] if name == "publisher" || name == "subscriber") {
        return mqtt::role(&args.arguments).await.map_err(|error| failed(&error));
    }
    match &args.arguments[..] {
        [name] if name == "load" => return broker::load::main().map_err(|error| failed(&error)),
        [name, port] if name == "rumqttd" => {
            let port = port.parse().map_err(|error| failed(&error))?;
            return broker::rumqttd::main(port).map_err(|error| failed(&*error));
        }
        _ => {}
    }
    let printed = role::main(&args.arguments);
    print_line(printed.map_err(|error| failed(&error))?)
}

async fn measure(args: &BenchArgs) -> Result<(), Failure> {
    let plan = match (args.quick, args.full) {
        (true, _) => Plan::QUICK,
        (_, true) => Plan::FULL,
        _ => Plan::STANDARD,
    };
    let asked: BTreeSet<Asked> = args.only.iter().copied().collect();
    let questions = match asked.is_empty() {
        // The broker's is a command of its own.
        true => Question::ALL.into_iter().filter(|question| *question != Question::Broker).collect(),
        false => asked.into_iter().map(Asked::question).collect(),
    };
    let slow = args.slow;
    report(args.out.as_ref(), args.strict, move |started, bars| {
        let program = std::env::current_exe().ok();
        let mut mqtt = |plan: &Plan, progress: &dyn Progress| {
            let Some(program) = program.as_deref() else {
                return (Part::default(), Err(NO_PROGRAM.into()));
            };
            let (part, done) = mqtt::part(program, plan, progress);
            (part, done.map_err(Into::into))
        };
        run::run(
            Options {
                plan,
                questions,
                slow,
                command: command_line(),
                started,
                roles: program.clone().map_or_else(Roles::none, Roles::with),
                mqtt: Some(&mut mqtt),
                broker: None,
            },
            bars,
        )
    })
    .await
}

const NO_PROGRAM: &str = "the program does not know where it is";

async fn measure_broker(args: &BrokerBenchArgs) -> Result<(), Failure> {
    let mut plan = if args.quick { broker::Plan::quick() } else { broker::Plan::standard() };
    if !args.only.is_empty() {
        let asked: BTreeSet<AskedOfBroker> = args.only.iter().copied().collect();
        plan.subjects = asked.into_iter().map(AskedOfBroker::subject).collect();
    }
    let (peer, named) = (args.peer, if args.quick { Plan::QUICK } else { Plan::STANDARD });
    report(args.out.as_ref(), args.strict, move |started, bars| {
        let mut broker = |_: &Plan, progress: &dyn Progress| {
            let Ok(program) = std::env::current_exe() else {
                return (Part::default(), Err(NO_PROGRAM.into()));
            };
            let (part, done) = broker::part(&program, &plan, peer, progress);
            (part, done.map_err(Into::into))
        };
        run::run(
            Options {
                plan: named,
                questions: vec![Question::Broker],
                slow: None,
                command: command_line(),
                started,
                roles: Roles::none(),
                mqtt: None,
                broker: Some(&mut broker),
            },
            bars,
        )
    })
    .await
}

/// Measures in a thread of its own, and writes the report. Ctrl-C ends it after the measurement under way.
async fn report(
    out: Option<&PathBuf>,
    strict: bool,
    measure: impl FnOnce(String, &Bars) -> Report + Send + 'static,
) -> Result<(), Failure> {
    let started = date(smqtt_client::system_now());
    let out = out.cloned().unwrap_or_else(|| {
        PathBuf::from(format!("smqtt-bench-{}", started.trim_end_matches('Z').replace(':', "-")))
    });
    files::prepare(&out)?;
    let bars = Arc::new(Bars::new());
    let thread = {
        let bars = bars.clone();
        // A thread of its own: nothing else runs on it while it measures.
        std::thread::spawn(move || measure(started, &bars))
    };
    let interrupts = tokio::spawn({
        let bars = bars.clone();
        async move {
            stop_signal().await;
            bars.stop();
            eprintln!("ending after this measurement; once more ends at once");
            stop_signal().await;
            leftovers::clear();
            std::process::exit(INTERRUPTED.into());
        }
    });
    let report = tokio::task::spawn_blocking(move || thread.join()).await;
    let report = report.ok().and_then(Result::ok).ok_or_else(|| {
        Failure::new("a measurement failed")
            .hint("`--only` leaves out the question that fails; please report it")
    })?;
    bars.finish();
    if report.interrupted && report.figures.is_empty() {
        // An earlier report may be there.
        return Err(Failure::new("interrupted before anything was measured").code(INTERRUPTED));
    }
    // Whatever becomes of the files, or of who reads along: the verdicts are told, and the files written.
    let told = tell(&report.targets);
    files::write(&out, &report)?;
    interrupts.abort();
    told?;
    print_line(format!("{} figures in {}", report.figures.len(), out.join(files::HTML).display()))?;
    let missed = report.targets.iter().filter(|target| !target.met).count();
    match () {
        () if report.interrupted => {
            Err(Failure::new("interrupted").hint("the report has what there was").code(INTERRUPTED))
        }
        () if !report.failed.is_empty() => {
            Err(Failure::new(format!("not measured to the end: {}", report.failed.join("; ")))
                .hint("the report has the rest"))
        }
        () if strict && missed > 0 => Err(Failure::new(format!("{missed} targets are not met"))),
        () => Ok(()),
    }
}

fn tell(targets: &[Target]) -> Result<(), Failure> {
    if targets.is_empty() {
        return Ok(());
    }
    print_line(target_table(targets))?;
    let met = targets.iter().filter(|target| target.met).count();
    print_line(format!("\n{met} of {} targets met", targets.len()))
}

/// The command as it was given, words with anything unusual in quotes.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:".contains(c);
    let words = std::env::args_os().enumerate().map(|(i, word)| {
        let word = word.to_string_lossy().into_owned();
        match i {
            0 => "smqtt".to_owned(),
            _ if !word.is_empty() && word.chars().all(plain) => word,
            _ => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn compare_reports(args: &CompareArgs) -> Result<(), Failure> {
    let comparison = compare(&files::read(&args.a)?, &files::read(&args.b)?);
    if args.json {
        let json = serde_json::to_string_pretty(&comparison);
        return print_line(json.map_err(|error| Failure::new("cannot print").because(&error))?);
    }
    print_line(compared_table(&comparison))
}

/// One line a figure, aligned.
fn compared_table(comparison: &Comparison) -> String {
    let mut lines: Vec<String> = comparison
        .differences
        .iter()
        .map(|difference| format!("differs  {}", printable(difference)))
        .collect();
    let rows = comparison.rows.iter().map(|row| {
        let verdict = match row.verdict {
            Verdict::More => "more",
            Verdict::Less => "less",
            Verdict::Unclear => "",
        };
        [
            format!("{}: {} of {}", row.question.name(), row.measure, row.series),
            format!("{} {}", significant(row.at), row.along),
            amount(row.a, &row.unit),
            amount(row.b, &row.unit),
            row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{}x", significant(ratio))),
            verdict.to_owned(),
        ]
        .map(|cell| printable(&cell))
    });
    let head = ["", "at", "A", "B", "B / A", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3, 4].map(width);
    for [what, at, a, b, ratio, verdict] in &rows {
        let line = format!(
            "{what:<0$}  {at:<1$}  {a:>2$}  {b:>3$}  {ratio:>4$}  {verdict}",
            widths[0], widths[1], widths[2], widths[3], widths[4]
        );
        lines.push(line.trim_end().to_owned());
    }
    if comparison.only_a + comparison.only_b > 0 {
        let (a, b) = (comparison.only_a, comparison.only_b);
        lines.push(format!("only in A: {a}; only in B: {b}"));
    }
    lines.join("\n")
}

/// Text from a file, without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
