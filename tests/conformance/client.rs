//! One client's connection: bytes in and out, packets cut from them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::websocket::WebSocket;
use super::wire::{self, Packet, Version};

/// How to get to a broker.
#[derive(Clone)]
pub struct Route {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub websocket: bool,
}

/// Bytes both ways. Reading waits as long as it was told to.
pub trait Stream: Read + Write + Send {
    fn wait_at_most(&mut self, time: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn wait_at_most(&mut self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time.max(Duration::from_millis(1))))
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn wait_at_most(&mut self, time: Duration) -> io::Result<()> {
        self.sock.wait_at_most(time)
    }
}

impl Route {
    pub fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::from(self.address.ip());
                let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, tcp))
            }
        };
        if self.websocket { Ok(Box::new(WebSocket::open(stream)?)) } else { Ok(stream) }
    }
}

/// A packet with its bytes.
#[derive(Debug, Clone)]
pub struct Received {
    pub packet: Packet,
    pub bytes: Vec<u8>,
}

/// What can come.
#[derive(Debug, Clone)]
pub enum Event {
    Packet(Received),
    Closed,
}

pub struct Client {
    stream: Box<dyn Stream>,
    pub version: Version,
    input: Vec<u8>,
    /// What was read while something else was waited for.
    pub inbox: VecDeque<Event>,
    /// CONNACK has come, and let it in.
    pub connected: bool,
    pub sent_at: Instant,
    next_id: u32,
    /// Topics for the aliases that it has sent.
    pub aliases: HashMap<u32, Vec<u8>>,
}

impl Client {
    pub fn open(route: &Route, version: Version) -> io::Result<Self> {
        Ok(Self {
            stream: route.dial()?,
            version,
            input: Vec::new(),
            inbox: VecDeque::new(),
            connected: false,
            sent_at: Instant::now(),
            next_id: 1000,
            aliases: HashMap::new(),
        })
    }

    /// A packet identifier that no script writes by hand.
    pub fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Writes in one go, or byte by byte. Whether somebody is there to read it is seen when something is expected.
    pub fn send(&mut self, bytes: &[u8], byte_by_byte: bool) {
        let size = if byte_by_byte { 1 } else { bytes.len().max(1) };
        for part in bytes.chunks(size) {
            if self.stream.write_all(part).and_then(|()| self.stream.flush()).is_err() {
                break;
            }
        }
        self.sent_at = Instant::now();
    }

    /// What comes next, if anything does in time.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Event>, String> {
        match self.inbox.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.read(deadline),
        }
    }

    /// What comes next from the socket; the inbox is left alone.
    pub fn read(&mut self, deadline: Instant) -> Result<Option<Event>, String> {
        loop {
            if let Some(received) = self.cut()? {
                return Ok(Some(Event::Packet(received)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.wait_at_most(left).map_err(|error| error.to_string())?;
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Some(Event::Closed)),
                Ok(count) => self.input.extend(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(Some(Event::Closed)),
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Received>, String> {
        let wrong = |why: String, input: &[u8]| format!("the broker sent no packet: {why}: {}", hex(input));
        let framed = wire::frame(&self.input).map_err(|why| wrong(why, &self.input))?;
        let Some((total, body)) = framed else { return Ok(None) };
        let bytes: Vec<u8> = self.input.drain(..total).collect();
        let packet =
            wire::decode(bytes[0], &bytes[body..], self.version).map_err(|why| wrong(why, &bytes))?;
        Ok(Some(Received { packet, bytes }))
    }

    /// Bytes of a packet that is not complete.
    pub fn rest(&self) -> &[u8] {
        &self.input
    }
}

/// Bytes as somebody with the standard open reads them.
pub fn hex(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > 200 { format!(" … ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", shown.join(" "))
}
