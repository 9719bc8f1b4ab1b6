//! Traces: what has become of an operation, from its registration over its polls to the attempts of its
//! callbacks, for a collector that speaks OTLP.
//!
//! There is one trace for each operation, and nothing about it is kept: its ids are derived from the
//! operation's, or taken over from the `traceparent` that came with the registration. So restarts and
//! replicas go on with the same trace, and whoever knows the operation knows where to look.
//!
//! Recording never waits and never fails. Spans stand in a bounded queue, and what finds no room there,
//! or is not taken by the collector, is counted and gone.

mod exporter;
mod ids;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use self::ids::{SpanId, TraceId};
use crate::metrics::Metrics;
use crate::operation::OperationId;

pub use self::exporter::{Exporter, Settings};

/// Spans that wait to be sent at the most: some MiB.
const QUEUE: usize = 8_192;

/// Takes spans, if there is anybody to send them to.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Sink>>);

#[derive(Debug)]
struct Sink {
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
    /// The part of traces that is recorded where nobody else has decided that, from 0 to 1.
    ratio: f64,
}

/// What a registration was part of: `traceparent` and `tracestate` as they came.
pub type Parent<'a> = (&'a str, Option<&'a str>);

/// The trace of one operation, which is recorded.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    sink: &'a Sink,
    operation: OperationId,
    id: TraceId,
    parent: Option<SpanId>,
    state: String,
}

/// Something that was done for an operation.
#[derive(Clone, Debug)]
pub struct Act {
    /// What was done, as one of a few.
    pub name: &'static str,
    /// Tells this one from others of the same name.
    pub number: u32,
    pub began: Timestamp,
    pub took: Duration,
    /// The class of what went wrong, if anything did.
    pub failure: Option<&'static str>,
    /// Never anything secret, nor what was sent or answered.
    pub attributes: Vec<(&'static str, Attribute)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

/// One act, as it is sent.
#[derive(Clone, Debug)]
struct Span {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    state: String,
    is_of_the_api: bool,
    act: Act,
}

impl Tracer {
    /// Records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// The trace of an operation, where it is recorded: as whoever began the trace says, or else by
    /// chance, which is the same for every bridge.
    pub fn trace(&self, operation: OperationId, parent: Option<Parent<'_>>) -> Option<Trace<'_>> {
        let sink = self.0.as_deref()?;
        let Some((parent, state)) = parent else {
            let id = TraceId::of(operation);
            let trace = Trace { sink, operation, id, parent: None, state: String::new() };
            return id.is_within(sink.ratio).then_some(trace);
        };
        let (id, parent, is_sampled) = ids::read_parent(parent)?;
        let state = state.unwrap_or_default().to_owned();
        is_sampled.then_some(Trace { sink, operation, id, parent: Some(parent), state })
    }
}

impl Trace<'_> {
    /// The registration, below which all else is.
    pub fn registered(self, act: Act) {
        let (id, parent) = (SpanId::of_registration(self.operation), self.parent);
        self.send(id, parent, true, act);
    }

    /// Something that came of the registration.
    pub fn went_on(self, act: Act) {
        let id = SpanId::of(self.operation, act.name, act.number, act.began);
        let parent = SpanId::of_registration(self.operation);
        self.send(id, Some(parent), false, act);
    }

    fn send(self, id: SpanId, parent: Option<SpanId>, is_of_the_api: bool, mut act: Act) {
        let named = ("engagement_bridge.operation.id", Attribute::Text(self.operation.to_string()));
        act.attributes.push(named);
        let span = Span { trace: self.id, id, parent, state: self.state, is_of_the_api, act };
        if self.sink.queue.try_send(span).is_err() {
            self.sink.metrics.traces.count("dropped", 1);
        }
    }
}

/// Who takes spans, and who sends them.
pub fn begin(settings: Settings, metrics: &Arc<Metrics>) -> (Tracer, Exporter) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let sink = Sink { queue, metrics: Arc::clone(metrics), ratio: settings.ratio };
    let exporter = Exporter::new(settings, spans, Arc::clone(metrics));
    (Tracer(Some(Arc::new(sink))), exporter)
}

impl Attribute {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}
