//! The time that a process has spent on processors, from Linux's `/proc`.

use std::fs;
use std::time::Duration;

/// Ticks a second in `/proc/PID/stat`: `USER_HZ`, 100 wherever Linux runs (proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of the process so far; `None` where the system does not say.
pub fn time(pid: u32) -> Option<Duration> {
    by_threads(pid).or_else(|| by_ticks(pid))
}

/// In nanoseconds, of the threads there are now: first number of each `schedstat`.
fn by_threads(pid: u32) -> Option<Duration> {
    let mut nanoseconds = 0u64;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // One that has just ended has no file any more.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

/// In ticks of a hundredth of a second, of all threads there ever were.
fn by_ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// User and system time, fields 14 and 15 of `/proc/PID/stat`; field 2 is a name in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 1000 10";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (name) S 1 2"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn nobody_has_no_time() {
        assert_eq!(time(u32::MAX), None);
    }
}
