//! Other attributes, another policy: a device's keys follow without anybody's doing.
//!
//! What a device loses has its version raised, as in a revocation: its older keys open nothing that is sealed from now on
//! and needs it. What it gains comes with the next keys. Either way there is a new bundle, so that the device asks for keys and
//! brokers for the directory at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api::{DeviceChange, DeviceChanged};
use smqtt_core::attribute::{Attribute, Attributes, Value};
use smqtt_core::identity::Role;
use smqtt_core::policy::Policy;

use super::devices::{self, find};
use super::profiles::{group_named, in_all, named, profile_named};
use super::standing::not_revoked;
use super::tokens::{parse_attributes, parse_policy};
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{DeviceRow, GivenRow, Tx};

impl Authority {
    /// Changes a device's attributes and policy. What it has already changes nothing. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such device, the change makes no sense for it, or the store failed.
    pub async fn change_device(
        self: &Arc<Self>,
        caller: &Caller,
        name_or_id: String,
        change: DeviceChange,
    ) -> Result<DeviceChanged, Error> {
        let admin = self.authorise(caller, Operation::ChangeDevice).await?;
        let change = Change::parse(&change)?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                let device = find(tx, &name_or_id)?;
                expected.check(Some(&devices::device(device.clone())))?;
                let device = not_revoked(device)?;
                let had = tx.given(&device)?;
                let given = change.of(tx, had.clone())?;
                let (attributes, policy) = in_all(tx, &given, device.role)?;
                check_role(device.role, &attributes, policy.as_ref())?;
                // Whoever only moves to another profile may have all the same.
                if given != had {
                    tx.change_given(device.id, &given)?;
                }
                let mut lost = BTreeSet::new();
                let is_other = give(tx, &device, &attributes, policy.as_ref(), &mut lost)?;
                if !is_other && given == had {
                    let (device, bundle) = (devices::device(device), tx.counter("bundle")?);
                    return Ok(DeviceChanged { device, raised: Vec::new(), bundle });
                }
                let (mut raised, mut bundle) = (Vec::new(), tx.counter("bundle")?);
                if is_other {
                    this.tell(tx, device.id)?;
                    raised = this.shut_out(tx, lost, &admin.actor, now)?;
                    bundle = this.publish(tx, now)?;
                }
                let under = policy.as_ref().map_or(String::new(), |policy| format!(" policy {policy}"));
                let (name, id, shared) = (&device.name, device.id, named(&given));
                let subject = format!("{name} {id}: {attributes}{under}{shared}");
                this.audit(tx, &admin.actor, Operation::ChangeDevice.name(), &subject)?;
                tracing::info!(device = %device.id, name = device.name, bundle, "changed a device");
                let device = tx.device(device.id)?.ok_or(Error::UnknownCaller)?;
                Ok(DeviceChanged { device: devices::device(device), raised, bundle })
            })
            .await
    }
}

/// Gives a device these attributes and this policy, if it has others; adds to `lost` whatever it must not have a key for
/// any more. A policy that is exchanged counts as lost: which of two lets more in is not asked.
pub(super) fn give(
    tx: &Tx<'_>,
    device: &DeviceRow,
    attributes: &Attributes,
    policy: Option<&Policy>,
    lost: &mut BTreeSet<Attribute>,
) -> Result<bool, Error> {
    if device.attributes == *attributes && device.policy.as_ref() == policy {
        return Ok(false);
    }
    if device.role == Role::Device {
        let gone = device.attributes.iter().filter(|attribute| !attributes.contains(attribute));
        lost.extend(gone.map(Attribute::version_key));
        // With a second integer of a name comparisons hold no more.
        let compared = |a: &&Attribute| {
            let before = device.attributes.int(a.name());
            before.is_some() && before != attributes.int(a.name())
        };
        lost.extend(device.attributes.iter().filter(compared).map(Attribute::version_key));
        let exchanged = device.policy.as_ref().filter(|had| Some(*had) != policy);
        lost.extend(exchanged.into_iter().flat_map(Policy::version_keys));
    }
    tx.set_attributes(device.id, attributes, policy)?;
    Ok(true)
}

/// Whether somebody of this role may have these.
pub(super) fn check_role(role: Role, attributes: &Attributes, policy: Option<&Policy>) -> Result<(), Error> {
    let name = role.name();
    if !matches!(role, Role::Device | Role::Bridge) && !attributes.is_empty() {
        let hint = "attributes are for devices and bridges: leave them away";
        return Err(Error::invalid("attributes", format!("a {name} has no attributes")).with_hint(hint));
    }
    if role != Role::Device && policy.is_some() {
        let hint = "a policy is for a device's keys: leave it away";
        return Err(Error::invalid("policy", format!("a {name} has no keys")).with_hint(hint));
    }
    Ok(())
}

/// A change, parsed.
struct Change {
    set: Attributes,
    add: Attributes,
    remove: Attributes,
    policy: Option<Option<Policy>>,
    profile: Option<Option<String>>,
    group: Option<Option<String>>,
}

impl Change {
    fn parse(change: &DeviceChange) -> Result<Self, Error> {
        let policy = change.policy.as_ref().map(|policy| policy.as_deref().map(parse_policy).transpose());
        Ok(Self {
            set: parse_attributes(&change.set)?,
            add: parse_attributes(&change.add)?,
            remove: parse_attributes(&change.remove)?,
            policy: policy.transpose()?,
            profile: change.profile.clone(),
            group: change.group.clone(),
        })
    }

    /// What a device that was given `had` is given with it.
    fn of(&self, tx: &Tx<'_>, had: GivenRow) -> Result<GivenRow, Error> {
        let attributes = self.attributes_of(&had.attributes)?;
        if let Some(Some(name)) = &self.profile {
            profile_named(tx, name)?;
        }
        if let Some(Some(name)) = &self.group {
            group_named(tx, name)?;
        }
        Ok(GivenRow {
            attributes,
            policy: self.policy.clone().unwrap_or(had.policy),
            profile: self.profile.clone().unwrap_or(had.profile),
            group: self.group.clone().unwrap_or(had.group),
        })
    }

    fn attributes_of(&self, had: &Attributes) -> Result<Attributes, Error> {
        // A name alone stands for whatever has that name.
        let removed = |attribute: &Attribute| {
            self.remove.contains(attribute)
                || self.remove.named(attribute.name()).any(|flag| *flag.value() == Value::Flag)
        };
        let replaced = |attribute: &Attribute| self.set.named(attribute.name()).next().is_some();
        let kept = had.iter().filter(|attribute| !removed(attribute) && !replaced(attribute));
        let given = self.set.iter().chain(self.add.iter());
        let attributes = Attributes::new(kept.chain(given).cloned());
        attributes.map_err(|error| Error::invalid("attributes", error))
    }
}
