//! An authority out of a backup. It un-revokes nobody: it does again what the journal says was done since, begins a new
//! epoch, and numbers its bundles above all that anybody has seen.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smqtt_core::bundle::Bundle;

use super::backup::{Checked, check};
use super::journal::{self, CaughtUp};
use super::{Authority, audit, roots};
use crate::backup::{self, BackupError, Opener};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::OpenError;
use crate::files;
use crate::recovery::RecoverySecret;
use crate::seal::{KeyFile, Seal};
use crate::store::{JOURNAL_FILE, Journal, Opening, StoreError, read_journal};
use crate::vault::Vault;

/// Epochs that are left free where nobody knows how many there were since the backup, besides those that were due.
const EPOCHS_SPARE: u64 = 8;

/// Where to learn what was revoked since the backup.
#[derive(Clone, Debug)]
pub enum Since {
    /// From the journal, `DIR/revocations/journal` of the lost authority.
    Journal(PathBuf),
    /// It is lost: what was revoked since is revoked again by hand, or by the bundles given.
    Lost,
}

/// What to restore.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The backup.
    pub backup: &'a Path,
    /// One of the keys it is sealed to.
    pub key: &'a RecoverySecret,
    /// Where to learn what was revoked since.
    pub since: Since,
    /// Bundles that brokers or devices kept, `bundle.cose`: each tells who was revoked when it was signed.
    pub bundles: Vec<Vec<u8>>,
}

/// What [`restore`] did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Whose backup it was: the fingerprint.
    pub authority: String,
    /// When the backup was made.
    pub created: u64,
    /// Who was shut out since, and is so again.
    pub shut_out: Vec<String>,
    /// Until when the journal or the newest of the bundles tells; `None` where there was neither.
    pub known_until: Option<u64>,
    /// The epoch that begins.
    pub epoch: u64,
    /// Tokens that nobody was known to have used, and are worth nothing now.
    pub tokens_voided: usize,
    /// Access tokens that are worth nothing now.
    pub access_voided: usize,
    /// Records of the audit log.
    pub audit: u64,
}

/// Makes an authority in `data_dir`, which must be empty or not there, under a key file of its own. It appears there
/// when all of it is done. Start it afterwards.
///
/// # Errors
/// [`OpenError`]: the backup or the journal does not hold, or the disk failed; then nothing appears in `data_dir`.
pub async fn restore(
    what: Restore<'_>,
    data_dir: &Path,
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Restored, OpenError> {
    let taken = std::fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        return Err(OpenError::Taken { path: data_dir.to_owned() });
    }
    let beside = |suffix: &str| {
        let mut path = data_dir.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    // Another one at the same time would take this one's files from under it; what one left that was killed goes.
    let (partial, lock) = (beside(".restoring"), beside(".restoring.lock"));
    let _locked = Locked::new(data_dir, lock)?;
    let _ = std::fs::remove_dir_all(&partial);
    let restored = restore_into(what, &partial, config, clock).await;
    let restored = match restored {
        Ok(restored) => restored,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    let _ = std::fs::remove_dir(data_dir);
    files::rename(&partial, data_dir)?;
    Ok(restored)
}

/// The leave to restore into a directory, for one at a time.
struct Locked {
    path: PathBuf,
    _file: File,
}

impl Locked {
    fn new(data_dir: &Path, path: PathBuf) -> Result<Self, OpenError> {
        if let Some(parent) =
            path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
        {
            files::make_dir(parent)?;
        }
        let file = files::touch(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: data_dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(OpenError::File { verb: "lock", path, source }),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn restore_into(
    what: Restore<'_>,
    data_dir: &Path,
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Restored, OpenError> {
    let (store_dir, seal_dir) = (data_dir.join("authority"), data_dir.join("seal"));
    for dir in [data_dir, &store_dir, &seal_dir] {
        files::make_dir(dir)?;
    }
    let now = clock.now();
    let store = files::touch(&store_dir.join("authority.db"))?;
    let (head, root) = backup::read(what.backup, &Opener::Secret(what.key), store)?;
    let opening = Opening::new(&store_dir)?;
    let seal = Seal::of_key_file(&KeyFile::open_or_make(&seal_dir)?);
    let vault = Vault::recover(&opening, &head.authority, root, seal)?;
    let Checked { audit, .. } = check(&opening, &vault)?;
    let roots = opening.transaction(roots::in_trust)?;
    let bundle = |bytes: &Vec<u8>| {
        let bundle = Bundle::verify(bytes, &roots);
        bundle.map_err(|error| OpenError::Backup(BackupError::Content(format!("a bundle: {error}"))))
    };
    let bundles = what.bundles.iter().map(bundle).collect::<Result<Vec<_>, _>>()?;
    let mut known_until = bundles.iter().map(|bundle| bundle.issued).max();
    let known = opening.transaction(|tx| tx.counter("journal"))?;
    let dir = data_dir.join(journal::DIRECTORY);
    files::make_dir(&dir)?;
    let own = dir.join(JOURNAL_FILE);
    let entries = match &what.since {
        Since::Lost => {
            opening.keep_journal(Journal::restart(&own, vault.journal_key(), known, Box::new(move || now))?);
            Vec::new()
        }
        Since::Journal(path) => {
            let read = read_journal(path, &vault.journal_key())?;
            let read =
                read.map_err(|error| OpenError::Journal { path: path.clone(), detail: error.to_string() })?;
            if read.last() < known || read.entries.is_empty() {
                let detail = format!("it ends with line {}, and the backup knows of {known}", read.last());
                return Err(OpenError::Journal { path: path.clone(), detail });
            }
            known_until = known_until.max(read.entries.last().map(|entry| entry.at));
            files::write_secret(&own, &files::read(path)?.unwrap_or_default())?;
            opening.keep_journal(Journal::resume(&own, vault.journal_key(), &read, Box::new(move || now))?);
            read.entries.into_iter().filter(|entry| entry.number > known).collect()
        }
    };
    let (caught_up, epoch, voided) = opening.transaction(|tx| {
        let mut caught_up = journal::apply(tx, config, &entries)?;
        for bundle in &bundles {
            caught_up = caught_up.and(journal::apply_bundle(tx, config, bundle, now)?);
        }
        if matches!(what.since, Since::Lost) {
            let due = now.saturating_sub(head.created) / config.epoch_seconds;
            let current = tx.current_epoch()?.number;
            caught_up.seen(current + due + EPOCHS_SPARE);
        }
        let epoch = journal::begin_above(tx, config, caught_up.epoch(), now)?;
        let voided = tx.void_tokens(now)?;
        if matches!(what.since, Since::Lost) {
            journal::write_state(tx)?;
        }
        caught_up.write_down(tx, &vault, now)?;
        audit::append(tx, &vault, now, "authority", "restore", &subject(&what.since, &head, &caught_up))?;
        Ok::<_, StoreError>((caught_up, epoch, voided))
    })?;
    drop(opening);
    // As the next start will: it makes a new administrator, and signs a bundle.
    let authority = Authority::open(data_dir, config.clone(), clock)?;
    let whole = authority.verify_audit().await;
    let whole = whole.map_err(|error| OpenError::Backup(BackupError::Content(error.to_string())))?;
    whole.map_err(|number| {
        OpenError::Backup(BackupError::Content(format!("record {number} of the audit log was altered")))
    })?;
    Ok(Restored {
        authority: head.authority,
        created: head.created,
        shut_out: caught_up.shut_out.into_iter().collect(),
        known_until,
        epoch,
        tokens_voided: voided.0,
        access_voided: voided.1,
        audit,
    })
}

fn subject(since: &Since, head: &backup::BackupHead, caught_up: &CaughtUp) -> String {
    let source = match since {
        Since::Journal(_) => "journal",
        Since::Lost => "journal lost",
    };
    format!("backup of {}; {source}; shut out {}", head.created, journal::list(&caught_up.shut_out))
}
