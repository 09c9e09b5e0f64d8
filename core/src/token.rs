//! Enrolment tokens: everything a device needs to find and trust the authority, in one string.
//!
//! `smqtt1.` and the unpadded base64url of the CBOR array
//! `[url, root fingerprint (32), token id (16), secret (16), expires (seconds since 1970)]`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::Decoder;
use zeroize::{Zeroize, Zeroizing};

use crate::cbor::to_vec;
use crate::identity::Fingerprint;

const PREFIX: &str = "smqtt1.";
/// Most characters of a token.
pub const TOKEN_CHARS_MAX: usize = 1024;

/// A one-time enrolment token. Whoever holds it can enrol: never log it, never print it by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the authority is, `https://host:port`.
    pub url: String,
    /// Whose root must stand behind that address.
    pub fingerprint: Fingerprint,
    /// Which token it is; not secret.
    pub id: [u8; 16],
    /// What proves it; the authority keeps its SHA-256 alone.
    pub secret: [u8; 16],
    /// When it ceases to be taken, in seconds since 1970.
    pub expires: u64,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, ..)", self.url)
    }
}

/// Why a string is no token. Never repeats what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Does not begin as tokens do.
    #[error("not an enrolment token: one begins with `{PREFIX}`")]
    Prefix,
    /// Cut short or altered.
    #[error("the enrolment token is incomplete or was altered: copy the whole line")]
    Malformed,
}

impl Token {
    /// The token as text: a secret.
    pub fn expose(&self) -> Zeroizing<String> {
        let cbor = Zeroizing::new(to_vec(|e| {
            e.array(5)?.str(&self.url)?.bytes(&self.fingerprint.0)?;
            e.bytes(&self.id)?.bytes(&self.secret)?.u64(self.expires).map(drop)
        }));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + cbor.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*cbor, &mut text);
        text
    }

    /// Reads what `expose` gave; white space around it does not matter.
    ///
    /// # Errors
    /// [`TokenError`]; an expired token still parses.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::Malformed);
        }
        let cbor = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new).map_err(|_| TokenError::Malformed)?;
        let token = Self::fields(&cbor).ok().flatten().ok_or(TokenError::Malformed)?;
        if *token.expose() == text { Ok(token) } else { Err(TokenError::Malformed) }
    }

    fn fields(cbor: &[u8]) -> Result<Option<Self>, minicbor::decode::Error> {
        let mut d = Decoder::new(cbor);
        if d.array()? != Some(5) {
            return Ok(None);
        }
        let url = d.str()?.to_owned();
        let (fingerprint, id, secret) = (d.bytes()?.try_into(), d.bytes()?.try_into(), d.bytes()?.try_into());
        let (Ok(fingerprint), Ok(id), Ok(secret)) = (fingerprint, id, secret) else { return Ok(None) };
        Ok(Some(Self { url, fingerprint: Fingerprint(fingerprint), id, secret, expires: d.u64()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            url: "https://127.0.0.1:8443".into(),
            fingerprint: Fingerprint([1; 32]),
            id: [2; 16],
            secret: [3; 16],
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn round_trips_and_hides_its_secret() {
        let text = token().expose();
        assert_eq!(Token::parse(&format!("  {}\n", *text)).unwrap(), token());
        assert!(text.len() < 170, "{} characters", text.len());
        assert_eq!(format!("{:?}", token()), "Token(https://127.0.0.1:8443, ..)");
    }

    #[test]
    fn altered_tokens_are_refused() {
        let text = token().expose();
        assert_eq!(Token::parse("hello"), Err(TokenError::Prefix));
        assert_eq!(Token::parse("smqtt1."), Err(TokenError::Malformed));
        for cut in PREFIX.len()..text.len() {
            assert_eq!(Token::parse(&text[..cut]), Err(TokenError::Malformed));
        }
        assert_eq!(Token::parse(&format!("{}AAAA", *text)), Err(TokenError::Malformed));
    }
}
