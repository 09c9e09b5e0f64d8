//! A connection to one of the two brokers that is made again whenever it is lost.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smqtt_client::keyring::SharedKeyring;
use smqtt_client::printable;
use tokio::time::Instant;

use super::PACKET_BYTES_MAX;
use super::endpoint::{DialError, Endpoint, Session, dial};
use super::transport::Transport;
use crate::mqtt::{Disconnect, DisconnectProperties, Limits, Packet, ReasonCode, Version};

/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A packet of a broker that speaks 3.1.1 and cannot be told a limit.
const V3_PACKET_BYTES_MAX: usize = 16 << 20;

/// What happens on a side.
#[derive(Debug)]
pub enum Event {
    /// Connected.
    Up(Session),
    /// A packet came.
    Packet(Packet),
    /// Not connected any more, or still not; tries again.
    Down {
        /// What happened.
        reason: String,
        /// What the broker said, if it ended the connection itself.
        said: Option<ReasonCode>,
    },
}

type Dialling = Pin<Box<dyn Future<Output = Result<(Transport, Session), DialError>> + Send>>;

enum State {
    Waiting(Instant),
    Dialling(Dialling, Version),
    Up(Box<Link>),
}

struct Link {
    connection: Transport,
    version: Version,
    keep_alive: Option<Duration>,
    wrote: Instant,
    /// When it was asked whether it is still there, if it was.
    asked: Option<Instant>,
}

/// One side of the bridge.
pub struct Side {
    endpoint: Endpoint,
    keyring: SharedKeyring,
    state: State,
    version: Version,
    failures: u32,
}

impl Side {
    /// Not connected; [`Side::next`] connects.
    pub fn new(endpoint: Endpoint, keyring: SharedKeyring) -> Self {
        let version = endpoint.version.unwrap_or(Version::V5);
        Self { endpoint, keyring, state: State::Waiting(Instant::now()), version, failures: 0 }
    }

    /// How often in a row there was no connection.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Bytes that wait to be written.
    pub fn backlog_bytes(&self) -> usize {
        match &self.state {
            State::Up(link) => link.connection.backlog_bytes(),
            _ => 0,
        }
    }

    /// Puts a packet into the queue of those to be written.
    ///
    /// # Errors
    /// Its size, if that is more than `bytes_max`, or 0, if there is no connection.
    pub fn send(&mut self, packet: &Packet, bytes_max: usize) -> Result<(), usize> {
        let State::Up(link) = &mut self.state else { return Err(0) };
        link.connection.queue(packet, link.version, bytes_max)?;
        link.wrote = Instant::now();
        Ok(())
    }

    /// What happens next. Writes what is queued meanwhile; reads only if `reading`. May be dropped and called again.
    pub async fn next(&mut self, reading: bool) -> Event {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    tokio::time::sleep_until(*until).await;
                    let dialling = dial(self.endpoint.clone(), self.version, self.keyring.clone());
                    self.state = State::Dialling(Box::pin(dialling), self.version);
                }
                State::Dialling(dialling, version) => {
                    let version = *version;
                    match dialling.await {
                        Ok((connection, session)) => {
                            self.failures = 0;
                            let seconds = u64::from(session.keep_alive_seconds);
                            self.state = State::Up(Box::new(Link {
                                connection,
                                version,
                                keep_alive: (seconds > 0).then(|| Duration::from_secs(seconds)),
                                wrote: Instant::now(),
                                asked: None,
                            }));
                            return Event::Up(session);
                        }
                        Err(error) => {
                            if let (DialError::Version(_), None) = (&error, self.endpoint.version) {
                                // Whichever it was that it does not speak.
                                self.version = match version {
                                    Version::V3 => Version::V5,
                                    Version::V5 => Version::V3,
                                };
                            }
                            return self.down(describe(&error), None);
                        }
                    }
                }
                State::Up(link) => match link.next(reading).await {
                    Ok(Packet::Disconnect(goodbye)) => {
                        let text = goodbye.properties.reason_string.as_deref().map(printable);
                        let text = text.unwrap_or_else(|| format!("{:?}", goodbye.reason));
                        return self.down(format!("the broker disconnected: {text}"), Some(goodbye.reason));
                    }
                    Ok(packet) => return Event::Packet(packet),
                    Err(reason) => return self.down(reason, None),
                },
            }
        }
    }

    /// Ends the connection because of what the broker did; it is made again after a pause.
    pub fn fail(&mut self, reason: ReasonCode, text: &str) -> Event {
        if let State::Up(link) = &mut self.state {
            link.goodbye(reason);
            // Once, without waiting: whoever breaks the protocol need not hear why.
            let _ = link.connection.poll_write(&mut Context::from_waker(std::task::Waker::noop()));
        }
        self.down(text.to_owned(), None)
    }

    fn down(&mut self, reason: String, said: Option<ReasonCode>) -> Event {
        let pause = PAUSE.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting(Instant::now() + pause);
        Event::Down { reason, said }
    }

    /// Says goodbye; the session stays.
    pub async fn close(self) {
        if let State::Up(mut link) = self.state {
            link.goodbye(ReasonCode::Success);
            link.connection.close().await;
        }
    }
}

impl Link {
    fn goodbye(&mut self, reason: ReasonCode) {
        if self.version == Version::V5 || reason == ReasonCode::Success {
            let properties = DisconnectProperties::default();
            let goodbye = Packet::Disconnect(Disconnect { reason, properties });
            let _ = self.connection.queue(&goodbye, self.version, usize::MAX);
        }
    }

    async fn next(&mut self, reading: bool) -> Result<Packet, String> {
        loop {
            if !reading {
                // Whoever is not listened to cannot be blamed for silence.
                self.asked = None;
            }
            let deadline = self.deadline();
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                packet = poll_fn(|cx| self.connection.poll_packet(cx, self.version, reading)) => {
                    self.asked = None;
                    match packet? {
                        Packet::Pingresp => {}
                        packet => return Ok(packet),
                    }
                }
                () = timer => {
                    if self.asked.is_some() {
                        return Err("the broker is silent".into());
                    }
                    let _ = self.connection.queue(&Packet::Pingreq, self.version, usize::MAX);
                    let now = Instant::now();
                    (self.wrote, self.asked) = (now, reading.then_some(now));
                }
            }
        }
    }

    /// When something is to be sent, or should have come.
    fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive?;
        Some(match self.asked {
            Some(asked) => asked + keep_alive / 2,
            // Half of it: what is sent must arrive within it.
            None => self.wrote + keep_alive / 2,
        })
    }
}

impl Transport {
    /// Writes what is queued, and gives the next packet. Never ready without `reading`, but for an error.
    fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
        version: Version,
        reading: bool,
    ) -> Poll<Result<Packet, String>> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Err(error.to_string()));
        }
        if !reading {
            return Poll::Pending;
        }
        let packet_bytes_max = match version {
            Version::V3 => V3_PACKET_BYTES_MAX,
            Version::V5 => PACKET_BYTES_MAX as usize,
        };
        loop {
            match self.next_packet(version, Limits { packet_bytes_max }) {
                Ok(Some(packet)) => return Poll::Ready(Ok(packet)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
            match std::task::ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err("the broker closed the connection".into())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
        }
    }
}

fn describe(error: &DialError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
