//! `POST /v1/epoch/rotate`: a new epoch, now.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::Rotation;

use super::Shared;
use super::extract::From;
use super::problem::Refused;

pub(super) async fn rotate(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Rotation>, Refused> {
    Ok(Answer(authority.rotate(&caller).await?))
}
