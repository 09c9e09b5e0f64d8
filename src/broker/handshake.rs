//! From the first byte to CONNACK (sections 3.1, 3.2, 4.12).

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::{
    Timestamp,
    config::Limits,
    connection::{Admitted, Connection, Guard},
    core::{Attaching, Core},
    events::Attempt,
    gate::Ticket,
    hook::{Client, ConnectRequest, Denial, SubscribeRequest},
    hooks,
    limits::Limit,
    message::{Message, Origin, Publication},
    outbound::{DROPPED_PROPERTY, Outbound},
    session::{Control, Kept, PendingWill, Session},
    sys,
    transport::{Stream, Transport},
};
use crate::mqtt::{
    self, Connack, ConnackProperties, Connect, DecodeError, Packet, PublishProperties, ReasonCode,
    SharedFilter, Text, Version, Will,
};

/// Who is at the other end of a stream.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) certificates: Option<Vec<Bytes>>,
}

/// A CONNECT that is refused: how to say it, and why.
struct Refusal {
    /// `None` closes without a word, as section 3.1.4 allows for what is no CONNECT.
    version: Option<Version>,
    /// The largest packet that the client takes, if it came so far as to say it.
    packet_bytes_max: Option<u32>,
    denial: Denial,
}

impl Refusal {
    fn of(connect: &Connect, denial: Denial) -> Self {
        let packet_bytes_max = connect.properties.packet_bytes_max;
        Self { version: Some(connect.version), packet_bytes_max, denial }
    }
}

/// Serves a stream from CONNECT to its end.
pub(crate) async fn serve<S: Stream>(core: Arc<Core>, stream: S, peer: Peer, mut ticket: Ticket) {
    let mut transport = Transport::new(stream);
    let number = core.next_connection();
    let address = peer.address;
    let deadline = Instant::now() + core.config.limits.connect_timeout;
    let read = timeout_at(deadline, read_connect(&core, &mut transport));
    let connect = tokio::select! {
        read = read => match read {
            Ok(read) => read,
            Err(_) => {
                core.counts.connect("timeout");
                core.counts.hit(Limit::ConnectTimeout);
                return tracing::debug!(connection = number, %address, "no CONNECT in time");
            }
        },
        () = ticket.evicted() => {
            core.counts.connect("evicted");
            return tracing::debug!(connection = number, %address, "closed before CONNECT for a newer connection");
        }
    };
    ticket.connected();
    let admitted = match connect {
        Ok(connect) => {
            let admitted = admit(&core, &mut transport, number, peer, &connect, deadline).await;
            admitted.map_err(|denial| Some(Refusal::of(&connect, denial)))
        }
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok(welcome) => {
            core.counts.connect("accepted");
            welcome.into_connection(core, transport).run().await;
        }
        Err(Some(refusal)) => refuse(&core, transport, number, address, refusal).await,
        Err(None) => {
            core.counts.connect("gone");
            tracing::debug!(connection = number, %address, "gone before CONNECT");
        }
    }
}

/// Waits for CONNECT, for a moment, to say why there is no room.
pub(crate) async fn turn_away<S: Stream>(core: Arc<Core>, stream: S, peer: Peer, limit: Limit) {
    let mut transport = Transport::new(stream);
    let time = core.config.limits.close_timeout;
    let connect = tokio::time::timeout(time, read_connect(&core, &mut transport)).await;
    if let Ok(Ok(connect)) = connect {
        let reason = limit.reasons().first().copied().unwrap_or(ReasonCode::QuotaExceeded);
        let denial = Denial::new(reason, format!("beyond the broker's `{}`", limit.name()));
        refuse(&core, transport, 0, peer.address, Refusal::of(&connect, denial)).await;
    }
}

async fn refuse<S: Stream>(
    core: &Core,
    mut transport: Transport<S>,
    connection: u64,
    address: SocketAddr,
    refusal: Refusal,
) {
    let Refusal { version, packet_bytes_max, denial } = refusal;
    core.counts.connect_refused(denial.reason);
    tracing::info!(connection, %address, reason = ?denial.reason, text = denial.text, "connection refused");
    if let Some(version) = version {
        let mut properties = ConnackProperties::default();
        if !denial.text.is_empty() {
            properties.reason_string = Some(denial.text.into());
        }
        let reason = match version {
            Version::V3 => denial.reason,
            Version::V5 => denial.reason.for_connack(),
        };
        let connack = Packet::Connack(Box::new(Connack { session_present: false, reason, properties }));
        Outbound::new(bytes_max(packet_bytes_max), 0, true).say(connack, version, &mut transport.out);
    }
    transport.close(core).await;
}

/// A connection that was let in and whose CONNACK is queued.
struct Welcome {
    client: Arc<Client>,
    session: Arc<Session>,
    control: Arc<Control>,
    guard: Guard,
    keep_alive: Option<Duration>,
    outbound: Outbound,
}

impl Welcome {
    fn into_connection<S: Stream>(self, core: Arc<Core>, transport: Transport<S>) -> Connection<S> {
        let Self { client, session, control, guard, keep_alive, outbound } = self;
        Connection::new(Admitted { core, transport, client, session, control, guard, keep_alive, outbound })
    }
}

async fn admit<S: Stream>(
    core: &Arc<Core>,
    transport: &mut Transport<S>,
    connection: u64,
    peer: Peer,
    connect: &Connect,
    deadline: Instant,
) -> Result<Welcome, Denial> {
    let version = connect.version;
    let request = ConnectRequest {
        connection,
        peer: peer.address,
        certificates: peer.certificates,
        version,
        client_id: connect.client_id.clone(),
        user_name: connect.user_name.clone(),
        password: connect.password.clone(),
        clean_start: connect.clean_start,
        user_properties: connect.properties.user.clone(),
        will: connect.will.clone(),
    };
    let too_late = |_| {
        core.counts.connect("timeout");
        Err(core.exceeds(Limit::ConnectTimeout))
    };
    match timeout_at(deadline, welcome(core, connect, &request)).await.unwrap_or_else(too_late) {
        Ok((mut welcome, connack)) => {
            welcome.guard.let_in();
            tracing::info!(client = %welcome.client.client_id, connection, identity = ?welcome.client.identity, "connected");
            let connack = Packet::Connack(Box::new(connack));
            welcome.outbound.say(connack, version, &mut transport.out);
            Ok(welcome)
        }
        Err(denial) => {
            core.hooks.refused(&Attempt::Connect(&request), &denial);
            Err(denial)
        }
    }
}

/// Asks the hooks and takes the session.
async fn welcome(
    core: &Arc<Core>,
    connect: &Connect,
    request: &ConnectRequest,
) -> Result<(Welcome, Connack), Denial> {
    check(core, connect)?;
    let revocations = core.revocations.load(Ordering::SeqCst);
    let mut admitted = core.hooks.connect(request).await?;
    let user_properties = std::mem::take(&mut admitted.user_properties);
    let assigned = connect.client_id.is_empty().then(|| admitted.client_id.clone().unwrap_or_else(random_id));
    let client = client(request, admitted, assigned.clone());
    let will = will(core, connect, &client)?;
    let (welcome, mut connack) = settle(core, connect, client, will, assigned)?;
    connack.properties.user.extend(user_properties);
    let fits = |connack| welcome.outbound.say(connack, connect.version, &mut BytesMut::new());
    if !fits(Packet::Connack(Box::new(connack.clone()))) {
        let text = "the maximum packet size leaves no room for CONNACK";
        return Err(Denial::new(ReasonCode::PacketTooLarge, text));
    }
    // What CONNACK says of the session is to be true after a crash as well. Where it cannot be written, a session that
    // was there before goes on all the same: its client came for what waits in it.
    let is_kept = welcome.session.lock().kept != Kept::Not;
    if is_kept && !core.store.settled().await && !connack.session_present {
        return Err(Denial::new(ReasonCode::QuotaExceeded, "the broker cannot store it now"));
    }
    if core.revocations.load(Ordering::SeqCst) != revocations {
        // Somebody was revoked while the hooks looked at this one. Whoever it was, the client may simply try again.
        return Err(Denial::new(ReasonCode::ServerBusy, "try again"));
    }
    Ok((welcome, connack))
}

/// Reads the first packet, which must be CONNECT.
async fn read_connect<S: Stream>(
    core: &Core,
    transport: &mut Transport<S>,
) -> Result<Connect, Option<Refusal>> {
    let limits = mqtt::Limits { packet_bytes_max: core.config.limits.connect_bytes_max };
    let mut under_way = core.gate.connect_under_way();
    loop {
        if transport.input().first().is_some_and(|first| first >> 4 != 1) {
            let denial = Denial::new(ReasonCode::ProtocolError, "the first packet is not CONNECT");
            return Err(Some(Refusal { version: None, packet_bytes_max: None, denial }));
        }
        let version = announced_version(transport.input());
        match transport.next_packet(Version::V5, limits) {
            Ok(Some(Packet::Connect(connect))) => return Ok(*connect),
            Ok(Some(_)) => return Err(None),
            Ok(None) if !under_way.has_room(transport.input().len(), &core.config.limits) => {
                let denial = core.exceeds(Limit::ConnectBytesPending);
                return Err(Some(Refusal { version, packet_bytes_max: None, denial }));
            }
            Ok(None) => match std::future::poll_fn(|cx| transport.poll_read(cx)).await {
                Ok(0) | Err(_) => return Err(None),
                Ok(_) => {}
            },
            Err(error) => {
                if matches!(error, DecodeError::TooLarge { .. }) {
                    core.counts.hit(Limit::ConnectBytes);
                }
                let version = match (&error, version) {
                    (DecodeError::UnsupportedVersion { form, .. }, _) => Some(*form),
                    (DecodeError::ClientIdMissing, _) => Some(Version::V3),
                    (_, Some(Version::V5)) => Some(Version::V5),
                    // 3.1.1 has no code for a packet that cannot be read: close (section 3.1.4).
                    _ => None,
                };
                let denial = Denial::new(error.reason(), error.to_string());
                return Err(Some(Refusal { version, packet_bytes_max: None, denial }));
            }
        }
    }
}

/// The version that a CONNECT announces, also if the rest of it cannot be read.
fn announced_version(input: &[u8]) -> Option<Version> {
    let body = input.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0).map(|index| index + 2)?;
    match input.get(body..body + 7)? {
        b"\0\x04MQTT\x05" => Some(Version::V5),
        b"\0\x04MQTT\x04" => Some(Version::V3),
        _ => None,
    }
}

fn check(core: &Core, connect: &Connect) -> Result<(), Denial> {
    let limits = &core.config.limits;
    if connect.properties.authentication_method.is_some() {
        return Err(Denial::new(
            ReasonCode::BadAuthenticationMethod,
            "enhanced authentication is not offered",
        ));
    }
    if connect.client_id.len() > limits.client_id_bytes_max {
        return Err(core.exceeds(Limit::ClientIdBytes));
    }
    if connect.will.as_ref().is_some_and(|will| sys::is_own(&will.topic)) {
        return Err(Denial::new(ReasonCode::TopicNameInvalid, "`$SYS/` is the broker's own"));
    }
    match connect.will.as_ref().and_then(|will| limits.of_topic(&will.topic)) {
        Some(limit) => Err(core.exceeds(limit)),
        None => Ok(()),
    }
}

fn client(request: &ConnectRequest, admitted: hooks::Admitted, assigned: Option<Text>) -> Arc<Client> {
    Arc::new(Client {
        connection: request.connection,
        peer: request.peer,
        version: request.version,
        // Copies, so that the CONNECT packet need not be kept.
        client_id: assigned.unwrap_or_else(|| request.client_id.detached()),
        identity: admitted.identity,
        user_properties: request
            .user_properties
            .iter()
            .map(|(name, value)| (name.detached(), value.detached()))
            .collect(),
        attachments: admitted.attachments.into(),
    })
}

/// Has the hooks judge the will, and keeps it as it was sent: they judge it again when it is due.
fn will(core: &Core, connect: &Connect, client: &Arc<Client>) -> Result<Option<PendingWill>, Denial> {
    let Some(will) = &connect.will else { return Ok(None) };
    let mut trial = will_publication(will, client);
    core.hooks.publish(client, &mut trial)?;
    let secs = |secs: u32| Duration::from_secs(secs.into());
    Ok(Some(PendingWill {
        publication: will_publication(will, client),
        client: client.clone(),
        delay: secs(will.properties.delay_secs.unwrap_or(0)),
        expiry: will.properties.expiry_secs.map(secs),
        due_at: None::<Timestamp>,
    }))
}

fn will_publication(will: &Will, client: &Arc<Client>) -> Publication {
    let properties = will.properties.clone();
    Publication {
        message: Message {
            properties: PublishProperties {
                payload_is_text: properties.payload_is_text,
                content_type: properties.content_type,
                response_topic: properties.response_topic,
                correlation_data: properties.correlation_data,
                user: properties.user,
                ..PublishProperties::default()
            },
            publisher: Some(client.clone()),
            ..Message::new(will.topic.clone(), will.payload.clone(), will.qos, will.retain)
        },
        origin: Origin::WillAtConnect,
    }
}

/// Takes the session and writes down what was agreed.
fn settle(
    core: &Arc<Core>,
    connect: &Connect,
    client: Arc<Client>,
    will: Option<PendingWill>,
    assigned: Option<Text>,
) -> Result<(Welcome, Connack), Denial> {
    let limits = &core.config.limits;
    let v5 = connect.version == Version::V5;
    let asked = &connect.properties;
    let session_expiry_secs = match connect.version {
        Version::V5 => asked.session_expiry_secs.unwrap_or(0),
        Version::V3 if connect.clean_start => 0,
        Version::V3 => u32::MAX,
    };
    let expiry = session_expiry(session_expiry_secs, limits);
    let control = Arc::new(Control::default());
    let attaching = Attaching {
        client: client.clone(),
        control: control.clone(),
        clean_start: connect.clean_start,
        expiry,
        inflight_max: asked.receive_max.unwrap_or(u16::MAX).min(limits.inflight_messages_max),
        will,
    };
    let (session, session_present) = core.attach(attaching)?;
    let guard = Guard::new(core.clone(), client.clone(), session.clone(), session_expiry_secs);
    if session_present {
        ask_again(core, &client, &session, |_| true);
    }
    let (keep_alive, shorter) = keep_alive(connect, limits);
    shorter.iter().for_each(|limit| core.counts.hit(*limit));
    let less = [
        (Limit::SessionExpiry, expiry != session_expiry(session_expiry_secs, &Limits::default())),
        (Limit::TopicAliasOut, asked.topic_alias_max.unwrap_or(0) > limits.topic_alias_out_max),
    ];
    less.iter().filter(|(_, is_less)| *is_less).for_each(|(limit, _)| core.counts.hit(*limit));
    let mut properties = ConnackProperties::default();
    if v5 {
        let granted_secs =
            expiry.map_or(u32::MAX, |expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX));
        properties = ConnackProperties {
            session_expiry_secs: (granted_secs != session_expiry_secs).then_some(granted_secs),
            receive_max: Some(limits.receive_max),
            packet_bytes_max: u32::try_from(limits.packet_bytes_max).ok(),
            assigned_client_id: assigned,
            topic_alias_max: (limits.topic_alias_max > 0).then_some(limits.topic_alias_max),
            server_keep_alive_secs: shorter.map(|_| keep_alive),
            ..ConnackProperties::default()
        };
    }
    // What happened to the session while its client was away. One that takes only small packets is told later.
    if v5 && asked.packet_bytes_max.is_none_or(|bytes| bytes >= CONNACK_BYTES_MAX) {
        let dropped = session.lock().outgoing.take_untold();
        if dropped > 0 {
            properties.user.push((DROPPED_PROPERTY.into(), dropped.to_string().into()));
        }
    }
    let outbound = Outbound::new(
        bytes_max(asked.packet_bytes_max),
        asked.topic_alias_max.unwrap_or(0).min(limits.topic_alias_out_max),
        asked.request_problem.unwrap_or(true),
    );
    let keep_alive = (keep_alive != 0).then(|| Duration::from_secs(keep_alive.into()));
    let welcome = Welcome { client, session, control, guard, keep_alive, outbound };
    Ok((welcome, Connack { session_present, reason: ReasonCode::Success, properties }))
}

/// The largest packet that a client takes; any, if it does not say.
fn bytes_max(asked: Option<u32>) -> usize {
    asked.map_or(usize::MAX, |bytes| bytes as usize)
}

/// A stored subscription must still be allowed: those that `which` picks.
pub(crate) fn ask_again(core: &Core, client: &Client, session: &Arc<Session>, which: impl Fn(&str) -> bool) {
    let subscriptions: Vec<_> = session
        .lock()
        .subscriptions
        .iter()
        .filter(|(filter, _)| which(filter))
        .map(|(filter, subscribed)| (filter.clone(), *subscribed))
        .collect();
    for (filter, subscribed) in subscriptions {
        let (group, plain) = match SharedFilter::parse(&filter) {
            Some(Some(shared)) => (Some(shared.group), shared.filter),
            _ => (None, filter.as_str()),
        };
        let request = SubscribeRequest {
            filter: plain,
            group,
            options: subscribed.options,
            user_properties: &Vec::new(),
            resumed: true,
        };
        if let Err(denial) = core.hooks.subscribe(client, &request) {
            tracing::info!(client = %client.client_id, reason = ?denial.reason, text = denial.text, "stored subscription refused");
            core.hooks.refused(&Attempt::Subscribe(client, &filter), &denial);
            if core.unsubscribe(session, &filter) {
                core.hooks.unsubscribed(client, &filter);
            }
        }
    }
}

/// How long a session may outlive its connection; `None` is for ever, as `u32::MAX` asks.
pub(crate) fn session_expiry(secs: u32, limits: &Limits) -> Option<Duration> {
    let asked = (secs != u32::MAX).then(|| Duration::from_secs(secs.into()));
    match (asked, limits.session_expiry_max) {
        (Some(asked), Some(max)) => Some(asked.min(max)),
        (asked, max) => asked.or(max),
    }
}

/// The keep alive in force, in seconds, and the limit that made it shorter than what was asked for. Beyond
/// `keep_alive_max` MQTT 3.1.1 cannot be told another than it asked for, and gets it all the same (section 3.1.2.10 allows a
/// server to cut off who is inactive for long).
fn keep_alive(connect: &Connect, limits: &Limits) -> (u16, Option<Limit>) {
    let asked = connect.keep_alive_secs;
    let secs = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
    match limits.keep_alive_max.map(secs) {
        Some(max) if asked == 0 || asked > max => return (max, Some(Limit::KeepAlive)),
        _ => {}
    }
    match (connect.version, limits.server_keep_alive.map(secs)) {
        (Version::V5, Some(server)) if asked > server => (server, Some(Limit::ServerKeepAlive)),
        _ => (asked, None),
    }
}

/// A CONNACK of the broker's own properties is smaller than this.
const CONNACK_BYTES_MAX: u32 = 1_024;

/// A client id that nobody can guess.
fn random_id() -> Text {
    let mut bytes = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).expect("the operating system gives random bytes");
    format!("auto-{:032x}", u128::from_be_bytes(bytes)).into()
}
