//! Epochs: begun when the last is over, or at an administrator's word.

use std::sync::Arc;

use smqtt_core::api::Rotation;
use smqtt_core::bundle::{CLOCK_SKEW_SECONDS, Epoch};

use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::Tx;

/// Whether an epoch has ended; or it began in a future that a clock which was wrong has made up, and would not end before.
pub(super) fn is_over(epoch: &Epoch, now: u64) -> bool {
    now >= epoch.ends || now.saturating_add(CLOCK_SKEW_SECONDS) < epoch.begins
}

impl Authority {
    /// Begins a new epoch now. For administrators.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn rotate(self: &Arc<Self>, caller: &Caller) -> Result<Rotation, Error> {
        let admin = self.authorise(caller, Operation::BeginEpoch).await?;
        let once = self.once(caller, &admin, Operation::BeginEpoch, &());
        let (this, now) = (self.clone(), self.now());
        self.write_once(once, move |tx| {
            let epoch = this.begin_epoch(tx, now, &admin.actor, 1)?;
            Ok(Rotation { epoch, bundle: this.publish(tx, now)? })
        })
        .await
    }

    /// Begins a new epoch if the current one is over. However many were missed, only one begins, and begins now.
    pub(super) async fn end_epoch(self: &Arc<Self>, now: u64) -> Result<(), Error> {
        let this = self.clone();
        self.store
            .write_reserved(move |tx| {
                if is_over(&tx.current_epoch()?, now) {
                    this.begin_epoch(tx, now, "authority", 1)?;
                    this.publish(tx, now)?;
                }
                Ok(())
            })
            .await
    }

    /// Ends the current epoch and begins the one that is `on` after it.
    pub(super) fn begin_epoch(&self, tx: &Tx<'_>, now: u64, actor: &str, on: u64) -> Result<u64, Error> {
        let number = tx.current_epoch()?.number + on;
        let epoch = Epoch { number, begins: now, ends: now.saturating_add(self.config.epoch_seconds) };
        tx.begin_epoch(epoch, &tx.versions()?, number.saturating_sub(self.config.history_epochs))?;
        self.audit(tx, actor, "begin-epoch", &number.to_string())?;
        tracing::info!(epoch = number, "began an epoch");
        Ok(number)
    }
}
