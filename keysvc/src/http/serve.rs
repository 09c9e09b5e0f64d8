//! The accept loop: axum's own has no limit on silence.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::request::Answers;
use super::stall::Stall;
use super::{router, tls};
use crate::authority::{Authority, Caller, Export};
use crate::config::{Limits, ms};
use crate::error::{Error, OpenError};

/// How often the authority looks what is due.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long to wait when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time that a peer gets to take the last answer and to stop sending.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of it that are read and ignored meanwhile.
const LEAVE_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Serves HTTPS on `listener` until `shutdown` ends, and does what is due meanwhile.
///
/// # Errors
/// [`OpenError::Tls`], at once or never.
pub async fn serve(
    authority: Arc<Authority>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), OpenError> {
    let (config, certificate) = tls::config(&authority).map_err(OpenError::Tls)?;
    let limits = authority.config().limits.clone();
    let (stop, stopping) = watch::channel(());
    let server = Server {
        acceptor: TlsAcceptor::from(config),
        authority: authority.clone(),
        router: router(authority.clone()),
        limits: Arc::new(limits.clone()),
        stopping,
    };
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    // Not in the loop below: a slow disk must not keep it from accepting.
    let mut housekeeping = JoinSet::new();
    housekeeping.spawn(keep_house(authority.clone(), certificate));
    for export in authority.exports() {
        housekeeping.spawn(keep_exporting(authority.clone(), export));
    }
    authority.set_serving(true);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match slots.clone().try_acquire_owned() {
                    Ok(slot) => match server.authority.place_for(peer.ip()) {
                        Some(place) => {
                            let server = server.clone();
                            connections.spawn(async move {
                                let counts = server.authority.counts().clone();
                                counts.connections.inc();
                                server.connection(stream, peer.ip()).await;
                                counts.connections.dec();
                                drop((slot, place));
                            });
                        }
                        None => tracing::debug!(peer = %peer, "too much from there"),
                    },
                    Err(_) => tracing::warn!(peer = %peer, "too many connections"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    authority.set_serving(false);
    drop(listener);
    drop(stop);
    housekeeping.shutdown().await;
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(ms(limits.shutdown_timeout_ms), rest).await.is_err() {
        connections.shutdown().await;
    }
    authority.close().await;
    Ok(())
}

async fn keep_house(authority: Arc<Authority>, certificate: Arc<tls::Certificate>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = certificate.renew() {
            tracing::error!(%error, "the server's certificate could not be renewed");
        }
        match authority.housekeep().await {
            // That there is no space is said when it begins.
            Ok(()) | Err(Error::LowSpace) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "housekeeping failed");
            }
        }
    }
}

/// A sink that stands still holds nobody up.
async fn keep_exporting(authority: Arc<Authority>, mut export: Export) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        authority.export(&mut export).await;
    }
}

#[derive(Clone)]
struct Server {
    acceptor: TlsAcceptor,
    authority: Arc<Authority>,
    router: Router,
    limits: Arc<Limits>,
    /// Closes when the authority stops.
    stopping: watch::Receiver<()>,
}

impl Server {
    async fn connection(self, stream: TcpStream, address: IpAddr) {
        let _ = stream.set_nodelay(true);
        let handshake = self.acceptor.accept(stream).into_fallible();
        let stream = match tokio::time::timeout(ms(self.limits.handshake_timeout_ms), handshake).await {
            Ok(Ok(stream)) => stream,
            failed => {
                self.authority.count_stranger(address);
                self.authority.counts().handshake(if failed.is_ok() { "failed" } else { "timeout" });
                match failed {
                    Ok(Err((error, stream))) => {
                        tracing::debug!(%address, %error, "TLS failed");
                        // With what is wrong: a device has sent its request by then.
                        take_leave(stream).await;
                    }
                    _ => tracing::debug!(%address, "TLS took too long"),
                }
                return;
            }
        };
        self.authority.counts().handshake("done");
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let caller = Caller::new(address, certificate.map(|der| der.to_vec()));
        let answers = Arc::new(Answers::new(
            self.authority.clone(),
            self.router.clone(),
            caller,
            ms(self.limits.request_timeout_ms),
            self.stopping.clone(),
        ));
        let mut stopping = self.stopping.clone();
        let service = service_fn(|request| {
            let answers = answers.clone();
            Box::pin(async move { Ok::<_, std::convert::Infallible>(answers.answer(request).await) })
        });
        let stream = Stall::new(stream, ms(self.limits.write_timeout_ms));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ms(self.limits.header_timeout_ms))
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(poll_fn(|context| connection.poll_without_shutdown(context)));
        let result = tokio::select! {
            result = &mut served => Some(result),
            _ = stopping.changed() => None,
        };
        let result = match result {
            Some(result) => result,
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|context| connection.poll_without_shutdown(context)).await
            }
        };
        match result {
            Ok(()) => take_leave(connection.into_parts().io.into_inner()).await,
            Err(error) => tracing::debug!(%address, %error, "a connection broke"),
        }
    }
}

/// Ends a connection so that its peer gets the last answer. Who was refused may still be sending a body; if the socket
/// were closed over it, the peer's system would throw the answer away as well (RFC 9112, section 9.6).
async fn take_leave(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let leave = async {
        stream.shutdown().await?;
        let mut ignored = [0; 4096];
        let mut left = LEAVE_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut ignored).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, leave).await;
}
