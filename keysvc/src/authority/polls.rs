//! Who waits for news: how a device hears at once that its own keys changed, though no bundle says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smqtt_core::identity::DeviceId;
use tokio::sync::{Notify, watch};

/// Everyone who asks now.
pub(super) struct Polls {
    of: Mutex<HashMap<DeviceId, Poll>>,
    /// The revision of the newest change to any device.
    directory: watch::Sender<u64>,
}

struct Poll {
    waiting: usize,
    changed: Arc<Notify>,
}

impl Polls {
    pub(super) fn new(revision: u64) -> Self {
        Self { of: Mutex::default(), directory: watch::Sender::new(revision) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Poll>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the newest change to any device.
    pub(super) fn revision(&self) -> u64 {
        *self.directory.borrow()
    }

    pub(super) fn directory(&self) -> watch::Receiver<u64> {
        self.directory.subscribe()
    }

    /// A device changed, and that is on disk.
    pub(super) fn changed(&self, id: DeviceId, revision: u64) {
        self.directory.send_if_modified(|known| std::mem::replace(known, revision.max(*known)) < revision);
        if let Some(poll) = self.lock().get(&id) {
            poll.changed.notify_waiters();
        }
    }

    /// Somebody asks.
    pub(super) fn begin(&self, id: DeviceId) -> Polling<'_> {
        let mut of = self.lock();
        let poll = of.entry(id).or_insert(Poll { waiting: 0, changed: Arc::default() });
        poll.waiting += 1;
        Polling { polls: self, id, changed: poll.changed.clone() }
    }
}

/// A question under way.
pub(super) struct Polling<'a> {
    polls: &'a Polls,
    id: DeviceId,
    /// Told whenever the one who asks changes.
    pub(super) changed: Arc<Notify>,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut of = self.polls.lock();
        if let Some(poll) = of.get_mut(&self.id) {
            poll.waiting = poll.waiting.saturating_sub(1);
            if poll.waiting == 0 {
                of.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_only_rise() {
        let polls = Polls::new(3);
        polls.changed(DeviceId([1; 16]), 5);
        polls.changed(DeviceId([2; 16]), 4);
        assert_eq!(polls.revision(), 5);
    }
}
