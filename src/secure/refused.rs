//! Why something is refused.

use crate::broker::Denial;
use crate::mqtt::ReasonCode;

/// Why something is refused: a word for programs, a sentence for people.
pub(super) struct Refused {
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) reason: ReasonCode,
}

impl Refused {
    pub(super) fn new(code: &'static str, reason: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), reason }
    }

    /// A connection without what this hook leaves at CONNECT. What cannot be checked is not let through.
    pub(super) fn stranger() -> Self {
        let text = "nobody has found out who this client is";
        Self::new("no-identity", ReasonCode::NotAuthorized, text)
    }

    pub(super) fn denial(&self) -> Denial {
        Denial::new(self.reason, format!("{}: {}", self.code, self.text))
    }
}
