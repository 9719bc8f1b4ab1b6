//! What a callback says: composed once, when it is owed, and never changed. Pure.
//!
//! ```json
//! {"type":"engagementAsyncOperation.succeeded","timestamp":"2026-11-24T12:00:00Z",
//!  "data":{…the operation, byte for byte as Graph sent it, or null…},
//!  "tracking":{"id":"op_…","clientState":"order-42","outcome":"succeeded","polls":4,
//!              "registeredAt":"2026-11-24T11:57:00Z","connection":"contoso"}}
//! ```
//!
//! The notice `engagementAsyncOperation.credentialNeeded` has `reason` in the place of `outcome`.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::operation::{OperationId, Owed};

/// Everything that a callback's body is made of.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    pub owed: Owed,
    /// When it was owed.
    pub at: Timestamp,
    pub tracking: Tracking<'a>,
    /// The operation as Graph last sent it.
    pub data: Option<&'a [u8]>,
}

/// What we know of an operation besides what Graph says.
#[derive(Clone, Copy, Debug)]
pub struct Tracking<'a> {
    pub operation: OperationId,
    pub client_state: Option<&'a str>,
    pub polls: u32,
    pub registered_at: Timestamp,
    /// The connection that Graph was asked by; `None` where a token was handed in.
    pub connection: Option<&'a str>,
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
    polls: u32,
    registered_at: String,
    connection: Option<&'a str>,
}

/// The body to be sent. Bytes that are not JSON come out as null: they were read as JSON when they
/// came from Graph, so there are none.
pub fn compose(letter: &Letter<'_>) -> Bytes {
    let (about, outcome, reason) = match letter.owed {
        Owed::Final(outcome) => (outcome.as_str(), Some(outcome.as_str()), None),
        Owed::CredentialNeeded(refusal) => ("credentialNeeded", None, Some(refusal.as_str())),
    };
    let tracking = &letter.tracking;
    let envelope = Envelope {
        kind: format!("engagementAsyncOperation.{about}"),
        timestamp: letter.at.to_string(),
        data: letter.data.and_then(|bytes| serde_json::from_slice(bytes).ok()),
        tracking: TrackingBody {
            id: tracking.operation.to_string(),
            client_state: tracking.client_state,
            outcome,
            reason,
            polls: tracking.polls,
            registered_at: tracking.registered_at.to_string(),
            connection: tracking.connection,
        },
    };
    // Nothing in an envelope can fail to be written as JSON.
    serde_json::to_vec(&envelope).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Outcome, Refusal};

    fn letter(owed: Owed, data: Option<&[u8]>) -> Letter<'_> {
        let tracking = Tracking {
            operation: OperationId(7),
            client_state: Some("order \"42\""),
            polls: 4,
            registered_at: Timestamp::UNIX_EPOCH,
            connection: Some("contoso"),
        };
        let at = Timestamp::from_millisecond(1_500).unwrap();
        Letter { owed, at, tracking, data }
    }

    fn text(letter: &Letter<'_>) -> String {
        String::from_utf8(compose(letter).to_vec()).unwrap()
    }

    #[test]
    fn graphs_bytes_come_through_untouched() {
        let odd = "{ \"id\" : \"x\",\t\"n\":1.0E+2, \"a\":1,\"a\":2,\n \"u\":\"\\u00e9é\\/\" }";
        let body = text(&letter(Owed::Final(Outcome::Succeeded), Some(odd.as_bytes())));
        assert!(body.contains(&format!("\"data\":{odd},\"tracking\"")), "{body}");
        assert_eq!(
            body.replace(odd, "DATA"),
            "{\"type\":\"engagementAsyncOperation.succeeded\",\"timestamp\":\"1970-01-01T00:00:01.5Z\",\
             \"data\":DATA,\"tracking\":{\"id\":\"op_00000000000000000000000000000007\",\
             \"clientState\":\"order \\\"42\\\"\",\"outcome\":\"succeeded\",\"polls\":4,\
             \"registeredAt\":\"1970-01-01T00:00:00Z\",\"connection\":\"contoso\"}}"
        );
    }

    #[test]
    fn where_graph_never_told_data_is_null() {
        let body = text(&letter(Owed::Final(Outcome::Expired), None));
        assert!(body.contains("\"type\":\"engagementAsyncOperation.expired\""), "{body}");
        assert!(body.contains("\"data\":null"), "{body}");
    }

    #[test]
    fn a_notice_has_a_reason_and_no_outcome() {
        let body = text(&letter(Owed::CredentialNeeded(Refusal::TokenExpired), None));
        assert!(body.contains("\"type\":\"engagementAsyncOperation.credentialNeeded\""), "{body}");
        assert!(body.contains("\"reason\":\"tokenExpired\""), "{body}");
        assert!(!body.contains("outcome"), "{body}");
    }
}
