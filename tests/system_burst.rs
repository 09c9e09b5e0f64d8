//! More messages than anybody takes at once: nothing acknowledged is lost, and Ctrl-C still ends it.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::process::{run, signal};
use common::site::{Device, Site};
use common::until;

const TOPIC: &str = "ward/3/temperature";
/// More than the client, the pipes and the sockets between hold; less than the broker keeps for one session.
const COUNT: usize = 8000;

/// A reader whose output nobody has read yet, and a site with that many messages published to it.
fn burst(arguments: &[&str]) -> (Site, Child) {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse", "ward=3"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("ward/+/temperature", &["--policy", "role=nurse and ward=$1"]);
    let reader = reader(&site, &nurse, arguments);
    let readings: String = (0..COUNT).map(|n| format!("reading {n:05}\n")).collect();
    let mut command = site.command();
    command.args(["publish", "-t", TOPIC, "--lines"]).env("SMQTT_DIR", &sensor.dir);
    run(&mut command, readings.as_bytes()).success();
    (site, reader)
}

fn reader(site: &Site, nurse: &Device, arguments: &[&str]) -> Child {
    let mut command = site.command();
    command.args(["subscribe", "-t", TOPIC]).args(arguments).env("SMQTT_DIR", &nurse.dir);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("subscribed to"), "{line}");
    std::thread::spawn(move || said.read_to_string(&mut String::new()));
    child
}

fn end(child: &mut Child) -> std::process::ExitStatus {
    until("the reader ends", Duration::from_secs(30), || child.try_wait().unwrap())
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let count = COUNT.to_string();
    let (_site, mut reader) = burst(&["-C", &count]);
    let mut read = String::new();
    reader.stdout.take().unwrap().read_to_string(&mut read).unwrap();
    assert!(end(&mut reader).success());
    let lines: Vec<&str> = read.lines().collect();
    assert_eq!(lines.len(), COUNT);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("{TOPIC} sensor-1 reading {n:05}"));
    }
}

#[test]
fn a_reader_that_is_stuck_ends_when_told_to() {
    let (_site, mut reader) = burst(&[]);
    signal(reader.id(), "INT");
    assert!(end(&mut reader).success());
}
