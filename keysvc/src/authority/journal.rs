//! The store catches up with its journal: after a crash between the two, and after an older store was put back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smqtt_core::attribute::Versions;
use smqtt_core::bundle::{Bundle, Epoch};
use smqtt_core::identity::{DeviceId, Role};

use super::devices::PAGE_MAX;
use super::profiles::in_all;
use super::{Operation, audit, roots};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::OpenError;
use crate::files;
use crate::store::{
    Deed, GivenRow, GroupRow, JOURNAL_FILE, Journal, JournalEntry, Opening, StoreError, Tx, read_journal,
};
use crate::vault::Vault;

/// The directory of the journal.
pub(super) const DIRECTORY: &str = "revocations";

/// What a store had forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CaughtUp {
    /// Names of those who are revoked or suspended again.
    pub(super) shut_out: BTreeSet<String>,
    /// What was done again, as the audit log has it: action and subject.
    done: Vec<(&'static str, String)>,
    /// The highest epoch that anybody has seen.
    epoch: u64,
}

/// What is in `data_dir` of a store that is not there: a journal that tells something. To begin another store would put it aside.
pub(super) fn left_over(data_dir: &Path) -> Option<PathBuf> {
    let path = data_dir.join(DIRECTORY).join(JOURNAL_FILE);
    std::fs::metadata(&path).is_ok_and(|file| file.len() > 0).then_some(path)
}

/// Opens the journal in `data_dir`, has the store catch up with it, and has it kept from now on.
pub(super) fn open(
    opening: &Opening,
    vault: &Vault,
    data_dir: &Path,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(), OpenError> {
    let dir = data_dir.join(DIRECTORY);
    files::make_dir(&dir)?;
    let (path, key, now) = (dir.join(JOURNAL_FILE), vault.journal_key(), clock.now());
    let time = || {
        let clock = clock.clone();
        Box::new(move || clock.now())
    };
    let (known, row) = opening.transaction(|tx| Ok((tx.counter("journal")?, tx.last_row()?)))?;
    let (problem, certain) = match read_journal(&path, &key)? {
        Ok(read) if read.last() >= known => {
            let missed: Vec<_> = read.entries.iter().filter(|entry| entry.number > known).cloned().collect();
            let told = read.entries.last().map(|entry| entry.row);
            opening.keep_journal(Journal::resume(&path, key.clone(), &read, time())?.anew_from(write_state));
            // A crash between journal and store leaves lines of one transaction; whoever lacks more is an older copy.
            let is_older = missed.iter().any(|entry| entry.row > row);
            if is_older || missed.iter().any(|entry| entry.deed != Deed::Mark) {
                opening.transaction(|tx| catch_up(tx, vault, config, &missed, is_older, now))?;
            } else if let Some(told) = told.filter(|told| *told > row) {
                opening.transaction(|tx| audit::tell_of_cut(tx, vault, now, row, told))?;
            }
            if known > 0 || !missed.is_empty() {
                return mark(opening, told);
            }
            // A new store, or one from before there was a journal. It gets a first line at once: a journal without any
            // is no source for a restore, since it may have been emptied.
            (None, Vec::new())
        }
        Ok(read) => {
            (Some(format!("ends with line {}, and the store knows of {known}", read.last())), Vec::new())
        }
        // The store may be older as well: whatever of the journal is certain it must not forget.
        Err(damaged) => (Some(damaged.to_string()), damaged.certain),
    };
    let missed: Vec<_> = certain.into_iter().filter(|entry| entry.number > known).collect();
    let last = missed.iter().map(|entry| entry.number).max().unwrap_or(known);
    opening.keep_journal(Journal::restart(&path, key, last, time())?.anew_from(write_state));
    if let Some(problem) = &problem {
        tracing::error!(path = %path.display(), problem, "the journal of revocations was damaged: written anew from the store");
    }
    opening.transaction(|tx| {
        if !missed.is_empty() {
            let is_older = missed.iter().any(|entry| entry.row > row);
            catch_up(tx, vault, config, &missed, is_older, now)?;
        }
        write_state(tx)?;
        let subject = match &problem {
            Some(problem) => problem,
            None if tx.revoked_ids()?.is_empty() => return Ok(()),
            None => "the store had none",
        };
        audit::append(tx, vault, now, "authority", "rebuild-journal", subject)
    })
}

/// Writes down how far the audit log has come, unless the last line `told` it.
fn mark(opening: &Opening, told: Option<u64>) -> Result<(), OpenError> {
    opening.transaction(|tx| {
        if told != Some(tx.last_row()?) {
            tx.write_down(Deed::Mark);
        }
        Ok(())
    })
}

/// Does again what the store has forgotten. One `is_older` than a crash can make it has forgotten as well which tokens were used
/// and which were taken back: none of its open ones is worth anything any more.
fn catch_up(
    tx: &Tx<'_>,
    vault: &Vault,
    config: &Config,
    missed: &[JournalEntry],
    is_older: bool,
    now: u64,
) -> Result<(), StoreError> {
    let caught_up = apply(tx, config, missed)?;
    let mut subject = format!(
        "journal lines {} to {}: shut out {}",
        missed[0].number,
        missed[missed.len() - 1].number,
        list(&caught_up.shut_out)
    );
    if is_older {
        let (tokens, access) = tx.void_tokens(now)?;
        subject += &format!("; an older store: {tokens} open tokens and {access} access tokens ended");
    }
    tracing::warn!(subject, "the store was behind its journal and has caught up");
    begin_above(tx, config, caught_up.epoch, now)?;
    caught_up.write_down(tx, vault, now)?;
    audit::append(tx, vault, now, "authority", "catch-up", &subject)
}

/// Names, or `nobody`; as many as an audit record holds.
pub(super) fn list(names: &BTreeSet<String>) -> String {
    match names.len() {
        0 => "nobody".to_owned(),
        count if count > 8 => format!("{count} devices"),
        _ => names.iter().cloned().collect::<Vec<_>>().join(", "),
    }
}

/// Has the store do what `entries` say, in their order, as far as it has not. Epochs that it has forgotten begin and end again
/// with the versions that they had, so that whoever slept through them is given their keys.
pub(super) fn apply(tx: &Tx<'_>, config: &Config, entries: &[JournalEntry]) -> Result<CaughtUp, StoreError> {
    let (mut caught_up, mut touched) = (CaughtUp::default(), BTreeSet::new());
    tx.jump()?;
    for entry in entries {
        match &entry.deed {
            Deed::Revoked { id, role, name } | Deed::Suspended { id, role, name } => {
                let suspends = matches!(entry.deed, Deed::Suspended { .. });
                let operation = match tx.device(*id)? {
                    None => {
                        tx.insert_revoked(*id, *role, name, entry.at)?;
                        Operation::Revoke
                    }
                    Some(device) if device.revocation.is_some() => continue,
                    Some(device) if suspends && device.suspension.is_some() => continue,
                    Some(_) if suspends => {
                        tx.suspend_device(*id, entry.at)?;
                        Operation::Suspend
                    }
                    Some(_) => {
                        tx.revoke_device(*id, entry.at)?;
                        let whose = format!("{name} {id}");
                        match tx.remove_tokens_of(&whose, entry.at)? {
                            0 => {}
                            tokens => {
                                caught_up.did(Operation::RemoveToken, format!("{tokens} made by {whose}"))
                            }
                        }
                        Operation::Revoke
                    }
                };
                caught_up.did(operation, format!("{name} {id}"));
                caught_up.shut_out.insert(name.clone());
            }
            Deed::Resumed { id } => {
                if let Some(device) = tx.device(*id)?
                    && device.suspension.is_some()
                {
                    tx.resume_device(*id)?;
                    caught_up.did(Operation::Resume, format!("{} {id}", device.name));
                    caught_up.shut_out.remove(&device.name);
                }
            }
            Deed::Changed { id, attributes, policy } => {
                if let Some(device) = tx.device(*id)?
                    && (&device.attributes, &device.policy) != (attributes, policy)
                {
                    tx.set_attributes(*id, attributes, policy.as_ref())?;
                    touched.insert(*id);
                    caught_up.did(Operation::ChangeDevice, format!("{} {id}: {attributes}", device.name));
                }
            }
            Deed::Given { id, given } => {
                if tx.device(*id)?.is_some() {
                    tx.change_given(*id, &known_parts(tx, given)?)?;
                    touched.insert(*id);
                }
            }
            Deed::Profile { profile: Some(row), .. } => tx.set_profile(row)?,
            Deed::Profile { name, profile: None } => {
                if tx.profile_users(name)? == 0 {
                    tx.delete_profile(name)?;
                }
            }
            Deed::Group { group: Some(row), .. } => {
                let given = GivenRow { profile: row.profile.clone(), ..GivenRow::default() };
                let profile = known_parts(tx, &given)?.profile;
                tx.set_group(&GroupRow { profile, ..row.clone() })?;
            }
            Deed::Group { name, group: None } => {
                if tx.group_users(name)? == 0 {
                    tx.delete_group(name)?;
                }
            }
            Deed::Version { attribute, version } => {
                if tx.versions()?.get(attribute) < *version {
                    tx.set_version(attribute, *version)?;
                }
            }
            Deed::Epoch { number } => {
                if tx.current_epoch()?.number < *number {
                    begin(tx, config, *number, entry.at)?;
                    caught_up.did(Operation::BeginEpoch, number.to_string());
                }
            }
            Deed::RootIssues { root } => {
                if roots::issue_again(tx, config, root, entry.at)? {
                    caught_up.did(Operation::RotateCertificate, format!("activate: {root}"));
                }
            }
            Deed::Mark => {}
            Deed::RootRetired { root } => {
                if roots::retire_again(tx, root)? {
                    caught_up.did(Operation::RotateCertificate, format!("retire: {root}"));
                }
            }
        }
    }
    // What a journal of an earlier version does not tell: whose profile or group would give back what was taken away has it
    // no more.
    for id in touched {
        let Some(device) = tx.device(id)? else { continue };
        let given = tx.given(&device)?;
        let fits = in_all(tx, &given, device.role)
            .is_ok_and(|(attributes, policy)| (attributes, policy) == (device.attributes, device.policy));
        if !fits {
            let own = GivenRow::default();
            tx.change_given(id, &own)?;
            caught_up
                .did(Operation::ChangeDevice, format!("{} {id}: neither profile nor group", device.name));
        }
    }
    tx.set_counter("journal", entries.last().map_or(0, |entry| entry.number).max(tx.counter("journal")?))?;
    Ok(caught_up)
}

/// What is there of it: a profile or group that came and went is nobody's.
fn known_parts(tx: &Tx<'_>, given: &GivenRow) -> Result<GivenRow, StoreError> {
    let mut given = given.clone();
    if let Some(name) = &given.profile
        && tx.profile(name)?.is_none()
    {
        given.profile = None;
    }
    if let Some(name) = &given.group
        && tx.group(name)?.is_none()
    {
        given.group = None;
    }
    Ok(given)
}

/// Takes from a bundle, whoever kept it, what the store has forgotten. It is signed; its names it does not say.
pub(super) fn apply_bundle(
    tx: &Tx<'_>,
    config: &Config,
    bundle: &Bundle,
    now: u64,
) -> Result<CaughtUp, StoreError> {
    let mut caught_up = CaughtUp { epoch: bundle.epoch.number, ..CaughtUp::default() };
    for id in &bundle.revoked {
        match tx.device(*id)? {
            None => tx.insert_revoked(*id, Role::Device, &id.to_string(), now)?,
            Some(device) if device.revocation.is_some() || device.suspension.is_some() => continue,
            Some(device) => {
                tx.revoke_device(*id, now)?;
                caught_up.did(Operation::Revoke, format!("{} {id}", device.name));
                caught_up.shut_out.insert(device.name);
                continue;
            }
        }
        caught_up.did(Operation::Revoke, format!("{id} {id}"));
        caught_up.shut_out.insert(id.to_string());
    }
    for (step, root) in roots::follow_bundle(tx, config, bundle)? {
        caught_up.did(Operation::RotateCertificate, format!("{step}: {root}"));
    }
    let own: Versions = tx.versions()?;
    for (attribute, version) in bundle.versions.iter() {
        if own.get(attribute) < version {
            tx.set_version(attribute, version)?;
        }
    }
    Ok(caught_up)
}

impl CaughtUp {
    fn did(&mut self, operation: Operation, subject: String) {
        self.done.push((operation.name(), subject));
    }

    /// Writes a row for each change into the audit log: what was cut short was not written down with it.
    pub(super) fn write_down(&self, tx: &Tx<'_>, vault: &Vault, now: u64) -> Result<(), StoreError> {
        self.done
            .iter()
            .try_for_each(|(action, subject)| audit::append(tx, vault, now, "authority", action, subject))
    }

    /// The two together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.shut_out.extend(other.shut_out);
        self.done.extend(other.done);
        self.epoch = self.epoch.max(other.epoch);
        self
    }

    /// At least this epoch was seen.
    pub(super) fn seen(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Begins an epoch above the store's own and `seen`, and has the next start sign a bundle. Gives its number.
pub(super) fn begin_above(tx: &Tx<'_>, config: &Config, seen: u64, now: u64) -> Result<u64, StoreError> {
    let number = tx.current_epoch()?.number.max(seen) + 1;
    begin(tx, config, number, now)?;
    tx.delete_document("bundle")?;
    Ok(number)
}

fn begin(tx: &Tx<'_>, config: &Config, number: u64, at: u64) -> Result<(), StoreError> {
    let epoch = Epoch { number, begins: at, ends: at.saturating_add(config.epoch_seconds) };
    tx.begin_epoch(epoch, &tx.versions()?, number.saturating_sub(config.history_epochs))
}

/// Writes all that must not be undone into a journal that has nothing of it.
pub(super) fn write_state(tx: &Tx<'_>) -> Result<(), StoreError> {
    for id in tx.revoked_ids()? {
        let Some(device) = tx.device(id)? else { continue };
        let (role, name) = (device.role, device.name);
        tx.write_down(match device.revocation {
            Some(_) => Deed::Revoked { id, role, name },
            None => Deed::Suspended { id, role, name },
        });
    }
    tx.profiles()?.into_iter().for_each(|row| {
        tx.write_down(Deed::Profile { name: row.name.clone(), profile: Some(row) });
    });
    tx.groups()?.into_iter().for_each(|row| {
        tx.write_down(Deed::Group { name: row.name.clone(), group: Some(row) });
    });
    let mut after = DeviceId([0; 16]);
    loop {
        let page = tx.devices(&after.0, PAGE_MAX)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for device in page.into_iter().filter(|device| device.revocation.is_none()) {
            let (id, given) = (device.id, tx.given(&device)?);
            if given.profile.is_some() || given.group.is_some() {
                tx.write_down(Deed::Given { id, given });
            }
            let (attributes, policy) = (device.attributes, device.policy);
            tx.write_down(Deed::Changed { id, attributes, policy });
        }
    }
    let (now, mut told) = (tx.versions()?, Versions::default());
    for row in tx.epochs(0)? {
        // The versions are those at its end: with `epoch` the one before ends.
        tx.write_down(Deed::Epoch { number: row.epoch.number });
        let versions = row.versions.as_ref().unwrap_or(&now);
        for (attribute, version) in
            versions.iter().filter(|(attribute, version)| told.get(attribute) < *version)
        {
            tx.write_down(Deed::Version { attribute: attribute.clone(), version });
        }
        told = versions.clone();
    }
    roots::write_down(tx)
}
