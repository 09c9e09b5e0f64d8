//! MQTT over WebSocket, byte by byte: RFC 6455 and MQTT 5.0, section 6.

mod broker_support;

use std::{net::SocketAddr, time::Duration};

use broker_support::*;
use bytes::BytesMut;
use smqtt::{
    broker::{Broker, BrokerHandle, Config, Origins},
    mqtt::*,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const CONTINUATION: u8 = 0x00;
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

async fn start(config: Config, origins: &[&str]) -> (SocketAddr, BrokerHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut broker = Broker::new(config, vec![]).unwrap();
    let mut listed = Origins::default();
    origins.iter().for_each(|origin| listed.add(origin).unwrap());
    broker.listen_websocket(listener, None, listed);
    let handle = broker.handle();
    tokio::spawn(broker.run(std::future::pending()));
    (address, handle)
}

/// A client that writes frames.
struct Raw(TcpStream);

impl Raw {
    /// Sends a request, and gives the head of the answer.
    async fn ask(address: SocketAddr, request: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(DEADLINE, stream.read_u8()).await.unwrap();
            match byte {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        (Self(stream), String::from_utf8(head).unwrap())
    }

    async fn open(address: SocketAddr) -> Self {
        let (raw, answer) = Self::ask(address, &request(address, "/mqtt", "")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next frame of the broker: its first byte, and its payload. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await.ok()?;
            assert_eq!(head[1] & 0x80, 0, "a server does not mask");
            let len = match head[1] {
                126 => self.0.read_u16().await.unwrap().into(),
                127 => self.0.read_u64().await.unwrap(),
                short => short.into(),
            };
            let mut payload = vec![0; len as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((head[0], payload))
        };
        timeout(DEADLINE, read).await.expect("the broker answers in time")
    }

    /// The next packet, which must come in a frame of its own.
    async fn packet(&mut self) -> Packet {
        let (first, payload) = self.frame().await.expect("the connection stays open");
        assert_eq!(first, BINARY);
        let mut bytes = BytesMut::from(&payload[..]);
        decode(&mut bytes, Version::V5, Limits::default()).unwrap().expect("a packet")
    }

    async fn connect(&mut self, packet: Connect) {
        self.send(&frame(BINARY, &encoded(Packet::Connect(Box::new(packet))))).await;
        assert!(matches!(self.packet().await, Packet::Connack(ack) if ack.reason == ReasonCode::Success));
    }

    /// The code that the broker closed with, what came before left aside.
    async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((first, payload)) = self.frame().await {
            if first == CLOSE {
                code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
        code
    }
}

fn request(address: SocketAddr, path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n{fields}\r\n"
    )
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn encoded(packet: Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.encode(Version::V5, &mut bytes).unwrap();
    bytes
}

fn subscribe(filter: &str) -> Packet {
    let subscriptions = vec![Subscription { filter: filter.into(), options: SubscriptionOptions::default() }];
    Packet::Subscribe(Subscribe { packet_id: 1, properties: SubscribeProperties::default(), subscriptions })
}

#[tokio::test]
async fn packets_are_split_and_joined_over_frames_as_they_come() {
    let (address, _) = start(Config::default(), &[]).await;
    for path in ["/mqtt", "/", "/mqtt?from=a"] {
        let (mut raw, answer) = Raw::ask(address, &request(address, path, "")).await;
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        // A fragment for each byte, an empty one and a ping between them, and each byte of that a write of its own.
        let packet = encoded(Packet::Connect(Box::new(connect(Version::V5, "split"))));
        let mut bytes = frame(BINARY & 0x7F, b"");
        for byte in &packet {
            bytes.extend(frame(CONTINUATION, &[*byte]));
            bytes.extend(frame(PING, b"are you there"));
        }
        bytes.extend(frame(0x80 | CONTINUATION, b""));
        for byte in bytes {
            raw.send(&[byte]).await;
        }
        let mut pongs = 0;
        loop {
            match raw.frame().await.expect("it goes on") {
                (PONG, payload) => {
                    assert_eq!(payload, b"are you there");
                    pongs += 1;
                }
                (first, payload) => {
                    assert_eq!((first, payload[0]), (BINARY, 0x20), "CONNACK");
                    break;
                }
            }
        }
        // Of several pings the last must be answered (section 5.5.3).
        assert!(pongs >= 1);
        // Two packets and half of a third in one frame.
        let large = message("a", &"x".repeat(100_000), QoS::AtMostOnce);
        let packets = [subscribe("a"), Packet::Pingreq, Packet::Publish(large)].map(encoded).concat();
        let (one, two) = packets.split_at(packets.len() - 70_000);
        raw.send(&[frame(BINARY, one), frame(BINARY, two)].concat()).await;
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let Some((BINARY, payload)) = raw.frame().await {
                input.extend(payload);
            }
            while let Some(packet) = decode(&mut input, Version::V5, Limits::default()).unwrap() {
                seen.push(packet);
            }
        }
        assert!(seen.iter().any(|packet| matches!(packet, Packet::Suback(_))));
        assert!(seen.iter().any(|packet| matches!(packet, Packet::Pingresp)));
        let got =
            |packet: &Packet| matches!(packet, Packet::Publish(publish) if publish.payload.len() == 100_000);
        assert!(seen.iter().any(got), "{}", seen.len());
    }
}

#[tokio::test]
async fn what_is_no_binary_frame_of_a_client_ends_it_with_a_code() {
    let (address, handle) = start(Config::default(), &[]).await;
    let hello = encoded(Packet::Pingreq);
    let unmasked = [&[BINARY, hello.len() as u8][..], &hello].concat();
    let nested = [frame(BINARY & 0x7F, &hello[..1]), frame(BINARY, &hello)].concat();
    for (bytes, code) in [
        (frame(TEXT, b"hello"), 1003),
        (unmasked, 1002),
        (nested, 1002),
        (frame(BINARY | 0x40, &hello), 1002),
        (frame(0x80 | CONTINUATION, &hello), 1002),
        (frame(PING, &[0; 126]), 1002),
        (frame(CLOSE, &[1]), 1002),
    ] {
        let mut early = Raw::open(address).await;
        early.send(&bytes).await;
        assert_eq!(early.closed().await, Some(code), "before CONNECT: {bytes:?}");
        let mut raw = Raw::open(address).await;
        raw.connect(connect(Version::V5, "odd")).await;
        raw.send(&bytes).await;
        assert_eq!(raw.closed().await, Some(code), "{bytes:?}");
    }
    until(|| handle.connections() == 0).await;
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_refused_as_over_tcp_and_a_frame_need_not_end() {
    let mut config = Config::default();
    config.limits.packet_bytes_max = 1_000;
    let (address, _) = start(config, &[]).await;
    let mut raw = Raw::open(address).await;
    // All that follows is one frame of 2^62 bytes.
    let mut header = vec![BINARY, 0x80 | 127];
    header.extend((1u64 << 62).to_be_bytes());
    header.extend([0; 4]);
    raw.send(&header).await;
    raw.send(&encoded(Packet::Connect(Box::new(connect(Version::V5, "endless"))))).await;
    assert!(matches!(raw.packet().await, Packet::Connack(_)));
    let oversized = encoded(Packet::Publish(message("a", &"x".repeat(2_000), QoS::AtMostOnce)));
    raw.send(&oversized[..10]).await;
    assert!(matches!(raw.packet().await, Packet::Disconnect(d) if d.reason == ReasonCode::PacketTooLarge));
    assert_eq!(raw.closed().await, Some(1000));
}

#[tokio::test]
async fn a_close_is_answered_and_counts_as_the_end_of_the_connection() {
    let (address, handle) = start(Config::default(), &[]).await;
    let mut watcher = Raw::open(address).await;
    watcher.connect(connect(Version::V5, "watcher")).await;
    watcher.send(&frame(BINARY, &encoded(subscribe("gone/#")))).await;
    assert!(matches!(watcher.packet().await, Packet::Suback(_)));
    let with_will = |id: &str| {
        let mut packet = connect(Version::V5, id);
        packet.will = Some(will(&format!("gone/{id}"), "without a word"));
        packet
    };
    // With DISCONNECT before it, in one go, the will is not published.
    let mut polite = Raw::open(address).await;
    polite.connect(with_will("polite")).await;
    let goodbye = Packet::Disconnect(Disconnect {
        reason: ReasonCode::Success,
        properties: DisconnectProperties::default(),
    });
    let bytes = [frame(BINARY, &encoded(goodbye)), frame(CLOSE, &1000u16.to_be_bytes())].concat();
    polite.send(&bytes).await;
    assert_eq!(polite.closed().await, Some(1000));
    // Without, it is.
    let mut curt = Raw::open(address).await;
    curt.connect(with_will("curt")).await;
    curt.send(&frame(CLOSE, &1001u16.to_be_bytes())).await;
    assert_eq!(curt.closed().await, Some(1001));
    assert!(matches!(watcher.packet().await, Packet::Publish(publish) if publish.topic == "gone/curt"));
    // The broker says goodbye, too.
    handle.disconnect_all(ReasonCode::ServerShuttingDown, "");
    assert!(matches!(watcher.packet().await, Packet::Disconnect(_)));
    assert_eq!(watcher.closed().await, Some(1000));
}

#[tokio::test]
async fn only_an_opening_handshake_for_mqtt_is_let_through() {
    let (address, handle) = start(Config::default(), &["https://app.example.org"]).await;
    let good = request(address, "/mqtt", "");
    for (request, status) in [
        (good.replace("Sec-WebSocket-Protocol: mqtt\r\n", ""), "400"),
        (good.replace("Protocol: mqtt", "Protocol: chat"), "400"),
        (request(address, "/other", ""), "404"),
        (good.replace("GET", "POST"), "405"),
        (good.replace("Upgrade: websocket\r\n", ""), "426"),
        (request(address, "/mqtt", &"X: y\r\n".repeat(100)), "431"),
        (format!("GET /{}", "a".repeat(9_000)), "431"),
        (format!("{good}{good}"), "400"),
        // Somebody speaks MQTT, or TLS, without WebSocket.
        ("\x10\x10\0\x04MQTT\x05\x02\0\0\0\0\x03abc".to_owned(), "400"),
        ("\x16\x03\x01\0\x01".to_owned(), "400"),
    ] {
        let (_, answer) = Raw::ask(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(!answer.contains("Sec-WebSocket-Accept"), "{answer}");
    }
    until(|| handle.connections() == 0).await;
    Raw::open(address).await.connect(connect(Version::V5, "fine")).await;
}

/// A browser lets any page open a WebSocket to this machine.
#[tokio::test]
async fn a_web_page_of_somebody_else_does_not_get_in() {
    let (address, _) = start(Config::default(), &["https://app.example.org"]).await;
    for (fields, status) in [
        ("Origin: https://evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        ("Origin: https://app.example.org.evil.example\r\n", "403"),
        ("Origin: https://app.example.org\r\nOrigin: https://evil.example\r\n", "403"),
        ("Origin: https://app.example.org\r\n", "101"),
        ("Origin: http://localhost:5173\r\n", "101"),
        ("", "101"),
    ] {
        let (_, answer) = Raw::ask(address, &request(address, "/mqtt", fields)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answer}");
    }
    // Its own name for this machine helps it as little.
    let rebound = request(address, "/mqtt", "Origin: http://evil.example\r\n")
        .replace(&format!("Host: {address}"), "Host: evil.example");
    let (_, answer) = Raw::ask(address, &rebound).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    // Nor does HTTP that a page may send without asking, where MQTT is expected: not a byte comes back.
    let plain = TestBroker::direct().await;
    let mut stream = TcpStream::connect(plain.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\n\r\n\x10\x0c\0\x04MQTT\x05\x02\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_slow_handshake_is_ended_and_holds_nobody_up() {
    let mut config = Config::default();
    config.limits.handshake_timeout = Duration::from_millis(300);
    let (address, handle) = start(config, &[]).await;
    let mut slow = Vec::new();
    for part in ["", "GET /mqtt HTTP/1.1\r\n", &request(address, "/mqtt", "")[..100]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // They have all been accepted when the last is.
    Raw::open(address).await.connect(connect(Version::V5, "honest")).await;
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert_eq!(ended.expect("it is ended").unwrap_or(0), 0);
    }
    until(|| handle.connections() == 0).await;
}

/// Who asks and asks and does not read what is answered costs a few bytes, and is ended like anybody.
#[tokio::test]
async fn pings_without_end_are_answered_one_at_a_time() {
    let (address, handle) = start(Config::default(), &[]).await;
    let mut raw = Raw::open(address).await;
    let mut packet = connect(Version::V5, "pinger");
    packet.keep_alive_secs = 1;
    raw.connect(packet).await;
    let pings = frame(PING, &[7; 125]).repeat(1_000);
    let (mut reader, mut writer) = raw.0.into_split();
    // They are no MQTT packets: the keep alive runs out all the same.
    let flood = async { while writer.write_all(&pings).await.is_ok() {} };
    timeout(DEADLINE, flood).await.expect("the broker ends it");
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, reader.read_to_end(&mut rest)).await.unwrap();
    until(|| handle.connections() == 0).await;
}
