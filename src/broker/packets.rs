//! What each packet of a client does (chapter 3), once it is let in.

use std::{collections::HashSet, task::Waker};

use super::{
    connection::{Close, Connection, TURN_NODES},
    core::granted,
    events::{Attempt, DropReason, Dropped},
    fanout::{AckToken, Routed},
    hook::{Denial, SubscribeRequest},
    limits::Limit,
    message::Publication,
    session::{
        Kept, SessionState, Subscribed,
        incoming::Taken,
        outgoing::{Queued, Recorded},
    },
    sys,
    transport::Stream,
};
use crate::mqtt::{
    Ack, AckProperties, Packet, Publish, QoS, ReasonCode, RetainHandling, SharedFilter, Suback, Subscribe,
    Subscription, Text, Unsuback, Unsubscribe, Version, filter_is_valid,
};

/// A SUBSCRIBE, as far as it is done with.
pub(super) struct Subscribing {
    packet: Subscribe,
    /// Of the filters that are done with.
    reasons: Vec<ReasonCode>,
    reason_string: Option<Text>,
    /// Whether a filter is there more than once.
    repeats: bool,
    /// Filters that come again and whose retained messages were asked for.
    wanted: HashSet<Text>,
}

impl<S: Stream> Connection<S> {
    pub(super) fn handle(&mut self, packet: Packet) -> Result<(), Close> {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::Puback(ack) => {
                self.on_puback(&ack);
                Ok(())
            }
            Packet::Pubrec(ack) => {
                self.on_pubrec(&ack);
                Ok(())
            }
            // Not before the PUBREC that should have come first.
            Packet::Pubrel(ref ack) if self.is_under_way(ack.packet_id) => {
                self.inbound.deferred = Some(packet);
                Ok(())
            }
            Packet::Pubrel(ack) => {
                self.on_pubrel(&ack);
                Ok(())
            }
            Packet::Pubcomp(ack) => {
                self.on_pubcomp(&ack);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(unsubscribe),
            Packet::Pingreq => {
                self.send(Packet::Pingresp);
                Ok(())
            }
            // What came before it is answered first.
            Packet::Disconnect(_) if self.lingers() => {
                self.inbound.deferred = Some(packet);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(&disconnect)),
            // An error in CONNECT may go unanswered (5.0, section 4.13.1): who sends a second one waits for CONNACK, not for this.
            Packet::Connect(_) => Err(Close::Silent(ReasonCode::ProtocolError, "a second CONNECT")),
            Packet::Auth(_) => {
                Err(Close::broker(ReasonCode::ProtocolError, "AUTH without an authentication method"))
            }
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                Err(Close::broker(ReasonCode::ProtocolError, "a packet that only a broker sends"))
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        self.outbound.say(packet, self.client.version, &mut self.transport.out);
    }

    /// Whoever cannot be answered is not served: its packet would be without effect, or without the word that it had one.
    fn check_answer(&self, reason_codes: usize) -> Result<(), Close> {
        match self.outbound.has_room_for(reason_codes) {
            true => Ok(()),
            false => {
                Err(Close::broker(ReasonCode::PacketTooLarge, "the answer exceeds the maximum packet size"))
            }
        }
    }

    /// Runs on the session's state unless another connection has taken it over.
    fn on_own_session<T: Default>(&self, act: impl FnOnce(&mut SessionState) -> T) -> T {
        let mut state = self.session.lock();
        if state.link_of(self.client.connection).is_none() { T::default() } else { act(&mut state) }
    }

    fn on_puback(&self, ack: &Ack) {
        // The message may go with its row: not without it.
        let _together = self.core.store.together();
        let over = self.on_own_session(|state| {
            let queued = state.outgoing.puback(ack.packet_id)?;
            self.session.forget_row(state, queued.seq, &self.core.store);
            Some(queued)
        });
        match over {
            Some(queued) if ack.reason.is_error() => self.refused_by_client(&queued),
            Some(queued) => self.core.hooks.acknowledged(&self.client, &queued),
            None => {}
        }
    }

    fn on_pubcomp(&self, ack: &Ack) {
        self.on_own_session(|state| {
            if let Some(seq) = state.outgoing.pubcomp(ack.packet_id) {
                self.session.forget_row(state, seq, &self.core.store);
            }
        });
    }

    fn refused_by_client(&self, queued: &Queued) {
        self.core.hooks.dropped(&Dropped::on(&self.client, queued, DropReason::RefusedByClient));
    }

    /// Writes a packet now or, if the session is kept, once all that was noted until now is on disk.
    fn send_when_kept(&mut self, packet: Packet) {
        if !self.session.is_kept() {
            return self.send(packet);
        }
        let (session, connection) = (self.session.clone(), self.client.connection);
        if matches!(packet, Packet::Suback(_))
            && let Some(link) = session.lock().link_of(connection)
        {
            link.subacks_waiting += 1;
        }
        let mut wakers = Vec::new();
        self.control.wait();
        let then = Box::new(move |wakers: &mut Vec<Waker>| session.answer(connection, Some(packet), wakers));
        self.core.store.once_kept(&mut wakers, then);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn on_publish(&mut self, mut publish: Publish) -> Result<(), Close> {
        self.resolve_alias(&mut publish)?;
        self.check_publish(&publish)?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        self.tally.received(qos);
        let number = match self.expect_ack(qos, packet_id)? {
            Expected::Repeated => return Ok(()),
            Expected::None => None,
            Expected::Number(number) => Some(number),
        };
        let core = self.core.clone();
        let ack = |number| AckToken {
            session: self.session.clone(),
            connection: self.client.connection,
            number,
            qos,
            packet_id,
            in_doubt: None,
        };
        // What 3.1.1 has no words to refuse, and is not worth a connection (section 3.3.5).
        let quietly = self.client.version == Version::V3 && sys::is_own(&publish.topic);
        let publication = Publication::from_publish(publish, &self.client, || core.clock.now());
        match core.accept(publication, &self.client, &mut self.inbound.routes) {
            Ok((message, targets)) => {
                if core.hooks.hear_of_published() {
                    self.inbound.accepted.push((message.clone(), targets.clone()));
                }
                let ack = number.map(|number| AckToken { in_doubt: core.in_doubt(&message), ..ack(number) });
                if targets.is_empty() {
                    let reason = match self.client.version {
                        Version::V3 => ReasonCode::Success,
                        Version::V5 => ReasonCode::NoMatchingSubscribers,
                    };
                    if let Some(ack) = &ack {
                        ack.note_received(&core.store);
                    }
                    let mut wakers = Vec::new();
                    match ack {
                        Some(ack) if message.retain() => {
                            ack.complete_when_kept(&core.store, reason, &mut wakers);
                        }
                        // Nobody listens: there is nothing to wait for.
                        Some(ack) => ack.complete(reason, &mut wakers),
                        None => {}
                    }
                    wakers.into_iter().for_each(Waker::wake);
                    return Ok(());
                }
                self.inbound.batch.push(Routed {
                    message,
                    targets,
                    from: self.session.key,
                    ack,
                    will_of: None,
                });
                Ok(())
            }
            Err(denial) if quietly => {
                core.counts.refuse("publish", denial.reason);
                let mut wakers = Vec::new();
                if let Some(ack) = number.map(ack) {
                    ack.complete(ReasonCode::Success, &mut wakers);
                }
                wakers.into_iter().for_each(Waker::wake);
                Ok(())
            }
            Err(denial) => self.refuse_publish(denial, qos, packet_id, number),
        }
    }

    /// Puts the topic in place of an alias, or learns one.
    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), Close> {
        let Some(alias) = publish.properties.topic_alias else {
            return if publish.topic.is_empty() {
                Err(Close::broker(ReasonCode::TopicNameInvalid, "the topic is empty"))
            } else {
                Ok(())
            };
        };
        let index = usize::from(alias).wrapping_sub(1);
        if index >= usize::from(self.core.config.limits.topic_alias_max) {
            return Err(self.core.exceeds(Limit::TopicAlias).into());
        }
        let aliases = &mut self.inbound.aliases;
        if publish.topic.is_empty() {
            publish.topic = aliases
                .get(index)
                .cloned()
                .flatten()
                .ok_or(Close::broker(ReasonCode::ProtocolError, "topic alias not known"))?;
        } else {
            if aliases.len() <= index {
                aliases.resize(index + 1, None);
            }
            aliases[index] = Some(publish.topic.detached());
        }
        Ok(())
    }

    fn check_publish(&self, publish: &Publish) -> Result<(), Close> {
        if !publish.properties.subscription_ids.is_empty() {
            return Err(Close::broker(ReasonCode::ProtocolError, "subscription identifier from a client"));
        }
        let limits = &self.core.config.limits;
        match limits.of_topic(&publish.topic) {
            Some(limit) => Err(self.core.exceeds(limit).into()),
            None => Ok(()),
        }
    }

    /// Makes a place for the acknowledgement, in order.
    fn expect_ack(&mut self, qos: QoS, packet_id: u16) -> Result<Expected, Close> {
        if qos == QoS::AtMostOnce {
            return Ok(Expected::None);
        }
        let receive_max = self.core.config.limits.receive_max;
        let mut state = self.session.lock();
        let state = &mut *state;
        let link = state.link.as_mut().filter(|link| link.client.connection == self.client.connection);
        let Some(link) = link else {
            return Err(Close::broker(ReasonCode::SessionTakenOver, ""));
        };
        let own = self.client.connection;
        // Taken before, and not yet released: only the PUBREC is repeated (section 4.3.3), when it may be said.
        if let Some(taken) = state.received.get_mut(&packet_id).filter(|_| qos == QoS::ExactlyOnce) {
            match taken {
                Taken::UnderWay { connection, number } if *connection == own => {
                    link.acks.repeat(packet_id, Some(*number));
                }
                Taken::UnderWay { connection, number } => {
                    (*connection, *number) = (own, link.acks.expect(packet_id, qos));
                    link.unreleased += 1;
                }
                Taken::Settled { .. } => link.acks.repeat(packet_id, None),
            }
            self.crowded = link.acks.copies() >= self.core.config.limits.answers_waiting_max;
            return Ok(Expected::Repeated);
        }
        let number = link.acks.expect(packet_id, qos);
        link.unreleased += usize::from(qos == QoS::ExactlyOnce);
        if self.client.version == Version::V5 && link.acks.exceeds(receive_max, link.unreleased) {
            return Err(self.core.exceeds(Limit::Receive).into());
        }
        if qos == QoS::ExactlyOnce {
            state.received.insert(packet_id, Taken::UnderWay { connection: own, number });
        }
        // 3.1.1 knows no receive maximum; the identifiers themselves are the bound there.
        Ok(Expected::Number(number))
    }

    fn complete_ack(&self, number: Option<u64>, reason: ReasonCode, text: Option<Text>) {
        let Some(number) = number else { return };
        let mut state = self.session.lock();
        if let Some(link) = state.link_of(self.client.connection) {
            link.acks.complete(number, reason, text);
        }
    }

    /// A hook, or a limit, refused the message.
    fn refuse_publish(
        &mut self,
        denial: Denial,
        qos: QoS,
        packet_id: u16,
        number: Option<u64>,
    ) -> Result<(), Close> {
        tracing::info!(client = %self.client.client_id, reason = ?denial.reason, text = denial.text, "message refused");
        self.core.counts.refuse("publish", denial.reason);
        let text = Text::from(denial.text);
        if qos == QoS::ExactlyOnce {
            // A refused message is over: its identifier is free again.
            self.on_own_session(|state| state.forget_received(packet_id));
        }
        if denial.disconnect || self.client.version == Version::V3 {
            return Err(Close::Broker(denial.reason, text));
        }
        let reason = if PUBACK_REASONS.contains(&denial.reason) {
            denial.reason
        } else {
            ReasonCode::ImplementationSpecificError
        };
        self.complete_ack(number, reason, Some(text));
        Ok(())
    }

    fn on_pubrec(&mut self, ack: &Ack) {
        let core = self.core.clone();
        // As with PUBACK, should this be the end of it.
        let _together = core.store.together();
        let recorded = self.on_own_session(|state| {
            let recorded = state.outgoing.pubrec(ack.packet_id, ack.reason.is_error());
            if let Recorded::Refused(queued) = &recorded {
                self.session.forget_row(state, queued.seq, &self.core.store);
            }
            recorded
        });
        let answer = match recorded {
            Recorded::Refused(queued) => return self.refused_by_client(&queued),
            Recorded::First(queued, for_the_first_time) => {
                if for_the_first_time {
                    core.hooks.acknowledged(&self.client, &queued);
                }
                return self.release_when_kept(&queued);
            }
            Recorded::Unknown => self.not_known(ack.packet_id),
            Recorded::Again => Ack::new(ack.packet_id, ReasonCode::Success),
        };
        self.send(Packet::Pubrel(answer));
    }

    /// The answer to PUBREC or PUBREL with an identifier that belongs to no message. 3.1.1 has no words for that.
    fn not_known(&self, packet_id: u16) -> Ack {
        let mut ack = Ack::new(packet_id, ReasonCode::Success);
        if self.client.version == Version::V5 {
            ack.reason = ReasonCode::PacketIdentifierNotFound;
            ack.properties.reason_string = Some("no message has this packet identifier".into());
        }
        ack
    }

    /// The client has a QoS 2 message: PUBREL, once that is on disk. A broker that forgot it would send the message
    /// again, and the client that has let go of the identifier would take it for another.
    fn release_when_kept(&mut self, queued: &Queued) {
        let (session, connection, seq) = (self.session.clone(), self.client.connection, queued.seq);
        let store = &self.core.store;
        let is_kept = self.session.is_kept();
        if is_kept {
            store.put_queued(session.key, queued, true);
        }
        let then = move |wakers: &mut Vec<Waker>| {
            // Only once, however often the client said that it has the message.
            let released = session.lock().outgoing.release(seq);
            let packet = |packet_id| Packet::Pubrel(Ack::new(packet_id, ReasonCode::Success));
            session.answer(connection, released.map(packet), wakers);
        };
        let mut wakers = Vec::new();
        self.control.wait();
        match is_kept {
            true => store.once_kept(&mut wakers, Box::new(then)),
            false => then(&mut wakers),
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether a message of this connection has no PUBREC yet.
    pub(super) fn is_under_way(&self, packet_id: u16) -> bool {
        let own = self.client.connection;
        self.on_own_session(|state| {
            let Some(taken) = state.received.get(&packet_id).copied() else { return false };
            taken.connection() == own
                && state.link_of(own).is_some_and(|link| link.acks.is_unsaid(taken.number()))
        })
    }

    /// PUBCOMP tells the client that it may use the identifier again, so it must not come back from the disk.
    fn on_pubrel(&mut self, ack: &Ack) {
        let known = self.on_own_session(|state| self.release(state, ack.packet_id));
        let answer =
            if known { Ack::new(ack.packet_id, ReasonCode::Success) } else { self.not_known(ack.packet_id) };
        // Also where it is not known: perhaps it went a moment ago, on another connection.
        self.send_when_kept(Packet::Pubcomp(answer));
    }

    /// A QoS 2 message that was taken is over; whether it was.
    fn release(&self, state: &mut SessionState, packet_id: u16) -> bool {
        let known = matches!(state.received.get(&packet_id), Some(Taken::Settled { .. }));
        if known {
            state.forget_received(packet_id);
        }
        if known && state.kept == Kept::Whole {
            self.core.store.remove_received(self.session.key, packet_id);
        }
        known
    }

    fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), Close> {
        self.check_answer(subscribe.subscriptions.len())?;
        let mut filters: Vec<&str> =
            subscribe.subscriptions.iter().map(|subscription| subscription.filter.as_str()).collect();
        filters.sort_unstable();
        let repeats = filters.windows(2).any(|two| two[0] == two[1]);
        let reasons = Vec::with_capacity(subscribe.subscriptions.len());
        self.go_on(Subscribing {
            packet: subscribe,
            reasons,
            reason_string: None,
            repeats,
            wanted: HashSet::new(),
        })
    }

    /// Deals with filters of a SUBSCRIBE until they are done or others must have their turn.
    pub(super) fn go_on(&mut self, mut subscribing: Subscribing) -> Result<(), Close> {
        while let Some(subscription) = subscribing.packet.subscriptions.get(subscribing.reasons.len()) {
            if self.inbound.routes.looked_at >= TURN_NODES {
                self.inbound.subscribing = Some(subscribing);
                return Ok(());
            }
            let mut subscription = subscription.clone();
            // The same filter again in one packet may ask for the same retained messages again: once is enough, with the
            // last, or a packet could ask for any number.
            let later = &subscribing.packet.subscriptions[subscribing.reasons.len() + 1..];
            if subscribing.repeats {
                let Subscription { filter, options } = &mut subscription;
                let again = later.iter().position(|other| other.filter == *filter);
                let is_new = !self.on_own_session(|state| state.subscriptions.contains_key(filter));
                if again.is_some() {
                    if options.retain_handling.sends(is_new) {
                        subscribing.wanted.insert(filter.clone());
                    }
                    options.retain_handling = RetainHandling::DoNotSend;
                } else if subscribing.wanted.remove(filter) {
                    options.retain_handling = RetainHandling::Send;
                }
                self.inbound.routes.looked_at += again.unwrap_or(later.len());
            }
            self.inbound.routes.looked_at += 1;
            let reason = match self.subscribe(&subscription, &subscribing.packet) {
                Ok(reason) => reason,
                Err(denial) => {
                    self.core.hooks.refused(&Attempt::Subscribe(&self.client, &subscription.filter), &denial);
                    if denial.disconnect {
                        return Err(Close::Broker(denial.reason, denial.text.into()));
                    }
                    self.core.counts.refuse("subscribe", denial.reason);
                    // One line for a packet: it may hold very many filters.
                    if subscribing.reason_string.is_none() {
                        tracing::info!(client = %self.client.client_id, reason = ?denial.reason, text = denial.text, "subscription refused");
                    }
                    subscribing.reason_string.get_or_insert(Text::from(denial.text));
                    let fits = SUBACK_REASONS.contains(&denial.reason);
                    if fits { denial.reason } else { ReasonCode::ImplementationSpecificError }
                }
            };
            subscribing.reasons.push(reason);
        }
        let Subscribing { packet, reasons, reason_string, .. } = subscribing;
        let properties = AckProperties { reason_string, ..AckProperties::default() };
        // Of what was refused nothing has to be kept, which may be why it was.
        let refused = reasons.iter().all(|reason| reason.is_error());
        let suback = Packet::Suback(Suback { packet_id: packet.packet_id, properties, reasons });
        match refused {
            true => self.send(suback),
            false => self.send_when_kept(suback),
        }
        Ok(())
    }

    fn subscribe(&mut self, subscription: &Subscription, packet: &Subscribe) -> Result<ReasonCode, Denial> {
        let Subscription { filter, options } = subscription;
        let limits = &self.core.config.limits;
        let invalid = |text| Denial::new(ReasonCode::TopicFilterInvalid, text);
        let (group, plain) = match SharedFilter::parse(filter) {
            Some(Some(shared)) => (Some(shared.group), shared.filter),
            Some(None) => return Err(invalid("invalid shared subscription")),
            None => (None, filter.as_str()),
        };
        if !filter_is_valid(plain) {
            return Err(invalid("invalid topic filter"));
        }
        if let Some(limit) = limits.of_topic(filter) {
            return Err(Denial { reason: ReasonCode::TopicFilterInvalid, ..self.core.exceeds(limit) });
        }
        let full = self.on_own_session(|state| {
            let known = state.subscriptions.contains_key(filter);
            !known && state.subscriptions.len() >= limits.subscriptions_per_session_max
        });
        if full {
            return Err(self.core.exceeds(Limit::SubscriptionsPerSession));
        }
        if self.core.store.is_failing() && self.session.is_kept() {
            return Err(Denial::new(ReasonCode::QuotaExceeded, "the broker cannot store it now"));
        }
        let user_properties = &packet.properties.user;
        let request =
            SubscribeRequest { filter: plain, group, options: *options, user_properties, resumed: false };
        self.core.hooks.subscribe(&self.client, &request)?;
        if !self.on_own_session(|_| true) {
            return Ok(granted(options.qos));
        }
        let subscribed = Subscribed { options: *options, id: packet.properties.subscription_id };
        let core = self.core.clone();
        core.subscribe(&self.session, filter, subscribed, &mut self.inbound.routes)
            .map_err(|limit| core.exceeds(limit))?;
        self.core.hooks.subscribed(&self.client, &request);
        Ok(granted(options.qos))
    }

    fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), Close> {
        self.check_answer(unsubscribe.filters.len())?;
        // What cannot be written down would come back with a restart.
        if self.core.store.is_failing() && self.session.is_kept() {
            let text = "the broker cannot store it now";
            if self.client.version == Version::V3 {
                return Err(Close::broker(ReasonCode::QuotaExceeded, text));
            }
            let reasons = vec![ReasonCode::ImplementationSpecificError; unsubscribe.filters.len()];
            let properties = AckProperties { reason_string: Some(text.into()), ..AckProperties::default() };
            self.send(Packet::Unsuback(Unsuback { packet_id: unsubscribe.packet_id, properties, reasons }));
            return Ok(());
        }
        let own = self.on_own_session(|_| true);
        let reasons = unsubscribe
            .filters
            .iter()
            .map(|filter| match own && self.core.unsubscribe(&self.session, filter) {
                true => {
                    self.core.hooks.unsubscribed(&self.client, filter);
                    ReasonCode::Success
                }
                false => ReasonCode::NoSubscriptionExisted,
            })
            .collect();
        let properties = AckProperties::default();
        self.send_when_kept(Packet::Unsuback(Unsuback {
            packet_id: unsubscribe.packet_id,
            properties,
            reasons,
        }));
        Ok(())
    }

    pub(super) fn on_disconnect(&mut self, disconnect: &crate::mqtt::Disconnect) -> Close {
        if let Some(secs) = disconnect.properties.session_expiry_secs {
            if secs != 0 && self.guard.session_expiry_secs == 0 {
                return Close::broker(
                    ReasonCode::ProtocolError,
                    "session expiry was zero and cannot be raised",
                );
            }
            let expiry = super::handshake::session_expiry(secs, &self.core.config.limits);
            self.on_own_session(|state| state.expiry = expiry);
        }
        Close::Client(disconnect.reason)
    }
}

/// What becomes of a message that needs an acknowledgement.
enum Expected {
    /// It needs none.
    None,
    /// Complete this one.
    Number(u64),
    /// It was taken before.
    Repeated,
}

/// What PUBACK and PUBREC may refuse with (section 3.4.2.1).
const PUBACK_REASONS: [ReasonCode; 7] = [
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// What SUBACK may refuse with (section 3.9.3).
const SUBACK_REASONS: [ReasonCode; 9] = [
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];
