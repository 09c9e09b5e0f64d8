//! The audit log outside of the authority: its chain, the checkpoints signed over it, and their check.
//!
//! ```text
//! hash      = SHA-256(previous hash || number || at || len(actor) || actor || len(action) || action || len(subject) || subject)
//! signature = ECDSA-P256-SHA256 by the authority over "SMQTT-V01 audit checkpoint" || number || at || hash
//! ```
//!
//! Numbers and lengths are 8 bytes, big-endian; the hash before the first row is zero. The chain shows that rows belong
//! together; who can write the log can make another chain. A checkpoint they cannot make: it says with the authority's
//! signature how the log stood. What comes after the last checkpoint is held by the chain alone, which anybody can make: it
//! is believed while it is young ([`Verified::check_young`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::{AuditRecord, Checkpoint};
use crate::crypto::{sha256, verify};
use crate::header::Signer;
use crate::identity::{CERTIFICATE_BYTES_MAX, Fingerprint, Role, verify_certificate};

/// The actor of what the authority does by itself.
pub const OWN_ACTOR: &str = "authority";
/// The action of the row that says that the log did not end as the authority had left it.
pub const ALTERED: &str = "audit-altered";
/// The action of the row that says that the authority forgot earlier rows.
pub const FORGET: &str = "forget-audit";

/// The subject of such a row: up to which row.
pub fn forgotten(upto: u64) -> String {
    format!("rows to {upto}")
}

/// How old rows may be that no checkpoint vouches for, in seconds. An authority signs within a minute.
pub const UNSIGNED_SECONDS_MAX: u64 = 300;

const DOMAIN: &[u8] = b"SMQTT-V01 audit checkpoint";

/// The hash of a row after the row with hash `previous`.
pub fn chain(
    previous: &[u8; 32],
    number: u64,
    at: u64,
    actor: &str,
    action: &str,
    subject: &str,
) -> [u8; 32] {
    let length = |text: &str| (text.len() as u64).to_be_bytes();
    sha256(&[
        previous,
        &number.to_be_bytes(),
        &at.to_be_bytes(),
        &length(actor),
        actor.as_bytes(),
        &length(action),
        action.as_bytes(),
        &length(subject),
        subject.as_bytes(),
    ])
}

fn message(number: u64, at: u64, hash: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, &number.to_be_bytes(), &at.to_be_bytes(), hash].concat()
}

/// Signs that at time `at` the log ended with row `number`, whose hash is `hash`.
pub fn checkpoint(signer: &Signer, number: u64, at: u64, hash: &[u8; 32]) -> Checkpoint {
    Checkpoint {
        number,
        at,
        hash: Fingerprint(*hash).to_string(),
        certificate: STANDARD.encode(signer.certificate()),
        signature: STANDARD.encode(signer.key().sign(&message(number, at, hash))),
    }
}

/// Where a log does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// Rows are missing or out of order.
    #[error("row {expected} is missing: row {found} follows")]
    Gap {
        /// What should be there.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// Altered, or put in.
    #[error("row {0} is not what was written")]
    Row(u64),
    /// Rows that the authority signed for are not there.
    #[error("the log ends with row {last}, though the authority signed for row {signed}")]
    Truncated {
        /// The last row there is.
        last: u64,
        /// The last row that there was.
        signed: u64,
    },
    /// A checkpoint is not by the authority.
    #[error("the checkpoint at row {0} is not signed by the authority")]
    Checkpoint(u64),
    /// A checkpoint by the authority says something else: the rows up to it were written anew.
    #[error("row {0} is not the row that the authority signed for")]
    Rewritten(u64),
    /// The log begins in the middle, and no checkpoint says how.
    #[error("the log begins with row {0}, and no checkpoint says what was before")]
    Beginning(u64),
    /// The log begins in the middle, and no row says that the authority forgot the rest.
    #[error("the log begins with row {0}, and the authority did not forget what was before")]
    CutOff(u64),
    /// The authority found that the log did not end as it had left it.
    #[error("row {0} says that the log had been altered before it")]
    Altered(u64),
    /// There is nothing: a log has a row from its beginning on.
    #[error("there is no row in it")]
    Empty,
    /// Rows that the authority would have signed for, if they were as it wrote them.
    #[error(
        "no signature of the authority covers rows {first} to {last}, which are not of the last {} minutes",
        UNSIGNED_SECONDS_MAX / 60
    )]
    Unsigned {
        /// The first.
        first: u64,
        /// The last, which is the log's.
        last: u64,
    },
}

impl AuditFault {
    /// The row where it shows.
    pub fn number(&self) -> u64 {
        match self {
            Self::Gap { expected, .. } => *expected,
            Self::Empty => 1,
            Self::Unsigned { first, .. } => *first,
            Self::Truncated { last, .. } => last + 1,
            Self::Row(number) | Self::Checkpoint(number) | Self::Rewritten(number) => *number,
            Self::Beginning(number) | Self::CutOff(number) | Self::Altered(number) => *number,
        }
    }
}

/// A log that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The first row there is; 1 unless earlier ones were pruned.
    pub first: u64,
    /// The last row.
    pub last: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// Up to which row the authority signed.
    pub signed: u64,
    /// The time of the first row that it did not sign for, if there is one.
    pub unsigned_since: Option<u64>,
}

impl Verified {
    /// Which rows no checkpoint vouches for: the first and the last.
    pub fn unsigned(&self) -> Option<(u64, u64)> {
        self.unsigned_since.map(|_| (self.first.max(self.signed + 1), self.last))
    }

    /// Whether it holds at the time `now`: rows without a signature are as young as they are with an authority that signs.
    /// Whoever takes checkpoints away can make all of the rest anew. A time that is far ahead is no younger.
    ///
    /// # Errors
    /// [`AuditFault::Unsigned`].
    pub fn check_young(&self, now: u64) -> Result<(), AuditFault> {
        let is_young = |at: u64| at.abs_diff(now) <= UNSIGNED_SECONDS_MAX;
        match self.unsigned() {
            Some((first, last)) if !self.unsigned_since.is_some_and(is_young) => {
                Err(AuditFault::Unsigned { first, last })
            }
            _ => Ok(()),
        }
    }
}

/// Checks a log, row by row. Checkpoints come first, all of them; rows then in the order of the log.
#[derive(Debug)]
pub struct Verifier {
    /// By number, lowest first: number and hash.
    checkpoints: Vec<(u64, [u8; 32])>,
    next: usize,
    first: u64,
    number: u64,
    hash: [u8; 32],
    /// Whether a row says that what was before the first was forgotten.
    forgotten: bool,
    /// Whether this is a part of a log, which may begin at any checkpoint.
    part: bool,
    /// The time of the first row after the last checkpoint.
    unsigned_since: Option<u64>,
}

impl Verifier {
    /// Checks the checkpoints against the authority's roots.
    ///
    /// # Errors
    /// [`AuditFault::Checkpoint`] for the first that is not the authority's.
    pub fn new(checkpoints: &[Checkpoint], roots: &[Vec<u8>]) -> Result<Self, AuditFault> {
        let mut good = Vec::with_capacity(checkpoints.len());
        let mut known = None;
        for checkpoint in checkpoints {
            let wrong = || AuditFault::Checkpoint(checkpoint.number);
            let hash = checkpoint.hash.parse::<Fingerprint>().map_err(|_| wrong())?.0;
            let key = public_key(checkpoint, roots, &mut known).ok_or_else(wrong)?;
            let signature = STANDARD.decode(&checkpoint.signature).map_err(|_| wrong())?;
            if !verify(&key, &message(checkpoint.number, checkpoint.at, &hash), &signature) {
                return Err(wrong());
            }
            good.push((checkpoint.number, hash));
        }
        good.sort_unstable();
        good.dedup();
        // Two that disagree about one row: the log was written anew between them.
        if let Some(pair) = good.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(AuditFault::Rewritten(pair[0].0));
        }
        Ok(Self {
            checkpoints: good,
            next: 0,
            first: 0,
            number: 0,
            hash: [0; 32],
            forgotten: false,
            part: false,
            unsigned_since: None,
        })
    }

    /// Of a part of a log: what was before its first row is somewhere else, or gone, and is not looked for.
    pub fn of_part(self) -> Self {
        Self { part: true, ..self }
    }

    /// Checks the next row.
    ///
    /// # Errors
    /// [`AuditFault`]; the log does not hold from there on.
    pub fn row(&mut self, row: &AuditRecord) -> Result<(), AuditFault> {
        if self.first == 0 {
            self.begin(row.number)?;
        }
        if row.number != self.number + 1 {
            return Err(AuditFault::Gap { expected: self.number + 1, found: row.number });
        }
        let hash = chain(&self.hash, row.number, row.at, &row.actor, &row.action, &row.subject);
        if row.hash != Fingerprint(hash).to_string() {
            return Err(AuditFault::Row(row.number));
        }
        (self.number, self.hash) = (row.number, hash);
        if row.number > self.signed() {
            self.unsigned_since.get_or_insert(row.at);
        }
        match row.action.as_str() {
            ALTERED if row.actor == OWN_ACTOR => return Err(AuditFault::Altered(row.number)),
            FORGET if row.actor == OWN_ACTOR => {
                self.forgotten |= row.subject == forgotten(self.first.saturating_sub(1));
            }
            _ => {}
        }
        while let Some((number, signed)) = self.checkpoints.get(self.next).filter(|c| c.0 <= row.number) {
            if *number == row.number && *signed != hash {
                return Err(AuditFault::Rewritten(row.number));
            }
            self.next += 1;
        }
        Ok(())
    }

    /// The row before the first was pruned: a checkpoint has its hash.
    fn begin(&mut self, number: u64) -> Result<(), AuditFault> {
        self.first = number;
        if number <= 1 {
            return Ok(());
        }
        let before = self.checkpoints.iter().find(|checkpoint| checkpoint.0 == number - 1);
        let (before, hash) = before.ok_or(AuditFault::Beginning(number))?;
        (self.number, self.hash) = (*before, *hash);
        Ok(())
    }

    /// Up to which row the authority signed.
    fn signed(&self) -> u64 {
        self.checkpoints.last().map_or(0, |checkpoint| checkpoint.0)
    }

    /// Up to which row the log was checked so far.
    pub fn last(&self) -> u64 {
        self.number
    }

    /// After the last row.
    ///
    /// # Errors
    /// [`AuditFault::Truncated`] where the authority signed for more, [`AuditFault::Empty`] where there was none.
    pub fn finish(self) -> Result<Verified, AuditFault> {
        let signed = self.signed();
        if signed > self.number {
            return Err(AuditFault::Truncated { last: self.number, signed });
        }
        if self.first == 0 {
            return Err(AuditFault::Empty);
        }
        if self.first > 1 && !self.forgotten && !self.part {
            return Err(AuditFault::CutOff(self.first));
        }
        Ok(Verified {
            first: self.first,
            last: self.number,
            hash: self.hash,
            checkpoints: self.checkpoints.len() as u64,
            signed,
            unsigned_since: self.unsigned_since,
        })
    }
}

/// The key of a checkpoint's certificate, if that is the authority's and held then. Most have the one before's.
fn public_key(
    checkpoint: &Checkpoint,
    roots: &[Vec<u8>],
    known: &mut Option<(String, u64, [u8; 65])>,
) -> Option<[u8; 65]> {
    if let Some((text, at, key)) = known
        && *text == checkpoint.certificate
        && *at == checkpoint.at
    {
        return Some(*key);
    }
    if checkpoint.certificate.len() > CERTIFICATE_BYTES_MAX * 2 {
        return None;
    }
    let der = STANDARD.decode(&checkpoint.certificate).ok()?;
    let verified = verify_certificate(&der, roots, checkpoint.at).ok()?;
    if verified.identity.role != Role::Authority {
        return None;
    }
    *known = Some((checkpoint.certificate.clone(), checkpoint.at, verified.public_key));
    Some(verified.public_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of rows with these times.
    fn log(times: &[u64]) -> Vec<AuditRecord> {
        let mut hash = [0; 32];
        let row = |(number, at): (u64, &u64)| {
            hash = chain(&hash, number, *at, "anna", "revoke", "lock");
            let [actor, action, subject] = ["anna", "revoke", "lock"].map(str::to_owned);
            AuditRecord { number, at: *at, actor, action, subject, hash: Fingerprint(hash).to_string() }
        };
        (1..).zip(times).map(row).collect()
    }

    /// Verifies rows of which the authority signed those up to `signed`.
    fn verified(rows: &[AuditRecord], signed: u64) -> Result<Verified, AuditFault> {
        let mut verifier = Verifier::new(&[], &[])?;
        let hash = |row: &AuditRecord| row.hash.parse::<Fingerprint>().unwrap().0;
        let signed = rows.iter().find(|row| row.number == signed);
        verifier.checkpoints.extend(signed.map(|row| (row.number, hash(row))));
        rows.iter().try_for_each(|row| verifier.row(row))?;
        verifier.finish()
    }

    #[test]
    fn rows_that_nobody_signed_for_hold_while_they_are_young() {
        let verified = verified(&log(&[1000, 2000, 3000, 3100]), 2).unwrap();
        assert_eq!((verified.unsigned_since, verified.unsigned()), (Some(3000), Some((3, 4))));
        assert_eq!(verified.check_young(3000 + UNSIGNED_SECONDS_MAX), Ok(()));
        // By a clock that is a little behind.
        assert_eq!(verified.check_young(2990), Ok(()));
        let old = verified.check_young(3001 + UNSIGNED_SECONDS_MAX);
        assert_eq!(old, Err(AuditFault::Unsigned { first: 3, last: 4 }));
    }

    #[test]
    fn rows_of_a_time_to_come_are_not_young() {
        let verified = verified(&log(&[1000, 1 << 40]), 1).unwrap();
        assert_eq!(verified.check_young(1000), Err(AuditFault::Unsigned { first: 2, last: 2 }));
    }

    #[test]
    fn a_log_without_a_checkpoint_holds_no_longer_than_its_first_row_is_young() {
        let verified = verified(&log(&[1000, 9000]), 0).unwrap();
        assert_eq!(verified.check_young(1001), Ok(()));
        assert_eq!(verified.check_young(9000), Err(AuditFault::Unsigned { first: 1, last: 2 }));
    }

    #[test]
    fn a_log_that_is_signed_to_its_end_holds_at_any_time() {
        let verified = verified(&log(&[1000, 2000]), 2).unwrap();
        assert_eq!((verified.unsigned_since, verified.unsigned()), (None, None));
        assert_eq!(verified.check_young(1 << 40), Ok(()));
    }

    #[test]
    fn a_log_without_a_row_does_not_hold() {
        assert_eq!(verified(&[], 0), Err(AuditFault::Empty));
    }
}
