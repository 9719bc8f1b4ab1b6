//! `/v1/callback-settings` and `/v1/callback-headers/…`: how a caller's callbacks are sent.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::access::{Caller, Manage, Read};
use super::body::{self, Segment, word};
use super::problem::{Kind, Problem, ProblemBody};
use super::words::Format;
use crate::courier::{ExtraHeader, InvalidHeader};

/// Extra headers of a caller at the most.
const MOST_HEADERS: u32 = 16;

/// How your callbacks are sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CallbackSettings)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    /// What the body looks like where a registration does not say.
    format: Format,
    /// The names of the headers that go with every callback, in their order. Their values are not
    /// shown again.
    headers: Vec<String>,
}

/// How callbacks of registrations to come are to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewCallbackSettings)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    /// What the body looks like where a registration does not say.
    #[serde(deserialize_with = "word")]
    format: Format,
}

/// What a header is to say.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CallbackHeader)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// Visible ASCII characters, with spaces between them only. Not shown again.
    #[schema(value_type = String, min_length = 1, max_length = 2048, pattern = "^[!-~]([ -~]*[!-~])?$")]
    value: SecretString,
}

/// Tells how your callbacks are sent.
#[utoipa::path(
    get,
    path = "/v1/callback-settings",
    operation_id = "inspectCallbackSettings",
    tag = "settings",
    security(("apiKey" = ["read"])),
    responses(
        (status = 200, description = "As they stand", body = Settings),
        Caller<Read>,
    )
)]
pub(super) async fn inspect(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
) -> Result<Json<Settings>, Problem> {
    let found = api.directory.callback_settings(&caller).await?;
    let found = found.ok_or_else(|| Problem::new(Kind::NotFound))?;
    Ok(Json(Settings { format: found.format.into(), headers: found.extra_headers }))
}

/// Changes how the callbacks of registrations to come are sent. What is registered already stays as
/// it is.
#[utoipa::path(
    put,
    path = "/v1/callback-settings",
    operation_id = "changeCallbackSettings",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    request_body = Request,
    responses(
        (status = 204, description = "Changed"),
        Caller<Manage>,
        body::Json<Request>,
    )
)]
pub(super) async fn change(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    body::Json(request): body::Json<Request>,
) -> Result<StatusCode, Problem> {
    let format = crate::courier::Format::from(request.format);
    if !api.directory.set_default_format(&caller, format).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    let word = format.as_str();
    tracing::info!(caller = %caller, format = word, "callbacks of {caller} are in {word} by default");
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a header with every callback from the next attempt on, wherever it goes; such as what your
/// gateway asks for. Not one of the bridge's own (`webhook-…`, `bridge-…`, `traceparent`) or of HTTP's
/// (`host`, `content-…`, `connection` and the like).
#[utoipa::path(
    put,
    path = "/v1/callback-headers/{header}",
    operation_id = "setCallbackHeader",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("header" = String, Path, description = "The header's name, in whatever case")),
    request_body = Header,
    responses(
        (status = 204, description = "Set"),
        Caller<Manage>,
        body::Json<Header>,
        (status = 404, description = "What the path ends with is no text", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "You have as many others as you may have", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_header(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(name): Segment,
    body::Json(request): body::Json<Header>,
) -> Result<StatusCode, Problem> {
    let header = ExtraHeader::new(&name, request.value).map_err(|invalid| {
        let (field, code) = match invalid {
            InvalidHeader::Name => ("header", "invalid"),
            InvalidHeader::Reserved => ("header", "reserved"),
            InvalidHeader::Value => ("value", "invalid"),
        };
        Problem::field(field, code, invalid.to_string())
    })?;
    match api.directory.set_extra_header(&caller, &header, MOST_HEADERS).await? {
        None => return Err(Problem::new(Kind::NotFound)),
        Some(false) => {
            let detail = format!("You have {MOST_HEADERS} others: remove one first.");
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        Some(true) => {}
    }
    let name = header.name();
    tracing::info!(caller = %caller, header = name, "callbacks of {caller} carry {name}");
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a header no more.
#[utoipa::path(
    delete,
    path = "/v1/callback-headers/{header}",
    operation_id = "removeCallbackHeader",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("header" = String, Path, description = "The header's name, in whatever case")),
    responses(
        (status = 204, description = "Removed"),
        Caller<Manage>,
        (status = 404, description = "You have no such header", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove_header(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    let name = name.to_ascii_lowercase();
    if !api.directory.remove_extra_header(&caller, &name).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    tracing::info!(caller = %caller, header = name, "callbacks of {caller} no longer carry {name}");
    Ok(StatusCode::NO_CONTENT)
}
