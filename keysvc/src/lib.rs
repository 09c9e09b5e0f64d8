//! The SMQTT key authority: enrolment, user secret keys, topic rules and revocation, over HTTPS.
//!
//! What this crate refuses to do: hand out the master secret key, store a user secret key, answer before what it
//! says is on disk, or give a certificate or key to whoever was revoked.
//!
//! ```text
//! http/       one file for each resource: parses, calls the authority, prints. Decides nothing
//! authority   decides. Knows no HTTP
//! store       SQLite behind one writer: many requests, one synced commit
//! pki, hpke, files            certificates, sealing to a device, files that only the owner reads
//! sink/                       where the audit log is exported to: a rotated file, syslog
//! counts                      what is counted, and under which names it is shown
//! vault, seal/                secrets at rest: data keys, the root key, and what that is sealed under
//! ```
#![forbid(unsafe_code)]

mod authority;
mod backup;
mod clock;
mod cms;
mod config;
mod counts;
mod error;
mod files;
mod hpke;
mod http;
mod pki;
mod recovery;
mod seal;
mod sink;
mod store;
mod vault;

pub use authority::{
    Authority, Caller, Limited, Listed, Method, Operation, Page, Resealed, Restore, Restored, Since, Who,
    change_seal, restore,
};
pub use backup::BackupError;
pub use clock::{Clock, SystemClock};
pub use config::{Config, ConfigError, Limits, Rate, Rates};
pub use error::{Error, OpenError};
pub use http::{BODY_BYTES_MAX, serve};
pub use recovery::{RECOVERY_KEYS_MAX, RecoveryKey, RecoverySecret};
pub use seal::{
    CREDENTIAL_BYTES_MIN, Custodian, NewSeal, PASSPHRASE_BYTES_MIN, SECRET_BYTES_MAX, SHARES_MAX, Share,
    ShareError, Unattended, UnsealError,
};
pub use store::StoreError;
