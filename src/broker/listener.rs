//! Accepts connections. TLS handshakes happen in each connection's own task.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{
    core::Core,
    handle::Counted,
    handshake::{self, Peer},
};

/// Pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// Accepts for as long as the broker runs.
pub(crate) async fn run(core: Arc<Core>, listener: TcpListener, tls: Option<TlsSettings>) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => accept(&core, stream, address, tls.as_ref()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accept(core: &Arc<Core>, stream: TcpStream, address: SocketAddr, tls: Option<&TlsSettings>) {
    if core.connections.load(Ordering::SeqCst) >= core.config.limits.connections_max {
        tracing::warn!(%address, "too many connections");
        return;
    }
    let counted = Counted::new(core.clone());
    // Messages are small and written whole.
    let _ = stream.set_nodelay(true);
    let core = core.clone();
    match tls.map(TlsSettings::current) {
        None => tokio::spawn(async move {
            let _counted = counted;
            handshake::serve(core, stream, Peer { address, certificates: None }).await;
        }),
        Some(config) => tokio::spawn(async move {
            let _counted = counted;
            serve_tls(core, stream, address, config).await;
        }),
    };
}

async fn serve_tls(core: Arc<Core>, stream: TcpStream, address: SocketAddr, config: Arc<ServerConfig>) {
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(core.config.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => {
            let certificates =
                stream.get_ref().1.peer_certificates().map(|chain| {
                    chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect()
                });
            handshake::serve(core, stream, Peer { address, certificates }).await;
        }
        Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%address, "TLS handshake took too long"),
    }
}
