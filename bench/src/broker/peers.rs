//! The brokers that are measured, each a process of its own on a free loopback port.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use smqtt_client::authority::Authority;
use smqtt_client::files::write_private;
use smqtt_client::keyring::{Keyring, pem};
use smqtt_core::api::{Rule, RuleSet};
use tokio::process::Command;

use crate::mqtt::MqttBenchError;
use crate::mqtt::process::{Process, TempDir, program};
use crate::mqtt::site::{administrator, device};
use crate::role::SUBCOMMAND;

/// How long a broker may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(20);
/// A free port may be taken before the broker has it.
const PORT_TRIES: usize = 10;
/// Where Debian puts it, where only the administrator looks.
const MOSQUITTO: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];

/// What fans out in a broker of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// What it takes by itself.
    Default,
    /// The publisher's own task.
    Direct,
    /// The embedded router.
    Rumqttd,
}

/// A broker that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, of an authority, with the secure-publish hook and rules, keeping its state.
    Rules(Engine),
    /// Ours, without an authority or its hook, but all else the same.
    Open,
    /// mosquitto, forgetting everything at its end.
    Mosquitto,
    /// mosquitto, saving on every change.
    MosquittoSaving,
    /// rumqttd as it comes, version 3.1.1 over TCP.
    Rumqttd,
    /// Somebody else's, wherever it is.
    At(SocketAddr),
}

/// One that runs.
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for TLS, of ours.
    pub tls: Option<SocketAddr>,
    process: Option<Process>,
    // After the process that has files open in it.
    _dir: Option<TempDir>,
}

impl Broker {
    /// Its process, if it is one of this machine.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::id)
    }

    /// Bytes of memory that it has touched and not given back; `None` where the system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Ends it.
    pub async fn stop(mut self) {
        if let Some(process) = &mut self.process {
            process.end().await;
        }
    }
}

/// An authority, and the brokers that are started beside it.
pub struct Site {
    exe: PathBuf,
    authority: Process,
    admin: Authority,
    brokers: usize,
    device: PathBuf,
    // Last: everything that has files open is dropped before.
    dir: TempDir,
}

impl Site {
    /// Starts the authority and sets rules as a site has them: some open, some sealed, some for certain publishers and
    /// subscribers alone. The topics of the load are under an open one.
    pub async fn start(exe: &Path) -> Result<Self, MqttBenchError> {
        let dir = TempDir::new()?;
        let data = dir.path().join("site");
        let mut command = program(exe);
        command.arg("authority").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
        let mut authority = Process::spawn("authority", &mut command)?;
        authority.line_of("fingerprint").await?;
        let admin = administrator(&data)?;
        for rule in rules() {
            let _: RuleSet = admin.put("/v1/rules", &rule).await?;
        }
        let keyring = dir.path().join("device");
        device(&admin, "device", "device", &["role=nurse"], &keyring).await?;
        Ok(Self { exe: exe.to_owned(), authority, admin, brokers: 0, device: keyring, dir })
    }

    /// The keyring of a device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Starts a broker of this kind.
    pub async fn broker(&mut self, kind: Kind) -> Result<Broker, MqttBenchError> {
        match kind {
            Kind::Rules(engine) => {
                let keyring = self.enrol_broker().await?;
                let mut command = program(&self.exe);
                command.arg("broker").arg("--dir").arg(&keyring).arg("--until-stdin-ends");
                command.args(["--listen", "127.0.0.1:0", "--plain", "127.0.0.1:0"]);
                match engine {
                    Engine::Default => {}
                    Engine::Direct => _ = command.args(["--engine", "direct"]),
                    Engine::Rumqttd => _ = command.args(["--engine", "rumqttd"]),
                }
                ours(&mut command).await
            }
            Kind::Open => {
                // The same certificates, so that it is the same TLS.
                let enrolled = self.enrol_broker().await?;
                let keyring = Keyring::load(&enrolled)?;
                let file = |name: &str, pem: &str| {
                    let path = enrolled.join(name);
                    let written = write_private(&path, pem.as_bytes());
                    written.map(|()| path).map_err(MqttBenchError::from)
                };
                let signer = keyring.signer();
                let root: String =
                    keyring.roots().iter().map(|root| pem("CERTIFICATE", root).to_string()).collect();
                let chain = pem("CERTIFICATE", signer.certificate()).to_string() + &root;
                let certificate = file("open-chain.pem", &chain)?;
                let key = file("open-key.pem", &pem("PRIVATE KEY", signer.key().expose_pkcs8()))?;
                let root = file("open-root.pem", &root)?;
                let mut command = program(&self.exe);
                command.args(["broker", "--open", "--until-stdin-ends", "--plain", "127.0.0.1:0"]);
                command
                    .args(["--tls", "127.0.0.1:0"])
                    .arg("--certificate")
                    .arg(certificate)
                    .arg("--key")
                    .arg(key);
                command.arg("--client-ca").arg(root).arg("--data").arg(enrolled.join("open-data"));
                ours(&mut command).await
            }
            Kind::Mosquitto => on_free_port(|port| mosquitto(port, false)).await,
            Kind::MosquittoSaving => on_free_port(|port| mosquitto(port, true)).await,
            Kind::Rumqttd => {
                on_free_port(|port| {
                    let mut command = program(&self.exe);
                    command.args([SUBCOMMAND, "rumqttd", &port.to_string()]).env("SMQTT_LOG", "off");
                    Ok((command, None))
                })
                .await
            }
            Kind::At(address) => Ok(Broker { address, tls: None, process: None, _dir: None }),
        }
    }

    /// A broker's keyring.
    async fn enrol_broker(&mut self) -> Result<PathBuf, MqttBenchError> {
        self.brokers += 1;
        let name = format!("broker-{}", self.brokers);
        let keyring = self.dir.path().join(&name);
        device(&self.admin, &name, "broker", &[], &keyring).await?;
        Ok(keyring)
    }

    /// Ends the authority, and takes the directory away.
    pub async fn stop(mut self) {
        self.authority.end().await;
    }
}

fn rules() -> Vec<Rule> {
    let rule = |filter: &str, mode: &str, policy: Option<&str>| Rule {
        filter: filter.to_owned(),
        mode: mode.to_owned(),
        labels: None,
        policy: policy.map(str::to_owned),
        publishers: None,
        subscribers: None,
    };
    let mut rules = vec![rule("bench/open/#", "open", None)];
    rules.push(rule("bench/seal/#", "required", Some("role=nurse or role=doctor")));
    for ward in 1..=8 {
        let policy = format!("role=nurse and ward={ward}");
        rules.push(rule(&format!("ward/{ward}/+"), "required", Some(&policy)));
    }
    for line in 1..=8 {
        let publishers = Some(format!("role=sensor and line=l{line}"));
        rules.push(Rule { publishers, ..rule(&format!("plant/{line}/+"), "open", None) });
    }
    let subscribers = Some("role=operator".to_owned());
    rules.push(Rule { subscribers, ..rule("alarm/#", "open", None) });
    rules
}

/// Starts a broker of ours, which says where it listens, with TLS and without.
async fn ours(command: &mut Command) -> Result<Broker, MqttBenchError> {
    let mut process = Process::spawn("broker", command)?;
    let (mut plain, mut tls) = (None, None);
    loop {
        let line = process.line_of("broker").await?;
        for word in line.split_whitespace() {
            let address = |scheme: &str| word.strip_prefix(scheme)?.parse().ok();
            plain = plain.or_else(|| address("mqtt://"));
            tls = tls.or_else(|| address("mqtts://"));
        }
        if let (Some(address), Some(_)) = (plain, tls) {
            return Ok(Broker { address, tls, process: Some(process), _dir: None });
        }
    }
}

/// Whether mosquitto can be run, and as what.
pub fn mosquitto_program() -> Option<&'static str> {
    MOSQUITTO.into_iter().find(|program| {
        let mut command = std::process::Command::new(program);
        command.arg("-h").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        !command.status().is_err_and(|error| error.kind() == ErrorKind::NotFound)
    })
}

/// With nothing that makes it drop messages, and, if `saving`, everything that makes it keep them.
fn mosquitto(port: u16, saving: bool) -> Result<(Command, Option<TempDir>), MqttBenchError> {
    let dir = TempDir::new()?;
    let path = dir.path().display();
    let mut text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\nlog_dest none\n\
         max_queued_messages 0\nmax_inflight_messages 0\n"
    );
    text += &match saving {
        true => format!(
            "persistence true\npersistence_location {path}/\nautosave_on_changes true\nautosave_interval 1\n"
        ),
        false => "persistence false\n".to_owned(),
    };
    let config = dir.path().join("mosquitto.conf");
    std::fs::write(&config, text).map_err(MqttBenchError::io("write mosquitto's configuration"))?;
    let program = mosquitto_program().ok_or(MqttBenchError::NoMosquitto)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&config);
    Ok((command, Some(dir)))
}

/// Starts what cannot choose a port by itself.
async fn on_free_port(
    make: impl Fn(u16) -> Result<(Command, Option<TempDir>), MqttBenchError>,
) -> Result<Broker, MqttBenchError> {
    for _ in 0..PORT_TRIES {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(MqttBenchError::io("find a free port"))?;
        let (mut command, dir) = make(address.port())?;
        command.stderr(Stdio::null());
        let process = Process::spawn("broker", &mut command)?;
        let mut broker = Broker { address, tls: None, process: Some(process), _dir: dir };
        if listens(&mut broker).await {
            return Ok(broker);
        }
        broker.stop().await;
    }
    Err(MqttBenchError::Silent("broker"))
}

/// Waits until it listens; `false` where it has ended, or does not.
async fn listens(broker: &mut Broker) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < LISTEN_TIMEOUT {
        if broker.process.as_mut().is_none_or(Process::has_ended) {
            return false;
        }
        if TcpStream::connect(broker.address).is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
