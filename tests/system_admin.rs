//! Metrics, health, limits and logs of the processes that the command line starts.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use common::process::{Running, run};
use common::site::{SMQTT, Site, smqtt};
use common::{DEADLINE, TempDir, until};

const FREE: [&str; 4] = ["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"];
const REQUEST: &str = "HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn answer(mut stream: impl Read + Write, path: &str) -> String {
    stream.write_all(format!("GET {path} {REQUEST}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(url: &str, path: &str) -> String {
    answer(TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap(), path)
}

fn get_file(dir: &Path, path: &str) -> String {
    answer(UnixStream::connect(dir.join("admin.sock")).unwrap(), path)
}

fn url(line: &str) -> String {
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn up_shows_the_broker_on_the_network_and_on_its_file() {
    let site = Site::with(&[FREE[0], FREE[1], FREE[2], FREE[3], "--admin", "127.0.0.1:0"]);
    let url = url(&site.up.running.out.line("admin "));
    until("readiness", DEADLINE, || get(&url, "/health/ready").starts_with("HTTP/1.1 200 ").then_some(()));
    assert!(get(&url, "/health/ready").contains("\"listeners\":\"ok\""));
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.publish(&nurse, "a", "x", &["--policy", "role=nurse"]).success();
    let seen = get_file(&site.data().join("broker"), "/metrics");
    assert!(seen.lines().any(|line| line == "smqtt_connects_total{result=\"accepted\"} 1"), "{seen}");
    assert!(seen.contains("smqtt_store_commit_seconds_count"), "{seen}");
    assert!(get(&url, "/metrics").contains("smqtt_handshakes_total{kind=\"tls\",result=\"done\"}"));
}

#[test]
fn an_authority_shows_itself_on_the_network_and_on_its_file() {
    let site = Site::with(&[&FREE[..], &["--authority-admin", "127.0.0.1:0"]].concat());
    let line = site.up.running.out.line("(authority)");
    let url = url(&line);
    until("readiness", DEADLINE, || get(&url, "/health/ready").starts_with("HTTP/1.1 200 ").then_some(()));
    assert!(get(&url, "/health/ready").contains("\"certificate\":\"ok\""));
    site.enrol("nurse-1", &["role=nurse"]);
    let seen = get_file(&site.data(), "/metrics");
    // The broker, and the nurse.
    assert!(seen.lines().any(|line| line == "smqtt_authority_acts_total{act=\"enrol\"} 2"), "{seen}");
    assert!(get(&url, "/metrics").contains("process_open_fds"));
    let doctor = site.run(&["doctor"]).text();
    assert!(doctor.lines().any(|line| line.starts_with("ok    ready")), "{doctor}");

    let home = TempDir::new();
    let start = |arguments: &[&str]| {
        let mut command = smqtt(home.path());
        command.args(["authority", "--listen", "127.0.0.1:0", "--data"]).arg(home.path().join("data"));
        command.args(arguments);
        command
    };
    run(&mut start(&["--admin", "0.0.0.0:0"]), b"").failure(&["not a loopback address", "--admin-anywhere"]);
    let config = home.path().join("site.toml");
    std::fs::write(&config, "[authority]\nadmin = \"127.0.0.1:0\"\n").unwrap();
    let alone = Running::spawn(start(&["--log-format", "json"]).arg("--config").arg(&config));
    let url = self::url(&alone.out.line("admin "));
    until("readiness", DEADLINE, || get(&url, "/health/ready").starts_with("HTTP/1.1 200 ").then_some(()));
    assert!(get_file(&home.path().join("data"), "/metrics").contains("smqtt_authority_build_info"));
    alone.signal("TERM");
    let ended = alone.end();
    ended.success();
    assert!(!home.path().join("data/admin.sock").exists());
    for line in ended.err.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
    }
    assert!(ended.err.contains("\"message\":\"opened the authority\""), "{}", ended.err);

    // From the first line on it may be stopped.
    let alone = Running::spawn(start(&[]).arg("--config").arg(&config));
    alone.out.line("admin ");
    alone.signal("TERM");
    alone.end().success();
    assert!(!home.path().join("data/admin.sock").exists());
}

#[test]
fn an_open_broker_is_looked_into_only_where_it_is_asked_for() {
    let home = TempDir::new();
    let data = home.path().join("data");
    let arguments = |more: &[&str]| {
        let mut command = smqtt(home.path());
        command.args(["broker", "--open", "--plain", "127.0.0.1:0", "--data"]).arg(&data).args(more);
        command
    };
    let broker = Running::spawn(&mut arguments(&[]));
    broker.out.line("mqtt://");
    assert!(!data.join("admin.sock").exists());
    drop(broker);
    let broker = Running::spawn(&mut arguments(&["--admin", "127.0.0.1:0"]));
    let url = url(&broker.out.line("admin "));
    broker.out.line("mqtt://");
    assert!(get(&url, "/health/live").starts_with("HTTP/1.1 200 "));
    assert!(get_file(&data, "/metrics").contains("smqtt_build_info"));
    drop(broker);
    let refused = run(&mut arguments(&["--admin", "0.0.0.0:0"]), b"");
    refused.failure(&["not a loopback address", "--admin-anywhere"]);
}

#[test]
fn limits_come_from_the_file_and_unknown_ones_are_refused() {
    let home = TempDir::new();
    let file = home.path().join("site.toml");
    let start = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = smqtt(home.path());
        command.args(["broker", "--open", "--plain", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
        command.arg(&file);
        command
    };
    let broker =
        Running::spawn(&mut start("[broker.limits]\nfilters_max = 7\nconnect_timeout_seconds = 3\n"));
    let url = url(&broker.out.line("admin "));
    let seen = get(&url, "/metrics");
    assert!(seen.contains("smqtt_limit{limit=\"filters_max\"} 7.0\n"), "{seen}");
    assert!(seen.contains("smqtt_limit{limit=\"connect_timeout_seconds\"} 3.0\n"), "{seen}");
    drop(broker);
    run(&mut start("[broker.limits]\nfilter_max = 7\n"), b"").failure(&["filter_max"]);
    run(&mut start("[broker.limits]\nreceive_max = 0\n"), b"").failure(&["receive_max", "at least 1"]);
}

/// However content the shell is that starts it. Where that is too little for the connections that are allowed it says so.
#[test]
fn a_broker_takes_the_files_that_the_system_lets_it_have() {
    let home = TempDir::new();
    let script = r#"ulimit -Sn 64; ulimit -Hn 300
        exec "$0" broker --open --plain 127.0.0.1:0 --admin 127.0.0.1:0 --config "$1""#;
    let start = |connections: usize| {
        let config = home.path().join(format!("{connections}.toml"));
        std::fs::write(&config, format!("[broker.limits]\nconnections_max = {connections}\n")).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", script, SMQTT]).arg(&config).env("HOME", home.path()).env_remove("SMQTT_DATA");
        let broker = Running::spawn(&mut command);
        let seen = get(&url(&broker.out.line("admin ")), "/metrics");
        assert!(seen.lines().any(|line| line == "process_max_fds 300.0"), "{seen}");
        broker
    };
    let enough = start(44).err.text();
    assert!(!enough.contains("fewer files"), "{enough}");
    let line = start(300).err.line("fewer files may be open");
    assert!(line.contains("files=300") && line.contains("connections_max=300"), "{line}");
}

#[test]
fn a_log_of_json_has_fields_and_no_payloads() {
    let site = Site::with(&[FREE[0], FREE[1], FREE[2], FREE[3], "--log-format", "json"]);
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.publish(&nurse, "ward/1", "very-private-reading", &["--policy", "role=nurse"]).success();
    site.up.running.err.line("\"disconnected\"");
    let log = site.up.running.err.text();
    let mut connected = 0;
    for line in log.lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        if event["message"] == "connected" {
            assert!(event["client"].as_str().unwrap().starts_with("nurse-1"), "{line}");
            connected += 1;
        }
    }
    assert!(connected >= 1, "{log}");
    assert!(!log.contains("very-private-reading"));
}
