//! Where the audit log is exported to, line by line.

mod file;
mod syslog;

use std::io;

use serde::{Deserialize, Serialize};
use smqtt_core::api::AuditLine;

pub(crate) use file::FileSink;
pub(crate) use syslog::{Address, SyslogSink};

/// How far a sink has come: after this row, whose hash that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    pub(crate) number: u64,
    /// Hexadecimal.
    pub(crate) hash: String,
    /// Whether it has the checkpoint over that row, too.
    pub(crate) signed: bool,
}

impl Reached {
    fn of(line: &AuditLine) -> Self {
        let (number, hash, signed) = match line {
            AuditLine::Record(row) => (row.number, &row.hash, false),
            AuditLine::Checkpoint(checkpoint) => (checkpoint.number, &checkpoint.hash, true),
        };
        Self { number, hash: hash.clone(), signed }
    }
}

/// Takes lines of the audit log, in order, and knows after a restart how far it came. Each call may block.
pub(crate) trait Sink: Send {
    /// A word for logs and metrics.
    fn name(&self) -> &'static str;

    /// How far it has come, as it knows itself; `None` before the first line.
    fn reached(&mut self) -> io::Result<Option<Reached>>;

    /// Takes these lines, and remembers that.
    fn take(&mut self, lines: &[AuditLine]) -> io::Result<()>;

    /// What it has is of another log: it begins anew.
    fn begin_anew(&mut self, now: u64) -> io::Result<()>;
}
