//! What the authority's log says of requests, and commands that have to wait.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use common::process::{Running, run};
use common::site::smqtt;
use common::{DEADLINE, TempDir, until};
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

/// Carries connections to `target`. Of the first one it keeps back whatever the authority says after the client's own part of the
/// handshake, so also the answer, and ends it when `done` says so.
fn losing_the_first_answer(target: String, done: impl Fn() -> bool + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relay = move || {
        for (n, near) in listener.incoming().flatten().enumerate() {
            let far = TcpStream::connect(&target).unwrap();
            let shaken = Arc::new(AtomicBool::new(false));
            let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let says_so = shaken.clone();
            std::thread::spawn(move || {
                let (mut buffer, mut flights, mut bytes) = ([0; 1 << 14], 0, 0);
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    // After the greeting more than a change of the cipher, which has six bytes.
                    bytes += if flights > 0 { read } else { 0 };
                    flights += 1;
                    says_so.fetch_or(bytes > 64, SeqCst);
                    let _ = to.write_all(&buffer[..read]);
                }
            });
            let (mut from, mut to) = (far, near.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 1 << 14];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if n > 0 || !shaken.load(SeqCst) {
                        let _ = to.write_all(&buffer[..read]);
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
            if n == 0 {
                until("the change", DEADLINE, || done().then_some(()));
                let _ = near.shutdown(Shutdown::Both);
            }
        }
    };
    std::thread::spawn(relay);
    address
}

#[test]
fn a_command_whose_answer_was_lost_asks_again_and_does_nothing_twice() {
    let home = TempDir::new();
    let authority = authority(&home, "");
    let address = authority.out.line("authority").rsplit('/').next().unwrap().to_owned();
    let log = authority.err.clone();
    let relay = losing_the_first_answer(address, move || log.text().contains("made a token"));
    // The same administrator, by a way that loses what it carries.
    std::fs::create_dir_all(home.path().join("far/admin")).unwrap();
    for name in ["cert.pem", "key.pem", "root.pem"] {
        std::fs::copy(home.path().join("site/admin").join(name), home.path().join("far/admin").join(name))
            .unwrap();
    }
    let place = format!("{{\"url\": \"https://{relay}\"}}");
    std::fs::write(home.path().join("far/admin/authority.json"), place).unwrap();
    let token = run(smqtt(home.path()).args(["token", "new", "sensor-1", "--data", "far"]), b"").success();
    run(smqtt(home.path()).args(["enrol", "--dir", "device"]), token.as_bytes()).success();
    authority.err.line("answers as before");
    assert_eq!(authority.err.text().matches("made a token").count(), 1);
}
