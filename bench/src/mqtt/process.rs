//! Processes that the bench starts and speaks to, and the directory that they share; all of it goes away with its owner.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use smqtt_client::files::private_dir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use zeroize::Zeroizing;

use super::orders::{LINE_BYTES_MAX, to_line};
use super::{MqttBenchError, cpu};
use crate::leftovers::{Noted, remove};

/// Nothing takes longer to start, or to end.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A directory that goes away.
pub(crate) struct TempDir {
    path: PathBuf,
    _noted: Noted,
}

impl TempDir {
    pub(crate) fn new() -> Result<Self, MqttBenchError> {
        let random: [u8; 8] = smqtt_core::crypto::random();
        let path = std::env::temp_dir().join(format!("smqtt-bench-{:016x}", u64::from_be_bytes(random)));
        let _noted = Noted::directory(&path);
        private_dir(&path).map_err(MqttBenchError::File)?;
        Ok(Self { path, _noted })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// A child process that is spoken to in lines; killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    _noted: Option<Noted>,
}

impl Process {
    /// Starts it, with pipes to speak through.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self, MqttBenchError> {
        // A Ctrl-C in the terminal is for the bench, which then ends its processes in their order.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(MqttBenchError::io("start a process"))?;
        let _noted = child.id().map(Noted::process);
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or(MqttBenchError::Unexpected(name))?;
        Ok(Self { name, child, input, output: BufReader::new(output), _noted })
    }

    /// Says a line.
    pub(crate) async fn say(&mut self, what: &impl serde::Serialize) -> Result<(), MqttBenchError> {
        let line = Zeroizing::new(to_line(what)?);
        let input = self.input.as_mut().ok_or(MqttBenchError::Unexpected(self.name))?;
        input.write_all(&line).await.map_err(|_| MqttBenchError::ProcessEnded(self.name))
    }

    async fn line(&mut self, timeout: Duration) -> Result<Vec<u8>, MqttBenchError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.output).take(LINE_BYTES_MAX as u64);
        let read = tokio::time::timeout(timeout, bounded.read_until(b'\n', &mut line)).await;
        match read.map_err(|_| MqttBenchError::Silent(self.name))? {
            Ok(1..) => Ok(line),
            _ => Err(MqttBenchError::ProcessEnded(self.name)),
        }
    }

    /// The next line, as what it stands for.
    pub(crate) async fn answer<T: DeserializeOwned>(
        &mut self,
        timeout: Duration,
    ) -> Result<T, MqttBenchError> {
        serde_json::from_slice(&self.line(timeout).await?).map_err(MqttBenchError::Answer)
    }

    /// Reads on to a line that begins with `word`.
    pub(crate) async fn line_of(&mut self, word: &str) -> Result<String, MqttBenchError> {
        loop {
            let line = String::from_utf8_lossy(&self.line(START_TIMEOUT).await?).into_owned();
            if line.starts_with(word) {
                return Ok(line);
            }
        }
    }

    /// The address in the next line of the broker's.
    pub(crate) async fn address(&mut self, scheme: &str) -> Result<SocketAddr, MqttBenchError> {
        let line = self.line_of("broker").await?;
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(scheme));
        word.and_then(|word| word.parse().ok()).ok_or(MqttBenchError::Unexpected(self.name))
    }

    /// Its number, while it is there.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time so far.
    pub(crate) fn time(&self) -> Option<Duration> {
        cpu::time(self.child.id()?)
    }

    /// Nothing here is worth a goodbye.
    pub(crate) async fn end(&mut self) {
        let _ = self.child.kill().await;
    }
}

/// The program, with nothing of the environment that could lead it astray.
pub(crate) fn program(exe: &Path) -> Command {
    let mut command = Command::new(exe);
    for name in ["SMQTT_DATA", "SMQTT_DIR"] {
        command.env_remove(name);
    }
    command.env("SMQTT_LOG", "error");
    command
}
