//! `/v1/profiles`: what several devices have in common.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::{Profile, ProfileRequest, TemplateSet};

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::page::Tagged;
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    rules: bool,
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Vec<Profile>>, Refused> {
    Ok(Answer(authority.profiles(&caller).await?))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
) -> Result<Tagged<Profile>, Refused> {
    Ok(Tagged(authority.profile(&caller, name).await?))
}

pub(super) async fn put(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
    Json(request): Json<ProfileRequest>,
) -> Result<Answer<TemplateSet>, Refused> {
    Ok(Answer(authority.set_profile(&caller, name, request).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
    Asked(removal): Asked<Removal>,
) -> Result<Answer<TemplateSet>, Refused> {
    Ok(Answer(authority.remove_profile(&caller, name, removal.rules).await?))
}
