//! MQTT as stock clients of other people speak it, with an open broker.

mod common;
#[path = "clients/with_mosquitto.rs"]
mod with_mosquitto;
#[path = "clients/with_rumqttc.rs"]
mod with_rumqttc;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::open::Open;
use common::peers::{READY, Watcher, has_paho, is_there};
use common::process::run;
use common::site::port;
use common::{TempDir, skipped};

#[test]
fn an_open_broker_has_a_filter_to_try_a_refusal_with() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let subscribe = |broker: &Open, version: &str, filter: &str| {
        let mut command = Command::new("mosquitto_sub");
        command.args(broker.options("mqtt")).args(["-V", version, "-t", filter, "-W", "1"]);
        // It ends by itself when nothing is granted, otherwise when its second is over.
        run(&mut command, b"").status.code()
    };
    let (denied, granted) = (Some(0), Some(27));
    let usual = Open::start(&["--plain", "127.0.0.1:0"]);
    let own = Open::start(&["--plain", "127.0.0.1:0", "--refuse-filter", "#", "--refuse-filter", "a/+"]);
    for version in ["mqttv311", "mqttv5"] {
        assert_eq!(subscribe(&usual, version, "test/nosubscribe"), denied);
        assert_eq!(subscribe(&own, version, "#"), denied);
        assert_eq!(subscribe(&own, version, "a/+"), denied);
        // Exactly these, and no others.
        for (broker, filter) in [(&usual, "test/#"), (&usual, "#"), (&own, "test/nosubscribe"), (&own, "a/#")]
        {
            assert_eq!(subscribe(broker, version, filter), granted, "{filter}");
        }
    }
}

/// Where `.ci/run` puts MQTT.js; says so if it is not there.
fn mqttjs() -> Option<String> {
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/target/mqttjs/node_modules");
    let there = Path::new(modules).join("mqtt").is_dir();
    if !there {
        skipped("MQTT.js is not in target/mqttjs: `npm install --prefix target/mqttjs mqtt`");
    }
    (there && is_there("node")).then(|| modules.to_owned())
}

fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An open broker on every kind of listener, and the certificate of its authority.
fn everywhere() -> (Open, String) {
    let home = TempDir::new();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let (certificate, key) = (path("chain.pem"), path("key.pem"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let free = "127.0.0.1:0";
    let arguments = [
        "--plain",
        free,
        "--tls",
        free,
        "--ws",
        free,
        "--wss",
        free,
        "--certificate",
        &certificate,
        "--key",
        &key,
    ];
    let broker = Open::at(home, &arguments);
    (broker, certificate)
}

fn port_of(broker: &Open, scheme: &str) -> String {
    port(broker.url(scheme).trim_end_matches("/mqtt")).to_owned()
}

/// QoS 0 to 2, retained messages, wills, sessions that go on, shared subscriptions; in 5.0 what properties carry.
#[test]
fn paho_over_tcp_tls_and_websocket_in_both_versions() {
    if !has_paho() {
        return;
    }
    let (broker, certificate) = everywhere();
    for (transport, scheme, cafile) in [
        ("tcp", "mqtt", ""),
        ("tcp", "mqtts", certificate.as_str()),
        ("websockets", "ws", ""),
        ("websockets", "wss", certificate.as_str()),
    ] {
        for version in ["4", "5"] {
            let mut command = Command::new("python3");
            let port = port_of(&broker, scheme);
            command.args([&script("with_paho.py"), transport, "localhost", &port, version, cafile]);
            assert_eq!(run(&mut command, b"").success(), "fine\n", "{scheme} {version}");
        }
    }
}

/// The same, and topic aliases both ways.
#[test]
fn mqttjs_over_tcp_and_websocket_in_both_versions() {
    let Some(modules) = mqttjs() else { return };
    let (broker, certificate) = everywhere();
    for (scheme, path) in [("mqtt", ""), ("mqtts", ""), ("ws", "/mqtt"), ("wss", "/mqtt")] {
        for version in ["4", "5"] {
            let url = format!("{scheme}://localhost:{}{path}", port_of(&broker, scheme));
            let mut command = Command::new("node");
            command.env("NODE_PATH", &modules).args([&script("with_mqttjs.js"), &url, version, &certificate]);
            assert_eq!(run(&mut command, b"").success(), "fine\n", "{scheme} {version}");
        }
    }
}

#[tokio::test]
async fn rumqttc_over_tcp_and_tls_in_both_versions() {
    use with_rumqttc::{Address, Version};
    let (broker, certificate) = everywhere();
    let authority = std::fs::read(certificate).unwrap();
    for (scheme, authority) in [("mqtt", None), ("mqtts", Some(authority))] {
        let address = Address { port: port_of(&broker, scheme).parse().unwrap(), authority };
        for version in [Version::V3, Version::V5] {
            with_rumqttc::run(version, &address).await;
        }
    }
}

#[test]
fn both_versions_of_several_clients_meet_on_one_topic() {
    if !is_there("mosquitto_sub") || !is_there("mosquitto_pub") || !has_paho() {
        return;
    }
    let broker = Open::start(&["--plain", "127.0.0.1:0"]);
    let options = broker.options("mqtt");
    let publish = |version: &str, arguments: &[&str]| {
        let mut command = Command::new("mosquitto_pub");
        run(command.args(&options).args(["-V", version]).args(arguments), b"").success();
    };
    publish("5", &["-t", READY, "-m", "on", "-r"]);
    let mut watchers = Vec::new();
    for version in ["311", "5"] {
        watchers.push(Watcher::mosquitto(&options, version, "mixed"));
        watchers.push(Watcher::paho(&options, version, "mixed"));
    }
    let mut expected = Vec::new();
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let text = format!("{version} at {qos}");
            publish(version, &["-t", "mixed", "-q", qos, "-m", &text]);
            expected.push(("mixed".to_owned(), text.into_bytes()));
        }
    }
    publish("5", &["-t", "mixed", "-q", "1", "-m", "with", "-D", "publish", "user-property", "a", "b"]);
    expected.push(("mixed".to_owned(), b"with".to_vec()));
    for watcher in &watchers {
        assert_eq!(watcher.messages(expected.len()), expected, "{}", watcher.what);
    }
}
