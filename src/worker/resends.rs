//! Grants bulk resends, little by little.
//!
//! Each callback goes back to its ordinary life, and waits for its turn on its lane like all others.
//! That is what keeps a receiver from more than its allowance. What is done here keeps a hundred
//! thousand of them from being in anybody's way: so many per second and no more, and none to a lane on
//! which many wait already, so that what is owed to the same receiver meanwhile is never far behind. Such
//! are held back, and another walk comes by them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use super::rounds::{LONGEST_SLEEP, Rounds, in_rounds};
use crate::callback::{self, Decision, Event, decide};
use crate::clock::Clock;
use crate::nudge::Nudge;
use crate::operation::elapsed;
use crate::store::{Advance, Advanced, Batch, Resend, ResendChange, Store, StoreError};

/// So few are looked at in one transaction, that nobody waits long for it.
const BATCH: u32 = 100;

/// Between batches: a thousand callbacks per second at the most.
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);

/// How many bulk resends take turns. The others wait until one of them is done.
const AT_A_TIME: u32 = 16;

/// Between two walks of which the first has sent nothing again.
const BETWEEN_WALKS: Duration = Duration::from_secs(5);

/// What bulk resends are granted upon, and by which rules.
pub struct Resender {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
    pub callbacks: callback::Policy,
    pub settings: Crowds,
}

/// When callbacks are held back for those who wait already.
#[derive(Clone, Copy, Debug)]
pub struct Crowds {
    /// So many that wait on a lane are a crowd, to which none is added.
    pub crowd: u32,
    /// For so long a bulk resend is patient with crowds. A receiver that has not come back by then has
    /// all of its callbacks wait for it, each for as long as it may be owed.
    pub patience: Duration,
}

impl Default for Crowds {
    fn default() -> Self {
        Self { crowd: 256, patience: Duration::from_hours(24) }
    }
}

impl Resender {
    /// Goes on with what is under way, and with what is asked for, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        in_rounds(&self, stop).await;
    }
}

impl Rounds for Resender {
    const WORK: &'static str = "a bulk resend";
    const BETWEEN: Duration = BETWEEN_BATCHES;

    fn asked(&self) -> Notified<'_> {
        self.nudge.resend_asked()
    }

    /// Takes each of those under way a batch further. Says how long to wait then.
    async fn round(&self) -> Result<Duration, StoreError> {
        let under_way = self.store.resends_under_way(AT_A_TIME).await?;
        let mut sleep = if under_way.is_empty() { LONGEST_SLEEP } else { BETWEEN_WALKS };
        for (index, resend) in under_way.iter().enumerate() {
            if index > 0 {
                tokio::time::sleep(BETWEEN_BATCHES).await;
            }
            if self.advance(resend).await? {
                sleep = BETWEEN_BATCHES;
            }
        }
        Ok(sleep)
    }
}

impl Resender {
    /// Takes it a batch further. Whether there is more to be done at once.
    async fn advance(&self, resend: &Resend) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let Crowds { crowd, patience } = self.settings;
        let batch = self.store.resend_batch(resend, BATCH, now, crowd).await?;
        let Batch { callbacks, mut waiting, reached, is_last } = batch;
        let is_patient = elapsed(resend.asked_at, now) < patience;
        let (mut changes, mut held_back) = (Vec::new(), resend.held_back);
        for (before, lane) in callbacks {
            let waiting = waiting.entry(lane).or_default();
            if is_patient && crowd <= *waiting {
                held_back += 1;
                continue;
            }
            match decide(&self.callbacks, &before, Event::ResendRequested, now) {
                Decision::Become(after) => {
                    *waiting += 1;
                    changes.push(ResendChange { before, after });
                }
                Decision::Ignore(_) => {}
            }
        }
        let is_done = is_last && held_back == 0;
        // Those that were held back are come by in another walk.
        let is_over = is_last && !is_done;
        let advance = Advance {
            id: resend.id,
            from: resend.reached,
            to: reached.filter(|_| !is_over),
            held_back: if is_over { 0 } else { held_back },
            changes,
            done_at: is_done.then_some(now),
        };
        match self.store.advance_resend(Arc::new(advance)).await? {
            Advanced::Saved { resent } => {
                if resent > 0 {
                    self.nudge.now();
                }
                if is_done {
                    let (id, sent) = (resend.id, resend.resent + resent);
                    tracing::info!(resend.id = %id, sent, "{id} is done: {sent} are sent again");
                }
                Ok(resent > 0 || !is_last)
            }
            // Another replica is at it as well.
            Advanced::Overtaken => Ok(true),
        }
    }
}
