//! Why MQTT was not measured.

use std::io;

use smqtt_client::authority::RequestError;
use smqtt_client::enrol::EnrolError;
use smqtt_client::files::FileError;
use smqtt_client::keyring::KeyringError;
use smqtt_client::mqtt::MqttError;

use super::Mode;

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttBenchError {
    /// The caller asked for it.
    #[error("stopped")]
    Stopped,
    /// The system said no.
    #[error("cannot {verb}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority said no.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A device could not enrol.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No connection, or a message was refused.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// Something between the processes cannot be read.
    #[error("cannot read what the processes of the bench say to each other")]
    Answer(#[source] serde_json::Error),
    /// Neither publisher nor subscriber.
    #[error("a role is `publisher` or `subscriber`")]
    Role,
    /// The other end is gone.
    #[error("the other end is gone")]
    Ended,
    /// A process of the bench ended.
    #[error("the process of the {0} ended")]
    ProcessEnded(&'static str),
    /// A process of the bench does not answer.
    #[error("the process of the {0} does not answer")]
    Silent(&'static str),
    /// A process of the bench said something that makes no sense.
    #[error("the {0} said something unexpected")]
    Unexpected(&'static str),
    /// A load of the broker's bench could not do what it was told.
    #[error("the load of {broker} failed: {what}")]
    Load {
        /// Of which broker.
        broker: &'static str,
        /// What it says.
        what: String,
    },
    /// There is none.
    #[error("mosquitto is not installed")]
    NoMosquitto,
    /// There is no connection for it.
    #[error("no connection for `{}`", mode.name())]
    NoLine {
        /// For this.
        mode: Mode,
    },
    /// A message did not come.
    #[error("a message of `{}` did not come", mode.name())]
    Lost {
        /// Of this.
        mode: Mode,
    },
    /// A message came, but not as it was sent.
    #[error("a message of `{}` was altered", mode.name())]
    Altered {
        /// Of this.
        mode: Mode,
    },
    /// A message did not open as its mode says.
    #[error("a message of `{}` did not open: {outcome}", mode.name())]
    NotOpened {
        /// Of this.
        mode: Mode,
        /// What became of it.
        outcome: String,
    },
}

impl MqttBenchError {
    pub(crate) fn io(verb: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { verb, source }
    }
}
