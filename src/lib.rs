//! The SMQTT broker with its hooks.
//!
//! [`broker`] is an MQTT 3.1.1 and 5.0 broker that asks [`broker::Hook`]s; [`secure`] is the hook that makes it one
//! for sealed messages, [`passwords`] the one for names and passwords; [`bridge`] carries messages between it and any other
//! broker; [`admin`] shows metrics and health; [`mqtt`] is the wire format.
#![forbid(unsafe_code)]

// The unit tests share clients with the tests in `tests/`, to which this crate is `smqtt`.
#[cfg(test)]
extern crate self as smqtt;

pub mod admin;
pub mod bridge;
pub mod broker;
pub mod mqtt;
pub mod passwords;
pub mod secure;
