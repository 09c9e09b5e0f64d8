//! From one accepted message to the queues of those who get it.

use std::{sync::Arc, task::Waker};

use super::{
    config::Limits,
    hooks::Hooks,
    message::Message,
    retained::InDoubt,
    session::{Pushed, Session, outgoing::Queued},
    store::Store,
    trie::{Grant, Targets},
};
use crate::mqtt::{QoS, ReasonCode, Version};

/// An accepted message with everybody who gets it.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) message: Arc<Message>,
    pub(crate) targets: Arc<Targets>,
    /// Session that published it, for no local; 0 for none.
    pub(crate) from: u64,
    /// Acknowledged once it is in the queues, and on disk if it is kept.
    pub(crate) ack: Option<AckToken>,
    /// Whose will it is: that the session has none any more is noted with the message.
    pub(crate) will_of: Option<Arc<Session>>,
}

impl Routed {
    /// Whether it is a retained message, which is kept also if nobody subscribes.
    fn is_kept(&self) -> bool {
        self.message.retain()
    }
}

/// An acknowledgement that waits for a message to reach its receivers' queues.
#[derive(Debug)]
pub(crate) struct AckToken {
    pub(crate) session: Arc<Session>,
    pub(crate) connection: u64,
    pub(crate) number: u64,
    pub(crate) qos: QoS,
    pub(crate) packet_id: u16,
    /// A retained message that goes if it is refused.
    pub(crate) in_doubt: Option<InDoubt>,
}

impl AckToken {
    /// Completes it, with `reason`, once all that was noted until now is on disk.
    pub(crate) fn complete_when_kept(self, store: &Store, reason: ReasonCode, wakers: &mut Vec<Waker>) {
        let row = store.clone();
        store.after(wakers, move |kept, wakers| {
            // First, so that the publisher finds what it is told.
            self.in_doubt.iter().for_each(|in_doubt| in_doubt.settle(kept, &row));
            match kept {
                true => self.complete(reason, wakers),
                false => self.session.refuse_ack(&self, "the broker cannot store it now", &row, wakers),
            }
        });
    }

    /// That a QoS 2 message was taken goes to the disk with the message: if either were there alone, the publisher that
    /// sends it again would be believed when it should not, or not when it should.
    pub(crate) fn note_received(&self, store: &Store) {
        if self.qos == QoS::ExactlyOnce && self.session.is_kept() {
            store.put_received(self.session.key, self.packet_id);
        }
    }

    /// Completes it now.
    pub(crate) fn complete(&self, reason: ReasonCode, wakers: &mut Vec<Waker>) {
        self.session.complete_ack(self, reason, wakers);
    }
}

impl Queued {
    /// A message that was just published, for a subscription, or one that is `shared`.
    pub(crate) fn live(message: &Arc<Message>, grant: &Grant, shared: Option<Arc<str>>) -> Self {
        Self {
            seq: 0,
            message: message.clone(),
            qos: message.qos.min(grant.qos_max),
            retain: grant.retain_as_published && message.retain,
            retained: false,
            ids: grant.ids.clone(),
            shared,
        }
    }
}

/// Puts a batch into the queues, completes acknowledgements, then wakes whom it concerns: each once for the batch.
pub(crate) fn fan_out(batch: Vec<Routed>, limits: &Limits, store: &Store, hooks: &Hooks) {
    let mut wakers = Vec::new();
    for routed in batch {
        let mut kept = store.is_there() && routed.is_kept();
        let (mut taken, mut no_room) = (routed.is_kept(), false);
        let together = store.together();
        let Routed { message, targets, from, ack, will_of } = routed;
        let durable =
            store.is_there() && message.qos == QoS::ExactlyOnce && (message.retain || targets.any_kept());
        let queued = |grant: &Grant, shared| Queued::live(&message, grant, shared);
        let mut note = |pushed| {
            kept |= pushed == Pushed::Kept;
            taken |= matches!(pushed, Pushed::Kept | Pushed::Taken);
            no_room |= pushed == Pushed::NoRoom;
        };
        for target in &targets.each {
            let grant = if target.session.key == from { target.own.as_ref() } else { Some(&target.grant) };
            if let Some(grant) = grant {
                note(target.session.push(queued(grant, None), durable, limits, store, hooks, &mut wakers));
            }
        }
        for group in &targets.groups {
            if let Some((session, grant)) = group.next(message.queue_bytes(), limits) {
                let queued = queued(&grant, Some(group.filter.clone()));
                note(session.push(queued, durable, limits, store, hooks, &mut wakers));
            }
        }
        // Nobody who should have it has it. MQTT 3.1.1 has no words for that.
        let is_v5 = || message.publisher.as_ref().is_some_and(|publisher| publisher.version == Version::V5);
        let refused = no_room && !taken && is_v5();
        if let Some(ack) = ack.as_ref().filter(|_| !refused) {
            ack.note_received(store);
        }
        if let Some(session) = &will_of {
            session.note_present(store);
        }
        drop(together);
        match ack {
            Some(ack) if refused => {
                let text = "the queue of every subscriber is full";
                ack.session.refuse_ack(&ack, text, store, &mut wakers);
            }
            Some(ack) if kept => ack.complete_when_kept(store, ReasonCode::Success, &mut wakers),
            Some(ack) => ack.complete(ReasonCode::Success, &mut wakers),
            None => {}
        }
    }
    wakers.into_iter().for_each(std::task::Waker::wake);
}
