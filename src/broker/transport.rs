//! Bytes in and out of one socket, without buffers while nothing happens.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use super::{core::Core, counts::Tally, limits::Limit};
use crate::mqtt::{DecodeError, Limits, Packet, Version, split_frame};

/// What a connection runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Bytes read at a time, into a buffer that the connections of a thread share.
const READ_BYTES: usize = 64 << 10;

/// Messages to write beyond which no more are encoded.
pub(crate) const OUT_BYTES_HIGH: usize = 64 << 10;

/// How much is heard of a peer to which everything has been said.
const LINGER_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A socket with what was read and not yet decoded, and what was encoded and not yet written.
pub(crate) struct Transport<S> {
    stream: S,
    input: BytesMut,
    pub(crate) out: BytesMut,
    unflushed: bool,
    /// Bytes read and written since they were last counted.
    read: u64,
    written: u64,
}

impl<S: Stream> Transport<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), out: BytesMut::new(), unflushed: false, read: 0, written: 0 }
    }

    /// The next packet that has arrived entirely. It has memory of its own, so that keeping it keeps nothing else.
    pub(crate) fn next_packet(
        &mut self,
        version: Version,
        limits: Limits,
    ) -> Result<Option<Packet>, DecodeError> {
        let Some(frame) = split_frame(&self.input, limits)? else {
            return Ok(None);
        };
        let bytes = Bytes::copy_from_slice(&self.input[..frame.bytes]);
        self.input.advance(frame.bytes);
        Packet::decode(frame, bytes, version).map(Some)
    }

    /// What was read and not yet decoded.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Forgets what was read.
    pub(crate) fn discard_input(&mut self) {
        self.input.clear();
    }

    /// Gives memory back; call before waiting.
    pub(crate) fn relax(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.out.is_empty() {
            self.out = BytesMut::new();
        }
    }

    /// Reads what is there: the number of bytes, 0 at the end of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.input.extend_from_slice(buffer.filled());
            self.read += buffer.filled().len() as u64;
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Writes what can be written. Ready once everything is out.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.written += written as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether something is still to be written.
    pub(crate) fn is_writing(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }

    /// Counts what was read and written since the last time.
    pub(crate) fn count(&mut self, tally: &mut Tally) {
        tally.bytes_received += std::mem::take(&mut self.read);
        tally.bytes_sent += std::mem::take(&mut self.written);
    }

    /// Writes the rest and says goodbye to the stream, as long as the peer takes it; then waits until the peer has gone
    /// as well. A socket that is closed while the peer still sends is reset, and what was said last gets lost with it.
    pub(crate) async fn close(mut self, core: &Core) {
        let deadline = Instant::now() + core.config.limits.close_timeout;
        let closing = async {
            let _ = std::future::poll_fn(|cx| self.poll_write(cx)).await;
            let _ = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        };
        if timeout_at(deadline, closing).await.is_err() {
            core.counts.hit(Limit::CloseTimeout);
        } else if core.serving.load(Ordering::SeqCst) {
            let _ = timeout_at(deadline, self.drain()).await;
        }
        let mut tally = Tally::default();
        self.count(&mut tally);
        tally.flush(&core.counts);
    }

    /// Reads and forgets what the peer still sends.
    async fn drain(&mut self) {
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            self.input.clear();
            match std::future::poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => left = left.saturating_sub(bytes),
            }
        }
    }
}
