//! Checkpoints: the authority's signature on how its audit log stood. Whoever has one can tell whether what was before it
//! was changed, the authority's own administrators included.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::Checkpoint;
use smqtt_core::audit::{FORGET, OWN_ACTOR, checkpoint, forgotten};
use smqtt_core::identity::Fingerprint;

use super::{Authority, Caller, Operation};
use crate::error::{Error, with_causes};
use crate::store::{CheckpointRow, NUMBER_MAX, StoreError};

/// Signed when there are so many new rows,
const ROWS: u64 = 1000;
/// or when there are any and the last checkpoint is so old.
const SECONDS: u64 = 60;
/// Most checkpoints in one answer.
pub(crate) const PAGE_MAX: usize = 1000;

impl Authority {
    /// Signs the log, if it is time.
    pub(super) async fn sign_audit(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let (unsigned, at) = self.unsigned().await?;
        // A clock that was put back is no reason to wait for it.
        let old = now >= at.saturating_add(SECONDS) || now < at;
        if unsigned >= ROWS || unsigned > 0 && old {
            self.sign_end(now).await?;
        }
        Ok(())
    }

    /// Signs the log for somebody who is about to take it along: outside of here a row counts while somebody signed for it.
    /// Where that cannot be, as on a full disk, there is what was signed before.
    async fn sign_for_reader(self: &Arc<Self>) {
        let signed = match self.unsigned().await {
            Ok((0, _)) => return,
            Ok(_) => self.sign_end(self.now()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = signed {
            tracing::warn!(
                error = with_causes(&error),
                "the end of the audit log is shown without a signature"
            );
        }
    }

    /// How many rows nobody signed for, and when somebody did last.
    async fn unsigned(&self) -> Result<(u64, u64), Error> {
        let ends = self.store.read(|tx| {
            let last = tx.last_row()?;
            let (signed, at) = tx.last_checkpoint()?.unwrap_or_default();
            Ok((last.saturating_sub(signed), at))
        });
        ends.await
    }

    async fn sign_end(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let this = self.clone();
        self.store
            .write_reserved(move |tx| {
                let (number, hash) = tx.last_audit()?.unwrap_or_default();
                if tx.last_checkpoint()?.is_some_and(|(signed, _)| signed >= number) {
                    return Ok(());
                }
                let signer = this.secrets.fresh_signer(tx, now)?;
                let made = checkpoint(&signer, number, now, &hash);
                let corrupt = |_| StoreError::Corrupt("checkpoint");
                tx.insert_checkpoint(&CheckpointRow {
                    number,
                    at: now,
                    hash,
                    certificate: signer.certificate().to_vec(),
                    signature: STANDARD.decode(made.signature).map_err(corrupt)?,
                })?;
                Ok(())
            })
            .await
    }

    /// Forgets rows that are older than the configuration says, up to a checkpoint.
    pub(super) async fn prune_audit(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let Some(days) = self.config.audit_days else { return Ok(()) };
        let before = now.saturating_sub(days.saturating_mul(86_400));
        // What a sink does not have yet is not forgotten.
        let upto_max = self.exported_everywhere().unwrap_or(NUMBER_MAX);
        let this = self.clone();
        self.store
            .write_reserved(move |tx| {
                if let Some(upto) = tx.prune_audit(before, upto_max)? {
                    // On record, so that a log that somebody else cut off at a checkpoint is not taken for one like that.
                    this.audit(tx, OWN_ACTOR, FORGET, &forgotten(upto))?;
                    tracing::info!(upto, "forgot old rows of the audit log");
                }
                Ok(())
            })
            .await
    }

    /// Up to 1,000 checkpoints after the one at row `after`; the newest of all covers the log as it is now.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn checkpoints(
        self: &Arc<Self>,
        caller: &Caller,
        after: u64,
    ) -> Result<Vec<Checkpoint>, Error> {
        self.authorise(caller, Operation::ListCheckpoints).await?;
        self.sign_for_reader().await;
        let after = after.min(NUMBER_MAX);
        let rows = self.store.read(move |tx| Ok(tx.checkpoints_after(after, PAGE_MAX)?)).await?;
        Ok(rows.into_iter().map(checkpoint_of).collect())
    }
}

/// A checkpoint as the API has it.
pub(super) fn checkpoint_of(row: CheckpointRow) -> Checkpoint {
    Checkpoint {
        number: row.number,
        at: row.at,
        hash: Fingerprint(row.hash).to_string(),
        certificate: STANDARD.encode(row.certificate),
        signature: STANDARD.encode(row.signature),
    }
}
