//! Accepts connections. TLS handshakes happen in each connection's own task.

use std::{fmt::Display, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::RwLock;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    core::Core,
    gate::Entry,
    handshake::{self, Peer},
    limits::Limit,
    transport::Stream,
    websocket::{Asking, Origins, UpgradeError, WebSocket, upgrade},
};

/// Pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When TCP asks whether a silent peer is still there, how often again, and after how many it is not.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_RETRIES: u32 = 4;

/// TLS settings that can be replaced while the broker runs; new connections use the new ones.
#[derive(Clone)]
pub struct TlsSettings(Arc<RwLock<Arc<ServerConfig>>>);

impl TlsSettings {
    /// Replaces certificate, key and trust for all connections from now on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write() = config;
    }

    fn current(&self) -> Arc<ServerConfig> {
        self.0.read().clone()
    }
}

impl From<Arc<ServerConfig>> for TlsSettings {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(RwLock::new(config)))
    }
}

/// A socket, and what is spoken there.
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsSettings>,
    /// MQTT over WebSocket, for these pages among others.
    pub(crate) websocket: Option<Arc<Origins>>,
}

/// Accepts for as long as the broker runs.
pub(crate) async fn run(core: Arc<Core>, listening: Listening) {
    // A machine without descriptors says so once, not twenty times a second.
    let mut exhausted = false;
    loop {
        match listening.listener.accept().await {
            Ok((stream, address)) => {
                if std::mem::take(&mut exhausted) {
                    tracing::info!("connections are accepted again");
                }
                accept(&core, stream, address, &listening);
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
            }
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::error!(%error, "cannot accept connections: raise the limit of open files, or lower `connections_max`");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the next connection may well be accepted (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | ConnectionRefused
            | Interrupted
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
            | PermissionDenied
            | TimedOut
    )
}

fn accept(core: &Arc<Core>, stream: TcpStream, address: SocketAddr, listening: &Listening) {
    let entry = core.gate.enter(address.ip(), &core.config.limits);
    if let Some(limit) = entry.limit() {
        core.counts.hit(limit);
        tracing::debug!(%address, limit = limit.name(), "at the door");
    }
    if matches!(entry, Entry::Refused(_)) && !core.gate.may_tell() {
        return;
    }
    prepare(&stream);
    let coming = Coming { core: core.clone(), stream, address, entry };
    let tls = listening.tls.as_ref().map(TlsSettings::current);
    match (tls, &listening.websocket) {
        (None, None) => tokio::spawn(coming.serve_tcp()),
        (Some(config), None) => tokio::spawn(coming.serve_tls(config)),
        (tls, Some(origins)) => tokio::spawn(coming.serve_websocket(tls, origins.clone())),
    };
}

/// What a socket is told, as far as it takes it.
fn prepare(stream: &TcpStream) {
    // Messages are small and written whole.
    let _ = stream.set_nodelay(true);
    // A client without keep alive whose machine is gone would be there for ever.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// A connection that was accepted.
struct Coming {
    core: Arc<Core>,
    stream: TcpStream,
    address: SocketAddr,
    entry: Entry,
}

impl Coming {
    async fn serve_tcp(self) {
        let Self { core, stream, address, entry } = self;
        serve(core, stream, Peer { address, certificates: None }, entry).await;
    }

    async fn serve_tls(self, config: Arc<ServerConfig>) {
        let Self { core, stream, address, mut entry } = self;
        let handshake = TlsAcceptor::from(config).accept(stream);
        if let Some(stream) = shake(&core, address, "tls", &mut entry, handshake).await {
            let certificates = certificates(&stream);
            serve(core, stream, Peer { address, certificates }, entry).await;
        }
    }

    async fn serve_websocket(self, tls: Option<Arc<ServerConfig>>, origins: Arc<Origins>) {
        let Self { core, stream, address, mut entry } = self;
        let opening = Box::pin(open_websocket(stream, tls, &origins));
        if let Some((stream, certificates)) = shake(&core, address, "websocket", &mut entry, opening).await {
            serve(core, WebSocket::new(stream), Peer { address, certificates }, entry).await;
        }
    }
}

/// What a handshake gives, if it succeeds in time.
async fn shake<T, E: Display>(
    core: &Core,
    address: SocketAddr,
    kind: &str,
    entry: &mut Entry,
    handshake: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    let handshake = tokio::time::timeout(core.config.limits.handshake_timeout, handshake);
    let (result, given) = tokio::select! {
        shaken = handshake => match shaken {
            Ok(Ok(given)) => ("done", Some(given)),
            Ok(Err(error)) => {
                tracing::info!(%address, kind, %error, "handshake failed");
                ("failed", None)
            }
            Err(_) => {
                core.counts.hit(Limit::HandshakeTimeout);
                tracing::info!(%address, kind, "handshake took too long");
                ("timeout", None)
            }
        },
        () = entry.evicted() => {
            tracing::debug!(%address, kind, "closed in its handshake for a newer connection");
            ("evicted", None)
        }
    };
    core.counts.handshake(kind, result);
    given
}

/// From CONNECT on.
async fn serve<S: Stream>(core: Arc<Core>, stream: S, peer: Peer, entry: Entry) {
    match entry {
        Entry::Free(ticket) | Entry::InPlaceOf(ticket, _) => {
            handshake::serve(core, stream, peer, ticket).await;
        }
        Entry::Refused(limit) => handshake::turn_away(core, stream, peer, limit).await,
    }
}

type Opened = (Box<dyn Stream>, Option<Vec<Bytes>>);

/// TLS, if there is to be any, and then the opening handshake.
async fn open_websocket(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    origins: &Origins,
) -> Result<Opened, UpgradeError> {
    let local = stream.local_addr()?.ip();
    let asking = Asking { origins, tls: tls.is_some(), local };
    let (mut stream, certificates): Opened = match tls {
        None => (Box::new(stream), None),
        Some(config) => {
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            let certificates = certificates(&stream);
            (Box::new(stream), certificates)
        }
    };
    upgrade(&mut stream, &asking).await?;
    Ok((stream, certificates))
}

fn certificates(stream: &TlsStream<TcpStream>) -> Option<Vec<Bytes>> {
    let chain = stream.get_ref().1.peer_certificates()?;
    Some(chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect())
}
