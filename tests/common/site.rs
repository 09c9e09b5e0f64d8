//! An authority and a broker as people run them, and devices as people enrol them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Ended, Running, children, run};
use super::{DEADLINE, TempDir};

/// The program.
pub const SMQTT: &str = env!("CARGO_BIN_EXE_smqtt");

/// The program with nothing of the environment that could lead it astray.
pub fn smqtt(home: &Path) -> Command {
    let mut command = Command::new(SMQTT);
    for name in ["SMQTT_DATA", "SMQTT_DIR", "SMQTT_LOG", "SMQTT_LOG_FORMAT", "XDG_DATA_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", home).current_dir(home);
    command
}

/// `smqtt up` with everything that it said at the start.
pub struct Up {
    pub running: Running,
    /// `set up` or `opened`.
    pub state: String,
    pub authority: String,
    pub broker: String,
    pub plain: Option<String>,
    pub fingerprint: String,
}

impl Up {
    pub fn start(home: &Path, data: &Path, arguments: &[&str]) -> Self {
        Self::of(smqtt(home).arg("up").arg("--data").arg(data).args(arguments))
    }

    /// Of a command that is `smqtt up` with its arguments.
    pub fn of(command: &mut Command) -> Self {
        let running = Running::spawn(command);
        running.out.line("smqtt subscribe");
        let summary = running.out.lines();
        let lines = |name: &str| -> Vec<String> {
            let of = summary.iter().filter(|line| line.split_whitespace().next() == Some(name));
            of.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
        };
        let brokers = lines("broker");
        let state = summary.iter().find(|line| line.starts_with("data ")).unwrap();
        let state = state.rsplit_once('(').unwrap().1.trim_end_matches(')').to_owned();
        Self {
            state,
            authority: lines("authority").remove(0),
            broker: brokers[0].clone(),
            plain: brokers.get(1).cloned(),
            fingerprint: lines("fingerprint").remove(0),
            running,
        }
    }

    /// The broker's process.
    pub fn broker_pid(&self) -> u32 {
        let found = children(self.running.pid());
        assert_eq!(found.len(), 1, "one child: the broker");
        found[0]
    }
}

/// The port in `scheme://address:port`.
pub fn port(url: &str) -> &str {
    url.rsplit_once(':').unwrap().1
}

/// `address:port` of `scheme://address:port`.
pub fn address(url: &str) -> &str {
    url.split_once("://").unwrap().1
}

/// A running site in a directory of its own.
pub struct Site {
    pub up: Up,
    pub home: TempDir,
}

/// A keyring.
#[derive(Clone)]
pub struct Device {
    pub name: String,
    pub dir: PathBuf,
}

impl Site {
    /// With a listener for clients without a certificate.
    pub fn start() -> Self {
        let free = ["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--plain", "127.0.0.1:0"];
        Self::with(&free)
    }

    pub fn with(arguments: &[&str]) -> Self {
        let home = TempDir::new();
        let up = Up::start(home.path(), &home.path().join("site"), arguments);
        Self { up, home }
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("site")
    }

    pub fn command(&self) -> Command {
        let mut command = smqtt(self.home.path());
        command.env("SMQTT_DATA", self.data());
        command
    }

    /// Runs a command of the administrator's, or one that needs no keyring.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        run(self.command().args(arguments), b"")
    }

    /// Runs a command as `device`.
    pub fn run_as(&self, device: &Device, arguments: &[&str], input: &[u8]) -> Ended {
        run(self.command().args(arguments).env("SMQTT_DIR", &device.dir), input)
    }

    pub fn token(&self, name: &str, attributes: &[&str]) -> String {
        let printed = self.run(&[&["token", "new", name], attributes].concat()).success();
        printed.lines().last().unwrap().to_owned()
    }

    /// The keyring of this name, enrolled or not.
    pub fn device(&self, name: &str) -> Device {
        Device { name: name.to_owned(), dir: self.home.path().join("devices").join(name) }
    }

    pub fn enrol_with(&self, device: &Device, token: &str) -> Ended {
        self.run_as(device, &["enrol"], token.as_bytes())
    }

    pub fn enrol(&self, name: &str, attributes: &[&str]) -> Device {
        let device = self.device(name);
        self.enrol_with(&device, &self.token(name, attributes)).success();
        device
    }

    /// A second device of a name that is free again.
    pub fn enrol_again(&self, name: &str, attributes: &[&str]) -> Device {
        let mut device = self.device(&format!("{name}-again"));
        self.enrol_with(&device, &self.token(name, attributes)).success();
        device.name = name.to_owned();
        device
    }

    /// Sets a rule, and waits until the broker goes by it.
    pub fn rule_set(&self, filter: &str, arguments: &[&str]) -> Ended {
        let ended = self.run(&[&["rule", "set", filter], arguments].concat());
        ended.success();
        let words: Vec<&str> = ended.err.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "bundle").unwrap();
        self.wait_bundle(words[at + 1].parse().unwrap());
        ended
    }

    /// Waits until the broker has that bundle or a newer one.
    pub fn wait_bundle(&self, number: u64) {
        let took = |line: &str| -> Option<u64> {
            let rest = line.split_once("took a newer bundle bundle=")?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        self.up.running.err.wait(&format!("the broker with bundle {number}"), DEADLINE, |text| {
            text.lines().filter_map(took).any(|got| got >= number).then_some(())
        });
    }

    pub fn publish(&self, device: &Device, topic: &str, message: &str, arguments: &[&str]) -> Ended {
        let publish = ["publish", "-t", topic, "-m", message];
        self.run_as(device, &[&publish, arguments].concat(), b"")
    }

    /// Subscribes, and waits until the broker says so.
    pub fn subscribe(&self, device: &Device, filter: &str, arguments: &[&str]) -> Running {
        let mut command = self.command();
        command.args(["subscribe", "-t", filter]).args(arguments).env("SMQTT_DIR", &device.dir);
        let running = Running::spawn(&mut command);
        running.err.line(&format!("subscribed to {filter}"));
        running
    }

    /// What a stock client needs to connect as `device` over TLS.
    pub fn tls(&self, device: &Device) -> Vec<String> {
        let file = |name: &str| device.dir.join(name).display().to_string();
        let options =
            ["--cafile", &file("root.pem"), "--cert", &file("certificate.pem"), "--key", &file("device.key")];
        let mut all =
            vec!["-h".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), port(&self.up.broker).to_owned()];
        all.extend(options.map(str::to_owned));
        all
    }

    /// The same without TLS.
    pub fn plain(&self) -> Vec<String> {
        let url = self.up.plain.as_deref().expect("the site has no listener without TLS");
        ["-h", "127.0.0.1", "-p", port(url)].map(str::to_owned).into()
    }
}

/// How soon a revocation must be felt: "a second or so", on a busy machine.
pub const SOON: Duration = Duration::from_secs(5);
