//! Spans, on their way to a collector.

use prometheus_client::registry::Registry;

use super::{Counters, known};

/// What became of this process' spans.
#[derive(Debug)]
pub struct TraceMetrics {
    spans: Counters,
}

impl TraceMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let spans = known("result", ["sent", "dropped", "failed"]);
        registry.register(
            "spans",
            "Spans that the collector has taken, that found no room in the queue, and that it has not taken",
            spans.clone(),
        );
        Self { spans }
    }

    /// `sent`, `dropped` or `failed`.
    pub fn count(&self, result: &'static str, spans: u64) {
        self.spans.get_or_create(&[("result", result)]).inc_by(spans);
    }
}
