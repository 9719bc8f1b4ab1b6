//! What a callback says: composed once, when it is owed, and never changed. Pure.
//!
//! ```json
//! {"type":"engagementAsyncOperation.succeeded","timestamp":"2026-11-24T12:00:00Z",
//!  "data":{…the operation, byte for byte as Graph sent it, or null…},
//!  "tracking":{"id":"op_…","clientState":"order-42","outcome":"succeeded","polls":4,
//!              "registeredAt":"2026-11-24T11:57:00Z","connection":"contoso"}}
//! ```
//!
//! The notice `engagementAsyncOperation.credentialNeeded` has `reason` in the place of `outcome`, and
//! `until`, when waiting for a credential ends; `engagementAsyncOperation.unauthorized` has both `outcome`
//! and `reason`, and `engagementAsyncOperation.running` has none. In the other formats the same parts are
//! elsewhere:
//!
//! | | `envelope` | `operation` | `cloudEvents` |
//! |---|---|---|---|
//! | what it is about | `type` | header `bridge-type` | `type` |
//! | when it was owed | `timestamp` | header `bridge-timestamp` | `time` |
//! | the operation | `data` | the body | `data` |
//! | our id of it | `tracking.id` | header `bridge-operation` | `subject` |
//! | the rest of `tracking` | | headers `bridge-client-state` … | `clientstate` … |

mod format;
mod trace;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::callback::CallbackId;
use crate::operation::{OperationId, Owed, Refusal};

pub use format::{FixedHeaders, Format};
pub use trace::Trace;

/// Everything that a callback is made of.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    pub id: CallbackId,
    pub format: Format,
    pub owed: Owed,
    /// When it was owed.
    pub at: Timestamp,
    pub tracking: Tracking<'a>,
    /// The operation as Graph last sent it.
    pub data: Option<&'a [u8]>,
    /// What the registration was part of.
    pub trace: Option<&'a Trace>,
}

/// What we know of an operation besides what Graph says.
#[derive(Clone, Copy, Debug)]
pub struct Tracking<'a> {
    pub operation: OperationId,
    pub caller: &'a str,
    pub client_state: Option<&'a str>,
    pub polls: u32,
    pub registered_at: Timestamp,
    /// The connection that Graph was asked by; `None` where a token was handed in.
    pub connection: Option<&'a str>,
    /// Why there is no credential, where that is so.
    pub refusal: Option<Refusal>,
    /// When waiting for a credential ends, while it is waited for.
    pub blocked_until: Option<Timestamp>,
}

/// What a callback says about how it ended, or what is to be done.
#[derive(Default)]
struct Ending {
    outcome: Option<&'static str>,
    /// Why a credential is needed, or was not to be had.
    reason: Option<&'static str>,
    /// When waiting for a credential ends.
    until: Option<String>,
}

/// A callback as it goes into every attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    pub headers: FixedHeaders,
    pub body: Bytes,
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: Option<&'a RawValue>,
    tracking: TrackingBody<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrackingBody<'a> {
    id: String,
    client_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    polls: u32,
    registered_at: String,
    connection: Option<&'a str>,
}

/// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>
///
/// What there is not is left out: attributes have no null.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    /// Together with `id` it names one event, whichever bridge sends it.
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clientstate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    polls: u32,
    registeredat: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// Whether a client state can be an attribute of an event (§3.2 of CloudEvents 1.0.2: no control
/// characters, and none that Unicode has kept from being used).
pub fn may_stand_in_cloud_events(client_state: &str) -> bool {
    let is_never_a_character =
        |c: char| matches!(u32::from(c), 0xfdd0..=0xfdef) || u32::from(c) & 0xfffe == 0xfffe;
    !client_state.chars().any(|c| c.is_control() || is_never_a_character(c))
}

/// What is to be sent in every attempt. Bytes that are not JSON come out as null: they were read as
/// JSON when they came from Graph, so there are none.
pub fn compose(letter: &Letter<'_>) -> Written {
    let mut headers = FixedHeaders::default();
    headers.add_plain("content-type", letter.format.content_type());
    let body = match letter.format {
        Format::Envelope => json(&envelope(letter)),
        Format::CloudEvents => json(&cloud_event(letter)),
        Format::Operation => {
            add_tracking(&mut headers, letter);
            letter.data.map_or(Bytes::from_static(b"null"), Bytes::copy_from_slice)
        }
    };
    if let Some(trace) = letter.trace {
        headers.add_plain("traceparent", trace.parent());
        if let Some(state) = trace.state() {
            headers.add_plain("tracestate", state);
        }
    }
    Written { headers, body }
}

fn json(body: &impl Serialize) -> Bytes {
    // Nothing in a callback can fail to be written as JSON.
    serde_json::to_vec(body).unwrap_or_default().into()
}

fn envelope<'a>(letter: &Letter<'a>) -> Envelope<'a> {
    let tracking = &letter.tracking;
    let Ending { outcome, reason, until } = ending(letter);
    Envelope {
        kind: kind(letter.owed),
        timestamp: letter.at.to_string(),
        data: raw(letter.data),
        tracking: TrackingBody {
            id: tracking.operation.to_string(),
            client_state: tracking.client_state,
            outcome,
            reason,
            until,
            polls: tracking.polls,
            registered_at: tracking.registered_at.to_string(),
            connection: tracking.connection,
        },
    }
}

fn cloud_event<'a>(letter: &Letter<'a>) -> CloudEvent<'a> {
    let tracking = &letter.tracking;
    let Ending { outcome, reason, until } = ending(letter);
    let data = raw(letter.data);
    CloudEvent {
        specversion: "1.0",
        id: letter.id.to_string(),
        source: format!("urn:engagement-bridge:caller:{}", tracking.caller),
        kind: kind(letter.owed),
        subject: tracking.operation.to_string(),
        time: letter.at.to_string(),
        datacontenttype: data.map(|_| "application/json"),
        clientstate: tracking.client_state,
        outcome,
        reason,
        until,
        polls: tracking.polls,
        registeredat: tracking.registered_at.to_string(),
        connection: tracking.connection,
        data,
    }
}

fn add_tracking(headers: &mut FixedHeaders, letter: &Letter<'_>) {
    let tracking = &letter.tracking;
    let Ending { outcome, reason, until } = ending(letter);
    headers.add("bridge-type", &kind(letter.owed));
    headers.add("bridge-timestamp", &letter.at.to_string());
    headers.add("bridge-operation", &tracking.operation.to_string());
    let polls = tracking.polls.to_string();
    let registered_at = tracking.registered_at.to_string();
    for (name, value) in [
        ("bridge-client-state", tracking.client_state),
        ("bridge-outcome", outcome),
        ("bridge-reason", reason),
        ("bridge-until", until.as_deref()),
        ("bridge-polls", Some(polls.as_str())),
        ("bridge-registered-at", Some(&registered_at)),
        ("bridge-connection", tracking.connection),
    ] {
        if let Some(value) = value {
            headers.add(name, value);
        }
    }
}

fn kind(owed: Owed) -> String {
    format!("engagementAsyncOperation.{}", owed.as_str())
}

fn ending(letter: &Letter<'_>) -> Ending {
    let reason = letter.tracking.refusal.map(Refusal::as_str);
    match letter.owed {
        Owed::Final(outcome) => {
            Ending { outcome: Some(outcome.as_str()), reason, ..Ending::default() }
        }
        Owed::CredentialNeeded(refusal) => Ending {
            reason: Some(refusal.as_str()),
            until: letter.tracking.blocked_until.map(|at| at.to_string()),
            ..Ending::default()
        },
        Owed::Running => Ending::default(),
    }
}

fn raw(data: Option<&[u8]>) -> Option<&RawValue> {
    data.and_then(|bytes| serde_json::from_slice(bytes).ok())
}

#[cfg(test)]
mod tests;
