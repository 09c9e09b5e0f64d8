//! `POST /v1/enrol`: a token for an identity and keys.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{EnrolRequest, Enrolment};

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<EnrolRequest>,
) -> Result<Answer<Enrolment>, Refused> {
    Ok(Answer(authority.enrol(&caller, request).await?))
}
