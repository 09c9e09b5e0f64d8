//! Where a restore is tried: a directory beside the data that goes when the drill is over.
//!
//! Its name is always the same, so that what a drill leaves that is killed, all that the authority has under a key that lies beside
//! it, goes with the next. A file in it, locked meanwhile, says that a drill made it: what somebody else keeps there stays.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use smqtt_client::files::private_dir;

use super::failure::Failure;

/// The file that says so.
const MARK: &str = "drill.lock";

/// A directory for a drill.
pub struct Drill {
    dir: PathBuf,
    _mark: File,
}

impl Drill {
    /// Takes `DATA.drill` for this drill.
    pub fn beside(data: &Path) -> Result<Self, Failure> {
        let mut dir = data.as_os_str().to_owned();
        dir.push(".drill");
        let dir = PathBuf::from(dir);
        let failure = |what: &str| Failure::new(format!("`{}` {what}", dir.display()));
        let taken = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
        if taken && !dir.join(MARK).exists() {
            return Err(failure("is not empty").hint("the drill takes place there: move it away"));
        }
        private_dir(&dir)?;
        let mark = File::options().create(true).append(true).open(dir.join(MARK));
        let mark = mark.map_err(|error| failure("cannot be written to").because(&error))?;
        match mark.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failure("is in use").hint("wait for the end of the other drill"));
            }
            Err(TryLockError::Error(error)) => return Err(failure("cannot be locked").because(&error)),
        }
        let drill = Self { dir, _mark: mark };
        drill.clear();
        Ok(drill)
    }

    /// What to restore into.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn clear(&self) {
        for name in ["data", "data.restoring"] {
            let _ = std::fs::remove_dir_all(self.dir.join(name));
        }
    }
}

impl Drop for Drill {
    /// Removes what the drill made, and the directory if there is nothing else in it.
    fn drop(&mut self) {
        self.clear();
        for name in ["data.restoring.lock", MARK] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}
