//! How many files the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a broker needs besides those for connections, generously.
const BESIDE_CONNECTIONS: u64 = 256;

/// As many as the system lets it have at most; `None` where it sets no bound.
pub(super) fn hard_max() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Lets this process have as many as the system allows, whatever the shell that started it is content with, and says so
/// where these are too few for so many connections.
pub(super) fn raise_max(connections_max: usize) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is refused it goes on with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile).current;
    if let Some(files) = files.filter(|files| !suffices(*files, connections_max)) {
        tracing::warn!(
            files,
            connections_max,
            "fewer files may be open than connections are allowed: raise the hard limit, or lower `connections_max`"
        );
    }
}

/// Whether so many files are enough for so many connections.
pub(super) fn suffices(files: u64, connections_max: usize) -> bool {
    files.saturating_sub(BESIDE_CONNECTIONS) >= connections_max as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_left_beside_the_connections() {
        assert!(suffices(100_256, 100_000) && suffices(u64::MAX, usize::MAX - 256));
        assert!(!suffices(100_255, 100_000) && !suffices(0, 1));
    }
}
