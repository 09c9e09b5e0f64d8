//! Lists in parts, and what carries an entity tag.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use smqtt_core::identity::DeviceId;

use super::problem::Refused;
use crate::authority::{Listed, Page, etag};

/// Which part of a list. `after` is what there was before there were cursors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    limit: Option<u64>,
    cursor: Option<String>,
    after: Option<String>,
}

impl Part {
    pub(super) fn page(&self) -> Result<Page, Refused> {
        let after = self.after.as_deref().map(str::parse::<DeviceId>).transpose();
        let after = after.map_err(Refused::bad_request)?.map(|id| id.0);
        if after.is_some() && self.cursor.is_some() {
            return Err(Refused::bad_request("`cursor` and `after` are two ways to say where to go on"));
        }
        Ok(Page { limit: self.limit, cursor: self.cursor.clone(), after })
    }

    /// The part, and where the next one is (RFC 8288).
    pub(super) fn answer<T: Serialize>(self, path: &str, listed: Listed<T>) -> (HeaderMap, Json<Vec<T>>) {
        let mut headers = HeaderMap::new();
        if let Some(next) = listed.next {
            let limit = self.limit.map_or(String::new(), |limit| format!("&limit={limit}"));
            let link = format!("<{path}?cursor={next}{limit}>; rel=\"next\"");
            headers.extend(link.parse().ok().map(|link: HeaderValue| (header::LINK, link)));
        }
        (headers, Json(listed.entries))
    }
}

/// JSON with its entity tag.
pub(super) struct Tagged<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(header::ETAG, etag(&self.0))], Json(self.0)).into_response()
    }
}
