//! Another master secret key: nobody is cut off on the way, and what was sealed stays readable.

use hyper::StatusCode;
use smqtt_core::api::{Keys, MasterRotated, Params as ApiParams};
use smqtt_core::bundle::{Bundle, Refusal};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::{Draft, Header, Signer};
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Params, UserKey};
use smqtt_core::target::Target;
use smqtt_keysvc::Config;

use crate::common::at_rest::secrets;
use crate::common::*;

async fn step(server: &Running, step: &str, force: bool) -> Answer {
    let request = serde_json::json!({ "suite": "fabeo-cp", "step": step, "force": force });
    server.admin().post("/v1/rotate/master", &request).await
}

async fn done(server: &Running, what: &str) -> MasterRotated {
    let answer = step(server, what, false).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn begin_epoch(server: &Running) {
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
}

async fn params(server: &Running) -> Vec<Params> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let answer: ApiParams = server.anonymous().get("/v1/params").await.json();
    answer.params.iter().map(|text| Params::decode(&STANDARD.decode(text).unwrap()).unwrap()).collect()
}

async fn keys(server: &Running, device: &Device) -> Vec<UserKey> {
    let keys: Keys = server.client(device).get("/v1/keys").await.json();
    device.open_keys(&keys.keys)
}

/// A header under the parameters that the bundle names first, as a publisher's is.
fn sealed(device: &Device, all: &[Params], bundle: &Bundle, now: u64) -> Header {
    let params = all.iter().find(|params| *params.id() == bundle.params[0]).unwrap();
    let draft = Draft {
        params,
        epoch: bundle.epoch.number,
        versions: &bundle.versions,
        target: &Target::Policy(Policy::parse("x").unwrap()),
        created: now,
        expires: now + 60,
        filter: &"a/b".parse().unwrap(),
        sign_messages: false,
    };
    let key = SigningKey::from_pkcs8(device.keys.signing.expose_pkcs8()).unwrap();
    Header::seal(&draft, &Signer::new(key, device.certificate()).unwrap()).unwrap().0
}

fn opens(header: &Header, all: &[Params], keys: &[UserKey]) -> bool {
    let params = all.iter().find(|params| params.id() == header.params_id()).unwrap();
    let fitting = keys.iter().filter(|key| key.params_id() == params.id());
    fitting.into_iter().any(|key| header.open(params, key).is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_secret_key_is_rotated_and_nobody_is_left_behind() {
    let server = Running::with(Config { history_epochs: 2, ..Config::default() }).await;
    let (awake, sleeper) = (server.enrol("awake", &["x"]).await, server.enrol("sleeper", &["x"]).await);
    let old = params(&server).await;
    let old_id = *old[0].id();
    let first = sealed(&awake, &old, &server.newest_bundle().await, START);
    let sleepers_keys = keys(&server, &sleeper).await;
    assert!(opens(&first, &old, &sleepers_keys));
    step(&server, "activate", true).await.problem(409, "step");

    let prepared = done(&server, "prepare").await;
    let bundle = server.newest_bundle().await;
    assert_eq!((prepared.params.len(), bundle.params.len(), bundle.params[0]), (2, 3, old_id));
    step(&server, "prepare", true).await.problem(409, "step");
    // Sealed under the old one still; whoever is awake has keys under both.
    let both = params(&server).await;
    let mine = keys(&server, &awake).await;
    let during = sealed(&awake, &both, &bundle, START);
    assert!(opens(&during, &both, &mine) && *during.params_id() == old_id);
    let new_id = *both.iter().find(|params| prepared.params[1] == hex(params.id())).unwrap().id();
    assert!(mine.iter().any(|key| *key.params_id() == new_id));
    step(&server, "activate", false).await.problem(409, "too-early");
    begin_epoch(&server).await;
    let mine = keys(&server, &awake).await;

    done(&server, "activate").await;
    let bundle = server.newest_bundle().await;
    assert_eq!(bundle.params[0], new_id, "the one to seal under is the first");
    let after = sealed(&awake, &both, &bundle, START);
    assert!(opens(&after, &both, &mine), "the keys of before the step fit after it");
    // A publisher that has not heard of it is let through.
    assert_eq!(bundle.check(&sealed_under(&awake, &both, &bundle, &old_id), "a/b", START), Ok(()));
    assert_eq!(bundle.check(&after, "a/b", START), Ok(()));
    // The sleeper comes back, and reads what was sealed in all three.
    let its = keys(&server, &sleeper).await;
    for header in [&first, &during, &after] {
        assert!(opens(header, &both, &its));
    }
    let (dir, clock, config) = server.stop().await;
    let server = Running::again(dir, clock, config).await;
    assert_eq!(server.newest_bundle().await, bundle);
    assert!(opens(&after, &both, &keys(&server, &awake).await));

    step(&server, "retire", false).await.problem(409, "too-early");
    for _ in 0..3 {
        begin_epoch(&server).await;
    }
    let retired = done(&server, "retire").await;
    let bundle = server.newest_bundle().await;
    assert_eq!((retired.params.len(), bundle.params.len(), bundle.params[0]), (1, 2, new_id));
    // Nothing new under the old one, and what is old opens with the keys that were given.
    let late = sealed_under(&awake, &both, &bundle, &old_id);
    assert_eq!(bundle.check(&late, "a/b", START), Err(Refusal::Params));
    assert!(opens(&first, &both, &sleepers_keys));
    assert!(keys(&server, &awake).await.iter().all(|key| *key.params_id() != old_id));
    done(&server, "prepare").await;
    let (dir, ..) = server.stop().await;
    let kept: Vec<String> = secrets(&dir.path().join("data")).into_iter().map(|(name, _)| name).collect();
    assert!(!kept.iter().any(|name| name.ends_with("/old")), "{kept:?}");
}

/// A header under other parameters than the bundle names first, by a publisher that is behind.
fn sealed_under(device: &Device, all: &[Params], bundle: &Bundle, id: &[u8; 16]) -> Header {
    let mut behind = bundle.clone();
    behind.params.insert(0, *id);
    sealed(device, all, &behind, START)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_master_secret_key_is_nowhere_in_the_store() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let (dir, clock, config) = server.stop().await;
    let data = dir.path().join("data");
    let old = secrets(&data).into_iter().find(|(name, _)| name == "master/fabeo-cp").unwrap().1;
    let server = Running::again(dir.clone(), clock, config).await;
    done(&server, "prepare").await;
    for what in ["activate", "retire"] {
        assert_eq!(step(&server, what, true).await.status, StatusCode::OK);
    }
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    let steps: Vec<_> = rows.iter().filter(|row| row.action == "rotate-master").collect();
    assert_eq!(steps.len(), 3);
    server.stop().await;
    assert!(secrets(&data).iter().all(|(_, secret)| *secret != old));
    step_of_nobody().await;
}

/// Neither a suite nor a step that there is not.
async fn step_of_nobody() {
    let server = Running::start().await;
    for (request, code) in [
        (serde_json::json!({ "suite": "fabeo-xp", "step": "prepare" }), "suite"),
        (serde_json::json!({ "suite": "fabeo-cp", "step": "undo" }), "step"),
    ] {
        server.admin().post("/v1/rotate/master", &request).await.problem(400, code);
    }
}
