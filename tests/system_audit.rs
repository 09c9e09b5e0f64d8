//! `smqtt audit`, `smqtt access` and `--as`, as people type them.

mod common;

use std::path::Path;

use common::process::{Ended, Running, run};
use common::site::smqtt;
use common::{DEADLINE, TempDir, authority, until};
use smqtt_core::api::AuditLine;
use smqtt_core::audit::chain;
use smqtt_core::identity::Fingerprint;

/// Runs a command of the administrator's, or one that says as whom.
fn ask(home: &Path, arguments: &[&str]) -> Ended {
    run(smqtt(home).env("SMQTT_DATA", home.join("site")).args(arguments), b"")
}

fn enrol(home: &Path, name: &str, arguments: &[&str]) {
    let token = ask(home, &[&["token", "new", name], arguments].concat()).success();
    run(smqtt(home).args(["enrol", "--dir", name]), token.lines().last().unwrap().as_bytes()).success();
}

#[test]
fn the_log_is_listed_exported_and_verified() {
    let home = TempDir::new();
    let (_running, _) = authority::start(home.path(), "127.0.0.1:0");
    let ask = |arguments: &[&str]| ask(home.path(), arguments);
    enrol(home.path(), "lock", &["kind=lock"]);
    ask(&["device", "revoke", "lock"]).success();
    let listed = ask(&["audit", "list"]).success();
    let last = listed.lines().last().unwrap();
    assert!(last.contains("  revoke  lock "), "{listed}");
    let number: u64 = last.split(' ').next().unwrap().parse().unwrap();
    let rest = ask(&["audit", "list", "--after", &(number - 1).to_string(), "--json"]).success();
    let row: serde_json::Value = serde_json::from_str(rest.trim()).unwrap();
    assert_eq!((row["number"].as_u64(), row["action"].as_str()), (Some(number), Some("revoke")));

    ask(&["audit", "export", "audit.jsonl"]).success();
    let holds = ask(&["audit", "verify", "audit.jsonl"]).success();
    assert!(holds.contains(&format!("rows 1 to {number}")), "{holds}");
    // What is new is appended, and what there is is remembered.
    ask(&["audit", "verify", "--remember", "seen"]).success();
    ask(&["token", "new", "door"]).success();
    ask(&["audit", "export", "audit.jsonl"]).success();
    let json = ask(&["audit", "verify", "audit.jsonl", "--json", "--root", "site/admin/root.pem"]).success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["first"].as_u64(), json["last"].as_u64()), (Some(1), Some(number + 1)));
    assert_eq!(json["signed"].as_u64(), Some(number + 1), "what is exported was just signed");
    ask(&["audit", "verify", "audit.jsonl", "--remember", "seen"]).success();

    // An edit, a row that is gone, an end that is gone.
    let path = home.path().join("audit.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    let verify = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ask(&["audit", "verify", "audit.jsonl", "--remember", "seen"])
    };
    verify(&whole.replace("\"revoke\"", "\"resume\"")).failure(&["does not hold", "is not what was written"]);
    let lines: Vec<&str> = whole.lines().collect();
    let without: String =
        lines.iter().filter(|line| !line.contains("\"revoke\"")).map(|line| format!("{line}\n")).collect();
    verify(&without).failure(&["does not hold", "is missing"]);
    verify(&(lines[..3].join("\n") + "\n")).failure(&["does not hold"]);
    verify("no log\n").failure(&["line 1 of `audit.jsonl` is no part of an audit log"]);
    std::fs::write(home.path().join("none.pem"), "none").unwrap();
    ask(&["audit", "verify", "audit.jsonl", "--root", "none.pem"]).failure(&["none.pem"]);
}

/// Rows that somebody wrote for the authority, hashed as it hashes them, `ago` seconds old at most.
fn forged(exported: &str, ago: u64) -> String {
    let mut hash = [0; 32];
    let mut text = String::new();
    for line in exported.lines() {
        let AuditLine::Record(mut row) = serde_json::from_str(line).unwrap() else { continue };
        row.at = smqtt_client::system_now() - ago;
        row.subject = row.subject.replace("lock", "gate");
        hash = chain(&hash, row.number, row.at, &row.actor, &row.action, &row.subject);
        row.hash = Fingerprint(hash).to_string();
        text += &(serde_json::to_string(&AuditLine::Record(row)).unwrap() + "\n");
    }
    text
}

#[test]
fn a_log_whose_checkpoints_were_removed_does_not_hold() {
    let home = TempDir::new();
    let (_running, _) = authority::start(home.path(), "127.0.0.1:0");
    let ask = |arguments: &[&str]| ask(home.path(), arguments);
    enrol(home.path(), "lock", &["kind=lock"]);
    ask(&["audit", "export", "audit.jsonl"]).success();
    let path = home.path().join("audit.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    assert!(whole.lines().last().unwrap().contains("\"checkpoint\""), "{whole}");
    let verify = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ask(&["audit", "verify", "audit.jsonl"])
    };
    let rows = whole.lines().filter(|line| line.contains("\"record\"")).count();
    let all = format!("no signature of the authority covers rows 1 to {rows}");
    verify(&forged(&whole, 3600)).failure(&["does not hold", &all, "export again", "were removed"]);
    // Of rows that may be waiting for their signature it is said that they have none.
    let young = verify(&forged(&whole, 0)).success();
    assert!(young.contains(&format!("by its chain rows 1 to {rows} alone")), "{young}");
    verify("").failure(&["does not hold", "there is no row in it"]);
    assert!(!verify(&whole).success().contains("by its chain"));
}

#[test]
fn an_export_goes_on_after_half_a_line_and_beside_nobody() {
    let home = TempDir::new();
    let (_running, _) = authority::start(home.path(), "127.0.0.1:0");
    let ask = |arguments: &[&str]| ask(home.path(), arguments);
    ask(&["audit", "export", "audit.jsonl"]).success();
    let path = home.path().join("audit.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    // As a full disk leaves it: within the first line, within another, without the last one's end.
    for length in [1, 20, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        ask(&["audit", "export", "audit.jsonl"]).success();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole, "cut at {length}");
    }
    // What is no log is left as it is.
    for notes in ["my notes", "my notes\n", "{\"my\": 1}"] {
        std::fs::write(&path, notes).unwrap();
        ask(&["audit", "export", "audit.jsonl"])
            .failure(&["line 1 of `audit.jsonl` is no part of an audit log"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    }
    std::fs::write(&path, "").unwrap();
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    ask(&["audit", "export", "audit.jsonl"]).failure(&["another export is at work with `audit.jsonl`"]);
    drop(held);
    ask(&["audit", "export", "audit.jsonl"]).success();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
}

#[test]
fn what_the_authority_exports_is_verified_over_its_files() {
    let home = TempDir::new();
    let (data, config) = (home.path().join("site"), home.path().join("site.toml"));
    std::fs::write(&config, "[authority]\naudit_file = \"log/audit.jsonl\"\naudit_file_bytes_max = 100\n")
        .unwrap();
    std::fs::create_dir(home.path().join("log")).unwrap();
    let mut command = smqtt(home.path());
    command.args(["authority", "--listen", "127.0.0.1:0", "--data"]).arg(&data).arg("--config").arg(&config);
    let running = Running::spawn(&mut command);
    running.out.line("fingerprint");
    // The first checkpoint is signed at once: a file begins with it.
    until("another file", DEADLINE, || home.path().join("log/audit.jsonl.1").exists().then_some(()));
    enrol(home.path(), "lock", &["kind=lock"]);
    let ask = |arguments: &[&str]| ask(home.path(), arguments);
    let holds = until("the enrolment", DEADLINE, || {
        let text = std::fs::read_to_string(home.path().join("log/audit.jsonl")).unwrap();
        text.contains("\"enrol\"").then(|| ask(&["audit", "verify", "log/audit.jsonl"]))
    });
    assert!(holds.success().contains("rows 1 to "), "{}", holds.text());
    std::fs::remove_file(home.path().join("log/audit.jsonl.1")).unwrap();
    ask(&["audit", "verify", "log/audit.jsonl"]).failure(&["does not hold", "--part"]);
    ask(&["audit", "verify", "log/audit.jsonl", "--part"]).success();
}

#[test]
fn people_and_programs_do_what_they_may_and_no_more() {
    let home = TempDir::new();
    let (_running, _) = authority::start(home.path(), "127.0.0.1:0");
    let ask = |arguments: &[&str]| ask(home.path(), arguments);
    enrol(home.path(), "anna", &["--enroller"]);
    enrol(home.path(), "otto", &["--auditor"]);
    ask(&["token", "new", "door", "kind=door", "--as", "anna"]).success();
    ask(&["device", "list", "--as", "anna"]).success();
    ask(&["device", "revoke", "otto", "--as", "anna"]).failure(&["not allowed with the role `enroller`"]);
    ask(&["audit", "verify", "--as", "otto"]).success();
    ask(&["token", "new", "gate", "--as", "otto"]).failure(&["not allowed with the role `auditor`"]);
    ask(&["audit", "list", "--as", "nobody"]).failure(&["nobody"]);
    let listed = ask(&["audit", "list"]).success();
    assert!(listed.contains("refused revoke: role"), "{listed}");

    let made =
        ask(&["access", "new", "report", "--role", "auditor", "--ttl", "1h", "--operation", "read-audit"]);
    let token = made.success();
    assert!(token.trim().len() > 20 && !token.trim().contains(char::is_whitespace), "{token}");
    let access = ask(&["access", "list", "--json"]).success();
    assert!(access.contains("\"report\"") && !access.contains(token.trim()), "{access}");
    let row: serde_json::Value = serde_json::from_str(&access).unwrap();
    let id = row[0]["id"].as_str().unwrap_or_else(|| panic!("{access}"));
    ask(&["access", "remove", id]).success();
    assert!(!ask(&["access", "list"]).success().contains("report"));
    ask(&["access", "remove", id]).failure(&["there is no access token"]);
    ask(&["access", "new", "x", "--role", "auditor", "--ttl", "1h", "--operation", "no-such"])
        .failure(&["no-such"]);
}
