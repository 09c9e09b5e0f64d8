//! Clients that others wrote. Each test says so loudly if its program is not installed, and passes.

mod broker_support;

use std::process::Stdio;

use broker_support::*;
use smqtt::mqtt::*;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

/// Whether `program` runs at all.
async fn is_there(program: &str, argument: &str) -> bool {
    let ran =
        Command::new(program).args([argument]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if ran.is_err() {
        skipped(&format!("{program} is not installed"));
    }
    ran.is_ok()
}

#[tokio::test]
async fn mosquitto_clients_talk_through_the_broker() {
    if !is_there("mosquitto_sub", "--help").await {
        return;
    }
    let broker = TestBroker::start().await;
    let port = broker.address.port().to_string();
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let mut watcher = broker.v5("watcher").await;
            let args = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", qos];
            let mut reader = Command::new("mosquitto_sub")
                .args(args)
                .args(["-t", "été/+/x", "-C", "2", "-F", "%t %q %p"])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
            // The retained message arrives only once the subscription is in place.
            let retained = Publish { retain: true, ..message("été/0/x", "ready", QoS::AtLeastOnce) };
            watcher.publish(retained).await;
            let first = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
            assert!(first.starts_with("été/0/x") && first.ends_with("ready"), "{first}");
            let sent = Command::new("mosquitto_pub")
                .args(args)
                .args(["-t", "été/1/x", "-m", "grüße"])
                .status()
                .await;
            assert!(sent.unwrap().success());
            let second = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
            assert_eq!(second, format!("été/1/x {qos} grüße"));
            assert!(timeout(DEADLINE, reader.wait()).await.unwrap().unwrap().success());
        }
    }
}

const PAHO: &str = r#"
import sys, queue
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
port = int(sys.argv[1])
for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
    got, ready = queue.Queue(), queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol)
    client.on_connect = lambda c, u, f, reason, p: ready.put(("connect", str(reason)))
    client.on_subscribe = lambda c, u, mid, codes, p: ready.put(("subscribe", codes))
    client.on_message = lambda c, u, m: got.put(m)
    client.connect("127.0.0.1", port, keepalive=0)
    client.loop_start()
    assert ready.get(timeout=15) == ("connect", "Success")
    client.subscribe("paho/#", 2)
    ready.get(timeout=15)
    for qos in (0, 1, 2):
        properties = None
        if protocol == mqtt.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [("a", "1"), ("b", "2")]
            properties.ContentType = "text/plain"
            properties.MessageExpiryInterval = 100
        client.publish("paho/%d" % qos, "hello", qos, properties=properties).wait_for_publish(15)
        message = got.get(timeout=15)
        assert (message.topic, message.payload, message.qos) == ("paho/%d" % qos, b"hello", qos)
        if protocol == mqtt.MQTTv5:
            assert message.properties.UserProperty == [("a", "1"), ("b", "2")]
            assert message.properties.ContentType == "text/plain"
            assert message.properties.MessageExpiryInterval == 100
    client.disconnect()
    client.loop_stop()
print("fine")
"#;

#[tokio::test]
async fn paho_talks_through_the_broker() {
    let there =
        Command::new("python3").args(["-c", "import paho.mqtt.client"]).stderr(Stdio::null()).status().await;
    if !there.is_ok_and(|status| status.success()) {
        skipped("python3 with paho-mqtt is not installed");
        return;
    }
    let broker = TestBroker::start().await;
    let port = broker.address.port().to_string();
    let run = Command::new("python3").args(["-c", PAHO, &port]).kill_on_drop(true).output();
    let output = timeout(4 * DEADLINE, run).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Past the runner, which keeps what `eprintln!` says in a test that passes to itself.
fn skipped(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}
