//! `smqtt bench-role`: publisher or subscriber of a measurement; told what to do on standard input.

use clap::Args;

use super::failure::Failure;

/// Arguments of `smqtt bench-role`.
#[derive(Args)]
pub struct BenchRoleArgs {
    /// `publisher` or `subscriber`
    role: Vec<String>,
}

/// Runs until standard input ends.
pub async fn run(args: &BenchRoleArgs) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("the {} gave up", args.role.join(" "))).because(&error);
    smqtt_bench::mqtt::role(&args.role).await.map_err(failed)
}
