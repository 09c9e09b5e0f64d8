//! What requests bring along, bounded: caller, query, path, body. Every failure is a problem.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::Refused;
use crate::authority::{Authority, Caller};
use crate::config::ms;

/// Most bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Who asks, as the connection knows it.
pub(super) struct From(pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Self).ok_or_else(|| Refused::bad_request("a request from nowhere"))
    }
}

/// The query, every key known.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Sync + Send, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| Refused::bad_request(error.body_text()))
    }
}

/// The one variable of the path.
pub(super) struct Named(pub(super) String);

impl<S: Sync + Send> FromRequestParts<S> for Named {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|error| Refused::bad_request(error.body_text()))
    }
}

/// A JSON body of this shape.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Authority>> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, authority: &Arc<Authority>) -> Result<Self, Refused> {
        let body = body(request, authority, "application/json").await?;
        let parsed = serde_json::from_slice(&body);
        parsed.map(Self).map_err(|error| {
            Refused::new(
                StatusCode::BAD_REQUEST,
                "json",
                format!("the body is not what is expected: {error}"),
            )
        })
    }
}

/// A signing request as EST sends it, in base64 (RFC 8951, section 3.1): its DER.
pub(super) struct Pkcs10(pub(super) Vec<u8>);

impl FromRequest<Arc<Authority>> for Pkcs10 {
    type Rejection = Refused;

    async fn from_request(request: Request, authority: &Arc<Authority>) -> Result<Self, Refused> {
        let body = body(request, authority, "application/pkcs10").await?;
        let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        STANDARD.decode(text).map(Self).map_err(|_| {
            Refused::new(
                StatusCode::BAD_REQUEST,
                "csr",
                "the body is not base64 of a signing request".to_owned(),
            )
        })
    }
}

/// The body of a request, of this type and bounded.
async fn body(request: Request, authority: &Authority, wanted: &str) -> Result<Bytes, Refused> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(wanted) {
        let detail = format!("the body has to be `{wanted}`");
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail));
    }
    let too_large = || {
        let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(ms(authority.config().limits.body_timeout_ms), body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refused::bad_request("the body broke off")),
        Err(_) => {
            let detail = "the body did not come in time".to_owned();
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
        }
    }
}
