//! Errors as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use smqtt_core::api::{PROBLEM_TYPE, Problem};

use crate::error::{Error, with_causes};

/// After how long to ask again, where nobody knows better.
const RETRY_AFTER_SECONDS: u64 = 5;
/// The same, where somebody has to make room first.
const LOW_SPACE_RETRY_AFTER_SECONDS: u64 = 30;

/// An answer that is an error.
pub(super) struct Refused(Box<Problem>);

impl Refused {
    /// An error of HTTP, which the authority never saw.
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<Option<String>>) -> Self {
        Self(Box::new(Problem {
            kind: format!("/problems/{code}"),
            title: status.canonical_reason().unwrap_or("error").to_lowercase(),
            status: status.as_u16(),
            detail: detail.into(),
            ..Problem::default()
        }))
    }

    pub(super) fn bad_request(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail.to_string())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = status(&error);
        // That there is no space is said when it begins.
        if status.is_server_error() && !matches!(error, Error::LowSpace) {
            // The answer names no file of ours; the log does.
            tracing::error!(error = with_causes(&error), "a request failed");
        }
        let mut refused = Self::new(status, error.code(), error.to_string());
        refused.0.hint = error.hint();
        refused.0.retry_after_seconds = match error {
            Error::TooMany { retry_after_seconds } => Some(retry_after_seconds),
            Error::LowSpace => Some(LOW_SPACE_RETRY_AFTER_SECONDS),
            _ => None,
        };
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
        | Error::TooEarlyUntil { .. }
        | Error::TokenUsed
        | Error::NameTaken { .. }
        | Error::NotRevocable
        | Error::ReportedOtherwise
        | Error::DeviceRevoked { .. }
        | Error::Answered { .. }
        | Error::OtherKey { .. }
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
        Error::Changed => StatusCode::PRECONDITION_FAILED,
        Error::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Error::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::LowSpace | Error::Busy | Error::Store(_) | Error::Backup(_) | Error::Files(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

impl IntoResponse for Refused {
    /// Without its body: [`finish`] writes it, for the request's id is in it.
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            self.0.retry_after_seconds.get_or_insert(RETRY_AFTER_SECONDS);
        }
        let mut response = status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.0.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(*self.0);
        response
    }
}

/// Writes the problem that an answer is, if it is one.
pub(super) fn finish(response: &mut Response, request_id: &str) {
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = Some(request_id.to_owned());
        // Of the body that it had until now.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = serde_json::to_vec(&problem).expect("a problem is JSON").into();
    }
}

pub(super) async fn not_found() -> Refused {
    Refused::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path".to_owned())
}

pub(super) async fn method_not_allowed() -> Refused {
    let detail = "this path does not take that method".to_owned();
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}
