//! Attacks on what a reader remembers of messages it opened: by messages, and by time.

use std::path::PathBuf;

use smqtt_client::replay::{KIDS_PER_PUBLISHER_MAX, Replay, WINDOW};
use smqtt_core::header::Kid;
use smqtt_core::identity::DeviceId;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("smqtt-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kid(publisher: u8, number: u64) -> Kid {
    let mut kid = [publisher; 16];
    kid[8..].copy_from_slice(&number.to_be_bytes());
    Kid(kid)
}

/// Publishers that send as fast as they may, for as long as they like, do not fill a reader's log until it cannot be
/// read any more.
#[test]
fn busy_publishers_do_not_shut_a_reader_out_of_its_own_log() {
    let dir = Scratch::new("replay-busy");
    let (publishers, kids) = (24, KIDS_PER_PUBLISHER_MAX as u64);
    // What earlier processes appended, a record for each message. Full windows of all the content keys that are kept.
    let mut log = Vec::new();
    for publisher in 0..publishers {
        for number in 0..kids {
            for counter in 0..WINDOW {
                log.extend(kid(publisher, number).0);
                log.extend([publisher; 16]);
                log.extend(number.to_be_bytes());
                log.extend(counter.to_be_bytes());
            }
        }
        // As often as it starts, it writes the log anew.
        std::fs::write(dir.0.join("replay.log"), &log).unwrap();
        let mut replay = Replay::open(&dir.0).expect("the log can be read");
        log = std::fs::read(dir.0.join("replay.log")).unwrap();
        let who = DeviceId([publisher; 16]);
        assert!(!replay.take(kid(publisher, 5), who, 5, WINDOW - 1), "seen before");
    }
    let mut replay = Replay::open(&dir.0).unwrap();
    for publisher in 0..publishers {
        for number in 0..kids {
            let who = DeviceId([publisher; 16]);
            assert!(!replay.take(kid(publisher, number), who, number, 0));
            assert!(!replay.take(kid(publisher, number), who, number, WINDOW - 1));
            assert!(replay.take(kid(publisher, number), who, number, WINDOW));
        }
    }
    // Written anew, that is; what this process appended is not counted.
    let bytes = log.len();
    assert!(bytes < 8 << 20, "{bytes} bytes");
}

/// Old messages of forgotten content keys stay closed, also where many were made in the same second, and newer ones
/// open.
#[test]
fn what_was_forgotten_was_not_forgiven() {
    let dir = Scratch::new("replay-forgotten");
    let mut replay = Replay::open(&dir.0).unwrap();
    let who = DeviceId([1; 16]);
    for number in 0..3 * KIDS_PER_PUBLISHER_MAX as u64 {
        assert!(replay.take(kid(1, number), who, number, 0));
        replay.record(kid(1, number), who, number, 0).unwrap();
    }
    for restarted in [false, true] {
        if restarted {
            replay = Replay::open(&dir.0).unwrap();
        }
        for number in 0..3 * KIDS_PER_PUBLISHER_MAX as u64 {
            assert!(!replay.take(kid(1, number), who, number, 0), "{number}, restarted: {restarted}");
        }
    }
    // Another device's headers are not older for it, and its old ones cannot push these out.
    for number in 0..3 * KIDS_PER_PUBLISHER_MAX as u64 {
        assert!(replay.take(kid(2, number), DeviceId([2; 16]), number, 0));
    }
    let newest = 3 * KIDS_PER_PUBLISHER_MAX as u64 - 1;
    assert!(replay.take(kid(1, newest), who, newest, 1));
    assert!(!replay.take(kid(1, newest), who, newest, 0));
}

/// A message in hand when the process dies comes again; one that was dealt with does not, whatever is cut off the log.
#[test]
fn a_log_cut_off_anywhere_opens_no_more_than_what_was_cut() {
    let dir = Scratch::new("replay-cut");
    let who = DeviceId([1; 16]);
    let mut replay = Replay::open(&dir.0).unwrap();
    for counter in 0..8 {
        assert!(replay.take(kid(1, 0), who, 0, counter));
        replay.record(kid(1, 0), who, 0, counter).unwrap();
    }
    assert!(replay.take(kid(1, 0), who, 0, 8), "in hand, and never dealt with");
    drop(replay);
    let log = std::fs::read(dir.0.join("replay.log")).unwrap();
    let record = log.len() / 8;
    for cut in 0..=log.len() {
        std::fs::write(dir.0.join("replay.log"), &log[..cut]).unwrap();
        for _ in 0..2 {
            let mut replay = Replay::open(&dir.0).unwrap();
            for counter in 0..9 {
                let known = ((counter + 1) as usize) * record <= cut;
                assert_eq!(replay.take(kid(1, 0), who, 0, counter), !known, "{counter} of {cut} bytes");
            }
        }
    }
}
