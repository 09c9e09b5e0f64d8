//! `/v1/tokens`: leave to enrol, for one device or a batch. Lists come in pages; `Link: <...>; rel="next"` names the next.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use smqtt_core::api::{NewToken, TokenInfo, TokenRequest};

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::problem::Refused;
use crate::authority::TOKENS_PAGE_MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
}

pub(super) async fn post(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, Answer<NewToken>), Refused> {
    Ok((StatusCode::CREATED, Answer(authority.issue_token(&caller, request).await?)))
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
    Asked(page): Asked<Page>,
) -> Result<(HeaderMap, Answer<Vec<TokenInfo>>), Refused> {
    let tokens = authority.tokens(&caller, page.after).await?;
    let mut headers = HeaderMap::new();
    if let Some(last) = tokens.last().filter(|_| tokens.len() == TOKENS_PAGE_MAX) {
        let link = format!("</v1/tokens?after={}>; rel=\"next\"", last.id);
        headers.extend(link.parse().ok().map(|link| (header::LINK, link)));
    }
    Ok((headers, Answer(tokens)))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<TokenInfo>, Refused> {
    Ok(Answer(authority.token(&caller, id).await?))
}

pub(super) async fn delete(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
) -> Result<Answer<TokenInfo>, Refused> {
    Ok(Answer(authority.remove_token(&caller, id).await?))
}
