//! The questions, each in one file: what is measured for it, and what was promised.

pub mod device;
pub mod mode;
pub mod ratios;
pub mod schemes;
pub mod subscribers;

use crate::counters::Counters;
use crate::plan::Plan;
use crate::progress::{Progress, Silent};
use crate::role::Roles;

/// What every question gets.
pub struct Context<'a> {
    /// How much to measure.
    pub plan: &'a Plan,
    /// Whom to tell, and who may stop it.
    pub progress: &'a dyn Progress,
    /// The hardware counters of this thread.
    pub counters: Counters,
    /// What runs in a process of its own.
    pub roles: &'a Roles,
    /// The user's device: so many times slower than this machine.
    pub slow: Option<f64>,
    /// What was left out, and why.
    pub omitted: Vec<String>,
}

impl<'a> Context<'a> {
    /// Tells nobody and is never stopped.
    pub fn silent(plan: &'a Plan, roles: &'a Roles) -> Self {
        let counters = Counters::new();
        Self { plan, progress: &Silent, counters, roles, slow: None, omitted: Vec::new() }
    }

    /// Tells what is measured next; whether to go on.
    fn step(&self, what: &str) -> bool {
        if self.progress.stopped() {
            return false;
        }
        self.progress.step(what);
        true
    }

    fn stopped(&self) -> bool {
        self.progress.stopped()
    }

    fn omit(&mut self, what: String) {
        if !self.omitted.contains(&what) {
            self.omitted.push(what);
        }
    }
}
