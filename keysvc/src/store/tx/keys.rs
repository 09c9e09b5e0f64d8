//! Data keys, sealed, and the names of documents.

use rusqlite::{OptionalExtension, params};

use super::{Result, Tx};

impl Tx<'_> {
    pub(crate) fn data_key(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached("SELECT sealed FROM data_keys WHERE name = ?")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    pub(crate) fn set_data_key(&self, name: &str, sealed: &[u8]) -> Result<()> {
        let sql = "INSERT INTO data_keys VALUES (?1, ?2) ON CONFLICT DO UPDATE SET sealed = ?2";
        self.connection.prepare_cached(sql)?.execute(params![name, sealed])?;
        Ok(())
    }

    /// The names of all documents.
    pub(crate) fn document_names(&self) -> Result<Vec<String>> {
        let mut statement = self.connection.prepare_cached("SELECT name FROM documents ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }
}
