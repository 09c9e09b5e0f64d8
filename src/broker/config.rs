//! What an operator may set, with the defaults.

use std::{path::PathBuf, time::Duration};

pub use super::limits::Limits;

/// How a broker behaves. `Config::default()` is a sensible broker without hooks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Bounds on everything that clients can make the broker do or keep.
    pub limits: Limits,
    /// What happens where every hook defers.
    pub default_verdict: DefaultVerdict,
    /// What fans messages out.
    pub engine: EngineKind,
    /// Directory for what outlives the process; without one, everything is forgotten at its end.
    pub data: Option<PathBuf>,
    /// How often what has changed of the statistics under `$SYS/` is published; `None` for no statistics. 10 s.
    pub sys_interval: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            default_verdict: DefaultVerdict::Allow,
            engine: EngineKind::Direct,
            data: None,
            sys_interval: Some(Duration::from_secs(10)),
        }
    }
}

/// What happens where every hook defers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultVerdict {
    /// Let it happen.
    Allow,
    /// Refuse with "not authorized".
    Deny,
}

/// Which engine fans messages out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineKind {
    /// rumqttd's router, embedded.
    Rumqttd,
    /// The publisher's own task, without a router.
    Direct,
}
