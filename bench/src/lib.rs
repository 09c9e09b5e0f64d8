//! The evaluation behind `smqtt bench`: five questions, each answered by measurement.
//!
//! Everything measured is a [`Figure`](result::Figure); reports, tables and comparisons are made of nothing else.
//! The schemes of other libraries live here and nowhere else: nothing that seals, opens, issues or carries links
//! this crate.

#![forbid(unsafe_code)]

pub mod mqtt;
pub mod result;
