//! `smqtt demo`.
use super::failure::Failure;
#[derive(clap::Args)]
pub struct DemoArgs {
    /// The driverless car of the paper instead of the smart home
    #[arg(long)]
    car: bool,
}
pub async fn run(_args: &DemoArgs) -> Result<(), Failure> { Err(Failure::new("not yet")) }
