//! No engine: the publisher's own task does the fan-out.

use super::{Engine, Sink};
use crate::broker::fanout::Routed;

pub(crate) struct Direct {
    sink: Sink,
}

impl Direct {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink }
    }
}

impl Engine for Direct {
    fn submit(&self, batch: Vec<Routed>) {
        (self.sink)(batch);
    }
}
