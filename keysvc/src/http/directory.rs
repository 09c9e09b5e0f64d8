//! `GET /v1/directory?after=REVISION`: devices that are new or changed.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::Directory;

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
) -> Result<Answer<Directory>, Refused> {
    Ok(Answer(authority.directory(&caller, question.after).await?))
}
