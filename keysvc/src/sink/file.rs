//! A file of JSON, one object a line, that is rotated: `FILE`, `FILE.1`, `FILE.2`, … from the newest to the oldest.
//!
//! It is rotated after a checkpoint, which also begins the next file: each file can be verified by itself and all of them together.
//! The file is its own memory: what comes next is told by its last line.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use smqtt_core::api::AuditLine;

use super::{Reached, Sink};
use crate::files::sync_parent;

/// The last line is in so many bytes at the end.
const TAIL_BYTES: u64 = 64 << 10;

/// A rotated file.
pub(crate) struct FileSink {
    path: PathBuf,
    bytes_max: u64,
    files_max: u64,
    /// How long the file was when this left it.
    length: Option<u64>,
}

impl FileSink {
    pub(crate) fn new(path: PathBuf, bytes_max: u64, files_max: u64) -> Self {
        Self { path, bytes_max, files_max, length: None }
    }

    fn numbered(&self, number: u64) -> PathBuf {
        with_suffix(&self.path, &format!(".{number}"))
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)
    }

    /// Makes the file that is there `FILE.1`, and begins another with `line`.
    fn rotate(&self, line: &[u8]) -> io::Result<File> {
        let is_free = |number: &u64| !self.numbered(*number).exists();
        let last = (1..self.files_max).find(is_free).unwrap_or(self.files_max - 1);
        for number in (1..last).rev() {
            std::fs::rename(self.numbered(number), self.numbered(number + 1))?;
        }
        std::fs::rename(&self.path, self.numbered(1))?;
        self.begin(line)
    }

    fn begin(&self, line: &[u8]) -> io::Result<File> {
        let mut file = self.open()?;
        file.write_all(line)?;
        file.sync_data()?;
        sync_parent(&self.path)?;
        Ok(file)
    }

    fn write(&mut self, lines: &[AuditLine]) -> io::Result<()> {
        let mut file = self.open()?;
        let mut length = file.metadata()?.len();
        if self.length != Some(length) {
            return Err(io::Error::other("somebody else wrote or moved it"));
        }
        let mut batch = Vec::new();
        for line in lines {
            let text = text(line)?;
            batch.extend_from_slice(&text);
            if matches!(line, AuditLine::Checkpoint(_)) && length + batch.len() as u64 >= self.bytes_max {
                append(&mut file, length, &batch)?;
                file = self.rotate(&text)?;
                (length, batch) = (text.len() as u64, Vec::new());
                self.length = Some(length);
            }
        }
        append(&mut file, length, &batch)?;
        self.length = Some(length + batch.len() as u64);
        Ok(())
    }

    fn look(&mut self) -> io::Result<Option<Reached>> {
        let is_new = !self.path.exists();
        let file = self.open()?;
        if is_new {
            sync_parent(&self.path)?;
        }
        let mut last = last_line(&file)?;
        if last.is_none()
            && let Ok(before) = OpenOptions::new().read(true).write(true).open(self.numbered(1))
            && let Some(line @ AuditLine::Checkpoint(_)) = last_line(&before)?
        {
            // A crash between one file and the next.
            self.begin(&text(&line)?)?;
            last = Some(line);
        }
        self.length = Some(file.metadata()?.len());
        Ok(last.as_ref().map(Reached::of))
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("`{}`: {error}", self.path.display()))
    }
}

impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    fn reached(&mut self) -> io::Result<Option<Reached>> {
        self.look().map_err(|error| self.named(&error))
    }

    fn take(&mut self, lines: &[AuditLine]) -> io::Result<()> {
        self.write(lines).map_err(|error| {
            self.length = None;
            self.named(&error)
        })
    }

    fn begin_anew(&mut self, now: u64) -> io::Result<()> {
        std::fs::rename(&self.path, with_suffix(&self.path, &format!(".of-another-log-{now}")))?;
        for number in 1..self.files_max {
            let of_another = with_suffix(&self.path, &format!(".of-another-log-{now}.{number}"));
            match std::fs::rename(self.numbered(number), of_another) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.length = None;
        self.reached().map(drop)
    }
}

/// Appends to a file of this length, synced; all of it or nothing.
fn append(file: &mut File, length: u64, bytes: &[u8]) -> io::Result<()> {
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    written.inspect_err(|_| {
        // What cannot be taken back now is found to be cut at the next look.
        let _ = file.set_len(length);
    })
}

fn text(line: &AuditLine) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

/// The last whole line; what a crash left after it goes.
fn last_line(file: &File) -> io::Result<Option<AuditLine>> {
    let length = file.metadata()?.len();
    let mut reader = file;
    let begins = length.saturating_sub(TAIL_BYTES);
    reader.seek(SeekFrom::Start(begins))?;
    let mut tail = Vec::new();
    reader.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let is_foreign = || io::Error::new(ErrorKind::InvalidData, "it is no exported audit log: move it away");
    if whole == 0 && begins > 0 {
        return Err(is_foreign());
    }
    let last = match tail[..whole].strip_suffix(b"\n") {
        None => None,
        Some(lines) => {
            let from = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            Some(serde_json::from_slice(&lines[from..]).map_err(|_| is_foreign())?)
        }
    };
    // Nothing is cut from a file of which nothing is known to be ours.
    let rest = &tail[whole..];
    let is_ours = |head: &&[u8]| rest.starts_with(head) || head.starts_with(rest);
    if last.is_none() && ![&b"{\"record\""[..], b"{\"checkpoint\""].iter().any(is_ours) {
        return Err(is_foreign());
    }
    if !rest.is_empty() {
        file.set_len(begins + whole as u64)?;
    }
    Ok(last)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
