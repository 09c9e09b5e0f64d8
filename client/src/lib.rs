//! A device's side of SMQTT: enrol once, then publish sealed readings and open what is meant for you.
//!
//! Links no broker and no server. The broker in between may be any MQTT 5.0 broker: one of ours
//! carries headers for the publisher, behind another every message carries its own.
#![forbid(unsafe_code)]

pub mod authority;
mod drive;
pub mod enrol;
pub mod files;
pub mod keyring;
pub mod mqtt;
pub mod opener;
pub mod replay;
pub mod sealer;
mod session;
pub mod stream;
pub mod tls;

pub use smqtt_core as core;

/// Text that somebody else chose, without what could steer a terminal, end a line or turn its direction.
pub fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Seconds since 1970 by the system's clock.
pub fn system_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
