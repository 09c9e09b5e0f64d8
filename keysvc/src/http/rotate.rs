//! `POST /v1/rotate/…`: new keys in the place of old ones.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::RootKeyRotated;

use super::Shared;
use super::extract::From;
use super::problem::Refused;

pub(super) async fn root_key(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<RootKeyRotated>, Refused> {
    Ok(Answer(authority.rotate_root_key(&caller).await?))
}
