//! `smqtt enrol`: this device, with a token from standard input or a file.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use smqtt_client::enrol::{EnrolError, enrol_as};
use smqtt_client::files::read_bounded;
use smqtt_client::keyring::Keyring;
use smqtt_core::token::{TOKEN_CHARS_MAX, Token};
use zeroize::Zeroizing;

use super::device::grouped;
use super::failure::Failure;
use super::{KeyringArgs, print_line};

/// How often an authority that does not answer is asked again.
const TRIES: u32 = 6;

/// Arguments of `smqtt enrol`.
#[derive(Args)]
pub struct EnrolArgs {
    /// A file that holds the token, instead of standard input. (Never an argument: those show in process lists)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// This device's serial, where the token is for devices of certain serials
    #[arg(long)]
    serial: Option<String>,
    #[command(flatten)]
    keyring: KeyringArgs,
}

/// Enrols, trying again for a while if the authority is away.
pub async fn run(args: &EnrolArgs) -> Result<(), Failure> {
    let token = read_token(args)?;
    let dir = args.keyring.dir()?;
    let (mut tries, mut told) = (0, false);
    let keyring: Keyring = loop {
        tries += 1;
        match enrol_as(&token, args.serial.as_deref(), &dir, smqtt_client::system_now()).await {
            Ok(keyring) => break keyring,
            Err(EnrolError::Waits(waiting)) => {
                if !told {
                    let key = grouped(&waiting.key);
                    eprintln!("waiting for approval as `{}`, key {key}", waiting.name);
                    eprintln!("an administrator says `smqtt device approve {} {key}`", waiting.name);
                }
                (tries, told) = (0, true);
                tokio::time::sleep(Duration::from_secs(waiting.retry_after_seconds)).await;
            }
            Err(error) if error.is_temporary() && tries < TRIES => again(&error, tries).await,
            Err(error) => return Err(error.into()),
        }
    };
    let place = keyring.place();
    print_line(format!("enrolled     {} ({})", place.name, place.id))?;
    print_line(format!("keyring      {}", dir.display()))?;
    print_line(format!("broker       {}", place.broker.as_deref().unwrap_or("not known to the authority")))
}

async fn again(error: &EnrolError, tries: u32) {
    let pause = Duration::from_millis(250) * 2u32.pow(tries - 1);
    eprintln!("{error}; trying again in {} ms", pause.as_millis());
    tokio::time::sleep(pause).await;
}

fn read_token(args: &EnrolArgs) -> Result<Token, Failure> {
    let bytes = match &args.token_file {
        Some(file) => Zeroizing::new(read_bounded(file, 4 * TOKEN_CHARS_MAX)?),
        None => {
            let mut bytes = Zeroizing::new(Vec::with_capacity(4 * TOKEN_CHARS_MAX));
            let read = std::io::stdin().take(4 * TOKEN_CHARS_MAX as u64).read_to_end(&mut bytes);
            read.map_err(|error| Failure::new("cannot read the token from standard input").because(&error))?;
            bytes
        }
    };
    // The token is the last line, so that the output of `smqtt token new` can be fed in whole.
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let line = text.trim().lines().last().unwrap_or_default();
    Token::parse(line).map_err(|error| {
        Failure::new(error.to_string()).hint("`smqtt token new NAME attribute=value…` prints one")
    })
}
