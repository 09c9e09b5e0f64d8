//! A marked payload, published a thousand times: afterwards it is found where it was opened, and nowhere else; nor is
//! any secret found where it does not belong.

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::needles::{Needle, Needles, add_keyring, add_signing_key, scan_memory};
use common::peers::{Mosquitto, READY, Watcher, is_there};
use common::process::run;
use common::relay::Relay;
use common::site::{Device, Site, Up, address, smqtt};
use common::{TempDir, files_below};
use smqtt_client::keyring::Keyring;
use smqtt_core::token::Token;

const CANARY: &str = "canary-9f2c61d8";
/// Published in the open, to know that what is in the open is found.
const CONTROL: &str = "control-3b7e55aa";
const TOPIC: &str = "ward/3/temperature";
const POLICY: &str = "role=nurse and ward=$1";
const COUNT: usize = 1000;
/// A thousand messages through a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn canary(needles: &mut Needles) {
    needles.add_secret("the canary", CANARY.as_bytes(), None);
}

fn canaries() -> Vec<u8> {
    (0..COUNT).flat_map(|number| format!("{CANARY}-{number:04}\n").into_bytes()).collect()
}

/// Publishes the canaries while `reader` opens them all; gives what both wrote besides.
fn thousand(site: &Site, publisher: &Device, reader: &Device, broker: &str) -> Vec<u8> {
    let mut command = site.command();
    command.args(["subscribe", "-t", "ward/+/temperature", "-C", &COUNT.to_string(), "--broker", broker]);
    command.env("SMQTT_DIR", &reader.dir).env("SMQTT_LOG", "trace");
    let reading = common::process::Running::spawn(&mut command);
    reading.err.line("subscribed to");
    let mut command = site.command();
    command.args(["publish", "-t", TOPIC, "--lines", "--json", "--broker", broker]);
    command.env("SMQTT_DIR", &publisher.dir).env("SMQTT_LOG", "trace");
    let sent = run(&mut command, &canaries());
    sent.success();
    reading.out.wait("all of them", PATIENCE, |text| (text.matches(CANARY).count() >= COUNT).then_some(()));
    let read = reading.end();
    let opened = read.success();
    for number in [0, COUNT / 2, COUNT - 1] {
        assert!(opened.contains(&format!("{TOPIC} sensor-1 {CANARY}-{number:04}\n")), "number {number}");
    }
    [sent.out, sent.err.into_bytes(), read.err.into_bytes()].concat()
}

#[test]
fn the_scanner_finds_what_is_there() {
    let dir = TempDir::new();
    let mut needles = Needles::default();
    canary(&mut needles);
    let decimal = format!("{:?}", CANARY.as_bytes());
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for text in [format!("..{CANARY}"), decimal, hex, STANDARD.encode(CANARY)] {
        assert_eq!(needles.found(text.as_bytes()).len(), 1, "{text}");
    }
    assert!(needles.found(b"canary-9f2c61d").is_empty());
    std::fs::write(dir.path().join("file"), format!("x{CANARY}x")).unwrap();
    let found = std::panic::catch_unwind(|| needles.assert_clean_below(dir.path()));
    assert!(found.is_err());
    let mut own = false;
    let marked = format!("{CANARY}-in-memory").into_bytes();
    match scan_memory(std::process::id(), |bytes| own |= common::contains(bytes, &marked)) {
        Ok(_) => assert!(own, "not even what is there"),
        Err(error) => common::skipped(&format!("no memory can be read here: {error}")),
    }
}

#[test]
fn a_thousand_canaries_are_seen_by_readers_alone() {
    let home = TempDir::new();
    let mut command = smqtt(home.path());
    command.args([
        "up",
        "--authority",
        "127.0.0.1:0",
        "--broker",
        "127.0.0.1:0",
        "--plain",
        "127.0.0.1:0",
        "--data",
    ]);
    // Whatever anybody ever logs.
    let up = Up::of(command.arg(home.path().join("site")).env("SMQTT_LOG", "trace"));
    let site = Site { up, home };
    let to_authority = Relay::to(address(&site.up.authority));
    let to_broker = Relay::to(address(&site.up.broker));
    let to_plain = Relay::to(address(site.up.plain.as_ref().unwrap()));
    let mut needles = Needles::default();
    canary(&mut needles);

    // Through the relay from the first byte on.
    let enrol = |name: &str, attributes: &[&str]| {
        let mut token = Token::parse(&site.token(name, attributes)).unwrap();
        token.url = format!("https://{}", to_authority.address);
        let device = site.device(name);
        site.enrol_with(&device, &token.expose()).success();
        (device, token)
    };
    let (nurse, nurse_token) = enrol("nurse-1", &["role=nurse", "ward=3"]);
    let (sensor, sensor_token) = enrol("sensor-1", &["kind=sensor"]);
    for (name, token) in [("nurse-1", nurse_token), ("sensor-1", sensor_token)] {
        needles.add_secret(&format!("{name}: token secret"), &token.secret, None);
        let text = token.expose();
        needles.add(&format!("{name}: token"), &text.as_bytes()[text.len() - 60..], None);
    }
    site.rule_set("ward/+/temperature", &["--mode", "required", "--policy", POLICY]);
    site.publish(&sensor, READY, CONTROL, &["--plain", "--retain"]).success();

    // Our broker: TLS for those who publish and read, and somebody who records without.
    let (_, plain_port) =
        to_plain.address.to_string().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let recorder = is_there("mosquitto_sub").then(|| {
        Watcher::mosquitto(&["-h", "127.0.0.1", "-p", &plain_port].map(str::to_owned), "5", "ward/#")
    });
    let said = thousand(&site, &sensor, &nurse, &format!("mqtts://{}", to_broker.address));

    // Another epoch, so that keys of it come over the wire as well; then a stock broker, all in the open.
    site.run(&["epoch", "rotate"]).success();
    let stock = Mosquitto::start().map(|mosquitto| {
        let relay = Relay::to(address(&mosquitto.url()));
        let said = thousand(&site, &sensor, &nurse, &format!("mqtt://{}", relay.address));
        (mosquitto, relay, said)
    });

    let data = site.data();
    for dir in [&nurse.dir, &sensor.dir, &data.join("broker")] {
        add_keyring(&mut needles, dir);
    }
    assert!(Keyring::load(&nurse.dir).unwrap().keys().len() >= 2, "keys of both epochs");
    let admin = data.join("admin");
    add_signing_key(&mut needles, "administrator's key", &admin.join("key.pem"));
    let seal = data.join("seal");
    needles.add_secret("seal key", &std::fs::read(seal.join("seal.key")).unwrap(), Some(&seal));
    // That all this can be found is known: where it is at home it is.
    for dir in [&nurse.dir, &sensor.dir, &admin, &seal] {
        let at_home = |needle: &&Needle| needle.home.as_ref() == Some(dir);
        let all: Vec<u8> = files_below(dir).iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        assert!(needles.found(&all).iter().any(at_home), "{}", dir.display());
    }

    // The broker's memory, while it runs.
    let mut memory_of_broker = Needles::default();
    canary(&mut memory_of_broker);
    let mut control = Needles::default();
    control.add("a message that it keeps in the open", CONTROL.as_bytes(), None);
    for needle in &needles.all {
        // Its own keys it may have.
        if needle.home.as_ref().is_none_or(|home| *home != data.join("broker")) {
            memory_of_broker.add(&needle.what, &needle.bytes, None);
        }
    }
    let mut knows_control = false;
    let scanned = scan_memory(site.up.broker_pid(), |bytes| {
        memory_of_broker.assert_clean("the broker's memory", bytes);
        knows_control |= !control.found(bytes).is_empty();
    });
    match scanned {
        Ok(total) => assert!(knows_control && total > 1 << 20, "{total} bytes"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            common::skipped(&format!("the broker's memory cannot be read here: {error}"));
        }
        Err(error) => panic!("{error}"),
    }
    // The authority makes keys, and never sees a reading.
    let mut readings = Needles::default();
    canary(&mut readings);
    let scanned =
        scan_memory(site.up.running.pid(), |bytes| readings.assert_clean("the authority's memory", bytes));
    scanned
        .map(drop)
        .unwrap_or_else(|error| common::skipped(&format!("the authority's memory cannot be read: {error}")));

    // What was said on the way.
    if let Some(recorder) = recorder {
        recorder.running.out.wait("a thousand envelopes", PATIENCE, |text| {
            (text.matches('\n').count() > COUNT).then_some(())
        });
        needles.assert_clean("what mosquitto_sub got", &common::unhex_lines(&recorder.running.out.text()));
        drop(recorder);
        let tape = to_plain.wait_recorded(COUNT * 40);
        assert!(common::contains(&tape, CONTROL.as_bytes()), "the tape has what was in the open");
        needles.assert_clean("the wire without TLS", &tape);
    }
    if let Some((mosquitto, relay, said)) = &stock {
        let tape = relay.wait_recorded(COUNT * 1000);
        assert!(common::contains(&tape, &[0xda, 0x53, 0x4d, 0x51, 0x54]), "the tape has envelopes");
        needles.assert_clean("the wire to a stock broker", &tape);
        needles.assert_clean("the stock broker's log", mosquitto.log().as_bytes());
        needles.assert_clean("what clients of a stock broker say", said);
    }
    needles.assert_clean("the wire to our broker", &to_broker.wait_recorded(COUNT * 40));
    needles.assert_clean("the wire to the authority", &to_authority.wait_recorded(1000));
    needles.assert_clean("what our clients say", &said);

    // What stays.
    needles.assert_clean_below(&data);
    let Site { up, home: _home } = site;
    up.running.signal("INT");
    let ended = up.running.end();
    assert!(ended.err.contains("DEBUG") && ended.err.contains("sensor-1"), "the log is all there is");
    needles.assert_clean("the log", ended.err.as_bytes());
    needles.assert_clean("what authority and broker print", &ended.out);
    needles.assert_clean_below(&data);
    for device in [&nurse.dir, &sensor.dir] {
        needles.assert_clean_below(device);
    }
}
