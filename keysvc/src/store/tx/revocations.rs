//! Revocations beyond the device's own row: what was closed, and what brokers did about it.

use rusqlite::{OptionalExtension, Row, params};
use smqtt_core::api::{ReadableEpoch, RevocationDone};
use smqtt_core::attribute::Versions;
use smqtt_core::identity::{DeviceId, Role};

use super::{Result, Tx};
use crate::store::StoreError;

/// What a revocation closed.
#[derive(Clone, Debug)]
pub(crate) struct ClosedRow {
    pub(crate) at: u64,
    pub(crate) actor: String,
    /// What was raised, as it is since.
    pub(crate) versions: Versions,
    pub(crate) epoch: Option<u64>,
    pub(crate) epochs: Vec<ReadableEpoch>,
    pub(crate) purge: Option<u64>,
}

const CLOSED: &str = "at, actor, versions, epoch, epochs, purge";

impl Tx<'_> {
    pub(crate) fn insert_closed(&self, device: DeviceId, closed: &ClosedRow) -> Result<()> {
        let sql = "INSERT INTO revocations (device, at, actor, versions, epoch, epochs, purge) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let epochs: Vec<_> = closed.epochs.iter().map(|one| (one.epoch, one.from, one.until)).collect();
        self.connection.prepare_cached(sql)?.execute(params![
            device.0,
            closed.at,
            closed.actor,
            closed.versions.encode(),
            closed.epoch,
            serde_json::to_string(&epochs).expect("numbers are JSON"),
            closed.purge,
        ])?;
        Ok(())
    }

    pub(crate) fn closed(&self, device: DeviceId) -> Result<Option<ClosedRow>> {
        let sql = format!("SELECT {CLOSED} FROM revocations WHERE device = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([device.0])?;
        rows.next()?.map(closed_row).transpose()
    }

    /// Orders that what is retained goes; whether it was not ordered before. The device's row changes, so that brokers see it.
    pub(crate) fn order_purge(&self, device: DeviceId, at: u64) -> Result<bool> {
        let sql = "UPDATE revocations SET purge = ? WHERE device = ? AND purge IS NULL";
        if self.connection.prepare_cached(sql)?.execute(params![at, device.0])? == 0 {
            return Ok(false);
        }
        let revision = self.bump("revision")?;
        let sql = "UPDATE devices SET revision = ? WHERE id = ?";
        self.connection.prepare_cached(sql)?.execute(params![revision, device.0])?;
        Ok(true)
    }

    /// Devices that were revoked since `since` and on which this broker has something to report.
    pub(crate) fn closed_pending(&self, broker: DeviceId, since: u64, max: usize) -> Result<Vec<DeviceId>> {
        let sql = "SELECT r.device FROM revocations r \
                   LEFT JOIN revocations_done d ON d.device = r.device AND d.broker = ? \
                   WHERE r.at >= ? AND (d.device IS NULL OR (r.purge IS NOT NULL AND d.retained IS NULL)) \
                   ORDER BY r.at LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map(params![broker.0, since, max], |row| row.get(0).map(DeviceId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// What a broker said, and when.
    pub(crate) fn done(&self, device: DeviceId, broker: DeviceId) -> Result<Option<(RevocationDone, u64)>> {
        let sql = "SELECT bundle, cut_at, sessions, connections, retained, at FROM revocations_done \
                   WHERE device = ? AND broker = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row(params![device.0, broker.0], |row| {
            let (bundle, cut_at) = (row.get(0)?, row.get(1)?);
            let (sessions, connections, retained) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((RevocationDone { bundle, cut_at, sessions, connections, retained }, row.get(5)?))
        });
        Ok(row.optional()?)
    }

    pub(crate) fn set_done(
        &self,
        device: DeviceId,
        broker: DeviceId,
        done: &RevocationDone,
        at: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO revocations_done \
                   (device, broker, at, bundle, cut_at, sessions, connections, retained) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?8) ON CONFLICT DO UPDATE SET retained = ?8";
        self.connection.prepare_cached(sql)?.execute(params![
            device.0,
            broker.0,
            at,
            done.bundle,
            done.cut_at,
            done.sessions,
            done.connections,
            done.retained,
        ])?;
        Ok(())
    }

    /// Brokers that enrolled by then and are still there, with their names.
    pub(crate) fn brokers(&self, enrolled_by: u64) -> Result<Vec<(DeviceId, String)>> {
        let sql =
            "SELECT id, name FROM devices WHERE role = ? AND revoked IS NULL AND enrolled <= ? ORDER BY name";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![Role::Broker.name(), enrolled_by], |row| {
            Ok((DeviceId(row.get(0)?), row.get(1)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many may publish.
    pub(crate) fn publishers(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM devices WHERE revoked IS NULL AND role IN ('device', 'bridge')";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }
}

fn closed_row(row: &Row<'_>) -> Result<ClosedRow> {
    let epochs: Vec<(u64, u64, u64)> =
        serde_json::from_str(&row.get::<_, String>(4)?).map_err(|_| StoreError::Corrupt("revocations"))?;
    let epochs = epochs.into_iter().map(|(epoch, from, until)| ReadableEpoch { epoch, from, until });
    Ok(ClosedRow {
        at: row.get(0)?,
        actor: row.get(1)?,
        versions: Versions::decode(&row.get::<_, Vec<u8>>(2)?)
            .map_err(|_| StoreError::Corrupt("revocations"))?,
        epoch: row.get(3)?,
        epochs: epochs.collect(),
        purge: row.get(5)?,
    })
}
