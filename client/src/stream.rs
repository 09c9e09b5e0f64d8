//! The way to a broker: TCP, and TLS over it.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use smqtt_core::identity::{Identity, read_certificate};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::keyring::SharedKeyring;

/// TCP or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Connects, with TLS if there are settings for it; not to a broker that the keyring's bundle revokes. Also says who
/// the broker is, if an authority gave it an identity.
///
/// # Errors
/// [`io::Error`]: not reached, not trusted, or revoked.
pub async fn connect(
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    keyring: &SharedKeyring,
) -> io::Result<(Box<dyn Stream>, Option<Identity>)> {
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok((Box::new(tcp), None)) };
    let name =
        ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // A broker of another authority has no identity of ours, and nobody here can have revoked it.
    let broker = leaf.and_then(|leaf| read_certificate(leaf).ok()).map(|read| read.identity);
    match broker.as_ref().filter(|broker| keyring.with(|k| k.bundle().is_revoked(broker.id))) {
        None => Ok((Box::new(stream), broker)),
        Some(broker) => {
            let text = format!("the broker `{}` was revoked", broker.name);
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
    }
}
