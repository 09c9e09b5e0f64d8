//! `smqtt authority rotate`: new keys in the place of old ones, while the authority runs.

use clap::{Args, Subcommand};
use smqtt_core::api::RootKeyRotated;

use super::caller::CallerArgs;
use super::failure::Failure;
use super::print_line;

/// `smqtt authority rotate`.
#[derive(Subcommand)]
pub enum RotateCommand {
    /// Another root key: what is sealed under the old one, in old copies of the store, stays there
    RootKey(RotateArgs),
}

/// Arguments of every `smqtt authority rotate`.
#[derive(Args)]
pub struct RotateArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Asks the authority for it.
pub async fn run(command: &RotateCommand) -> Result<(), Failure> {
    match command {
        RotateCommand::RootKey(args) => {
            let authority = args.caller.authority().await?;
            let done: RootKeyRotated = authority.post("/v1/rotate/root-key", &serde_json::json!({})).await?;
            if args.json {
                return print_line(serde_json::to_string(&done).unwrap_or_default());
            }
            eprintln!("{} data keys are sealed under another root key; make a backup", done.data_keys);
            Ok(())
        }
    }
}
