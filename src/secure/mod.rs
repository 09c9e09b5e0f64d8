//! Secure publish: what makes an MQTT broker one that carries sealed messages.
//!
//! ```text
//! view       what the authority says: bundle and directory of devices, and when it was heard last
//! headers    headers that were checked, kept for their publishers
//! session    a connection, and what was found out about it
//! rules      what the rules say of a device, a topic and a message
//! hook       decides on connections (admit), subscriptions (subscribe), messages (publish, brought) and deliveries (deliver)
//! follow     keeps all of it fresh, and applies what is new to what is there already
//! revocations  what the authority is told of what was done about them
//! denials    what was refused and why, counted and logged
//! explain    what would be decided, and why
//! operate    what whoever runs the broker is told on the admin listener
//! ```
//!
//! What it refuses to do: hold a key that opens anything.

mod admit;
mod brought;
mod deliver;
mod denials;
mod directory;
mod explain;
mod follow;
mod headers;
mod hook;
mod operate;
mod publish;
mod refused;
mod revocations;
mod rules;
mod session;
mod subscribe;
mod view;

pub use denials::{DENIALS_MAX, DenialCount, Denials, Denied, LINES_BURST_MAX};
pub use directory::Peer;
pub use explain::{Action, Explanation, Step};
pub use headers::{HeaderLimits, Headers};
pub use hook::{MAX_STALENESS_SECONDS, STALENESS_FACTOR, SecurePublish};
pub use view::View;
