//! Registrations that come one by one, kept many at a time.
//!
//! A transaction costs a dozen round trips and a sync however many registrations are in it, so those
//! that come while others are being written share the next one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::connect::{Database, work};
use super::error::{for_another, is_about_values};
use super::register::{Prepared, make_lanes, register};
use crate::lane;
use crate::store::{Registered, Registration, StoreError};
use crate::vault::Vault;

/// How many jobs may wait. Beyond that, callers are told that too much is waiting.
const QUEUE: usize = 4_096;

/// With so many registrations a transaction takes no further job. More in one would not be written
/// sooner, and all of them wait for its end.
const FULL_BATCH: usize = 512;

/// How many transactions write at a time: one is under way to the disk while the next is made up.
const WRITERS: usize = 3;

/// How long a job may wait for a place in the queue.
const FOR_A_PLACE: Duration = Duration::from_secs(5);

/// How long whoever registers may wait for the answer: as long as for a place and a transaction.
const TO_ANSWER: Duration = Duration::from_secs(20);

/// The way to the writers. They end once this is dropped and what has queued is written.
#[derive(Debug)]
pub(super) struct Batches {
    jobs: mpsc::Sender<Job>,
    _writers: TaskTracker,
}

type Answer = Result<Vec<Registered>, StoreError>;

/// Registrations to be kept all or none, and who waits for the answers.
struct Job {
    registrations: Vec<Registration>,
    answer: oneshot::Sender<Answer>,
}

struct Writer {
    database: Database,
    vault: Arc<Vault>,
    policy: Arc<lane::Policy>,
    jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
}

impl Batches {
    pub(super) fn start(
        database: &Database,
        vault: &Arc<Vault>,
        policy: &Arc<lane::Policy>,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (queue, writers) = (Arc::new(Mutex::new(queue)), TaskTracker::new());
        for _ in 0..WRITERS {
            let (database, vault) = (database.clone(), Arc::clone(vault));
            let (policy, jobs) = (Arc::clone(policy), Arc::clone(&queue));
            writers.spawn(Writer { database, vault, policy, jobs }.run());
        }
        writers.close();
        Self { jobs, _writers: writers }
    }

    /// Keeps registrations in the next transaction, and answers once that is on disk; or once that
    /// takes too long, when only those may yet be kept that are being written.
    pub(super) async fn register(&self, registrations: Vec<Registration>) -> Answer {
        let registering = async {
            let (answer, answered) = oneshot::channel();
            let job = Job { registrations, answer };
            self.jobs.send_timeout(job, FOR_A_PLACE).await.map_err(|refused| match refused {
                mpsc::error::SendTimeoutError::Timeout(_) => StoreError::Overloaded,
                mpsc::error::SendTimeoutError::Closed(_) => StoreError::Closed,
            })?;
            answered.await.map_err(|_| StoreError::Closed)?
        };
        tokio::time::timeout(TO_ANSWER, registering).await.unwrap_or_else(|_| {
            let waited = anyhow::anyhow!("not written within {TO_ANSWER:?}");
            Err(StoreError::Unavailable(waited))
        })
    }
}

impl Writer {
    async fn run(self) {
        while let Some(batch) = self.next().await {
            if !batch.is_empty() {
                self.write(batch).await;
            }
        }
    }

    /// The jobs of one transaction, of those that wait by now; of which there may be none, where those
    /// who asked have given up. `None` once there will be no more.
    async fn next(&self) -> Option<Vec<Job>> {
        let mut jobs = self.jobs.lock().await;
        let (mut next, mut batch, mut registrations) = (jobs.recv().await, Vec::new(), 0);
        next.as_ref()?;
        while let Some(job) = next {
            // Who has given up on it was told so, and may have taken it elsewhere.
            if !job.answer.is_closed() {
                registrations += job.registrations.len();
                batch.push(job);
            }
            next = if registrations < FULL_BATCH { jobs.try_recv().ok() } else { None };
        }
        Some(batch)
    }

    /// Writes jobs together, and each by itself should that fail for what is in one of them, which
    /// must not fail all others.
    async fn write(&self, batch: Vec<Job>) {
        let sizes: Vec<usize> = batch.iter().map(|job| job.registrations.len()).collect();
        let (registrations, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.registrations, job.answer)).unzip();
        let range = |index: usize| {
            let first: usize = sizes[..index].iter().sum();
            first..first + sizes[index]
        };
        let prepare = |it| Prepared::new(&self.vault, it);
        let all: Result<Vec<_>, _> = registrations.into_iter().flatten().map(prepare).collect();
        let all = match all {
            Ok(all) => Arc::new(all),
            Err(error) => return refuse(answers, &error),
        };
        match self.keep(Arc::clone(&all), 0..all.len()).await {
            Ok(registered) => {
                let mut registered = registered.into_iter();
                for (answer, size) in answers.into_iter().zip(&sizes) {
                    // Whoever asked may have gone away; what was written stands all the same.
                    drop(answer.send(Ok(registered.by_ref().take(*size).collect())));
                }
            }
            Err(error) if answers.len() > 1 && is_about_values(&error) => {
                let waited_for = |(_, answer): &(_, oneshot::Sender<Answer>)| !answer.is_closed();
                for (index, answer) in answers.into_iter().enumerate().filter(waited_for) {
                    drop(answer.send(self.keep(Arc::clone(&all), range(index)).await));
                }
            }
            Err(error) => refuse(answers, &error),
        }
    }

    async fn keep(&self, all: Arc<Vec<Prepared>>, range: std::ops::Range<usize>) -> Answer {
        let chosen = all.get(range.clone()).unwrap_or_default();
        make_lanes(&self.database, &self.policy, chosen).await?;
        let policy = Arc::clone(&self.policy);
        let keep = work(move |transaction| {
            let (policy, all, range) = (Arc::clone(&policy), Arc::clone(&all), range.clone());
            Box::pin(async move {
                register(transaction, &policy, all.get(range).unwrap_or_default()).await
            })
        });
        self.database.transaction(keep).await
    }
}

fn refuse(answers: Vec<oneshot::Sender<Answer>>, error: &StoreError) {
    for answer in answers {
        drop(answer.send(Err(for_another(error))));
    }
}
