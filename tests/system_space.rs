//! An authority whose disk is full, nearly full, or not to be written. Small disks are mounted in a namespace of the process's
//! own, which takes `unshare` and leave to use it.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::process::{Ended, Running, run};
use common::site::{SMQTT, smqtt};
use common::{DEADLINE, TempDir, skipped, until};

/// Whether this machine lets us mount in a namespace of our own.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    let may = tried.is_ok_and(|tried| tried.status.success());
    if !may {
        skipped("a full disk and one that cannot be written: needs `unshare -rm`");
    }
    may
}

/// `script` in a mount namespace of its own, with the program as `$0`.
fn mounted(home: &Path, script: &str, arguments: &[&Path]) -> Command {
    let mut command = smqtt(home);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new("unshare");
    command.args(["-rm", "sh", "-ec", script, SMQTT]).args(arguments).current_dir(home);
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn ask(home: &Path, data: &Path, arguments: &[&str]) -> Ended {
    run(smqtt(home).env("SMQTT_DATA", data).args(arguments), b"")
}

#[test]
fn a_nearly_full_disk_is_said_to_be_one_and_devices_can_be_revoked() {
    let home = TempDir::new();
    let (data, config) = (home.path().join("data"), home.path().join("site.toml"));
    let start = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let mut command = smqtt(home.path());
        command
            .args(["authority", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .arg("--config")
            .arg(&config);
        let running = Running::spawn(&mut command);
        running.out.line("fingerprint");
        running
    };
    let running = start("");
    let token = ask(home.path(), &data, &["token", "new", "lock", "kind=lock"]).success();
    run(smqtt(home.path()).args(["enrol", "--dir", "lock"]), token.as_bytes()).success();
    drop(running);
    // More than any disk has.
    let running = start("[authority]\nfree_bytes_min = 1000000000000000000\n");
    running.err.line("LOW SPACE");
    ask(home.path(), &data, &["token", "new", "door"]).failure(&["nearly full", "make room on the disk"]);
    ask(home.path(), &data, &["device", "list"]).success();
    ask(home.path(), &data, &["device", "revoke", "lock"]).success();
    let doctor = ask(home.path(), &data, &["doctor"]);
    assert!(doctor.text().contains("FAIL  ready"), "{}", doctor.text());
    drop(running);
    run(
        smqtt(home.path()).arg("authority").arg("--data").arg(&data).arg("--config").arg({
            std::fs::write(&config, "[authority]\nfree_bytes_min = 1\n").unwrap();
            &config
        }),
        b"",
    )
    .failure(&["`free_bytes_revoke_min` is 8388608, more than `free_bytes_min`"]);
}

#[test]
fn a_full_disk_loses_nothing_and_is_forgotten_when_there_is_room() {
    if !may_mount() {
        return;
    }
    let home = TempDir::new();
    let (disk, config) = (home.path().join("disk"), home.path().join("site.toml"));
    std::fs::create_dir(&disk).unwrap();
    // So that it finds out by itself.
    std::fs::write(&config, "[authority]\nfree_bytes_min = 0\n").unwrap();
    let script = r#"mount -t tmpfs -o size=4m,mode=0700 tmpfs "$1"
        exec "$0" authority --listen 127.0.0.1:0 --data "$1/data" --config "$2""#;
    let running = Running::spawn(&mut mounted(home.path(), script, &[&disk, &config]));
    running.out.line("fingerprint");
    // The disk as the process sees it.
    let seen = PathBuf::from(format!("/proc/{}/root{}", running.pid(), disk.display()));
    let (data, filler) = (seen.join("data"), seen.join("filler"));
    let ask = |arguments: &[&str]| ask(home.path(), &data, arguments);
    let token = |name: &str| ask(&["token", "new", name]);
    let mut acknowledged = Vec::new();
    let mut make = |name: String| {
        token(&name).success();
        acknowledged.push(name);
    };
    (0..5).for_each(|number| make(format!("before-{number}")));
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    drop(file);
    let full = until("a token that cannot be written", DEADLINE, || {
        let name = format!("meanwhile-{}", acknowledged.len());
        let ended = token(&name);
        if ended.status.success() {
            acknowledged.push(name);
            return None;
        }
        Some(ended)
    });
    full.failure(&["the store failed", "nothing was changed"]);
    running.err.line("the store lost a batch");
    ask(&["token", "list"]).success();
    ask(&["audit", "verify"]).success();
    std::fs::remove_file(&filler).unwrap();
    until("a token again", DEADLINE, || token("after").status.success().then_some(()));
    acknowledged.push("after".into());
    let listed = ask(&["token", "list"]).success();
    for name in &acknowledged {
        assert!(listed.contains(name.as_str()), "{name} is lost: {listed}");
    }
    ask(&["audit", "verify"]).success();
}

#[test]
fn what_cannot_be_written_stops_the_start_and_the_message_says_what_to_do() {
    if !may_mount() {
        return;
    }
    let home = TempDir::new();
    let data = home.path().join("data");
    let mut command = smqtt(home.path());
    let running = Running::spawn(command.args(["authority", "--listen", "127.0.0.1:0", "--data"]).arg(&data));
    running.out.line("fingerprint");
    drop(running);
    let script = r#"mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"
        exec "$0" authority --listen 127.0.0.1:0 --data "$1""#;
    for name in ["authority", "seal", "revocations", "admin"] {
        let dir = data.join(name);
        let ended = run(&mut mounted(home.path(), script, &[&data, &dir]), b"");
        ended.failure(&[
            "cannot write",
            name,
            "Read-only file system",
            "check owner, permissions and free space",
        ]);
    }
}
