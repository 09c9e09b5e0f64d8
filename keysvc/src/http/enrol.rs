//! `POST /v1/enrol`: a token for an identity and keys; 202 with `Retry-After` while a person has to approve.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use smqtt_core::api::EnrolRequest;

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;
use crate::authority::EnrolAnswer;

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<EnrolRequest>,
) -> Result<Response, Refused> {
    Ok(match authority.enrol(&caller, request).await? {
        EnrolAnswer::Enrolled(enrolment) => Answer(enrolment).into_response(),
        EnrolAnswer::Waits(waiting) => {
            let retry_after = [(header::RETRY_AFTER, waiting.retry_after_seconds.to_string())];
            (StatusCode::ACCEPTED, retry_after, Answer(waiting)).into_response()
        }
    })
}
