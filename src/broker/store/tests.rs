//! Power cuts and full disks, over storage that can be told to have them.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;
use redb::{Database, StorageBackend};

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
}

#[derive(Debug, Clone, Default)]
struct Storage(Arc<Mutex<Inner>>);

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        let inner = self.0.lock();
        let bytes = inner.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.synced = inner.now.clone();
        inner.writes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let at = offset as usize;
        inner.now[at..at + data.len()].copy_from_slice(data);
        inner.writes.push((offset, data.to_vec()));
        Ok(())
    }
}

impl Storage {
    /// What is left after the power went: all that was synced, and of the rest what `survives` says.
    fn cut(&self, mut survives: impl FnMut() -> bool) -> Self {
        let inner = self.0.lock();
        let mut now = inner.synced.clone();
        now.resize(inner.now.len().max(now.len()), 0);
        for (offset, data) in &inner.writes {
            if survives() {
                now[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
            }
        }
        Self(Arc::new(Mutex::new(Inner { synced: now.clone(), now, writes: Vec::new(), full: false })))
    }

    fn disk(&self) -> Disk {
        let storage = self.clone();
        let open = move || {
            Database::builder()
                .create_with_backend(storage.clone())
                .map_err(|e| StoreError::File(Box::new(e)))
        };
        Disk::over(PathBuf::from("memory"), open).expect("it opens")
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
    storage.0.lock().full = true;
    store.put_subscription(1, "while", SUBSCRIBED);
    store.remove_subscription(1, "before");
    assert!(!kept(&store) && store.is_failing());
    store.put_subscription(1, "after", SUBSCRIBED);
    assert!(!kept(&store), "it is tried again and fails again");
    storage.0.lock().full = false;
    assert!(kept(&store) && !store.is_failing(), "there is room again");
    store.close();
    let mut found = storage.subscriptions().remove(&1).unwrap();
    found.sort();
    assert_eq!(found, ["after", "while"], "nothing that was noted meanwhile is lost");
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
