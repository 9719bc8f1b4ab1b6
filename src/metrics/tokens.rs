//! Access tokens: asked for, granted, refused.

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::{Bounds, Counters, Histograms, known, known_histograms};

/// What this process has asked of token endpoints, for polls.
#[derive(Debug)]
pub struct TokenMetrics {
    requests: Counters,
    seconds: Histograms,
}

impl TokenMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let requests = known("result", ["granted", "refused", "unavailable", "rationed"]);
        registry.register(
            "token_requests",
            "Access tokens that were asked for to poll with. Rationed ones were wanted and not asked for, \
             since their identity had asked too often",
            requests.clone(),
        );
        let seconds =
            known_histograms(Bounds::EXCHANGE, "result", ["granted", "refused", "unavailable"]);
        registry.register(
            "token_request_duration_seconds",
            "How long token endpoints took to answer",
            seconds.clone(),
        );
        Self { requests, seconds }
    }

    /// `granted`, `refused` or `unavailable`.
    pub fn asked(&self, result: &'static str, took: Duration) {
        self.requests.get_or_create(&[("result", result)]).inc();
        self.seconds.get_or_create(&[("result", result)]).observe(took.as_secs_f64());
    }

    pub fn rationed(&self) {
        self.requests.get_or_create(&[("result", "rationed")]).inc();
    }
}
