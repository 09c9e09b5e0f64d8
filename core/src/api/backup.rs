//! Backups and rotations of keys.

use serde::{Deserialize, Serialize};

/// `POST /v1/backup`: a backup into the authority's own directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BackupRequest {
    /// Which of the recovery keys that the authority trusts to seal it to; all of them if absent.
    pub to: Vec<String>,
}

/// The answer to [`BackupRequest`]: it was written, synced, opened again and found whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BackupMade {
    /// Its name in `DIR/backups` of the authority.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// The SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// When it was made.
    pub created: u64,
    /// The bundle's number in it.
    pub bundle: u64,
    /// The epoch in it.
    pub epoch: u64,
    /// How many records of the audit log are in it.
    pub audit: u64,
    /// The identifiers of the recovery keys that open it.
    pub recovery_keys: Vec<String>,
}

/// The answer to `POST /v1/rotate/root-key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RootKeyRotated {
    /// How many data keys are sealed under the new root key.
    pub data_keys: u64,
}

/// `POST /v1/rotate/master`: a step on the way to another master secret key of a suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MasterRotation {
    /// The suite.
    pub suite: String,
    /// `prepare`: devices get keys under both. `activate`: publishers seal under the new one. `retire`: the old one is destroyed.
    pub step: String,
    /// Also before everybody had a chance to follow.
    #[serde(default)]
    pub force: bool,
}

/// The answer to [`MasterRotation`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MasterRotated {
    /// The suite.
    pub suite: String,
    /// The step that was done.
    pub step: String,
    /// The identifiers of its parameters that are in use, the one to seal under first.
    pub params: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}

/// `POST /v1/rotate/certificate`: a step on the way to another root that issues certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CertificateRotation {
    /// `prepare`: everyone learns of the new root. `activate`: it issues, and the old one's key is destroyed. `retire`: the old
    /// one is trusted no more.
    pub step: String,
    /// Also before everybody had a chance to follow.
    #[serde(default)]
    pub force: bool,
}

/// The answer to [`CertificateRotation`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CertificateRotated {
    /// The step that was done.
    pub step: String,
    /// The fingerprint of the root that issues.
    pub issuing: String,
    /// The fingerprints of the roots in trust, oldest first.
    pub roots: Vec<String>,
    /// From when on `retire` is possible, seconds since 1970, as far as can be told now; where that is the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_from: Option<u64>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}
