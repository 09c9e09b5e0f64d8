//! `/.well-known/est/…`: EST (RFC 7030). Bodies are base64 on both sides, as RFC 8951 has it.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Shared;
use super::extract::{From, Pkcs10};
use super::problem::Refused;
use crate::authority::EstAnswer;

/// Most bytes of user and password, in base64.
const CREDENTIALS_BYTES_MAX: usize = 4096;
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"enrolment token\", charset=\"UTF-8\"");

pub(super) async fn roots(State(authority): Shared) -> Response {
    certificates(&authority.est_roots(), "application/pkcs7-mime")
}

pub(super) async fn enrol(
    State(authority): Shared,
    From(caller): From,
    headers: HeaderMap,
    Pkcs10(csr): Pkcs10,
) -> Response {
    let Some(credentials) = basic(&headers) else {
        let detail = "give the enrolment token as the password".to_owned();
        return challenge(Refused::new(StatusCode::UNAUTHORIZED, "token-required", detail));
    };
    let (user, password) = credentials.split_once(':').unwrap_or((&credentials, ""));
    match authority.est_enrol(&caller, user, password, &csr).await {
        Ok(EstAnswer::Certificate(message)) => certificates(&message, CERTS_ONLY),
        Ok(EstAnswer::Waits(waiting)) => {
            let retry_after = [(header::RETRY_AFTER, waiting.retry_after_seconds.to_string())];
            (StatusCode::ACCEPTED, retry_after, axum::Json(waiting)).into_response()
        }
        Err(error) => challenge(error.into()),
    }
}

pub(super) async fn renew(
    State(authority): Shared,
    From(caller): From,
    Pkcs10(csr): Pkcs10,
) -> Result<Response, Refused> {
    Ok(certificates(&authority.est_renew(&caller, &csr).await?, CERTS_ONLY))
}

const CERTS_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";

/// In one line: some clients take no other.
fn certificates(message: &[u8], media_type: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE.as_str(), media_type), ("content-transfer-encoding", "base64")];
    (headers, STANDARD.encode(message)).into_response()
}

/// User and password (RFC 7617). Of more than one header none is good.
fn basic(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, credentials) = all.next()?.to_str().ok()?.split_once(' ')?;
    let fit = scheme.eq_ignore_ascii_case("basic") && credentials.len() <= CREDENTIALS_BYTES_MAX;
    if !fit || all.next().is_some() {
        return None;
    }
    let decoded = STANDARD.decode(credentials.trim()).ok()?;
    String::from_utf8(decoded).ok().map(Zeroizing::new)
}

/// Says how to authenticate where that is what lacks: by a password, not by an access token.
fn challenge(refused: Refused) -> Response {
    let mut response = refused.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    response
}
