//! Whoever holds what opens the seal of an authority's store: files, standard input, people at a terminal.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use smqtt_client::files::{private_dir, read_secret, write_private};
use smqtt_keysvc::{Custodian, SECRET_BYTES_MAX, Share, ShareError};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::{print_line, secret_line};

/// Where to find what opens the seal.
#[derive(Args, Clone, Default)]
pub struct CustodianArgs {
    /// The file with the passphrase that the store is sealed under; else it is asked for, or read from standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A file with a share of the seal; may be repeated. Else they are asked for one by one
    #[arg(long = "share", value_name = "FILE")]
    shares: Vec<PathBuf>,
}

impl CustodianArgs {
    /// Asks files first, then people.
    pub fn people(&self) -> People {
        People { args: self.clone(), next_share: 0, new_passphrase_file: None, shares_out: None }
    }
}

/// Asks files first, then people.
pub struct People {
    args: CustodianArgs,
    next_share: usize,
    /// The file with the next passphrase.
    pub new_passphrase_file: Option<PathBuf>,
    /// The directory for new shares.
    pub shares_out: Option<PathBuf>,
}

impl Custodian for People {
    fn passphrase(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        match &self.args.passphrase_file {
            Some(file) => passphrase_of(file).map(Some).map_err(other),
            None => secret_line::read("passphrase of the authority's store", SECRET_BYTES_MAX).map_err(other),
        }
    }

    fn new_passphrase(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if let Some(file) = &self.new_passphrase_file {
            return passphrase_of(file).map(Some).map_err(other);
        }
        let ask = |prompt| secret_line::read(prompt, SECRET_BYTES_MAX).map_err(other);
        let first = ask("new passphrase")?;
        if io::stdin().is_terminal() && ask("once more")? != first {
            return Err(io::Error::other("the two are not the same"));
        }
        Ok(first)
    }

    fn hand_out(&mut self, shares: &[Share]) -> io::Result<()> {
        let Some(dir) = &self.shares_out else {
            return shares.iter().try_for_each(|share| print_line(share.expose().as_bytes()).map_err(other));
        };
        private_dir(dir).map_err(|error| other(error.into()))?;
        let path = |share: &Share| dir.join(format!("share-{}.txt", share.index()));
        // They may be all that opens the store, until the new ones do.
        if let Some(taken) = shares.iter().map(path).find(|path| path.exists()) {
            return Err(io::Error::other(format!(
                "`{}` is there already: name another directory",
                taken.display()
            )));
        }
        for share in shares {
            let path = path(share);
            let line = Zeroizing::new(format!("{}\n", *share.expose()));
            write_private(&path, line.as_bytes()).map_err(|error| other(error.into()))?;
            eprintln!("share {} is in `{}`", share.index(), path.display());
        }
        Ok(())
    }

    fn share(&mut self, have: usize, threshold: u8) -> io::Result<Option<Zeroizing<String>>> {
        let bytes = match self.args.shares.get(self.next_share) {
            Some(file) => {
                self.next_share += 1;
                eprintln!("share from `{}`", file.display());
                Some(Zeroizing::new(read_secret(file, SECRET_BYTES_MAX).map_err(|e| other(e.into()))?))
            }
            None => {
                let prompt = format!("share {} of the {threshold} needed", have + 1);
                secret_line::read(&prompt, SECRET_BYTES_MAX).map_err(other)?
            }
        };
        // Letters that are none are no share, and the reason says so.
        Ok(bytes.map(|bytes| Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())))
    }

    fn refused(&mut self, error: &ShareError) -> bool {
        // Of files there is no second try; a person may have slipped.
        let ask_again = self.next_share >= self.args.shares.len() && io::stdin().is_terminal();
        if ask_again {
            eprintln!("error: {error}");
        }
        ask_again
    }
}

/// A passphrase in a file: its first line.
fn passphrase_of(file: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(read_secret(file, SECRET_BYTES_MAX)?);
    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes)
}

fn other(failure: Failure) -> io::Error {
    io::Error::other(failure.sentence())
}
