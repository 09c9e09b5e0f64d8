//! Errors as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use smqtt_core::api::{PROBLEM_TYPE, Problem};

use crate::error::Error;

/// An answer that is an error.
pub(super) struct Refused(Problem);

impl Refused {
    /// An error of HTTP, which the authority never saw.
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<Option<String>>) -> Self {
        Self(Problem {
            kind: format!("/problems/{code}"),
            title: status.canonical_reason().unwrap_or("error").to_lowercase(),
            status: status.as_u16(),
            detail: detail.into(),
            hint: None,
        })
    }

    pub(super) fn bad_request(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail.to_string())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = status(&error);
        if status.is_server_error() {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        }
        let mut refused = Self::new(status, error.code(), error.to_string());
        refused.0.hint = error.hint();
        refused
    }
}

fn status(error: &Error) -> StatusCode {
    match error {
        Error::TokenUnknown | Error::CertificateRequired | Error::AccessUnknown | Error::AccessExpired => {
            StatusCode::UNAUTHORIZED
        }
        Error::Certificate(_)
        | Error::Role { .. }
        | Error::Scope { .. }
        | Error::Revoked
        | Error::Suspended
        | Error::SerialUnknown
        | Error::Denied
        | Error::UnknownCaller => StatusCode::FORBIDDEN,
        Error::RecoveryKey
        | Error::Step { .. }
        | Error::TooEarly { .. }
        | Error::TokenUsed
        | Error::NameTaken { .. }
        | Error::NotRevocable
        | Error::ReportedOtherwise
        | Error::DeviceRevoked { .. }
        | Error::Answered { .. }
        | Error::InUse { .. }
        | Error::Full { .. } => StatusCode::CONFLICT,
        Error::TokenExpired | Error::TokenRemoved => StatusCode::GONE,
        Error::NoSuchToken { .. }
        | Error::NoSuchEnrolment { .. }
        | Error::NoSuchProfile { .. }
        | Error::NoSuchGroup { .. }
        | Error::NoSuchDevice { .. }
        | Error::NotRevoked { .. }
        | Error::NoSuchRule { .. }
        | Error::NoSuchAccess { .. } => StatusCode::NOT_FOUND,
        Error::Invalid { .. } => StatusCode::BAD_REQUEST,
        Error::Busy | Error::Store(_) | Error::Backup(_) | Error::Files(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem is JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

pub(super) async fn not_found() -> Refused {
    Refused::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path".to_owned())
}

pub(super) async fn method_not_allowed() -> Refused {
    let detail = "this path does not take that method".to_owned();
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}
