//! What an operator may set, with the defaults.

use std::{path::PathBuf, time::Duration};

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            default_verdict: DefaultVerdict::Allow,
            engine: EngineKind::Rumqttd,
            data: None,
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

/// Bounds, all of them with a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time, those in a TLS handshake included. 100,000.
    pub connections_max: usize,
    /// Time for the TLS handshake. 10 s.
    pub handshake_timeout: Duration,
    /// Time from the end of the handshake to CONNACK. 10 s.
    pub connect_timeout: Duration,
    /// Time a connection gets to take what is still to be written when it ends. 2 s.
    pub close_timeout: Duration,
    /// Longest keep alive; a v5 client that asks for more, or for none, is told this one. `None` leaves it to clients.
    pub keep_alive_max: Option<Duration>,
    /// Size of a packet from a client, fixed header included. 1 MiB and 64 KiB.
    pub packet_bytes_max: usize,
    /// Size of a CONNECT. 256 KiB.
    pub connect_bytes_max: usize,
    /// Length of a topic or filter. 4,096.
    pub topic_bytes_max: usize,
    /// Levels of a topic or filter. 128.
    pub topic_levels_max: usize,
    /// Length of a client id. 256.
    pub client_id_bytes_max: usize,
    /// Subscriptions of one session. 1,000.
    pub subscriptions_per_session_max: usize,
    /// QoS 1 and 2 messages sent to one client and not yet acknowledged. 512, or what the client asks if less.
    pub inflight_messages_max: u16,
    /// Unacknowledged QoS 1 and 2 messages that one client may send. 1,024.
    pub receive_max: u16,
    /// Topic aliases that a client may use. 64.
    pub topic_alias_max: u16,
    /// Topic aliases that the broker uses towards one client. 64.
    pub topic_alias_out_max: u16,
    /// Messages that wait for one session. 10,000.
    pub queue_messages_max: usize,
    /// Bytes that wait for one session. 8 MiB.
    pub queue_bytes_max: usize,
    /// Retained messages. 1,000,000.
    pub retained_messages_max: usize,
    /// Bytes of retained messages. 1 GiB.
    pub retained_bytes_max: usize,
    /// Sessions, connected or stored. 1,000,000.
    pub sessions_max: usize,
    /// Longest time that a session outlives its connection; also what 3.1.1 clients without clean session get. `None`
    /// keeps them for ever.
    pub session_expiry_max: Option<Duration>,
}

impl Limits {
    /// No bound on what is kept: for what was taken before.
    pub(crate) fn unbounded() -> Self {
        Self { retained_messages_max: usize::MAX, retained_bytes_max: usize::MAX, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
            keep_alive_max: None,
            packet_bytes_max: (1 << 20) + (64 << 10),
            connect_bytes_max: 256 << 10,
            topic_bytes_max: 4_096,
            topic_levels_max: 128,
            client_id_bytes_max: 256,
            subscriptions_per_session_max: 1_000,
            inflight_messages_max: 512,
            receive_max: 1_024,
            topic_alias_max: 64,
            topic_alias_out_max: 64,
            queue_messages_max: 10_000,
            queue_bytes_max: 8 << 20,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            sessions_max: 1_000_000,
            session_expiry_max: None,
        }
    }
}
