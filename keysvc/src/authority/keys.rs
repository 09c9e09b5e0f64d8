//! User secret keys: derived when asked for, sealed to the device, never stored.

use std::sync::Arc;

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
    pub(super) fn new(tx: &Tx<'_>, device: &DeviceRow, history: u64, now: u64) -> Result<Self, StoreError> {
        let mut plan = Self {
            device: device.id,
            actor: format!("{} {}", device.name, device.id),
            hpke_key: device.hpke_key.clone(),
            keys: Vec::new(),
            in_use: masters::in_use(tx)?,
        };
        if device.role != Role::Device {
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
    /// The caller's user secret keys of epochs from `since` on, unless `known` is their tag. For devices.
    ///
    /// # Errors
    /// Not allowed, busy, or the store failed.
    pub(crate) async fn keys(
        self: &Arc<Self>,
        caller: &Caller,
        since: u64,
        known: impl Fn(&str) -> bool,
    ) -> Result<TaggedKeys, Error> {
        let device = self.authorise_holder(caller, Operation::FetchKeys, self.now()).await?.device;
        let (id, history, now) = (device.id, self.config.history_epochs, self.now());
        let read = move |tx: &Tx<'_>| {
            let device = tx.device(id)?.ok_or(Error::UnknownCaller)?;
            device.stands()?;
            let mut plan = Plan::new(tx, &device, history, now)?;
            plan.keys.retain(|(epoch, ..)| *epoch >= since);
            let policy = device.policy.as_ref().map(ToString::to_string);
            Ok((plan, texts(&device.attributes), policy, device.revision))
        };
        let (plan, attributes, policy, revision) = self.store.read(read).await?;
        let tag = plan.tag();
        if known(&tag) {
            return Ok(TaggedKeys { tag, keys: None });
        }
        let keys = self.derive(plan).await?;
        Ok(TaggedKeys { tag, keys: Some(Keys { keys, attributes, revision, policy }) })
    }

    /// Derives and seals the keys of a plan. Each label costs about half a millisecond, so the work is counted.
    pub(super) async fn derive(self: &Arc<Self>, plan: Plan) -> Result<Vec<SealedKey>, Error> {
        if plan.keys.is_empty() {
            return Ok(Vec::new());
        }
        let _permit = self.keygen.acquire().await.map_err(|_| Error::Busy)?;
        // On record before they are told; and whoever was revoked meanwhile is told none.
        let (this, device) = (self.clone(), plan.device);
        let (actor, subject) = (plan.actor.clone(), plan.subject());
        let issue = self.store.write(move |tx| {
            tx.device(device)?.ok_or(Error::UnknownCaller)?.stands()?;
            Ok(this.audit(tx, &actor, "issue-keys", &subject)?)
        });
        issue.await?;
        let this = self.clone();
        let span = tracing::Span::current();
        let derived = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
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
        });
        let keys = derived.await.map_err(|_| Error::Busy)??;
        self.counts.keys.add(keys.len() as u64);
        Ok(keys)
    }
}

/// Attributes as the API writes them.
pub(super) fn texts(attributes: &Attributes) -> Vec<String> {
    attributes.iter().map(ToString::to_string).collect()
}
