//! The store: SQLite in one file. One thread writes; what waits is committed together, synced once, and answered
//! only then. One thread reads, each request in a snapshot of its own that begins after the request came.

mod journal;
mod tx;
mod worker;

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub(crate) use journal::{Deed, Entry as JournalEntry, FILE as JOURNAL_FILE, Journal, read as read_journal};
pub(crate) use tx::{
    AccessRow, AnswerRow, AuditRow, CheckpointRow, ClosedRow, DeviceRow, GivenRow, GroupRow, ProfileRow,
    RevocationRow, RuleRow, Tally, TokenRow, Tx, UseRow,
};
use worker::{Worker, commit};

use crate::counts::Counts;
use crate::error::{Error, OpenError};
use crate::files;

/// From each schema to the next: a new one is a new line.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3-standing.sql"),
    include_str!("schema-4-access.sql"),
    include_str!("schema-5-keys.sql"),
    include_str!("schema-6-tokens.sql"),
    include_str!("schema-7-journal.sql"),
    include_str!("schema-8-profiles.sql"),
    include_str!("schema-9-checkpoints.sql"),
    include_str!("schema-10-revocations.sql"),
    include_str!("schema-11-answers.sql"),
    include_str!("schema-12-makers.sql"),
];
/// The schema that this program writes.
const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;
/// The largest number that SQLite keeps: to ask for what comes after a larger one is to ask for nothing.
pub(crate) const NUMBER_MAX: u64 = i64::MAX as u64;
/// The store's files, in one directory.
pub(crate) const STORE_FILES: [&str; 2] = ["authority.db", "authority.db-wal"];
/// `SQMT` as SQLite's application id.
const APPLICATION_ID: i32 = 0x534d_5154;
/// Most requests in one commit.
const BATCH_MAX: usize = 256;
/// How long a new process waits for the old one to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why the store did not do it. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database said no: disk full, disk broken, file damaged.
    #[error("the database failed")]
    Database(#[source] Cause),
    /// Something was read that this program does not write.
    #[error("`{0}` in the database cannot be read")]
    Corrupt(&'static str),
    /// The journal could not be written: what is in none of its lines is not done.
    #[error("the journal of revocations cannot be written")]
    Journal(#[source] Arc<std::io::Error>),
    /// A secret that its key does not open.
    #[error("the secret `{0}` in the database does not open: it was altered, or its key was")]
    Secret(String),
    /// The journal tells of a root that the store does not have: certificates are issued from it.
    #[error("certificates are issued from the root {0}, which this store does not have")]
    RootMissing(String),
    /// Written by a newer program.
    #[error("the store has schema {found}, newer than {SCHEMA_VERSION}")]
    Newer {
        /// Its schema.
        found: u32,
    },
    /// Another program's database.
    #[error("this is the database of another program")]
    Foreign,
    /// Another request of the same commit could not be written, and took it along.
    #[error("the database took the commit back: the disk may be full")]
    TakenBack,
    /// The authority is stopping, or the request made it fail.
    #[error("the store gave no answer")]
    Stopped,
}

/// What the database said.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct Cause(Arc<rusqlite::Error>);

impl StoreError {
    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Database(Cause(error)) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Journal(error) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Whether there is room to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// For everything.
    Enough,
    /// For what must not fail.
    Reserve,
    /// For nothing.
    None,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Cause(Arc::new(error)))
    }
}

/// A store that is being set up: no threads yet.
pub(crate) struct Opening {
    connection: Connection,
    path: PathBuf,
    lock: File,
    journal: RefCell<Option<Journal>>,
}

impl Opening {
    /// Opens or makes the store in `dir`, brings its schema up to date, and proves that it can be written.
    pub(crate) fn new(dir: &Path) -> Result<Self, OpenError> {
        let lock = lock(&dir.join("authority.lock"), dir)?;
        let path = dir.join("authority.db");
        // SQLite gives its other files the mode of this one.
        files::touch(&path)?;
        let connection = open(&path).and_then(|mut connection| {
            migrate(&mut connection)?;
            Ok(connection)
        });
        let connection = connection.map_err(|source| OpenError::Store { path: path.clone(), source })?;
        Ok(Self { connection, path, lock, journal: RefCell::new(None) })
    }

    /// Runs `work` in a transaction of its own.
    pub(crate) fn transaction<T>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, OpenError> {
        let run = || {
            let transaction = self.connection.unchecked_transaction()?;
            let tx = Tx::new(&transaction);
            let row = tx.last_row()?;
            let result = work(&tx)?;
            commit(&transaction, self.journal.borrow_mut().as_mut(), row, &tx.take_deeds())?;
            Ok(result)
        };
        run().map_err(|source| OpenError::Store { path: self.path.clone(), source })
    }

    /// Writes down in `journal` from now on what must never be undone.
    pub(crate) fn keep_journal(&self, journal: Journal) {
        self.journal.replace(Some(journal));
    }

    /// Copies the store as it is into the empty file `to`.
    pub(crate) fn snapshot(path: &Path, to: &Path) -> Result<(), StoreError> {
        let to = to.to_str().ok_or(StoreError::Corrupt("path"))?;
        open(path)?.execute("VACUUM INTO ?", [to])?;
        Ok(())
    }

    /// Reads all of it: whether SQLite finds its pages and indexes in order.
    pub(crate) fn is_whole(&self) -> Result<bool, StoreError> {
        let said: String = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok(said == "ok")
    }

    /// The error for something in it that cannot be used.
    pub(crate) fn failed(&self, source: StoreError) -> OpenError {
        OpenError::Store { path: self.path.clone(), source }
    }

    /// Starts the threads. What they do is counted.
    pub(crate) fn start(self, counts: &Arc<Counts>) -> Result<Store, OpenError> {
        let reader = open(&self.path).and_then(|connection| {
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        });
        let reader = reader.map_err(|source| OpenError::Store { path: self.path.clone(), source })?;
        Ok(Store {
            reader: Worker::start("smqtt-read", "BEGIN", 1, reader, None, None, None),
            path: self.path,
            room: RwLock::new(Room::Enough),
            writer: Worker::start(
                "smqtt-write",
                "BEGIN IMMEDIATE",
                BATCH_MAX,
                self.connection,
                self.journal.into_inner(),
                Some(self.lock),
                Some(counts.clone()),
            ),
        })
    }
}

fn lock(path: &Path, dir: &Path) -> Result<File, OpenError> {
    let file = files::touch(path)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(OpenError::File { verb: "lock", path: path.to_owned(), source });
            }
        }
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "trusted_schema", false)?;
    // Ours has neither; what a forged backup brings along does nothing.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // An answer is given after the log is on disk, not before.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // What is deleted is a key, sometimes.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(StoreError::Foreign);
    }
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { found });
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for migration in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    // A store that cannot be written must be noticed now, not at the first revocation.
    transaction.execute("UPDATE counters SET value = value + 1 WHERE name = 'probe'", [])?;
    transaction.commit()?;
    Ok(())
}

/// The store. Dropping it waits until everything that was taken is written.
pub(crate) struct Store {
    path: PathBuf,
    reader: Worker,
    writer: Worker,
    room: RwLock<Room>,
}

impl Store {
    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.reader.run(work).await
    }

    /// Runs `work`, all of it or nothing; answers when it is on disk.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.room() {
            Room::Enough => self.writer.run(work).await,
            Room::Reserve | Room::None => Err(Error::LowSpace),
        }
    }

    /// As [`Self::write`], for what takes leave away or keeps the authority going: it is refused last.
    pub(crate) async fn write_reserved<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.room() {
            Room::Enough | Room::Reserve => self.writer.run(work).await,
            Room::None => Err(Error::LowSpace),
        }
    }

    /// How much room there is, as was said last.
    pub(crate) fn room(&self) -> Room {
        *self.room.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes by this from now on; gives what it was.
    pub(crate) fn set_room(&self, room: Room) -> Room {
        std::mem::replace(&mut *self.room.write().unwrap_or_else(PoisonError::into_inner), room)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Opening::new(dir.path()).unwrap().start(&Arc::new(Counts::new("file"))).unwrap();
        (dir, store)
    }

    async fn value(store: &Store) -> u64 {
        store.read(|tx| Ok(tx.counter("revision")?)).await.unwrap()
    }

    #[tokio::test]
    async fn what_fails_or_panics_leaves_nothing_and_takes_nobody_along() {
        let (_dir, store) = store();
        let hooks = Arc::new(AtomicUsize::new(0));
        let bump = |fate: u8| {
            let hooks = hooks.clone();
            store.write(move |tx| {
                let value = tx.bump("revision")?;
                tx.after_commit(move || {
                    hooks.fetch_add(1, Ordering::SeqCst);
                });
                match fate {
                    0 => Ok(value),
                    1 => Err(Error::Busy),
                    _ => panic!("a bug"),
                }
            })
        };
        // Polled together, so that they are taken together.
        let (a, b, c, d) = tokio::join!(bump(0), bump(1), bump(2), bump(0));
        assert_eq!((a.unwrap(), d.unwrap()), (1, 2));
        assert!(matches!(b, Err(Error::Busy)));
        assert!(matches!(c, Err(Error::Store(StoreError::Stopped))));
        assert_eq!(value(&store).await, 2);
        assert_eq!(hooks.load(Ordering::SeqCst), 2);
    }

    /// A store as a program of this schema left it, after `work`.
    fn of_schema(version: usize, work: &str) -> (tempfile::TempDir, Opening) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Connection::open(dir.path().join("authority.db")).unwrap();
        for migration in &MIGRATIONS[..version] {
            store.execute_batch(migration).unwrap();
        }
        store.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        store.pragma_update(None, "user_version", version).unwrap();
        store.execute_batch(work).unwrap();
        drop(store);
        let opening = Opening::new(dir.path()).unwrap();
        (dir, opening)
    }

    #[test]
    fn triggers_and_views_that_came_with_a_store_do_nothing() {
        let (dir, opening) = of_schema(
            MIGRATIONS.len(),
            "CREATE TRIGGER undo AFTER UPDATE OF value ON counters BEGIN \
             UPDATE counters SET value = 9 WHERE name = 'journal'; END; \
             ALTER TABLE versions RENAME TO other; \
             CREATE VIEW versions AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT x'00' AS attribute, i AS version FROM n",
        );
        opening.transaction(|tx| tx.bump("revision")).unwrap();
        assert_eq!(opening.transaction(|tx| tx.counter("journal")).unwrap(), 0);
        // Instead of rows without end.
        assert!(opening.transaction(|tx| tx.versions()).is_err());
        drop(dir);
    }

    #[test]
    fn tokens_of_before_there_were_batches_are_for_one_device_each() {
        let (_dir, store) = of_schema(
            4,
            "INSERT INTO tokens (id, secret_hash, name, role, attributes, hosts, expires, device, public_key, hpke_key) \
             VALUES (zeroblob(16), zeroblob(32), 'used', 'device', x'80', '[]', 9, zeroblob(16), x'01', x'02'), \
                    (x'01010101010101010101010101010101', zeroblob(32), 'open', 'device', x'80', '[]', 9, NULL, NULL, NULL)",
        );
        let tokens = |tx: &Tx<'_>| {
            let tokens = tx.tokens(&[], 9)?;
            Ok((tx.token_use(&[0; 16], &[1])?, tx.use_token(&[0; 16])?, tx.use_token(&[1; 16])?, tokens))
        };
        let (used, again, first, tokens) = store.transaction(tokens).unwrap();
        let used = used.unwrap();
        assert_eq!((used.hpke_key, used.device.unwrap().0, used.name.as_str()), (vec![2], [0; 16], "used"));
        assert!(!again && first, "what was used stays used, what was not is used once");
        assert_eq!(
            tokens.iter().map(|token| (token.uses_max, token.used)).collect::<Vec<_>>(),
            [(1, 1), (1, 0)]
        );
    }

    #[tokio::test]
    async fn a_batch_that_cannot_be_committed_is_acknowledged_to_nobody() {
        let (dir, store) = store();
        // Another process that holds the database: the batch cannot begin.
        let other = Connection::open(dir.path().join("authority.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = store.write(|tx| Ok(tx.bump("revision")?)).await;
        assert!(matches!(refused, Err(Error::Store(_))));
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(store.write(|tx| Ok(tx.bump("revision")?)).await.unwrap(), 1);
    }

    /// SQLite is told how many pages there are, as a disk would.
    #[tokio::test]
    async fn a_full_disk_loses_nothing_that_was_acknowledged_and_is_forgotten_when_there_is_room() {
        let dir = tempfile::TempDir::new().unwrap();
        let opening = Opening::new(dir.path()).unwrap();
        let pages: u64 = opening.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        opening.connection.pragma_update_and_check(None, "max_page_count", pages + 50, |_| Ok(())).unwrap();
        let counts = Arc::new(Counts::new("file"));
        let store = opening.start(&counts).unwrap();
        let put = |number: u64| {
            store.write(move |tx| Ok(tx.set_document(&format!("document {number}"), &[7; 5000])?))
        };
        let mut acknowledged = Vec::new();
        let refused = loop {
            // Together, so that those who fit go with one who does not.
            let number = acknowledged.len() as u64;
            let (first, second) = tokio::join!(put(number), put(number + 1));
            match first.and(second) {
                Ok(()) => acknowledged.extend([number, number + 1]),
                Err(error) => break error,
            }
            assert!(number < 1000);
        };
        assert!(!acknowledged.is_empty());
        let Error::Store(reason) = &refused else { panic!("{refused:?}") };
        assert!(reason.is_full() || matches!(reason, StoreError::TakenBack), "{reason:?}");
        assert!(counts.is_failing());
        // Again and again; what is there can be read all the while.
        for _ in 0..5 {
            assert!(put(5000).await.is_err());
            assert_eq!(value(&store).await, 0);
        }
        store.write(|tx| Ok(tx.execute_batch("PRAGMA max_page_count = 1000000")?)).await.unwrap();
        put(5000).await.unwrap();
        assert!(!counts.is_failing());
        acknowledged.push(5000);
        let there = move |tx: &Tx<'_>| {
            let mut there = Vec::new();
            for number in &acknowledged {
                there.push(
                    tx.document(&format!("document {number}"))?.is_some_and(|bytes| bytes == [7; 5000]),
                );
            }
            Ok(there)
        };
        assert!(store.read(there).await.unwrap().into_iter().all(|there| there));
    }

    #[tokio::test]
    async fn what_could_not_be_committed_is_not_left_in_the_journal() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(JOURNAL_FILE), smqtt_core::crypto::Secret32::random());
        let empty = read_journal(&path, &key).unwrap().unwrap();
        let opening = Opening::new(dir.path()).unwrap();
        opening.keep_journal(Journal::resume(&path, key.clone(), &empty, Box::new(|| 1)).unwrap());
        let store = opening.start(&Arc::new(Counts::new("file"))).unwrap();
        let epoch = |number: u64, fails: bool| {
            store.write(move |tx| {
                tx.write_down(Deed::Epoch { number });
                if fails {
                    // Found out at the commit, as a disk that is full may be.
                    let orphan = "PRAGMA defer_foreign_keys = ON; \
                                  INSERT INTO token_serials VALUES (x'00', 'nobody')";
                    tx.execute_batch(orphan)?;
                }
                Ok(tx.bump("revision")?)
            })
        };
        let lines = || {
            let read = read_journal(&path, &key).unwrap().unwrap();
            read.entries.into_iter().map(|entry| (entry.number, entry.deed)).collect::<Vec<_>>()
        };
        assert!(matches!(epoch(1, true).await, Err(Error::Store(StoreError::Database(_)))));
        assert_eq!(lines(), []);
        assert_eq!(epoch(2, false).await.unwrap(), 1);
        assert!(epoch(3, true).await.is_err());
        assert_eq!(epoch(4, false).await.unwrap(), 2);
        assert_eq!(lines(), [(1, Deed::Epoch { number: 2 }), (2, Deed::Epoch { number: 4 })]);
        assert_eq!(store.read(|tx| Ok(tx.counter("journal")?)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_journal_that_has_become_long_begins_anew_and_its_numbers_go_on() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(JOURNAL_FILE), smqtt_core::crypto::Secret32::random());
        let empty = read_journal(&path, &key).unwrap().unwrap();
        let opening = Opening::new(dir.path()).unwrap();
        let journal = Journal::resume(&path, key.clone(), &empty, Box::new(|| 1)).unwrap();
        let state = |tx: &Tx<'_>| {
            tx.write_down(Deed::Epoch { number: tx.counter("revision")? });
            Ok(())
        };
        opening.keep_journal(journal.anew_from(state).long_from(90));
        let store = opening.start(&Arc::new(Counts::new("file"))).unwrap();
        for number in 1..=3 {
            let deed = move |tx: &Tx<'_>| {
                tx.write_down(Deed::Epoch { number: 100 + number });
                Ok(tx.bump("revision")?)
            };
            store.write(deed).await.unwrap();
        }
        // The next job waits for the writing anew.
        store.write(|_| Ok(())).await.unwrap();
        let read = read_journal(&path, &key).unwrap().unwrap();
        let lines: Vec<_> = read.entries.into_iter().map(|entry| (entry.number, entry.deed)).collect();
        // Two lines are longer than that; then not before it is a great deal longer.
        assert_eq!(lines, [(3, Deed::Epoch { number: 2 }), (4, Deed::Epoch { number: 103 })]);
        assert_eq!(store.read(|tx| Ok(tx.counter("journal")?)).await.unwrap(), 4);
        let kept = read_journal(&path.with_extension("before"), &key).unwrap().unwrap();
        assert_eq!(kept.last(), 2);
        assert!(!path.with_extension("new").exists());
    }

    #[tokio::test]
    async fn an_answer_of_the_writer_is_seen_by_the_next_reader() {
        let (_dir, store) = store();
        for expected in 1..200 {
            store.write(|tx| Ok(tx.bump("revision")?)).await.unwrap();
            assert_eq!(value(&store).await, expected);
        }
    }

    #[tokio::test]
    async fn whoever_asked_may_go_and_the_work_is_done_all_the_same() {
        let (_dir, store) = store();
        let pending = store.write(|tx| Ok(tx.bump("revision")?));
        // Polled once: it is in the queue, and then forgotten.
        let _ = tokio::time::timeout(Duration::ZERO, pending).await;
        store.write(|_| Ok(())).await.unwrap();
        assert_eq!(value(&store).await, 1);
    }
}
