//! Reason codes (MQTT 5.0 section 2.4).

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        /// Why a packet was refused, or how far it was accepted. Values below `0x80` are successes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum ReasonCode { $($(#[$doc])* $name = $value),* }

        impl ReasonCode {
            /// The code for a byte of the wire; `None` for one that the standard does not define.
            pub fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reason_codes! {
    /// Success; normal disconnection; granted QoS 0.
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQoS1 = 0x01,
    /// Granted QoS 2.
    GrantedQoS2 = 0x02,
    /// The client wants its will published although it says goodbye.
    DisconnectWithWill = 0x04,
    /// Accepted, but nobody subscribes to the topic.
    NoMatchingSubscribers = 0x10,
    /// There was no such subscription.
    NoSubscriptionExisted = 0x11,
    /// Enhanced authentication goes on.
    ContinueAuthentication = 0x18,
    /// Enhanced authentication starts again.
    ReAuthenticate = 0x19,
    /// Refused for a reason that is not told.
    UnspecifiedError = 0x80,
    /// The bytes do not form a packet.
    MalformedPacket = 0x81,
    /// The packet is well formed and not allowed here.
    ProtocolError = 0x82,
    /// Valid, and not accepted by this implementation.
    ImplementationSpecificError = 0x83,
    /// The broker does not speak this version.
    UnsupportedProtocolVersion = 0x84,
    /// The client id is not allowed.
    ClientIdentifierNotValid = 0x85,
    /// Wrong user name or password.
    BadUserNameOrPassword = 0x86,
    /// Not allowed to do this.
    NotAuthorized = 0x87,
    /// The broker is not available.
    ServerUnavailable = 0x88,
    /// The broker is busy.
    ServerBusy = 0x89,
    /// The client has been banned.
    Banned = 0x8A,
    /// The broker is shutting down.
    ServerShuttingDown = 0x8B,
    /// Unknown or unfit authentication method.
    BadAuthenticationMethod = 0x8C,
    /// Nothing was received for 1.5 times the keep alive.
    KeepAliveTimeout = 0x8D,
    /// Another connection took the session over.
    SessionTakenOver = 0x8E,
    /// The topic filter is not allowed.
    TopicFilterInvalid = 0x8F,
    /// The topic is not allowed.
    TopicNameInvalid = 0x90,
    /// The packet identifier is in use.
    PacketIdentifierInUse = 0x91,
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More unacknowledged messages than the receive maximum.
    ReceiveMaximumExceeded = 0x93,
    /// Unknown topic alias.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than allowed.
    PacketTooLarge = 0x95,
    /// Too many messages a second.
    MessageRateTooHigh = 0x96,
    /// A quota was exceeded.
    QuotaExceeded = 0x97,
    /// Ended by an administrator.
    AdministrativeAction = 0x98,
    /// The payload is not in the format it claims, or that is required.
    PayloadFormatInvalid = 0x99,
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A,
    /// The QoS is not supported.
    QoSNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// Shared subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Too many connections a second.
    ConnectionRateExceeded = 0x9F,
    /// The connection has lasted too long.
    MaximumConnectTime = 0xA0,
    /// Subscription identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Whether it refuses something.
    pub fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Itself where CONNACK of 5.0 may say it (section 3.2.2.2), or what comes nearest.
    pub fn for_connack(self) -> Self {
        match self {
            Self::Success
            | Self::UnspecifiedError
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::ImplementationSpecificError
            | Self::UnsupportedProtocolVersion
            | Self::ClientIdentifierNotValid
            | Self::BadUserNameOrPassword
            | Self::NotAuthorized
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::Banned
            | Self::BadAuthenticationMethod
            | Self::TopicNameInvalid
            | Self::PacketTooLarge
            | Self::QuotaExceeded
            | Self::PayloadFormatInvalid
            | Self::RetainNotSupported
            | Self::QoSNotSupported
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => self,
            Self::ServerShuttingDown => Self::ServerUnavailable,
            _ => Self::ImplementationSpecificError,
        }
    }

    /// Itself where DISCONNECT of a server may say it (section 3.14.2.1), or what comes nearest.
    pub fn for_disconnect(self) -> Self {
        match self {
            Self::BadUserNameOrPassword | Self::Banned | Self::BadAuthenticationMethod => Self::NotAuthorized,
            Self::ServerUnavailable => Self::ServerBusy,
            Self::DisconnectWithWill
            | Self::UnsupportedProtocolVersion
            | Self::ClientIdentifierNotValid
            | Self::PacketIdentifierInUse
            | Self::PacketIdentifierNotFound => Self::ImplementationSpecificError,
            reason if reason.is_error() || reason == Self::Success => reason,
            _ => Self::ImplementationSpecificError,
        }
    }

    /// The CONNACK return code that says the same in MQTT 3.1.1 (section 3.2.2.3).
    pub fn to_v3_connack(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// The reason that a 3.1.1 CONNACK return code stands for; `None` for a reserved one.
    pub fn from_v3_connack(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}
