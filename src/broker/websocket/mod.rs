//! MQTT over WebSocket (RFC 6455; MQTT 5.0, section 6): a stream of bytes like any other.

mod frames;
mod origin;
mod upgrade;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::{Incoming, Reply, binary_header};
pub use origin::{OriginError, Origins};
pub(crate) use upgrade::{Asking, UpgradeError, upgrade};

/// The code of a normal end (section 7.4.1).
const NORMAL: u16 = 1000;

/// The server's side of a WebSocket after its handshake.
///
/// Whoever writes goes on with the bytes that were not taken, as `write_all` does: they are promised by the header of a
/// frame.
pub(crate) struct WebSocket<S> {
    stream: S,
    incoming: Incoming,
    outgoing: Outgoing,
    close_is_out: bool,
}

/// What is being written.
enum Outgoing {
    /// Nothing: another frame may begin.
    Boundary,
    /// A control frame, this much of which is out.
    Control(Box<Reply>, usize),
    /// A data frame: its header, as much of it as is to come, and the payload that is to come.
    Data { header: [u8; 10], from: usize, to: usize, left: usize },
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, incoming: Incoming::default(), outgoing: Outgoing::Boundary, close_is_out: false }
    }

    /// Writes control frames that are due. Ready when there are none, or when a data frame must be finished first.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.outgoing {
                Outgoing::Data { .. } => return Poll::Ready(Ok(())),
                Outgoing::Boundary => match self.incoming.reply.take() {
                    Some(reply) if !self.close_is_out => self.outgoing = Outgoing::Control(reply, 0),
                    _ => return Poll::Ready(Ok(())),
                },
                Outgoing::Control(reply, written) => {
                    let rest = &reply.bytes()[*written..];
                    if rest.is_empty() {
                        self.close_is_out |= reply.is_close();
                        self.outgoing = Outgoing::Boundary;
                        continue;
                    }
                    let n = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
                    if n == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *written += n;
                }
            }
        }
    }

    /// Answers pings and closes as far as the socket takes it. Who does not take the answer is not waited for.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.incoming.reply.is_none() && !matches!(self.outgoing, Outgoing::Control(..)) {
            return Ok(());
        }
        if let Poll::Ready(written) = self.poll_control(cx) {
            written?;
            if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
                flushed?;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.answer(cx)?;
            match this.incoming.end() {
                Some(Ok(())) => return Poll::Ready(Ok(())),
                Some(Err(fault)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
                None => {}
            }
            let mut raw = ReadBuf::new(buffer.initialize_unfilled());
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut raw))?;
            if raw.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let n = this.incoming.take(raw.filled_mut());
            if n > 0 {
                buffer.advance(n);
                // An end, or a ping, is dealt with at the next call.
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_control(cx))?;
        if this.close_is_out {
            // After a close nothing may follow (section 5.5.1).
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Outgoing::Boundary = this.outgoing {
            let (header, to) = binary_header(bytes.len());
            this.outgoing = Outgoing::Data { header, from: 0, to, left: bytes.len() };
        }
        loop {
            let Outgoing::Data { header, from, to, left } = &mut this.outgoing else {
                unreachable!("a data frame was begun, or is not finished");
            };
            let payload = &bytes[..bytes.len().min(*left)];
            let slices = [IoSlice::new(&header[*from..*to]), IoSlice::new(payload)];
            let mut n = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_header = n.min(*to - *from);
            *from += of_header;
            n -= of_header;
            *left -= n;
            if *left == 0 {
                this.outgoing = Outgoing::Boundary;
            }
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says goodbye, unless a frame is unfinished, and closes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_is_out && !matches!(&self.incoming.reply, Some(reply) if reply.is_close()) {
            self.incoming.reply = Some(Box::new(Reply::close(NORMAL)));
        }
        ready!(self.poll_control(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
