//! What a store goes through that is older than what others have seen of it.

use rusqlite::params;
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::{DeviceId, Role};

use super::{Result, Tx, list_to_text};
use crate::store::Deed;

/// How far numbers jump: further than anybody can have seen them rise meanwhile.
const JUMP: u64 = 1 << 32;

impl Tx<'_> {
    /// Lifts the numbers of bundles and of changes to devices above all that anybody has seen.
    pub(crate) fn jump(&self) -> Result<()> {
        self.connection.execute("UPDATE counters SET value = value + ? WHERE name = 'bundle'", [JUMP])?;
        self.connection.execute("UPDATE counters SET value = value + ? WHERE name = 'revision'", [JUMP])?;
        self.connection.execute("UPDATE devices SET revision = revision + ?", [JUMP])?;
        Ok(())
    }

    /// Adds somebody of whom nothing is known but that they were revoked.
    pub(crate) fn insert_revoked(&self, id: DeviceId, role: Role, name: &str, at: u64) -> Result<()> {
        self.write_down(Deed::Revoked { id, role, name: name.to_owned() });
        let sql = "INSERT INTO devices (id, name, role, attributes, hosts, hpke_key, enrolled, \
                   certificate_expires, revision, revoked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![
            id.0,
            name,
            role.name(),
            Attributes::default().encode(),
            list_to_text(&[]),
            [0u8; 0],
            at,
            at,
            self.bump("revision")?,
            at
        ])?;
        Ok(())
    }

    /// Takes back what was handed out and may have been used or withdrawn since: tokens that nobody is known to have
    /// used up, and access tokens. How many. Nor are answers given again that tell of them.
    pub(crate) fn void_tokens(&self, now: u64) -> Result<(usize, usize)> {
        let sql = "UPDATE tokens SET removed = ? WHERE removed IS NULL AND used < uses_max";
        let tokens = self.connection.execute(sql, [now])?;
        self.connection.execute("DELETE FROM answers", [])?;
        Ok((tokens, self.connection.execute("DELETE FROM access", [])?))
    }
}
