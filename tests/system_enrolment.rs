//! From a token to a device and on: batches, serials, approval, QR codes, and what becomes of a device later, with the
//! command line and the broker as people run them.

mod common;

use common::peers::is_there;
use common::process::{Running, run};
use common::site::{SOON, Site};
use common::until;
use serde_json::Value;
use smqtt_client::keyring::Keyring;

/// What `smqtt token new` prints last.
fn last_line(printed: &str) -> String {
    printed.lines().last().unwrap().to_owned()
}

#[test]
fn a_token_for_several_names_each_by_its_serial() {
    let site = Site::start();
    let serials = site.home.path().join("serials");
    std::fs::write(&serials, "A1\nA2\n\n").unwrap();
    let made = site.run(&[
        "token",
        "new",
        "lock",
        "kind=lock",
        "--serials-file",
        serials.to_str().unwrap(),
        "--serial",
        "A3",
    ]);
    let token = last_line(&made.success());
    assert!(made.err.contains("good for 3 enrolments"), "{}", made.err);
    let one = site.device("one");
    site.enrol_with(&one, &token).failure(&["certain serials", "--serial"]);
    let enrolled = site.run_as(&one, &["enrol", "--serial", "A2"], token.as_bytes()).success();
    assert!(enrolled.contains("lock-A2"), "{enrolled}");
    let other = site.device("other");
    site.run_as(&other, &["enrol", "--serial", "A2"], token.as_bytes()).failure(&["used by another device"]);

    let listed: Value = serde_json::from_str(&site.run(&["token", "list", "--json"]).success()).unwrap();
    let listed = listed.as_array().unwrap().iter().find(|token| token["name"] == "lock").unwrap();
    assert_eq!((listed["used"].as_u64(), listed["count"].as_u64()), (Some(1), Some(3)));
    let id = listed["id"].as_str().unwrap();
    let shown = site.run(&["token", "show", id]).success();
    assert!(shown.contains("serials      A1, A2, A3") && shown.contains("enrolled     lock-A2"), "{shown}");
    site.run(&["token", "remove", id]).success();
    site.run_as(&other, &["enrol", "--serial", "A1"], token.as_bytes()).failure(&["taken back"]);
    assert!(!site.run(&["token", "list"]).success().contains("lock"), "only what can be used");
    assert!(site.run(&["token", "list", "--all"]).success().contains("removed"));
    let device = site.run(&["device", "show", "lock-A2"]).success();
    assert!(device.contains("serial       A2"), "{device}");
}

#[test]
fn a_device_waits_until_a_person_approves_it() {
    let site = Site::start();
    site.run(&["profile", "set", "eye", "eye", "--policy", "kind=cam"]).success();
    site.run(&["group", "set", "yard", "place=yard", "--profile", "eye"]).success();
    let token = ["token", "new", "cam", "kind=cam", "--group", "yard", "--profile", "eye", "--approval"];
    let token = last_line(&site.run(&token).success());
    let listed = site.run(&["token", "list"]).success();
    assert!(listed.contains("  kind=cam  profile eye  group yard  to be approved"), "{listed}");
    let id = listed.split_whitespace().next().unwrap();
    let shown = site.run(&["token", "show", id]).success();
    assert!(shown.contains("profile      eye\ngroup        yard\n"), "{shown}");
    let mut command = site.command();
    command.arg("enrol").env("SMQTT_DIR", &site.device("cam").dir);
    let mut enrolling = Running::spawn(&mut command);
    enrolling.write(token.as_bytes());
    enrolling.close_input();
    let told = enrolling.err.line("waiting for approval as `cam`, key ");
    let key = told.rsplit(' ').next().unwrap();
    let waiting = site.run(&["device", "waiting"]).success();
    assert!(waiting.contains(&format!("cam  key {key}")), "{waiting} {told}");
    // All that it would have.
    assert!(waiting.contains("  eye, kind=cam, place=yard  policy kind=cam\n"), "{waiting}");
    site.run(&["device", "approve", "cam", "0000-0000-0000-0000"]).failure(&["another key"]);
    let approved = site.run(&["device", "approve", "cam", key]).success();
    assert!(approved.contains("kind=cam"), "{approved}");
    let enrolled = enrolling.end().success();
    assert!(enrolled.contains("enrolled     cam"), "{enrolled}");
    assert_eq!(site.run(&["device", "waiting"]).success(), "");

    // An attribute that turns round what is read after it.
    let turned = "note=\"a\u{202e}b\"";
    let token = last_line(&site.run(&["token", "new", "stranger", turned, "--approval"]).success());
    let mut command = site.command();
    command.arg("enrol").env("SMQTT_DIR", &site.device("stranger").dir);
    let mut enrolling = Running::spawn(&mut command);
    enrolling.write(token.as_bytes());
    enrolling.close_input();
    enrolling.err.line("waiting for approval");
    let waiting = site.run(&["device", "waiting"]).success();
    assert!(waiting.contains("a\u{fffd}b") && !waiting.contains('\u{202e}'), "{waiting}");
    site.run(&["device", "deny", "stranger"]).success();
    enrolling.end().failure(&["denied"]);
}

/// The modules that are light, of the lines of block characters before the token.
fn modules(printed: &str) -> Vec<Vec<bool>> {
    let mut rows = Vec::new();
    for line in printed.lines().filter(|line| line.starts_with(['█', '▀'])) {
        rows.push(line.chars().map(|c| "█▀".contains(c)).collect());
        rows.push(line.chars().map(|c| "█▄".contains(c)).collect());
    }
    rows
}

#[test]
fn a_token_as_a_qr_code_is_read_by_a_stock_decoder() {
    if !is_there("zbarimg") {
        return;
    }
    let site = Site::start();
    let printed = site.run(&["token", "new", "sensor", "kind=sensor", "--qr"]).success();
    let (token, rows) = (last_line(&printed), modules(&printed));
    assert!(token.starts_with("smqtt1.") && rows.len() > 40, "{printed}");
    const SCALE: usize = 4;
    let mut image = format!("P5 {} {} 255\n", rows[0].len() * SCALE, rows.len() * SCALE).into_bytes();
    for row in rows {
        let line = row.iter().flat_map(|light| [if *light { 255 } else { 0 }; SCALE]).collect::<Vec<u8>>();
        image.extend(line.repeat(SCALE));
    }
    let file = site.home.path().join("qr.pgm");
    std::fs::write(&file, image).unwrap();
    let read = run(std::process::Command::new("zbarimg").args(["--raw", "-q"]).arg(&file), b"").success();
    assert_eq!(read.trim(), token);
}

#[test]
fn a_suspended_device_is_cut_and_comes_back_and_a_reset_one_begins_anew() {
    let site = Site::start();
    site.rule_set("ward/+", &["--policy", "role=nurse and ward=$1"]);
    let nurse = site.enrol("nurse", &["role=nurse", "ward=3"]);
    let sensor = site.enrol("sensor", &["role=sensor"]);
    let reader = site.subscribe(&nurse, "ward/3", &[]);
    site.publish(&sensor, "ward/3", "one", &[]).success();
    assert_eq!(reader.out.first_lines(1), ["ward/3 sensor one"]);

    let told = site.run(&["device", "suspend", "nurse"]).success();
    assert!(told.contains("raised for role=nurse, ward"), "{told}");
    reader.err.wait("the session to be cut", SOON, |text| text.contains("revoked").then_some(()));
    site.run_as(&nurse, &["publish", "-t", "x", "-m", "y", "--plain"], b"").failure(&[]);
    assert!(site.run(&["device", "show", "nurse"]).success().contains("status       suspended"));
    site.run(&["device", "suspend", "nurse"]).success();

    let told = site.run(&["device", "resume", "nurse"]).success();
    assert!(told.contains("active       nurse"), "{told}");
    let bundle = told.split_whitespace().skip_while(|word| *word != "bundle").nth(1).unwrap();
    site.wait_bundle(bundle.parse().unwrap());
    drop(reader);
    let reader = site.subscribe(&nurse, "ward/3", &[]);
    site.publish(&sensor, "ward/3", "two", &[]).success();
    assert_eq!(reader.out.first_lines(1), ["ward/3 sensor two"]);

    let reset = site.run(&["device", "reset", "nurse"]);
    let token = last_line(&reset.success());
    assert!(!reset.err.contains(&token));
    reader.err.wait("the session to be cut", SOON, |text| text.contains("revoked").then_some(()));
    site.run_as(&nurse, &["publish", "-t", "x", "-m", "y", "--plain"], b"").failure(&[]);
    let again = site.device("nurse-again");
    site.enrol_with(&again, &token).success();
    let reader = site.subscribe(&again, "ward/3", &[]);
    site.publish(&sensor, "ward/3", "three", &[]).success();
    assert_eq!(reader.out.first_lines(1), ["ward/3 sensor three"]);
}

/// The loser has everything it had before the change, and is a member of the broker all the time.
#[test]
fn a_device_that_loses_an_attribute_reads_on_for_the_others_alone_until_it_gains_it_again() {
    let site = Site::start();
    site.rule_set("ward/+", &["--policy", "role=nurse and ward=$1"]);
    let nurse = site.enrol("nurse", &["role=nurse", "ward=3", "ward=4"]);
    let other = site.enrol("other", &["role=nurse", "ward=3"]);
    let sensor = site.enrol("sensor", &["role=sensor"]);
    let reader = site.subscribe(&nurse, "ward/+", &[]);
    let second = site.subscribe(&other, "ward/3", &[]);
    site.publish(&sensor, "ward/3", "one", &[]).success();
    assert!(reader.out.first_lines(1)[0].ends_with("one"));
    let told = site.run(&["device", "set", "nurse", "ward=4"]).success();
    assert!(told.contains("attributes   role=nurse, ward=4") && told.contains("raised for ward"), "{told}");
    let bundle = told.split_whitespace().skip_while(|word| *word != "bundle").nth(1).unwrap();
    site.wait_bundle(bundle.trim_end_matches(';').parse().unwrap());
    site.publish(&sensor, "ward/3", "two", &[]).success();
    second.out.line("two");
    site.publish(&sensor, "ward/4", "three", &[]).success();
    reader.out.line("three");
    assert!(!reader.out.text().contains("two"), "{}", reader.out.text());

    // What it gains it reads without being started anew.
    let revision = || Keyring::load(&nurse.dir).unwrap().revision();
    let before = revision();
    site.run(&["device", "set", "nurse", "--add", "ward=3"]).success();
    until("its keys to follow", SOON, || (revision() > before).then_some(()));
    site.publish(&sensor, "ward/3", "four", &[]).success();
    reader.out.line("four");
}

#[test]
fn a_file_of_devices_becomes_a_file_of_tokens_and_a_run_that_broke_off_goes_on() {
    let site = Site::start();
    let told =
        site.run(&["profile", "set", "sensor", "kind=sensor", "--rule", "ward/+", "kind=reader and ward=$1"]);
    told.success();
    site.run(&["group", "set", "ward-3", "ward=3", "--profile", "sensor"]).success();
    let (devices, out) = (site.home.path().join("devices.csv"), site.home.path().join("tokens.csv"));
    let bulk = |text: &str| {
        std::fs::write(&devices, text).unwrap();
        let (devices, out) = (devices.to_str().unwrap(), out.to_str().unwrap());
        site.run(&["token", "bulk", devices, "--out", out])
    };
    let head = "name,group,profile,attributes,policy,serial\n";
    // Whatever is wrong is named by its line, and nothing was made.
    bulk(&format!("{head}a,,,,,\nb,,,x=,,\n")).failure(&["devices.csv:3", "attribute `x=`"]);
    bulk(&format!("{head}a,,,,,\na,,,,,\n")).failure(&["devices.csv:3", "twice"]);
    bulk(&format!("{head}a,,,,,\n-,,,,,\n")).failure(&["devices.csv:3", "a name has"]);
    bulk(&format!("{head}a,,,,,\n{},,,,,\n", "0f".repeat(16))).failure(&["devices.csv:3", "an identifier"]);
    bulk("name,colour\na,red\n").failure(&["devices.csv:2", "colour", "the columns are"]);
    // Lines are counted as editors do, also those of a file from Windows, and empty ones.
    let windows = |text: &str| bulk(&format!("{head}{text}").replace('\n', "\r\n"));
    windows("a,,,,,\nb,,,x=,,\n").failure(&["devices.csv:3", "attribute `x=`"]);
    windows("a,,,,,\n\n\nb,,\n").failure(&["devices.csv:5", "has 3 columns, and the first line 6"]);
    windows("a,,,,,\nb,none,,,,\n").failure(&["devices.csv:3", "no group `none`"]);
    bulk(&format!("{head}a,,,,,\nb,ward-3,none,,,\n")).failure(&["devices.csv:3", "no profile `none`"]);
    assert!(!out.exists() && !site.run(&["token", "list"]).success().contains("  a  "));
    // What is there and is no file of tokens stays as it is: another text, one without an end of line, what is no text at all.
    for other in [
        &b"name,colour\na,red\n"[..],
        b"a secret",
        b"name,token",
        b"name,token,expires\n\xff\n",
        b"\xff\xfe\n",
    ] {
        std::fs::write(&out, other).unwrap();
        bulk(&format!("{head}a,,,,,\n")).failure(&["is not a file of tokens", "--out"]);
        assert_eq!(std::fs::read(&out).unwrap(), other);
    }
    std::fs::remove_file(&out).unwrap();

    let text =
        format!("{head}one,ward-3,,floor=2; wing=east,,\ntwo,ward-3,,,,\nthree,,sensor,,\"ward=3\",T-3\n");
    // What only the turn of a line shows.
    site.enrol("two", &[]);
    bulk(&text).failure(&["devices.csv:3", "the name `two` is taken"]);
    site.run(&["device", "revoke", "two"]).success();
    let first = std::fs::read_to_string(&out).unwrap();
    assert_eq!(first.lines().count(), 2, "what was made is there: {first}");
    // As a crash leaves it: a line that was cut off.
    std::fs::write(&out, format!("{first}two,smqtt1.abc")).unwrap();
    let held = std::fs::File::open(&out).unwrap();
    held.lock().unwrap();
    bulk(&text).failure(&["another `smqtt token bulk` is at work with", "tokens.csv"]);
    drop(held);
    let done = bulk(&text);
    assert!(done.success().contains("2 tokens in") && done.err.contains("100%"), "{}", done.err);
    let all = std::fs::read_to_string(&out).unwrap();
    assert!(all.starts_with(&first) && !all.contains("smqtt1.abc\n"), "{all}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&out.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(bulk(&text).success().contains("0 tokens in"));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), all);

    let token = |name: &str| {
        let line = all.lines().find(|line| line.starts_with(&format!("{name},"))).unwrap();
        line.split(',').nth(1).unwrap().to_owned()
    };
    site.enrol_with(&site.device("one"), &token("one")).success();
    let shown = site.run(&["device", "show", "one"]).success();
    assert!(shown.contains("floor=2, kind=sensor, ward=3, wing=east"), "{shown}");
    let three = site.device("three");
    site.run_as(&three, &["enrol", "--serial", "T-3"], token("three").as_bytes()).success();
    let open: Value = serde_json::from_str(&site.run(&["token", "list", "--json"]).success()).unwrap();
    let open = open.as_array().unwrap().iter().filter(|token| token["name"] == "two").count();
    assert_eq!(open, 1, "no second token for anybody");

    // What they have in common changes for all of them.
    let told = site.run(&["group", "set", "ward-3", "ward=4", "--profile", "sensor"]).success();
    assert!(told.contains("devices      1 have something else now"), "{told}");
    assert!(site.run(&["profile", "show", "sensor"]).success().contains("rule         ward/+"));
    site.run(&["profile", "remove", "sensor"]).failure(&["in use"]);
    assert!(site.run(&["group", "list"]).success().contains("ward-3  profile sensor  ward=4"));
}
