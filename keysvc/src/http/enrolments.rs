//! `/v1/enrolments`: those who wait for a person to approve, and the answer.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::{Applicant, Device};

use super::Shared;
use super::extract::{Asked, From, Named};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compared {
    key: Option<String>,
}

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
    Asked(compared): Asked<Compared>,
) -> Result<Answer<Device>, Refused> {
    Ok(Answer(authority.approve(&caller, name, compared.key).await?))
}

pub(super) async fn deny(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
    Asked(compared): Asked<Compared>,
) -> Result<Answer<Applicant>, Refused> {
    Ok(Answer(authority.deny_enrolment(&caller, name, compared.key).await?))
}
