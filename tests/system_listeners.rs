//! Every listener as people use it: stock clients over WebSocket and TLS, with names and passwords; files that change while
//! clients are connected; a broker without descriptors left.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::open::Open;
use common::peers::{READY, Watcher, has_paho, is_there};
use common::process::{Ended, Running, run};
use common::site::{Site, port, smqtt};
use common::{DEADLINE, TempDir, skipped, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

fn publish(options: &[String], arguments: &[&str]) -> Ended {
    run(Command::new("mosquitto_pub").args(options).args(arguments), b"")
}

fn refused(arguments: &[&str]) -> Ended {
    let home = TempDir::new();
    run(smqtt(home.path()).args(["broker", "--open"]).args(arguments), b"")
}

#[test]
fn no_client_writes_lines_of_its_own_into_the_log() {
    let open = Open::start(&["--plain", "127.0.0.1:0"]);
    let mut stream = TcpStream::connect(open.url("mqtt").trim_start_matches("mqtt://")).unwrap();
    let client_id = b"evil\nFORGED ERROR\x1b[31m";
    let mut connect = b"\0\x04MQTT\x05\x02\0\0\0\0".to_vec();
    connect.push(client_id.len() as u8);
    connect.extend(client_id);
    let mut bytes = vec![0x10, connect.len() as u8];
    bytes.extend(connect);
    // An open broker refuses this filter, and says so in its log, with the client's name.
    bytes.extend(b"\x82\x16\0\x01\0\0\x10test/nosubscribe\0");
    stream.write_all(&bytes).unwrap();
    open.running.err.line("subscription refused");
    let log = open.running.err.text();
    assert!(log.contains("FORGED"), "{log}");
    assert!(log.lines().all(|line| !line.starts_with("FORGED")) && !log.contains('\x1b'), "{log}");
}

/// The properties of CONNACK for an MQTT 5.0 client that asks for a keep alive of an hour.
fn told_for_an_hour(url: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(common::site::address(url)).unwrap();
    stream.write_all(b"\x10\x11\0\x04MQTT\x05\x02\x0e\x10\0\0\x04test").unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let [0x20, rest, 0, 0, length] = head else { panic!("no welcome: {head:?}") };
    assert_eq!(rest, length + 3);
    let mut properties = vec![0; length.into()];
    stream.read_exact(&mut properties).unwrap();
    properties
}

/// The open broker's keep alive is for those who try it; devices that sleep for an hour must not wake up for it elsewhere.
#[test]
fn a_long_keep_alive_is_shortened_by_an_open_broker_alone() {
    let server_keep_alive = |seconds: u8| [0x13, 0, seconds];
    let says = |properties: &[u8], seconds| properties.windows(3).any(|at| at == server_keep_alive(seconds));
    let with = |limits: &str| {
        let home = TempDir::new();
        let config = home.path().join("broker.toml");
        std::fs::write(&config, format!("[broker.limits]\n{limits}\n")).unwrap();
        Open::at(home, &["--plain", "127.0.0.1:0", "--config", config.to_str().unwrap()])
    };
    assert!(says(&told_for_an_hour(Open::start(&["--plain", "127.0.0.1:0"]).url("mqtt")), 60));
    assert!(says(&told_for_an_hour(with("server_keep_alive_seconds = 90").url("mqtt")), 90));
    let left = told_for_an_hour(with("server_keep_alive_seconds = 65535").url("mqtt"));
    let site = Site::start();
    let secured = told_for_an_hour(site.up.plain.as_deref().unwrap());
    assert_eq!(secured, left);
    assert!(!(0..=255).any(|seconds| says(&secured, seconds)), "{secured:?}");
}

#[test]
fn what_everybody_on_the_way_reads_is_for_this_machine_unless_forced() {
    for option in ["--plain", "--ws"] {
        for address in ["0.0.0.0:0", "[::]:0"] {
            refused(&[option, address]).failure(&["is not a loopback address", "hint: ", "--plain-anywhere"]);
        }
        let forced = Open::start(&[option, "0.0.0.0:0", "--plain-anywhere"]);
        forced.running.err.line("everybody on the way reads along");
        forced.running.err.line("WHOEVER REACHES THIS BROKER MAY PUBLISH AND READ EVERYTHING");
    }
    let nowhere = refused(&[]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    let without = refused(&["--tls", "127.0.0.1:0"]);
    assert_eq!(without.status.code(), Some(2), "{without:?}");
    assert!(without.err.contains("hint: say `--certificate FILE --key FILE`"), "{without:?}");
    refused(&["--ws", "127.0.0.1:0", "--ws-origin", "app.example.org"]).failure(&["is no origin"]);
    let home = TempDir::new();
    let secured = run(smqtt(home.path()).args(["broker", "--refuse-filter", "#"]), b"");
    assert!(secured.err.contains("--open"), "a filter is not refused in silence: {secured:?}");
}

#[test]
fn ipv6_is_an_address_like_any_other() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
        skipped("this machine has no IPv6");
        return;
    }
    let broker = Open::start(&["--plain", "[::1]:0"]);
    assert!(broker.url("mqtt").starts_with("mqtt://[::1]:"), "{:?}", broker.urls);
    let mut stream = TcpStream::connect(common::site::address(broker.url("mqtt"))).unwrap();
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04test").unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

const PAHO_WEBSOCKET: &str = r#"
import sys, queue
import paho.mqtt.client as mqtt
port, path, cafile = int(sys.argv[1]), sys.argv[2], sys.argv[3]
for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
    got, ready = queue.Queue(), queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol, transport="websockets")
    client.ws_set_options(path=path)
    if cafile:
        client.tls_set(cafile, *sys.argv[4:6])
    client.on_connect = lambda c, u, f, reason, p: ready.put(str(reason))
    client.on_subscribe = lambda c, u, mid, codes, p: ready.put("subscribed")
    client.on_message = lambda c, u, m: got.put(m)
    client.connect("localhost", port, keepalive=5)
    client.loop_start()
    assert ready.get(timeout=30) == "Success"
    client.subscribe("web/#", 2)
    ready.get(timeout=30)
    for qos, size in ((0, 1), (1, 70000), (2, 500000)):
        client.publish("web/%d" % qos, b"x" * size, qos).wait_for_publish(30)
        message = got.get(timeout=30)
        assert (message.topic, len(message.payload), message.qos) == ("web/%d" % qos, size, qos)
    client.disconnect()
    client.loop_stop()
print("fine")
"#;

#[test]
fn paho_talks_over_websocket_with_and_without_tls() {
    if !has_paho() {
        return;
    }
    let talk = |arguments: &[&str]| {
        let talked = run(Command::new("python3").args(["-c", PAHO_WEBSOCKET]).args(arguments), b"");
        assert_eq!(talked.success(), "fine\n");
    };
    let files = Files::new();
    let tls = files.arguments();
    let mut arguments = vec!["--ws", "127.0.0.1:0", "--wss", "127.0.0.1:0"];
    arguments.extend(tls.iter().map(String::as_str));
    let broker = Open::start(&arguments);
    let of = |scheme| port(broker.url(scheme).trim_end_matches("/mqtt")).to_owned();
    talk(&[&of("ws"), "/mqtt", ""]);
    talk(&[&of("ws"), "/", ""]);
    talk(&[&of("wss"), "/mqtt", &files.path("root.pem")]);

    // A secured broker's devices come in the same way, with their certificates.
    let free = "127.0.0.1:0";
    let site = Site::with(&["--authority", free, "--broker", free]);
    let device = site.enrol("browser", &["role=guest"]);
    drop(site.up.running);
    let data = site.home.path().join("site");
    let config = site.home.path().join("site.toml");
    let listeners = format!(
        "[broker]\nwss = \"{free}\"\nws = \"{free}\"\nlisten = \"{free}\"\n[authority]\nlisten = \"{free}\"\n"
    );
    std::fs::write(&config, listeners).unwrap();
    let up = common::site::Up::of(smqtt(site.home.path()).arg("up").args([
        "--data",
        &data.display().to_string(),
        "--config",
        &config.display().to_string(),
    ]));
    let url = |scheme: &str| {
        let line = up.running.out.line(&format!(" {scheme}://"));
        port(line.split_whitespace().nth(1).unwrap().trim_end_matches("/mqtt")).to_owned()
    };
    let file = |name: &str| device.dir.join(name).display().to_string();
    talk(&[&url("wss"), "/mqtt", &file("root.pem"), &file("certificate.pem"), &file("device.key")]);
    talk(&[&url("ws"), "/mqtt", ""]);
}

/// The file of names, and how it is changed.
struct Names(PathBuf);

impl Names {
    fn change(&self, home: &Path, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = smqtt(home);
        command.args(["broker", "password"]).args(arguments).arg("--passwords").arg(&self.0);
        run(&mut command, input)
    }
}

#[test]
fn a_name_and_a_password_or_token_let_stock_clients_in() {
    if !is_there("mosquitto_pub") {
        return;
    }
    let home = TempDir::new();
    let names = Names(home.path().join("names"));
    names.change(home.path(), &["alice"], b"wonderland\n").success();
    names.change(home.path(), &["bob"], b"builder\n").success();
    let token = names.change(home.path(), &["meter", "--token"], b"").success().trim().to_owned();
    let written = std::fs::read_to_string(&names.0).unwrap();
    assert_eq!(std::fs::metadata(&names.0).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!written.contains("wonderland") && !written.contains(&token), "{written}");
    // As a line alone, for a file that something else writes.
    let line = run(smqtt(home.path()).args(["broker", "password", "carol"]), b"x\n").success();
    assert!(line.starts_with("carol:$argon2id$v=19$") && line.lines().count() == 1, "{line}");
    run(smqtt(home.path()).args(["broker", "password", "car:ol"]), b"x").failure(&["a user name has"]);
    run(smqtt(home.path()).args(["broker", "password", "carol"]), b"").failure(&["no password", "hint: "]);

    let path = names.0.display().to_string();
    std::fs::set_permissions(&names.0, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&["--plain", "127.0.0.1:0", "--passwords", &path]).failure(&["others may use it", "chmod 600"]);
    std::fs::set_permissions(&names.0, std::fs::Permissions::from_mode(0o600)).unwrap();
    let broker = Open::at(home, &["--plain", "127.0.0.1:0", "--passwords", &path]);
    let options = broker.options("mqtt");
    let as_user = |name: &str, password: &str| {
        let mut all = options.clone();
        all.extend(["-u", name, "-P", password].map(str::to_owned));
        all
    };
    let hello = ["-t", READY, "-m", "on", "-r", "-q", "1"];
    for version in ["311", "5"] {
        let with = |options: &[String]| publish(options, &[&hello[..], &["-V", version]].concat());
        with(&as_user("alice", "wonderland")).success();
        with(&as_user("meter", &token)).success();
        for wrong in [as_user("alice", "builder"), as_user("nobody", "wonderland"), as_user("meter", "x")] {
            let ended = with(&wrong);
            assert!(!ended.status.success());
            let said = ended.err.to_lowercase();
            assert!(said.contains("bad user name or password"), "{said}");
        }
        let said = with(&options).err.to_lowercase();
        assert!(said.contains("not authorised") || said.contains("not authorized"), "{said}");
    }
    // Who is removed is cut without a restart, and the others stay.
    let _alice = Watcher::mosquitto(&as_user("alice", "wonderland"), "5", "news/#");
    let bob = Watcher::mosquitto(&as_user("bob", "builder"), "5", "news/#");
    names.change(broker.home.path(), &["alice", "--remove"], b"").success();
    broker.running.err.line("reason=NotAuthorized by_client=false");
    let said = publish(&as_user("alice", "wonderland"), &hello).err.to_lowercase();
    assert!(said.contains("bad user name or password"), "{said}");
    publish(&as_user("meter", &token), &["-t", "news/1", "-m", "still here", "-q", "1"]).success();
    assert_eq!(bob.messages(1), [("news/1".to_owned(), b"still here".to_vec())]);
    // A slip keeps what was there, loudly; SIGHUP asks at once.
    std::fs::write(&names.0, "not a line").unwrap();
    broker.running.signal("HUP");
    broker.running.err.line("going on with what was there before");
    publish(&as_user("bob", "builder"), &hello).success();
    let log = broker.running.err.text();
    assert!(!log.contains("wonderland") && !log.contains(&token), "{log}");
}

/// Certificate, key and root of a broker called `localhost`, in a directory.
struct Files {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate with its issuer's name for one that it issued itself.
        params.distinguished_name.push(DnType::CommonName, "root of a test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self { dir: TempDir::new(), authority };
        std::fs::write(files.path("root.pem"), files.authority.pem()).unwrap();
        files.issue("server");
        files
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes a new certificate and key; gives the certificate in DER.
    fn issue(&self, name: &str) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let path = self.path(&format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        certificate.der().to_vec()
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--certificate".into(), self.path("server.pem"), "--key".into(), self.path("server.key")]
    }
}

/// The certificate that is shown to a new client.
fn shown(address: &str, root: &[u8]) -> Vec<u8> {
    let config = smqtt_client::tls::client_config(&[root.to_vec()], None).unwrap();
    let mut tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    tls.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_nobody_is_cut() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let files = Files::new();
    let tls = files.arguments();
    let mut arguments = vec!["--tls", "127.0.0.1:0"];
    arguments.extend(tls.iter().map(String::as_str));
    std::fs::set_permissions(&tls[3], std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&arguments).failure(&["others may use it"]);
    std::fs::set_permissions(&tls[3], std::fs::Permissions::from_mode(0o600)).unwrap();
    let broker = Open::start(&arguments);
    let address = common::site::address(broker.url("mqtts")).to_owned();
    let root = files.authority.der().to_vec();
    let first = shown(&address, &root);
    let mut options = broker.options("mqtts");
    options.extend(["--cafile".to_owned(), files.path("root.pem")]);
    publish(&options, &["-t", READY, "-m", "on", "-r", "-q", "1"]).success();
    let watcher = Watcher::mosquitto(&options, "5", "news/#");

    // By itself, when both files have changed.
    let second = files.issue("server");
    assert_ne!(first, second);
    until("the new certificate", DEADLINE, || (shown(&address, &root) == second).then_some(()));
    publish(&options, &["-t", "news/1", "-m", "renewed", "-q", "1"]).success();
    assert_eq!(watcher.messages(1), [("news/1".to_owned(), b"renewed".to_vec())]);

    // At once, on SIGHUP; what cannot be used is not taken.
    std::fs::copy(files.path("root.pem"), &tls[1]).unwrap();
    broker.running.signal("HUP");
    broker.running.err.line("going on with what was there before");
    assert_eq!(shown(&address, &root), second);
    publish(&options, &["-t", "news/2", "-m", "as before", "-q", "1"]).success();
    assert_eq!(watcher.messages(2).len(), 2);
}

#[test]
fn with_an_authority_for_clients_tls_lets_in_none_without_a_certificate() {
    if !is_there("mosquitto_pub") {
        return;
    }
    let files = Files::new();
    files.issue("client");
    let mut tls = files.arguments();
    tls.extend(["--client-ca".to_owned(), files.path("root.pem")]);
    let mut arguments = vec!["--tls", "127.0.0.1:0"];
    arguments.extend(tls.iter().map(String::as_str));
    let broker = Open::start(&arguments);
    let mut options = broker.options("mqtts");
    options.extend(["--cafile".to_owned(), files.path("root.pem")]);
    let hello = ["-t", "a", "-m", "b", "-q", "1"];
    assert!(!publish(&options, &hello).status.success());
    let certificate =
        ["--cert".to_owned(), files.path("client.pem"), "--key".to_owned(), files.path("client.key")];
    options.extend(certificate);
    publish(&options, &hello).success();
}

/// Runs out of descriptors, and goes on when there are some again.
#[test]
fn a_broker_without_descriptors_left_accepts_again_when_there_are_some() {
    let home = TempDir::new();
    let program = format!("ulimit -n 64; exec {} broker --open --plain 127.0.0.1:0", common::site::SMQTT);
    let mut command = smqtt(home.path());
    let environment: Vec<_> =
        command.get_envs().map(|(k, v)| (k.to_owned(), v.map(|v| v.to_owned()))).collect();
    command = Command::new("sh");
    command.args(["-c", &program]).current_dir(home.path());
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let broker = Running::spawn(&mut command);
    let line = broker.out.line("mqtt://");
    let address = common::site::address(line.split_whitespace().last().unwrap()).to_owned();
    let connect = || TcpStream::connect(&address).unwrap();
    let mut crowd: Vec<_> = (0..100).map(|_| connect()).collect();
    broker.err.line("cannot accept connections: raise the limit of open files");
    crowd.clear();
    broker.err.line("connections are accepted again");
    // Nor does it mind being asked to read again what it has not.
    broker.signal("HUP");
    let mut stream = connect();
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04test").unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let complaints = broker.err.text().matches("cannot accept connections").count();
    assert!(complaints < 10, "{complaints} lines for one shortage");
}
