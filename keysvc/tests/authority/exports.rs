//! The audit log, exported as it grows: nothing lost, nothing twice, and nobody held up by a sink that fails.

use std::io::Read;
use std::net::TcpListener as StdListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smqtt_core::api::{AuditLine, AuditRecord, Checkpoint};
use smqtt_core::audit::{Verified, Verifier};
use smqtt_keysvc::Config;
use tempfile::TempDir;

use crate::common::*;

/// The lines of a file.
fn lines(path: &Path) -> Vec<AuditLine> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn rows(lines: &[AuditLine]) -> Vec<u64> {
    let row = |line: &AuditLine| match line {
        AuditLine::Record(row) => Some(row.number),
        AuditLine::Checkpoint(_) => None,
    };
    lines.iter().filter_map(row).collect()
}

/// As `smqtt audit verify` does it.
fn verify(lines: &[AuditLine], server: &Running) -> Verified {
    check(lines, server, false)
}

fn check(lines: &[AuditLine], server: &Running, part: bool) -> Verified {
    let checkpoints = lines.iter().filter_map(|line| match line {
        AuditLine::Checkpoint(checkpoint) => Some(checkpoint.clone()),
        AuditLine::Record(_) => None,
    });
    let mut verifier = Verifier::new(&checkpoints.collect::<Vec<Checkpoint>>(), &server.roots()).unwrap();
    if part {
        verifier = verifier.of_part();
    }
    for line in lines {
        if let AuditLine::Record(row) = line {
            verifier.row(row).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }
    verifier.finish().unwrap()
}

/// As it does it with `--part`.
fn verify_part(lines: &[AuditLine], server: &Running) -> Verified {
    check(lines, server, true)
}

async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn last_row(server: &Running) -> u64 {
    server.authority.verify_audit().await.unwrap().unwrap()
}

fn numbered(path: &Path, number: u64) -> PathBuf {
    format!("{}.{number}", path.display()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_every_row_once_over_restarts_and_cut_lines() {
    let outside = TempDir::new().unwrap();
    let path = outside.path().join("audit.jsonl");
    let config = Config { audit_file: Some(path.clone()), ..Config::default() };
    let mut server = Running::with(config).await;
    for round in 0..3 {
        server.enrol(&format!("device-{round}"), &["x"]).await;
        let last = last_row(&server).await;
        until("all rows", async || rows(&lines(&path)).contains(&last).then_some(())).await;
        let (dir, clock, config) = server.stop().await;
        // A crash in the middle of a line.
        let mut text = std::fs::read_to_string(&path).unwrap();
        let cut = [0, 1, 40][round];
        text.truncate(text.len() - cut);
        std::fs::write(&path, text).unwrap();
        server = Running::again(dir, clock, config).await;
    }
    server.clock.advance(61);
    let last = until("a checkpoint", async || {
        let (there, last) = (lines(&path), last_row(&server).await);
        let is_signed = matches!(there.last(), Some(AuditLine::Checkpoint(signed)) if signed.number == last);
        is_signed.then_some(last)
    })
    .await;
    let there = lines(&path);
    assert_eq!(rows(&there), (1..=last).collect::<Vec<_>>());
    assert_eq!((verify(&there, &server).last, verify(&there, &server).signed), (last, last));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    server.clock.advance(1);
    let seen = server.authority.metrics().await;
    assert!(seen.contains("smqtt_authority_audit_export_behind_rows{sink=\"file\"} 0.0"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_rotated_at_a_checkpoint_and_each_verifies() {
    let outside = TempDir::new().unwrap();
    let path = outside.path().join("audit.jsonl");
    let config = Config {
        audit_file: Some(path.clone()),
        audit_file_bytes_max: 1000,
        audit_files_max: 3,
        ..Config::default()
    };
    let server = Running::with(config).await;
    let mut first = 0;
    for round in 1..=5 {
        server.enrol(&format!("device-{round}"), &["x"]).await;
        server.clock.advance(61);
        until("another file", async || {
            let there = lines(&path);
            let begins =
                matches!(there.first(), Some(AuditLine::Checkpoint(signed)) if signed.number > first);
            first = there.first().filter(|_| begins).map_or(first, |line| match line {
                AuditLine::Checkpoint(signed) => signed.number,
                AuditLine::Record(_) => 0,
            });
            begins.then_some(())
        })
        .await;
    }
    assert!(!numbered(&path, 3).exists(), "there are more than three");
    let (older, old, now) = (lines(&numbered(&path, 2)), lines(&numbered(&path, 1)), lines(&path));
    assert!(verify_part(&older, &server).first > 1, "the oldest are gone");
    verify_part(&old, &server);
    let all = [older, old, now].concat();
    let verified = verify_part(&all, &server);
    assert!(verified.signed >= first && verified.last == *rows(&all).last().unwrap());
    // A crash between one file and the next: it goes on from the one before.
    let (dir, clock, config) = server.stop().await;
    std::fs::remove_file(&path).unwrap();
    let server = Running::again(dir, clock, config).await;
    server.enrol("one-more", &["x"]).await;
    let last = last_row(&server).await;
    until("the last row", async || rows(&lines(&path)).contains(&last).then_some(())).await;
    verify_part(&[lines(&numbered(&path, 2)), lines(&numbered(&path, 1)), lines(&path)].concat(), &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_is_loud_holds_nobody_up_and_catches_up() {
    let outside = TempDir::new().unwrap();
    let dir = outside.path().join("not-there");
    let path = dir.join("audit.jsonl");
    let server = Running::with(Config { audit_file: Some(path.clone()), ..Config::default() }).await;
    let log = async || -> Vec<AuditRecord> { server.admin().get("/v1/audit").await.json() };
    let failed = until("a row that says so", async || {
        log().await.into_iter().find(|row| row.action == "audit-export-failed")
    })
    .await;
    assert_eq!(failed.actor, "authority");
    assert!(
        failed.subject.ends_with("not-there/audit.jsonl`: No such file or directory (os error 2)"),
        "{}",
        failed.subject
    );
    server.enrol("a", &["x"]).await;
    server.clock.advance(1);
    let seen = server.authority.metrics().await;
    assert!(!seen.contains("smqtt_authority_audit_export_failures_total{sink=\"file\"} 0"), "{seen}");
    assert!(server.authority.ready().await.iter().all(|(_, said)| said.is_ok()), "it is no reason to stop");
    std::fs::create_dir(&dir).unwrap();
    until("a row that says so", async || {
        log().await.into_iter().find(|row| row.action == "audit-export-resumed")
    })
    .await;
    let last = last_row(&server).await;
    until("all rows", async || (rows(&lines(&path)) == (1..=last).collect::<Vec<_>>()).then_some(())).await;
    // Once each, however often it was tried.
    let failures = log().await.iter().filter(|row| row.action.starts_with("audit-export")).count();
    assert_eq!(failures, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_again_and_again_does_not_fill_the_log_that_it_takes() {
    let outside = TempDir::new().unwrap();
    let (dir, away) = (outside.path().join("there"), outside.path().join("away"));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("audit.jsonl");
    let server = Running::with(Config { audit_file: Some(path.clone()), ..Config::default() }).await;
    let failures = async || {
        let seen = server.authority.metrics().await;
        let line = seen.lines().find_map(|line| {
            line.strip_prefix("smqtt_authority_audit_export_failures_total{sink=\"file\"} ")
        });
        line.and_then(|number| number.parse::<f64>().ok()).unwrap_or_default()
    };
    for round in 0..2 {
        let before = failures().await;
        std::fs::rename(&dir, &away).unwrap();
        server.enrol(&format!("device-{round}"), &["x"]).await;
        until("a failure", async || (failures().await > before).then_some(())).await;
        std::fs::rename(&away, &dir).unwrap();
        let last = last_row(&server).await;
        until("all rows", async || rows(&lines(&path)).contains(&last).then_some(())).await;
    }
    let log: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let noted: Vec<_> = log.iter().filter(|row| row.action.starts_with("audit-export")).collect();
    let actions: Vec<_> = noted.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["audit-export-failed", "audit-export-resumed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_does_not_have_is_not_forgotten() {
    let outside = TempDir::new().unwrap();
    let path = outside.path().join("not-there/audit.jsonl");
    let config = Config { audit_file: Some(path.clone()), audit_days: Some(1), ..Config::default() };
    let server = Running::with(config).await;
    server.enrol("a", &["x"]).await;
    let first =
        async || -> u64 { server.admin().get("/v1/audit").await.json::<Vec<AuditRecord>>()[0].number };
    for _ in 0..3 {
        server.clock.advance(2 * DAY);
        server.authority.housekeep().await.unwrap();
        // What was not signed is not forgotten anyway.
        server.clock.advance(61);
        server.authority.housekeep().await.unwrap();
    }
    assert_eq!(first().await, 1);
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    until("an export", async || rows(&lines(&path)).contains(&1).then_some(())).await;
    until("pruned rows", async || {
        server.clock.advance(2 * 3600);
        server.authority.housekeep().await.unwrap();
        (first().await > 1).then_some(())
    })
    .await;
    until("all rows", async || {
        let there = rows(&lines(&path));
        (there == (1..=there.len() as u64).collect::<Vec<_>>()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_log_is_put_aside() {
    let outside = TempDir::new().unwrap();
    let path = outside.path().join("audit.jsonl");
    let config = Config { audit_file: Some(path.clone()), ..Config::default() };
    let other = Running::with(config.clone()).await;
    other.enrol("a", &["x"]).await;
    let last = last_row(&other).await;
    until("all rows", async || rows(&lines(&path)).contains(&last).then_some(())).await;
    other.stop().await;
    let before = std::fs::read(&path).unwrap();
    let server = Running::with(config).await;
    server.enrol("b", &["x"]).await;
    let last = last_row(&server).await;
    until("its own rows", async || {
        let there = lines(&path);
        (rows(&there).contains(&last) && std::fs::read(&path).unwrap() != before).then_some(())
    })
    .await;
    verify(&lines(&path), &server);
    let aside = std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> = aside.filter(|file| file.to_string_lossy().contains("of-another-log")).collect();
    assert_eq!((aside.len(), std::fs::read(&aside[0]).unwrap()), (1, before));
    // What is no log at all is left alone, and is no reason to stop.
    let (dir, clock, config) = server.stop().await;
    let mut again = (dir, clock, config);
    for notes in ["my notes\n", "without an end", "my notes\nwithout an end"] {
        let (dir, clock, config) = again;
        std::fs::write(&path, notes).unwrap();
        let server = Running::again(dir, clock, config).await;
        let after = last_row(&server).await - 1;
        let failed = until("a row that says so", async || {
            let rows: Vec<AuditRecord> =
                server.admin().get(&format!("/v1/audit?after={}", after.saturating_sub(3))).await.json();
            rows.into_iter().rev().find(|row| row.action == "audit-export-failed")
        })
        .await;
        assert!(failed.subject.contains("move it away"), "{}", failed.subject);
        assert!(failed.subject.contains("audit.jsonl"), "{}", failed.subject);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
        again = server.stop().await;
    }
}

/// The line of a message to syslog.
fn line_of(message: &str) -> AuditLine {
    let (head, json) = message.split_once(" audit - ").unwrap();
    assert!(head.starts_with('<') && head.contains(">1 20") && head.contains(" smqtt-authority "), "{head}");
    serde_json::from_str(json).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_every_row_over_its_own_socket() {
    let outside = TempDir::new().unwrap();
    let path = outside.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut received = Vec::new();
    let mut receive = |socket: &UnixDatagram, upto: u64| {
        let mut buffer = [0; 64 << 10];
        while !rows(&received).contains(&upto) {
            let length = socket.recv(&mut buffer).unwrap();
            received.push(line_of(std::str::from_utf8(&buffer[..length]).unwrap()));
        }
        received.clone()
    };
    let config = Config { audit_syslog: Some(format!("unix:{}", path.display())), ..Config::default() };
    let server = Running::with(config).await;
    server.enrol("a", &["x"]).await;
    let last = last_row(&server).await;
    tokio::task::block_in_place(|| receive(&socket, last));
    let (dir, clock, config) = server.stop().await;
    // While nobody listens it grows; then it comes, and nothing comes twice.
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    let server = Running::again(dir, clock, config).await;
    server.enrol("b", &["x"]).await;
    until("a failure", async || {
        let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
        rows.iter()
            .any(|row| row.action == "audit-export-failed" && row.subject.starts_with("syslog: "))
            .then_some(())
    })
    .await;
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let last = last_row(&server).await;
    let all = tokio::task::block_in_place(|| receive(&socket, last));
    assert_eq!(rows(&all), (1..=rows(&all).len() as u64).collect::<Vec<_>>());
    verify(&all, &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_over_tcp_counts_its_frames() {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        Running::with(Config { audit_syslog: Some(format!("tcp:{address}")), ..Config::default() }).await;
    server.enrol("a", &["x"]).await;
    let last = last_row(&server).await;
    let received = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut received = Vec::new();
        while !rows(&received).contains(&last) {
            let mut length = 0;
            loop {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                match byte[0] {
                    b' ' => break,
                    digit => length = length * 10 + usize::from(digit - b'0'),
                }
            }
            let mut message = vec![0; length];
            stream.read_exact(&mut message).unwrap();
            received.push(line_of(std::str::from_utf8(&message).unwrap()));
        }
        received
    });
    let received = received.await.unwrap();
    assert_eq!(rows(&received), (1..=last).collect::<Vec<_>>());
    verify(&received, &server);
}
