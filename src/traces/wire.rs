//! Spans as OTLP has them (opentelemetry-proto 1.x), in protobuf.

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::{Act, Attribute};

/// What the collector is sent about these, as the process `instance`.
pub(super) fn request(spans: &[super::Span], instance: &str) -> Vec<u8> {
    let attributes = vec![
        text("service.name", env!("CARGO_PKG_NAME")),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", instance),
    ];
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    let resource = Resource { attributes, ..Resource::default() };
    let resource_spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// How many of the spans that it was sent the collector has refused, and why, by its answer.
pub(super) fn refused(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let spans = u64::try_from(partial.rejected_spans).ok().filter(|it| 0 < *it)?;
    Some((spans, partial.error_message))
}

fn span(span: &super::Span) -> Span {
    let Act { name, began, took, failure, attributes, number: _ } = &span.act;
    let began = nanos(*began);
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let kind = if span.is_of_the_api { SpanKind::Server } else { SpanKind::Client };
    let mut attributes: Vec<_> = attributes.iter().map(|(key, value)| pair(key, value)).collect();
    attributes.extend(failure.map(|failure| text("error.type", failure)));
    let code = if failure.is_some() { StatusCode::Error } else { StatusCode::Unset };
    Span {
        trace_id: span.trace.0.to_vec(),
        span_id: span.id.0.to_vec(),
        trace_state: span.state.clone(),
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.0.to_vec()),
        // Sampled, or it would not be here.
        flags: 1,
        name: (*name).to_owned(),
        kind: kind.into(),
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(took),
        attributes,
        status: Some(Status { message: String::new(), code: code.into() }),
        ..Span::default()
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, &Attribute::text(value))
}

fn pair(key: &str, value: &Attribute) -> KeyValue {
    let value = match value {
        Attribute::Text(text) => Value::StringValue(text.clone()),
        Attribute::Number(number) => Value::IntValue(*number),
    };
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
