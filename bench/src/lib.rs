//! The evaluation behind `smqtt bench`: six questions, each answered by measurement.
//!
//! Everything measured is a [`Figure`](result::Figure); reports, tables and comparisons are made of nothing else.
//! The schemes of other libraries live here and nowhere else: nothing that seals, opens, issues or carries links
//! this crate.

#![forbid(unsafe_code)]

pub mod broker;
pub mod compare;
pub mod counters;
pub mod files;
pub mod floor;
pub mod leftovers;
pub mod machine;
pub mod measure;
pub mod mqtt;
pub mod plan;
pub mod progress;
pub mod publisher;
pub mod questions;
pub mod report;
pub mod result;
pub mod role;
pub mod run;
pub mod schemes;
pub mod stats;
