//! Backups, taken while the authority runs; and another root key.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use smqtt_core::api::{BackupMade, BackupRequest, RootKeyRotated};
use smqtt_core::crypto::random;

use super::{Authority, Caller, Operation, audit};
use crate::backup::{self, BackupError, Opener};
use crate::error::{Error, OpenError};
use crate::files;
use crate::recovery::{RECOVERY_KEYS_MAX, RecoveryKey};
use crate::seal::Seal;
use crate::store::{Opening, Room};
use crate::vault::Vault;

/// What a store that was taken out of a backup says of itself.
pub(super) struct Checked {
    pub(super) bundle: u64,
    pub(super) epoch: u64,
    pub(super) audit: u64,
}

impl Authority {
    /// Writes a backup into `DIR/backups`, sealed to recovery keys that the directory `DIR/recovery` names, opens it again and reads
    /// all of it. For administrators: what they get is sealed, and to whom is not theirs to say.
    ///
    /// # Errors
    /// Not allowed, no such recovery key, or the disk failed: then there is no backup.
    pub async fn back_up(
        self: &Arc<Self>,
        caller: &Caller,
        request: BackupRequest,
    ) -> Result<BackupMade, Error> {
        let admin = self.authorise(caller, Operation::BackUp).await?;
        if self.store.room() != Room::Enough {
            return Err(Error::LowSpace);
        }
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.write_backup(&request.to));
        let made = work.await.map_err(|_| Error::Busy)??;
        let (this, record) = (self.clone(), format!("{} to {}", made.file, made.recovery_keys.join(", ")));
        let write = move |tx: &crate::store::Tx<'_>| {
            Ok(this.audit(tx, &admin.actor, Operation::BackUp.name(), &record)?)
        };
        self.store.write(write).await?;
        tracing::info!(file = made.file, bytes = made.bytes, "wrote a backup and opened it again");
        Ok(made)
    }

    fn write_backup(&self, wanted: &[String]) -> Result<BackupMade, Error> {
        let to = recipients(&self.data_dir, wanted)?;
        let dir = self.data_dir.join("backups");
        files::make_dir(&dir).map_err(Error::unusable)?;
        let _one = self.backing_up.lock().unwrap_or_else(PoisonError::into_inner);
        clear(&dir);
        let now = self.now();
        let mark: String = random::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("smqtt-{now}-{mark}.backup");
        // What lies there meanwhile is the store as it lies in DIR/authority: its secrets sealed.
        let work = dir.join(format!(".{mark}"));
        files::make_dir(&work).map_err(Error::unusable)?;
        let made = self.write_and_check(&to, &work, now);
        let kept = made.and_then(|made| {
            files::rename(&work.join("backup"), &dir.join(&name)).map_err(Error::unusable)?;
            Ok(BackupMade { file: name, ..made })
        });
        if let Err(error) = std::fs::remove_dir_all(&work) {
            tracing::warn!(%error, path = %work.display(), "could not be removed");
        }
        kept
    }

    fn write_and_check(&self, to: &[RecoveryKey], work: &Path, now: u64) -> Result<BackupMade, Error> {
        let touch = |path: &Path| files::touch(path).map_err(Error::unusable);
        let (snapshot, sealed) = (work.join("snapshot.db"), work.join("backup"));
        touch(&snapshot)?;
        Opening::snapshot(self.store.path(), &snapshot)?;
        let authority = self.secrets.vault.authority();
        let (key, head) = backup::head(authority, now, to);
        let root = self.secrets.vault.expose_current_root();
        backup::write(touch(&sealed)?, &head, &key, &root, &snapshot)?;
        // Read again from the disk, as whoever restores it will.
        let again = work.join("check");
        files::make_dir(&again).map_err(Error::unusable)?;
        let (_, root) = backup::read(&sealed, &Opener::Content(&key), touch(&again.join("authority.db"))?)?;
        let opening = Opening::new(&again).map_err(Error::unusable)?;
        // A key file beside it would open all of it to whoever finds the disk, whatever the authority is sealed under.
        let vault = Vault::recover(&opening, authority, root, Seal::of_nobody()).map_err(Error::unusable)?;
        let Checked { bundle, epoch, audit } = check(&opening, &vault).map_err(Error::unusable)?;
        let file = File::open(&sealed).map_err(BackupError::Io)?;
        Ok(BackupMade {
            file: String::new(),
            bytes: file.metadata().map_err(BackupError::Io)?.len(),
            sha256: backup::sha256_of(file)?,
            created: now,
            bundle,
            epoch,
            audit,
            recovery_keys: to.iter().map(RecoveryKey::id).collect(),
        })
    }

    /// Draws another root key and seals every data key under it, in one transaction. For administrators.
    ///
    /// # Errors
    /// Not allowed, or the store failed: the old one then stays.
    pub async fn rotate_root_key(self: &Arc<Self>, caller: &Caller) -> Result<RootKeyRotated, Error> {
        let admin = self.authorise(caller, Operation::RotateRootKey).await?;
        let once = self.once(caller, &admin, Operation::RotateRootKey, &());
        let this = self.clone();
        self.write_once(once, move |tx| {
            let data_keys = this.secrets.vault.rotate_root(tx)? as u64;
            let subject = format!("{data_keys} data keys");
            this.audit(tx, &admin.actor, Operation::RotateRootKey.name(), &subject)?;
            tracing::info!(data_keys, "drew another root key");
            Ok(RootKeyRotated { data_keys })
        })
        .await
    }
}

/// Takes away what a backup left that was killed: a copy of the store.
fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") && path.is_dir() {
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what a backup left that broke off"),
                Err(error) => tracing::warn!(%error, path = %path.display(), "could not be removed"),
            }
        }
    }
}

/// The recovery keys that are wanted and trusted.
fn recipients(data_dir: &Path, wanted: &[String]) -> Result<Vec<RecoveryKey>, Error> {
    let trusted = RecoveryKey::trusted(data_dir).map_err(Error::unusable)?;
    let chosen = match wanted {
        [] => trusted,
        _ => {
            let find = |text: &String| {
                let key = RecoveryKey::parse(text);
                let key = key.filter(|key| trusted.iter().any(|known| known.id() == key.id()));
                key.ok_or(Error::RecoveryKey)
            };
            wanted.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    match chosen.len() {
        0 => Err(Error::RecoveryKey),
        1..=RECOVERY_KEYS_MAX => Ok(chosen),
        _ => Err(Error::Full { what: "recovery keys for one backup", max: RECOVERY_KEYS_MAX }),
    }
}

/// Reads all of a store that came out of a backup: pages, secrets, audit log.
pub(super) fn check(opening: &Opening, vault: &Vault) -> Result<Checked, OpenError> {
    let content = |what: String| OpenError::Backup(BackupError::Content(what));
    if !opening.is_whole().map_err(|error| opening.failed(error))? {
        return Err(content("the database is damaged".into()));
    }
    opening.transaction(|tx| vault.check(tx))?;
    let audit = opening.transaction(|tx| audit::first_bad(tx, vault))?;
    let audit = audit.map_err(|number| content(format!("record {number} of the audit log was altered")))?;
    opening.transaction(|tx| {
        Ok(Checked { bundle: tx.counter("bundle")?, epoch: tx.current_epoch()?.number, audit })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use crate::recovery::RecoverySecret;

    fn below(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, found),
                false => found.push(path.file_name().unwrap().to_string_lossy().into_owned()),
            }
        }
    }

    #[test]
    fn nothing_that_opens_the_store_lies_beside_it_while_a_backup_is_made() {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = Authority::open(dir.path(), Config::default(), Arc::new(SystemClock)).unwrap();
        let work = dir.path().join("work");
        files::make_dir(&work).unwrap();
        let secret = RecoverySecret::generate();
        authority.write_and_check(&[secret.public().clone()], &work, 1).unwrap();
        // All that there was at any time: what is made for the check is removed with the directory.
        let mut found = Vec::new();
        below(&work, &mut found);
        found.retain(|name| !name.starts_with("authority.") && name != "snapshot.db" && name != "backup");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_backup_left_goes_with_the_next() {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = Authority::open(dir.path(), Config::default(), Arc::new(SystemClock)).unwrap();
        RecoverySecret::generate().public().trust(dir.path()).unwrap();
        let left = dir.path().join("backups/.0badcafe/check");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("authority.db"), b"a store").unwrap();
        authority.write_backup(&[]).unwrap();
        let mut found = Vec::new();
        below(&dir.path().join("backups"), &mut found);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
