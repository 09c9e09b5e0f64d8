//! What the bench and its load say to each other: a line of JSON each, on standard input and output.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The first line to a load: what to connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Where the broker is.
    pub address: SocketAddr,
    /// Its process, if it is one of this machine whose CPU time may be asked.
    pub broker: Option<u32>,
    /// What client ids begin with; no two loads of one broker have the same.
    pub name: String,
    /// Quality of service, 0 or 1, of publishing and of subscribing.
    pub qos: u8,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// Connections that publish.
    pub publishers: usize,
    /// Connections that subscribe.
    pub subscribers: usize,
    /// Who gets a message.
    pub to: To,
    /// Messages under way at a time, from all publishers, so that no broker has a reason to drop any.
    pub window: u64,
    /// Of QoS 1: what one publisher may have unacknowledged.
    pub inflight: u64,
    /// Whether the subscribers' sessions outlive their connections.
    pub kept: bool,
    /// Connections beside these, that get nothing.
    pub idle: usize,
    /// Filters of each of them, distinct from all others.
    pub idle_filters: usize,
    /// A device's keyring: everything goes over TLS and MQTT 5.0 then, and what is published is what this device seals.
    pub keyring: Option<PathBuf>,
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    /// Every subscriber. Publishers have a topic each.
    All,
    /// One subscriber, each in turn for a run of so many messages, through one of its `filters`, which are distinct.
    One {
        /// Of each subscriber.
        filters: usize,
        /// Messages in a row for one subscriber, so that how many there are does not change how much goes into a packet.
        run: u64,
    },
}

/// What a load is told to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Order {
    /// As much as the window lets through.
    Stream {
        /// Before what counts.
        warm_up_seconds: f64,
        /// What counts.
        seconds: f64,
    },
    /// One message at a time, after a pause.
    Latency {
        /// How many.
        count: u32,
        /// Before each.
        pause_us: u64,
    },
}

/// What a load answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Connected and subscribed.
    Ready,
    /// Of [`Order::Stream`].
    Streamed(Streamed),
    /// Of [`Order::Latency`]: nanoseconds from before the write until the subscriber has the message.
    Latencies(Vec<u64>),
    /// It went wrong; the load has ended.
    Failed(String),
}

/// What a stream was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Streamed {
    /// Messages that reached a subscriber in the time that counts.
    pub deliveries: u64,
    /// How long that was.
    pub seconds: f64,
    /// Of the broker's process.
    pub broker_cpu_seconds: Option<f64>,
    /// Of the load itself.
    pub load_cpu_seconds: f64,
    /// Messages that should have come, and did not, or came twice, or out of order; of the whole stream.
    pub wrong: u64,
}

impl Streamed {
    /// Deliveries a second.
    pub fn rate(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    /// Microseconds of the broker's processor for each delivery.
    pub fn broker_us(&self) -> Option<f64> {
        self.broker_cpu_seconds.map(|seconds| seconds * 1e6 / self.deliveries as f64)
    }

    /// How much of one processor the load used. Near 1 it was the bottleneck, not the broker.
    pub fn load_share(&self) -> f64 {
        self.load_cpu_seconds / self.seconds
    }
}
