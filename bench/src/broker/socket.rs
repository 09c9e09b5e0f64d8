//! A connection of the load: TCP, or TLS over it. Blocking while it is set up, then not.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};

use super::load::LOST_AFTER;

/// One socket.
pub struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Socket {
    /// Connects; with `tls` as a client of it, whose handshake begins with the first byte that is written.
    ///
    /// # Errors
    /// Nobody listens, or the system refuses.
    pub fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(LOST_AFTER))?;
        let secured = |config: &Arc<ClientConfig>| {
            let name = ServerName::IpAddress(address.ip().into());
            let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            // What may be under way is bounded by the load itself.
            tls.set_buffer_limit(None);
            Ok::<_, io::Error>(Box::new(tls))
        };
        Ok(Self { tcp, tls: tls.map(secured).transpose()? })
    }

    /// From now on, what cannot be done at once is [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.tcp.set_nonblocking(true)
    }

    /// Whether one read gives all that is there, if there is room for it: TLS gives a record at a time.
    pub fn reads_all(&self) -> bool {
        self.tls.is_none()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.read(out),
            Some(tls) => Stream::new(&mut **tls, &mut self.tcp).read(out),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.write(bytes),
            Some(tls) => Stream::new(&mut **tls, &mut self.tcp).write(bytes),
        }
    }

    /// Also what TLS holds back because the socket had no room for it.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => Stream::new(&mut **tls, &mut self.tcp).flush(),
        }
    }
}
