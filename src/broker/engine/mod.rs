//! The seam between the broker's front and what fans messages out.
//!
//! An engine is an ordered bus. The front hands it messages that somebody on this node wants, already accepted and with
//! their receivers; the engine gives each back exactly once, in order, and the front puts it into the sessions' queues.
//! Protocol, sessions and acknowledgements are none of its business.

mod direct;
mod rumqttd;

use std::{future::Future, pin::Pin, sync::Arc};

pub(crate) use self::{direct::Direct, rumqttd::Rumqttd};
use super::fanout::Routed;

/// Takes what the engine gives back: a batch, in order.
pub(crate) type Sink = Arc<dyn Fn(Vec<Routed>) + Send + Sync>;

/// An ordered bus.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Hands over a batch; never blocks, never loses.
    fn submit(&self, batch: Vec<Routed>);

    /// Whether so much is under way that publishers should wait.
    fn is_full(&self) -> bool {
        false
    }

    /// Whether everything that was handed over has been given back.
    fn is_idle(&self) -> bool {
        true
    }

    /// How often what it runs on died and was replaced.
    fn restarts(&self) -> u64 {
        0
    }

    /// Makes what it runs on die, as a client must never be able to. For tests.
    fn break_down(&self) {}

    /// Waits until it is not full.
    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}
