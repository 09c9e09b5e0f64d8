//! The audit log: one row in the same transaction as what it tells, each hash over the one before.
//!
//! [`smqtt_core::audit`] has the chain. A chain cannot tell that its end was cut off: the number and hash of
//! the last row stand beside it under a key that is not in the store.

use std::collections::HashMap;
use std::sync::PoisonError;

use smqtt_core::api::AuditRecord;
use smqtt_core::audit::{self, ALTERED, FORGET, OWN_ACTOR, chain};
use smqtt_core::crypto::equal;

use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{AuditRow, NUMBER_MAX, StoreError, Tx};
use crate::vault::Vault;

/// Most bytes of an actor or subject.
const TEXT_BYTES_MAX: usize = 512;
/// Most rows in one answer.
pub(crate) const PAGE_MAX: usize = 1000;
/// Most refusals that are written in one minute; the rest is counted. Whoever may be refused must not fill the disk.
/// Counted apart: those whom anybody can provoke, those that take a certificate or an access token, and those that take the
/// secret of an enrolment token, which are alarms.
const DENIALS_PER_MINUTE_MAX: u64 = 120;
/// Most of these that are written of one certificate, access token or enrolment token: whoever has one must not hide others' behind theirs.
const DENIALS_OF_ONE_MAX: u64 = 20;
const HEAD: &str = "audit-head";

/// How many refusals there were in the current minute.
#[derive(Default)]
pub(super) struct Denials {
    minute: u64,
    of_anybody: u64,
    of_holders: u64,
    of_tokens: u64,
    /// Of each holder and each enrolment token. As many as are written, and so bounded.
    of_one: HashMap<String, u64>,
    unwritten: u64,
}

impl Denials {
    /// Counts a refusal. How many of earlier minutes were not written, or `None` where this one is not to be, either.
    fn count(&mut self, now: u64, actor: &str, subject: &str, error: &Error) -> Option<u64> {
        let mut unwritten = 0;
        if self.minute != now / 60 {
            unwritten = self.unwritten;
            *self = Self { minute: now / 60, ..Self::default() };
        }
        let (count, one) = match error {
            Error::TokenUsed
            | Error::TokenExpired
            | Error::TokenRemoved
            | Error::NameTaken { .. }
            | Error::SerialUnknown
            | Error::Denied => (&mut self.of_tokens, Some(subject)),
            Error::Role { .. }
            | Error::Revoked
            | Error::Suspended
            | Error::UnknownCaller
            | Error::AccessExpired
            | Error::Scope { .. } => (&mut self.of_holders, Some(actor)),
            _ => (&mut self.of_anybody, None),
        };
        let mut is_written = *count < DENIALS_PER_MINUTE_MAX;
        if let Some(one) = one.filter(|_| is_written) {
            let of_one = self.of_one.entry(one.to_owned()).or_default();
            *of_one += 1;
            is_written = *of_one <= DENIALS_OF_ONE_MAX;
        }
        if !is_written {
            self.unwritten += 1;
            return None;
        }
        *count += 1;
        Some(unwritten)
    }
}

/// Appends a row to the log. Where it does not end as we left it, a row says so first, and for ever: ours would otherwise vouch
/// for an end that somebody else wrote.
pub(super) fn append(
    tx: &Tx<'_>,
    vault: &Vault,
    at: u64,
    actor: &str,
    action: &str,
    subject: &str,
) -> Result<(), StoreError> {
    let mut end = tx.last_audit()?;
    let (last, hash) = end.unwrap_or_default();
    let ours = tx.document(HEAD)?.is_some_and(|stored| equal(&stored, &head(vault, last, &hash)));
    if !ours {
        tracing::error!(row = last, "the end of the audit log is not what this authority wrote");
        let subject = format!("the log ended with row {last}, which was not the last one");
        write(tx, vault, end, at, OWN_ACTOR, ALTERED, &subject)?;
        end = tx.last_audit()?;
    }
    write(tx, vault, end, at, actor, action, subject)
}

/// Begins the log of an authority that is made now.
pub(super) fn begin(tx: &Tx<'_>, vault: &Vault, at: u64, subject: &str) -> Result<(), StoreError> {
    write(tx, vault, None, at, OWN_ACTOR, "create", subject)
}

/// Says that the log ends before the row that somebody else `told` of.
pub(super) fn tell_of_cut(
    tx: &Tx<'_>,
    vault: &Vault,
    at: u64,
    row: u64,
    told: u64,
) -> Result<(), StoreError> {
    tracing::error!(row, told, "the audit log was cut off: the journal tells of more");
    let subject = format!("the log ended with row {row}, and the journal tells of row {told}");
    write(tx, vault, tx.last_audit()?, at, OWN_ACTOR, ALTERED, &subject)
}

fn write(
    tx: &Tx<'_>,
    vault: &Vault,
    end: Option<(u64, [u8; 32])>,
    at: u64,
    actor: &str,
    action: &str,
    subject: &str,
) -> Result<(), StoreError> {
    let (last, previous) = end.unwrap_or_default();
    let mut row = AuditRow {
        number: last + 1,
        at,
        actor: bounded(actor),
        action: bounded(action),
        subject: bounded(subject),
        hash: [0; 32],
    };
    row.hash = hash(&previous, &row);
    tx.append_audit(&row)?;
    tx.set_document(HEAD, &head(vault, row.number, &row.hash))
}

fn hash(previous: &[u8; 32], row: &AuditRow) -> [u8; 32] {
    chain(previous, row.number, row.at, &row.actor, &row.action, &row.subject)
}

fn head(vault: &Vault, number: u64, hash: &[u8; 32]) -> [u8; 32] {
    vault.tag(HEAD, &[&number.to_be_bytes()[..], hash].concat())
}

fn bounded(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Reads the whole log of a store that nobody else has open: its chain and its end. [`Authority::verify_audit`] looks besides for
/// rows that say it was altered, and for who cut it off.
pub(super) fn first_bad(tx: &Tx<'_>, vault: &Vault) -> Result<Result<u64, u64>, StoreError> {
    let (mut number, mut previous) = tx.pruned()?.unwrap_or_default();
    loop {
        let rows = tx.audit_after(number, PAGE_MAX)?;
        let last_page = rows.len() < PAGE_MAX;
        for row in rows {
            if row.number != number + 1 || hash(&previous, &row) != row.hash {
                return Ok(Err(number + 1));
            }
            (number, previous) = (row.number, row.hash);
        }
        if last_page {
            let tag = head(vault, number, &previous);
            let whole = tx.document(HEAD)?.is_some_and(|stored| equal(&stored, &tag));
            return Ok(if whole { Ok(number) } else { Err(number + 1) });
        }
    }
}

impl Authority {
    /// Up to 1,000 rows after number `after`. For administrators and auditors.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn audit_log(&self, caller: &Caller, after: u64) -> Result<Vec<AuditRecord>, Error> {
        self.authorise(caller, Operation::ReadAudit).await?;
        let after = after.min(NUMBER_MAX);
        let rows = self.store.read(move |tx| Ok(tx.audit_after(after, PAGE_MAX)?)).await?;
        Ok(rows.into_iter().map(record).collect())
    }

    /// Reads the whole log: the number of its rows, or `Err` with the number of the first that does not fit.
    ///
    /// # Errors
    /// The store failed.
    pub async fn verify_audit(&self) -> Result<Result<u64, u64>, Error> {
        let begins = self.store.read(|tx| Ok(tx.pruned()?)).await?;
        let (mut number, mut previous) = begins.unwrap_or_default();
        let (cut_at, mut forgotten) = (number, number == 0);
        loop {
            // The page and the head are of one snapshot: the log grows meanwhile.
            let read = move |tx: &Tx<'_>| Ok((tx.audit_after(number, PAGE_MAX)?, tx.document(HEAD)?));
            let (rows, stored) = self.store.read(read).await?;
            let last_page = rows.len() < PAGE_MAX;
            for row in rows {
                let altered = (row.actor.as_str(), row.action.as_str()) == (OWN_ACTOR, ALTERED);
                if row.number != number + 1 || hash(&previous, &row) != row.hash || altered {
                    return Ok(Err(number + 1));
                }
                forgotten |= (row.actor.as_str(), row.action.as_str()) == (OWN_ACTOR, FORGET)
                    && row.subject == audit::forgotten(cut_at);
                (number, previous) = (row.number, row.hash);
            }
            if last_page {
                let tag = head(&self.secrets.vault, number, &previous);
                let whole = stored.is_some_and(|stored| equal(&stored, &tag));
                return Ok(match (whole, forgotten) {
                    (true, true) => Ok(number),
                    (true, false) => Err(cut_at),
                    (false, _) => Err(number + 1),
                });
            }
        }
    }

    pub(super) fn audit(
        &self,
        tx: &Tx<'_>,
        actor: &str,
        action: &str,
        subject: &str,
    ) -> Result<(), StoreError> {
        append(tx, &self.secrets.vault, self.now(), actor, action, subject)
    }

    /// Writes down that something was refused, and gives the refusal back.
    pub(super) async fn deny(
        &self,
        actor: String,
        action: &'static str,
        subject: String,
        error: Error,
    ) -> Error {
        if matches!(error, Error::LowSpace) {
            // It is not for want of leave.
            return error;
        }
        let code = error.code();
        tracing::info!(actor, action, subject, code, "refused");
        let now = self.now();
        let counted =
            self.denials.lock().unwrap_or_else(PoisonError::into_inner).count(now, &actor, &subject, &error);
        let Some(unwritten) = counted else { return error };
        let vault = self.secrets.vault.clone();
        let write = self.store.write(move |tx| {
            if unwritten > 0 {
                append(tx, &vault, now, "authority", "refusals not written", &unwritten.to_string())?;
            }
            append(tx, &vault, now, &actor, &format!("refused {action}: {code}"), &subject)?;
            Ok(())
        });
        match write.await {
            Ok(()) => {}
            Err(Error::LowSpace) => {
                self.denials.lock().unwrap_or_else(PoisonError::into_inner).unwritten += unwritten + 1;
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "a refusal could not be written down"
            ),
        }
        error
    }
}

pub(super) fn record(row: AuditRow) -> AuditRecord {
    let hash = row.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    AuditRecord {
        number: row.number,
        at: row.at,
        actor: row.actor,
        action: row.action,
        subject: row.subject,
        hash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_hides_no_alarm() {
        let mut denials = Denials::default();
        for _ in 0..DENIALS_PER_MINUTE_MAX {
            assert_eq!(denials.count(60, "::1", "t", &Error::CertificateRequired), Some(0));
        }
        assert_eq!(denials.count(119, "::1", "t", &Error::CertificateRequired), None);
        assert_eq!(denials.count(119, "::1", "t", &Error::TokenUsed), Some(0));
        assert_eq!(denials.count(120, "::1", "t", &Error::TokenUnknown), Some(1));
        assert_eq!(denials.count(180, "::1", "t", &Error::TokenUnknown), Some(0));
    }

    #[test]
    fn a_device_that_is_refused_without_end_hides_neither_others_nor_alarms() {
        let mut denials = Denials::default();
        let role = || Error::Role { role: smqtt_core::identity::Role::Device };
        let written =
            (0..10_000).filter(|_| denials.count(60, "sensor", "t", &role()).is_some()).count() as u64;
        assert_eq!(written, DENIALS_OF_ONE_MAX);
        assert_eq!(denials.count(60, "thief", "t", &Error::Revoked), Some(0));
        assert_eq!(denials.count(60, "::1", "t", &Error::TokenUsed), Some(0));
        // Nor do very many of them take memory without end.
        for n in 0..10_000 {
            denials.count(60, &format!("sensor-{n}"), "t", &role());
        }
        assert!(denials.of_one.len() as u64 <= DENIALS_PER_MINUTE_MAX + 1);
        assert_eq!(denials.count(60, "::1", "t", &Error::TokenUsed), Some(0));
        let unwritten = denials.count(120, "thief", "t", &Error::Revoked).unwrap();
        // One that was written is the thief's.
        assert_eq!(unwritten, 20_000 - (DENIALS_PER_MINUTE_MAX - 1));
    }

    #[test]
    fn texts_are_bounded_and_printable() {
        assert_eq!(bounded("a\nb\u{1b}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(bounded(&"é".repeat(300)).len(), TEXT_BYTES_MAX);
        assert_eq!(bounded(&format!("a{}", "é".repeat(300))).len(), TEXT_BYTES_MAX - 1);
    }
}
