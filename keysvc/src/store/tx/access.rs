//! Access tokens.

use rusqlite::{Row, params};
use smqtt_core::identity::Role;

use super::{Result, Tx, list, list_to_text, role};

/// An access token: everything but its secret.
#[derive(Clone, Debug)]
pub(crate) struct AccessRow {
    pub(crate) id: [u8; 16],
    pub(crate) secret_hash: [u8; 32],
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Names; none for whatever the role may.
    pub(crate) operations: Vec<String>,
    pub(crate) created: u64,
    pub(crate) creator: String,
    pub(crate) expires: u64,
}

const ACCESS: &str = "id, secret_hash, name, role, operations, created, creator, expires";

impl Tx<'_> {
    pub(crate) fn insert_access(&self, access: &AccessRow) -> Result<()> {
        let sql = format!("INSERT INTO access ({ACCESS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        self.connection.prepare_cached(&sql)?.execute(params![
            access.id,
            access.secret_hash,
            access.name,
            access.role.name(),
            list_to_text(&access.operations),
            access.created,
            access.creator,
            access.expires,
        ])?;
        Ok(())
    }

    pub(crate) fn access(&self, id: &[u8; 16]) -> Result<Option<AccessRow>> {
        let sql = format!("SELECT {ACCESS} FROM access WHERE id = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        rows.next()?.map(row).transpose()
    }

    /// Those that are good at `now`, by identifier.
    pub(crate) fn all_access(&self, now: u64) -> Result<Vec<AccessRow>> {
        let sql = format!("SELECT {ACCESS} FROM access WHERE expires > ? ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([now])?;
        let mut all = Vec::new();
        while let Some(next) = rows.next()? {
            all.push(row(next)?);
        }
        Ok(all)
    }

    /// Ends all that somebody made. How many there were.
    pub(crate) fn delete_access_of(&self, creator: &str) -> Result<usize> {
        Ok(self.connection.prepare_cached("DELETE FROM access WHERE creator = ?")?.execute([creator])?)
    }

    /// Whether there was one.
    pub(crate) fn delete_access(&self, id: &[u8; 16]) -> Result<bool> {
        Ok(self.connection.prepare_cached("DELETE FROM access WHERE id = ?")?.execute([id])? > 0)
    }
}

fn row(row: &Row<'_>) -> Result<AccessRow> {
    Ok(AccessRow {
        id: row.get(0)?,
        secret_hash: row.get(1)?,
        name: row.get(2)?,
        role: role(row, 3)?,
        operations: list(row, 4)?,
        created: row.get(5)?,
        creator: row.get(6)?,
        expires: row.get(7)?,
    })
}
