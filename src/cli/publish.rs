//! `smqtt publish`: seal and publish, one message or one a line.

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use smqtt_client::enrol::{EnrolError, refresh};
use smqtt_client::files::read_bounded;
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::mqtt::{self, Client, MqttError, Options, Order, Published, QoS, Status};
use smqtt_client::sealer::Wish;
use smqtt_core::attribute::{AttributeError, Attributes};
use smqtt_core::policy::Policy;
use smqtt_core::target::{Target, TargetError};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

use super::failure::Failure;
use super::{KeyringArgs, print_line};

/// Largest payload.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// How many messages may wait for their acknowledgement.
const UNDER_WAY_MAX: usize = 32;
/// How many tries in a row to reach the broker before a command gives up.
pub const CONNECT_TRIES: u32 = 6;
/// How long to ask the authority for news before going on with what is known.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// How to connect; the short options are those of mosquitto_pub and mosquitto_sub.
#[derive(Args, Clone)]
pub struct ConnectArgs {
    #[command(flatten)]
    keyring: KeyringArgs,
    /// The broker, instead of the one that the authority names: mqtts://host:port or mqtt://host:port
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The root that vouches for that broker, if it is not the authority's (PEM)
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Client id; the device's name, or its name, a slash and anything
    #[arg(short = 'i', long, value_name = "ID")]
    id: Option<String>,
    /// Keep alive, in seconds; 0: none
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    keepalive: u16,
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

impl ConnectArgs {
    /// The keyring, made as fresh as the authority can be reached.
    pub async fn keyring(&self) -> Result<SharedKeyring, Failure> {
        let dir = self.keyring.dir()?;
        let keyring = Keyring::load(&dir)?;
        let role = &keyring.place().role;
        if role != "device" {
            let text =
                format!("`{}` is a {role}'s keyring, which neither publishes nor reads", dir.display());
            return Err(
                Failure::new(text).hint("make a token with `smqtt token new NAME`, and enrol with it")
            );
        }
        let keyring = SharedKeyring::new(keyring);
        let now = smqtt_client::system_now();
        match tokio::time::timeout(REFRESH_TIMEOUT, refresh(&keyring, now, Duration::ZERO)).await {
            Ok(Ok(_)) => {}
            Ok(Err(EnrolError::Request(error))) if error.code() == Some("revoked") => {
                return Err(error.into());
            }
            Ok(Err(error)) => eprintln!("going on without the authority: {error}"),
            Err(_) => eprintln!("going on without the authority: it does not answer"),
        }
        Ok(keyring)
    }

    /// The options for [`mqtt::connect`].
    pub fn options(&self) -> Result<Options, Failure> {
        let roots = match &self.cafile {
            None => None,
            Some(path) => {
                let pem = read_bounded(path, PAYLOAD_BYTES_MAX)?;
                let ders = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
                let ders =
                    ders.map_err(|_| Failure::new(format!("`{}` holds no certificate", path.display())))?;
                Some(ders.into_iter().map(|der| der.to_vec()).collect())
            }
        };
        Ok(Options {
            broker: self.broker.clone(),
            roots,
            client_id: self.id.clone(),
            keep_alive_seconds: self.keepalive,
            ..Options::default()
        })
    }

    /// The quality of service.
    pub fn qos(&self) -> QoS {
        match self.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }
}

/// Says on stderr when the broker is lost and found.
pub fn tell_status(client: &Client) -> JoinHandle<()> {
    let mut status = client.status();
    tokio::spawn(async move {
        let mut away = false;
        while status.changed().await.is_ok() {
            match &*status.borrow_and_update() {
                Status::Lost { reason, .. } => {
                    eprintln!("broker away: {reason}; trying again");
                    away = true;
                }
                Status::Connected { .. } if away => {
                    eprintln!("broker back");
                    away = false;
                }
                _ => {}
            }
        }
    })
}

/// A connection that does not come about, with what to do.
pub fn not_connected(error: MqttError) -> Failure {
    match error {
        MqttError::Closed(reason) => Failure::new(format!("no connection to the broker: {reason}"))
            .hint("is it running, at this address, and is this device enrolled with its authority?"),
        other => other.into(),
    }
}

/// Arguments of `smqtt publish`.
#[derive(Args)]
#[command(group = ArgGroup::new("payload").required(true).args(["message", "file", "lines", "null_message"]))]
pub struct PublishArgs {
    /// The topic
    #[arg(short, long)]
    topic: String,
    /// Who can read, where no topic rule says it: `role=nurse and ward=3`
    #[arg(long, conflicts_with = "plain")]
    policy: Option<String>,
    /// Or a label, where no topic rule says it, for keys that carry a policy: `ward=3`; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", conflicts_with_all = ["plain", "policy"])]
    labels: Vec<String>,
    /// Do not seal
    #[arg(long)]
    plain: bool,
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// A file that is the message; `-` is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Every line of standard input is a message
    #[arg(short, long)]
    lines: bool,
    /// An empty message, not sealed; with `-r` it takes the one that the broker keeps away
    #[arg(short, long, conflicts_with_all = ["policy", "labels"])]
    null_message: bool,
    /// Have the broker keep it for later subscribers
    #[arg(short, long)]
    retain: bool,
    /// Sign each message: readers need not trust each other not to forge
    #[arg(long)]
    sign: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Publishes, and ends when the broker has everything.
pub async fn run(args: &PublishArgs) -> Result<(), Failure> {
    let target = match &args.policy {
        Some(policy) => Some(Target::Policy(Policy::parse(policy)?)),
        None if args.labels.is_empty() => None,
        None => Some(labels(&args.labels)?),
    };
    let wish = match &target {
        _ if args.plain || args.null_message => Wish::Plain,
        Some(target) => Wish::Under(target),
        None => Wish::Rule,
    };
    let payload = read_payload(args)?;
    let keyring = args.connect.keyring().await?;
    let options = Options { sign: args.sign, ..args.connect.options()? };
    let (client, inbox) = mqtt::connect(keyring, &options)?;
    drop(inbox);
    let telling = tell_status(&client);
    client.connected(CONNECT_TRIES).await.map_err(not_connected)?;
    let fresh = client.clone();
    let refreshing = tokio::spawn(async move { fresh.keep_fresh().await });
    let result = match payload {
        Some(payload) => one(args, &client, wish, &payload).await,
        None => lines(args, &client, wish).await,
    };
    refreshing.abort();
    telling.abort();
    client.disconnect().await;
    result
}

/// The labels of repeated `--label` options, each of which may be a list.
pub fn labels(texts: &[String]) -> Result<Target, Failure> {
    let mut all = Vec::new();
    for text in texts {
        let list: Attributes = text.parse().map_err(|error: AttributeError| {
            not_labels(format!("`--label {text}`: {error}"), &TargetError::Attribute(error))
        })?;
        all.extend(list.iter().cloned());
    }
    let labels = Attributes::new(all).map_err(TargetError::from).and_then(Target::labels);
    labels.map_err(|error| not_labels(error.to_string(), &error))
}

fn not_labels(text: String, error: &TargetError) -> Failure {
    match error.hint() {
        Some(hint) => Failure::new(text).hint(hint),
        None => Failure::new(text),
    }
}

fn read_payload(args: &PublishArgs) -> Result<Option<Vec<u8>>, Failure> {
    match (&args.message, &args.file) {
        _ if args.null_message => Ok(Some(Vec::new())),
        (Some(text), _) => Ok(Some(text.clone().into_bytes())),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(PAYLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
            read.map_err(|error| Failure::new("cannot read standard input").because(&error))?;
            if bytes.len() > PAYLOAD_BYTES_MAX {
                return Err(Failure::new(format!("the message is larger than {PAYLOAD_BYTES_MAX} bytes")));
            }
            Ok(Some(bytes))
        }
        (None, Some(path)) => Ok(Some(read_bounded(path, PAYLOAD_BYTES_MAX)?)),
        (None, None) => Ok(None),
    }
}

async fn one(args: &PublishArgs, client: &Client, wish: Wish<'_>, payload: &[u8]) -> Result<(), Failure> {
    let done = client.publish(&order(args, wish, payload)).await?;
    tell(args, payload.len(), &done)
}

fn order<'a>(args: &'a PublishArgs, wish: Wish<'a>, payload: &'a [u8]) -> Order<'a> {
    Order { topic: &args.topic, payload, wish, qos: args.connect.qos(), retain: args.retain }
}

/// Keeps some messages under way; the first that fails ends it.
async fn lines(args: &PublishArgs, client: &Client, wish: Wish<'_>) -> Result<(), Failure> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut under_way = VecDeque::new();
    loop {
        let mut line = Vec::new();
        let read = (&mut input).take_line(&mut line).await?;
        if !read {
            break;
        }
        let bytes = line.len();
        let sent = client.start(&order(args, wish, &line)).await?;
        under_way.push_back((line, bytes, sent));
        if under_way.len() >= UNDER_WAY_MAX {
            settle(args, client, wish, &mut under_way).await?;
        }
    }
    while !under_way.is_empty() {
        settle(args, client, wish, &mut under_way).await?;
    }
    Ok(())
}

/// Waits for the oldest message under way.
async fn settle(
    args: &PublishArgs,
    client: &Client,
    wish: Wish<'_>,
    under_way: &mut VecDeque<(Vec<u8>, usize, mqtt::Sent)>,
) -> Result<(), Failure> {
    let Some((line, bytes, sent)) = under_way.pop_front() else { return Ok(()) };
    let done = client.finish(&order(args, wish, &line), sent).await?;
    tell(args, bytes, &done)
}

trait TakeLine {
    async fn take_line(self, line: &mut Vec<u8>) -> Result<bool, Failure>;
}

impl<R: tokio::io::AsyncBufRead + Unpin> TakeLine for &mut R {
    /// Reads a line without its end; `false` at the end of the input.
    async fn take_line(self, line: &mut Vec<u8>) -> Result<bool, Failure> {
        use tokio::io::AsyncReadExt;
        let mut bounded = self.take(PAYLOAD_BYTES_MAX as u64 + 1);
        let read = bounded.read_until(b'\n', line).await;
        let read = read.map_err(|error| Failure::new("cannot read standard input").because(&error))?;
        if line.len() > PAYLOAD_BYTES_MAX {
            return Err(Failure::new(format!("a line is longer than {PAYLOAD_BYTES_MAX} bytes")));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(read > 0)
    }
}

fn tell(args: &PublishArgs, payload_bytes: usize, done: &Published) -> Result<(), Failure> {
    if !args.connect.json {
        return Ok(());
    }
    print_line(
        serde_json::json!({
            "topic": args.topic,
            "payload_bytes": payload_bytes,
            "wire_bytes": done.wire_bytes,
            "kid": done.kid.map(|kid| kid.to_string()),
            "full": done.full,
        })
        .to_string(),
    )
}
