//! The authority: every decision is made here and in the files below `authority/`, and none in HTTP.

mod access;
mod admin;
mod approval;
mod audit;
mod backup;
mod bundle;
mod caller;
mod change;
mod checkpoints;
mod cursor;
mod devices;
mod edition;
mod enrol;
mod epochs;
mod est;
mod export;
mod journal;
mod keys;
mod masters;
mod once;
mod operation;
mod polls;
mod profiles;
mod rates;
mod restore;
mod revocations;
mod roots;
mod rules;
mod seal;
mod space;
mod standing;
mod tokens;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::aws_lc_rs::default_provider;
use smqtt_core::bundle::{CLOCK_SKEW_SECONDS, Epoch};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::Signer;
use smqtt_core::identity::{DeviceId, Fingerprint, Identity, Role, fingerprint};
use smqtt_core::suite::{Params, SuiteId};
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::counts::Counts;
use crate::error::{Error, OpenError};
use crate::files;
use crate::pki::{Host, Leaf, Root, Usage, local_hosts, point};
use crate::seal::{Custodian, KeyFile, Seal, Unattended};
use crate::store::{Deed, Opening, Store, StoreError, Tx};
use crate::vault::Vault;
use masters::Masters;

pub(crate) use bundle::WAIT_MAX as BUNDLE_WAIT_MAX;
pub use caller::Caller;
pub use cursor::{Listed, Page};
pub(crate) use edition::etag;
pub use enrol::EnrolAnswer;
pub(crate) use est::EstAnswer;
pub(crate) use export::Export;
pub(crate) use once::KEY_CHARS_MAX as IDEMPOTENCY_KEY_CHARS_MAX;
pub use operation::{Method, Operation, Who};
pub use rates::Limited;
pub use restore::{Restore, Restored, Since, restore};
pub(crate) use roots::Roots;
pub use seal::{Resealed, change_seal};

/// How long the authority's own certificates are valid.
const OWN_CERTIFICATE_SECONDS: u64 = 90 * 86_400;
/// How often to try a store that could not be written.
const PROBE_SECONDS: u64 = 5;
/// How often to look for what may be forgotten.
const TIDY_SECONDS: u64 = 3600;
/// For how long used tokens and expired certificates are remembered.
const REMEMBER_SECONDS: u64 = 2 * 86_400;

/// A key authority: its root, master secret keys, devices, rules and epochs, in one directory.
pub struct Authority {
    config: Config,
    clock: Arc<dyn Clock>,
    secrets: Secrets,
    store: Store,
    bundle: watch::Sender<bundle::Published>,
    keygen: Arc<Semaphore>,
    /// Devices for which long keys are being generated.
    deriving: Mutex<BTreeSet<DeviceId>>,
    denials: Mutex<audit::Denials>,
    /// When the hourly work was done.
    tidied: Mutex<u64>,
    polls: polls::Polls,
    rates: rates::Rates,
    data_dir: PathBuf,
    /// Counts what brokers reported.
    reports: watch::Sender<u64>,
    /// When this process opened it.
    opened: u64,
    /// Backups are made one at a time.
    backing_up: Mutex<()>,
    admin_dir: PathBuf,
    url: String,
    broker_url: RwLock<Option<String>>,
    first_start: bool,
    counts: Arc<Counts>,
    space: space::Space,
    /// Up to which row each sink has the audit log.
    exported: Mutex<BTreeMap<&'static str, u64>>,
    /// Whether connections are accepted.
    serving: AtomicBool,
}

/// What the store keeps sealed, opened.
struct Secrets {
    vault: Vault,
    roots: RwLock<Arc<Roots>>,
    masters: RwLock<Arc<Masters>>,
    /// Signs bundles; its certificate is renewed now and then.
    signer: RwLock<Arc<Signer>>,
}

impl Authority {
    /// Opens the authority in `data_dir`, and makes one where there is none: root, master secret key, first epoch,
    /// and in `data_dir/admin` the administrator's certificate. Another start changes nothing.
    ///
    /// ```text
    /// data_dir/authority/authority.db   the store          data_dir/admin/{cert,key,root}.pem, authority.json
    /// data_dir/seal/seal.key            opens its secrets    data_dir/revocations/journal  what is never undone
    /// data_dir/admin/past-roots.pem     retired roots        data_dir/audit-export/        how far syslog came
    /// ```
    ///
    /// # Errors
    /// [`OpenError`]: anything that would be noticed too late otherwise, such as a store that cannot be written.
    pub fn open(data_dir: &Path, config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        Self::open_with(data_dir, config, clock, &mut Unattended)
    }

    /// As [`Self::open`], asking `custodian` for what the store is sealed under.
    ///
    /// # Errors
    /// As [`Self::open`], and [`OpenError::Unseal`].
    pub fn open_with(
        data_dir: &Path,
        config: Config,
        clock: Arc<dyn Clock>,
        custodian: &mut dyn Custodian,
    ) -> Result<Arc<Self>, OpenError> {
        config.check()?;
        let dir = |name: &str| {
            let dir = data_dir.join(name);
            files::make_dir(&dir).map(|()| dir)
        };
        files::make_data_dir(data_dir)?;
        let (store_dir, seal_dir, admin_dir) = (dir("authority")?, dir("seal")?, dir("admin")?);
        for dir in [&store_dir, &seal_dir, &admin_dir, &dir(journal::DIRECTORY)?] {
            files::prove_writable(dir)?;
        }
        if config.audit_syslog.is_some() {
            dir(export::DIRECTORY)?;
        }
        let now = clock.now();

        let opening = Opening::new(&store_dir)?;
        let first_start = opening.transaction(|tx| tx.document("root"))?.is_none();
        if first_start {
            if let Some(path) = journal::left_over(data_dir) {
                return Err(OpenError::StoreMissing { path });
            }
            let seal = Seal::of_key_file(&KeyFile::open_or_make(&seal_dir)?);
            opening.transaction(|tx| create(tx, &config, seal, now))?;
        }
        let vault = open_vault(&opening, &seal_dir, custodian)?;
        journal::open(&opening, &vault, data_dir, &config, &clock)?;
        let secrets = Secrets::load(&opening, vault, now)?;
        let published = opening.transaction(|tx| {
            let added = secrets.add_suites(tx, now)?;
            match bundle::load(tx, &config)? {
                Some(published) if !added && now < published.resign_at => Ok(published),
                _ => bundle::write(tx, &config, &secrets, now),
            }
        })?;
        let url = config.url();
        admin::ensure(&opening, &secrets, &admin_dir, &url, now)?;
        let revision = opening.transaction(|tx| tx.counter("revision"))?;

        let counts = Arc::new(Counts::new(secrets.vault.seal_name()));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let authority = Self {
            broker_url: RwLock::new(config.broker_url.clone()),
            config,
            clock,
            secrets,
            store: opening.start(&counts)?,
            bundle: watch::Sender::new(published),
            keygen: Arc::new(Semaphore::new(cores)),
            deriving: Mutex::default(),
            denials: Mutex::default(),
            tidied: Mutex::new(now),
            polls: polls::Polls::new(revision),
            rates: rates::Rates::default(),
            data_dir: data_dir.to_owned(),
            reports: watch::Sender::new(0),
            opened: now,
            backing_up: Mutex::default(),
            admin_dir,
            url,
            first_start,
            counts,
            exported: Mutex::default(),
            space: space::Space::of(vec![store_dir, data_dir.join(journal::DIRECTORY)]),
            serving: AtomicBool::new(false),
        };
        authority.check_space();
        tracing::info!(url = %authority.url, fingerprint = %authority.fingerprint(), first_start, "opened the authority");
        Ok(Arc::new(authority))
    }

    /// Before it goes: leaves word in the journal how far the audit log has come.
    pub(crate) async fn close(&self) {
        let mark = |tx: &Tx<'_>| {
            tx.write_down(Deed::Mark);
            Ok(())
        };
        if let Err(error) = self.store.write_reserved(mark).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the journal has no word of this end");
        }
    }

    /// The SHA-256 of the public key of the root that issues: what tokens name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.secrets.roots().issuing().fingerprint()
    }

    /// The address that tokens name, `https://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Tells whoever enrols from now on where the broker is, `mqtts://host:port`, in place of the configured address.
    pub fn set_broker_url(&self, url: String) {
        *self.broker_url.write().unwrap_or_else(PoisonError::into_inner) = Some(url);
    }

    /// Whether this start made the authority.
    pub fn first_start(&self) -> bool {
        self.first_start
    }

    /// The root certificate that issues, DER.
    pub fn root(&self) -> Vec<u8> {
        self.secrets.roots().issuing().certificate().to_vec()
    }

    /// All root certificates in trust, oldest first, DER: while one is exchanged both.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.secrets.roots().in_trust().to_vec()
    }

    /// The public parameters, one for each suite, encoded.
    pub fn params(&self) -> Vec<Vec<u8>> {
        self.secrets.masters().params().map(Params::encode).collect()
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn health(&self) -> Result<(), Error> {
        self.store.read(|tx| Ok(tx.counter("bundle")?)).await.map(drop)
    }

    /// What is due: a new epoch, a bundle that has lived half its life, records that may be forgotten. [`crate::serve`]
    /// calls it every second.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::LowSpace`]; what was due stays due.
    pub async fn housekeep(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.now();
        self.check_space();
        if self.counts.is_failing() && now.is_multiple_of(PROBE_SECONDS) {
            // Nobody else may write for long: whether it can be done again is to be seen.
            self.store.write_reserved(|tx| Ok(tx.bump("probe")?)).await?;
        }
        let (epoch, resign_at) = {
            let published = self.bundle.borrow();
            (published.epoch, published.resign_at)
        };
        if epochs::is_over(&epoch, now) {
            self.end_epoch(now).await?;
        } else if now >= resign_at {
            self.resign_bundle(now).await?;
        }
        self.sign_audit(now).await?;
        self.tidy(now).await
    }

    /// Once an hour: forgets certificates, tokens, kept answers and old rows of the audit log, and renews the administrator.
    async fn tidy(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        {
            let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
            // Also where the clock was put back: what was issued by the wrong one is not valid yet.
            if (*tidied..tidied.saturating_add(TIDY_SECONDS)).contains(&now) {
                return Ok(());
            }
            *tidied = now;
        }
        self.polls.forget_before(now.saturating_sub(TIDY_SECONDS));
        let before = now.saturating_sub(REMEMBER_SECONDS.max(self.config.renewal_window_seconds()));
        let count = self.store.write_reserved(move |tx| Ok(tx.forget_before(before)?)).await?;
        self.prune_audit(now).await?;
        self.forget_answers(now).await?;
        if count > 0 {
            tracing::info!(count, "forgot expired certificates and tokens");
        }
        self.renew_admin(now).await
    }

    /// Sees to it that the administrator's files are good for longer, and name the roots in trust.
    async fn renew_admin(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let due = admin::write_place(&self.secrets, &self.admin_dir, &self.url);
        let renewed = match due.and_then(|()| admin::due(&self.secrets, &self.admin_dir, now)) {
            Ok(None) => return Ok(()),
            Ok(Some(renewal)) => {
                let this = self.clone();
                let record = move |tx: &Tx<'_>| {
                    renewal.record(tx, &this.secrets, now)?;
                    Ok(renewal)
                };
                self.store.write_reserved(record).await?.write(&self.admin_dir)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            // The next start says so, too, and stops there.
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the administrator's certificate could not be renewed");
        }
        Ok(())
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Connections are accepted from now on, or are not any more.
    pub(crate) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::SeqCst);
    }

    fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The roots as they are now: another `Arc` when they change.
    pub(crate) fn current_roots(&self) -> Arc<Roots> {
        self.secrets.roots()
    }

    /// A fresh key and certificate for the HTTPS server from these roots, and for which time: outside of it another is to be
    /// made.
    pub(crate) fn server_certificate(&self, roots: &Roots) -> (SigningKey, Vec<u8>, Range<u64>) {
        let mut hosts = local_hosts();
        let own = url_host(&self.url).and_then(Host::parse);
        for host in own.into_iter().chain(self.config.hosts.iter().filter_map(|host| Host::parse(host))) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let (key, now) = (SigningKey::generate(), self.now());
        let certificate = roots.issuing().issue(&Leaf {
            identity: &own_identity(roots.issuing()),
            public_key: &point(&key),
            usage: Usage::ServerAndClient,
            hosts: &hosts,
            now,
            seconds: OWN_CERTIFICATE_SECONDS,
        });
        self.counts.found.expires_server.set(i64::try_from(certificate.not_after).unwrap_or(i64::MAX));
        (key, certificate.der, now.saturating_sub(CLOCK_SKEW_SECONDS)..renew_at(now, certificate.not_after))
    }
}

/// The host of `https://host[:port]`, an IPv6 address without its brackets.
fn url_host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    match rest.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, _)| host),
        None => rest.split(':').next(),
    }
}

/// Two thirds of a certificate's life: when to renew it.
fn renew_at(not_before: u64, not_after: u64) -> u64 {
    not_before + not_after.saturating_sub(not_before) / 3 * 2
}

fn own_identity(root: &Root) -> Identity {
    let fingerprint = root.fingerprint();
    let id = DeviceId(fingerprint.0[16..].try_into().expect("16 of 32 bytes"));
    Identity { tenant: root.tenant(), role: Role::Authority, id, name: "authority".into() }
}

/// Opens what seals the secrets of a store that there is.
fn open_vault(opening: &Opening, seal_dir: &Path, custodian: &mut dyn Custodian) -> Result<Vault, OpenError> {
    let root = opening.transaction(|tx| tx.document("root")?.ok_or(StoreError::Corrupt("documents")))?;
    let first = fingerprint(&root).map_err(|_| opening.failed(StoreError::Corrupt("root")))?;
    Vault::open(opening, &first.to_string(), seal_dir, custodian)
}

/// Makes everything that an authority has from the beginning.
fn create(tx: &Tx<'_>, config: &Config, seal: Seal, now: u64) -> Result<(), StoreError> {
    let root = Root::generate(now, None);
    let vault = Vault::create(tx, &root.fingerprint().to_string(), seal)?;
    tx.set_document("root", root.certificate())?;
    vault.put(tx, "root-key", root.key().expose_pkcs8())?;
    for suite in SuiteId::ALL {
        masters::draw(tx, &vault, suite)?;
    }
    let key = SigningKey::generate();
    vault.put(tx, "signer-key", key.expose_pkcs8())?;
    tx.set_document("signer", &signer_certificate(&root, &key, now))?;
    let epoch = Epoch { number: 1, begins: now, ends: now.saturating_add(config.epoch_seconds) };
    tx.begin_epoch(epoch, &smqtt_core::attribute::Versions::default(), 0)?;
    audit::begin(tx, &vault, now, &root.fingerprint().to_string())
}

fn signer_certificate(root: &Root, key: &SigningKey, now: u64) -> Vec<u8> {
    let leaf = Leaf {
        identity: &own_identity(root),
        public_key: &point(key),
        usage: Usage::Client,
        hosts: &[],
        now,
        seconds: OWN_CERTIFICATE_SECONDS,
    };
    root.issue(&leaf).der
}

impl Secrets {
    fn load(opening: &Opening, vault: Vault, now: u64) -> Result<Self, OpenError> {
        let document =
            |name: &str| opening.transaction(|tx| tx.document(name)?.ok_or(StoreError::Corrupt("documents")));
        let sealed = |name: &str| opening.transaction(|tx| vault.get(tx, name));
        let corrupt = |what| opening.failed(StoreError::Corrupt(what));
        let key = |name: &'static str| SigningKey::from_pkcs8(&sealed(name)?).ok_or_else(|| corrupt(name));
        let signer_key = key("signer-key")?;
        let masters = opening.transaction(|tx| Masters::load(tx, &vault))?;
        let roots = opening.transaction(|tx| Roots::load(tx, &vault))?;
        let mut certificate = document("signer")?;
        if is_due(&certificate, roots.issuing().certificate(), now) {
            certificate = signer_certificate(roots.issuing(), &signer_key, now);
            opening.transaction(|tx| tx.set_document("signer", &certificate))?;
        }
        let signer = Signer::new(signer_key, certificate).map_err(|_| corrupt("signer"))?;
        let masters = RwLock::new(Arc::new(masters));
        let roots = RwLock::new(Arc::new(roots));
        Ok(Self { vault, roots, masters, signer: RwLock::new(Arc::new(signer)) })
    }

    fn roots(&self) -> Arc<Roots> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_roots(&self, roots: Arc<Roots>) {
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = roots;
    }

    /// Draws what an authority of an earlier version does not have yet. Says whether there was anything.
    fn add_suites(&self, tx: &Tx<'_>, now: u64) -> Result<bool, StoreError> {
        let held = self.masters();
        let lacking: Vec<_> = SuiteId::ALL.into_iter().filter(|suite| !held.has(*suite)).collect();
        for suite in &lacking {
            masters::draw(tx, &self.vault, *suite)?;
            audit::append(tx, &self.vault, now, "authority", "add-suite", suite.name())?;
            tracing::info!(suite = suite.name(), "drew the parameters of a new suite");
        }
        if !lacking.is_empty() {
            self.set_masters(Arc::new(Masters::load(tx, &self.vault)?));
        }
        Ok(!lacking.is_empty())
    }

    fn masters(&self) -> Arc<Masters> {
        self.masters.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_masters(&self, masters: Arc<Masters>) {
        *self.masters.write().unwrap_or_else(PoisonError::into_inner) = masters;
    }

    fn signer(&self) -> Arc<Signer> {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A signer whose certificate has more than a third of its life before it.
    fn fresh_signer(&self, tx: &Tx<'_>, now: u64) -> Result<Arc<Signer>, StoreError> {
        let (signer, roots) = (self.signer(), self.roots());
        if !is_due(signer.certificate(), roots.issuing().certificate(), now) {
            return Ok(signer);
        }
        let certificate = signer_certificate(roots.issuing(), signer.key(), now);
        tx.set_document("signer", &certificate)?;
        let key = SigningKey::from_pkcs8(signer.key().expose_pkcs8()).ok_or(StoreError::Corrupt("signer"))?;
        let signer = Signer::new(key, certificate).map_err(|_| StoreError::Corrupt("signer"))?;
        let signer = Arc::new(signer);
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = signer.clone();
        Ok(signer)
    }
}

/// Whether a certificate of ours has less than a third of its life before it, or is another root's.
fn is_due(certificate: &[u8], root: &[u8], now: u64) -> bool {
    let third = OWN_CERTIFICATE_SECONDS / 3;
    let roots = [root.to_vec()];
    let valid_at = |at| smqtt_core::identity::verify_certificate(certificate, &roots, at).is_ok();
    !valid_at(now) || !valid_at(now + third)
}

/// The provider of TLS and HPKE.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(default_provider())
}
