//! Another root that issues certificates, from the command line, under readers and publishers that run.

mod common;

use std::path::Path;
use std::process::Command;

use common::DEADLINE;
use common::peers::is_there;
use common::process::{Running, run};
use common::site::{Device, Site, port};
use serde_json::Value;

/// Who was there before, and the root that they know.
struct Before {
    site: Site,
    sensor: Device,
    nurse: Device,
    sleeper: Device,
}

impl Before {
    fn new() -> Self {
        let site = Site::start();
        let [sensor, nurse, sleeper] =
            ["sensor", "nurse", "sleeper"].map(|name| site.enrol(name, &["role=nurse"]));
        site.rule_set("a/+", &["--policy", "role=nurse"]);
        Self { site, sensor, nurse, sleeper }
    }

    /// Does a step, and waits until the broker knows it.
    fn rotate(&self, arguments: &[&str]) -> Value {
        let done = self.site.run(&[&["authority", "rotate", "certificate", "--json"], arguments].concat());
        let done: Value = serde_json::from_str(&done.success()).unwrap();
        self.site.wait_bundle(done["bundle"].as_u64().unwrap());
        done
    }

    fn verify_audit(&self) {
        let verified = self.site.run(&["audit", "verify"]).success();
        assert!(verified.contains("holds"), "{verified}");
    }
}

fn roots_in(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap().matches("BEGIN CERTIFICATE").count()
}

#[test]
fn certificates_move_to_another_root_under_readers_and_publishers_that_run() {
    let all = Before::new();
    let Before { site, sensor, nurse, sleeper } = &all;
    let outstanding = site.token("outstanding", &["role=nurse"]);
    let old_root = site.home.path().join("old-root.pem");
    std::fs::copy(nurse.dir.join("root.pem"), &old_root).unwrap();
    let reader = site.subscribe(nurse, "a/+", &[]);
    let say = |device: &Device, message: &str, arguments: &[&str]| {
        site.publish(device, "a/b", message, arguments).success();
        reader.out.line(message);
    };
    say(sensor, "before", &[]);
    let prepared = all.rotate(&["prepare"]);
    assert_eq!(prepared["roots"].as_array().unwrap().len(), 2);
    say(sensor, "prepared", &[]);
    assert_eq!(roots_in(&nurse.dir.join("root.pem")), 2, "a keyring's file has both");
    site.run(&["authority", "rotate", "certificate", "activate"]).failure(&["not before epoch 2", "force"]);
    site.run(&["authority", "rotate", "certificate", "retire"]).failure(&["`activate` is"]);
    site.run(&["epoch", "rotate"]).success();
    let activated = all.rotate(&["activate"]);
    assert_eq!(activated["issuing"], activated["roots"][1]);

    // Old and new read each other, also over the connection from before.
    say(sensor, "activated", &[]);
    let newcomer = site.enrol("newcomer", &["role=nurse"]);
    say(&newcomer, "from the new root", &["--retain"]);
    let late = site.subscribe(&newcomer, "a/+", &[]);
    say(sensor, "from the old root", &[]);
    late.out.line("from the old root");
    // A token from before; and whoever slept through it.
    let device = site.device("outstanding");
    site.enrol_with(&device, &outstanding).success();
    say(&device, "by a token from before", &[]);
    assert_eq!(roots_in(&sleeper.dir.join("root.pem")), 1);
    let awoken = site.subscribe(sleeper, "a/+", &[]);
    awoken.out.line("from the new root");
    assert_eq!(roots_in(&sleeper.dir.join("root.pem")), 2);
    say(sensor, "all awake", &[]);
    awoken.out.line("all awake");
    stock_clients_know_the_old_root_alone(site, &newcomer, &old_root);
    all.verify_audit();

    // The broker moved over at once.
    site.up.running.err.wait("the broker's renewal", DEADLINE, |text| {
        let renewed = |line: &str| line.contains("answered operation=\"renew\"") && line.contains("broker");
        text.lines().any(renewed).then_some(())
    });
    // Too early, from when on, and by force.
    let early = ["authority", "rotate", "certificate", "retire"];
    site.run(&early).failure(&["not before 20", "UTC", "force"]);
    let retired = all.rotate(&["retire", "--force"]);
    assert_eq!(retired["roots"], serde_json::json!([activated["issuing"]]));
    // Who renewed in time, or came later, goes on; the others are cut, and enrol anew.
    let cut = |text: &str| {
        let mut lines = text.lines().filter(|line| line.contains("disconnected client=nurse/"));
        lines.any(|line| line.contains("AdministrativeAction")).then_some(())
    };
    site.up.running.err.wait("the nurse's connection cut", DEADLINE, cut);
    site.publish(sensor, "a/b", "too late", &[]).failure(&[]);
    site.publish(&newcomer, "a/b", "retired", &[]).success();
    late.out.line("retired");
    assert_eq!(roots_in(&newcomer.dir.join("root.pem")), 1);
    all.verify_audit();
    let export = site.home.path().join("log.jsonl");
    site.run(&["audit", "export", export.to_str().unwrap()]).success();
    site.run(&["audit", "verify", export.to_str().unwrap()]).success();
    let root = site.data().join("admin/root.pem");
    let verify = ["audit", "verify", export.to_str().unwrap(), "--root", root.to_str().unwrap()];
    site.run(&verify).failure(&["is not signed by the authority"]);
}

/// OpenSSL, which knows nothing of bundles, follows the link.
fn stock_clients_know_the_old_root_alone(site: &Site, newcomer: &Device, old_root: &Path) {
    let old_root = old_root.to_str().unwrap();
    if is_there("curl") {
        let url = format!("{}/v1/health", site.up.authority.replace("127.0.0.1", "localhost"));
        let answer = run(Command::new("curl").args(["-sS", "--cacert", old_root, &url]), b"").success();
        assert!(answer.contains("ok"), "{answer}");
    }
    if !is_there("mosquitto_sub") {
        return;
    }
    // A broker whose certificate is the new root's.
    let token = site.run(&["token", "new", "second", "--broker"]).success();
    let second = site.device("second");
    site.enrol_with(&second, token.lines().last().unwrap()).success();
    let mut command = site.command();
    command.args(["broker", "--listen", "127.0.0.1:0", "--dir"]).arg(&second.dir);
    let broker = Running::spawn(&mut command);
    let line = broker.out.line("mqtts://");
    let url = line.split_whitespace().find(|word| word.starts_with("mqtts://")).unwrap();
    let file = |name: &str| newcomer.dir.join(name).display().to_string();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", port(url), "-t", "free/topic", "-m", "x", "-q", "1"]);
    command.args(["--cafile", old_root, "--cert", &file("certificate.pem"), "--key", &file("device.key")]);
    run(&mut command, b"").success();
}
