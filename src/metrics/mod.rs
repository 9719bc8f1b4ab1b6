//! Counts what the shells tell it, and writes it down for whoever scrapes: Prometheus text, or
//! OpenMetrics.
//!
//! Each bridge has its own, handed to its parts by `serve`, so that several in one process do not add
//! up. No label has a value that a caller could choose: what comes in is a word of ours
//! (`&'static str`), or the template of a route. So the number of series is bounded by what is written
//! in this repository, whatever anybody sends.

mod api;
mod database;
mod process;
mod store;
mod tokens;
mod traces;
mod work;

use std::fmt;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use self::api::ApiMetrics;
pub use self::database::{DatabaseMetrics, OfLanes};
pub use self::store::StoreMetrics;
pub use self::tokens::TokenMetrics;
pub use self::traces::TraceMetrics;
pub use self::work::{HandsMetrics, WorkMetrics};

/// Everything that one bridge counts.
pub struct Metrics {
    pub api: ApiMetrics,
    pub database: DatabaseMetrics,
    pub store: StoreMetrics,
    pub tokens: TokenMetrics,
    pub traces: TraceMetrics,
    pub work: WorkMetrics,
    registry: Registry,
}

/// What a scraper can read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exposition {
    /// The text format of Prometheus, version 0.0.4: read by everything.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// What an `Accept` header asks for; Prometheus' own format unless OpenMetrics is named.
    pub fn accepted_by(accept: &str) -> Self {
        let wanted = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next() == Some("application/openmetrics-text");
            is_named && !parts.any(|it| matches!(it, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// Nothing has been counted yet.
    pub fn new() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(process::Process));
        let registry = all.sub_registry_with_prefix("engagement_bridge");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);
        let (api, database) = (ApiMetrics::new(registry), DatabaseMetrics::new(registry));
        let (store, tokens) = (StoreMetrics::new(registry), TokenMetrics::new(registry));
        let (traces, work) = (TraceMetrics::new(registry), WorkMetrics::new(registry));
        Self { api, database, store, tokens, traces, work, registry: all }
    }

    /// All of it, as it stands.
    pub fn write(&self, exposition: Exposition) -> Result<String, fmt::Error> {
        let mut written = String::with_capacity(32 * 1_024);
        match exposition {
            Exposition::Prometheus => prometheus_text::encode(&mut written, &self.registry)?,
            Exposition::OpenMetrics => text::encode(&mut written, &self.registry)?,
        }
        Ok(written)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// One label, with a word of ours as its value.
type Word = [(&'static str, &'static str); 1];

type Counters = Family<Word, Counter>;
type Gauges = Family<Word, Gauge>;
type Histograms = Family<Word, Histogram, Bounds>;

/// Upper bounds of the buckets of a histogram, in its own unit.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl Bounds {
    /// What happens inside of this machine or near it, in seconds.
    const QUICK: Self = Self(&[
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ]);

    /// What is asked of others over the network, whose hard deadlines are 35 s and less, in seconds.
    const EXCHANGE: Self =
        Self(&[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0]);

    /// Between what should come at once and what may take days, in seconds.
    const WAIT: Self = Self(&[
        0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
        86_400.0, 259_200.0,
    ]);

    /// How much is done at a time.
    const SIZE: Self =
        Self(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0]);

    fn histogram(self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        self.histogram()
    }
}

/// A family whose series are there from the start, at zero, so that their first increase is seen.
fn known<const N: usize>(label: &'static str, words: [&'static str; N]) -> Counters {
    let family = Counters::default();
    for word in words {
        drop(family.get_or_create(&[(label, word)]));
    }
    family
}

/// The same of histograms.
fn known_histograms<const N: usize>(
    bounds: Bounds,
    label: &'static str,
    words: [&'static str; N],
) -> Histograms {
    let family = Histograms::new_with_constructor(bounds);
    for word in words {
        drop(family.get_or_create(&[(label, word)]));
    }
    family
}

#[cfg(test)]
mod tests;
