//! The two ends of a measurement, each a process of its own: the publisher, which stamps, and the subscriber, which
//! tells it what came and when.
//!
//! Both hold a connection for each mode for as long as they run, and all connections are `smqtt-client`'s: modes
//! differ in what is sealed, not in how it travels.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::mqtt::{self, Client, Delivery, Inbox, Options, QoS, Sent};
use smqtt_client::opener::Outcome;
use smqtt_client::sealer::Wish;
use smqtt_core::crypto::AeadKey;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::orders::{Answer, Block, LINE_BYTES_MAX, Latencies, Order, Setup, qos, to_line};
use super::payload::{self, Stamp};
use super::{Mode, MqttBenchError};

/// How often a connection is tried.
const CONNECT_TRIES: u32 = 6;
/// Nothing takes that long unless it is lost.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// Of a stream, each so-manieth message asks for an echo.
const ECHO_EVERY: u32 = 16;
/// Bytes of an echo: number of the message, and how long it took in nanoseconds.
const ECHO_BYTES: usize = 12;
/// AES-256-GCM's nonce and tag, which a message under the pre-shared key carries.
const NONCE_BYTES: usize = 12;

/// Runs as `publisher` or `subscriber`, the one argument, until standard input ends.
///
/// # Errors
/// [`MqttBenchError`]: of no use for measuring any more.
pub async fn role(args: &[String]) -> Result<(), MqttBenchError> {
    let mut input = BufReader::new(tokio::io::stdin());
    let setup = next_line(&mut input).await?.ok_or(MqttBenchError::Ended)?;
    let setup: Setup = serde_json::from_slice(&setup).map_err(MqttBenchError::Answer)?;
    match args {
        [name] if name == "publisher" => publish(&setup, input).await,
        [name] if name == "subscriber" => subscribe(&setup, input).await,
        _ => Err(MqttBenchError::Role),
    }
}

type Input = BufReader<tokio::io::Stdin>;

async fn next_line(input: &mut Input) -> Result<Option<Vec<u8>>, MqttBenchError> {
    let mut line = Vec::new();
    let read = input.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await;
    Ok((read.map_err(MqttBenchError::io("read the orders"))? > 0).then_some(line))
}

async fn answer(answer: &Answer) -> Result<(), MqttBenchError> {
    let mut out = tokio::io::stdout();
    let line = to_line(answer)?;
    let written = async {
        out.write_all(&line).await?;
        out.flush().await
    };
    written.await.map_err(MqttBenchError::io("answer"))
}

/// Nanoseconds of the clock that all processes of the machine share.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

async fn connect(line: &super::orders::Line) -> Result<(Client, Inbox), MqttBenchError> {
    let keyring = SharedKeyring::new(Keyring::load(&line.keyring)?);
    let options = Options {
        broker: Some(line.broker.clone()),
        client_id: Some(line.client_id.clone()),
        // Pings would be counted, and they come when they please.
        keep_alive_seconds: 0,
        sign: line.mode == Mode::SealedSigned,
        ..Options::default()
    };
    let (client, inbox) = mqtt::connect(keyring, &options)?;
    client.connected(CONNECT_TRIES).await?;
    Ok((client, inbox))
}

/// The topic of a message of `mode`. All have the same length: it is on the wire too.
fn topic(mode: Mode, number: u32) -> String {
    match mode {
        Mode::Plain => "bench/open/m00001".into(),
        Mode::Tls => "bench/open/m00002".into(),
        Mode::Psk => "bench/open/m00003".into(),
        Mode::Sealed => "bench/seal/m00001".into(),
        Mode::SealedSigned => "bench/seal/m00002".into(),
        // The rule puts the last level into the policy, so each topic needs a header of its own.
        Mode::SealedPerMessage => format!("bench/once/m{:05}", number % 100_000),
    }
}

fn filter(mode: Mode) -> String {
    match mode {
        Mode::SealedPerMessage => "bench/once/+".into(),
        other => topic(other, 0),
    }
}

// ---------------------------------------------------------------------------------------------------- subscriber

async fn subscribe(setup: &Setup, mut input: Input) -> Result<(), MqttBenchError> {
    let listener = UnixListener::bind(&setup.echo).map_err(MqttBenchError::io("listen for the publisher"))?;
    let mut inboxes = Vec::new();
    for line in &setup.lines {
        let (client, inbox) = connect(line).await?;
        client.subscribe(&filter(line.mode), QoS::ExactlyOnce).await?;
        inboxes.push((line.mode, inbox));
    }
    answer(&Answer::Ready).await?;
    let (stream, _) = listener.accept().await.map_err(MqttBenchError::io("hear the publisher"))?;
    let (_keep, echo) = stream.into_split();
    let echo = Arc::new(Mutex::new(echo));
    let mut reading = JoinSet::new();
    for (mode, inbox) in inboxes {
        reading.spawn(read(mode, inbox, AeadKey::new(&setup.psk), echo.clone()));
    }
    tokio::select! {
        Some(ended) = reading.join_next() => ended.unwrap_or(Err(MqttBenchError::Ended)),
        // No orders are for the subscriber: its input only ends.
        ended = next_line(&mut input) => ended.map(drop),
    }
}

async fn read(
    mode: Mode,
    mut inbox: Inbox,
    psk: AeadKey,
    echo: Arc<Mutex<OwnedWriteHalf>>,
) -> Result<(), MqttBenchError> {
    while let Some(delivery) = inbox.next().await {
        let payload = opened(mode, &delivery, &psk)?;
        let at = monotonic();
        // As whoever reads does: written down, then acknowledged.
        inbox.acknowledge(&delivery).await.map_err(mqtt::MqttError::from)?;
        let stamp = Stamp::read(&payload).ok_or(MqttBenchError::Altered { mode })?;
        if stamp.echo {
            if !payload::is_whole(&payload) {
                return Err(MqttBenchError::Altered { mode });
            }
            let mut bytes = [0; ECHO_BYTES];
            bytes[..4].copy_from_slice(&stamp.number.to_be_bytes());
            bytes[4..].copy_from_slice(&at.saturating_sub(stamp.at).to_be_bytes());
            echo.lock().await.write_all(&bytes).await.map_err(MqttBenchError::io("tell the publisher"))?;
        }
    }
    Err(MqttBenchError::Ended)
}

/// The payload, if it came the way that the mode says.
fn opened<'a>(mode: Mode, delivery: &'a Delivery, psk: &AeadKey) -> Result<Cow<'a, [u8]>, MqttBenchError> {
    let payload = match (&delivery.outcome, mode) {
        (Outcome::Unsealed(payload), Mode::Plain | Mode::Tls) => Some(payload.into()),
        (Outcome::Unsealed(envelope), Mode::Psk) => {
            let (nonce, sealed) = envelope.split_first_chunk().ok_or(MqttBenchError::Altered { mode })?;
            psk.open(*nonce, delivery.topic.as_bytes(), sealed).map(Cow::from)
        }
        (Outcome::Opened(opened), Mode::SealedSigned) if opened.signed => Some((&opened.payload).into()),
        (Outcome::Opened(opened), Mode::Sealed | Mode::SealedPerMessage) => Some((&opened.payload).into()),
        _ => None,
    };
    payload.ok_or_else(|| MqttBenchError::NotOpened { mode, outcome: format!("{:?}", delivery.outcome) })
}

// ----------------------------------------------------------------------------------------------------- publisher

struct Publisher {
    lines: Vec<(Mode, Client)>,
    psk: AeadKey,
    /// Nonces under the pre-shared key, which never repeat: the key lives as long as this process.
    nonce: u64,
    echoes: mpsc::UnboundedReceiver<(u32, u64)>,
    number: u32,
    /// Headers made by [`Mode::SealedPerMessage`].
    fresh: usize,
}

async fn publish(setup: &Setup, mut input: Input) -> Result<(), MqttBenchError> {
    let mut lines = Vec::new();
    let mut inboxes = Vec::new();
    for line in &setup.lines {
        let (client, inbox) = connect(line).await?;
        lines.push((line.mode, client));
        inboxes.push(inbox);
    }
    let stream =
        UnixStream::connect(&setup.echo).await.map_err(MqttBenchError::io("reach the subscriber"))?;
    let (from, _keep) = stream.into_split();
    let (heard, echoes) = mpsc::unbounded_channel();
    tokio::spawn(hear(from, heard));
    let psk = AeadKey::new(&setup.psk);
    let mut publisher = Publisher { lines, psk, nonce: 0, echoes, number: 0, fresh: 0 };
    answer(&Answer::Ready).await?;
    while let Some(line) = next_line(&mut input).await? {
        let order: Order = serde_json::from_slice(&line).map_err(MqttBenchError::Answer)?;
        let done = match order {
            Order::Latency(blocks) => {
                let mut latencies = Vec::with_capacity(blocks.len());
                for block in blocks {
                    latencies.push(publisher.one_by_one(block).await?);
                }
                Answer::Latencies(latencies)
            }
            Order::Stream { block, seconds, window } => publisher.stream(block, seconds, window).await?,
        };
        answer(&done).await?;
    }
    Ok(())
}

/// Reads echoes until the subscriber is gone.
async fn hear(mut from: OwnedReadHalf, heard: mpsc::UnboundedSender<(u32, u64)>) {
    let mut bytes = [0; ECHO_BYTES];
    while from.read_exact(&mut bytes).await.is_ok() {
        let (number, took) = bytes.split_at(4);
        let number = u32::from_be_bytes(number.try_into().expect("four bytes"));
        let took = u64::from_be_bytes(took.try_into().expect("eight bytes"));
        if heard.send((number, took)).is_err() {
            return;
        }
    }
}

/// A message on its way, with what it takes to send it again.
struct UnderWay {
    client: Client,
    topic: String,
    payload: Vec<u8>,
    sent: Sent,
}

impl Publisher {
    async fn one_by_one(&mut self, block: Block) -> Result<Latencies, MqttBenchError> {
        let mut latencies = Latencies::default();
        let payload = payload::make(block.bytes);
        for _ in 0..block.count {
            let begun = monotonic();
            let under_way = self.start(block, &payload, begun, true).await?;
            finish(block, under_way).await?;
            latencies.acknowledged.push(monotonic().saturating_sub(begun));
            // Echoes of messages that were overtaken by later ones may still come.
            let took = loop {
                let (number, took) = self.echo(block.mode).await?;
                if number == self.number {
                    break took;
                }
            };
            latencies.arrived.push(took);
        }
        Ok(latencies)
    }

    async fn stream(&mut self, block: Block, seconds: f64, window: u32) -> Result<Answer, MqttBenchError> {
        let payload = payload::make(block.bytes);
        let first = self.number;
        let (mut sent, mut echoed) = (0, 0);
        let mut under_way = VecDeque::new();
        let begun = monotonic();
        let elapsed = || monotonic().saturating_sub(begun) as f64 / 1e9;
        let mut over = false;
        while !over {
            over = sent + 1 >= block.count || elapsed() >= seconds;
            let echo = over || (sent + 1) % ECHO_EVERY == 0;
            under_way.push_back(self.start(block, &payload, monotonic(), echo).await?);
            sent += 1;
            // No more than the window waits for the subscriber, or for the broker.
            while sent - echoed >= window.max(ECHO_EVERY) {
                echoed = match (self.echoes.try_recv(), under_way.pop_front()) {
                    (Ok((number, _)), oldest) => {
                        oldest.into_iter().for_each(|oldest| under_way.push_front(oldest));
                        latest(number, first, sent, echoed)
                    }
                    // What the broker wants once more, with its header, is sent again only here.
                    (Err(_), Some(oldest)) => {
                        finish(block, oldest).await?;
                        echoed
                    }
                    (Err(_), None) => self.echoed(block.mode, first, sent, echoed).await?,
                };
            }
            while under_way.len() >= window as usize {
                let oldest = under_way.pop_front().expect("it is not empty");
                finish(block, oldest).await?;
            }
        }
        for message in under_way {
            finish(block, message).await?;
        }
        while echoed < sent {
            echoed = self.echoed(block.mode, first, sent, echoed).await?;
        }
        Ok(Answer::Streamed { count: sent, seconds: elapsed() })
    }

    /// Stamps, seals and hands over, all of which counts as publishing.
    async fn start(
        &mut self,
        block: Block,
        payload: &[u8],
        at: u64,
        echo: bool,
    ) -> Result<UnderWay, MqttBenchError> {
        self.number = (self.number + 1) & (u32::MAX >> 1);
        let mut payload = payload.to_vec();
        Stamp { at, number: self.number, echo }.write(&mut payload);
        let client = self.client(block.mode)?;
        let topic = topic(block.mode, self.number);
        if block.mode == Mode::Psk {
            payload = self.seal_under_psk(&topic, &payload);
        }
        let sent = client.start(&order(block, &topic, &payload)).await?;
        Ok(UnderWay { client, topic, payload, sent })
    }

    /// The connection for `mode`; those of [`Mode::SealedPerMessage`] in turn, as brokers take a few headers at once.
    fn client(&mut self, mode: Mode) -> Result<Client, MqttBenchError> {
        let of_mode = self.lines.iter().filter(|(other, _)| *other == mode);
        let at = if mode == Mode::SealedPerMessage { self.fresh % of_mode.clone().count().max(1) } else { 0 };
        self.fresh += usize::from(mode == Mode::SealedPerMessage);
        let client = of_mode.map(|(_, client)| client).nth(at);
        client.cloned().ok_or(MqttBenchError::NoLine { mode })
    }

    /// Nonce, ciphertext, tag: all that a pre-shared key needs.
    fn seal_under_psk(&mut self, topic: &str, payload: &[u8]) -> Vec<u8> {
        self.nonce += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[4..].copy_from_slice(&self.nonce.to_be_bytes());
        let mut envelope = Vec::with_capacity(NONCE_BYTES + payload.len() + 16);
        envelope.extend(nonce);
        envelope.extend(payload);
        self.psk.seal(nonce, topic.as_bytes(), &mut envelope, NONCE_BYTES);
        envelope
    }

    /// As [`latest`], after one more echo.
    async fn echoed(
        &mut self,
        mode: Mode,
        first: u32,
        sent: u32,
        before: u32,
    ) -> Result<u32, MqttBenchError> {
        Ok(latest(self.echo(mode).await?.0, first, sent, before))
    }

    async fn echo(&mut self, mode: Mode) -> Result<(u32, u64), MqttBenchError> {
        match tokio::time::timeout(LOST_AFTER, self.echoes.recv()).await {
            Ok(Some(echo)) => Ok(echo),
            Ok(None) => Err(MqttBenchError::Ended),
            Err(_) => Err(MqttBenchError::Lost { mode }),
        }
    }
}

/// How many of the `sent` messages after `first` have come: up to the latest that did. A message that the broker wanted to
/// have once more, with its header, comes after later ones.
fn latest(number: u32, first: u32, sent: u32, before: u32) -> u32 {
    let number = number.wrapping_sub(first);
    if number <= sent { number.max(before) } else { before }
}

async fn finish(block: Block, message: UnderWay) -> Result<(), MqttBenchError> {
    let UnderWay { client, topic, payload, sent } = message;
    client.finish(&order(block, &topic, &payload), sent).await?;
    Ok(())
}

fn order<'a>(block: Block, topic: &'a str, payload: &'a [u8]) -> mqtt::Order<'a> {
    let wish = if block.mode.is_sealed() { Wish::Rule } else { Wish::Plain };
    mqtt::Order { topic, payload, wish, qos: qos(block.qos), retain: false }
}
