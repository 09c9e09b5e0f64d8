//! An authority, devices and a broker in this process, under a clock that the test moves; and what attackers make.
//!
//! For tests on a runtime of one thread: the clock belongs to the thread.
#![allow(dead_code)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use smqtt::broker::{Broker, BrokerHandle, Config, Hook, Limit};
use smqtt::mqtt::{
    Ack, AckProperties, Connack, ConnackProperties, Limits, Packet, Publish, QoS, ReasonCode, Suback,
    Version, decode,
};
use smqtt::secure::{Denied, SecurePublish, View};
use smqtt_client::authority::{Authority, RequestError};
use smqtt_client::enrol::{EnrolError, Refreshed, enrol, refresh};
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::opener::{Opener, Outcome};
use smqtt_client::tls;
use smqtt_core::api::{NewToken, Revocation, Rotation, Rule, RuleSet, TokenRequest};
use smqtt_core::crypto::SigningKey;
use smqtt_core::envelope::SealingKey;
use smqtt_core::header::{Draft, Header, Signer};
use smqtt_core::identity::{DeviceId, Identity};
use smqtt_core::target::Target;
use smqtt_core::token::Token;
use smqtt_core::topic::Filter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing here takes that long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const DAY: u64 = 86_400;

thread_local! {
    static AHEAD: Cell<u64> = const { Cell::new(0) };
}

/// Seconds since 1970 by the laboratory's clock.
pub fn now() -> u64 {
    smqtt_client::system_now() + AHEAD.get()
}

struct Clock(Arc<AtomicU64>);

impl smqtt_keysvc::Clock for Clock {
    fn now(&self) -> u64 {
        smqtt_client::system_now() + self.0.load(Ordering::SeqCst)
    }
}

/// A directory that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("smqtt-lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `condition` holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.expect("it becomes true in time");
}

/// An authority that serves HTTPS, and where its devices keep what they have.
pub struct Lab {
    pub dir: Scratch,
    pub authority: Arc<smqtt_keysvc::Authority>,
    ahead: Arc<AtomicU64>,
    serving: Option<(tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl Lab {
    pub async fn start() -> Self {
        Self::with(smqtt_keysvc::Config::default()).await
    }

    pub async fn with(mut config: smqtt_keysvc::Config) -> Self {
        let (dir, ahead) = (Scratch::new(), Arc::new(AtomicU64::new(AHEAD.get())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.listen = listener.local_addr().unwrap();
        // A fleet that lives a year in a minute asks as often as it has to.
        config.rates = smqtt_keysvc::Rates::unlimited();
        let clock = Arc::new(Clock(ahead.clone()));
        let authority = smqtt_keysvc::Authority::open(&dir.path().join("data"), config, clock).unwrap();
        let mut lab = Self { dir, authority, ahead, serving: None };
        lab.serve(listener);
        lab
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let authority = self.authority.clone();
        let serving = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            smqtt_keysvc::serve(authority, listener, stopped).await.unwrap();
        });
        self.serving = Some((stop, serving));
    }

    /// The authority does nothing any more.
    pub async fn stop_authority(&mut self) {
        let (stop, serving) = self.serving.take().expect("it serves");
        drop(stop);
        serving.await.unwrap();
    }

    /// It serves again, at another address, or another one does in its place.
    pub async fn start_authority(&mut self, other: Option<Arc<smqtt_keysvc::Authority>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.authority = other.unwrap_or_else(|| self.authority.clone());
        self.serve(listener);
        address
    }

    /// The clock that the authority goes by.
    pub fn clock(&self) -> Arc<dyn smqtt_keysvc::Clock> {
        Arc::new(Clock(self.ahead.clone()))
    }

    /// Moves the clock of authority, broker and devices.
    pub fn advance(&self, seconds: u64) {
        AHEAD.set(AHEAD.get() + seconds);
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.authority.roots()
    }

    /// The certificate and key (PKCS #8) of the administrator.
    pub fn admin_identity(&self) -> (Vec<u8>, Vec<u8>) {
        let dir = self.dir.path().join("data/admin");
        let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_file(dir.join("key.pem")).unwrap();
        (certificate.to_vec(), key.secret_pkcs8_der().to_vec())
    }

    /// The authority, for whoever holds this certificate and key.
    pub fn as_holder(&self, (certificate, key): &(Vec<u8>, Vec<u8>)) -> Authority {
        let tls = tls::authority_config_at(&self.roots(), (certificate, key), now()).unwrap();
        Authority::new(self.authority.url(), tls).unwrap()
    }

    pub fn admin(&self) -> Authority {
        self.as_holder(&self.admin_identity())
    }

    pub async fn token(&self, name: &str, role: &str, attributes: &[&str]) -> Token {
        let request = TokenRequest {
            name: name.into(),
            role: role.into(),
            attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
            ..TokenRequest::default()
        };
        self.token_for(&request).await
    }

    async fn token_for(&self, request: &TokenRequest) -> Token {
        let answer: NewToken = self.admin().post("/v1/tokens", request).await.unwrap();
        Token::parse(&answer.token).unwrap()
    }

    /// A device whose keys carry this policy.
    pub async fn enrol_with_policy(&self, name: &str, policy: &str) -> Device {
        let request =
            TokenRequest { name: name.into(), policy: Some(policy.into()), ..TokenRequest::default() };
        let token = self.token_for(&request).await;
        Device::new(enrol(&token, &self.device_dir(name), now()).await.unwrap())
    }

    pub fn device_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A device with these attributes.
    pub async fn enrol(&self, name: &str, attributes: &[&str]) -> Device {
        let token = self.token(name, "device", attributes).await;
        Device::new(enrol(&token, &self.device_dir(name), now()).await.unwrap())
    }

    pub async fn enrol_bridge(&self, name: &str, attributes: &[&str]) -> Device {
        let token = self.token(name, "bridge", attributes).await;
        Device::new(enrol(&token, &self.device_dir(name), now()).await.unwrap())
    }

    pub async fn enrol_broker(&self, name: &str) -> Device {
        self.enrol_as(name, "broker").await
    }

    /// Somebody of a role that has nothing but its name.
    pub async fn enrol_as(&self, name: &str, role: &str) -> Device {
        let token = self.token(name, role, &[]).await;
        Device::new(enrol(&token, &self.device_dir(name), now()).await.unwrap())
    }

    /// Requires sealing under `policy`; gives the bundle's number.
    pub async fn require(&self, filter: &str, policy: &str) -> u64 {
        self.rule(filter, "required", Some(policy), None, None).await
    }

    /// Requires sealing under `labels`; gives the bundle's number.
    pub async fn label(&self, filter: &str, labels: &str) -> u64 {
        let rule = Rule {
            filter: filter.into(),
            mode: "required".into(),
            policy: None,
            labels: Some(labels.into()),
            publishers: None,
            subscribers: None,
        };
        self.admin().put::<RuleSet>("/v1/rules", &rule).await.unwrap().bundle
    }

    pub async fn rule(
        &self,
        filter: &str,
        mode: &str,
        policy: Option<&str>,
        publishers: Option<&str>,
        subscribers: Option<&str>,
    ) -> u64 {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let rule = Rule {
            filter: filter.into(),
            mode: mode.into(),
            policy: own(policy),
            labels: None,
            publishers: own(publishers),
            subscribers: own(subscribers),
        };
        self.admin().put::<RuleSet>("/v1/rules", &rule).await.unwrap().bundle
    }

    pub async fn rotate(&self) -> u64 {
        let nothing = serde_json::json!({});
        self.admin().post::<Rotation>("/v1/epoch/rotate", &nothing).await.unwrap().bundle
    }

    pub async fn revoke(&self, name: &str) -> Revocation {
        let path = format!("/v1/devices/{name}/revoke");
        self.admin().post(&path, &serde_json::json!({})).await.unwrap()
    }

    /// A broker of this authority, over TLS and, for clients without a certificate, without.
    pub async fn broker(&self) -> LabBroker {
        self.broker_with(Config::default(), Vec::new()).await
    }

    /// Hooks in `first` are asked before the secure-publish hook.
    pub async fn broker_with(&self, config: Config, first: Vec<Box<dyn Hook>>) -> LabBroker {
        self.broker_of(self.enrol_broker("broker").await, config, first).await
    }

    /// A broker with this keyring.
    pub async fn broker_of(&self, device: Device, config: Config, first: Vec<Box<dyn Hook>>) -> LabBroker {
        self.broker_as(device, config, first, |hook| hook).await
    }

    /// One whose secure-publish hook is as `shape` makes it.
    pub async fn broker_as(
        &self,
        device: Device,
        config: Config,
        first: Vec<Box<dyn Hook>>,
        shape: impl FnOnce(SecurePublish) -> SecurePublish,
    ) -> LabBroker {
        let view = View::new(device.keyring.clone(), now);
        let hook = shape(SecurePublish::new(view.clone(), true));
        hook.catch_up(DEADLINE).await;
        let mut hooks = first;
        hooks.push(Box::new(hook.clone()));
        let mut broker = Broker::new(config, hooks).unwrap();
        let (tls, plain) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let (address, plain_address) = (tls.local_addr().unwrap(), plain.local_addr().unwrap());
        broker.listen_tls(tls, server_config(&device.identity(), &self.authority.root(), true));
        broker.listen_tcp(plain);
        let handle = broker.handle();
        let following = tokio::spawn(hook.clone().follow(handle.clone(), || ()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(broker.run(async {
            let _ = stopped.await;
        }));
        LabBroker { address, plain: plain_address, view, handle, hook, device, following, stop, serving }
    }
}

/// The laboratory's clock, for certificates that clients show.
#[derive(Debug)]
struct LabTime;

impl TimeProvider for LabTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now())))
    }
}

/// TLS as the holder of a certificate; `clients`: who connects needs one of the same root.
pub fn server_config(
    (certificate, key): &(Vec<u8>, Vec<u8>),
    root: &[u8],
    clients: bool,
) -> Arc<ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec())).unwrap();
    let builder = ServerConfig::builder_with_details(tls::provider(), Arc::new(LabTime))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        false => builder.with_no_client_auth(),
        true => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
    let chain = vec![CertificateDer::from(certificate.clone()), CertificateDer::from(root.to_vec())];
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// A running broker.
pub struct LabBroker {
    pub address: SocketAddr,
    /// Without TLS.
    pub plain: SocketAddr,
    pub view: Arc<View>,
    pub handle: BrokerHandle,
    pub hook: SecurePublish,
    pub device: Device,
    following: tokio::task::JoinHandle<()>,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl LabBroker {
    pub fn url(&self) -> String {
        format!("mqtts://{}", self.address)
    }

    /// Ends it, as its operator would; gives its keyring.
    pub async fn stop(self) -> Device {
        drop(self.stop);
        self.following.abort();
        self.serving.await.unwrap();
        self.device
    }

    /// How often something was denied for this reason.
    pub fn denied(&self, denied: Denied, code: &str) -> u64 {
        let counts = self.hook.denials().counts();
        let those = counts.iter().filter(|count| count.denied == denied && count.code == code);
        those.map(|count| count.count).sum()
    }

    /// How often a limit took effect.
    pub fn hits(&self, limit: Limit) -> u64 {
        let text = self.handle.metrics().render();
        let name = format!("smqtt_limit_hits_total{{limit=\"{}\"}} ", limit.name());
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }

    /// Until it has bundle `number`.
    pub async fn knows(&self, number: u64) {
        until(|| self.view.bundle().number >= number).await;
    }

    /// A TLS stream as the holder of this certificate.
    pub async fn dial(
        &self,
        roots: &[Vec<u8>],
        identity: Option<&(Vec<u8>, Vec<u8>)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tls = tls::client_config(roots, identity.map(|(c, k)| (&c[..], &k[..]))).unwrap();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(tls).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }
}

/// An enrolled device.
#[derive(Clone)]
pub struct Device {
    pub keyring: SharedKeyring,
}

impl Device {
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring: SharedKeyring::new(keyring) }
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Keyring) -> T) -> T {
        self.keyring.with(act)
    }

    pub fn id(&self) -> DeviceId {
        self.with(|k| k.id())
    }

    /// Certificate and key (PKCS #8).
    pub fn identity(&self) -> (Vec<u8>, Vec<u8>) {
        self.with(|k| (k.signer().certificate().to_vec(), k.signer().key().expose_pkcs8().to_vec()))
    }

    /// Newest bundle, keys, certificate.
    pub async fn refresh(&self) -> Result<Refreshed, EnrolError> {
        refresh(&self.keyring, now(), Duration::ZERO).await
    }

    /// A header of its own, as `edit` leaves it.
    pub fn header_with(
        &self,
        policy: &str,
        filter: &str,
        edit: impl FnOnce(&mut Draft<'_>),
    ) -> (Header, SealingKey) {
        self.header_under(&Target::Policy(policy.parse().unwrap()), filter, edit)
    }

    /// The same under labels.
    pub fn labelled(&self, labels: &str, filter: &str) -> (Header, SealingKey) {
        self.header_under(&Target::labels(labels.parse().unwrap()).unwrap(), filter, |_| ())
    }

    pub fn header_under(
        &self,
        target: &Target,
        filter: &str,
        edit: impl FnOnce(&mut Draft<'_>),
    ) -> (Header, SealingKey) {
        let filter: Filter = filter.parse().unwrap();
        self.with(|k| {
            let mut draft = Draft {
                params: k.params().iter().find(|params| params.suite() == target.suite()).unwrap(),
                epoch: k.bundle().epoch.number,
                versions: &k.bundle().versions,
                target,
                created: now(),
                expires: now() + 3600,
                filter: &filter,
                sign_messages: false,
            };
            edit(&mut draft);
            Header::seal(&draft, k.signer()).unwrap()
        })
    }

    pub fn header(&self, policy: &str, filter: &str) -> (Header, SealingKey) {
        self.header_with(policy, filter, |_| ())
    }

    /// An opener whose windows are kept with the keyring.
    pub fn opener(&self) -> Opener {
        self.with(|k| Opener::new(k.dir()).unwrap())
    }

    pub fn open(&self, opener: &mut Opener, topic: &str, payload: &[u8]) -> Outcome {
        self.with(|k| opener.open(k, topic, payload, false, now()))
    }

    /// What became of a payload, in a word or two.
    pub fn sees(&self, opener: &mut Opener, topic: &str, payload: &[u8]) -> String {
        word(&self.open(opener, topic, payload))
    }
}

/// An outcome as `opened TEXT`, `unsealed TEXT`, `not-for-me CODE`, `broken CODE`, `repeated`, `newer`.
pub fn word(outcome: &Outcome) -> String {
    let text = String::from_utf8_lossy;
    match outcome {
        Outcome::Opened(opened) => format!("opened {}", text(&opened.payload)),
        Outcome::Unsealed(payload) => format!("unsealed {}", text(payload)),
        Outcome::NotForMe(why) => format!("not-for-me {}", why.code()),
        Outcome::Repeated => "repeated".into(),
        Outcome::Newer => "newer".into(),
        Outcome::Broken(why) => format!("broken {}", why.code()),
    }
}

/// Header and message as one payload.
pub fn full(header: &Header, compact: &[u8]) -> Vec<u8> {
    smqtt_core::envelope::full(header.as_bytes(), compact)
}

/// The authority's word against a request.
pub fn problem<T: std::fmt::Debug>(answer: Result<T, RequestError>) -> String {
    answer.expect_err("a refusal").code().expect("a problem").to_owned()
}

/// COSE by hand, so that attackers can sign what the crate itself would never write.
pub mod cose {
    use smqtt_core::crypto::SigningKey;

    pub const HEADER_AAD: &[u8] = b"SMQTT-V01 header";
    pub const BUNDLE_AAD: &[u8] = b"SMQTT-V01 bundle";

    /// The head of an item: major type and length (RFC 8949, section 3).
    fn head(major: u8, len: usize) -> Vec<u8> {
        let major = major << 5;
        match len {
            0..24 => vec![major | len as u8],
            24..256 => vec![major | 24, len as u8],
            _ => [&[major | 25][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
        }
    }

    pub fn bytes(bytes: &[u8]) -> Vec<u8> {
        [head(2, bytes.len()), bytes.to_vec()].concat()
    }

    pub fn text(text: &str) -> Vec<u8> {
        [head(3, text.len()), text.as_bytes().to_vec()].concat()
    }

    /// A COSE_Sign1 by `key`, whoever `certificate` names.
    pub fn sign1(key: &SigningKey, certificate: &[u8], aad: &[u8], payload: &[u8]) -> Vec<u8> {
        let protected = [&[0xa2, 1, 0x26, 0x18, 33][..], &bytes(certificate)].concat();
        let structure =
            [vec![0x84], text("Signature1"), bytes(&protected), bytes(aad), bytes(payload)].concat();
        let signature = key.sign(&structure);
        [vec![0x84], bytes(&protected), vec![0xa0], bytes(payload), bytes(&signature)].concat()
    }

    fn take(input: &[u8]) -> (&[u8], &[u8]) {
        let (start, len) = match input[0] {
            short @ 0x40..0x58 => (1, usize::from(short & 0x1f)),
            0x58 => (2, usize::from(input[1])),
            0x59 => (3, usize::from(u16::from_be_bytes([input[1], input[2]]))),
            other => panic!("no byte string: {other:x}"),
        };
        (&input[start..start + len], &input[start + len..])
    }

    /// What a COSE_Sign1 signs.
    pub fn payload(sign1: &[u8]) -> &[u8] {
        let (_, rest) = take(&sign1[1..]);
        take(&rest[1..]).0
    }

    /// `from` replaced by `to` in the one place where it is.
    pub fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from));
        let at = places.next().expect("it is there");
        assert_eq!(places.next(), None, "in one place alone");
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    }
}

/// A line to somewhere that can be cut.
pub struct Line {
    pub address: SocketAddr,
    up: tokio::sync::watch::Sender<bool>,
    target: Arc<Mutex<String>>,
    accepted: Arc<AtomicU32>,
}

impl Line {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, is_up) = tokio::sync::watch::channel(true);
        let target = Arc::new(Mutex::new(target.to_owned()));
        let (to, accepted) = (target.clone(), Arc::new(AtomicU32::new(0)));
        let count = accepted.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (mut is_up, target) = (is_up.clone(), to.lock().unwrap().clone());
                tokio::spawn(async move {
                    if !*is_up.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_up.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        Self { address, up, target, accepted }
    }

    /// How many connections there were.
    pub fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// New connections go there.
    pub fn turn_to(&self, target: String) {
        *self.target.lock().unwrap() = target;
    }

    /// Every connection over it breaks, and no other comes to be.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    pub fn restore(&self) {
        self.up.send_replace(true);
    }
}

/// A root that somebody made at home.
pub struct HomeMade {
    pub root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl HomeMade {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// A certificate in the name of `identity`, good for client and server, and its key.
    pub fn issue(&self, identity: &Identity) -> Signer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(identity.uri().as_str().try_into().unwrap()),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Signer::new(SigningKey::from_pkcs8(&key.serialize_der()).unwrap(), der).unwrap()
    }
}

/// A broker that delivers what the test tells it to, says what it is told to, and remembers what it hears.
pub struct EvilBroker {
    pub url: String,
    deliveries: tokio::sync::mpsc::UnboundedSender<Publish>,
    state: Arc<Mutex<EvilState>>,
    next: u16,
}

#[derive(Default)]
struct EvilState {
    refusal: Option<String>,
    heard: Vec<Vec<u8>>,
}

impl EvilBroker {
    pub async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "mqtts" } else { "mqtt" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (deliveries, mut queue) = tokio::sync::mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(EvilState::default()));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => evil_connection(stream, &mut queue, &shared).await,
                    Some(tls) => {
                        let accepted = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(stream).await;
                        if let Ok(stream) = accepted {
                            evil_connection(stream, &mut queue, &shared).await;
                        }
                    }
                }
            }
        });
        Self { url, deliveries, state, next: 0 }
    }

    pub fn deliver(&mut self, topic: &str, payload: &[u8], retain: bool, dup: bool) {
        self.next += 1;
        let publish = Publish {
            dup,
            qos: QoS::AtLeastOnce,
            retain,
            topic: topic.into(),
            packet_id: self.next,
            payload: Bytes::copy_from_slice(payload),
            ..Publish::default()
        };
        self.deliveries.send(publish).unwrap();
    }

    /// From now on every message is refused with this text.
    pub fn refuse_with(&self, text: &str) {
        self.state.lock().unwrap().refusal = Some(text.to_owned());
    }

    /// Payloads that were published.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().heard.clone()
    }
}

async fn evil_connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    queue: &mut tokio::sync::mpsc::UnboundedReceiver<Publish>,
    state: &Mutex<EvilState>,
) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        while let Some(packet) = decode(&mut input, Version::V5, Limits::default()).unwrap() {
            let answer = match packet {
                Packet::Connect(_) => {
                    let mut properties = ConnackProperties::default();
                    properties.user.push(("smqtt".into(), "1".into()));
                    let reason = ReasonCode::Success;
                    Packet::Connack(Box::new(Connack { session_present: false, reason, properties }))
                }
                Packet::Subscribe(subscribe) => Packet::Suback(Suback {
                    packet_id: subscribe.packet_id,
                    properties: AckProperties::default(),
                    reasons: vec![ReasonCode::GrantedQoS1; subscribe.subscriptions.len()],
                }),
                Packet::Publish(publish) => {
                    let mut state = state.lock().unwrap();
                    state.heard.push(publish.payload.to_vec());
                    let mut ack = Ack::new(publish.packet_id, ReasonCode::Success);
                    if let Some(text) = &state.refusal {
                        ack.reason = ReasonCode::ImplementationSpecificError;
                        ack.properties.reason_string = Some(text.as_str().into());
                    }
                    Packet::Puback(ack)
                }
                Packet::Pingreq => Packet::Pingresp,
                Packet::Disconnect(_) => return,
                _ => continue,
            };
            answer.encode(Version::V5, &mut output).unwrap();
        }
        if stream.write_all_buf(&mut output).await.is_err() {
            return;
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => if read.is_ok_and(|n| n > 0) {} else { return },
            Some(publish) = queue.recv() => Packet::Publish(publish).encode(Version::V5, &mut output).unwrap(),
        }
    }
}
