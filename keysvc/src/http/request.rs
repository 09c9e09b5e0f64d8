//! What every request has, whatever it asks for: an id, a limit in time and in number, a line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use smqtt_core::api::{IDEMPOTENCY_KEY_HEADER, Problem, REQUEST_ID_HEADER};
use smqtt_core::crypto::random;
use tokio::sync::watch;
use tower_service::Service;
use tracing::Instrument;

use super::problem::{Refused, finish};
use crate::authority::{Authority, BUNDLE_WAIT_MAX, Caller, IDEMPOTENCY_KEY_CHARS_MAX, Operation};

/// Most characters of an id that a client gives its request.
const CLIENT_ID_CHARS_MAX: usize = 64;

/// Answers the requests of one connection.
pub(super) struct Answers {
    authority: Arc<Authority>,
    router: Router,
    caller: Caller,
    timeout: Duration,
    /// Whether the next request was counted with the handshake.
    is_paid: AtomicBool,
    /// Closes when the authority stops.
    stopping: watch::Receiver<()>,
}

impl Answers {
    pub(super) fn new(
        authority: Arc<Authority>,
        router: Router,
        caller: Caller,
        timeout: Duration,
        stopping: watch::Receiver<()>,
    ) -> Self {
        let is_stranger = caller.named().is_none();
        if is_stranger {
            authority.count_stranger(caller.address());
        }
        Self { authority, router, caller, timeout, is_paid: AtomicBool::new(is_stranger), stopping }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response {
        let id: String = random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let span = tracing::info_span!("request", %id);
        let (began, method) = (Instant::now(), request.method().clone());
        let client_id = client_id(request.headers()).map(str::to_owned);
        let caller = match bearer(request.headers()) {
            Some(token) => self.caller.clone().with_access(token),
            None => self.caller.clone(),
        };
        let mut response = self.work(&caller, request).instrument(span.clone()).await;
        self.count(&response, began.elapsed());
        let refused = response.extensions().get::<Problem>().map(Problem::code);
        let is_turned_away = matches!(refused, Some("too-many" | "revoked" | "suspended"));
        finish(&mut response, &id);
        let _entered = span.enter();
        log(&caller, &method, &response, began.elapsed(), client_id.as_deref());
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_turned_away {
            // Whoever is told no keeps no place for it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.extend(id.parse().ok().map(|id: HeaderValue| (REQUEST_ID, id)));
        response
    }

    fn count(&self, response: &Response, took: Duration) {
        let operation = response.extensions().get::<Operation>().map_or("none", |operation| operation.name());
        let refused = response.extensions().get::<Problem>().map(Problem::code);
        self.authority.counts().answered(operation, response.status().as_u16(), refused, took);
    }

    async fn work(&self, caller: &Caller, request: Request<Incoming>) -> Response {
        if let Err(error) = self.authority.count_request(caller, self.is_paid.swap(false, Ordering::Relaxed))
        {
            return Refused::from(error).into_response();
        }
        let with_terms = match idempotency_key(request.headers()) {
            Ok(None) => expecting(caller.clone(), request.headers()),
            Ok(Some(key)) => expecting(caller.clone().with_idempotency_key(key), request.headers()),
            Err(refused) => return refused.into_response(),
        };
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(with_terms);
        let (mut router, mut stopping) = (self.router.clone(), self.stopping.clone());
        let work = tokio::time::timeout(self.timeout + BUNDLE_WAIT_MAX, router.call(request));
        let unavailable = |detail: &str| {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail.to_owned()).into_response()
        };
        let response = tokio::select! {
            done = work => match done {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => unavailable("the answer took too long"),
            },
            _ = stopping.changed() => unavailable("the authority is stopping"),
        };
        let code = response.extensions().get::<Problem>().map_or("", Problem::code);
        self.authority.settle(caller, matches!(code, "token-unknown" | "access-unknown"));
        response
    }
}

const IDEMPOTENCY_KEY: header::HeaderName = header::HeaderName::from_static(IDEMPOTENCY_KEY_HEADER);
const REQUEST_ID: header::HeaderName = header::HeaderName::from_static(REQUEST_ID_HEADER);

/// A line for the request, without anything that could be secret: of the path its template, of the caller what the certificate or
/// the identifier of the access token says.
fn log(caller: &Caller, method: &Method, response: &Response, took: Duration, client_id: Option<&str>) {
    let operation = response.extensions().get::<Operation>();
    let (name, path) = operation.map_or(("-", "-"), |operation| (operation.name(), operation.path()));
    let (status, ms) = (response.status(), took.as_millis() as u64);
    let (method, address, actor) = (printable(method), caller.address(), caller.actor());
    let role = caller.role().map_or("-", |role| role.name());
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                operation = name,
                method,
                path,
                status = status.as_u16(),
                ms,
                caller = actor,
                role,
                %address,
                client_id,
                "answered"
            )
        };
    }
    match method {
        _ if status.is_server_error() => line!(warn),
        // Whoever asks too often must not fill the log as well.
        _ if status == StatusCode::TOO_MANY_REQUESTS => line!(debug),
        "GET" if status.is_success() || status == StatusCode::NOT_MODIFIED => line!(debug),
        _ => line!(info),
    }
}

/// Methods that there are; another one is whatever the client says.
fn printable(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "-",
    }
}

/// The id that the client gave its request, if it is fit for a log.
fn client_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    ((1..=CLIENT_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(fit)).then_some(id)
}

/// What the request expects to find (RFC 9110, section 13.1). A header that is no text matches nothing.
fn expecting(mut caller: Caller, headers: &HeaderMap) -> Caller {
    let lists: Vec<_> =
        headers.get_all(header::IF_MATCH).iter().map(|list| list.to_str().unwrap_or_default()).collect();
    if !lists.is_empty() {
        caller = caller.with_if_match(&lists.join(","));
    }
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*") {
        caller = caller.with_nothing_expected();
    }
    caller
}

/// The key under which the request may be made again: a string as RFC 9651 writes one, or bare.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let text = first.to_str().unwrap_or_default();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if all.next().is_some()
        || !(1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&bare.len())
        || !bare.bytes().all(fit)
    {
        let detail = format!(
            "an `Idempotency-Key` has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} letters, digits, `.`, `_` or `-`, and comes once"
        );
        return Err(Refused::new(StatusCode::BAD_REQUEST, "idempotency-key", detail));
    }
    Ok(Some(bare))
}

/// The access token of a request (RFC 6750, section 2.1). Of more than one header none is good.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let credentials = all.next()?.to_str().ok()?;
    let (scheme, token) = credentials.split_once(' ').unwrap_or((credentials, ""));
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    bearer.then(|| if all.next().is_none() { token.trim() } else { "" })
}
