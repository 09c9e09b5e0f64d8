//! Keys and values in one file, changed in transactions, by redb.

use std::{
    collections::HashMap,
    fmt::Write,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::record::BlobId;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");
/// Name of the file in the data directory.
const FILE: &str = "state.redb";
/// What the values look like. Another number is another format.
const FORMAT: &[u8] = &[1];
/// Memory for pages of the file.
const CACHE_BYTES: usize = 16 << 20;

/// Why the broker's state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory cannot be made or used.
    #[error("cannot use the directory `{}`", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has the file open.
    #[error("`{}` is in use: does another broker run on it?", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The file is from another version of this program.
    #[error("`{}` is in a format that this version does not know", path.display())]
    Format {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be read or written, or is damaged.
    #[error("cannot use the stored state in `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database failed where it should not be able to, perhaps over a damaged file.
    #[error("the database panicked over `{}`; standard error says where", path.display())]
    Panicked {
        /// Which.
        path: PathBuf,
    },
    /// The thread that writes does not start.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StoreError {
    pub(super) fn file(path: &Path, error: impl Into<redb::Error>) -> Self {
        Self::File { path: path.to_owned(), source: Box::new(error.into()) }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Directory { .. } => "check owner, permissions and free space".into(),
            Self::InUse { .. } => "stop the other broker, or choose another directory".into(),
            Self::Format { .. } => "use the version that wrote it, or a newer one".into(),
            Self::File { path, .. } | Self::Panicked { path } => format!(
                "check owner, permissions and free space. If the file is damaged, put `{}` back from a backup, or move it away: \
                 the broker then starts without the sessions, subscriptions, queued and retained messages and wills that were in it",
                path.parent().unwrap_or(path).display()
            ),
            Self::Thread(_) => "check the limits of processes and memory".into(),
        }
    }
}

/// An error with its causes, for a log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// A key: what it is of, then which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(Vec<u8>);

const SESSION: u8 = b's';
const MESSAGE: u8 = b'm';
const BLOB: u8 = b'b';
const RETAINED: u8 = b'r';
const FORMAT_KEY: &[u8] = b"v";
/// Of a session: the record itself comes first.
const RECORD: u8 = 0;
const SUBSCRIPTION: u8 = 1;
const QUEUED: u8 = 2;
const RECEIVED: u8 = 3;
const SENT: u8 = 4;

impl Key {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn of_session(session: u64, what: u8, rest: &[u8]) -> Self {
        Self([&[SESSION][..], &session.to_be_bytes(), &[what], rest].concat())
    }

    pub(super) fn session(session: u64) -> Self {
        Self::of_session(session, RECORD, &[])
    }

    pub(super) fn subscription(session: u64, filter: &str) -> Self {
        Self::of_session(session, SUBSCRIPTION, filter.as_bytes())
    }

    pub(super) fn queued(session: u64, seq: u64) -> Self {
        Self::of_session(session, QUEUED, &seq.to_be_bytes())
    }

    pub(super) fn received(session: u64, packet_id: u16) -> Self {
        Self::of_session(session, RECEIVED, &packet_id.to_be_bytes())
    }

    pub(super) fn sent(session: u64) -> Self {
        Self::of_session(session, SENT, &[])
    }

    pub(super) fn message(id: u64) -> Self {
        Self([&[MESSAGE][..], &id.to_be_bytes()].concat())
    }

    pub(super) fn blob(id: &BlobId) -> Self {
        Self([&[BLOB][..], id].concat())
    }

    pub(super) fn retained(topic: &str) -> Self {
        Self([&[RETAINED][..], topic.as_bytes()].concat())
    }
}

/// What a stored row is.
pub(super) enum Row<'k> {
    Session(u64),
    Subscription(u64, &'k str),
    Queued { session: u64, seq: u64 },
    Received { session: u64, packet_id: u16 },
    Sent(u64),
    Message(u64),
    Blob(BlobId),
    Retained(&'k str),
}

impl<'k> Row<'k> {
    fn of(key: &'k [u8]) -> Option<Self> {
        let (&kind, rest) = key.split_first()?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        match kind {
            MESSAGE => number(rest).map(Self::Message),
            BLOB => rest.try_into().ok().map(Self::Blob),
            RETAINED => std::str::from_utf8(rest).ok().map(Self::Retained),
            SESSION => {
                let (session, rest) = rest.split_first_chunk()?;
                let session = u64::from_be_bytes(*session);
                let (&what, rest) = rest.split_first()?;
                match what {
                    RECORD => Some(Self::Session(session)),
                    SUBSCRIPTION => std::str::from_utf8(rest).ok().map(|f| Self::Subscription(session, f)),
                    QUEUED => number(rest).map(|seq| Self::Queued { session, seq }),
                    RECEIVED => {
                        let packet_id = rest.try_into().ok().map(u16::from_be_bytes)?;
                        Some(Self::Received { session, packet_id })
                    }
                    SENT => Some(Self::Sent(session)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The file.
pub(crate) struct Disk {
    path: PathBuf,
    open: Box<dyn FnMut() -> Result<Database, StoreError> + Send>,
    /// `None` after something failed: redb wants its file opened anew then.
    database: Option<Database>,
}

impl Disk {
    /// Opens the file in `dir`; both are made where they are missing, for this user alone.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let directory = |source| StoreError::Directory { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(directory)?;
        let path = dir.join(FILE);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(directory)?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(directory)?;
        drop(file);
        // A file that was just made is there after a power cut only if its directory says so.
        for dir in
            [Some(dir), dir.parent().filter(|parent| !parent.as_os_str().is_empty())].into_iter().flatten()
        {
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(directory)?;
        }
        let mut first = true;
        Self::over(path.clone(), move || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            // A file that has vanished since must not begin anew, as if nothing had been in it.
            let opened = if std::mem::take(&mut first) { builder.create(&path) } else { builder.open(&path) };
            opened.map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
                other => StoreError::file(&path, other),
            })
        })
    }

    /// Over whatever `open` opens.
    pub(super) fn over(
        path: PathBuf,
        mut open: impl FnMut() -> Result<Database, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let read = || {
            let database = open()?;
            let known = Self::format(&database).map_err(|error| StoreError::file(&path, error))?;
            Ok((database, known))
        };
        let (database, known) = Self::guard(&path, read)?;
        if !known {
            return Err(StoreError::Format { path });
        }
        Ok(Self { path, open: Box::new(open), database: Some(database) })
    }

    /// A damaged file makes the database give an error or, in places, panic: the file is to be named either way.
    fn guard<T>(path: &Path, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(StoreError::Panicked { path: path.into() }))
    }

    /// Writes down the format; whether it is ours if there is one already.
    fn format(database: &Database) -> Result<bool, redb::Error> {
        let transaction = database.begin_write()?;
        let known = {
            let mut table = transaction.open_table(TABLE)?;
            let found = table.get(FORMAT_KEY)?.map(|value| value.value() == FORMAT);
            if found.is_none() {
                table.insert(FORMAT_KEY, FORMAT)?;
            }
            found.unwrap_or(true)
        };
        transaction.commit()?;
        Ok(known)
    }

    /// Writes and syncs: all or nothing.
    pub(super) fn commit(
        &mut self,
        changes: &HashMap<Key, Option<Bytes>>,
        ended: &[u64],
    ) -> Result<(), StoreError> {
        let (opened, open, path) = (self.database.take(), &mut self.open, &self.path);
        // Whoever waits for the commit must hear of a panic, too. The database goes with it: it is opened anew.
        self.database = Some(Self::guard(path, || {
            let database = opened.map_or_else(open, Ok)?;
            Self::write(&database, changes, ended).map_err(|error| StoreError::file(path, error))?;
            Ok(database)
        })?);
        Ok(())
    }

    fn write(
        database: &Database,
        changes: &HashMap<Key, Option<Bytes>>,
        ended: &[u64],
    ) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(&key.0[..], &value[..])?),
                    None => drop(table.remove(&key.0[..])?),
                }
            }
            for session in ended {
                let from = Key::session(*session).0;
                let to = Key::session(session.saturating_add(1)).0;
                table.retain_in(&from[..]..&to[..], |_, _| false)?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Hands every row to `take`, in the order of the keys: those of a session together.
    pub(super) fn read(&self, take: impl FnMut(Row<'_>, &[u8])) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Ok(()) };
        let rows = || Self::rows(database, take).map_err(|error| StoreError::file(&self.path, error));
        Self::guard(&self.path, rows)
    }

    fn rows(database: &Database, mut take: impl FnMut(Row<'_>, &[u8])) -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        let table = transaction.open_table(TABLE)?;
        for entry in table.iter()? {
            let (key, value) = entry?;
            if let Some(row) = Row::of(key.value()) {
                take(row, value.value());
            }
        }
        Ok(())
    }
}
