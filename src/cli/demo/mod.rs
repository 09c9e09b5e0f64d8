//! `smqtt demo`: real processes, real readings, real refusals, in a temporary directory.

mod car;
mod home;
mod site;

use clap::Args;

use super::authority::stop_signal;
use super::failure::Failure;

/// Arguments of `smqtt demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// The driverless car of the paper instead of the smart home
    #[arg(long)]
    car: bool,
}

/// Runs a demo; exit code 0 only if everybody read exactly what they should.
pub async fn run(args: &DemoArgs) -> Result<(), Failure> {
    let demo = async { if args.car { car::run().await } else { home::run().await } };
    tokio::select! {
        result = demo => result,
        () = stop_signal() => Err(Failure::new("interrupted")),
    }
}
