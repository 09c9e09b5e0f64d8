//! `POST /v1/backup`: a backup, sealed, into the authority's own directory.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{BackupMade, BackupRequest};

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<BackupRequest>,
) -> Result<Answer<BackupMade>, Refused> {
    Ok(Answer(authority.back_up(&caller, request).await?))
}
