//! How much memory may go into speed.
//!
//! Points that are raised to secret scalars again and again get tables of their multiples. Under
//! [`Profile::Standard`] a process holds at most
//!
//! - one table for each of [`LABELS_MAX`] labels it used often and lately,
//! - one for each of three fixed points,
//! - one for each set of public parameters it seals under often (288 KiB),
//!
//! and with each user secret key that it opens with, as long as it holds the key, [`LINES_BYTES`] for each of its points of
//! G2: one in a key for attributes, and in a key with a policy as many as the label that occurs most often has
//! occurrences, 16 at most.
//!
//! A device that has no megabytes to spare says [`Profile::Small`] once, at its start: then there is none of this,
//! nothing is kept but the points of some labels, and everything gives the same bytes, more slowly.

use std::sync::atomic::{AtomicBool, Ordering};

pub use crate::curve::{LINES_BYTES, TABLE_BYTES};

/// How many labels have a table at a time.
pub const LABELS_MAX: usize = 256;
/// How many labels are remembered as points under [`Profile::Small`]: about 200 bytes each.
pub const SMALL_LABELS_MAX: usize = 64;
/// Most bytes of tables for labels: 20 MB.
pub const BYTES_MAX: usize = LABELS_MAX * TABLE_BYTES;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Tables, within the bounds of this module.
    Standard,
    /// No tables.
    Small,
}

static SMALL: AtomicBool = AtomicBool::new(false);

/// Chooses for the whole process. Tables that are there already stay in use.
pub fn choose(profile: Profile) {
    SMALL.store(profile == Profile::Small, Ordering::Relaxed);
}

/// What was chosen; [`Profile::Standard`] if nothing was.
pub fn profile() -> Profile {
    if SMALL.load(Ordering::Relaxed) { Profile::Small } else { Profile::Standard }
}
