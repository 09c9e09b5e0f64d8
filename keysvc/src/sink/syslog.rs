//! Syslog (RFC 5424): over the local socket, over UDP (RFC 5426), over TCP with counted frames (RFC 6587, section 3.4.1).
//!
//! Nobody acknowledges there. What was sent is remembered in a file, after it was sent: a crash repeats a batch and loses none.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use smqtt_core::api::AuditLine;

use super::{Reached, Sink};
use crate::files;

/// For a connection, and for a peer that takes no more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Security and authorization messages (RFC 5424, section 6.2.1).
const FACILITY: u8 = 10;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;

/// Where syslog listens: `unix:/dev/log`, `udp:HOST:PORT` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Udp(String),
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(to) => write!(f, "udp:{to}"),
            Self::Tcp(to) => write!(f, "tcp:{to}"),
        }
    }
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let host_and_port = |rest: &str| {
            let (host, port) = rest.rsplit_once(':').ok_or(())?;
            (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
                .then(|| rest.to_owned())
                .ok_or(())
        };
        match text.split_once(':').ok_or(())? {
            ("unix", path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            ("udp", rest) => host_and_port(rest).map(Self::Udp),
            ("tcp", rest) => host_and_port(rest).map(Self::Tcp),
            _ => Err(()),
        }
    }
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// Syslog at an address.
pub(crate) struct SyslogSink {
    address: Address,
    memory: PathBuf,
    host: String,
    socket: Option<Socket>,
}

impl SyslogSink {
    /// Remembers in the file `memory` how far it has come.
    pub(crate) fn new(address: Address, memory: PathBuf) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
        let host = if host.is_empty() { "-".to_owned() } else { host };
        Self { address, memory, host, socket: None }
    }

    fn connect(&self) -> io::Result<Socket> {
        match &self.address {
            Address::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Socket::Unix(socket))
            }
            Address::Udp(to) => {
                let to = resolve(to)?;
                let any: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                Ok(Socket::Udp(socket))
            }
            Address::Tcp(to) => {
                let stream = TcpStream::connect_timeout(&resolve(to)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    fn send(&mut self, lines: &[AuditLine]) -> io::Result<()> {
        let socket = match self.socket.take().filter(|socket| !socket.is_closed()) {
            Some(socket) => socket,
            None => self.connect()?,
        };
        let socket = self.socket.insert(socket);
        for line in lines {
            let message = message(line, &self.host)?;
            match socket {
                Socket::Unix(socket) => drop(socket.send(&message)?),
                Socket::Udp(socket) => drop(socket.send(&message)?),
                Socket::Tcp(stream) => {
                    stream.write_all(&[format!("{} ", message.len()).as_bytes(), &message].concat())?;
                }
            }
        }
        Ok(())
    }
}

impl Socket {
    /// Whether the other side has gone: it never says anything else.
    fn is_closed(&self) -> bool {
        let Self::Tcp(stream) = self else { return false };
        let mut byte = [0];
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
        let waits = peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        !waits || stream.set_nonblocking(false).is_err()
    }
}

impl Sink for SyslogSink {
    fn name(&self) -> &'static str {
        "syslog"
    }

    fn reached(&mut self) -> io::Result<Option<Reached>> {
        let Some(bytes) = files::read(&self.memory).map_err(io::Error::other)? else { return Ok(None) };
        // One that cannot be read is as good as none: all of it is sent again.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    fn take(&mut self, lines: &[AuditLine]) -> io::Result<()> {
        let Some(last) = lines.last() else { return Ok(()) };
        self.send(lines).map_err(|error| {
            self.socket = None;
            io::Error::new(error.kind(), format!("`{}`: {error}", self.address))
        })?;
        let remembered = serde_json::to_vec(&Reached::of(last))?;
        files::write_secret(&self.memory, &remembered).map_err(io::Error::other)
    }

    fn begin_anew(&mut self, _: u64) -> io::Result<()> {
        match files::remove(&self.memory) {
            Err(error) if self.memory.exists() => Err(io::Error::other(error)),
            _ => Ok(()),
        }
    }
}

fn resolve(to: &str) -> io::Result<SocketAddr> {
    to.to_socket_addrs()?.next().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

/// A line as a message: the JSON of an exported file behind syslog's own head.
fn message(line: &AuditLine, host: &str) -> io::Result<Vec<u8>> {
    let (at, severity) = match line {
        AuditLine::Record(row) if row.action.starts_with("refused ") => (row.at, WARNING),
        AuditLine::Record(row) => (row.at, NOTICE),
        AuditLine::Checkpoint(checkpoint) => (checkpoint.at, INFORMATIONAL),
    };
    let (priority, process) = (FACILITY * 8 + severity, std::process::id());
    let head = format!("<{priority}>1 {} {host} smqtt-authority {process} audit - ", timestamp(at));
    Ok([head.as_bytes(), &serde_json::to_vec(line)?].concat())
}

/// RFC 5424, section 6.2.3.
fn timestamp(at: u64) -> String {
    let at = crate::pki::time(at);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use smqtt_core::api::AuditRecord;

    use super::*;

    #[test]
    fn a_message_is_what_the_standard_says() {
        let row = AuditRecord {
            number: 7,
            at: 1_795_360_203,
            actor: "admin 1".into(),
            action: "refused enrol: token-used".into(),
            subject: "lock".into(),
            hash: "ab".into(),
        };
        let line = AuditLine::Record(row);
        let text = String::from_utf8(message(&line, "host.example").unwrap()).unwrap();
        let head = format!(
            "<84>1 2026-11-22T15:10:03Z host.example smqtt-authority {} audit - ",
            std::process::id()
        );
        let json = text.strip_prefix(&head).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(serde_json::from_str::<AuditLine>(json).unwrap(), line);
    }

    #[test]
    fn an_address_says_how_and_where() {
        assert_eq!("unix:/dev/log".parse(), Ok(Address::Unix("/dev/log".into())));
        assert_eq!("udp:[::1]:514".parse(), Ok(Address::Udp("[::1]:514".into())));
        assert_eq!("tcp:log.example:601".parse(), Ok(Address::Tcp("log.example:601".into())));
        for text in ["", "/dev/log", "unix:dev/log", "udp:host", "tcp:host:0", "tcp::514", "tls:host:6514"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
