//! What the system says of this process, under the names that Prometheus' own libraries have for it. Where there is no
//! `/proc` nothing is shown.

use std::fs;

use super::{Metrics, Readings};

/// The directory in which Linux describes the process that looks (proc(5)).
const SELF: &str = "/proc/self";

/// A second of processor time as `/proc` counts it: `USER_HZ`, which is 100 wherever the standard library runs.
const TICKS: f64 = 100.0;

/// Shows what it is when somebody looks.
pub fn register(metrics: &Metrics) {
    let show = |name, help, read: fn() -> Option<f64>| metrics.register(name, help, &maybe(read));
    show("process_resident_memory_bytes", "Memory in use", || status_bytes("VmRSS:"));
    show("process_virtual_memory_bytes", "Addresses in use", || status_bytes("VmSize:"));
    show("process_open_fds", "Open files and connections", open_files);
    show("process_max_fds", "Files and connections that may be open", files_max);
    show("process_start_time_seconds", "When it began, since 1970", began);
    let help = "Processor time, of the system on its behalf too";
    metrics.register("process_cpu_seconds", help, &maybe(cpu_seconds).rising());
}

fn maybe(read: fn() -> Option<f64>) -> Readings<0> {
    Readings::new([], move |give| read().into_iter().for_each(|value| give([], value)))
}

/// A field of `stat`, by its number there.
fn stat(field: usize) -> Option<f64> {
    let stat = fs::read_to_string(format!("{SELF}/stat")).ok()?;
    // The second is the name in brackets, which may hold anything.
    let rest = stat.rsplit_once(") ")?.1;
    rest.split(' ').nth(field - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS)
}

fn began() -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat(22)? / TICKS)
}

fn status_bytes(name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("{SELF}/status")).ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix(name))?;
    kibibytes.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn open_files() -> Option<f64> {
    let dir = format!("{SELF}/fd");
    // Since Linux 6.2 the directory's size is their number; to count a hundred thousand takes a while.
    match fs::metadata(&dir).ok()?.len() {
        0 => Some(fs::read_dir(&dir).ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

fn files_max() -> Option<f64> {
    let limits = fs::read_to_string(format!("{SELF}/limits")).ok()?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match files.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        count => count.parse().ok(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::File,
        time::{SystemTime, UNIX_EPOCH},
    };

    use super::*;

    /// The value that is shown under a name.
    fn shown(metrics: &Metrics, name: &str) -> f64 {
        let text = metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    #[test]
    fn what_is_shown_is_what_the_process_does() {
        let metrics = Metrics::default();
        register(&metrics);
        let files: Vec<File> = (0..50).map(|_| File::open("/proc/self/stat").expect("it is there")).collect();
        let open = shown(&metrics, "process_open_fds");
        assert!(open >= files.len() as f64 && open <= shown(&metrics, "process_max_fds"), "{open}");
        let held = vec![1u8; 64 << 20];
        assert!(shown(&metrics, "process_resident_memory_bytes") >= held.len() as f64);
        assert!(shown(&metrics, "process_virtual_memory_bytes") >= held.len() as f64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let began = shown(&metrics, "process_start_time_seconds");
        assert!(began > now - 86_400.0 && began < now + 60.0, "{began}");
        let before = shown(&metrics, "process_cpu_seconds_total");
        while shown(&metrics, "process_cpu_seconds_total") <= before {}
    }
}
