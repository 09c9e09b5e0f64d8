//! Attacks on enrolment, keys and bundles: devices that want more than they were given, and whoever stands between
//! them and the authority.

#[path = "common/lab.rs"]
mod lab;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab::*;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use smqtt_client::authority::{Authority, RequestError};
use smqtt_client::enrol::{EnrolError, enrol};
use smqtt_client::keyring::{Keyring, KeyringError, OwnKeys};
use smqtt_core::api::{Enrolment, Keys};
use smqtt_core::attribute::Attributes;
use smqtt_core::bundle::{Bundle, BundleError};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::Signer;
use smqtt_core::identity::{Identity, IdentityError, Role, read_certificate};
use smqtt_core::token::Token;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// A server that is not the authority: notes what it is told and says nothing.
async fn impostor(config: Arc<ServerConfig>) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, told) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let noted = told.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await else {
                continue;
            };
            let mut heard = [0; 16384];
            let bytes = stream.read(&mut heard).await.unwrap_or(0);
            noted.lock().unwrap().extend_from_slice(&heard[..bytes]);
        }
    });
    (address, told)
}

fn csr(key: &SigningKey, params: rcgen::CertificateParams) -> String {
    let der = PrivatePkcs8KeyDer::from(key.expose_pkcs8());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    STANDARD.encode(params.serialize_request(&pair).unwrap().der())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn enrol_request(token: &Token, own: &OwnKeys, csr: String) -> serde_json::Value {
    serde_json::json!({
        "token_id": hex(&token.id),
        "secret": hex(&token.secret),
        "csr": csr,
        "hpke_key": STANDARD.encode(&own.hpke_public),
    })
}

fn is_wrong_server(error: &EnrolError) -> bool {
    matches!(error, EnrolError::Request(RequestError::WrongServer { .. }))
}

#[tokio::test]
async fn wishes_in_a_signing_request_or_in_json_get_nobody_more() {
    let lab = Lab::start().await;
    let token = lab.token("visitor", "device", &["role=visitor"]).await;
    let own = OwnKeys::load_or_make(&lab.device_dir("visitor")).unwrap();
    let admin = read_certificate(&lab.admin_identity().0).unwrap().identity;
    let mut wishes = rcgen::CertificateParams::default();
    wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wishes.subject_alt_names = vec![
        rcgen::SanType::URI(admin.uri().as_str().try_into().unwrap()),
        rcgen::SanType::DnsName("localhost".try_into().unwrap()),
    ];
    wishes.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = enrol_request(&token, &own, csr(&own.signing, wishes));
    let anyone = Authority::new(
        lab.authority.url(),
        smqtt_client::tls::pinned_config(lab.authority.fingerprint()).unwrap(),
    )
    .unwrap();

    for (field, wish) in [
        ("attributes", serde_json::json!(["role=nurse"])),
        ("role", serde_json::json!("admin")),
        ("name", serde_json::json!("admin")),
        ("id", serde_json::json!(admin.id.to_string())),
    ] {
        let mut asking = request.clone();
        asking[field] = wish;
        assert_eq!(problem(anyone.post::<Enrolment>("/v1/enrol", &asking).await), "json", "{field}");
    }
    // The wishes in the signing request are not refused: nobody looks at them.
    let given: Enrolment = anyone.post("/v1/enrol", &request).await.unwrap();
    let certificate = STANDARD.decode(&given.certificate).unwrap();
    let named = read_certificate(&certificate).unwrap().identity;
    assert_eq!((named.role, named.name.as_str()), (Role::Device, "visitor"));
    assert_ne!(named.id, admin.id);
    let text = String::from_utf8_lossy(&certificate);
    assert!(!text.contains("localhost") && !text.contains("admin"), "{text}");

    let visitor = Device::new(
        Keyring::create(&lab.device_dir("visitor"), lab.authority.url(), own, &given, now()).unwrap(),
    );
    let labels = visitor.with(|k| k.keys().iter().flat_map(|key| key.labels().to_vec()).collect::<Vec<_>>());
    let versions = visitor.with(|k| k.bundle().versions.clone());
    assert_eq!(labels, Attributes::parse(["role=visitor"]).unwrap().labels(&versions, 1));
}

#[tokio::test]
async fn nobody_gets_keys_that_are_somebody_elses() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let visitor = lab.enrol("visitor", &["role=visitor"]).await;
    let as_visitor = lab.as_holder(&visitor.identity());
    for path in ["/v1/keys/nurse", "/v1/keys/../devices", "/v1/devices/nurse/keys"] {
        assert_eq!(problem(as_visitor.get::<Keys>(path).await), "not-found", "{path}");
    }
    let path = format!("/v1/keys?device={}", nurse.id());
    assert_eq!(problem(as_visitor.get::<Keys>(&path).await), "bad-request");
    let own: Keys = as_visitor.get("/v1/keys").await.unwrap();
    assert_eq!(own.attributes, ["role=visitor"]);
    visitor.with(|k| k.take_keys(&own.keys)).unwrap();

    // Whoever copies another's answer off the wire, or out of a log, cannot open it.
    let copied: Keys = lab.as_holder(&nurse.identity()).get("/v1/keys").await.unwrap();
    nurse.with(|k| k.take_keys(&copied.keys)).unwrap();
    let before = visitor.with(|k| k.keys().len());
    let refused = visitor.with(|k| k.take_keys(&copied.keys)).unwrap_err();
    assert!(matches!(refused, KeyringError::Answer), "{refused}");
    assert_eq!(visitor.with(|k| k.keys().len()), before);
}

#[tokio::test]
async fn devices_and_brokers_administer_nothing() {
    let lab = Lab::start().await;
    let device = lab.enrol("device", &["role=nurse"]).await;
    let broker = lab.enrol_broker("broker").await;
    let nothing = serde_json::json!({});
    let rule = serde_json::json!({"filter": "#", "mode": "open"});
    let token = serde_json::json!({"name": "more", "attributes": ["role=chief"]});
    type Answer = serde_json::Value;
    for identity in [device.identity(), broker.identity()] {
        let caller = lab.as_holder(&identity);
        assert_eq!(problem(caller.post::<Answer>("/v1/tokens", &token).await), "role");
        assert_eq!(problem(caller.put::<Answer>("/v1/rules", &rule).await), "role");
        assert_eq!(problem(caller.delete::<Answer>("/v1/rules?filter=x").await), "role");
        assert_eq!(problem(caller.post::<Answer>("/v1/devices/device/revoke", &nothing).await), "role");
        assert_eq!(problem(caller.post::<Answer>("/v1/epoch/rotate", &nothing).await), "role");
        assert_eq!(problem(caller.get::<Answer>("/v1/audit").await), "role");
    }
    let as_device = lab.as_holder(&device.identity());
    assert_eq!(problem(as_device.get::<Answer>("/v1/directory").await), "role");
    assert_eq!(problem(as_device.get::<Answer>("/v1/devices").await), "role");
    // A broker opens nothing, so there are no keys for it.
    assert_eq!(problem(lab.as_holder(&broker.identity()).get::<Answer>("/v1/keys").await), "role");
    assert!(broker.with(|k| k.keys().is_empty()));
    assert!(lab.admin().post::<Answer>("/v1/tokens", &token).await.is_ok());
}

#[tokio::test]
async fn a_device_takes_no_bundle_but_a_newer_one_of_its_authority() {
    let (lab, other) = (Lab::start().await, Lab::start().await);
    let device = lab.enrol("device", &["role=nurse"]).await;
    let broker = lab.enrol_broker("broker").await;
    let old = device.with(|k| k.bundle_bytes().to_vec());
    lab.require("ward/+/t", "role=nurse").await;
    assert!(device.refresh().await.unwrap().bundle);
    let newest = device.with(|k| k.bundle().clone());

    let refused = |bytes: &[u8]| match device.with(|k| k.take_bundle(bytes)).unwrap_err() {
        KeyringError::Bundle(error) => error,
        error => panic!("{error}"),
    };
    let (got, known) = (newest.number - 1, newest.number);
    assert_eq!(refused(&old), BundleError::Older { got, known });

    // What an attacker would like: nothing need be sealed, and nobody was revoked.
    let wanted = Bundle { number: newest.number + 1, rules: Vec::new(), ..newest.clone() };
    let signer = |(certificate, key): (Vec<u8>, Vec<u8>)| {
        Signer::new(SigningKey::from_pkcs8(&key).unwrap(), certificate).unwrap()
    };
    for identity in [device.identity(), broker.identity(), lab.admin_identity()] {
        assert_eq!(refused(&wanted.sign(&signer(identity))), BundleError::Signature);
    }
    let authority =
        Identity { tenant: newest.tenant, role: Role::Authority, id: device.id(), name: "authority".into() };
    let forged = wanted.sign(&HomeMade::new().issue(&authority));
    assert_eq!(refused(&forged), BundleError::Certificate(IdentityError::UnknownIssuer));
    let foreign = other.enrol("device", &["role=nurse"]).await;
    for _ in 0..3 {
        other.rotate().await;
    }
    foreign.refresh().await.unwrap();
    let foreign = foreign.with(|k| k.bundle_bytes().to_vec());
    assert_eq!(refused(&foreign), BundleError::Certificate(IdentityError::UnknownIssuer));
    // The authority's certificate, which every bundle shows, under another's signature.
    let shown = {
        let bytes = device.with(|k| k.bundle_bytes().to_vec());
        let start = bytes.windows(2).position(|w| w == [0x30, 0x82]).unwrap();
        let len = usize::from(u16::from_be_bytes([bytes[start + 2], bytes[start + 3]])) + 4;
        bytes[start..start + len].to_vec()
    };
    assert_eq!(read_certificate(&shown).unwrap().identity.role, Role::Authority);
    let payload = cose::payload(&forged).to_vec();
    let forged = cose::sign1(&SigningKey::generate(), &shown, cose::BUNDLE_AAD, &payload);
    assert_eq!(refused(&forged), BundleError::Signature);
    // Every bit counts.
    let honest = device.with(|k| k.bundle_bytes().to_vec());
    for at in 0..honest.len() {
        let mut bent = honest.clone();
        bent[at] ^= 1;
        refused(&bent);
    }
    assert_eq!(device.with(|k| k.bundle().clone()), newest);

    lab.rotate().await;
    assert!(device.refresh().await.unwrap().bundle);
    // Nor does it forget when it starts again with an old file put in place.
    let dir = lab.device_dir("device");
    assert_eq!(Keyring::load(&dir).unwrap().bundle().number, newest.number + 1);
}

#[tokio::test]
async fn whoever_stands_between_at_enrolment_learns_nothing() {
    let (lab, other) = (Lab::start().await, Lab::start().await);
    let broker = lab.enrol_broker("broker").await;
    let device = lab.enrol("insider", &["role=nurse"]).await;
    let token = lab.token("sensor", "device", &["role=sensor"]).await;
    let dir = lab.device_dir("sensor");
    let root = &lab.authority.root();
    let authority = Identity {
        tenant: lab.authority.fingerprint().tenant(),
        role: Role::Authority,
        id: device.id(),
        name: "authority".into(),
    };
    let home = HomeMade::new();
    let home_made = home.issue(&authority);
    let home_made = (home_made.certificate().to_vec(), home_made.key().expose_pkcs8().to_vec());

    // The real root is no secret: anyone can send it along.
    for (who, config) in [
        ("a root of its own", server_config(&home_made, &home.root, false)),
        ("a root of its own, the real one shown", server_config(&home_made, root, false)),
        ("a device", server_config(&device.identity(), root, false)),
        ("a broker", server_config(&broker.identity(), root, false)),
        ("an administrator", server_config(&lab.admin_identity(), root, false)),
    ] {
        let (address, told) = impostor(config).await;
        let mut led_astray = token.clone();
        led_astray.url = format!("https://{address}");
        let error = enrol(&led_astray, &dir, now()).await.unwrap_err();
        assert!(is_wrong_server(&error), "{who}: {error:?}");
        assert_eq!(told.lock().unwrap().len(), 0, "{who} was told a token");
    }
    let mut elsewhere = token.clone();
    elsewhere.url = other.authority.url().into();
    assert!(is_wrong_server(&enrol(&elsewhere, &dir, now()).await.unwrap_err()));
    assert!(enrol(&token, &dir, now()).await.is_ok());
}

#[tokio::test]
async fn whoever_stands_between_later_is_not_taken_for_the_authority() {
    let lab = Lab::start().await;
    let broker = lab.enrol_broker("broker").await;
    let insider = lab.enrol("insider", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &["role=sensor"]).await;
    assert!(sensor.refresh().await.is_ok());
    let file = lab.device_dir("sensor").join("identity.json");
    let place = std::fs::read_to_string(&file).unwrap();
    for identity in [broker.identity(), insider.identity()] {
        let (address, told) = impostor(server_config(&identity, &lab.authority.root(), false)).await;
        // As if the name led elsewhere.
        let elsewhere = place.replace(lab.authority.url(), &format!("https://{address}"));
        std::fs::write(&file, elsewhere).unwrap();
        let sensor = Device::new(Keyring::load(&lab.device_dir("sensor")).unwrap());
        let error = sensor.refresh().await.unwrap_err();
        assert!(is_wrong_server(&error), "{error:?}");
        assert_eq!(told.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_token_is_good_for_one_device() {
    let lab = Lab::start().await;
    let token = lab.token("sensor", "device", &["role=sensor"]).await;
    let mut guessed = token.clone();
    guessed.secret = [7; 16];
    let refused = |error: EnrolError| match error {
        EnrolError::Request(error) => error.code().unwrap_or("none").to_owned(),
        EnrolError::Expired => "expired".into(),
        error => panic!("{error}"),
    };
    let thief = lab.device_dir("thief");
    assert_eq!(refused(enrol(&guessed, &thief, now()).await.unwrap_err()), "token-unknown");
    enrol(&token, &lab.device_dir("sensor"), now()).await.unwrap();
    assert_eq!(refused(enrol(&token, &thief, now()).await.unwrap_err()), "token-used");
    let late = lab.token("late", "device", &[]).await;
    lab.advance(DAY + 1);
    assert_eq!(refused(enrol(&late, &lab.device_dir("late"), now()).await.unwrap_err()), "expired");
}

#[tokio::test]
async fn a_certificate_is_renewed_for_whoever_it_names() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let visitor = lab.enrol("visitor", &["role=visitor"]).await;
    // A signing request is no secret, so the visitor has the nurse's.
    let csr = nurse.with(|k| csr(&k.own().signing, rcgen::CertificateParams::default()));
    let request = serde_json::json!({
        "csr": csr,
        "hpke_key": visitor.with(|k| STANDARD.encode(&k.own().hpke_public)),
    });
    let mut asking = request.clone();
    asking["id"] = serde_json::json!(nurse.id().to_string());
    let as_visitor = lab.as_holder(&visitor.identity());
    assert_eq!(problem(as_visitor.post::<Enrolment>("/v1/renew", &asking).await), "json");
    let given: Enrolment = as_visitor.post("/v1/renew", &request).await.unwrap();
    let certificate = STANDARD.decode(&given.certificate).unwrap();
    assert_eq!(read_certificate(&certificate).unwrap().identity.id, visitor.id());
    // It is for a key that the visitor does not have, and not for the nurse.
    for device in [&nurse, &visitor] {
        let taken = device.with(|k| k.take_certificate(certificate.clone(), now()));
        let error = taken.unwrap_err();
        assert!(matches!(error, KeyringError::Certificate(IdentityError::OtherUse)), "{error:?}");
    }
    // The nurse's certificate without its key is worth nothing: TLS wants a proof.
    let stolen = (nurse.identity().0, visitor.identity().1);
    assert!(smqtt_client::tls::client_config(&lab.roots(), Some((&stolen.0, &stolen.1))).is_err());
    // And the certificate of a key that the visitor made itself names nobody here.
    let named = nurse.with(|k| k.signer().identity().clone());
    let forged = HomeMade::new().issue(&named);
    let forged = (forged.certificate().to_vec(), forged.key().expose_pkcs8().to_vec());
    assert!(
        lab.as_holder(&forged).post::<Enrolment>("/v1/renew", &request).await.unwrap_err().code().is_none()
    );

    lab.advance(26 * DAY);
    assert!(nurse.refresh().await.unwrap().certificate);
}

#[tokio::test]
async fn who_was_revoked_gets_nothing_any_more() {
    let lab = Lab::start().await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let other = lab.enrol("other", &["role=nurse"]).await;
    let token = lab.token("again", "device", &["role=nurse"]).await;
    let report = lab.revoke("nurse").await;
    assert_eq!(report.raised, ["role=nurse"]);
    let as_nurse = lab.as_holder(&nurse.identity());
    type Answer = serde_json::Value;
    assert_eq!(problem(as_nurse.get::<Answer>("/v1/keys").await), "revoked");
    assert_eq!(problem(as_nurse.bundle(0, std::time::Duration::ZERO).await), "revoked");
    let renewal = nurse.with(|k| {
        serde_json::json!({
            "csr": csr(&k.own().signing, rcgen::CertificateParams::default()),
            "hpke_key": STANDARD.encode(&k.own().hpke_public),
        })
    });
    assert_eq!(problem(as_nurse.post::<Answer>("/v1/renew", &renewal).await), "revoked");
    // A token that somebody gives it makes it another device, with a key of its own; the old one stays closed.
    let own = OwnKeys::load_or_make(&lab.device_dir("nurse")).unwrap();
    let request = enrol_request(&token, &own, csr(&own.signing, rcgen::CertificateParams::default()));
    let _ = as_nurse.post::<Enrolment>("/v1/enrol", &request).await;
    assert_eq!(problem(as_nurse.get::<Answer>("/v1/keys").await), "revoked");
    assert!(other.refresh().await.unwrap().bundle);
}

/// Whoever can cut connections waits until a device has the bundle that raises a version, and cuts its request for
/// the keys that go with it.
#[tokio::test]
async fn a_cut_connection_does_not_leave_a_device_without_keys() {
    let lab = Lab::start().await;
    let lost = lab.enrol("lost", &["role=nurse"]).await;
    let nurse = lab.enrol("nurse", &["role=nurse"]).await;
    let sensor = lab.enrol("sensor", &[]).await;
    lab.revoke("lost").await;
    let bundle =
        lab.as_holder(&nurse.identity()).bundle(0, std::time::Duration::ZERO).await.unwrap().unwrap();
    // The bundle arrived, the keys did not.
    assert!(nurse.with(|k| k.take_bundle(&bundle)).unwrap());
    sensor.refresh().await.unwrap();
    let (header, content) = sensor.header("role=nurse", "a");
    let payload = full(&header, &content.seal("a", b"36.6").unwrap());
    let mut opener = nurse.opener();
    assert_eq!(nurse.sees(&mut opener, "a", &payload), "not-for-me version");
    nurse.refresh().await.unwrap();
    assert_eq!(nurse.sees(&mut opener, "a", &payload), "opened 36.6");
    assert_eq!(lost.sees(&mut lost.opener(), "a", &payload), "newer");
}
