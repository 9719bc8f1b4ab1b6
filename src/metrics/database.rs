//! What stands in the database. It is the same for every bridge on it: not to be added up.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Gauges;

/// What was last seen in the database.
#[derive(Debug)]
pub struct DatabaseMetrics {
    operations: Gauges,
    callbacks: Gauges,
    lanes_paused: Gauges,
    steps_waiting: Gauges,
    oldest_due: Gauge<f64, AtomicU64>,
    up: Gauge,
    age: Gauge<f64, AtomicU64>,
}

/// What waits on the lanes of one kind.
#[derive(Clone, Copy, Debug)]
pub struct OfLanes {
    /// Lanes on which something waits, and that are paused.
    pub paused: u64,
    /// Steps that are due and wait for their turn.
    pub waiting: u64,
}

/// Behind what is said of each.
const OF_ALL: &str =
    "Of the database: the same from every bridge on it, so take the largest, not the sum";

impl DatabaseMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let gauges = |registry: &mut Registry, name: &str, help: &str| {
            let gauges = Gauges::default();
            registry.register(name, format!("{help}. {OF_ALL}"), gauges.clone());
            gauges
        };
        let operations = gauges(registry, "operations", "Operations that are kept, by state");
        let callbacks = gauges(
            registry,
            "callbacks",
            "Callbacks that are owed (pending), or could not be delivered and are kept (undeliverable)",
        );
        let lanes_paused = gauges(
            registry,
            "lanes_paused",
            "Lanes on which something waits while they are paused: identities that Graph throttles, \
             receivers in trouble",
        );
        let steps_waiting = gauges(
            registry,
            "steps_waiting",
            "Steps that are due and wait for their lane's budget or pause, or for a free hand",
        );
        let oldest_due = Gauge::default();
        registry.register(
            "oldest_due_seconds",
            format!("For how long the oldest step that could be taken has been due. {OF_ALL}"),
            oldest_due.clone(),
        );
        let up = Gauge::default();
        registry.register(
            "database_up",
            "Whether this process could read the database when it was last looked at",
            up.clone(),
        );
        let age = Gauge::default();
        registry.register(
            "database_seen_seconds",
            "How long ago what is said of the database was read: some seconds as a rule, more where it \
             takes long to count",
            age.clone(),
        );
        Self { operations, callbacks, lanes_paused, steps_waiting, oldest_due, up, age }
    }

    pub fn operations(&self, state: &'static str, number: u64) {
        self.operations.get_or_create(&[("state", state)]).set(number.cast_signed());
    }

    pub fn callbacks(&self, state: &'static str, number: u64) {
        self.callbacks.get_or_create(&[("state", state)]).set(number.cast_signed());
    }

    /// `kind` is `graph` or `callback`.
    pub fn lanes(&self, kind: &'static str, of_lanes: OfLanes) {
        self.lanes_paused.get_or_create(&[("kind", kind)]).set(of_lanes.paused.cast_signed());
        self.steps_waiting.get_or_create(&[("kind", kind)]).set(of_lanes.waiting.cast_signed());
    }

    pub fn oldest_due(&self, overdue: Duration) {
        self.oldest_due.set(overdue.as_secs_f64());
    }

    /// Whether it could be read just now, and how long ago it was read the last time.
    pub fn seen(&self, is_up: bool, ago: Duration) {
        self.up.set(is_up.into());
        self.age.set(ago.as_secs_f64());
    }
}
