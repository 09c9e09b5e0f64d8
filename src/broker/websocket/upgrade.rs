//! The opening handshake (RFC 6455, section 4.2): one HTTP request, one answer.

use std::{io, net::IpAddr};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Origins;

/// Bytes of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 10;
/// Where MQTT is.
const PATHS: [&str; 2] = ["/mqtt", "/"];
/// Subprotocols, the better one first. The standard's name is the first (MQTT 5.0, section 6); clients of MQTT 3.1 offer
/// the second, and learn from CONNACK which versions there are.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Which connection asks.
pub(crate) struct Asking<'a> {
    pub(crate) origins: &'a Origins,
    pub(crate) tls: bool,
    /// The broker's end of the connection.
    pub(crate) local: IpAddr,
}

/// Why no WebSocket begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// The client was told so.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke, or TLS before it.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// An answer that is no.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {text}")]
pub(crate) struct Refusal {
    /// Status line after the version.
    status: &'static str,
    text: &'static str,
    /// Header fields that go along, each with its line end.
    fields: &'static str,
}

const fn refusal(status: &'static str, text: &'static str) -> Refusal {
    Refusal { status, text, fields: "" }
}

const NO_HTTP: Refusal = refusal("400 Bad Request", "this is not an HTTP request");
const TOO_LARGE: Refusal = refusal("431 Request Header Fields Too Large", "the request is too large");

/// Reads the request and answers it. The caller bounds the time.
pub(crate) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    asking: &Asking<'_>,
) -> Result<(), UpgradeError> {
    let answer = match read_head(stream).await? {
        Ok(head) => answer(&head, asking),
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(answer) => {
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            Ok(())
        }
        Err(refusal) => {
            let Refusal { status, text, fields } = &refusal;
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\n{fields}Content-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n{text}\n",
                text.len() + 1
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            Err(UpgradeError::Refused(refusal))
        }
    }
}

/// Reads up to the empty line.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<Vec<u8>, Refusal>> {
    let mut head = Vec::with_capacity(READ_BYTES);
    loop {
        let looked_at = head.len().saturating_sub(3);
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A client that speaks MQTT or TLS here does not wait until its time is over.
        if !head[0].is_ascii_uppercase() {
            return Ok(Err(NO_HTTP));
        }
        if let Some(at) = head[looked_at..].windows(4).position(|four| four == b"\r\n\r\n") {
            // A client waits for the answer before it goes on (section 4.1).
            let all = looked_at + at + 4 == head.len();
            return Ok(if all { Ok(head) } else { Err(refusal("400 Bad Request", "wait for the answer")) });
        }
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(Err(TOO_LARGE));
        }
        head.reserve(READ_BYTES);
    }
}

/// The answer that begins a WebSocket, or why not.
fn answer(head: &[u8], asking: &Asking<'_>) -> Result<String, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Ok(httparse::Status::Partial) | Err(_) => return Err(NO_HTTP),
    }
    let fields = Fields(request.headers);
    if request.method != Some("GET") {
        let text = "a WebSocket begins with GET";
        return Err(Refusal { status: "405 Method Not Allowed", text, fields: "Allow: GET\r\n" });
    }
    let path = request.path.unwrap_or_default();
    if !PATHS.contains(&path.split('?').next().unwrap_or_default()) {
        return Err(refusal("404 Not Found", "MQTT over WebSocket is at /mqtt"));
    }
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    if request.version != Some(1)
        || !fields.tokens("upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
        || !fields.tokens("connection").any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        let text = "this is MQTT over WebSocket, for MQTT clients";
        return Err(Refusal { status: "426 Upgrade Required", text, fields: upgrade });
    }
    if fields.only("sec-websocket-version") != Some("13") {
        let text = "the version of WebSocket is 13";
        return Err(Refusal { status: "426 Upgrade Required", text, fields: upgrade });
    }
    let Some(host) = fields.only("host") else {
        return Err(refusal("400 Bad Request", "one Host is needed"));
    };
    let key = fields.only("sec-websocket-key").filter(|key| {
        let decoded = STANDARD.decode(key);
        decoded.is_ok_and(|nonce| nonce.len() == 16)
    });
    let Some(key) = key else {
        return Err(refusal("400 Bad Request", "one Sec-WebSocket-Key of 16 bytes is needed"));
    };
    let page = fields.of("origin").next().is_some();
    let allowed = |origin| asking.origins.allow(origin, host, asking.tls, asking.local);
    if page && !fields.only("origin").is_some_and(allowed) {
        let text = "pages of this origin are not let in: `--ws-origin` and `ws_origins` list those that are";
        return Err(refusal("403 Forbidden", text));
    }
    let offered = |name: &&&str| fields.tokens("sec-websocket-protocol").any(|token| token == **name);
    let Some(subprotocol) = SUBPROTOCOLS.iter().find(offered) else {
        return Err(refusal(
            "400 Bad Request",
            "the subprotocol `mqtt` must be offered (MQTT 5.0, section 6)",
        ));
    };
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()));
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    ))
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// All values of a field; those that are no text are empty.
    fn of(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| std::str::from_utf8(field.value).unwrap_or_default().trim())
    }

    /// The value of a field that must be there once.
    fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.of(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// What a field lists.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.of(name).flat_map(|value| value.split(',')).map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost:8083\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: chat, mqtt\r\n\r\n";

    fn ask(request: &str) -> Result<String, &'static str> {
        let origins = Origins::default();
        let asking = Asking { origins: &origins, tls: false, local: [127, 0, 0, 1].into() };
        answer(request.as_bytes(), &asking).map_err(|refusal| &refusal.status[..3])
    }

    #[test]
    fn the_example_of_the_standard_is_answered_as_the_standard_says() {
        let answer = ask(REQUEST).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        for (from, to) in [
            ("/mqtt", "/"),
            ("/mqtt", "/mqtt?token=x"),
            ("websocket", "WebSocket"),
            ("Upgrade: w", "UPGRADE: w"),
            ("chat, mqtt", "chat\r\nsec-websocket-protocol: mqtt"),
            ("Host:", "Origin: http://localhost:3000\r\nHost:"),
        ] {
            assert!(ask(&REQUEST.replacen(from, to, 1)).is_ok(), "{to}");
        }
        assert!(ask(&REQUEST.replace("chat, mqtt", "mqttv3.1")).unwrap().contains("Protocol: mqttv3.1\r\n"));
        assert!(
            ask(&REQUEST.replace("chat, mqtt", "mqttv3.1, mqtt")).unwrap().contains("Protocol: mqtt\r\n")
        );
    }

    #[test]
    fn what_is_no_opening_handshake_for_mqtt_is_refused_with_a_status() {
        let many = "X: y\r\n".repeat(FIELDS_MAX);
        for (from, to, status) in [
            ("GET", "POST", "405"),
            ("/mqtt", "/admin", "404"),
            ("HTTP/1.1", "HTTP/1.0", "426"),
            ("Upgrade: websocket", "Upgrade: h2c", "426"),
            ("keep-alive, Upgrade", "keep-alive", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("Host: localhost:8083\r\n", "", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "?", "400"),
            ("chat, mqtt", "chat", "400"),
            ("chat, mqtt", "MQTT", "400"),
            ("Sec-WebSocket-Protocol: chat, mqtt\r\n", "", "400"),
            ("Host:", "Origin: https://evil.example\r\nHost:", "403"),
            ("Host:", "Origin: http://localhost\r\nOrigin: http://localhost\r\nHost:", "403"),
            ("Host:", "Origin: \r\nHost:", "403"),
            ("Host:", "Ho st:", "400"),
            ("Host:", &format!("{many}Host:"), "431"),
        ] {
            assert_eq!(ask(&REQUEST.replacen(from, to, 1)), Err(status), "{to}");
        }
    }

    proptest! {
        #[test]
        fn no_request_panics(request in prop::collection::vec(any::<u8>(), 0..300), at in 0..REQUEST.len(), byte: u8) {
            let origins = Origins::default();
            let asking = Asking { origins: &origins, tls: true, local: [127, 0, 0, 1].into() };
            let _ = answer(&request, &asking);
            let mut nearly = REQUEST.as_bytes().to_vec();
            nearly[at] = byte;
            let _ = answer(&nearly, &asking);
        }
    }
}
