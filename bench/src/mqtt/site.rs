//! What is measured: an authority, a broker, and the two roles, each a process of its own, in a temporary directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use smqtt_client::authority::Authority;
use smqtt_client::enrol::enrol;
use smqtt_client::files::read_bounded;
use smqtt_client::tls;
use smqtt_core::api::{NewToken, Rule, RuleSet, TokenRequest};
use smqtt_core::token::Token;
use zeroize::Zeroizing;

use super::orders::{Answer, Line, Order, Setup};
use super::process::{Process, START_TIMEOUT, TempDir, program};
use super::relay::Relays;
use super::{MODES, Mode, MqttBenchError};
use crate::role::SUBCOMMAND;

/// Largest file of an administrator's directory.
const FILE_BYTES_MAX: usize = 64 << 10;
/// The policy of the demo's smart home.
const POLICY: &str = "(role=ac-controller or role=heater-controller) and location=home-7 or role=fire-alarm";
/// The same, but for each topic another.
const POLICY_PER_TOPIC: &str =
    "(role=ac-controller or role=heater-controller) and location=home-7 or role=$1";
/// What the reader is.
const READER: [&str; 2] = ["role=ac-controller", "location=home-7"];
/// What the publishers are.
const SENSOR: [&str; 2] = ["role=sensor", "location=home-7"];

/// A running authority and broker, and devices enrolled with them.
pub struct Site {
    exe: PathBuf,
    authority: Process,
    broker: Process,
    tls: SocketAddr,
    plain: SocketAddr,
    publishers: Vec<PathBuf>,
    // Last: everything that has files open is dropped before.
    dir: TempDir,
}

impl Site {
    /// Starts both on free loopback ports, sets the rules, and enrols everybody: `publishers` devices that publish.
    pub async fn start(exe: &Path, publishers: usize) -> Result<Self, MqttBenchError> {
        let dir = TempDir::new()?;
        let data = dir.path().join("site");
        let mut command = program(exe);
        command.arg("authority").arg("--data").arg(&data).arg("--until-stdin-ends");
        command.args(["--listen", "127.0.0.1:0"]);
        let mut authority = Process::spawn("authority", &mut command)?;
        authority.line_of("fingerprint").await?;
        let admin = administrator(&data)?;
        for (filter, mode, policy) in [
            ("bench/open/+", "open", None),
            ("bench/seal/+", "required", Some(POLICY)),
            ("bench/once/+", "required", Some(POLICY_PER_TOPIC)),
        ] {
            let rule = Rule {
                filter: filter.into(),
                mode: mode.into(),
                labels: None,
                policy: policy.map(str::to_owned),
                publishers: None,
                subscribers: None,
            };
            let _: RuleSet = admin.put("/v1/rules", &rule).await?;
        }
        let keyring = dir.path().join("broker");
        device(&admin, "broker", "broker", &[], &keyring).await?;
        let mut command = program(exe);
        command.arg("broker").arg("--dir").arg(&keyring).arg("--until-stdin-ends");
        command.args(["--listen", "127.0.0.1:0", "--plain", "127.0.0.1:0"]);
        let mut broker = Process::spawn("broker", &mut command)?;
        let tls = broker.address("mqtts://").await?;
        let plain = broker.address("mqtt://").await?;
        let mut site =
            Self { exe: exe.to_owned(), authority, broker, tls, plain, publishers: Vec::new(), dir };
        for mode in MODES {
            let (name, keyring) = site.reader(mode);
            device(&admin, &name, "device", &READER, &keyring).await?;
        }
        for n in 0..publishers.max(1) {
            let keyring = site.dir.path().join(format!("publisher-{n}"));
            device(&admin, &format!("publisher-{n}"), "device", &SENSOR, &keyring).await?;
            site.publishers.push(keyring);
        }
        Ok(site)
    }

    /// The reader of a mode: each keeps its replay windows in a keyring of its own, as devices do.
    fn reader(&self, mode: Mode) -> (String, PathBuf) {
        let name = format!("reader-{}", mode.name());
        let keyring = self.dir.path().join(&name);
        (name, keyring)
    }

    /// Connects publisher and subscriber, through `relays` (the publisher's, the subscriber's) if there are any.
    pub async fn pair(&self, relays: Option<&mut [Relays; 2]>) -> Result<Pair, MqttBenchError> {
        let direct = [self.tls, self.plain];
        let (mut publisher_via, mut subscriber_via) = (direct, direct);
        if let Some(relays) = relays {
            for (via, relays) in [&mut publisher_via, &mut subscriber_via].into_iter().zip(relays) {
                for address in via {
                    *address = relays.to(*address).await.map_err(MqttBenchError::io("start a relay"))?;
                }
            }
        }
        let url = |[tls, plain]: [SocketAddr; 2], mode| match mode {
            Mode::Plain => format!("mqtt://{plain}"),
            _ => format!("mqtts://{tls}"),
        };
        let random: [u8; 4] = smqtt_core::crypto::random();
        let echo = self.dir.path().join(format!("echo-{:08x}", u32::from_be_bytes(random)));
        let psk: [u8; 32] = smqtt_core::crypto::random();
        let reads = MODES.map(|mode| {
            let (name, keyring) = self.reader(mode);
            Line { mode, keyring, broker: url(subscriber_via, mode), client_id: client_id(name, mode) }
        });
        let writes = MODES.into_iter().flat_map(|mode| {
            let many = if mode == Mode::SealedPerMessage { self.publishers.len() } else { 1 };
            self.publishers.iter().enumerate().take(many).map(move |(n, keyring)| Line {
                mode,
                keyring: keyring.clone(),
                broker: url(publisher_via, mode),
                client_id: client_id(format!("publisher-{n}/{}", mode.name()), mode),
            })
        });
        let subscriber = Setup { lines: reads.into(), echo: echo.clone(), psk };
        let publisher = Setup { lines: writes.collect(), echo, psk };
        let subscriber = self.role("subscriber", &subscriber).await?;
        let publisher = self.role("publisher", &publisher).await?;
        Ok(Pair { publisher, subscriber })
    }

    async fn role(&self, name: &'static str, setup: &Setup) -> Result<Process, MqttBenchError> {
        let mut process = Process::spawn(name, program(&self.exe).args([SUBCOMMAND, name]))?;
        process.say(setup).await?;
        match process.answer(START_TIMEOUT).await? {
            Answer::Ready => Ok(process),
            _ => Err(MqttBenchError::Unexpected(name)),
        }
    }

    /// CPU time of the broker so far.
    pub fn broker_time(&self) -> Option<Duration> {
        self.broker.time()
    }

    /// Stops both processes, and takes the directory away.
    pub async fn stop(mut self) {
        self.broker.end().await;
        self.authority.end().await;
    }
}

/// Publisher and subscriber, connected.
pub struct Pair {
    publisher: Process,
    subscriber: Process,
}

impl Pair {
    /// Has the publisher do something.
    pub async fn order(&mut self, order: &Order, timeout: Duration) -> Result<Answer, MqttBenchError> {
        self.publisher.say(order).await?;
        self.publisher.answer(timeout).await
    }

    /// CPU time so far, of publisher and subscriber.
    pub fn times(&self) -> Option<(Duration, Duration)> {
        Some((self.publisher.time()?, self.subscriber.time()?))
    }

    /// Ends both.
    pub async fn end(mut self) {
        self.publisher.end().await;
        self.subscriber.end().await;
    }
}

/// Without TLS nobody is a device, and a device's name is not for nobody.
fn client_id(name: String, mode: Mode) -> String {
    if mode == Mode::Plain { format!("nobody-{name}") } else { name }
}

/// Makes a token, and enrols with it.
pub(crate) async fn device(
    admin: &Authority,
    name: &str,
    role: &str,
    attributes: &[&str],
    keyring: &Path,
) -> Result<(), MqttBenchError> {
    let request = TokenRequest {
        name: name.into(),
        role: role.into(),
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
        ttl_seconds: Some(600),
        ..TokenRequest::default()
    };
    let token: NewToken = admin.post("/v1/tokens", &request).await?;
    let token = Token::parse(&token.token).map_err(|_| MqttBenchError::Unexpected("authority"))?;
    enrol(&token, keyring, smqtt_client::system_now()).await?;
    Ok(())
}

/// The authority whose administrator's certificate is in `data`.
pub(crate) fn administrator(data: &Path) -> Result<Authority, MqttBenchError> {
    #[derive(Deserialize)]
    struct Where {
        url: String,
    }
    let read = |name: &str| read_bounded(&data.join("admin").join(name), FILE_BYTES_MAX);
    let damaged = |_| MqttBenchError::Unexpected("authority");
    let place: Where = serde_json::from_slice(&read("authority.json")?).map_err(MqttBenchError::Answer)?;
    let certificate = |name: &str| CertificateDer::from_pem_slice(&read(name)?).map_err(damaged);
    let (root, own) = (certificate("root.pem")?, certificate("cert.pem")?);
    let key = Zeroizing::new(read("key.pem")?);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key).map_err(damaged)?;
    let tls = tls::authority_config(&[root.to_vec()], (&own, key.secret_pkcs8_der()));
    Ok(Authority::new(&place.url, tls.map_err(mqtt_error)?)?)
}

fn mqtt_error(error: impl Into<smqtt_client::mqtt::MqttError>) -> MqttBenchError {
    MqttBenchError::Mqtt(error.into())
}
