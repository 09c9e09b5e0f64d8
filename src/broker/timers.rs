//! Wakes the broker for sessions that expire and wills that become due.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time};

use super::{Timestamp, core::Core, session::Session};

/// How often expired retained messages are looked for. They are never delivered, also before that.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Timers {
    /// The number tells entries of the same time apart.
    entries: Mutex<(BTreeMap<(Timestamp, u64), Weak<Session>>, u64)>,
    changed: Notify,
}

impl Timers {
    /// Has the session looked at then.
    pub(crate) fn add(&self, at: Timestamp, session: &Arc<Session>) {
        let mut entries = self.entries.lock();
        entries.1 += 1;
        let number = entries.1;
        entries.0.insert((at, number), Arc::downgrade(session));
        let first = entries.0.first_key_value().is_some_and(|((_, first), _)| *first == number);
        drop(entries);
        if first {
            self.changed.notify_one();
        }
    }

    fn due(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let mut entries = self.entries.lock();
        let later = entries.0.split_off(&(Timestamp(now.0.saturating_add(1)), 0));
        std::mem::replace(&mut entries.0, later)
            .into_values()
            .filter_map(|session| session.upgrade())
            .collect()
    }

    fn next(&self) -> Option<Timestamp> {
        self.entries.lock().0.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Runs for as long as the broker.
pub(crate) async fn run(core: Arc<Core>) {
    let mut sweep = time::interval(SWEEP_INTERVAL);
    loop {
        let next = core.timers.next().map(|at| core.clock.instant(at));
        tokio::select! {
            () = core.timers.changed.notified() => {}
            () = async { time::sleep_until(next.unwrap_or_else(time::Instant::now)).await }, if next.is_some() => {
                core.timers.due(core.clock.now()).iter().for_each(|session| core.look_again(session));
            }
            _ = sweep.tick() => core.sweep(),
        }
    }
}
