//! Versions of attributes, and epochs.

use rusqlite::{Row, params};
use smqtt_core::attribute::{Attribute, Versions};
use smqtt_core::bundle::Epoch;

use super::{Result, StoreError, Tx};
use crate::store::Deed;

/// An epoch.
#[derive(Clone, Debug)]
pub(crate) struct EpochRow {
    pub(crate) epoch: Epoch,
    /// As they were at its end; `None` for the current epoch.
    pub(crate) versions: Option<Versions>,
}

impl Tx<'_> {
    pub(crate) fn versions(&self) -> Result<Versions> {
        let mut statement = self.connection.prepare_cached("SELECT attribute, version FROM versions")?;
        let mut rows = statement.query([])?;
        let mut versions = Versions::default();
        while let Some(row) = rows.next()? {
            let corrupt = |_| StoreError::Corrupt("versions");
            let attribute = Attribute::decode(&row.get::<_, Vec<u8>>(0)?).map_err(corrupt)?;
            versions.set(&attribute, row.get(1)?).map_err(corrupt)?;
        }
        Ok(versions)
    }

    pub(crate) fn set_version(&self, attribute: &Attribute, version: u32) -> Result<()> {
        self.write_down(Deed::Version { attribute: attribute.version_key(), version });
        let sql = "INSERT INTO versions VALUES (?1, ?2) ON CONFLICT DO UPDATE SET version = ?2";
        self.connection.prepare_cached(sql)?.execute(params![attribute.version_key().encode(), version])?;
        Ok(())
    }

    /// Epochs from number `from` on, oldest first.
    pub(crate) fn epochs(&self, from: u64) -> Result<Vec<EpochRow>> {
        let sql = "SELECT number, begins, ends, versions FROM epochs WHERE number >= ? ORDER BY number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([from])?;
        let mut epochs = Vec::new();
        while let Some(row) = rows.next()? {
            let versions =
                row.get::<_, Option<Vec<u8>>>(3)?.map(|bytes| Versions::decode(&bytes)).transpose();
            epochs.push(EpochRow {
                epoch: Epoch { number: row.get(0)?, begins: row.get(1)?, ends: row.get(2)? },
                versions: versions.map_err(|_| StoreError::Corrupt("epochs"))?,
            });
        }
        Ok(epochs)
    }

    pub(crate) fn current_epoch(&self) -> Result<Epoch> {
        let sql = "SELECT number, begins, ends FROM epochs ORDER BY number DESC LIMIT 1";
        let epoch = |row: &Row<'_>| Ok(Epoch { number: row.get(0)?, begins: row.get(1)?, ends: row.get(2)? });
        Ok(self.connection.prepare_cached(sql)?.query_row([], epoch)?)
    }

    /// Ends the current epoch, keeping its versions, begins `next`, and forgets epochs before `keep_from`.
    pub(crate) fn begin_epoch(&self, next: Epoch, versions: &Versions, keep_from: u64) -> Result<()> {
        self.write_down(Deed::Epoch { number: next.number });
        let run = |sql, params: &[&dyn rusqlite::ToSql]| {
            Ok::<_, StoreError>(self.connection.prepare_cached(sql)?.execute(params)?)
        };
        run("UPDATE epochs SET versions = ? WHERE versions IS NULL", params![versions.encode()])?;
        let sql = "INSERT INTO epochs (number, begins, ends) VALUES (?, ?, ?)";
        run(sql, params![next.number, next.begins, next.ends])?;
        run("DELETE FROM epochs WHERE number < ?", params![keep_from])?;
        Ok(())
    }
}
