//! The audit log, carried out of the store as it grows: to a file, to syslog.
//!
//! The store is the truth and needs no queue before a sink: each knows how far it came, and gets what comes after that. A sink
//! that fails is loud and holds nobody up; what it has not got is not forgotten in the store either.

use std::io;
use std::sync::PoisonError;

use smqtt_core::api::{AuditLine, AuditRecord, Checkpoint};

use super::{Authority, audit, checkpoints};
use crate::error::Error;
use crate::sink::{FileSink, Reached, Sink, SyslogSink};
use crate::store::Tx;

/// Rows for a sink at once.
const PAGE_MAX: usize = 1000;
/// How often the log says that a sink fails.
const REMIND_SECONDS: u64 = 60;
/// The directory in which a sink that has no memory of its own is remembered.
pub(super) const DIRECTORY: &str = "audit-export";

/// A sink, and how far it has come.
pub(crate) struct Export {
    name: &'static str,
    /// Not here while it works.
    sink: Option<Box<dyn Sink>>,
    reached: Option<Position>,
    /// When it was last said that it fails.
    said: Option<u64>,
    /// Whether the audit log says that it fails.
    noted: bool,
}

/// How far a sink has come.
#[derive(Clone, Copy, Debug)]
struct Position {
    row: u64,
    /// The last row with a checkpoint that it has.
    signed: u64,
}

/// Why there was no export.
enum Failed {
    Sink(io::Error),
    Store(Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// What a sink does not have yet.
struct Page {
    lines: Vec<AuditLine>,
    end: Position,
    /// The last row there is.
    last: u64,
}

impl Authority {
    /// The sinks that the configuration names.
    pub(crate) fn exports(&self) -> Vec<Export> {
        let config = &self.config;
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(path) = &config.audit_file {
            let sink = FileSink::new(path.clone(), config.audit_file_bytes_max, config.audit_files_max);
            sinks.push(Box::new(sink));
        }
        if let Some(address) = config.audit_syslog.as_deref().and_then(|text| text.parse().ok()) {
            let memory = self.data_dir.join(DIRECTORY).join("syslog.json");
            sinks.push(Box::new(SyslogSink::new(address, memory)));
        }
        let export = |sink: Box<dyn Sink>| Export {
            name: sink.name(),
            sink: Some(sink),
            reached: None,
            said: None,
            noted: false,
        };
        sinks.into_iter().map(export).collect()
    }

    /// Gives a sink what it does not have yet. Fails within itself: it is in the log, in the metrics and, when it begins and
    /// ends, in the audit log.
    pub(crate) async fn export(&self, export: &mut Export) {
        let now = self.now();
        let failed = match self.carry(export).await {
            Ok(()) => None,
            Err(Failed::Store(Error::LowSpace)) => return,
            Err(Failed::Store(error)) => {
                let error = &error as &dyn std::error::Error;
                return tracing::error!(
                    error,
                    sink = export.name,
                    "the audit log could not be read for its export"
                );
            }
            Err(Failed::Sink(error)) => Some(error),
        };
        let may_say = export.said.is_none_or(|said| now >= said.saturating_add(REMIND_SECONDS));
        match failed {
            Some(error) => {
                self.counts.export_failed(export.name);
                // Where it had come to is for the sink to say again.
                export.reached = None;
                if may_say {
                    export.said = Some(now);
                    let behind = self.counts.export_behind(export.name).get();
                    tracing::error!(%error, sink = export.name, behind, "THE AUDIT LOG IS NOT EXPORTED");
                    if !std::mem::replace(&mut export.noted, true) {
                        self.note("audit-export-failed", format!("{}: {error}", export.name)).await;
                    }
                }
            }
            None => {
                // One that fails again and again within a minute is two rows, and not two each time.
                if std::mem::take(&mut export.noted) {
                    tracing::warn!(sink = export.name, "the audit log is exported again");
                    self.note("audit-export-resumed", export.name.to_owned()).await;
                }
            }
        }
    }

    /// A row by the authority itself.
    async fn note(&self, action: &'static str, subject: String) {
        let (vault, now) = (self.secrets.vault.clone(), self.now());
        let write = move |tx: &Tx<'_>| Ok(audit::append(tx, &vault, now, "authority", action, &subject)?);
        if let Err(error) = self.store.write(write).await {
            tracing::error!(error = &error as &dyn std::error::Error, action, "not written to the audit log");
        }
    }

    async fn carry(&self, export: &mut Export) -> Result<(), Failed> {
        if export.sink.is_none() {
            // It panicked.
            let anew = self.exports().into_iter().find(|one| one.name == export.name);
            (export.sink, export.reached) = (anew.and_then(|one| one.sink), None);
        }
        loop {
            let from = match export.reached {
                Some(position) => position,
                None => {
                    let reached = work(export, |sink| sink.reached()).await?;
                    let position = self.agreed(export, reached).await?;
                    export.reached = Some(position);
                    position
                }
            };
            self.exported.lock().unwrap_or_else(PoisonError::into_inner).insert(export.name, from.row);
            let page = self.page(from).await?;
            let behind = self.counts.export_behind(export.name);
            behind.set(i64::try_from(page.last.saturating_sub(from.row)).unwrap_or(i64::MAX));
            if page.lines.is_empty() {
                return Ok(());
            }
            let lines = page.lines;
            work(export, move |sink| sink.take(&lines)).await?;
            export.reached = Some(page.end);
        }
    }

    /// From where to go on, if what the sink has is of this log; from the beginning otherwise.
    async fn agreed(&self, export: &mut Export, reached: Option<Reached>) -> Result<Position, Failed> {
        let Some(Reached { number, hash, signed }) = reached else {
            return Ok(Position { row: 0, signed: 0 });
        };
        let before = number.saturating_sub(1);
        let (row, first, last) = self
            .store
            .read(move |tx| {
                let first = tx.audit_after(0, 1)?.first().map_or(1, |row| row.number);
                let last = tx.last_row()?;
                Ok((tx.audit_after(before, 1)?.into_iter().next(), first, last))
            })
            .await?;
        // Of rows that were pruned nothing can be said any more.
        let is_ours = match row {
            Some(row) if row.number == number => audit::record(row).hash == hash,
            _ => number < first && number <= last,
        };
        if is_ours {
            let signed = if signed { number } else { before };
            return Ok(Position { row: number, signed });
        }
        tracing::error!(
            sink = export.name,
            number,
            "what was exported before is of another log: it begins anew"
        );
        let now = self.now();
        work(export, move |sink| sink.begin_anew(now)).await?;
        Ok(Position { row: 0, signed: 0 })
    }

    async fn page(&self, from: Position) -> Result<Page, Error> {
        let read = move |tx: &Tx<'_>| {
            let last = tx.last_row()?;
            Ok((tx.audit_after(from.row, PAGE_MAX)?, tx.checkpoints_after(from.signed, PAGE_MAX)?, last))
        };
        let (rows, signed, last) = self.store.read(read).await?;
        let mut end = Position { row: rows.last().map_or(from.row, |row| row.number), ..from };
        let signed = signed.into_iter().filter(|checkpoint| checkpoint.number <= end.row);
        let mut signed = signed.map(checkpoints::checkpoint_of).peekable();
        let mut lines = Vec::new();
        let rows: Vec<AuditRecord> = rows.into_iter().map(audit::record).collect();
        let mut put = |lines: &mut Vec<AuditLine>, checkpoint: Checkpoint| {
            end.signed = checkpoint.number;
            lines.push(AuditLine::Checkpoint(checkpoint));
        };
        for row in rows {
            // One over rows that were pruned comes before the first that is left.
            while let Some(checkpoint) = signed.next_if(|checkpoint| checkpoint.number < row.number) {
                put(&mut lines, checkpoint);
            }
            lines.push(AuditLine::Record(row));
        }
        for checkpoint in signed {
            put(&mut lines, checkpoint);
        }
        Ok(Page { lines, end, last })
    }

    /// The last row that every sink has; none where there is no sink.
    pub(super) fn exported_everywhere(&self) -> Option<u64> {
        let sinks =
            usize::from(self.config.audit_file.is_some()) + usize::from(self.config.audit_syslog.is_some());
        let exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        (sinks > 0)
            .then(|| if exported.len() < sinks { 0 } else { exported.values().copied().min().unwrap_or(0) })
    }
}

/// Has the sink work where it may block.
async fn work<T: Send + 'static>(
    export: &mut Export,
    work: impl FnOnce(&mut dyn Sink) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let mut sink = export.sink.take().ok_or_else(|| io::Error::other("the sink is gone"))?;
    let worked = tokio::task::spawn_blocking(move || {
        let result = work(&mut *sink);
        (sink, result)
    });
    let (sink, result) = worked.await.map_err(io::Error::other)?;
    export.sink = Some(sink);
    result
}
