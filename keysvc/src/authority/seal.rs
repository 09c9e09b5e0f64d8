//! Another seal: one record of the store is written anew, while nobody else has the store.

use std::path::Path;

use super::{audit, open_vault};
use crate::clock::Clock;
use crate::error::OpenError;
use crate::files;
use crate::seal::{Custodian, KeyFile, NewSeal, Seal, UnsealError};
use crate::store::Opening;

/// What [`change_seal`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// What the root key was sealed under.
    pub from: &'static str,
    /// What it is sealed under now.
    pub to: &'static str,
}

/// Seals the root key of the authority in `data_dir` under `to`, in place of what `custodian` opens. A crash leaves the
/// old seal working, or the new one.
///
/// # Errors
/// [`OpenError`]: another process has the store open, the present seal does not open, the new one makes no sense, or its
/// shares could not be handed out. The present seal is then as it was.
pub fn change_seal(
    data_dir: &Path,
    clock: &dyn Clock,
    custodian: &mut dyn Custodian,
    to: NewSeal,
) -> Result<Resealed, OpenError> {
    let (store_dir, seal_dir) = (data_dir.join("authority"), data_dir.join("seal"));
    if files::read(&store_dir.join("authority.db"))?.is_none() {
        return Err(OpenError::NoAuthority { path: data_dir.to_owned() });
    }
    let opening = Opening::new(&store_dir)?;
    let vault = open_vault(&opening, &seal_dir, custodian)?;
    let mut file = None;
    let seal = match to {
        NewSeal::KeyFile => {
            files::make_dir(&seal_dir)?;
            Seal::of_key_file(file.insert(KeyFile::prepare(&seal_dir)?))
        }
        NewSeal::Passphrase => {
            let passphrase = custodian.new_passphrase().map_err(UnsealError::Read)?;
            Seal::of_passphrase(&passphrase.ok_or(UnsealError::NoPassphrase)?)?
        }
        NewSeal::Credential { name } => {
            let secret = custodian.credential(&name).map_err(UnsealError::Read)?;
            let secret = secret.ok_or_else(|| UnsealError::NoCredential { name: name.clone() })?;
            Seal::of_credential(name, &secret)?
        }
        NewSeal::Shares { threshold, count } => {
            let (seal, shares) = Seal::of_shares(threshold, count)?;
            custodian.hand_out(&shares).map_err(UnsealError::HandOut)?;
            seal
        }
    };
    let done = Resealed { from: vault.seal_name(), to: seal.name() };
    opening.transaction(|tx| {
        vault.reseal(tx, &seal)?;
        let subject = format!("{} to {}", done.from, done.to);
        audit::append(tx, &vault, clock.now(), "authority", "change-seal", &subject)
    })?;
    // From here on the new seal counts; the next start would finish what follows as well.
    if let Some(file) = &file {
        KeyFile::find(&seal_dir, &file.id())?;
    }
    KeyFile::clean(&seal_dir, file.as_ref())?;
    Ok(done)
}
