//! Free space on the disk: changes are refused before there is none, and revocations last.
//!
//! What is refused so leaves room for what must not fail: a revocation, the next epoch, a bundle signed anew. The store asks
//! [`Room`] before every transaction that writes, so that no way to change something can forget it.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use super::Authority;
use crate::store::Room;

/// What says how many bytes are free; `None` where nobody knows.
type Measure = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Where free space is measured.
pub(super) struct Space(RwLock<Measure>);

impl Space {
    /// Of the file systems of these directories, the one with the least.
    pub(super) fn of(dirs: Vec<PathBuf>) -> Self {
        Self(RwLock::new(Box::new(move || {
            let free = |dir: &PathBuf| {
                let stat = rustix::fs::statvfs(dir).ok()?;
                Some(stat.f_bavail.saturating_mul(stat.f_frsize))
            };
            dirs.iter().filter_map(free).min()
        })))
    }
}

impl Authority {
    /// Has `measure` say from now on how many bytes are free, in place of the system.
    pub fn measure_space_with(&self, measure: impl Fn() -> Option<u64> + Send + Sync + 'static) {
        *self.space.0.write().unwrap_or_else(PoisonError::into_inner) = Box::new(measure);
    }

    /// Looks how much is free, and has the store go by it.
    pub(super) fn check_space(&self) {
        let free = self.space.0.read().unwrap_or_else(PoisonError::into_inner)();
        let (config, free) = (&self.config, free.unwrap_or(u64::MAX));
        let room = match free {
            // For never: then there is no last of it to keep for revocations.
            _ if config.free_bytes_min == 0 => Room::Enough,
            free if free < config.free_bytes_revoke_min => Room::None,
            free if free < config.free_bytes_min => Room::Reserve,
            _ => Room::Enough,
        };
        self.counts.found.free.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.counts.read_only.set(i64::from(room != Room::Enough));
        let free_mib = free >> 20;
        match (self.store.set_room(room), room) {
            (before, now) if before == now => {}
            (_, Room::Enough) => tracing::warn!(free_mib, "there is space again: changes are accepted"),
            (_, Room::Reserve) => tracing::error!(
                free_mib,
                "LOW SPACE: changes are refused but for revocations. Make room on the disk of the authority"
            ),
            (_, Room::None) => tracing::error!(
                free_mib,
                "NO SPACE: every change is refused, revocations too. Make room on the disk of the authority"
            ),
        }
    }
}
