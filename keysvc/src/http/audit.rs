//! `GET /v1/audit?after=N`: the audit log, a page at a time.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::AuditRecord;

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
