//! What the worker does: polls, attempts, ends, and how late and how many at a time.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Bounds, Counters, Gauges, Histograms, known, known_histograms};

const POLL_OUTCOMES: [&str; 13] = [
    "running",
    "undecided",
    "succeeded",
    "failed",
    "skipped",
    "rejected",
    "credentialRefused",
    "notFound",
    "gone",
    "throttled",
    "trouble",
    "tokenUnavailable",
    "tokenRefused",
];

const ATTEMPT_OUTCOMES: [&str; 5] = ["accepted", "refused", "unwell", "gone", "addressRefused"];

/// What the worker of this process has done.
#[derive(Debug)]
pub struct WorkMetrics {
    polls: Histograms,
    attempts: Histograms,
    failed_attempts: Counters,
    waits: Histograms,
    outcomes: Counters,
    ends: Counters,
    final_to_accepted: Histogram,
    leases_lost: Counter,
    handed_back: Counter,
    pub hands: HandsMetrics,
}

/// How many steps are in progress.
#[derive(Clone, Debug)]
pub struct HandsMetrics {
    in_use: Gauges,
    allowed: Gauges,
}

impl WorkMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let polls = known_histograms(Bounds::EXCHANGE, "outcome", POLL_OUTCOMES);
        registry.register(
            "poll_duration_seconds",
            "How long polls took, the token included, by what came of them",
            polls.clone(),
        );
        let attempts = known_histograms(Bounds::EXCHANGE, "outcome", ATTEMPT_OUTCOMES);
        registry.register(
            "attempt_duration_seconds",
            "How long attempts to deliver a callback took, by what came of them",
            attempts.clone(),
        );
        let failed_attempts = Counters::default();
        registry.register(
            "failed_attempts",
            "Attempts that were not answered by 2xx: by class of the status, or what else went wrong",
            failed_attempts.clone(),
        );
        let waits = known_histograms(Bounds::WAIT, "step", ["poll", "attempt"]);
        registry.register(
            "step_wait_seconds",
            "From when a step was due to when it was begun: it waits for its lane's budget or pause, or \
             for a free hand",
            waits.clone(),
        );
        let outcomes = known(
            "outcome",
            [
                "succeeded",
                "failed",
                "skipped",
                "expired",
                "notFound",
                "gone",
                "unauthorized",
                "rejected",
            ],
        );
        registry.register("outcomes", "Operations that this process has settled", outcomes.clone());
        let ends = known("end", ["delivered", "gone", "addressRefused", "attemptsSpent", "tooOld"]);
        registry.register(
            "callback_ends",
            "Callbacks that this process has delivered, or given up and why",
            ends.clone(),
        );
        let final_to_accepted = Bounds::WAIT.histogram();
        registry.register(
            "final_to_accepted_seconds",
            "From Graph's final answer, or another end, to the receiver's 2xx; without what was resent \
             on request",
            final_to_accepted.clone(),
        );
        let leases_lost = Counter::default();
        registry.register(
            "leases_lost",
            "Steps that somebody else had taken meanwhile: their lease was over",
            leases_lost.clone(),
        );
        let handed_back = Counter::default();
        registry.register(
            "steps_handed_back",
            "Steps that were started so late in their lease that they were not taken",
            handed_back.clone(),
        );
        let hands = HandsMetrics::new(registry);
        Self {
            polls,
            attempts,
            failed_attempts,
            waits,
            outcomes,
            ends,
            final_to_accepted,
            leases_lost,
            handed_back,
            hands,
        }
    }

    /// A step (`poll` or `attempt`) was begun, `late` after it was due.
    pub fn begun(&self, step: &'static str, late: Duration) {
        self.waits.get_or_create(&[("step", step)]).observe(late.as_secs_f64());
    }

    pub fn polled(&self, outcome: &'static str, took: Duration) {
        self.polls.get_or_create(&[("outcome", outcome)]).observe(took.as_secs_f64());
    }

    /// `failure` is what went wrong, if anything did.
    pub fn attempted(&self, outcome: &'static str, failure: Option<&'static str>, took: Duration) {
        self.attempts.get_or_create(&[("outcome", outcome)]).observe(took.as_secs_f64());
        if let Some(failure) = failure {
            self.failed_attempts.get_or_create(&[("failure", failure)]).inc();
        }
    }

    pub fn settled(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A callback came to rest: `delivered`, or why it was given up.
    pub fn callback_ended(&self, end: &'static str) {
        self.ends.get_or_create(&[("end", end)]).inc();
    }

    /// A final callback was accepted for the first time, so long after it was owed.
    pub fn told(&self, since_owed: Duration) {
        self.final_to_accepted.observe(since_owed.as_secs_f64());
    }

    pub fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    pub fn handed_back(&self) {
        self.handed_back.inc();
    }
}

impl HandsMetrics {
    fn new(registry: &mut Registry) -> Self {
        let (in_use, allowed) = (Gauges::default(), Gauges::default());
        registry.register(
            "hands_in_use",
            "Steps in progress: in a hand, or in a place for those that are slow",
            in_use.clone(),
        );
        registry.register(
            "hands",
            "Hands, and places for slow steps, at the most",
            allowed.clone(),
        );
        Self { in_use, allowed }
    }

    /// How many hands and places for slow steps there are, and how many of them are taken.
    pub fn set(&self, (hands, places): (usize, usize), (in_hand, in_place): (usize, usize)) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.allowed.get_or_create(&[("kind", "quick")]).set(number(hands));
        self.allowed.get_or_create(&[("kind", "slow")]).set(number(places));
        self.in_use.get_or_create(&[("kind", "quick")]).set(number(in_hand));
        self.in_use.get_or_create(&[("kind", "slow")]).set(number(in_place));
    }
}
