//! `/v1/enrolments`: those who wait for a person to approve, and the answer.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{Applicant, Device};

use super::Shared;
use super::extract::{From, Named};
use super::problem::Refused;

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Vec<Applicant>>, Refused> {
    Ok(Answer(authority.applicants(&caller).await?))
}

pub(super) async fn approve(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
) -> Result<Answer<Device>, Refused> {
    Ok(Answer(authority.approve(&caller, name).await?))
}

pub(super) async fn deny(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
) -> Result<Answer<Applicant>, Refused> {
    Ok(Answer(authority.deny_enrolment(&caller, name).await?))
}
