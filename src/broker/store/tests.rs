//! Power cuts and full disks, over storage that can be told to have them.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use parking_lot::{Condvar, Mutex};
use redb::{Database, StorageBackend};
use tokio::sync::Notify;

use super::{
    Store, StoreError,
    disk::{Disk, Row},
};
use crate::broker::session::Subscribed;
use crate::mqtt::SubscriptionOptions;

/// What a disk holds, and what the system has not written to it yet.
#[derive(Debug, Default)]
struct Inner {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync, in order.
    writes: Vec<(u64, Vec<u8>)>,
    full: bool,
    /// Whether whatever writes next panics.
    panics: bool,
    /// The how-manieth sync from now on is held.
    hold_in: Option<u64>,
}

impl Inner {
    fn check(&mut self) -> io::Result<()> {
        assert!(!std::mem::take(&mut self.panics), "as a bug in the database would");
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// Puts data in its place, unless the file has become shorter since.
fn put(file: &mut [u8], offset: u64, data: &[u8]) {
    let at = offset as usize;
    if let Some(place) = file.get_mut(at..at + data.len()) {
        place.copy_from_slice(data);
    }
}

/// A disk that can be full, and can be told to lose its power.
#[derive(Debug, Clone, Default)]
pub(super) struct Storage {
    inner: Arc<Mutex<Inner>>,
    /// A sync is held.
    held: Arc<Notify>,
    let_go: Arc<(Mutex<bool>, Condvar)>,
}

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        let inner = self.inner.lock();
        let bytes = inner.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let held = {
            let mut inner = self.inner.lock();
            inner.check()?;
            let held = inner.hold_in == Some(1);
            inner.hold_in = inner.hold_in.filter(|_| !held).map(|count| count - 1);
            if !held {
                let Inner { synced, now, writes, .. } = &mut *inner;
                synced.resize(now.len(), 0);
                writes.drain(..).for_each(|(offset, data)| put(synced, offset, &data));
            }
            held
        };
        if held {
            self.held.notify_one();
            let (gone, changed) = &*self.let_go;
            changed.wait_while(&mut gone.lock(), |gone| !*gone);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.check()?;
        let at = offset as usize;
        inner.now.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        inner.writes.push((offset, data.to_vec()));
        Ok(())
    }
}

impl Storage {
    /// Has a sync hang, before it has done anything: the `count`th from now.
    pub(super) fn hold_sync(&self, count: u64) {
        self.inner.lock().hold_in = Some(count);
    }

    /// Waits until a sync hangs.
    pub(super) async fn held(&self) {
        self.held.notified().await;
    }

    /// Lets a sync that hangs fail.
    pub(super) fn let_go(&self) {
        *self.let_go.0.lock() = true;
        self.let_go.1.notify_all();
    }

    /// Whether there is no room, from now on.
    pub(super) fn fill(&self, full: bool) {
        self.inner.lock().full = full;
    }

    /// Whether something was written and not synced.
    pub(super) fn has_unsynced(&self) -> bool {
        !self.inner.lock().writes.is_empty()
    }

    /// What is left after the power went: all that was synced, and of the rest what `survives` says.
    pub(super) fn cut(&self, mut survives: impl FnMut() -> bool) -> Self {
        let inner = self.inner.lock();
        let mut now = inner.synced.clone();
        now.resize(inner.now.len().max(now.len()), 0);
        inner.writes.iter().filter(|_| survives()).for_each(|(offset, data)| put(&mut now, *offset, data));
        let inner = Inner { synced: now.clone(), now, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), ..Self::default() }
    }

    pub(super) fn disk(&self) -> Disk {
        self.try_disk().expect("it opens")
    }

    fn try_disk(&self) -> Result<Disk, StoreError> {
        let storage = self.clone();
        let open = move || {
            let created = Database::builder().create_with_backend(storage.clone());
            created.map_err(|error| StoreError::file(Path::new("data/memory"), error))
        };
        Disk::over(PathBuf::from("data/memory"), open)
    }

    /// The filters of each session.
    fn subscriptions(&self) -> HashMap<u64, Vec<String>> {
        let mut found: HashMap<u64, Vec<String>> = HashMap::new();
        let take = |row: Row<'_>, _: &[u8]| {
            if let Row::Subscription(session, filter) = row {
                found.entry(session).or_default().push(filter.into());
            }
        };
        self.disk().read(take).expect("it can be read");
        found
    }
}

const SUBSCRIBED: Subscribed = Subscribed {
    options: SubscriptionOptions {
        qos: crate::mqtt::QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: crate::mqtt::RetainHandling::Send,
    },
    id: None,
};

/// Waits for all that was noted so far; whether it is kept.
fn kept(store: &Store) -> bool {
    let (tell, told) = mpsc::channel();
    store.after(&mut Vec::new(), move |kept, _| tell.send(kept).expect("somebody waits"));
    told.recv().expect("an answer")
}

#[test]
fn a_power_cut_takes_nothing_that_was_said_to_be_kept() {
    let mut random = 1u64;
    let mut coin = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 63 == 0
    };
    let mut storage = Storage::default();
    let mut expected: HashMap<u64, Vec<String>> = HashMap::new();
    for round in 0..60u64 {
        let store = Store::start(storage.disk()).unwrap();
        let session = round % 7;
        if round % 5 == 4 {
            store.end_session(session);
            expected.remove(&session);
        } else {
            for n in 0..=round % 9 {
                let filter = format!("round/{round}/{n}");
                store.put_subscription(session, &filter, SUBSCRIBED);
                expected.entry(session).or_default().push(filter);
            }
        }
        assert!(kept(&store));
        // What nobody was told about may be there or not.
        for n in 0..20 {
            store.put_subscription(99, &format!("unsaid/{n}"), SUBSCRIBED);
        }
        let after = storage.cut(&mut coin);
        store.close();
        let mut found = after.subscriptions();
        found.remove(&99);
        for (session, filters) in &mut expected {
            filters.sort();
            let mut there = found.remove(session).unwrap_or_default();
            there.sort();
            assert_eq!(*filters, there, "round {round}, session {session}");
        }
        assert!(found.is_empty(), "round {round}: {found:?}");
        storage = after;
    }
}

#[test]
fn a_full_disk_is_told_and_tried_again() {
    let storage = Storage::default();
    let store = Store::start(storage.disk()).unwrap();
    store.put_subscription(1, "before", SUBSCRIBED);
    assert!(kept(&store) && !store.is_failing());
    storage.fill(true);
    store.put_subscription(1, "while", SUBSCRIBED);
    store.remove_subscription(1, "before");
    assert!(!kept(&store) && store.is_failing());
    store.put_subscription(1, "after", SUBSCRIBED);
    assert!(!kept(&store), "it is tried again and fails again");
    storage.fill(false);
    assert!(kept(&store) && !store.is_failing(), "there is room again");
    store.close();
    let mut found = storage.subscriptions().remove(&1).unwrap();
    found.sort();
    assert_eq!(found, ["after", "while"], "nothing that was noted meanwhile is lost");
}

#[test]
fn a_database_that_panics_is_told_and_opened_anew() {
    let storage = Storage::default();
    let store = Store::start(storage.disk()).unwrap();
    store.put_subscription(1, "before", SUBSCRIBED);
    assert!(kept(&store));
    storage.inner.lock().panics = true;
    store.put_subscription(1, "while", SUBSCRIBED);
    assert!(!kept(&store) && store.is_failing());
    assert!(kept(&store) && !store.is_failing(), "it is opened anew");
    store.close();
    let mut found = storage.subscriptions().remove(&1).unwrap();
    found.sort();
    assert_eq!(found, ["before", "while"]);
}

/// A file with rows in it, its bytes changed by `damage`, and what comes of opening and reading it.
fn damaged(damage: impl Fn(&mut Vec<u8>)) -> Result<(), StoreError> {
    let storage = Storage::default();
    let store = Store::start(storage.disk()).unwrap();
    for session in 0..500 {
        store.put_subscription(session, "a/filter/that/takes/some/room", SUBSCRIBED);
    }
    assert!(kept(&store));
    store.close();
    let mut bytes = storage.inner.lock().synced.clone();
    damage(&mut bytes);
    let inner = Inner { synced: bytes.clone(), now: bytes, ..Inner::default() };
    let storage = Storage { inner: Arc::new(Mutex::new(inner)), ..Storage::default() };
    storage.try_disk().and_then(|disk| disk.read(|_, _| {}))
}

#[test]
fn a_damaged_file_is_named_with_what_to_do_and_never_a_panic() {
    damaged(|_| {}).unwrap();
    let mut refused = 0;
    let mut told = |result: Result<(), StoreError>| {
        let Err(error) = result else { return };
        refused += 1;
        let (text, hint) = (error.to_string(), error.hint());
        assert!(text.contains("`data/memory`"), "{text}");
        for part in ["`data`", "backup", "move it away", "retained messages"] {
            assert!(hint.contains(part), "no {part} in: {hint}");
        }
    };
    told(damaged(|bytes| bytes[..64].fill(0xA5)));
    told(damaged(|bytes| bytes.truncate(bytes.len() / 2)));
    told(damaged(|bytes| bytes.truncate(10)));
    // Each page in its turn.
    for page in 0..64 {
        told(damaged(|bytes| {
            if let Some(page) = bytes.get_mut(page * 4_096..(page + 1) * 4_096) {
                page.fill(0xA5);
            }
        }));
    }
    assert!(refused >= 3, "{refused}");
}

#[test]
fn who_panics_when_told_keeps_nobody_else_waiting() {
    let store = Store::start(Storage::default().disk()).unwrap();
    {
        let _together = store.together();
        store.after(&mut Vec::new(), |_, _| panic!("as a bug in the broker would"));
    }
    assert!(kept(&store) && kept(&store));
}

#[test]
fn what_is_gone_before_it_is_written_is_not_written() {
    let storage = Storage::default();
    let store = Store::start(storage.disk()).unwrap();
    {
        let _together = store.together();
        store.put_subscription(1, "a", SUBSCRIBED);
        store.put_subscription(1, "b", SUBSCRIBED);
        store.remove_subscription(1, "a");
    }
    assert!(kept(&store));
    store.close();
    store.put_subscription(1, "late", SUBSCRIBED);
    assert!(!kept(&store), "a closed store keeps nothing");
    assert_eq!(storage.subscriptions().remove(&1).unwrap(), ["b"]);
}
