//! The audit log.

use serde::{Deserialize, Serialize};

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditRecord {
    /// Its number, without gaps.
    pub number: u64,
    /// When.
    pub at: u64,
    /// Who: name and id, or an address.
    pub actor: String,
    /// What was done or refused.
    pub action: String,
    /// To whom or what.
    pub subject: String,
    /// SHA-256 over the previous record's hash and this record, hexadecimal.
    pub hash: String,
}

/// What the authority signs of its audit log: how it ended at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Checkpoint {
    /// The number of the last record.
    pub number: u64,
    /// When.
    pub at: u64,
    /// The hash of the last record, hexadecimal.
    pub hash: String,
    /// The certificate of the authority's signer, DER.
    pub certificate: String,
    /// ECDSA with SHA-256, `r || s`.
    pub signature: String,
}

/// A line of an exported audit log: a record, or a checkpoint over all before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditLine {
    /// A record.
    Record(AuditRecord),
    /// A checkpoint.
    Checkpoint(Checkpoint),
}
