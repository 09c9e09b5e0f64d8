//! Devices: who they are, and the end of one.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api::{Device, Directory, Revocation};
use smqtt_core::attribute::{Attribute, AttributeError};
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::policy::Policy;

use super::keys::texts;
use super::{Authority, Caller, Listed, Operation, Page};
use crate::error::Error;
use crate::store::{DeviceRow, NUMBER_MAX, RevocationRow, Tx};

/// Most devices in one answer.
pub(crate) const PAGE_MAX: usize = 1000;

impl Authority {
    /// Devices, by identifier, 1,000 at most.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn devices(&self, caller: &Caller, page: Page) -> Result<Listed<Device>, Error> {
        self.authorise(caller, Operation::ListDevices).await?;
        let (after, limit) =
            (self.begins_after(Operation::ListDevices, &page)?, Self::limit(&page, PAGE_MAX)?);
        let rows = self.store.read(move |tx| Ok(tx.devices(&after, limit + 1)?)).await?;
        Ok(self.listed(Operation::ListDevices, rows, limit, |row| row.id.0.to_vec()).map(device))
    }

    /// The device of this name or identifier.
    ///
    /// # Errors
    /// Not allowed, no such device, or the store failed.
    pub async fn device(&self, caller: &Caller, name_or_id: String) -> Result<Device, Error> {
        self.authorise(caller, Operation::ShowDevice).await?;
        self.store.read(move |tx| find(tx, &name_or_id)).await.map(device)
    }

    /// Up to 1,000 devices that are new or changed since `revision`.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn directory(&self, caller: &Caller, revision: u64) -> Result<Directory, Error> {
        self.authorise(caller, Operation::ReadDirectory).await?;
        let revision = revision.min(NUMBER_MAX);
        let rows = self.store.read(move |tx| Ok(tx.devices_after(revision, PAGE_MAX)?)).await?;
        let revision = rows.last().map_or(revision, |row| row.revision);
        Ok(Directory { revision, devices: rows.into_iter().map(device).collect() })
    }

    /// Revokes a device, for good: no certificate and no key from the commit on, the versions of its attributes
    /// and of those that its policy names raised, everyone told. Asked again, it answers the same. With `purge` brokers are to remove what is retained and was
    /// open to it. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such device, or the store failed.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        name_or_id: String,
        purge: bool,
    ) -> Result<Revocation, Error> {
        let admin = self.authorise(caller, Operation::Revoke).await?;
        let (this, now) = (self.clone(), self.now());
        self.store
            .write_reserved(move |tx| {
                let mut device = find(tx, &name_or_id)?;
                let revocation = match device.revocation.take() {
                    Some(revocation) => revocation,
                    None => this.end(tx, &device, "revoke", &admin.actor, now)?,
                };
                if purge {
                    this.order_purge(tx, &device, &admin.actor, now)?;
                }
                Ok(report(device.id, device.name, revocation))
            })
            .await
    }

    /// Ends a device in this transaction, and tells everyone.
    pub(super) fn end(
        self: &Arc<Self>,
        tx: &Tx<'_>,
        device: &DeviceRow,
        action: &'static str,
        actor: &str,
        now: u64,
    ) -> Result<RevocationRow, Error> {
        if device.role == Role::Admin {
            return Err(Error::NotRevocable);
        }
        tx.revoke_device(device.id, now)?;
        self.tell(tx, device.id)?;
        let before = tx.current_epoch()?.number;
        let raised = self.shut_out(tx, version_keys(device), actor, now)?;
        self.record_closed(tx, device, &raised, before, actor, now)?;
        let bundle = self.publish(tx, now)?;
        tx.set_revocation(device.id, &raised, bundle)?;
        let whose = format!("{} {}", device.name, device.id);
        self.audit(tx, actor, action, &whose)?;
        // Nobody is let in any more at the word of somebody who is out.
        let tokens = tx.remove_tokens_of(&whose, now)?;
        if tokens > 0 {
            self.audit(tx, actor, Operation::RemoveToken.name(), &format!("{tokens} made by {whose}"))?;
        }
        tracing::info!(device = %device.id, name = device.name, action, bundle, tokens, "revoked");
        Ok(RevocationRow { at: now, raised, bundle })
    }

    /// Raises the versions of these attributes, so that keys that were given until now open nothing that is sealed from now
    /// on and needs one of them. Says which could be raised.
    pub(super) fn shut_out(
        &self,
        tx: &Tx<'_>,
        keys: BTreeSet<Attribute>,
        actor: &str,
        now: u64,
    ) -> Result<Vec<String>, Error> {
        let mut versions = tx.versions()?;
        let (mut raised, mut all) = (Vec::new(), true);
        for key in &keys {
            match versions.raise(key) {
                Ok(version) => {
                    tx.set_version(key, version)?;
                    raised.push(key.to_string());
                }
                Err(AttributeError::TooManyVersions | AttributeError::VersionExhausted) => all = false,
                Err(error) => return Err(Error::invalid("attributes", error)),
            }
        }
        if !all {
            // Where no version can be raised, a new epoch does the same, for everyone. Keys of the next one may be out
            // already, and for a while brokers take what was sealed in the one before: it is the one after the next.
            self.begin_epoch(tx, now, actor, 2)?;
        }
        Ok(raised)
    }
}

/// What has a version among the attributes that the device has or its policy names, once where several share it. A bridge
/// has no keys: nobody need renew theirs because it is gone.
pub(super) fn version_keys(device: &DeviceRow) -> BTreeSet<Attribute> {
    if device.role != Role::Device {
        return BTreeSet::new();
    }
    let mut keys: BTreeSet<_> = device.attributes.iter().map(Attribute::version_key).collect();
    keys.extend(device.policy.iter().flat_map(Policy::version_keys));
    keys
}

/// By identifier, or by name: the device that was not revoked, else the one that was revoked last.
pub(super) fn find(tx: &Tx<'_>, name_or_id: &str) -> Result<DeviceRow, Error> {
    if let Ok(id) = name_or_id.parse::<DeviceId>()
        && let Some(device) = tx.device(id)?
    {
        return Ok(device);
    }
    if let Some(device) = tx.active_device(name_or_id)? {
        return Ok(device);
    }
    let none = || Error::NoSuchDevice { name: name_or_id.chars().take(64).collect() };
    tx.revoked_device(name_or_id)?.ok_or_else(none)
}

fn report(id: DeviceId, name: String, revocation: RevocationRow) -> Revocation {
    Revocation {
        id: id.to_string(),
        name,
        revoked: revocation.at,
        raised: revocation.raised,
        bundle: revocation.bundle,
    }
}

pub(super) fn device(row: DeviceRow) -> Device {
    Device {
        id: row.id.to_string(),
        name: row.name,
        role: row.role.name().to_owned(),
        serial: row.serial,
        attributes: texts(&row.attributes),
        policy: row.policy.as_ref().map(ToString::to_string),
        profile: row.profile,
        group: row.group,
        status: match (&row.revocation, &row.suspension) {
            (Some(_), _) => "revoked",
            (None, Some(_)) => "suspended",
            (None, None) => "active",
        }
        .to_owned(),
        enrolled: row.enrolled,
        certificate_expires: row.certificate_expires,
        suspended: row.suspension.map(|suspension| suspension.at),
        revoked: row.revocation.map(|revocation| revocation.at),
    }
}
