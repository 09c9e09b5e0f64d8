//! What is compared, with whom, and how much of it is measured.

use std::net::SocketAddr;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Deliveries a second and processor time of each, one to one, many to one, one to many.
    Throughput,
    /// How long one message takes at a low rate.
    Latency,
    /// QoS 1 to sessions that outlive the broker.
    Durable,
    /// Memory of connections that wait.
    Memory,
    /// How the cost of a message grows with filters and connections.
    Scale,
    /// What the secure-publish hook takes.
    Hook,
    /// What fans out: the publisher's task or the embedded router.
    Engine,
}

impl Subject {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 7] =
        [Self::Throughput, Self::Latency, Self::Durable, Self::Memory, Self::Scale, Self::Hook, Self::Engine];
}

/// Whom we are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// mosquitto, started for it.
    Mosquitto,
    /// A broker that runs already. Nobody tells what it costs, only how fast it is.
    At(SocketAddr),
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub subjects: Vec<Subject>,
    /// Rounds of each comparison.
    pub rounds: u32,
    /// Rounds of what the hook takes: a tenth is less than rounds differ by, and needs many of them.
    pub hook_rounds: u32,
    /// Of a stream, before what counts.
    pub warm_up_seconds: f64,
    /// What counts of a stream.
    pub seconds: f64,
    /// Messages of one side in a round of latency.
    pub latency_block: u32,
    /// Rounds of latency.
    pub latency_rounds: u32,
    /// Before each message of those.
    pub pause_us: u64,
    /// Connections whose memory is measured.
    pub idle: usize,
    /// Filters of each of a hundred connections.
    pub filters_each: usize,
    /// Connections on the side of many of them.
    pub connections: usize,
}

impl Plan {
    /// Two minutes or a little more.
    pub fn quick() -> Self {
        let subjects = Subject::ALL.into_iter().filter(|subject| *subject != Subject::Engine).collect();
        Self {
            subjects,
            rounds: 5,
            hook_rounds: 15,
            warm_up_seconds: 0.05,
            seconds: 0.2,
            latency_block: 20,
            latency_rounds: 10,
            pause_us: 1_000,
            idle: 2_000,
            filters_each: 1_000,
            connections: 2_000,
        }
    }

    /// Some minutes.
    pub fn standard() -> Self {
        Self {
            subjects: Subject::ALL.to_vec(),
            rounds: 20,
            hook_rounds: 80,
            warm_up_seconds: 0.1,
            seconds: 0.3,
            latency_rounds: 50,
            idle: 5_000,
            connections: 10_000,
            ..Self::quick()
        }
    }

    /// As little as goes through every line: for tests.
    pub fn tiny() -> Self {
        Self {
            subjects: Subject::ALL.to_vec(),
            rounds: 1,
            hook_rounds: 1,
            warm_up_seconds: 0.0,
            seconds: 0.02,
            latency_block: 2,
            latency_rounds: 1,
            pause_us: 0,
            idle: 20,
            filters_each: 3,
            connections: 20,
        }
    }
}
