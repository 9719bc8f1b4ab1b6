//! Commits what steps came to, as many at a time as have come up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Worker;
use crate::operation::after;
use crate::store::{Commit, Committed};

const LARGEST_BATCH: usize = 256;
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

impl Worker {
    /// Commits until there is nobody left who could send another.
    pub(super) async fn commit_all(self: Arc<Self>, mut queue: mpsc::Receiver<Commit>) {
        let mut batch = Vec::with_capacity(LARGEST_BATCH);
        while queue.recv_many(&mut batch, LARGEST_BATCH).await > 0 {
            self.commit(Arc::new(std::mem::take(&mut batch))).await;
            // A commit may owe a callback, and frees room on a lane.
            self.nudge.now();
        }
    }

    /// Tries until it works or the leases are over. What was asked or delivered meanwhile would
    /// otherwise be asked or delivered again.
    async fn commit(&self, batch: Arc<Vec<Commit>>) {
        let leases_end = batch.iter().map(|commit| commit.claim.until).max();
        let mut wait = SHORTEST_WAIT;
        loop {
            let began = Instant::now();
            let committed = self.store.commit(Arc::clone(&batch)).await;
            self.count_call("commit", began, &committed);
            let error = match committed {
                Ok(committed) => return self.report(&batch, &committed),
                Err(error) => error,
            };
            let next_try = after(self.clock.now(), wait);
            if leases_end.is_none_or(|end| end <= next_try) {
                tracing::error!(
                    error = %error.in_full(),
                    steps = batch.len(),
                    "could not commit: steps will be repeated"
                );
                return;
            }
            tracing::warn!(
                error = %error.in_full(),
                steps = batch.len(),
                "could not commit yet, trying again"
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn report(&self, batch: &[Commit], committed: &[Committed]) {
        for (commit, committed) in batch.iter().zip(committed) {
            self.count_committed(commit, *committed);
            let step = commit.claim.step;
            match committed {
                Committed::Saved => {}
                Committed::LeaseLost => tracing::info!(%step, "someone else got to {step} first"),
            }
        }
    }
}
