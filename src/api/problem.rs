//! The problem catalogue: everything that can be wrong with a request, in one table (RFC 9457).

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

/// The stem of every problem's `type`; a name, not an address.
const TYPE_STEM: &str = "urn:engagement-bridge:problem:";

/// How long a caller should wait where the store is in trouble, in seconds.
const STORE_RETRY_AFTER: u32 = 5;

/// A kind of problem. Its name, title and status never change; new kinds may come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    MalformedBody,
    InvalidRequest,
    Unauthenticated,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    BodyTooLarge,
    UnsupportedMediaType,
    IdempotencyKeyReused,
    TooManyOperations,
    TooManyRequests,
    Internal,
    StoreUnavailable,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::MalformedBody,
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::TooManyOperations,
        Self::TooManyRequests,
        Self::Internal,
        Self::StoreUnavailable,
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
            Self::Internal => {
                ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side")
            }
            Self::StoreUnavailable => (
                "store-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The database cannot do this right now; nothing was done",
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
        Self { kind, detail: None, errors: Vec::new(), retry_after: None }
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
            error = &error as &(dyn std::error::Error + 'static),
            "the store could not serve a request"
        );
        match error {
            StoreError::Inconsistent { .. } => Self::new(Kind::Internal),
            StoreError::Full(_)
            | StoreError::ReadOnly(_)
            | StoreError::Locked(_)
            | StoreError::Unavailable(_)
            | StoreError::Overloaded
            | StoreError::Closed => {
                Self { retry_after: Some(STORE_RETRY_AFTER), ..Self::new(Kind::StoreUnavailable) }
            }
        }
    }
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
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
