//! The published vulnerabilities of mosquitto's broker, over the wire against this one. The list is that of
//! mosquitto.org/security and of the CVE entries that its change log names.
//!
//! | not here | because |
//! |---|---|
//! | CVE-2017-7655, CVE-2024-10525 | its client library; that a SUBACK without reasons is refused is in `src/mqtt/tests.rs` |
//! | CVE-2017-7652 | a reload of its configuration; what led there, no file descriptors left, is here |
//! | CVE-2024-3935 | remapped topics of its bridge |
//! | December 2020, August 2022, without a number | its password program, its plugin for roles |
//!
//! What leaked memory is done many times over to a broker of its own, which must not grow.

mod broker_support;
mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker_support::*;
use common::{TempDir, process::Running, site::smqtt};
use smqtt::{
    broker::{
        Broker, Config, ConnectRequest, ConnectVerdict, DeliverVerdict, Delivery, Denial, EngineKind, Hook,
        HookFuture, SubscribeRequest, Verdict,
    },
    mqtt::*,
};
use tokio::net::{TcpListener, TcpStream};

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

/// `smqtt broker --open` in a process of its own.
struct Process {
    running: Running,
    address: SocketAddr,
    _home: TempDir,
}

impl Process {
    fn start() -> Self {
        let home = TempDir::new();
        let running = Running::spawn(smqtt(home.path()).args(["broker", "--plain", "127.0.0.1:0", "--open"]));
        Self::of(running, home)
    }

    fn of(running: Running, home: TempDir) -> Self {
        let line = running.out.line("mqtt://");
        let address = line.rsplit_once("mqtt://").unwrap().1.trim().parse().unwrap();
        Self { running, address, _home: home }
    }

    async fn raw(&self) -> Client {
        Client::over(TcpStream::connect(self.address).await.unwrap())
    }

    async fn connect(&self, connect: Connect) -> Client {
        let mut client = self.raw().await;
        client.version = connect.version;
        client.send(Packet::Connect(Box::new(connect))).await;
        assert_eq!(client.connack().await.reason, ReasonCode::Success);
        client
    }

    /// Whether this name and password do not come in.
    async fn refuses(&self, version: Version, name: Option<&str>, password: Option<&str>) -> bool {
        let mut client = self.raw().await;
        client.version = version;
        let mut hello = connect(version, "client");
        hello.user_name = name.map(Into::into);
        hello.password = password.map(|text| text.to_owned().into());
        client.send(Packet::Connect(Box::new(hello))).await;
        client.connack().await.reason != ReasonCode::Success
    }

    /// Does the same thing `rounds` times, after it has done it as often to warm up: memory must not grow by `bytes`.
    async fn must_not_grow(&self, what: &str, rounds: usize, bytes: u64, attack: impl AsyncFn(&Self, usize)) {
        let mut before = 0;
        for round in 0..2 * rounds {
            if round == rounds {
                before = self.running.resident_bytes();
            }
            attack(self, round).await;
        }
        self.connect(connect(Version::V5, "honest")).await;
        let after = self.running.resident_bytes();
        println!("{what}: {} KiB, then {} KiB", before >> 10, after >> 10);
        assert!(after < before + bytes, "{what}: it grew from {before} to {after} bytes");
    }
}

/// A packet of any type around a body.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = (left & 0x7f) as u8;
        left >>= 7;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes()[..], text].concat()
}

/// A CONNECT of MQTT 5.0, in pieces that need not fit.
fn connect_bytes(flags: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let head = [&b"\0\x04MQTT\x05"[..], &[flags, 0, 0]].concat();
    let properties = frame(0, properties);
    frame(0x10, &[&head[..], &properties[1..], payload].concat())
}

/// Client ids and user names that hold wildcards got the rights of everybody.
#[tokio::test]
async fn cve_2017_7650_a_name_of_wildcards_is_a_name() {
    let broker = TestBroker::start().await;
    let mut victim = broker.v5("victim").await;
    victim.subscribe("devices/victim", QoS::AtMostOnce).await;
    for version in VERSIONS {
        for name in ["#", "+", "+/#", "devices/#"] {
            let mut hello = persistent(version, name);
            hello.user_name = Some(name.into());
            let (mut named, connack) = broker.connect(hello).await;
            assert!(!connack.session_present, "no session of others");
            let mut writer = broker.v5("writer").await;
            writer.publish(message("devices/victim", "secret", QoS::AtLeastOnce)).await;
            assert_eq!(victim.payload().await, "secret");
            assert_eq!(named.until_ping().await, []);
            named.disconnect().await;
            broker.connect(connect(version, name)).await;
        }
    }
    assert_eq!(victim.until_ping().await, [], "nobody took it over");
}

/// A CONNECT made it allocate as much as the length claims.
#[tokio::test]
async fn cve_2017_7651_a_connect_costs_no_more_than_was_sent() {
    let process = Process::start();
    let attack = async |process: &Process, _| {
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut client = process.raw().await;
            // 200 KiB are announced, which is allowed, and 100 bytes come.
            client.send_bytes(&frame(0x10, &[b'x'; 200 << 10])[..100]).await;
            held.push(client);
        }
        let mut client = process.raw().await;
        client.send_bytes(b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05").await;
        assert_eq!(client.connack().await.reason, ReasonCode::PacketTooLarge, "without waiting for it");
        assert_eq!(client.next().await, None);
    };
    process.must_not_grow("announced", 10, 4 << 20, attack).await;
}

/// Without file descriptors it did what nobody wanted; here it goes on with what it has, and accepts when it can.
#[tokio::test]
async fn cve_2017_7652_without_file_descriptors_it_goes_on() {
    let home = TempDir::new();
    let mut command = std::process::Command::new("bash");
    let script = r#"ulimit -n 64; exec "$0" broker --plain 127.0.0.1:0 --open"#;
    command.args(["-c", script, common::site::SMQTT]).env("HOME", home.path()).env_remove("SMQTT_DATA");
    let process = Process::of(Running::spawn(&mut command), home);
    let mut early = process.connect(connect(Version::V5, "early")).await;
    early.subscribe("a", QoS::AtLeastOnce).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(process.address).await.unwrap());
    }
    early.publish(message("a", "still here", QoS::AtMostOnce)).await;
    assert_eq!(early.payload().await, "still here");
    drop(held);
    process.connect(connect(Version::V5, "late")).await;
}

/// Text that is no UTF-8 went on to clients that disconnect when they see it.
#[tokio::test]
async fn cve_2017_7653_text_that_is_no_utf_8_reaches_nobody() {
    let broker = TestBroker::start().await;
    let mut reader = broker.v5("reader").await;
    reader.subscribe("#", QoS::AtLeastOnce).await;
    for bad in [&b"a\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\0b", b"\xe2\x82"] {
        let (topic, user) = (text(bad), [&[0x26][..], &text(b"k"), &text(bad)].concat());
        let mut packets = vec![
            frame(0x30, &[&topic[..], b"\0"].concat()),
            frame(0x32, &[&topic[..], b"\0\x01\0"].concat()),
            frame(0x82, &[&b"\0\x01\0"[..], &topic, &[0]].concat()),
            frame(0xa2, &[&b"\0\x01\0"[..], &topic].concat()),
        ];
        let properties = frame(0, &user);
        packets.push(frame(0x30, &[&text(b"a")[..], &properties[1..], b"x"].concat()));
        for packet in packets {
            let mut client = broker.v5("client").await;
            client.send_bytes(&packet).await;
            assert_eq!(client.closed().await, Some(ReasonCode::MalformedPacket), "{packet:02x?}");
        }
        // Client id, will, user name.
        let will = [&text(b"c")[..], &[0], &topic, &text(b"x")].concat();
        let user_name = [&text(b"c")[..], &topic].concat();
        for (flags, payload) in [(2, topic.clone()), (6, will), (0x82, user_name)] {
            let mut client = broker.raw().await;
            client.send_bytes(&connect_bytes(flags, &[], &payload)).await;
            assert_eq!(client.connack().await.reason, ReasonCode::MalformedPacket);
        }
    }
    assert_eq!(settle(&broker, &mut reader).await, []);
}

/// A CONNECT that was refused left memory behind; so did one with properties, CVE-2021-34431, and one with a will that
/// has a property of something else, CVE-2023-3592.
#[tokio::test]
async fn cve_2017_7654_cve_2021_34431_cve_2023_3592_a_connect_that_is_refused_leaves_nothing() {
    let process = Process::start();
    let long = text(&[b'x'; 60_000]);
    let user = [&[0x26][..], &long, &long].concat();
    let with_will = |properties: &[u8]| {
        let properties = frame(0, properties);
        [&text(b"c")[..], &properties[1..], &text(b"wills/c"), &long].concat()
    };
    let crafted = [
        // Twice what there may be once, an unknown one, one of another packet, one that is cut off.
        connect_bytes(2, &[&user[..], b"\x11\0\0\0\x01\x11\0\0\0\x01"].concat(), &text(b"c")),
        connect_bytes(2, &[&user[..], b"\x7f\0"].concat(), &text(b"c")),
        connect_bytes(2, &[&user[..], b"\x23\0\x01"].concat(), &text(b"c")),
        connect_bytes(2, &[&user[..], b"\x26\0\x40x"].concat(), &text(b"c")),
        // Wills: with a topic alias, a session expiry, a delay twice, and without a topic at last.
        connect_bytes(6, &[], &with_will(b"\x23\0\x01")),
        connect_bytes(6, &[], &with_will(b"\x11\0\0\0\x01")),
        connect_bytes(6, &[], &with_will(&[&user[..], b"\x18\0\0\0\x01\x18\0\0\0\x01"].concat())),
        connect_bytes(6, &user, &text(b"c")),
        // User name without one, password announced and missing, bytes after the end.
        connect_bytes(0xc2, &user, &[&text(b"c")[..], &long].concat()),
        connect_bytes(2, &user, &[&text(b"c")[..], b"more"].concat()),
        // A client id that is refused after everything was read.
        connect_bytes(2, &user, &long),
    ];
    let attack = async |process: &Process, _| {
        for bytes in &crafted {
            let mut client = process.raw().await;
            client.send_bytes(bytes).await;
            assert!(client.connack().await.reason.is_error(), "{:02x?}", &bytes[..40]);
            assert_eq!(client.next().await, None);
        }
    };
    process.must_not_grow("refused", 100, 8 << 20, attack).await;
}

/// Its file of state could be read by everybody on the machine.
#[tokio::test]
async fn cve_2017_9868_the_state_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new();
    let mut command = std::process::Command::new("bash");
    let script = r#"umask 0; exec "$0" broker --plain 127.0.0.1:0 --open --data "$1""#;
    command.args(["-c", script, common::site::SMQTT]).arg(home.path().join("data"));
    command.env("HOME", home.path()).env_remove("SMQTT_DATA");
    let state = home.path().join("data/state");
    let _process = Process::of(Running::spawn(&mut command), home);
    for path in common::files_below(&state).into_iter().chain([state]) {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

/// A topic that begins with `$` and is not `$SYS` ended it.
#[tokio::test]
async fn cve_2018_12543_a_topic_may_begin_with_a_dollar() {
    for broker in TestBroker::of_each_engine().await {
        let mut everything = broker.v5("everything").await;
        everything.subscribe("#", QoS::AtMostOnce).await;
        for topic in ["$", "$$", "$a", "$SYSx", "$/", "$CONTROL/x", "$share/g/a", "$share"] {
            for version in VERSIONS {
                let (mut reader, _) = broker.connect(connect(version, "reader")).await;
                if !topic.starts_with("$share") {
                    reader.subscribe(topic, QoS::AtLeastOnce).await;
                }
                let mut hello = connect(version, "writer");
                hello.will = Some(will(topic, "will"));
                let (mut writer, _) = broker.connect(hello).await;
                writer.publish(message(topic, "message", QoS::AtLeastOnce)).await;
                drop(writer);
                if !topic.starts_with("$share") {
                    assert_eq!([reader.payload().await, reader.payload().await], ["message", "will"]);
                }
            }
        }
        assert_eq!(settle(&broker, &mut everything).await, [], "wildcards leave them alone");
    }
}

/// Lets everything through until told otherwise; then nobody may subscribe any more, and what `writer` published reaches
/// nobody.
#[derive(Clone, Default)]
struct Revocable {
    revoked: Arc<AtomicBool>,
}

impl Revocable {
    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }
}

impl Hook for Revocable {
    fn subscribe(&self, _: &smqtt::broker::Client, _: &SubscribeRequest<'_>) -> Verdict {
        match self.is_revoked() {
            true => Verdict::Deny(Denial::new(ReasonCode::NotAuthorized, "no more")),
            false => Verdict::Defer,
        }
    }

    fn deliver(&self, _: &smqtt::broker::Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        let of_writer =
            delivery.message().publisher().is_some_and(|publisher| publisher.client_id == "writer");
        match self.is_revoked() && of_writer {
            true => DeliverVerdict::Drop("no more".into()),
            false => DeliverVerdict::Deliver,
        }
    }
}

/// A retained message outlived the right to publish it.
#[tokio::test]
async fn cve_2018_12546_a_retained_message_goes_when_its_publisher_may_no_more() {
    for engine in [EngineKind::Rumqttd, EngineKind::Direct] {
        let hook = Revocable::default();
        let mut config = Config::default();
        config.engine = engine;
        let broker = TestBroker::with(config, vec![Box::new(hook.clone())]).await;
        let retained = Publish { retain: true, ..message("a", "kept", QoS::AtLeastOnce) };
        broker.v5("writer").await.publish(retained).await;
        let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
        reader.subscribe("a", QoS::AtLeastOnce).await;
        // Written before, and not acknowledged: it is judged again.
        assert_eq!(reader.payload().await, "kept");
        reader.vanish(&broker).await;
        hook.revoked.store(true, Ordering::SeqCst);
        let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
        assert_eq!(reader.until_ping().await, []);
    }
}

/// The rules of one listener did not count on another.
#[tokio::test]
async fn cve_2018_20145_every_listener_asks_the_same_hooks() {
    struct Nobody;
    impl Hook for Nobody {
        fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
            let denial = Denial::new(ReasonCode::NotAuthorized, "nobody");
            Box::pin(std::future::ready(ConnectVerdict::Deny(denial)))
        }
    }
    let mut broker = Broker::new(Config::default(), vec![Box::new(Nobody)]).unwrap();
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        broker.listen_tcp(listener);
    }
    tokio::spawn(broker.run(std::future::pending()));
    for address in addresses {
        let mut client = Client::over(TcpStream::connect(address).await.unwrap());
        client.send(Packet::Connect(Box::new(connect(Version::V5, "client")))).await;
        assert_eq!(client.connack().await.reason, ReasonCode::NotAuthorized);
    }
}

/// A file that names nobody was taken for none, and let everybody do everything. Here what says who may come in says it of nobody.
#[tokio::test]
async fn cve_2018_12550_a_file_that_names_nobody_lets_nobody_in() {
    for text in ["", "\n\n", "# nobody yet\n"] {
        let (home, mut command) = with_passwords(text.as_bytes());
        let process = Process::of(Running::spawn(&mut command), home);
        for version in VERSIONS {
            for (name, password) in
                [(None, None), (Some(""), Some("")), (Some("admin"), Some("")), (Some("#"), Some("#"))]
            {
                assert!(process.refuses(version, name, password).await, "{text:?} {version:?} {name:?}");
            }
        }
    }
}

/// Lines that it could not read were taken for names with an empty password. Here nothing starts with such a file, and what runs
/// goes on with the names that it has.
#[tokio::test]
async fn cve_2018_12551_a_file_with_a_line_that_cannot_be_read_lets_nobody_in() {
    let garbage: Vec<u8> = (0..=255).cycle().take(2_000).collect();
    let good = smqtt::passwords::password_line("alice", b"wonderland").unwrap();
    let broken =
        [format!("{good}\nmallory"), format!("{good}\nmallory:"), format!("{good}\n:{}", &good[6..])];
    let broken =
        broken.map(String::into_bytes).into_iter().chain([garbage, b"mallory:wonderland\n".to_vec()]);
    for bytes in broken {
        let (_home, mut command) = with_passwords(&bytes);
        let refused = common::process::run(&mut command, b"");
        refused.failure(&["cannot use `", "passwords`", "hint: each line is `NAME:HASH`"]);
        assert!(!refused.text().contains("mqtt://"), "it listens: {}", refused.text());
    }
    let (home, mut command) = with_passwords(b"");
    std::fs::remove_file(home.path().join("passwords")).unwrap();
    common::process::run(&mut command, b"").failure(&["cannot read `", "passwords`"]);

    let (home, mut command) = with_passwords(good.as_bytes());
    let file = home.path().join("passwords");
    let process = Process::of(Running::spawn(&mut command), home);
    std::fs::write(&file, format!("{good}\nmallory:\n")).unwrap();
    process.running.err.line("cannot use `");
    for version in VERSIONS {
        for (name, password) in
            [(Some("mallory"), Some("")), (Some("mallory"), None), (None, None), (Some("alice"), Some(""))]
        {
            assert!(process.refuses(version, name, password).await, "{version:?} {name:?}");
        }
        assert!(!process.refuses(version, Some("alice"), Some("wonderland")).await);
    }
}

/// `smqtt broker --open` with a file of names that holds this.
fn with_passwords(bytes: &[u8]) -> (TempDir, std::process::Command) {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new();
    let file = home.path().join("passwords");
    std::fs::write(&file, bytes).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = smqtt(home.path());
    command.args(["broker", "--plain", "127.0.0.1:0", "--open", "--passwords"]).arg(file);
    (home, command)
}

/// A will that was due after the end of its session was used after it was freed.
#[tokio::test(start_paused = true)]
async fn cve_2019_11778_a_will_that_is_due_after_its_session_is_due_with_its_end() {
    let broker = TestBroker::direct().await;
    let (mut reader, _) = broker.pipe_connect(connect(Version::V5, "reader")).await;
    reader.subscribe("wills", QoS::AtMostOnce).await;
    for (expiry_secs, delay_secs) in [(0, 3_600), (1, 3_600), (10, u32::MAX)] {
        let mut hello = connect(Version::V5, "sensor");
        hello.properties.session_expiry_secs = Some(expiry_secs);
        let mut last = will("wills", "gone");
        last.properties.delay_secs = Some(delay_secs);
        hello.will = Some(last);
        let (sensor, _) = broker.pipe_connect(hello.clone()).await;
        let begun = tokio::time::Instant::now();
        drop(sensor);
        assert_eq!(reader.payload().await, "gone");
        assert_eq!(begun.elapsed().as_secs(), u64::from(expiry_secs));
        let (_, connack) = broker.pipe_connect(hello).await;
        assert!(!connack.session_present);
        // The one that has just vanished, too.
        assert_eq!(reader.payload().await, "gone");
    }
    tokio::time::advance(Duration::from_secs(100_000)).await;
    assert_eq!(reader.until_ping().await, []);
}

/// Some 65,400 levels of a topic overflowed its stack.
#[tokio::test]
async fn cve_2019_11779_a_topic_of_slashes_is_refused() {
    for broker in TestBroker::of_each_engine().await {
        let slashes = "/".repeat(65_400);
        let options = SubscriptionOptions::default();
        for version in VERSIONS {
            let (mut client, _) = broker.connect(connect(version, "client")).await;
            for filter in [slashes.clone(), format!("{slashes}#"), format!("$share/g/{slashes}")] {
                let refused = match version {
                    Version::V5 => ReasonCode::TopicFilterInvalid,
                    Version::V3 => ReasonCode::UnspecifiedError,
                };
                assert_eq!(client.subscribe_with(&filter, options, None).await, [refused]);
            }
            let filters = vec![slashes.as_str().into()];
            let properties = UnsubscribeProperties::default();
            client.send(Packet::Unsubscribe(Unsubscribe { packet_id: 9, properties, filters })).await;
            assert!(matches!(client.packet().await, Packet::Unsuback(_)));
            client.send(Packet::Publish(message(&slashes, "x", QoS::AtMostOnce))).await;
            let told = (version == Version::V5).then_some(ReasonCode::TopicNameInvalid);
            assert_eq!(client.closed().await, told);
            let mut hello = connect(version, "client");
            hello.will = Some(will(&slashes, "x"));
            let mut client = broker.raw().await;
            client.version = version;
            client.send(Packet::Connect(Box::new(hello))).await;
            assert!(client.connack().await.reason.is_error());
        }
        broker.works().await;
    }
}

/// Of the protocol itself: a client of 3.1.1 that asks for a long keep alive, or none, holds its connection for nothing.
#[tokio::test(start_paused = true)]
async fn cve_2020_13849_a_longest_keep_alive_holds_for_3_1_1_as_well() {
    for version in VERSIONS {
        for asked in [0, 65_535] {
            let mut config = Config::default();
            config.engine = EngineKind::Direct;
            config.limits.keep_alive_max = Some(Duration::from_secs(10));
            let broker = TestBroker::with(config, vec![]).await;
            let mut hello = connect(version, "slow");
            hello.keep_alive_secs = asked;
            let (mut slow, connack) = broker.pipe_connect(hello).await;
            assert_eq!(connack.properties.server_keep_alive_secs, (version == Version::V5).then_some(10));
            let begun = tokio::time::Instant::now();
            slow.closed().await;
            assert_eq!(begun.elapsed().as_secs(), 15);
        }
    }
}

/// A CONNACK from a client of MQTT 5.0 ended it.
#[tokio::test]
async fn cve_2021_28166_a_connack_from_a_client_ends_its_connection() {
    let broker = TestBroker::start().await;
    for version in VERSIONS {
        for packet in [
            &b"\x20\x03\0\0\0"[..],
            b"\x20\x02\0\0",
            b"\x20\x00",
            b"\x20\x06\0\0\x03\x21\0\0",
            b"\x20\x03\x01\x87\0",
        ] {
            let (mut client, _) = broker.connect(connect(version, "client")).await;
            client.send_bytes(packet).await;
            assert_eq!(client.closed().await.is_some(), version == Version::V5);
        }
    }
    until(|| broker.handle.connections() == 0).await;
    broker.works().await;
}

/// A PUBLISH with a topic of length 0 ended it.
#[tokio::test]
async fn cve_2021_34432_a_topic_of_length_0_ends_the_connection() {
    for broker in TestBroker::of_each_engine().await {
        let mut reader = broker.v5("reader").await;
        reader.subscribe("#", QoS::AtMostOnce).await;
        for version in VERSIONS {
            for (first, rest) in [(0x30, &b""[..]), (0x31, b""), (0x32, b"\0\x01"), (0x34, b"\0\x01")] {
                let (mut client, _) = broker.connect(connect(version, "client")).await;
                let properties = if version == Version::V5 { &b"\0"[..] } else { b"" };
                client.send_bytes(&frame(first, &[b"\0\0", rest, properties, b"payload"].concat())).await;
                assert_eq!(client.closed().await.is_some(), version == Version::V5);
            }
        }
        assert_eq!(settle(&broker, &mut reader).await, []);
        broker.works().await;
    }
}

/// A stored subscription outlived the right to it.
#[tokio::test]
async fn cve_2021_34434_a_stored_subscription_is_asked_about_again() {
    for engine in [EngineKind::Rumqttd, EngineKind::Direct] {
        let hook = Revocable::default();
        let mut config = Config::default();
        config.engine = engine;
        let broker = TestBroker::with(config, vec![Box::new(hook.clone())]).await;
        for filter in ["a", "$share/g/a"] {
            hook.revoked.store(false, Ordering::SeqCst);
            let (mut reader, _) = broker.connect(persistent(Version::V5, "reader")).await;
            reader.subscribe(filter, QoS::AtLeastOnce).await;
            reader.disconnect().await;
            hook.revoked.store(true, Ordering::SeqCst);
            let (mut reader, connack) = broker.connect(persistent(Version::V5, "reader")).await;
            assert!(connack.session_present);
            let reason = broker.v5("other").await.publish(message("a", "x", QoS::AtLeastOnce)).await;
            assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
            assert_eq!(reader.until_ping().await, []);
        }
    }
}

/// Many user properties took a time that grew with their square.
#[tokio::test]
async fn cve_2021_41039_as_many_user_properties_as_fit_are_read_at_once() {
    let process = Process::start();
    let user: Vec<u8> = b"\x26\0\x00\0\x00".repeat(50_000);
    let mut reader = process.connect(connect(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::AtMostOnce).await;
    for round in 0..20 {
        let mut client = process.raw().await;
        client.send_bytes(&connect_bytes(2, &user, &text(b"c"))).await;
        assert_eq!(client.connack().await.reason, ReasonCode::Success);
        let properties = frame(0, &user);
        client.send_bytes(&frame(0x30, &[&text(b"a")[..], &properties[1..], b"x"].concat())).await;
        assert_eq!(reader.message().await.properties.user.len(), 50_000, "{round}");
    }
    // With the square it would be minutes.
    let ticks = process.running.cpu_ticks();
    println!("2,000,000 user properties in and 1,000,000 out: {ticks} ticks of 10 ms");
    assert!(ticks < 2_000, "{ticks}");
}

/// What was no CONNECT got the memory that it claimed.
#[tokio::test]
async fn cve_2023_0809_a_first_packet_that_is_no_connect_gets_no_memory() {
    let process = Process::start();
    let attack = async |process: &Process, _| {
        for first in (0..=255u8).filter(|first| first >> 4 != 1) {
            let mut client = process.raw().await;
            client.send_bytes(&[first, 0xff, 0xff, 0xff, 0x7f]).await;
            assert_eq!(client.next().await, None, "closed at once: {first:#x}");
        }
    };
    process.must_not_grow("no CONNECT", 5, 4 << 20, attack).await;
}

/// QoS 2 messages under one identifier, never released, piled up.
#[tokio::test]
async fn cve_2023_28366_qos_2_identifiers_that_are_never_released_do_not_pile_up() {
    let process = Process::start();
    let mut reader = process.connect(connect(Version::V5, "reader")).await;
    reader.subscribe("a", QoS::AtMostOnce).await;
    let payload = "x".repeat(10_000);
    for version in VERSIONS {
        let attack = async |process: &Process, _| {
            let mut client = process.connect(persistent(version, "client")).await;
            for dup in [false, true, true, false] {
                for packet_id in [7, 7, 8, 7] {
                    let publish = message("a", &payload, QoS::ExactlyOnce);
                    client.send(Packet::Publish(Publish { packet_id, dup, ..publish })).await;
                    assert!(matches!(client.packet().await, Packet::Pubrec(_)));
                }
            }
        };
        process.must_not_grow("never released", 200, 4 << 20, attack).await;
    }
    // One session in both versions: each identifier once.
    for _ in 0..2 {
        reader.message().await;
    }
    assert_eq!(reader.until_ping().await, []);
}

/// A connection that says nothing kept it busy.
#[tokio::test]
async fn cve_2023_5632_who_says_nothing_costs_nothing() {
    let process = Process::start();
    let mut held = Vec::new();
    for number in 0..100 {
        held.push(process.raw().await);
        held.push(process.connect(connect(Version::V5, &format!("idle{number}"))).await);
        let mut half = process.raw().await;
        half.send_bytes(&[0x10, 0x7f, 0]).await;
        held.push(half);
    }
    let before = process.running.cpu_ticks();
    // Time must pass to show what it costs; one that is busy all the time would take a hundred ticks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ticks = process.running.cpu_ticks() - before;
    assert!(ticks < 20, "300 silent connections took {ticks} hundredths of a second of one");
}

/// Shared and ordinary subscriptions to one topic were taken for each other.
#[tokio::test]
async fn cve_2024_8376_shared_and_ordinary_subscriptions_are_kept_apart() {
    for broker in TestBroker::of_each_engine().await {
        let filters = ["a/b", "$share/a/a/b", "$share/a/b", "a/+", "$share/g/a/+", "b"];
        let unsubscribe = async |client: &mut Client, filter: &str| {
            let properties = UnsubscribeProperties::default();
            let filters = vec![filter.into()];
            client.send(Packet::Unsubscribe(Unsubscribe { packet_id: 9, properties, filters })).await;
            let Packet::Unsuback(answer) = client.packet().await else { panic!("UNSUBACK expected") };
            answer.reasons[0]
        };
        for version in VERSIONS {
            // Every set of them, left by UNSUBSCRIBE, by DISCONNECT, and by a clean start.
            for set in 0..1u32 << filters.len() {
                let (mut client, _) = broker.connect(connect(version, "client")).await;
                let chosen = filters.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1).map(|(_, f)| *f);
                let mut expected = 0;
                for filter in chosen.clone() {
                    client.subscribe(filter, QoS::AtMostOnce).await;
                }
                let ordinary = chosen.clone().any(|filter| matches!(filter, "a/b" | "a/+"));
                let shared =
                    chosen.clone().filter(|filter| matches!(*filter, "$share/a/a/b" | "$share/g/a/+"));
                expected += usize::from(ordinary) + shared.count();
                client.publish(message("a/b", "x", QoS::AtMostOnce)).await;
                for _ in 0..expected {
                    assert_eq!(client.message().await.topic, "a/b");
                }
                assert_eq!(client.until_ping().await, [], "{set:b}");
                if set % 3 > 0 {
                    for filter in chosen {
                        if version == Version::V5 {
                            assert_eq!(unsubscribe(&mut client, filter).await, ReasonCode::Success);
                            assert_eq!(
                                unsubscribe(&mut client, filter).await,
                                ReasonCode::NoSubscriptionExisted
                            );
                        }
                    }
                }
                if set % 3 > 1 {
                    client.disconnect().await;
                }
            }
        }
        broker.works().await;
    }
}

/// Without a number, fixed in 2.0.21: a SUBSCRIBE that is refused left memory behind.
#[tokio::test]
async fn a_subscribe_that_is_refused_leaves_nothing() {
    let process = Process::start();
    let filter = text(&[b'f'; 4_000]);
    let good = [&filter[..], &[1]].concat().repeat(50);
    let attack = async |process: &Process, _| {
        for tail in [&b"\0\x40x"[..], b"\0\x01a\xff", b"\0\x01\xff\x01", b"\0"] {
            let mut client = process.connect(connect(Version::V5, "client")).await;
            client.send_bytes(&frame(0x82, &[&b"\0\x01\0"[..], &good, tail].concat())).await;
            assert_eq!(client.closed().await, Some(ReasonCode::MalformedPacket));
        }
    };
    process.must_not_grow("SUBSCRIBE", 100, 4 << 20, attack).await;
}
