//! The one source of time for expiry, delays and keep alive.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970. Stored with sessions and messages, so it must mean the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This much later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time until `later`; zero if it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// Wall-clock time that advances with tokio's clock, so that it never jumps and tests can advance it.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    origin: Instant,
    origin_ms: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_ms: u64::try_from(unix.as_millis()).unwrap_or(0) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.origin_ms).after(self.origin.elapsed())
    }

    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let since = Timestamp(self.origin_ms).until(at);
        // Far deadlines (a session that expires in a century) need not be representable.
        self.origin + since.min(Duration::from_secs(10 * 365 * 86_400))
    }
}
