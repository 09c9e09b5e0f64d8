//! Enrolment tokens, for one device or a batch, and those who wait for a person to approve.

use serde::{Deserialize, Serialize};

/// `POST /v1/tokens`: leave for a device to enrol, or for several.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The name of the one device. Of several, names are `NAME-SERIAL`, or `NAME-1`, `NAME-2` where there are no serials.
    pub name: String,
    /// `device` (the default), `broker`, `bridge`, `enroller` or `auditor`.
    #[serde(default = "device_role")]
    pub role: String,
    /// The attributes it will have, `name=value`.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// The policy that its key-policy keys will carry: it opens what is labelled so that the policy holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// How long the token is good for; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Names and addresses for a broker's server certificate.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// How many devices can enrol with it; absent: one for each serial, or one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The serials that it is for. A device then says which is its own, and each works once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<String>,
    /// Its profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether a person has to approve each device.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approval: bool,
    /// Whether other tokens for this name that nobody used are taken back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replace: bool,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self {
            name: String::new(),
            role: device_role(),
            attributes: Vec::new(),
            policy: None,
            ttl_seconds: None,
            hosts: Vec::new(),
            count: None,
            serials: Vec::new(),
            profile: None,
            group: None,
            approval: false,
            replace: false,
        }
    }
}

fn device_role() -> String {
    "device".to_owned()
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The answer to [`TokenRequest`]: a secret.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewToken {
    /// The token's id: not secret, for lists and for taking it back.
    #[serde(default)]
    pub id: String,
    /// The token as text.
    pub token: String,
    /// When it expires.
    pub expires: u64,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewToken({}, .., expires {})", self.id, self.expires)
    }
}

/// A token as `GET /v1/tokens` lists it: everything but what it takes to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// As in [`TokenRequest`].
    pub name: String,
    /// As in [`TokenRequest`].
    pub role: String,
    /// As in [`TokenRequest`].
    pub attributes: Vec<String>,
    /// As in [`TokenRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The profile that it gives besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The group that it gives besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `open`, `used`, `expired` or `removed`.
    pub status: String,
    /// How many devices can enrol with it.
    pub count: u32,
    /// How many have, or wait to.
    pub used: u32,
    /// Whether a person has to approve each device.
    pub approval: bool,
    /// When it was made.
    pub made: u64,
    /// When it expires.
    pub expires: u64,
    /// The serials that it is for; only in the answer to `GET /v1/tokens/ID`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<String>,
    /// Who presented it; only in the answer to `GET /v1/tokens/ID`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<TokenUse>,
}

/// Whoever presented a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenUse {
    /// The device's name.
    pub name: String,
    /// Its serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `enrolled`, `waiting` or `denied`.
    pub status: String,
    /// When it presented the token first.
    pub asked: u64,
}

/// The answer 202 to `POST /v1/enrol`: a person has to approve. The same request again, after a while, gets the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The name it will have, by which it is approved.
    pub name: String,
    /// The first 8 bytes of the SHA-256 of its signing key, hexadecimal: for a person to compare.
    pub key: String,
    /// After how many seconds to ask again; also in `Retry-After`.
    pub retry_after_seconds: u64,
}

/// Somebody who waits for approval, as `GET /v1/enrolments` lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Applicant {
    /// The name it will have.
    pub name: String,
    /// As in [`Waiting`].
    pub key: String,
    /// Its serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where it asked from.
    pub address: String,
    /// When.
    pub asked: u64,
    /// The id of its token.
    pub token: String,
    /// What it will be.
    pub role: String,
    /// The attributes it will have, those of its group and its profile among them.
    pub attributes: Vec<String>,
    /// The policy that its keys will carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}
