//! Files, disk, clock, descriptors.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use smqtt_core::bundle::CLOCK_SKEW_SECONDS;

use super::Finding;
use crate::cli::files;

/// Free space below which it is only a question of time.
const DISK_BYTES_WARN: u64 = 1 << 30;
/// Free space below which a broker's store may be refused its next transaction.
const DISK_BYTES_FAIL: u64 = 64 << 20;
/// Files looked at; a data directory has a few dozen.
const FILES_MAX: usize = 10_000;

/// Whether anybody else can read what is below `dir`.
pub(super) fn permissions(dir: &Path) -> Vec<Finding> {
    let (mut seen, mut open) = (0usize, Vec::new());
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(meta) = path.symlink_metadata() else {
            let hint = "run it as the user that the authority, broker or device runs as";
            return vec![Finding::fail("files", format!("cannot look at `{}`", path.display()), hint)];
        };
        seen += 1;
        // Who cannot enter the directory cannot read what is in it, whatever its mode.
        if meta.permissions().mode() & 0o077 != 0 && !meta.is_symlink() {
            open.push(path.clone());
        }
        if meta.is_dir() {
            match std::fs::read_dir(&path) {
                Ok(entries) => left.extend(entries.flatten().map(|entry| entry.path())),
                Err(_) => {
                    let hint = "run it as the user that the authority, broker or device runs as";
                    return vec![Finding::fail("files", format!("cannot read `{}`", path.display()), hint)];
                }
            }
        }
        if seen > FILES_MAX {
            break;
        }
    }
    if open.is_empty() {
        return vec![Finding::ok("files", format!("`{}`: nobody else can read it", dir.display()))];
    }
    open.iter().map(|path| others_can_read(path)).collect()
}

fn others_can_read(path: &Path) -> Finding {
    let text = format!("`{}` can be read or entered by others", path.display());
    Finding::fail("files", text, format!("chmod -R go= '{}'", path.display()))
}

/// Whether there is room to write.
pub(super) fn disk(dir: &Path) -> Vec<Finding> {
    let Ok(stat) = rustix::fs::statvfs(dir) else { return Vec::new() };
    vec![judge_disk(dir, stat.f_bavail.saturating_mul(stat.f_frsize))]
}

fn judge_disk(dir: &Path, free: u64) -> Finding {
    let text = format!("{} MiB are free at `{}`", free >> 20, dir.display());
    let hint = "make room: what cannot be written is refused";
    match free {
        free if free < DISK_BYTES_FAIL => Finding::fail("disk", text, hint),
        free if free < DISK_BYTES_WARN => Finding::warn("disk", text, hint),
        _ => Finding::ok("disk", text),
    }
}

/// Whether this machine and the authority agree on the time, both in seconds since 1970.
pub(super) fn clock(here: u64, there: u64) -> Finding {
    let apart = here.abs_diff(there);
    let way = if here > there { "ahead of" } else { "behind" };
    let text = format!("{apart} s {way} the authority's");
    let hint =
        "set the clock, with NTP for instance: what is sealed here is refused, or certificates do not hold";
    match apart {
        apart if apart > CLOCK_SKEW_SECONDS => Finding::fail("clock", text, hint),
        apart if apart > CLOCK_SKEW_SECONDS / 10 => Finding::warn("clock", text, hint),
        _ => Finding::ok("clock", text),
    }
}

/// Whether a broker may have as many connections as its limit allows: it raises the soft limit to the hard one itself.
pub(super) fn descriptors(connections_max: usize) -> Vec<Finding> {
    vec![judge_descriptors(files::hard_max(), connections_max)]
}

fn judge_descriptors(max: Option<u64>, connections_max: usize) -> Finding {
    let Some(max) = max else {
        return Finding::ok("descriptors", "a process may open any number of files and connections");
    };
    let text =
        format!("a process may open {max} files and connections, {connections_max} connections are allowed");
    if files::suffices(max, connections_max) {
        return Finding::ok("descriptors", text);
    }
    let hint = "raise the hard limit where the broker is started, `ulimit -Hn` or LimitNOFILE= in its unit; or lower \
                `connections_max`, so that clients are told";
    Finding::warn("descriptors", text, hint)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_the_protocol_tolerates() {
        assert_eq!(clock(1_000, 1_002).level, Level::Ok);
        assert_eq!(clock(1_000, 1_100).level, Level::Warn);
        let late = clock(1_000, 1_000 + CLOCK_SKEW_SECONDS + 1);
        assert_eq!((late.level, late.text.as_str()), (Level::Fail, "301 s behind the authority's"));
        assert_eq!(clock(u64::MAX, 0).level, Level::Fail);
    }

    #[test]
    fn descriptors_are_judged_by_the_connections_that_are_allowed() {
        assert_eq!(judge_descriptors(Some(1_000), 100).level, Level::Ok);
        let few = judge_descriptors(Some(4_096), 100_000);
        assert_eq!(few.level, Level::Warn);
        assert!(few.text.contains("4096 files") && few.hint.unwrap().contains("`connections_max`"));
        assert_eq!(judge_descriptors(None, usize::MAX).level, Level::Ok);
    }

    #[test]
    fn a_disk_is_judged_by_what_is_free() {
        let judge = |free| judge_disk(Path::new("/"), free).level;
        assert_eq!(judge(DISK_BYTES_FAIL - 1), Level::Fail);
        assert_eq!(judge(DISK_BYTES_FAIL), Level::Warn);
        assert_eq!(judge(DISK_BYTES_WARN), Level::Ok);
    }
}
