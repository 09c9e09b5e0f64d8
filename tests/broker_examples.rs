//! The hooks in `examples/`, on a running broker.

mod broker_support;
mod common;
#[path = "../examples/hook_audit.rs"]
#[allow(dead_code)]
mod hook_audit;
#[path = "../examples/hook_rate_limit.rs"]
#[allow(dead_code)]
mod hook_rate_limit;
#[path = "../examples/hook_webhook.rs"]
#[allow(dead_code)]
mod hook_webhook;

use std::{
    convert::Infallible, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Command,
    sync::Arc, time::Duration,
};

use broker_support::*;
use bytes::Bytes;
use common::{TempDir, peers, process};
use hook_audit::Audit;
use hook_rate_limit::RateLimit;
use hook_webhook::Webhook;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use smqtt::{
    broker::{Client as Peer, Config, EngineKind, Hook, Publication, Verdict},
    mqtt::*,
};
use tokio::net::TcpListener;

fn audit_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events_of(lines: &[Value], client: &str) -> Vec<String> {
    let of = lines.iter().filter(|line| line["client"] == client);
    of.map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

struct NoSecrets;

impl Hook for NoSecrets {
    fn publish(&self, _: &Peer, publication: &mut Publication) -> Verdict {
        match publication.message().topic().starts_with("secret/") {
            true => Verdict::deny(ReasonCode::NotAuthorized, "nobody publishes secrets"),
            false => Verdict::Defer,
        }
    }
}

#[tokio::test]
async fn the_audit_log_has_who_did_what_and_never_a_payload() {
    let dir = TempDir::new();
    let path = dir.path().join("audit.log");
    std::fs::write(&path, "{\"event\":\"before\"}\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let (audit, writer) = Audit::append_to(&path).unwrap();
    // It hears of what others refuse wherever it stands.
    let hooks: Vec<Box<dyn Hook>> = vec![Box::new(audit), Box::new(NoSecrets)];
    let broker = TestBroker::with(Config::default(), hooks).await;
    let mut porter = broker.v5("porter").await;
    porter.subscribe("door/#", QoS::AtLeastOnce).await;
    let mut hello = connect(Version::V5, "visitor");
    hello.user_name = Some("guest".into());
    hello.password = Some("pass-sesame".into());
    let (mut visitor, _) = broker.connect(hello).await;
    visitor.publish(message("door/front", "open-sesame", QoS::AtLeastOnce)).await;
    assert_eq!(porter.payload().await, "open-sesame");
    let refused = visitor.publish(message("secret/door", "open-sesame", QoS::AtLeastOnce)).await;
    assert_eq!(refused, ReasonCode::NotAuthorized);
    visitor.disconnect().await;
    broker.shutdown().await;
    writer.finish();

    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("sesame"));
    let lines = audit_lines(&path);
    assert_eq!(lines[0]["event"], "before");
    let visitor =
        ["session-begun", "connected", "published", "publish-refused", "disconnected", "session-ended"];
    assert_eq!(events_of(&lines, "visitor"), visitor);
    let porter = ["session-begun", "connected", "subscribed", "disconnected", "dropped", "session-ended"];
    assert_eq!(events_of(&lines, "porter"), porter);
    let published = lines.iter().find(|line| line["event"] == "published").unwrap();
    assert_eq!(published["topic"], "door/front");
    assert_eq!((&published["payload_bytes"], &published["receivers"]), (&11.into(), &1.into()));
    let refused = lines.iter().find(|line| line["event"] == "publish-refused").unwrap();
    assert_eq!(refused["reason"], "NotAuthorized: nobody publishes secrets");
}

#[tokio::test]
async fn the_audit_log_says_how_much_it_lost() {
    let dir = TempDir::new();
    let path = dir.path().join("audit.log");
    // A pipe that nobody reads: its writer stands still, as on a disk that hangs.
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reading = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (audit, writer) = Audit::append_to(&path).unwrap();
    let broker = TestBroker::with(Config::default(), vec![Box::new(audit)]).await;
    let mut client = broker.v5("a").await;
    const MESSAGES: usize = 15_000;
    for _ in 0..MESSAGES {
        client.send(Packet::Publish(message("x", "1", QoS::AtMostOnce))).await;
    }
    client.until_ping().await;
    let read = std::thread::spawn(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reading));
        let (mut published, mut lost) = (0, 0);
        while published + lost < MESSAGES {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            published += usize::from(line["event"] == "published");
            lost += line["lines"].as_u64().unwrap_or(0) as usize;
        }
        (published, lost)
    });
    let (published, lost) = tokio::task::spawn_blocking(|| read.join().unwrap()).await.unwrap();
    assert_eq!(published + lost, MESSAGES);
    assert!(lost > 0);
    broker.shutdown().await;
    tokio::task::spawn_blocking(|| writer.finish()).await.unwrap();
}

/// Without the router, whose thread knows nothing of a clock that stands still.
async fn limited(hook: RateLimit) -> TestBroker {
    let mut config = Config::default();
    config.engine = EngineKind::Direct;
    TestBroker::with(config, vec![Box::new(hook)]).await
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_refuses_what_is_too_much_and_forgives_with_time() {
    let broker = limited(RateLimit::new(2, 4)).await;
    let (mut reader, _) = broker.pipe_connect(connect(Version::V5, "reader")).await;
    reader.subscribe("x", QoS::AtMostOnce).await;
    let (mut other, _) = broker.pipe_connect(connect(Version::V5, "other")).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut client, _) = broker.pipe_connect(connect(Version::V5, "a")).await;
        for _ in 0..4 {
            assert_eq!(client.publish(message("x", "1", qos)).await, ReasonCode::Success);
        }
        assert_eq!(client.publish(message("x", "1", qos)).await, ReasonCode::QuotaExceeded);
        // Whoever comes back at once has gained nothing.
        client.disconnect().await;
        let (mut client, _) = broker.pipe_connect(connect(Version::V5, "a")).await;
        assert_eq!(client.publish(message("x", "1", qos)).await, ReasonCode::QuotaExceeded);
        tokio::time::advance(Duration::from_millis(1_000)).await;
        for expected in [ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded] {
            assert_eq!(client.publish(message("x", "1", qos)).await, expected);
        }
        // Others have buckets of their own.
        assert_eq!(other.publish(message("x", "1", qos)).await, ReasonCode::Success);
        client.disconnect().await;
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    for version in [Version::V3, Version::V5] {
        let (mut client, _) = broker.pipe_connect(connect(version, "a")).await;
        for _ in 0..5 {
            client.publish(message("x", "1", QoS::AtMostOnce)).await;
        }
        let reason = (version == Version::V5).then_some(ReasonCode::MessageRateTooHigh);
        assert_eq!(client.closed().await, reason);
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    // Four times four, twice two of `a`, two of `other`.
    let got = reader.until_ping().await.len();
    assert_eq!(got, 4 * 4 + 2 * 2 + 2);
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_remembers_only_so_many() {
    let broker = limited(RateLimit::for_clients(1, 1, 2)).await;
    let (first, _) = broker.pipe_connect(connect(Version::V5, "a")).await;
    let (_second, _) = broker.pipe_connect(connect(Version::V5, "b")).await;
    let mut third = broker.pipe();
    third.send(Packet::Connect(Box::new(connect(Version::V5, "c")))).await;
    assert_eq!(third.connack().await.reason, ReasonCode::ServerBusy);
    // A bucket that is full again is as good as none.
    first.vanish(&broker).await;
    broker.pipe_connect(connect(Version::V5, "c")).await;
}

/// A web server, and what it was sent: path and body.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    /// Answers to events fail that often.
    failures: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let status = match body["client_id"].as_str() {
            Some("unknown") => StatusCode::UNAUTHORIZED,
            Some("forbidden") => StatusCode::FORBIDDEN,
            Some("broken") => StatusCode::INTERNAL_SERVER_ERROR,
            Some("forever") => std::future::pending().await,
            _ => StatusCode::NO_CONTENT,
        };
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        let mut failures = self.failures.lock();
        if path.ends_with("/events") && *failures > 0 {
            *failures -= 1;
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        self.requests.lock().push((path, body));
        Ok(response)
    }

    fn events(&self) -> Vec<Value> {
        let requests = self.requests.lock();
        let lists = requests.iter().filter(|(path, _)| path == "/mqtt/events");
        lists.flat_map(|(_, body)| body.as_array().unwrap().clone()).collect()
    }
}

async fn webhooked(url: &str, patience: Duration) -> TestBroker {
    let (webhook, _) = Webhook::new(url, patience).unwrap();
    TestBroker::with(Config::default(), vec![Box::new(webhook)]).await
}

async fn outcome(broker: &TestBroker, client_id: &str) -> ReasonCode {
    let mut client = broker.raw().await;
    let mut hello = connect(Version::V5, client_id);
    hello.user_name = Some("user".into());
    hello.password = Some("secret".into());
    client.send(Packet::Connect(Box::new(hello))).await;
    client.connack().await.reason
}

#[tokio::test]
async fn the_webhook_lets_in_whom_the_server_lets_in_and_nobody_else() {
    let server = Server::default();
    let url = format!("http://{}/mqtt", server.start().await);
    let broker = webhooked(&url, DEADLINE).await;
    for (client_id, reason) in [
        ("fine", ReasonCode::Success),
        ("unknown", ReasonCode::BadUserNameOrPassword),
        ("forbidden", ReasonCode::NotAuthorized),
        ("broken", ReasonCode::ServerUnavailable),
    ] {
        assert_eq!(outcome(&broker, client_id).await, reason);
    }
    let (path, question) = server.requests.lock()[0].clone();
    assert_eq!(path, "/mqtt/connect");
    assert_eq!(question["user_name"], "user");
    assert_eq!(question["password_base64"], "c2VjcmV0");
}

#[tokio::test]
async fn the_webhook_fails_closed() {
    let server = Server::default();
    let address = server.start().await;
    let impatient = webhooked(&format!("http://{address}"), Duration::from_millis(20)).await;
    assert_eq!(outcome(&impatient, "forever").await, ReasonCode::ServerUnavailable);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = webhooked(&format!("http://{closed}"), DEADLINE).await;
    assert_eq!(outcome(&nobody, "fine").await, ReasonCode::ServerUnavailable);
    for url in ["https://127.0.0.1/", "127.0.0.1:80", "http:///", "nonsense"] {
        assert!(Webhook::new(url, DEADLINE).is_err(), "{url}");
    }
}

#[tokio::test]
async fn the_webhook_tells_what_happened_until_the_server_has_taken_it() {
    let server = Server::default();
    *server.failures.lock() = 1;
    let url = format!("http://{}/mqtt", server.start().await);
    let broker = webhooked(&url, DEADLINE).await;
    let mut client = broker.v5("a").await;
    client.publish(message("x", "sesame", QoS::AtLeastOnce)).await;
    client.disconnect().await;
    until(|| server.events().iter().any(|event| event["event"] == "disconnected")).await;
    let events = server.events();
    let published: Vec<&Value> = events.iter().filter(|event| event["event"] == "published").collect();
    // The first attempt failed.
    assert!(published.len() >= 2, "{events:?}");
    let expected = serde_json::json!({
        "event": "published", "client_id": "a", "topic": "x", "payload_bytes": 6, "qos": 1, "retain": false,
        "receivers": 0,
    });
    assert_eq!(*published[0], expected);
    let last = events.last().unwrap();
    assert_eq!((&last["client_id"], &last["by_client"]), (&"a".into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_meet_the_rate_limit() {
    if !peers::is_there("mosquitto_pub") {
        return;
    }
    // Nothing comes back, however slow this machine is.
    let broker = limited(RateLimit::new(0, 3)).await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("count", QoS::AtMostOnce).await;
    let publish = |id: &'static str, qos: &'static str| {
        let port = broker.address.port().to_string();
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new("mosquitto_pub");
            command.args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-V",
                "5",
                "-i",
                id,
                "-q",
                qos,
                "-t",
                "count",
                "-l",
            ]);
            process::run(&mut command, b"1\n2\n3\n4\n5\n")
        })
    };
    let polite = publish("polite", "1").await.unwrap();
    assert!(polite.err.contains("Quota exceeded"), "{polite:?}");
    publish("rude", "0").await.unwrap();
    until(|| broker.handle.connections() == 1).await;
    for expected in ["1", "2", "3", "1", "2", "3"] {
        assert_eq!(reader.payload().await, expected);
    }
    assert_eq!(reader.until_ping().await, []);
}
