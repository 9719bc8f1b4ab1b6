//! The problem catalogue: everything that can be wrong with a request, in one table (RFC 9457).

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::{self, ContentBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder, Type};

use crate::store::StoreError;

/// The stem of every problem's `type`; a name, not an address.
const TYPE_STEM: &str = "urn:engagement-bridge:problem:";

const MEDIA_TYPE: &str = "application/problem+json";

/// How long a caller should wait where the store is in trouble, in seconds.
const STORE_RETRY_AFTER: u32 = 5;

/// A kind of problem. Its name, title and status never change; new kinds may come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    MalformedBody,
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    BodyTooLarge,
    UnsupportedMediaType,
    IdempotencyKeyReused,
    TooManyOperations,
    TooManyRequests,
    TooManyAttempts,
    Internal,
    StoreUnavailable,
    InteractionRequired,
    ConsentRequired,
    OperatorMustAct,
    AuthorityUnavailable,
    HttpsRequired,
}

impl Kind {
    pub const ALL: [Self; 21] = [
        Self::MalformedBody,
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::TooManyOperations,
        Self::TooManyRequests,
        Self::TooManyAttempts,
        Self::Internal,
        Self::StoreUnavailable,
        Self::InteractionRequired,
        Self::ConsentRequired,
        Self::OperatorMustAct,
        Self::AuthorityUnavailable,
        Self::HttpsRequired,
    ];

    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedBody => {
                ("malformed-body", StatusCode::BAD_REQUEST, "The body is not JSON")
            }
            Self::InvalidRequest => (
                "invalid-request",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Something in the request is not as it must be; nothing was done",
            ),
            Self::Unauthenticated => {
                ("unauthenticated", StatusCode::UNAUTHORIZED, "No valid key was given")
            }
            Self::Forbidden => {
                ("forbidden", StatusCode::FORBIDDEN, "The key that was given is not for this")
            }
            Self::NotFound => {
                ("not-found", StatusCode::NOT_FOUND, "There is nothing of yours at this address")
            }
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "This address does not take that method",
            ),
            Self::RequestTimeout => {
                ("request-timeout", StatusCode::REQUEST_TIMEOUT, "The request took too long")
            }
            Self::Conflict => {
                ("conflict", StatusCode::CONFLICT, "That is not possible as things stand")
            }
            Self::BodyTooLarge => {
                ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large")
            }
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/json",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used for another request",
            ),
            Self::TooManyOperations => (
                "too-many-operations",
                StatusCode::TOO_MANY_REQUESTS,
                "You have as many live operations as you may have",
            ),
            Self::TooManyRequests => {
                ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "You are asking too often")
            }
            Self::TooManyAttempts => (
                "too-many-attempts",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many wrong keys came from your address",
            ),
            Self::InteractionRequired => {
                ("interaction-required", StatusCode::UNAUTHORIZED, "The user must sign in again")
            }
            Self::ConsentRequired => (
                "consent-required",
                StatusCode::FORBIDDEN,
                "Consent is missing to act for the user",
            ),
            Self::OperatorMustAct => (
                "operator-must-act",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The operator of the bridge must act",
            ),
            Self::AuthorityUnavailable => (
                "authority-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Microsoft Entra cannot be asked right now",
            ),
            Self::HttpsRequired => {
                ("https-required", StatusCode::BAD_REQUEST, "This address speaks HTTPS only")
            }
            Self::Internal => {
                ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side")
            }
            Self::StoreUnavailable => (
                "store-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The database cannot do this right now",
            ),
        }
    }

    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// The `type` member: a URI that stays the same for good.
    pub fn uri(self) -> String {
        format!("{TYPE_STEM}{}", self.row().0)
    }
}

/// What is wrong, for the one who asked.
#[derive(Debug)]
pub struct Problem {
    pub kind: Kind,
    pub detail: Option<Cow<'static, str>>,
    pub errors: Vec<FieldError>,
    /// In seconds.
    pub retry_after: Option<u32>,
    /// What Entra wants of the user, as JSON: a claims challenge.
    pub claims: Option<String>,
}

/// What is wrong with one part of the request.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FieldError)]
pub struct FieldError {
    /// The member of the body, query parameter or header at fault.
    #[schema(example = "callbackUrl")]
    pub field: Cow<'static, str>,
    /// Why, as a word that stays the same.
    #[schema(example = "addressRefused")]
    pub code: Cow<'static, str>,
    /// Why, as a sentence.
    pub detail: Cow<'static, str>,
}

/// Responses in the OpenAPI document.
pub(super) type Responses = BTreeMap<String, RefOr<openapi::Response>>;

/// What stands for every kind that an endpoint does not tell of by name.
const ANY: &str = "problem";

/// The responses of an endpoint that may answer with these kinds, by status.
pub(super) fn documented<const N: usize>(kinds: [Kind; N]) -> Responses {
    let refer = |name: &str| Ref::from_response_name(name).into();
    let mut responses = Responses::from([("default".to_owned(), refer(ANY))]);
    for kind in kinds {
        let (name, status, _) = kind.row();
        responses.insert(status.as_str().to_owned(), refer(name));
    }
    responses
}

/// The whole catalogue, by the names that [`documented`] refers to.
pub(super) fn catalogue() -> Responses {
    let problem = |description| {
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        ResponseBuilder::new().description(description).content(MEDIA_TYPE, content)
    };
    let mut responses = Responses::new();
    for kind in Kind::ALL {
        let (name, _, title) = kind.row();
        let mut response = problem(title);
        if matches!(
            kind,
            Kind::TooManyRequests
                | Kind::TooManyAttempts
                | Kind::StoreUnavailable
                | Kind::AuthorityUnavailable
        ) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer);
            let when = HeaderBuilder::new().schema(Some(seconds));
            let when = when.description(Some("When to try again, in seconds"));
            response = response.header("Retry-After", when.build());
        }
        responses.insert(name.to_owned(), response.into());
    }
    let any = problem("Something else is wrong; the `type` says what");
    responses.insert(ANY.to_owned(), any.into());
    responses
}

/// A problem as it is sent: `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Names the kind of problem, for good.
    #[serde(rename = "type")]
    #[schema(example = "urn:engagement-bridge:problem:invalid-request")]
    kind: String,
    title: &'static str,
    /// The HTTP status, once more.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    detail: Option<Cow<'static, str>>,
    /// Every fault that was found, not only the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl FieldError {
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), code: code.into(), detail: detail.into() }
    }
}

impl Problem {
    pub fn new(kind: Kind) -> Self {
        Self { kind, detail: None, errors: Vec::new(), retry_after: None, claims: None }
    }

    pub fn with_detail(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(kind) }
    }

    /// Something in the request is at fault, and this is all of it.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(Kind::InvalidRequest) }
    }

    /// The operator named a caller that there is not.
    pub fn no_such_caller() -> Self {
        Self::with_detail(Kind::NotFound, "There is no caller of that name.")
    }

    /// One field is at fault.
    pub fn field(
        field: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::invalid(vec![FieldError::new(field, code, detail)])
    }
}

impl From<StoreError> for Problem {
    /// Tells the operator what is wrong with the store, and the caller only that it is.
    fn from(error: StoreError) -> Self {
        tracing::error!(
            error = %error.in_full(),
            "the store could not serve a request"
        );
        match error {
            StoreError::Inconsistent { .. } => Self::new(Kind::Internal),
            StoreError::Full(_)
            | StoreError::ReadOnly(_)
            | StoreError::Damaged(_)
            | StoreError::Locked(_)
            | StoreError::Unavailable(_)
            | StoreError::Overloaded
            | StoreError::Closed => {
                Self { retry_after: Some(STORE_RETRY_AFTER), ..Self::new(Kind::StoreUnavailable) }
            }
        }
    }
}

/// How to authenticate; with a claims challenge as Microsoft's client libraries read it
/// (<https://learn.microsoft.com/entra/identity-platform/claims-challenge>).
fn challenge(claims: Option<&str>) -> HeaderValue {
    let plain = HeaderValue::from_static("Bearer");
    let Some(claims) = claims else { return plain };
    let claims = STANDARD.encode(claims);
    let challenge =
        format!("Bearer realm=\"\", error=\"insufficient_claims\", claims=\"{claims}\"");
    HeaderValue::try_from(challenge).unwrap_or(plain)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, title) = self.kind.row();
        let body = ProblemBody {
            kind: self.kind.uri(),
            title,
            status: status.as_u16(),
            detail: self.detail,
            errors: self.errors,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, challenge(self.claims.as_deref()));
        }
        response
    }
}
