//! The admin listener: what it shows, to whom, and that nobody can make it hang.

mod broker_support;

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use broker_support::*;
use smqtt::{
    admin::{Admin, AdminSocket, Answer, CONNECTION_TIME, CONNECTIONS_MAX, HEAD_BYTES_MAX, SOCKET_NAME},
    broker::{Client as Peer, Config, Counter, Hook, Metrics, Publication, Verdict},
    mqtt::*,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

async fn listen(admin: Admin) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::new(admin).serve_tcp(listener));
    address
}

/// Sends bytes, and gives everything that comes back.
async fn say(stream: &mut impl Io, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // Who is cut off may have had an answer before.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    say(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await
}

#[derive(Default)]
struct Seen(Counter);

impl Hook for Seen {
    fn metrics(&self, metrics: &Metrics) {
        metrics.register("seen", "Messages seen by a hook", &self.0);
    }

    fn publish(&self, _: &Peer, _: &mut Publication) -> Verdict {
        self.0.inc();
        Verdict::Defer
    }
}

#[tokio::test]
async fn metrics_are_those_of_the_broker_and_its_hooks() {
    let broker = TestBroker::with(Config::default(), vec![Box::new(Seen::default())]).await;
    let other = TestBroker::start().await;
    let address = listen(Admin::new(broker.handle.clone())).await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("a/#", QoS::AtLeastOnce).await;
    let mut writer = broker.v3("writer").await;
    writer.publish(Publish { retain: true, ..message("a/b", "x", QoS::AtLeastOnce) }).await;
    reader.message().await;
    assert_eq!(reader.until_ping().await, []);
    let answer = get(address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    for line in [
        "smqtt_connections 2.0",
        "smqtt_sessions 2.0",
        "smqtt_subscriptions 1.0",
        "smqtt_filters 1.0",
        "smqtt_retained_messages 1.0",
        "smqtt_inflight_messages 1.0",
        "smqtt_messages_received_total{qos=\"1\"} 1",
        "smqtt_messages_sent_total{qos=\"1\"} 1",
        "smqtt_connects_total{result=\"accepted\"} 2",
        "smqtt_messages_dropped_total{reason=\"queue_bytes\"} 0",
        "seen_total 1",
    ] {
        assert!(answer.lines().any(|there| there == line), "{line} is not in\n{answer}");
    }
    // Each broker counts for itself.
    assert!(other.handle.metrics().render().contains("smqtt_connections 0.0"));
    assert!(!other.handle.metrics().render().contains("seen_total"));
}

#[tokio::test]
async fn ready_says_what_is_wrong_and_live_does_not_care() {
    let broker = TestBroker::start().await;
    let authority = Arc::new(parking_lot::Mutex::new(Ok(())));
    let check = {
        let authority = authority.clone();
        move || authority.lock().clone()
    };
    let explain = |query: &smqtt::admin::Query| Answer::text(query.get("topic").unwrap_or("?"));
    let admin = Admin::new(broker.handle.clone()).check("authority", check).route("/explain", explain);
    let admin = Arc::new(admin);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.clone().serve_tcp(listener));
    until_ready(address).await;
    *authority.lock() = Err("silent for 20 minutes".to_owned());
    let answer = get(address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["checks"]["authority"], "silent for 20 minutes");
    assert_eq!(body["checks"]["store"], "ok");
    assert!(get(address, "/health/live").await.starts_with("HTTP/1.1 200 "));
    // What a hook has to say is for the owner of the file.
    assert!(get(address, "/explain?topic=a%2Fb").await.starts_with("HTTP/1.1 404 "));
    let dir = tempfile("ready");
    let serving = tokio::spawn(admin.serve_file(AdminSocket::bind(&dir).unwrap()));
    let mut stream = UnixStream::connect(dir.join(SOCKET_NAME)).await.unwrap();
    let answer = say(&mut stream, b"GET /explain?topic=a%2Fb HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\na/b"), "{answer}");
    serving.abort();
    std::fs::remove_dir_all(&dir).unwrap();
    broker.shutdown().await;
    let answer = get(address, "/health/ready").await;
    assert!(answer.contains("no connections are accepted"), "{answer}");
}

async fn until_ready(address: SocketAddr) {
    while !get(address, "/health/ready").await.starts_with("HTTP/1.1 200 ") {}
}

#[tokio::test]
async fn what_is_no_question_for_this_listener_is_refused() {
    let broker = TestBroker::start().await;
    let address = listen(Admin::new(broker.handle.clone())).await;
    assert!(get(address, "/elsewhere").await.starts_with("HTTP/1.1 404 "));
    let head = "A".repeat(HEAD_BYTES_MAX);
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        // A web page under a name that was made to point here.
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421),
        ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 421),
        ("no HTTP at all\r\n\r\n".to_owned(), 400),
        (format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {head}\r\n\r\n"), 431),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = say(&mut stream, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    // One request for a connection: what follows is not answered.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let twice = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    assert_eq!(say(&mut stream, twice.as_bytes()).await.matches("HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn the_file_is_for_its_owner_and_takes_the_place_of_an_old_one() {
    let broker = TestBroker::start().await;
    let dir = tempfile("file");
    drop(std::os::unix::net::UnixListener::bind(dir.join(SOCKET_NAME)).unwrap());
    let socket = AdminSocket::bind(&dir).unwrap();
    let mode = std::fs::metadata(dir.join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let serving = tokio::spawn(Arc::new(Admin::new(broker.handle.clone())).serve_file(socket));
    let mut stream = UnixStream::connect(dir.join(SOCKET_NAME)).await.unwrap();
    let answer = say(&mut stream, b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    assert!(answer.contains("smqtt_build_info"), "{answer}");
    serving.abort();
    until(|| !dir.join(SOCKET_NAME).exists()).await;
    // What is no socket stays.
    std::fs::write(dir.join(SOCKET_NAME), "mine").unwrap();
    assert!(AdminSocket::bind(&dir).is_err());
    assert_eq!(std::fs::read_to_string(dir.join(SOCKET_NAME)).unwrap(), "mine");
    std::fs::remove_dir_all(&dir).unwrap();
}

fn tempfile(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("smqtt-admin-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// More silent connections than there are places: those beyond are closed at once, and all are gone when their time is up.
#[tokio::test]
async fn silence_is_cut_off() {
    let broker = TestBroker::start().await;
    let address = listen(Admin::new(broker.handle.clone())).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTT").await.unwrap();
        silent.push(stream);
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    assert_eq!(say(&mut one_more, b"").await, "");
    // Sockets need the real clock until here.
    tokio::time::pause();
    tokio::time::advance(CONNECTION_TIME + Duration::from_secs(1)).await;
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    tokio::time::resume();
    until_ready(address).await;
}
