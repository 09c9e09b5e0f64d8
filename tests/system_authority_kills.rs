//! An authority that is killed again and again while many enrol devices, one by one and in batches, change, suspend, resume and
//! revoke them, begin epochs, rotate its keys and make and end access tokens: what it acknowledged is so, what it did not is
//! so or not but never by half, every change has its row in the audit log and every row its change, nobody who was revoked
//! comes back, and no token works for a device more than it is for.
//!
//! `SMQTT_CRASH_CYCLES=2000` runs it for longer than the checks do.

mod common;
#[path = "../core/tests/common/random.rs"]
#[allow(dead_code)]
mod random;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::TempDir;
use common::authority::{administrator, pem, start};
use common::site::address;
use random::Rng;
use smqtt_client::authority::{Authority, RequestError};
use smqtt_core::api::{
    Access, AccessRequest, AuditRecord, Device, DeviceChange, DeviceChanged, EnrolRequest, Enrolment,
    MasterRotated, MasterRotation, NewAccess, NewToken, Resumption, Revocation, RootKeyRotated, Rotation,
    Suspension, TokenRequest,
};
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::{SigningKey, sha256};
use smqtt_core::token::Token;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const CYCLES: usize = 12;
/// Who works at the same time, each on devices of its own.
const WORKERS: usize = 6;
/// Different values of the one attribute that changes.
const VALUES: usize = 16;
/// Devices that a batch's token is for.
const BATCH: usize = 3;
/// The steps of a rotation of a master secret key.
const STEPS: [&str; 3] = ["prepare", "activate", "retire"];
/// Between two looks at everything there is.
const CYCLES_EACH_AUDIT: usize = 50;

fn cycles() -> usize {
    std::env::var("SMQTT_CRASH_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

/// The keys that somebody enrols with.
#[derive(Clone, Debug)]
struct Keys {
    csr: String,
    hpke_key: String,
}

impl Keys {
    fn generate() -> Self {
        let (signing, hpke) = (SigningKey::generate(), SigningKey::generate());
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(signing.expose_pkcs8());
        let pair =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&pair).unwrap();
        Self { csr: STANDARD.encode(csr.der()), hpke_key: STANDARD.encode(hpke.public_key()) }
    }

    fn request(&self, token: &Token) -> EnrolRequest {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        serde_json::from_value(serde_json::json!({
            "token_id": hex(&token.id), "secret": hex(&token.secret), "csr": self.csr, "hpke_key": self.hpke_key,
        }))
        .unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Active,
    Suspended,
    Revoked,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

/// What a device has to be, by what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    name: String,
    value: usize,
    standing: Standing,
    /// Rows of the log that tell of it, by action.
    rows: BTreeMap<&'static str, usize>,
}

/// What was asked for when the authority went down.
#[derive(Clone, Debug)]
enum Open {
    Enrol { name: String, value: usize, token: String, keys: Keys },
    EndAccess { id: String },
    Step { at: usize },
    Change { id: String, action: &'static str, to: Expected },
}

/// A token for several devices.
#[derive(Clone, Debug)]
struct Batch {
    token: String,
    name: String,
    value: usize,
    used: usize,
}

/// One of those who work, and what it knows.
struct Worker {
    number: usize,
    dice: Rng,
    keys: Keys,
    other: Keys,
    made: usize,
    devices: BTreeMap<String, Expected>,
    used: Vec<String>,
    batch: Option<Batch>,
    /// Access tokens that were made and not ended.
    access: Vec<String>,
    ended: Vec<String>,
    /// Steps of rotations that were done.
    steps: usize,
    /// Devices and tokens that were touched since the last restart.
    touched: Vec<String>,
    open: Option<Open>,
}

impl Worker {
    fn new(number: usize) -> Self {
        Self {
            number,
            dice: Rng(number as u64),
            keys: Keys::generate(),
            other: Keys::generate(),
            made: 0,
            devices: BTreeMap::new(),
            used: Vec::new(),
            batch: None,
            access: Vec::new(),
            ended: Vec::new(),
            steps: 0,
            touched: Vec::new(),
            open: None,
        }
    }

    /// Works until the authority is gone.
    async fn work(mut self, admin: Arc<Authority>, told: Arc<(AtomicUsize, Notify)>) -> Self {
        while self.one(&admin).await {
            told.0.fetch_add(1, Ordering::SeqCst);
            told.1.notify_one();
        }
        self
    }

    /// One request; whether it was answered.
    async fn one(&mut self, admin: &Authority) -> bool {
        let standing = |wanted| move |(_, device): &(&String, &Expected)| device.standing == wanted;
        let active: Vec<_> =
            self.devices.iter().filter(standing(Standing::Active)).map(|(id, _)| id.clone()).collect();
        let suspended: Vec<_> =
            self.devices.iter().filter(standing(Standing::Suspended)).map(|(id, _)| id.clone()).collect();
        let of = |dice: &mut Rng, from: &[String]| from[dice.below(from.len())].clone();
        match self.dice.below(100) {
            0 => answered(admin.post::<RootKeyRotated>("/v1/rotate/root-key", &()).await).is_some(),
            1 => answered(admin.post::<Rotation>("/v1/epoch/rotate", &()).await).is_some(),
            // One of them, so that it is known which step is next.
            2 if self.number == 0 => self.step(admin).await,
            3..6 => self.access(admin).await,
            6..12 if !self.used.is_empty() => {
                let token = of(&mut self.dice, &self.used);
                self.replay(admin, &token).await
            }
            12..35 if !active.is_empty() => {
                let id = of(&mut self.dice, &active);
                let value = self.dice.below(VALUES);
                let mut to = self.devices[&id].clone();
                if to.value == value {
                    return true;
                }
                to.value = value;
                let change = DeviceChange { set: vec![format!("n=v{value}")], ..DeviceChange::default() };
                let path = format!("/v1/devices/{id}");
                self.change(id, "change-device", to, admin.patch::<DeviceChanged>(&path, &change)).await
            }
            35..50 if !active.is_empty() => {
                let id = of(&mut self.dice, &active);
                let to = Expected { standing: Standing::Suspended, ..self.devices[&id].clone() };
                let path = format!("/v1/devices/{id}/suspend");
                self.change(id, "suspend", to, admin.post::<Suspension>(&path, &())).await
            }
            50..62 if !suspended.is_empty() => {
                let id = of(&mut self.dice, &suspended);
                let to = Expected { standing: Standing::Active, ..self.devices[&id].clone() };
                let path = format!("/v1/devices/{id}/resume");
                self.change(id, "resume", to, admin.post::<Resumption>(&path, &())).await
            }
            62..74 if !active.is_empty() => {
                let id = of(&mut self.dice, &active);
                let to = Expected { standing: Standing::Revoked, ..self.devices[&id].clone() };
                let path = format!("/v1/devices/{id}/revoke");
                self.change(id, "revoke", to, admin.post::<Revocation>(&path, &())).await
            }
            _ => self.enrol(admin).await,
        }
    }

    async fn change<T>(
        &mut self,
        id: String,
        action: &'static str,
        to: Expected,
        asked: impl Future<Output = Result<T, RequestError>>,
    ) -> bool {
        self.touched.push(id.clone());
        self.open = Some(Open::Change { id, action, to });
        answered(asked.await).is_some() && self.happened()
    }

    async fn step(&mut self, admin: &Authority) -> bool {
        let at = self.steps % STEPS.len();
        let request = MasterRotation { suite: "fabeo-cp".into(), step: STEPS[at].into(), force: true };
        self.open = Some(Open::Step { at });
        if answered(admin.post::<MasterRotated>("/v1/rotate/master", &request).await).is_none() {
            return false;
        }
        (self.open, self.steps) = (None, self.steps + 1);
        true
    }

    /// Makes an access token, or ends one.
    async fn access(&mut self, admin: &Authority) -> bool {
        if self.access.is_empty() || self.access.len() < 4 && self.dice.below(2) == 0 {
            let request: AccessRequest = serde_json::from_value(serde_json::json!({
                "name": "program", "role": "auditor", "ttl_seconds": 86_400,
            }))
            .unwrap();
            let made = answered(admin.post::<NewAccess>("/v1/access", &request).await);
            return made.map(|made| self.access.push(made.id)).is_some();
        }
        let id = self.access[self.dice.below(self.access.len())].clone();
        self.open = Some(Open::EndAccess { id: id.clone() });
        answered(admin.delete::<Access>(&format!("/v1/access/{id}")).await).is_some() && self.ended()
    }

    fn ended(&mut self) -> bool {
        let Some(Open::EndAccess { id }) = self.open.take() else { panic!("nothing was asked") };
        self.access.retain(|own| *own != id);
        self.ended.push(id);
        true
    }

    /// A token, and the device that it names next.
    async fn token(&mut self, admin: &Authority) -> Option<Batch> {
        if let Some(batch) = self.batch.clone() {
            return Some(batch);
        }
        self.made += 1;
        let count = if self.dice.below(4) == 0 { BATCH } else { 1 };
        let (name, value) = (format!("device-{}-{}", self.number, self.made), self.dice.below(VALUES));
        let request: TokenRequest = serde_json::from_value(serde_json::json!({
            "name": name, "role": "device", "attributes": [format!("n=v{value}")], "count": count,
        }))
        .unwrap();
        let token = answered(admin.post::<NewToken>("/v1/tokens", &request).await)?.token;
        let batch = Batch { token, name, value, used: 0 };
        if count > 1 {
            self.batch = Some(batch.clone());
        }
        Some(batch)
    }

    async fn enrol(&mut self, admin: &Authority) -> bool {
        let Some(Batch { token, name, value, used }) = self.token(admin).await else { return false };
        let (name, keys) = match &self.batch {
            Some(_) => (format!("{name}-{}", used + 1), Keys::generate()),
            None => (name, self.keys.clone()),
        };
        let request = keys.request(&Token::parse(&token).unwrap());
        self.open = Some(Open::Enrol { name, value, token, keys });
        let enrolment = admin.post::<Enrolment>("/v1/enrol", &request).await;
        answered(enrolment).is_some_and(|enrolment| self.enrolled(enrolment))
    }

    fn enrolled(&mut self, enrolment: Enrolment) -> bool {
        let Some(Open::Enrol { name, value, token, .. }) = self.open.take() else {
            panic!("nothing was asked")
        };
        assert_eq!(enrolment.name, name);
        let more = self.batch.as_mut().is_some_and(|batch| {
            batch.used += 1;
            batch.used < BATCH
        });
        if !more {
            self.batch = None;
            self.used.push(token);
        }
        self.touched.push(enrolment.id.clone());
        let rows = BTreeMap::from([("enrol", 1)]);
        self.devices.insert(enrolment.id, Expected { name, value, standing: Standing::Active, rows });
        true
    }

    /// What was asked for is so.
    fn happened(&mut self) -> bool {
        let Some(Open::Change { id, action, mut to }) = self.open.take() else { panic!("nothing was asked") };
        *to.rows.entry(action).or_default() += 1;
        self.devices.insert(id, to);
        true
    }

    /// A used token and other keys.
    async fn replay(&mut self, admin: &Authority, token: &str) -> bool {
        let token = Token::parse(token).unwrap();
        match admin.post::<Enrolment>("/v1/enrol", &self.other.request(&token)).await {
            Err(error) if error.code() == Some("token-used") => true,
            Err(error) if error.is_temporary() => false,
            other => panic!("a used token, presented with other keys: {other:?}"),
        }
    }

    /// After the restart: finds out whether what was open happened, and looks at all that was touched.
    async fn look(&mut self, admin: &Authority, rows: &Rows) {
        match self.open.clone() {
            None => {}
            // With the same keys an answer that was lost is given again, and what was not done is done now.
            Some(Open::Enrol { token, keys, .. }) => {
                let request = keys.request(&Token::parse(&token).unwrap());
                let enrolment = admin.post::<Enrolment>("/v1/enrol", &request).await.unwrap();
                self.enrolled(enrolment);
            }
            Some(Open::Step { at }) => {
                let before = self.steps / STEPS.len() + usize::from(self.steps % STEPS.len() > at);
                let now = rows.count(STEPS[at], "rotate-master");
                assert!(now == before || now == before + 1, "{}: {before} rows, then {now}", STEPS[at]);
                (self.open, self.steps) = (None, self.steps + now - before);
            }
            Some(Open::EndAccess { id }) => {
                let listed: Vec<Access> = admin.get("/v1/access").await.unwrap();
                match rows.count(&id, "remove-access") {
                    0 => {
                        assert!(listed.iter().any(|access| access.id == id), "{id} ended without a row");
                        self.open = None;
                    }
                    _ => assert!(self.ended()),
                }
            }
            Some(Open::Change { id, action, to }) => {
                let now = rows.count(&id, action);
                let before = self.devices[&id].rows.get(action).copied().unwrap_or(0);
                assert!(now == before || now == before + 1, "{id} {action}: {before} rows, then {now}");
                let listed = admin.get::<Device>(&format!("/v1/devices/{id}")).await.unwrap();
                // The log decides, and the device has to agree: checked below.
                if now > before {
                    self.happened();
                } else {
                    assert!(!is(&listed, &to), "{id}: {action} was done and nobody wrote it down");
                    self.open = None;
                }
            }
        }
        for id in std::mem::take(&mut self.touched) {
            let listed = admin.get::<Device>(&format!("/v1/devices/{id}")).await.unwrap();
            self.check(&id, &listed);
        }
    }

    fn check(&self, id: &str, listed: &Device) {
        let expected = &self.devices[id];
        assert!(is(listed, expected), "{expected:?}, and there is {listed:?}");
    }
}

fn is(listed: &Device, expected: &Expected) -> bool {
    listed.name == expected.name
        && listed.status == expected.standing.word()
        && listed.attributes == [format!("n=v{}", expected.value)]
}

/// An answer; `None` if the authority went down. Whatever else is refused is a fault.
fn answered<T>(answer: Result<T, RequestError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.is_temporary() => None,
        Err(error) => panic!("{error}"),
    }
}

/// The audit log as far as it was read: the chain checked link by link, and the rows of each device counted.
#[derive(Default)]
struct Rows {
    number: u64,
    hash: [u8; 32],
    counts: BTreeMap<(String, String), usize>,
    actions: BTreeMap<String, usize>,
}

impl Rows {
    async fn read_on(&mut self, admin: &Authority) {
        loop {
            let page: Vec<AuditRecord> =
                admin.get(&format!("/v1/audit?after={}", self.number)).await.unwrap();
            if page.is_empty() {
                return;
            }
            page.iter().for_each(|record| self.take(record));
        }
    }

    fn take(&mut self, record: &AuditRecord) {
        assert_eq!(record.number, self.number + 1, "a row is missing");
        let length = |text: &str| (text.len() as u64).to_be_bytes();
        let hash = sha256(&[
            &self.hash,
            &record.number.to_be_bytes(),
            &record.at.to_be_bytes(),
            &length(&record.actor),
            record.actor.as_bytes(),
            &length(&record.action),
            record.action.as_bytes(),
            &length(&record.subject),
            record.subject.as_bytes(),
        ]);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, record.hash, "row {} does not follow the one before", record.number);
        (self.number, self.hash) = (record.number, hash);
        *self.actions.entry(record.action.clone()).or_default() += 1;
        // `name id …`, the identifier perhaps with a colon.
        if let Some(id) = record.subject.split([' ', ':']).nth(1) {
            *self.counts.entry((id.to_owned(), record.action.clone())).or_default() += 1;
        }
    }

    fn count(&self, id: &str, action: &str) -> usize {
        self.counts.get(&(id.to_owned(), action.to_owned())).copied().unwrap_or(0)
    }
}

/// Everything there is, against everything that was acknowledged.
async fn look_at_all(home: &Path, admin: &Authority, workers: &[Worker], rows: &Rows) {
    let mut listed: BTreeMap<String, Device> = BTreeMap::new();
    loop {
        let after = listed.last_key_value().map_or(String::new(), |(id, _)| format!("?after={id}"));
        let page: Vec<Device> = admin.get(&format!("/v1/devices{after}")).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|device| (device.id.clone(), device)));
    }
    let bundle = admin.bundle(0, Duration::ZERO).await.unwrap().unwrap();
    let bundle = Bundle::verify(&bundle, &[pem(home, "root.pem")]).unwrap();
    let mut known = 0;
    for worker in workers {
        for (id, expected) in &worker.devices {
            worker.check(id, &listed[id]);
            known += 1;
            let shut_out = bundle.is_revoked(id.parse().unwrap());
            assert_eq!(shut_out, expected.standing != Standing::Active, "{expected:?}");
            for (action, count) in &expected.rows {
                assert_eq!(rows.count(id, action), *count, "{action} of {expected:?}");
            }
        }
    }
    let access: Vec<Access> = admin.get("/v1/access").await.unwrap();
    let is_listed = |id: &String| access.iter().any(|access| access.id == *id);
    for worker in workers {
        assert!(worker.access.iter().all(is_listed), "an access token is lost");
        assert!(!worker.ended.iter().any(is_listed), "an access token is back");
    }
    let of = |action| rows.actions.get(action).copied().unwrap_or(0);
    assert_eq!(of("make-access"), of("remove-access") + access.len());
    // Between the first step and the last there are two parameters of the suite, and of the other suite one.
    let steps = workers[0].steps;
    let rotates = !steps.is_multiple_of(STEPS.len());
    assert_eq!((of("rotate-master"), bundle.params.len()), (steps, 2 + usize::from(rotates)));
    let devices = listed.values().filter(|device| device.role == "device").count();
    assert_eq!(devices, known, "nobody whom nobody enrolled");
    let all: usize = rows.counts.iter().filter(|((_, action), _)| action == "revoke").map(|(_, n)| n).sum();
    let revoked = listed.values().filter(|device| device.status == "revoked").count();
    assert_eq!(all, revoked, "a row for each who was revoked, and nobody else revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_forgets_nothing_and_does_nothing_by_half() {
    let home = TempDir::new();
    let home = home.path();
    let (mut authority, url) = start(home, "127.0.0.1:0");
    let admin = Arc::new(administrator(home, &url));
    let mut workers: Vec<Worker> = (0..WORKERS).map(Worker::new).collect();
    let mut rows = Rows::default();
    let mut dice = Rng(u64::MAX);
    let mut acknowledged = 0;
    for cycle in 0..cycles() {
        let told = Arc::new((AtomicUsize::new(0), Notify::new()));
        let working: JoinSet<Worker> =
            workers.drain(..).map(|worker| worker.work(admin.clone(), told.clone())).collect();
        let enough = 1 + dice.below(30);
        while told.0.load(Ordering::SeqCst) < enough {
            told.1.notified().await;
        }
        // The moment itself, not a wait for something: it varies from round to round.
        tokio::time::sleep(Duration::from_micros(dice.below(6_000) as u64)).await;
        authority.kill();
        workers = working.join_all().await;
        workers.sort_by_key(|worker| worker.number);
        acknowledged += told.0.load(Ordering::SeqCst);

        let (again, same) = start(home, address(&url));
        assert_eq!(same, url);
        authority = again;
        rows.read_on(&admin).await;
        for worker in &mut workers {
            worker.look(&admin, &rows).await;
        }
        rows.read_on(&admin).await;
        if cycle % CYCLES_EACH_AUDIT == CYCLES_EACH_AUDIT - 1 {
            look_at_all(home, &admin, &workers, &rows).await;
        }
    }
    look_at_all(home, &admin, &workers, &rows).await;
    let devices: usize = workers.iter().map(|worker| worker.devices.len()).sum();
    println!(
        "{} cycles, {acknowledged} acknowledged, {devices} devices, {} rows of the log",
        cycles(),
        rows.number
    );
}
