//! What is asked of the API.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Bounds, Counters, known};

/// The template of a route (`/v1/operations/{id}`), never the path that was asked for.
type Route = [(&'static str, String); 2];

/// A route, and the status of an answer.
type Answered = (Route, [(&'static str, u16); 1]);

/// What this process was asked.
#[derive(Debug)]
pub struct ApiMetrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, Bounds>,
    registrations: Counters,
    certificate_expiry: Gauge,
}

impl ApiMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests of the API, by route and status",
            requests.clone(),
        );
        let seconds = Family::new_with_constructor(Bounds::QUICK);
        registry.register(
            "http_request_duration_seconds",
            "How long requests of the API took",
            seconds.clone(),
        );
        let registrations = known("result", ["new", "existing", "replayed", "refused", "failed"]);
        registry.register(
            "registrations",
            "Registrations: kept, found to be tracked already, answered again by their Idempotency-Key, \
             refused for what was sent, or failed here",
            registrations.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate expires that the API is served by, in seconds since 1970; 0 where it \
             has none",
            certificate_expiry.clone(),
        );
        Self { requests, seconds, registrations, certificate_expiry }
    }

    /// `method` and `route` as the router knows them.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let asked = [("method", method.to_owned()), ("route", route.to_owned())];
        self.seconds.get_or_create(&asked).observe(took.as_secs_f64());
        self.requests.get_or_create(&(asked, [("status", status)])).inc();
    }

    /// In seconds since 1970.
    pub fn certificate_expires(&self, at: i64) {
        self.certificate_expiry.set(at);
    }

    /// `new`, `existing`, `replayed`, `refused` or `failed`.
    pub fn registered(&self, result: &'static str) {
        self.registrations.get_or_create(&[("result", result)]).inc();
    }
}
