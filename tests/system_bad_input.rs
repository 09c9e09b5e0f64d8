//! What people, thieves and networks get wrong: refused with a reason, or survived.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::peers::{Mosquitto, is_there};
use common::process::{Running, run};
use common::site::{Device, SOON, Site, Up, address};
use common::{DEADLINE, TempDir, until};
use smqtt_client::keyring::Keyring;
use smqtt_client::sealer::{Outgoing, Sealer, Wish};
use smqtt_client::system_now;
use smqtt_core::token::Token;

/// What `device` would publish on `topic` now, in full form.
fn seal(device: &Device, topic: &str, text: &str) -> Vec<u8> {
    let keyring = Keyring::load(&device.dir).unwrap();
    match Sealer::new(false).seal(&keyring, topic, text.as_bytes(), Wish::Rule, system_now()).unwrap() {
        Outgoing::Sealed(sealed) => sealed.full(),
        Outgoing::Plain(_) => panic!("`{topic}` has a rule"),
    }
}

fn file(site: &Site, name: &str, bytes: &[u8]) -> String {
    let path = site.home.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// The keyring as it is now, under another name.
fn copy(site: &Site, device: &Device, name: &str) -> Device {
    let to = site.device(name);
    std::fs::create_dir_all(&to.dir).unwrap();
    for file in common::files_below(&device.dir) {
        std::fs::copy(&file, to.dir.join(file.file_name().unwrap())).unwrap();
    }
    to
}

/// Ends the site's processes without a word, and gives what is needed to start it again at the same addresses.
fn kill(mut site: Site) -> (TempDir, PathBuf, Vec<String>) {
    let broker = site.up.broker_pid();
    site.up.running.kill();
    until("the broker's end", DEADLINE, || (!common::process::is_alive(broker)).then_some(()));
    let mut arguments: Vec<String> =
        ["--authority", address(&site.up.authority), "--broker", address(&site.up.broker)]
            .map(str::to_owned)
            .into();
    if let Some(plain) = &site.up.plain {
        arguments.extend(["--plain", address(plain)].map(str::to_owned));
    }
    let data = site.data();
    (site.home, data, arguments)
}

fn start_again((home, data, arguments): (TempDir, PathBuf, Vec<String>)) -> Site {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Site { up: Up::start(home.path(), &data, &arguments), home }
}

#[test]
fn an_expired_token_is_refused_whatever_it_says_itself() {
    let site = Site::start();
    let printed = site.run(&["token", "new", "late", "role=nurse", "--ttl", "1s"]).success();
    let mut token = Token::parse(printed.trim()).unwrap();
    until("the token's end", DEADLINE, || (system_now() >= token.expires).then_some(()));
    let late = site.device("late");
    site.enrol_with(&late, &printed).failure(&["the enrolment token has expired", "hint: ask for a new one"]);
    token.expires += 3600;
    site.enrol_with(&late, &token.expose()).failure(&["the enrolment token has expired"]);
    assert!(!site.run(&["device", "list"]).success().contains("late"));
    // The same directory takes a new one.
    site.enrol_with(&late, &site.token("late", &["role=nurse"])).success();
}

#[test]
fn a_token_serves_one_device() {
    let site = Site::start();
    let token = site.token("nurse-1", &["role=nurse"]);
    let (first, second) = (site.device("first"), site.device("second"));
    site.enrol_with(&first, &token).success();
    site.enrol_with(&second, &token).failure(&["the enrolment token was used by another device", "hint: "]);
    assert!(!second.dir.join("identity.json").exists() && !second.dir.join("keys.json").exists());
    site.enrol_with(&first, &token).failure(&["`nurse-1` is enrolled in this directory already", "hint: "]);
    site.run(&["token", "new", "nurse-1", "role=nurse"]).failure(&["the name `nurse-1` is taken"]);
    // An answer that got lost does not burn it: the same keys get the same device.
    let id = |device: &Device| Keyring::load(&device.dir).unwrap().id();
    let before = id(&first);
    std::fs::remove_file(first.dir.join("identity.json")).unwrap();
    site.enrol_with(&first, &token).success();
    assert_eq!(id(&first), before);
    site.up.running.err.line("a token is presented by another device");
}

#[test]
fn a_token_altered_in_any_part_enrols_nobody() {
    let (site, other) = (Site::start(), Site::start());
    let text = site.token("nurse-1", &["role=nurse"]);
    let good = Token::parse(&text).unwrap();
    let altered = |alter: &dyn Fn(&mut Token)| {
        let mut token = good.clone();
        alter(&mut token);
        token.expose().to_string()
    };
    let wrong_server = ["is not the authority that was expected", "hint: "];
    let unknown = ["the enrolment token is not known here", "hint: "];
    let no_token = ["incomplete or was altered", "hint: "];
    let cases: [(&str, String, &[&str]); 9] = [
        ("fingerprint", altered(&|token| token.fingerprint.0[31] ^= 1), &wrong_server),
        (
            "another authority's address",
            altered(&|token| token.url = other.up.authority.clone()),
            &wrong_server,
        ),
        (
            "an address that is none",
            altered(&|token| token.url = "http://127.0.0.1".into()),
            &["is not the address of an authority"],
        ),
        ("id", altered(&|token| token.id[0] ^= 1), &unknown),
        ("secret", altered(&|token| token.secret[15] ^= 0x80), &unknown),
        ("cut", text[..text.len() - 1].to_owned(), &no_token),
        ("longer", format!("{text}A"), &no_token),
        ("another sign", text.replacen('.', "._", 1), &no_token),
        ("something else", "hello".to_owned(), &["not an enrolment token", "hint: "]),
    ];
    for (what, token, parts) in &cases {
        let device = site.device(&what.replace(' ', "-"));
        let refused = site.enrol_with(&device, token).failure(parts);
        assert!(!refused.contains("trying again"), "{what} will not get better: {refused}");
        assert!(!refused.contains(token.trim()), "{what}: the token is a secret");
        assert!(!device.dir.join("identity.json").exists(), "{what}");
    }
    // The good one was not burnt by all that.
    site.enrol_with(&site.device("nurse-1"), &text).success();
}

#[test]
fn policies_are_checked_before_anything_happens() {
    let site = Site::start();
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    let slip = "role=nurse an ward=3";
    let place = format!("  {slip}\n             ^\n");
    let parts = ["found `an` (column 12)", place.as_str(), "hint: put `and` or `or` between"];
    site.run(&["rule", "set", "a/+", "--policy", slip]).failure(&parts);
    site.run(&["rule", "set", "a/+", "--mode", "open", "--publishers", slip]).failure(&parts);
    site.publish(&sensor, "a/1", "x", &["--policy", slip]).failure(&parts);
    site.run(&["explain", "--policy", slip, "--attributes", "role=nurse"]).failure(&parts);
    assert_eq!(site.run(&["rule", "list"]).success(), "");
    // What is allowed but perhaps not meant.
    let set = site.rule_set("a/+", &["--policy", "kind=sensor or role=nrse"]);
    assert!(set.err.contains("warning: policy: no device has `role=nrse`"), "{}", set.err);
    assert!(!set.err.contains("kind=sensor"), "{}", set.err);
    // A token that is still open counts: somebody will have it.
    site.token("nurse-1", &["role=nurse"]);
    let set = site.rule_set("a/+", &["--policy", "role=nurse"]);
    assert!(!set.err.contains("warning"), "{}", set.err);
}

#[test]
fn nothing_leaves_a_publisher_that_its_rules_do_not_allow() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("a/+", &["--mode", "required", "--policy", "role=nurse"]);
    site.rule_set(
        "staff/+",
        &["--mode", "open", "--publishers", "role=nurse", "--subscribers", "role=nurse"],
    );
    let reader = site.subscribe(&nurse, "#", &[]);
    site.publish(&sensor, "b/1", "x", &[]).failure(&["no policy for `b/1`", "hint: give `--policy`"]);
    let differs = ["the rule `a/+` seals `a/1` under `role=nurse`, not under `role=doctor`", "hint: "];
    site.publish(&sensor, "a/1", "x", &["--policy", "role=doctor"]).failure(&differs);
    let required = ["the rule `a/+` requires messages on `a/1` to be sealed", "hint: leave `--plain` away"];
    site.publish(&sensor, "a/1", "x", &["--plain"]).failure(&required);
    let lines = site.run_as(&sensor, &["publish", "-t", "a/1", "--plain", "--lines"], b"x\ny\n");
    lines.failure(&required);
    site.publish(&sensor, "a/+", "x", &[]).failure(&["`a/+` is not a topic to publish to"]);
    let both = site.publish(&sensor, "a/1", "x", &["--plain", "--policy", "role=nurse"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    for qos in ["0", "1", "2"] {
        let refused = site.publish(&sensor, "staff/1", "x", &["--plain", "-q", qos]);
        if qos != "0" {
            refused.failure(&["not-allowed: the rule `staff/+` does not let you publish"]);
        }
    }
    let refused = site.run_as(&sensor, &["subscribe", "-t", "staff/#", "-W", "1"], b"");
    refused.success();
    let refused = site.run_as(&sensor, &["subscribe", "-t", "staff/+", "-W", "1"], b"");
    refused.failure(&["not-allowed: the rule `staff/+` does not let you subscribe"]);
    // None of it went out; what the rules allow does.
    site.publish(&sensor, "a/1", "same policy", &["--policy", "role=nurse"]).success();
    site.publish(&sensor, "b/1", "on demand", &["--policy", "role=nurse"]).success();
    site.publish(&sensor, "b/1", "plain", &["--plain"]).success();
    site.publish(&nurse, "staff/1", "among us", &["--plain"]).success();
    let expected = [
        "a/1 sensor-1 same policy",
        "b/1 sensor-1 on demand",
        "b/1 (unsealed) plain",
        "staff/1 (unsealed) among us",
    ];
    assert_eq!(reader.out.first_lines(4), expected);
}

#[test]
fn one_authority_is_nothing_to_the_devices_of_another() {
    let (a, b) = (Site::start(), Site::start());
    let (nurse_a, nurse_b) = (a.enrol("nurse-a", &["role=nurse"]), b.enrol("nurse-b", &["role=nurse"]));
    a.rule_set("a/+", &["--policy", "role=nurse"]);
    // Each side looks at the other's certificate.
    let subscribe = ["subscribe", "-t", "a/+", "-W", "5", "--broker", b.up.broker.as_str()];
    let stranger = a.run_as(&nurse_a, &subscribe, b"");
    stranger.failure(&["no connection to the broker", "certificate", "hint: "]);
    let root = nurse_b.dir.join("root.pem").display().to_string();
    let believes = [&subscribe[..], &["--cafile", &root]].concat();
    a.run_as(&nurse_a, &believes, b"").failure(&["no connection to the broker", "hint: "]);
    assert!(!b.up.running.err.text().contains("nurse-a"), "never connected");
    // A keyring that is turned to another authority is not taken in either.
    let turned = copy(&a, &nurse_a, "turned");
    let identity = turned.dir.join("identity.json");
    let text = std::fs::read_to_string(&identity).unwrap().replace(&a.up.authority, &b.up.authority);
    std::fs::write(&identity, text).unwrap();
    let away = a.publish(&turned, "a/1", "x", &["--policy", "role=nurse"]);
    assert!(away.err.contains("is not the authority that was expected"), "{}", away.err);

    let Some(mosquitto) = Mosquitto::start() else { return };
    let url = mosquitto.url();
    let reader_a = a.subscribe(&nurse_a, "a/+", &["--broker", &url]);
    let reader_b = b.subscribe(&nurse_b, "a/+", &["--broker", &url]);
    a.publish(&nurse_a, "a/1", "between us", &["--broker", &url]).success();
    assert_eq!(reader_a.out.first_lines(1), ["a/1 nurse-a between us"]);
    reader_b.err.line("not opened: a/1: publisher-not-verified: ");
    assert_eq!(reader_b.out.text(), "");
}

#[test]
fn enrolment_waits_for_an_authority_that_is_away_and_not_forever() {
    let site = Site::start();
    let tokens = [site.token("nurse-1", &["role=nurse"]), site.token("nurse-2", &["role=nurse"])];
    let (first, second) = (site.device("nurse-1"), site.device("nurse-2"));
    let mut command = site.command();
    command.arg("enrol").env("SMQTT_DIR", &second.dir);
    let gone = kill(site);

    let mut waiting = Running::spawn(&mut command);
    waiting.write(tokens[1].as_bytes());
    waiting.close_input();
    waiting.err.line("cannot reach the authority at");
    let site = start_again(gone);
    let told = waiting.end();
    assert!(told.success().contains("enrolled     nurse-2"));
    assert!(told.err.contains("trying again in 250 ms"), "{}", told.err);
    site.run_as(&second, &["explain", "--policy", "role=nurse"], b"").success();

    let mut command = site.command();
    command.arg("enrol").env("SMQTT_DIR", &first.dir);
    let gone = kill(site);
    let ended = run(&mut command, tokens[0].as_bytes());
    let said = ended.failure(&[
        "error: cannot reach the authority at",
        "Connection refused",
        "hint: is `smqtt up` running",
    ]);
    assert_eq!(said.matches("trying again in").count(), 5, "{said}");
    assert!(said.contains("in 250 ms") && said.contains("in 4000 ms"), "{said}");
    // The token was not used up by that.
    let site = start_again(gone);
    site.enrol_with(&first, &tokens[0]).success();
}

#[test]
fn publishers_and_subscribers_outlast_a_broker_that_comes_back() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    let reader = site.subscribe(&nurse, "a/+", &[]);
    let mut command = site.command();
    // Retained, so that it does not matter who is back first.
    command.args(["publish", "-t", "a/1", "--lines", "--retain"]).env("SMQTT_DIR", &sensor.dir);
    let mut lines = Running::spawn(&mut command);
    lines.write(b"before\n");
    assert_eq!(reader.out.first_lines(1), ["a/1 sensor-1 before"]);

    let gone = kill(site);
    lines.err.line("broker away: ");
    reader.err.line("broker away: ");
    let site = start_again(gone);
    lines.err.line("broker back");
    reader.err.line("broker back");
    // What was retained outlived the broker, with its header, without which nobody could open it.
    assert_eq!(reader.out.first_lines(2)[1], "a/1 sensor-1 before");
    lines.write(b"after\n");
    lines.close_input();
    lines.end().success();
    assert_eq!(reader.out.first_lines(3)[2], "a/1 sensor-1 after");

    // And one that does not come back is given up, by its name.
    let gone = kill(site);
    let mut command = common::site::smqtt(gone.0.path());
    command.args(["publish", "-t", "a/1", "-m", "x"]).env("SMQTT_DIR", &sensor.dir);
    let ended = run(&mut command, b"");
    let said = ended.failure(&[
        "going on without the authority",
        "error: no connection to the broker",
        "Connection refused",
        "hint: ",
    ]);
    assert!(said.matches("broker away: ").count() >= 5, "{said}");
    let mut command = common::site::smqtt(gone.0.path());
    command.args(["subscribe", "-t", "a/1"]).env("SMQTT_DIR", &nurse.dir);
    run(&mut command, b"").failure(&["error: no connection to the broker"]);
}

#[test]
fn a_revoked_device_is_cut_off_and_nobody_else_is() {
    let site = Site::start();
    let thief = site.enrol("nurse-1", &["role=nurse", "ward=3"]);
    let other = site.enrol("nurse-2", &["role=nurse", "ward=3"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("ward/+", &["--policy", "role=nurse and ward=$1"]);
    let (cut, kept) = (site.subscribe(&thief, "ward/+", &[]), site.subscribe(&other, "ward/+", &[]));
    let mut command = site.command();
    command.args(["publish", "-t", "ward/3", "--lines"]).env("SMQTT_DIR", &sensor.dir);
    let mut lines = Running::spawn(&mut command);
    lines.write(b"before\n");
    for reader in [&cut, &kept] {
        assert_eq!(reader.out.first_lines(1), ["ward/3 sensor-1 before"]);
    }
    let stolen = copy(&site, &thief, "stolen");

    let told = site.run(&["device", "revoke", "nurse-1"]).success();
    assert!(
        told.contains("revoked      nurse-1") && told.contains("versions     raised for role=nurse, ward"),
        "{told}"
    );
    let begun = std::time::Instant::now();
    let ended = cut.end();
    assert!(begun.elapsed() < SOON, "cut off after {:?}", begun.elapsed());
    ended.failure(&["revoked"]);
    // The publisher's process goes on, the other holder reads on.
    lines.write(b"after\n");
    lines.close_input();
    lines.end().success();
    assert_eq!(kept.out.first_lines(2)[1], "ward/3 sensor-1 after");
    assert_eq!(ended.text(), "ward/3 sensor-1 before\n");
    assert!(!kept.err.text().contains("not opened"), "{}", kept.err.text());

    // It comes back nowhere: not to the broker, not to the authority, not with another program.
    for device in [&thief, &stolen] {
        site.run_as(device, &["subscribe", "-t", "ward/+", "-W", "5"], b"").failure(&["revoked"]);
        site.publish(device, "ward/3", "forged", &[]).failure(&["revoked"]);
        let keys = std::fs::read(device.dir.join("keys.json")).unwrap();
        let before = Keyring::load(&device.dir).unwrap();
        assert!(!keys.is_empty() && before.keys().iter().all(|key| key.epoch() == 1));
    }
    if is_there("mosquitto_sub") {
        for version in ["311", "5"] {
            let mut command = Command::new("mosquitto_sub");
            command.args(site.tls(&stolen)).args(["-V", version, "-t", "ward/+", "-W", "5"]);
            let refused = run(&mut command, b"");
            assert!(
                !refused.status.success() && refused.err.to_lowercase().contains("not authori"),
                "{refused:?}"
            );
        }
    }
    let listed = site.run(&["device", "list"]).success();
    assert!(
        listed.contains("nurse-1  device  revoked") && listed.contains("nurse-2  device  active"),
        "{listed}"
    );
    // The old keys open what was sealed before and nothing since.
    let after = file(&site, "after", &seal(&sensor, "ward/3", "36.6"));
    site.run_as(&other, &["explain", &after, "-t", "ward/3"], b"").success();
    let why = "version: my attributes satisfy `role=nurse and ward=3`, but in other versions";
    site.run_as(&stolen, &["explain", &after], b"").failure(&[why]);
    site.run_as(&stolen, &["explain", &after, "-t", "ward/3"], b"").failure(&["newer: "]);
    // What it publishes past the broker is not believed.
    let forged = file(&site, "forged", &seal(&stolen, "ward/3", "99.9"));
    site.run_as(&other, &["explain", &forged, "-t", "ward/3"], b"").failure(&["revoked"]);
    // Its name is free again, for a device that begins with the raised versions.
    let successor = site.enrol_again("nurse-1", &["role=nurse", "ward=3"]);
    site.run_as(&successor, &["explain", &after, "-t", "ward/3"], b"").success();
}

#[test]
fn explain_tells_what_is_in_the_way() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let clerk = site.enrol("clerk-1", &["role=clerk"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    site.publish(&sensor, "a/1", "x", &[]).success();
    let first = seal(&sensor, "a/1", "36.6");
    let envelope = file(&site, "first", &first);
    let explain = |device: &Device, path: &str| site.run_as(device, &["explain", path, "-t", "a/1"], b"");
    // Attributes, as a tree with a reason at each leaf.
    explain(&nurse, &envelope).success();
    let closed = explain(&clerk, &envelope);
    closed.failure(&["attributes: my attributes do not satisfy `role=nurse`"]);
    assert!(closed.text().contains("✗ role=nurse"), "{}", closed.text());
    // Parameters: signed by one of ours, under those of another authority.
    let other = Site::start();
    let foreign = copy(&site, &nurse, "foreign");
    std::fs::copy(other.enrol("x", &[]).dir.join("params.json"), foreign.dir.join("params.json")).unwrap();
    explain(&foreign, &envelope)
        .failure(&["params: sealed under the public parameters of another authority"]);
    // Epochs, both ways round.
    let behind = copy(&site, &nurse, "behind");
    let rotated = site.run(&["epoch", "rotate"]).success();
    assert!(rotated.contains("epoch 2 has begun"), "{rotated}");
    site.publish(&sensor, "a/1", "x", &[]).success();
    let second = file(&site, "second", &seal(&sensor, "a/1", "36.7"));
    site.run_as(&behind, &["explain", &second], b"").failure(&["epoch: sealed in epoch 2, my keys end at 1"]);
    explain(&behind, &second).failure(&["newer: ", "hint: "]);
    let listened = site.run_as(&nurse, &["subscribe", "-t", "a/+", "-W", "1"], b"");
    listened.success();
    explain(&nurse, &second).success();
    explain(&nurse, &envelope).success();
    // Broken in any part: said so, and never a crash.
    let mut reasons = std::collections::BTreeSet::new();
    for at in (0..first.len()).step_by(first.len() / 40) {
        let mut bytes = first.clone();
        bytes[at] ^= 0x10;
        let path = file(&site, "altered", &bytes);
        let said = explain(&nurse, &path).failure(&[]);
        reasons.insert(said.lines().next().unwrap().split(':').nth(1).unwrap().trim().to_owned());
        let cut = file(&site, "cut", &first[..at]);
        site.run(&["inspect", &cut]).failure(&["hint: "]);
    }
    assert!(reasons.contains("broken") && reasons.contains("publisher not verified"), "{reasons:?}");
    let plain = file(&site, "plain", b"36.6");
    site.run(&["inspect", &plain]).failure(&["hint: sealed payloads begin with the bytes da 53 4d 51 54"]);
    site.run(&["inspect", "/nowhere"]).failure(&["/nowhere"]);
    // By a policy alone, for whom one likes.
    let why = site.run(&[
        "explain",
        "--policy",
        "2 of (role=nurse, ward>=3, kind=sensor)",
        "--attributes",
        "role=nurse, ward=2",
    ]);
    why.failure(&["not satisfied"]);
    assert!(why.text().contains("✓ role=nurse") && why.text().contains("✗ ward>=3"), "{}", why.text());
}

#[test]
fn keys_begin_where_the_authority_says() {
    let home = TempDir::new();
    let config = home.path().join("smqtt.toml");
    std::fs::write(&config, "[authority]\nhistory_epochs = 0\n").unwrap();
    let config = config.display().to_string();
    let site = Site::with(&["--config", &config, "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"]);
    let sensor = site.enrol("sensor-1", &["kind=sensor"]);
    site.rule_set("a/+", &["--policy", "role=nurse"]);
    site.publish(&sensor, "a/1", "x", &[]).success();
    let envelope = file(&site, "first", &seal(&sensor, "a/1", "36.6"));
    site.run(&["epoch", "rotate"]).success();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let late = site.run_as(&nurse, &["explain", &envelope, "-t", "a/1"], b"");
    late.failure(&["epoch: sealed in epoch 1, my keys begin at 2"]);
}

#[test]
fn a_damaged_keyring_is_named() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let run = |device: &Device| site.run_as(device, &["explain", "--policy", "role=nurse"], b"");
    run(&nurse).success();
    for name in [
        "device.key",
        "hpke.key",
        "certificate.pem",
        "root.pem",
        "identity.json",
        "bundle.cose",
        "params.json",
        "keys.json",
    ] {
        let damaged = copy(&site, &nurse, name);
        let path = damaged.dir.join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        run(&damaged).failure(&[name, "hint: "]);
    }
    run(&site.device("nobody")).failure(&["no enrolled device in", "hint: enrol first"]);
    // The broker that a keyring names may be any address; one that is none is said to be none.
    for url in ["127.0.0.1:1883", "http://127.0.0.1", "mqtt://", "mqtts://[::1"] {
        let wrong = site.run_as(&nurse, &["subscribe", "-t", "a", "--broker", url], b"");
        wrong.failure(&[&format!("`{url}` is not the address of a broker"), "hint: "]);
    }
}

#[test]
fn nobody_goes_to_a_broker_that_was_revoked() {
    let site = Site::start();
    let sensor = site.enrol("sensor-1", &["role=sensor"]);
    let order = ["--policy", "role=nurse"];
    site.publish(&sensor, "a", "1", &order).success();
    site.run(&["device", "revoke", "broker"]).success();
    site.publish(&sensor, "a", "2", &order).failure(&["the broker `broker` was revoked"]);
}
