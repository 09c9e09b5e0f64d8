//! `smqtt authority rotate`: new keys in the place of old ones, while the authority runs.

use clap::{Args, Subcommand, ValueEnum};
use smqtt_core::api::{
    CertificateRotated, CertificateRotation, MasterRotated, MasterRotation, RootKeyRotated,
};

use super::caller::CallerArgs;
use super::failure::Failure;
use super::{date, print_line};

/// `smqtt authority rotate`.
#[derive(Subcommand)]
pub enum RotateCommand {
    /// Another root key: what is sealed under the old one, in old copies of the store, stays there
    RootKey(RotateArgs),
    /// Another master secret key of a suite, in three steps, epochs apart: nobody is cut off, and what was sealed stays readable
    Master(MasterArgs),
    /// Another root that issues certificates, in three steps, long apart: nobody is cut off, and everyone moves over by itself
    Certificate(CertificateArgs),
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

/// Arguments of `smqtt authority rotate certificate`.
#[derive(Args)]
pub struct CertificateArgs {
    /// The step
    step: CertificateStep,
    /// Also before everybody had a chance to follow: whoever sleeps until then is left behind
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: RotateArgs,
}

/// The steps to another root.
#[derive(Clone, Copy, ValueEnum)]
enum CertificateStep {
    /// Everyone learns of the new root, and trusts both
    Prepare,
    /// The new root issues, and the old one's key is destroyed; from the next epoch on
    Activate,
    /// The old root is trusted no more; when all that it issued has run out
    Retire,
}

impl CertificateStep {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        }
    }
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
        RotateCommand::Certificate(args) => certificate(args).await,
    }
}

async fn certificate(args: &CertificateArgs) -> Result<(), Failure> {
    let authority = args.common.caller.authority().await?;
    let request = CertificateRotation { step: args.step.name().to_owned(), force: args.force };
    let done: CertificateRotated = authority.create("/v1/rotate/certificate", &request).await?;
    if args.common.json {
        return print_line(serde_json::to_string(&done).unwrap_or_default());
    }
    eprintln!("{} is done; bundle {} tells everyone", done.step, done.bundle);
    eprintln!("issues       {}", done.issuing);
    for root in done.roots.iter().filter(|root| **root != done.issuing) {
        eprintln!("trusted too  {root}");
    }
    match args.step {
        CertificateStep::Prepare => {
            eprintln!(
                "make a backup now: one from before cannot take this authority's place after `activate`"
            );
            eprintln!("next: `activate`, in the next epoch or later, when everyone knows the new root");
        }
        CertificateStep::Activate => {
            eprintln!(
                "give MQTT clients that are not of SMQTT the new `root.pem` before the old root is retired"
            );
            eprintln!("next: `retire`, not before {}", date(done.retire_from.unwrap_or_default()));
        }
        CertificateStep::Retire => {
            eprintln!("whoever trusts the old root alone still finds the way to the new one")
        }
    }
    Ok(())
}
