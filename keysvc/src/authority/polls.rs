//! Who waits for news, and what each said that it has: how a device hears at once that its own keys changed, and how an
//! administrator learns who goes by which bundle. In memory alone: whoever asks again says it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smqtt_core::identity::{DeviceId, Role};
use tokio::sync::{Notify, watch};

/// For how long whoever asked counts as connected afterwards: a client asks again after at most half of that.
pub(super) const CONNECTED_SECONDS: u64 = 60;

/// How often one certificate may wait for news at a time: each wait is a connection, of which there are only so many for all.
pub(super) const WAITS_OF_ONE_MAX: usize = 16;

/// Everyone who asked since the authority started. Only whom the store knows gets in here, so that it is bounded by that.
pub(super) struct Polls {
    of: Mutex<HashMap<DeviceId, Poll>>,
    /// The revision of the newest change to any device.
    directory: watch::Sender<u64>,
}

struct Poll {
    /// Whether it may publish.
    publishes: bool,
    bundle: u64,
    at: u64,
    waiting: usize,
    changed: Arc<Notify>,
}

impl Poll {
    fn heard(&self) -> Heard {
        Heard { bundle: self.bundle, at: self.at, waiting: self.waiting > 0 }
    }
}

/// What somebody said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The highest number of a bundle that it said it has.
    pub(super) bundle: u64,
    /// When it was heard.
    pub(super) at: u64,
    /// Whether it is waiting for news now.
    pub(super) waiting: bool,
}

impl Heard {
    /// Whether news reach it now.
    pub(super) fn is_connected(&self, now: u64) -> bool {
        self.waiting || now.saturating_sub(self.at) <= CONNECTED_SECONDS
    }
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

    /// Somebody asks, and says that it has this bundle; `None` where it waits too often already.
    pub(super) fn begin(&self, id: DeviceId, role: Role, bundle: u64, now: u64) -> Option<Polling<'_>> {
        let mut of = self.lock();
        let (publishes, changed) = (matches!(role, Role::Device | Role::Bridge), Arc::default());
        let poll = of.entry(id).or_insert(Poll { publishes, bundle, at: now, waiting: 0, changed });
        if poll.waiting >= WAITS_OF_ONE_MAX {
            return None;
        }
        poll.bundle = bundle;
        poll.at = now;
        poll.waiting += 1;
        Some(Polling { polls: self, id, changed: poll.changed.clone() })
    }

    /// How many publishers are connected, with this bundle and without.
    pub(super) fn publishers(&self, bundle: u64, now: u64) -> (u64, u64) {
        let of = self.lock();
        let connected = of
            .values()
            .filter(|poll| poll.publishes)
            .map(Poll::heard)
            .filter(|heard| heard.is_connected(now));
        connected.fold((0, 0), |(told, behind), heard| match heard.bundle >= bundle {
            true => (told + 1, behind),
            false => (told, behind + 1),
        })
    }

    /// Forgets whoever was not heard since then.
    pub(super) fn forget_before(&self, before: u64) {
        self.lock().retain(|_, poll| poll.waiting > 0 || poll.at >= before);
    }

    /// What somebody said last.
    pub(super) fn heard(&self, id: DeviceId) -> Option<Heard> {
        let of = self.lock();
        of.get(&id).map(Poll::heard)
    }
}

/// A question under way.
pub(super) struct Polling<'a> {
    polls: &'a Polls,
    id: DeviceId,
    /// Told whenever the one who asks changes.
    pub(super) changed: Arc<Notify>,
}

impl Polling<'_> {
    /// It was heard until now.
    pub(super) fn end(self, now: u64) {
        if let Some(poll) = self.polls.lock().get_mut(&self.id) {
            poll.at = now;
        }
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        if let Some(poll) = self.polls.lock().get_mut(&self.id) {
            poll.waiting = poll.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_connected_and_whoever_left_is_for_a_minute() {
        let polls = Polls::new(0);
        let id = DeviceId([1; 16]);
        assert_eq!(polls.heard(id), None);
        let first = polls.begin(id, Role::Device, 4, 100).unwrap();
        let second = polls.begin(id, Role::Device, 5, 110).unwrap();
        drop(first);
        assert_eq!(polls.heard(id), Some(Heard { bundle: 5, at: 110, waiting: true }));
        assert!(polls.heard(id).unwrap().is_connected(9999));
        second.end(140);
        assert!(polls.heard(id).unwrap().is_connected(200));
        assert!(!polls.heard(id).unwrap().is_connected(201));
        assert_eq!((polls.publishers(5, 200), polls.publishers(6, 200)), ((1, 0), (0, 1)));
        assert_eq!(polls.publishers(5, 201), (0, 0));
        polls.forget_before(141);
        assert_eq!(polls.heard(id), None);
    }

    #[test]
    fn nobody_waits_without_end_at_once_and_nobody_else_is_kept_from_it() {
        let polls = Polls::new(0);
        let begin = |n| polls.begin(DeviceId([n; 16]), Role::Device, 1, 100);
        let waiting: Vec<_> = (0..WAITS_OF_ONE_MAX).map(|_| begin(1).unwrap()).collect();
        assert!(begin(1).is_none() && begin(2).is_some());
        drop(waiting);
        assert!(begin(1).is_some());
    }

    #[test]
    fn revisions_only_rise() {
        let polls = Polls::new(3);
        polls.changed(DeviceId([1; 16]), 5);
        polls.changed(DeviceId([2; 16]), 4);
        assert_eq!(polls.revision(), 5);
    }
}
