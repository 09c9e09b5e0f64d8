//! What the authority's log says of requests, and commands that have to wait.

mod common;

use common::TempDir;
use common::process::{Running, run};
use common::site::smqtt;
use serde_json::Value;

/// An authority with this configuration, its log as JSON.
fn authority(home: &TempDir, config: &str) -> Running {
    std::fs::write(home.path().join("smqtt.toml"), config).unwrap();
    let mut command = smqtt(home.path());
    command.args(["authority", "--listen", "127.0.0.1:0", "--config", "smqtt.toml", "--data", "site"]);
    let running =
        Running::spawn(command.args(["--log-format", "json"]).env("SMQTT_LOG", "smqtt_keysvc=debug"));
    running.out.line("fingerprint");
    running
}

fn logged(running: &Running, part: &str) -> Value {
    let line = running.err.line(part);
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn each_request_is_a_line_with_its_id_and_nothing_secret() {
    let home = TempDir::new();
    let authority = authority(&home, "");
    let made = run(smqtt(home.path()).args(["token", "new", "sensor-1", "--data", "site"]), b"").success();
    let token = made.trim();
    run(smqtt(home.path()).args(["enrol", "--dir", "device"]), token.as_bytes()).success();
    let answered = logged(&authority, "\"operation\":\"make-token\"");
    assert_eq!((&answered["method"], &answered["path"]), (&"POST".into(), &"/v1/tokens".into()));
    assert_eq!((&answered["status"], &answered["role"]), (&201.into(), &"admin".into()));
    assert!(answered["caller"].as_str().unwrap().starts_with("admin ") && answered["ms"].is_u64());
    // What was done for it bears the same id, though it was done by the thread that writes.
    let done = logged(&authority, "made a token");
    assert!(answered["spans"][0]["id"].is_string());
    assert_eq!(done["spans"][0]["id"], answered["spans"][0]["id"]);
    let enrolled = logged(&authority, "\"operation\":\"enrol\"");
    assert_eq!((&enrolled["role"], &enrolled["status"]), (&"-".into(), &200.into()));
    // Neither the token nor its secret, however written.
    let secret = smqtt_core::token::Token::parse(token).unwrap().secret;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let log = authority.err.text();
    assert!(!log.contains(token) && !log.contains(&secret), "{log}");
}

#[test]
fn a_command_that_is_too_early_waits_and_is_done() {
    let home = TempDir::new();
    let authority = authority(&home, "[authority.rates]\ntrusted = { per_second = 1, burst = 1 }\n");
    for name in ["a", "b"] {
        run(smqtt(home.path()).args(["token", "new", name, "--data", "site"]), b"").success();
    }
    run(smqtt(home.path()).args(["token", "list", "--data", "site"]), b"").success();
    let early = logged(&authority, "\"status\":429");
    assert_eq!(early["level"], "DEBUG", "whoever asks too often must not fill the log: {early}");
}
