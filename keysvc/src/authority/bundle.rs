//! The bundle: signed anew in the transaction of whatever changes it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smqtt_core::bundle::{BUNDLE_BYTES_MAX, Bundle, Epoch};
use smqtt_core::identity::{DeviceId, Role};

use super::{Authority, Caller, Operation, Secrets, masters, roots, rules};
use crate::config::Config;
use crate::error::Error;
use crate::store::{DeviceRow, StoreError, Tx};

/// The longest wait for the next bundle.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The newest bundle, as it is on disk.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
    pub(super) epoch: Epoch,
    revoked: Arc<[DeviceId]>,
    /// When half its life is over.
    pub(super) resign_at: u64,
}

impl Published {
    fn new(bundle: &Bundle, bytes: Vec<u8>) -> Self {
        Self {
            number: bundle.number,
            bytes: bytes.into(),
            epoch: bundle.epoch,
            revoked: bundle.revoked.clone().into(),
            resign_at: bundle.issued + bundle.expires.saturating_sub(bundle.issued) / 2,
        }
    }

    /// Whether this device is revoked or suspended.
    pub(super) fn shuts_out(&self, device: DeviceId) -> bool {
        self.revoked.binary_search(&device).is_ok()
    }
}

/// Signs and stores the bundle of what the transaction sees, under the next number.
pub(super) fn write(
    tx: &Tx<'_>,
    config: &Config,
    secrets: &Secrets,
    now: u64,
) -> Result<Published, StoreError> {
    let bundle = Bundle {
        tenant: secrets.roots().tenant(),
        number: tx.bump("bundle")?,
        issued: now,
        expires: now.saturating_add(config.bundle_seconds()),
        epoch: tx.current_epoch()?,
        grace: config.grace_seconds,
        rules: rules::load(tx)?,
        versions: tx.versions()?,
        revoked: tx.revoked_ids()?,
        params: masters::in_use(tx)?.into_iter().map(|params| params.id).collect(),
        lineage: roots::lineage(tx)?,
    };
    let bytes = bundle.sign(&*secrets.fresh_signer(tx, now)?);
    tx.set_document("bundle", &bytes)?;
    Ok(Published::new(&bundle, bytes))
}

/// The bundle that was stored; `None` where there is none, or it says something else than the configuration.
pub(super) fn load(tx: &Tx<'_>, config: &Config) -> Result<Option<Published>, StoreError> {
    let Some(bytes) = tx.document("bundle")? else { return Ok(None) };
    let bundle = Bundle::verify(&bytes, &roots::in_trust(tx)?)
        .ok()
        .filter(|bundle| bundle.grace == config.grace_seconds);
    Ok(bundle.map(|bundle| Published::new(&bundle, bytes)))
}

/// The answer to whoever asked for news.
pub(crate) struct News {
    /// A newer bundle.
    pub(crate) bundle: Option<Published>,
    /// Of devices and bridges their own revision, which changes with their attributes; of all others the directory's.
    pub(crate) revision: u64,
}

impl Authority {
    /// The newest bundle, if its number is above `after`; waits for one up to `wait` and at most a minute, and no longer
    /// than there is no revision above `revision`.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub(crate) async fn bundle(
        &self,
        caller: &Caller,
        after: u64,
        revision: Option<u64>,
        wait: Duration,
    ) -> Result<News, Error> {
        let mut directory = self.polls.directory();
        let before = *directory.borrow_and_update();
        let mut asker = self.asker(caller).await?;
        let is_own = asker.as_ref().is_some_and(|of| matches!(of.role, Role::Device | Role::Bridge));
        let mut newest = self.bundle.subscribe();
        // Nobody can have more than there is.
        let has = after.min(newest.borrow().number);
        let polling =
            asker.as_ref().map(|of| self.polls.begin(of.id, of.role, has, self.now()).ok_or(Error::Busy));
        let polling = polling.transpose()?;
        let changed = polling.as_ref().map_or_else(Arc::default, |polling| polling.changed.clone());
        let news = async {
            loop {
                let mut told = std::pin::pin!(changed.notified());
                told.as_mut().enable();
                // It may have changed between the answer of the store and this.
                if self.polls.revision() != before {
                    asker = self.asker(caller).await?;
                }
                let now_at = self.revision_of(asker.as_ref());
                if revision.is_some_and(|revision| revision < now_at) {
                    let published = newest.borrow().clone();
                    return Ok(Some(published).filter(|published| published.number > after));
                }
                tokio::select! {
                    biased;
                    published = newest.wait_for(|bundle| bundle.number > after) => {
                        return Ok::<_, Error>(published.ok().map(|published| published.clone()));
                    }
                    () = told, if is_own && revision.is_some() => {}
                    Ok(()) = directory.changed(), if !is_own && revision.is_some() => {}
                }
            }
        };
        let bundle = match tokio::time::timeout(wait.min(WAIT_MAX), news).await {
            Ok(news) => news?,
            Err(_) => None,
        };
        if let Some(polling) = polling {
            polling.end(self.now());
        }
        if self.polls.revision() != before || bundle.is_some() {
            // Somebody who was revoked meanwhile learns it now.
            asker = self.asker(caller).await?;
        }
        Ok(News { bundle, revision: self.revision_of(asker.as_ref()) })
    }

    /// Who asks for the bundle, if by a certificate.
    async fn asker(&self, caller: &Caller) -> Result<Option<DeviceRow>, Error> {
        if !caller.shows_certificate() {
            return self.authorise(caller, Operation::ReadBundle).await.map(|_| None);
        }
        let holder = self.authorise_holder(caller, Operation::ReadBundle, self.now()).await?;
        Ok(Some(holder.device))
    }

    fn revision_of(&self, asker: Option<&DeviceRow>) -> u64 {
        match asker {
            Some(of) if matches!(of.role, Role::Device | Role::Bridge) => of.revision,
            _ => self.polls.revision(),
        }
    }

    /// Has whoever waits for news told, when this transaction is on disk, that the device changed in it.
    pub(super) fn tell(self: &Arc<Self>, tx: &Tx<'_>, device: DeviceId) -> Result<(), Error> {
        let (this, revision) = (self.clone(), tx.counter("revision")?);
        tx.after_commit(move || this.polls.changed(device, revision));
        Ok(())
    }

    /// Signs the bundle of this transaction; whoever waits is woken when it is on disk.
    pub(super) fn publish(self: &Arc<Self>, tx: &Tx<'_>, now: u64) -> Result<u64, Error> {
        let published = write(tx, &self.config, &self.secrets, now)?;
        if published.bytes.len() > BUNDLE_BYTES_MAX {
            return Err(Error::Full { what: "bytes in the bundle", max: BUNDLE_BYTES_MAX });
        }
        let (this, number) = (self.clone(), published.number);
        tx.after_commit(move || {
            tracing::info!(bundle = number, "published a bundle");
            this.bundle.send_replace(published);
        });
        Ok(number)
    }

    /// The same again under a new number, valid for longer.
    pub(super) async fn resign_bundle(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let this = self.clone();
        self.store.write_reserved(move |tx| this.publish(tx, now)).await.map(drop)
    }
}
