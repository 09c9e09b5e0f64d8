//! What a revocation did: the report, and what brokers tell for it.

use serde::{Deserialize, Serialize};

/// Within this time of the commit a connected broker has cut what there was and said so, in seconds.
pub const BROKER_SECONDS_MAX: u64 = 5;
/// Within this time of the commit a publisher that reaches the authority seals under the raised versions, in seconds: the
/// longest silence between two of its questions, and a minute.
pub const PUBLISHER_SECONDS_MAX: u64 = 90;
/// How long a broker that does not hear from its authority goes on letting clients in, in seconds, unless it is told otherwise.
pub const MAX_STALENESS_SECONDS: u64 = 900;
/// After how many times as long it closes the sessions where sealing is required.
pub const STALENESS_FACTOR: u64 = 4;

/// The answer to `POST /v1/devices/NAME-OR-ID/revoke`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Revocation {
    /// Which device.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When.
    pub revoked: u64,
    /// The attributes whose versions were raised.
    pub raised: Vec<String>,
    /// The bundle that tells everyone.
    pub bundle: u64,
}

/// `GET /v1/devices/NAME-OR-ID/revocation?wait=SECONDS`: what was done when, and what is still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RevocationReport {
    /// Which device.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// When: no key and no certificate from then on, and its next request is refused.
    pub revoked: u64,
    /// Who did it: name and identifier.
    pub actor: String,
    /// The attributes whose versions were raised.
    pub raised: Vec<String>,
    /// The epoch that began because a version could not be raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The bundle that tells everyone.
    pub bundle: u64,
    /// What it can still read.
    pub readable: Readable,
    /// Every broker there was.
    pub brokers: Vec<BrokerState>,
    /// Who seals.
    pub publishers: Publishers,
    /// When brokers were told to remove retained messages that it could read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_ordered: Option<u64>,
    /// Whether every broker that is connected has reported all of it.
    pub complete: bool,
}

/// What a revoked device can read for ever, if it or anybody recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Readable {
    /// Since when it had keys.
    pub enrolled: u64,
    /// The epochs of which it can have keys, as far as the authority remembers them; none, where it has no keys.
    pub epochs: Vec<ReadableEpoch>,
    /// What was sealed until then is open to it, by whoever it was sealed.
    pub until: u64,
    /// By then every publisher that reaches the authority seals so that it is closed.
    pub until_at_the_latest: u64,
}

/// An epoch of which a revoked device can have keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReadableEpoch {
    /// Its number.
    pub epoch: u64,
    /// When it began.
    pub from: u64,
    /// When it ended, or the revocation did.
    pub until: u64,
}

/// A broker and a revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BrokerState {
    /// Which broker.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `done`: it says that it did it; `told`: it has the bundle; `connected`: it asks, and does not have it yet; `away`.
    pub state: String,
    /// When it was heard last, since the authority started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// The highest bundle that it said it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<u64>,
    /// What it says that it did: its word, and nobody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<RevocationDone>,
    /// When it said so, by the authority's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<u64>,
    /// Where it is away: from then on it lets nobody in, unless it was told another time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admits_until: Option<u64>,
    /// Where it is away: from then on it closes what must be sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves_until: Option<u64>,
}

/// Publishers, counted by what they last said that they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Publishers {
    /// Connected, with the bundle: they have dropped their content keys.
    pub told: u64,
    /// Connected, without it.
    pub behind: u64,
    /// Not connected: brokers that have the bundle refuse what they seal without it.
    pub away: u64,
    /// By when those that are behind have it, or are away.
    pub by: u64,
}

/// `POST /v1/revocations/ID/done`: what a broker did about a revocation. Said once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RevocationDone {
    /// The bundle that it went by.
    pub bundle: u64,
    /// When it had cut everything, by its clock.
    pub cut_at: u64,
    /// How many sessions it forgot, with their queues, subscriptions and wills.
    pub sessions: u64,
    /// How many of them were connected.
    pub connections: u64,
    /// How many retained messages it removed, where that was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<u64>,
}

/// `GET /v1/revocations`: what a broker has not reported yet, oldest first, 1,000 at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RevocationOrder {
    /// Which device.
    pub id: String,
    /// The bundle that revokes it.
    pub bundle: u64,
    /// Whose retained messages are to be removed, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<FormerReader>,
    /// What the broker said already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<RevocationDone>,
}

/// What a device could read at the time of its revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FormerReader {
    /// Its attributes.
    pub attributes: Vec<String>,
    /// The policy of its key-policy keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The versions that were raised, as they are since: CBOR as in headers. What was sealed under one is closed to it.
    pub versions: String,
    /// The first epoch that is closed to it, where one had to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}
