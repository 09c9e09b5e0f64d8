//! `smqtt authority seal`: what the authority's root key is sealed under.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use smqtt_keysvc::{NewSeal, SystemClock, change_seal};

use super::config::SiteArgs;
use super::custodian::CustodianArgs;
use super::failure::Failure;
use super::print_line;

/// Arguments of `smqtt authority seal`.
#[derive(Args)]
pub struct SealArgs {
    /// What to seal under from now on
    #[arg(long)]
    to: Kind,
    /// The file with the new passphrase; else it is asked for, or the next line of standard input
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// The credential's name, as the unit gives it
    #[arg(long, value_name = "NAME", default_value = "smqtt-seal")]
    credential: String,
    /// How many shares open the seal
    #[arg(long, value_name = "K", default_value_t = 3)]
    threshold: u8,
    /// How many shares to make
    #[arg(long, value_name = "N", default_value_t = 5)]
    count: u8,
    /// The directory for new shares, a file each; else they are printed, a line each
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// As JSON, on standard error where shares are printed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    present: CustodianArgs,
    #[command(flatten)]
    site: SiteArgs,
}

/// What to seal under.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A key file in DIR/seal: the authority starts by itself
    File,
    /// A passphrase, asked for at each start
    Passphrase,
    /// A credential that systemd gives to the unit
    Credential,
    /// Shares in the hands of people, some of whom are asked at each start
    Shares,
}

/// Changes the seal while no authority runs.
pub fn run(args: &SealArgs) -> Result<(), Failure> {
    let (_, data) = args.site.load()?;
    let mut custodian = args.present.people();
    custodian.new_passphrase_file.clone_from(&args.new_passphrase_file);
    custodian.shares_out.clone_from(&args.out);
    let to = match args.to {
        Kind::File => NewSeal::KeyFile,
        Kind::Passphrase => NewSeal::Passphrase,
        Kind::Credential => NewSeal::Credential { name: args.credential.clone() },
        Kind::Shares => NewSeal::Shares { threshold: args.threshold, count: args.count },
    };
    let done = change_seal(&data, &SystemClock, &mut custodian, to)?;
    if args.json {
        let json = serde_json::json!({ "from": done.from, "to": done.to }).to_string();
        if args.to == Kind::Shares && args.out.is_none() {
            eprintln!("{json}");
            return Ok(());
        }
        return print_line(json);
    }
    eprintln!("the store is sealed under: {} (before: {})", done.to, done.from);
    if args.to == Kind::Shares {
        let (threshold, count) = (args.threshold, args.count);
        eprintln!("any {threshold} of the {count} shares open it; with fewer left, nobody ever does");
    }
    eprintln!(
        "an old copy of the store still opens with the old seal; `smqtt authority rotate root-key` ends that for what follows"
    );
    Ok(())
}
