//! docs/OPERATING.md, docs/AUTHORITY.md and the dashboards say what broker and authority do: every limit with its default and its reason codes, and no
//! metric that is not there.

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use common::site::Site;
use smqtt::broker::{Limit, Limits as BrokerLimits};

const OPERATING: &str = include_str!("../docs/OPERATING.md");
const AUTHORITY: &str = include_str!("../docs/AUTHORITY.md");
const MQTT: &str = include_str!("../docs/MQTT.md");
const DASHBOARD: &str = include_str!("../docs/grafana-dashboard.json");
const AUTHORITY_DASHBOARD: &str = include_str!("../docs/grafana-authority.json");

/// What a unit of systemd says under this name.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.next().unwrap_or_else(|| panic!("no {name}= in {unit}"))
}

#[test]
fn services_may_use_the_sockets_and_files_that_the_docs_name() {
    let authority = include_str!("../deploy/smqtt-authority.service");
    let others =
        [include_str!("../deploy/smqtt-broker.service"), include_str!("../deploy/smqtt-bridge.service")];
    // admin.sock, and syslog's.
    for unit in [authority].iter().chain(&others) {
        let families: Vec<&str> = setting(unit, "RestrictAddressFamilies").split(' ').collect();
        assert!(families.contains(&"AF_UNIX"), "{unit}");
    }
    assert_eq!(setting(authority, "ProtectSystem"), "strict");
    let file = AUTHORITY.split_once("audit_file = \"").unwrap().1.split_once('"').unwrap().0;
    let directory = format!("/var/log/{}/", setting(authority, "LogsDirectory"));
    assert!(file.starts_with(&directory), "{file} cannot be written by the service");
    let data = format!("/var/lib/{} ", setting(authority, "StateDirectory"));
    assert!(setting(authority, "ExecStart").contains(&data));
}

/// The names of metrics in a text, as they are exposed.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let of_ours = |word: &&str| word.starts_with("smqtt_") || word.starts_with("process_");
    // A part of the program that a log is asked about is no metric.
    words.filter(of_ours).filter(|word| *word != "smqtt_keysvc").map(str::to_owned).collect()
}

/// The names that /metrics has: of a broker with an authority and a store, and of that authority.
fn exposed() -> (BTreeSet<String>, BTreeSet<String>) {
    let site = Site::start();
    (exposed_by(&site, "broker/admin.sock"), exposed_by(&site, "admin.sock"))
}

fn exposed_by(site: &Site, socket: &str) -> BTreeSet<String> {
    let mut stream = UnixStream::connect(site.data().join(socket)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    // What has no value before something happens has a heading.
    names(&text)
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let defaults = serde_json::to_value(BrokerLimits::default()).unwrap();
    let expected: Vec<String> = Limit::ALL
        .iter()
        .map(|limit| {
            let default = match &defaults[limit.name()] {
                serde_json::Value::Null => "-".to_owned(),
                value => value.to_string(),
            };
            let reasons: Vec<String> =
                limit.reasons().iter().map(|reason| format!("0x{:02X}", *reason as u8)).collect();
            let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
            format!("| `{}` | {default} | {reasons} |", limit.name())
        })
        .collect();
    let (_, section) = OPERATING.split_once("| limit | default | reason code |").unwrap();
    let rows: Vec<String> = section
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| format!("{} |", line.splitn(5, '|').take(4).collect::<Vec<_>>().join("|").trim_end()))
        .collect();
    assert_eq!(rows, expected);
}

/// `name` (default), with commas in large numbers.
#[test]
fn the_defaults_that_mqtt_md_gives_are_those_of_the_code() {
    let defaults = serde_json::to_value(BrokerLimits::default()).unwrap();
    let mut compared = 0;
    for limit in Limit::ALL {
        for (_, rest) in MQTT.match_indices(&format!("`{}` (", limit.name())).map(|(at, _)| MQTT.split_at(at))
        {
            let said = rest.split_once(" (").and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
            let default = match &defaults[limit.name()] {
                serde_json::Value::Null => "off".to_owned(),
                value => value.to_string(),
            };
            assert_eq!(said.replace(',', ""), default, "{}", limit.name());
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn every_metric_of_the_dashboard_and_of_the_text_is_there() {
    let (broker, authority) = exposed();
    for (what, text, exposed) in [
        ("the dashboard", DASHBOARD, &broker),
        ("docs/OPERATING.md", OPERATING, &broker),
        ("the authority's dashboard", AUTHORITY_DASHBOARD, &authority),
        ("docs/AUTHORITY.md", AUTHORITY, &authority),
    ] {
        let unknown: Vec<String> = names(text)
            .into_iter()
            .filter(|name| {
                let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
                !exposed.contains(name) && !base.is_some_and(|base| exposed.contains(base))
            })
            .collect();
        assert_eq!(unknown, Vec::<String>::new(), "{what} names metrics that there are not");
    }
}

#[test]
fn every_metric_is_in_the_text() {
    let (broker, authority) = exposed();
    for (text, exposed) in [(OPERATING, broker), (AUTHORITY, authority)] {
        let named = names(text);
        let missing: Vec<String> = exposed
            .into_iter()
            .filter(|name| !["_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix)))
            // What every process shows is said once.
            .filter(|name| !named.contains(name) && !names(OPERATING).contains(name))
            .collect();
        assert_eq!(missing, Vec::<String>::new());
    }
}

#[test]
fn the_dashboard_can_be_imported() {
    [DASHBOARD, AUTHORITY_DASHBOARD].into_iter().for_each(can_be_imported);
}

fn can_be_imported(text: &str) {
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(dashboard["title"].is_string() && dashboard["schemaVersion"].is_u64());
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        assert!(panel["gridPos"]["w"].as_u64().unwrap() + panel["gridPos"]["x"].as_u64().unwrap() <= 24);
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            assert!(!names(expr).is_empty(), "{expr}");
            let depth = expr.chars().fold(0, |depth, c| depth + i32::from(c == '(') - i32::from(c == ')'));
            assert_eq!(depth, 0, "{expr}");
        }
    }
}
