//! `GET /v1/audit?after=N`, `GET /v1/audit/checkpoints?after=N`: the audit log and what was signed of it, a page at a time.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::{AuditRecord, Checkpoint};

use super::Shared;
use super::extract::{Asked, From};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    #[serde(default)]
    after: u64,
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Asked(question): Asked<Question>,
) -> Result<Answer<Vec<AuditRecord>>, Refused> {
    Ok(Answer(authority.audit_log(&caller, question.after).await?))
}

pub(super) async fn checkpoints(
    State(authority): Shared,
    From(caller): From,
    Asked(question): Asked<Question>,
) -> Result<Answer<Vec<Checkpoint>>, Refused> {
    Ok(Answer(authority.checkpoints(&caller, question.after).await?))
}
