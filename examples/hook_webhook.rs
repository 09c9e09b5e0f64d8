//! A hook of your own: a web server decides who connects, and hears what happens.
//!
//! ```text
//! cargo run --example hook_webhook -- http://127.0.0.1:8080/mqtt 127.0.0.1:1883
//! mosquitto_sub -p 1883 -u porter -P secret -t 'door/#' -C 1 &
//! mosquitto_pub -p 1883 -u visitor -P secret -t door/front -m open
//! ```
//!
//! with a server such as this one, which lets everybody in and prints what it is sent:
//!
//! ```text
//! python3 -c '
//! from http.server import *
//! class Handler(BaseHTTPRequestHandler):
//!     def do_POST(self):
//!         print(self.path, self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
//!         self.send_response(204); self.end_headers()
//! ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()'
//! ```
//!
//! `POST URL/connect` asks with one object; 2xx lets the client in, 401 and 403 refuse it. Whatever else comes, or nothing
//! in time, refuses it as well: a server that is down lets nobody in. The password goes along, so have the server on the
//! same machine. `POST URL/events` tells with a list of objects. They wait in a queue and are sent again until the
//! server has taken them, so one may come twice; what no longer fits into the queue is lost, and the next list says so.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use smqtt::{
    broker::{
        Broker, Client, Config, ConnectRequest, ConnectVerdict, Denial, Disconnection, Hook, HookFuture,
        Point, Published,
    },
    mqtt::{ReasonCode, Version},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{
        Semaphore,
        mpsc::{Receiver, Sender, channel},
    },
    task::JoinHandle,
    time::timeout,
};

/// How long the server may take. Less than the broker gives a CONNECT.
const PATIENCE: Duration = Duration::from_secs(3);
/// Questions to the server at a time; others wait their turn, within their time.
const QUESTIONS_MAX: usize = 64;
/// Events that wait for the server.
const EVENTS_MAX: usize = 10_000;
/// Events in one request.
const BATCH_MAX: usize = 100;
/// Pause after a request that failed.
const PAUSE: Duration = Duration::from_millis(250);

/// The hook.
pub struct Webhook {
    server: Arc<Server>,
    turns: Semaphore,
    events: Sender<Value>,
    lost: Arc<AtomicU64>,
}

struct Server {
    authority: String,
    path: String,
    patience: Duration,
}

impl Webhook {
    /// Asks and tells the server at `url`; the task ends with the hook, when all is told. Must be called inside a runtime.
    pub fn new(
        url: &str,
        patience: Duration,
    ) -> Result<(Self, JoinHandle<()>), Box<dyn Error + Send + Sync>> {
        let uri: Uri = url.parse()?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("`{url}` does not begin with http://").into());
        }
        let authority = uri.authority().ok_or("the URL names no host")?;
        let authority = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = uri.path().trim_end_matches('/').to_owned();
        let server = Arc::new(Server { authority, path, patience });
        let (events, waiting) = channel(EVENTS_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(tell(server.clone(), waiting, lost.clone()));
        Ok((Self { server, turns: Semaphore::new(QUESTIONS_MAX), events, lost }, task))
    }

    fn event(&self, event: Value) {
        if self.events.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn ask(&self, question: &Value) -> Option<StatusCode> {
        let answer = async {
            let _turn = self.turns.acquire().await.ok()?;
            self.server
                .post("connect", question)
                .await
                .inspect_err(|error| eprintln!("webhook: {error}"))
                .ok()
        };
        timeout(self.server.patience, answer).await.ok().flatten()
    }
}

impl Server {
    async fn post(&self, what: &str, body: &Value) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(format!("{}/{what}", self.path))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        // Both ends of the exchange on this task, so that it ends with it. The answer's body is nobody's business.
        tokio::select! {
            answer = &mut answer => Ok(answer?.status()),
            _ = connection => Ok(answer.await?.status()),
        }
    }
}

/// Sends what happened, in order.
async fn tell(server: Arc<Server>, mut waiting: Receiver<Value>, lost: Arc<AtomicU64>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let lost_before = lost.swap(0, Ordering::Relaxed);
        if lost_before > 0 {
            batch.push(json!({ "event": "lost", "events": lost_before }));
        }
        let body = Value::Array(std::mem::take(&mut batch));
        loop {
            match timeout(server.patience, server.post("events", &body)).await {
                Ok(Ok(status)) if status.is_success() => break,
                Ok(Ok(status)) => eprintln!("webhook: events were answered {status}"),
                Ok(Err(error)) => eprintln!("webhook: {error}"),
                Err(_) => eprintln!("webhook: no answer in time"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Hook for Webhook {
    fn points(&self) -> &'static [Point] {
        &[Point::Published]
    }

    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(async move {
            let question = json!({
                "client_id": request.client_id.as_str(),
                "user_name": request.user_name.as_deref(),
                "password_base64": request.password.as_ref().map(|password| BASE64_STANDARD.encode(password)),
                "peer": request.peer.to_string(),
                "version": if request.version == Version::V5 { "5.0" } else { "3.1.1" },
            });
            let (reason, text) = match self.ask(&question).await {
                Some(status) if status.is_success() => return ConnectVerdict::Allow(Default::default()),
                Some(StatusCode::UNAUTHORIZED) => {
                    (ReasonCode::BadUserNameOrPassword, "unknown user or password")
                }
                Some(StatusCode::FORBIDDEN) => (ReasonCode::NotAuthorized, "not allowed to connect"),
                _ => (ReasonCode::ServerUnavailable, "nobody there to ask; try again later"),
            };
            ConnectVerdict::Deny(Denial::new(reason, text))
        })
    }

    fn published(&self, published: &Published<'_>) {
        let message = published.message;
        self.event(json!({
            "event": "published",
            "client_id": message.publisher().map(|client| client.client_id.as_str()),
            "topic": message.topic().as_str(),
            "payload_bytes": message.payload().len(),
            "qos": message.qos() as u8,
            "retain": message.retain(),
            "receivers": published.receivers,
        }));
    }

    fn disconnected(&self, client: &Client, end: Disconnection) {
        self.event(json!({
            "event": "disconnected",
            "client_id": client.client_id.as_str(),
            "reason": end.reason as u8,
            "by_client": end.by_client,
        }));
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "http://127.0.0.1:8080/mqtt".to_owned());
    let listener = TcpListener::bind(args.next().as_deref().unwrap_or("127.0.0.1:1883")).await?;
    let (webhook, telling) = Webhook::new(&url, PATIENCE)?;
    println!("listening on {}, asking {url}", listener.local_addr()?);
    let mut broker = Broker::new(Config::default(), vec![Box::new(webhook)])?;
    broker.listen_tcp(listener);
    broker
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    // What the server has not taken by then is lost.
    let _ = timeout(PATIENCE, telling).await;
    Ok(())
}
