//! A hook of your own: an audit log. Each thing that a client does, or is refused, becomes one line of JSON in a file that
//! only its owner reads. No payload and no password ever gets there.
//!
//! ```text
//! cargo run --example hook_audit -- audit.log 127.0.0.1:1883
//! mosquitto_sub -p 1883 -i porter -t 'door/#' -C 1 &
//! mosquitto_pub -p 1883 -i visitor -t door/front -m open -q 1
//! cat audit.log
//! ```
//!
//! The file is written by a thread of its own: the message path only puts a line into a channel. What no longer fits there
//! is lost, and the next line that is written says how many were.

use std::{
    error::Error,
    fs::{File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use smqtt::broker::{
    Attempt, Begun, Broker, Client, Config, Denial, Disconnection, Dropped, Hook, Point, Published,
    SessionEnd, SubscribeRequest, Whose,
};
use tokio::net::TcpListener;

/// Lines that wait to be written.
const LINES_MAX: usize = 10_000;
/// Bytes that are written at a time.
const BATCH_BYTES: usize = 64 << 10;

#[derive(Debug, Default, Serialize)]
struct Line {
    /// Since 1970.
    time_ms: u64,
    event: &'static str,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Number of the connection, to tell two of one client apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// Topic, or filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    /// Of one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    receivers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Line {
    fn new(event: &'static str, whose: &str, identity: Option<&str>) -> Self {
        Self {
            time_ms: now_ms(),
            event,
            client: whose.to_owned(),
            identity: identity.map(str::to_owned),
            ..Self::default()
        }
    }

    fn of(event: &'static str, client: &Client) -> Self {
        Self {
            connection: Some(client.connection),
            peer: Some(client.peer.to_string()),
            ..Self::new(event, &client.client_id, client.identity.as_deref())
        }
    }

    fn on(self, topic: &str) -> Self {
        Self { topic: Some(topic.to_owned()), ..self }
    }

    fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

/// The hook.
pub struct Audit {
    lines: SyncSender<Option<Line>>,
    lost: Arc<AtomicU64>,
}

/// Writes what the hook hears of.
pub struct Writer {
    lines: SyncSender<Option<Line>>,
    thread: JoinHandle<()>,
}

impl Audit {
    /// Appends to the file at `path`, which from now on only its owner may read.
    pub fn append_to(path: &Path) -> io::Result<(Self, Writer)> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let (lines, received) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let thread = {
            let lost = lost.clone();
            std::thread::Builder::new().name("audit".into()).spawn(move || write(file, &received, &lost))?
        };
        Ok((Self { lines: lines.clone(), lost }, Writer { lines, thread }))
    }

    fn log(&self, line: Line) {
        if self.lines.try_send(Some(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes what is still to be written, and syncs.
    pub fn finish(self) {
        let _ = self.lines.send(None);
        let _ = self.thread.join();
    }
}

fn write(mut file: File, lines: &Receiver<Option<Line>>, lost: &AtomicU64) {
    let mut torn = false;
    let mut open = true;
    while open {
        let mut batch = Vec::new();
        let mut count = 0;
        let mut next = lines.recv().ok();
        while let Some(received) = next.take() {
            let Some(line) = received else {
                open = false;
                break;
            };
            push(&mut batch, &line);
            count += 1;
            if batch.len() < BATCH_BYTES {
                next = lines.try_recv().ok();
            }
        }
        let lost_before = lost.swap(0, Ordering::Relaxed);
        if lost_before > 0 {
            push(&mut batch, &Lost { time_ms: now_ms(), event: "lost", lines: lost_before });
        }
        if torn {
            batch.insert(0, b'\n');
        }
        torn = match file.write_all(&batch) {
            Ok(()) => false,
            Err(error) => {
                eprintln!("the audit log cannot be written: {error}");
                lost.fetch_add(count + lost_before, Ordering::Relaxed);
                true
            }
        };
    }
    if let Err(error) = file.sync_all() {
        eprintln!("the audit log cannot be synced: {error}");
    }
}

#[derive(Serialize)]
struct Lost {
    time_ms: u64,
    event: &'static str,
    lines: u64,
}

fn push(batch: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *batch, line).expect("texts and numbers become JSON");
    batch.push(b'\n');
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Hook for Audit {
    /// Nothing is asked, and who got each message is not written down.
    fn points(&self) -> &'static [Point] {
        &[Point::Published, Point::Dropped]
    }

    fn connected(&self, client: &Client) {
        self.log(Line::of("connected", client));
    }

    fn disconnected(&self, client: &Client, end: Disconnection) {
        let by = if end.by_client { "client" } else { "broker" };
        self.log(Line::of("disconnected", client).because(format!("{:?}, by {by}", end.reason)));
    }

    fn refused(&self, attempt: &Attempt<'_>, denial: &Denial) {
        let line = match attempt {
            Attempt::Connect(request) => Line {
                connection: Some(request.connection),
                peer: Some(request.peer.to_string()),
                ..Line::new("connect-refused", &request.client_id, None)
            },
            Attempt::Subscribe(client, filter) => Line::of("subscribe-refused", client).on(filter),
            Attempt::Publish(client, message) => Line::of("publish-refused", client).on(message.topic()),
            Attempt::Will(client, message) => Line::of("will-refused", client).on(message.topic()),
            _ => return,
        };
        self.log(line.because(format!("{:?}: {}", denial.reason, denial.text)));
    }

    fn subscribed(&self, client: &Client, request: &SubscribeRequest<'_>) {
        let line = Line { qos: Some(request.options.qos as u8), ..Line::of("subscribed", client) };
        self.log(match request.group {
            Some(group) => line.on(&format!("$share/{group}/{}", request.filter)),
            None => line.on(request.filter),
        });
    }

    fn unsubscribed(&self, client: &Client, filter: &str) {
        self.log(Line::of("unsubscribed", client).on(filter));
    }

    fn published(&self, published: &Published<'_>) {
        let message = published.message;
        let line = match message.publisher() {
            Some(client) => Line::of("published", client),
            None => Line::new("published", "", None),
        };
        self.log(Line {
            payload_bytes: Some(message.payload().len()),
            qos: Some(message.qos() as u8),
            receivers: Some(published.receivers),
            ..line.on(message.topic())
        });
    }

    fn dropped(&self, dropped: &Dropped<'_>) {
        let line = of_session("dropped", &dropped.whose).on(dropped.message.topic());
        self.log(line.because(dropped.reason.name()));
    }

    fn session_begun(&self, client: &Client, begun: Begun) {
        self.log(Line::of("session-begun", client).because(format!("{begun:?}")));
    }

    fn session_taken_over(&self, client: &Client, by: &Client) {
        self.log(Line::of("session-taken-over", client).because(format!("by connection {}", by.connection)));
    }

    fn session_ended(&self, whose: &Whose<'_>, end: SessionEnd) {
        self.log(of_session("session-ended", whose).because(format!("{end:?}")));
    }
}

fn of_session(event: &'static str, whose: &Whose<'_>) -> Line {
    Line::new(event, whose.client_id, whose.identity.map(|identity| identity.as_str()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "audit.log".to_owned());
    let listener = TcpListener::bind(args.next().as_deref().unwrap_or("127.0.0.1:1883")).await?;
    let (audit, writer) = Audit::append_to(Path::new(&path))?;
    println!("listening on {}, writing to {path}", listener.local_addr()?);
    let mut broker = Broker::new(Config::default(), vec![Box::new(audit)])?;
    broker.listen_tcp(listener);
    broker
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    writer.finish();
    Ok(())
}
