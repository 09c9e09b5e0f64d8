//! What may become of a device after its enrolment, short of the end.

use serde::{Deserialize, Deserializer, Serialize};

/// The answer to `POST /v1/devices/NAME-OR-ID/suspend`: no keys, no certificate and no session until it is resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Suspension {
    /// Which device.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When.
    pub suspended: u64,
    /// The attributes whose versions were raised.
    pub raised: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}

/// The answer to `POST /v1/devices/NAME-OR-ID/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resumption {
    /// Which device.
    pub id: String,
    /// Its name.
    pub name: String,
    /// A bundle that does not name it any more.
    pub bundle: u64,
}

/// `POST /v1/devices/NAME-OR-ID/reset`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// How long the new token is good for; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// The answer to [`ResetRequest`]: what the device was is over, and a token to begin anew under the same name.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reset {
    /// Which device there was.
    pub id: String,
    /// Its name, which the next one will have.
    pub name: String,
    /// When its keys and certificate ended.
    pub revoked: u64,
    /// The attributes whose versions were raised.
    pub raised: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
    /// The token: a secret.
    pub token: String,
    /// When that expires.
    pub expires: u64,
}

impl std::fmt::Debug for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reset({} {}, ..)", self.name, self.id)
    }
}

/// `PATCH /v1/devices/NAME-OR-ID`: other attributes, another policy. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceChange {
    /// Attributes that take the place of all those of the same names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Attributes that it has besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Attributes that it has no more: `name=value`, or a name for all of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// The policy of its key-policy keys; `null` for none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub policy: Option<Option<String>>,
    /// Its profile; `null` for none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub profile: Option<Option<String>>,
    /// Its group; `null` for none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub group: Option<Option<String>>,
}

/// The answer to [`DeviceChange`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceChanged {
    /// The device as it is now.
    pub device: super::Device,
    /// The attributes whose versions were raised, because it lost them.
    pub raised: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}

/// Tells `null` from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
