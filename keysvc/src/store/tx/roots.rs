//! Until when what was issued or handed out under a root may come back.

use super::{Result, Tx};

impl Tx<'_> {
    /// Until when certificates hold of those who were not revoked; 0 where there are none.
    pub(crate) fn certificates_until(&self) -> Result<u64> {
        let sql = "SELECT coalesce(max(not_after), 0) FROM certificates JOIN devices ON id = device \
                   WHERE revoked IS NULL";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Until when somebody may enrol with a token that was made up to `made`; 0 where nobody may.
    pub(crate) fn tokens_until(&self, made: u64) -> Result<u64> {
        let sql = "SELECT coalesce(max(expires), 0) FROM tokens \
                   WHERE made <= ? AND removed IS NULL AND used < uses_max";
        Ok(self.connection.prepare_cached(sql)?.query_row([made], |row| row.get(0))?)
    }
}
