//! Hands: how many steps are in progress at a time.
//!
//! A receiver that answers well and slowly has as many attempts in flight as any other, and each of
//! them would keep a hand: 32 such receivers, by the default settings, and nobody else were told
//! anything. So a step that is not over after [`SLOW_AFTER`] gives its hand back and goes on in a place
//! of its own, of which there are [`SLOW_PLACES`] for each hand; where none is free it keeps its hand
//! until there is one. And a lane on which the latest step was slow takes such places from the start,
//! or its next steps would hold all hands until they turn out as slow.
//!
//! So hands serve what is quick, at least until 160 receivers are slow with 16 attempts each, be they of
//! one caller or of many. Past that they come free as slow steps end, and lanes take turns with them.
//!
//! Nothing else changes for a slow step: its lease and its hard deadline hold, shutdown waits for it as
//! for the others, and memory is bounded by hands and places together. Which lanes are slow is a hint
//! that a crash may take.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::lane::LaneName;
use crate::metrics::HandsMetrics;

/// What takes longer is slow: most receivers answer in a tenth of it.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// Slow steps in progress at the most, for each hand.
const SLOW_PLACES: usize = 4;

/// Lanes that are known as slow at the most. Each has an attempt in progress, or had one lately.
const MOST_KNOWN: usize = 10_000;

/// All hands of a worker.
pub(super) struct Hands {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    /// How many hands there are, and how many places.
    all: (usize, usize),
    metrics: Option<HandsMetrics>,
    /// On which the latest step that is over, or long in coming, was slow.
    known: Mutex<HashSet<LaneName>>,
}

/// A hand, or a place for what is slow, until it is dropped.
pub(super) struct Held {
    permit: OwnedSemaphorePermit,
    is_place: bool,
}

impl Hands {
    pub(super) fn new(hands: usize) -> Self {
        let hands = hands.max(1);
        let all = (hands, hands.saturating_mul(SLOW_PLACES));
        let (quick, slow) = (Arc::new(Semaphore::new(all.0)), Arc::new(Semaphore::new(all.1)));
        Self { quick, slow, all, metrics: None, known: Mutex::default() }
    }

    /// The same, with somebody who is told how many are in use.
    pub(super) fn counted_by(self, metrics: &HandsMetrics) -> Self {
        let hands = Self { metrics: Some(metrics.clone()), ..self };
        hands.count();
        hands
    }

    fn count(&self) {
        let Some(metrics) = &self.metrics else { return };
        let (hands, places) = self.all;
        let in_hand = hands.saturating_sub(self.quick.available_permits());
        let in_place = places.saturating_sub(self.slow.available_permits());
        metrics.set(self.all, (in_hand, in_place));
    }

    /// Takes back what was held.
    pub(super) fn put_back(&self, held: Held) {
        drop(held);
        self.count();
    }

    /// How many steps can be started at once. Others only ever give hands back, so this errs towards
    /// too few.
    pub(super) fn free(&self) -> usize {
        self.quick.available_permits()
    }

    pub(super) async fn until_one_is_free(&self) {
        drop(self.quick.acquire().await);
    }

    /// A hand for a step on `lane`. `None` would be the end of the worker.
    pub(super) async fn take(&self, lane: Option<&LaneName>) -> Option<Held> {
        if lane.is_some_and(|lane| self.known().contains(lane))
            && let Ok(permit) = Arc::clone(&self.slow).try_acquire_owned()
        {
            self.count();
            return Some(Held { permit, is_place: true });
        }
        let permit = Arc::clone(&self.quick).acquire_owned().await.ok()?;
        self.count();
        Some(Held { permit, is_place: false })
    }

    /// Sees a step on `lane` through, and hands back what is held when it is over.
    pub(super) async fn see<T>(
        &self,
        lane: Option<LaneName>,
        held: Held,
        step: impl Future<Output = T>,
    ) -> (T, Held) {
        let mut step = pin!(step);
        let mut is_slow = false;
        let quick = tokio::select! {
            biased;
            done = &mut step => Some(done),
            () = sleep(SLOW_AFTER) => None,
        };
        let seen = if let Some(done) = quick {
            (done, held)
        } else {
            is_slow = true;
            self.note(lane.as_ref(), is_slow);
            if held.is_place {
                (step.await, held)
            } else {
                tokio::select! {
                    biased;
                    done = &mut step => (done, held),
                    Ok(permit) = Arc::clone(&self.slow).acquire_owned() => {
                        drop(held.permit);
                        self.count();
                        (step.await, Held { permit, is_place: true })
                    }
                }
            }
        };
        self.note(lane.as_ref(), is_slow);
        seen
    }

    fn note(&self, lane: Option<&LaneName>, is_slow: bool) {
        let Some(lane) = lane else { return };
        let mut known = self.known();
        if !is_slow {
            known.remove(lane);
        } else if known.len() < MOST_KNOWN {
            known.insert(lane.clone());
        }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<LaneName>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
