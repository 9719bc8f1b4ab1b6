//! Acts: claims what is due, takes the steps, commits what came of them.
//!
//! One loop for polls and attempts. It takes no hint about what changed: after a restart, or in
//! another replica, there is none, so the ordinary path is the recovery path. It claims no more
//! than it has free hands for, because what is claimed waits for nobody else.

mod committer;
mod counting;
mod expiry;
mod hands;
mod rekeying;
mod resends;
mod retention;
mod rounds;
mod step;
mod traced;
mod waking;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::courier::Courier;
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::nudge::Nudge;
use crate::store::{Claimed, Commit, Store, StoreError};
use crate::traces::Tracer;
use crate::{callback, operation};
use hands::{Hands, Held};

pub use expiry::warn_of_expiry;
pub use rekeying::Rekeyer;
pub use resends::{Crowds, Resender};
pub use retention::{Retention, forget_what_rests};
pub use waking::Waker;

/// How long the loop waits after a claim that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Between two looks that find nothing, so that a store that errs early cannot make the loop spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);

/// What the worker acts upon, and by which rules.
pub struct Worker {
    pub store: Arc<dyn Store>,
    pub graph: Arc<dyn Graph>,
    pub courier: Arc<dyn Courier>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    pub operations: operation::Policy,
    pub callbacks: callback::Policy,
    pub settings: Settings,
}

/// How much the worker does at a time, and how long it may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Steps in progress at the most, beside those that are slow: four times as many.
    pub hands: usize,
    /// How long the loop sleeps at the most, should a nudge be lost between replicas.
    pub longest_sleep: Duration,
    /// How long a claim is good for.
    pub lease: Duration,
    /// How long a poll may take.
    pub poll_takes: Duration,
    /// Between the end of a poll and the end of its lease, when the next holder may poll.
    pub poll_apart: Duration,
    /// How long an attempt may take.
    pub attempt_takes: Duration,
}

/// A lease is longer than its step by so much, that there is time to start it.
const TO_START: Duration = Duration::from_secs(20);

/// The lease is shorter than a step may take, so that two could take the same step at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a lease of {lease:?} is too short: a step may need {needed:?} of it")]
pub struct LeaseTooShort {
    pub lease: Duration,
    pub needed: Duration,
}

impl Settings {
    /// Checks that each step fits into its lease with time to spare for starting it.
    pub fn check(&self) -> Result<(), LeaseTooShort> {
        let needed = self.poll_needs().max(self.attempt_takes) + TO_START;
        if self.lease < needed {
            return Err(LeaseTooShort { lease: self.lease, needed });
        }
        Ok(())
    }

    /// How much of its lease a poll needs when it starts.
    fn poll_needs(&self) -> Duration {
        self.poll_takes + self.poll_apart
    }
}

impl Worker {
    /// Works until `stop`, then lets what is in progress finish for up to `grace`, a claim under way
    /// included. What is left then is left to its lease.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, grace: Duration) {
        let steps = TaskTracker::new();
        let committing = TaskTracker::new();
        let (commits, queue) = mpsc::channel(self.settings.hands.max(1));
        committing.spawn(Arc::clone(&self).commit_all(queue));
        committing.close();

        let working = async {
            self.claim_until(&stop, &steps, commits).await;
            steps.close();
            let in_progress = steps.len();
            if in_progress > 0 {
                tracing::info!(in_progress, "finishing steps in progress");
            }
            steps.wait().await;
            committing.wait().await;
        };
        // From the stop on, not from the end of the last claim: a database that is silent takes its
        // time, and whoever stopped us may not wait for longer than the grace.
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            () = working => {}
            () = over => tracing::warn!(
                left = steps.len(),
                "left steps to their leases: they are taken up again when those end"
            ),
        }
    }

    /// Claims and starts steps.
    ///
    /// A stop breaks off no claim: what it has handed out would be nobody's until its lease ends.
    async fn claim_until(
        self: &Arc<Self>,
        stop: &CancellationToken,
        steps: &TaskTracker,
        commits: mpsc::Sender<Commit>,
    ) {
        let hands = Hands::new(self.settings.hands).counted_by(&self.metrics.work.hands);
        let hands = Arc::new(hands);
        while !stop.is_cancelled() {
            // Taken before looking, so that nobody's nudge falls between looking and sleeping.
            let mut nudged = std::pin::pin!(self.nudge.nudged());
            nudged.as_mut().enable();
            let free = hands.free();
            if free == 0 {
                stop.run_until_cancelled(hands.until_one_is_free()).await;
                continue;
            }
            match self.claim(free).await {
                Ok(claimed) if claimed.is_empty() => {
                    let sleep = tokio::time::sleep(self.sleep_for().await);
                    // In this order, not a random one, so that a simulation can be replayed.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = nudged => {}
                        () = sleep => {}
                    }
                }
                Ok(claimed) => {
                    for claimed in claimed {
                        let Some(held) = hands.take(claimed.claim.lane()).await else { return };
                        let hands = Arc::clone(&hands);
                        steps.spawn(Arc::clone(self).work(claimed, hands, held, commits.clone()));
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = %error.in_full(),
                        "could not claim what is due"
                    );
                    stop.run_until_cancelled(tokio::time::sleep(AFTER_FAILURE)).await;
                }
            }
        }
    }

    async fn claim(&self, free: usize) -> Result<Vec<Claimed>, StoreError> {
        let began = Instant::now();
        let claimed = self.store.claim(self.clock.now(), self.settings.lease, free).await;
        self.count_call("claim", began, &claimed);
        claimed
    }

    /// How long there will be nothing to do, as far as is known.
    async fn sleep_for(&self) -> Duration {
        let now = self.clock.now();
        let latest = operation::after(now, self.settings.longest_sleep);
        let until = match self.store.next_due().await {
            Ok(due) => due.map_or(latest, |due: Timestamp| due.min(latest)),
            // The claim that follows will tell what is wrong.
            Err(_) => operation::after(now, AFTER_FAILURE),
        };
        self.nudge.sleeping(until);
        Duration::try_from(until.duration_since(now)).unwrap_or_default().max(SHORTEST_SLEEP)
    }

    async fn work(
        self: Arc<Self>,
        claimed: Claimed,
        hands: Arc<Hands>,
        held: Held,
        commits: mpsc::Sender<Commit>,
    ) {
        let lane = claimed.claim.lane().cloned();
        let (commit, held) = hands.see(lane, held, self.take(claimed)).await;
        // The committer outlives all steps; were it gone, the lease would see to this one.
        drop(commits.send(commit).await);
        hands.put_back(held);
    }
}
