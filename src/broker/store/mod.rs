//! What survives the process: a mirror of the broker's state on disk, one change behind.
//!
//! The state in memory is what counts; whatever changes in it is noted here, by key. One thread takes all that was
//! noted since its last commit, writes and syncs it in one transaction, and then lets go of what waited for that:
//! acknowledgements above all. Many publishers share a sync, and what is gone again before the next one (a message
//! that was delivered and acknowledged meanwhile) never reaches the disk.
//!
//! A commit that fails loses nothing: its changes are tried again, together with newer ones. Whoever waited is told,
//! and as long as it fails nothing new is taken that would have to be kept ([`Store::is_failing`]).

mod disk;
#[cfg(test)]
mod power_cut;
mod record;
mod restore;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::disk::Disk;
use self::disk::Key;
pub use self::disk::StoreError;
pub(crate) use self::{
    record::{SessionRecord, WillRecord},
    restore::{Restored, restore},
};
use super::{
    message::Message,
    metrics::{Counter, Histogram, Metrics, reading},
    session::{Subscribed, outgoing::Queued},
};
use crate::mqtt::WireProperties;

/// Bytes that were noted and not yet written, beyond which publishers wait.
const PENDING_BYTES_MAX: usize = 16 << 20;
/// How long changes that nobody waits for are gathered. A crash forgets them, as it may: acknowledgements of clients, which
/// then get the message again.
const GATHER: Duration = Duration::from_millis(20);
/// Pause before a failed commit is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What waits for a commit. Told whether it succeeded; adds the wakers of whoever must know.
pub(crate) type After = Box<dyn FnOnce(bool, &mut Vec<Waker>) + Send>;

/// What waits for a commit that succeeds.
pub(crate) type OnceKept = Box<dyn FnOnce(&mut Vec<Waker>) + Send>;

/// The store of one broker, or none. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Store(Option<Arc<Shared>>);

struct Shared {
    pending: Mutex<Pending>,
    /// Held by whoever notes what must reach the disk together, and by the writer while it takes what was noted.
    together: RwLock<()>,
    changed: Condvar,
    room: Notify,
    failing: AtomicBool,
    commit_seconds: Histogram,
    commits_failed: Counter,
    next_message: AtomicU64,
    /// Attachments in use: many messages share one.
    blobs: Mutex<HashMap<record::BlobId, std::sync::Weak<Blob>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Noted and not yet on disk.
#[derive(Default)]
struct Pending {
    /// The newest value of each key; `None` where it goes.
    changes: HashMap<Key, Option<Bytes>>,
    bytes: usize,
    /// Sessions of which everything goes, after the changes.
    ended: Vec<u64>,
    after: Vec<After>,
    closing: bool,
    /// Nothing is taken any more.
    closed: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.ended.is_empty() && self.after.is_empty()
    }
}

/// That a message is in the store. Goes from there with the last that refers to it.
pub(crate) struct StoredMessage {
    id: u64,
    shared: Arc<Shared>,
    _blob: Option<Arc<Blob>>,
}

/// That an attachment is in the store, for as long as a message there needs it.
struct Blob {
    id: record::BlobId,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredMessage({})", self.id)
    }
}

impl Drop for StoredMessage {
    fn drop(&mut self) {
        self.shared.note(Key::message(self.id), None);
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let mut blobs = self.shared.blobs.lock();
        // Another may have taken its place meanwhile.
        if blobs.get(&self.id).is_some_and(|there| there.strong_count() == 0) {
            blobs.remove(&self.id);
            self.shared.note(Key::blob(&self.id), None);
        }
    }
}

impl Store {
    /// Starts the thread that writes to `disk`.
    fn start(disk: Disk) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            together: RwLock::default(),
            changed: Condvar::new(),
            room: Notify::new(),
            failing: AtomicBool::new(false),
            commit_seconds: Histogram::seconds(),
            commits_failed: Counter::default(),
            next_message: AtomicU64::new(1),
            blobs: Mutex::default(),
            writer: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("store".into());
        let writer = {
            let shared = shared.clone();
            thread.spawn(move || shared.run(disk))?
        };
        *shared.writer.lock() = Some(writer);
        Ok(Self(Some(shared)))
    }

    /// Whether there is a store at all.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the last commit failed: what must be kept is to be refused.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.failing.load(Ordering::Acquire))
    }

    /// Shows what the store counts.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let Some(shared) = &self.0 else { return };
        metrics.register(
            "smqtt_store_commit_seconds",
            "Time of commits, sync included",
            &shared.commit_seconds,
        );
        metrics.register("smqtt_store_commits_failed", "Commits that failed", &shared.commits_failed);
        let of = |read: fn(&Shared) -> f64| {
            let shared = Arc::downgrade(shared);
            reading(move || shared.upgrade().map_or(0.0, |shared| read(&shared)))
        };
        let failing = of(|shared| f64::from(u8::from(shared.failing.load(Ordering::Acquire))));
        metrics.register("smqtt_store_failing", "1 while what must be kept is refused", &failing);
        let pending = of(|shared| shared.pending.lock().bytes as f64);
        metrics.register("smqtt_store_pending_bytes", "Bytes that wait for the next commit", &pending);
    }

    /// Whether so much waits to be written that publishers should wait, too.
    pub(crate) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.is_full())
    }

    /// Waits until it is not full.
    pub(crate) async fn room(&self) {
        let Some(shared) = &self.0 else { return };
        loop {
            let notified = shared.room.notified();
            if !shared.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// What is noted until the guard is dropped reaches the disk in one commit.
    pub(crate) fn together(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.0.as_ref().map(|shared| shared.together.read_recursive())
    }

    /// Has `then` called, by the writer, when all that was noted until now is on disk, or could not be written. At once
    /// where there is no store, or none any more.
    pub(crate) fn after(
        &self,
        wakers: &mut Vec<Waker>,
        then: impl FnOnce(bool, &mut Vec<Waker>) + Send + 'static,
    ) {
        let Some(shared) = &self.0 else { return then(true, wakers) };
        let mut pending = shared.pending.lock();
        if pending.closed {
            drop(pending);
            return then(false, wakers);
        }
        pending.after.push(Box::new(then));
        drop(pending);
        shared.changed.notify_one();
    }

    /// Has `then` called once all that was noted until now is on disk, however often that must be tried. Never, if the
    /// store is closed before.
    pub(crate) fn once_kept(&self, wakers: &mut Vec<Waker>, then: OnceKept) {
        let again = self.clone();
        self.after(wakers, move |kept, wakers| match kept {
            true => then(wakers),
            false if again.is_closed() => {}
            false => again.once_kept(wakers, then),
        });
    }

    fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.pending.lock().closed)
    }

    /// Waits until all that was noted until now is on disk; whether it is.
    pub(crate) async fn settled(&self) -> bool {
        let (tell, told) = oneshot::channel();
        let mut wakers = Vec::new();
        self.after(&mut wakers, move |kept, _| {
            // Who asked may be gone.
            let _ = tell.send(kept);
        });
        wakers.into_iter().for_each(Waker::wake);
        told.await.unwrap_or(false)
    }

    /// Writes what is pending and ends the thread; what is noted later is lost on purpose: the state in memory is
    /// being taken down.
    pub(crate) fn close(&self) {
        let Some(shared) = &self.0 else { return };
        shared.pending.lock().closing = true;
        shared.changed.notify_one();
        let writer = shared.writer.lock().take();
        // What the writer calls may hold the last of what closes the store.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != std::thread::current().id()) {
            let _ = writer.join();
        }
    }

    // ---- what is kept

    pub(crate) fn put_session(&self, key: u64, record: &SessionRecord) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::session(key), Some(record.to_bytes()));
    }

    /// Forgets everything of a session. Nothing of it may be noted afterwards.
    pub(crate) fn end_session(&self, key: u64) {
        let Some(shared) = &self.0 else { return };
        let mut pending = shared.pending.lock();
        if !pending.closed {
            pending.ended.push(key);
        }
        drop(pending);
        shared.changed.notify_one();
    }

    pub(crate) fn put_subscription(&self, session: u64, filter: &str, subscribed: Subscribed) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::subscription(session, filter), Some(record::subscription(subscribed)));
    }

    pub(crate) fn remove_subscription(&self, session: u64, filter: &str) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::subscription(session, filter), None);
    }

    /// A message that waits for a session or is on its way to it; `released`: the client has it, and must be told
    /// that this is known.
    pub(crate) fn put_queued(&self, session: u64, queued: &Queued, released: bool) {
        let Some(shared) = &self.0 else { return };
        let id = shared.message(&queued.message);
        let row = record::queued(id, queued, released);
        shared.note(Key::queued(session, queued.seq), Some(row));
    }

    /// Up to this number the session's messages went out at least once.
    pub(crate) fn put_sent(&self, session: u64, seq: u64) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::sent(session), Some(Bytes::copy_from_slice(&seq.to_be_bytes())));
    }

    pub(crate) fn remove_queued(&self, session: u64, seq: u64) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::queued(session, seq), None);
    }

    /// A QoS 2 message was taken and is not released yet.
    pub(crate) fn put_received(&self, session: u64, packet_id: u16) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::received(session, packet_id), Some(Bytes::new()));
    }

    pub(crate) fn remove_received(&self, session: u64, packet_id: u16) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::received(session, packet_id), None);
    }

    /// The topic's retained message is this one.
    pub(crate) fn put_retained(&self, message: &Message) {
        let Some(shared) = &self.0 else { return };
        let id = shared.message(message);
        shared.note(Key::retained(&message.topic), Some(Bytes::copy_from_slice(&id.to_be_bytes())));
    }

    pub(crate) fn remove_retained(&self, topic: &str) {
        let Some(shared) = &self.0 else { return };
        shared.note(Key::retained(topic), None);
    }
}

impl Shared {
    fn is_full(&self) -> bool {
        self.pending.lock().bytes >= PENDING_BYTES_MAX && !self.failing.load(Ordering::Acquire)
    }

    fn note(&self, key: Key, value: Option<Bytes>) {
        let mut pending = self.pending.lock();
        if pending.closed {
            return;
        }
        // The writer sleeps only while there is nothing, or nobody waits.
        let first = pending.is_empty();
        let added = key.len() + value.as_ref().map_or(0, Bytes::len);
        let replaced = pending.changes.insert(key, value);
        // The key of a replaced value stays: so that the sum never falls below zero, it is counted as new each time.
        pending.bytes += added;
        pending.bytes -= replaced.flatten().map_or(0, |value| value.len());
        let much = pending.bytes >= PENDING_BYTES_MAX / 2;
        drop(pending);
        if first || much {
            self.changed.notify_one();
        }
    }

    /// The number under which the message is kept; notes it if it was not kept until now.
    fn message(self: &Arc<Self>, message: &Message) -> u64 {
        let stored = message.stored.get_or_init(|| {
            let id = self.next_message.fetch_add(1, Ordering::Relaxed);
            let blob = message.keepsake().map(|bytes| self.blob(bytes));
            let row = record::message(message, blob.as_ref().map(|blob| &blob.id));
            self.note(Key::message(id), Some(row));
            StoredMessage { id, shared: self.clone(), _blob: blob }
        });
        stored.id
    }

    fn blob(self: &Arc<Self>, bytes: &Bytes) -> Arc<Blob> {
        let id = record::blob_id(bytes);
        let mut blobs = self.blobs.lock();
        if let Some(blob) = blobs.get(&id).and_then(std::sync::Weak::upgrade) {
            return blob;
        }
        let blob = Arc::new(Blob { id, shared: self.clone() });
        blobs.insert(id, Arc::downgrade(&blob));
        self.note(Key::blob(&id), Some(bytes.clone()));
        blob
    }

    /// The thread. Should it panic, everybody who waits is told that nothing is kept any more.
    fn run(self: Arc<Self>, disk: Disk) {
        let writing = AssertUnwindSafe(|| self.write(disk));
        if catch_unwind(writing).is_ok() {
            return;
        }
        tracing::error!(
            "the store's thread panicked: what must be kept is refused until the broker is restarted"
        );
        self.failing.store(true, Ordering::Release);
        let after = {
            let mut pending = self.pending.lock();
            pending.closed = true;
            std::mem::take(&mut pending.after)
        };
        tell(after, false);
    }

    fn write(&self, mut disk: Disk) {
        loop {
            {
                let mut pending = self.pending.lock();
                while pending.is_empty() && !pending.closing {
                    self.changed.wait(&mut pending);
                }
                let until = Instant::now() + GATHER;
                while pending.after.is_empty() && pending.bytes < PENDING_BYTES_MAX / 2 && !pending.closing {
                    if self.changed.wait_until(&mut pending, until).timed_out() {
                        break;
                    }
                }
            }
            let batch = {
                let _whole = self.together.write();
                let mut pending = self.pending.lock();
                // The last batch is the last: what is noted after it is not taken any more.
                let closing = pending.closing;
                std::mem::replace(&mut *pending, Pending { closing, closed: closing, ..Pending::default() })
            };
            self.room.notify_waiters();
            let Pending { changes, ended, after, closing, .. } = batch;
            let began = Instant::now();
            let done =
                if changes.is_empty() && ended.is_empty() { Ok(()) } else { disk.commit(&changes, &ended) };
            let failed = done.is_err();
            self.commit_seconds.observe(began.elapsed().as_secs_f64());
            if failed {
                self.commits_failed.inc();
            }
            if self.failing.swap(failed, Ordering::AcqRel) != failed {
                match &done {
                    Ok(()) => tracing::info!("the store can be written again"),
                    Err(error) => {
                        let error = disk::chain(error);
                        tracing::error!(error, "the store cannot be written: what must be kept is refused");
                    }
                }
            }
            if failed && !closing {
                self.again(changes, ended);
            }
            tell(after, !failed);
            if closing {
                return;
            }
            if failed {
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Puts back what could not be written, under what was noted since.
    fn again(&self, changes: HashMap<Key, Option<Bytes>>, mut ended: Vec<u64>) {
        let mut pending = self.pending.lock();
        for (key, value) in changes {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            if let std::collections::hash_map::Entry::Vacant(vacant) = pending.changes.entry(key) {
                vacant.insert(value);
                pending.bytes += bytes;
            }
        }
        ended.append(&mut pending.ended);
        pending.ended = ended;
    }
}

/// Tells everybody who waited, also if one of them panics.
fn tell(after: Vec<After>, kept: bool) {
    let mut wakers = Vec::new();
    for then in after {
        if catch_unwind(AssertUnwindSafe(|| then(kept, &mut wakers))).is_err() {
            tracing::error!("what waited for the store panicked");
        }
    }
    wakers.into_iter().for_each(Waker::wake);
}

/// Opens the file in `dir`; see [`restore`] for what is in it.
pub(crate) fn open(dir: &Path) -> Result<Disk, StoreError> {
    Disk::open(dir)
}

/// A will as it is written down. Unlike other messages it was not accepted yet, so its properties are not in wire form.
pub(crate) fn will_message(will: &Message) -> Bytes {
    let Ok(wire) = WireProperties::new(&will.properties) else { return Bytes::new() };
    let message = Message::new(will.topic.clone(), will.payload.clone(), will.qos, will.retain);
    record::message(&Message { wire, ..message }, None)
}
