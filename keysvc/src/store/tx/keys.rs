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

    /// All data keys, by name.
    pub(crate) fn data_keys(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut statement =
            self.connection.prepare_cached("SELECT name, sealed FROM data_keys ORDER BY name")?;
        let keys = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets a document and its data key, if it has one.
    pub(crate) fn delete_document(&self, name: &str) -> Result<()> {
        self.connection.prepare_cached("DELETE FROM documents WHERE name = ?")?.execute([name])?;
        self.connection.prepare_cached("DELETE FROM data_keys WHERE name = ?")?.execute([name])?;
        Ok(())
    }

    /// The names of all documents.
    pub(crate) fn document_names(&self) -> Result<Vec<String>> {
        let mut statement = self.connection.prepare_cached("SELECT name FROM documents ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }
}
