//! Attributes that change: what a device gains it can open, what it loses it cannot.

use smqtt_core::api::{AuditRecord, Device as Listed, DeviceChanged, Keys};
use smqtt_core::header::Header;

use crate::common::*;

async fn change(server: &Running, name: &str, change: serde_json::Value) -> DeviceChanged {
    let answer = server.admin().patch(&format!("/v1/devices/{name}"), &change).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    answer.json()
}

/// Whether any key that the device is given now opens this.
async fn opens(server: &Running, device: &Device, header: &Header) -> bool {
    let keys: Keys = server.client(device).get("/v1/keys").await.json();
    let suite = header.target().suite();
    let params = device.params_of(suite);
    device.open_keys(&keys.keys).iter().any(|key| header.open(&params, key).is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_opens_and_what_is_removed_shuts_out() {
    let server = Running::start().await;
    let nurse = server.enrol("nurse", &["role=nurse", "ward=3", "ward=4"]).await;
    let other = server.enrol("other", &["role=nurse", "floor=2"]).await;
    let sensor = server.enrol("sensor", &[]).await;
    let before = server.newest_bundle().await;

    let done = change(&server, "nurse", serde_json::json!({"add": ["floor=2"]})).await;
    assert_eq!(done.device.attributes, ["floor=2", "role=nurse", "ward=3", "ward=4"]);
    assert!(done.raised.is_empty(), "nobody renews because somebody gained something");
    assert_eq!(done.bundle, before.number + 1);
    let (floor, _) = sensor.seal("floor=2", &server.newest_bundle().await, START);
    assert!(opens(&server, &nurse, &floor).await);

    // The attack: keys kept from before, against what is sealed after.
    let keys: Keys = server.client(&nurse).get("/v1/keys").await.json();
    let kept = nurse.open_keys(&keys.keys);
    let done = change(&server, "nurse", serde_json::json!({"remove": ["floor=2", "ward=9"]})).await;
    assert_eq!((done.device.attributes.len(), done.raised), (3, vec!["floor".to_owned()]));
    let (floor, _) = sensor.seal("floor=2", &server.newest_bundle().await, START);
    assert!(kept.iter().all(|key| floor.open(&nurse.params(), key).is_err()));
    assert!(!opens(&server, &nurse, &floor).await);
    assert!(opens(&server, &other, &floor).await, "whoever has it goes on, with newer keys");
    let (role, _) = sensor.seal("role=nurse", &server.newest_bundle().await, START);
    assert!(kept.iter().any(|key| role.open(&nurse.params(), key).is_ok()), "the rest it keeps");
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_replaces_all_of_a_name_and_a_name_alone_removes_all() {
    let server = Running::start().await;
    server.enrol("a", &["ward=3", "ward=4", "role=nurse", "admin"]).await;
    let done = change(&server, "a", serde_json::json!({"set": ["ward=5"]})).await;
    assert_eq!(done.device.attributes, ["admin", "role=nurse", "ward=5"]);
    assert_eq!(done.raised, ["ward"]);
    let done =
        change(&server, "a", serde_json::json!({"set": ["ward=6", "ward=7"], "remove": ["admin"]})).await;
    assert_eq!(done.device.attributes, ["role=nurse", "ward=6", "ward=7"]);
    let done = change(&server, "a", serde_json::json!({"remove": ["ward", "role"]})).await;
    assert!(done.device.attributes.is_empty());
    assert_eq!(done.raised, ["role=nurse", "ward"]);
    let bundle = server.newest_bundle().await.number;
    let again = change(&server, "a", serde_json::json!({"remove": ["ward", "role"]})).await;
    assert_eq!((again.bundle, again.raised.len()), (bundle, 0), "nothing to do: no new bundle");
    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert_eq!(audit.iter().filter(|row| row.action == "change-device").count(), 3);
}

/// A key with one integer of a name satisfies comparisons. With two of them no comparison holds, and the key for the one
/// must not go on to satisfy it.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_integer_ends_comparisons_with_the_first() {
    let server = Running::start().await;
    let guard = server.enrol("guard", &["level=3"]).await;
    let sensor = server.enrol("sensor", &[]).await;
    let kept = guard.open_keys(&guard.enrolment.keys);
    let done = change(&server, "guard", serde_json::json!({"add": ["level=1"]})).await;
    assert_eq!(done.raised, ["level"]);
    let (header, _) = sensor.seal("level>=2", &server.newest_bundle().await, START);
    assert!(kept.iter().all(|key| header.open(&guard.params(), key).is_err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_takes_the_place_of_the_old_one() {
    let server = Running::start().await;
    let reader = server.enrol_with_policy("reader", &[], "kind=reading and ward=3").await;
    let sensor = server.enrol("sensor", &[]).await;
    let kept = reader.open_keys(&reader.enrolment.keys);
    let done = change(&server, "reader", serde_json::json!({"policy": "kind=reading and ward=4"})).await;
    assert_eq!(done.device.policy.as_deref(), Some("kind=reading and ward=4"));
    assert_eq!(done.raised, ["kind=reading", "ward"]);
    let bundle = server.newest_bundle().await;
    let ward = |n: u8| sensor.label(&format!("kind=reading, ward={n}"), &bundle, START).0;
    let (three, four) = (ward(3), ward(4));
    let params = reader.params_of(three.target().suite());
    assert!(kept.iter().all(|key| three.open(&params, key).is_err()), "the old policy's key is shut out");
    assert!(opens(&server, &reader, &four).await && !opens(&server, &reader, &three).await);

    let done = change(&server, "reader", serde_json::json!({"policy": null})).await;
    assert_eq!((done.device.policy, done.raised.len()), (None, 2));
    let (header, _) = sensor.label("kind=reading, ward=4", &server.newest_bundle().await, START);
    assert!(!opens(&server, &reader, &header).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let server = Running::start().await;
    let admin = server.admin();
    server.enrol("a", &["x"]).await;
    server.enrol_broker("b", &[]).await;
    server.enrol_bridge("c", &["zone=1"]).await;
    let bundle = server.newest_bundle().await.number;
    let many: Vec<String> = (0..65).map(|n| format!("n{n}")).collect();
    for (name, change, status, code) in [
        ("a", serde_json::json!({"set": ["="]}), 400, "attributes"),
        ("a", serde_json::json!({"add": many}), 400, "attributes"),
        ("a", serde_json::json!({"policy": "a and"}), 400, "policy"),
        ("a", serde_json::json!({"attributes": ["x"]}), 400, "json"),
        ("a", serde_json::json!({"id": "0"}), 400, "json"),
        ("b", serde_json::json!({"add": ["x"]}), 400, "attributes"),
        ("c", serde_json::json!({"policy": "x"}), 400, "policy"),
        ("nobody", serde_json::json!({"add": ["x"]}), 404, "no-such-device"),
        ("admin", serde_json::json!({"add": ["x"]}), 409, "not-revocable"),
    ] {
        admin.patch(&format!("/v1/devices/{name}"), &change).await.problem(status, code);
    }
    assert_eq!(server.newest_bundle().await.number, bundle);
    // A bridge has no keys: its attributes change, and nobody renews.
    let done = change(&server, "c", serde_json::json!({"set": ["zone=2"]})).await;
    assert_eq!((done.device.attributes, done.raised.len()), (vec!["zone=2".to_owned()], 0));
    let listed: Listed = admin.get("/v1/devices/a").await.json();
    assert_eq!(listed.attributes, ["x"]);
}
