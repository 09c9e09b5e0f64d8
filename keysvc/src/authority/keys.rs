//! User secret keys: derived when asked for, sealed to the device, never stored.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::{KEY_HPKE_INFO, Keys, SealedKey};
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::{Secret32, sha256};
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::suite::{PARAMS_ID_BYTES, Scope, SuiteId};

use super::masters::{self, InUse};
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::hpke::SealTo;
use crate::store::{DeviceRow, StoreError, Tx};

/// The next epoch's keys are given when this part of the current epoch is left: a quarter.
const EARLY_PART: u64 = 4;

/// Labels of a single key that is generated on the thread that answers: half a millisecond with most devices' few, two with
/// these. To hand it to another thread and wait costs a tenth of the whole renewal.
const AT_ONCE_MAX: usize = 32;

/// How often whoever waits for a turn looks whether it is there.
const TURN: Duration = Duration::from_millis(50);

/// Which keys a device is to have: for each epoch one of its attributes and, if it has a policy, one of that, under all
/// parameters that are in use. Newest epoch last.
pub(super) struct Plan {
    device: DeviceId,
    /// Name and identifier, for the audit log.
    actor: String,
    hpke_key: Vec<u8>,
    keys: Vec<(u64, [u8; PARAMS_ID_BYTES], SuiteId, Scope)>,
    in_use: Vec<InUse>,
}

impl Plan {
    /// What the device would be given now. Brokers, bridges and administrators open nothing, and are given nothing.
    fn new(tx: &Tx<'_>, device: &DeviceRow, history: u64, now: u64) -> Result<Self, StoreError> {
        let mut plan = Self {
            device: device.id,
            actor: format!("{} {}", device.name, device.id),
            hpke_key: device.hpke_key.clone(),
            keys: Vec::new(),
            in_use: masters::in_use(tx)?,
        };
        // Nor who has no key yet that they could be sealed to.
        if device.role != Role::Device || device.hpke_key.is_empty() {
            return Ok(plan);
        }
        let current = tx.current_epoch()?;
        let versions = tx.versions()?;
        for row in tx.epochs(current.number.saturating_sub(history))? {
            let number = row.epoch.number;
            let versions = row.versions.as_ref().unwrap_or(&versions);
            plan.add(device, versions, number);
        }
        let early = current.ends.saturating_sub(current.ends.saturating_sub(current.begins) / EARLY_PART);
        if now >= early {
            plan.add(device, &versions, current.number + 1);
        }
        Ok(plan)
    }

    fn add(&mut self, device: &DeviceRow, versions: &Versions, epoch: u64) {
        for params in self.in_use.iter().filter(|params| params.since <= epoch) {
            let scope = match (params.suite, &device.policy) {
                (SuiteId::FabeoKp, Some(policy)) => Scope::Policy(policy.access(versions, epoch)),
                (SuiteId::FabeoKp, None) => continue,
                _ => Scope::Labels(device.attributes.labels(versions, epoch).into()),
            };
            self.keys.push((epoch, params.id, params.suite, scope));
        }
    }

    /// What the device is given now, on record.
    pub(super) fn issue(
        authority: &Authority,
        tx: &Tx<'_>,
        device: &DeviceRow,
        now: u64,
    ) -> Result<Self, StoreError> {
        let plan = Self::new(tx, device, authority.config.history_epochs, now)?;
        plan.record(authority, tx)?;
        Ok(plan)
    }

    /// Writes into the audit log that these keys are issued, so that it is on record before they are told.
    fn record(&self, authority: &Authority, tx: &Tx<'_>) -> Result<(), StoreError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        authority.audit(tx, &self.actor, "issue-keys", &self.subject())
    }

    /// For the audit log: `fabeo-cp 3,4 fabeo-kp 4`, suites and their epochs.
    fn subject(&self) -> String {
        let mut suites: Vec<(SuiteId, Vec<String>)> = Vec::new();
        for (epoch, _, suite, _) in &self.keys {
            match suites.iter_mut().find(|(other, _)| other == suite) {
                // Once, though there be a key under each of two parameters.
                Some((_, epochs)) if epochs.contains(&epoch.to_string()) => {}
                Some((_, epochs)) => epochs.push(epoch.to_string()),
                None => suites.push((*suite, vec![epoch.to_string()])),
            }
        }
        let suites = suites.iter().map(|(suite, epochs)| format!("{} {}", suite.name(), epochs.join(",")));
        suites.collect::<Vec<_>>().join(" ")
    }

    /// Whether it is one key, soon generated.
    fn is_short(&self) -> bool {
        match &self.keys[..] {
            [(.., Scope::Labels(labels))] => labels.as_slice().len() <= AT_ONCE_MAX,
            [(.., Scope::Policy(access))] => access.leaves().count() <= AT_ONCE_MAX,
            _ => false,
        }
    }

    /// Changes whenever the keys do: with an epoch, a version of what its attributes or its policy name, the key they
    /// are sealed to.
    fn tag(&self) -> String {
        let mut parts = vec![self.hpke_key.clone()];
        for (_, params, suite, scope) in &self.keys {
            parts.push(params.to_vec());
            parts.push(suite.name().into());
            parts.push(match scope {
                Scope::Policy(access) => access.encode(),
                Scope::Labels(labels) => labels.encode(),
            });
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
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
    /// The caller's user secret keys of epochs from `since` on, unless it has a tag and `known` says that it is theirs.
    /// For devices.
    ///
    /// # Errors
    /// Not allowed, busy, or the store failed.
    pub(crate) async fn keys(
        self: &Arc<Self>,
        caller: &Caller,
        since: u64,
        known: Option<impl Fn(&str) -> bool>,
    ) -> Result<TaggedKeys, Error> {
        let now = self.now();
        let shown = self.shown_holder(caller, Operation::FetchKeys, now).await?;
        let (this, one) = (self.clone(), shown.clone());
        let plan = move |tx: &Tx<'_>| {
            let device = one.device(tx, Operation::FetchKeys)?;
            let mut plan = Plan::new(tx, &device, this.config.history_epochs, now)?;
            plan.keys.retain(|(epoch, ..)| *epoch >= since);
            let policy = device.policy.as_ref().map(ToString::to_string);
            Ok((plan, texts(&device.attributes), policy, device.revision))
        };
        // Only who may have them already is worth a look without a row in the log.
        if let Some(known) = known {
            let planned = self.store.read(plan.clone()).await;
            let tag = self.or_denied(caller, Operation::FetchKeys, planned).await?.0.tag();
            if known(&tag) {
                return Ok(TaggedKeys { tag, keys: None });
            }
        }
        let this = self.clone();
        let issued = self.store.write(move |tx| {
            let planned = plan(tx)?;
            planned.0.record(&this, tx)?;
            Ok(planned)
        });
        let issued = match issued.await {
            // Whoever is shut out hears that, and not that it is to wait for space.
            Err(Error::LowSpace) => {
                let stands =
                    move |tx: &Tx<'_>| shown.device(tx, Operation::FetchKeys).and(Err(Error::LowSpace));
                self.store.read(stands).await
            }
            issued => issued,
        };
        let (plan, attributes, policy, revision) =
            self.or_denied(caller, Operation::FetchKeys, issued).await?;
        let tag = plan.tag();
        let keys = self.derive(plan, false).await?;
        Ok(TaggedKeys { tag, keys: Some(Keys { keys, attributes, revision, policy }) })
    }

    /// Derives and seals the keys of a plan that is on record, as many plans at a time as there are processors, and long ones
    /// on threads of their own. Whoever was revoked or suspended meanwhile is told none.
    ///
    /// Nobody's long keys are generated twice at once. Whoever is `patient` waits for that, as what was written down already has to be
    /// told; others are to ask again.
    pub(super) async fn derive(self: &Arc<Self>, plan: Plan, patient: bool) -> Result<Vec<SealedKey>, Error> {
        if plan.keys.is_empty() {
            return Ok(Vec::new());
        }
        let (device, is_short) = (plan.device, plan.is_short());
        let one = match is_short {
            true => None,
            false => Some(self.deriving(device, patient).await?),
        };
        let permit = self.keygen.clone().acquire_owned().await.map_err(|_| Error::Busy)?;
        let this = self.clone();
        let span = tracing::Span::current();
        let work = move || {
            let _entered = span.enter();
            // To the end of the work, though whoever asked may be gone.
            let _held = (one, permit);
            let to = SealTo::stored(&plan.hpke_key);
            let mut keys = Vec::new();
            let masters = this.secrets.masters();
            for (epoch, params, suite, scope) in &plan.keys {
                // Rotated between the plan and now: a second try sees the same.
                let master = masters.get(params).ok_or(Error::Busy)?;
                let key = suite.suite().keygen(master, *epoch, scope, &Secret32::random());
                let key = key.expect("a plan has labels for the one suite and a policy for the other");
                let sealed = to.try_seal(KEY_HPKE_INFO, &plan.device.0, &key.encode());
                let (enc, ciphertext) = sealed.ok_or(StoreError::Corrupt("hpke_key"))?;
                keys.push(SealedKey {
                    suite: suite.name().to_owned(),
                    epoch: *epoch,
                    enc: STANDARD.encode(enc),
                    ciphertext: STANDARD.encode(ciphertext),
                });
                tracing::info!(device = %plan.device, epoch, suite = suite.name(), "issued user secret key");
            }
            Ok::<_, Error>(keys)
        };
        let keys = if is_short {
            work()?
        } else {
            tokio::task::spawn_blocking(work).await.map_err(|_| Error::Busy)??
        };
        if self.bundle.borrow().shuts_out(device) {
            self.store.read(move |tx| tx.device(device)?.ok_or(Error::UnknownCaller)?.stands()).await?;
        }
        self.counts.keys.add(keys.len() as u64);
        Ok(keys)
    }

    /// The device's turn to have long keys generated.
    async fn deriving(self: &Arc<Self>, device: DeviceId, patient: bool) -> Result<Deriving, Error> {
        loop {
            match Deriving::begin(self, device) {
                Some(turn) => return Ok(turn),
                None if patient => tokio::time::sleep(TURN).await,
                None => return Err(Error::TooMany { retry_after_seconds: 1 }),
            }
        }
    }
}

/// A device for which long keys are being generated.
struct Deriving(Arc<Authority>, DeviceId);

impl Deriving {
    /// `None` while there is one.
    fn begin(authority: &Arc<Authority>, device: DeviceId) -> Option<Self> {
        let mut deriving = authority.deriving.lock().unwrap_or_else(PoisonError::into_inner);
        deriving.insert(device).then(|| Self(authority.clone(), device))
    }
}

impl Drop for Deriving {
    fn drop(&mut self) {
        self.0.deriving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Attributes as the API writes them.
pub(super) fn texts(attributes: &Attributes) -> Vec<String> {
    attributes.iter().map(ToString::to_string).collect()
}
