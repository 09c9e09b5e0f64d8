//! What must not outlive a run that is ended at once: processes and directories, noted for as long as they are there.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

static NOTED: Mutex<Vec<Left>> = Mutex::new(Vec::new());

#[derive(Clone, PartialEq)]
enum Left {
    Process(u32),
    Directory(PathBuf),
}

fn noted() -> MutexGuard<'static, Vec<Left>> {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that is there until this is dropped.
pub struct Noted(Left);

impl Noted {
    /// A child, until it has been waited for.
    pub fn process(pid: u32) -> Self {
        Self::note(Left::Process(pid))
    }

    /// A directory, until it is removed. To be noted before it is made.
    pub fn directory(path: &Path) -> Self {
        Self::note(Left::Directory(path.to_owned()))
    }

    fn note(left: Left) -> Self {
        noted().push(left.clone());
        Self(left)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut noted = noted();
        if let Some(at) = noted.iter().position(|left| *left == self.0) {
            noted.swap_remove(at);
        }
    }
}

/// Kills every process and removes every directory that is noted. For who exits right after it: nothing can be noted
/// any more.
pub fn clear() {
    let noted = noted();
    for left in &*noted {
        if let Left::Process(pid) = left
            && let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw)
        {
            // One that has ended by itself is as well.
            _ = kill_process(pid, Signal::KILL);
        }
    }
    for left in &*noted {
        if let Left::Directory(path) = left {
            remove(path);
        }
    }
    std::mem::forget(noted);
}

/// Removes a directory with all that is in it; a process that is just being killed may still write there.
pub fn remove(directory: &Path) {
    for _ in 0..20 {
        if std::fs::remove_dir_all(directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
