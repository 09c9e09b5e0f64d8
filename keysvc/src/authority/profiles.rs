//! Profiles and groups: what several devices have in common, changed in one act for all of them.
//!
//! What a device has = its own attributes, those of its group, and those of its profile. Its profile is its own one, or else its
//! group's; its policy its own one, or else its profile's. It is computed when any of these changes and kept with the device,
//! so that keys, rules and brokers look in one place.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api::{Group, GroupRequest, Profile, ProfileRequest, TemplateSet};
use smqtt_core::attribute::{Attribute, Attributes};
use smqtt_core::identity::{Role, check_name};
use smqtt_core::policy::Policy;

use super::change::give;
use super::keys::texts;
use super::tokens::{TTL_SECONDS_MAX, parse_attributes, parse_policy};
use super::{Authority, Caller, Operation, rules};
use crate::error::Error;
use crate::store::{DeviceRow, GivenRow, GroupRow, ProfileRow, TokenRow, Tx};

/// Most profiles, and most groups.
const TEMPLATES_MAX: usize = 1000;
/// Most rules in one request.
const RULES_AT_ONCE_MAX: usize = 64;
const CERTIFICATE_DAYS_MAX: u64 = 3650;

impl Authority {
    /// All profiles. For administrators, enrollers and auditors.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn profiles(&self, caller: &Caller) -> Result<Vec<Profile>, Error> {
        self.authorise(caller, Operation::ListProfiles).await?;
        let rows = self.store.read(|tx| Ok(tx.profiles()?)).await?;
        Ok(rows.into_iter().map(profile).collect())
    }

    /// One profile. For administrators, enrollers and auditors.
    ///
    /// # Errors
    /// Not allowed, no such profile, or the store failed.
    pub async fn profile(&self, caller: &Caller, name: String) -> Result<Profile, Error> {
        self.authorise(caller, Operation::ShowProfile).await?;
        self.store.read(move |tx| profile_named(tx, &name)).await.map(profile)
    }

    /// Sets a profile, the rules that come with it, and the attributes of every device that has it: one act. Rules that were set
    /// with it before stay. For administrators.
    ///
    /// # Errors
    /// Not allowed, the profile makes no sense for some device, or the store failed.
    pub async fn set_profile(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        request: ProfileRequest,
    ) -> Result<TemplateSet, Error> {
        let admin = self.authorise(caller, Operation::SetProfile).await?;
        // Whoever may set profiles need not be let set rules.
        if !request.rules.is_empty() {
            self.authorise(caller, Operation::SetRule).await?;
        }
        check_name(&name).map_err(|error| Error::invalid("name", error))?;
        let attributes = parse_attributes(&request.attributes)?;
        let policy = request.policy.as_deref().map(parse_policy).transpose()?;
        if request.certificate_days.is_some_and(|days| !(1..=CERTIFICATE_DAYS_MAX).contains(&days)) {
            let detail = format!("certificates are valid for 1 to {CERTIFICATE_DAYS_MAX} days");
            return Err(Error::invalid("certificate-days", detail));
        }
        if request.token_ttl_seconds.is_some_and(|ttl| !(1..=TTL_SECONDS_MAX).contains(&ttl)) {
            let detail = format!("a token can be good for 1 to {TTL_SECONDS_MAX} seconds");
            return Err(Error::invalid("ttl", detail));
        }
        if request.rules.len() > RULES_AT_ONCE_MAX {
            return Err(Error::Full { what: "rules at once", max: RULES_AT_ONCE_MAX });
        }
        let set = request.rules.iter().map(rules::parse).collect::<Result<Vec<_>, _>>()?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                let before = tx.profile(&name)?;
                expected.check(before.clone().map(profile).as_ref())?;
                if before.is_none() && tx.profiles()?.len() >= TEMPLATES_MAX {
                    return Err(Error::Full { what: "profiles", max: TEMPLATES_MAX });
                }
                let mut filters: BTreeSet<String> =
                    before.iter().flat_map(|row| row.filters.iter().cloned()).collect();
                let mut ruled = false;
                for rule in &set {
                    filters.insert(rule.filter.to_string());
                    ruled |= this.put_rule(tx, rule, &admin.actor)?;
                }
                let row = ProfileRow {
                    name,
                    attributes,
                    policy,
                    certificate_days: request.certificate_days,
                    token_ttl_seconds: request.token_ttl_seconds,
                    filters: filters.into_iter().collect(),
                };
                if before.as_ref() == Some(&row) && !ruled {
                    return unchanged(tx);
                }
                tx.set_profile(&row)?;
                let policy = row.policy.as_ref().map_or(String::new(), |policy| format!(" policy {policy}"));
                let subject = format!("{}: {}{policy}", row.name, row.attributes);
                let members = tx.devices_of_profile(&row.name)?;
                this.set_members(tx, members, ruled, &admin.actor, (Operation::SetProfile, &subject), now)
            })
            .await
    }

    /// Removes a profile that nobody has, and, if asked, the rules that were set with it. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such profile, it is in use, or the store failed.
    pub async fn remove_profile(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        with_rules: bool,
    ) -> Result<TemplateSet, Error> {
        let admin = self.authorise(caller, Operation::RemoveProfile).await?;
        if with_rules {
            self.authorise(caller, Operation::RemoveRule).await?;
        }
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                let row = profile_named(tx, &name)?;
                expected.check(Some(&profile(row.clone())))?;
                let users = tx.profile_users(&name)?;
                if users > 0 {
                    return Err(Error::InUse { what: "profile", name, users });
                }
                let mut ruled = false;
                for filter in row.filters.iter().filter(|_| with_rules) {
                    if tx.delete_rule(filter)? {
                        this.audit(tx, &admin.actor, Operation::RemoveRule.name(), filter)?;
                        ruled = true;
                    }
                }
                tx.delete_profile(&name)?;
                this.set_members(tx, Vec::new(), ruled, &admin.actor, (Operation::RemoveProfile, &name), now)
            })
            .await
    }

    /// All groups. For administrators, enrollers and auditors.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn groups(&self, caller: &Caller) -> Result<Vec<Group>, Error> {
        self.authorise(caller, Operation::ListGroups).await?;
        let rows = self.store.read(|tx| Ok(tx.groups()?)).await?;
        Ok(rows.into_iter().map(group).collect())
    }

    /// One group. For administrators, enrollers and auditors.
    ///
    /// # Errors
    /// Not allowed, no such group, or the store failed.
    pub async fn group(&self, caller: &Caller, name: String) -> Result<Group, Error> {
        self.authorise(caller, Operation::ShowGroup).await?;
        self.store.read(move |tx| group_named(tx, &name)).await.map(group)
    }

    /// Sets a group, and the attributes of its members: one act. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such profile, the group makes no sense for some member, or the store failed.
    pub async fn set_group(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        request: GroupRequest,
    ) -> Result<TemplateSet, Error> {
        let admin = self.authorise(caller, Operation::SetGroup).await?;
        check_name(&name).map_err(|error| Error::invalid("name", error))?;
        let attributes = parse_attributes(&request.attributes)?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                if let Some(profile) = &request.profile {
                    profile_named(tx, profile)?;
                }
                let before = tx.group(&name)?;
                expected.check(before.clone().map(group).as_ref())?;
                if before.is_none() && tx.groups()?.len() >= TEMPLATES_MAX {
                    return Err(Error::Full { what: "groups", max: TEMPLATES_MAX });
                }
                let row = GroupRow { name, profile: request.profile, attributes };
                if before.as_ref() == Some(&row) {
                    return unchanged(tx);
                }
                tx.set_group(&row)?;
                let profile = row.profile.as_ref().map_or(String::new(), |name| format!(" profile {name}"));
                let subject = format!("{}: {}{profile}", row.name, row.attributes);
                let members = tx.devices_of_group(&row.name)?;
                this.set_members(tx, members, false, &admin.actor, (Operation::SetGroup, &subject), now)
            })
            .await
    }

    /// Removes a group without members. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such group, it is in use, or the store failed.
    pub async fn remove_group(self: &Arc<Self>, caller: &Caller, name: String) -> Result<TemplateSet, Error> {
        let admin = self.authorise(caller, Operation::RemoveGroup).await?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                expected.check(Some(&group(group_named(tx, &name)?)))?;
                let users = tx.group_users(&name)?;
                if users > 0 {
                    return Err(Error::InUse { what: "group", name, users });
                }
                tx.delete_group(&name)?;
                this.set_members(tx, Vec::new(), false, &admin.actor, (Operation::RemoveGroup, &name), now)
            })
            .await
    }

    /// Gives every member what it has now, raises what any of them lost, once, and tells everyone.
    fn set_members(
        self: &Arc<Self>,
        tx: &Tx<'_>,
        members: Vec<DeviceRow>,
        ruled: bool,
        actor: &str,
        (operation, subject): (Operation, &str),
        now: u64,
    ) -> Result<TemplateSet, Error> {
        let (mut lost, mut changed) = (BTreeSet::<Attribute>::new(), 0u64);
        for device in members {
            let (attributes, policy) = in_all(tx, &tx.given(&device)?, device.role)
                .map_err(|error| error.with_hint(format!("the device `{}` would have it", device.name)))?;
            if give(tx, &device, &attributes, policy.as_ref(), &mut lost)? {
                self.tell(tx, device.id)?;
                changed += 1;
            }
        }
        let raised = self.shut_out(tx, lost, actor, now)?;
        let bundle = match changed > 0 || ruled {
            true => self.publish(tx, now)?,
            false => tx.counter("bundle")?,
        };
        self.audit(tx, actor, operation.name(), subject)?;
        tracing::info!(operation = operation.name(), subject, changed, bundle, "changed what devices share");
        Ok(TemplateSet { changed, raised, bundle })
    }
}

/// What a device has in all, given this.
pub(super) fn in_all(
    tx: &Tx<'_>,
    given: &GivenRow,
    role: Role,
) -> Result<(Attributes, Option<Policy>), Error> {
    let (attributes, policy) = adds_up_to(tx, given, role)?;
    let attributes = Attributes::new(attributes).map_err(|error| Error::invalid("attributes", error))?;
    Ok((attributes, policy))
}

/// What a device would have in all, though it be more than a device can have.
pub(super) fn adds_up_to(
    tx: &Tx<'_>,
    given: &GivenRow,
    role: Role,
) -> Result<(BTreeSet<Attribute>, Option<Policy>), Error> {
    let group = given.group.as_deref().map(|name| group_named(tx, name)).transpose()?;
    let profile = profile_of(tx, given)?;
    let shared = group.iter().flat_map(|group| group.attributes.iter());
    let shared = shared.chain(profile.iter().flat_map(|profile| profile.attributes.iter()));
    let attributes = given.attributes.iter().chain(shared).cloned().collect();
    // A bridge has attributes, and no keys that could carry a policy.
    let shared = profile.and_then(|profile| profile.policy).filter(|_| role == Role::Device);
    Ok((attributes, given.policy.clone().or(shared)))
}

/// What whoever enrols with this token is given.
pub(super) fn given_by(tx: &Tx<'_>, token: &TokenRow) -> Result<GivenRow, Error> {
    let (profile, group) = tx.token_given(&token.id)?;
    Ok(GivenRow { attributes: token.attributes.clone(), policy: token.policy.clone(), profile, group })
}

/// The profile and the group of whoever was given this, as the audit log names them.
pub(super) fn named(given: &GivenRow) -> String {
    let profile = given.profile.as_ref().map_or(String::new(), |name| format!(" profile {name}"));
    let group = given.group.as_ref().map_or(String::new(), |name| format!(" group {name}"));
    profile + &group
}

/// The profile of whoever was given this: its own one, or that of its group.
pub(super) fn profile_of(tx: &Tx<'_>, given: &GivenRow) -> Result<Option<ProfileRow>, Error> {
    let of_group = match (&given.profile, &given.group) {
        (None, Some(name)) => group_named(tx, name)?.profile,
        _ => None,
    };
    let name = given.profile.as_ref().or(of_group.as_ref());
    name.map(|name| profile_named(tx, name)).transpose()
}

pub(super) fn profile_named(tx: &Tx<'_>, name: &str) -> Result<ProfileRow, Error> {
    let none = || Error::NoSuchProfile { name: name.chars().take(64).collect() };
    tx.profile(name)?.ok_or_else(none)
}

pub(super) fn group_named(tx: &Tx<'_>, name: &str) -> Result<GroupRow, Error> {
    let none = || Error::NoSuchGroup { name: name.chars().take(64).collect() };
    tx.group(name)?.ok_or_else(none)
}

fn unchanged(tx: &Tx<'_>) -> Result<TemplateSet, Error> {
    Ok(TemplateSet { changed: 0, raised: Vec::new(), bundle: tx.counter("bundle")? })
}

fn profile(row: ProfileRow) -> Profile {
    Profile {
        name: row.name,
        attributes: texts(&row.attributes),
        policy: row.policy.as_ref().map(ToString::to_string),
        certificate_days: row.certificate_days,
        token_ttl_seconds: row.token_ttl_seconds,
        filters: row.filters,
    }
}

fn group(row: GroupRow) -> Group {
    Group { name: row.name, profile: row.profile, attributes: texts(&row.attributes) }
}
