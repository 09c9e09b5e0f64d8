//! Accepts connections. TLS handshakes happen in each connection's own task.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    core::Core,
    handle::Counted,
    handshake::{self, Peer},
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
    if core.connections.load(Ordering::SeqCst) >= core.config.limits.connections_max {
        tracing::warn!(%address, "too many connections");
        return;
    }
    let counted = Counted::new(core.clone());
    prepare(&stream);
    let core = core.clone();
    let tls = listening.tls.as_ref().map(TlsSettings::current);
    match (tls, &listening.websocket) {
        (None, None) => tokio::spawn(async move {
            let _counted = counted;
            handshake::serve(core, stream, Peer { address, certificates: None }).await;
        }),
        (Some(config), None) => tokio::spawn(async move {
            let _counted = counted;
            serve_tls(core, stream, address, config).await;
        }),
        (tls, Some(origins)) => {
            let origins = origins.clone();
            tokio::spawn(async move {
                let _counted = counted;
                serve_websocket(core, stream, address, tls, &origins).await;
            })
        }
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

async fn serve_tls(core: Arc<Core>, stream: TcpStream, address: SocketAddr, config: Arc<ServerConfig>) {
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(core.config.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => {
            let certificates = certificates(&stream);
            handshake::serve(core, stream, Peer { address, certificates }).await;
        }
        Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%address, "TLS handshake took too long"),
    }
}

async fn serve_websocket(
    core: Arc<Core>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    origins: &Origins,
) {
    let opening = Box::pin(open_websocket(stream, tls, origins));
    match tokio::time::timeout(core.config.limits.handshake_timeout, opening).await {
        Ok(Ok((stream, certificates))) => {
            handshake::serve(core, WebSocket::new(stream), Peer { address, certificates }).await;
        }
        Ok(Err(error)) => tracing::info!(%address, %error, "WebSocket handshake failed"),
        Err(_) => tracing::info!(%address, "WebSocket handshake took too long"),
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
