//! The `smqtt` command line.
fn main() {}
