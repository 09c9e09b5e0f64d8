//! From the rows on disk back to sessions and retained messages.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Blob, Shared, Store, StoreError, StoredMessage,
    disk::{Disk, Row},
    record::{self, BlobId, QueuedRecord, SessionRecord, WillRecord},
};
use crate::{
    broker::{
        Timestamp,
        events::Whose,
        hook::Client,
        hooks::Hooks,
        message::{Message, Origin, Publication, Remembered},
        session::{
            Kept, PendingWill, Session, SessionState, Subscribed, held::Total, incoming::Taken,
            outgoing::Queued,
        },
    },
    mqtt::{QoS, SubscriptionId, Text, Version},
};

/// What a broker goes on with.
#[derive(Default)]
pub(crate) struct Restored {
    pub(crate) sessions: Vec<Arc<Session>>,
    pub(crate) retained: Vec<Arc<Message>>,
}

#[derive(Default)]
struct Rows {
    sessions: BTreeMap<u64, SessionRows>,
    retained: Vec<(String, u64)>,
    messages: HashMap<u64, (Message, Option<BlobId>)>,
    blobs: HashMap<BlobId, Bytes>,
    damaged: usize,
}

#[derive(Default)]
struct SessionRows {
    record: Option<SessionRecord>,
    subscriptions: Vec<(Text, Subscribed)>,
    /// By number.
    queued: BTreeMap<u64, (QueuedRecord, QoS)>,
    received: Vec<u16>,
    sent: u64,
}

/// Reads everything, then starts the thread that keeps it up to date. What sessions hold is part of `held`. Rows that nothing
/// refers to any more, as a crash may leave them, go with the first commit.
///
/// # Errors
/// [`StoreError`]: nothing can be kept, so the broker must not start.
pub(crate) fn restore(disk: Disk, hooks: &Hooks, held: &Total) -> Result<(Store, Restored), StoreError> {
    let mut rows = Rows::default();
    disk.read(|row, value| rows.take(row, value))?;
    if rows.damaged > 0 {
        tracing::error!(rows = rows.damaged, "rows of the stored state cannot be read: they are left out");
    }
    let Rows { sessions, retained, messages, blobs, .. } = rows;
    let store = Store::start(disk).map_err(StoreError::Thread)?;
    let Store(Some(shared)) = &store else { return Ok((store, Restored::default())) };
    // Rows may refer to messages that a crash has taken: no other message gets their numbers.
    let queued = sessions.values().flat_map(|rows| rows.queued.values().map(|(row, _)| row.message));
    let referred = queued.chain(retained.iter().map(|(_, id)| *id));
    let last = messages.keys().copied().chain(referred).max().unwrap_or(0);
    shared.next_message.store(last.saturating_add(1), Ordering::Relaxed);
    let blobs: HashMap<BlobId, (Bytes, Arc<Blob>)> =
        blobs.into_iter().map(|(id, bytes)| (id, (bytes.clone(), shared.adopt_blob(id)))).collect();
    let messages: HashMap<u64, Arc<Message>> = messages
        .into_iter()
        .map(|(id, (message, blob))| {
            (id, shared.adopt(id, message, blob.and_then(|id| blobs.get(&id)), hooks))
        })
        .collect();
    let mut restored = Restored::default();
    for (topic, id) in retained {
        match messages.get(&id) {
            Some(message) => {
                // Before it is found in queues.
                message.is_newest.store(true, Ordering::Relaxed);
                restored.retained.push(message.clone());
            }
            None => store.remove_retained(&topic),
        }
    }
    for (key, rows) in sessions {
        Session::reserve(key);
        match rows.into_session(key, &messages, hooks, &store, held) {
            Some(session) => restored.sessions.push(Arc::new(session)),
            // Its record went, and the rest would have in the same transaction.
            None => store.end_session(key),
        }
    }
    Ok((store, restored))
}

impl Rows {
    fn take(&mut self, row: Row<'_>, value: &[u8]) {
        if self.read(row, value).is_none() {
            self.damaged += 1;
        }
    }

    fn read(&mut self, row: Row<'_>, value: &[u8]) -> Option<()> {
        match row {
            Row::Session(key) => self.session(key).record = Some(SessionRecord::read(value)?),
            Row::Subscription(key, filter) => {
                let subscribed = record::read_subscription(value)?;
                self.session(key).subscriptions.push((filter.into(), subscribed));
            }
            Row::Queued { session, seq } => {
                let queued = record::read_queued(value)?;
                self.session(session).queued.insert(seq, queued);
            }
            Row::Received { session, packet_id } => self.session(session).received.push(packet_id),
            Row::Sent(key) => self.session(key).sent = u64::from_be_bytes(value.try_into().ok()?),
            Row::Message(id) => {
                let message = record::read_message(&Bytes::copy_from_slice(value))?;
                self.messages.insert(id, message);
            }
            Row::Blob(id) => {
                self.blobs.insert(id, Bytes::copy_from_slice(value));
            }
            Row::Retained(topic) => {
                self.retained.push((topic.into(), u64::from_be_bytes(value.try_into().ok()?)))
            }
        }
        Some(())
    }

    fn session(&mut self, key: u64) -> &mut SessionRows {
        self.sessions.entry(key).or_default()
    }
}

impl Shared {
    fn adopt_blob(self: &Arc<Self>, id: BlobId) -> Arc<Blob> {
        let blob = Arc::new(Blob { id, shared: self.clone() });
        self.blobs.lock().insert(id, Arc::downgrade(&blob));
        blob
    }

    fn adopt(
        self: &Arc<Self>,
        id: u64,
        mut message: Message,
        blob: Option<&(Bytes, Arc<Blob>)>,
        hooks: &Hooks,
    ) -> Arc<Message> {
        if let Some((keepsake, _)) = blob {
            message.remembered = Remembered::Itself(keepsake.clone());
            message.attachment = hooks.recall(&message, keepsake);
        }
        let blob = blob.map(|(_, blob)| blob.clone());
        let stored = StoredMessage { id, shared: self.clone(), _blob: blob };
        message.stored.set(stored).expect("it was just made");
        message.share()
    }
}

impl SessionRows {
    fn into_session(
        self,
        key: u64,
        messages: &HashMap<u64, Arc<Message>>,
        hooks: &Hooks,
        store: &Store,
        held: &Total,
    ) -> Option<Session> {
        let record = self.record?;
        let client_id = Text::from(record.client_id);
        let owner = record.owner.map(Text::from);
        let mut state = SessionState {
            subscriptions: self.subscriptions.into_iter().collect(),
            received: self
                .received
                .into_iter()
                .map(|id| (id, Taken::Settled { connection: 0, number: 0 }))
                .collect(),
            expiry: record.expiry_ms.map(Duration::from_millis),
            expires_at: record.expires_at.map(Timestamp),
            kept: if record.whole { Kept::Whole } else { Kept::Will },
            ..SessionState::within(held)
        };
        state.will = record.will.and_then(|will| will.pending(&client_id, owner.as_ref(), hooks));
        if record.whole {
            state.outgoing.keep();
        }
        for (seq, (row, qos)) in self.queued {
            if row.released {
                // The message itself may be gone.
                state.outgoing.restore_released(seq);
                continue;
            }
            let Some(message) = messages.get(&row.message).cloned() else {
                store.remove_queued(key, seq);
                continue;
            };
            let sent = seq <= self.sent;
            let ids = (!row.ids.is_empty()).then(|| row.ids.iter().copied().map(SubscriptionId).collect());
            let QueuedRecord { retain, retained, shared, .. } = row;
            let queued =
                Queued { seq, message, qos, retain, retained, ids, shared: shared.map(std::sync::Arc::from) };
            state.outgoing.restore(queued, sent);
        }
        state.outgoing.begin_after(self.sent);
        Some(Session::restored(key, client_id, owner, state))
    }
}

impl WillRecord {
    fn pending(self, client_id: &Text, owner: Option<&Text>, hooks: &Hooks) -> Option<PendingWill> {
        let (message, _) = record::read_message(&Bytes::from(self.message))?;
        let peer = self.peer.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let version = if self.v5 { Version::V5 } else { Version::V3 };
        let attachments = hooks.revive(&Whose::new(client_id, owner));
        let client = Arc::new(Client {
            // No connection of this process has that number.
            connection: 0,
            peer,
            version,
            client_id: client_id.clone(),
            identity: owner.cloned(),
            user_properties: Vec::new(),
            attachments,
        });
        let message = Message { publisher: Some(client.clone()), ..message };
        Some(PendingWill {
            publication: Publication { message, origin: Origin::WillAtConnect },
            client,
            delay: Duration::from_millis(self.delay_ms),
            expiry: self.expiry_ms.map(Duration::from_millis),
            due_at: self.due_at.map(Timestamp),
        })
    }
}
