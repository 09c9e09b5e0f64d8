//! Enrolment tokens.

use rusqlite::params;
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::policy::Policy;

use super::{Result, Tx, attributes, list, list_to_text, policy, role};

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

impl Tx<'_> {
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

    /// Takes back the tokens for this name that nobody used.
    pub(crate) fn delete_unused_tokens(&self, name: &str) -> Result<usize> {
        let sql = "DELETE FROM tokens WHERE name = ? AND device IS NULL";
        Ok(self.connection.prepare_cached(sql)?.execute([name])?)
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
}
