//! From one accepted message to the queues of those who get it.

use std::sync::Arc;

use super::{
    config::Limits,
    message::Message,
    session::{Session, outgoing::Queued},
    trie::{Grant, Targets},
};
use crate::mqtt::ReasonCode;

/// An accepted message with everybody who gets it.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) message: Arc<Message>,
    pub(crate) targets: Arc<Targets>,
    /// Session that published it, for no local; 0 for none.
    pub(crate) from: u64,
    /// Acknowledged once it is in the queues.
    pub(crate) ack: Option<AckToken>,
}

/// An acknowledgement that waits for a message to reach its receivers' queues.
#[derive(Debug)]
pub(crate) struct AckToken {
    pub(crate) session: Arc<Session>,
    pub(crate) connection: u64,
    pub(crate) number: u64,
}

/// Puts a batch into the queues, completes acknowledgements, then wakes whom it concerns: each once for the batch.
pub(crate) fn fan_out(batch: Vec<Routed>, limits: &Limits) {
    let mut wakers = Vec::new();
    for Routed { message, targets, from, ack } in batch {
        let queued = |grant: &Grant| Queued {
            message: message.clone(),
            qos: message.qos.min(grant.qos_max),
            retain: grant.retain_as_published && message.retain,
            retained: false,
            ids: grant.ids.clone(),
        };
        for target in &targets.each {
            let grant = if target.session.key == from { target.own.as_ref() } else { Some(&target.grant) };
            if let Some(grant) = grant {
                target.session.push(queued(grant), limits, &mut wakers);
            }
        }
        for group in &targets.groups {
            if let Some((session, grant)) = group.next() {
                session.push(queued(&grant), limits, &mut wakers);
            }
        }
        if let Some(ack) = ack {
            ack.session.complete_ack(ack.connection, ack.number, ReasonCode::Success, &mut wakers);
        }
    }
    wakers.into_iter().for_each(std::task::Waker::wake);
}
