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

/// What was signed of it.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointRow {
    pub(crate) number: u64,
    pub(crate) at: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) certificate: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Tx<'_> {
    /// Number and time of the last checkpoint.
    pub(crate) fn last_checkpoint(&self) -> Result<Option<(u64, u64)>> {
        let sql = "SELECT number, at FROM checkpoints ORDER BY number DESC LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    pub(crate) fn insert_checkpoint(&self, row: &CheckpointRow) -> Result<()> {
        let CheckpointRow { number, at, hash, certificate, signature } = row;
        let sql = "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![number, at, hash, certificate, signature])?;
        Ok(())
    }

    pub(crate) fn checkpoints_after(&self, number: u64, max: usize) -> Result<Vec<CheckpointRow>> {
        let sql = "SELECT number, at, hash, certificate, signature FROM checkpoints WHERE number > ? \
                   ORDER BY number LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![number, max], |row| {
            Ok(CheckpointRow {
                number: row.get(0)?,
                at: row.get(1)?,
                hash: row.get(2)?,
                certificate: row.get(3)?,
                signature: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The hash that stood before the first row there is, where earlier ones were pruned.
    pub(crate) fn pruned(&self) -> Result<Option<(u64, [u8; 32])>> {
        let sql = "SELECT c.number, c.hash FROM checkpoints c \
                   WHERE c.number = (SELECT min(number) FROM audit) - 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// Forgets rows before `before`, up to the last checkpoint before it, and checkpoints that are older still; the
    /// last row stays, and so does what comes after `upto_max`. Says up to which.
    pub(crate) fn prune_audit(&self, before: u64, upto_max: u64) -> Result<Option<u64>> {
        let sql = "SELECT max(number) FROM checkpoints WHERE number <= ?2 AND number < \
                   coalesce((SELECT min(number) FROM audit WHERE at >= ?1), (SELECT max(number) FROM audit))";
        let mut statement = self.connection.prepare_cached(sql)?;
        let Some(upto) = statement.query_row([before, upto_max], |row| row.get::<_, Option<u64>>(0))? else {
            return Ok(None);
        };
        let run = |sql| Ok::<_, super::StoreError>(self.connection.prepare_cached(sql)?.execute([upto])?);
        let rows = run("DELETE FROM audit WHERE number <= ?")?;
        run("DELETE FROM checkpoints WHERE number < ?")?;
        Ok((rows > 0).then_some(upto))
    }

    pub(crate) fn last_audit(&self) -> Result<Option<(u64, [u8; 32])>> {
        let sql = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// The last row's number; 0 where there is none.
    pub(crate) fn last_row(&self) -> Result<u64> {
        Ok(self.last_audit()?.unwrap_or_default().0)
    }

    pub(crate) fn append_audit(&self, row: &AuditRow) -> Result<()> {
        let sql = "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)";
        let AuditRow { number, at, actor, action, subject, hash } = row;
        self.connection.prepare_cached(sql)?.execute(params![number, at, actor, action, subject, hash])?;
        if let Some(counts) = self.counts {
            let counter = counts.act(action);
            self.after_commit(move || counter.inc());
        }
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
