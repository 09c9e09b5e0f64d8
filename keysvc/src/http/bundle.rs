//! `GET /v1/bundle?after=N&wait=SECONDS&revision=R`: the newest bundle above number N, as it was signed; 204 where there
//! is none in time, or as soon as the caller's revision is above R. Every answer says which that is.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use smqtt_core::api::REVISION_HEADER;

use super::Shared;
use super::extract::{Asked, From};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Question {
    after: u64,
    wait: u64,
    revision: Option<u64>,
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Asked(question): Asked<Question>,
) -> Result<Response, Refused> {
    let wait = Duration::from_secs(question.wait);
    let news = authority.bundle(&caller, question.after, question.revision, wait).await?;
    let revision = [(REVISION_HEADER, news.revision.to_string())];
    Ok(match news.bundle {
        Some(bundle) => {
            let headers = [
                (header::CONTENT_TYPE, "application/cose; cose-type=\"cose-sign1\"".to_owned()),
                (header::ETAG, format!("\"{}\"", bundle.number)),
            ];
            (revision, headers, bundle.bytes).into_response()
        }
        None => (StatusCode::NO_CONTENT, revision).into_response(),
    })
}
