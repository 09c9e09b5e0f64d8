//! Attribute-based encryption for MQTT payloads, without I/O, clock, network or async.
//!
//! What this crate refuses to do: open anything it could not verify, panic on bytes from outside,
//! or let a key combine with another.
#![deny(unsafe_code)]

pub mod api;
pub mod attribute;
pub mod audit;
pub mod bundle;
mod cbor;
mod cose;
pub mod envelope;
pub mod formula;
pub mod header;
pub mod identity;
pub mod lineage;
pub mod policy;
pub mod rule;
pub mod target;
pub mod token;
pub mod topic;
mod word;

mod access;
pub mod crypto;
mod curve;
mod fabeo;
pub mod suite;
pub mod tables;

pub use access::Access;
