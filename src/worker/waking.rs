//! Wakes what was blocked for want of a connection that has been repaired, little by little.
//!
//! Each operation goes back to its ordinary life, and is polled when its lane admits it: however many wake
//! at once, their identity is asked no more often than ever. What is still to be woken is read off the
//! store, so whoever comes next goes on where somebody was broken off.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use super::rounds::{LONGEST_SLEEP, Rounds, in_rounds};
use crate::clock::Clock;
use crate::nudge::Nudge;
use crate::operation::{self, Decision, Event, OperationId, State, after, decide, elapsed};
use crate::store::{Amendment, OperationFilter, Page, Store, StoreError, Tracked, Waking};

/// Operations that are looked at between two pauses.
const BATCH: u32 = 100;

/// Of these, so many are written at a time.
const AT_A_TIME: usize = 16;

/// Between batches: a thousand operations per second at the most.
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);

/// How many connections take turns. The others wait until one of them is done.
const CONNECTIONS: u32 = 16;

/// Where operations are woken, and by which rules.
pub struct Waker {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
    pub operations: operation::Policy,
    /// How long a poll may take. One that had begun before the repair may have failed only after it, so
    /// what was blocked within that time is woken too; at worst, once in vain.
    pub poll_takes: Duration,
}

impl Waker {
    /// Goes on with what is under way, and with what is asked for, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        in_rounds(&self, stop).await;
    }
}

impl Rounds for Waker {
    const WORK: &'static str = "waking blocked operations";
    const BETWEEN: Duration = BETWEEN_BATCHES;

    fn asked(&self) -> Notified<'_> {
        self.nudge.waking_asked()
    }

    /// Wakes all that there is to wake. Says how long to wait then.
    async fn round(&self) -> Result<Duration, StoreError> {
        let mut sleep = LONGEST_SLEEP;
        for waking in self.store.wakings(CONNECTIONS).await? {
            let over_at = after(waking.asked_at, self.poll_takes);
            // Looked at before the walk: what is blocked behind it is none of this repair's.
            let is_over = over_at <= self.clock.now();
            let woken = self.walk(&waking, over_at).await?;
            if woken > 0 {
                let Waking { caller, connection, .. } = &waking;
                tracing::info!(
                    caller = %caller, connection, woken,
                    "{woken} operations wait for connection {connection} of {caller} no more"
                );
            }
            if is_over {
                self.store.finish_waking(&waking).await?;
            } else {
                sleep = sleep.min(elapsed(self.clock.now(), over_at));
            }
        }
        Ok(sleep.max(BETWEEN_BATCHES))
    }
}

impl Waker {
    /// Wakes what was blocked before `over_at`. Answers how many that were.
    async fn walk(&self, waking: &Waking, over_at: Timestamp) -> Result<usize, StoreError> {
        let (mut woken, mut last): (usize, Option<OperationId>) = (0, None);
        loop {
            let connection = Some(waking.connection.clone());
            let filter = OperationFilter { state: Some("blocked"), connection };
            let page = Page { after: last, limit: BATCH };
            let blocked = self.store.operations(&waking.caller, filter, page).await?;
            let Some(oldest) = blocked.last() else { return Ok(woken) };
            last = Some(oldest.operation.id);
            let is_meant = |it: &Tracked| matches!(it.operation.state, State::Blocked { since, .. } if since < over_at);
            let waking = blocked.into_iter().filter(is_meant).map(|it| self.wake(it));
            let mut waking = futures_util::stream::iter(waking).buffer_unordered(AT_A_TIME);
            while let Some(result) = waking.next().await {
                result?;
                woken += 1;
            }
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
    }

    /// Wakes one operation. Should another have got in between, it is not what it was, and so not
    /// blocked for what has been repaired.
    async fn wake(&self, tracked: Tracked) -> Result<(), StoreError> {
        let before = tracked.operation;
        let event = Event::CredentialRenewed;
        let decision = decide(&self.operations, &before, event, self.clock.now());
        if let Decision::Become(after, _) = decision {
            let due = after.agenda().step_at;
            let amendment = Amendment::Operation { before, after, owed: None, credential: None };
            self.store.amend(amendment).await?;
            if let Some(due) = due {
                self.nudge.due(due);
            }
        }
        Ok(())
    }
}
