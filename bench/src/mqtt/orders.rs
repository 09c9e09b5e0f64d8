//! What the bench and its two roles say to each other: a line of JSON each, on standard input and output.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use smqtt_client::mqtt::QoS;

use super::{Mode, MqttBenchError};

/// Longest line.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// The first line to a role: what to connect.
#[derive(Serialize, Deserialize)]
pub struct Setup {
    /// A connection for each mode; several for one mode are used in turn.
    pub lines: Vec<Line>,
    /// The Unix socket on which the subscriber tells the publisher what came.
    pub echo: PathBuf,
    /// The pre-shared key, made for this run. It goes through a pipe: argument lists can be read by anybody.
    pub psk: [u8; 32],
}

/// One connection.
#[derive(Serialize, Deserialize)]
pub struct Line {
    /// For what.
    pub mode: Mode,
    /// As whom.
    pub keyring: PathBuf,
    /// Where to, `mqtts://…` or `mqtt://…`.
    pub broker: String,
    /// Under which client id.
    pub client_id: String,
}

/// Some messages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// How.
    pub mode: Mode,
    /// Quality of service: 0, 1, 2.
    pub qos: u8,
    /// Bytes of payload.
    pub bytes: usize,
    /// How many, or how many at most.
    pub count: u32,
}

/// What the publisher is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// One message after the other, each once the one before has come; block after block.
    Latency(Vec<Block>),
    /// As many as the window allows at a time, until the count or the time is reached.
    Stream {
        /// What.
        block: Block,
        /// For how long.
        seconds: f64,
        /// How many may be on their way to the subscriber.
        window: u32,
    },
}

/// What a role answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Connected, and subscribed.
    Ready,
    /// Of [`Order::Latency`], block by block.
    Latencies(Vec<Latencies>),
    /// Of [`Order::Stream`].
    Streamed {
        /// How many came.
        count: u32,
        /// From the first call to the last arrival.
        seconds: f64,
    },
}

/// Times of the messages of a block, in nanoseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Latencies {
    /// From the call that publishes until the subscriber's application has the payload, opened.
    pub arrived: Vec<u64>,
    /// From the call that publishes until it returns: acknowledged as the quality of service says.
    pub acknowledged: Vec<u64>,
}

/// As a line.
pub fn to_line(value: &impl Serialize) -> Result<Vec<u8>, MqttBenchError> {
    let mut line = serde_json::to_vec(value).map_err(MqttBenchError::Answer)?;
    line.push(b'\n');
    Ok(line)
}

/// The library's name for a number.
pub fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
