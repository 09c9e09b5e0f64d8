//! Hardware counters of this thread: CPU cycles and instructions in user mode, where the machine tells.

/// The counters, or why there are none.
#[derive(Debug)]
pub struct Counters {
    #[cfg(target_os = "linux")]
    open: Option<linux::Open>,
    state: String,
}

impl Counters {
    /// Asks the machine. Never fails: a machine that does not tell is an ordinary machine.
    pub fn new() -> Self {
        #[cfg(target_os = "linux")]
        return match linux::Open::new() {
            Ok(open) => Self { open: Some(open), state: "counted by the processor, user mode".to_owned() },
            Err(error) => {
                Self { open: None, state: format!("not told by this machine: perf_event_open: {error}") }
            }
        };
        #[cfg(not(target_os = "linux"))]
        Self::none()
    }

    /// Counts nothing.
    pub fn none() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            open: None,
            state: "not told by this system".to_owned(),
        }
    }

    /// Where the figures come from, or why there are none.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Begins to count.
    pub fn begin(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(open) = &mut self.open {
            open.begin();
        }
    }

    /// Cycles since [`Counters::begin`].
    pub fn end_cycles(&mut self) -> Option<f64> {
        self.end().map(|(cycles, _)| cycles)
    }

    /// Cycles and instructions since [`Counters::begin`].
    pub fn end(&mut self) -> Option<(f64, f64)> {
        #[cfg(target_os = "linux")]
        return self.open.as_mut()?.end();
        #[cfg(not(target_os = "linux"))]
        None
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use perf_event::events::Hardware;
    use perf_event::{Builder, Counter, Group};

    #[derive(Debug)]
    pub struct Open {
        group: Group,
        cycles: Counter,
        instructions: Counter,
    }

    impl Open {
        pub fn new() -> std::io::Result<Self> {
            let mut group = Group::new()?;
            let cycles = Builder::new().group(&mut group).kind(Hardware::CPU_CYCLES).build()?;
            let instructions = Builder::new().group(&mut group).kind(Hardware::INSTRUCTIONS).build()?;
            let mut open = Self { group, cycles, instructions };
            open.begin();
            // Some virtual machines open the counters and never count.
            std::hint::black_box((0..10_000u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
            match open.end() {
                Some(_) => Ok(open),
                None => Err(std::io::Error::other("the counters stand still")),
            }
        }

        pub fn begin(&mut self) {
            // What cannot be reset or enabled reads as zero, and zero is not told.
            _ = self.group.reset().and_then(|()| self.group.enable());
        }

        pub fn end(&mut self) -> Option<(f64, f64)> {
            self.group.disable().ok()?;
            let counts = self.group.read().ok()?;
            let (cycles, instructions) = (counts[&self.cycles], counts[&self.instructions]);
            (cycles > 0 && instructions > 0).then_some((cycles as f64, instructions as f64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_or_says_why_not() {
        let mut counters = Counters::new();
        counters.begin();
        match counters.end() {
            Some((cycles, instructions)) => assert!(cycles > 0.0 && instructions > 0.0),
            None => assert!(counters.state().contains("not told"), "{}", counters.state()),
        }
        assert_eq!(Counters::none().end_cycles(), None);
    }
}
