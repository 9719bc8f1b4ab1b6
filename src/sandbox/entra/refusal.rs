//! How Entra refuses: the OAuth word to act on, and the AADSTS number for people.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::sandbox::world::Shared;
use crate::sandbox::{Full, http_date};

/// Why no token is handed out, in the words for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("The request body must contain the following parameter: '{0}'.")]
    MissingParameter(&'static str),
    #[error("The value of the parameter '{0}' is not valid.")]
    InvalidParameter(&'static str),
    #[error("The app requested an unsupported grant type '{0}'.")]
    UnsupportedGrantType(String),
    #[error("Tenant '{0}' not found.")]
    UnknownTenant(String),
    #[error("Application with identifier '{client_id}' was not found in the directory '{tenant}'.")]
    UnknownClient { client_id: String, tenant: String },
    #[error(
        "The request body must contain the following parameter: 'client_assertion' or \
         'client_secret'."
    )]
    NoClientSecret,
    #[error("Invalid client secret provided for the app '{0}'.")]
    WrongClientSecret(String),
    #[error("JWT token is invalid or malformed.")]
    MalformedAssertion,
    #[error("No matching federated identity record found for presented assertion.")]
    NotFederated,
    #[error(
        "The certificate with identifier used to sign the client assertion is not registered on \
         application."
    )]
    UnknownCertificate,
    #[error("Client assertion failed signature validation.")]
    BadSignature,
    #[error("Client assertion audience claim does not match Realm issuer.")]
    AssertionAudience,
    #[error("Client assertion application identifier doesn't match 'client_id' parameter.")]
    AssertionIssuer,
    #[error("Client assertion is not within its valid time range.")]
    AssertionTime,
    /// Entra need not notice; a client that counts on that has a fault.
    #[error("Client assertion contains a 'jti' that was used before.")]
    ReusedAssertion,
    #[error("The provided value for scope {0} is not valid.")]
    InvalidScope(String),
    /// An app can only ask for all that it was granted.
    #[error(
        "The provided value for scope {0} is not valid. Client credential flows must have a scope \
         value with /.default suffixed to the resource identifier."
    )]
    NotTheDefaultScope(String),
    #[error("The resource principal named {0} was not found in the tenant.")]
    InvalidResource(String),
    #[error("Assertion failed signature validation.")]
    AssertionInvalid,
    #[error("Assertion is not within its valid time range.")]
    AssertionExpired,
    #[error("Assertion audience does not match the Client app presenting the assertion.")]
    AssertionForAnother,
    #[error("Provided grant is invalid or malformed.")]
    RefreshTokenInvalid,
    #[error("The refresh token has expired due to inactivity.")]
    RefreshTokenExpired,
    #[error("{TRANSIENT}")]
    Full(#[from] Full),
}

/// What names one exchange to Microsoft's support.
pub(super) struct Exchange {
    trace_id: Uuid,
    correlation_id: Uuid,
    now: Timestamp,
}

impl Refusal {
    /// The status, the OAuth word and the AADSTS number.
    fn terms(&self) -> (StatusCode, &'static str, u32) {
        let bad = StatusCode::BAD_REQUEST;
        let unauthorized = StatusCode::UNAUTHORIZED;
        match self {
            Self::MissingParameter(_) => (bad, "invalid_request", 900_144),
            Self::InvalidParameter(_) => (bad, "invalid_request", 900_023),
            Self::UnsupportedGrantType(_) => (bad, "unsupported_grant_type", 70_003),
            Self::UnknownTenant(_) => (bad, "invalid_request", 90_002),
            Self::UnknownClient { .. } => (bad, "unauthorized_client", 700_016),
            Self::NoClientSecret => (unauthorized, "invalid_client", 7_000_218),
            Self::WrongClientSecret(_) => (unauthorized, "invalid_client", 7_000_215),
            Self::MalformedAssertion => (unauthorized, "invalid_client", 50_027),
            Self::NotFederated => (unauthorized, "invalid_client", 700_213),
            Self::UnknownCertificate | Self::BadSignature | Self::ReusedAssertion => {
                (unauthorized, "invalid_client", 700_027)
            }
            Self::AssertionAudience => (unauthorized, "invalid_client", 700_023),
            Self::AssertionIssuer => (unauthorized, "invalid_client", 700_021),
            Self::AssertionTime => (unauthorized, "invalid_client", 700_024),
            Self::InvalidScope(_) => (bad, "invalid_scope", 70_011),
            Self::NotTheDefaultScope(_) => (bad, "invalid_scope", 1_002_012),
            Self::InvalidResource(_) => (bad, "invalid_resource", 500_011),
            Self::AssertionInvalid => (bad, "invalid_grant", 50_013),
            Self::AssertionExpired => (bad, "invalid_grant", 500_133),
            Self::AssertionForAnother => (bad, "invalid_grant", 500_131),
            Self::RefreshTokenInvalid => (bad, "invalid_grant", 70_000),
            Self::RefreshTokenExpired => (bad, "invalid_grant", 700_082),
            Self::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", 90_033),
        }
    }
}

/// A conditional access policy's challenge, as it is to be handed on to the client.
const CLAIMS: &str = r#"{"access_token":{"polids":{"essential":true,"values":["9ab03e19-ed42-4168-b6b7-7001fb3e933a"]}}}"#;

const TRANSIENT: &str = "A transient error has occurred. Please try again.";

impl Exchange {
    /// The correlation id is the client's own, where it sent a UUID as `client-request-id`.
    pub(super) fn new(shared: &Shared, head: &Parts, now: Timestamp) -> Self {
        let sent = head.headers.get("client-request-id").and_then(|value| value.to_str().ok());
        let mut world = shared.world();
        Self {
            trace_id: world.uuid(),
            correlation_id: sent
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| world.uuid()),
            now,
        }
    }

    pub(super) fn refuse(&self, refusal: &Refusal) -> Response {
        if let Refusal::Full(full) = refusal {
            tracing::warn!("no room for a new token: {full}");
        }
        let (http, error, number) = refusal.terms();
        self.response(http, error, number, &refusal.to_string())
    }

    /// What a script says with a code, and with `error` unless the usual word is wanted.
    pub(super) fn scripted(&self, http: StatusCode, error: Option<&str>) -> Response {
        let usual = match http.as_u16() {
            401 => "invalid_client",
            429 | 500.. => "temporarily_unavailable",
            _ => "invalid_grant",
        };
        let error = error.unwrap_or(usual);
        let (number, text) = match error {
            "temporarily_unavailable" => (90_033, TRANSIENT),
            "invalid_client" => (7_000_215, "Invalid client secret provided."),
            "unauthorized_client" => (700_016, "The application was not found in the directory."),
            "invalid_grant" => (70_000, "Provided grant is invalid or malformed."),
            "interaction_required" => (50_076, "You must use multi-factor authentication."),
            "consent_required" => (65_001, "The user has not consented to use the application."),
            "invalid_scope" => (70_011, "The provided value for scope is not valid."),
            "invalid_resource" => (500_011, "The resource principal was not found in the tenant."),
            _ => (50_000, "There was an error issuing a token."),
        };
        self.response(http, error, number, text)
    }

    fn response(&self, http: StatusCode, error: &str, number: u32, text: &str) -> Response {
        let Self { trace_id, correlation_id, now } = self;
        let timestamp = now.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let body = RefusalBody {
            error,
            error_description: format!(
                "AADSTS{number}: {text} Trace ID: {trace_id} Correlation ID: {correlation_id} \
                 Timestamp: {timestamp}"
            ),
            error_codes: [number],
            timestamp,
            trace_id: trace_id.to_string(),
            correlation_id: correlation_id.to_string(),
            claims: (error == "interaction_required").then_some(CLAIMS),
        };
        let mut response = (http, Json(body)).into_response();
        response
            .headers_mut()
            .insert("cache-control", HeaderValue::from_static("no-store, no-cache"));
        response.headers_mut().insert("date", http_date(self.now));
        response
    }
}

#[derive(Serialize)]
struct RefusalBody<'a> {
    error: &'a str,
    error_description: String,
    error_codes: [u32; 1],
    timestamp: String,
    trace_id: String,
    correlation_id: String,
    /// What the user has to prove before there is a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<&'a str>,
}
