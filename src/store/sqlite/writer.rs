//! The one writer: a thread that commits whatever has queued as one transaction.
//!
//! A commit costs one fsync however much is in it, so under load everyone shares the wait instead
//! of queueing for it; and a single writer never meets a lock of our own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Error, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::Failed;
use super::lock::Damage;
use super::{OpenError, checkpoint};
use crate::metrics::Metrics;
use crate::store::StoreError;

/// How many jobs may wait. Beyond that, callers are told that too much is waiting.
const QUEUE: usize = 4_096;

/// How many jobs one transaction takes at the most, so that the first of them need not wait long.
const LARGEST_GROUP: usize = 1_024;

/// How long a job may wait for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Writer {
    damage: Damage,
    /// Who counts the transactions, once there is somebody.
    metrics: Arc<OnceLock<Arc<Metrics>>>,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    /// Ends with the connection of the writer.
    checkpoints: Option<JoinHandle<()>>,
}

impl Writer {
    /// Takes `connection`, one to the database at `path`.
    pub(super) fn start(
        path: &Path,
        mut connection: Connection,
        damage: Damage,
    ) -> Result<Self, OpenError> {
        let checkpoints = Some(checkpoint::beside(path, &mut connection)?);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let metrics = Arc::<OnceLock<_>>::default();
        let counted_by = Arc::clone(&metrics);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || run(connection, queue, &counted_by))
            .map_err(|source| OpenError::Inaccessible { path: path.to_owned(), source })?;
        Ok(Self { damage, metrics, jobs: Some(jobs), thread: Some(thread), checkpoints })
    }

    /// Has transactions counted from now on, by whoever is the first to be named.
    pub(super) fn count_by(&self, metrics: &Arc<Metrics>) {
        self.metrics.get_or_init(|| Arc::clone(metrics));
    }

    /// Runs `work` inside the next transaction, and answers once that is on disk.
    ///
    /// If `work` fails, what it wrote is undone, and nothing of what others wrote. It may be run
    /// twice, of which the first time counts for nothing.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.run_and(work, || {}).await
    }

    /// The same, with something to be done before anybody learns of the end, however it ends and
    /// whether or not whoever asked is still there.
    pub(super) async fn run_and<T, F>(
        &self,
        work: F,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Box<dyn Job> = {
            let damage = self.damage.clone();
            Box::new(Asked { work, result: None, damage, then, answer })
        };
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
        for thread in [self.thread.take(), self.checkpoints.take()].into_iter().flatten() {
            // One that panicked has said so already.
            drop(thread.join());
        }
    }
}

/// What somebody wants to be done inside a transaction.
trait Job: Send {
    /// Does it; whether what it wrote may stand.
    fn work(&mut self, transaction: &Connection) -> bool;

    /// Says what came of it, now that it is known whether the transaction holds.
    fn answer(self: Box<Self>, committed: Result<(), &Failed>);
}

struct Asked<T, F, D> {
    work: F,
    /// Of the last time that it was run.
    result: Option<Result<T, StoreError>>,
    damage: Damage,
    then: D,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F, D> Job for Asked<T, F, D>
where
    T: Send,
    F: FnMut(&Connection) -> Result<T, StoreError> + Send,
    D: FnOnce() + Send,
{
    fn work(&mut self, transaction: &Connection) -> bool {
        // A fault in one job must not take the writer from all others.
        let worked = catch_unwind(AssertUnwindSafe(|| (self.work)(transaction)));
        let result = worked.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(anyhow::anyhow!("a job of the writer panicked")))
        });
        let may_stand = result.is_ok();
        self.result = Some(result);
        may_stand
    }

    fn answer(self: Box<Self>, committed: Result<(), &Failed>) {
        let result = match committed {
            Err(failed) => Err(failed.to_error()),
            // Whoever is told that it is committed has worked.
            Ok(()) => self.result.unwrap_or(Err(StoreError::Closed)),
        };
        self.damage.note(&result);
        (self.then)();
        // Whoever asked may have gone away; what was written stands all the same.
        drop(self.answer.send(result));
    }
}

fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    metrics: &OnceLock<Arc<Metrics>>,
) {
    let mut group = Vec::with_capacity(LARGEST_GROUP);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < LARGEST_GROUP
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let (jobs, began) = (group.len(), Instant::now());
        write(&mut connection, std::mem::take(&mut group));
        if let Some(metrics) = metrics.get() {
            metrics.store.wrote(jobs, began.elapsed());
        }
    }
    // Folds the log into the database, so that one file is all there is to copy.
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(error = %error, "could not fold the write-ahead log into the database");
    }
}

/// Runs a group as one transaction, then answers everyone in it.
///
/// Hardly ever does a job fail, so nobody pays for undoing it alone (a savepoint copies each page
/// that is written): where one does, all is taken back, and each is run again by itself.
fn write(connection: &mut Connection, mut group: Vec<Box<dyn Job>>) {
    let committed = match commit(connection, &mut group) {
        Ok(Together::NotAll) if group.len() > 1 => {
            for job in group {
                write(connection, vec![job]);
            }
            return;
        }
        Ok(Together::All | Together::NotAll) => Ok(()),
        Err(error) => Err(Failed::of(&error)),
    };
    if let Err(failed) = &committed {
        tracing::error!(error = %failed, jobs = group.len(), "could not write to the database");
    }
    for job in group {
        job.answer(committed.as_ref().copied());
    }
}

enum Together {
    /// All jobs have worked, and all of it is on disk.
    All,
    /// One has failed, and none has left a trace.
    NotAll,
}

fn commit(connection: &mut Connection, group: &mut [Box<dyn Job>]) -> Result<Together, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_shared = group.len() > 1;
    for job in group {
        let may_stand = job.work(&transaction);
        // Where the disk fails it, SQLite may take the whole transaction back by itself. Whoever
        // came next would then write outside of any. Who is alone learns of it by the commit.
        if !may_stand || is_shared && transaction.is_autocommit() {
            return Ok(Together::NotAll);
        }
    }
    transaction.commit()?;
    Ok(Together::All)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::error::Context as _;

    /// Runs these jobs as one group; whether each was told that it was written, and what was.
    fn written(jobs: [fn(&Connection) -> rusqlite::Result<usize>; 3]) -> ([bool; 3], Vec<String>) {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE words (word TEXT UNIQUE)").unwrap();
        let (group, answers): (Vec<Box<dyn Job>>, Vec<_>) = jobs
            .map(|work| {
                let (answer, answered) = oneshot::channel();
                let work = move |it: &Connection| work(it).context("testing");
                let job =
                    Asked { work, result: None, damage: Damage::default(), then: || {}, answer };
                (Box::new(job) as Box<dyn Job>, answered)
            })
            .into_iter()
            .unzip();
        write(&mut connection, group);
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

    fn one(database: &Connection) -> rusqlite::Result<usize> {
        database.execute("INSERT INTO words VALUES ('one')", [])
    }

    fn two(database: &Connection) -> rusqlite::Result<usize> {
        database.execute("INSERT INTO words VALUES ('two')", [])
    }

    #[test]
    fn a_job_that_fails_takes_back_what_it_wrote_and_nothing_else() {
        let twice = |it: &Connection| it.execute("INSERT INTO words VALUES ('three'), ('one')", []);
        assert_eq!(written([one, twice, two]), ([true, false, true], words(["one", "two"])));
    }

    #[test]
    fn a_job_that_panics_takes_the_writer_from_nobody() {
        let panics = |it: &Connection| {
            it.execute("INSERT INTO words VALUES ('three')", [])?;
            panic!("a fault of the program")
        };
        assert_eq!(written([one, panics, two]), ([true, false, true], words(["one", "two"])));
    }

    #[test]
    fn when_the_whole_transaction_is_lost_nobody_is_told_otherwise() {
        let loses =
            |it: &Connection| it.execute("INSERT OR ROLLBACK INTO words VALUES ('one')", []);
        assert_eq!(written([one, loses, two]), ([true, false, true], words(["one", "two"])));
        let ends = |it: &Connection| it.execute("ROLLBACK", []);
        assert_eq!(written([one, ends, two]), ([true, false, true], words(["one", "two"])));
        let late = |it: &Connection| {
            one(it)?;
            it.execute("ROLLBACK", [])
        };
        assert_eq!(written([late, two, two]), ([false, true, false], words(["two"])));
    }

    fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
        words.map(str::to_owned).to_vec()
    }
}
