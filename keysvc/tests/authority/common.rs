//! An authority to test, and a client for it.

#[path = "at_rest.rs"]
pub mod at_rest;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
pub use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256 as HPKE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smqtt_core::api::{EnrolRequest, Enrolment, KEY_HPKE_INFO, NewToken, Problem, RenewRequest, SealedKey};
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::SigningKey;
use smqtt_core::envelope::SealingKey;
use smqtt_core::header::{Draft, Header, Signer};
use smqtt_core::identity::DeviceId;
use smqtt_core::suite::{Params, SuiteId, UserKey};
use smqtt_core::target::Target;
use smqtt_core::token::Token;
use smqtt_keysvc::{Authority, Clock, Config, Rates, serve};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const START: u64 = 1_800_000_000;
pub const DAY: u64 = 86_400;

/// A clock that stands still until it is told.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Whoever finds that it was wrong.
    pub fn put_back(&self, seconds: u64) {
        self.0.fetch_sub(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl TimeProvider for ManualClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now())))
    }
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock(AtomicU64::new(START)))
}

/// An authority that serves until it is dropped or stopped.
pub struct Running {
    pub dir: Arc<TempDir>,
    pub clock: Arc<ManualClock>,
    pub authority: Arc<Authority>,
    pub address: SocketAddr,
    pub config: Config,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::again(Arc::new(TempDir::new().unwrap()), clock(), config).await
    }

    pub async fn again(dir: Arc<TempDir>, clock: Arc<ManualClock>, mut config: Config) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        config.listen = address;
        if config.rates == Rates::default() {
            // With a clock that stands still no bucket is ever filled again.
            config.rates = Rates::unlimited();
        }
        let authority = Authority::open(&dir.path().join("data"), config.clone(), clock.clone()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = authority.clone();
        let served = tokio::spawn(async move {
            serve(serving, listener, async { drop(stopped.await) }).await.unwrap();
        });
        Self { dir, clock, authority, address, config, stop, served }
    }

    /// Stops as an operator would, and waits until everything is closed.
    pub async fn stop(self) -> (Arc<TempDir>, Arc<ManualClock>, Config) {
        drop(self.stop);
        self.served.await.unwrap();
        drop(self.authority);
        (self.dir, self.clock, self.config)
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.authority.roots()
    }

    pub fn anonymous(&self) -> Client {
        Client::new(self, None)
    }

    pub fn admin(&self) -> Client {
        let (certificate, key) = admin_identity(&self.path("admin"));
        Client::new(self, Some((certificate, key)))
    }

    pub async fn token(&self, name: &str, attributes: &[&str]) -> Token {
        let request = serde_json::json!({ "name": name, "attributes": attributes });
        let answer = self.admin().post("/v1/tokens", &request).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        Token::parse(&answer.json::<NewToken>().token).unwrap()
    }

    pub async fn enrol(&self, name: &str, attributes: &[&str]) -> Device {
        let keys = DeviceKeys::generate();
        let token = self.token(name, attributes).await;
        let answer = self.anonymous().post("/v1/enrol", &keys.request(&token)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        Device::new(keys, answer.json())
    }

    /// A device whose keys carry this policy.
    pub async fn enrol_with_policy(&self, name: &str, attributes: &[&str], policy: &str) -> Device {
        let request = serde_json::json!({ "name": name, "attributes": attributes, "policy": policy });
        let token: NewToken = self.admin().post("/v1/tokens", &request).await.json();
        let keys = DeviceKeys::generate();
        let request = keys.request(&Token::parse(&token.token).unwrap());
        Device::new(keys, self.anonymous().post("/v1/enrol", &request).await.json())
    }

    /// Somebody of a role that has nothing but its name.
    pub async fn enrol_as(&self, name: &str, role: &str) -> Device {
        let request = serde_json::json!({ "name": name, "role": role });
        let token: NewToken = self.admin().post("/v1/tokens", &request).await.json();
        let keys = DeviceKeys::generate();
        let request = keys.request(&Token::parse(&token.token).unwrap());
        Device::new(keys, self.anonymous().post("/v1/enrol", &request).await.json())
    }

    pub async fn enrol_broker(&self, name: &str, hosts: &[&str]) -> Device {
        let request = serde_json::json!({ "name": name, "role": "broker", "hosts": hosts });
        let token: NewToken = self.admin().post("/v1/tokens", &request).await.json();
        let keys = DeviceKeys::generate();
        let request = keys.request(&Token::parse(&token.token).unwrap());
        Device::new(keys, self.anonymous().post("/v1/enrol", &request).await.json())
    }

    pub async fn enrol_bridge(&self, name: &str, attributes: &[&str]) -> Device {
        let request = serde_json::json!({ "name": name, "role": "bridge", "attributes": attributes });
        let token: NewToken = self.admin().post("/v1/tokens", &request).await.json();
        let keys = DeviceKeys::generate();
        let request = keys.request(&Token::parse(&token.token).unwrap());
        Device::new(keys, self.anonymous().post("/v1/enrol", &request).await.json())
    }

    pub fn client(&self, device: &Device) -> Client {
        Client::new(self, Some((device.certificate(), device.keys.signing.expose_pkcs8().to_vec())))
    }

    pub fn bundle(&self, bytes: &[u8]) -> Bundle {
        Bundle::verify(bytes, &self.roots()).unwrap()
    }

    pub async fn newest_bundle(&self) -> Bundle {
        let answer = self.admin().get("/v1/bundle").await;
        assert_eq!(answer.status, StatusCode::OK);
        self.bundle(&answer.body)
    }
}

pub fn admin_identity(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    (from_pem(&dir.join("cert.pem")), from_pem(&dir.join("key.pem")))
}

pub fn from_pem(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

/// What a device makes for itself.
pub struct DeviceKeys {
    pub signing: SigningKey,
    pub hpke_public: Vec<u8>,
    pub hpke_private: HpkePrivateKey,
}

impl DeviceKeys {
    pub fn generate() -> Self {
        let (public, private) = HPKE.generate_key_pair().unwrap();
        Self { signing: SigningKey::generate(), hpke_public: public.0, hpke_private: private }
    }

    pub fn csr(&self) -> Vec<u8> {
        csr(&self.signing, rcgen::CertificateParams::default())
    }

    pub fn request(&self, token: &Token) -> EnrolRequest {
        self.request_with(token, &self.csr())
    }

    pub fn request_with(&self, token: &Token, csr: &[u8]) -> EnrolRequest {
        EnrolRequest {
            token_id: hex(&token.id),
            secret: hex(&token.secret),
            csr: STANDARD.encode(csr),
            hpke_key: STANDARD.encode(&self.hpke_public),
            serial: None,
        }
    }

    pub fn renewal(&self) -> RenewRequest {
        RenewRequest { csr: STANDARD.encode(self.csr()), hpke_key: STANDARD.encode(&self.hpke_public) }
    }
}

pub fn csr(key: &SigningKey, params: rcgen::CertificateParams) -> Vec<u8> {
    let der = PrivatePkcs8KeyDer::from(key.expose_pkcs8());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    params.serialize_request(&pair).unwrap().der().to_vec()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A device that enrolled.
pub struct Device {
    pub keys: DeviceKeys,
    pub enrolment: Enrolment,
}

impl Device {
    pub fn new(keys: DeviceKeys, enrolment: Enrolment) -> Self {
        Self { keys, enrolment }
    }

    pub fn certificate(&self) -> Vec<u8> {
        STANDARD.decode(&self.enrolment.certificate).unwrap()
    }

    pub fn id(&self) -> DeviceId {
        self.enrolment.id.parse().unwrap()
    }

    /// The parameters of `fabeo-cp`.
    pub fn params(&self) -> Params {
        self.params_of(SuiteId::FabeoCp)
    }

    pub fn params_of(&self, suite: SuiteId) -> Params {
        let decode = |text: &String| Params::decode(&STANDARD.decode(text).unwrap()).unwrap();
        self.enrolment.params.iter().map(decode).find(|params| params.suite() == suite).unwrap()
    }

    pub fn open_keys(&self, sealed: &[SealedKey]) -> Vec<UserKey> {
        sealed.iter().map(|sealed| self.open_key(sealed)).collect()
    }

    pub fn open_key(&self, sealed: &SealedKey) -> UserKey {
        let decode = |text: &str| STANDARD.decode(text).unwrap();
        let enc = EncapsulatedSecret(decode(&sealed.enc));
        let ciphertext = decode(&sealed.ciphertext);
        let key = HPKE.open(&enc, KEY_HPKE_INFO, &self.id().0, &ciphertext, &self.keys.hpke_private).unwrap();
        let key = UserKey::decode(&key).unwrap();
        assert_eq!((key.epoch(), key.suite().name()), (sealed.epoch, sealed.suite.as_str()));
        key
    }

    /// A header that only `policy` opens, under a bundle's epoch and versions.
    pub fn seal(&self, policy: &str, bundle: &Bundle, now: u64) -> (Header, SealingKey) {
        self.seal_under(&Target::Policy(policy.parse().unwrap()), bundle, now)
    }

    /// The same under labels.
    pub fn label(&self, labels: &str, bundle: &Bundle, now: u64) -> (Header, SealingKey) {
        self.seal_under(&Target::labels(labels.parse().unwrap()).unwrap(), bundle, now)
    }

    fn seal_under(&self, target: &Target, bundle: &Bundle, now: u64) -> (Header, SealingKey) {
        let key = SigningKey::from_pkcs8(self.keys.signing.expose_pkcs8()).unwrap();
        let draft = Draft {
            params: &self.params_of(target.suite()),
            epoch: bundle.epoch.number,
            versions: &bundle.versions,
            target,
            created: now,
            expires: now + 3600,
            filter: &"a/b".parse().unwrap(),
            sign_messages: false,
        };
        Header::seal(&draft, &Signer::new(key, self.certificate()).unwrap()).unwrap()
    }
}

/// An HTTPS client with or without a certificate. Each request takes a connection of its own.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    access: Option<String>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts that this is a problem of that status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: Problem = self.json();
        assert_eq!((problem.status, problem.code()), (status, code), "{problem:?}");
        problem
    }
}

impl Client {
    pub fn new(server: &Running, identity: Option<(Vec<u8>, Vec<u8>)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(server.authority.root().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, server.clock.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![certificate.into()],
                    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key)),
                )
                .unwrap(),
        };
        Self::over(server, tls)
    }

    /// One that brings its own idea of whom to trust.
    pub fn over(server: &Running, tls: ClientConfig) -> Self {
        Self { address: server.address, tls: Arc::new(tls), access: None }
    }

    /// The same with an access token.
    pub fn with_access(self, token: &str) -> Self {
        Self { access: Some(token.to_owned()), ..self }
    }

    pub async fn stream(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.tls.clone()).connect(name, stream).await
    }

    /// A connection for more than one request.
    pub async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = self.stream().await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), Bytes::new()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path), Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request, serde_json::to_vec(body).unwrap().into()).await
    }

    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Answer {
        let request = Request::patch(path).header("content-type", "application/json");
        self.send(request, serde_json::to_vec(body).unwrap().into()).await
    }

    pub async fn put(&self, path: &str, body: &impl Serialize) -> Answer {
        let request = Request::put(path).header("content-type", "application/json");
        self.send(request, serde_json::to_vec(body).unwrap().into()).await
    }

    pub async fn send(&self, request: hyper::http::request::Builder, body: Bytes) -> Answer {
        let mut sender = self.connect().await;
        let request = match &self.access {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let request = request.header("host", "localhost").body(Full::new(body)).unwrap();
        answer(sender.send_request(request).await.unwrap()).await
    }
}

pub async fn answer(response: hyper::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Whether TLS ends the connection instead of answering: in TLS 1.3 a client learns that after its handshake.
pub async fn closed_without_answer(client: &Client, path: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = client.stream().await else { return true };
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.is_empty()
}
