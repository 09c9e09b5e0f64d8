//! Bytes in and out of one connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use smqtt_client::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mqtt::{DecodeError, Limits, Packet, Version, split_frame};

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;

/// A stream with what was read and not yet decoded, and what was encoded and not yet written.
pub struct Transport {
    stream: Box<dyn Stream>,
    input: BytesMut,
    out: BytesMut,
    unflushed: bool,
}

impl Transport {
    /// Over this stream.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, input: BytesMut::new(), out: BytesMut::new(), unflushed: false }
    }

    /// The next packet that has arrived entirely. It has memory of its own, so that keeping it keeps nothing else.
    pub fn next_packet(&mut self, version: Version, limits: Limits) -> Result<Option<Packet>, DecodeError> {
        let Some(frame) = split_frame(&self.input, limits)? else { return Ok(None) };
        let bytes = Bytes::copy_from_slice(&self.input[..frame.bytes]);
        self.input.advance(frame.bytes);
        Packet::decode(frame, bytes, version).map(Some)
    }

    /// Reads what is there: the number of bytes, 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what can be written. Ready once everything is out.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Encodes a packet for writing; gives its size.
    ///
    /// # Errors
    /// The size, if that is more than `bytes_max`, or 0, if the packet does not fit the wire: nothing is written then.
    pub fn queue(&mut self, packet: &Packet, version: Version, bytes_max: usize) -> Result<(), usize> {
        let before = self.out.len();
        if let Err(error) = packet.encode(version, &mut self.out) {
            tracing::error!(%error, "a packet could not be encoded");
            return Err(0);
        }
        let bytes = self.out.len() - before;
        if bytes > bytes_max {
            self.out.truncate(before);
            return Err(bytes);
        }
        Ok(())
    }

    /// Bytes that wait to be written.
    pub fn backlog_bytes(&self) -> usize {
        self.out.len()
    }

    /// Writes the rest and says goodbye to the stream.
    pub async fn close(mut self) {
        let _ = std::future::poll_fn(|cx| self.poll_write(cx)).await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
    }
}
