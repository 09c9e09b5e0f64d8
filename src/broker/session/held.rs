//! How many bytes of messages a session holds, and all sessions together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::outgoing::Queued;
use crate::broker::message::Message;

/// What a place in a queue counts for, beside its message.
pub(crate) const PLACE_BYTES: usize = 128;

// A queue that grows has twice the room that it needs.
const _: () = assert!(2 * size_of::<Queued>() <= PLACE_BYTES);

/// What all sessions of a broker hold together: each message once, however many it is for, and a place for each of
/// those. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Total(Arc<Shared>);

/// All threads move it for each message: nothing else is in its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shared {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Total {
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

/// What one session holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    total: Total,
}

impl Held {
    /// Nothing yet. What comes is part of `total`.
    pub(crate) fn within(total: &Total) -> Self {
        Self { bytes: 0, total: total.clone() }
    }

    /// Bytes of its messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What all sessions hold.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total.bytes()
    }

    /// A place is taken: by a message, or by what is left of a delivery.
    pub(crate) fn add(&mut self, message: Option<&Message>) {
        let mut bytes = PLACE_BYTES;
        if let Some(message) = message {
            self.bytes += message.queue_bytes();
            // The first who holds it pays for it. In this order with those who let go of it, as for any count of references.
            let first = message.holders.fetch_add(1, Ordering::AcqRel) == 0;
            bytes += if first { message.queue_bytes() } else { 0 };
        }
        self.total.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A place is free again, with the message if there still was one.
    pub(crate) fn remove(&mut self, message: Option<&Message>) {
        let bytes = PLACE_BYTES + message.map_or(0, |message| self.let_go(message));
        self.total.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The message is no longer needed; its place is.
    pub(crate) fn release(&mut self, message: &Message) {
        let bytes = self.let_go(message);
        self.total.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What the total is less by.
    fn let_go(&mut self, message: &Message) -> usize {
        self.bytes -= message.queue_bytes();
        let last = message.holders.fetch_sub(1, Ordering::AcqRel) == 1;
        if last { message.queue_bytes() } else { 0 }
    }

    /// A message was dropped as the total left no room: the how-manieth of all sessions.
    pub(crate) fn dropped(&self) -> u64 {
        self.total.0.dropped.fetch_add(1, Ordering::Relaxed) + 1
    }
}
