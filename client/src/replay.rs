//! Which messages were opened before: a window for each content key, kept with the keyring.
//!
//! A message is taken when it opens, and recorded in a log when its reader has dealt with it, just before it
//! is acknowledged: whatever a killed process had in hand comes again, and nothing else opens twice. (The log
//! is not synced: a power cut may forget the last few.)

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use smqtt_core::header::{KID_BYTES, Kid};
use smqtt_core::identity::DeviceId;

use crate::files::{FileError, read_if_any, write_private};

/// How far below the highest number a late message may come.
pub const WINDOW: u64 = 1024;
/// Most content keys that are remembered for one publisher.
pub const KIDS_PER_PUBLISHER_MAX: usize = 64;
/// Most publishers that are remembered.
pub const PUBLISHERS_MAX: usize = 4096;
/// Most messages that a caller may have in hand; above that all count as dealt with.
const IN_HAND_MAX: usize = 65_536;
/// The log is written anew above this.
const LOG_BYTES_MAX: usize = 4 << 20;
const LOG: &str = "replay.log";
/// Instead of a content key: the record is the floor of its publisher.
const FLOOR: [u8; KID_BYTES] = [0xff; KID_BYTES];
/// Instead of a content key: the record has `next` for a number, and three more of content key and `seen` follow.
/// A record for each message would make the log of a reader with a few busy publishers too large to read.
const WHOLE: [u8; KID_BYTES] = [0xfe; KID_BYTES];
const RECORD: usize = KID_BYTES + 16 + 8 + 8;
const SEEN_BYTES: usize = (WINDOW / 8) as usize;
const _: () = assert!(KID_BYTES + SEEN_BYTES == 3 * RECORD);

/// What is known of one content key.
#[derive(Clone, Debug)]
struct Window {
    publisher: DeviceId,
    created: u64,
    /// One above the highest number seen.
    next: u64,
    /// Bit n: the number `next - 1 - n` was seen.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Window {
    fn new(publisher: DeviceId, created: u64) -> Self {
        Self { publisher, created, next: 0, seen: [0; (WINDOW / 64) as usize] }
    }

    /// Whether `counter` was not seen yet; marks it.
    fn take(&mut self, counter: u64) -> bool {
        if counter >= self.next {
            self.shift((counter - self.next).saturating_add(1));
            self.next = counter.saturating_add(1);
            self.seen[0] |= 1;
            return true;
        }
        let back = self.next - 1 - counter;
        if back >= WINDOW {
            return false;
        }
        let (word, bit) = ((back / 64) as usize, 1u64 << (back % 64));
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    /// As if `counter` had not been seen.
    fn forget(&mut self, counter: u64) {
        let back = self.next.saturating_sub(1).saturating_sub(counter);
        if counter < self.next && back < WINDOW {
            self.seen[(back / 64) as usize] &= !(1 << (back % 64));
        }
    }

    fn shift(&mut self, by: u64) {
        let words = self.seen.len();
        let (whole, bits) = ((by / 64).min(words as u64) as usize, by % 64);
        let old = self.seen;
        for i in 0..words {
            let low = if i >= whole { old[i - whole] << bits } else { 0 };
            let carry = if bits > 0 && i > whole { old[i - whole - 1] >> (64 - bits) } else { 0 };
            self.seen[i] = low | carry;
        }
    }
}

/// The windows of all content keys, and the log they are kept in.
#[derive(Debug, Default)]
pub struct Replay {
    windows: HashMap<Kid, Window>,
    /// Of forgotten content keys of a publisher, the newest `created`: nothing older is taken again.
    floors: HashMap<DeviceId, u64>,
    /// Taken and not recorded yet: in hand.
    in_hand: HashSet<(Kid, u64)>,
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: usize,
}

impl Replay {
    /// Windows that live in memory alone.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// The windows in `dir`, read from their log.
    ///
    /// # Errors
    /// [`FileError`] where the log cannot be read or written.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(LOG);
        let mut replay = Self::default();
        let bytes = read_if_any(&path, 16 * LOG_BYTES_MAX)?.unwrap_or_default();
        // A record cut off by a crash is the last one; what is left of it is skipped.
        let mut records = bytes.chunks_exact(RECORD);
        while let Some(record) = records.next() {
            let (kid, rest) = record.split_at(KID_BYTES);
            let (publisher, rest) = rest.split_at(16);
            let (created, counter) = rest.split_at(8);
            let array = |b: &[u8]| u64::from_be_bytes(b.try_into().expect("eight bytes"));
            let publisher = DeviceId(publisher.try_into().expect("16 bytes"));
            if kid == FLOOR {
                replay.floors.insert(publisher, array(created));
            } else if kid == WHOLE {
                let rest: Vec<u8> = records.by_ref().take(3).flatten().copied().collect();
                let Some((kid, seen)) = rest.split_at_checked(KID_BYTES) else { continue };
                let mut window = Window::new(publisher, array(created));
                window.next = array(counter);
                window.seen.iter_mut().zip(seen.chunks_exact(8)).for_each(|(word, b)| *word = array(b));
                replay.windows.insert(Kid(kid.try_into().expect("16 bytes")), window);
            } else {
                let kid = Kid(kid.try_into().expect("16 bytes"));
                replay.note(kid, publisher, array(created), array(counter));
            }
        }
        if bytes.len() > LOG_BYTES_MAX || bytes.len() % RECORD != 0 {
            replay.start_log(path, Some(replay.condensed()))?;
        } else {
            replay.start_log(path, None)?;
        }
        Ok(replay)
    }

    /// Opens the log to append to, written anew if `contents` are given.
    fn start_log(&mut self, path: PathBuf, contents: Option<Vec<u8>>) -> Result<(), FileError> {
        if let Some(contents) = &contents {
            write_private(&path, contents)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|error| FileError::new("open", &path, error))?;
        // Room for as much again, so that a log of many windows is not written anew all the time.
        self.log = Some(Log { path, file, bytes: 0 });
        Ok(())
    }

    /// Whether this message is new; if so it is not from now on, in this process.
    pub fn take(&mut self, kid: Kid, publisher: DeviceId, created: u64, counter: u64) -> bool {
        let new = self.note(kid, publisher, created, counter);
        if new && self.log.is_some() {
            if self.in_hand.len() >= IN_HAND_MAX {
                self.in_hand.clear();
            }
            self.in_hand.insert((kid, counter));
        }
        new
    }

    /// Writes down that this message was dealt with, for the processes after this one.
    ///
    /// # Errors
    /// [`FileError`] where that cannot be written.
    pub fn record(
        &mut self,
        kid: Kid,
        publisher: DeviceId,
        created: u64,
        counter: u64,
    ) -> Result<(), FileError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        self.in_hand.remove(&(kid, counter));
        let written = log.file.write_all(&record(kid, publisher, created, counter));
        written.map_err(|error| FileError::new("write", &log.path, error))?;
        log.bytes += RECORD;
        if log.bytes > LOG_BYTES_MAX {
            let path = log.path.clone();
            self.start_log(path, Some(self.condensed()))?;
        }
        Ok(())
    }

    fn note(&mut self, kid: Kid, publisher: DeviceId, created: u64, counter: u64) -> bool {
        if let Some(window) = self.windows.get_mut(&kid) {
            return window.take(counter);
        }
        if self.floors.get(&publisher).is_some_and(|floor| created <= *floor) {
            return false;
        }
        self.make_room(publisher);
        let mut window = Window::new(publisher, created);
        let new = window.take(counter);
        self.windows.insert(kid, window);
        new
    }

    /// Forgets the oldest content key of a publisher that has too many, and raises its floor.
    fn make_room(&mut self, publisher: DeviceId) {
        let of_publisher = self.windows.iter().filter(|(_, w)| w.publisher == publisher);
        let crowded = of_publisher.clone().count() >= KIDS_PER_PUBLISHER_MAX
            || self.windows.len() >= KIDS_PER_PUBLISHER_MAX * PUBLISHERS_MAX;
        if !crowded {
            return;
        }
        let oldest = of_publisher
            .min_by_key(|(_, w)| w.created)
            .or_else(|| self.windows.iter().min_by_key(|(_, w)| w.created));
        let Some((kid, window)) = oldest.map(|(kid, window)| (*kid, window.clone())) else { return };
        self.windows.remove(&kid);
        let floor = self.floors.entry(window.publisher).or_default();
        *floor = window.created.max(*floor);
    }

    /// A log that yields the same windows, but for what is in hand.
    fn condensed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (publisher, floor) in &self.floors {
            out.extend(record(Kid(FLOOR), *publisher, *floor, 0));
        }
        let mut windows = self.windows.clone();
        for (kid, counter) in &self.in_hand {
            if let Some(window) = windows.get_mut(kid) {
                window.forget(*counter);
            }
        }
        for (kid, window) in &windows {
            out.extend(record(Kid(WHOLE), window.publisher, window.created, window.next));
            out.extend(kid.0);
            out.extend(window.seen.iter().flat_map(|word| word.to_be_bytes()));
        }
        out
    }
}

fn record(kid: Kid, publisher: DeviceId, created: u64, counter: u64) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..16].copy_from_slice(&kid.0);
    out[16..32].copy_from_slice(&publisher.0);
    out[32..40].copy_from_slice(&created.to_be_bytes());
    out[40..].copy_from_slice(&counter.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: DeviceId = DeviceId([1; 16]);

    #[test]
    fn each_number_is_new_once() {
        let mut replay = Replay::in_memory();
        let mut take = |n| replay.take(Kid([0; 16]), WHO, 10, n);
        for n in [0, 5, 3, 4, 200, 199, 70, 5000, 4999, 3977] {
            assert!(take(n), "{n} is new");
            assert!(!take(n), "{n} was seen");
        }
        assert!(!take(3976), "below the window");
        assert!(!take(1), "far below the window");
        assert!(take(u64::MAX - 1));
    }

    #[test]
    fn a_window_agrees_with_a_set() {
        let mut replay = Replay::in_memory();
        let mut seen = std::collections::HashSet::new();
        let mut x = 12345u64;
        for i in 0..20_000u64 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let n = (i / 2 + (x >> 33) % 900).saturating_sub(400);
            assert_eq!(replay.take(Kid([0; 16]), WHO, 1, n), seen.insert(n), "{n}");
        }
    }

    #[test]
    fn the_log_brings_everything_back() {
        let dir = std::env::temp_dir().join(format!("smqtt-replay-{}", std::process::id()));
        crate::files::private_dir(&dir).unwrap();
        let mut first = Replay::open(&dir).unwrap();
        for n in [0, 2, 3, 4] {
            assert!(first.take(Kid([0; 16]), WHO, 10, n));
        }
        // Number 4 was in hand when the process was killed.
        for n in [0, 2, 3] {
            first.record(Kid([0; 16]), WHO, 10, n).unwrap();
        }
        let mut killed = Replay::open(&dir).unwrap();
        assert!(!killed.take(Kid([0; 16]), WHO, 10, 3), "dealt with");
        assert!(killed.take(Kid([0; 16]), WHO, 10, 4), "comes again");
        first.floors.insert(DeviceId([5; 16]), 99);
        let condensed = first.condensed();
        write_private(&dir.join(LOG), &condensed).unwrap();
        drop(first);
        // A crash cut the last record short.
        OpenOptions::new().append(true).open(dir.join(LOG)).unwrap().write_all(&[1, 2, 3]).unwrap();
        let mut second = Replay::open(&dir).unwrap();
        assert!(!second.take(Kid([0; 16]), WHO, 10, 2));
        assert!(second.take(Kid([0; 16]), WHO, 10, 1));
        assert!(second.take(Kid([0; 16]), WHO, 10, 4), "what is in hand is not written by accident");
        assert!(!second.take(Kid([7; 16]), DeviceId([5; 16]), 99, 0));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn forgotten_keys_stay_closed() {
        let mut replay = Replay::in_memory();
        for i in 0..=KIDS_PER_PUBLISHER_MAX as u64 {
            let mut kid = [0; 16];
            kid[..8].copy_from_slice(&i.to_be_bytes());
            assert!(replay.take(Kid(kid), WHO, 100 + i, 0));
        }
        assert!(!replay.take(Kid([0; 16]), WHO, 100, 0), "the oldest was forgotten, not forgiven");
        assert!(replay.take(Kid([9; 16]), DeviceId([2; 16]), 1, 0), "another publisher");
    }
}
