//! `GET /v1/operations/{id}`

use axum::Json;
use axum::extract::State;

use super::view::{CallbackView, DetailedView};
use crate::api::Api;
use crate::api::access::{Caller, Read};
use crate::api::body::Segment;
use crate::api::problem::{Problem, ProblemBody};
use crate::store::{CallbackFilter, Page};

/// Callbacks shown with an operation. It owes one, and a notice now and then.
const CALLBACKS: u32 = 20;

/// Attempts shown with each callback.
const ATTEMPTS: u32 = 20;

/// Shows an operation: state, outcome, Graph's last word, and what was told to the receiver.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}",
    operation_id = "inspectOperation",
    tag = "operations",
    security(("apiKey" = ["read"])),
    params(("id" = String, Path, description = "As the registration answered it")),
    responses(
        (status = 200, description = "As it stands", body = DetailedView),
        Caller<Read>,
        (status = 404, description = "You have no such operation", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn inspect(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
    Segment(id): Segment,
) -> Result<Json<DetailedView>, Problem> {
    let tracked = super::find(&api, &caller, &id).await?;
    let filter = CallbackFilter { operation: Some(tracked.operation.id), ..Default::default() };
    let page = Page { after: None, limit: CALLBACKS };
    let mut callbacks = Vec::new();
    for stored in api.store.callbacks(&caller, filter, page).await? {
        let attempts = api.store.attempts(stored.callback.id, ATTEMPTS).await?;
        callbacks.push(CallbackView::of(&stored, Some(&attempts)));
    }
    Ok(Json(DetailedView::of(&tracked, callbacks)))
}
