//! `GET /v1/keys?since=EPOCH`: the caller's user secret keys, sealed to its HPKE key. 304 where `If-None-Match` has the tag.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::extract::{Asked, From};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    #[serde(default)]
    since: u64,
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Asked(question): Asked<Question>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let has = known.map(|known| {
        |tag: &str| known.split(',').any(|one| one.trim().trim_start_matches("W/") == format!("\"{tag}\""))
    });
    let answer = authority.keys(&caller, question.since, has).await?;
    let etag = [(header::ETAG, format!("\"{}\"", answer.tag))];
    Ok(match answer.keys {
        Some(keys) => (etag, Json(keys)).into_response(),
        None => (StatusCode::NOT_MODIFIED, etag).into_response(),
    })
}
