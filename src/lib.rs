//! The SMQTT broker with its hooks.

pub mod broker;
pub mod mqtt;
