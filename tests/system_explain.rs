//! `smqtt broker explain` asks the broker that runs, and says so where none does.

mod common;

use std::os::unix::net::UnixListener;

use common::process::Ended;
use common::site::{Site, Up, address};
use common::{DEADLINE, until};

const FREE: [&str; 4] = ["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"];
const FROM_FILES: &str = "this is what it knew last";

fn explain(site: &Site, arguments: &[&str]) -> Ended {
    site.run(&[&["broker", "explain"], arguments].concat())
}

#[test]
fn the_running_broker_says_yes_or_no_and_why() {
    let site = Site::with(&FREE);
    site.enrol("sensor-1", &["role=sensor"]);
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.rule_set(
        "ward/+/temperature",
        &["--policy", "role=nurse and ward=$1", "--publishers", "role=sensor"],
    );
    site.rule_set("staff/#", &["--mode", "open", "--subscribers", "role=nurse"]);
    let subscriber = site.subscribe(&nurse, "staff/#", &[]);

    let yes = explain(&site, &["sensor-1", "publish", "ward/3/temperature"]);
    let text = yes.success();
    for part in ["`ward/+/temperature` is the nearest", "role=sensor", "not at the moment", "\nyes\n"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    assert!(!yes.err.contains(FROM_FILES), "{}", yes.err);
    let no = explain(&site, &["nurse-1", "publish", "ward/3/temperature"]);
    no.failure(&["not-allowed", "`ward/+/temperature` does not let you publish"]);
    assert!(no.text().contains("once at the moment") && no.text().ends_with("\nno\n"), "{}", no.text());
    let no = explain(&site, &["sensor-1", "subscribe", "staff/rota"]);
    no.failure(&["not-allowed", "`staff/#` does not let you subscribe"]);
    let unknown = explain(&site, &["nobody", "publish", "ward/3/temperature"]);
    unknown.failure(&["the authority does not know this device"]);
    assert!(!unknown.err.contains(FROM_FILES), "{}", unknown.err);

    // For programs, and with all that an address cannot hold.
    let strange = "a b/ü&client=nurse-1%23%2F?=";
    let json = explain(&site, &["sensor-1", "publish", strange, "--json"]).success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["client"], &json["topic"]), (&"sensor-1".into(), &strange.into()));
    assert_eq!((&json["allowed"], &json["connections"]), (&true.into(), &0.into()));
    explain(&site, &["sensor-1", "publish", &"x".repeat(20_000)]).failure(&["too long"]);

    // What is decided elsewhere counts here as soon as the broker hears of it.
    drop(subscriber);
    site.run(&["device", "revoke", "nurse-1"]).success();
    until("the revocation", DEADLINE, || {
        let said = explain(&site, &["nurse-1", "subscribe", "staff/rota"]);
        said.err.contains("revoked: this device was revoked").then_some(())
    });
}

#[test]
fn without_a_broker_it_says_what_that_one_knew_last() {
    let mut site = Site::with(&FREE);
    site.rule_set("ward/#", &["--policy", "role=nurse", "--publishers", "role=sensor"]);
    site.enrol("sensor-1", &["role=sensor"]);
    // A broker that starts writes down at once who there is.
    stop(&mut site);
    let authority = address(&site.up.authority).to_owned();
    site.up =
        Up::start(site.home.path(), &site.data(), &["--authority", &authority, "--broker", "127.0.0.1:0"]);
    let broker = site.data().join("broker");
    until("the directory on disk", DEADLINE, || {
        let written = std::fs::read_to_string(broker.join("directory.json")).unwrap_or_default();
        written.contains("sensor-1").then_some(())
    });
    stop(&mut site);
    let known = explain(&site, &["sensor-1", "publish", "ward/1"]);
    assert!(known.success().ends_with("\nyes\n"));
    assert!(known.err.contains(FROM_FILES) && known.err.contains("admin.sock"), "{}", known.err);
    assert!(!known.text().contains("at the moment"), "{}", known.text());
    // A broker that was killed leaves its socket behind.
    let socket = broker.join("admin.sock");
    let _ = std::fs::remove_file(&socket);
    drop(UnixListener::bind(&socket).unwrap());
    let no = explain(&site, &["sensor-2", "publish", "ward/1"]);
    no.failure(&[FROM_FILES, "the authority does not know this device"]);
    explain(&site, &["sensor-1", "publish", "ward/1", "--dir", "/nowhere"]).failure(&["/nowhere"]);
}

fn stop(site: &mut Site) {
    let up = &mut site.up.running;
    up.signal("INT");
    until("the end of the site", DEADLINE, || up.has_ended().then_some(()));
}
