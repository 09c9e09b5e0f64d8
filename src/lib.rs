//! The SMQTT broker with its hooks.
