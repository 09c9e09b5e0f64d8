//! What the authority answers when it does not do as asked, and why it does not start.

use std::path::PathBuf;

use smqtt_core::identity::{IdentityError, Role};

use crate::backup::BackupError;
use crate::config::ConfigError;
use crate::seal::UnsealError;
use crate::store::StoreError;

/// Why a request is not granted. HTTP makes a status of it, and nothing else looks at HTTP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such token, or another secret: whoever asks learns not which.
    #[error("the enrolment token is not known here")]
    TokenUnknown,
    /// Somebody else enrolled with it.
    #[error("the enrolment token was used by another device")]
    TokenUsed,
    /// Too late.
    #[error("the enrolment token has expired")]
    TokenExpired,
    /// It was taken back.
    #[error("the enrolment token was taken back")]
    TokenRemoved,
    /// Not one of the token's serials.
    #[error("the enrolment token is not for this serial")]
    SerialUnknown,
    /// A person said no.
    #[error("this enrolment was denied")]
    Denied,
    /// Not in the list.
    #[error("there is no token `{id}`")]
    NoSuchToken {
        /// What was asked for.
        id: String,
    },
    /// Not in the list.
    #[error("nobody waits for approval as `{name}`")]
    NoSuchEnrolment {
        /// What was asked for.
        name: String,
    },
    /// It was answered otherwise before.
    #[error("the enrolment of `{name}` was {answer} already")]
    Answered {
        /// Who.
        name: String,
        /// Approved or denied.
        answer: &'static str,
    },
    /// Somebody else waits under that name.
    #[error("whoever waits as `{name}` has another key")]
    OtherKey {
        /// The name.
        name: String,
    },
    /// Not in the list.
    #[error("there is no profile `{name}`")]
    NoSuchProfile {
        /// What was asked for.
        name: String,
    },
    /// Not in the list.
    #[error("there is no group `{name}`")]
    NoSuchGroup {
        /// What was asked for.
        name: String,
    },
    /// Devices, groups or tokens name it.
    #[error("the {what} `{name}` is in use: {users} devices, groups or open tokens name it")]
    InUse {
        /// Profile or group.
        what: &'static str,
        /// Its name.
        name: String,
        /// How many name it.
        users: u64,
    },
    /// An active device has this name, or will have it by the token of its reset or once it is approved.
    #[error("the name `{name}` is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Only for those with a certificate.
    #[error("a client certificate is required")]
    CertificateRequired,
    /// The client's certificate does not hold.
    #[error("the client certificate is not accepted")]
    Certificate(#[source] IdentityError),
    /// Not with this role.
    #[error("not allowed with the role `{}`", .role.name())]
    Role {
        /// The role the certificate names.
        role: Role,
    },
    /// No such access token, or another secret: whoever asks learns not which.
    #[error("the access token is not known here")]
    AccessUnknown,
    /// Too late.
    #[error("the access token has expired")]
    AccessExpired,
    /// The access token is for something else.
    #[error("the access token is not for `{operation}`")]
    Scope {
        /// What was asked for.
        operation: &'static str,
    },
    /// Not in the list.
    #[error("there is no access token `{id}`")]
    NoSuchAccess {
        /// What was asked for.
        id: String,
    },
    /// The device was revoked.
    #[error("this device was revoked")]
    Revoked,
    /// The device is suspended: it may come again later.
    #[error("this device is suspended")]
    Suspended,
    /// A certificate of ours for a device we do not know: the store is older than the certificate.
    #[error("this device is not known here")]
    UnknownCaller,
    /// Not in the list.
    #[error("there is no device `{name}`")]
    NoSuchDevice {
        /// What was asked for.
        name: String,
    },
    /// Not in the list.
    #[error("there is no rule for `{filter}`")]
    NoSuchRule {
        /// What was asked for.
        filter: String,
    },
    /// What was asked for is about revoked devices.
    #[error("the device `{name}` was not revoked")]
    NotRevoked {
        /// Its name or identifier.
        name: String,
    },
    /// A broker says something else than before.
    #[error("this broker has reported otherwise on this revocation")]
    ReportedOtherwise,
    /// What was asked for is for devices that were not revoked.
    #[error("the device `{name}` was revoked")]
    DeviceRevoked {
        /// Its name.
        name: String,
    },
    /// An administrator cannot be revoked: nobody could undo it.
    #[error("an administrator cannot be revoked, suspended or reset")]
    NotRevocable,
    /// The list is full.
    #[error("no more than {max} {what} are possible")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// What was sent makes no sense.
    #[error("{detail}")]
    Invalid {
        /// One word for programs.
        code: &'static str,
        /// What, and where in it.
        detail: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A rotation has its steps in one order.
    #[error("`{asked}` is not the next step of this rotation: `{next}` is")]
    Step {
        /// What was asked for.
        asked: String,
        /// What comes next.
        next: &'static str,
    },
    /// Not before everybody had a chance to follow.
    #[error("not before epoch {epoch}: it is epoch {current}")]
    TooEarly {
        /// From when on it is possible.
        epoch: u64,
        /// The current one.
        current: u64,
    },
    /// Not before nothing counts any more that the old root issued.
    #[error("not before {}", date(*.from))]
    TooEarlyUntil {
        /// From when on it is possible, seconds since 1970.
        from: u64,
    },
    /// Nobody is named to whom a backup could be sealed, or somebody the authority does not trust with it.
    #[error("no recovery key, or one that this authority does not know")]
    RecoveryKey,
    /// A backup could not be written, or not be read again.
    #[error("the backup failed")]
    Backup(#[from] BackupError),
    /// Files of the authority could not be used.
    #[error("the authority's files cannot be used")]
    Files(#[source] Box<OpenError>),
    /// Somebody else was quicker.
    #[error("it has changed since, or is not what was expected")]
    Changed,
    /// Another request had this key.
    #[error("this `Idempotency-Key` came with another request before")]
    KeyReused,
    /// Whoever asks has asked too often.
    #[error("too many requests")]
    TooMany {
        /// After how long to ask again.
        retry_after_seconds: u64,
    },
    /// The disk is nearly full; nothing was changed.
    #[error("the authority's disk is nearly full: changes are refused")]
    LowSpace,
    /// Too much to do.
    #[error("the authority is busy")]
    Busy,
    /// The store failed; nothing was changed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl Error {
    pub(crate) fn invalid(code: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Invalid { code, detail: detail.to_string(), hint: None }
    }

    pub(crate) fn unusable(error: OpenError) -> Self {
        Self::Files(Box::new(error))
    }

    pub(crate) fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Invalid { code, detail, .. } => Self::Invalid { code, detail, hint: Some(text.into()) },
            other => other,
        }
    }

    /// One word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenUnknown => "token-unknown",
            Self::TokenUsed => "token-used",
            Self::TokenExpired => "token-expired",
            Self::TokenRemoved => "token-removed",
            Self::SerialUnknown => "serial-unknown",
            Self::Denied => "denied",
            Self::NoSuchToken { .. } => "no-such-token",
            Self::NoSuchEnrolment { .. } => "no-such-enrolment",
            Self::Answered { .. } => "answered",
            Self::OtherKey { .. } => "other-key",
            Self::NoSuchProfile { .. } => "no-such-profile",
            Self::NoSuchGroup { .. } => "no-such-group",
            Self::InUse { .. } => "in-use",
            Self::NameTaken { .. } => "name-taken",
            Self::CertificateRequired => "certificate-required",
            Self::Certificate(IdentityError::NotValidThen) => "certificate-expired",
            Self::Certificate(_) => "certificate",
            Self::Role { .. } => "role",
            Self::AccessUnknown => "access-unknown",
            Self::AccessExpired => "access-expired",
            Self::Scope { .. } => "scope",
            Self::NoSuchAccess { .. } => "no-such-access",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::DeviceRevoked { .. } => "device-revoked",
            Self::NotRevoked { .. } => "not-revoked",
            Self::ReportedOtherwise => "reported",
            Self::UnknownCaller => "unknown-device",
            Self::NoSuchDevice { .. } => "no-such-device",
            Self::NoSuchRule { .. } => "no-such-rule",
            Self::NotRevocable => "not-revocable",
            Self::Full { .. } => "full",
            Self::Invalid { code, .. } => code,
            Self::Step { .. } => "step",
            Self::TooEarly { .. } | Self::TooEarlyUntil { .. } => "too-early",
            Self::RecoveryKey => "recovery-key",
            Self::Backup(_) => "backup",
            Self::Files(_) => "files",
            Self::Changed => "changed",
            Self::KeyReused => "idempotency-key-reused",
            Self::TooMany { .. } => "too-many",
            Self::LowSpace => "low-space",
            Self::Busy => "busy",
            Self::Store(_) => "store",
        }
    }

    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::TokenUnknown => "copy the whole token, or ask for a new one",
            Self::TokenUsed => "ask for a new token; if you did not enrol before, somebody else has this one",
            Self::TokenExpired | Self::TokenRemoved | Self::Denied => "ask for a new token",
            Self::SerialUnknown => "check the serial, or ask for a token that has it",
            Self::NameTaken { .. } => {
                "choose another name, or first revoke that device, deny whoever waits, or take back the token of its reset"
            }
            Self::CertificateRequired => "enrol first, or use the administrator's certificate",
            Self::Certificate(IdentityError::NotValidThen) => "renew it, or enrol again",
            Self::Certificate(_) => "use the certificate this authority gave",
            Self::Role { .. } => "use the credential of somebody who may, such as the administrator's",
            Self::Suspended => "it is let in again after `smqtt device resume`",
            Self::DeviceRevoked { .. } => "that is final: make a token for a new one with `smqtt token new`",
            Self::AccessUnknown | Self::AccessExpired => "ask an administrator for a new one",
            Self::Scope { .. } => "ask an administrator for a token that is for it as well",
            Self::Revoked | Self::UnknownCaller => "enrol again with a new token",
            Self::OtherKey { .. } => "compare again: `smqtt device waiting` shows who waits now",
            Self::TooEarly { .. } | Self::TooEarlyUntil { .. } => {
                "wait, or force it: whoever sleeps until then is then left behind"
            }
            Self::RecoveryKey => "on the authority's machine: `smqtt authority recovery-key trust KEY`",
            Self::Backup(_) | Self::Files(_) => "the authority's log says more; there is no new backup",
            Self::Changed => "look at it again, and change what is there now",
            Self::KeyReused => "a key is for one request: take another for another",
            Self::TooMany { .. } => "wait for as many seconds as `Retry-After` says",
            Self::LowSpace => {
                "make room on the disk of the authority: it goes on by itself; what is read, and revocations, go on meanwhile"
            }
            Self::Store(error) if error.is_full() => "the disk is full: make room; nothing was changed",
            Self::Busy => "try again in a few seconds",
            Self::Store(_) => "the authority's log says more; nothing was changed",
            Self::Invalid { hint, .. } => return hint.clone(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Why an authority does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting that cannot be meant.
    #[error("the configuration makes no sense")]
    Config(#[from] ConfigError),
    /// A file or directory cannot be made, read or written.
    #[error("cannot {verb} `{}`", .path.display())]
    File {
        /// Make, read or write.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("another authority uses `{}`", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No authority was made there.
    #[error("there is no authority in `{}`", .path.display())]
    NoAuthority {
        /// The directory.
        path: PathBuf,
    },
    /// The store cannot be read or written.
    #[error("the store `{}` cannot be used", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// There is a store, but not the key that opens its secrets.
    #[error("the seal key `{}` is missing", .path.display())]
    SealKeyMissing {
        /// The file.
        path: PathBuf,
    },
    /// The key file does not open the secrets in the store.
    #[error("the seal key `{}` does not fit this store", .path.display())]
    SealKeyWrong {
        /// The file.
        path: PathBuf,
    },
    /// What opens the seal is missing or wrong.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    /// The backup does not hold.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The journal does not hold.
    #[error("the journal `{}` cannot be used: {detail}", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Something is there that belongs to a store, and the store is not.
    #[error("`{}` is of an authority whose store is not there", .path.display())]
    StoreMissing {
        /// What is there.
        path: PathBuf,
    },
    /// There is something already.
    #[error("`{}` is not empty", .path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The administrator's files are damaged or from another authority.
    #[error("`{}` is not the administrator's certificate of this authority", .path.display())]
    Admin {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OpenError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Config(_) => "correct that setting",
            Self::File { .. } => "check owner, permissions and free space",
            Self::NoAuthority { .. } => "`--data` names the directory of `smqtt authority`",
            Self::InUse { .. } => "stop the other process, or choose another directory",
            Self::Store { source: StoreError::Newer { .. }, .. } => {
                "use the version that wrote it, or a newer one"
            }
            Self::Store { source: StoreError::RootMissing(_), .. } => {
                "use a backup, or a copy of the store, from after that root was prepared"
            }
            Self::Store { .. } => {
                "check owner, permissions and free space; restore a backup if it is damaged"
            }
            Self::SealKeyMissing { .. } | Self::SealKeyWrong { .. } => {
                "put the seal key back from its backup: without it the secrets cannot be read"
            }
            Self::Unseal(error) => error.hint(),
            Self::Backup(BackupError::OtherKey { .. }) => "use one of the recovery keys that it is sealed to",
            Self::Backup(BackupError::Io(_)) => "check owner, permissions and free space",
            Self::Backup(_) => "use another copy, or an older backup",
            Self::Journal { .. } => {
                "take another copy of it; if there is none, say `--journal-lost` and give `--bundle FILE` from brokers and devices"
            }
            Self::StoreMissing { .. } => {
                "put the store back (is its disk mounted?) or restore a backup; for a new authority give another directory"
            }
            Self::Taken { .. } => "give a directory that is empty or not there",
            Self::Admin { .. } => "move that directory away to have a new administrator made",
            Self::Tls(_) => "this is a fault of the program: please report it",
        }
    }
}

/// An error with all that caused it, in one line: for the log, which shows of an error its first sentence only.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}

/// A time as people read it, in UTC.
fn date(seconds: u64) -> String {
    let at = crate::pki::time(seconds);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}
