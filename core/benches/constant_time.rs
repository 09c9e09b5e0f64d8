//! Do secrets show in what the processor does, or in how long it takes?
//!
//! `cargo bench -p smqtt-core --bench constant_time [-- MEASUREMENTS]` asks twice.
//!
//! First exactly: everything from setup to opening runs under valgrind, which counts instructions, with one secret
//! exchanged for others. Code without branches on secrets takes the same number each time, but for what libc's
//! `memcmp` of public labels takes more or less with the place of its buffers: some 30 in 800 million. One instruction
//! more for each digit of a scalar would be thousands. A difference makes the exit code 1. Without valgrind this part
//! is skipped, and says so.
//!
//! Then by statistics, in the manner of dudect (O. Reparaz, J. Balasch, I. Verbauwhede, "Dude, is my code constant
//! time?", DATE 2017): times on two secrets, drawn at random in turn, are held against each other by Welch's t-test.
//! |t| above 4.5 says that they differ. Statistics of time pass or fail no build, and a busy machine hides small
//! leaks.
//!
//! Both begin with a control, an exponentiation that branches on its exponent. It must be found out, or the run says
//! nothing about the rest.

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::{Secret32, random};
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteId, UserKey};
use smqtt_core::target::Target;

/// Above this the classes differ; dudect's threshold.
const T_MAX: f64 = 4.5;
/// Instructions by which two runs on the same secrets may differ.
const NOISE: u64 = 200;
/// How often everything runs before it is measured: by then there are tables.
const WARM_UP: usize = 16;
const EPOCH: u64 = 7;

/// Mean and variance as they come in (Welford).
#[derive(Default, Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.count += 1.0;
        let before = x - self.mean;
        self.mean += before / self.count;
        self.squares += before * (x - self.mean);
    }

    fn of_mean(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

fn welch(a: &Moments, b: &Moments) -> f64 {
    (a.mean - b.mean) / (a.of_mean() + b.of_mean()).sqrt()
}

/// The largest |t| over all measurements, and over those below each of some percentiles: what is rare and slow (an
/// interrupt) drowns what leaks.
fn t_of(samples: &[(bool, f64)]) -> f64 {
    let mut sorted: Vec<f64> = samples.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let cut = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
    let t = |limit: f64| {
        let mut classes = [Moments::default(); 2];
        let kept = samples.iter().filter(|(_, time)| *time <= limit);
        kept.for_each(|(fixed, time)| classes[usize::from(*fixed)].add(*time));
        welch(&classes[0], &classes[1]).abs()
    };
    [0.5, 0.75, 0.9, 0.99, 1.0].map(cut).map(t).into_iter().fold(0.0, f64::max)
}

/// Times `run` on what `make` gives for the one secret or the other.
fn measure<S>(name: &str, count: usize, make: impl Fn(&Secret32) -> S, mut run: impl FnMut(&S)) -> f64 {
    let secrets = [Secret32::random(), Secret32::random()].map(|secret| make(&secret));
    for _ in 0..WARM_UP {
        secrets.iter().for_each(&mut run);
    }
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let first = random::<1>()[0] & 1 == 0;
        let secret = &secrets[usize::from(!first)];
        let start = Instant::now();
        run(black_box(secret));
        samples.push((first, start.elapsed().as_nanos() as f64));
    }
    let t = t_of(&samples);
    let verdict = if t > T_MAX { "DIFFERENT" } else { "no difference seen" };
    println!("{name:<44} |t| {t:>7.2}   {count:>6} times   {verdict}");
    t
}

/// Square and multiply as nobody should.
fn leaky(exponent: &Secret32) -> u64 {
    exponent.expose().iter().flat_map(|byte| (0..8).map(move |i| byte >> i & 1)).fold(3u64, |x, bit| {
        let x = x.wrapping_mul(x) | 1;
        if black_box(bit) == 1 { (0..16).fold(x, |x, _| black_box(x.wrapping_mul(3))) } else { x }
    })
}

/// A suite with what it is to seal and to issue.
struct World {
    suite: &'static dyn Suite,
    grant: Scope,
    scope: Scope,
}

impl World {
    fn new(id: SuiteId) -> Self {
        let attributes = Attributes::parse(["role=nurse", "ward=seven", "kind=reading"]).expect("attributes");
        let policy: Policy = "role=nurse and 2 of (ward=seven, kind=reading, a)".parse().expect("a policy");
        let versions = Versions::default();
        let policy = Target::Policy(policy).scope(&versions, EPOCH);
        let labels = Target::Labels(attributes).scope(&versions, EPOCH);
        let (grant, scope) = match id {
            SuiteId::FabeoCp => (labels, policy),
            _ => (policy, labels),
        };
        Self { suite: id.suite(), grant, scope }
    }

    fn key(&self, master: &Master, coins: &Secret32) -> UserKey {
        self.suite.keygen(master, EPOCH, &self.grant, coins).expect("it issues")
    }

    fn seal(&self, params: &Params, m: &Secret32) -> Vec<u8> {
        self.suite.encapsulate(params, &self.scope, b"", m).expect("it seals").0
    }

    fn open(&self, params: &Params, key: &UserKey, sealed: &[u8]) {
        black_box(self.suite.decapsulate(params, key, &self.scope, b"", sealed).expect("it opens"));
    }
}

/// Everything once before there are tables, and often enough after.
fn work(id: SuiteId, master: &Secret32, coins: &Secret32, m: &Secret32) {
    let world = World::new(id);
    let (params, master) = world.suite.setup(master);
    for _ in 0..WARM_UP {
        let key = world.key(&master, coins);
        world.open(&params, &key, &world.seal(&params, m));
    }
}

/// Instructions that this program takes under valgrind for `work`, or for the control.
fn instructions(what: &str, secrets: [u8; 3]) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).arg("work").arg(what);
    // All of the same length: what a program is given moves what it computes on.
    valgrind.args(secrets.map(|secret| format!("{secret:03}")));
    let output = valgrind.output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = text.lines().find_map(|line| line.split("Collected :").nth(1));
    count.and_then(|count| count.trim().parse().ok())
}

/// Whether all secrets take the same instructions, and the control does not.
fn exactly() -> bool {
    let Some(control) = instructions("control", [0; 3]) else {
        println!("SKIPPED: counting instructions needs valgrind");
        return true;
    };
    let mut sound = instructions("control", [7, 0, 0]).is_some_and(|other| other != control);
    println!("control: branches on its secret: {}", if sound { "found out" } else { "NOT FOUND OUT" });
    for id in SuiteId::ALL {
        let Some(base) = instructions(id.name(), [0, 1, 2]) else { return false };
        let places = ["master secret key", "coins of a key", "coins of an encapsulation"];
        for (place, what) in places.iter().enumerate() {
            for secret in [0x5a, 0xff] {
                let mut secrets = [0, 1, 2];
                secrets[place] = secret;
                let count = instructions(id.name(), secrets);
                let same = count.is_some_and(|count| count.abs_diff(base) <= NOISE);
                let verdict = if same { "no difference" } else { "DIFFERENT" };
                println!("{id}: {what}: {base} instructions, then {}: {verdict}", count.unwrap_or(0));
                sound &= same;
            }
        }
    }
    sound
}

fn by_statistics(count: usize) {
    measure("control: branches on its secret", count, Secret32::clone, |s| _ = black_box(leaky(s)));
    for id in SuiteId::ALL {
        let world = World::new(id);
        let (params, master) = world.suite.setup(&Secret32::random());
        let sealed = world.seal(&params, &Secret32::random());
        let name = |what: &str| format!("{id}: {what}");
        measure(&name("encapsulate, the coins"), count, Secret32::clone, |m| {
            black_box(world.seal(&params, m));
        });
        measure(&name("keygen, the coins"), count, Secret32::clone, |coins| {
            black_box(world.key(&master, coins));
        });
        let masters = |secret: &Secret32| Master::new(&params, world.suite.setup(secret).1.expose().clone());
        measure(&name("keygen, the master secret key"), count, masters, |master| {
            black_box(world.key(master, &Secret32::new([1; 32])));
        });
        let keys = |coins: &Secret32| world.key(&master, coins);
        measure(&name("decapsulate, the key"), count, keys, |key| world.open(&params, key, &sealed));
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [work_word, what, secrets @ ..] = &args[..]
        && work_word == "work"
    {
        let secrets: Vec<Secret32> =
            secrets.iter().map(|byte| Secret32::new([byte.parse().expect("a byte"); 32])).collect();
        match SuiteId::from_name(what) {
            Some(id) => work(id, &secrets[0], &secrets[1], &secrets[2]),
            None => _ = black_box(leaky(&secrets[0])),
        }
        return ExitCode::SUCCESS;
    }
    let sound = exactly();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    if count > 0 {
        by_statistics(count);
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
