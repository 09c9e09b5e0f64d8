//! How much there is of what.

use super::{Result, Tx};

/// Rows that the length of all is judged by.
const SAMPLE: u64 = 1000;

/// How much there is of what.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) active: u64,
    pub(crate) suspended: u64,
    pub(crate) revoked: u64,
    pub(crate) audit_rows: u64,
    /// Judged by the last [`SAMPLE`] rows.
    pub(crate) audit_bytes: u64,
    /// Number of the last row.
    pub(crate) audit_last: u64,
    /// Number and time of the last checkpoint.
    pub(crate) checkpoint: Option<(u64, u64)>,
}

impl Tx<'_> {
    /// How much there is of what.
    pub(crate) fn tally(&self) -> Result<Tally> {
        let sql = "SELECT count(*) FILTER (WHERE revoked IS NULL AND suspended IS NULL), \
                   count(*) FILTER (WHERE revoked IS NULL AND suspended IS NOT NULL), \
                   count(*) FILTER (WHERE revoked IS NOT NULL) FROM devices";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (active, suspended, revoked) =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let sql = "SELECT coalesce(min(number), 1), coalesce(max(number), 0) FROM audit";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (first, audit_last): (u64, u64) =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let audit_rows = (audit_last + 1).saturating_sub(first);
        // Number, time, hash and what SQLite adds.
        let sql = "SELECT coalesce(sum(length(actor) + length(action) + length(subject) + 60), 0), count(*) \
                   FROM audit WHERE number > ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (bytes, rows): (u64, u64) =
            statement.query_row([audit_last.saturating_sub(SAMPLE)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Tally {
            active,
            suspended,
            revoked,
            audit_rows,
            audit_bytes: bytes.checked_div(rows).unwrap_or(0).saturating_mul(audit_rows),
            audit_last,
            checkpoint: self.last_checkpoint()?,
        })
    }
}
