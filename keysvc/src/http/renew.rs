//! `POST /v1/renew`: a new certificate for the caller.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{Enrolment, RenewRequest};

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<RenewRequest>,
) -> Result<Answer<Enrolment>, Refused> {
    Ok(Answer(authority.renew(&caller, request).await?))
}
