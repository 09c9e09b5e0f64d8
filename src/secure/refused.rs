//! Why something is refused.

use smqtt_core::rule::Rule;

use crate::broker::{Denial, Limit};
use crate::mqtt::ReasonCode;

/// Why something is refused: a word for programs, a sentence for people, and by which rule.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) reason: ReasonCode,
    /// The rule's filter, where there is one.
    pub(super) rule: Option<Box<str>>,
    /// The limit, where one refuses.
    pub(super) limit: Option<Limit>,
}

impl Refused {
    pub(super) fn new(code: &'static str, reason: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), reason, rule: None, limit: None }
    }

    /// More new headers than a limit allows.
    pub(super) fn headers(limit: Limit, text: &str) -> Self {
        Self { limit: Some(limit), ..Self::new("headers", ReasonCode::QuotaExceeded, text) }
    }

    /// A rule does not let somebody do something.
    pub(super) fn not_allowed(rule: &Rule, what: &str) -> Self {
        let text = format!("the rule `{}` does not let you {what}", rule.filter);
        Self::new("not-allowed", ReasonCode::NotAuthorized, text).by(rule.filter.as_str())
    }

    /// A connection without what this hook leaves at CONNECT. What cannot be checked is not let through.
    pub(super) fn stranger() -> Self {
        let text = "nobody has found out who this client is";
        Self::new("no-identity", ReasonCode::NotAuthorized, text)
    }

    /// The bundle revokes the device that is connected.
    pub(super) fn revoked() -> Self {
        Self::new("revoked", ReasonCode::NotAuthorized, "this device was revoked")
    }

    /// The broker has not heard from the authority for too long.
    pub(super) fn stale(reason: ReasonCode) -> Self {
        let text = "the broker has not heard from its authority for too long: try again later";
        Self::new("stale", reason, text)
    }

    /// Names the rule.
    pub(super) fn by(mut self, rule: &str) -> Self {
        self.rule = Some(rule.into());
        self
    }

    pub(super) fn denial(&self) -> Denial {
        let denial = Denial::new(self.reason, format!("{}: {}", self.code, self.text));
        Denial { limit: self.limit, ..denial }
    }
}
