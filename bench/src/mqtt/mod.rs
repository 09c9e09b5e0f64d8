//! Question 3: what does sealing add to MQTT end to end?
//!
//! Authority, broker, publisher and subscriber are processes of their own, all of the program that runs the bench.
//! Publisher and subscriber hold a connection for each [`Mode`] at the same time, and take turns in small blocks, so
//! that what disturbs the machine disturbs all modes alike. Latency is one-way, from the call that publishes until the
//! subscriber's application has the payload, by the clock that both processes share; one message at a time. Rates and
//! CPU time are of streams with a window. Bytes are counted by relays, in runs of their own that nothing is timed in.

pub(crate) mod cpu;
mod error;
mod orders;
pub mod payload;
mod plan;
pub(crate) mod process;
mod relay;
mod role;
pub(crate) mod site;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::result::{Figure, Part, Question, Spread, Target};
use crate::stats::{Interval, SEED, median, median_interval};
use orders::{Answer, Block, Latencies, Order};
use relay::{Passed, Relays, settled};
use site::{Pair, Site};

pub use error::MqttBenchError;
pub use plan::{Cell, PAYLOADS, Plan};
pub use role::role;

/// Sealed over TLS against TLS alone, p50: what MQTLS reported for a strong host.
pub const RATIO_MAX: f64 = 1.04;
/// Of the headline.
const HEADLINE_BYTES: usize = 256;
const HEADLINE_QOS: u8 = 1;
/// Messages that a mode sends before a cell is measured.
const WARM_UP: u32 = 5;
/// How many messages of a stream may be on their way.
const WINDOW: u32 = 64;
/// Messages of a stream of [`Mode::SealedPerMessage`], if time does not end it before: brokers take 64 new headers of a
/// publisher at once, and then one a second.
const FRESH_STREAM: u32 = 40;
/// Longest answer that is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How a message is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// MQTT over TCP.
    Plain,
    /// MQTT over TLS, both sides with certificates.
    Tls,
    /// AES-256-GCM under a key that both ends were given, over TLS.
    Psk,
    /// Sealed over TLS; the header was sent before.
    Sealed,
    /// The same, and each message signed.
    SealedSigned,
    /// Sealed over TLS, each message under a header of its own.
    SealedPerMessage,
}

/// All of them.
pub const MODES: [Mode; 6] =
    [Mode::Plain, Mode::Tls, Mode::Psk, Mode::Sealed, Mode::SealedSigned, Mode::SealedPerMessage];

impl Mode {
    /// The name of its series.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Psk => "psk",
            Self::Sealed => "sealed",
            Self::SealedSigned => "sealed-signed",
            Self::SealedPerMessage => "sealed-per-message",
        }
    }

    /// Whether SMQTT seals.
    pub fn is_sealed(self) -> bool {
        matches!(self, Self::Sealed | Self::SealedSigned | Self::SealedPerMessage)
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every line of every plot.
    pub figures: Vec<Figure>,
    /// The promise, held against the headline.
    pub targets: Vec<Target>,
    /// What whoever reads the figures must know.
    pub notes: Vec<String>,
    /// The line to beat.
    pub headline: Option<Headline>,
}

/// Sealed over TLS against TLS alone: 256 bytes, QoS 1, p50 of blocks that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// p50 of a sealed block divided by that of its TLS block, the median of all pairs.
    pub ratio: Interval,
    /// The same, subtracted, in microseconds.
    pub difference: Interval,
    /// The ratio of two TLS blocks of one round: what the machine's noise alone makes, so 1 is in it.
    pub control: Interval,
}

/// Question 3 as a part of a run, measured in the thread of the caller.
///
/// Beside it what ended it before its time, [`MqttBenchError::Stopped`] where `progress` said so: what was measured before
/// that stays.
pub fn part(
    exe: &Path,
    plan: &crate::plan::Plan,
    progress: &dyn Progress,
) -> (Part, Result<(), MqttBenchError>) {
    let plan = match plan.name {
        "quick" => Plan::quick(),
        "full" => Plan::full(),
        _ => Plan::standard(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime.map_err(MqttBenchError::io("start a runtime")) {
        Ok(runtime) => runtime,
        Err(error) => return (Part::default(), Err(error)),
    };
    progress.begin("mqtt", 1000);
    let stop = || progress.stopped();
    let mut tell = |what: &str, share: f64| progress.reached(what, share);
    let (outcome, done) = runtime.block_on(run(exe, &plan, &mut tell, &stop));
    (Part { figures: outcome.figures, targets: outcome.targets, notes: outcome.notes }, done)
}

/// Measures as `plan` says, with processes of `exe`, which is `smqtt` itself and hands [`SUBCOMMAND`](crate::role::SUBCOMMAND)
/// with a name to [`role`]. `progress` is
/// told what is going on, and how much of all is done; `stop` is asked between blocks. Whatever happens, no process and
/// no file is left behind, and what was measured until then is there beside what ended it:
/// [`MqttBenchError::Stopped`] where `stop` said so.
pub async fn run(
    exe: &Path,
    plan: &Plan,
    progress: &mut (dyn FnMut(&str, f64) + Send),
    stop: &(dyn Fn() -> bool + Sync),
) -> (Outcome, Result<(), MqttBenchError>) {
    let mut bench = Bench { plan, steps: Steps::of(plan, progress, stop), outcome: Outcome::default() };
    let done = bench.all(exe).await;
    if !bench.outcome.figures.is_empty() {
        bench.notes();
    }
    (bench.outcome, done)
}

/// How far it is, and whether to go on.
struct Steps<'a> {
    what: String,
    done: f64,
    all: f64,
    progress: &'a mut (dyn FnMut(&str, f64) + Send),
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Steps<'a> {
    /// Steps are weighed by the seconds that they take, more or less.
    fn of(
        plan: &Plan,
        progress: &'a mut (dyn FnMut(&str, f64) + Send),
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        let cells = plan.cells.len() as f64;
        let streams = (plan.streams.len() * MODES.len()) as f64 * f64::from(plan.stream_rounds);
        let all = SETUP_WEIGHT
            + f64::from(plan.pairs) * ROUND_WEIGHT
            + cells * (f64::from(plan.rounds) * ROUND_WEIGHT + COUNT_WEIGHT)
            + streams * plan.stream_seconds;
        Self { what: String::new(), done: 0.0, all, progress, stop }
    }

    fn begin(&mut self, what: &str) -> Result<(), MqttBenchError> {
        what.clone_into(&mut self.what);
        self.did(0.0)
    }

    fn did(&mut self, weight: f64) -> Result<(), MqttBenchError> {
        self.done += weight;
        (self.progress)(&self.what, (self.done / self.all).min(1.0));
        if (self.stop)() { Err(MqttBenchError::Stopped) } else { Ok(()) }
    }
}

const SETUP_WEIGHT: f64 = 2.0;
const ROUND_WEIGHT: f64 = 0.04;
const COUNT_WEIGHT: f64 = 0.5;

struct Bench<'a> {
    plan: &'a Plan,
    steps: Steps<'a>,
    outcome: Outcome,
}

impl Bench<'_> {
    async fn all(&mut self, exe: &Path) -> Result<(), MqttBenchError> {
        self.steps.begin("starting authority and broker, enrolling devices")?;
        let site = Site::start(exe, self.plan.publishers).await?;
        let done = self.measure(&site).await;
        site.stop().await;
        done
    }

    async fn measure(&mut self, site: &Site) -> Result<(), MqttBenchError> {
        let mut pair = site.pair(None).await?;
        let done = self.timed(site, &mut pair).await;
        pair.end().await;
        done?;
        let mut relays = <[Relays; 2]>::default();
        let mut pair = site.pair(Some(&mut relays)).await?;
        let done = self.counted(&mut pair, &relays).await;
        pair.end().await;
        done
    }

    async fn timed(&mut self, site: &Site, pair: &mut Pair) -> Result<(), MqttBenchError> {
        self.steps.did(SETUP_WEIGHT)?;
        let plan = self.plan;
        self.headline(pair).await?;
        for cell in &plan.cells {
            self.latency(pair, *cell).await?;
        }
        for cell in &plan.streams {
            self.streams(site, pair, *cell).await?;
        }
        Ok(())
    }

    async fn counted(&mut self, pair: &mut Pair, relays: &[Relays; 2]) -> Result<(), MqttBenchError> {
        let plan = self.plan;
        for cell in &plan.cells {
            self.bytes(pair, relays, *cell).await?;
        }
        Ok(())
    }

    /// TLS, sealed, TLS again: in each round in another order.
    async fn headline(&mut self, pair: &mut Pair) -> Result<(), MqttBenchError> {
        self.steps.begin("256 bytes, QoS 1: TLS and sealed in turn")?;
        let cell = Cell { qos: HEADLINE_QOS, payload_bytes: HEADLINE_BYTES };
        let order = [Mode::Tls, Mode::Sealed, Mode::Tls];
        warm_up(pair, cell).await?;
        let (mut ratios, mut differences, mut controls) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.plan.pairs as usize {
            let turns: [usize; 3] = std::array::from_fn(|n| (n + round) % 3);
            let blocks = turns.map(|turn| block(order[turn], cell, self.plan.block));
            let latencies = latencies(pair, blocks.into()).await?;
            let mut p50 = [f64::NAN; 3];
            for (turn, latencies) in turns.into_iter().zip(latencies) {
                p50[turn] = median(&mut micros(&latencies.arrived)).unwrap_or(f64::NAN);
            }
            let [tls, sealed, again] = p50;
            ratios.push(sealed / tls);
            differences.push(sealed - tls);
            controls.push(again / tls);
            self.steps.did(ROUND_WEIGHT)?;
        }
        let interval = |samples: &[f64]| median_interval(samples, SEED);
        let found = (interval(&ratios), interval(&differences), interval(&controls));
        let (Some(ratio), Some(difference), Some(control)) = found else { return Ok(()) };
        let text = |i: Interval| {
            format!(
                "median {:.4}, 95 % confidence {:.4} to {:.4}, of interleaved pairs",
                i.median, i.low, i.high
            )
        };
        let at = cell.payload_bytes as f64;
        for (measure, series, unit, samples, interval) in [
            ("p50 against TLS, QoS 1", "sealed", "ratio", &ratios, ratio),
            ("p50 against TLS, QoS 1", "tls (control)", "ratio", &controls, control),
            ("p50 above TLS, QoS 1", "sealed", "µs", &differences, difference),
        ] {
            self.figure(measure, series, at, unit, samples, Some(text(interval)));
        }
        let name = "sealed over TLS against TLS alone: 256 bytes, QoS 1, p50 of interleaved pairs";
        let target = Target::at_most(name, RATIO_MAX, ratio.median, "ratio");
        self.outcome.targets.push(target.of(ratios.len() as u64, ratio));
        self.outcome.headline = Some(Headline { ratio, difference, control });
        Ok(())
    }

    /// All modes in turn.
    async fn latency(&mut self, pair: &mut Pair, cell: Cell) -> Result<(), MqttBenchError> {
        let Cell { qos, payload_bytes } = cell;
        self.steps.begin(&format!("latency: {payload_bytes} bytes, QoS {qos}"))?;
        warm_up(pair, cell).await?;
        let mut found: BTreeMap<Mode, [Vec<f64>; 2]> = BTreeMap::new();
        let rounds = self.plan.rounds;
        for round in 0..rounds {
            let turns = MODES.map(|mode| {
                let share = |of: u32| of * (round + 1) / rounds - of * round / rounds;
                let fresh = mode == Mode::SealedPerMessage;
                block(mode, cell, if fresh { share(self.plan.fresh) } else { self.plan.block })
            });
            let mut blocks = turns.to_vec();
            blocks.rotate_left(round as usize % MODES.len());
            let answers = latencies(pair, blocks.clone()).await?;
            for (block, latencies) in blocks.into_iter().zip(answers) {
                let [arrived, acknowledged] = found.entry(block.mode).or_default();
                arrived.extend(micros(&latencies.arrived));
                acknowledged.extend(micros(&latencies.acknowledged));
            }
            self.steps.did(ROUND_WEIGHT)?;
        }
        for (mode, [arrived, acknowledged]) in found {
            let at = payload_bytes as f64;
            self.figure(&format!("latency, QoS {qos}"), mode.name(), at, "µs", &arrived, None);
            let measure = format!("publish call, QoS {qos}");
            self.figure(&measure, mode.name(), at, "µs", &acknowledged, None);
        }
        Ok(())
    }

    /// Rates, and the CPU time that they cost.
    async fn streams(&mut self, site: &Site, pair: &mut Pair, cell: Cell) -> Result<(), MqttBenchError> {
        let Cell { qos, payload_bytes } = cell;
        self.steps.begin(&format!("streams: {payload_bytes} bytes, QoS {qos}"))?;
        let mut found: BTreeMap<(&str, &str, Mode), Vec<f64>> = BTreeMap::new();
        let seconds = self.plan.stream_seconds;
        for round in 0..self.plan.stream_rounds as usize {
            for turn in 0..MODES.len() {
                let mode = MODES[(turn + round) % MODES.len()];
                let count = if mode == Mode::SealedPerMessage { FRESH_STREAM } else { u32::MAX };
                let order = Order::Stream { block: block(mode, cell, count), seconds, window: WINDOW };
                let times = || Some((pair.times()?, site.broker_time()?));
                let before = times();
                let Answer::Streamed { count, seconds: took } = pair.order(&order, ANSWER_TIMEOUT).await?
                else {
                    return Err(MqttBenchError::Unexpected("publisher"));
                };
                let times = || Some((pair.times()?, site.broker_time()?));
                let after = times();
                let mut add = |measure, unit, value| {
                    found.entry((measure, unit, mode)).or_default().push(value);
                };
                add("throughput", "messages/s", f64::from(count) / took);
                if let (Some(((p0, s0), b0)), Some(((p1, s1), b1))) = (before, after) {
                    let each = |from: Duration, to: Duration| {
                        to.saturating_sub(from).as_secs_f64() * 1e6 / f64::from(count)
                    };
                    let parts = [each(p0, p1), each(b0, b1), each(s0, s1)];
                    add("CPU of publisher", "µs/message", parts[0]);
                    add("CPU of broker", "µs/message", parts[1]);
                    add("CPU of subscriber", "µs/message", parts[2]);
                    add("CPU of all three", "µs/message", parts.iter().sum());
                }
                self.steps.did(seconds)?;
            }
        }
        for ((measure, unit, mode), samples) in found {
            let measure = format!("{measure}, QoS {qos}");
            self.figure(&measure, mode.name(), payload_bytes as f64, unit, &samples, None);
        }
        Ok(())
    }

    /// Bytes of the first message and of those after it.
    async fn bytes(
        &mut self,
        pair: &mut Pair,
        relays: &[Relays; 2],
        cell: Cell,
    ) -> Result<(), MqttBenchError> {
        let Cell { qos, payload_bytes } = cell;
        self.steps.begin(&format!("bytes on the wire: {payload_bytes} bytes, QoS {qos}"))?;
        let [publisher, subscriber] = relays;
        for mode in MODES {
            let count = if mode == Mode::SealedPerMessage { 1 } else { self.plan.counted };
            // The headers go along with the first.
            latencies(pair, vec![block(mode, cell, 1)]).await?;
            let before = settled(publisher, subscriber).await;
            latencies(pair, vec![block(mode, cell, count)]).await?;
            let after = settled(publisher, subscriber).await;
            // Nothing tells where in the stream one message ends, so there is one sample: the mean.
            let note = (count > 1).then(|| format!("mean of {count} messages"));
            let each = |from: u64, to: u64| (to - from) as f64 / f64::from(count);
            let both =
                |a: Passed, b: Passed| each(a.to_broker, b.to_broker) + each(a.from_broker, b.from_broker);
            let to_broker = each(before.0.to_broker, after.0.to_broker);
            let to_subscriber = each(before.1.from_broker, after.1.from_broker);
            let all = both(before.0, after.0) + both(before.1, after.1);
            for (measure, bytes) in [
                ("bytes from publisher to broker", to_broker),
                ("bytes from broker to subscriber", to_subscriber),
                ("bytes on both connections, acknowledgements too", all),
            ] {
                let measure = format!("{measure}, QoS {qos}");
                self.figure(&measure, mode.name(), payload_bytes as f64, "bytes", &[bytes], note.clone());
            }
        }
        self.steps.did(COUNT_WEIGHT)
    }

    fn figure(
        &mut self,
        measure: &str,
        series: &str,
        at: f64,
        unit: &str,
        samples: &[f64],
        note: Option<String>,
    ) {
        let Some(spread) = Spread::of(samples) else { return };
        self.outcome.figures.push(Figure {
            question: Question::Mqtt,
            measure: measure.into(),
            series: series.into(),
            along: "payload bytes".into(),
            at,
            unit: unit.into(),
            spread,
            note,
        });
    }

    fn notes(&mut self) {
        let notes = &mut self.outcome.notes;
        notes.push(format!(
            "latency: one way, one message at a time, in blocks of {} that take turns; publisher, broker and subscriber \
             are three processes of one machine",
            self.plan.block
        ));
        if let Some(Headline { ratio, difference, control }) = self.outcome.headline {
            notes.push(format!(
                "sealed over TLS takes {:.3} of TLS alone ({:.3} to {:.3}), {:+.1} µs ({:+.1} to {:+.1}); \
                 TLS against itself {:.3} ({:.3} to {:.3})",
                ratio.median,
                ratio.low,
                ratio.high,
                difference.median,
                difference.low,
                difference.high,
                control.median,
                control.low,
                control.high
            ));
        }
        notes.push(format!(
            "a header of its own for each message is no way to run SMQTT: a broker takes 64 new headers of a publisher at \
             once and then one a second, so {} publishers share that load, and its streams are of {FRESH_STREAM} messages",
            self.plan.publishers
        ));
        let header = header_bytes(&self.outcome.figures).map_or(String::new(), |bytes| {
            let each = bytes / 1000.0;
            format!(
                " ({bytes} bytes here, so {each:.1} bytes a message where a thousand go under one header)"
            )
        });
        self.outcome.notes.push(format!(
            "`sealed` sends its header once on each connection for each content key, which lives for an hour: the bytes of a \
             message are without it{header}"
        ));
    }
}

/// What a message with its header has more on the wire than one without.
fn header_bytes(figures: &[Figure]) -> Option<f64> {
    let measure = format!("bytes from publisher to broker, QoS {HEADLINE_QOS}");
    let of = |mode: Mode| {
        let here =
            |f: &&Figure| f.measure == measure && f.series == mode.name() && f.at == HEADLINE_BYTES as f64;
        figures.iter().find(here).map(|figure| figure.spread.p50)
    };
    Some(of(Mode::SealedPerMessage)? - of(Mode::Sealed)?)
}

fn block(mode: Mode, cell: Cell, count: u32) -> Block {
    Block { mode, qos: cell.qos, bytes: cell.payload_bytes, count }
}

/// A few messages of each mode that nobody looks at.
async fn warm_up(pair: &mut Pair, cell: Cell) -> Result<(), MqttBenchError> {
    let count = |mode| if mode == Mode::SealedPerMessage { 1 } else { WARM_UP };
    latencies(pair, MODES.map(|mode| block(mode, cell, count(mode))).into()).await.map(drop)
}

async fn latencies(pair: &mut Pair, blocks: Vec<Block>) -> Result<Vec<Latencies>, MqttBenchError> {
    match pair.order(&Order::Latency(blocks), ANSWER_TIMEOUT).await? {
        Answer::Latencies(latencies) => Ok(latencies),
        _ => Err(MqttBenchError::Unexpected("publisher")),
    }
}

fn micros(nanoseconds: &[u64]) -> Vec<f64> {
    nanoseconds.iter().map(|n| *n as f64 / 1e3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_named_as_they_are_written() {
        for mode in MODES {
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{}\"", mode.name()));
        }
    }
}
