//! The admin listener of a broker or an authority: metrics and health over HTTP, on loopback and on a socket file that only
//! its owner may open.
//!
//! ```text
//! GET /metrics        counters and gauges, for Prometheus
//! GET /health/live    200 as long as requests are answered
//! GET /health/ready   200, or 503 while something is wrong; JSON that says what
//! ```
//!
//! What else is added is answered on the file alone.
//!
//! A request has [`HEAD_BYTES_MAX`] and [`CONNECTION_TIME`], a connection one request, an entrance [`CONNECTIONS_MAX`]
//! connections. Nothing here changes anything.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::IpAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::broker::{BrokerHandle, METRICS_CONTENT_TYPE};

/// Most bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Time of a connection, from its first byte to the last of the answer.
pub const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Connections at a time, on the socket and on the file each. Others are closed.
pub const CONNECTIONS_MAX: usize = 32;
/// The socket's name in the directory of broker or authority.
pub const SOCKET_NAME: &str = "admin.sock";

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, such as 200.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// 200 and a text.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// JSON.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string(value).unwrap_or_else(|error| format!("\"{error}\""));
        Self { status, content_type: "application/json", body: body + "\n" }
    }

    /// A refusal, as JSON with `error`.
    pub fn refused(status: u16, error: &str) -> Self {
        Self::json(status, &BTreeMap::from([("error", error)]))
    }
}

/// The parameters of a request, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }
}

/// Where a question comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// A loopback address.
    Loopback,
    /// An address that others reach.
    Network,
    /// The socket file.
    File,
}

type Route = Box<dyn Fn(&Query) -> Answer + Send + Sync>;
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What is looked into.
pub trait Watched: Send + Sync {
    /// What it counts, as text for Prometheus. May block.
    fn metrics(&self) -> String;

    /// Whether it does what it is there for: each part with what is wrong with it. May block.
    fn health(&self) -> Vec<(&'static str, Result<(), String>)>;
}

impl Watched for BrokerHandle {
    fn metrics(&self) -> String {
        self.metrics().render()
    }

    fn health(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.health().into_iter().map(|(name, health)| (name, health.map_err(str::to_owned))).collect()
    }
}

/// What the admin listener answers.
pub struct Admin {
    watched: Box<dyn Watched>,
    routes: BTreeMap<&'static str, Route>,
    checks: Vec<(&'static str, Check)>,
}

impl Admin {
    /// Metrics and health of a broker, for one.
    pub fn new(watched: impl Watched + 'static) -> Self {
        Self { watched: Box::new(watched), routes: BTreeMap::new(), checks: Vec::new() }
    }

    /// Also answers `GET path`, on the socket file alone: what is said there is for whoever runs it. The answer
    /// may block.
    pub fn route(
        mut self,
        path: &'static str,
        answer: impl Fn(&Query) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.routes.insert(path, Box::new(answer));
        self
    }

    /// It is ready only if this holds, too.
    pub fn check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name, Box::new(check)));
        self
    }

    /// Answers on a bound socket, until it is dropped. On loopback only requests to a loopback name or address are
    /// answered, so that no web page reads along under a name of its own.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        let entrance = if local { Entrance::Loopback } else { Entrance::Network };
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.clone().spawn(stream, &slots, entrance),
                Err(error) => failed(&error).await,
            }
        }
    }

    /// Answers on a socket file, until it is dropped.
    pub async fn serve_file(self: Arc<Self>, socket: AdminSocket) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == socket.owner || peer.uid() == 0 => {
                        self.clone().spawn(stream, &slots, Entrance::File);
                    }
                    _ => tracing::warn!("somebody else tried the admin socket"),
                },
                Err(error) => failed(&error).await,
            }
        }
    }

    fn spawn<S>(self: Arc<Self>, stream: S, slots: &Arc<Semaphore>, entrance: Entrance)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            return tracing::debug!("too many admin connections");
        };
        tokio::spawn(self.connection(stream, slot, entrance));
    }

    async fn connection<S>(self: Arc<Self>, stream: S, _slot: OwnedSemaphorePermit, entrance: Entrance)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.respond(request, entrance).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(CONNECTION_TIME)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION_TIME, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin connection broke"),
            Err(_) => tracing::debug!("an admin connection took too long"),
        }
    }

    async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        entrance: Entrance,
    ) -> Response<Full<Bytes>> {
        let answer = if request.method() != Method::GET && request.method() != Method::HEAD {
            Answer::refused(405, "only GET is answered here")
        } else if entrance == Entrance::Loopback && !is_local(&request) {
            Answer::refused(421, "ask for a loopback address or `localhost`")
        } else {
            let path = request.uri().path().to_owned();
            let query = Query::parse(request.uri().query().unwrap_or_default());
            // It may look through all sessions.
            let answer = tokio::task::spawn_blocking(move || self.answer(&path, &query, entrance)).await;
            answer.unwrap_or_else(|_| Answer::refused(500, "this could not be answered"))
        };
        let mut response = Response::new(Full::new(answer.body.into()));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(answer.content_type));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        response
    }

    fn answer(&self, path: &str, query: &Query, entrance: Entrance) -> Answer {
        match path {
            "/metrics" => {
                Answer { status: 200, content_type: METRICS_CONTENT_TYPE, body: self.watched.metrics() }
            }
            "/health/live" => Answer::text("alive\n"),
            "/health/ready" => self.ready(),
            path => match self.routes.get(path) {
                Some(route) if entrance == Entrance::File => route(query),
                _ => Answer::refused(404, "try `/metrics`, `/health/live` or `/health/ready`"),
            },
        }
    }

    fn ready(&self) -> Answer {
        let checks = self.checks.iter().map(|(name, check)| (*name, check()));
        let checks: BTreeMap<&str, Result<(), String>> =
            self.watched.health().into_iter().chain(checks).collect();
        let ready = checks.values().all(Result::is_ok);
        let checks: BTreeMap<&str, String> = checks
            .into_iter()
            .map(|(name, result)| (name, result.err().unwrap_or_else(|| "ok".into())))
            .collect();
        let body = serde_json::json!({ "ready": ready, "checks": checks });
        Answer::json(if ready { 200 } else { 503 }, &body)
    }
}

/// Whether the request is for this machine by its own name for itself.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(is_local_name)
}

fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

async fn failed(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an admin connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// A socket file that only its owner may open. It goes when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl AdminSocket {
    /// Makes [`SOCKET_NAME`] in a directory. Call when the directory is known to be this process's own: what another left
    /// there goes.
    ///
    /// # Errors
    /// The file cannot be made: another file is there, or the path is longer than sockets' paths may be.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET_NAME);
        if std::fs::symlink_metadata(&path).is_ok_and(|there| there.file_type().is_socket()) {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        // Who came before this is asked for its user all the same.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_few_names() {
        for host in ["localhost", "LOCALHOST:9883", "127.0.0.1", "127.0.0.1:9883", "[::1]:9883", "[::1]"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["", "example.org", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1", "[::2]"]
        {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("client=nurse-1&topic=ward%2F3%2F%2b&topic=x");
        assert_eq!(query.get("client"), Some("nurse-1"));
        assert_eq!(query.get("topic"), Some("ward/3/+"));
        assert_eq!(query.get("none"), None);
    }
}
