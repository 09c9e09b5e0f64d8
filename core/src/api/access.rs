//! Access tokens: leave for a program to make some requests for some time.

use serde::{Deserialize, Serialize};

/// `POST /v1/access`: a new access token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccessRequest {
    /// What the audit log will call whoever uses it.
    pub name: String,
    /// `admin`, `enroller` or `auditor`.
    pub role: String,
    /// The operations it is for, by name; whatever the role may, if empty.
    #[serde(default)]
    pub operations: Vec<String>,
    /// How long it is good for.
    pub ttl_seconds: u64,
}

/// The answer to [`AccessRequest`]: a secret.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewAccess {
    /// Its identifier.
    pub id: String,
    /// The token, for `Authorization: Bearer`.
    pub access_token: String,
    /// When it expires.
    pub expires: u64,
}

impl std::fmt::Debug for NewAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewAccess({}, .., expires {})", self.id, self.expires)
    }
}

/// An access token without its secret: `GET /v1/access` lists those that have not expired, `DELETE /v1/access/ID` ends one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Access {
    /// Its identifier.
    pub id: String,
    /// What the audit log calls whoever uses it.
    pub name: String,
    /// `admin`, `enroller` or `auditor`.
    pub role: String,
    /// The operations it is for; whatever the role may, if empty.
    pub operations: Vec<String>,
    /// When it was made.
    pub created: u64,
    /// Who made it.
    pub creator: String,
    /// When it expires.
    pub expires: u64,
}
