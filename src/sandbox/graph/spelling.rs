//! How Graph spells things: operations, errors, times, and the headers on every answer.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, DATE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::sandbox::world::{Operation, Shared};
use crate::sandbox::{Version, http_date, root_as_seen};

/// One request and its answer, as far as both have headers in common.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Of the sandbox, by the name under which it was asked.
    pub(super) root: String,
    request_id: String,
    client_request_id: HeaderValue,
    /// Whether `Prefer: include-unknown-enum-members` came along.
    knows_new_members: bool,
    now: Timestamp,
}

/// An error as Graph words it. Nobody is to branch on the message.
#[derive(Clone, Debug)]
pub(super) struct GraphError {
    http: StatusCode,
    code: Cow<'static, str>,
    message: &'static str,
}

/// What Graph sends with JSON. A client that looks for `application/json` alone will stumble.
const JSON_OF_GRAPH: &str = "application/json;odata.metadata=minimal;odata.streaming=true;\
                             IEEE754Compatible=false;charset=utf-8";

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
const DIAGNOSTIC: HeaderName = HeaderName::from_static("x-ms-ags-diagnostic");

impl Exchange {
    pub(super) fn new(shared: &Shared, head: &Parts, now: Timestamp) -> Self {
        let request_id = shared.world().uuid().to_string();
        let client_request_id = head.headers.get(CLIENT_REQUEST_ID).cloned();
        let preferences = head.headers.get_all("prefer").iter();
        Self {
            root: root_as_seen(shared, &head.headers),
            // Where the client names none, Graph puts its own name for the request here as well.
            client_request_id: client_request_id
                .or_else(|| HeaderValue::from_str(&request_id).ok())
                .unwrap_or(HeaderValue::from_static("")),
            request_id,
            knows_new_members: preferences
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|word| word.trim().eq_ignore_ascii_case("include-unknown-enum-members")),
            now,
        }
    }

    /// `response` with the headers that stand on every answer of Graph.
    pub(super) fn dress(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(request_id) = HeaderValue::from_str(&self.request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        headers.insert(CLIENT_REQUEST_ID, self.client_request_id.clone());
        let server = r#"{"ServerInfo":{"DataCenter":"Sandbox","Slice":"E","Ring":"1","ScaleUnit":"000","RoleInstance":"SANDBOX"}}"#;
        headers.insert(DIAGNOSTIC, HeaderValue::from_static(server));
        headers.insert(DATE, http_date(self.now));
        response
    }

    pub(super) fn refuse(&self, error: &GraphError) -> Response {
        let mut response = if error.http == StatusCode::TOO_MANY_REQUESTS {
            (error.http, Json(self.throttled(&error.code))).into_response()
        } else {
            (error.http, Json(self.error_body(error))).into_response()
        };
        if error.http == StatusCode::UNAUTHORIZED {
            let challenge = format!(
                r#"Bearer realm="", authorization_uri="{}/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000""#,
                self.root,
            );
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
        }
        self.dress(response)
    }

    /// The operation as Graph answers it through `version` of its API.
    pub(super) fn spell(
        &self,
        version: Version,
        id: &str,
        operation: &Operation,
        http: StatusCode,
        status: Option<&str>,
        detail: Option<&str>,
    ) -> Response {
        let succeeded = status.is_some_and(|word| word.eq_ignore_ascii_case("succeeded"));
        let resource_id = succeeded.then_some(operation.resource_id.as_str());
        let collection = format!("{}/{}/employeeExperience", self.root, version.as_str());
        // In finished samples the last action stands microseconds after the creation.
        let last_action_at = operation
            .created_at
            .checked_add(SignedDuration::from_nanos(34_100))
            .unwrap_or(operation.created_at);
        let body = OperationBody {
            context: match version {
                Version::V1 => Some(format!("{collection}/engagementAsyncOperations/$entity")),
                Version::Beta => None,
            },
            id,
            created_date_time: date_time(version, operation.created_at),
            last_action_date_time: date_time(version, last_action_at),
            status: status.map(|word| self.known_member(word)),
            status_detail: detail,
            resource_location: resource_id.map(|id| format!("{collection}/communities('{id}')")),
            operation_type: "createCommunity",
            resource_id,
        };
        let mut response = (http, Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON_OF_GRAPH));
        if self.knows_new_members {
            let applied = HeaderValue::from_static("include-unknown-enum-members");
            response.headers_mut().insert("preference-applied", applied);
        }
        self.dress(response)
    }

    /// Members that were added to the enumeration later reach only those who say they are ready.
    fn known_member<'a>(&self, word: &'a str) -> &'a str {
        let first_members = ["notStarted", "running", "succeeded", "failed"];
        let is_first = first_members.iter().any(|member| member.eq_ignore_ascii_case(word));
        if is_first || self.knows_new_members { word } else { "unknownFutureValue" }
    }

    fn error_body<'a>(&'a self, error: &'a GraphError) -> ErrorBody<ErrorMembers<'a>> {
        ErrorBody {
            error: ErrorMembers {
                code: &error.code,
                message: error.message,
                inner_error: InnerError {
                    date: self.date(),
                    request_id: &self.request_id,
                    client_request_id: String::from_utf8_lossy(self.client_request_id.as_bytes()),
                },
            },
        }
    }

    /// The body of a 429 is of another make: it comes from the workload's gate, not from Graph's.
    fn throttled<'a>(&'a self, code: &'a str) -> ErrorBody<ThrottledMembers<'a>> {
        ErrorBody {
            error: ThrottledMembers {
                code,
                inner_error: ThrottledInnerError {
                    code: "429",
                    date: self.date(),
                    message: "Please retry after",
                    request_id: &self.request_id,
                    status: "429",
                },
                message: "Please retry again later.",
            },
        }
    }

    fn date(&self) -> String {
        self.now.strftime("%Y-%m-%dT%H:%M:%S").to_string()
    }
}

impl GraphError {
    pub(super) const NO_TOKEN: Self = Self::unauthenticated("Access token is empty.");
    pub(super) const UNKNOWN_TOKEN: Self =
        Self::unauthenticated("CompactToken parsing failed with error code: 80049217");
    pub(super) const EXPIRED_TOKEN: Self =
        Self::unauthenticated("Lifetime validation failed, the token is expired.");
    pub(super) const WRONG_AUDIENCE: Self =
        Self::unauthenticated("Access token validation failure. Invalid audience.");
    pub(super) const NO_SUCH_SEGMENT: Self =
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", "Resource not found for the segment.");

    /// What Graph says with this code.
    pub(super) fn of(http: StatusCode) -> Self {
        let (code, message) = match http.as_u16() {
            400 => ("BadRequest", "The request is malformed or incorrect."),
            401 => return Self::UNKNOWN_TOKEN,
            403 => ("Forbidden", "Access is denied to the requested resource."),
            404 => ("NotFound", "The requested resource does not exist."),
            405 => ("MethodNotAllowed", "The HTTP method is not allowed on the resource."),
            409 => ("Conflict", "The current state conflicts with what the request expects."),
            410 => ("Gone", "The requested resource is no longer available at the server."),
            413 => ("RequestEntityTooLarge", "The request size exceeds the maximum limit."),
            423 => ("Locked", "The resource that is being accessed is locked."),
            429 => ("TooManyRequests", "Please retry again later."),
            500 => ("InternalServerError", "There was an internal server error."),
            502 => ("BadGateway", "The server received an invalid response upstream."),
            503 => ("ServiceUnavailable", "The service is temporarily unavailable."),
            504 => ("GatewayTimeout", "The server did not receive a timely response upstream."),
            509 => ("BandwidthLimitExceeded", "Your app has exceeded the bandwidth cap."),
            _ => ("UnknownError", ""),
        };
        Self::new(http, code, message)
    }

    /// The same error under another word, if there is one.
    pub(super) fn called(self, word: Option<&str>) -> Self {
        match word {
            Some(word) => Self { code: Cow::Owned(word.to_owned()), ..self },
            None => self,
        }
    }

    const fn unauthenticated(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message)
    }

    const fn new(http: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { http, code: Cow::Borrowed(code), message }
    }
}

/// Both forms stand in Microsoft's samples, and nobody is to mind which one comes.
fn date_time(version: Version, at: Timestamp) -> String {
    match version {
        Version::V1 => {
            let pacific = TimeZone::fixed(Offset::constant(-8));
            at.to_zoned_datetime(pacific).strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()
        }
        Version::Beta => at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string(),
    }
}

/// The members in Graph's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationBody<'a> {
    #[serde(rename = "@odata.context", skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    id: &'a str,
    created_date_time: String,
    last_action_date_time: String,
    status: Option<&'a str>,
    status_detail: Option<&'a str>,
    resource_location: Option<String>,
    operation_type: &'static str,
    resource_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ErrorBody<M> {
    error: M,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorMembers<'a> {
    code: &'a str,
    message: &'static str,
    inner_error: InnerError<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct InnerError<'a> {
    date: String,
    request_id: &'a str,
    client_request_id: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ThrottledMembers<'a> {
    code: &'a str,
    inner_error: ThrottledInnerError<'a>,
    message: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ThrottledInnerError<'a> {
    code: &'static str,
    date: String,
    message: &'static str,
    request_id: &'a str,
    status: &'static str,
}
