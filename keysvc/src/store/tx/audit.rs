//! The audit log.

use rusqlite::{OptionalExtension, params};

use super::{Result, Tx};

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

impl Tx<'_> {
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
