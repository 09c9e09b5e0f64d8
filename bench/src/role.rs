//! What runs in a process of its own: peak memory, labels never seen, instructions under callgrind.
//!
//! The program starts itself as `smqtt bench-role …`. Nothing here is a command for people.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smqtt_core::suite::SuiteId;
use smqtt_core::tables::{self, Profile};

use crate::counters::Counters;
use crate::leftovers::Noted;
use crate::plan::WARM_UP;
use crate::schemes::{Fabeo, FabeoInstance, Instance, Scheme, by_name};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "bench-role";

/// Longest that a process of its own may take.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Most bytes that one may print or be sent.
const BYTES_MAX: u64 = 1 << 26;
/// Most operations of one.
const COUNT_MAX: u32 = 10_000;
/// Most attributes of one.
const ATTRIBUTES_MAX: usize = 50;

/// Why something in a process of its own was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// There is no program to start.
    #[error("only `smqtt bench` measures it")]
    NoProgram,
    /// It could not be started or spoken to.
    #[error("cannot run it in a process of its own")]
    Process(#[from] std::io::Error),
    /// It took too long, or the run was stopped.
    #[error("it was ended before it was done")]
    Ended,
    /// It failed.
    #[error("it failed: {0}")]
    Failed(String),
    /// The system does not tell.
    #[error("this system does not tell")]
    NotTold,
    /// Not a role.
    #[error("not a role of `smqtt bench`")]
    Unknown,
    /// Not what a role gives or takes.
    #[error("not in the form that was expected")]
    Form(#[from] serde_json::Error),
}

/// How to start roles.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    program: Option<PathBuf>,
}

/// Asked between measurements.
type Stopped<'a> = &'a dyn Fn() -> bool;

impl Roles {
    /// Without a program: nothing can be measured in a process of its own.
    pub fn none() -> Self {
        Self::default()
    }

    /// With this program, which is expected to hand its [`SUBCOMMAND`] to [`main`].
    pub fn with(program: PathBuf) -> Self {
        Self { program: Some(program) }
    }

    /// Bytes by which all four operations raise the peak of resident memory.
    ///
    /// # Errors
    /// [`RoleError`], saying why that is not known.
    pub fn peak_memory(
        &self,
        scheme: &str,
        attributes: usize,
        stopped: Stopped<'_>,
    ) -> Result<f64, RoleError> {
        let mut command = self.command()?;
        command.args(["memory", scheme, &attributes.to_string()]);
        let printed = run(command, Vec::new(), stopped)?;
        let bytes: Option<f64> = serde_json::from_str(&printed.stdout)?;
        bytes.ok_or(RoleError::NotTold)
    }

    /// Seconds of decapsulations, each with labels that the process has not met before.
    ///
    /// # Errors
    /// [`RoleError`], saying why that is not known.
    pub fn cold_decapsulation(
        &self,
        suite: &Fabeo,
        attributes: usize,
        count: u32,
        stopped: Stopped<'_>,
    ) -> Result<Vec<f64>, RoleError> {
        let mut command = self.command()?;
        command.arg("cold");
        let mut instance = suite.with_prefix("a", attributes);
        let rounds = (0..=count.min(COUNT_MAX)).map(|round| {
            let prefix = format!("d{round}x");
            instance.relabel(&prefix);
            instance.keygen();
            instance.encapsulate();
            Bundle { prefix, exported: instance.exported() }
        });
        let task = Cold { suite: suite.name().to_owned(), attributes, rounds: rounds.collect() };
        let printed = run(command, serde_json::to_vec(&task)?, stopped)?;
        Ok(serde_json::from_str(&printed.stdout)?)
    }

    /// One operation as a small device does it: without tables. The process is one of its own, since what was chosen
    /// holds for all of it.
    ///
    /// # Errors
    /// [`RoleError`], saying why that is not known.
    pub fn small(
        &self,
        scheme: &str,
        operation: &str,
        attributes: usize,
        count: u32,
        stopped: Stopped<'_>,
    ) -> Result<Small, RoleError> {
        let mut command = self.command()?;
        command.args([
            "small",
            scheme,
            operation,
            &attributes.to_string(),
            &count.min(COUNT_MAX).to_string(),
        ]);
        Ok(serde_json::from_str(&run(command, Vec::new(), stopped)?.stdout)?)
    }

    /// Instructions of one operation without tables, counted by callgrind: the difference that `count` more of them make, after
    /// `warm_up` that fill the caches.
    ///
    /// # Errors
    /// [`RoleError`], also where there is no callgrind.
    pub fn instructions(
        &self,
        scheme: &str,
        operation: &str,
        attributes: usize,
        (warm_up, count): (u32, u32),
        stopped: Stopped<'_>,
    ) -> Result<f64, RoleError> {
        let program = self.program.as_ref().ok_or(RoleError::NoProgram)?;
        let collected = |times: u32| {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
            command.args([
                SUBCOMMAND,
                "work",
                scheme,
                operation,
                &attributes.to_string(),
                &times.to_string(),
            ]);
            let printed = run(command, Vec::new(), stopped)?;
            let line = printed.stderr.lines().find_map(|line| line.split_once("Collected : "));
            let count = line.and_then(|(_, count)| count.trim().parse::<f64>().ok());
            count.ok_or_else(|| RoleError::Failed("callgrind told no count".to_owned()))
        };
        let (few, more) = (collected(warm_up)?, collected(warm_up + count)?);
        Ok((more - few) / f64::from(count.max(1)))
    }

    fn command(&self) -> Result<Command, RoleError> {
        let mut command = Command::new(self.program.as_ref().ok_or(RoleError::NoProgram)?);
        command.arg(SUBCOMMAND);
        Ok(command)
    }
}

/// Measurements without tables.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Small {
    /// Wall-clock seconds.
    pub seconds: Vec<f64>,
    /// Instructions, where the processor tells.
    pub instructions: Vec<f64>,
}

struct Printed {
    stdout: String,
    stderr: String,
}

/// Runs `command` with `input`, bounded in time and in what it prints.
fn run(mut command: Command, input: Vec<u8>, stopped: Stopped<'_>) -> Result<Printed, RoleError> {
    // A Ctrl-C in the terminal is for the bench, which then ends this.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let _noted = Noted::process(child.id());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // A thread for each pipe, so that neither side waits for the other.
    let feed = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(pipe) = pipe {
                // What is missing at the end shows as a form that was not expected.
                _ = pipe.take(BYTES_MAX).read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(stdout.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = read(stderr.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stopped() || began.elapsed() > TIME_MAX {
            child.kill()?;
            child.wait()?;
            return Err(RoleError::Ended);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    _ = feed.join();
    let printed = Printed { stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() };
    match status.success() {
        true => Ok(printed),
        false => Err(RoleError::Failed(printed.stderr.lines().last().unwrap_or_default().to_owned())),
    }
}

#[derive(Serialize, Deserialize)]
struct Cold {
    suite: String,
    attributes: usize,
    rounds: Vec<Bundle>,
}

#[derive(Serialize, Deserialize)]
struct Bundle {
    prefix: String,
    exported: [Vec<u8>; 3],
}

/// The other side: does what `arguments` say and prints what was measured as JSON.
///
/// # Errors
/// [`RoleError`] for anything that [`Roles`] does not ask for.
pub fn main(arguments: &[String]) -> Result<String, RoleError> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["memory", scheme, attributes] => {
            let bytes = memory(by_name(scheme).ok_or(RoleError::Unknown)?, number(attributes)?);
            Ok(serde_json::to_string(&bytes)?)
        }
        ["cold"] => {
            let mut task = Vec::new();
            std::io::stdin().take(BYTES_MAX).read_to_end(&mut task)?;
            Ok(serde_json::to_string(&cold(serde_json::from_slice(&task)?)?)?)
        }
        ["small", scheme, operation, attributes, count] => {
            let scheme = by_name(scheme).ok_or(RoleError::Unknown)?;
            let count = count.parse().ok().filter(|count| *count <= COUNT_MAX).ok_or(RoleError::Unknown)?;
            tables::choose(Profile::Small);
            let small = small(prepared(scheme, operation, number(attributes)?)?, count);
            Ok(serde_json::to_string(&small)?)
        }
        ["work", scheme, operation, attributes, times] => {
            let scheme = by_name(scheme).ok_or(RoleError::Unknown)?;
            let times = times.parse().ok().filter(|times| *times <= COUNT_MAX).ok_or(RoleError::Unknown)?;
            tables::choose(Profile::Small);
            let mut operation = prepared(scheme, operation, number(attributes)?)?;
            (0..times).for_each(|_| operation());
            Ok("null".to_owned())
        }
        _ => Err(RoleError::Unknown),
    }
}

fn number(text: &str) -> Result<usize, RoleError> {
    let number = text.parse().ok().filter(|n| (1..=ATTRIBUTES_MAX).contains(n));
    number.ok_or(RoleError::Unknown)
}

/// Bytes by which the peak of resident memory rises.
fn memory(scheme: &dyn Scheme, attributes: usize) -> Option<u64> {
    let before = peak_bytes()?;
    let mut instance = scheme.at(attributes);
    instance.keygen();
    instance.seal();
    instance.open();
    Some(peak_bytes()?.saturating_sub(before))
}

/// The peak of resident memory so far, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cold(task: Cold) -> Result<Vec<f64>, RoleError> {
    let suite = SuiteId::from_name(&task.suite).ok_or(RoleError::Unknown)?;
    let mut seconds = Vec::new();
    for (round, Bundle { prefix, exported }) in task.rounds.into_iter().enumerate() {
        let instance = FabeoInstance::imported(suite, &prefix, task.attributes, exported);
        let mut instance = instance.ok_or(RoleError::Unknown)?;
        // The first warms up everything but the labels.
        for _ in 0..if round == 0 { WARM_UP } else { 0 } {
            instance.decapsulate();
        }
        let start = Instant::now();
        let opened = instance.decapsulate();
        let took = start.elapsed().as_secs_f64();
        if !opened {
            return Err(RoleError::Failed(format!("encapsulation {round} did not open")));
        }
        if round > 0 {
            seconds.push(took);
        }
    }
    Ok(seconds)
}

/// An operation on an instance that has a key and something to open.
fn prepared(scheme: &dyn Scheme, operation: &str, attributes: usize) -> Result<impl FnMut(), RoleError> {
    let operation: fn(&mut dyn Instance) = match operation {
        "keygen" => |i| i.keygen(),
        "encapsulate" => |i| i.encapsulate(),
        "decapsulate" => |i| {
            i.decapsulate();
        },
        _ => return Err(RoleError::Unknown),
    };
    let mut instance = scheme.at(attributes);
    instance.keygen();
    instance.seal();
    Ok(move || operation(instance.as_mut()))
}

fn small(mut operation: impl FnMut(), count: u32) -> Small {
    let mut counters = Counters::new();
    let mut small = Small::default();
    for round in 0..count + SMALL_WARM_UP {
        counters.begin();
        let start = Instant::now();
        operation();
        let seconds = start.elapsed().as_secs_f64();
        let counted = counters.end();
        if round >= SMALL_WARM_UP {
            small.seconds.push(seconds);
            small.instructions.extend(counted.map(|(_, instructions)| instructions));
        }
    }
    small
}

/// Without tables, labels are remembered from their first use on.
const SMALL_WARM_UP: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn role(arguments: &[&str]) -> Result<String, RoleError> {
        main(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn roles_do_what_they_are_asked_and_nothing_else() {
        let memory = role(&["memory", "fabeo-cp", "2"]).unwrap();
        assert!(memory == "null" || memory.parse::<u64>().is_ok(), "{memory}");
        assert_eq!(role(&["work", "fabeo-cp", "encapsulate", "1", "2"]).unwrap(), "null");
        for bad in [
            &["memory", "rot13", "2"][..],
            &["memory", "fabeo-cp", "0"],
            &["memory", "fabeo-cp", "51"],
            &["work", "fabeo-cp", "format", "1", "1"],
            &["work", "fabeo-cp", "keygen", "1", "10001"],
            &["sing"],
            &[],
        ] {
            assert!(matches!(role(bad), Err(RoleError::Unknown)), "{bad:?}");
        }
    }

    #[test]
    fn a_key_from_elsewhere_opens_with_labels_never_seen() {
        let mut instance = Fabeo::CP.with_prefix("a", 2);
        let rounds = ["x", "y"].map(|prefix| {
            instance.relabel(prefix);
            instance.keygen();
            instance.encapsulate();
            Bundle { prefix: prefix.to_owned(), exported: instance.exported() }
        });
        let task = |rounds| Cold { suite: "fabeo-cp".to_owned(), attributes: 2, rounds };
        let [mut warm, measured] = rounds;
        let altered = warm.exported[2].clone();
        let mut refused = Bundle { prefix: measured.prefix.clone(), exported: measured.exported.clone() };
        assert_eq!(cold(task(vec![warm, measured])).unwrap().len(), 1, "the first is the warm-up");
        warm = Bundle { prefix: refused.prefix.clone(), exported: refused.exported.clone() };
        refused.exported[2] = altered;
        let failed = cold(task(vec![warm, refused]));
        assert!(matches!(failed, Err(RoleError::Failed(_))), "what does not open has no time");
    }

    #[test]
    fn without_a_program_nothing_runs() {
        let refused = Roles::none().peak_memory("fabeo-cp", 1, &|| false);
        assert!(matches!(refused, Err(RoleError::NoProgram)));
    }
}
