//! Bounds on everything that clients can make the broker do or keep: one row for each, with all that is to be known of
//! it. `docs/OPERATING.md` shows the same table; a test compares the two.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mqtt::ReasonCode::{self, *};

/// Names, types and defaults of the limits, and the reason codes that tell clients of them.
macro_rules! limits {
    ($($(#[$meta:meta])* $limit:ident $name:literal $field:ident: $type:ty = $default:expr, $reasons:expr;)*) => {
        /// Bounds, all of them with a default. As a section of a configuration file unknown keys are refused.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct Limits {
            $($(#[$meta])* #[serde(rename = $name)] pub $field: $type,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// A limit by its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit {
            $(#[doc = concat!("`", $name, "`, [`Limits::", stringify!($field), "`].")] $limit,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$limit),*];

            /// Its name in configuration files and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$limit => $name,)* }
            }

            /// What a client is told that meets it; nothing where MQTT has no packet for that.
            pub fn reasons(self) -> &'static [ReasonCode] {
                match self { $(Self::$limit => &$reasons,)* }
            }
        }

        impl Limits {
            /// What a limit is set to; `None` where it is off.
            pub fn get(&self, limit: Limit) -> Option<f64> {
                match limit { $(Limit::$limit => self.$field.amount(),)* }
            }
        }
    };
}

limits! {
    /// Connections at a time, those in a TLS handshake included. 100,000.
    Connections "connections_max" connections_max: usize = 100_000, [QuotaExceeded];
    /// Connections at a time whose CONNECT has not been answered. One more takes the place of the oldest, if that has
    /// been silent for a second or more; otherwise it is turned away. 10,000.
    ConnectionsPending "connections_pending_max" connections_pending_max: usize = 10_000, [ServerBusy];
    /// New connections a second from one address (IPv6: from one /64), on average over 20 seconds. 1,000.
    ConnectionRate "connection_rate_per_address_max" connection_rate_per_address_max: u32 = 1_000,
        [ConnectionRateExceeded];
    /// Time for the TLS handshake. 10 s.
    #[serde(with = "seconds")]
    HandshakeTimeout "handshake_timeout_seconds" handshake_timeout: Duration = Duration::from_secs(10), [];
    /// Time from the end of the handshake to CONNACK. 10 s.
    #[serde(with = "seconds")]
    ConnectTimeout "connect_timeout_seconds" connect_timeout: Duration = Duration::from_secs(10), [ServerBusy];
    /// Time a connection gets to take what is still to be written when it ends. 2 s.
    #[serde(with = "seconds")]
    CloseTimeout "close_timeout_seconds" close_timeout: Duration = Duration::from_secs(2), [];
    /// Longest keep alive, also for a client that asks for more, or for none. A v5 client is told. `None` leaves it to clients.
    #[serde(with = "optional_seconds")]
    KeepAlive "keep_alive_max_seconds" keep_alive_max: Option<Duration> = None, [KeepAliveTimeout];
    /// Keep alive of an MQTT 5.0 client that asks for a longer one: CONNACK tells it. One that asks for none, or speaks
    /// 3.1.1, keeps what it asked for. `None` leaves it to clients.
    #[serde(with = "optional_seconds")]
    ServerKeepAlive "server_keep_alive_seconds" server_keep_alive: Option<Duration> = None, [];
    /// Size of a packet from a client, fixed header included. 1 MiB and 64 KiB.
    PacketBytes "packet_bytes_max" packet_bytes_max: usize = (1 << 20) + (64 << 10), [PacketTooLarge];
    /// Size of a CONNECT. 256 KiB.
    ConnectBytes "connect_bytes_max" connect_bytes_max: usize = 256 << 10, [PacketTooLarge];
    /// Bytes of CONNECTs under way, of all connections together, beyond the first 4 KiB of each. 64 MiB.
    ConnectBytesPending "connect_bytes_pending_max" connect_bytes_pending_max: usize = 64 << 20, [ServerBusy];
    /// Length of a topic or filter. 4,096.
    TopicBytes "topic_bytes_max" topic_bytes_max: usize = 4_096, [TopicNameInvalid, TopicFilterInvalid];
    /// Levels of a topic or filter. 128.
    TopicLevels "topic_levels_max" topic_levels_max: usize = 128, [TopicNameInvalid, TopicFilterInvalid];
    /// Length of a client id. 256.
    ClientIdBytes "client_id_bytes_max" client_id_bytes_max: usize = 256, [ClientIdentifierNotValid];
    /// Subscriptions of one session. 1,000.
    SubscriptionsPerSession "subscriptions_per_session_max" subscriptions_per_session_max: usize = 1_000,
        [QuotaExceeded];
    /// Distinct filters that anybody subscribes to; those of one filter in several groups count once. 1,000,000.
    Filters "filters_max" filters_max: usize = 1_000_000, [QuotaExceeded];
    /// QoS 1 and 2 messages sent to one client and not yet acknowledged. 512, or what the client asks if less. More wait
    /// in the queue.
    InflightMessages "inflight_messages_max" inflight_messages_max: u16 = 512, [];
    /// Unacknowledged QoS 1 and 2 messages that one client may send. 1,024. MQTT 3.1.1 knows no such bound.
    Receive "receive_max" receive_max: u16 = 1_024, [ReceiveMaximumExceeded];
    /// Answers to one client that wait for the disk, other than those to its messages, and likewise those to copies of
    /// these. While there are so many it is not read. 1,024.
    AnswersWaiting "answers_waiting_max" answers_waiting_max: usize = 1_024, [];
    /// Topic aliases that a client may use. 64.
    TopicAlias "topic_alias_max" topic_alias_max: u16 = 64, [TopicAliasInvalid];
    /// Topic aliases that the broker uses towards one client. 64.
    TopicAliasOut "topic_alias_out_max" topic_alias_out_max: u16 = 64, [];
    /// Messages that wait for one session. The next is dropped. 10,000.
    QueueMessages "queue_messages_max" queue_messages_max: usize = 10_000, [QuotaExceeded];
    /// Bytes of messages that one session holds, those sent and not yet acknowledged included. The next that does not
    /// fit is dropped, unless it would be the only one. 8 MiB.
    QueueBytes "queue_bytes_max" queue_bytes_max: usize = 8 << 20, [QuotaExceeded];
    /// Bytes of messages that all sessions hold together: each message once, and 96 for each place in a queue.
    /// A session may hold no more than is left of them, so that the fullest are the first to lose; the next message that
    /// does not fit is dropped. One whose client is connected and that holds less than 16 KiB gets it all the same. 1 GiB.
    AllQueuesBytes "all_queues_bytes_max" all_queues_bytes_max: usize = 1 << 30, [QuotaExceeded];
    /// Retained messages. 1,000,000.
    RetainedMessages "retained_messages_max" retained_messages_max: usize = 1_000_000, [QuotaExceeded];
    /// Bytes of retained messages. 1 GiB.
    RetainedBytes "retained_bytes_max" retained_bytes_max: usize = 1 << 30, [QuotaExceeded];
    /// Sessions, connected or stored. 1,000,000.
    Sessions "sessions_max" sessions_max: usize = 1_000_000, [QuotaExceeded];
    /// Longest time that a session outlives its connection; also what 3.1.1 clients without clean session get. `None`
    /// keeps them for ever. A v5 client is told in CONNACK.
    #[serde(with = "optional_seconds")]
    SessionExpiry "session_expiry_max_seconds" session_expiry_max: Option<Duration> = None, [];
    /// Clients whose password waits to be checked. 256.
    PasswordChecks "password_checks_waiting_max" password_checks_waiting_max: usize = 256, [ServerBusy];
    /// Those among them from one address (IPv6: from one /64). 32.
    PasswordChecksPerAddress "password_checks_waiting_per_address_max" password_checks_waiting_per_address_max:
        usize = 32, [ServerBusy];
    /// Headers kept for one publisher. Its oldest that no connection uses makes room; if all are in use, a new one is
    /// refused. 64.
    HeadersPerPublisher "headers_per_publisher_max" headers_per_publisher_max: usize = 64, [QuotaExceeded];
    /// Bytes of headers kept in all, and of those that each bridge brings. Likewise. 256 MiB.
    HeadersBytes "headers_bytes_max" headers_bytes_max: usize = 256 << 20, [QuotaExceeded];
    /// New headers a second of one publisher, on average over 64 seconds: each costs every reader some milliseconds. 1.
    NewHeaders "new_headers_per_second_max" new_headers_per_second_max: u32 = 1, [QuotaExceeded];
    /// New headers a second that one bridge brings, on average over 32 seconds: forged ones cost the broker as much as good
    /// ones. 32.
    NewHeadersPerBridge "new_headers_per_second_per_bridge_max" new_headers_per_second_per_bridge_max: u32 = 32,
        [QuotaExceeded];
}

/// A limit with which no broker could work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the limit `{}` must be at least {least} and at most {most}", limit.name())]
pub struct LimitError {
    limit: Limit,
    least: u64,
    most: u64,
}

impl Limits {
    /// Refuses what no broker could work with.
    ///
    /// # Errors
    /// The first limit that is too low or too high.
    pub fn check(&self) -> Result<(), LimitError> {
        for limit in Limit::ALL.iter().copied() {
            let (least, most) = match limit {
                Limit::TopicAlias | Limit::TopicAliasOut => (0, u16::MAX.into()),
                Limit::PacketBytes | Limit::ConnectBytes => (128, crate::mqtt::FRAME_BYTES_MAX as u64),
                Limit::KeepAlive | Limit::ServerKeepAlive => (1, u16::MAX.into()),
                Limit::HandshakeTimeout | Limit::ConnectTimeout | Limit::CloseTimeout => (0, 3_600),
                Limit::SessionExpiry => (0, 100 * 365 * 86_400),
                _ => (1, 1 << 50),
            };
            let outside = |amount: f64| amount < least as f64 || amount > most as f64;
            if self.get(limit).is_some_and(outside) {
                return Err(LimitError { limit, least, most });
            }
        }
        Ok(())
    }

    /// The limit that a topic or filter exceeds, if it does.
    pub(crate) fn of_topic(&self, topic: &str) -> Option<Limit> {
        if topic.len() > self.topic_bytes_max {
            return Some(Limit::TopicBytes);
        }
        (topic.split('/').count() > self.topic_levels_max).then_some(Limit::TopicLevels)
    }

    /// No bound on what is kept: for what was taken before.
    pub(crate) fn unbounded() -> Self {
        Self { retained_messages_max: usize::MAX, retained_bytes_max: usize::MAX, ..Self::default() }
    }
}

/// What a limit is set to, as a number.
trait Amount {
    fn amount(&self) -> Option<f64>;
}

impl Amount for usize {
    fn amount(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Amount for u32 {
    fn amount(&self) -> Option<f64> {
        Some((*self).into())
    }
}

impl Amount for u16 {
    fn amount(&self) -> Option<f64> {
        Some((*self).into())
    }
}

impl Amount for Duration {
    fn amount(&self) -> Option<f64> {
        Some(self.as_secs_f64())
    }
}

impl Amount for Option<Duration> {
    fn amount(&self) -> Option<f64> {
        self.map(|duration| duration.as_secs_f64())
    }
}

/// A time as whole seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_secs().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// A time as whole seconds, or none.
mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(deserializer).map(|secs| secs.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_keys_of_the_configuration_file() {
        let serde_json::Value::Object(keys) = serde_json::to_value(Limits::default()).unwrap() else {
            panic!("a table")
        };
        let names: Vec<&str> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        assert_eq!(keys.len(), names.len());
        for name in names {
            assert!(keys.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_unknown_keys_are_refused() {
        let read: Limits = toml::from_str("packet_bytes_max = 200\nhandshake_timeout_seconds = 3").unwrap();
        let expected =
            Limits { packet_bytes_max: 200, handshake_timeout: Duration::from_secs(3), ..Limits::default() };
        assert_eq!(read, expected);
        let again: Limits = serde_json::from_value(serde_json::to_value(&expected).unwrap()).unwrap();
        assert_eq!(again, expected);
        for text in ["packet_max = 1", "handshake_timeout = 3", "packet_bytes_max = -1"] {
            assert!(toml::from_str::<Limits>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_that_let_nobody_in_are_refused() {
        assert_eq!(Limits::default().check(), Ok(()));
        for text in ["receive_max = 0", "connections_max = 0", "packet_bytes_max = 300000000"] {
            let limits: Limits = toml::from_str(text).unwrap();
            assert!(limits.check().unwrap_err().to_string().contains(text.split(' ').next().unwrap()));
        }
        assert!(Limits { close_timeout: Duration::ZERO, ..Limits::default() }.check().is_ok());
    }
}
