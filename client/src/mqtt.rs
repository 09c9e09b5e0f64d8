//! Publishing and subscribing: MQTT 5.0 over TLS, through our broker or any other.
//!
//! Behind a broker of ours a content key's first message on each connection goes full, the rest
//! compact; behind another all go full. What the broker refuses for a reason that passes (an unknown
//! header, a bundle newer than ours) is sealed and sent again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{
    ConnectProperties, PubAckReason, PubCompReason, PubRecReason, SubscribeReasonCode,
};
use rumqttc::{
    AckMode, AsyncClient, Broker, IncomingPacketSizeLimit, MqttOptions, PublishNotice, PublishOptions,
    PublishResult, SessionMode,
};
use rustls::ClientConfig;
use smqtt_core::header::Kid;
use tokio::sync::{mpsc, watch};

use crate::authority::split_url;
use crate::drive::{ARRIVALS_MAX, Link, RECEIVE_MAX, drive, lock};
use crate::enrol::{EnrolError, keep_fresh, refresh};
use crate::files::FileError;
use crate::keyring::SharedKeyring;
use crate::opener::{Opener, Outcome};
use crate::sealer::{Outgoing, SealError, Sealer, Wish};
use crate::session::Forgetful;
use crate::{printable, stream, tls};

pub use rumqttc::mqttbytes::QoS;

/// The CONNECT user property by which a reader asks for compact messages; the CONNACK user property
/// by which a broker says that it carries headers.
pub const READER_PROPERTY: (&str, &str) = ("smqtt", "1");
/// Largest MQTT packet that is taken.
pub const PACKET_BYTES_MAX: u32 = 16 << 20;
/// How often a refused message is sealed and sent again.
const RESENDS_MAX: usize = 3;
/// How long a goodbye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often in a row a message may be newer than the keyring before it is given up.
const NEWER_TRIES: u32 = 5;

/// How to reach a broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// `mqtts://host:port` or `mqtt://host:port`; the keyring's broker if `None`.
    pub broker: Option<String>,
    /// Roots for a broker that another authority vouches for; the keyring's if `None`.
    pub roots: Option<Vec<Vec<u8>>>,
    /// The client id; the device's name and a random part if `None`.
    pub client_id: Option<String>,
    /// Keep alive in seconds; 0: none.
    pub keep_alive_seconds: u16,
    /// Keep the session for so many seconds after the connection ends; 0: do not.
    pub session_expiry_seconds: u32,
    /// Sign every message.
    pub sign: bool,
    /// The clock, seconds since 1970.
    pub now: fn() -> u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            broker: None,
            roots: None,
            client_id: None,
            keep_alive_seconds: 60,
            session_expiry_seconds: 0,
            sign: false,
            now: crate::system_now,
        }
    }
}

/// Why there is no connection, or nothing was published or subscribed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttError {
    /// Nobody said where the broker is.
    #[error("no broker: the authority does not know one")]
    NoBroker,
    /// Not an address.
    #[error("`{0}` is not the address of a broker")]
    Address(String),
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// Options the protocol forbids.
    #[error("these connection options do not go together")]
    Options(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The broker said no.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// The connection ended for good, or before an acknowledgement.
    #[error("the connection to the broker ended: {0}")]
    Closed(String),
    /// The replay windows cannot be read.
    #[error(transparent)]
    Replay(#[from] FileError),
}

impl MqttError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoBroker | Self::Address(_) => Some("give `--broker mqtts://host:port`"),
            Self::Seal(error) => error.hint(),
            _ => None,
        }
    }
}

/// What happens on a connection besides messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not connected yet.
    Connecting,
    /// Connected, to a broker that carries headers or not.
    Connected {
        /// Whether it carries headers.
        smqtt: bool,
    },
    /// Not connected; tries again.
    Lost {
        /// What happened.
        reason: String,
        /// How many tries failed in a row.
        failures: u32,
    },
    /// Over: closed by us, or refused for good.
    Closed {
        /// What happened.
        reason: String,
    },
}

/// A message that arrived, opened or not. Acknowledge it when it is dealt with.
#[derive(Debug)]
pub struct Delivery {
    /// Its topic.
    pub topic: String,
    /// Whether the broker had kept it.
    pub retained: bool,
    /// Whether it may have come before.
    pub dup: bool,
    /// Its quality of service.
    pub qos: QoS,
    /// What became of it.
    pub outcome: Outcome,
    /// The payload as it came.
    pub payload: Bytes,
    publish: rumqttc::mqttbytes::v5::Publish,
}

/// What is published where, and how.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The payload, in the clear.
    pub payload: &'a [u8],
    /// Under which policy.
    pub wish: Wish<'a>,
    /// Quality of service.
    pub qos: QoS,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// What became of a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Bytes that went to the broker as payload.
    pub wire_bytes: usize,
    /// Its content key, if it was sealed.
    pub kid: Option<Kid>,
    /// Whether the header went along.
    pub full: bool,
}

/// A message on its way: see [`Client::start`].
#[derive(Debug)]
pub struct Sent {
    published: Published,
    notice: PublishNotice,
}

/// A device's connection to a broker; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    keyring: SharedKeyring,
    mqtt: AsyncClient,
    sealer: Arc<Mutex<Sealer>>,
    link: Arc<Mutex<Link>>,
    /// What was subscribed to: a broker that lost the session is asked again.
    wanted: Arc<Mutex<Vec<(String, QoS)>>>,
    status: watch::Receiver<Status>,
    now: fn() -> u64,
}

/// Messages that arrive on a connection.
#[derive(Debug)]
pub struct Inbox {
    client: Client,
    arrivals: mpsc::Receiver<rumqttc::mqttbytes::v5::Publish>,
    status: watch::Receiver<Status>,
    opener: Opener,
}

/// Connects, and keeps on connecting. Runs on tokio until the client and its inbox are dropped or
/// [`Client::disconnect`] is called.
///
/// # Errors
/// [`MqttError`] where the options make no sense; an absent broker shows in [`Client::status`].
pub fn connect(keyring: SharedKeyring, options: &Options) -> Result<(Client, Inbox), MqttError> {
    let (place, dir) = keyring.with(|k| (k.place().clone(), k.dir().to_owned()));
    let url = options.broker.clone().or(place.broker).ok_or(MqttError::NoBroker)?;
    let (host, port, encrypted) = match split_url(&url, "mqtts://", 8883) {
        Some((host, port)) => (host, port, true),
        None => match split_url(&url, "mqtt://", 1883) {
            Some((host, port)) => (host, port, false),
            None => return Err(MqttError::Address(url)),
        },
    };
    let tls = encrypted.then(|| OwnTls::new(&keyring, options)).transpose()?.map(Mutex::new);
    let client_id = options.client_id.clone().unwrap_or_else(|| {
        let random: [u8; 4] = smqtt_core::crypto::random();
        format!("{}/{:08x}", place.name, u32::from_be_bytes(random))
    });
    let mut mqtt = MqttOptions::new(client_id, Broker::tcp(host.clone(), port));
    mqtt.set_keep_alive(options.keep_alive_seconds)
        .set_ack_mode(AckMode::Manual)
        .set_connect_timeout(Duration::from_secs(10))
        .set_session_mode(match options.session_expiry_seconds {
            0 => SessionMode::Clean,
            _ => SessionMode::Persistent,
        });
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval =
        (options.session_expiry_seconds > 0).then_some(options.session_expiry_seconds);
    properties.receive_maximum = Some(RECEIVE_MAX);
    properties.user_properties = vec![(READER_PROPERTY.0.to_owned(), READER_PROPERTY.1.to_owned())];
    mqtt.set_connect_properties(properties);
    if options.session_expiry_seconds > 0 {
        mqtt.set_session_store(Forgetful);
    }
    mqtt.set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(PACKET_BYTES_MAX));
    let holder = keyring.clone();
    mqtt.set_socket_connector(move |_, _| {
        let tls = tls.as_ref().map(|tls| lock(tls).current(&holder));
        let (host, holder) = (host.clone(), holder.clone());
        async move { stream::connect(host, port, tls, &holder).await.map(|(stream, _)| stream) }
    });
    let built = AsyncClient::builder(mqtt).capacity(64).try_build();
    let (mqtt, events) = built.map_err(|error| MqttError::Options(error.into()))?;

    let opener = Opener::new(&dir)?;
    let (arrived, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let (status, status_of) = watch::channel(Status::Connecting);
    let link = Arc::new(Mutex::new(Link::default()));
    tokio::spawn(drive(events, arrived, status, link.clone()));
    let sealer = Arc::new(Mutex::new(Sealer::new(options.sign)));
    let wanted = Arc::default();
    let client = Client { keyring, mqtt, sealer, link, wanted, status: status_of, now: options.now };
    let inbox = Inbox { client: client.clone(), arrivals, status: client.status(), opener };
    Ok((client, inbox))
}

/// TLS as the holder of the keyring's certificate: anew when that was renewed, or the roots are others.
struct OwnTls {
    /// Those of another authority.
    roots: Option<Vec<Vec<u8>>>,
    made_of: MadeOf,
    config: Arc<ClientConfig>,
}

/// The certificate and the roots of a keyring.
type MadeOf = (Vec<u8>, Vec<Vec<u8>>);

impl OwnTls {
    fn new(keyring: &SharedKeyring, options: &Options) -> Result<Self, MqttError> {
        let roots = options.roots.clone();
        let (made_of, config) = Self::config(keyring, roots.as_deref())?;
        Ok(Self { roots, made_of, config })
    }

    fn config(
        keyring: &SharedKeyring,
        roots: Option<&[Vec<u8>]>,
    ) -> Result<(MadeOf, Arc<ClientConfig>), rustls::Error> {
        keyring.with(|k| {
            let signer = k.signer();
            let own = (signer.certificate(), signer.key().expose_pkcs8());
            let config = tls::client_config(roots.unwrap_or(k.roots()), Some(own))?;
            Ok(((own.0.to_vec(), k.roots().to_vec()), config))
        })
    }

    fn current(&mut self, keyring: &SharedKeyring) -> Arc<ClientConfig> {
        let (certificate, roots) = &self.made_of;
        if keyring.with(|k| k.signer().certificate() != certificate || k.roots() != roots)
            && let Ok((made_of, config)) = Self::config(keyring, self.roots.as_deref())
        {
            (self.made_of, self.config) = (made_of, config);
        }
        self.config.clone()
    }
}

impl Client {
    /// The keyring it publishes and opens with.
    pub fn keyring(&self) -> &SharedKeyring {
        &self.keyring
    }

    /// Watches how the connection is.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until connected.
    ///
    /// # Errors
    /// [`MqttError::Closed`] where the broker refuses for good, or after `failures_max` tries.
    pub async fn connected(&self, failures_max: u32) -> Result<(), MqttError> {
        let mut status = self.status();
        loop {
            match &*status.borrow_and_update() {
                Status::Connected { .. } => return Ok(()),
                Status::Closed { reason } => return Err(MqttError::Closed(reason.clone())),
                Status::Lost { reason, failures } if *failures >= failures_max => {
                    return Err(MqttError::Closed(reason.clone()));
                }
                _ => {}
            }
            if status.changed().await.is_err() {
                return Err(MqttError::Closed("closed".into()));
            }
        }
    }

    /// Seals and publishes, and waits until the broker has it (QoS 0: until it is written out).
    ///
    /// # Errors
    /// [`MqttError`]: the broker does not have it, or may not.
    pub async fn publish(&self, order: &Order<'_>) -> Result<Published, MqttError> {
        let sent = self.start(order).await?;
        self.finish(order, sent).await
    }

    /// Seals and hands over to the connection, in the order of the calls; [`Client::finish`] waits.
    ///
    /// # Errors
    /// [`MqttError`]: nothing was sent.
    pub async fn start(&self, order: &Order<'_>) -> Result<Sent, MqttError> {
        let (published, notice) = self.send(order, false).await?;
        Ok(Sent { published, notice })
    }

    /// Waits until the broker has what [`Client::start`] sent. What it refuses for a reason that passes
    /// is sealed and sent again.
    ///
    /// # Errors
    /// [`MqttError`]: the broker does not have it, or may not.
    pub async fn finish(&self, order: &Order<'_>, sent: Sent) -> Result<Published, MqttError> {
        let Sent { mut published, mut notice } = sent;
        let mut resends = 0;
        loop {
            let refusal = match self.outcome(notice).await? {
                None => return Ok(published),
                Some(refusal) => refusal,
            };
            if resends == RESENDS_MAX {
                return Err(MqttError::Refused(refusal.0));
            }
            resends += 1;
            match refusal.code() {
                "no-header" => {
                    if let Some(kid) = published.kid {
                        lock(&self.link).introduced.remove(&kid);
                    }
                }
                "version" | "epoch" => {
                    // The broker knows a newer bundle, or we do: get the newest, and seal anew.
                    let waited = refresh(&self.keyring, (self.now)(), Duration::from_secs(1)).await;
                    if let Err(error) = waited {
                        tracing::debug!(%error, "no newer bundle");
                    }
                    lock(&self.sealer).forget();
                }
                _ => return Err(MqttError::Refused(refusal.0)),
            }
            (published, notice) = self.send(order, true).await?;
        }
    }

    async fn send(
        &self,
        order: &Order<'_>,
        force_full: bool,
    ) -> Result<(Published, PublishNotice), MqttError> {
        let now = (self.now)();
        let outgoing = self
            .keyring
            .with(|keyring| lock(&self.sealer).seal(keyring, order.topic, order.payload, order.wish, now))?;
        let (payload, kid, full) = match outgoing {
            Outgoing::Plain(payload) => (payload, None, false),
            Outgoing::Sealed(sealed) => {
                let mut link = lock(&self.link);
                let full = force_full || !link.smqtt || link.introduced.insert(sealed.kid());
                let kid = sealed.kid();
                (if full { sealed.full() } else { sealed.into_compact() }, Some(kid), full)
            }
        };
        let published = Published { wire_bytes: payload.len(), kid, full };
        let options = PublishOptions::new(order.qos).retain(order.retain);
        let notice = self.mqtt.publish_tracked(order.topic.to_owned(), payload, options).await;
        let notice = notice.map_err(|error| MqttError::Closed(error.to_string()))?;
        Ok((published, notice))
    }

    /// `None`: the broker has it. Otherwise what it said.
    async fn outcome(&self, notice: PublishNotice) -> Result<Option<Refusal>, MqttError> {
        let result = notice.wait_async().await.map_err(|error| match &*self.status.borrow() {
            Status::Lost { reason, .. } | Status::Closed { reason } => MqttError::Closed(reason.clone()),
            _ => MqttError::Closed(error.to_string()),
        })?;
        let text = |reason: Option<String>, code: String| Refusal(printable(&reason.unwrap_or(code)));
        Ok(match result {
            PublishResult::Qos0Flushed => None,
            PublishResult::Qos1(ack) => {
                let accepted =
                    matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                let reason = ack.properties.and_then(|p| p.reason_string);
                (!accepted).then(|| text(reason, format!("{:?}", ack.reason)))
            }
            PublishResult::Qos2PubRecRejected(rec) => {
                let accepted =
                    matches!(rec.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers);
                let reason = rec.properties.and_then(|p| p.reason_string);
                (!accepted).then(|| text(reason, format!("{:?}", rec.reason)))
            }
            PublishResult::Qos2Completed(comp) => {
                (comp.reason != PubCompReason::Success).then(|| text(None, format!("{:?}", comp.reason)))
            }
        })
    }

    /// Subscribes to `filter`.
    ///
    /// # Errors
    /// [`MqttError::Refused`] with the broker's reason.
    pub async fn subscribe(&self, filter: &str, qos: QoS) -> Result<(), MqttError> {
        let closed = |error: &dyn std::fmt::Display| MqttError::Closed(error.to_string());
        let notice = self.mqtt.subscribe_tracked(filter, qos).await.map_err(|e| closed(&e))?;
        let ack = notice.wait_async().await.map_err(|e| closed(&e))?;
        let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
        match refused {
            None => {
                let mut wanted = lock(&self.wanted);
                wanted.retain(|(other, _)| other != filter);
                wanted.push((filter.to_owned(), qos));
                lock(&self.link).subscribed.insert(filter.to_owned());
                Ok(())
            }
            Some(code) => {
                let reason = ack.properties.and_then(|p| p.reason_string);
                Err(MqttError::Refused(printable(&reason.unwrap_or_else(|| format!("{code:?}")))))
            }
        }
    }

    /// Subscribes anew to what this session of the broker's has not.
    fn subscribe_again(&self) {
        if !matches!(&*self.status.borrow(), Status::Connected { .. }) {
            return;
        }
        let wanted = lock(&self.wanted).clone();
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(filter, _)| lock(&self.link).subscribed.insert(filter.clone()))
            .collect();
        if missing.is_empty() {
            return;
        }
        let client = self.clone();
        // Not awaited here: messages may have to be taken before the answer comes.
        tokio::spawn(async move {
            for (filter, qos) in missing {
                if let Err(error) = client.subscribe(&filter, qos).await {
                    tracing::error!(%error, filter, "cannot subscribe again");
                }
            }
        });
    }

    /// Says DISCONNECT, after what is under way; gives up after some seconds.
    pub async fn disconnect(&self) {
        let leave = async {
            if self.mqtt.disconnect_with_timeout(LEAVE_TIMEOUT).await.is_ok() {
                let mut status = self.status();
                let over = status.wait_for(|s| matches!(s, Status::Closed { .. } | Status::Lost { .. }));
                let _ = over.await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, leave).await;
    }

    /// Keeps the keyring fresh for as long as it is polled: newer bundles as soon as there are any, keys
    /// and certificates with them. Ends only when the authority says that this device was revoked.
    pub async fn keep_fresh(&self) -> EnrolError {
        keep_fresh(&self.keyring, self.now).await
    }
}

/// What the broker said against a message: a code, a colon, an explanation.
struct Refusal(String);

impl Refusal {
    fn code(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl Inbox {
    /// The next message, opened as far as it can be. A message sealed under a newer bundle than the
    /// keyring's is held while that is fetched. `None` when the connection is over.
    pub async fn next(&mut self) -> Option<Delivery> {
        let publish = loop {
            tokio::select! {
                publish = self.arrivals.recv() => break publish?,
                Ok(()) = self.status.changed() => self.client.subscribe_again(),
            }
        };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let mut outcome = self.open(&topic, &publish);
        for attempt in 0..NEWER_TRIES {
            if !matches!(outcome, Outcome::Newer) {
                break;
            }
            if let Err(error) = refresh(&self.client.keyring, (self.client.now)(), Duration::ZERO).await {
                tracing::debug!(%error, "cannot fetch newer keys");
            }
            outcome = self.open(&topic, &publish);
            if matches!(outcome, Outcome::Newer) {
                tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(attempt)).await;
            }
        }
        Some(Delivery {
            topic,
            retained: publish.retain,
            dup: publish.dup,
            qos: publish.qos,
            outcome,
            payload: publish.payload.clone(),
            publish,
        })
    }

    /// Records that `delivery` was dealt with, and tells the broker. What is not acknowledged comes again.
    ///
    /// # Errors
    /// [`FileError`] where it cannot be recorded; the broker is then not told.
    pub async fn acknowledge(&mut self, delivery: &Delivery) -> Result<(), FileError> {
        match &delivery.outcome {
            Outcome::Opened(opened) if !delivery.retained => self.opener.record(opened)?,
            _ => {}
        }
        if let Err(error) = self.client.mqtt.ack(&delivery.publish).await {
            tracing::debug!(%error, "cannot acknowledge");
        }
        Ok(())
    }

    fn open(&mut self, topic: &str, publish: &rumqttc::mqttbytes::v5::Publish) -> Outcome {
        let now = (self.client.now)();
        let opener = &mut self.opener;
        self.client.keyring.with(|k| opener.open(k, topic, &publish.payload, publish.retain, now))
    }

    /// What opens, and the headers it has seen.
    pub fn opener(&self) -> &Opener {
        &self.opener
    }
}
