//! What the store is asked, and how long it takes: times, sizes and errors, whichever database it is.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Bounds, Counters, Histograms, known, known_histograms};

const CALLS: [&str; 3] = ["register", "claim", "commit"];

/// What this process has asked of its store.
#[derive(Debug)]
pub struct StoreMetrics {
    seconds: Histograms,
    sizes: Histograms,
    errors: Counters,
    transactions: Histogram,
    jobs: Histogram,
}

impl StoreMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let seconds = known_histograms(Bounds::QUICK, "call", CALLS);
        registry.register(
            "store_call_seconds",
            "How long calls of the store took that write, waiting for their turn and for the disk included",
            seconds.clone(),
        );
        let sizes = known_histograms(Bounds::SIZE, "call", CALLS);
        registry.register(
            "store_call_size",
            "Operations registered, steps claimed and steps committed, by one call of the store",
            sizes.clone(),
        );
        let errors = known("call", CALLS);
        registry.register("store_errors", "Calls of the store that failed", errors.clone());
        let transactions = Bounds::QUICK.histogram();
        registry.register(
            "store_file_transaction_seconds",
            "How long transactions on the database file took, to the disk and back; nothing with a \
             PostgreSQL",
            transactions.clone(),
        );
        let jobs = Bounds::SIZE.histogram();
        registry.register(
            "store_file_transaction_jobs",
            "How many calls shared a transaction on the database file",
            jobs.clone(),
        );
        Self { seconds, sizes, errors, transactions, jobs }
    }

    /// A call (`register`, `claim` or `commit`) of so many; `None` where it failed.
    pub fn called(&self, call: &'static str, size: Option<usize>, took: Duration) {
        self.seconds.get_or_create(&[("call", call)]).observe(took.as_secs_f64());
        match size {
            Some(size) => self.sizes.get_or_create(&[("call", call)]).observe(as_f64(size)),
            None => {
                self.errors.get_or_create(&[("call", call)]).inc();
            }
        }
    }

    /// A transaction on the database file that so many calls shared.
    pub fn wrote(&self, jobs: usize, took: Duration) {
        self.transactions.observe(took.as_secs_f64());
        self.jobs.observe(as_f64(jobs));
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(size: usize) -> f64 {
    size as f64
}
