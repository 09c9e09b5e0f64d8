//! Starting, stopping and configuring authority and broker.

mod common;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::process::{Running, is_alive, run, signal};
use common::site::{Device, Site, Up, address, smqtt};
use common::{DEADLINE, TempDir, files_below, until};
use smqtt_core::token::Token;

fn up_fails(home: &TempDir, arguments: &[&str]) -> common::process::Ended {
    run(smqtt(home.path()).arg("up").args(arguments), b"")
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    // A file that is being replaced may be gone again.
    files_below(dir).into_iter().filter_map(|file| Some((file.clone(), std::fs::read(file).ok()?))).collect()
}

/// Whether nobody listens there any more.
fn is_refused(url: &str) -> bool {
    TcpStream::connect(address(url)).is_err()
}

#[test]
fn the_first_start_sets_up_and_the_second_changes_nothing() {
    let home = TempDir::new();
    let data = home.path().join("site");
    let free = ["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"];
    let first = Up::start(home.path(), &data, &free);
    assert_eq!(first.state, "set up");
    let site = Site { up: first, home };
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    let rules = site.run(&["rule", "list"]).success();
    let devices = site.run(&["device", "list"]).success();
    let Site { up: first, home } = site;
    let ports =
        ["--authority", address(&first.authority), "--broker", address(&first.broker)].map(str::to_owned);
    let fingerprint = first.fingerprint.clone();
    first.running.signal("INT");
    first.running.end().success();
    let kept = ["seal", "admin", "broker"].map(|dir| contents(&data.join(dir)));

    let second = Up::start(home.path(), &data, &ports.each_ref().map(String::as_str));
    assert_eq!((second.state.as_str(), &second.fingerprint), ("opened", &fingerprint));
    let now = ["seal", "admin", "broker"].map(|dir| contents(&data.join(dir)));
    assert_eq!(kept[0], now[0], "the seal key");
    assert_eq!(kept[1], now[1], "the administrator's certificate");
    let own = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
        // The broker may have fetched a bundle meanwhile, it writes down when it heard of whom, and its store is a living
        // thing; who it is stays.
        let alive = ["bundle.cose", "contact", "directory.json", "state/state.redb"];
        files
            .iter()
            .filter(|(path, _)| !alive.iter().any(|name| path.ends_with(name)))
            // What is being written is about to be one of these.
            .filter(|(path, _)| {
                !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            })
            .map(|(p, b)| (p.clone(), b.clone()))
            .collect()
    };
    assert_eq!(own(&kept[2]), own(&now[2]), "the broker's keyring");
    let site = Site { up: second, home };
    assert_eq!(site.run(&["rule", "list"]).success(), rules);
    assert_eq!(site.run(&["device", "list"]).success(), devices);
    // What was enrolled before works on, under the same parameters.
    let before = std::fs::read(nurse.dir.join("params.json")).unwrap();
    let other = site.enrol("nurse-2", &["role=nurse"]);
    assert_eq!(std::fs::read(other.dir.join("params.json")).unwrap(), before);
    let reader = site.subscribe(&nurse, "a/+", &[]);
    site.publish(&other, "a/1", "hello", &[]).success();
    assert_eq!(reader.out.first_lines(1), ["a/1 nurse-2 hello"]);
}

#[test]
fn nobody_else_can_read_what_it_writes() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    site.publish(&nurse, "a/1", "hello", &[]).success();
    let mut found = 0;
    let mut check = |path: &Path| {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{} has mode {mode:o}", path.display());
        found += 1;
    };
    for dir in [site.data(), nurse.dir.clone()] {
        check(&dir);
        let files = files_below(&dir);
        files.iter().for_each(|file| check(file));
        let parents = files.iter().filter_map(|file| file.parent()).filter(|parent| *parent != dir);
        parents.for_each(&mut check);
    }
    assert!(found > 20, "{found} files and directories");
}

#[test]
fn ctrl_c_ends_both_processes_and_says_goodbye_to_clients() {
    for name in ["INT", "TERM"] {
        let site = Site::start();
        let nurse = site.enrol("nurse-1", &["role=nurse"]);
        let reader = site.subscribe(&nurse, "a/+", &[]);
        let broker = site.up.broker_pid();
        let urls = [site.up.authority.clone(), site.up.broker.clone(), site.up.plain.clone().unwrap()];
        assert!(urls.iter().all(|url| !is_refused(url)));
        site.up.running.signal(name);
        reader.err.line("ServerShuttingDown");
        let Site { up, home: _home } = site;
        let ended = up.running.end();
        ended.success();
        assert!(!ended.err.contains("panicked") && !ended.err.contains("error:"), "{}", ended.err);
        assert!(!is_alive(broker), "SIG{name}: the broker lives on");
        urls.iter().for_each(|url| assert!(is_refused(url), "SIG{name}: somebody listens at {url}"));
    }
}

#[test]
fn a_broker_does_not_outlive_an_authority_that_is_killed() {
    let mut site = Site::start();
    let broker = site.up.broker_pid();
    site.up.running.kill();
    until("the broker's end", DEADLINE, || (!is_alive(broker)).then_some(()));
    assert!(is_refused(&site.up.broker));
}

#[test]
fn an_authority_does_not_go_on_without_its_broker() {
    let site = Site::start();
    signal(site.up.broker_pid(), "KILL");
    let Site { up, home: _home } = site;
    let url = up.authority.clone();
    up.running.end().failure(&["the broker ended by itself: signal: 9", "hint: "]);
    assert!(is_refused(&url));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let home = TempDir::new();
    let data = home.path().join("site").display().to_string();
    let listens = format!("cannot listen on {port}");
    let authority = ["--data", &data, "--authority", &port, "--broker", free];
    up_fails(&home, &authority).failure(&[&listens, "hint: another program listens there"]);
    // That the authority comes up first is no reason to leave it behind.
    let broker = ["--data", &data, "--authority", free, "--broker", &port];
    up_fails(&home, &broker).failure(&[&listens, "the broker did not start"]);
    let plain = ["--data", &data, "--authority", free, "--broker", free, "--plain", &port];
    up_fails(&home, &plain).failure(&[&listens, "the broker did not start"]);
    // And none of it is in the way of the next start.
    Up::start(home.path(), Path::new(&data), &["--authority", free, "--broker", free]);
}

#[test]
fn two_authorities_do_not_share_a_directory() {
    let site = Site::start();
    let data = site.data().display().to_string();
    let second =
        up_fails(&site.home, &["--data", &data, "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"]);
    second.failure(&["another authority uses", "hint: "]);
    site.run(&["device", "list"]).success();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let home = TempDir::new();
    let file = home.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    for data in [file.join("site"), PathBuf::from("/dev/null/site")] {
        let data = data.display().to_string();
        for command in [
            &["up", "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"][..],
            &["authority", "--listen", "127.0.0.1:0"],
        ] {
            let ended = run(smqtt(home.path()).args(command).args(["--data", &data]), b"");
            ended.failure(&["cannot ", &data, "hint: "]);
        }
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "no directory");
}

#[test]
fn configuration_is_taken_from_a_file_and_unknown_keys_are_refused() {
    let home = TempDir::new();
    let file = home.path().join("smqtt.toml");
    let path = file.display().to_string();
    let refused = [
        ("epoch_secs = 5\n", "epoch_secs"),
        ("[authority]\nepoch_secs = 5\n", "epoch_secs"),
        ("[broker]\nport = 5\n", "port"),
        ("[authority.limits]\ntimeout = 5\n", "timeout"),
        ("[authority]\nlisten = \"here\"\n", "listen"),
        ("[authority]\nlisten = \"127.0.0.1:0\"\nepoch_seconds = 0\n", "epoch_seconds"),
        ("not toml", "not"),
    ];
    for (text, name) in refused {
        std::fs::write(&file, text).unwrap();
        for command in ["up", "authority"] {
            let ended = run(smqtt(home.path()).args([command, "--config", &path]), b"");
            ended.failure(&[name]);
        }
    }
    up_fails(&home, &["--config", "/nowhere/smqtt.toml"]).failure(&["/nowhere/smqtt.toml"]);

    // What it says holds; its directory is relative to the file.
    let text = "data = \"here\"\n[authority]\nlisten = \"127.0.0.1:0\"\nhistory_epochs = 2\n[broker]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(&file, text).unwrap();
    let elsewhere = TempDir::new();
    let running = Running::spawn(smqtt(elsewhere.path()).args(["up", "--config", &path]));
    running.out.line("smqtt subscribe");
    assert!(home.path().join("here/authority").is_dir());
    let listed = run(smqtt(elsewhere.path()).args(["device", "list", "--config", &path]), b"").success();
    assert!(listed.contains("broker  broker  active"), "{listed}");
}

#[test]
fn authority_and_broker_run_apart() {
    let home = TempDir::new();
    let (data, broker_dir) = (home.path().join("authority-site"), home.path().join("broker-site"));
    let authority = Running::spawn(
        smqtt(home.path()).args(["authority", "--listen", "127.0.0.1:0", "--data"]).arg(&data),
    );
    authority.out.line("fingerprint");
    let admin = |arguments: &[&str]| run(smqtt(home.path()).args(arguments).env("SMQTT_DATA", &data), b"");
    let token = admin(&["token", "new", "b1", "--broker", "--host", "localhost"]).success();
    run(smqtt(home.path()).args(["enrol", "--dir"]).arg(&broker_dir), token.as_bytes()).success();
    let start = || {
        let mut command = smqtt(home.path());
        let running =
            Running::spawn(command.args(["broker", "--listen", "127.0.0.1:0", "--dir"]).arg(&broker_dir));
        let url = running.out.line("mqtts://").split_whitespace().last().unwrap().to_owned();
        (running, url)
    };
    let (broker, url) = start();
    // The authority never learnt of it: devices are told.
    let url = url.replace("127.0.0.1", "localhost");
    let enrol = |name: &str, attribute: &str| {
        let token = admin(&["token", "new", name, attribute]).success();
        let device = Device { name: name.into(), dir: home.path().join(name) };
        let told =
            run(smqtt(home.path()).args(["enrol", "--dir"]).arg(&device.dir), token.as_bytes()).success();
        assert!(told.contains("broker       not known to the authority"), "{told}");
        device
    };
    let (nurse, sensor) = (enrol("nurse-1", "role=nurse"), enrol("sensor-1", "kind=sensor"));
    admin(&["rule", "set", "a/+", "--policy", "role=nurse"]).success();
    broker.err.line("took a newer bundle");
    let device = |device: &Device, arguments: &[&str]| {
        let mut command = smqtt(home.path());
        command.args(arguments).env("SMQTT_DIR", &device.dir);
        command
    };
    run(&mut device(&sensor, &["publish", "-t", "a/1", "-m", "x"]), b"").failure(&["no broker", "--broker"]);
    let reader = Running::spawn(&mut device(&nurse, &["subscribe", "-t", "a/+", "--broker", &url]));
    reader.err.line("subscribed to");
    run(&mut device(&sensor, &["publish", "-t", "a/1", "-m", "hello", "--broker", &url]), b"").success();
    assert_eq!(reader.out.first_lines(1), ["a/1 sensor-1 hello"]);
    // A device's keyring makes no broker, nor does an empty directory.
    let mut wrong = smqtt(home.path());
    run(wrong.args(["broker", "--listen", "127.0.0.1:0", "--dir"]).arg(&nurse.dir), b"")
        .failure(&["is a device's keyring", "--broker"]);
    let mut empty = smqtt(home.path());
    run(empty.args(["broker", "--listen", "127.0.0.1:0", "--dir", "nothing"]), b"")
        .failure(&["no enrolled device in `nothing`"]);
    // The broker goes on while the authority is away, also after a start of its own.
    authority.signal("INT");
    authority.end().success();
    broker.signal("INT");
    broker.end().success();
    reader.err.line("broker away");
    let (_broker, url) = start();
    let reader = Running::spawn(&mut device(&nurse, &["subscribe", "-t", "a/+", "--broker", &url]));
    reader.err.line("subscribed to");
    let sent = run(&mut device(&sensor, &["publish", "-t", "a/1", "-m", "again", "--broker", &url]), b"");
    sent.success();
    assert!(sent.err.contains("going on without the authority"), "{}", sent.err);
    assert_eq!(reader.out.first_lines(1), ["a/1 sensor-1 again"]);
}

#[test]
fn an_open_broker_is_an_ordinary_one() {
    let home = TempDir::new();
    let mut command = smqtt(home.path());
    let broker = Running::spawn(command.args(["broker", "--plain", "127.0.0.1:0", "--open"]));
    let url = broker.out.line("mqtt://").split_whitespace().last().unwrap().to_owned();
    if common::peers::is_there("mosquitto_sub") {
        let port = common::site::port(&url);
        let options = ["-h", "127.0.0.1", "-p", port].map(str::to_owned);
        let publish = |arguments: &[&str]| {
            let mut command = std::process::Command::new("mosquitto_pub");
            run(command.args(&options).args(arguments), b"").success();
        };
        publish(&["-t", common::peers::READY, "-m", "on", "-r", "-q", "1"]);
        let watcher = common::peers::Watcher::mosquitto(&options, "5", "any/#");
        publish(&["-t", "any/thing", "-m", "plain", "-q", "1"]);
        assert_eq!(watcher.messages(1), [("any/thing".to_owned(), b"plain".to_vec())]);
    }
    broker.signal("INT");
    broker.end().success();
    assert!(files_below(home.path()).is_empty(), "it writes nothing");
    // Without TLS is for this machine alone, and no identities must be meant.
    let beyond = run(smqtt(home.path()).args(["broker", "--plain", "0.0.0.0:0", "--open"]), b"");
    beyond.failure(&["0.0.0.0:0 is not a loopback address", "hint: "]);
    let unasked = run(smqtt(home.path()).args(["broker", "--plain", "127.0.0.1:0"]), b"");
    unasked.failure(&["no enrolled device", "hint: "]);
    let usage = run(smqtt(home.path()).args(["broker", "--open"]), b"");
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

#[test]
fn a_token_is_a_line_of_its_own_and_never_an_argument() {
    let site = Site::start();
    let made = site.run(&["token", "new", "nurse-1", "role=nurse", "ward=3"]);
    let printed = made.success();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(Token::parse(printed.trim()).is_ok());
    assert!(made.err.contains("good for one enrolment until"), "{}", made.err);
    // As an argument it would show in every list of processes.
    let nurse = site.device("nurse-1");
    let argument = site.run_as(&nurse, &["enrol", printed.trim()], b"");
    assert_eq!(argument.status.code(), Some(2), "{argument:?}");
    let option = site.run_as(&nurse, &["enrol", "--token", printed.trim()], b"");
    assert_eq!(option.status.code(), Some(2), "{option:?}");
    // From a file; a line before it, as people save what they see, does no harm.
    let file = site.home.path().join("token");
    std::fs::write(&file, format!("token for nurse-1:\n{printed}\n")).unwrap();
    let told = site.run_as(&nurse, &["enrol", "--token-file", &file.display().to_string()], b"").success();
    assert!(told.contains("enrolled     nurse-1 (") && told.contains(&site.up.broker), "{told}");
    site.run_as(&nurse, &["enrol", "--token-file", "/nowhere/token"], b"").failure(&["/nowhere/token"]);
    // Nothing said, nothing given.
    site.run_as(&site.device("nobody"), &["enrol"], b"").failure(&["not an enrolment token", "hint: "]);
    // The log says that there was a token, and never which.
    let log = site.up.running.err.text();
    assert!(log.contains("made a token") && !log.contains("smqtt1."), "{log}");
}

#[test]
fn what_an_administrator_gets_wrong_is_said_in_place() {
    let site = Site::start();
    site.run(&["token", "new", "nurse-1", "=nurse"]).failure(&["=nurse"]);
    site.run(&["token", "new", "nurse 1\n", "role=nurse"]).failure(&["name"]);
    site.run(&["token", "new", "broker", "--broker"]).failure(&["the name `broker` is taken"]);
    site.run(&["token", "new", "b", "--broker", "--host", "https://b"]).failure(&["https://b"]);
    site.run(&["device", "show", "nobody"]).failure(&["there is no device `nobody`"]);
    site.run(&["device", "revoke", "nobody"]).failure(&["there is no device `nobody`"]);
    site.run(&["rule", "remove", "a/+"]).failure(&["there is no rule for `a/+`"]);
    site.run(&["rule", "set", "a/#/b", "--policy", "a=b"]).failure(&["`a/#/b` is not a topic filter"]);
    site.run(&["rule", "set", "a/+", "--mode", "required"]).failure(&["needs a policy"]);
    site.run(&["rule", "set", "a/+", "--policy", "ward=$2"]).failure(&["$2"]);
    let elsewhere = site.home.path().join("elsewhere").display().to_string();
    site.run(&["device", "list", "--data", &elsewhere]).failure(&["cannot act as administrator", &elsewhere]);
    // The next page shows it all, as people and as programs read it.
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    let json: serde_json::Value =
        serde_json::from_str(&site.run(&["rule", "list", "--json"]).success()).unwrap();
    assert_eq!((&json[0]["filter"], &json[0]["mode"]), (&"a/+".into(), &"required".into()));
    assert_eq!(site.run(&["rule", "list"]).success(), "a/+  required  policy role=nurse\n");
    site.run(&["rule", "remove", "a/+"]).success();
    assert_eq!(site.run(&["rule", "list"]).success(), "");
}
