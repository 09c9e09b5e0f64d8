//! Who may do what.

use hyper::{Request, StatusCode};
use smqtt_core::crypto::SigningKey;

use crate::common::*;

/// Every request that needs a certificate, and who may make it: device, broker, bridge, admin.
const MATRIX: [(&str, &str, [bool; 4]); 13] = [
    ("GET", "/v1/keys", [true, false, false, false]),
    ("POST", "/v1/renew", [true, true, true, false]),
    ("GET", "/v1/bundle", [true, true, true, true]),
    ("GET", "/v1/rules", [true, true, true, true]),
    ("PUT", "/v1/rules", [false, false, false, true]),
    ("DELETE", "/v1/rules?filter=none", [false, false, false, true]),
    ("POST", "/v1/tokens", [false, false, false, true]),
    ("GET", "/v1/devices", [false, true, false, true]),
    ("GET", "/v1/devices/nobody", [false, true, false, true]),
    ("POST", "/v1/devices/nobody/revoke", [false, false, false, true]),
    ("GET", "/v1/directory", [false, true, false, true]),
    ("POST", "/v1/epoch/rotate", [false, false, false, true]),
    ("GET", "/v1/audit", [false, false, false, true]),
];

async fn ask(client: &Client, method: &str, path: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.send(request, body.to_owned().into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_for_its_roles_alone() {
    let server = Running::start().await;
    let (device, broker) = (server.enrol("device", &["x"]).await, server.enrol_broker("broker", &[]).await);
    let bridge = server.enrol_bridge("bridge", &["x"]).await;
    let clients = [server.client(&device), server.client(&broker), server.client(&bridge), server.admin()];
    for (method, path, allowed) in MATRIX {
        let body = match path {
            "/v1/renew" => serde_json::to_string(&DeviceKeys::generate().renewal()).unwrap(),
            "/v1/rules" => r#"{"filter": "a/#", "mode": "open"}"#.to_owned(),
            "/v1/tokens" => r#"{"name": "new"}"#.to_owned(),
            _ => String::new(),
        };
        ask(&server.anonymous(), method, path, &body).await.problem(401, "certificate-required");
        for (client, allowed) in clients.iter().zip(allowed) {
            let answer = ask(client, method, path, &body).await;
            if allowed {
                let granted = answer.status.is_success() || answer.status == StatusCode::NOT_FOUND;
                assert!(granted, "{method} {path}: {}", answer.text());
            } else {
                answer.problem(403, "role");
            }
        }
    }
    let actions = server.admin().get("/v1/audit").await.text();
    assert!(actions.contains("refused make a token: role") && actions.contains("certificate-required"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_needs_no_certificate() {
    let server = Running::start().await;
    let client = server.anonymous();
    let health: smqtt_core::api::Health = client.get("/v1/health").await.json();
    assert_eq!((health.status.as_str(), health.time), ("ok", server.now()));
    let root = client.get("/v1/root").await;
    assert!(root.text().starts_with("-----BEGIN CERTIFICATE-----\n"));
    let params: serde_json::Value = client.get("/v1/params").await.json();
    assert_eq!(params["params"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_no_answer() {
    let (server, other) = (Running::start().await, Running::start().await);
    let foreign = Client::new(&server, Some(admin_identity(&other.path("admin"))));
    assert!(closed_without_answer(&foreign, "/v1/audit").await);
    // A certificate that names this authority, signed by nobody.
    let (own, _) = admin_identity(&server.path("admin"));
    let identity = smqtt_core::identity::read_certificate(&own).unwrap().identity;
    let key = SigningKey::generate();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.expose_pkcs8());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(identity.uri().as_str().try_into().unwrap())];
    let certificate = params.self_signed(&pair).unwrap().der().to_vec();
    let forged = Client::new(&server, Some((certificate, key.expose_pkcs8().to_vec())));
    assert!(closed_without_answer(&forged, "/v1/audit").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_store_does_not_know_is_refused() {
    let server = Running::start().await;
    // As after the restore of a backup that is older than the certificate.
    let device = server.enrol("a", &[]).await;
    let (dir, clock, config) = server.stop().await;
    let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
    store.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM devices WHERE name = 'a'").unwrap();
    drop(store);
    let server = Running::again(dir, clock, config).await;
    server.client(&device).get("/v1/keys").await.problem(403, "unknown-device");
}
