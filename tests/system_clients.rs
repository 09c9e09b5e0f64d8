//! Stock clients and a stock broker beside SMQTT's own: they carry and get what they cannot read.

mod common;

use std::process::Command;

use common::peers::{Mosquitto, READY, Watcher, has_paho, is_there};
use common::process::{Running, run};
use common::site::{Device, Site};
use serde_json::Value;
use smqtt_core::envelope::Envelope;

const FILTER: &str = "ward/+/temperature";
const TOPIC: &str = "ward/3/temperature";

/// Who is in every test here.
struct Ward {
    site: Site,
    /// May read ward 3.
    nurse: Device,
    /// May not.
    clerk: Device,
    /// Publishes.
    sensor: Device,
}

impl Ward {
    fn start() -> Self {
        let site = Site::start();
        let nurse = site.enrol("nurse-1", &["role=nurse", "ward=3"]);
        let clerk = site.enrol("clerk-1", &["role=clerk"]);
        let sensor = site.enrol("sensor-1", &["kind=sensor"]);
        site.rule_set(FILTER, &["--mode", "required", "--policy", "role=nurse and ward=$1"]);
        let ward = Self { site, nurse, clerk, sensor };
        ward.publish(READY, "on", &["--plain", "--retain"]);
        ward
    }

    fn publish(&self, topic: &str, message: &str, arguments: &[&str]) {
        self.site.publish(&self.sensor, topic, message, arguments).success();
    }

    fn mosquitto_pub(
        &self,
        connect: &[String],
        version: &str,
        topic: &str,
        message: &str,
        qos: &str,
    ) -> common::process::Ended {
        let mut command = Command::new("mosquitto_pub");
        run(command.args(connect).args(["-V", version, "-q", qos, "-t", topic, "-m", message]), b"")
    }
}

#[test]
fn stock_subscribers_get_envelopes_in_which_no_reading_is() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let ward = Ward::start();
    let (tls, plain) = (ward.site.tls(&ward.clerk), ward.site.plain());
    let mut watchers = Vec::new();
    for version in ["311", "5"] {
        watchers.push(Watcher::mosquitto(&tls, version, "ward/#"));
        watchers.push(Watcher::mosquitto(&plain, version, "ward/#"));
        if has_paho() {
            watchers.push(Watcher::paho(&tls, version, "ward/#"));
            watchers.push(Watcher::paho(&plain, version, "ward/#"));
        }
    }
    let nurse = ward.site.subscribe(&ward.nurse, FILTER, &[]);
    let readings = ["reading-36.6-first", "reading-36.7-second", "reading-36.8-third"];
    for (qos, reading) in ["0", "1", "2"].into_iter().zip(readings) {
        ward.publish(TOPIC, reading, &["--qos", qos]);
    }
    let expected = readings.map(|reading| format!("{TOPIC} sensor-1 {reading}"));
    assert_eq!(nurse.out.first_lines(3), expected);

    let mut seen = Vec::new();
    for watcher in &watchers {
        let messages = watcher.messages(3);
        assert_eq!(messages.len(), 3, "{}", watcher.what);
        for (topic, payload) in &messages {
            assert_eq!(topic, TOPIC, "{}", watcher.what);
            let envelope = Envelope::parse(payload).unwrap();
            assert!(
                envelope.header.is_some(),
                "{}: whoever is no SMQTT reader gets the full form",
                watcher.what
            );
            let texts = readings.iter().flat_map(|reading| [reading, &reading[..12]]);
            texts.for_each(|text| assert!(!common::contains(payload, text.as_bytes()), "{}", watcher.what));
        }
        seen.push(messages);
    }
    assert!(seen.iter().all(|messages| *messages == seen[0]), "everyone gets the same bytes");
}

#[test]
fn plain_messages_of_stock_clients_are_refused_where_sealing_is_required() {
    if !is_there("mosquitto_pub") {
        return;
    }
    let ward = Ward::start();
    let (tls, plain) = (ward.site.tls(&ward.sensor), ward.site.plain());
    let watcher = Watcher::mosquitto(&plain, "5", "ward/#");
    let nurse = ward.site.subscribe(&ward.nurse, FILTER, &[]);
    for connect in [&tls, &plain] {
        for qos in ["1", "2"] {
            // Version 5 has a reason; before, closing the connection is all that can be said.
            let refused = ward.mosquitto_pub(connect, "5", TOPIC, "36.6", qos);
            assert!(refused.err.contains("Payload format invalid"), "{refused:?}");
            let refused = ward.mosquitto_pub(connect, "311", TOPIC, "36.6", qos);
            assert!(!refused.status.success() && refused.err.contains("connection was lost"), "{refused:?}");
        }
        ward.mosquitto_pub(connect, "311", TOPIC, "36.6", "0");
        ward.mosquitto_pub(connect, "5", TOPIC, "36.6", "0");
    }
    ward.site.up.running.err.wait("twelve refusals", common::DEADLINE, |log| {
        (log.matches("text=\"plaintext: ").count() >= 12).then_some(())
    });
    // None of them passed: the first that comes is the sealed one.
    ward.publish(TOPIC, "36.6", &[]);
    assert_eq!(nurse.out.first_lines(1), [format!("{TOPIC} sensor-1 36.6")]);
    let first = watcher.messages(1).remove(0);
    assert!(Envelope::parse(&first.1).is_ok());
    assert!(!nurse.err.text().contains("not opened"), "{}", nurse.err.text());
}

#[test]
fn plain_messages_pass_where_they_may_and_are_shown_as_unsealed() {
    if !is_there("mosquitto_pub") {
        return;
    }
    let ward = Ward::start();
    ward.site.rule_set("lobby/#", &["--mode", "warn"]);
    let watcher = Watcher::mosquitto(&ward.site.plain(), "311", "lobby/#");
    let nurse = ward.site.subscribe(&ward.nurse, "lobby/#", &[]);
    let json = ward.site.subscribe(&ward.nurse, "lobby/#", &["--json"]);
    for (version, connect) in [("311", ward.site.plain()), ("5", ward.site.tls(&ward.clerk))] {
        let text = format!("20.1 from {version}");
        let sent = ward.mosquitto_pub(&connect, version, "lobby/door", &text, "1");
        assert!(sent.status.success() && sent.err.is_empty(), "{sent:?}");
    }
    let expected = ["311", "5"].map(|version| format!("lobby/door (unsealed) 20.1 from {version}"));
    assert_eq!(nurse.out.first_lines(2), expected);
    let texts = watcher.messages(2).into_iter().map(|(_, payload)| String::from_utf8(payload).unwrap());
    assert_eq!(texts.collect::<Vec<_>>(), ["20.1 from 311", "20.1 from 5"]);
    let first: Value = serde_json::from_str(&json.out.first_lines(1)[0]).unwrap();
    assert_eq!((&first["sealed"], &first["publisher"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(first["payload"], "20.1 from 311");
}

#[test]
fn what_a_stock_client_recorded_can_be_inspected_and_explained() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let ward = Ward::start();
    // With a line feed at the end, as mosquitto_sub does it unless told not to, and without.
    for (name, end) in [("exact", &["-N"][..]), ("with-line-feed", &[])] {
        ward.publish(TOPIC, "36.6", &["--retain"]);
        let mut command = Command::new("mosquitto_sub");
        command.args(ward.site.plain()).args(["-t", TOPIC, "-C", "1"]).args(end);
        let captured = run(&mut command, b"");
        captured.success();
        let file = ward.site.home.path().join(name);
        std::fs::write(&file, &captured.out).unwrap();
        let file = file.display().to_string();

        let shown = ward.site.run(&["inspect", &file]).success();
        for part in [
            "form         full",
            "policy       role=nurse and ward=3",
            "(sensor-1), not verified",
            "4 bytes, sealed",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let json: Value =
            serde_json::from_str(&ward.site.run(&["inspect", "--json", &file]).success()).unwrap();
        assert_eq!(json["header"]["epoch"], 1, "{json}");
        let piped = run(ward.site.command().arg("inspect"), &captured.out);
        assert_eq!(piped.success(), shown);

        let opens = ward.site.run_as(&ward.nurse, &["explain", &file, "-t", TOPIC], b"").success();
        assert!(opens.contains("✓ role=nurse") && opens.contains("sensor-1 ✓ verified"), "{opens}");
        assert!(opens.contains("opens        4 bytes by sensor-1"), "{opens}");
        assert!(!opens.contains("36.6"), "explaining is not reading");
        let without_topic = ward.site.run_as(&ward.nurse, &["explain", &file], b"").success();
        assert!(without_topic.contains("the header opens"), "{without_topic}");

        for topic in [&[][..], &["-t", TOPIC]] {
            let closed = ward.site.run_as(&ward.clerk, &[&["explain", &file], topic].concat(), b"");
            closed.failure(&["attributes: my attributes do not satisfy `role=nurse and ward=3`"]);
            assert!(closed.text().contains("✗ ward=3: has no ward"), "{}", closed.text());
        }
        let moved = ward.site.run_as(&ward.nurse, &["explain", &file, "-t", "ward/4/temperature"], b"");
        moved.failure(&["topic: the header is for `ward/3/temperature`"]);
        // As the authority knows a device, without its keyring.
        let known = ward.site.run(&["explain", "--policy", "role=nurse and ward=3", "--device", "nurse-1"]);
        known.success();
        ward.site.run(&["explain", &file, "--device", "clerk-1"]).failure(&["not satisfied"]);
    }
}

#[test]
fn a_stock_broker_carries_sealed_messages_too() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let ward = Ward::start();
    let url = mosquitto.url();
    let via = ["--broker", url.as_str()];
    ward.publish(READY, "on", &[&via[..], &["--plain", "--retain"]].concat());
    let watcher = is_there("mosquitto_sub").then(|| Watcher::mosquitto(&mosquitto.options(), "5", "ward/#"));
    let nurse = ward.site.subscribe(&ward.nurse, FILTER, &[&via[..], &["--qos", "2"]].concat());
    let clerk = ward.site.subscribe(&ward.clerk, FILTER, &via);
    for qos in ["0", "1", "2"] {
        let told =
            ward.site.publish(&ward.sensor, TOPIC, "36.6", &[&via[..], &["--qos", qos, "--json"]].concat());
        let told: Value = serde_json::from_str(&told.success()).unwrap();
        assert_eq!(told["full"], true, "{told}");
    }
    let lines = ["publish", "-t", TOPIC, "--lines", "--json", "--retain"];
    let lines = ward.site.run_as(&ward.sensor, &[&lines, &via[..]].concat(), b"37.1\n37.2\n37.3\n");
    let told: Vec<Value> = lines.success().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.len() == 3 && told.iter().all(|line| line["full"] == true), "{told:?}");
    assert!(told.iter().all(|line| line["kid"] == told[0]["kid"]), "one content key for all of them");

    let texts = ["36.6", "36.6", "36.6", "37.1", "37.2", "37.3"];
    let expected = texts.map(|text| format!("{TOPIC} sensor-1 {text}"));
    assert_eq!(nurse.out.first_lines(6), expected);
    let refused = clerk.err.first_lines(7);
    for line in &refused[1..] {
        let why =
            format!("not opened: {TOPIC}: attributes: my attributes do not satisfy `role=nurse and ward=3`");
        assert_eq!(*line, why);
    }
    assert_eq!(clerk.out.text(), "");
    if let Some(watcher) = watcher {
        for (_, payload) in watcher.messages(6) {
            assert!(Envelope::parse(&payload).unwrap().header.is_some());
            assert!(texts.iter().all(|text| !common::contains(&payload, text.as_bytes())));
        }
    }
    // The last one was retained, and opens for whoever comes later, as often as they come.
    for _ in 0..2 {
        let late = ward.site.run_as(
            &ward.nurse,
            &[&["subscribe", "-t", FILTER, "-C", "1", "--json"], &via[..]].concat(),
            b"",
        );
        let late: Value = serde_json::from_str(&late.success()).unwrap();
        assert_eq!((&late["payload"], &late["retained"]), (&Value::from("37.3"), &Value::Bool(true)));
    }
}

#[test]
fn the_options_of_publish_and_subscribe_do_what_they_say() {
    let ward = Ward::start();
    let site = &ward.site;
    let file = site.home.path().join("bytes");
    std::fs::write(&file, [0, 159, 146, 150, 10]).unwrap();

    // As many as were asked for, and then it ends by itself.
    let three = site.subscribe(&ward.nurse, FILTER, &["-C", "3", "--json", "-q", "2"]);
    let told = site
        .run_as(&ward.sensor, &["publish", "-t", TOPIC, "--lines", "--json", "-q", "2"], b"one\ntwo\n")
        .success();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&told[0]["full"], &told[1]["full"]), (&Value::Bool(true), &Value::Bool(false)));
    let (first, second) = (told[0]["wire_bytes"].as_u64().unwrap(), told[1]["wire_bytes"].as_u64().unwrap());
    assert!(second < 100 && first > second + 500, "full {first} bytes, compact {second}");
    let binary = file.display().to_string();
    site.run_as(&ward.sensor, &["publish", "-t", TOPIC, "-f", &binary, "--sign"], b"").success();
    let got: Vec<Value> =
        three.end().success().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(got.len(), 3);
    assert_eq!((&got[0]["payload"], &got[1]["payload"]), (&Value::from("one"), &Value::from("two")));
    assert_eq!(got[2]["payload_base64"], "AJ+Slgo=");
    assert_eq!((&got[0]["signed"], &got[2]["signed"]), (&Value::Bool(false), &Value::Bool(true)));
    for line in &got {
        assert_eq!(
            (&line["sealed"], &line["retained"], &line["topic"]),
            (&Value::Bool(true), &Value::Bool(false), &Value::from(TOPIC))
        );
        assert_eq!(line["publisher"]["name"], "sensor-1");
    }
    assert_eq!((&got[0]["qos"], &got[2]["qos"]), (&Value::from(2), &Value::from(1)));

    // A session that waits for its client, and its client for another process.
    let stays = ["-c", "-i", "nurse-1/night", "-q", "2"];
    let waiting = site.subscribe(&ward.nurse, "ward/3/+", &stays);
    waiting.signal("INT");
    waiting.end().success();
    for qos in ["1", "2"] {
        ward.publish(TOPIC, &format!("{qos} while away"), &["-q", qos]);
    }
    let mut back = vec!["subscribe", "-t", "ward/3/+", "-C", "2"];
    back.extend(stays);
    let got = site.run_as(&ward.nurse, &back, b"").success();
    let expected = ["1", "2"].map(|qos| format!("{TOPIC} sensor-1 {qos} while away\n"));
    assert_eq!(got, expected.concat());

    // A message from standard input, kept; who subscribes later gets it, as often as they do.
    site.run_as(&ward.sensor, &["publish", "-t", TOPIC, "-f", "-", "--retain"], b"kept").success();
    for _ in 0..2 {
        let late = site.run_as(&ward.nurse, &["subscribe", "-t", FILTER, "-C", "1", "--json"], b"").success();
        let late: Value = serde_json::from_str(&late).unwrap();
        assert_eq!((&late["payload"], &late["retained"]), (&Value::from("kept"), &Value::Bool(true)));
    }
    let nothing =
        site.run_as(&ward.nurse, &["subscribe", "-t", "ward/9/temperature", "-C", "1", "-W", "1"], b"");
    nothing.failure(&["0 of 1 messages opened in time"]);
    site.run_as(&ward.nurse, &["subscribe", "-t", "ward/9/temperature", "-W", "1"], b"").success();
}

#[test]
fn a_name_in_the_client_id_is_its_device_s_alone() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let ward = Ward::start();
    for id in ["nurse-1", "nurse-1/anything"] {
        let other = ward.site.run_as(&ward.clerk, &["subscribe", "-t", FILTER, "-i", id, "-W", "1"], b"");
        other.failure(&["ClientIdentifierNotValid"]);
        let mut command = Command::new("mosquitto_sub");
        command.args(ward.site.plain()).args(["-t", FILTER, "-i", id, "-W", "5"]);
        let stranger = run(&mut command, b"");
        assert!(!stranger.status.success() && !stranger.err.is_empty(), "{stranger:?}");
    }
    // TLS without a certificate of the authority does not get that far.
    let root = ward.nurse.dir.join("root.pem");
    let mut command = Command::new("mosquitto_sub");
    command.args(&ward.site.tls(&ward.nurse)[..4]).arg("--cafile").arg(root).args(["-t", FILTER, "-W", "5"]);
    let nobody: Running = Running::spawn(&mut command);
    assert!(!nobody.end().status.success());
}
