//! Labels and keys that carry a policy, with real processes from the rule to the reader.

mod common;

use common::peers::{Mosquitto, Watcher, is_there};
use common::site::{Device, Site};
use serde_json::Value;
use smqtt_client::keyring::Keyring;
use smqtt_client::sealer::{Outgoing, Sealer, Wish};
use smqtt_client::system_now;

const TOPIC: &str = "ward/3/pulse";

impl Site {
    fn enrol_with_policy(&self, name: &str, policy: &str) -> Device {
        let device = self.device(name);
        let token = self.run(&["token", "new", name, "--policy", policy]).success();
        self.enrol_with(&device, token.lines().last().unwrap()).success();
        device
    }
}

/// Who is in every test here.
struct Ward {
    site: Site,
    /// Its key opens readings of ward 3 from level 3 on.
    nurse: Device,
    /// Its key opens readings of ward 4.
    other: Device,
    /// Has attributes that read the same, and no policy.
    clerk: Device,
    sensor: Device,
}

impl Ward {
    fn start() -> Self {
        let site = Site::start();
        let nurse = site.enrol_with_policy("nurse-1", "ward=3 and kind=reading and level>=3");
        let other = site.enrol_with_policy("nurse-2", "ward=4 and kind=reading");
        let clerk = site.enrol("clerk-1", &["ward=3", "kind=reading"]);
        let sensor = site.enrol("sensor-1", &["role=sensor"]);
        Self { site, nurse, other, clerk, sensor }
    }

    /// A file with what the sensor would publish now, in full form.
    fn sealed(&self, topic: &str, text: &str) -> String {
        let keyring = Keyring::load(&self.sensor.dir).unwrap();
        let sealed = Sealer::new(false).seal(&keyring, topic, text.as_bytes(), Wish::Rule, system_now());
        let Outgoing::Sealed(sealed) = sealed.unwrap() else { panic!("`{topic}` has a rule") };
        let path = self.site.home.path().join("sealed");
        std::fs::write(&path, sealed.full()).unwrap();
        path.display().to_string()
    }
}

#[test]
fn a_rule_of_labels_decides_and_keys_with_a_policy_open() {
    let ward = Ward::start();
    let site = &ward.site;
    let set = site.rule_set("ward/+/pulse", &["--labels", "kind=reading, ward=$1, level=5"]);
    assert!(!set.err.contains("warning"), "{}", set.err);
    let listed = site.run(&["rule", "list"]).success();
    assert_eq!(listed, "ward/+/pulse  required  labels kind=reading, ward=$1, level=5\n");
    let listed: Value = serde_json::from_str(&site.run(&["rule", "list", "--json"]).success()).unwrap();
    assert_eq!(listed[0]["labels"], "kind=reading, ward=$1, level=5");
    assert_eq!(listed[0]["policy"], Value::Null);

    let nurse = site.subscribe(&ward.nurse, "ward/+/pulse", &[]);
    let other = site.subscribe(&ward.other, "ward/+/pulse", &[]);
    let clerk = site.subscribe(&ward.clerk, "ward/+/pulse", &["--json"]);
    for arguments in [&[][..], &["--label", "kind=reading,ward=3", "--label", "level=5"]] {
        site.publish(&ward.sensor, TOPIC, "72", arguments).success();
    }
    site.publish(&ward.sensor, "ward/4/pulse", "80", &["--sign"]).success();
    assert_eq!(nurse.out.first_lines(2), [format!("{TOPIC} sensor-1 72"), format!("{TOPIC} sensor-1 72")]);
    assert_eq!(other.out.first_lines(1), ["ward/4/pulse sensor-1 80"]);
    // Not for them, and why.
    let why = nurse.err.line("not opened: ward/4/pulse");
    assert!(
        why.contains("labels: my key's policy `ward=3 and kind=reading and level>=3` does not hold"),
        "{why}"
    );
    assert!(why.ends_with("for the labels `kind=reading, level=5, ward=4`"), "{why}");
    let why = clerk.err.line(TOPIC);
    assert!(why.contains("no-policy") && why.contains("my keys carry no policy"), "{why}");
    assert_eq!(clerk.out.text(), "");

    // The rule is the rule.
    for arguments in [
        &["--label", "kind=reading,ward=3"][..],
        &["--label", "kind=reading,ward=3,level=9"],
        &["--policy", "kind=reading and ward=3"],
    ] {
        let refused = site.publish(&ward.sensor, TOPIC, "72", arguments);
        let wanted = "the rule `ward/+/pulse` seals `ward/3/pulse` under `[kind=reading, level=5, ward=3]`";
        refused.failure(&[wanted, "hint: leave `--policy` and `--label` away: the rule decides"]);
    }
    site.publish(&ward.sensor, TOPIC, "72", &["--plain"]).failure(&["requires messages", "hint: "]);
    // A rule of a policy beside it, and labels given there.
    site.rule_set("bed/+", &["--policy", "ward=$1"]);
    let refused = site.publish(&ward.sensor, "bed/3", "72", &["--label", "ward=3"]);
    refused.failure(&["seals `bed/3` under `ward=3`, not under `[ward=3]`"]);
}

#[test]
fn labels_by_hand_where_no_rule_says_them() {
    let ward = Ward::start();
    let site = &ward.site;
    let nurse = site.subscribe(&ward.nurse, "notes/+", &["--json"]);
    let told = site.publish(
        &ward.sensor,
        "notes/1",
        "72",
        &["--label", "ward=3", "--label", "kind=reading", "--label", "level=5", "--json", "--retain"],
    );
    let told: Value = serde_json::from_str(&told.success()).unwrap();
    let got: Value = serde_json::from_str(&nurse.out.first_lines(1)[0]).unwrap();
    assert_eq!(told["full"], true, "{told}");
    assert_eq!((&got["payload"], &got["sealed"]), (&Value::from("72"), &Value::Bool(true)));
    // One comparison that does not hold.
    let low = ["--label", "ward=3,kind=reading,level=2"];
    site.publish(&ward.sensor, "notes/2", "72", &low).success();
    nurse.err.line("notes/2");

    let refused = |arguments: &[&str], parts: &[&str]| {
        site.publish(&ward.sensor, "notes/1", "72", arguments).failure(parts);
    };
    refused(&[], &["no policy for `notes/1`", "hint: give `--policy` or `--label`"]);
    refused(&["--label", "ward>=3"], &["`--label ward>=3`", "hint: "]);
    refused(&["--label", ""], &["no labels to seal under", "hint: "]);
    let eight: Vec<String> = (0..8).map(|n| format!("n{n}=1")).collect();
    refused(&["--label", &eight.join(",")], &["264 labels, more than 256: an integer counts 33", "hint: "]);
    for other in [&["--policy", "ward=3"][..], &["--plain"]] {
        let both = site.publish(&ward.sensor, "notes/1", "72", &[&["--label", "ward=3"], other].concat());
        assert_eq!(both.status.code(), Some(2), "{both:?}");
    }
    for (arguments, part) in [
        (&["rule", "set", "a/+", "--labels", "ward>=3"][..], "`name` or `name=value`"),
        (&["rule", "set", "a/+", "--labels", "ward=$2"], "the rule uses `$2`, but the filter has 1 `+`"),
        (&["rule", "set", "a/+", "--labels", &eight.join(",")], "264 labels, more than 256"),
        (&["token", "new", "x", "--policy", "ward=3 adn kind=x"], "^"),
    ] {
        site.run(arguments).failure(&[part]);
    }
    let both = site.run(&["rule", "set", "a/+", "--labels", "ward=3", "--policy", "ward=3"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let unasked = site.rule_set("a/+", &["--labels", "kind=alarm"]);
    assert!(unasked.err.contains("warning: labels: no key asks for `kind=alarm`"), "{}", unasked.err);
}

#[test]
fn inspect_explain_and_device_show_both_sides() {
    let ward = Ward::start();
    let site = &ward.site;
    site.rule_set("ward/+/pulse", &["--labels", "kind=reading, ward=$1, level=5"]);
    site.publish(&ward.sensor, TOPIC, "72", &[]).success();
    let file = ward.sealed(TOPIC, "72");
    let shown = site.run(&["inspect", &file]).success();
    assert!(shown.contains("labels       kind=reading, level=5, ward=3"), "{shown}");
    assert!(shown.contains("suite        fabeo-kp") && !shown.contains("policy"), "{shown}");
    let json: Value = serde_json::from_str(&site.run(&["inspect", "--json", &file]).success()).unwrap();
    assert_eq!(json["header"]["labels"], serde_json::json!(["kind=reading", "level=5", "ward=3"]));
    assert_eq!((&json["header"]["policy"], &json["header"]["suite"]), (&Value::Null, &"fabeo-kp".into()));

    // A message against keyrings, and against a device as the authority knows it.
    let opens = site.run_as(&ward.nurse, &["explain", &file, "-t", TOPIC], b"").success();
    assert!(opens.contains("✓ level>=3") && opens.contains("opens        2 bytes by sensor-1"), "{opens}");
    for topic in [&[][..], &["-t", TOPIC]] {
        let closed = site.run_as(&ward.other, &[&["explain", &file], topic].concat(), b"");
        closed.failure(&["labels: my key's policy `ward=4 and kind=reading` does not hold"]);
        assert!(closed.text().contains("✗ ward=4: has ward=3"), "{}", closed.text());
        let closed = site.run_as(&ward.clerk, &[&["explain", &file], topic].concat(), b"");
        closed.failure(&["no-policy: sealed under the labels"]);
        assert!(closed.text().contains("policy       none"), "{}", closed.text());
    }
    assert!(site.run(&["explain", &file, "--device", "nurse-1"]).success().contains("satisfied"));
    site.run(&["explain", &file, "--device", "nurse-2"]).failure(&["not satisfied"]);
    site.run(&["explain", &file, "--device", "clerk-1"]).failure(&["not satisfied"]);
    let wrong = site.run(&["explain", &file, "--attributes", "ward=3"]);
    wrong.failure(&["sealed under labels", "hint: "]);

    // Labels alone: against a policy, a device, a keyring.
    let policy = "ward=3 and level>=3";
    let held = |labels: &str| site.run(&["explain", "--label", labels, "--policy", policy]);
    assert!(held("ward=3,level=3").success().ends_with("satisfied\n"));
    let not = held("ward=3,level=2");
    not.failure(&["not satisfied"]);
    assert!(
        not.text().contains("labels       level=2, ward=3") && not.text().contains("✗ level>=3: has level=2")
    );
    site.run(&["explain", "--label", "ward=4", "--label", "kind=reading", "--device", "nurse-2"]).success();
    let own = site.run_as(&ward.other, &["explain", "--label", "ward=4,kind=reading"], b"");
    assert!(own.success().contains("policy       ward=4 and kind=reading"), "{}", own.text());
    // The attributes of a device that has a policy are its attributes, not what its policy names.
    let attributes = site.run_as(&ward.other, &["explain", "--policy", "ward=4"], b"");
    attributes.failure(&["not satisfied"]);
    assert!(attributes.text().contains("attributes   none"), "{}", attributes.text());

    let shown = site.run(&["device", "show", "nurse-2"]).success();
    assert!(shown.contains("policy       ward=4 and kind=reading"), "{shown}");
    let shown: Value = serde_json::from_str(&site.run(&["device", "list", "--json"]).success()).unwrap();
    let policies: Vec<_> = shown.as_array().unwrap().iter().filter_map(|d| d.get("policy")).collect();
    assert_eq!(policies.len(), 2, "{shown}");
    assert!(site.run(&["device", "list"]).success().contains("policy ward=4 and kind=reading"));
}

#[test]
fn a_stock_broker_carries_labelled_messages_too() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let ward = Ward::start();
    let site = &ward.site;
    site.rule_set("ward/+/pulse", &["--labels", "kind=reading, ward=$1, level=5"]);
    let url = mosquitto.url();
    let via = ["--broker", url.as_str()];
    site.publish(&ward.sensor, common::peers::READY, "on", &[&via[..], &["--plain", "--retain"]].concat())
        .success();
    let watcher = is_there("mosquitto_sub").then(|| Watcher::mosquitto(&mosquitto.options(), "5", "ward/#"));
    let nurse = site.subscribe(&ward.nurse, "ward/+/pulse", &via);
    let other = site.subscribe(&ward.other, "ward/+/pulse", &via);
    let lines = ["publish", "-t", TOPIC, "--lines"];
    site.run_as(&ward.sensor, &[&lines, &via[..]].concat(), b"pulse-71\npulse-72\n").success();
    assert_eq!(nurse.out.first_lines(2), ["71", "72"].map(|n| format!("{TOPIC} sensor-1 pulse-{n}")));
    other.err.line("does not hold for the labels");
    assert_eq!(other.out.text(), "");
    if let Some(watcher) = watcher {
        for (_, payload) in watcher.messages(2) {
            assert!(!common::contains(&payload, b"pulse-7"));
        }
    }
}

#[test]
fn a_revoked_policy_opens_nothing_new_and_the_others_go_on() {
    let ward = Ward::start();
    let site = &ward.site;
    site.rule_set("ward/+/pulse", &["--labels", "kind=reading, ward=$1, level=5"]);
    let kept = site.enrol_with_policy("nurse-3", "ward>=3 and ward<=9");
    let (cut, reads) =
        (site.subscribe(&ward.nurse, "ward/+/pulse", &[]), site.subscribe(&kept, "ward/+/pulse", &[]));
    site.publish(&ward.sensor, TOPIC, "before", &[]).success();
    for reader in [&cut, &reads] {
        assert_eq!(reader.out.first_lines(1), [format!("{TOPIC} sensor-1 before")]);
    }
    let told = site.run(&["device", "revoke", "nurse-1"]).success();
    assert!(told.contains("versions     raised for kind=reading, level, ward"), "{told}");
    cut.end().failure(&["revoked"]);
    site.publish(&ward.sensor, TOPIC, "after", &[]).success();
    assert_eq!(reads.out.first_lines(2)[1], format!("{TOPIC} sensor-1 after"));
    assert!(!reads.err.text().contains("not opened"), "{}", reads.err.text());
    let file = ward.sealed(TOPIC, "after");
    let why = "version: my key's policy holds for the labels `kind=reading, level=5, ward=3`, but in other";
    site.run_as(&ward.nurse, &["explain", &file], b"").failure(&[why]);
    site.run_as(&kept, &["explain", &file, "-t", TOPIC], b"").success();
}
