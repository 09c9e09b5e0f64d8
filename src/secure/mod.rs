//! Secure publish: what makes an MQTT broker one that carries sealed messages.
//!
//! ```text
//! view       what the authority says: bundle and directory of devices, kept fresh
//! headers    headers that were checked, kept for their publishers
//! session    a connection, and what was found out about it
//! hook       decides on connections (admit), subscriptions (subscribe), messages (publish, brought) and deliveries (deliver)
//! ```
//!
//! What it refuses to do: hold a key that opens anything.

mod admit;
mod brought;
mod deliver;
mod headers;
mod hook;
mod publish;
mod refused;
mod session;
mod subscribe;
mod view;

pub use headers::{HEADERS_BYTES_MAX, HEADERS_PER_PUBLISHER_MAX, Headers};
pub use hook::{Counters, SecurePublish};
pub use view::{Peer, View, follow};
