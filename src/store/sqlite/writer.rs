//! The one writer: a thread that commits whatever has queued as one transaction.
//!
//! A commit costs one fsync however much is in it, so under load everyone shares the wait instead
//! of queueing for it; and a single writer never meets a lock of our own.

use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::{Context, Failed};
use crate::store::StoreError;

/// How many jobs may wait. Beyond that, callers are told that too much is waiting.
const QUEUE: usize = 4_096;

/// How many jobs one transaction takes at the most, so that the first of them need not wait long.
const LARGEST_GROUP: usize = 1_024;

/// How long a job may wait for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a job leaves to be said once it is known whether the transaction holds.
type Answer = Box<dyn FnOnce(Result<(), &Failed>) + Send>;
/// Works inside a transaction, or is told that there is none to work in.
type Job = Box<dyn FnOnce(Result<&Connection, &Failed>) -> Answer + Send>;

#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || run(connection, queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` inside the next transaction, and answers once that is on disk.
    ///
    /// If `work` fails, what it wrote is undone, and nothing else of the transaction.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = match transaction {
                Ok(connection) => in_savepoint(connection, work),
                Err(failed) => Err(failed.to_error()),
            };
            Box::new(move |committed| {
                let result = committed.map_err(Failed::to_error).and(result);
                // Whoever asked may have gone away; what was written stands all the same.
                drop(answer.send(result));
            })
        });
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send_timeout(job, PATIENCE).await.map_err(|refused| match refused {
            mpsc::error::SendTimeoutError::Timeout(_) => StoreError::Overloaded,
            mpsc::error::SendTimeoutError::Closed(_) => StoreError::Closed,
        })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    /// Lets what is queued be written, then closes the database.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has said so already.
            drop(thread.join());
        }
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let execute = |sql: &str| connection.prepare_cached(sql)?.execute([]).map(drop);
    execute("SAVEPOINT job").context("beginning a job")?;
    let result = work(connection);
    let undone = if result.is_err() { execute("ROLLBACK TO job") } else { Ok(()) };
    undone.and_then(|()| execute("RELEASE job")).context("ending a job")?;
    result
}

fn run(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(LARGEST_GROUP);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < LARGEST_GROUP
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        write(&mut connection, group.drain(..));
    }
    // Folds the log into the database, so that one file is all there is to copy.
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(error = %error, "could not fold the write-ahead log into the database");
    }
}

/// Runs a group as one transaction, then answers everyone in it.
fn write(connection: &mut Connection, mut group: impl Iterator<Item = Job>) {
    let mut answers: Vec<Answer> = Vec::new();
    let committed = (|| {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        answers.extend(group.by_ref().map(|job| job(Ok(&transaction))));
        transaction.commit()
    })();
    let failed = committed.err().map(|error| Failed::of(&error));
    if let Some(failed) = &failed {
        // Those left in the group found no transaction to work in.
        answers.extend(group.map(|job| job(Err(failed))));
        tracing::error!(error = %failed, jobs = answers.len(), "could not write to the database");
    }
    for answer in answers {
        answer(failed.as_ref().map_or(Ok(()), Err));
    }
}
