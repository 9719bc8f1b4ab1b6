//! Looks at the database for whoever scrapes: not more often than that is worth, and only while somebody
//! does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::metrics::{DatabaseMetrics, Metrics, OfLanes};
use crate::operation::elapsed;
use crate::store::{LaneFigures, Store, StoreError};

/// How long a scrape waits for a look that it has caused. Prometheus waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks there are at least so many times the time that one takes, so that counting takes
/// one part in a hundred of a processor, however much there is to count.
const REST: u32 = 100;

/// When the database was last looked at.
#[derive(Debug)]
pub struct Survey {
    asked: Notify,
    looks: watch::Sender<u64>,
    seen: Mutex<Seen>,
    at_least_apart: Duration,
    /// Whether there is anybody who looks.
    is_kept: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When it was last read; at the start, nothing is known yet.
    at: Instant,
    is_up: bool,
    /// No other look is made before this.
    next: Instant,
}

impl Survey {
    /// For looks that are so far apart at least.
    pub fn new(at_least_apart: Duration) -> Self {
        let now = Instant::now();
        let seen = Mutex::new(Seen { at: now, is_up: false, next: now });
        Self {
            asked: Notify::new(),
            looks: watch::Sender::new(0),
            seen,
            at_least_apart,
            is_kept: AtomicBool::new(false),
        }
    }

    /// Looks whenever that is asked for and due, until `stop`.
    pub async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        self.is_kept.store(true, Ordering::Relaxed);
        let looking = async {
            loop {
                self.asked.notified().await;
                let began = Instant::now();
                let looked = look(&*store, &*clock, &metrics.database).await;
                self.note(began, &looked);
                if let Err(error) = looked {
                    let error = error.in_full();
                    tracing::warn!(%error, "could not count what is in the database");
                }
                self.looks.send_modify(|looks| *looks += 1);
                sleep(self.until_next()).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// Has the database looked at if that is due, and waits for it, but not for long.
    pub(super) async fn bring_up_to_date(&self, metrics: &DatabaseMetrics) {
        if self.is_kept.load(Ordering::Relaxed) && self.until_next().is_zero() {
            let mut looks = self.looks.subscribe();
            self.asked.notify_one();
            drop(timeout(PATIENCE, looks.changed()).await);
        }
        let Seen { at, is_up, .. } = *self.seen();
        metrics.seen(is_up, at.elapsed());
    }

    fn note(&self, began: Instant, looked: &Result<(), StoreError>) {
        let mut seen = self.seen();
        seen.is_up = looked.is_ok();
        if seen.is_up {
            seen.at = Instant::now();
        }
        seen.next = Instant::now() + self.at_least_apart.max(began.elapsed() * REST);
    }

    fn until_next(&self) -> Duration {
        self.seen().next.saturating_duration_since(Instant::now())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(
    store: &dyn Store,
    clock: &dyn Clock,
    metrics: &DatabaseMetrics,
) -> Result<(), StoreError> {
    let now = clock.now();
    let figures = store.figures(now).await?;
    let oldest_due = store.next_due().await?;
    metrics.operations("watching", figures.watching);
    metrics.operations("blocked", figures.blocked);
    metrics.operations("settled", figures.settled);
    metrics.operations("cancelled", figures.cancelled);
    metrics.callbacks("pending", figures.pending);
    metrics.callbacks("undeliverable", figures.undeliverable);
    metrics.lanes("graph", of_lanes(figures.graph_lanes));
    metrics.lanes("callback", of_lanes(figures.callback_lanes));
    metrics.oldest_due(oldest_due.map_or(Duration::ZERO, |due| elapsed(due, clock.now())));
    Ok(())
}

fn of_lanes(figures: LaneFigures) -> OfLanes {
    OfLanes { paused: figures.paused, waiting: figures.waiting }
}
