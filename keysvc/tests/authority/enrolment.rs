//! Tokens, enrolment, renewal.

use hyper::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, SanType};
use smqtt_core::api::{AuditRecord, Enrolment, Keys, NewToken};
use smqtt_core::attribute::Attributes;
use smqtt_core::envelope::Envelope;
use smqtt_core::identity::{Role, fingerprint, read_certificate, verify_certificate};
use smqtt_core::suite::SuiteId;
use smqtt_core::token::Token;
use smqtt_keysvc::Config;

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_enrols_and_its_key_opens_what_is_sealed_for_it() {
    let server =
        Running::with(Config { broker_url: Some("mqtts://b:8883".into()), ..Config::default() }).await;
    let token = server.token("nurse-1", &["role=nurse", "ward=3"]).await;
    assert_eq!(token.url, server.authority.url());
    assert_eq!(token.expires, START + DAY);
    let keys = DeviceKeys::generate();
    let enrolment: Enrolment = server.anonymous().post("/v1/enrol", &keys.request(&token)).await.json();
    let nurse = Device::new(keys, enrolment);

    assert_eq!((nurse.enrolment.name.as_str(), nurse.enrolment.role.as_str()), ("nurse-1", "device"));
    assert_eq!(nurse.enrolment.broker.as_deref(), Some("mqtts://b:8883"));
    let root = from_base64(&nurse.enrolment.root);
    assert_eq!(fingerprint(&root).unwrap(), token.fingerprint);
    let verified = verify_certificate(&nurse.certificate(), &server.roots(), START).unwrap();
    assert_eq!(verified.identity.role, Role::Device);
    assert_eq!(verified.identity.id, nurse.id());
    assert_eq!(verified.public_key[..], *nurse.keys.signing.public_key());
    assert!(verify_certificate(&nurse.certificate(), &server.roots(), START + 30 * DAY + 1).is_err());

    let bundle = server.bundle(&from_base64(&nurse.enrolment.bundle));
    assert_eq!((bundle.number, bundle.epoch.number), (1, 1));
    assert_eq!(bundle.params, [SuiteId::FabeoCp, SuiteId::FabeoKp].map(|suite| *nurse.params_of(suite).id()));
    let user_keys = nurse.open_keys(&nurse.enrolment.keys);
    assert_eq!(user_keys.len(), 1);
    let attributes = Attributes::parse(["role=nurse", "ward=3"]).unwrap();
    assert_eq!(user_keys[0].labels(), attributes.labels(&bundle.versions, 1));

    let sensor = server.enrol("sensor", &[]).await;
    let (header, content) = sensor.seal("role=nurse and ward<=3", &bundle, START);
    header.verify(&server.roots()).unwrap();
    let sealed = content.seal("a/b", b"36.6").unwrap();
    let opened = header.open(&nurse.params(), &user_keys[0]).unwrap();
    assert_eq!(opened.open("a/b", &Envelope::parse(&sealed).unwrap().message).unwrap(), b"36.6");
    let (header, _) = sensor.seal("role=nurse and ward=4", &bundle, START);
    assert!(header.open(&nurse.params(), &user_keys[0]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_can_be_asked_for_again_and_nobody_else_gets_it() {
    let server = Running::start().await;
    let token = server.token("a", &["x"]).await;
    let keys = DeviceKeys::generate();
    let client = server.anonymous();
    let first: Enrolment = client.post("/v1/enrol", &keys.request(&token)).await.json();
    // Past the token's life, but not by a day.
    server.clock.advance(2 * DAY - 1);
    let again: Enrolment = client.post("/v1/enrol", &keys.request(&token)).await.json();
    assert_eq!((&first.id, &first.certificate), (&again.id, &again.certificate));
    let device = Device::new(keys, again);
    assert_eq!(device.open_keys(&device.enrolment.keys)[0].labels().len(), 2);

    let thief = DeviceKeys::generate();
    client.post("/v1/enrol", &thief.request(&token)).await.problem(409, "token-used");
    // The signing request is no secret: with it and another HPKE key there is nothing, either.
    let request = thief.request_with(&token, &device.keys.csr());
    client.post("/v1/enrol", &request).await.problem(409, "token-used");
    server.clock.advance(1);
    client.post("/v1/enrol", &device.keys.request(&token)).await.problem(410, "token-expired");

    let audit: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let alarms = audit.iter().filter(|row| row.action == "refused enrol: token-used");
    assert_eq!(
        alarms.map(|row| row.subject.clone()).collect::<Vec<_>>(),
        vec![format!("token {}", hex(&token.id)); 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_altered_and_unknown_tokens_are_refused() {
    let server = Running::start().await;
    let client = server.anonymous();
    let keys = DeviceKeys::generate();
    let token = server.token("a", &[]).await;
    let mut altered = token.clone();
    altered.secret[15] ^= 1;
    client.post("/v1/enrol", &keys.request(&altered)).await.problem(401, "token-unknown");
    let mut unknown = token.clone();
    unknown.id[0] ^= 1;
    client.post("/v1/enrol", &keys.request(&unknown)).await.problem(401, "token-unknown");
    let mut garbled = keys.request(&token);
    garbled.secret = garbled.secret.to_uppercase() + "0";
    client.post("/v1/enrol", &garbled).await.problem(400, "token");
    server.clock.advance(DAY - 1);
    let late = server.token("b", &[]).await;
    server.clock.advance(1);
    client.post("/v1/enrol", &keys.request(&token)).await.problem(410, "token-expired");
    assert_eq!(client.post("/v1/enrol", &keys.request(&late)).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wishes_of_a_signing_request_do_not_count() {
    let server = Running::start().await;
    let token = server.token("meek", &[]).await;
    let keys = DeviceKeys::generate();
    let mut wishes = CertificateParams::default();
    wishes.distinguished_name.push(DnType::CommonName, "admin");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let tenant = server.authority.fingerprint().tenant();
    let admin = format!("smqtt://{tenant}/admin/{}/admin", "0".repeat(32));
    wishes.subject_alt_names = vec![
        SanType::URI(admin.as_str().try_into().unwrap()),
        SanType::DnsName("localhost".try_into().unwrap()),
    ];
    // One that the crate which writes certificates does not know.
    wishes.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![4, 0])];
    let request = keys.request_with(&token, &csr(&keys.signing, wishes));
    let answer = server.anonymous().post("/v1/enrol", &request).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let device = Device::new(keys, answer.json());
    let read = read_certificate(&device.certificate()).unwrap();
    assert_eq!((read.identity.role, read.identity.name.as_str()), (Role::Device, "meek"));
    let der = device.certificate();
    let contains = |text: &[u8]| der.windows(text.len()).any(|window| window == text);
    assert!(contains(b"meek") && !contains(b"localhost") && !contains(b"admin"));
    server.client(&device).get("/v1/devices").await.problem(403, "role");
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_requests_and_hpke_keys_that_do_not_hold_are_refused() {
    let server = Running::start().await;
    let client = server.anonymous();
    let token = server.token("a", &[]).await;
    let keys = DeviceKeys::generate();
    // Somebody else's key in a request signed by ours.
    let victim = DeviceKeys::generate();
    let mut stolen = keys.csr();
    let at = stolen.windows(65).position(|window| window == keys.signing.public_key()).unwrap();
    stolen[at..at + 65].copy_from_slice(victim.signing.public_key());
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default().serialize_request(&p384).unwrap().der().to_vec();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = CertificateParams::default().serialize_request(&ed25519).unwrap().der().to_vec();
    let mut trailing = keys.csr();
    trailing.push(0);
    for bad in [stolen, p384, ed25519, trailing, keys.csr()[..100].to_vec(), Vec::new(), vec![0x30; 8192]] {
        let request = keys.request_with(&token, &bad);
        client.post("/v1/enrol", &request).await.problem(400, "csr");
    }
    for bad in ["", "AAAA", "?", &"A".repeat(88), &"A".repeat(5000)] {
        let mut request = keys.request(&token);
        request.hpke_key = bad.to_owned();
        client.post("/v1/enrol", &request).await.problem(400, "hpke-key");
    }
    // None of it used the token.
    assert_eq!(client.post("/v1/enrol", &keys.request(&token)).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_devices_with_one_token_exactly_one_enrols() {
    let server = Running::start().await;
    let token = server.token("one", &["x"]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (client, request) = (server.anonymous(), DeviceKeys::generate().request(&token));
        tasks.spawn(async move { client.post("/v1/enrol", &request).await });
    }
    let mut enrolled = 0;
    for answer in tasks.join_all().await {
        match answer.status {
            StatusCode::OK => enrolled += 1,
            _ => drop(answer.problem(409, "token-used")),
        }
    }
    assert_eq!(enrolled, 1);
    let devices: Vec<serde_json::Value> = server.admin().get("/v1/devices").await.json();
    assert_eq!(devices.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_among_active_devices() {
    let server = Running::start().await;
    let (first, second) = (server.token("a", &[]).await, server.token("a", &[]).await);
    let client = server.anonymous();
    let enrol = async |token: &Token| client.post("/v1/enrol", &DeviceKeys::generate().request(token)).await;
    assert_eq!(enrol(&first).await.status, StatusCode::OK);
    enrol(&second).await.problem(409, "name-taken");
    let again = serde_json::json!({ "name": "a" });
    server.admin().post("/v1/tokens", &again).await.problem(409, "name-taken");
    server.admin().post("/v1/devices/a/revoke", &()).await;
    assert_eq!(enrol(&second).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_requests_that_make_no_sense_say_why() {
    let server = Running::start().await;
    let admin = server.admin();
    let bad = [
        (r#"{"name": "a/b"}"#, "name"),
        (r#"{"name": ""}"#, "name"),
        (r#"{"name": "a", "role": "admin"}"#, "role-name"),
        (r#"{"name": "a", "role": "authority"}"#, "role-name"),
        (r#"{"name": "a", "attributes": ["role="]}"#, "attributes"),
        (r#"{"name": "a", "attributes": ["a=b=c"]}"#, "attributes"),
        (r#"{"name": "a", "role": "broker", "attributes": ["x"]}"#, "attributes"),
        (r#"{"name": "a", "hosts": ["b"]}"#, "hosts"),
        (r#"{"name": "a", "role": "bridge", "hosts": ["b"]}"#, "hosts"),
        (r#"{"name": "a", "role": "bridge", "policy": "a=1"}"#, "policy"),
        (r#"{"name": "a", "role": "broker", "hosts": ["https://b"]}"#, "hosts"),
        (r#"{"name": "a", "ttl_seconds": 0}"#, "ttl"),
        (r#"{"name": "a", "ttl": 5}"#, "json"),
        (r#"{"role": "device"}"#, "json"),
    ];
    for (body, code) in bad {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let problem = admin.post("/v1/tokens", &body).await.problem(400, code);
        assert!(problem.detail.is_some_and(|detail| !detail.is_empty()));
    }
    let body = serde_json::json!({ "name": "a", "attributes": ["ok", "ward=3 or"] });
    let problem = admin.post("/v1/tokens", &body).await.problem(400, "attributes");
    assert!(problem.detail.unwrap().contains("`ward=3 or`"));
    assert!(problem.hint.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_gets_a_server_certificate_and_no_keys() {
    let server = Running::start().await;
    let broker = server.enrol_broker("broker-1", &["mqtt.example", "10.1.2.3"]).await;
    assert_eq!(broker.enrolment.role, "broker");
    assert!(broker.enrolment.keys.is_empty());
    let der = rustls::pki_types::CertificateDer::from(broker.certificate());
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value);
    for name in ["mqtt.example", "localhost", "smqtt://"] {
        assert!(names.contains(name), "{names}");
    }
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    server.client(&broker).get("/v1/keys").await.problem(403, "role");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_with_the_same_key_or_another() {
    let server = Running::start().await;
    let mut device = server.enrol("a", &["x"]).await;
    server.clock.advance(20 * DAY);
    let renewed: Enrolment = server.client(&device).post("/v1/renew", &device.keys.renewal()).await.json();
    assert_eq!(renewed.id, device.enrolment.id);
    device.enrolment = renewed;
    server.clock.advance(20 * DAY);
    let fresh = DeviceKeys::generate();
    let answer = server.client(&device).post("/v1/renew", &fresh.renewal()).await;
    let device = Device::new(fresh, answer.json());
    assert!(!device.open_keys(&device.enrolment.keys).is_empty());
    let read = verify_certificate(&device.certificate(), &server.roots(), server.now()).unwrap();
    assert_eq!(
        (read.identity.id, read.public_key[..].to_vec()),
        (device.id(), device.keys.signing.public_key().to_vec())
    );
    assert_eq!(server.client(&device).get("/v1/keys").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_at_once_leave_a_device_with_keys_that_fit_whichever_came_last() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let client = server.client(&device);
        asking.spawn(async move {
            let keys = DeviceKeys::generate();
            let enrolment: Enrolment = client.post("/v1/renew", &keys.renewal()).await.json();
            Device::new(keys, enrolment)
        });
    }
    let mut renewed = asking.join_all().await;
    renewed.sort_by_key(|device| device.enrolment.revision);
    let last = renewed.last().unwrap();
    for device in &renewed {
        assert!(
            !device.open_keys(&device.enrolment.keys).is_empty(),
            "sealed to the keys of its own request"
        );
        let again: Keys = server.client(device).get("/v1/keys").await.json();
        assert!(!last.open_keys(&again.keys).is_empty(), "sealed to the last one's, whoever asks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_renews_itself_for_a_while_and_does_nothing_else() {
    let server = Running::start().await;
    let device = server.enrol("a", &["x"]).await;
    let client = server.client(&device);
    server.clock.advance(31 * DAY);
    client.get("/v1/keys").await.problem(403, "certificate-expired");
    client.post("/v1/renew", &DeviceKeys::generate().renewal()).await.problem(400, "csr");
    let answer = client.post("/v1/renew", &device.keys.renewal()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let other = server.enrol("b", &[]).await;
    server.clock.advance(61 * DAY);
    let late = server.client(&other);
    late.get("/v1/keys").await.problem(403, "certificate-expired");
    late.post("/v1/renew", &other.keys.renewal()).await.problem(403, "certificate-expired");
    // Which renews the administrator as well.
    server.authority.housekeep().await.unwrap();
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let refused = rows.iter().find(|row| row.action == "refused renew: certificate-expired").unwrap();
    assert_eq!(refused.actor, format!("b {}", other.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_as_long_as_asked() {
    let server = Running::start().await;
    let request = serde_json::json!({ "name": "a", "ttl_seconds": 60 });
    let token: NewToken = server.admin().post("/v1/tokens", &request).await.json();
    assert_eq!(token.expires, START + 60);
    assert_eq!(Token::parse(&token.token).unwrap().expires, START + 60);
}

fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
