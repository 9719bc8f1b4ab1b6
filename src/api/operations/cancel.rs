//! `DELETE /v1/operations/{id}`

use axum::Json;
use axum::extract::State;

use super::view::OperationView;
use super::{Changed, at_rest, change};
use crate::api::Api;
use crate::api::access::{Caller, Register};
use crate::api::body::Segment;
use crate::api::problem::{Kind, Problem, ProblemBody};
use crate::operation::{self, Event};

/// Stops tracking an operation. Graph goes on with it, and no callback will be sent.
#[utoipa::path(
    delete,
    path = "/v1/operations/{id}",
    operation_id = "cancelOperation",
    tag = "operations",
    security(("apiKey" = ["register"])),
    params(("id" = String, Path, description = "As the registration answered it")),
    responses(
        (status = 200, description = "Cancelled, now or before", body = OperationView),
        Caller<Register>,
        (status = 404, description = "You have no such operation", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It has ended already", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn cancel(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Register>,
    Segment(id): Segment,
) -> Result<Json<OperationView>, Problem> {
    match change(&api, &caller, &id, Event::CancelRequested, None).await? {
        Changed::Saved(tracked) => Ok(Json(OperationView::of(&tracked))),
        Changed::Ignored(tracked) => match tracked.operation.state {
            operation::State::Cancelled { .. } => Ok(Json(OperationView::of(&tracked))),
            operation::State::Settled { .. }
            | operation::State::Watching(_)
            | operation::State::Blocked { .. } => Err(at_rest(&tracked.operation)),
        },
        Changed::CredentialGone => Err(Problem::new(Kind::Internal)),
    }
}
