//! Where operators look: the admin listener's arguments and sockets, and the form of the log.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use smqtt::admin::{Admin, AdminSocket};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::authority::bind;
use super::config::BrokerConfig;
use super::failure::Failure;
use super::print_line;

/// The admin listener's arguments.
#[derive(Args)]
pub struct AdminArgs {
    /// Where metrics and health are to be had over HTTP, without a password; loopback only. A broker with a directory also
    /// has them on `DIR/admin.sock`
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Let everybody who reaches `--admin` from other machines read what the broker counts
    #[arg(long)]
    admin_anywhere: bool,
}

/// The form of the log.
#[derive(Args, Clone, Copy)]
pub struct LogArgs {
    /// How the log on standard error looks
    #[arg(long, value_enum, default_value_t, env = "SMQTT_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormat,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl LogArgs {
    /// The form asked for.
    pub fn format(self) -> LogFormat {
        self.log_format
    }

    /// As an argument, for a child.
    pub fn argument(self) -> &'static str {
        match self.log_format {
            LogFormat::Text => "--log-format=text",
            LogFormat::Json => "--log-format=json",
        }
    }
}

/// The admin listener, bound.
pub struct Monitor(Option<TcpListener>);

impl AdminArgs {
    /// Binds what is asked for, here or in the configuration.
    pub async fn bind(&self, config: &BrokerConfig) -> Result<Monitor, Failure> {
        let Some(address) = self.admin.or(config.admin) else { return Ok(Monitor(None)) };
        if !address.ip().is_loopback() {
            if !self.admin_anywhere {
                return Err(Failure::new(format!("{address} is not a loopback address")).hint(
                    "the admin listener asks nobody who they are: say `127.0.0.1`, or `--admin-anywhere` if that is \
                     what you want",
                ));
            }
            tracing::warn!(%address, "everybody who reaches it can read what the broker counts");
        }
        bind(address).await.map(|listener| Monitor(Some(listener)))
    }
}

impl Monitor {
    /// Answers until what this gives is dropped, on the socket and on a file in `dir`, which must be this broker's alone.
    pub fn serve(self, admin: Admin, dir: Option<&Path>) -> Result<JoinSet<()>, Failure> {
        let admin = Arc::new(admin);
        let mut serving = JoinSet::new();
        if let Some(dir) = dir {
            match AdminSocket::bind(dir) {
                Ok(socket) => drop(serving.spawn(admin.clone().serve_file(socket))),
                // Metrics are not what a broker is for.
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "no admin socket: its path may be too long");
                }
            }
        }
        if let Some(listener) = self.0 {
            let address =
                listener.local_addr().map_err(|error| Failure::new("cannot listen").because(&error))?;
            print_line(format!("admin        http://{address}"))?;
            serving.spawn(admin.serve_tcp(listener));
        }
        Ok(serving)
    }

    /// Whether there is one on the network.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }
}
