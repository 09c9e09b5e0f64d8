//! What a run tells while it goes on, and how it is told to end.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Told what is being measured, and asked whether to go on.
pub trait Progress: Send + Sync {
    /// A question begins that takes about `steps` measurements.
    fn begin(&self, question: &str, steps: u64);

    /// The next measurement begins.
    fn step(&self, what: &str);

    /// How far the question has come, 0 to 1, where it counts in shares rather than steps.
    fn reached(&self, what: &str, share: f64);

    /// Whether somebody wants the run to end. Asked between measurements.
    fn stopped(&self) -> bool;
}

/// Says nothing and never stops.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}

    fn step(&self, _: &str) {}

    fn reached(&self, _: &str, _: f64) {}

    fn stopped(&self) -> bool {
        false
    }
}

/// A bar on a terminal, plain lines elsewhere; both to standard error.
#[derive(Default)]
pub struct Bars {
    stop: AtomicBool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run after the current measurement.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn begin(&self, question: &str, steps: u64) {
        self.finish();
        if !std::io::stderr().is_terminal() {
            // A reader that has gone away must not end a measurement.
            _ = writeln!(std::io::stderr(), "{question}");
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{prefix:<12} {bar:30} {pos:>4}/{len:<4} {elapsed:>4}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(question.to_owned());
        *self.bar() = Some(bar);
    }

    fn step(&self, what: &str) {
        if let Some(bar) = &*self.bar() {
            bar.inc(1);
            bar.set_message(what.to_owned());
        }
    }

    fn reached(&self, what: &str, share: f64) {
        if let Some(bar) = &*self.bar() {
            let length = bar.length().unwrap_or_default() as f64;
            bar.set_position((share.clamp(0.0, 1.0) * length) as u64);
            bar.set_message(what.to_owned());
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
