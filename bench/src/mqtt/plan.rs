//! How much of MQTT is measured: within twenty seconds, two minutes or ten.

use super::{HEADLINE_BYTES, HEADLINE_QOS};

/// A quality of service and a payload size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// 0, 1, 2.
    pub qos: u8,
    /// Bytes.
    pub payload_bytes: usize,
}

/// How much is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where latency and bytes are measured.
    pub cells: Vec<Cell>,
    /// Where rates and CPU time are measured.
    pub streams: Vec<Cell>,
    /// Messages of a block.
    pub block: u32,
    /// Blocks of each mode in a cell.
    pub rounds: u32,
    /// Messages with a header of their own in a cell.
    pub fresh: u32,
    /// Pairs of blocks of the headline.
    pub pairs: u32,
    /// How long a stream lasts.
    pub stream_seconds: f64,
    /// Streams of each mode in a cell.
    pub stream_rounds: u32,
    /// Messages that are counted in a cell.
    pub counted: u32,
    /// Devices that share the headers of [`Mode::SealedPerMessage`](super::Mode::SealedPerMessage).
    pub publishers: usize,
}

/// Payload sizes of the evaluation.
pub const PAYLOADS: [usize; 6] = [16, 256, 1024, 4096, 16_384, 65_536];

impl Plan {
    /// Within 20 seconds: each payload at QoS 1, each QoS at 256 bytes.
    pub fn quick() -> Self {
        Self {
            cells: cross(),
            streams: vec![Cell { qos: HEADLINE_QOS, payload_bytes: HEADLINE_BYTES }],
            block: 20,
            rounds: 5,
            fresh: 8,
            pairs: 120,
            stream_seconds: 0.4,
            stream_rounds: 2,
            counted: 5,
            publishers: 6,
        }
    }

    /// Within two minutes: latency of each payload at each QoS.
    pub fn standard() -> Self {
        Self {
            cells: matrix(),
            streams: cross(),
            rounds: 15,
            fresh: 20,
            pairs: 600,
            stream_seconds: 0.4,
            counted: 10,
            publishers: 16,
            ..Self::quick()
        }
    }

    /// Within ten minutes: everything at everything.
    pub fn full() -> Self {
        Self {
            streams: matrix(),
            rounds: 40,
            fresh: 60,
            pairs: 4000,
            stream_seconds: 0.5,
            stream_rounds: 4,
            publishers: 24,
            ..Self::standard()
        }
    }

    /// A handful of messages, to see that all of it works.
    pub fn smoke() -> Self {
        let cell = Cell { qos: HEADLINE_QOS, payload_bytes: HEADLINE_BYTES };
        Self {
            cells: vec![cell, Cell { qos: 0, payload_bytes: 16 }, Cell { qos: 2, payload_bytes: 65_536 }],
            streams: vec![cell],
            block: 2,
            rounds: 1,
            fresh: 1,
            pairs: 2,
            stream_seconds: 0.05,
            stream_rounds: 1,
            counted: 2,
            publishers: 2,
        }
    }
}

/// Each payload at QoS 1, each QoS at 256 bytes.
fn cross() -> Vec<Cell> {
    matrix().into_iter().filter(|c| c.qos == HEADLINE_QOS || c.payload_bytes == HEADLINE_BYTES).collect()
}

/// Each payload at each QoS.
fn matrix() -> Vec<Cell> {
    let cell = |qos| PAYLOADS.map(|payload_bytes| Cell { qos, payload_bytes });
    [1, 0, 2].into_iter().flat_map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_hold_what_was_asked_for() {
        for plan in [Plan::quick(), Plan::standard(), Plan::full()] {
            for payload_bytes in PAYLOADS {
                assert!(plan.cells.contains(&Cell { qos: 1, payload_bytes }));
            }
            for qos in 0..=2 {
                assert!(plan.cells.contains(&Cell { qos, payload_bytes: 256 }));
            }
        }
        assert_eq!(Plan::full().cells.len(), 18);
        assert_eq!(Plan::quick().cells.len(), 8);
    }
}
