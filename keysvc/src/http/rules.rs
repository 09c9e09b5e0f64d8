//! `/v1/rules`: topic rules. `GET` lists, `PUT` sets the rule of its filter, `DELETE ?filter=F` removes one.

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::{Rule, RuleSet};

use super::Shared;
use super::extract::{Asked, From, Json};
use super::page::Tagged;
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    filter: String,
}

pub(super) async fn get(State(authority): Shared, From(caller): From) -> Result<Tagged<Vec<Rule>>, Refused> {
    Ok(Tagged(authority.rules(&caller).await?))
}

pub(super) async fn put(
    State(authority): Shared,
    From(caller): From,
    Json(rule): Json<Rule>,
) -> Result<Answer<RuleSet>, Refused> {
    Ok(Answer(authority.set_rule(&caller, rule).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Asked(which): Asked<Which>,
) -> Result<Answer<RuleSet>, Refused> {
    Ok(Answer(authority.delete_rule(&caller, which.filter).await?))
}
