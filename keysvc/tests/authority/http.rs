//! HTTP as an adversary speaks it: garbage, silence, slowness.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, StatusCode};
use smqtt_keysvc::{BODY_BYTES_MAX, Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::*;

fn impatient() -> Config {
    let limits = Limits {
        handshake_timeout_ms: 300,
        header_timeout_ms: 300,
        body_timeout_ms: 300,
        write_timeout_ms: 300,
        ..Limits::default()
    };
    Config { limits, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem() {
    let server = Running::start().await;
    let admin = server.admin();
    let post = || Request::post("/v1/tokens").header("content-type", "application/json");
    admin.get("/").await.problem(404, "not-found");
    admin.get("/v1/nothing?x=%ff").await.problem(404, "not-found");
    admin.get("/v1/enrol").await.problem(405, "method");
    admin.delete("/v1/health").await.problem(405, "method");
    admin.send(Request::builder().method("BREW").uri("/v1/root"), Bytes::new()).await.problem(405, "method");
    admin.send(Request::post("/v1/tokens"), "{}".into()).await.problem(415, "media-type");
    let text = Request::post("/v1/tokens").header("content-type", "text/plain");
    admin.send(text, "{}".into()).await.problem(415, "media-type");
    admin.send(post(), vec![b' '; BODY_BYTES_MAX + 1].into()).await.problem(413, "too-large");
    let deep = "[".repeat(BODY_BYTES_MAX);
    for body in ["", "{", "null", "[]", "{\"name\": 5}", "{\"name\": \"a\", \"name\": \"b\"}", "\u{0}", &deep]
    {
        admin.send(post(), body.to_owned().into()).await.problem(400, "json");
    }
    admin.send(post(), Bytes::from_static(b"{\"name\": \"\xff\"}")).await.problem(400, "json");
    admin.get("/v1/audit?after=x").await.problem(400, "bad-request");
    admin.get("/v1/devices?after=x").await.problem(400, "bad-request");
    admin.delete("/v1/rules").await.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_is_cut_off_as_well() {
    let server = Running::start().await;
    let mut stream = server.admin().stream().await.unwrap();
    let head = "POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    for _ in 0..3 {
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

/// The answer comes while the body is still being sent, and must not be lost over what the server does not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_also_if_the_body_is_still_on_its_way() {
    let server = Running::start().await;
    for _ in 0..20 {
        let mut stream = server.admin().stream().await.unwrap();
        let bytes = 4 * BODY_BYTES_MAX;
        let head = "POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}content-length: {bytes}\r\n\r\n").as_bytes()).await.unwrap();
        // As a client does that sends all of it before it looks for an answer.
        stream.write_all(&vec![b' '; bytes]).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_connections_are_closed_while_others_are_served() {
    let server = Running::with(impatient()).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let client = server.anonymous();
    let mut half_heads = Vec::new();
    for _ in 0..20 {
        let mut stream = client.stream().await.unwrap();
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost:").await.unwrap();
        half_heads.push(stream);
    }
    assert_eq!(client.get("/v1/health").await.status, StatusCode::OK);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
    }
    for mut stream in half_heads {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drip_of_header_bytes_wins_no_time() {
    let server = Running::with(impatient()).await;
    let mut stream = server.anonymous().stream().await.unwrap();
    let drip = async {
        loop {
            if stream.write_all(b"a").await.is_err() || stream.flush().await.is_err() {
                return;
            }
            let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 512])).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), drip).await.expect("the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Running::with(impatient()).await;
    let mut stream = server.admin().stream().await.unwrap();
    let head = "POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is closed");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("/problems/timeout"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_before_and_within_tls_ends_the_connection() {
    let server = Running::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"));
    for garbage in
        [&b"\x00\xff\r\n\r\n"[..], b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[b'a'; 40_000]]
    {
        let mut stream = server.anonymous().stream().await.unwrap();
        let _ = stream.write_all(garbage).await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the connection is closed");
        assert!(!rest.starts_with(b"HTTP/1.1 2"));
    }
    assert_eq!(server.anonymous().get("/v1/health").await.status, StatusCode::OK);
}

/// A connection from an address of the loopback network.
async fn connect_from(address: &str, server: &Running) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(server.address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_connections_are_dropped_and_the_slots_come_back() {
    let mut config = impatient();
    config.limits.connections_max = 2;
    let server = Running::with(config).await;
    let held = [connect_from("127.0.0.2", &server).await, connect_from("127.0.0.3", &server).await];
    let mut third = connect_from("127.0.0.4", &server).await;
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    for mut stream in held {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
    }
    assert_eq!(server.anonymous().get("/v1/health").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_leaves_half_of_the_places_to_others() {
    let mut config = Config::default();
    config.limits.connections_max = 8;
    let server = Running::with(config).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(connect_from("127.0.0.2", &server).await);
    }
    for _ in 0..8 {
        let turned_away = connect_from("127.0.0.2", &server).await.read(&mut [0; 1]).await.unwrap_or(0);
        assert_eq!(turned_away, 0, "the connection is closed at once");
    }
    // Others are served meanwhile, and whoever ends one may begin another.
    assert_eq!(server.anonymous().get("/v1/health").await.status, StatusCode::OK);
    assert_eq!(server.authority.limited().connections.load(Relaxed), 8);
    drop(held.pop());
    let begins_again = async {
        loop {
            let mut stream = connect_from("127.0.0.2", &server).await;
            let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
            if read.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), begins_again).await.expect("there is a place again");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_shut_out_keeps_no_connection() {
    let server = Running::start().await;
    let device = server.enrol("thief", &["x"]).await;
    let mut sender = server.client(&device).connect().await;
    let request = || {
        let request = Request::get("/v1/keys").header("host", "localhost");
        request.body(http_body_util::Full::new(Bytes::new())).unwrap()
    };
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!((answer.status(), answer.headers().get("connection")), (StatusCode::OK, None));
    let path = format!("/v1/devices/{}/revoke", device.enrolment.id);
    assert_eq!(server.admin().post(&path, &()).await.status, StatusCode::OK);
    sender.ready().await.unwrap();
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["connection"], "close");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_those_who_wait() {
    let server = Running::start().await;
    let admin = server.admin();
    let waiting = tokio::spawn(async move { admin.get("/v1/bundle?after=1&wait=60").await });
    let idle = server.anonymous().connect().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    waiting.await.unwrap().problem(503, "busy");
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_in_the_chain_for_devices_that_know_its_fingerprint_alone() {
    let server = Running::start().await;
    let stream = server.anonymous().stream().await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(smqtt_core::identity::fingerprint(&chain[1]).unwrap(), server.authority.fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_largest_number_there_is_nothing() {
    let server = Running::start().await;
    for after in [i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        for path in ["/v1/audit", "/v1/audit/checkpoints", "/v1/directory", "/v1/bundle"] {
            let answer = server.admin().get(&format!("{path}?after={after}")).await;
            assert!(answer.status.is_success(), "{path} {after}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_and_bodies_are_refused_and_reach_nothing() {
    let server = Running::start().await;
    let admin = server.admin();
    server.enrol("a", &["x"]).await;
    let names = [
        "..",
        "%2e%2e",
        "..%2f..%2fadmin",
        "%00",
        "a%00",
        "a%0d%0ax-evil:%20y",
        "%1b%5b2J",
        "%ff",
        "%e2%80%ae",
    ];
    for name in names {
        for path in
            [format!("/v1/devices/{name}"), format!("/v1/tokens/{name}"), format!("/v1/profiles/{name}")]
        {
            let answer = admin.get(&path).await;
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
            assert!(!answer.headers.contains_key("x-evil"));
            assert!(!answer.body.contains(&0x1b) && !answer.body.contains(&0), "{path}: {}", answer.text());
        }
        for path in [format!("/v1/devices/{name}/revoke"), format!("/v1/enrolments/{name}/approve")] {
            assert!(admin.post(&path, &()).await.status.is_client_error(), "{path}");
        }
        admin.put(&format!("/v1/groups/{name}"), &serde_json::json!({})).await;
    }
    let rows = admin.get("/v1/audit").await;
    assert!(!rows.text().contains("\\u001b") && !rows.text().contains('\u{202e}'), "{}", rows.text());
    let bodies = [
        "[".repeat(60_000),
        format!("{}1{}", "{\"name\":".repeat(5_000), "}".repeat(5_000)),
        r#"{"name": "b", "name": "c"}"#.to_owned(),
        r#"{"name": "b", "ttl_seconds": NaN}"#.to_owned(),
        r#"{"name": "b", "ttl_seconds": 1e400}"#.to_owned(),
        r#"{"name": "b", "ttl_seconds": -1}"#.to_owned(),
        r#"{"name": "b", "ttl_seconds": 99999999999999999999999999}"#.to_owned(),
        r#"{"name": "b", "count": 4294967296}"#.to_owned(),
        r#"{"name": "\ud800"}"#.to_owned(),
        "{\"name\": \"b\u{0}\"}".to_owned(),
        "\u{feff}{\"name\": \"b\"}".to_owned(),
    ];
    for body in bodies {
        let request = Request::post("/v1/tokens").header("content-type", "application/json");
        let shown: String = body.chars().take(60).collect();
        let answer = admin.send(request, body.into()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{shown}: {}", answer.text());
    }
    // One method is not another, whatever a header says.
    let request = Request::get("/v1/devices/a").header("x-http-method-override", "DELETE");
    assert_eq!(
        admin.send(request.header("x-method-override", "POST"), Bytes::new()).await.status,
        StatusCode::OK
    );
    for method in ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "BREW"] {
        let request = Request::builder().method(method).uri("/v1/devices/a/revoke");
        assert_eq!(
            admin.send(request, Bytes::new()).await.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
    }
    let device: smqtt_core::api::Device = admin.get("/v1/devices/a").await.json();
    assert_eq!(device.status, "active");
}
