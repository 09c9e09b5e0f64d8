//! Processes whose output can be waited for.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// What a process has written to one of its outputs so far.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let shared = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let read = source.read(&mut buffer).unwrap_or(0);
                let mut written = shared.0.0.lock().unwrap();
                written.bytes.extend(&buffer[..read]);
                written.ended = read == 0;
                shared.0.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        output
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// Waits until `found` gives something for the whole output.
    pub fn wait<T>(&self, what: &str, deadline: Duration, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let (mutex, changed) = &*self.0;
        let begun = Instant::now();
        let mut written = mutex.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&written.bytes).into_owned();
            if let Some(found) = found(&text) {
                return found;
            }
            let left = deadline.saturating_sub(begun.elapsed());
            if written.ended || left.is_zero() {
                let ended = written.ended;
                // Whoever fails while holding a lock hides the reason from the others.
                drop(written);
                let text = end_of(&text);
                assert!(!ended, "ended without {what}; wrote: {text}");
                panic!("not within {deadline:?}: {what}; wrote: {text}");
            }
            written = changed.wait_timeout(written, left).unwrap().0;
        }
    }

    /// Waits for a complete line with `part` in it.
    pub fn line(&self, part: &str) -> String {
        self.wait(&format!("a line with `{part}`"), DEADLINE, |text| {
            let complete = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
            complete.lines().find(|line| line.contains(part)).map(str::to_owned)
        })
    }

    /// Waits for the first `count` complete lines.
    pub fn first_lines(&self, count: usize) -> Vec<String> {
        self.wait(&format!("{count} lines"), DEADLINE, |text| {
            let complete = text.matches('\n').count() >= count;
            complete.then(|| text.lines().take(count).map(str::to_owned).collect())
        })
    }

    fn wait_ended(&self) {
        let (mutex, changed) = &*self.0;
        let written = mutex.lock().unwrap();
        let (written, _) = changed.wait_timeout_while(written, DEADLINE, |w| !w.ended).unwrap();
        assert!(written.ended, "the output stays open");
    }
}

/// A process; killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    what: String,
    pub out: Output,
    pub err: Output,
}

impl Running {
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let out = Output::of(child.stdout.take().unwrap());
        let err = Output::of(child.stderr.take().unwrap());
        Self { stdin: child.stdin.take(), child, what, out, err }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it has now, by `/proc`.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Processor time that it has used, in ticks of a hundredth of a second, by `/proc`.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in brackets, may hold anything; user and system time are the 14th and 15th field.
        let after_name = stat.rsplit_once(") ").unwrap().1;
        after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// Writes to its input, which stays open.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input is closed");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).unwrap();
    }

    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Closes its input and waits until it ends by itself.
    pub fn end(mut self) -> Ended {
        self.stdin = None;
        let deadline = DEADLINE;
        let what = self.what.clone();
        let (child, out, err) = (&mut self.child, &self.out, &self.err);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            let (out, err) = (out.text(), err.text());
            assert!(begun.elapsed() < deadline, "does not end: {what}\nstdout: {out}\nstderr: {err}");
            std::thread::sleep(Duration::from_millis(5));
        };
        out.wait_ended();
        err.wait_ended();
        Ended { status, out: out.bytes(), err: err.text(), what }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}\n{}", self.what, end_of(&self.out.text()), end_of(&self.err.text()));
        }
    }
}

/// As much as somebody will read.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(40)..];
    last.iter().map(|line| line.chars().take(300).chain(['\n']).collect::<String>()).collect()
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
    what: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Its standard output, if all went well.
    #[track_caller]
    pub fn success(&self) -> String {
        let Self { status, err, what, .. } = self;
        assert!(status.success(), "{what}: {status}\n{}{err}", self.text());
        self.text()
    }

    /// Its standard error, if it said that it failed, every `part` of it.
    #[track_caller]
    pub fn failure(&self, parts: &[&str]) -> String {
        let Self { status, err, what, .. } = self;
        assert_eq!(status.code(), Some(1), "{what}: {status}\n{}{err}", self.text());
        assert!(err.contains("error: "), "{what}: {err}");
        assert!(!err.contains("panicked"), "{what}: {err}");
        for part in parts {
            assert!(err.contains(part), "no `{part}` in: {err}");
        }
        err.clone()
    }
}

/// Runs it with this on its input.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut running = Running::spawn(command);
    let mut stdin = running.stdin.take().unwrap();
    let input = input.to_vec();
    // A program may end without reading, or write more than a pipe holds before it reads on.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    running.end()
}

/// `kill -NAME PID`.
pub fn signal(pid: u32, name: &str) {
    let status =
        Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if parent == Some(&pid.to_string()) {
            found.push(child);
        }
    }
    found
}
