//! The broker: listeners, sessions, hooks and the state of MQTT, over an engine that fans messages out.

mod clock;
mod config;
mod hook;
mod message;

pub use clock::Timestamp;
pub use config::{Config, DefaultVerdict, EngineKind, Limits};
pub use hook::{
    Admission, Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Denial, Disconnection, Hook, HookFuture,
    SubscribeRequest, Verdict,
};
pub use message::{Attachment, Delivery, Message, Origin, Publication};
