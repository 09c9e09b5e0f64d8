//! `/v1/tokens`: leave to enrol, for one device or a batch. Lists come in pages; `Link: <...>; rel="next"` names the next.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use smqtt_core::api::{NewToken, TokenInfo, TokenRequest};

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::page::Part;
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, Answer<NewToken>), Refused> {
    Ok((StatusCode::CREATED, Answer(authority.issue_token(&caller, request).await?)))
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
    Asked(part): Asked<Part>,
) -> Result<impl IntoResponse, Refused> {
    let listed = authority.tokens(&caller, part.page()?).await?;
    Ok(part.answer("/v1/tokens", listed))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<TokenInfo>, Refused> {
    Ok(Answer(authority.token(&caller, id).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<TokenInfo>, Refused> {
    Ok(Answer(authority.remove_token(&caller, id).await?))
}
