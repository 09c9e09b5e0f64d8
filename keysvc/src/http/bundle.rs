//! `GET /v1/bundle?after=N&wait=SECONDS`: the newest bundle above number N, as it was signed; 204 where there is none
//! in time.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::extract::{Asked, From};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Question {
    after: u64,
    wait: u64,
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Asked(question): Asked<Question>,
) -> Result<Response, Refused> {
    let wait = Duration::from_secs(question.wait);
    Ok(match authority.bundle(&caller, question.after, wait).await? {
        Some(bundle) => {
            let headers = [
                (header::CONTENT_TYPE, "application/cose; cose-type=\"cose-sign1\"".to_owned()),
                (header::ETAG, format!("\"{}\"", bundle.number)),
            ];
            (headers, bundle.bytes).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    })
}
