//! How many bytes of messages a session holds, and all sessions together.
//!
//! A message counts for all sessions from when it is queued for the first one until nobody has it any more, so that it counts once,
//! however many it is for. The newest of a topic that is retained counts with the retained messages instead. Places in queues
//! count as queues grow, by doubling, and until they are empty. So what moves for each delivery is the session's own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use super::outgoing::Queued;
use crate::broker::message::Message;

/// What a place in a queue counts for, beside its message.
pub(crate) const PLACE_BYTES: usize = 96;

const _: () = assert!(size_of::<Queued>() <= PLACE_BYTES);

/// Places of a session that do not count: less than the session itself takes.
const PLACES_FREE: usize = 4;

/// What all sessions of a broker hold together. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Total(Arc<Shared>);

/// Moved by all threads: nothing else is in its cache line.
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

    /// Counts a message from now on, unless it is counted already or with the retained messages.
    pub(crate) fn count(&self, message: &Message) {
        if !message.is_newest.load(Ordering::Relaxed) {
            let bytes = message.queue_bytes();
            let counted = message.counted.get_or_init(|| Counted {
                total: self.clone(),
                bytes,
                counts: AtomicBool::new(false),
            });
            if !counted.counts.load(Ordering::Relaxed) && !counted.counts.swap(true, Ordering::Relaxed) {
                self.add(bytes);
            }
        }
    }

    fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// That a message counts. Goes with it.
#[derive(Debug)]
pub(crate) struct Counted {
    total: Total,
    bytes: usize,
    counts: AtomicBool,
}

impl Counted {
    /// It counts with the retained messages again.
    pub(crate) fn pause(&self) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.total.remove(self.bytes);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.pause();
    }
}

/// What one session holds.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    places: usize,
    /// Places that have been paid for.
    places_paid: usize,
    total: Total,
}

impl Default for Held {
    fn default() -> Self {
        Self::within(&Total::default())
    }
}

impl Held {
    /// Nothing yet. What comes is part of `total`.
    pub(crate) fn within(total: &Total) -> Self {
        Self { bytes: 0, places: 0, places_paid: PLACES_FREE, total: total.clone() }
    }

    /// Bytes of its messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the session, with a message that counts for so many bytes, would hold no more than is left of `bytes_max` for
    /// all.
    pub(crate) fn fits(&self, bytes: usize, bytes_max: usize) -> bool {
        let growth = if self.places < self.places_paid { 0 } else { self.places_paid * PLACE_BYTES };
        self.bytes + bytes + growth <= bytes_max.saturating_sub(self.total.bytes())
    }

    /// A place is taken: by a message, or by what is left of a delivery.
    pub(crate) fn add(&mut self, message: Option<&Message>) {
        if self.places == self.places_paid {
            self.total.add(self.places_paid * PLACE_BYTES);
            self.places_paid *= 2;
        }
        self.places += 1;
        if let Some(message) = message {
            self.bytes += message.queue_bytes();
            self.total.count(message);
        }
    }

    /// A place is free again, with the message if there still was one.
    pub(crate) fn remove(&mut self, message: Option<&Message>) {
        self.places -= 1;
        if self.places == 0 && self.places_paid > PLACES_FREE {
            self.total.remove((self.places_paid - PLACES_FREE) * PLACE_BYTES);
            self.places_paid = PLACES_FREE;
        }
        message.into_iter().for_each(|message| self.release(message));
    }

    /// The message is no longer needed; its place is.
    pub(crate) fn release(&mut self, message: &Message) {
        self.bytes -= message.queue_bytes();
    }

    /// A message was dropped as the total left no room: the how-manieth of all sessions.
    pub(crate) fn dropped(&self) -> u64 {
        self.total.0.dropped.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;

    #[test]
    fn a_message_counts_once_and_places_as_they_double() {
        let total = Total::default();
        let mut sessions = [(); 3].map(|()| Held::within(&total));
        let message = Message::new("a".into(), "x".into(), QoS::AtMostOnce, false).share();
        let bytes = message.queue_bytes();
        sessions.iter_mut().for_each(|held| held.add(Some(&message)));
        assert_eq!(total.bytes(), bytes);
        let held = &mut sessions[0];
        for places in 2..=100usize {
            let paid = if places <= 4 { 0 } else { (places.next_power_of_two() - 4) * PLACE_BYTES };
            // It is said before it is so.
            let needed = held.bytes() + bytes + (bytes + paid);
            assert!(held.fits(bytes, needed) && !held.fits(bytes, needed - 1));
            held.add(Some(&message));
            assert_eq!((total.bytes(), held.bytes()), (bytes + paid, places * bytes));
        }
        for places in (0..100).rev() {
            held.remove(Some(&message));
            assert_eq!(total.bytes() > bytes, places > 0);
        }
        assert_eq!(held.bytes(), 0);
        drop(message);
        assert_eq!(total.bytes(), 0);
    }
}
