//! EST: another way in, and no way around anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::{Request, StatusCode};
use serde_json::json;
use smqtt_core::api::{Enrolment, Keys, NewToken};
use smqtt_core::identity::{Role, verify_certificate};
use smqtt_core::token::Token;

use crate::common::*;

const ENROL: &str = "/.well-known/est/simpleenroll";
const RENEW: &str = "/.well-known/est/simplereenroll";

async fn post(client: &Client, path: &str, password: Option<&str>, body: impl Into<Bytes>) -> Answer {
    let mut request = Request::post(path).header("content-type", "application/pkcs10");
    if let Some(password) = password {
        let credentials = STANDARD.encode(format!("anybody:{password}"));
        request = request.header("authorization", format!("Basic {credentials}"));
    }
    client.send(request, body.into()).await
}

fn request(keys: &DeviceKeys) -> String {
    STANDARD.encode(keys.csr())
}

/// The certificates of a certs-only message: whatever in it is one. Whether it is such a message is asked of programs of others
/// (`tests/system_est.rs`).
#[track_caller]
fn certificates(answer: &Answer) -> Vec<Vec<u8>> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/pkcs7-mime"));
    assert_eq!(answer.headers["content-transfer-encoding"], "base64");
    let message = STANDARD.decode(answer.text()).unwrap();
    let mut found = Vec::new();
    for at in 0..message.len() {
        if let Ok((rest, _)) = x509_parser::parse_x509_certificate(&message[at..]) {
            found.push(message[at..message.len() - rest.len()].to_vec());
        }
    }
    found
}

fn client(server: &Running, keys: &DeviceKeys, certificate: &[u8]) -> Client {
    Client::new(server, Some((certificate.to_vec(), keys.signing.expose_pkcs8().to_vec())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_speaks_est_gets_a_certificate_renews_it_and_gets_keys_later() {
    let server = Running::start().await;
    let anonymous = server.anonymous();
    let roots = certificates(&anonymous.get("/.well-known/est/cacerts").await);
    assert_eq!(roots, server.roots());
    let token = server.token("meter-1", &["ward=w1"]).await;
    let keys = DeviceKeys::generate();
    // Without a password it is told what to give, as clients ask first.
    let asked = post(&anonymous, ENROL, None, request(&keys)).await;
    assert!(asked.headers["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    asked.problem(401, "token-required");
    let text = token.expose().to_string();
    let enrolled = certificates(&post(&anonymous, ENROL, Some(&text), request(&keys)).await);
    let [certificate] = &enrolled[..] else { panic!("{enrolled:?}") };
    let verified = verify_certificate(certificate, &roots, server.now()).unwrap();
    assert_eq!((verified.identity.role, verified.identity.name.as_str()), (Role::Device, "meter-1"));
    // The answer again, for whoever lost it, also with id and secret apart, and in lines.
    let apart = STANDARD.encode(format!("{}:{}", hex(&token.id), hex(&token.secret)));
    let lines = request(&keys).as_bytes().chunks(64).collect::<Vec<_>>().join(&b"\r\n"[..]);
    let again = Request::post(ENROL).header("content-type", "application/pkcs10; charset=x");
    let again = anonymous.send(again.header("authorization", format!("Basic {apart}")), lines.into()).await;
    assert_eq!(certificates(&again), enrolled);
    // It has a certificate, and no keys before it says to what they are to be sealed.
    let device = client(&server, &keys, certificate);
    assert!(device.get("/v1/rules").await.status.is_success());
    assert!(device.get("/v1/keys").await.json::<Keys>().keys.is_empty());
    let renewed = certificates(&post(&device, RENEW, None, request(&keys)).await);
    assert_ne!(renewed, enrolled);
    let device = client(&server, &keys, &renewed[0]);
    let other = DeviceKeys::generate();
    let moved = certificates(&post(&device, RENEW, None, request(&other)).await);
    let device = client(&server, &other, &moved[0]);
    let answer: Enrolment = device.post("/v1/renew", &other.renewal()).await.json();
    let device = Device::new(other, answer);
    assert_eq!(device.open_keys(&device.enrolment.keys).len(), 1);
    // Renewing by EST takes no key away.
    let moved = certificates(&post(&server.client(&device), RENEW, None, request(&device.keys)).await);
    let keys = client(&server, &device.keys, &moved[0]).get("/v1/keys").await.json::<Keys>();
    assert_eq!(device.open_keys(&keys.keys).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_elsewhere_is_refused_here() {
    let server = Running::start().await;
    let (anonymous, admin) = (server.anonymous(), server.admin());
    let (keys, other) = (DeviceKeys::generate(), DeviceKeys::generate());
    let token = server.token("a", &["x"]).await.expose().to_string();
    let mut unknown = Token::parse(&token).unwrap();
    unknown.secret = [7; 16];
    let unknown = unknown.expose().to_string();
    for bad in [unknown.as_str(), "", "guess", "smqtt1.", &"00".repeat(16)] {
        let refused = post(&anonymous, ENROL, Some(bad), request(&keys)).await;
        assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Basic "));
        refused.problem(401, "token-unknown");
    }
    // Requests that make no sense use nothing up.
    let json = Request::post(ENROL).header("content-type", "application/json");
    anonymous.send(json, request(&keys).into()).await.problem(415, "media-type");
    post(&anonymous, ENROL, Some(&token), "a".repeat(65 << 10)).await.problem(413, "too-large");
    let mut forged = keys.csr();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END", request(&keys));
    let bad = ["", "*", "AAAA", &pem, &"A".repeat(8192), &STANDARD.encode(forged)];
    for bad in bad {
        post(&anonymous, ENROL, Some(&token), bad.to_owned()).await.problem(400, "csr");
    }
    let first = certificates(&post(&anonymous, ENROL, Some(&token), request(&keys)).await);
    // Another key with the same token, either way.
    post(&anonymous, ENROL, Some(&token), request(&other)).await.problem(409, "token-used");
    let parsed = Token::parse(&token).unwrap();
    anonymous.post("/v1/enrol", &other.request(&parsed)).await.problem(409, "token-used");
    // Nor are user secret keys to be had by the request that EST carried in the open, and a key of somebody's own.
    let own = DeviceKeys { signing: DeviceKeys::generate().signing, ..DeviceKeys::generate() };
    anonymous.post("/v1/enrol", &own.request_with(&parsed, &keys.csr())).await.problem(409, "token-used");
    // Revoked is revoked.
    let device = client(&server, &keys, &first[0]);
    admin.post("/v1/devices/a/revoke", &()).await;
    post(&device, RENEW, None, request(&keys)).await.problem(403, "revoked");
    post(&anonymous, ENROL, Some(&token), request(&keys)).await.problem(403, "revoked");
    post(&anonymous, RENEW, None, request(&keys)).await.problem(401, "certificate-required");
    post(&admin, RENEW, None, request(&keys)).await.problem(403, "role");
    // After its expiry for the same key alone.
    let token = server.token("b", &[]).await.expose().to_string();
    let certificate = certificates(&post(&anonymous, ENROL, Some(&token), request(&keys)).await);
    server.clock.advance(31 * DAY);
    let device = client(&server, &keys, &certificate[0]);
    post(&device, RENEW, None, request(&other)).await.problem(400, "csr");
    assert_eq!(certificates(&post(&device, RENEW, None, request(&keys)).await).len(), 1);
    let expired = server.token("c", &[]).await.expose().to_string();
    server.clock.advance(2 * DAY);
    post(&anonymous, ENROL, Some(&expired), request(&keys)).await.problem(410, "token-expired");
    let log = server.admin().get("/v1/audit").await.text();
    for row in
        ["refused est-enrol: token-unknown", "refused est-enrol: token-used", "refused est-renew: revoked"]
    {
        assert!(log.contains(row), "{row}: {log}");
    }
    assert!(!log.contains(&hex(&parsed.secret)) && !log.contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_to_be_approved_waits() {
    let server = Running::start().await;
    let anonymous = server.anonymous();
    let wanted = json!({ "name": "a", "approval": true });
    let token = server.admin().post("/v1/tokens", &wanted).await.json::<NewToken>().token;
    let keys = DeviceKeys::generate();
    let waits = post(&anonymous, ENROL, Some(&token), request(&keys)).await;
    assert_eq!((waits.status, &waits.headers["retry-after"]), (StatusCode::ACCEPTED, &"1".parse().unwrap()));
    server.admin().post("/v1/enrolments/a/approve", &()).await;
    assert_eq!(certificates(&post(&anonymous, ENROL, Some(&token), request(&keys)).await).len(), 1);
}
