//! Requests that may be made again, because nobody knows whether the first one was heard: with the same `Idempotency-Key` of
//! the same caller there is one change, and one answer, which is kept in the transaction of the change.
//!
//! Of the IETF's draft-ietf-httpapi-idempotency-key-header. An answer may have a token in it: it is sealed, and forgotten after a day.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smqtt_core::crypto::sha256;
use smqtt_core::identity::Fingerprint;

use super::caller::Known;
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{AnswerRow, StoreError, Tx};

/// For how long an answer is kept.
const KEPT_SECONDS: u64 = 86_400;
/// Most answers that are kept for one caller; the oldest are forgotten first.
const KEPT_MAX: usize = 1000;
/// Most characters of a key.
pub(crate) const KEY_CHARS_MAX: usize = 64;

/// A request that was, or may be, made more than once.
#[derive(Clone)]
pub(super) struct Once {
    caller: String,
    key: String,
    request: [u8; 32],
    now: u64,
}

impl Once {
    /// What the sealed answer is called, so that none can be put in the place of another.
    fn record(&self) -> String {
        format!("{} {} {}", self.caller, self.key, Fingerprint(self.request))
    }
}

impl Authority {
    /// The request as one that may be made again, if it brought a key. `what`: all that it asks for.
    pub(super) fn once(
        &self,
        caller: &Caller,
        known: &Known,
        operation: Operation,
        what: &impl Serialize,
    ) -> Option<Once> {
        let key = caller.key()?.to_owned();
        let what = serde_json::to_vec(what).expect("a request is JSON");
        let request = sha256(&[operation.name().as_bytes(), b" ", &what]);
        Some(Once { caller: known.actor.clone(), key, request, now: self.now() })
    }

    /// What was answered before, if the request was made before.
    ///
    /// # Errors
    /// [`Error::KeyReused`], or the store failed.
    pub(super) async fn answered<T: DeserializeOwned + Send + 'static>(
        self: &Arc<Self>,
        once: Option<&Once>,
    ) -> Result<Option<T>, Error> {
        let Some(once) = once.cloned() else { return Ok(None) };
        let this = self.clone();
        self.store.read(move |tx| this.answer_of(tx, &once)).await
    }

    /// Runs `work` as the store does, unless it was done for this request before.
    pub(super) async fn write_once<T: Serialize + DeserializeOwned + Send + 'static>(
        self: &Arc<Self>,
        once: Option<Once>,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        let run = move |tx: &Tx<'_>| {
            let Some(once) = once else { return work(tx) };
            if let Some(answer) = this.answer_of(tx, &once)? {
                return Ok(answer);
            }
            let answer = work(tx)?;
            let plain = zeroize::Zeroizing::new(serde_json::to_vec(&answer).expect("an answer is JSON"));
            let sealed = this.secrets.vault.seal_record(&once.record(), &plain);
            tx.set_answer(&AnswerRow {
                caller: once.caller.clone(),
                key: once.key,
                request: once.request,
                at: once.now,
                answer: sealed,
            })?;
            tx.forget_answers_beyond(&once.caller, KEPT_MAX)?;
            Ok(answer)
        };
        self.store.write(run).await
    }

    fn answer_of<T: DeserializeOwned>(&self, tx: &Tx<'_>, once: &Once) -> Result<Option<T>, Error> {
        let row = tx.answer(&once.caller, &once.key)?;
        let Some(row) = row.filter(|row| once.now < row.at.saturating_add(KEPT_SECONDS)) else {
            return Ok(None);
        };
        if row.request != once.request {
            return Err(Error::KeyReused);
        }
        let plain = self.secrets.vault.open_record(&once.record(), &row.answer);
        let answer = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
        tracing::info!("answers as before");
        answer.map(Some).ok_or(StoreError::Corrupt("answers").into())
    }

    /// Forgets answers that are too old to be given again.
    pub(super) async fn forget_answers(&self, now: u64) -> Result<(), Error> {
        let before = now.saturating_sub(KEPT_SECONDS);
        self.store.write_reserved(move |tx| Ok(tx.forget_answers_before(before)?)).await.map(drop)
    }
}
