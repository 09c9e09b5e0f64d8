//! `POST /v1/tokens`: leave for one device to enrol.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use smqtt_core::api::{NewToken, TokenRequest};

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, Answer<NewToken>), Refused> {
    Ok((StatusCode::CREATED, Answer(authority.issue_token(&caller, request).await?)))
}
