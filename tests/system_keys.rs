//! The authority's keys from the command line: what they are sealed under, backups, another root key.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use common::peers::is_there;
use common::process::{Ended, Running, run};
use common::site::{Site, Up, address, smqtt};
use common::{DEADLINE, TempDir, files_below, until};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};

const PASSPHRASE: &str = "correct horse battery staple";

/// An authority that was started once, and stopped.
fn made() -> TempDir {
    let home = TempDir::new();
    start(home.path(), &[]).0.end().success();
    home
}

/// Starts an authority and waits until it serves; gives its fingerprint.
fn start(home: &Path, arguments: &[&str]) -> (Running, String) {
    let mut command = smqtt(home);
    command.args(["authority", "--listen", "127.0.0.1:0", "--data", "site"]).args(arguments);
    let running = Running::spawn(command.arg("--until-stdin-ends"));
    let line = running.out.line("fingerprint");
    (running, line.split_whitespace().nth(1).unwrap().to_owned())
}

fn authority(home: &Path, arguments: &[&str], input: &str) -> Ended {
    run(smqtt(home).arg("authority").args(arguments).args(["--data", "site"]), input.as_bytes())
}

fn contains_anywhere(dir: &Path, secret: &str) -> bool {
    let mut files = files_below(dir).into_iter().map(|file| std::fs::read(file).unwrap());
    files.any(|bytes| common::contains(&bytes, secret.as_bytes()))
}

#[test]
fn a_passphrase_comes_from_standard_input_or_a_file_and_is_nowhere_to_be_found() {
    let home = made();
    let refused = authority(home.path(), &["seal", "--to", "passphrase"], "short\n");
    refused.failure(&["a passphrase has 12 to"]);
    let done = authority(home.path(), &["seal", "--to", "passphrase"], &format!("{PASSPHRASE}\n"));
    done.success();
    assert!(done.err.contains("sealed under: passphrase (before: file)"), "{}", done.err);
    assert!(!home.path().join("site/seal/seal.key").exists());
    let none = authority(home.path(), &["--listen", "127.0.0.1:0"], "");
    none.failure(&["sealed under a passphrase", "--passphrase-file"]);
    let wrong = authority(home.path(), &["--listen", "127.0.0.1:0"], "Correct horse battery staple\n");
    let text = wrong.failure(&["the passphrase is wrong"]);
    assert!(!text.contains("horse"));

    std::fs::write(home.path().join("pass"), format!("{PASSPHRASE}\n")).unwrap();
    std::fs::set_permissions(home.path().join("pass"), std::fs::Permissions::from_mode(0o644)).unwrap();
    authority(home.path(), &["--passphrase-file", "pass"], "").failure(&["others may use it"]);
    std::fs::set_permissions(home.path().join("pass"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (running, fingerprint) = start(home.path(), &["--passphrase-file", "pass"]);
    running.end().success();
    assert!(!contains_anywhere(&home.path().join("site"), "horse"));
    // The present passphrase, then the next: line by line.
    let lines = format!("{PASSPHRASE}\nanother one, just as long\n");
    authority(home.path(), &["seal", "--to", "passphrase"], &lines).success();
    let back = authority(home.path(), &["seal", "--to", "file", "--json"], "another one, just as long\n");
    assert_eq!(back.success().trim(), r#"{"from":"passphrase","to":"file"}"#);
    let (running, again) = start(home.path(), &[]);
    running.end().success();
    assert_eq!(fingerprint, again);
}

/// A terminal: the side of whoever types, and the program's.
fn terminal() -> (File, File) {
    let typed = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&typed).unwrap();
    rustix::pty::unlockpt(&typed).unwrap();
    let name = rustix::pty::ptsname(&typed, Vec::new()).unwrap().into_string().unwrap();
    let flags = OpenptFlags::NOCTTY.bits().cast_signed();
    let read = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
    (typed.into(), read)
}

/// A program at a terminal, which does not outlive the test.
struct Asking(Child);

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_terminal_shows_what_is_typed_again_after_a_passphrase_and_after_ctrl_c() {
    let home = made();
    let (mut typed, terminal) = terminal();
    let before = tcgetattr(&terminal).unwrap();
    let seal = || {
        let mut command = smqtt(home.path());
        command.args(["authority", "seal", "--to", "passphrase", "--data", "site"]);
        let mut child = command.stdin(terminal.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        let err = child.stderr.take().unwrap();
        (Asking(child), err)
    };
    let wait_prompt = |err: &mut ChildStderr, prompt: &str| {
        let mut text = Vec::new();
        while !common::contains(&text, prompt.as_bytes()) {
            let mut byte = [0];
            assert_eq!(err.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        assert!(!tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO));
    };
    let ended = |asking: &mut Asking| until("its end", DEADLINE, || asking.0.try_wait().unwrap());
    let is_as_before = || {
        let now = tcgetattr(&terminal).unwrap();
        assert_eq!(now.local_modes, before.local_modes);
        assert_eq!(now.special_codes[SpecialCodeIndex::VEOL], before.special_codes[SpecialCodeIndex::VEOL]);
    };
    let (mut child, mut err) = seal();
    wait_prompt(&mut err, "new passphrase: ");
    typed.write_all(b"correct ho\x03").unwrap();
    assert_eq!(ended(&mut child).code(), Some(130));
    is_as_before();
    assert!(home.path().join("site/seal/seal.key").exists(), "the seal is as it was");

    // Typed to the end, with a slip that was taken back.
    let (mut child, mut err) = seal();
    wait_prompt(&mut err, "new passphrase: ");
    typed.write_all(format!("x\x7f{PASSPHRASE}\n").as_bytes()).unwrap();
    wait_prompt(&mut err, "once more: ");
    typed.write_all(format!("{PASSPHRASE}\n").as_bytes()).unwrap();
    assert!(ended(&mut child).success());
    is_as_before();
    start(home.path(), &["--passphrase-file", &passphrase_file(home.path())]).0.end().success();
}

/// A file with the passphrase, for us alone.
fn passphrase_file(home: &Path) -> String {
    let path = home.join("pass");
    std::fs::write(&path, format!("{PASSPHRASE}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn shares_go_out_as_files_or_lines_and_come_back_one_by_one() {
    let home = made();
    let seal = ["seal", "--to", "shares", "--threshold", "2", "--count", "3", "--out", "shares"];
    authority(home.path(), &seal, "").success();
    let share = |n: u8| home.path().join(format!("shares/share-{n}.txt"));
    assert_eq!(std::fs::metadata(share(1)).unwrap().permissions().mode() & 0o777, 0o600);
    let (running, _) =
        start(home.path(), &["--share", "shares/share-3.txt", "--share", "shares/share-1.txt"]);
    running.end().success();
    let text = |n| std::fs::read_to_string(share(n)).unwrap();
    // New ones are not written over those that still open it, whatever ends the change.
    let before = text(1);
    let mut over = seal.to_vec();
    over.extend(["--share", "shares/share-1.txt", "--share", "shares/share-2.txt"]);
    authority(home.path(), &over, "").failure(&["is there already", "the seal is as it was"]);
    assert_eq!(text(1), before);
    let twice = authority(home.path(), &["--listen", "127.0.0.1:0"], &(text(2) + &text(2)));
    twice.failure(&["share 2 was given already"]);
    let short = authority(home.path(), &["--listen", "127.0.0.1:0", "--share", "shares/share-1.txt"], "");
    short.failure(&["sealed under 2 shares, and 1 were given"]);
    // One from a file, one from standard input; new ones are printed.
    let again =
        ["seal", "--to", "shares", "--threshold", "2", "--count", "2", "--share", "shares/share-1.txt"];
    let printed = authority(home.path(), &again, &text(3)).success();
    assert_eq!(printed.lines().filter(|line| line.starts_with("smqtt-share1.")).count(), 2, "{printed}");
    let old = authority(home.path(), &["--share", "shares/share-1.txt"], "");
    old.failure(&["of the set", "this store is sealed under the set"]);
    authority(home.path(), &["seal", "--to", "file"], &printed).success();
}

#[test]
fn commands_of_root_leave_nothing_that_the_service_cannot_use() {
    let home = made();
    let site = home.path().join("site");
    let theirs = |path: &Path| std::fs::metadata(path).unwrap().uid() == 4711;
    if std::os::unix::fs::chown(&site, Some(4711), Some(4711)).is_err() {
        return common::skipped("root's commands in a service's directory: needs root");
    }
    for path in files_below(&site) {
        for path in path.ancestors().take_while(|path| *path != site) {
            std::os::unix::fs::chown(path, Some(4711), Some(4711)).unwrap();
        }
    }
    let key =
        run(smqtt(home.path()).args(["authority", "recovery-key", "new", "recovery.key"]), b"").success();
    authority(home.path(), &["recovery-key", "trust", key.trim()], "").success();
    authority(home.path(), &["seal", "--to", "passphrase"], &format!("{PASSPHRASE}\n")).success();
    authority(home.path(), &["seal", "--to", "file"], &format!("{PASSPHRASE}\n")).success();
    let files = files_below(&site);
    assert!(files.contains(&site.join("seal/seal.key")), "{files:?}");
    assert!(files.iter().any(|file| file.starts_with(site.join("recovery"))), "{files:?}");
    let roots: Vec<_> =
        files.iter().filter(|file| !theirs(file) || !theirs(file.parent().unwrap())).collect();
    assert!(roots.is_empty(), "{roots:?}");
}

#[test]
fn the_log_says_which_file_a_backup_could_not_use_and_why() {
    let home = made();
    std::fs::write(home.path().join("site/recovery"), "no directory").unwrap();
    let (running, _) = start(home.path(), &[]);
    let backup = authority(home.path(), &["backup", "--out", "site.backup"], "");
    backup.failure(&["the authority's files cannot be used"]);
    let line = running.err.line("a request failed");
    assert!(line.contains("site/recovery`: Not a directory (os error 20)"), "{line}");
}

/// The same command again and again, killed at its first write to the disk, its second, and so on, until it comes to its end.
/// `strace` kills it: without it nothing is shown.
fn killed_at_each_step(mut run: impl FnMut(&mut std::process::Command) -> bool, mut look: impl FnMut(u32)) {
    if !is_there("strace") {
        return common::skipped("without strace nothing is killed between two writes");
    }
    for step in 1.. {
        let calls = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate";
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:signal=KILL:when={step}")]);
        let done = run(&mut command);
        look(step);
        if done {
            assert!(step > 4, "killed {} times", step - 1);
            return;
        }
        assert!(step < 100, "it comes to no end");
    }
}

#[test]
fn a_seal_whose_change_is_killed_is_the_old_one_or_the_new_one() {
    for to_passphrase in [false, true] {
        let home = made();
        let (arguments, input) = match to_passphrase {
            true => (["--to", "passphrase"], format!("{PASSPHRASE}\n{PASSPHRASE}\n")),
            false => (["--to", "file"], format!("{PASSPHRASE}\n")),
        };
        if !to_passphrase {
            authority(home.path(), &["seal", "--to", "passphrase"], &format!("{PASSPHRASE}\n")).success();
        }
        let change = |strace: &mut std::process::Command| {
            strace.arg(common::site::SMQTT).args(["authority", "seal"]).args(arguments);
            strace.args(["--data", "site"]).env("HOME", home.path()).current_dir(home.path());
            run(strace, input.as_bytes()).status.success()
        };
        killed_at_each_step(change, |step| {
            // By itself, or with the passphrase: nothing else, and always one of them.
            let opened = authority(home.path(), &["seal", "--to", "file"], &format!("{PASSPHRASE}\n"));
            assert!(opened.status.success(), "killed at step {step}: {}", opened.err);
            let (running, _) = start(home.path(), &[]);
            running.end().success();
            if !to_passphrase {
                // To begin the next from where the first did.
                let input = format!("{PASSPHRASE}\n");
                authority(home.path(), &["seal", "--to", "passphrase"], &input).success();
            }
        });
    }
}

#[test]
fn a_credential_is_what_systemd_gives() {
    let home = made();
    std::fs::create_dir(home.path().join("credentials")).unwrap();
    authority(home.path(), &["seal", "--to", "credential"], "").failure(&["not among those of this process"]);
    std::fs::write(home.path().join("credentials/smqtt-seal"), [7; 32]).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = smqtt(home.path());
        command.arg("authority").args(arguments).args(["--data", "site"]);
        command.env("CREDENTIALS_DIRECTORY", home.path().join("credentials"));
        run(&mut command, b"")
    };
    with(&["seal", "--to", "credential"]).success();
    authority(home.path(), &["--listen", "127.0.0.1:0"], "")
        .failure(&["smqtt-seal", "LoadCredentialEncrypted"]);
    with(&["seal", "--to", "file"]).success();
    start(home.path(), &[]).0.end().success();
}

#[test]
fn a_site_comes_back_from_a_backup_and_the_revoked_stay_out() {
    let site = Site::start();
    let nurse = site.enrol("nurse", &["role=nurse"]);
    site.enrol("thief", &["role=nurse"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    site.run(&["authority", "backup", "--out", "x"]).failure(&["no recovery key", "recovery-key trust"]);
    let public = site.run(&["authority", "recovery-key", "new", "recovery.key"]).success();
    site.run(&["authority", "recovery-key", "new", "recovery.key"]).failure(&["cannot write `recovery.key`"]);
    let backup = ["authority", "backup", "--to", public.trim(), "--out", "site.backup"];
    let made = site.run(&backup).success();
    assert!(made.contains("opened again and read"), "{made}");
    site.run(&backup).failure(&["there already"]);
    site.run(&["device", "revoke", "thief"]).success();
    site.run(&["authority", "rotate", "root-key"]).success();
    let (data, home) = (site.data(), site.home.path().to_owned());
    let Site { up, home: kept } = site;
    let ports = ["--authority", address(&up.authority), "--broker", address(&up.broker)].map(str::to_owned);
    up.running.signal("INT");
    up.running.end().success();

    let restore = |arguments: &[&str]| {
        let mut command = smqtt(&home);
        command.args(["authority", "restore", "site.backup", "--key", "recovery.key", "--data", "new/"]);
        run(command.args(arguments), b"")
    };
    restore(&[]).failure(&["who was revoked since", "--journal-lost"]);
    // What somebody keeps where drills take place stays, also if it looks like an authority.
    let drills = home.join("new.drill");
    std::fs::create_dir_all(drills.join("authority")).unwrap();
    std::fs::write(drills.join("authority/authority.db"), "of somebody").unwrap();
    restore(&["--check"]).failure(&["new.drill` is not empty"]);
    assert_eq!(std::fs::read(drills.join("authority/authority.db")).unwrap(), b"of somebody");
    // What a drill left that was killed goes with the next.
    std::fs::write(drills.join("drill.lock"), "").unwrap();
    std::fs::rename(drills.join("authority"), drills.join("data")).unwrap();
    let drill = restore(&["--check"]).success();
    assert!(drill.contains("a drill: nothing was kept") && !home.join("new").exists(), "{drill}");
    assert!(!drills.exists());
    let lost = restore(&["--journal-lost"]);
    lost.success();
    assert!(lost.err.contains("THE JOURNAL IS LOST") && lost.err.contains("device revoke"), "{}", lost.err);
    restore(&["--journal-lost"]).failure(&["is not empty"]);
    std::fs::remove_dir_all(home.join("new")).unwrap();
    let done = restore(&["--journal", "site/revocations/journal"]).success();
    assert!(done.contains("shut out     thief"), "{done}");

    // The broker's keyring and the devices' are as they were; the authority is another.
    for dir in ["authority", "seal", "admin", "revocations"] {
        std::fs::remove_dir_all(data.join(dir)).unwrap();
        std::fs::rename(home.join("new").join(dir), data.join(dir)).unwrap();
    }
    let up = Up::start(&home, &data, &ports.each_ref().map(String::as_str));
    let site = Site { up, home: kept };
    assert!(site.run(&["device", "show", "thief"]).success().contains("revoked"));
    // Whoever has seen newer bundles than the backup's believes the new ones.
    let sent = site.run_as(&nurse, &["publish", "--topic", "a/b", "--message", "hello"], b"");
    sent.success();
}

#[test]
fn a_master_secret_key_is_rotated_under_readers_and_publishers_that_run() {
    let site = Site::start();
    let [sensor, nurse, sleeper] =
        ["sensor", "nurse", "sleeper"].map(|name| site.enrol(name, &["role=nurse"]));
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    let reader = site.subscribe(&nurse, "a/+", &[]);
    let say = |message: &str, arguments: &[&str]| {
        site.publish(&sensor, "a/b", message, arguments).success();
        reader.out.line(message);
    };
    say("before", &["--retain"]);
    let rotate = |arguments: &[&str]| {
        let done = site.run(&[&["authority", "rotate", "master", "--json"], arguments].concat());
        let done: serde_json::Value = serde_json::from_str(&done.success()).unwrap();
        site.wait_bundle(done["bundle"].as_u64().unwrap());
        done["params"].as_array().unwrap().clone()
    };
    let both = rotate(&["prepare"]);
    assert_eq!(both.len(), 2);
    say("prepared", &[]);
    site.run(&["authority", "rotate", "master", "activate"]).failure(&["not before epoch 2", "force"]);
    site.run(&["epoch", "rotate"]).success();
    let turned = rotate(&["activate"]);
    assert_eq!((&turned[0], &turned[1]), (&both[1], &both[0]));
    say("activated", &[]);
    // Whoever slept through it reads what was kept from before, and what comes.
    let late = site.subscribe(&sleeper, "a/+", &[]);
    late.out.line("before");
    say("both read", &[]);
    late.out.line("both read");
    site.run(&["authority", "rotate", "master", "retire"]).failure(&["not before epoch"]);
    assert_eq!(rotate(&["retire", "--force"]), both[1..]);
    say("retired", &[]);
    late.out.line("retired");
}
