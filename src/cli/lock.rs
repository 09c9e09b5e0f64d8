//! One writer at a time for a file that commands append to.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::failure::Failure;

/// Has this process alone write to the file until it is closed; `who` is what else does, such as "another export".
pub(super) fn lock(file: &File, path: &Path, who: &str) -> Result<(), Failure> {
    let path = path.display();
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::new(format!("{who} is at work with `{path}`"))
            .hint("wait for its end, or name another file"),
        TryLockError::Error(error) => Failure::new(format!("cannot lock `{path}`")).because(&error),
    })
}
