//! One of the two brokers: where it is, who the bridge is there, and the handshake.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use smqtt_client::keyring::SharedKeyring;
use smqtt_client::stream;
use smqtt_client::{printable, tls};
use smqtt_core::identity::Identity;
use zeroize::Zeroizing;

use super::transport::Transport;
use super::{PACKET_BYTES_MAX, RECEIVE_MAX};
use crate::mqtt::{Connack, Connect, ConnectProperties, Limits, Packet, ReasonCode, Version};

/// How long it may take from the first packet of TCP to CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How TLS is set up.
#[derive(Clone)]
pub enum Security {
    /// Not at all.
    None,
    /// As the holder of the keyring's certificate, to a broker of its authority.
    Keyring,
    /// To a broker that these roots (DER) vouch for, as the holder of a certificate (DER) and its key (PKCS #8), if any.
    Roots(Vec<Vec<u8>>, Option<(Vec<u8>, Zeroizing<Vec<u8>>)>),
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Keyring => "Keyring",
            Self::Roots(..) => "Roots",
        })
    }
}

/// A broker, and who the bridge is there.
#[derive(Clone)]
pub struct Endpoint {
    /// Its host's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How TLS is set up.
    pub security: Security,
    /// The client id; its session there is the bridge's.
    pub client_id: String,
    /// User name.
    pub user_name: Option<String>,
    /// Password.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// The only version of MQTT to speak; `None`: 5.0, and 3.1.1 if the broker does not know that.
    pub version: Option<Version>,
    /// How long the broker keeps the session while the bridge is away.
    pub session_expiry_seconds: u32,
    /// Keep alive.
    pub keep_alive_seconds: u16,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({}:{} as {})", self.host, self.port, self.client_id)
    }
}

/// What a broker said at the beginning.
#[derive(Debug)]
pub struct Session {
    /// Which version is spoken.
    pub version: Version,
    /// Whether the broker kept the session.
    pub resumed: bool,
    /// How many QoS 1 messages it takes at once.
    pub receive_max: u16,
    /// The largest packet that it takes.
    pub packet_bytes_max: usize,
    /// Whether it takes QoS 1.
    pub takes_qos1: bool,
    /// Whether it keeps retained messages.
    pub retains: bool,
    /// The keep alive that it wants.
    pub keep_alive_seconds: u16,
    /// Who it is, if an authority gave it an identity.
    pub identity: Option<Identity>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not reached, or not trusted.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// It does not speak this version of MQTT.
    #[error("the broker does not speak {0}")]
    Version(&'static str),
    /// It said no.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
}

/// What people call it.
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::V3 => "MQTT 3.1.1",
        Version::V5 => "MQTT 5.0",
    }
}

/// Connects in this version of MQTT.
///
/// # Errors
/// [`DialError`], within [`CONNECT_TIMEOUT`].
pub async fn dial(
    endpoint: Endpoint,
    version: Version,
    keyring: SharedKeyring,
) -> Result<(Transport, Session), DialError> {
    let attempt = async {
        let tls = tls_config(&endpoint.security, &keyring)?;
        let (stream, identity) = stream::connect(endpoint.host.clone(), endpoint.port, tls, &keyring).await?;
        let mut connection = Transport::new(stream);
        let connect = Packet::Connect(Box::new(connect_packet(&endpoint, version)));
        if connection.queue(&connect, version, usize::MAX).is_err() {
            return Err(DialError::Refused("client id, user name or password are too long for MQTT".into()));
        }
        poll_fn(|cx| connection.poll_write(cx)).await?;
        let connack = connack(&mut connection, version).await?;
        if connack.reason == ReasonCode::UnsupportedProtocolVersion {
            return Err(DialError::Version(version_name(version)));
        }
        if connack.reason.is_error() {
            let text = connack.properties.reason_string.as_deref().map(printable);
            return Err(DialError::Refused(text.unwrap_or_else(|| format!("{:?}", connack.reason))));
        }
        Ok((connection, session(&endpoint, version, &connack, identity)))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

fn tls_config(
    security: &Security,
    keyring: &SharedKeyring,
) -> Result<Option<Arc<ClientConfig>>, rustls::Error> {
    // Anew for each connection: the keyring's certificate is renewed now and then.
    match security {
        Security::None => Ok(None),
        Security::Keyring => keyring.with(|k| {
            let signer = k.signer();
            let own = (signer.certificate(), signer.key().expose_pkcs8());
            tls::client_config(k.roots(), Some(own)).map(Some)
        }),
        Security::Roots(roots, own) => {
            let own = own.as_ref().map(|(certificate, key)| (&certificate[..], &key[..]));
            tls::client_config(roots, own).map(Some)
        }
    }
}

fn connect_packet(endpoint: &Endpoint, version: Version) -> Connect {
    let properties = match version {
        Version::V3 => ConnectProperties::default(),
        Version::V5 => ConnectProperties {
            session_expiry_secs: Some(endpoint.session_expiry_seconds),
            receive_max: Some(RECEIVE_MAX),
            packet_bytes_max: Some(PACKET_BYTES_MAX),
            ..ConnectProperties::default()
        },
    };
    Connect {
        version,
        clean_start: false,
        keep_alive_secs: endpoint.keep_alive_seconds,
        properties,
        client_id: endpoint.client_id.as_str().into(),
        will: None,
        user_name: endpoint.user_name.as_deref().map(Into::into),
        password: endpoint.password.as_ref().map(|password| Bytes::copy_from_slice(password)),
    }
}

async fn connack(connection: &mut Transport, version: Version) -> Result<Connack, DialError> {
    let limits = Limits { packet_bytes_max: PACKET_BYTES_MAX as usize };
    loop {
        match connection.next_packet(version, limits) {
            Ok(Some(Packet::Connack(connack))) => return Ok(*connack),
            Ok(None) => {}
            // A broker that knows 3.1.1 alone says so in 3.1.1, whose CONNACK is none of 5.0.
            _ if version == Version::V5 => return Err(DialError::Version(version_name(version))),
            _ => return Err(DialError::Refused("its answer to CONNECT makes no sense".into())),
        }
        if poll_fn(|cx| connection.poll_read(cx)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

fn session(endpoint: &Endpoint, version: Version, connack: &Connack, identity: Option<Identity>) -> Session {
    let said = &connack.properties;
    Session {
        version,
        resumed: connack.session_present,
        receive_max: said.receive_max.unwrap_or(u16::MAX),
        packet_bytes_max: said.packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
        takes_qos1: said.qos_max != Some(false),
        retains: said.retain_available != Some(false),
        keep_alive_seconds: said.server_keep_alive_secs.unwrap_or(endpoint.keep_alive_seconds),
        identity,
    }
}
