//! Who is asked for what opens the seal: people, files, systemd.

use std::io;
use std::io::Read;

use zeroize::Zeroizing;

use super::{SECRET_BYTES_MAX, Share, ShareError};

/// Gives what opens a seal, and takes what will. Each answer may be `None`: there is nobody to ask.
pub trait Custodian {
    /// The passphrase.
    ///
    /// # Errors
    /// Whatever the terminal or the file says.
    fn passphrase(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(None)
    }

    /// A passphrase to seal under from now on. Asked for after the present seal is open.
    ///
    /// # Errors
    /// Whatever the terminal or the file says.
    fn new_passphrase(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(None)
    }

    /// Takes new shares to their holders, before anything depends on them.
    ///
    /// # Errors
    /// They could not be handed out: the seal stays as it is.
    fn hand_out(&mut self, shares: &[Share]) -> io::Result<()> {
        let _ = shares;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The credential of this name, as systemd gives it to a unit: `$CREDENTIALS_DIRECTORY/NAME`.
    ///
    /// # Errors
    /// Whatever the file says.
    fn credential(&mut self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(dir) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
        let file = match std::fs::File::open(std::path::Path::new(&dir).join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut secret = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
        file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut secret)?;
        Ok(Some(secret))
    }

    /// One more share; `have` of `threshold` are there.
    ///
    /// # Errors
    /// Whatever the terminal or the file says.
    fn share(&mut self, have: usize, threshold: u8) -> io::Result<Option<Zeroizing<String>>> {
        let _ = (have, threshold);
        Ok(None)
    }

    /// Hears why the last share does not count; whether to ask for another in its place.
    fn refused(&mut self, error: &ShareError) -> bool {
        let _ = error;
        false
    }
}

/// Nobody to ask: key files and credentials alone open the seal.
#[derive(Debug, Default)]
pub struct Unattended;

impl Custodian for Unattended {}
