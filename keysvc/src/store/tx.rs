//! What can be asked of the store and changed in it, within one transaction. One file for each subject.

mod access;
mod answers;
mod audit;
mod devices;
mod epochs;
mod keys;
mod profiles;
mod restore;
mod revocations;
mod roots;
mod rules;
mod tally;
mod tokens;

use std::cell::RefCell;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::Role;
use smqtt_core::policy::Policy;

use super::{Deed, StoreError};
use crate::counts::Counts;

pub(crate) use access::AccessRow;
pub(crate) use answers::AnswerRow;
pub(crate) use audit::{AuditRow, CheckpointRow};
pub(crate) use devices::{DeviceRow, RevocationRow};
pub(crate) use profiles::{GivenRow, GroupRow, ProfileRow};
pub(crate) use revocations::ClosedRow;
pub(crate) use rules::RuleRow;
pub(crate) use tally::Tally;
pub(crate) use tokens::{TokenRow, UseRow};

type Result<T> = std::result::Result<T, StoreError>;
type Hook = Box<dyn FnOnce() + Send>;

/// A transaction.
pub(crate) struct Tx<'c> {
    connection: &'c Connection,
    after_commit: RefCell<Vec<Hook>>,
    deeds: RefCell<Vec<Deed>>,
    counts: Option<&'c Counts>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self::counted(connection, None)
    }

    pub(super) fn counted(connection: &'c Connection, counts: Option<&'c Counts>) -> Self {
        Self { connection, after_commit: RefCell::default(), deeds: RefCell::default(), counts }
    }

    /// Runs `hook` when this transaction is on disk, before anyone is answered, in the order of commits.
    pub(crate) fn after_commit(&self, hook: impl FnOnce() + Send + 'static) {
        self.after_commit.borrow_mut().push(Box::new(hook));
    }

    pub(super) fn take_after_commit(&self) -> Vec<Hook> {
        self.after_commit.take()
    }

    /// Has the journal say so before this transaction is committed.
    pub(crate) fn write_down(&self, deed: Deed) {
        self.deeds.borrow_mut().push(deed);
    }

    pub(super) fn take_deeds(&self) -> Vec<Deed> {
        self.deeds.take()
    }

    #[cfg(test)]
    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        Ok(self.connection.execute_batch(sql)?)
    }

    // Counters and documents

    /// Sets a counter.
    pub(crate) fn set_counter(&self, name: &'static str, value: u64) -> Result<()> {
        let sql = "UPDATE counters SET value = ?2 WHERE name = ?1";
        self.connection.prepare_cached(sql)?.execute(params![name, value])?;
        Ok(())
    }

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

    /// Forgets certificates and tokens that ended before `before`; an administrator's files may be older.
    pub(crate) fn forget_before(&self, before: u64) -> Result<usize> {
        let forget = |sql| Ok::<_, StoreError>(self.connection.prepare_cached(sql)?.execute([before])?);
        Ok(forget(
            "DELETE FROM certificates WHERE not_after < ? \
             AND device NOT IN (SELECT id FROM devices WHERE role = 'admin')",
        )? + forget("DELETE FROM tokens WHERE expires < ?")?
            + forget("DELETE FROM access WHERE expires < ?")?)
    }
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
