//! `smqtt doctor` finds what somebody broke, and nothing where nobody did.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::process::{Ended, run};
use common::site::{Site, address};

/// A configuration that names the ports that the site was given.
fn config(site: &Site) -> String {
    let path = site.home.path().join("site.toml");
    let plain = address(site.up.plain.as_deref().unwrap());
    let text = format!("[broker]\nlisten = \"{}\"\nplain = \"{plain}\"\n", address(&site.up.broker));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn doctor(site: &Site, arguments: &[&str]) -> Ended {
    run(site.command().arg("doctor").args(arguments), b"")
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_site_as_it_should_be_has_nothing_wrong() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    site.rule_set("ward/#", &["--policy", "role=nurse"]);
    let config = config(&site);
    let seen = doctor(&site, &["--config", &config]).success();
    for subject in
        ["files", "disk", "descriptors", "certificate", "bundle", "rules", "port", "authority", "clock"]
    {
        assert!(
            seen.lines().any(|line| line.split_whitespace().nth(1) == Some(subject)),
            "{subject}: {seen}"
        );
    }
    assert!(!seen.contains("FAIL"), "{seen}");
    assert!(seen.contains(&format!("the broker listens at {}\n", site.up.broker)), "{seen}");
    let lines = doctor(&site, &["--config", &config, "--json"]).success();
    for line in lines.lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["ok", "warn"].contains(&finding["level"].as_str().unwrap()), "{line}");
    }
    // A device, and a broker on a machine of its own, look at their keyrings.
    let device = doctor(&site, &["--dir", nurse.dir.to_str().unwrap()]).success();
    assert!(device.contains("of `nurse-1` is valid until"), "{device}");
    let broker = doctor(&site, &["--dir", site.data().join("broker").to_str().unwrap()]).success();
    assert!(broker.contains("1 rule, none opens what another closes"), "{broker}");
}

#[test]
fn what_was_broken_is_found_with_what_to_do() {
    let site = Site::start();
    let nurse = site.enrol("nurse-1", &["role=nurse"]);
    let config = config(&site);
    site.rule_set("ward/#", &["--policy", "role=nurse"]);
    site.rule_set("ward/+/door", &["--mode", "open"]);
    let overlap = doctor(&site, &["--config", &config]).success();
    assert!(overlap.contains("warn  rules        topics of both `ward/+/door` and `ward/#`"), "{overlap}");

    let key = site.data().join("broker/device.key");
    chmod(&key, 0o644);
    let open = doctor(&site, &["--config", &config]);
    open.failure(&["1 thing is wrong"]);
    assert!(open.text().contains("broker/device.key` can be read or entered by others"), "{}", open.text());
    assert!(open.text().contains("hint: chmod -R go="), "{}", open.text());
    chmod(&key, 0o600);

    // Nobody listens where the configuration says.
    let wrong = site.home.path().join("wrong.toml");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&wrong, format!("[broker]\nlisten = \"{free}\"\n")).unwrap();
    let ended = doctor(&site, &["--config", wrong.to_str().unwrap()]);
    ended.failure(&["1 thing is wrong"]);
    assert!(ended.text().contains(&format!("nobody listens at mqtts://{free}")), "{}", ended.text());

    // A stranger listens there. Without a configuration nobody knows where to look, and whoever is found is not taken for ours.
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    std::thread::spawn(move || while stranger.accept().is_ok() {});
    std::fs::write(&wrong, format!("[broker]\nlisten = \"{taken}\"\n")).unwrap();
    let ended = doctor(&site, &["--config", wrong.to_str().unwrap()]);
    ended.failure(&["1 thing is wrong"]);
    let said = format!("what listens at mqtts://{taken} has no certificate of this authority");
    assert!(ended.text().contains(&said), "{}", ended.text());
    let blind = doctor(&site, &[]).success();
    let port = blind.lines().find(|line| line.split_whitespace().nth(1) == Some("port")).unwrap();
    assert!(port.starts_with("warn ") && port.contains("mqtts://127.0.0.1:8883, the default"), "{port}");

    std::fs::write(nurse.dir.join("device.key"), "no key").unwrap();
    let damaged = doctor(&site, &["--dir", nurse.dir.to_str().unwrap()]);
    damaged.failure(&["1 thing is wrong"]);
    assert!(damaged.text().contains("FAIL  keyring"), "{}", damaged.text());

    let Site { up, home } = site;
    up.running.signal("INT");
    up.running.end().success();
    let mut command = common::site::smqtt(home.path());
    command.args(["doctor", "--data"]).arg(home.path().join("site")).args(["--config", &config]);
    let stopped = run(&mut command, b"");
    stopped.failure(&["3 things are wrong"]);
    assert!(stopped.text().contains("FAIL  authority    cannot reach the authority"), "{}", stopped.text());
}

#[test]
fn a_directory_that_is_no_site_is_said_to_be_none() {
    let home = common::TempDir::new();
    let mut command = common::site::smqtt(home.path());
    let ended = run(command.args(["doctor", "--data"]).arg(home.path()), b"");
    ended.failure(&["1 thing is wrong"]);
    assert!(ended.text().contains("holds no authority"), "{}", ended.text());
}
