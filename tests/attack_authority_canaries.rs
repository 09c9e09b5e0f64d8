//! Secrets that are known beforehand go through an authority, its commands and its devices, all as processes that log whatever
//! they can. Afterwards each is found where it is at home, and nowhere else: in no log, error, answer, audit log, store,
//! journal, backup, argument, environment or core file.

#[path = "../keysvc/tests/authority/at_rest.rs"]
mod at_rest;
mod common;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use common::needles::{Needles, add_keyring, add_signing_key};
use common::process::{Ended, Running, run};
use common::site::{SMQTT, Site, Up, address, smqtt};
use common::{TempDir, contains, files_below};
use smqtt_client::tls;
use smqtt_core::token::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PASSPHRASE: &str = "canary passphrase 5d1b7f20";
const READING: &str = "canary-reading-77c0ffee";

/// A request as somebody writes it who knows no client: what comes back, to the last byte.
fn raw(site: &Site, root: &[u8], request: &str) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tls = tls::client_config(&[root.to_vec()], None).unwrap();
        let stream = tokio::net::TcpStream::connect(address(&site.up.authority)).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(tls);
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    })
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
}

/// What others of the machine can see of a process.
fn add_seen(seen: &mut Vec<u8>, pid: u32) {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
    seen.extend(read("cmdline").unwrap());
    match read("environ") {
        Ok(environment) => seen.extend(environment),
        // Which is as good: nobody but root can.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else if from.is_file() {
            std::fs::copy(&from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap().to_owned()
}

#[test]
fn every_secret_is_where_it_is_at_home_and_nowhere_else() {
    let home = TempDir::new();
    let mut said = Vec::new();
    let mut say = |ended: &Ended| said.extend([ended.out.clone(), ended.err.clone().into_bytes()].concat());
    let authority = |arguments: &[&str], input: &str| {
        let mut command = smqtt(home.path());
        command.arg("authority").args(arguments).args(["--data", "site"]).env("SMQTT_LOG", "trace");
        run(&mut command, input.as_bytes())
    };

    // Made, put under shares, and from these under a passphrase, which lies in a file from here on.
    let mut first = smqtt(home.path());
    first.args(["authority", "--listen", "127.0.0.1:0", "--data", "site", "--until-stdin-ends"]);
    let made = Running::spawn(first.env("SMQTT_LOG", "trace"));
    made.out.line("fingerprint");
    let made = made.end();
    made.success();
    say(&made);
    let shared = authority(&["seal", "--to", "shares", "--threshold", "2", "--count", "3"], "");
    let shares: Vec<String> = shared.success().lines().map(str::to_owned).collect();
    assert_eq!(shares.len(), 3);
    said.extend(shared.err.clone().into_bytes());
    let mut say = |ended: &Ended| said.extend([ended.out.clone(), ended.err.clone().into_bytes()].concat());
    let wrong = authority(&["--listen", "127.0.0.1:0"], &format!("{0}\n{0}\n", shares[0]));
    wrong.failure(&["was given already"]);
    say(&wrong);
    let input = format!("{}\n{}\n{PASSPHRASE}\n", shares[2], shares[0]);
    let sealed = authority(&["seal", "--to", "passphrase"], &input);
    sealed.success();
    say(&sealed);
    let almost = authority(&["--listen", "127.0.0.1:0"], &format!("{PASSPHRASE}x\n"));
    almost.failure(&["the passphrase is wrong"]);
    say(&almost);
    let secrets_home = home.path().join("secrets");
    std::fs::create_dir(&secrets_home).unwrap();
    let passphrase_file = secrets_home.join("passphrase");
    smqtt_client::files::write_private(&passphrase_file, format!("{PASSPHRASE}\n").as_bytes()).unwrap();
    let recovery = secrets_home.join("recovery.key");
    let new = run(smqtt(home.path()).args(["authority", "recovery-key", "new"]).arg(&recovery), b"");
    let public = last_line(&new.success());
    say(&new);

    let mut command = smqtt(home.path());
    command.args(["up", "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--passphrase-file"]);
    command.arg(&passphrase_file).arg("--data").arg(home.path().join("site")).env("SMQTT_LOG", "trace");
    let up = Up::of(&mut command);
    let site = Site { up, home };
    let mut seen = Vec::new();
    add_seen(&mut seen, site.up.running.pid());
    add_seen(&mut seen, site.up.broker_pid());

    // Whatever is told once: tokens, used and not, denied and taken back; access tokens.
    let loud = |arguments: &[&str]| run(site.command().env("SMQTT_LOG", "trace").args(arguments), b"");
    let mut needles = Needles::default();
    needles.add("the passphrase", PASSPHRASE.as_bytes(), Some(&secrets_home));
    for (n, share) in shares.iter().enumerate() {
        // The prefix and the set are no secret.
        needles.add(&format!("share {n}"), &share.as_bytes()[share.len() - 48..], None);
    }
    let mut told = |name: &str, arguments: &[&str]| {
        let made = loud(&[&["token", "new", name], arguments].concat());
        let text = last_line(&made.success());
        let token = Token::parse(&text).unwrap();
        needles.add_secret(&format!("token of {name}: secret"), &token.secret, None);
        needles.add(&format!("token of {name}"), &text.as_bytes()[text.len() - 40..], None);
        said.extend(made.err.into_bytes());
        (text, token)
    };
    let (nurse_token, _) = told("nurse", &["role=nurse", "ward=3"]);
    let (sensor_token, _) = told("sensor", &["kind=sensor"]);
    let (_, unused) = told("unused", &["x"]);
    let (_, removed) = told("removed", &["x"]);
    let (batch_token, _) = told("batch", &["--count", "3", "--approval"]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let removing = loud(&["token", "remove", &hex(&removed.id)]);
    removing.success();
    let access = loud(&["access", "new", "report", "--role", "auditor", "--ttl", "1h"]);
    let access_token = last_line(&access.success());
    needles.add("access token", &access_token.as_bytes()[access_token.len() - 64..], None);
    let mut say = |ended: &Ended| said.extend([ended.out.clone(), ended.err.clone().into_bytes()].concat());
    say(&removing);

    let (nurse, sensor) = (site.device("nurse"), site.device("sensor"));
    for (device, token) in [(&nurse, &nurse_token), (&sensor, &sensor_token)] {
        let mut command = site.command();
        command.arg("enrol").env("SMQTT_DIR", &device.dir).env("SMQTT_LOG", "trace");
        let enrolled = run(&mut command, token.as_bytes());
        enrolled.success();
        say(&enrolled);
    }
    // Tokens in the wrong hands, in the wrong place, cut off.
    let cut = &batch_token[..batch_token.len() - 3];
    for wrong in [nurse_token.as_str(), cut, "smqtt1.nonsense"] {
        let mut command = site.command();
        command.arg("enrol").env("SMQTT_DIR", site.home.path().join("other")).env("SMQTT_LOG", "trace");
        let refused = run(&mut command, wrong.as_bytes());
        assert!(!refused.status.success());
        say(&refused);
    }
    let root = common::authority::pem(site.home.path(), "root.pem");
    let secret = hex(&unused.secret);
    let enrolment = |secret: &str| {
        format!(
            r#"{{"token_id": "{}", "secret": "{secret}", "csr": "AAAA", "hpke_key": "AAAA"}}"#,
            hex(&unused.id)
        )
    };
    let bearer = format!("authorization: Bearer {access_token}\r\n");
    let mut answers = Vec::new();
    // Whoever names a secret as if it were a name is told that there is nothing of it; nobody else hears of it.
    raw(&site, &root, &get(&format!("/v1/tokens/{secret}"), &bearer));
    for request in [
        post("/v1/enrol", "", &enrolment(&secret)),
        post("/v1/enrol", "", &enrolment(&format!("{secret}00"))),
        post("/v1/enrol", "", &enrolment(&secret.to_uppercase())),
        post("/v1/enrol", "", &enrolment(&secret).replace("csr", "cst")),
        post("/v1/enrol", "", &enrolment(&secret)[..90]),
        post(&format!("/v1/enrol?secret={secret}"), "", "{}"),
        get("/v1/audit", &bearer),
        get("/v1/tokens", &bearer),
        get("/v1/access", &bearer),
        get("/v1/devices", &bearer),
        get("/v1/audit/checkpoints", &bearer),
        post("/v1/epoch/rotate", &bearer, "{}"),
        get("/v1/audit", &format!("authorization: Bearer {access_token}0\r\n")),
        get("/v1/audit", &format!("authorization: Basic {access_token}\r\n")),
        get(&format!("/v1/audit?access_token={access_token}"), ""),
        get("/v1/audit", &format!("referer: https://x/?t={access_token}\r\ncookie: t={access_token}\r\n")),
        get(&format!("/v1/{access_token}"), ""),
        get("/v1/openapi.json", ""),
        get("/v1/health", ""),
    ] {
        let answer = raw(&site, &root, &request);
        assert!(answer.starts_with(b"HTTP/1.1 "), "{request}");
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
        answers.extend(answer);
    }
    assert!(contains(&answers, b"read-audit") && contains(&answers, b"200 OK"), "the access token was good");

    // Readings, key renewals, a change, a revocation, other keys, a backup, the record.
    site.rule_set("ward/+/temperature", &["--policy", "role=nurse and ward=$1"]);
    let reading = site.subscribe(&nurse, "ward/+/temperature", &["-C", "1"]);
    say(&site.publish(&sensor, "ward/3/temperature", READING, &[]));
    assert!(reading.end().success().contains(READING));
    for arguments in [
        &["epoch", "rotate"][..],
        &["device", "set", "nurse", "floor=2"],
        &["device", "suspend", "sensor"],
        &["device", "resume", "sensor"],
        &["authority", "rotate", "root-key"],
        &["authority", "rotate", "master", "prepare"],
        &["authority", "recovery-key", "trust", &public],
        &["authority", "backup", "--out", "backup"],
        &["token", "list", "--all"],
        &["device", "list"],
        &["access", "list"],
        &["audit", "list"],
        &["audit", "export", "audit.jsonl"],
        &["device", "revoke", "sensor", "--report"],
    ] {
        let ended = loud(arguments);
        ended.success();
        say(&ended);
    }
    let data = site.data();
    // While it runs: the store with its log.
    for name in ["authority", "revocations"] {
        copy_dir(&data.join(name), &site.home.path().join("running").join(name));
    }
    let Site { up, home } = site;
    up.running.signal("INT");
    let ended = up.running.end();
    assert!(ended.err.contains("DEBUG") && ended.err.contains("nurse"), "the log is all there is");

    // What the store holds, opened in a copy.
    let opened = home.path().join("opened");
    copy_dir(&data, &opened.join("site"));
    let mut command = smqtt(&opened);
    command.args(["authority", "seal", "--to", "file", "--data", "site"]);
    run(&mut command, format!("{PASSPHRASE}\n").as_bytes()).success();
    let (root_key, data_keys) = at_rest::keys_at_rest(&opened.join("site"));
    needles.add_secret("the root key", &root_key, None);
    data_keys
        .iter()
        .for_each(|(name, key)| needles.add_secret(&format!("the data key of {name}"), key, None));
    let mut masters = 0;
    for (name, secret) in at_rest::secrets(&opened.join("site")) {
        match secret.len() {
            0..16 => {}
            32 => needles.add_secret(&format!("the secret {name}"), &secret, None),
            // PKCS #8: what is the same in all of them comes first.
            _ => needles.add_secret(&format!("the secret {name}"), &secret[36..68], None),
        }
        masters += usize::from(name.starts_with("master/"));
    }
    assert_eq!(masters, 3, "of two suites, and one that is prepared");
    let recovery_text = std::fs::read_to_string(&recovery).unwrap();
    needles.add("the recovery key", &recovery_text.as_bytes()[40..80], Some(&secrets_home));
    for dir in [&nurse.dir, &sensor.dir, &data.join("broker")] {
        add_keyring(&mut needles, dir);
    }
    add_signing_key(&mut needles, "administrator's key", &data.join("admin/key.pem"));
    needles.add_secret("the reading", READING.as_bytes(), None);

    needles.assert_clean("what the authority and the broker log", ended.err.as_bytes());
    needles.assert_clean("what they print", &ended.out);
    needles.assert_clean("what commands log and print", &said);
    needles.assert_clean("what others see of the processes", &seen);
    needles.assert_clean("answers of the authority", &answers);
    needles.assert_clean("the audit log", &std::fs::read(home.path().join("audit.jsonl")).unwrap());
    needles.assert_clean("a backup", &std::fs::read(home.path().join("backup")).unwrap());
    needles.assert_clean_below(&data);
    let running = files_below(&home.path().join("running"));
    let store: Vec<u8> = running.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    assert!(contains(&store, b"sensor"), "the store is there");
    needles.assert_clean("the store while it is used", &store);
    // That they can be found is known: in the copy whose seal is a file they are opened with.
    let at_home = std::fs::read(&passphrase_file).unwrap();
    assert_eq!(needles.found(&at_home).len(), 1);
}

/// The same under a shell that allows core files of any size, in a directory of its own.
fn with_cores(home: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = smqtt(home);
    let template = std::mem::replace(&mut command, Command::new("sh"));
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(["-c", r#"ulimit -c unlimited; exec "$0" "$@""#, program]).args(arguments);
    command.current_dir(home).process_group(0);
    command
}

/// Until it is gone: the first SIGSEGV from outside is taken for a full stack, looked at, and let pass.
fn end_by(pid: u32, signal: &str) {
    common::until("the process to end", common::DEADLINE, || {
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).output();
        (!common::process::is_alive(pid)).then_some(())
    });
}

fn cores(dir: &Path) -> Vec<String> {
    let names =
        files_below(dir).into_iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("core")).collect()
}

#[test]
fn a_process_with_keys_in_its_memory_leaves_no_core() {
    let home = TempDir::new();
    // That cores are written here at all, by whoever does nothing about it.
    let control = home.path().join("control");
    std::fs::create_dir(&control).unwrap();
    let sleeping = Running::spawn(&mut with_cores(&control, "sleep", &["60"]));
    common::until("the program", common::DEADLINE, || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", sleeping.pid())).unwrap();
        (name.trim() == "sleep").then_some(())
    });
    sleeping.signal("SEGV");
    if !sleeping.end().status.core_dumped() {
        common::skipped("no program leaves a core file here");
    }
    // None that whoever runs this in the background has had ignored, as shells have INT and QUIT.
    for signal in ["SEGV", "ABRT", "SYS"] {
        let data = home.path().join(signal);
        let arguments = ["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--data"];
        let mut command = with_cores(home.path(), SMQTT, &[&["up"], &arguments[..]].concat());
        let up = Up::of(command.arg(&data));
        let broker = up.broker_pid();
        for pid in [up.running.pid(), broker] {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(line.split_whitespace().filter(|word| *word == "0").count(), 2, "{line}");
        }
        end_by(broker, signal);
        // The authority ends with its broker; another one, so that it is the signal that ends it.
        drop(up);
        let mut command = with_cores(home.path(), SMQTT, &["authority", "--listen", "127.0.0.1:0", "--data"]);
        let authority = Running::spawn(command.arg(&data));
        authority.out.line("fingerprint");
        end_by(authority.pid(), signal);
        let status = authority.end().status;
        assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
        assert_eq!(cores(home.path()).len(), cores(&control).len());
    }
}
