//! Epochs and the keys of each.

use hyper::{Request, StatusCode};
use smqtt_core::api::{Keys, Rotation};
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_keysvc::Config;

use crate::common::*;

fn epochs(keys: &Keys) -> Vec<u64> {
    keys.keys.iter().map(|key| key.epoch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_ends_by_itself_and_only_one_follows_however_long_it_was() {
    let server = Running::start().await;
    server.clock.advance(DAY - 1);
    server.authority.housekeep().await.unwrap();
    assert_eq!(server.newest_bundle().await.epoch.number, 1);
    server.clock.advance(1);
    server.authority.housekeep().await.unwrap();
    let bundle = server.newest_bundle().await;
    assert_eq!(
        (bundle.epoch.number, bundle.epoch.begins, bundle.epoch.ends),
        (2, START + DAY, START + 2 * DAY)
    );
    server.clock.advance(10 * DAY);
    server.authority.housekeep().await.unwrap();
    server.authority.housekeep().await.unwrap();
    let bundle = server.newest_bundle().await;
    assert_eq!((bundle.epoch.number, bundle.epoch.begins), (3, START + 11 * DAY));
    assert!(bundle.expires > server.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_for_the_last_epochs_this_one_and_the_next_when_it_is_near() {
    let server = Running::with(Config { history_epochs: 2, ..Config::default() }).await;
    let device = server.enrol("a", &["x"]).await;
    let client = server.client(&device);
    for epoch in 2..=4 {
        server.clock.advance(100);
        let rotation: Rotation = server.admin().post("/v1/epoch/rotate", &()).await.json();
        assert_eq!(rotation.epoch, epoch);
    }
    let keys: Keys = client.get("/v1/keys").await.json();
    assert_eq!(epochs(&keys), [2, 3, 4]);
    assert_eq!(keys.attributes, ["x"]);
    device.open_keys(&keys.keys);
    server.clock.advance(DAY / 4 * 3 - 1);
    assert_eq!(epochs(&client.get("/v1/keys").await.json()), [2, 3, 4]);
    server.clock.advance(1);
    assert_eq!(epochs(&client.get("/v1/keys").await.json()), [2, 3, 4, 5]);
    let late = server.enrol("late", &["x"]).await;
    assert_eq!(late.enrolment.keys.iter().map(|key| key.epoch).collect::<Vec<_>>(), [2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_keys_have_the_versions_their_epoch_ended_with() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    server.enrol("b", &["x"]).await;
    server.enrol("c", &["x"]).await;
    server.admin().post("/v1/devices/b/revoke", &()).await;
    server.admin().post("/v1/epoch/rotate", &()).await;
    server.admin().post("/v1/devices/c/revoke", &()).await;
    let keys: Keys = server.client(&device).get("/v1/keys").await.json();
    let keys = device.open_keys(&keys.keys);
    let attributes = Attributes::parse(["x"]).unwrap();
    for (key, version) in keys.iter().zip([1, 2]) {
        let mut versions = Versions::default();
        versions.set(&"x".parse().unwrap(), version).unwrap();
        assert_eq!(key.labels(), attributes.labels(&versions, key.epoch()));
    }
    assert_eq!(keys.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_did_not_change_are_not_sent_again() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    server.enrol("b", &["x"]).await;
    server.enrol("c", &["y"]).await;
    let client = server.client(&device);
    let first = client.get("/v1/keys").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let ask = async || client.send(Request::get("/v1/keys").header("if-none-match", &tag), "".into()).await;
    server.admin().post("/v1/devices/c/revoke", &()).await;
    let same = ask().await;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    server.admin().post("/v1/devices/b/revoke", &()).await;
    let changed = ask().await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_ne!(changed.headers["etag"], tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_was_made_by_a_clock_of_next_year_works_when_it_is_put_right() {
    let (dir, clock) = (std::sync::Arc::new(tempfile::TempDir::new().unwrap()), clock());
    clock.advance(365 * DAY);
    let server = Running::again(dir, clock, Config::default()).await;
    let early = server.newest_bundle().await;
    server.clock.put_back(365 * DAY);
    // Nothing but time and the once a second that there is anyway.
    let works = async {
        loop {
            let (certificate, key) = admin_identity(&server.path("admin"));
            let client = Client::new(&server, Some((certificate, key)));
            if !closed_without_answer(&client, "/v1/audit").await
                && client.get("/v1/audit").await.status.is_success()
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), works).await.unwrap();
    let late = server.newest_bundle().await;
    assert_eq!((late.epoch.number, late.epoch.begins), (early.epoch.number + 1, server.now()));
    assert!(late.number > early.number && late.issued == server.now());
    server.enrol("a", &["x"]).await;
    // Once is enough.
    server.authority.housekeep().await.unwrap();
    assert_eq!(server.newest_bundle().await.epoch.number, late.epoch.number);
}
