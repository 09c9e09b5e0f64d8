//! Programs that others wrote. Each says so loudly if it is not installed, and its tests pass.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::Running;
use super::{TempDir, skipped};

/// Whether `program` can be run; says so if not.
pub fn is_there(program: &str) -> bool {
    let ran = Command::new(program)
        .arg("-h")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if ran.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        skipped(&format!("{program} is not installed"));
        return false;
    }
    true
}

/// Whether python has paho-mqtt 2; says so if not.
pub fn has_paho() -> bool {
    let ask = "from paho.mqtt.client import CallbackAPIVersion";
    let asked = Command::new("python3").args(["-c", ask]).stderr(Stdio::null()).status();
    let there = asked.is_ok_and(|status| status.success());
    if !there {
        skipped("python3 with paho-mqtt 2 is not installed");
    }
    there
}

/// A mosquitto on a port of its own.
pub struct Mosquitto {
    running: Running,
    pub port: u16,
    dir: TempDir,
}

/// Debian puts it where only the administrator looks.
const MOSQUITTO: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];

impl Mosquitto {
    /// For everybody, without TLS, that forgets everything at its end. `None` where it is not installed.
    pub fn start() -> Option<Self> {
        Self::with(|_| "allow_anonymous true\npersistence false\n".into())
    }

    /// With these lines about its one listener; they may name files in the directory that is given.
    pub fn with(settings: impl Fn(&Path) -> String) -> Option<Self> {
        MOSQUITTO.into_iter().find(|program| is_there(program))?;
        // It cannot choose a port by itself, and the free one may be taken in between.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let dir = TempDir::new();
            let text =
                format!("user root\nlistener {port} 127.0.0.1\nlog_dest stderr\n{}", settings(dir.path()));
            std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
            if let Some(running) = Self::run(&dir) {
                return Some(Self { running, port, dir });
            }
        }
        panic!("mosquitto found no port in ten tries");
    }

    /// `None`: it ended at once.
    fn run(dir: &TempDir) -> Option<Running> {
        let program = MOSQUITTO.into_iter().find(|program| is_there(program))?;
        let mut running =
            Running::spawn(Command::new(program).arg("-c").arg(dir.path().join("mosquitto.conf")));
        let begun = std::time::Instant::now();
        loop {
            if running.err.text().contains(" running") {
                return Some(running);
            }
            if running.has_ended() {
                return None;
            }
            assert!(begun.elapsed() < super::DEADLINE, "mosquitto does not start");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The path of a file in its directory.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Ends it as an operator does, so that it writes down what it keeps.
    pub fn stop(&mut self) {
        self.running.signal("TERM");
        super::until("the end of mosquitto", super::DEADLINE, || self.running.has_ended().then_some(()));
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.running = Self::run(&self.dir).expect("its port is free again");
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> String {
        self.running.err.text()
    }

    /// How `mosquitto_sub` and `mosquitto_pub` get there.
    pub fn options(&self) -> Vec<String> {
        vec!["-h".into(), "127.0.0.1".into(), "-p".into(), self.port.to_string()]
    }
}

/// A retained message on this topic tells that a subscription is in place.
pub const READY: &str = "ready";

/// What a stock client got: topic and payload, payloads in full.
pub struct Watcher {
    pub running: Running,
    pub what: String,
}

impl Watcher {
    /// `mosquitto_sub` on `filter`; ready when this returns, if something is retained on [`READY`].
    pub fn mosquitto(connect: &[String], version: &str, filter: &str) -> Self {
        let mut command = Command::new("mosquitto_sub");
        command.args(connect).args(["-V", version, "-q", "2", "-t", filter, "-t", READY, "-F", "%t %x"]);
        Self::ready(Running::spawn(&mut command), format!("mosquitto_sub {version}"))
    }

    /// The same with paho.
    pub fn paho(connect: &[String], version: &str, filter: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PAHO, version, filter, READY]).args(connect);
        Self::ready(Running::spawn(&mut command), format!("paho {version}"))
    }

    fn ready(running: Running, what: String) -> Self {
        running.out.line(READY);
        Self { running, what }
    }

    /// The first `count` messages, once they are there, but for the one that says that it is ready.
    pub fn messages(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let lines = self.running.out.first_lines(count + 1);
        let parse = |line: &String| {
            let (topic, hex) = line.split_once(' ').unwrap();
            (topic.to_owned(), super::unhex(hex))
        };
        lines.iter().filter(|line| !line.starts_with("ready ")).map(parse).collect()
    }
}

const PAHO: &str = r#"
import sys
import paho.mqtt.client as mqtt
version, filter, ready = sys.argv[1:4]
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)
def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit("refused: %s" % reason)
    client.subscribe([(filter, 2), (ready, 2)])
def on_message(client, userdata, message):
    print(message.topic, message.payload.hex(), flush=True)
client.on_connect, client.on_message = on_connect, on_message
if "--cafile" in options:
    client.tls_set(options["--cafile"], options["--cert"], options["--key"])
client.connect(options["-h"], int(options["-p"]))
client.loop_forever()
"#;
