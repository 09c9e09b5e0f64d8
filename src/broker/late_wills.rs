//! Wills that are due and could not be published yet: the disk is full, or a hook does not know yet whether it may let
//! them through.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::session::{PendingWill, Session};

/// Wills that wait. Beyond that they are refused.
const LATE_WILLS_MAX: usize = 10_000;

/// In the order in which they became due, with the sessions whose rows on disk still have them.
#[derive(Default)]
pub(crate) struct LateWills {
    waiting: Mutex<VecDeque<(PendingWill, Arc<Session>)>>,
    any: AtomicBool,
}

impl LateWills {
    /// Keeps one for later. Gives it back if there is no room.
    pub(crate) fn add(&self, will: PendingWill, session: &Arc<Session>) -> Option<PendingWill> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= LATE_WILLS_MAX {
            return Some(will);
        }
        if waiting.is_empty() {
            tracing::warn!(client = %session.client_id, "a will cannot be published yet: trying again");
        }
        waiting.push_back((will, session.clone()));
        self.any.store(true, Ordering::Release);
        None
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// All of them.
    pub(crate) fn take(&self) -> VecDeque<(PendingWill, Arc<Session>)> {
        let mut waiting = self.waiting.lock();
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut waiting)
    }

    /// Those of certain sessions are void.
    pub(crate) fn forget(&self, mut which: impl FnMut(&Session) -> bool) {
        self.waiting.lock().retain(|(_, session)| !which(session));
    }
}
