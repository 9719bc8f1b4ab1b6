//! For probes: is the process alive, and is it of use?

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::operation::elapsed;

/// How long the store may take to say when something is due.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Readiness {
    /// `ready`, `storeUnavailable` or `overdue`.
    status: &'static str,
    /// For how long the longest waiting step that could be taken has been due, in seconds.
    oldest_due_seconds: u64,
}

/// The process answers. Nothing else is looked at.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 204, description = "Alive"))
)]
pub(super) async fn alive() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The store answers, and what is due is being done.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready, and why", body = Readiness),
    )
)]
pub(super) async fn ready(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let not_ready = |status, oldest_due_seconds| {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { status, oldest_due_seconds }))
    };
    let Ok(Ok(next_due)) = tokio::time::timeout(PATIENCE, api.store.next_due()).await else {
        return not_ready("storeUnavailable", 0);
    };
    let overdue = next_due.map_or(Duration::ZERO, |due| elapsed(due, api.clock.now()));
    let oldest_due_seconds = overdue.as_secs();
    if overdue > api.limits.longest_overdue {
        return not_ready("overdue", oldest_due_seconds);
    }
    (StatusCode::OK, Json(Readiness { status: "ready", oldest_due_seconds }))
}

/// The OpenAPI document as it is sent.
pub(super) fn json_document(json: String) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], json).into_response()
}
