//! User secret keys: derived when asked for, sealed to the device, never stored.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::{KEY_HPKE_INFO, Keys, SealedKey};
use smqtt_core::attribute::{Attributes, Label};
use smqtt_core::crypto::{Secret32, sha256};
use smqtt_core::identity::{DeviceId, Role};

use super::{Authority, Caller};
use crate::error::Error;
use crate::hpke::SealTo;
use crate::store::{DeviceRow, StoreError, Tx};

/// The next epoch's keys are given when this part of the current epoch is left: a quarter.
const EARLY_PART: u64 = 4;

/// Which keys a device is to have: one for each epoch, with these labels. Newest epoch last.
pub(super) struct Plan {
    device: DeviceId,
    hpke_key: Vec<u8>,
    epochs: Vec<(u64, Vec<Label>)>,
}

impl Plan {
    /// What the device would be given now. Brokers and administrators open nothing, and are given nothing.
    pub(super) fn new(tx: &Tx<'_>, device: &DeviceRow, history: u64, now: u64) -> Result<Self, StoreError> {
        let mut plan = Self { device: device.id, hpke_key: device.hpke_key.clone(), epochs: Vec::new() };
        if device.role != Role::Device {
            return Ok(plan);
        }
        let current = tx.current_epoch()?;
        let versions = tx.versions()?;
        for row in tx.epochs(current.number.saturating_sub(history))? {
            let number = row.epoch.number;
            let versions = row.versions.as_ref().unwrap_or(&versions);
            plan.epochs.push((number, device.attributes.labels(versions, number)));
        }
        let early = current.ends.saturating_sub(current.ends.saturating_sub(current.begins) / EARLY_PART);
        if now >= early {
            let next = current.number + 1;
            plan.epochs.push((next, device.attributes.labels(&versions, next)));
        }
        Ok(plan)
    }

    /// Changes whenever the keys do: with an epoch, a version of its attributes, the key they are sealed to.
    fn tag(&self) -> String {
        let mut parts: Vec<&[u8]> = vec![&self.hpke_key];
        for (_, labels) in &self.epochs {
            parts.extend(labels.iter().map(Label::as_bytes));
        }
        sha256(&parts)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Keys and the tag by which to ask whether they changed.
pub(crate) struct TaggedKeys {
    pub(crate) tag: String,
    /// `None` where the caller has them.
    pub(crate) keys: Option<Keys>,
}

impl Authority {
    /// The caller's user secret keys, unless `known` is their tag. For devices.
    ///
    /// # Errors
    /// Not allowed, busy, or the store failed.
    pub(crate) async fn keys(
        self: &Arc<Self>,
        caller: &Caller,
        known: impl Fn(&str) -> bool,
    ) -> Result<TaggedKeys, Error> {
        let device = self.authorise(caller, &[Role::Device], "fetch keys").await?.device;
        let (id, history, now) = (device.id, self.config.history_epochs, self.now());
        let read = move |tx: &Tx<'_>| {
            let device = tx.device(id)?.ok_or(Error::UnknownCaller)?;
            if device.revocation.is_some() {
                return Err(Error::Revoked);
            }
            let plan = Plan::new(tx, &device, history, now)?;
            Ok((plan, texts(&device.attributes)))
        };
        let (plan, attributes) = self.store.read(read).await?;
        let tag = plan.tag();
        if known(&tag) {
            return Ok(TaggedKeys { tag, keys: None });
        }
        let keys = self.derive(plan).await?;
        Ok(TaggedKeys { tag, keys: Some(Keys { keys, attributes }) })
    }

    /// Derives and seals the keys of a plan. Each label costs about half a millisecond, so the work is counted.
    pub(super) async fn derive(self: &Arc<Self>, plan: Plan) -> Result<Vec<SealedKey>, Error> {
        if plan.epochs.is_empty() {
            return Ok(Vec::new());
        }
        let _permit = self.keygen.acquire().await.map_err(|_| Error::Busy)?;
        let this = self.clone();
        let derived = tokio::task::spawn_blocking(move || {
            let to = SealTo::new(&plan.hpke_key).ok_or(StoreError::Corrupt("hpke_key"))?;
            let mut keys = Vec::new();
            for (epoch, labels) in &plan.epochs {
                for (_, master) in &this.secrets.suites {
                    let suite = master.suite;
                    let key =
                        suite.suite().keygen(master, *epoch, labels, &Secret32::random()).expect("one suite");
                    let (enc, ciphertext) = to.seal(KEY_HPKE_INFO, &plan.device.0, &key.encode());
                    keys.push(SealedKey {
                        suite: suite.name().to_owned(),
                        epoch: *epoch,
                        enc: STANDARD.encode(enc),
                        ciphertext: STANDARD.encode(ciphertext),
                    });
                }
                tracing::info!(device = %plan.device, epoch, "issued user secret key");
            }
            Ok::<_, StoreError>(keys)
        });
        Ok(derived.await.map_err(|_| Error::Busy)??)
    }
}

/// Attributes as the API writes them.
pub(super) fn texts(attributes: &Attributes) -> Vec<String> {
    attributes.iter().map(ToString::to_string).collect()
}
