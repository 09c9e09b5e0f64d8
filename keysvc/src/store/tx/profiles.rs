//! Profiles and groups, and who has them.

use rusqlite::{OptionalExtension, Row, params};
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::DeviceId;
use smqtt_core::policy::Policy;

use super::{DeviceRow, Result, Tx, attributes, list, list_to_text, policy};
use crate::store::Deed;

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProfileRow {
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
    pub(crate) policy: Option<Policy>,
    pub(crate) certificate_days: Option<u64>,
    pub(crate) token_ttl_seconds: Option<u64>,
    pub(crate) filters: Vec<String>,
}

/// A group of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) name: String,
    pub(crate) profile: Option<String>,
    pub(crate) attributes: Attributes,
}

/// What a device was given, as opposed to what it has in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenRow {
    pub(crate) attributes: Attributes,
    pub(crate) policy: Option<Policy>,
    pub(crate) profile: Option<String>,
    pub(crate) group: Option<String>,
}

const PROFILE: &str = "name, attributes, policy, certificate_days, token_ttl_seconds, filters";
/// Devices of a profile, directly or by their group.
const OF_PROFILE: &str = "profile = ?1 OR (profile IS NULL AND member_of IN \
                          (SELECT name FROM device_groups WHERE profile = ?1))";

impl Tx<'_> {
    pub(crate) fn profile(&self, name: &str) -> Result<Option<ProfileRow>> {
        let sql = format!("SELECT {PROFILE} FROM profiles WHERE name = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([name])?;
        rows.next()?.map(profile_row).transpose()
    }

    pub(crate) fn profiles(&self) -> Result<Vec<ProfileRow>> {
        let sql = format!("SELECT {PROFILE} FROM profiles ORDER BY name");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let mut profiles = Vec::new();
        while let Some(row) = rows.next()? {
            profiles.push(profile_row(row)?);
        }
        Ok(profiles)
    }

    pub(crate) fn set_profile(&self, profile: &ProfileRow) -> Result<()> {
        self.write_down(Deed::Profile { name: profile.name.clone(), profile: Some(profile.clone()) });
        let sql = format!(
            "INSERT INTO profiles ({PROFILE}) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET \
             attributes = ?2, policy = ?3, certificate_days = ?4, token_ttl_seconds = ?5, filters = ?6"
        );
        self.connection.prepare_cached(&sql)?.execute(params![
            profile.name,
            profile.attributes.encode(),
            profile.policy.as_ref().map(Policy::encode),
            profile.certificate_days,
            profile.token_ttl_seconds,
            list_to_text(&profile.filters),
        ])?;
        Ok(())
    }

    pub(crate) fn delete_profile(&self, name: &str) -> Result<()> {
        self.write_down(Deed::Profile { name: name.to_owned(), profile: None });
        self.connection.prepare_cached("DELETE FROM profiles WHERE name = ?")?.execute([name])?;
        Ok(())
    }

    pub(crate) fn group(&self, name: &str) -> Result<Option<GroupRow>> {
        let sql = "SELECT name, profile, attributes FROM device_groups WHERE name = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([name])?;
        rows.next()?.map(group_row).transpose()
    }

    pub(crate) fn groups(&self) -> Result<Vec<GroupRow>> {
        let sql = "SELECT name, profile, attributes FROM device_groups ORDER BY name";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut groups = Vec::new();
        while let Some(row) = rows.next()? {
            groups.push(group_row(row)?);
        }
        Ok(groups)
    }

    pub(crate) fn set_group(&self, group: &GroupRow) -> Result<()> {
        self.write_down(Deed::Group { name: group.name.clone(), group: Some(group.clone()) });
        let sql = "INSERT INTO device_groups VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET profile = ?2, attributes = ?3";
        let values = params![group.name, group.profile, group.attributes.encode()];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    pub(crate) fn delete_group(&self, name: &str) -> Result<()> {
        self.write_down(Deed::Group { name: name.to_owned(), group: None });
        self.connection.prepare_cached("DELETE FROM device_groups WHERE name = ?")?.execute([name])?;
        Ok(())
    }

    /// What names this profile: devices, groups, tokens. Those of devices that were revoked are let go first.
    pub(crate) fn profile_users(&self, name: &str) -> Result<u64> {
        self.forget_revoked()?;
        let sql = "SELECT (SELECT count(*) FROM device_given WHERE profile = ?1) \
                   + (SELECT count(*) FROM device_groups WHERE profile = ?1) \
                   + (SELECT count(*) FROM token_given WHERE profile = ?1)";
        Ok(self.connection.prepare_cached(sql)?.query_row([name], |row| row.get(0))?)
    }

    /// The same of a group.
    pub(crate) fn group_users(&self, name: &str) -> Result<u64> {
        self.forget_revoked()?;
        let sql = "SELECT (SELECT count(*) FROM device_given WHERE member_of = ?1) \
                   + (SELECT count(*) FROM token_given WHERE member_of = ?1)";
        Ok(self.connection.prepare_cached(sql)?.query_row([name], |row| row.get(0))?)
    }

    fn forget_revoked(&self) -> Result<()> {
        // What a device had that was reset is what the next one of its name will have, until there is one.
        let sql = "DELETE FROM device_given WHERE device IN (SELECT id FROM devices AS old \
                   WHERE revoked IS NOT NULL AND (reset IS NULL OR EXISTS (SELECT 1 FROM devices \
                   WHERE name = old.name AND id <> old.id AND enrolled >= old.revoked)))";
        self.connection.prepare_cached(sql)?.execute([])?;
        // Who waits for approval has used a token, and will have what it gives.
        let sql = "DELETE FROM token_given WHERE token IN (SELECT id FROM tokens WHERE removed IS NOT NULL \
                   OR (used >= uses_max AND NOT EXISTS (SELECT 1 FROM token_uses \
                   WHERE token = tokens.id AND device IS NULL AND denied IS NULL)))";
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Devices that were not revoked and have this profile.
    pub(crate) fn devices_of_profile(&self, name: &str) -> Result<Vec<DeviceRow>> {
        self.devices_where(&format!("SELECT device FROM device_given WHERE {OF_PROFILE}"), name)
    }

    /// Devices that were not revoked and are in this group.
    pub(crate) fn devices_of_group(&self, name: &str) -> Result<Vec<DeviceRow>> {
        self.devices_where("SELECT device FROM device_given WHERE member_of = ?1", name)
    }

    fn devices_where(&self, sql: &str, name: &str) -> Result<Vec<DeviceRow>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map([name], |row| row.get(0).map(DeviceId))?;
        let ids: Vec<DeviceId> = ids.collect::<rusqlite::Result<_>>()?;
        let mut devices = Vec::new();
        for id in ids {
            devices.extend(self.device(id)?.filter(|device| device.revocation.is_none()));
        }
        Ok(devices)
    }

    /// What a device was given itself: all that it has, if it has neither profile nor group.
    pub(crate) fn given(&self, device: &DeviceRow) -> Result<GivenRow> {
        let sql = "SELECT attributes, policy, profile, member_of FROM device_given WHERE device = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([device.id.0])?;
        match rows.next()? {
            Some(row) => Ok(GivenRow {
                attributes: attributes(row, 0)?,
                policy: policy(row, 1)?,
                profile: row.get(2)?,
                group: row.get(3)?,
            }),
            None => Ok(GivenRow {
                attributes: device.attributes.clone(),
                policy: device.policy.clone(),
                ..GivenRow::default()
            }),
        }
    }

    /// Gives a device that there was something else: what it has in all has to follow.
    pub(crate) fn change_given(&self, device: DeviceId, given: &GivenRow) -> Result<()> {
        self.write_down(Deed::Given { id: device, given: given.clone() });
        self.set_given(device, given)
    }

    /// Notes what a device was given that is new: whoever forgets it has forgotten the device as well.
    pub(crate) fn set_given(&self, device: DeviceId, given: &GivenRow) -> Result<()> {
        if given.profile.is_none() && given.group.is_none() {
            let sql = "DELETE FROM device_given WHERE device = ?";
            self.connection.prepare_cached(sql)?.execute([device.0])?;
            return Ok(());
        }
        let sql = "INSERT OR REPLACE INTO device_given VALUES (?, ?, ?, ?, ?)";
        let policy = given.policy.as_ref().map(Policy::encode);
        let values = params![device.0, given.attributes.encode(), policy, given.profile, given.group];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// The profile and the group of whoever enrols with a token.
    pub(crate) fn token_given(&self, token: &[u8; 16]) -> Result<(Option<String>, Option<String>)> {
        let sql = "SELECT profile, member_of FROM token_given WHERE token = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row([token], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        Ok(found.unwrap_or_default())
    }

    pub(crate) fn set_token_given(
        &self,
        token: &[u8; 16],
        profile: Option<&str>,
        group: Option<&str>,
    ) -> Result<()> {
        if profile.is_some() || group.is_some() {
            let sql = "INSERT INTO token_given VALUES (?, ?, ?)";
            self.connection.prepare_cached(sql)?.execute(params![token, profile, group])?;
        }
        Ok(())
    }
}

fn profile_row(row: &Row<'_>) -> Result<ProfileRow> {
    Ok(ProfileRow {
        name: row.get(0)?,
        attributes: attributes(row, 1)?,
        policy: policy(row, 2)?,
        certificate_days: row.get(3)?,
        token_ttl_seconds: row.get(4)?,
        filters: list(row, 5)?,
    })
}

fn group_row(row: &Row<'_>) -> Result<GroupRow> {
    Ok(GroupRow { name: row.get(0)?, profile: row.get(1)?, attributes: attributes(row, 2)? })
}
