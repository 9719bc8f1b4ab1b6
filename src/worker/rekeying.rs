//! Seals everything anew under the first master key, where that was asked for.
//!
//! In small batches with pauses between, so that nobody waits long for the one who writes. Nothing is
//! remembered of how far it has come: what is not under the first key yet is read off the store. Whatever
//! is sealed meanwhile, here or by other replicas, is looked for again in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use super::rounds::{LONGEST_SLEEP, Rounds, in_rounds};
use crate::clock::Clock;
use crate::nudge::Nudge;
use crate::store::{Safe, SealedUnder, StoreError};

/// Values in one transaction.
const BATCH: u32 = 128;

/// Between batches: a few thousand values per second at the most.
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);

/// Between two walks, of which the first has left some that others held, or have put there since.
const BETWEEN_WALKS: Duration = Duration::from_secs(2);

/// Examples in the log of what cannot be opened.
const EXAMPLES: usize = 5;

/// What is sealed anew, and by whose wish.
pub struct Rekeyer {
    pub safe: Arc<dyn Safe>,
    pub clock: Arc<dyn Clock>,
    pub nudge: Arc<Nudge>,
}

/// Values that no master key opens, or that were changed since they were sealed.
#[derive(Default)]
struct Unreadable {
    values: u64,
    examples: Vec<String>,
}

impl Rekeyer {
    /// Goes on with what is under way, and with what is asked for, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        in_rounds(&self, stop).await;
    }
}

impl Rounds for Rekeyer {
    const WORK: &'static str = "sealing anew";
    const BETWEEN: Duration = BETWEEN_WALKS;

    fn asked(&self) -> Notified<'_> {
        self.nudge.rekeying_asked()
    }

    /// Seals anew what is there to be, if that is wanted. Says how long to wait then.
    async fn round(&self) -> Result<Duration, StoreError> {
        let Some(first) = self.safe.keys().into_iter().next() else { return Ok(LONGEST_SLEEP) };
        // Those to other keys are for bridges to which these come first.
        let wanted = self.safe.rekeyings(u32::MAX).await?;
        if !wanted.iter().any(|it| it.key == first && it.done_at.is_none()) {
            return Ok(LONGEST_SLEEP);
        }
        let is_other = |it: &SealedUnder| it.key != Some(first);
        let (mut rewritten, mut unreadable) = (0, Unreadable::default());
        for sealed in self.safe.sealed().await?.into_iter().filter(is_other) {
            rewritten += self.reseal(sealed, &mut unreadable).await?;
        }
        let left: u64 =
            self.safe.sealed().await?.iter().filter(|it| is_other(it)).map(|it| it.values).sum();
        if unreadable.values < left {
            return Ok(if rewritten == 0 { LONGEST_SLEEP } else { BETWEEN_WALKS });
        }
        self.safe.finish_rekeying(unreadable.values, self.clock.now()).await?;
        if unreadable.values > 0 {
            tracing::error!(
                values = unreadable.values,
                examples = unreadable.examples.join(", "),
                "what is sealed in {} places cannot be opened by any master key that is given, and was \
                 left as it is",
                unreadable.values
            );
        }
        tracing::info!(key = %first, "all that can be opened is sealed under master key {first}");
        Ok(LONGEST_SLEEP)
    }
}

impl Rekeyer {
    /// Seals anew what is in one column under one key. Answers how much that was.
    async fn reseal(
        &self,
        sealed: SealedUnder,
        unreadable: &mut Unreadable,
    ) -> Result<u64, StoreError> {
        let Some(key) = sealed.key else {
            unreadable.add(sealed.values, [sealed.column.to_string()]);
            return Ok(0);
        };
        let (mut rewritten, mut behind) = (0, None);
        loop {
            let batch = self.safe.reseal(sealed.column, key, behind, BATCH).await?;
            rewritten += batch.rewritten;
            unreadable.add(batch.unreadable.len() as u64, batch.unreadable);
            behind = batch.last;
            if behind.is_none() {
                return Ok(rewritten);
            }
            tokio::time::sleep(BETWEEN_BATCHES).await;
        }
    }
}

impl Unreadable {
    fn add(&mut self, values: u64, examples: impl IntoIterator<Item = String>) {
        self.values += values;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(examples.into_iter().take(room));
    }
}
