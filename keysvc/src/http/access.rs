//! `/v1/access`: access tokens, made, listed and ended.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use smqtt_core::api::{Access, AccessRequest, NewAccess};

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::page::Part;
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
    Asked(part): Asked<Part>,
) -> Result<impl IntoResponse, Refused> {
    let listed = authority.list_access(&caller, part.page()?).await?;
    Ok(part.answer("/v1/access", listed))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<Access>, Refused> {
    Ok(Answer(authority.remove_access(&caller, id).await?))
}
