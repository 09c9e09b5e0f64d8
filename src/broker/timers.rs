//! Wakes the broker for sessions that expire and wills that become due.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time};

use super::{Timestamp, core::Core, session::Session, sys};

/// How often expired retained messages are looked for. They are never delivered, also before that.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How often wills that could not be published are tried again.
const LATE_WILLS_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Timers {
    entries: Mutex<Entries>,
    changed: Notify,
}

#[derive(Default)]
struct Entries {
    /// The number tells entries of the same time apart.
    sessions: BTreeMap<(Timestamp, u64), Weak<Session>>,
    last_number: u64,
}

impl Timers {
    /// Has the session looked at then.
    pub(crate) fn add(&self, at: Timestamp, session: &Arc<Session>) {
        let mut entries = self.entries.lock();
        entries.last_number += 1;
        let number = entries.last_number;
        entries.sessions.insert((at, number), Arc::downgrade(session));
        let first = entries.sessions.first_key_value().is_some_and(|((_, first), _)| *first == number);
        drop(entries);
        if first {
            self.changed.notify_one();
        }
    }

    /// Has everything looked at that may be due.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    fn due(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let mut entries = self.entries.lock();
        let later = entries.sessions.split_off(&(Timestamp(now.0.saturating_add(1)), 0));
        std::mem::replace(&mut entries.sessions, later)
            .into_values()
            .filter_map(|session| session.upgrade())
            .collect()
    }

    fn next(&self) -> Option<Timestamp> {
        self.entries.lock().sessions.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Runs for as long as the broker.
pub(crate) async fn run(core: Arc<Core>) {
    let mut sweep = time::interval(SWEEP_INTERVAL);
    let mut late_wills = time::interval(LATE_WILLS_INTERVAL);
    late_wills.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let (mut statistics, mut published) = (core.config.sys_interval.map(time::interval), Vec::new());
    if let Some(statistics) = &mut statistics {
        statistics.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    }
    loop {
        let next = core.timers.next().map(|at| core.clock.instant(at));
        tokio::select! {
            () = core.timers.changed.notified() => {}
            () = async { time::sleep_until(next.unwrap_or_else(time::Instant::now)).await }, if next.is_some() => {
                core.timers.due(core.clock.now()).iter().for_each(|session| core.look_again(session));
            }
            _ = sweep.tick() => core.sweep(),
            () = tick(&mut statistics) => sys::publish(&core, &mut published),
            _ = late_wills.tick(), if core.late_wills.any() => core.publish_late_wills(),
        }
    }
}

/// The next tick; never without an interval.
async fn tick(interval: &mut Option<time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
