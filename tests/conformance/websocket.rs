//! A client's side of WebSocket (RFC 6455), as far as MQTT needs it (section 6 of both standards).

use std::io::{self, Read, Write};
use std::time::Duration;

use super::client::Stream;

pub struct WebSocket {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    /// Bytes of the present frame that were not read yet.
    left: usize,
    closed: bool,
}

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// What the key above is answered with (RFC 6455, section 1.3).
const ACCEPT: &str = "s3pplmbitxaq9kygzzhzrbk+xoo=";

impl WebSocket {
    pub fn open(mut stream: Box<dyn Stream>) -> io::Result<Self> {
        stream.wait_at_most(Duration::from_secs(20))?;
        stream.write_all(REQUEST.as_bytes())?;
        stream.flush()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let fine = head.starts_with("http/1.1 101")
            && head.contains("sec-websocket-protocol: mqtt")
            && head.contains(ACCEPT);
        match fine {
            true => Ok(Self { stream, input: Vec::new(), left: 0, closed: false }),
            false => Err(io::Error::other(format!("no WebSocket: {head}"))),
        }
    }

    /// Takes the head of the next frame from the input, if it is there.
    fn head(&mut self) -> io::Result<bool> {
        let Some([first, second]) = self.input.get(..2).map(|two| [two[0], two[1]]) else { return Ok(false) };
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(bytes) = self.input.get(2..2 + extended) else { return Ok(false) };
        let length = match extended {
            0 => usize::from(second & 0x7F),
            _ => bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        if second & 0x80 != 0 {
            return Err(io::Error::other("a masked frame from a server"));
        }
        match first & 0x0F {
            0 | 2 => self.left = length,
            8 => self.closed = true,
            other => return Err(io::Error::other(format!("a frame of type {other}"))),
        }
        self.input.drain(..2 + extended);
        Ok(true)
    }
}

impl Read for WebSocket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.closed {
                return Ok(0);
            }
            let count = self.left.min(self.input.len()).min(out.len());
            if count > 0 {
                out[..count].copy_from_slice(&self.input[..count]);
                self.input.drain(..count);
                self.left -= count;
                return Ok(count);
            }
            if self.left == 0 && self.head()? {
                continue;
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer)? {
                0 => return Ok(0),
                count => self.input.extend(&buffer[..count]),
            }
        }
    }
}

impl Write for WebSocket {
    /// One binary frame for one write.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut frame = vec![0x82];
        match bytes.len() {
            short @ ..126 => frame.push(0x80 | short as u8),
            middle @ ..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        frame.extend(mask);
        frame.extend(bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for WebSocket {
    fn wait_at_most(&mut self, time: Duration) -> io::Result<()> {
        self.stream.wait_at_most(time)
    }
}
