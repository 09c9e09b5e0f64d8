//! What the broker knows of the authority's word: the newest bundle, who the devices are, and when it last heard from it.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use smqtt_client::authority::{Authority, RequestError};
use smqtt_client::enrol::{EnrolError, Refreshed, authority_of, refresh_after};
use smqtt_client::files::{read_if_any, write_private};
use smqtt_client::keyring::SharedKeyring;
use smqtt_core::api::Directory;
use smqtt_core::bundle::Bundle;
use smqtt_core::identity::DeviceId;
use smqtt_core::rule::RuleIndex;
use tokio::sync::{Mutex, Notify, watch};

use super::directory::{Known, Peer, Writing};

/// How long one request for a newer bundle waits for one.
const WAIT: Duration = Duration::from_secs(30);
/// How often it is written down that the authority was heard, in seconds.
const CONTACT_SECONDS: u64 = 30;
/// How long an attempt to reach the authority is left alone when somebody is in a hurry, in seconds.
const HURRY_SECONDS: u64 = 5;
/// How long a newer bundle waits for the directory that goes with it.
const DIRECTORY_PATIENCE: Duration = Duration::from_millis(500);
const CONTACT: &str = "contact";
const CONTACT_BYTES_MAX: usize = 64;

/// A bundle with its rules as a tree, so that the rule for a message is found at the same cost among ten as among a thousand.
#[derive(Debug)]
pub struct Ruled {
    bundle: Bundle,
    index: RuleIndex,
}

impl Ruled {
    /// The place of the rule for `topic` among the bundle's rules.
    pub(super) fn place_of(&self, topic: &str) -> Option<usize> {
        self.index.find(topic)
    }
}

impl From<Bundle> for Ruled {
    fn from(bundle: Bundle) -> Self {
        let index = RuleIndex::new(&bundle.rules);
        Self { bundle, index }
    }
}

impl Deref for Ruled {
    type Target = Bundle;

    fn deref(&self) -> &Bundle {
        &self.bundle
    }
}

/// The newest bundle and the directory; shared by the hook and whoever keeps it fresh.
pub struct View {
    keyring: SharedKeyring,
    bundle: RwLock<Arc<Ruled>>,
    /// The bundle's number, for whoever only asks whether it is another one.
    number: AtomicU64,
    known: RwLock<Known>,
    fetching: Mutex<()>,
    now: fn() -> u64,
    /// When the authority last said that this is its newest bundle; seconds since 1970.
    contact: watch::Sender<u64>,
    written: std::sync::Mutex<u64>,
    /// Whether the last attempt to reach it came to nothing.
    failing: AtomicBool,
    /// Whether this process heard it at all.
    met: AtomicBool,
    /// Up to which revision of the directory it was asked.
    revision: AtomicU64,
    hurry: Notify,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View(bundle {})", self.bundle().number)
    }
}

impl View {
    /// The view from a broker's keyring, and from what an earlier process wrote down beside it.
    pub fn new(keyring: SharedKeyring, now: fn() -> u64) -> Arc<Self> {
        let (bundle, dir) = keyring.with(|k| (k.bundle().clone(), k.dir().to_owned()));
        let heard = read_if_any(&dir.join(CONTACT), CONTACT_BYTES_MAX).ok().flatten();
        let heard = heard.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse::<u64>().ok());
        // A keyring that never ran a broker was filled by the authority a moment ago; that counts once.
        let contact = heard.map_or_else(now, |at| at.min(now()));
        if heard.is_none() {
            write_contact(&dir, contact);
        }
        Arc::new(Self {
            keyring,
            number: AtomicU64::new(bundle.number),
            bundle: RwLock::new(Arc::new(Ruled::from(bundle))),
            known: RwLock::new(Known::load(&dir)),
            fetching: Mutex::default(),
            now,
            contact: watch::Sender::new(contact),
            written: std::sync::Mutex::new(0),
            failing: AtomicBool::new(false),
            met: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            hurry: Notify::new(),
        })
    }

    /// The newest bundle.
    pub fn bundle(&self) -> Arc<Ruled> {
        read(&self.bundle).clone()
    }

    /// Its number. Many ask for each message, on all processors: they share nothing that they write to.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
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
        read(&self.known).peer(id).cloned()
    }

    /// Whose name (or identifier) this is.
    pub fn owner_of(&self, name: &str) -> Option<DeviceId> {
        read(&self.known).owner_of(name)
    }

    /// The device of a name or identifier, also one that was revoked.
    pub(super) fn find(&self, name: &str) -> Option<(DeviceId, Arc<Peer>)> {
        read(&self.known).find(name).map(|(id, peer)| (id, peer.clone()))
    }

    /// Whether there is a directory at all, maybe an old one. It has the broker itself at least.
    pub fn has_directory(&self) -> bool {
        read(&self.known).is_there()
    }

    /// Until when the newest certificate of a device holds, as far as is known.
    pub fn certificate_until(&self, id: DeviceId) -> Option<u64> {
        read(&self.known).until(id)
    }

    /// A device showed a certificate that holds until then.
    pub(super) fn saw_certificate(&self, id: DeviceId, until: u64) {
        if self.certificate_until(id).is_none_or(|known| known < until) {
            self.write_known().saw_certificate(id, until);
        }
    }

    /// Devices whose last certificate has run out, each given once.
    pub(super) fn take_expired(&self) -> Vec<DeviceId> {
        self.write_known().take_expired(self.now())
    }

    /// The directory, if it is to be written down.
    pub(super) fn directory_to_write(&self) -> Option<Writing> {
        let dir = self.keyring.with(|k| k.dir().to_owned());
        self.write_known().take_writing(&dir)
    }

    fn write_known(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
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
            let mut known = self.write_known();
            news.devices.into_iter().for_each(|device| known.learn(device));
            known.revision = news.revision;
        }
    }

    /// The authority, as this broker, for a request that is made at once.
    pub(super) fn authority(&self) -> Result<Authority, RequestError> {
        let unusable = || RequestError::Url(self.keyring.with(|k| k.place().authority.clone()));
        self.keyring.with(|k| authority_of(k, self.now())).map_err(|_| unusable())
    }

    // ---- how fresh it is

    /// Seconds since the authority last said that this is its newest bundle.
    pub fn staleness(&self) -> u64 {
        self.now().saturating_sub(*self.contact.borrow())
    }

    /// Whether the last attempt to reach the authority came to nothing.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Whether the authority was heard within `seconds`; if not, it is asked at once, and may take `patience`.
    pub(super) async fn is_fresh(&self, seconds: u64, patience: Duration) -> bool {
        if self.staleness() <= seconds {
            return true;
        }
        let mut contact = self.contact.subscribe();
        self.hurry.notify_waiters();
        let heard = contact.wait_for(|at| self.now().saturating_sub(*at) <= seconds);
        tokio::time::timeout(patience, heard).await.is_ok_and(|heard| heard.is_ok())
    }

    /// Asks the authority for all that is new, and waits for news. An attempt that takes long is begun again if somebody
    /// is in a hurry.
    pub(super) async fn ask(&self) -> Result<Refreshed, String> {
        loop {
            let begun = self.now();
            // Who was away for long first learns what there is.
            let away = !self.met.load(Ordering::Relaxed)
                || self.is_failing()
                || self.staleness() > 2 * WAIT.as_secs();
            let wait = if away { Duration::ZERO } else { WAIT };
            let attempt = async {
                let asked = self.refresh_directory().await;
                // With a certificate that has run out nothing is to be had but a newer one, which comes first in there.
                let expired = asked.as_ref().is_err_and(|error| error.code() == Some("certificate-expired"));
                if !expired {
                    asked.map_err(|error| error.to_string())?;
                }
                let revision = read(&self.known).revision.max(self.revision.load(Ordering::Relaxed));
                let asked = refresh_after(&self.keyring, self.now(), wait, revision).await;
                let done = asked.map_err(|error: EnrolError| error.to_string())?;
                self.revision.fetch_max(done.revision.unwrap_or_default(), Ordering::Relaxed);
                if done.bundle {
                    // What is judged under a bundle is not judged again: the attributes are to be as new as it is.
                    let _ = tokio::time::timeout(DIRECTORY_PATIENCE, self.refresh_directory()).await;
                }
                Ok(done)
            };
            let hurry = async {
                loop {
                    self.hurry.notified().await;
                    if self.now().saturating_sub(begun) >= HURRY_SECONDS {
                        return;
                    }
                }
            };
            tokio::select! {
                result = attempt => {
                    self.failing.store(result.is_err(), Ordering::Relaxed);
                    return result;
                }
                () = hurry => {}
            }
        }
    }

    /// Asks somebody who waits to ask again now.
    pub(super) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    /// Waits, less if somebody is in a hurry.
    pub(super) async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.hurry.notified() => tokio::time::sleep(pause.min(Duration::from_millis(100))).await,
        }
    }

    /// The authority was heard, and all that it said has been done.
    pub(super) fn heard(&self) {
        let now = self.now();
        self.met.store(true, Ordering::Relaxed);
        self.contact.send_replace(now);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(*written) >= CONTACT_SECONDS {
            *written = now;
            self.keyring.with(|k| write_contact(k.dir(), now));
        }
    }

    /// Takes over the keyring's bundle; gives the devices that it revokes and the last one did not.
    pub(super) fn take_bundle(&self) -> Option<Vec<DeviceId>> {
        let newest = self.keyring.with(|k| k.bundle().clone());
        let mut bundle = self.bundle.write().unwrap_or_else(PoisonError::into_inner);
        if newest.number == bundle.number {
            return None;
        }
        let revoked = newest.revoked.iter().filter(|id| !bundle.is_revoked(**id)).copied().collect();
        let number = newest.number;
        *bundle = Arc::new(Ruled::from(newest));
        self.number.store(number, Ordering::Release);
        Some(revoked)
    }
}

fn write_contact(dir: &Path, at: u64) {
    if let Err(error) = write_private(&dir.join(CONTACT), at.to_string().as_bytes()) {
        tracing::warn!(%error, "cannot write down when the authority was heard");
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
