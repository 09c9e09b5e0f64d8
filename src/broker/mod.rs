//! The broker: listeners, sessions, hooks and the state of MQTT, over an engine that fans messages out.
//!
//! A [`Broker`] is made from a [`Config`] and a list of [`Hook`]s; its caller binds the sockets and says when to stop.
//! A [`BrokerHandle`] cuts connections, forgets sessions and publishes from inside.

mod clock;
mod config;
mod connection;
mod core;
mod counts;
mod engine;
mod events;
mod fanout;
mod gate;
mod group;
mod handle;
mod handshake;
mod hook;
mod hooks;
mod late_wills;
mod limits;
mod listener;
mod message;
mod outbound;
mod packets;
mod retained;
mod review;
mod server;
mod session;
mod store;
mod sys;
mod timers;
mod transport;
mod trie;
mod websocket;

use smqtt_metrics as metrics;

pub use clock::Timestamp;
pub use config::{Config, DefaultVerdict, EngineKind};
pub use events::{
    Acknowledged, Attempt, Begun, Disconnection, DropReason, Dropped, Published, SessionEnd, Whose,
};
pub use handle::{BrokerHandle, NewMessage, Stored, Whom};
pub use hook::{
    Admission, Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Denial, Hook, HookFuture, Point,
    SubscribeRequest, Verdict,
};
pub use limits::{Limit, LimitError, Limits};
pub use listener::TlsSettings;
pub use message::{Attachment, Delivery, Keepsake, Message, Origin, Publication};
pub use outbound::DROPPED_PROPERTY;
pub use review::SessionInfo;
pub use server::{Broker, BrokerError};
pub use smqtt_metrics::{
    Counter, Counters, Gauge, Histogram, Histograms, METRICS_CONTENT_TYPE, Metric, Metrics, OTHER, Readings,
    SERIES_MAX, reading,
};
pub use store::StoreError;
pub(crate) use sys::is_own as is_own_topic;
pub use websocket::{OriginError, Origins};
