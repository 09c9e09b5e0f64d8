//! The authority as seen from outside: HTTPS requests, pinned, bounded, with its problems as errors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smqtt_core::api::{IDEMPOTENCY_KEY_HEADER, Problem, REVISION_HEADER};
use smqtt_core::bundle::BUNDLE_BYTES_MAX;
use smqtt_core::crypto::random;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 2 * BUNDLE_BYTES_MAX;
/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a connection is kept that nobody asks over: the authority closes it a little later.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take, beyond what was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a request that came too soon is made again.
const TRIES_AGAIN_MAX: u32 = 5;
/// Longest wait for that, whatever the authority says.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How often a request is made again of which nobody knows whether it was heard, and the first pause before.
const LOST_AGAIN_MAX: u32 = 4;
const LOST_PAUSE: Duration = Duration::from_millis(250);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not `https://host:port`.
    #[error("`{0}` is not the address of an authority")]
    Url(String),
    /// Nobody there, or not in time.
    #[error("cannot reach the authority at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else is there.
    #[error("the server at {url} is not the authority that was expected")]
    WrongServer {
        /// Where.
        url: String,
        /// What TLS said.
        #[source]
        source: std::io::Error,
    },
    /// In TLS already it does not take our certificate.
    #[error("the authority does not take this certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    #[error("the connection to the authority broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The authority said no.
    #[error("{}", .0.detail.as_deref().unwrap_or(&.0.title))]
    Problem(Box<Problem>),
    /// An answer that makes no sense.
    #[error("the authority's answer cannot be understood")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RequestError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Url(_) => Some("it looks like https://host:port".into()),
            Self::Unreachable { .. } => Some("is `smqtt up` running there, and is the address right?".into()),
            Self::WrongServer { .. } => {
                Some("the token or keyring is for another authority, or somebody is in between".into())
            }
            Self::Certificate(_) => Some("enrol again with a new token".into()),
            Self::Problem(problem) => problem.hint.clone(),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Problem(problem) => problem.status == 429 || problem.status >= 500,
            _ => false,
        }
    }

    /// After how long to ask again, where the authority says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after_seconds.map(Duration::from_secs),
            _ => None,
        }
    }

    /// The problem's code, where the authority said no.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(problem.code()),
            _ => None,
        }
    }
}

/// What was new, if anything.
#[derive(Clone, Debug)]
pub struct News {
    /// A newer bundle, signed bytes.
    pub bundle: Option<Bytes>,
    /// At which revision the caller is; `None`: the authority does not say.
    pub revision: Option<u64>,
}

/// The connection of the last request, for the next one: a handshake costs an authority far more than an answer. Clones
/// share it. Who asks over it is whoever made it, so each holder of a certificate has a `Kept` of its own.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Option<(Sender, Instant)>>>);

type Sender = SendRequest<Full<Bytes>>;

impl Kept {
    fn take(&self) -> Option<Sender> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|(_, since)| since.elapsed() < IDLE_MAX).map(|(sender, _)| sender)
    }

    fn put(&self, sender: Sender) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, Instant::now()));
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

/// An authority's address, and as whom to go there.
#[derive(Clone, Debug)]
pub struct Authority {
    url: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    kept: Kept,
}

impl Authority {
    /// The authority at `url`, over `tls` (see [`crate::tls`]).
    ///
    /// # Errors
    /// [`RequestError::Url`].
    pub fn new(url: &str, tls: Arc<ClientConfig>) -> Result<Self, RequestError> {
        let (host, port) =
            split_url(url, "https://", 443).ok_or_else(|| RequestError::Url(url.to_owned()))?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), host, port, tls, kept: Kept::default() })
    }

    /// The same, over a connection that was kept if there is one.
    pub fn over(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `GET path`, the answer as JSON.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        json(&self.request(Method::GET, path, None).await?)
    }

    /// `GET path` of a list, all of it, part by part.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, RequestError> {
        let (mut entries, mut path) = (Vec::new(), path.to_owned());
        loop {
            let (_, headers, body) = self.exchange(Method::GET, &path, None, None, Duration::ZERO).await?;
            let part: Vec<T> = json(&body)?;
            let is_empty = part.is_empty();
            entries.extend(part);
            match next(&headers) {
                Some(more) if !is_empty => path = more,
                _ => return Ok(entries),
            }
        }
    }

    /// `POST path` with a JSON body, the answer as JSON.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        self.send(Method::POST, path, body).await
    }

    /// `POST path` of something that is made once, however often it takes to hear so: under one key, again where an answer
    /// was lost.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        let body = Bytes::from(serde_json::to_vec(body).map_err(|e| RequestError::Answer(e.into()))?);
        let key: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut tries = 0;
        loop {
            let answer =
                self.exchange(Method::POST, path, Some(body.clone()), Some(&key), Duration::ZERO).await;
            match answer {
                Err(error) if error.is_temporary() && tries < LOST_AGAIN_MAX => {
                    tokio::time::sleep(spread_out(LOST_PAUSE * 2u32.pow(tries))).await;
                    tries += 1;
                }
                answer => return json(&answer?.2),
            }
        }
    }

    /// `PUT path` with a JSON body, the answer as JSON.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        self.send(Method::PUT, path, body).await
    }

    /// `PATCH path` with a JSON body, the answer as JSON.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        self.send(Method::PATCH, path, body).await
    }

    /// `DELETE path`, the answer as JSON.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        json(&self.request(Method::DELETE, path, None).await?)
    }

    /// The newest bundle above number `after`, signed bytes; waits up to `wait` for one. `None` if there is none.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn bundle(&self, after: u64, wait: Duration) -> Result<Option<Bytes>, RequestError> {
        let path = format!("/v1/bundle?after={after}&wait={}", wait.as_secs());
        let (status, _, body) = self.exchange(Method::GET, &path, None, None, wait).await?;
        Ok((status == StatusCode::OK).then_some(body))
    }

    /// As [`Self::bundle`], and waits no longer than the revision of the caller is not above `revision`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn news(&self, after: u64, revision: u64, wait: Duration) -> Result<News, RequestError> {
        let path = format!("/v1/bundle?after={after}&wait={}&revision={revision}", wait.as_secs());
        let (status, headers, body) = self.exchange(Method::GET, &path, None, None, wait).await?;
        let revision = headers.get(REVISION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(News { bundle: (status == StatusCode::OK).then_some(body), revision })
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        let body = serde_json::to_vec(body).map_err(|e| RequestError::Answer(e.into()))?;
        json(&self.request(method, path, Some(body.into())).await?)
    }

    async fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, RequestError> {
        Ok(self.exchange(method, path, body, None, Duration::ZERO).await?.2)
    }

    /// One request. One that came too soon, of which nothing was done, is made again when it is time.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
        wait: Duration,
    ) -> Result<(StatusCode, HeaderMap, Bytes), RequestError> {
        let mut tries = 0;
        loop {
            let answer = self.try_exchange(method.clone(), path, body.clone(), key, wait).await;
            match answer {
                Err(RequestError::Problem(problem)) if problem.status == 429 && tries < TRIES_AGAIN_MAX => {
                    tries += 1;
                    let after = Duration::from_secs(problem.retry_after_seconds.unwrap_or(1));
                    tokio::time::sleep(spread_out(after.min(RETRY_AFTER_MAX))).await;
                }
                answer => return answer,
            }
        }
    }

    async fn try_exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
        wait: Duration,
    ) -> Result<(StatusCode, HeaderMap, Bytes), RequestError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY_KEY_HEADER, format!("\"{key}\""));
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| RequestError::Broken(error.into()))?;
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT + wait;
        let (sender, response) = self.ask(request, deadline).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = self.by(deadline, body).await?.map_err(|error| self.broken(error))?.to_bytes();
        self.kept.put(sender);
        if status.is_success() {
            return Ok((status, headers, body));
        }
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            kind: "about:blank".into(),
            title: format!("the authority answered {status}"),
            status: status.as_u16(),
            ..Problem::default()
        });
        Err(RequestError::Problem(Box::new(problem)))
    }

    /// Sends a request, over the kept connection if it takes it and over a new one if not: one that ended meanwhile gives
    /// back what it did not send.
    async fn ask(
        &self,
        mut request: Request<Full<Bytes>>,
        deadline: tokio::time::Instant,
    ) -> Result<(Sender, Response<Incoming>), RequestError> {
        if let Some(mut sender) = self.kept.take()
            && self.by(deadline, sender.ready()).await?.is_ok()
        {
            match self.by(deadline, sender.try_send_request(request)).await? {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.into_error().into())),
                },
            }
        }
        let stream = self.connect().await?;
        let asked = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            // Ends when the sender is dropped.
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            Ok::<_, hyper::Error>((sender, response))
        };
        self.by(deadline, asked).await?.map_err(|error| self.broken(error.into()))
    }

    async fn by<T>(
        &self,
        deadline: tokio::time::Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, RequestError> {
        let done = tokio::time::timeout_at(deadline, work).await;
        done.map_err(|elapsed| RequestError::Broken(elapsed.into()))
    }

    /// In TLS 1.3 a server refuses a client's certificate after the handshake, by an alert.
    fn broken(&self, error: Box<dyn std::error::Error + Send + Sync>) -> RequestError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
        while let Some(one) = cause {
            let io = one.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
            if let Some(rustls::Error::AlertReceived(alert)) = io.and_then(|e| e.downcast_ref())
                && is_about_certificates(*alert)
            {
                return RequestError::Certificate(error);
            }
            cause = one.source();
        }
        RequestError::Broken(error)
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, RequestError> {
        let unreachable = |source| RequestError::Unreachable { url: self.url.clone(), source };
        let connecting = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
            tcp.set_nodelay(true).map_err(unreachable)?;
            let name =
                ServerName::try_from(self.host.clone()).map_err(|_| RequestError::Url(self.url.clone()))?;
            TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(|source| {
                // A certificate that does not hold is somebody else; anything else may pass.
                let invalid = source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
                match invalid {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        RequestError::WrongServer { url: self.url.clone(), source }
                    }
                    _ => unreachable(source),
                }
            })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

/// As long, and up to half as long again: whoever was told the same time does not come back at the same time.
pub fn spread_out(pause: Duration) -> Duration {
    let part = f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX);
    pause + pause.mul_f64(part / 2.0)
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

/// Where the list goes on (RFC 8288), on the same authority.
fn next(headers: &HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().ok()?;
    let (path, relation) = link.strip_prefix('<')?.split_once('>')?;
    (relation.trim_start_matches([';', ' ']) == "rel=\"next\"" && path.starts_with('/'))
        .then(|| path.to_owned())
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| RequestError::Answer(error.into()))
}

/// Host and port of `scheme://host[:port][/]`; an IPv6 address stands in brackets.
pub fn split_url(url: &str, scheme: &str, default_port: u16) -> Option<(String, u16)> {
    let rest = url.strip_prefix(scheme)?.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':').map_or(after.is_empty().then_some(None), |p| Some(Some(p)))?)
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let port = port.map_or(Ok(default_port), str::parse).ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_or_are_refused() {
        let split = |url| split_url(url, "https://", 443);
        assert_eq!(split("https://a.example:8443/"), Some(("a.example".into(), 8443)));
        assert_eq!(split("https://[::1]:1"), Some(("::1".into(), 1)));
        assert_eq!(split("https://[::1]"), Some(("::1".into(), 443)));
        assert_eq!(split("https://10.0.0.1"), Some(("10.0.0.1".into(), 443)));
        for bad in [
            "http://a",
            "https://",
            "https://a:b",
            "https://a:99999",
            "https://a/b",
            "https://[::1",
            "https://[::1]x",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
