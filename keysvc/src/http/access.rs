//! `/v1/access`: access tokens, made, listed and ended.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use smqtt_core::api::{Access, AccessRequest, NewAccess};

use super::Shared;
use super::extract::{From, Json, Named};
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<AccessRequest>,
) -> Result<(StatusCode, Answer<NewAccess>), Refused> {
    Ok((StatusCode::CREATED, Answer(authority.make_access(&caller, request).await?)))
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Vec<Access>>, Refused> {
    Ok(Answer(authority.list_access(&caller).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<Access>, Refused> {
    Ok(Answer(authority.remove_access(&caller, id).await?))
}
