//! Secure publish: what makes an MQTT broker one that carries sealed messages.
//!
//! ```text
//! view       what the authority says: bundle and directory of devices, kept fresh
//! headers    headers that were checked, kept for their publishers
//! hook       decides on every connection, subscription, message and delivery
//! ```
//!
//! What it refuses to do: hold a key that opens anything.

mod headers;
mod hook;
mod view;

pub use headers::{HEADERS_BYTES_MAX, HEADERS_PER_PUBLISHER_MAX, Headers};
pub use hook::{Counters, SecurePublish};
pub use view::{Peer, View, follow};
