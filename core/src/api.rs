//! The shapes that authority and clients exchange over HTTPS, as JSON. Shapes alone: who may ask for
//! what is decided by the authority, how it is asked by the client.
//!
//! Binary fields are base64 (standard alphabet, padded); identifiers lower-case hexadecimal; times
//! seconds since 1970.

mod access;
mod audit;
mod backup;
mod device;
mod profile;
mod revocation;
mod token;

use serde::{Deserialize, Serialize};

pub use access::{Access, AccessRequest, NewAccess};
pub use audit::{AuditLine, AuditRecord, Checkpoint};
pub use backup::{
    BackupMade, BackupRequest, CertificateRotated, CertificateRotation, MasterRotated, MasterRotation,
    RootKeyRotated,
};
pub use device::{DeviceChange, DeviceChanged, Reset, ResetRequest, Resumption, Suspension};
pub use profile::{Group, GroupRequest, Profile, ProfileRequest, TemplateSet};
pub use revocation::{
    BROKER_SECONDS_MAX, BrokerState, FormerReader, MAX_STALENESS_SECONDS, PUBLISHER_SECONDS_MAX, Publishers,
    Readable, ReadableEpoch, Revocation, RevocationDone, RevocationOrder, RevocationReport, STALENESS_FACTOR,
};
pub use token::{Applicant, NewToken, TokenInfo, TokenRequest, TokenUse, Waiting};

/// The media type of every error (RFC 9457).
pub const PROBLEM_TYPE: &str = "application/problem+json";
/// HPKE `info` of a sealed user secret key (RFC 9180, DHKEM P-256, HKDF-SHA-256, AES-256-GCM).
pub const KEY_HPKE_INFO: &[u8] = b"SMQTT-V01 user key";

/// The header of every answer to `GET /v1/bundle` that says at which revision the caller is: it changes with the
/// caller's own attributes, and with those of all devices for brokers and administrators.
pub const REVISION_HEADER: &str = "smqtt-revision";

/// The header of every answer that names the request, as the authority's log does: 16 hexadecimal digits.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The header under whose value a request that makes something may be made again: it is done once, and answered the same.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// `GET /v1/health`, where the authority works.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// What time the authority has.
    pub time: u64,
}

/// `POST /v1/enrol`: what a device sends with its token. No client certificate.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token's id, hexadecimal.
    pub token_id: String,
    /// The token's secret, hexadecimal.
    pub secret: String,
    /// PKCS #10, DER. Only its key counts; its wishes are ignored.
    pub csr: String,
    /// The device's HPKE public key, P-256, uncompressed.
    pub hpke_key: String,
    /// The device's serial, where the token has a list of serials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolRequest({}, ..)", self.token_id)
    }
}

/// `POST /v1/renew`: a new certificate for whoever the client certificate names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS #10, DER, for the same key or another.
    pub csr: String,
    /// The HPKE public key from now on.
    pub hpke_key: String,
}

/// The answer to enrolment and renewal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Enrolment {
    /// The device's identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `device` or `broker`.
    pub role: String,
    /// Its certificate, DER.
    pub certificate: String,
    /// The root certificate that issues now, DER.
    pub root: String,
    /// All roots in trust, DER, oldest first, where there are more: the one that the token names is among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
    /// Public parameters, one for each suite.
    pub params: Vec<String>,
    /// The newest bundle.
    pub bundle: String,
    /// User secret keys.
    pub keys: Vec<SealedKey>,
    /// The policy of its key-policy keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Where the broker is, `mqtts://host:port`, if the authority was told.
    pub broker: Option<String>,
    /// The revision at which the keys are those of the device.
    #[serde(default)]
    pub revision: u64,
}

/// `GET /v1/params`: public parameters, one for each suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Params {
    /// As core encodes them.
    pub params: Vec<String>,
}

/// A user secret key, sealed to the device's HPKE key with the device's id (16 bytes) as associated data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SealedKey {
    /// The suite.
    pub suite: String,
    /// The epoch.
    pub epoch: u64,
    /// HPKE's encapsulated key.
    pub enc: String,
    /// HPKE's ciphertext.
    pub ciphertext: String,
}

/// `GET /v1/keys`: user secret keys of the current epoch, the last ones, and the next when it is near; with `?since=EPOCH`
/// none of earlier epochs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Keys {
    /// Newest epoch last.
    pub keys: Vec<SealedKey>,
    /// The device's attributes as the authority has them.
    pub attributes: Vec<String>,
    /// The revision at which they are so.
    #[serde(default)]
    pub revision: u64,
    /// The policy of its key-policy keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// `GET /v1/directory?after=REVISION`: who the devices are. For brokers and administrators.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Directory {
    /// To ask for what comes after.
    pub revision: u64,
    /// Devices that are new or changed since.
    pub devices: Vec<Device>,
}

/// A device, a broker or an administrator as the authority knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `device`, `broker` or `admin`.
    pub role: String,
    /// The serial it enrolled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its attributes.
    pub attributes: Vec<String>,
    /// The policy of its key-policy keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The profile that gave it some of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The group that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `active`, `suspended` or `revoked`.
    pub status: String,
    /// When it enrolled.
    pub enrolled: u64,
    /// When its newest certificate expires.
    pub certificate_expires: u64,
    /// When it was suspended, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<u64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// A topic rule. `PUT /v1/rules` sets the rule of its filter, `GET /v1/rules` lists them,
/// `DELETE /v1/rules?filter=F` removes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The topic filter.
    pub filter: String,
    /// `open`, `warn` or `required`.
    pub mode: String,
    /// The policy, with `$1`, `$2` for the levels that `+` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Or the labels, separated by `,`, with `$1`, `$2` as there. Not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Who may publish, a policy over attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishers: Option<String>,
    /// Who may subscribe, a policy over attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<String>,
}

/// The answer to `PUT /v1/rules`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuleSet {
    /// The bundle that carries it.
    pub bundle: u64,
    /// What is allowed but perhaps not meant, such as an attribute nobody has.
    pub warnings: Vec<String>,
}

/// The answer to `POST /v1/epoch/rotate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rotation {
    /// The epoch that began.
    pub epoch: u64,
    /// The bundle that tells everyone.
    pub bundle: u64,
}

/// An error (RFC 9457).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// A URI reference that names the kind, `/problems/CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong, in short.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// For 429 and 503: after how many seconds to ask again, as `Retry-After` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    /// The request, as `X-Request-Id` and the authority's log name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// The last part of `type`: what programs tell kinds apart by.
    pub fn code(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}
