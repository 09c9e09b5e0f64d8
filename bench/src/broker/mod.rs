//! What the broker costs, beside mosquitto and stock rumqttd: `smqtt bench broker`.
//!
//! Every broker is a process of its own, and so is the load of each ([`load`]); all of it on one machine's loopback. A
//! comparison keeps both sides running and lets them take turns in short rounds, in each round in another order, so that
//! what disturbs the machine disturbs all alike; a ratio is made of the two sides of one round. Our side runs as a site
//! runs it: of an authority, with the secure-publish hook, rules and a store.

pub mod load;
mod orders;
mod peers;
mod plan;
pub mod rumqttd;
mod sealed;
mod socket;
mod verdicts;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::MqttBenchError;
use crate::mqtt::process::{Process, program};
use crate::progress::Progress;
use crate::result::{Figure, Part, Question, Spread};
use crate::role::SUBCOMMAND;
use orders::{Answer, Order, Setup, Streamed, To};
use peers::{Broker, Engine, Kind, Site, mosquitto_program};
use verdicts::{Bound, Rounds};

pub use plan::{Peer, Plan, Subject};

/// Bytes of a payload.
pub const PAYLOAD_BYTES: usize = 256;
/// Connections on the side of many.
pub const MANY: usize = 20;
/// Messages under way at a time.
const WINDOW: u64 = 1_024;
/// Of QoS 1: what one publisher may have unacknowledged; what stock rumqttd takes.
const INFLIGHT: u64 = 100;
/// Messages in a row for one of many subscribers.
const RUN: u64 = 64;
/// Longest answer of a load that is waited for; it may have to make 100,000 subscriptions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// A load that uses more of its processor than this is what was measured, not the broker.
const LOAD_SHARE_MAX: f64 = 0.9;

/// Measures as `plan` says, with processes of `exe`, which is `smqtt` itself and hands
/// [`SUBCOMMAND`] with `load` or `rumqttd` to [`load::main`] and [`rumqttd::main`]. Whatever happens, no process and no
/// file is left behind. Beside it what ended it before its time, [`MqttBenchError::Stopped`] where `progress` said so; one
/// comparison that fails is noted, and the next begins.
pub fn part(
    exe: &Path,
    plan: &Plan,
    peer: Peer,
    progress: &dyn Progress,
) -> (Part, Result<(), MqttBenchError>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime.map_err(MqttBenchError::io("start a runtime")) {
        Ok(runtime) => runtime.block_on(run(exe, plan, peer, progress)),
        Err(error) => (Part::default(), Err(error)),
    }
}

/// [`part`] inside a runtime.
pub async fn run(
    exe: &Path,
    plan: &Plan,
    peer: Peer,
    progress: &dyn Progress,
) -> (Part, Result<(), MqttBenchError>) {
    progress.begin("broker", steps(plan));
    load::raise_files_max();
    let site = match Site::start(exe).await {
        Ok(site) => site,
        Err(error) => return (Part::default(), Err(error)),
    };
    let missing = peer == Peer::Mosquitto && mosquitto_program().is_none();
    let mut bench = Bench {
        exe: exe.to_owned(),
        plan,
        peer: (!missing).then_some(peer),
        progress,
        site,
        loads: 0,
        part: Part::default(),
    };
    if missing {
        let text = "mosquitto is not installed: everything that is held against it is NOT MEASURED";
        eprintln!("{text}");
        bench.part.notes.push(text.to_owned());
    }
    let mut done = Ok(());
    for subject in &plan.subjects {
        match bench.measure(*subject).await {
            Err(MqttBenchError::Stopped) => {
                done = Err(MqttBenchError::Stopped);
                break;
            }
            Err(error) => bench.part.notes.push(format!("{subject:?}: not measured: {error}")),
            Ok(()) => {}
        }
    }
    bench.notes();
    bench.site.stop().await;
    (bench.part, done)
}

fn steps(plan: &Plan) -> u64 {
    let rounds = |subject: &Subject| {
        let comparisons = match subject {
            Subject::Throughput => SHAPES.len() as u32 * 2 * 3,
            Subject::Engine => SHAPES.len() as u32 * 2 * 2,
            Subject::Durable => 4,
            Subject::Hook => return u64::from(plan.hook_rounds) * 8,
            Subject::Scale => 8,
            Subject::Memory => return 3,
            Subject::Latency => return u64::from(plan.latency_rounds) * 6,
        };
        u64::from(comparisons * plan.rounds)
    };
    plan.subjects.iter().map(rounds).sum()
}

/// Publishers, subscribers.
const SHAPES: [(usize, usize); 3] = [(1, 1), (MANY, 1), (1, MANY)];

struct Bench<'a> {
    exe: PathBuf,
    plan: &'a Plan,
    peer: Option<Peer>,
    progress: &'a dyn Progress,
    site: Site,
    loads: usize,
    part: Part,
}

/// Those of a comparison, by the name of their series.
type Brokers = Vec<(&'static str, Broker)>;

/// A broker of a comparison, with its load.
struct Side {
    name: &'static str,
    load: Process,
}

const OURS: &str = "smqtt";
const RUMQTTD: &str = "rumqttd";
const MOSQUITTO: &str = "mosquitto";
const MOSQUITTO_SAVING: &str = "mosquitto, saving";
const OPEN: &str = "smqtt, no hook";

impl Bench<'_> {
    async fn measure(&mut self, subject: Subject) -> Result<(), MqttBenchError> {
        match subject {
            Subject::Throughput => self.throughput().await,
            Subject::Latency => self.latency().await,
            Subject::Durable => self.durable().await,
            Subject::Memory => self.memory().await,
            Subject::Scale => self.scale().await,
            Subject::Hook => self.hook().await,
            Subject::Engine => self.engine().await,
        }
    }

    fn step(&self, what: &str) -> Result<(), MqttBenchError> {
        self.progress.step(what);
        if self.progress.stopped() { Err(MqttBenchError::Stopped) } else { Ok(()) }
    }

    /// What the report calls the peer, and how it is started.
    fn peer(&self) -> Option<(&'static str, Kind)> {
        match self.peer? {
            Peer::Mosquitto => Some((MOSQUITTO, Kind::Mosquitto)),
            Peer::At(address) => Some(("peer", Kind::At(address))),
        }
    }

    async fn throughput(&mut self) -> Result<(), MqttBenchError> {
        let mut kinds = vec![(OURS, Kind::Rules(Engine::Default)), (RUMQTTD, Kind::Rumqttd)];
        kinds.extend(self.peer());
        let brokers = self.brokers(&kinds).await?;
        let done = self.throughput_of(&brokers).await;
        stop(brokers).await;
        done
    }

    async fn throughput_of(&mut self, brokers: &Brokers) -> Result<(), MqttBenchError> {
        for (publishers, subscribers) in SHAPES {
            for qos in [0, 1] {
                let shape = format!("{publishers} to {subscribers}, QoS {qos}");
                let setup = Setup { publishers, subscribers, qos, ..base() };
                let sides: Vec<_> =
                    brokers.iter().map(|(name, broker)| (*name, broker, setup.clone())).collect();
                let rounds = self.streams(&shape, self.plan.rounds, sides).await?;
                self.told(&rounds, &shape);
                let times = if subscribers > 1 { 6.0 } else { 2.0 };
                if let Some((peer, _)) = self.peer() {
                    let name = format!("deliveries a second against {peer}, {shape}");
                    let rates = rounds.ratios(OURS, peer, |one| Some(one.rate()));
                    self.target(&name, Bound::AtLeast(times), &rates);
                    let name = format!("CPU of {peer} against ours, per delivery, {shape}");
                    let costs = rounds.ratios(peer, OURS, Streamed::broker_us);
                    self.target(&name, Bound::AtLeast(times), &costs);
                }
                let name = format!("CPU per delivery against rumqttd, {shape}");
                let costs = rounds.ratios(OURS, RUMQTTD, Streamed::broker_us);
                self.target(&name, Bound::AtMost(1.25), &costs);
            }
        }
        Ok(())
    }

    async fn engine(&mut self) -> Result<(), MqttBenchError> {
        const DIRECT: &str = "smqtt, direct";
        const ROUTER: &str = "smqtt, router";
        let kinds = [(DIRECT, Kind::Rules(Engine::Direct)), (ROUTER, Kind::Rules(Engine::Rumqttd))];
        let brokers = self.brokers(&kinds).await?;
        let done = self.engine_of(&brokers).await;
        stop(brokers).await;
        done
    }

    async fn engine_of(&mut self, brokers: &Brokers) -> Result<(), MqttBenchError> {
        for (publishers, subscribers) in SHAPES {
            for qos in [0, 1] {
                let shape = format!("{publishers} to {subscribers}, QoS {qos}");
                let setup = Setup { publishers, subscribers, qos, ..base() };
                let sides = brokers.iter().map(|(name, broker)| (*name, broker, setup.clone())).collect();
                let rounds = self.streams(&shape, self.plan.rounds, sides).await?;
                self.told(&rounds, &shape);
            }
        }
        Ok(())
    }

    async fn hook(&mut self) -> Result<(), MqttBenchError> {
        let brokers = self.brokers(&[(OURS, Kind::Rules(Engine::Default)), (OPEN, Kind::Open)]).await?;
        let done = self.hook_of(&brokers).await;
        stop(brokers).await;
        done
    }

    async fn hook_of(&mut self, brokers: &Brokers) -> Result<(), MqttBenchError> {
        for (what, keyring) in [("plain", None), ("sealed over TLS", Some(self.site.device().to_owned()))] {
            for qos in [0, 1] {
                let shape = format!("hook, {what}, QoS {qos}");
                let setup = Setup { qos, keyring: keyring.clone(), ..base() };
                let sides = brokers.iter().map(|(name, broker)| (*name, broker, setup.clone())).collect();
                let rounds = self.streams(&shape, self.plan.hook_rounds, sides).await?;
                self.told(&rounds, &shape);
                let rates = rounds.ratios(OURS, OPEN, |one| Some(one.rate()));
                let name = format!("throughput with the hook against without, {what}, QoS {qos}");
                self.target(&name, Bound::AtLeast(0.9), &rates);
            }
        }
        Ok(())
    }

    async fn durable(&mut self) -> Result<(), MqttBenchError> {
        let mut kinds = vec![(OURS, Kind::Rules(Engine::Default))];
        if self.peer == Some(Peer::Mosquitto) {
            kinds.push((MOSQUITTO_SAVING, Kind::MosquittoSaving));
        }
        let brokers = self.brokers(&kinds).await?;
        let done = self.durable_of(&brokers).await;
        stop(brokers).await;
        done
    }

    async fn durable_of(&mut self, brokers: &Brokers) -> Result<(), MqttBenchError> {
        for (publishers, subscribers) in [(1, 1), (MANY, 1)] {
            let shape = format!("durable, {publishers} to {subscribers}, QoS 1");
            let setup = Setup { publishers, subscribers, qos: 1, kept: true, ..base() };
            let sides = brokers.iter().map(|(name, broker)| (*name, broker, setup.clone())).collect();
            let rounds = self.streams(&shape, self.plan.rounds, sides).await?;
            self.told(&rounds, &shape);
            if brokers.len() > 1 {
                let rates = rounds.ratios(OURS, MOSQUITTO_SAVING, |one| Some(one.rate()));
                let name =
                    format!("deliveries a second against mosquitto that saves on every change, {shape}");
                self.target(&name, Bound::AtLeast(1.0), &rates);
            }
        }
        Ok(())
    }

    async fn scale(&mut self) -> Result<(), MqttBenchError> {
        const FEW: &str = "few";
        const MANY_OF_IT: &str = "many";
        let plan = self.plan;
        let (each, connections) = (plan.filters_each, plan.connections);
        let idle = |idle, idle_filters| Setup { idle, idle_filters, ..base() };
        let spread =
            |subscribers, filters| Setup { subscribers, to: To::One { filters, run: RUN }, ..base() };
        let cases = [
            (format!("{} filters, not matched", 100 * each), idle(10, 1), idle(100, each)),
            (format!("{} filters, each matched in turn", 100 * each), spread(10, 1), spread(100, each)),
            (format!("{connections} connections, idle"), idle(10, 1), idle(connections, 1)),
            (format!("{connections} connections, each in turn"), spread(10, 1), spread(connections, 1)),
        ];
        for (what, few, many) in cases {
            let kind = Kind::Rules(Engine::Default);
            let brokers = self.brokers(&[(FEW, kind), (MANY_OF_IT, kind)]).await?;
            let sides = brokers
                .iter()
                .zip([few, many])
                .map(|((name, broker), setup)| (*name, broker, setup))
                .collect();
            let rounds = self.streams(&what, self.plan.rounds, sides).await;
            stop(brokers).await;
            let rounds = rounds?;
            self.told(&rounds, &what);
            let costs = rounds.ratios(MANY_OF_IT, FEW, Streamed::broker_us);
            self.target(&format!("CPU per message against 10, {what}"), Bound::AtMost(2.0), &costs);
        }
        Ok(())
    }

    async fn latency(&mut self) -> Result<(), MqttBenchError> {
        let mut kinds = vec![(OURS, Kind::Rules(Engine::Default)), (RUMQTTD, Kind::Rumqttd)];
        kinds.extend(self.peer());
        let brokers = self.brokers(&kinds).await?;
        let done = self.latency_of(&brokers).await;
        stop(brokers).await;
        done
    }

    async fn latency_of(&mut self, brokers: &Brokers) -> Result<(), MqttBenchError> {
        for qos in [0, 1] {
            let mut sides = Vec::new();
            for (name, broker) in brokers {
                sides.push(self.load(name, broker, Setup { qos, ..base() }).await?);
            }
            let order = Order::Latency { count: self.plan.latency_block, pause_us: self.plan.pause_us };
            let names: Vec<&str> = sides.iter().map(|side| side.name).collect();
            let (mut all, mut medians) = (vec![Vec::new(); names.len()], vec![Vec::new(); names.len()]);
            let what = format!("latency, QoS {qos}");
            self.turns(&what, sides, self.plan.latency_rounds, &order, |at, answer| {
                let Answer::Latencies(took) = answer else { return false };
                let mut micros: Vec<f64> = took.iter().map(|nanos| *nanos as f64 / 1e3).collect();
                all[at].extend_from_slice(&micros);
                medians[at].extend(crate::stats::median(&mut micros));
                true
            })
            .await?;
            for (name, samples) in names.iter().zip(&all) {
                self.figure(&format!("latency at a low rate, QoS {qos}"), name, "µs", samples, None);
            }
            if let Some((peer, _)) = self.peer() {
                let of = |name| names.iter().position(|other| *other == name);
                let both = of(OURS).zip(of(peer));
                let ratios: Vec<f64> = both.map_or_else(Vec::new, |(ours, theirs)| {
                    medians[ours].iter().zip(&medians[theirs]).map(|(ours, theirs)| ours / theirs).collect()
                });
                self.target(&format!("p50 latency against {peer}, QoS {qos}"), Bound::AtMost(2.0), &ratios);
            }
        }
        Ok(())
    }

    /// In brokers that nobody used before: what was freed there hides what is taken anew.
    async fn memory(&mut self) -> Result<(), MqttBenchError> {
        let idle = self.plan.idle;
        let mut kinds = vec![(OURS, Kind::Rules(Engine::Default)), (RUMQTTD, Kind::Rumqttd)];
        kinds.extend(self.peer().filter(|(_, kind)| !matches!(kind, Kind::At(_))));
        for (name, kind) in kinds {
            self.step("memory of idle connections")?;
            let broker = self.site.broker(kind).await?;
            // What the first connection needs once is not what each needs.
            let first = self.load(name, &broker, base()).await?;
            let before = broker.resident_bytes();
            let setup = Setup { publishers: 0, subscribers: 0, idle, idle_filters: 1, ..base() };
            let load = self.load(name, &broker, setup).await?;
            let after = broker.resident_bytes();
            if let Some((before, after)) = before.zip(after) {
                let each = after.saturating_sub(before) as f64 / idle as f64;
                let note = format!("{idle} connections with one subscription each");
                self.figure("memory of an idle connection", name, "bytes", &[each], Some(note));
                if name == OURS {
                    let name = "memory of an idle connection with one subscription";
                    self.part.targets.push(crate::result::Target::at_most(name, 16_384.0, each, "bytes"));
                }
            }
            end(load).await;
            end(first).await;
            broker.stop().await;
        }
        Ok(())
    }

    async fn brokers(&mut self, kinds: &[(&'static str, Kind)]) -> Result<Brokers, MqttBenchError> {
        let mut brokers = Vec::with_capacity(kinds.len());
        for (name, kind) in kinds {
            brokers.push((*name, self.site.broker(*kind).await?));
        }
        Ok(brokers)
    }

    async fn load(
        &mut self,
        name: &'static str,
        broker: &Broker,
        setup: Setup,
    ) -> Result<Side, MqttBenchError> {
        self.loads += 1;
        let address = match setup.keyring {
            Some(_) => broker.tls.ok_or(MqttBenchError::Unexpected("broker"))?,
            None => broker.address,
        };
        let setup = Setup { address, broker: broker.pid(), name: format!("l{}", self.loads), ..setup };
        let load = Process::spawn("load", program(&self.exe).args([SUBCOMMAND, "load"]))?;
        let mut side = Side { name, load };
        side.load.say(&setup).await?;
        match hear(&mut side).await? {
            Answer::Ready => Ok(side),
            _ => Err(MqttBenchError::Unexpected("load")),
        }
    }

    /// Streams of all sides in turn, `count` rounds of them.
    async fn streams(
        &mut self,
        what: &str,
        count: u32,
        sides: Vec<(&'static str, &Broker, Setup)>,
    ) -> Result<Rounds, MqttBenchError> {
        let mut running = Vec::with_capacity(sides.len());
        for (name, broker, setup) in sides {
            running.push(self.load(name, broker, setup).await?);
        }
        let order = Order::Stream { warm_up_seconds: self.plan.warm_up_seconds, seconds: self.plan.seconds };
        let mut rounds = Rounds::new(running.iter().map(|side| side.name));
        self.turns(what, running, count, &order, |at, answer| {
            let Answer::Streamed(streamed) = answer else { return false };
            rounds.add(at, streamed);
            true
        })
        .await?;
        Ok(rounds)
    }

    /// Has all sides do the same in turn, in each round in another order, and ends them. `take` says whether an answer is
    /// one to the order.
    async fn turns(
        &self,
        what: &str,
        mut sides: Vec<Side>,
        rounds: u32,
        order: &Order,
        mut take: impl FnMut(usize, Answer) -> bool,
    ) -> Result<(), MqttBenchError> {
        let mut done = Ok(());
        for turn in 0..rounds as usize * sides.len() {
            let at = (turn + turn / sides.len()) % sides.len();
            done = match self.step(what) {
                Ok(()) => ask(&mut sides[at], order).await.and_then(|answer| {
                    if take(at, answer) { Ok(()) } else { Err(MqttBenchError::Unexpected("load")) }
                }),
                stopped => stopped,
            };
            if done.is_err() {
                break;
            }
        }
        for side in sides {
            end(side).await;
        }
        done
    }

    /// The figures of a comparison, and what is to be known of them.
    fn told(&mut self, rounds: &Rounds, what: &str) {
        for (name, streams) in rounds.sides() {
            let of = |value: &dyn Fn(&Streamed) -> Option<f64>| {
                streams.iter().filter_map(value).collect::<Vec<_>>()
            };
            let share = crate::stats::median(&mut of(&|one| Some(one.load_share()))).unwrap_or_default();
            let busy = share > LOAD_SHARE_MAX;
            let note = format!(
                "the load used {share:.2} of a processor{}",
                if busy { ", and may be what was measured" } else { "" }
            );
            let rates = of(&|one| Some(one.rate()));
            self.figure(&format!("deliveries, {what}"), name, "messages/s", &rates, Some(note));
            let costs = of(&Streamed::broker_us);
            self.figure(&format!("CPU of the broker per delivery, {what}"), name, "µs", &costs, None);
            let wrong: u64 = streams.iter().map(|one| one.wrong).sum();
            if wrong > 0 {
                self.part.notes.push(format!(
                    "{what}: {name} lost, repeated or reordered messages, {wrong} times; nothing there may"
                ));
            }
            if busy && name == OURS {
                self.part.notes.push(format!(
                    "{what}: the load was as busy as our broker ({share:.2} of a processor), so that more deliveries a \
                     second may be possible than are shown"
                ));
            }
        }
    }

    fn figure(&mut self, measure: &str, series: &str, unit: &str, samples: &[f64], note: Option<String>) {
        let Some(spread) = Spread::of(samples) else { return };
        let at = ("payload bytes", PAYLOAD_BYTES as f64);
        let figure = Figure::new(Question::Broker, measure, series, at, unit, spread);
        self.part.figures.push(Figure { note, ..figure });
    }

    fn target(&mut self, name: &str, bound: Bound, ratios: &[f64]) {
        match bound.hold(name, ratios) {
            Some(target) => self.part.targets.push(target),
            None => self.part.notes.push(format!("not measured: {name}")),
        }
    }

    fn notes(&mut self) {
        self.part.notes.push(format!(
            "MQTT 3.1.1 over loopback, payloads of {PAYLOAD_BYTES} bytes, {WINDOW} messages under way at a time, {INFLIGHT} \
             unacknowledged of each publisher at QoS 1; each broker and each load a process, the load one thread"
        ));
    }
}

/// What all loads have in common.
fn base() -> Setup {
    Setup {
        address: ([127, 0, 0, 1], 0).into(),
        broker: None,
        name: String::new(),
        qos: 0,
        payload_bytes: PAYLOAD_BYTES,
        publishers: 1,
        subscribers: 1,
        to: To::All,
        window: WINDOW,
        inflight: INFLIGHT,
        kept: false,
        idle: 0,
        idle_filters: 0,
        keyring: None,
    }
}

async fn ask(side: &mut Side, order: &Order) -> Result<Answer, MqttBenchError> {
    side.load.say(order).await?;
    hear(side).await
}

async fn hear(side: &mut Side) -> Result<Answer, MqttBenchError> {
    match side.load.answer(ANSWER_TIMEOUT).await? {
        Answer::Failed(what) => Err(MqttBenchError::Load { broker: side.name, what }),
        answer => Ok(answer),
    }
}

async fn end(mut side: Side) {
    side.load.end().await;
}

async fn stop(brokers: Brokers) {
    for (_, broker) in brokers {
        broker.stop().await;
    }
}
