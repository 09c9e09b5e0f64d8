//! EST as programs of others speak it: strongSwan's `pki`, and curl with OpenSSL.

mod common;

use std::path::Path;
use std::process::Command;

use common::process::{Running, run};
use common::site::smqtt;
use common::{TempDir, skipped};

fn authority(home: &Path) -> (Running, String) {
    let mut command = smqtt(home);
    let running = Running::spawn(command.args(["authority", "--listen", "127.0.0.1:0", "--data", "site"]));
    let line = running.out.line("authority");
    let port = line.rsplit(':').next().unwrap().trim().to_owned();
    (running, format!("https://localhost:{port}/.well-known/est"))
}

fn token(home: &Path, name: &str) -> String {
    run(smqtt(home).args(["token", "new", name, "kind=meter", "--data", "site"]), b"")
        .success()
        .trim()
        .to_owned()
}

/// Runs a program in `home`, fed with nothing.
fn tool(home: &Path, line: &[&str]) -> String {
    run(Command::new(line[0]).args(&line[1..]).current_dir(home), b"").success()
}

fn has(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// A P-256 key, `key.pem`, and a signing request for it with wishes, `request.der`.
fn signing_request(home: &Path) {
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
    let start =
        ["openssl", "req", "-new", "-subj", "/CN=admin/O=wishes", "-addext", "basicConstraints=CA:TRUE"];
    let end = ["-keyout", "key.pem", "-outform", "DER", "-out", "request.der"];
    tool(home, &[&start[..], &curve, &end].concat());
}

#[test]
fn curl_and_openssl_enrol_and_renew() {
    if !has("curl", "--version") || !has("openssl", "version") {
        return skipped("curl or openssl is not there: EST was not tried with them");
    }
    let home = TempDir::new();
    let home = home.path();
    let (_authority, url) = authority(home);
    let token = token(home, "meter-1");
    signing_request(home);
    tool(home, &["openssl", "base64", "-in", "request.der", "-out", "request.b64"]);
    // Not as an argument: those are for everyone to see.
    std::fs::write(home.join("user"), format!("user = \"meter:{token}\"\n")).unwrap();
    let curl = |path: &str, to: &str, more: &[&str]| {
        let url = format!("{url}/{path}");
        let common = ["curl", "-sS", "--fail-with-body", "--cacert", "site/admin/root.pem", "-o", to, &url];
        tool(home, &[&common[..], more].concat());
    };
    let sent = ["-H", "Content-Type: application/pkcs10", "--data-binary", "@request.b64"];
    let certificates = |from: &str, to: &str| {
        tool(home, &["openssl", "base64", "-d", "-A", "-in", from, "-out", "message.der"]);
        let read = ["openssl", "pkcs7", "-inform", "DER", "-in", "message.der", "-print_certs", "-out", to];
        tool(home, &read);
        std::fs::read_to_string(home.join(to)).unwrap().matches("BEGIN CERTIFICATE").count()
    };
    curl("cacerts", "roots.b64", &[]);
    assert_eq!(certificates("roots.b64", "roots.pem"), 1);
    curl("simpleenroll", "first.b64", &[&sent[..], &["--config", "user"]].concat());
    assert_eq!(certificates("first.b64", "first.pem"), 1);
    curl("simplereenroll", "second.b64", &[&sent[..], &["--cert", "first.pem", "--key", "key.pem"]].concat());
    assert_eq!(certificates("second.b64", "second.pem"), 1);
    tool(home, &["openssl", "verify", "-CAfile", "roots.pem", "second.pem"]);
    let shown = tool(home, &["openssl", "x509", "-in", "second.pem", "-noout", "-text"]);
    assert!(
        shown.contains("CN = meter-1") && !shown.contains("wishes") && !shown.contains("CA:TRUE"),
        "{shown}"
    );
    let device = run(smqtt(home).args(["device", "show", "meter-1", "--data", "site"]), b"").success();
    assert!(device.contains("kind=meter"), "{device}");
}

#[test]
fn strongswan_enrols_and_renews() {
    if !has("pki", "--help") {
        return skipped("strongSwan's `pki` is not there: EST was not tried with it");
    }
    let home = TempDir::new();
    let home = home.path();
    let (_authority, url) = authority(home);
    let url = url.strip_suffix("/.well-known/est").unwrap();
    let token = token(home, "meter-2");
    signing_request(home);
    // `pki` takes its arguments from a file as well.
    std::fs::write(home.join("user"), format!("--userpass meter:{token}\n")).unwrap();
    let root = "site/admin/root.pem";
    let found =
        ["pki", "--estca", "--url", url, "--cacert", root, "--caout", "roots.pem", "--outform", "pem"];
    tool(home, &found);
    let roots: Vec<_> = std::fs::read_dir(home).unwrap().flatten().map(|file| file.file_name()).collect();
    let found = roots.iter().any(|name| name.to_string_lossy().starts_with("roots"));
    assert!(found, "{roots:?}");
    let enrol = ["pki", "--est", "--url", url, "--in", "request.der", "--cacert", root, "--outform", "pem"];
    let first = tool(home, &[&enrol[..], &["--options", "user"]].concat());
    std::fs::write(home.join("first.pem"), first).unwrap();
    let second = tool(home, &[&enrol[..], &["--cert", "first.pem", "--key", "key.pem"]].concat());
    std::fs::write(home.join("second.pem"), second).unwrap();
    tool(home, &["openssl", "verify", "-CAfile", root, "first.pem", "second.pem"]);
    assert!(tool(home, &["openssl", "x509", "-in", "second.pem", "-noout", "-subject"]).contains("meter-2"));
}
