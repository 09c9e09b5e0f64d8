//! Devices, brokers and administrators, and their certificates.

use rusqlite::{OptionalExtension, Row, params};
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::policy::Policy;

use super::{Result, StoreError, Tx, attributes, list, list_to_text, optional_list, policy, role};
use crate::pki::Issued;
use crate::store::Deed;

/// A device, a broker or an administrator.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRow {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The serial it enrolled with.
    pub(crate) serial: Option<String>,
    pub(crate) attributes: Attributes,
    /// Of its key-policy keys.
    pub(crate) policy: Option<Policy>,
    /// What it has by these is in its attributes and its policy. Read, never written from here.
    pub(crate) profile: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) hpke_key: Vec<u8>,
    pub(crate) enrolled: u64,
    pub(crate) certificate_expires: u64,
    /// Set by the store whenever the row changes.
    pub(crate) revision: u64,
    pub(crate) suspension: Option<RevocationRow>,
    pub(crate) revocation: Option<RevocationRow>,
    /// Whether the revocation was to make room for the same device anew.
    pub(crate) is_reset: bool,
}

/// What a revocation or a suspension did.
#[derive(Clone, Debug)]
pub(crate) struct RevocationRow {
    pub(crate) at: u64,
    pub(crate) raised: Vec<String>,
    pub(crate) bundle: u64,
}

const DEVICE: &str = "id, name, role, attributes, hosts, hpke_key, enrolled, certificate_expires, revision, \
                      revoked, raised, bundle, policy, suspended, reset, serial, \
                      (SELECT profile FROM device_given WHERE device = devices.id), \
                      (SELECT member_of FROM device_given WHERE device = devices.id)";

impl Tx<'_> {
    pub(crate) fn insert_device(&self, device: &DeviceRow) -> Result<()> {
        let sql = "INSERT INTO devices (id, name, role, attributes, hosts, hpke_key, enrolled, \
                   certificate_expires, revision, policy, serial) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![
            device.id.0,
            device.name,
            device.role.name(),
            device.attributes.encode(),
            list_to_text(&device.hosts),
            device.hpke_key,
            device.enrolled,
            device.certificate_expires,
            self.bump("revision")?,
            device.policy.as_ref().map(Policy::encode),
            device.serial,
        ])?;
        Ok(())
    }

    pub(crate) fn device(&self, id: DeviceId) -> Result<Option<DeviceRow>> {
        self.one_device("id = ?", id.0)
    }

    /// The device of this name that was not revoked.
    pub(crate) fn active_device(&self, name: &str) -> Result<Option<DeviceRow>> {
        self.one_device("name = ? AND revoked IS NULL", name)
    }

    /// The device of this name that was revoked last.
    pub(crate) fn revoked_device(&self, name: &str) -> Result<Option<DeviceRow>> {
        self.one_device("name = ? AND revoked IS NOT NULL ORDER BY revoked DESC, revision DESC LIMIT 1", name)
    }

    fn one_device(&self, which: &str, value: impl rusqlite::ToSql) -> Result<Option<DeviceRow>> {
        let sql = format!("SELECT {DEVICE} FROM devices WHERE {which}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([value])?;
        rows.next()?.map(device_row).transpose()
    }

    /// Devices that changed after `revision`, the earliest change first.
    pub(crate) fn devices_after(&self, revision: u64, max: usize) -> Result<Vec<DeviceRow>> {
        let sql = format!("SELECT {DEVICE} FROM devices WHERE revision > ? ORDER BY revision LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![revision, max])?;
        let mut devices = Vec::new();
        while let Some(row) = rows.next()? {
            devices.push(device_row(row)?);
        }
        Ok(devices)
    }

    /// Devices after identifier `after`, sorted by it.
    pub(crate) fn devices(&self, after: &[u8], max: usize) -> Result<Vec<DeviceRow>> {
        let sql = format!("SELECT {DEVICE} FROM devices WHERE id > ? ORDER BY id LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, max])?;
        let mut devices = Vec::new();
        while let Some(row) = rows.next()? {
            devices.push(device_row(row)?);
        }
        Ok(devices)
    }

    /// The attributes of every active device, and of every token that can still be used.
    pub(crate) fn attributes_in_use(&self, now: u64) -> Result<Vec<Attributes>> {
        let sql = "SELECT DISTINCT attributes FROM devices WHERE revoked IS NULL AND role = 'device' \
                   UNION SELECT attributes FROM profiles UNION SELECT attributes FROM device_groups \
                   UNION SELECT DISTINCT attributes FROM tokens \
                   WHERE used < uses_max AND removed IS NULL AND expires > ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([now])?;
        let mut sets = Vec::new();
        while let Some(row) = rows.next()? {
            sets.push(attributes(row, 0)?);
        }
        Ok(sets)
    }

    /// The policies of the keys of every active device, and of every token that can still be used.
    pub(crate) fn policies_in_use(&self, now: u64) -> Result<Vec<Policy>> {
        let sql = "SELECT policy FROM devices WHERE revoked IS NULL AND policy IS NOT NULL \
                   UNION SELECT policy FROM profiles WHERE policy IS NOT NULL \
                   UNION SELECT policy FROM tokens \
                   WHERE used < uses_max AND removed IS NULL AND expires > ? AND policy IS NOT NULL";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([now])?;
        let mut policies = Vec::new();
        while let Some(row) = rows.next()? {
            policies.extend(policy(row, 0)?);
        }
        Ok(policies)
    }

    pub(crate) fn renew_device(&self, id: DeviceId, hpke_key: &[u8], certificate_expires: u64) -> Result<()> {
        let sql = "UPDATE devices SET hpke_key = ?, certificate_expires = ?, revision = ? WHERE id = ?";
        let revision = self.bump("revision")?;
        self.connection.prepare_cached(sql)?.execute(params![
            hpke_key,
            certificate_expires,
            revision,
            id.0
        ])?;
        Ok(())
    }

    pub(crate) fn revoke_device(&self, id: DeviceId, at: u64) -> Result<()> {
        if let Some(device) = self.device(id)? {
            self.write_down(Deed::Revoked { id, role: device.role, name: device.name });
        }
        let sql = "UPDATE devices SET revoked = ?, revision = ? WHERE id = ? AND revoked IS NULL";
        let revision = self.bump("revision")?;
        self.connection.prepare_cached(sql)?.execute(params![at, revision, id.0])?;
        Ok(())
    }

    /// Says that the revocation was to make room for the same device anew, and when a token for that was made.
    pub(crate) fn set_reset(&self, id: DeviceId, at: u64) -> Result<()> {
        self.connection
            .prepare_cached("UPDATE devices SET reset = ? WHERE id = ?")?
            .execute(params![at, id.0])?;
        Ok(())
    }

    pub(crate) fn suspend_device(&self, id: DeviceId, at: u64) -> Result<()> {
        if let Some(device) = self.device(id)? {
            self.write_down(Deed::Suspended { id, role: device.role, name: device.name });
        }
        let sql = "UPDATE devices SET suspended = ?, revision = ? WHERE id = ?";
        let revision = self.bump("revision")?;
        self.connection.prepare_cached(sql)?.execute(params![at, revision, id.0])?;
        Ok(())
    }

    pub(crate) fn resume_device(&self, id: DeviceId) -> Result<()> {
        self.write_down(Deed::Resumed { id });
        let sql =
            "UPDATE devices SET suspended = NULL, raised = NULL, bundle = NULL, revision = ? WHERE id = ?";
        let revision = self.bump("revision")?;
        self.connection.prepare_cached(sql)?.execute(params![revision, id.0])?;
        Ok(())
    }

    /// Gives a device these attributes and this policy.
    pub(crate) fn set_attributes(
        &self,
        id: DeviceId,
        attributes: &Attributes,
        policy: Option<&Policy>,
    ) -> Result<()> {
        let (given, policy_given) = (attributes.clone(), policy.cloned());
        self.write_down(Deed::Changed { id, attributes: given, policy: policy_given });
        let sql = "UPDATE devices SET attributes = ?, policy = ?, revision = ? WHERE id = ?";
        let revision = self.bump("revision")?;
        let policy = policy.map(Policy::encode);
        self.connection.prepare_cached(sql)?.execute(params![attributes.encode(), policy, revision, id.0])?;
        Ok(())
    }

    /// Keeps what a revocation or a suspension did.
    pub(crate) fn set_revocation(&self, id: DeviceId, raised: &[String], bundle: u64) -> Result<()> {
        let sql = "UPDATE devices SET raised = ?, bundle = ? WHERE id = ?";
        self.connection.prepare_cached(sql)?.execute(params![list_to_text(raised), bundle, id.0])?;
        Ok(())
    }

    /// Everyone who was revoked or is suspended, sorted; administrators, who seal nothing, left out.
    pub(crate) fn revoked_ids(&self) -> Result<Vec<DeviceId>> {
        let sql = "SELECT id FROM devices WHERE revoked IS NOT NULL \
                   UNION SELECT id FROM devices WHERE suspended IS NOT NULL ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map([], |row| row.get(0).map(DeviceId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn insert_certificate(&self, device: DeviceId, key: &[u8], issued: &Issued) -> Result<()> {
        let sql =
            "INSERT INTO certificates (serial, device, public_key, der, not_after) VALUES (?, ?, ?, ?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![
            issued.serial,
            device.0,
            key,
            issued.der,
            issued.not_after
        ])?;
        Ok(())
    }

    /// The newest certificate of a device for this key.
    pub(crate) fn certificate(&self, device: DeviceId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT der FROM certificates WHERE device = ? AND public_key = ? \
                   ORDER BY not_after DESC LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![device.0, key], |row| row.get(0)).optional()?)
    }
}

fn device_row(row: &Row<'_>) -> Result<DeviceRow> {
    let act = |column| match row.get::<_, Option<u64>>(column)? {
        None => Ok::<_, StoreError>(None),
        Some(at) => Ok(Some(RevocationRow {
            at,
            raised: optional_list(row, 10)?,
            bundle: row.get::<_, Option<u64>>(11)?.unwrap_or(0),
        })),
    };
    Ok(DeviceRow {
        id: DeviceId(row.get(0)?),
        name: row.get(1)?,
        role: role(row, 2)?,
        serial: row.get(15)?,
        attributes: attributes(row, 3)?,
        policy: policy(row, 12)?,
        profile: row.get(16)?,
        group: row.get(17)?,
        hosts: list(row, 4)?,
        hpke_key: row.get(5)?,
        enrolled: row.get(6)?,
        certificate_expires: row.get(7)?,
        revision: row.get(8)?,
        suspension: act(13)?,
        revocation: act(9)?,
        is_reset: row.get::<_, Option<u64>>(14)?.is_some(),
    })
}
