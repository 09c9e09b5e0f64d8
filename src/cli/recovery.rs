//! `smqtt authority recovery-key`: the keys that backups are sealed to.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use smqtt_client::files::read_secret;
use smqtt_keysvc::{RecoveryKey, RecoverySecret};
use zeroize::Zeroizing;

use super::config::SiteArgs;
use super::failure::Failure;
use super::print_line;

const FILE_BYTES_MAX: usize = 4096;

/// `smqtt authority recovery-key`.
#[derive(Subcommand)]
pub enum RecoveryCommand {
    /// Make a pair: the secret half goes to a file, to be kept away from the authority; the public half is printed
    New(NewArgs),
    /// Let backups be sealed to this key
    Trust(TrustArgs),
    /// List the keys that backups are sealed to
    List(ListArgs),
}

/// Arguments of `smqtt authority recovery-key new`.
#[derive(Args)]
pub struct NewArgs {
    /// The file for the secret half; must not be there
    file: PathBuf,
}

/// Arguments of `smqtt authority recovery-key trust`.
#[derive(Args)]
pub struct TrustArgs {
    /// The public half, `smqtt-recovery1.…`
    key: String,
    #[command(flatten)]
    site: SiteArgs,
}

/// Arguments of `smqtt authority recovery-key list`.
#[derive(Args)]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Makes, trusts or lists.
pub fn run(command: &RecoveryCommand) -> Result<(), Failure> {
    match command {
        RecoveryCommand::New(args) => new(args),
        RecoveryCommand::Trust(args) => {
            let (_, data) = args.site.load()?;
            let key = public(&args.key)?;
            if !data.join("authority/authority.db").exists() {
                return Err(Failure::new(format!("there is no authority in `{}`", data.display()))
                    .hint("`--data` names the directory of `smqtt authority`"));
            }
            key.trust(&data)?;
            eprintln!("backups are sealed to the recovery key {} from now on", key.id());
            Ok(())
        }
        RecoveryCommand::List(args) => {
            let keys = RecoveryKey::trusted(&args.site.load()?.1)?;
            if args.json {
                let keys: Vec<_> = keys
                    .iter()
                    .map(|key| serde_json::json!({ "id": key.id(), "key": key.to_string() }))
                    .collect();
                return print_line(serde_json::Value::from(keys).to_string());
            }
            keys.iter().try_for_each(|key| print_line(format!("{}  {key}", key.id())))
        }
    }
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    let secret = RecoverySecret::generate();
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file)?;
        file.write_all(secret.expose().as_bytes())?;
        file.sync_all()
    };
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot write `{}`", args.file.display()))
            .because(&error)
            .hint("name a file that is not there yet")
    };
    write().map_err(failed)?;
    eprintln!(
        "keep `{}` away from the authority: whoever has it opens every backup sealed to it",
        args.file.display()
    );
    print_line(secret.public().to_string())
}

/// The public half, from text.
pub fn public(text: &str) -> Result<RecoveryKey, Failure> {
    RecoveryKey::parse(text).ok_or_else(|| {
        Failure::new("not a recovery key")
            .hint("it is the line that `smqtt authority recovery-key new FILE` printed")
    })
}

/// The secret half, from its file.
pub fn secret(file: &std::path::Path) -> Result<RecoverySecret, Failure> {
    let bytes = Zeroizing::new(read_secret(file, FILE_BYTES_MAX)?);
    let text = std::str::from_utf8(&bytes).ok();
    text.and_then(RecoverySecret::parse).ok_or_else(|| {
        Failure::new(format!("`{}` is not the secret half of a recovery key", file.display()))
            .hint("it is the file that `smqtt authority recovery-key new FILE` wrote")
    })
}
