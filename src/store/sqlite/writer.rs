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
        let (job, answered) = job(work);
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

/// A job that does `work`, and where its result comes out.
fn job<T, F>(work: F) -> (Job, oneshot::Receiver<Result<T, StoreError>>)
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
    (job, answered)
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
        for job in group.by_ref() {
            answers.push(job(Ok(&transaction)));
            // Where the disk fails it, SQLite may take the whole transaction back by itself. Whoever
            // came next would then write outside of any, and be told that nothing was written.
            if transaction.is_autocommit() {
                break;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs these statements as one group; whether each was told that it was written, and what was.
    fn written(statements: [&'static str; 3]) -> ([bool; 3], Vec<String>) {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE words (word TEXT UNIQUE)").unwrap();
        let (jobs, answers): (Vec<Job>, Vec<_>) = statements
            .map(|sql| job(move |it| it.execute(sql, []).map(drop).context("testing")))
            .into_iter()
            .unzip();
        write(&mut connection, jobs.into_iter());
        let mut told = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().is_ok());
        let words = connection
            .prepare("SELECT word FROM words ORDER BY word")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        (std::array::from_fn(|_| told.next().unwrap()), words)
    }

    const ONE: &str = "INSERT INTO words VALUES ('one')";
    const TWO: &str = "INSERT INTO words VALUES ('two')";

    #[test]
    fn a_job_that_fails_takes_back_what_it_wrote_and_nothing_else() {
        let twice = "INSERT INTO words VALUES ('three'), ('one')";
        assert_eq!(written([ONE, twice, TWO]), ([true, false, true], words(["one", "two"])));
    }

    #[test]
    fn when_the_whole_transaction_is_lost_nobody_is_told_otherwise() {
        let lost = "INSERT OR ROLLBACK INTO words VALUES ('one')";
        assert_eq!(written([ONE, lost, TWO]), ([false, false, false], words([])));
    }

    fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
        words.map(str::to_owned).to_vec()
    }
}
