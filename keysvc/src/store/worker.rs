//! Threads that work on the store, one job after the other; the writer's jobs that come together share one commit.

use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::journal::State;
use super::{Deed, Journal, StoreError, Tx};
use crate::counts::Counts;
use crate::error::Error;

/// How long a batch waits for as many as the last one had.
const LINGER: Duration = Duration::from_micros(500);
/// Most requests that wait; more have to wait to wait.
const QUEUE_MAX: usize = 1024;

/// Runs in a savepoint; says whether to keep what it did, and what to do when that is certain.
type Job = Box<dyn FnOnce(&Tx<'_>) -> Ran + Send>;

struct Ran {
    keep: bool,
    deeds: Vec<Deed>,
    finish: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(
        name: &str,
        begin: &'static str,
        batch_max: usize,
        connection: Connection,
        journal: Option<Journal>,
        lock: Option<File>,
        counts: Option<Arc<Counts>>,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let work = move || {
            run_jobs(&connection, begin, batch_max, journal, counts.as_deref(), queue);
            // The connection ends before the lock does.
            drop(connection);
            drop(lock);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        Self { jobs: Some(jobs), thread: Some(thread.expect("the system gives a thread")) }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        // What the work logs names the request, as all else does.
        let span = tracing::Span::current();
        let job: Job = Box::new(move |tx| {
            let result = span.in_scope(|| work(tx));
            let after = tx.take_after_commit();
            Ran {
                keep: result.is_ok(),
                deeds: tx.take_deeds(),
                finish: Box::new(move |committed| {
                    let result = match committed {
                        Ok(()) => {
                            if result.is_ok() {
                                after.into_iter().for_each(|hook| hook());
                            }
                            result
                        }
                        Err(error) => result.and(Err(error.into())),
                    };
                    // Whoever asked may be gone.
                    let _ = answer.send(result);
                }),
            }
        });
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        answered.await.map_err(|_| StoreError::Stopped)?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The last owner may be a job on that very thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn run_jobs(
    connection: &Connection,
    begin: &str,
    batch_max: usize,
    mut journal: Option<Journal>,
    counts: Option<&Counts>,
    mut queue: mpsc::Receiver<Job>,
) {
    let mut company = 0;
    while let Some(first) = queue.blocking_recv() {
        if let Err(error) = command(connection, begin) {
            tracing::error!(%error, "the store cannot begin a transaction");
            if let Some(counts) = counts {
                counts.committed(0, Duration::ZERO, false);
            }
            continue;
        }
        let (mut finish, mut deeds) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        let (mut result, mut took) = (Ok(()), Duration::ZERO);
        let row = match &journal {
            Some(_) => Tx::new(connection).last_row(),
            None => Ok(0),
        };
        while let Some(job) = next.take() {
            match run_job(connection, counts, job) {
                Ok((ran, done)) => {
                    finish.push(ran);
                    deeds.extend(done);
                }
                Err(error) => result = Err(error),
            }
            // After a full or broken disk SQLite has rolled everything back by itself.
            if result.is_err() || connection.is_autocommit() {
                break;
            }
            if finish.len() < batch_max {
                next = queue.try_recv().ok();
                // Who was many a moment ago is many again in another: they share one sync.
                if next.is_none() && finish.len() < company {
                    company = 0;
                    std::thread::sleep(LINGER);
                    next = queue.try_recv().ok();
                }
            }
        }
        company = finish.len();
        if connection.is_autocommit() {
            result = result.and(Err(StoreError::TakenBack));
        } else if result.is_ok() {
            let begun = Instant::now();
            result = row.and_then(|row| commit(connection, journal.as_mut(), row, &deeds));
            took = begun.elapsed();
        }
        if let Some(counts) = counts {
            counts.committed(finish.len(), took, result.is_ok());
        }
        if let Err(error) = &result {
            tracing::error!(error = error as &dyn std::error::Error, "the store lost a batch");
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        finish.into_iter().for_each(|done| done(result.clone()));
        if let Some(journal) = &mut journal
            && let Some(state) = journal.is_long()
        {
            write_anew(connection, journal, state);
        }
    }
}

/// Has a journal that has become long begin anew with what the store tells. It may fail: then it goes on growing.
fn write_anew(connection: &Connection, journal: &mut Journal, state: State) {
    let rewrite = |journal: &mut Journal| {
        command(connection, "BEGIN IMMEDIATE")?;
        let tx = Tx::new(connection);
        state(&tx)?;
        let rewritten = journal.rewrite(tx.last_row()?, &tx.take_deeds());
        let last = rewritten.map_err(|error| StoreError::Journal(Arc::new(error)))?;
        connection.execute("UPDATE counters SET value = ? WHERE name = 'journal'", [last])?;
        Ok::<_, StoreError>(command(connection, "COMMIT")?)
    };
    match rewrite(journal) {
        Ok(()) => {
            tracing::info!("the journal was written anew: make a backup that is no older than it");
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the journal could not be written anew: it goes on growing");
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            journal.wait_longer();
        }
    }
}

/// Writes down what must never be undone, after `row` of the audit log and before it is committed; the store remembers how far the journal went. Where it
/// cannot be committed it is not left in the journal: a restore would do it.
pub(super) fn commit(
    connection: &Connection,
    journal: Option<&mut Journal>,
    row: u64,
    deeds: &[Deed],
) -> Result<(), StoreError> {
    let Some(journal) = journal.filter(|_| !deeds.is_empty()) else {
        return Ok(command(connection, "COMMIT")?);
    };
    let last = journal.append(row, deeds).map_err(|error| StoreError::Journal(Arc::new(error)))?;
    let committed = connection
        .execute("UPDATE counters SET value = ? WHERE name = 'journal'", [last])
        .and_then(|_| command(connection, "COMMIT"));
    if committed.is_err() {
        journal.take_back();
    }
    Ok(committed?)
}

/// A statement that every transaction has, parsed once.
fn command(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

fn run_job(
    connection: &Connection,
    counts: Option<&Counts>,
    job: Job,
) -> Result<(Finish, Vec<Deed>), StoreError> {
    command(connection, "SAVEPOINT job")?;
    let tx = Tx::counted(connection, counts);
    // A job that panics is a bug of ours, and must not take the store with it.
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&tx)));
    let keep = ran.as_ref().is_ok_and(|ran| ran.keep);
    if !connection.is_autocommit() {
        if !keep {
            command(connection, "ROLLBACK TO job")?;
        }
        command(connection, "RELEASE job")?;
    }
    Ok(match ran {
        Ok(ran) => (ran.finish, if keep { ran.deeds } else { Vec::new() }),
        Err(_) => (Box::new(|_| ()), Vec::new()),
    })
}
