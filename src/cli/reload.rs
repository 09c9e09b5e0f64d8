//! Files that are read again while the broker runs: when they change, and on SIGHUP.

use std::future::pending;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::failure::Failure;

/// How often files are looked at. One that changed is read when it has not changed further for that long: perhaps
/// somebody is still writing.
const INTERVAL: Duration = Duration::from_secs(1);

/// Files that belong together, and what reads them.
pub struct Watched {
    paths: Vec<PathBuf>,
    read: Box<dyn FnMut() -> Result<(), Failure> + Send>,
    /// As they were when they were read, and when they were last looked at.
    known: Vec<Stamp>,
    seen: Vec<Stamp>,
}

/// What changes with a file; `None` is no file.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

impl Watched {
    /// Files that were read a moment ago; `read` does it again, and keeps what was there before if it cannot.
    pub fn new(paths: Vec<PathBuf>, read: impl FnMut() -> Result<(), Failure> + Send + 'static) -> Self {
        let known = stamps(&paths);
        Self { paths, read: Box::new(read), seen: known.clone(), known }
    }

    fn look(&mut self) {
        let now = stamps(&self.paths);
        if now != self.known && now == self.seen {
            self.read();
        }
        self.seen = now;
    }

    fn read(&mut self) {
        self.known = stamps(&self.paths);
        let files: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        let files = files.join(", ");
        match (self.read)() {
            Ok(()) => tracing::info!(files, "read again"),
            Err(failure) => {
                tracing::error!(files, "cannot use what is there now: going on with what was there before");
                failure.report();
            }
        }
    }
}

/// Looks after them for as long as it is polled.
pub async fn watch(mut watched: Vec<Watched>) {
    // With nothing to read, who closes the terminal of a broker means to end it; a service is only asked to reload.
    if watched.is_empty() && std::io::stdin().is_terminal() {
        return;
    }
    let mut hangups = signal(SignalKind::hangup()).ok();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let hangup = async {
            match &mut hangups {
                Some(hangups) => hangups.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick(), if !watched.is_empty() => tokio::task::block_in_place(|| watched.iter_mut().for_each(Watched::look)),
            _ = hangup => tokio::task::block_in_place(|| watched.iter_mut().for_each(Watched::read)),
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &Path| -> Stamp {
        let m = std::fs::metadata(path).ok()?;
        // The time of the inode, too: permissions that were mended count.
        Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
    };
    paths.iter().map(|path| stamp(path)).collect()
}
