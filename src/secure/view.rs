//! What the broker knows of the authority's word: the newest bundle and who the devices are.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use smqtt_client::authority::{Authority, RequestError};
use smqtt_client::enrol::{authority_of, refresh};
use smqtt_client::keyring::SharedKeyring;
use smqtt_core::api::{Device, Directory};
use smqtt_core::attribute::Attributes;
use smqtt_core::bundle::Bundle;
use smqtt_core::identity::{DeviceId, Role};
use tokio::sync::Mutex;

/// How long one request for a newer bundle waits for one.
const WAIT: Duration = Duration::from_secs(30);
/// Longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A device as the broker knows it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub attributes: Attributes,
    /// Whether it is still anybody's.
    pub active: bool,
    role: Role,
}

#[derive(Default)]
struct Known {
    revision: u64,
    by_id: HashMap<DeviceId, Arc<Peer>>,
    by_name: HashMap<String, DeviceId>,
}

/// The newest bundle and the directory; shared by the hook and whoever keeps it fresh.
pub struct View {
    keyring: SharedKeyring,
    bundle: RwLock<Arc<Bundle>>,
    known: RwLock<Known>,
    fetching: Mutex<()>,
    now: fn() -> u64,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View(bundle {})", self.bundle().number)
    }
}

impl View {
    /// The view from a broker's keyring.
    pub fn new(keyring: SharedKeyring, now: fn() -> u64) -> Arc<Self> {
        let bundle = keyring.with(|k| k.bundle().clone());
        Arc::new(Self {
            keyring,
            bundle: RwLock::new(Arc::new(bundle)),
            known: RwLock::default(),
            fetching: Mutex::default(),
            now,
        })
    }

    /// The newest bundle.
    pub fn bundle(&self) -> Arc<Bundle> {
        read(&self.bundle).clone()
    }

    /// The roots that vouch for everyone.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.keyring.with(|k| k.roots().to_vec())
    }

    /// The broker's keyring.
    pub fn keyring(&self) -> &SharedKeyring {
        &self.keyring
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        (self.now)()
    }

    /// A device, if the directory has it.
    pub fn peer(&self, id: DeviceId) -> Option<Arc<Peer>> {
        read(&self.known).by_id.get(&id).cloned()
    }

    /// Whether the directory was ever read. It has the broker itself at least.
    pub fn has_directory(&self) -> bool {
        read(&self.known).revision > 0
    }

    /// Whose name (or identifier) this is.
    pub fn owner_of(&self, name: &str) -> Option<DeviceId> {
        let known = read(&self.known);
        let by_id = || name.parse().ok().filter(|id| known.by_id.contains_key(id));
        known.by_name.get(name).copied().or_else(by_id)
    }

    /// Fetches what is new in the directory.
    ///
    /// # Errors
    /// [`RequestError`]; what was known before stays.
    pub async fn refresh_directory(&self) -> Result<(), RequestError> {
        let _one_at_a_time = self.fetching.lock().await;
        let authority = self.authority()?;
        loop {
            let revision = read(&self.known).revision;
            let news: Directory = authority.get(&format!("/v1/directory?after={revision}")).await?;
            if news.devices.is_empty() {
                return Ok(());
            }
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            news.devices.iter().for_each(|device| known.learn(device));
            known.revision = news.revision;
        }
    }

    fn authority(&self) -> Result<Authority, RequestError> {
        let unusable = || RequestError::Url(self.keyring.with(|k| k.place().authority.clone()));
        self.keyring.with(|k| authority_of(k)).map_err(|_| unusable())
    }

    /// Takes over the keyring's bundle; gives the devices that it revokes and the last one did not.
    fn take_bundle(&self) -> Vec<DeviceId> {
        let newest = self.keyring.with(|k| k.bundle().clone());
        let mut bundle = self.bundle.write().unwrap_or_else(PoisonError::into_inner);
        let revoked = newest.revoked.iter().filter(|id| !bundle.is_revoked(**id)).copied().collect();
        *bundle = Arc::new(newest);
        revoked
    }
}

impl Known {
    fn learn(&mut self, device: &Device) {
        let (Ok(id), Some(role)) = (device.id.parse::<DeviceId>(), Role::from_name(&device.role)) else {
            return;
        };
        let active = device.status == "active";
        let attributes = Attributes::parse(&device.attributes).unwrap_or_default();
        if active {
            self.by_name.insert(device.name.clone(), id);
        } else if self.by_name.get(&device.name) == Some(&id) {
            self.by_name.remove(&device.name);
        }
        let peer = Peer { name: device.name.clone(), attributes, active, role };
        self.by_id.insert(id, Arc::new(peer));
    }
}

impl Peer {
    /// Whether it publishes and subscribes.
    pub fn is_device(&self) -> bool {
        self.role == Role::Device
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `view` fresh for as long as it is polled. `revoked` hears of every device that a newer
/// bundle revokes, as soon as it is known; `renewed` of every renewed certificate of the broker's own.
pub async fn follow(view: Arc<View>, revoked: impl Fn(&[DeviceId]), renewed: impl Fn()) {
    let mut failures = 0u32;
    let first: Vec<DeviceId> = view.bundle().revoked.clone();
    revoked(&first);
    loop {
        let result = async {
            view.refresh_directory().await.map_err(|e| e.to_string())?;
            refresh(view.keyring(), view.now(), WAIT).await.map_err(|e| e.to_string())
        };
        let result = result.await;
        // Also where something failed after the bundle was there.
        if view.keyring.with(|k| k.bundle().number) != view.bundle().number {
            let gone = view.take_bundle();
            tracing::info!(bundle = view.bundle().number, revoked = gone.len(), "took a newer bundle");
            revoked(&gone);
        }
        match result {
            Ok(done) => {
                if failures > 0 {
                    tracing::info!("the authority is there again");
                }
                failures = 0;
                if done.certificate {
                    renewed();
                }
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "cannot reach the authority: going on with what is known");
                }
                let pause = Duration::from_millis(100) * 2u32.saturating_pow(failures.min(8) - 1);
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
            }
        }
    }
}
