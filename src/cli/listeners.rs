//! Where a broker listens: the arguments, what is refused, the sockets.

use std::net::SocketAddr;

use clap::Args;
use smqtt::broker::{Broker, Origins, TlsSettings};
use tokio::net::TcpListener;

use super::authority::bind;
use super::config::BrokerConfig;
use super::failure::Failure;
use super::print_line;

/// The listeners' arguments.
#[derive(Args)]
pub struct ListenerArgs {
    /// Where MQTT over TLS listens; port 0 takes a free one
    #[arg(long, visible_alias = "tls", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where MQTT without TLS listens, for clients without a certificate; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    plain: Option<SocketAddr>,
    /// Where MQTT over WebSocket with TLS listens, at `/mqtt`
    #[arg(long, value_name = "ADDRESS:PORT")]
    wss: Option<SocketAddr>,
    /// Where MQTT over WebSocket without TLS listens, at `/mqtt`; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    ws: Option<SocketAddr>,
    /// Web pages that may come in over WebSocket besides the broker's own and, on loopback, this machine's, such as
    /// `https://app.example.org`; `*` for all. Repeat it for more
    #[arg(long, value_name = "ORIGIN")]
    ws_origin: Vec<String>,
    /// Let listeners without TLS be reached from other machines, where everybody on the way reads along
    #[arg(long)]
    plain_anywhere: bool,
}

/// Sockets that are bound, each for what it is.
pub struct Listeners {
    tls: Option<TcpListener>,
    plain: Option<TcpListener>,
    wss: Option<TcpListener>,
    ws: Option<TcpListener>,
    origins: Origins,
}

impl ListenerArgs {
    /// Binds what is asked for, here or in the configuration. `secured`: of a keyring, which always has a listener with TLS.
    pub async fn bind(&self, config: &BrokerConfig, secured: bool) -> Result<Listeners, Failure> {
        let tls = self.listen.or(secured.then_some(config.listen));
        let (wss, plain, ws) = (self.wss.or(config.wss), self.plain.or(config.plain), self.ws.or(config.ws));
        if [tls, plain, wss, ws].iter().all(Option::is_none) {
            return Err(Failure::new("an open broker listens only where it is told to")
                .hint("say `--plain 127.0.0.1:1883`, or `--tls`, `--ws` or `--wss`")
                .code(2));
        }
        let anywhere = self.plain_anywhere || config.plain_anywhere;
        for address in plain.into_iter().chain(ws).filter(|address| !address.ip().is_loopback()) {
            if !anywhere {
                return Err(Failure::new(format!("{address} is not a loopback address")).hint(
                    "everybody on the way reads what is sent without TLS: say `127.0.0.1`, or \
                     `--plain-anywhere` if that is what you want",
                ));
            }
            tracing::warn!(%address, "without TLS everybody on the way reads along, passwords too");
        }
        let mut origins = Origins::default();
        for origin in self.ws_origin.iter().chain(&config.ws_origins) {
            origins.add(origin).map_err(|error| Failure::new(error.to_string()))?;
        }
        Ok(Listeners {
            tls: bind_if(tls).await?,
            plain: bind_if(plain).await?,
            wss: bind_if(wss).await?,
            ws: bind_if(ws).await?,
            origins,
        })
    }
}

impl Listeners {
    /// Whether clients come in without a certificate.
    pub fn without_certificates(&self) -> bool {
        self.plain.is_some() || self.ws.is_some()
    }

    /// Whether there is TLS to be had.
    pub fn with_tls(&self) -> bool {
        self.tls.is_some() || self.wss.is_some()
    }

    /// Whether whoever is on another machine comes in, where passwords are not asked for. `certificates`: TLS asks for one.
    pub fn let_strangers_in(&self, certificates: bool) -> bool {
        let over_tls = [&self.tls, &self.wss].into_iter().filter(|_| !certificates);
        let sockets = [&self.plain, &self.ws].into_iter().chain(over_tls).flatten();
        let mut addresses = sockets.filter_map(|socket| socket.local_addr().ok());
        addresses.any(|address| !address.ip().is_loopback())
    }

    /// Hands the sockets to the broker, and prints where it is to be found. `tls` is there if [`Self::with_tls`] is.
    pub fn serve(self, broker: &mut Broker, tls: Option<&TlsSettings>) -> Result<(), Failure> {
        let Self { tls: mqtts, plain, wss, ws, origins } = self;
        if let (Some(listener), Some(tls)) = (mqtts, tls) {
            print_url("mqtts", &listener, "")?;
            broker.listen_tls(listener, tls.clone());
        }
        if let Some(listener) = plain {
            print_url("mqtt", &listener, "")?;
            broker.listen_tcp(listener);
        }
        if let (Some(listener), Some(tls)) = (wss, tls) {
            print_url("wss", &listener, "/mqtt")?;
            broker.listen_websocket(listener, Some(tls.clone()), origins.clone());
        }
        if let Some(listener) = ws {
            print_url("ws", &listener, "/mqtt")?;
            broker.listen_websocket(listener, None, origins);
        }
        Ok(())
    }
}

async fn bind_if(address: Option<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
    match address {
        Some(address) => bind(address).await.map(Some),
        None => Ok(None),
    }
}

fn print_url(scheme: &str, listener: &TcpListener, path: &str) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(|error| Failure::new("cannot listen").because(&error))?;
    print_line(format!("broker       {scheme}://{address}{path}"))
}
