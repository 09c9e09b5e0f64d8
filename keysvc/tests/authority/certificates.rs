//! Another root that issues certificates: nobody is cut off on the way, and nobody believes what nobody announced.

use std::slice::from_ref;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::client::conn::http1::SendRequest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use smqtt_core::api::{AuditRecord, BackupMade, CertificateRotated, Checkpoint, Enrolment};
use smqtt_core::audit::Verifier;
use smqtt_core::bundle::{Bundle, BundleError};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::{HeaderError, Signer};
use smqtt_core::identity::{IdentityError, Role, fingerprint, read_certificate, verify_certificate};
use smqtt_core::lineage::Lineage;
use smqtt_keysvc::{Authority, Config, OpenError, RecoverySecret, Restore, Since, restore};

use crate::common::at_rest::secrets;
use crate::common::*;

async fn step(server: &Running, step: &str, force: bool) -> Answer {
    let request = serde_json::json!({ "step": step, "force": force });
    server.admin().post("/v1/rotate/certificate", &request).await
}

async fn done(server: &Running, what: &str, force: bool) -> CertificateRotated {
    let answer = step(server, what, force).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn begin_epoch(server: &Running) {
    server.admin().post("/v1/epoch/rotate", &serde_json::json!({})).await;
}

/// An HTTPS client that trusts these roots alone, as one does that has heard of no others.
fn knowing(server: &Running, roots: &[Vec<u8>], device: Option<&Device>) -> Client {
    let mut store = rustls::RootCertStore::empty();
    roots.iter().for_each(|root| store.add(CertificateDer::from(root.clone())).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_details(provider, server.clock.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let tls = match device {
        None => builder.with_no_client_auth(),
        Some(device) => {
            let key = PrivatePkcs8KeyDer::from(device.keys.signing.expose_pkcs8().to_vec());
            builder
                .with_client_auth_cert(vec![device.certificate().into()], PrivateKeyDer::from(key))
                .unwrap()
        }
    };
    Client::over(server, tls)
}

async fn over(connection: &mut SendRequest<Full<Bytes>>, path: &str) -> Answer {
    let request = hyper::Request::get(path).header("host", "localhost").body(Full::default()).unwrap();
    connection.ready().await.unwrap();
    answer(connection.send_request(request).await.unwrap()).await
}

async fn bundle_bytes(client: &Client) -> Vec<u8> {
    let answer = client.get("/v1/bundle").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.body.to_vec()
}

async fn renewed(server: &Running, device: &mut Device) {
    let answer = server.client(device).post("/v1/renew", &device.keys.renewal()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    device.enrolment = answer.json();
}

fn issued_by(device: &Device, root: &[u8], at: u64) -> bool {
    verify_certificate(&device.certificate(), &[root.to_vec()], at).is_ok()
}

fn names(data: &std::path::Path) -> Vec<String> {
    secrets(data).into_iter().map(|(name, _)| name).filter(|name| name.starts_with("root-key")).collect()
}

fn hex_of(root: &[u8]) -> String {
    fingerprint(root).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_issues_and_nobody_is_left_behind() {
    let server = Running::with(Config { history_epochs: 2, ..Config::default() }).await;
    let mut awake = server.enrol("awake", &["x"]).await;
    let sleeper = server.enrol("sleeper", &["x"]).await;
    let outstanding = server.token("outstanding", &["x"]).await;
    let old = server.authority.root();
    let before = bundle_bytes(&server.client(&awake)).await;
    step(&server, "activate", true).await.problem(409, "step");
    step(&server, "retire", true).await.problem(409, "step");
    step(&server, "undo", true).await.problem(400, "step");

    // Prepared: everyone learns of both, the old one issues.
    let prepared = done(&server, "prepare", false).await;
    assert_eq!((prepared.issuing.clone(), prepared.roots.len()), (hex_of(&old), 2));
    step(&server, "prepare", true).await.problem(409, "step");
    let bundle = Bundle::verify(&bundle_bytes(&server.client(&awake)).await, from_ref(&old)).unwrap();
    let both = bundle.lineage.as_ref().unwrap().in_trust().to_vec();
    assert_eq!((both.len(), both == server.roots()), (2, true));
    let new = both[1].clone();
    assert!(issued_by(&server.enrol("between", &["x"]).await, &old, START));
    let files = std::fs::read_to_string(server.path("admin/root.pem")).unwrap();
    assert_eq!(files.matches("BEGIN CERTIFICATE").count(), 2);
    let detail = step(&server, "activate", false).await.problem(409, "too-early").detail.unwrap();
    assert!(detail.contains("not before epoch 2"), "{detail}");
    begin_epoch(&server).await;

    // Active: the new one issues, the server's own certificate at once; the old one's key is gone.
    let activated = done(&server, "activate", false).await;
    assert_eq!((activated.issuing, activated.roots), (hex_of(&new), vec![hex_of(&old), hex_of(&new)]));
    let newcomer = server.enrol("newcomer", &["x"]).await;
    assert!(issued_by(&newcomer, &new, START) && !issued_by(&newcomer, &old, START));
    let tenant = |device: &Device| read_certificate(&device.certificate()).unwrap().identity.tenant;
    assert_eq!(tenant(&newcomer), tenant(&sleeper), "one tenant, whichever root");
    // Whoever knows the old root alone, the new one alone, or both, reaches the server and believes the bundle.
    for roots in [vec![old.clone()], vec![new.clone()], both.clone()] {
        let client = knowing(&server, &roots, Some(&sleeper));
        let bundle = Bundle::verify(&bundle_bytes(&client).await, &roots).unwrap();
        assert_eq!(bundle.lineage.unwrap().in_trust(), both);
    }
    // Publishers of both roots are believed; one that was renewed is the new root's.
    let bundle = server.newest_bundle().await;
    for device in [&awake, &newcomer] {
        assert!(device.seal("x", &bundle, START).0.verify(&both).is_ok());
    }
    renewed(&server, &mut awake).await;
    assert!(issued_by(&awake, &new, START));
    // The administrator moved over with it.
    let (admin, _) = admin_identity(&server.path("admin"));
    assert!(verify_certificate(&admin, from_ref(&new), START).is_ok());
    // A token from before names the old root, which is in the handshake and in the answer.
    assert_eq!(outstanding.fingerprint, fingerprint(&old).unwrap());
    let keys = DeviceKeys::generate();
    let answer = knowing(&server, from_ref(&old), None).post("/v1/enrol", &keys.request(&outstanding)).await;
    let enrolment: Enrolment = answer.json();
    assert!(enrolment.roots.contains(&STANDARD.encode(&old)) && enrolment.root == STANDARD.encode(&new));

    // All of it is in the store.
    let (dir, clock, config) = server.stop().await;
    assert_eq!(names(&dir.path().join("data")), ["root-key/1"]);
    let server = Running::again(dir, clock, config).await;
    assert_eq!((server.roots(), server.authority.root()), (both.clone(), new.clone()));
    assert_eq!(server.newest_bundle().await, bundle);

    // Too early as long as anything counts that the old root issued, and it says until when.
    let from = activated.retire_from.unwrap();
    let expires = START + 90 * DAY;
    assert_eq!(from, expires + 30 * DAY, "the last certificate, and the window in which it is renewed");
    let detail = step(&server, "retire", false).await.problem(409, "too-early").detail.unwrap();
    assert_eq!(detail, "not before 2027-05-15 08:00 UTC");
    // The sleeper wakes a moment before its time is over, and comes back by itself.
    let mut sleeper = sleeper;
    server.clock.advance(60 * DAY);
    renewed(&server, &mut sleeper).await;
    assert!(issued_by(&sleeper, &new, server.now()));
    let roots: Vec<_> = Bundle::verify(&STANDARD.decode(&sleeper.enrolment.bundle).unwrap(), from_ref(&old))
        .unwrap()
        .lineage
        .unwrap()
        .in_trust()
        .to_vec();
    assert_eq!(roots, both);

    let latecomer = server.enrol("latecomer", &["x"]).await;
    let late = latecomer.seal("x", &server.newest_bundle().await, server.now()).0;
    server.clock.advance(from - server.now());
    server.authority.housekeep().await.unwrap();
    for _ in 0..3 {
        begin_epoch(&server).await;
    }
    let retired = done(&server, "retire", false).await;
    assert_eq!((retired.roots, retired.retire_from), (vec![hex_of(&new)], None));
    let bundle = server.newest_bundle().await;
    let lineage = bundle.lineage.clone().unwrap();
    assert_eq!((lineage.in_trust(), lineage.past()), (&both[1..], &both[..1]));
    assert!(late.verify(lineage.in_trust()).is_ok());
    assert_eq!(server.roots(), from_ref(&new));
    // A clock that stands where it woke believes both the old root's last word and the new one's first.
    assert!(Bundle::verify(&before, from_ref(&old)).is_ok());
    let client = knowing(&server, from_ref(&old), None);
    assert_eq!(client.get("/v1/health").await.status, StatusCode::OK, "links stay");
    // Again, from the new one to a third.
    let again = done(&server, "prepare", false).await;
    assert_eq!(again.roots.len(), 2);
    done(&server, "activate", true).await;
    let third = Bundle::verify(&bundle_bytes(&server.admin()).await, &[old]).unwrap();
    assert_eq!(third.lineage.unwrap().roots().len(), 3, "over two links");
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit?after=0").await.json();
    let steps = rows.iter().filter(|row| row.action == "rotate-certificate").count();
    assert_eq!(steps, 5);
    // The old root's checkpoints hold by the old root, which counts for nothing else.
    server.clock.advance(61);
    server.authority.housekeep().await.unwrap();
    let checkpoints: Vec<Checkpoint> = server.admin().get("/v1/audit/checkpoints").await.json();
    let ever = [lineage.past(), &server.roots()].concat();
    assert!(
        Verifier::new(&checkpoints, &ever).is_ok() && Verifier::new(&checkpoints, &server.roots()).is_err()
    );
    let past = std::fs::read_to_string(server.path("admin/past-roots.pem")).unwrap();
    assert_eq!(past.matches("BEGIN CERTIFICATE").count(), 1);
    assert!(server.authority.verify_audit().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retired_root_issued_is_worth_nothing() {
    let server = Running::start().await;
    let device = server.enrol("device", &["x"]).await;
    let token = server.token("late", &["x"]).await;
    let old = server.authority.root();
    let (dir, clock, config) = server.stop().await;
    let old_key =
        secrets(&dir.path().join("data")).into_iter().find(|(name, _)| name == "root-key").unwrap().1;
    let server = Running::again(dir, clock, config).await;
    let mut connected = server.client(&device).connect().await;
    for what in ["prepare", "activate", "retire"] {
        // Twice, so that the certificate is known to hold; by then it holds no more.
        for _ in 0..2 {
            assert_eq!(over(&mut connected, "/v1/bundle").await.status, StatusCode::OK);
        }
        done(&server, what, true).await;
    }
    // Whoever was forced out: not over a connection from before, and not in TLS.
    over(&mut connected, "/v1/bundle").await.problem(403, "certificate");
    assert!(closed_without_answer(&server.client(&device), "/v1/bundle").await);
    let roots = server.roots();
    let bundle = server.newest_bundle().await;
    let header = device.seal("x", &bundle, START).0;
    assert!(matches!(header.verify(&roots), Err(HeaderError::Certificate(IdentityError::UnknownIssuer))));
    // A thief of the old key makes an administrator, and a bundle that brings the old root back.
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(&old_key[..]),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    )
    .unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = format!("SMQTT root {}", fingerprint(&old).unwrap().tenant());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let issuer = rcgen::Issuer::new(params, pair);
    let (admin, _) = admin_identity(&server.path("admin"));
    let mut identity = read_certificate(&admin).unwrap().identity;
    let forged = |uri: String| {
        let own = DeviceKeys::generate();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let der = PrivatePkcs8KeyDer::from(own.signing.expose_pkcs8());
        let subject =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.signed_by(&subject, &issuer).unwrap().der().to_vec();
        let enrolment = Enrolment { certificate: STANDARD.encode(&certificate), ..device.enrolment.clone() };
        Device::new(own, enrolment)
    };
    let as_admin = forged(identity.uri());
    assert!(verify_certificate(&as_admin.certificate(), from_ref(&old), START).is_ok(), "it would have held");
    assert!(closed_without_answer(&server.client(&as_admin), "/v1/devices").await);
    identity.role = Role::Authority;
    let signer = forged(identity.uri());
    let (key, certificate) =
        (SigningKey::from_pkcs8(signer.keys.signing.expose_pkcs8()).unwrap(), signer.certificate());
    let signer = Signer::new(key, certificate).unwrap();
    let links = bundle.lineage.as_ref().unwrap().links().to_vec();
    let all = bundle.lineage.as_ref().unwrap().roots().to_vec();
    for lineage in [None, Lineage::new(all.clone(), links, 0, 0), bundle.lineage.clone()] {
        let evil = Bundle { number: bundle.number + 1, lineage, ..bundle.clone() };
        let error = Bundle::verify(&evil.sign(&signer), &roots).unwrap_err();
        assert_eq!(error, BundleError::Certificate(IdentityError::UnknownIssuer));
    }
    // The token that named the old root: the handshake does not show that root any more.
    assert_eq!(token.fingerprint, fingerprint(&old).unwrap());
    let answer = server.anonymous().post("/v1/enrol", &DeviceKeys::generate().request(&token)).await;
    let enrolment: Enrolment = answer.json();
    assert!(enrolment.roots.is_empty() && enrolment.root == STANDARD.encode(&roots[0]));
    // And the old key is nowhere.
    let (dir, ..) = server.stop().await;
    let data = dir.path().join("data");
    assert_eq!(names(&data), ["root-key/1"]);
    assert!(secrets(&data).iter().all(|(_, secret)| *secret != old_key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_authority_issues_from_the_newest_root_and_trusts_no_retired_one() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let recovery = RecoverySecret::generate();
    recovery.public().trust(&server.path("")).unwrap();
    let back_up = async || {
        let made: BackupMade = server.admin().post("/v1/backup", &serde_json::json!({})).await.json();
        server.path("backups").join(made.file)
    };
    let too_old = back_up().await;
    done(&server, "prepare", false).await;
    let backup = back_up().await;
    done(&server, "activate", true).await;
    let late = server.enrol("late", &["x"]).await;
    done(&server, "retire", true).await;
    let (roots, bundle) = (server.roots(), server.newest_bundle().await);
    let kept = bundle_bytes(&server.admin()).await;
    let (dir, clock, config) = server.stop().await;
    let journal = dir.path().join("data/revocations/journal");
    let restoring = async |backup: &std::path::Path, to: &str, since: Since, bundles: Vec<Vec<u8>>| {
        let what = Restore { backup, key: &recovery, since, bundles };
        restore(what, &dir.path().join(to), &config, clock.clone()).await
    };
    // Nobody would believe an authority without the root that issued since.
    let refused = restoring(&too_old, "old", Since::Journal(journal.clone()), Vec::new()).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Store { .. }), "{refused}");
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("which this store does not have"), "{source}");
    assert!(!dir.path().join("old").exists());

    // The next start of the very store knows already what the journal says.
    let ours = Authority::open(&dir.path().join("data"), config.clone(), clock.clone()).unwrap();
    assert_eq!(ours.roots(), roots);
    drop(ours);
    // With the journal gone, what a broker kept says as much.
    restoring(&backup, "by-bundle", Since::Lost, vec![kept.clone()]).await.unwrap();
    let by_bundle = Authority::open(&dir.path().join("by-bundle"), config.clone(), clock.clone()).unwrap();
    assert_eq!((by_bundle.roots(), by_bundle.root()), (roots.clone(), roots[0].clone()));
    drop(by_bundle);
    assert!(restoring(&too_old, "old", Since::Lost, vec![kept]).await.is_err());

    restoring(&backup, "restored", Since::Journal(journal), Vec::new()).await.unwrap();
    std::fs::rename(dir.path().join("data"), dir.path().join("lost")).unwrap();
    std::fs::rename(dir.path().join("restored"), dir.path().join("data")).unwrap();
    let server = Running::again(dir.clone(), clock.clone(), config.clone()).await;
    assert_eq!((server.roots(), server.authority.root()), (roots.clone(), roots[0].clone()));
    let after = server.newest_bundle().await;
    assert!(after.number > bundle.number && after.lineage == bundle.lineage);
    assert!(issued_by(&late, &roots[0], START));
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let again: Vec<_> = rows.iter().filter(|row| row.action == "rotate-certificate").collect();
    let subjects: Vec<_> = again.iter().map(|row| row.subject.split(':').next().unwrap()).collect();
    assert_eq!(subjects, ["prepare", "activate", "retire"], "each once, done again by the journal");
    server.stop().await;
    assert_eq!(names(&dir.path().join("data")), ["root-key/1"]);
}

/// Between the journal and the store lies a crash, or an older copy of the store that was put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_behind_its_journal_catches_up_or_does_not_start() {
    let server = Running::start().await;
    server.enrol("a", &["x"]).await;
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir(to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    let (dir, clock, config) = server.stop().await;
    let (store, kept) = (dir.path().join("data/authority"), |name: &str| dir.path().join(name));
    copy(&store, &kept("unprepared"));
    let server = Running::again(dir.clone(), clock, config).await;
    done(&server, "prepare", false).await;
    let both = server.roots();
    let (_, clock, config) = server.stop().await;
    copy(&store, &kept("prepared"));
    let server = Running::again(dir.clone(), clock, config).await;
    done(&server, "activate", true).await;
    let (_, clock, config) = server.stop().await;
    copy(&store, &kept("activated"));

    copy(&kept("prepared"), &store);
    let server = Running::again(dir.clone(), clock, config).await;
    assert_eq!((server.roots(), server.authority.root()), (both.clone(), both[1].clone()));
    assert_eq!(server.newest_bundle().await.lineage.unwrap().issuing(), 1);
    done(&server, "retire", true).await;
    let (_, clock, config) = server.stop().await;
    assert_eq!(names(&dir.path().join("data")), ["root-key/1"]);
    copy(&kept("activated"), &store);
    let server = Running::again(dir.clone(), clock, config).await;
    assert_eq!(server.roots(), both[1..], "what was retired stays so");
    let (_, clock, config) = server.stop().await;
    copy(&kept("unprepared"), &store);
    let refused = Authority::open(&dir.path().join("data"), config, clock).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Store { .. }), "{refused}");
    assert!(refused.hint().contains("after that root was prepared"), "{}", refused.hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_roots_signed_that_nobody_is_led_from_any_more_still_verifies() {
    let server = Running::start().await;
    let first = server.authority.root().to_vec();
    for _ in 0..8 {
        for step in ["prepare", "activate", "retire"] {
            done(&server, step, true).await;
        }
    }
    let lineage = server.newest_bundle().await.lineage.unwrap();
    assert!(!lineage.roots().contains(&first), "the oldest is out of the bundle");
    let past = std::fs::read_to_string(server.path("admin/past-roots.pem")).unwrap();
    assert_eq!(past.matches("BEGIN").count(), 8);
    let body: String = past.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    assert_eq!(STANDARD.decode(body).unwrap(), first);
    assert!(server.authority.verify_audit().await.unwrap().is_ok());
}
