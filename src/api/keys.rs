//! `/v1/keys`: a caller's API keys.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::{Caller, new_api_key};
use super::body::Segment;
use super::problem::{Kind, Problem, ProblemBody};
use crate::store::CallerName;

/// An API key without what it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    id: String,
    created_at: String,
}

/// All keys of a caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeys)]
pub(super) struct Listed {
    /// Oldest first.
    keys: Vec<KeyView>,
}

/// A key that was just made, and the only sight of it.
#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    id: String,
    /// Shown this once.
    api_key: String,
}

/// Lists your API keys.
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "listKeys",
    tag = "settings",
    security(("apiKey" = [])),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Caller,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(caller): Caller,
) -> Result<Json<Listed>, Problem> {
    let keys = api.directory.keys(&caller).await?.unwrap_or_default();
    let view =
        |key: crate::store::ApiKey| KeyView { id: key.id, created_at: key.created_at.to_string() };
    Ok(Json(Listed { keys: keys.into_iter().map(view).collect() }))
}

/// Makes another API key. It is shown this once.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "createKey",
    tag = "settings",
    security(("apiKey" = [])),
    responses(
        (status = 201, description = "Made", body = Created),
        Caller,
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Caller(caller): Caller,
) -> Result<(StatusCode, Json<Created>), Problem> {
    add(&api, &caller).await
}

/// Makes a key for `caller`, whoever asked for it.
pub(super) async fn add(
    api: &Api,
    caller: &CallerName,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let (secret, key) = new_api_key(api.clock.now()).map_err(|error| {
        tracing::error!(error = %error, "the operating system has no random numbers");
        Problem::new(Kind::Internal)
    })?;
    let id = key.id.clone();
    if !api.directory.add_key(caller, key).await? {
        return Err(Problem::no_such_caller());
    }
    tracing::info!(caller = %caller, key = id, "made key {id} for {caller}");
    let api_key = secret.expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(Created { id, api_key })))
}

/// Revokes an API key at once.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revokeKey",
    tag = "settings",
    security(("apiKey" = [])),
    params(("id" = String, Path, description = "As the list has it")),
    responses(
        (status = 204, description = "Revoked"),
        Caller,
        (status = 404, description = "You have no such key", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    Caller(caller): Caller,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    if !api.directory.revoke_key(&caller, &id).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    tracing::info!(caller = %caller, key = id, "revoked key {id} of {caller}");
    Ok(StatusCode::NO_CONTENT)
}
