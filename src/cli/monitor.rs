//! Where operators look: the admin listener's arguments and sockets, and the form of the log.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use smqtt::admin::{Admin, AdminSocket, CONNECTION_TIME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;

use super::authority::bind;
use super::failure::Failure;
use super::print_line;

/// Most bytes of an answer that a command reads.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// The admin listener's arguments.
#[derive(Args)]
pub struct AdminArgs {
    /// Where metrics and health are to be had over HTTP, without a password; loopback only. Authority, and broker with a
    /// directory, also have them on `DIR/admin.sock`
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Let everybody who reaches `--admin` from other machines read what is counted
    #[arg(long)]
    admin_anywhere: bool,
}

/// Asks the admin listener behind a socket file: status and body.
pub async fn ask(mut socket: UnixStream, target: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        socket.write_all(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer =
        tokio::time::timeout(CONNECTION_TIME, exchange).await.unwrap_or_else(|late| Err(late.into()))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
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
    pub async fn bind(&self, configured: Option<SocketAddr>) -> Result<Monitor, Failure> {
        Monitor::bind(self.admin.or(configured), self.admin_anywhere).await
    }
}

impl Monitor {
    /// Binds this address, if there is one; one that others reach only if `anywhere`.
    pub async fn bind(address: Option<SocketAddr>, anywhere: bool) -> Result<Self, Failure> {
        let Some(address) = address else { return Ok(Self(None)) };
        if !address.ip().is_loopback() {
            if !anywhere {
                return Err(Failure::new(format!("{address} is not a loopback address")).hint(
                    "the admin listener asks nobody who they are: say `127.0.0.1`, or `--admin-anywhere` if that is \
                     what you want",
                ));
            }
            tracing::warn!(%address, "everybody who reaches it can read what is counted");
        }
        bind(address).await.map(|listener| Self(Some(listener)))
    }

    /// Answers until what this gives is dropped, on the socket and on a file in `dir`, which must be this process's alone.
    /// The line that says where has `note` at its end.
    pub fn serve(self, admin: Admin, dir: Option<&Path>, note: &str) -> Result<JoinSet<()>, Failure> {
        let admin = Arc::new(admin);
        let mut serving = JoinSet::new();
        if let Some(dir) = dir {
            match AdminSocket::bind(dir) {
                Ok(socket) => drop(serving.spawn(admin.clone().serve_file(socket))),
                // Metrics are not what it is for.
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "no admin socket: its path may be too long");
                }
            }
        }
        if let Some(listener) = self.0 {
            let address =
                listener.local_addr().map_err(|error| Failure::new("cannot listen").because(&error))?;
            print_line(format!("admin        http://{address}{note}"))?;
            serving.spawn(admin.serve_tcp(listener));
        }
        Ok(serving)
    }

    /// Whether there is one on the network.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }
}
