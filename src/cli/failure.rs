//! How a command ends badly: what, why, and what to do about it.

use std::error::Error;
use std::process::ExitCode;

use smqtt_client::authority::RequestError;
use smqtt_client::enrol::EnrolError;
use smqtt_client::files::FileError;
use smqtt_client::keyring::KeyringError;
use smqtt_client::mqtt::MqttError;
use smqtt_core::policy::ParseError;
use smqtt_keysvc::OpenError;

/// A message, its causes and a hint; printed to stderr, exit code 1 unless said otherwise.
#[derive(Debug)]
pub struct Failure {
    text: String,
    causes: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with this message.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), causes: Vec::new(), hint: None, code: 1 }
    }

    /// Adds `error` and what caused it.
    pub fn because(mut self, error: &dyn Error) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if self.causes.last() != Some(&text) && !self.text.ends_with(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Says where, such as in which line of a file.
    pub fn within(self, place: &str) -> Self {
        Self { text: format!("{place}: {}", self.text), ..self }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With another exit code.
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// What and why, in one line.
    pub fn sentence(&self) -> String {
        std::iter::once(&self.text).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn of(error: &dyn Error, hint: Option<String>) -> Self {
        Self { hint, ..Self::new(error.to_string()).because(error) }
    }

    /// Prints it.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", shown(&self.sentence()));
        if let Some(hint) = &self.hint {
            eprintln!("hint: {}", shown(hint));
        }
        ExitCode::from(self.code)
    }
}

/// Text of several lines, perhaps, of which none steers the terminal.
fn shown(text: &str) -> String {
    text.split('\n').map(smqtt_client::printable).collect::<Vec<_>>().join("\n")
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::of(&error, error.hint())
    }
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        Self::of(&error, error.hint())
    }
}

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        Self::of(&error, error.hint().map(str::to_owned))
    }
}

impl From<MqttError> for Failure {
    fn from(error: MqttError) -> Self {
        Self::of(&error, error.hint().map(str::to_owned))
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::of(&error, Some("check owner, permissions and free space".into()))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::of(&error, Some(error.hint().to_owned()))
    }
}

impl From<ParseError> for Failure {
    /// With the policy and a mark under the place.
    fn from(error: ParseError) -> Self {
        Self::new(error.report().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2J\nb\u{202e}c\r"), "a\u{fffd}[2J\nb\u{fffd}c\u{fffd}");
    }
}
