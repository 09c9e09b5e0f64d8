//! Who waits for news hears what concerns it: a device its own changes, a broker everybody's.

use hyper::StatusCode;
use smqtt_core::api::{Device as Listed, Enrolment, Keys, REVISION_HEADER, Rotation};

use crate::common::*;

fn revision(answer: &Answer) -> u64 {
    answer.headers[REVISION_HEADER].to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_hears_at_once_that_it_changed_and_others_wait_on() {
    let server = Running::start().await;
    let (device, other) = (server.enrol("a", &["x"]).await, server.enrol("b", &["x"]).await);
    let broker = server.enrol_broker("edge", &[]).await;
    let now_at = revision(&server.client(&device).get("/v1/bundle").await);
    assert_eq!(now_at, device.enrolment.revision);
    let keys: Keys = server.client(&device).get("/v1/keys").await.json();
    assert_eq!(keys.revision, now_at);

    let wait = |device: &Device, revision: u64| {
        let client = server.client(device);
        tokio::spawn(
            async move { client.get(&format!("/v1/bundle?after=1&wait=60&revision={revision}")).await },
        )
    };
    let others = wait(&other, other.enrolment.revision);
    let directory = revision(&server.client(&broker).get("/v1/bundle").await);
    let (own, all) = (wait(&device, now_at), wait(&broker, directory));
    let renewed: Enrolment = server.client(&device).post("/v1/renew", &device.keys.renewal()).await.json();
    for (answer, before) in [(own.await.unwrap(), now_at), (all.await.unwrap(), directory)] {
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
        assert_eq!(revision(&answer), renewed.revision);
        assert!(renewed.revision > before);
    }
    // Who comes later is told as well.
    assert_eq!(wait(&device, now_at).await.unwrap().status, StatusCode::NO_CONTENT);
    // The other one hears of the next bundle and of nothing before it.
    let rotation: Rotation = server.admin().post("/v1/epoch/rotate", &()).await.json();
    let answer = others.await.unwrap();
    assert_eq!(answer.headers["etag"], format!("\"{}\"", rotation.bundle));
    assert_eq!(revision(&answer), other.enrolment.revision);
    // And the administrator, who does not say what it knows, is not interrupted.
    let listed: Vec<Listed> = server.admin().get("/v1/devices").await.json();
    assert_eq!(listed.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_the_epoch_on_that_was_asked_for() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    for _ in 0..3 {
        server.admin().post("/v1/epoch/rotate", &()).await;
    }
    let epochs = async |path: &str| {
        let keys: Keys = server.client(&device).get(path).await.json();
        keys.keys.iter().map(|key| key.epoch).collect::<Vec<_>>()
    };
    assert_eq!(epochs("/v1/keys").await, [1, 2, 3, 4]);
    assert_eq!(epochs("/v1/keys?since=3").await, [3, 4]);
    assert_eq!(epochs("/v1/keys?since=9").await, [0; 0]);
    server.client(&device).get("/v1/keys?since=x").await.problem(400, "bad-request");
    server.client(&device).get("/v1/keys?sinse=3").await.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_on_connections_without_end_leaves_room_for_others() {
    let server = Running::start().await;
    let (greedy, other) = (server.enrol("greedy", &[]).await, server.enrol("other", &[]).await);
    let number = server.newest_bundle().await.number;
    let path = format!("/v1/bundle?after={number}&wait=60");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (client, path) = (server.client(&greedy), path.clone());
        waiting.spawn(async move { client.get(&path).await });
    }
    // Sixteen wait on; the others are told so.
    for _ in 0..24 {
        waiting.join_next().await.unwrap().unwrap().problem(503, "busy");
    }
    let fine = server.client(&other).get(&format!("/v1/bundle?after={number}&wait=0")).await;
    assert_eq!(fine.status, hyper::StatusCode::NO_CONTENT);
}
