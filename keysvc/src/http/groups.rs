//! `/v1/groups`: what several devices have in common.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{Group, GroupRequest, TemplateSet};

use super::Shared;
use super::extract::{From, Json, Named};
use super::page::Tagged;
use super::problem::Refused;

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Vec<Group>>, Refused> {
    Ok(Answer(authority.groups(&caller).await?))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
) -> Result<Tagged<Group>, Refused> {
    Ok(Tagged(authority.group(&caller, name).await?))
}

pub(super) async fn put(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
    Json(request): Json<GroupRequest>,
) -> Result<Answer<TemplateSet>, Refused> {
    Ok(Answer(authority.set_group(&caller, name, request).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(name): Named,
) -> Result<Answer<TemplateSet>, Refused> {
    Ok(Answer(authority.remove_group(&caller, name).await?))
}
