//! Profiles and groups: what several devices have in common.

use serde::{Deserialize, Serialize};

use super::Rule;

/// `PUT /v1/profiles/NAME`: the whole profile; what is absent it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProfileRequest {
    /// Attributes of every device that has it, besides those of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// The policy of their key-policy keys, of those that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// How long their certificates are valid; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_days: Option<u64>,
    /// How long tokens with it are good for; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ttl_seconds: Option<u64>,
    /// Topic rules to set in the same act.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// As in [`ProfileRequest`].
    pub attributes: Vec<String>,
    /// As in [`ProfileRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// As in [`ProfileRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_days: Option<u64>,
    /// As in [`ProfileRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ttl_seconds: Option<u64>,
    /// The filters of the rules that were set with it.
    pub filters: Vec<String>,
}

/// `PUT /v1/groups/NAME`: the whole group; what is absent it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// The profile of its members that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Attributes of its members, besides those of their own and of their profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
}

/// A group of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    /// Its name.
    pub name: String,
    /// As in [`GroupRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// As in [`GroupRequest`].
    pub attributes: Vec<String>,
}

/// What a change of a profile or a group did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TemplateSet {
    /// How many devices have other attributes or another policy now.
    pub changed: u64,
    /// The attributes whose versions were raised, because some device lost them.
    pub raised: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}
