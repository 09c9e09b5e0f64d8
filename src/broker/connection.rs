//! One connection after CONNACK: reads packets, writes what its session has, until one side ends it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    core::{Accepted, Core, RouteCache},
    counts::Tally,
    events::{Disconnection, Dropped},
    fanout::Routed,
    hook::{Client, Denial},
    limits::Limit,
    message::Origin,
    outbound::Outbound,
    packets::Subscribing,
    session::{Control, Ending, Kept, Session, outgoing::Sending},
    transport::{OUT_BYTES_HIGH, Stream, Transport},
};
use crate::mqtt::{DecodeError, Disconnect, DisconnectProperties, Limits, Packet, ReasonCode, Text, Version};

/// Bytes that a connection reads before others get their turn. Who publishes without pause would otherwise fill the queues of
/// those who get it before they can empty them.
const TURN_BYTES: usize = 64 << 10;
/// Nodes of the trees of subscriptions and retained messages that a connection has looked at for it before others get their
/// turn: a millisecond's worth. A few packets can ask for a million times as many.
pub(super) const TURN_NODES: usize = 8_192;
/// Deliveries taken from the queue at a time.
const BATCH_MAX: usize = 256;

/// One connection that was let in.
pub(crate) struct Connection<S> {
    pub(super) core: Arc<Core>,
    pub(super) transport: Transport<S>,
    pub(super) client: Arc<Client>,
    pub(super) session: Arc<Session>,
    pub(super) guard: Guard,
    pub(super) control: Arc<Control>,
    limits: Limits,
    keep_alive: Option<KeepAlive>,
    pub(super) outbound: Outbound,
    pub(super) inbound: Inbound,
    sending: Vec<Sending>,
    /// Bytes read since others had their turn.
    turn_bytes: usize,
    /// Packets that have arrived wait for others to have their turn.
    unfinished: bool,
    /// Packets that have arrived wait for answers to those before them.
    held: bool,
    /// As many copies of messages as may wait for their acknowledgements do.
    pub(super) crowded: bool,
    pub(super) tally: Tally,
}

/// What a connection knows about the messages that it brings.
#[derive(Default)]
pub(super) struct Inbound {
    /// Topic for each alias; the first is alias 1.
    pub(super) aliases: Vec<Option<Text>>,
    pub(super) routes: RouteCache,
    /// A SUBSCRIBE that is not done with.
    pub(super) subscribing: Option<Subscribing>,
    /// A packet that must not overtake the answers to those before it.
    pub(super) deferred: Option<Packet>,
    /// Accepted and not yet handed to the engine.
    pub(super) batch: Vec<Routed>,
    /// What hooks want to be told of then.
    pub(super) accepted: Vec<Accepted>,
}

/// What the handshake found out.
pub(crate) struct Admitted<S> {
    pub(crate) core: Arc<Core>,
    pub(crate) transport: Transport<S>,
    pub(crate) client: Arc<Client>,
    pub(crate) session: Arc<Session>,
    pub(crate) control: Arc<Control>,
    pub(crate) guard: Guard,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) outbound: Outbound,
}

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Close {
    /// The client said DISCONNECT.
    Client(ReasonCode),
    /// The broker ends it and says why, where the version can.
    Broker(ReasonCode, Text),
    /// The broker ends it without a word.
    Silent(ReasonCode, &'static str),
    /// The stream ended or broke.
    Broken(Option<io::Error>),
}

impl From<Denial> for Close {
    fn from(denial: Denial) -> Self {
        Self::Broker(denial.reason, denial.text.into())
    }
}

impl Close {
    pub(super) fn broker(reason: ReasonCode, text: &str) -> Self {
        Self::Broker(reason, text.into())
    }
}

/// Detaches the session and tells the hooks, also if the connection's task is dropped or panics.
pub(crate) struct Guard {
    core: Arc<Core>,
    client: Arc<Client>,
    session: Arc<Session>,
    ending: Ending,
    end: Disconnection,
    let_in: bool,
    /// Expiry that CONNECT asked for, before the broker's bound.
    pub(super) session_expiry_secs: u32,
}

impl Guard {
    /// For a connection that has a session and may yet be refused, which leaves no will behind.
    pub(crate) fn new(
        core: Arc<Core>,
        client: Arc<Client>,
        session: Arc<Session>,
        session_expiry_secs: u32,
    ) -> Self {
        Self {
            core,
            client,
            session,
            ending: Ending { discard_will: true },
            end: Disconnection { reason: ReasonCode::UnspecifiedError, by_client: false },
            let_in: false,
            session_expiry_secs,
        }
    }

    /// The connection is let in.
    pub(crate) fn let_in(&mut self) {
        self.let_in = true;
        self.ending.discard_will = false;
        self.core.hooks.connected(&self.client);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.let_in {
            self.core.hooks.disconnected(&self.client, self.end);
            self.core.counts.disconnect(self.end.reason);
            let (reason, by_client) = (self.end.reason, self.end.by_client);
            tracing::info!(client = %self.client.client_id, connection = self.client.connection, ?reason, by_client, "disconnected");
        }
        self.core.detach(&self.session, self.client.connection, self.ending);
    }
}

/// Bytes of a packet under way that count as a sign of life. What takes long to send keeps its connection, and what drips
/// does not.
const HEARD_BYTES: usize = 1 << 10;

struct KeepAlive {
    /// 1.5 times what the client said.
    patience: Duration,
    heard: Instant,
    /// Bytes of the packet under way that had come then.
    begun_bytes: usize,
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    /// Packets may have come, and so many bytes of the next.
    fn hear(&mut self, packets: bool, begun_bytes: usize) {
        if packets || begun_bytes >= self.begun_bytes + HEARD_BYTES {
            (self.heard, self.begun_bytes) = (Instant::now(), begun_bytes);
        }
    }

    /// Ready when the client has been silent for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            // The timer is moved only when it fires: packets come much more often.
            let deadline = self.heard + self.patience;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(admitted: Admitted<S>) -> Self {
        let Admitted { core, transport, client, session, control, guard, keep_alive, outbound } = admitted;
        let limits = Limits { packet_bytes_max: core.config.limits.packet_bytes_max };
        let keep_alive = keep_alive.map(|keep_alive| {
            let patience = keep_alive + keep_alive / 2;
            let heard = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(heard + patience));
            KeepAlive { patience, heard, begun_bytes: 0, timer }
        });
        Self {
            core,
            transport,
            client,
            session,
            guard,
            control,
            limits,
            keep_alive,
            outbound,
            inbound: Inbound::default(),
            sending: Vec::new(),
            turn_bytes: 0,
            unfinished: false,
            held: false,
            crowded: false,
            tally: Tally::default(),
        }
    }

    /// Serves the client until the connection ends.
    pub(crate) async fn run(mut self) {
        let mut close = self.serve().await;
        // It said so before the connection broke or was ended.
        if let Some(Packet::Disconnect(disconnect)) = self.inbound.deferred.take() {
            close = self.on_disconnect(&disconnect);
        }
        let Self { core, mut transport, client, mut guard, outbound, .. } = self;
        match &close {
            Close::Client(reason) => {
                // DISCONNECT with any reason but 0 leaves the will in force (section 3.14.2.1).
                guard.ending.discard_will = *reason == ReasonCode::Success;
                guard.end = Disconnection { reason: *reason, by_client: true };
            }
            Close::Broker(reason, text) => {
                guard.end.reason = *reason;
                tracing::debug!(connection = client.connection, ?reason, %text, "closing");
                if client.version == Version::V5 {
                    let mut properties = DisconnectProperties::default();
                    if !text.is_empty() {
                        properties.reason_string = Some(text.clone());
                    }
                    let packet = Disconnect { reason: reason.for_disconnect(), properties };
                    outbound.say(Packet::Disconnect(packet), client.version, &mut transport.out);
                }
            }
            Close::Silent(reason, text) => {
                guard.end.reason = *reason;
                tracing::debug!(connection = client.connection, ?reason, text, "closing");
            }
            Close::Broken(error) => {
                tracing::debug!(connection = client.connection, ?error, "connection lost");
            }
        }
        // The session is free, and its will under way, before the rest is written to a peer that may be slow.
        drop(guard);
        if !matches!(close, Close::Broken(_)) {
            transport.close(&core).await;
        }
    }

    async fn serve(&mut self) -> Close {
        loop {
            if let Some((reason, text)) = self.control.kicked() {
                return Close::Broker(*reason, text.clone());
            }
            if let Err(close) = self.read_packets().await {
                return close;
            }
            self.fill();
            self.transport.count(&mut self.tally);
            self.tally.flush(&self.core.counts);
            if !self.unfinished
                && let Err(close) = std::future::poll_fn(|cx| self.poll(cx)).await
            {
                return close;
            }
        }
    }

    /// Handles every packet that has arrived, then hands the messages among them to the engine in one go.
    async fn read_packets(&mut self) -> Result<(), Close> {
        // Who was held may go on, and also then has to be heard again.
        if self.transport.input().is_empty() && !self.unfinished && !self.held {
            return Ok(());
        }
        self.unfinished = false;
        let done = self.handle_packets();
        let publishes = !self.inbound.batch.is_empty();
        if publishes {
            self.core.submit(std::mem::take(&mut self.inbound.batch));
        }
        for (message, targets) in self.inbound.accepted.drain(..) {
            self.core.published(&message, Origin::Publish, &targets);
        }
        done?;
        if let Some(engine) = self.core.engine.get()
            && engine.is_full()
        {
            engine.room().await;
        }
        if publishes && self.core.store.is_full() {
            self.core.store.room().await;
        }
        if self.turn_bytes >= TURN_BYTES || self.unfinished {
            self.turn_bytes = 0;
            self.inbound.routes.looked_at = 0;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Whether so many answers wait for the disk that what else the client says must wait, too.
    fn too_many_wait(&self) -> bool {
        self.crowded || self.control.answers_waiting() >= self.core.config.limits.answers_waiting_max
    }

    /// Whether the client has answers to come.
    fn owes_answers(&self) -> bool {
        let mut state = self.session.lock();
        let link = state.link_of(self.client.connection);
        link.is_some_and(|link| !link.acks.is_empty() || !link.answers.is_empty())
            || self.control.answers_waiting() > 0
    }

    /// Whether what has arrived must wait.
    fn must_wait(&self) -> bool {
        self.too_many_wait()
            || match self.inbound.deferred {
                None => false,
                Some(Packet::Pubrel(ref ack)) => self.is_under_way(ack.packet_id),
                Some(_) => self.lingers(),
            }
    }

    /// Whether DISCONNECT waits for answers to what came before it: for all but those that a full disk keeps back.
    pub(super) fn lingers(&self) -> bool {
        self.owes_answers() && !self.core.store.is_failing()
    }

    /// Whether DISCONNECT has come, which waits for answers.
    fn is_leaving(&self) -> bool {
        matches!(self.inbound.deferred, Some(Packet::Disconnect(_)))
    }

    fn handle_packets(&mut self) -> Result<(), Close> {
        let mut packets = false;
        loop {
            if let Some(subscribing) = self.inbound.subscribing.take() {
                self.go_on(subscribing)?;
            }
            // What is left of a SUBSCRIBE comes before all that follows it.
            if self.inbound.subscribing.is_some() || self.inbound.routes.looked_at >= TURN_NODES {
                self.unfinished = true;
                if let Some(keep_alive) = self.keep_alive.as_mut().filter(|_| packets) {
                    keep_alive.hear(true, self.transport.input().len());
                }
                return Ok(());
            }
            if self.must_wait() {
                if !std::mem::replace(&mut self.held, true) && self.too_many_wait() {
                    self.core.counts.hit(Limit::AnswersWaiting);
                }
                return Ok(());
            }
            self.held = false;
            if let Some(packet) = self.inbound.deferred.take() {
                self.handle(packet)?;
                continue;
            }
            match self.transport.next_packet(self.client.version, self.limits) {
                Ok(Some(packet)) => {
                    packets = true;
                    self.handle(packet)?;
                }
                Ok(None) => {
                    if let Some(keep_alive) = &mut self.keep_alive {
                        keep_alive.hear(packets, self.transport.input().len());
                    }
                    return Ok(());
                }
                Err(DecodeError::TooLarge { .. }) => {
                    return Err(self.core.exceeds(Limit::PacketBytes).into());
                }
                Err(error) => {
                    return Err(Close::Broker(error.reason(), error.to_string().into()));
                }
            }
        }
    }

    /// Encodes what the session has, until there is enough to write for now.
    fn fill(&mut self) {
        while self.transport.out.len() < OUT_BYTES_HIGH {
            {
                let mut state = self.session.lock();
                let state = &mut *state;
                let Some(link) =
                    state.link.as_mut().filter(|link| link.client.connection == self.client.connection)
                else {
                    return;
                };
                while self.transport.out.len() < OUT_BYTES_HIGH
                    && let Some(ack) = link.acks.next()
                {
                    self.outbound.say(ack, self.client.version, &mut self.transport.out);
                }
                self.crowded = link.acks.copies() >= self.core.config.limits.answers_waiting_max;
                for answer in link.answers.drain(..) {
                    self.outbound.say(answer, self.client.version, &mut self.transport.out);
                }
                if link.subacks_waiting == 0 {
                    state.outgoing.take(link.inflight_max, BATCH_MAX, &mut self.sending);
                    if self.client.version == Version::V5
                        && self.sending.iter().any(|sending| matches!(sending, Sending::Publish { .. }))
                    {
                        self.outbound.untold += state.outgoing.take_untold();
                    }
                    self.tally.stalled += u64::from(state.outgoing.waits_for_acks(link.inflight_max));
                }
                if state.kept == Kept::Whole
                    && let Some(seq) = state.outgoing.newly_sent()
                {
                    self.core.store.put_sent(self.session.key, seq);
                }
            }
            if self.sending.is_empty() {
                return;
            }
            for sending in self.sending.drain(..) {
                let out = &mut self.transport.out;
                let tally = &mut self.tally;
                let Err((queued, reason)) =
                    self.outbound.write(&self.core, &self.client, sending, out, tally)
                else {
                    continue;
                };
                // Before the next one: hooks may have taken it for written.
                if self.session.give_up(self.client.connection, &queued, &self.core.store) {
                    self.core.hooks.dropped(&Dropped::on(&self.client, &queued, reason));
                }
            }
        }
    }

    /// Waits for something to do: bytes from the client, room to write, work in the session, an order to end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        let broken = |error| Close::Broken(Some(error));
        let mut progress = false;
        if self.transport.is_writing() {
            match self.transport.poll_write(cx) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Pending => {}
            }
        }
        if self.held
            && !self.is_leaving()
            && let Some(keep_alive) = &mut self.keep_alive
        {
            // It may well have said something.
            keep_alive.heard = Instant::now();
        }
        // Who does not read what it is sent gets no more said: its packets wait in its socket.
        if self.transport.out.len() < OUT_BYTES_HIGH && (!self.held || self.is_leaving()) {
            match self.transport.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Close::Broken(None))),
                // After DISCONNECT nothing counts but the end.
                Poll::Ready(Ok(_)) if self.is_leaving() => {
                    self.transport.discard_input();
                    progress = true;
                }
                Poll::Ready(Ok(bytes)) => {
                    self.turn_bytes += bytes;
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Pending => {}
            }
        }
        if !progress {
            self.turn_bytes = 0;
            self.transport.relax();
        }
        progress |= self.poll_session(cx);
        // Perhaps the last answer came just now.
        progress |= self.held && !self.must_wait();
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll(cx).is_ready()
        {
            // Not where the client itself asked for no longer one.
            if self.core.config.limits.keep_alive_max.is_some_and(|max| max + max / 2 <= keep_alive.patience)
            {
                self.core.counts.hit(Limit::KeepAlive);
            }
            let text = "nothing heard for 1.5 times the keep alive";
            return Poll::Ready(Err(Close::broker(ReasonCode::KeepAliveTimeout, text)));
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Whether the session has something to write and there is room for it, or the connection must end.
    fn poll_session(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.session.lock();
        let state = &mut *state;
        let link = state.link.as_mut().filter(|link| link.client.connection == self.client.connection);
        let Some(link) = link else {
            // Taken over or discarded, which sets the order first.
            return self.control.kicked().is_some();
        };
        let answers = link.acks.has_work() || !link.answers.is_empty();
        let messages = link.subacks_waiting == 0 && state.outgoing.has_work(link.inflight_max);
        let has_work = answers || messages;
        if has_work && self.transport.out.len() < OUT_BYTES_HIGH {
            return true;
        }
        if self.control.kicked().is_some() {
            return true;
        }
        match &mut link.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        false
    }
}
