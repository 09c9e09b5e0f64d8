//! Answers to requests that may be made again.

use rusqlite::{OptionalExtension, params};

use super::{Result, Tx};

/// What was answered, sealed.
#[derive(Clone, Debug)]
pub(crate) struct AnswerRow {
    pub(crate) caller: String,
    pub(crate) key: String,
    pub(crate) request: [u8; 32],
    pub(crate) at: u64,
    pub(crate) answer: Vec<u8>,
}

impl Tx<'_> {
    /// In the place of one that is older.
    pub(crate) fn set_answer(&self, row: &AnswerRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO answers (caller, key, request, at, answer) VALUES (?, ?, ?, ?, ?)";
        let values = params![row.caller, row.key, row.request, row.at, row.answer];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    pub(crate) fn answer(&self, caller: &str, key: &str) -> Result<Option<AnswerRow>> {
        let sql = "SELECT request, at, answer FROM answers WHERE caller = ? AND key = ?";
        let row = self.connection.prepare_cached(sql)?.query_row([caller, key], |row| {
            let (caller, key) = (caller.to_owned(), key.to_owned());
            Ok(AnswerRow { caller, key, request: row.get(0)?, at: row.get(1)?, answer: row.get(2)? })
        });
        Ok(row.optional()?)
    }

    /// Forgets all of this caller's but the newest so many.
    pub(crate) fn forget_answers_beyond(&self, caller: &str, max: usize) -> Result<()> {
        let sql = "DELETE FROM answers WHERE caller = ?1 AND number <= \
                   (SELECT number FROM answers WHERE caller = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)";
        self.connection.prepare_cached(sql)?.execute(params![caller, max])?;
        Ok(())
    }

    /// Forgets those of before `before`.
    pub(crate) fn forget_answers_before(&self, before: u64) -> Result<usize> {
        Ok(self.connection.prepare_cached("DELETE FROM answers WHERE at < ?")?.execute([before])?)
    }
}
