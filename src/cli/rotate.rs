//! `smqtt authority rotate`: new keys in the place of old ones, while the authority runs.

use clap::{Args, Subcommand, ValueEnum};
use smqtt_core::api::{MasterRotated, MasterRotation, RootKeyRotated};

use super::caller::CallerArgs;
use super::failure::Failure;
use super::print_line;

/// `smqtt authority rotate`.
#[derive(Subcommand)]
pub enum RotateCommand {
    /// Another root key: what is sealed under the old one, in old copies of the store, stays there
    RootKey(RotateArgs),
    /// Another master secret key of a suite, in three steps, epochs apart: nobody is cut off, and what was sealed stays readable
    Master(MasterArgs),
}

/// Arguments of `smqtt authority rotate master`.
#[derive(Args)]
pub struct MasterArgs {
    /// The step
    step: Step,
    /// The suite
    #[arg(long, default_value = "fabeo-cp", value_parser = ["fabeo-cp", "fabeo-kp"])]
    suite: String,
    /// Also before everybody had a chance to follow
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: RotateArgs,
}

/// The steps of a rotation.
#[derive(Clone, Copy, ValueEnum)]
enum Step {
    /// New parameters: devices get keys under both
    Prepare,
    /// Publishers seal under the new ones; from the next epoch on
    Activate,
    /// The old master secret key is destroyed; when its epochs are history
    Retire,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        }
    }
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
            let done: RootKeyRotated =
                authority.create("/v1/rotate/root-key", &serde_json::json!({})).await?;
            if args.json {
                return print_line(serde_json::to_string(&done).unwrap_or_default());
            }
            eprintln!("{} data keys are sealed under another root key; make a backup", done.data_keys);
            Ok(())
        }
        RotateCommand::Master(args) => {
            let authority = args.common.caller.authority().await?;
            let (suite, step) = (args.suite.clone(), args.step.name().to_owned());
            let request = MasterRotation { suite, step, force: args.force };
            let done: MasterRotated = authority.create("/v1/rotate/master", &request).await?;
            if args.common.json {
                return print_line(serde_json::to_string(&done).unwrap_or_default());
            }
            eprintln!("{} of {} is done; bundle {} tells everyone", done.step, done.suite, done.bundle);
            eprintln!(
                "{}",
                match args.step {
                    Step::Prepare =>
                        "next: `activate`, in the next epoch or later, when all have keys under both",
                    Step::Activate => "next: `retire`, when the keys of history need the old one no more",
                    Step::Retire =>
                        "the old master secret key is gone from the store; backups from before still have it",
                }
            );
            Ok(())
        }
    }
}
