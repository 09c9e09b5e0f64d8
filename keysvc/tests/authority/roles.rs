//! Who may do what.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Request, StatusCode};
use smqtt_core::api::NewToken;
use smqtt_core::crypto::SigningKey;
use smqtt_core::identity::Role;
use smqtt_core::token::Token;
use smqtt_keysvc::{Operation, Who};

use crate::common::*;

/// What to ask, and the answer's kind for whoever may: written down once more, so that a slip in the authority's own
/// table shows. A new operation does not compile without a line here.
fn decision(operation: Operation) -> (&'static str, String, &'static [Role]) {
    use Role::{Admin, Auditor, Bridge, Broker, Device, Enroller};
    const ALL: &[Role] = &[Device, Broker, Bridge, Admin, Enroller, Auditor];
    let none = String::new;
    match operation {
        // No role is asked for.
        Operation::Health => ("/v1/health", none(), &[]),
        Operation::Root => ("/v1/root", none(), &[]),
        Operation::Params => ("/v1/params", none(), &[]),
        Operation::Describe => ("/v1/openapi.json", none(), &[]),
        Operation::Enrol => {
            let token = "00".repeat(16);
            let keys = DeviceKeys::generate().renewal();
            let body = serde_json::json!({
                "token_id": token, "secret": token, "csr": keys.csr, "hpke_key": keys.hpke_key
            });
            ("/v1/enrol", body.to_string(), &[])
        }
        Operation::Renew => {
            let body = serde_json::to_string(&DeviceKeys::generate().renewal()).unwrap();
            ("/v1/renew", body, &[Device, Broker, Bridge, Enroller, Auditor])
        }
        Operation::EstRoots => ("/.well-known/est/cacerts", none(), &[]),
        Operation::EstEnrol => ("/.well-known/est/simpleenroll", DeviceKeys::generate().renewal().csr, &[]),
        Operation::EstRenew => {
            let body = DeviceKeys::generate().renewal().csr;
            ("/.well-known/est/simplereenroll", body, &[Device, Broker, Bridge, Enroller, Auditor])
        }
        Operation::FetchKeys => ("/v1/keys", none(), &[Device]),
        Operation::ReadBundle => ("/v1/bundle", none(), ALL),
        Operation::ListRules => ("/v1/rules", none(), ALL),
        Operation::SetRule => ("/v1/rules", r#"{"filter": "a/#", "mode": "open"}"#.into(), &[Admin]),
        Operation::RemoveRule => ("/v1/rules?filter=none", none(), &[Admin]),
        Operation::MakeToken => ("/v1/tokens", r#"{"name": "new"}"#.into(), &[Admin, Enroller]),
        Operation::ListTokens => ("/v1/tokens", none(), &[Admin, Enroller, Auditor]),
        Operation::ShowToken => ("/v1/tokens/none", none(), &[Admin, Enroller, Auditor]),
        Operation::RemoveToken => ("/v1/tokens/none", none(), &[Admin, Enroller]),
        Operation::ListApplicants => ("/v1/enrolments", none(), &[Admin, Enroller, Auditor]),
        Operation::Approve => ("/v1/enrolments/nobody/approve", none(), &[Admin, Enroller]),
        Operation::Deny => ("/v1/enrolments/nobody/deny", none(), &[Admin, Enroller]),
        Operation::ListDevices => ("/v1/devices", none(), &[Broker, Admin, Enroller, Auditor]),
        Operation::ShowDevice => ("/v1/devices/nobody", none(), &[Broker, Admin, Enroller, Auditor]),
        Operation::ChangeDevice => ("/v1/devices/nobody", "{}".into(), &[Admin]),
        Operation::Suspend => ("/v1/devices/nobody/suspend", none(), &[Admin]),
        Operation::Resume => ("/v1/devices/nobody/resume", none(), &[Admin]),
        Operation::Reset => ("/v1/devices/nobody/reset", "{}".into(), &[Admin]),
        Operation::Revoke => ("/v1/devices/nobody/revoke", none(), &[Admin]),
        Operation::ListProfiles => ("/v1/profiles", none(), &[Admin, Enroller, Auditor]),
        Operation::ShowProfile => ("/v1/profiles/none", none(), &[Admin, Enroller, Auditor]),
        Operation::SetProfile => ("/v1/profiles/new", "{}".into(), &[Admin]),
        Operation::RemoveProfile => ("/v1/profiles/none", none(), &[Admin]),
        Operation::ListGroups => ("/v1/groups", none(), &[Admin, Enroller, Auditor]),
        Operation::ShowGroup => ("/v1/groups/none", none(), &[Admin, Enroller, Auditor]),
        Operation::SetGroup => ("/v1/groups/new", "{}".into(), &[Admin]),
        Operation::RemoveGroup => ("/v1/groups/none", none(), &[Admin]),
        Operation::ShowRevocation => ("/v1/devices/nobody/revocation", none(), &[Admin, Auditor]),
        Operation::ListRevocations => ("/v1/revocations", none(), &[Broker]),
        Operation::ReportRevocation => {
            let path = "/v1/revocations/00000000000000000000000000000000/done";
            (path, r#"{"bundle": 1, "cut_at": 1, "sessions": 0, "connections": 0}"#.into(), &[Broker])
        }
        Operation::ReadDirectory => ("/v1/directory", none(), &[Broker, Admin]),
        Operation::BeginEpoch => ("/v1/epoch/rotate", none(), &[Admin]),
        Operation::MakeAccess => {
            let body = r#"{"name": "ci", "role": "auditor", "ttl_seconds": 60}"#;
            ("/v1/access", body.into(), &[Admin])
        }
        Operation::ListAccess => ("/v1/access", none(), &[Admin, Auditor]),
        Operation::RemoveAccess => ("/v1/access/nobody", none(), &[Admin]),
        Operation::BackUp => ("/v1/backup", "{}".into(), &[Admin]),
        Operation::RotateRootKey => ("/v1/rotate/root-key", none(), &[Admin]),
        Operation::RotateMaster => {
            ("/v1/rotate/master", r#"{"suite": "fabeo-cp", "step": "retire"}"#.into(), &[Admin])
        }
        Operation::RotateCertificate => ("/v1/rotate/certificate", r#"{"step": "retire"}"#.into(), &[Admin]),
        Operation::ListCheckpoints => ("/v1/audit/checkpoints", none(), &[Admin, Auditor]),
        Operation::ReadAudit => ("/v1/audit", none(), &[Admin, Auditor]),
    }
}

pub async fn ask(client: &Client, operation: Operation) -> Answer {
    let (path, body, _) = decision(operation);
    let request = Request::builder().method(operation.method().name()).uri(path);
    let request = match operation {
        Operation::EstEnrol => {
            // A token that nobody made.
            let credentials = STANDARD.encode(format!("{0}:{0}", "00".repeat(16)));
            let request = request.header("authorization", format!("Basic {credentials}"));
            request.header("content-type", "application/pkcs10")
        }
        Operation::EstRenew => request.header("content-type", "application/pkcs10"),
        _ => request.header("content-type", "application/json"),
    };
    client.send(request, body.into()).await
}

pub fn granted(answer: &Answer) -> bool {
    // Nobody is there to revoke, and no recovery key to back up to.
    answer.status.is_success() || matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_for_its_roles_alone() {
    let server = Running::start().await;
    let anonymous = server.anonymous();
    let expired = server.client(&server.enrol("expired", &["x"]).await);
    server.clock.advance(31 * DAY);
    let revoked = server.client(&server.enrol("revoked", &["x"]).await);
    server.admin().post("/v1/devices/revoked/revoke", &()).await;
    let clients = [
        (Role::Device, server.client(&server.enrol("device", &["x"]).await)),
        (Role::Broker, server.client(&server.enrol_broker("broker", &[]).await)),
        (Role::Bridge, server.client(&server.enrol_bridge("bridge", &["x"]).await)),
        (Role::Enroller, server.client(&server.enrol_as("enroller", "enroller").await)),
        (Role::Auditor, server.client(&server.enrol_as("auditor", "auditor").await)),
        (Role::Admin, server.admin()),
    ];
    for role in Role::ALL {
        // The authority asks itself nothing over HTTPS.
        assert!(role == Role::Authority || clients.iter().any(|(has, _)| *has == role), "{role:?}");
    }
    for operation in Operation::ALL.iter().copied() {
        let (path, _, roles) = decision(operation);
        assert!(path.starts_with(operation.path().split('{').next().unwrap()), "{operation:?}");
        let everybody = [&anonymous, &expired, &revoked].into_iter();
        match operation.who() {
            Who::Anyone => {
                for client in everybody.chain(clients.iter().map(|(_, client)| client)) {
                    assert_eq!(ask(client, operation).await.status, StatusCode::OK, "{operation:?}");
                }
                continue;
            }
            Who::Token => {
                // Whatever the certificate says, and the administrator's too.
                for client in everybody.chain(clients.iter().map(|(_, client)| client)) {
                    ask(client, operation).await.problem(401, "token-unknown");
                }
                continue;
            }
            Who::Roles(_) | Who::Holders(_) => {}
        }
        ask(&anonymous, operation).await.problem(401, "certificate-required");
        ask(&revoked, operation).await.problem(403, "revoked");
        match operation {
            // For a while, and for the same key.
            Operation::Renew | Operation::EstRenew => {
                drop(ask(&expired, operation).await.problem(400, "csr"))
            }
            _ => drop(ask(&expired, operation).await.problem(403, "certificate-expired")),
        }
        for (role, client) in &clients {
            let answer = ask(client, operation).await;
            if roles.contains(role) {
                assert!(granted(&answer), "{operation:?} as {role:?}: {}", answer.text());
            } else {
                answer.problem(403, "role");
            }
        }
    }
    let log = server.admin().get("/v1/audit").await.text();
    assert!(log.contains("refused make-token: role") && log.contains("certificate-required"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enroller_lets_devices_in_and_nobody_else() {
    let server = Running::start().await;
    let enroller = server.client(&server.enrol_as("anna", "enroller").await);
    let token = |role: &str| serde_json::json!({ "name": "new", "role": role });
    for role in ["broker", "bridge", "enroller", "auditor"] {
        enroller.post("/v1/tokens", &token(role)).await.problem(403, "role");
    }
    server.admin().post("/v1/tokens", &token("admin")).await.problem(400, "role-name");
    assert_eq!(enroller.post("/v1/tokens", &token("device")).await.status, StatusCode::CREATED);
    // Who let the device in is on record, and so is what was refused.
    let log = server.admin().get("/v1/audit").await.text();
    assert!(log.contains("new (broker)"), "{log}");
    let made: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    let made: Vec<_> = made.iter().filter(|row| row.action == "make-token").collect();
    assert!(made.last().unwrap().actor.starts_with("anna "), "{made:?}");
    // And an enroller's time ends like anybody's, and with it what she handed out.
    let batch = serde_json::json!({ "name": "cam", "role": "device", "count": 3 });
    let batch: NewToken = enroller.post("/v1/tokens", &batch).await.json();
    let batch = Token::parse(&batch.token).unwrap();
    let enrol = async || server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&batch)).await;
    assert_eq!(enrol().await.status, StatusCode::OK);
    server.admin().post("/v1/devices/anna/revoke", &()).await;
    enroller.post("/v1/tokens", &token("device")).await.problem(403, "revoked");
    enrol().await.problem(410, "token-removed");
    let rows: Vec<smqtt_core::api::AuditRecord> = server.admin().get("/v1/audit").await.json();
    assert!(
        rows.iter().any(|row| row.action == "remove-token" && row.subject.starts_with("2 made by anna "))
    );
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
