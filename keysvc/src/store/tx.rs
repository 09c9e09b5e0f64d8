//! What can be asked of the store and changed in it, within one transaction.

use std::cell::RefCell;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use smqtt_core::attribute::{Attribute, Attributes, Versions};
use smqtt_core::bundle::Epoch;
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::policy::Policy;

use super::StoreError;
use crate::pki::Issued;

type Result<T> = std::result::Result<T, StoreError>;
type Hook = Box<dyn FnOnce() + Send>;

/// A transaction.
pub(crate) struct Tx<'c> {
    connection: &'c Connection,
    after_commit: RefCell<Vec<Hook>>,
}

/// A device, a broker or an administrator.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRow {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attributes: Attributes,
    /// Of its key-policy keys.
    pub(crate) policy: Option<Policy>,
    pub(crate) hosts: Vec<String>,
    pub(crate) hpke_key: Vec<u8>,
    pub(crate) enrolled: u64,
    pub(crate) certificate_expires: u64,
    /// Set by the store whenever the row changes.
    pub(crate) revision: u64,
    pub(crate) revocation: Option<RevocationRow>,
}

/// What a revocation did.
#[derive(Clone, Debug)]
pub(crate) struct RevocationRow {
    pub(crate) at: u64,
    pub(crate) raised: Vec<String>,
    pub(crate) bundle: u64,
}

/// A token: everything but its secret.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) id: [u8; 16],
    pub(crate) secret_hash: [u8; 32],
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attributes: Attributes,
    /// Of its key-policy keys.
    pub(crate) policy: Option<Policy>,
    pub(crate) hosts: Vec<String>,
    pub(crate) expires: u64,
    pub(crate) used: Option<Used>,
}

/// Who used a token.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    pub(crate) device: DeviceId,
    pub(crate) public_key: Vec<u8>,
    pub(crate) hpke_key: Vec<u8>,
}

/// A rule, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleRow {
    pub(crate) filter: String,
    pub(crate) mode: String,
    pub(crate) policy: Option<String>,
    pub(crate) labels: Option<String>,
    pub(crate) publishers: Option<String>,
    pub(crate) subscribers: Option<String>,
}

/// An epoch.
#[derive(Clone, Debug)]
pub(crate) struct EpochRow {
    pub(crate) epoch: Epoch,
    /// As they were at its end; `None` for the current epoch.
    pub(crate) versions: Option<Versions>,
}

/// A line of the audit log.
#[derive(Clone, Debug)]
pub(crate) struct AuditRow {
    pub(crate) number: u64,
    pub(crate) at: u64,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) hash: [u8; 32],
}

const DEVICE: &str = "id, name, role, attributes, hosts, hpke_key, enrolled, certificate_expires, revision, \
                      revoked, raised, bundle, policy";

impl<'c> Tx<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, after_commit: RefCell::default() }
    }

    /// Runs `hook` when this transaction is on disk, before anyone is answered, in the order of commits.
    pub(crate) fn after_commit(&self, hook: impl FnOnce() + Send + 'static) {
        self.after_commit.borrow_mut().push(Box::new(hook));
    }

    pub(super) fn take_after_commit(&self) -> Vec<Hook> {
        self.after_commit.take()
    }

    // Counters and documents

    /// The value of a counter.
    pub(crate) fn counter(&self, name: &'static str) -> Result<u64> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM counters WHERE name = ?")?;
        Ok(statement.query_row([name], |row| row.get(0))?)
    }

    /// Raises a counter by one and gives its value.
    pub(crate) fn bump(&self, name: &'static str) -> Result<u64> {
        let sql = "UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value";
        Ok(self.connection.prepare_cached(sql)?.query_row([name], |row| row.get(0))?)
    }

    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached("SELECT bytes FROM documents WHERE name = ?")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    pub(crate) fn set_document(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let sql = "INSERT INTO documents VALUES (?1, ?2) ON CONFLICT DO UPDATE SET bytes = ?2";
        self.connection.prepare_cached(sql)?.execute(params![name, bytes])?;
        Ok(())
    }

    // Devices

    pub(crate) fn insert_device(&self, device: &DeviceRow) -> Result<()> {
        let sql = "INSERT INTO devices (id, name, role, attributes, hosts, hpke_key, enrolled, \
                   certificate_expires, revision, policy) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
        ])?;
        Ok(())
    }

    pub(crate) fn device(&self, id: DeviceId) -> Result<Option<DeviceRow>> {
        self.one_device("id = ?", id.0)
    }

    /// The active device of this name.
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
    pub(crate) fn devices(&self, after: DeviceId, max: usize) -> Result<Vec<DeviceRow>> {
        let sql = format!("SELECT {DEVICE} FROM devices WHERE id > ? ORDER BY id LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after.0, max])?;
        let mut devices = Vec::new();
        while let Some(row) = rows.next()? {
            devices.push(device_row(row)?);
        }
        Ok(devices)
    }

    /// The attributes of every active device, and of every token that can still be used.
    pub(crate) fn attributes_in_use(&self, now: u64) -> Result<Vec<Attributes>> {
        let sql = "SELECT DISTINCT attributes FROM devices WHERE revoked IS NULL AND role = 'device' \
                   UNION SELECT DISTINCT attributes FROM tokens WHERE device IS NULL AND expires > ?";
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
                   UNION SELECT policy FROM tokens \
                   WHERE device IS NULL AND expires > ? AND policy IS NOT NULL";
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
        let sql = "UPDATE devices SET revoked = ?, revision = ? WHERE id = ? AND revoked IS NULL";
        let revision = self.bump("revision")?;
        self.connection.prepare_cached(sql)?.execute(params![at, revision, id.0])?;
        Ok(())
    }

    /// Keeps what a revocation did.
    pub(crate) fn set_revocation(&self, id: DeviceId, raised: &[String], bundle: u64) -> Result<()> {
        let sql = "UPDATE devices SET raised = ?, bundle = ? WHERE id = ?";
        self.connection.prepare_cached(sql)?.execute(params![list_to_text(raised), bundle, id.0])?;
        Ok(())
    }

    /// Everyone who was revoked, sorted; administrators, who seal nothing, left out.
    pub(crate) fn revoked_ids(&self) -> Result<Vec<DeviceId>> {
        let sql = "SELECT id FROM devices WHERE revoked IS NOT NULL ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map([], |row| row.get(0).map(DeviceId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    // Certificates

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

    /// Forgets certificates and tokens that ended before `before`; an administrator's files may be older.
    pub(crate) fn forget_before(&self, before: u64) -> Result<usize> {
        let forget = |sql| Ok::<_, StoreError>(self.connection.prepare_cached(sql)?.execute([before])?);
        Ok(forget(
            "DELETE FROM certificates WHERE not_after < ? \
             AND device NOT IN (SELECT id FROM devices WHERE role = 'admin')",
        )? + forget("DELETE FROM tokens WHERE expires < ?")?)
    }

    // Tokens

    pub(crate) fn insert_token(&self, token: &TokenRow) -> Result<()> {
        let sql = "INSERT INTO tokens (id, secret_hash, name, role, attributes, hosts, expires, policy) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![
            token.id,
            token.secret_hash,
            token.name,
            token.role.name(),
            token.attributes.encode(),
            list_to_text(&token.hosts),
            token.expires,
            token.policy.as_ref().map(Policy::encode),
        ])?;
        Ok(())
    }

    pub(crate) fn token(&self, id: &[u8; 16]) -> Result<Option<TokenRow>> {
        let sql = "SELECT id, secret_hash, name, role, attributes, hosts, expires, device, public_key, \
                   hpke_key, policy FROM tokens WHERE id = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let used = match row.get::<_, Option<[u8; 16]>>(7)? {
            None => None,
            Some(device) => {
                Some(Used { device: DeviceId(device), public_key: row.get(8)?, hpke_key: row.get(9)? })
            }
        };
        Ok(Some(TokenRow {
            id: row.get(0)?,
            secret_hash: row.get(1)?,
            name: row.get(2)?,
            role: role(row, 3)?,
            attributes: attributes(row, 4)?,
            policy: policy(row, 10)?,
            hosts: list(row, 5)?,
            expires: row.get(6)?,
            used,
        }))
    }

    /// Marks a token as used, if nobody did so before: the one place where that is decided.
    pub(crate) fn use_token(&self, id: &[u8; 16], used: &Used) -> Result<bool> {
        let sql =
            "UPDATE tokens SET device = ?, public_key = ?, hpke_key = ? WHERE id = ? AND device IS NULL";
        let changed = self.connection.prepare_cached(sql)?.execute(params![
            used.device.0,
            used.public_key,
            used.hpke_key,
            id
        ])?;
        Ok(changed == 1)
    }

    // Rules

    pub(crate) fn rules(&self) -> Result<Vec<RuleRow>> {
        let sql = "SELECT filter, mode, policy, labels, publishers, subscribers FROM rules ORDER BY filter";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rules = statement.query_map([], |row| {
            Ok(RuleRow {
                filter: row.get(0)?,
                mode: row.get(1)?,
                policy: row.get(2)?,
                labels: row.get(3)?,
                publishers: row.get(4)?,
                subscribers: row.get(5)?,
            })
        })?;
        Ok(rules.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn set_rule(&self, rule: &RuleRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO rules (filter, mode, policy, labels, publishers, subscribers) \
                   VALUES (?, ?, ?, ?, ?, ?)";
        let RuleRow { filter, mode, policy, labels, publishers, subscribers } = rule;
        self.connection.prepare_cached(sql)?.execute(params![
            filter,
            mode,
            policy,
            labels,
            publishers,
            subscribers
        ])?;
        Ok(())
    }

    /// Whether there was one.
    pub(crate) fn delete_rule(&self, filter: &str) -> Result<bool> {
        Ok(self.connection.prepare_cached("DELETE FROM rules WHERE filter = ?")?.execute([filter])? > 0)
    }

    // Versions and epochs

    pub(crate) fn versions(&self) -> Result<Versions> {
        let mut statement = self.connection.prepare_cached("SELECT attribute, version FROM versions")?;
        let mut rows = statement.query([])?;
        let mut versions = Versions::default();
        while let Some(row) = rows.next()? {
            let corrupt = |_| StoreError::Corrupt("versions");
            let attribute = Attribute::decode(&row.get::<_, Vec<u8>>(0)?).map_err(corrupt)?;
            versions.set(&attribute, row.get(1)?).map_err(corrupt)?;
        }
        Ok(versions)
    }

    pub(crate) fn set_version(&self, attribute: &Attribute, version: u32) -> Result<()> {
        let sql = "INSERT INTO versions VALUES (?1, ?2) ON CONFLICT DO UPDATE SET version = ?2";
        self.connection.prepare_cached(sql)?.execute(params![attribute.version_key().encode(), version])?;
        Ok(())
    }

    /// Epochs from number `from` on, oldest first.
    pub(crate) fn epochs(&self, from: u64) -> Result<Vec<EpochRow>> {
        let sql = "SELECT number, begins, ends, versions FROM epochs WHERE number >= ? ORDER BY number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([from])?;
        let mut epochs = Vec::new();
        while let Some(row) = rows.next()? {
            let versions =
                row.get::<_, Option<Vec<u8>>>(3)?.map(|bytes| Versions::decode(&bytes)).transpose();
            epochs.push(EpochRow {
                epoch: Epoch { number: row.get(0)?, begins: row.get(1)?, ends: row.get(2)? },
                versions: versions.map_err(|_| StoreError::Corrupt("epochs"))?,
            });
        }
        Ok(epochs)
    }

    pub(crate) fn current_epoch(&self) -> Result<Epoch> {
        let sql = "SELECT number, begins, ends FROM epochs ORDER BY number DESC LIMIT 1";
        let epoch = |row: &Row<'_>| Ok(Epoch { number: row.get(0)?, begins: row.get(1)?, ends: row.get(2)? });
        Ok(self.connection.prepare_cached(sql)?.query_row([], epoch)?)
    }

    /// Ends the current epoch, keeping its versions, begins `next`, and forgets epochs before `keep_from`.
    pub(crate) fn begin_epoch(&self, next: Epoch, versions: &Versions, keep_from: u64) -> Result<()> {
        let run = |sql, params: &[&dyn rusqlite::ToSql]| {
            Ok::<_, StoreError>(self.connection.prepare_cached(sql)?.execute(params)?)
        };
        run("UPDATE epochs SET versions = ? WHERE versions IS NULL", params![versions.encode()])?;
        let sql = "INSERT INTO epochs (number, begins, ends) VALUES (?, ?, ?)";
        run(sql, params![next.number, next.begins, next.ends])?;
        run("DELETE FROM epochs WHERE number < ?", params![keep_from])?;
        Ok(())
    }

    // Audit

    pub(crate) fn last_audit(&self) -> Result<Option<(u64, [u8; 32])>> {
        let sql = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    pub(crate) fn append_audit(&self, row: &AuditRow) -> Result<()> {
        let sql = "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)";
        let AuditRow { number, at, actor, action, subject, hash } = row;
        self.connection.prepare_cached(sql)?.execute(params![number, at, actor, action, subject, hash])?;
        Ok(())
    }

    pub(crate) fn audit_after(&self, number: u64, max: usize) -> Result<Vec<AuditRow>> {
        let sql = "SELECT number, at, actor, action, subject, hash FROM audit WHERE number > ? \
                   ORDER BY number LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![number, max], |row| {
            Ok(AuditRow {
                number: row.get(0)?,
                at: row.get(1)?,
                actor: row.get(2)?,
                action: row.get(3)?,
                subject: row.get(4)?,
                hash: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn device_row(row: &Row<'_>) -> Result<DeviceRow> {
    let revocation = match row.get::<_, Option<u64>>(9)? {
        None => None,
        Some(at) => Some(RevocationRow {
            at,
            raised: optional_list(row, 10)?,
            bundle: row.get::<_, Option<u64>>(11)?.unwrap_or(0),
        }),
    };
    Ok(DeviceRow {
        id: DeviceId(row.get(0)?),
        name: row.get(1)?,
        role: role(row, 2)?,
        attributes: attributes(row, 3)?,
        policy: policy(row, 12)?,
        hosts: list(row, 4)?,
        hpke_key: row.get(5)?,
        enrolled: row.get(6)?,
        certificate_expires: row.get(7)?,
        revision: row.get(8)?,
        revocation,
    })
}

fn role(row: &Row<'_>, column: usize) -> Result<Role> {
    Role::from_name(&row.get::<_, String>(column)?).ok_or(StoreError::Corrupt("role"))
}

fn attributes(row: &Row<'_>, column: usize) -> Result<Attributes> {
    Attributes::decode(&row.get::<_, Vec<u8>>(column)?).map_err(|_| StoreError::Corrupt("attributes"))
}

fn policy(row: &Row<'_>, column: usize) -> Result<Option<Policy>> {
    let bytes = row.get::<_, Option<Vec<u8>>>(column)?;
    bytes.map(|bytes| Policy::decode(&bytes)).transpose().map_err(|_| StoreError::Corrupt("policy"))
}

fn list(row: &Row<'_>, column: usize) -> Result<Vec<String>> {
    list_from_text(&get::<String>(row, column)?)
}

fn optional_list(row: &Row<'_>, column: usize) -> Result<Vec<String>> {
    get::<Option<String>>(row, column)?.map_or(Ok(Vec::new()), |text| list_from_text(&text))
}

fn get<T: FromSql>(row: &Row<'_>, column: usize) -> Result<T> {
    Ok(row.get(column)?)
}

fn list_to_text(list: &[String]) -> String {
    serde_json::to_string(list).expect("strings are JSON")
}

fn list_from_text(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt("list"))
}
