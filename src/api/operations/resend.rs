//! `POST /v1/operations/{id}/resend`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::view::CallbackView;
use super::{TRIES, find};
use crate::api::Api;
use crate::api::access::{Caller, Register};
use crate::api::body::Segment;
use crate::api::problem::{Kind, Problem, ProblemBody};
use crate::callback::{self, CallbackId, Decision, Destination, Event};
use crate::store::{Amended, Amendment, StoredCallback};

/// Sends the final callback again, on the usual schedule, with the same `webhook-id`. Asking twice
/// sends it once. If its destination was gone, it is not any more.
#[utoipa::path(
    post,
    path = "/v1/operations/{id}/resend",
    operation_id = "resendCallback",
    tag = "operations",
    security(("apiKey" = ["register"])),
    params(("id" = String, Path, description = "As the registration answered it")),
    responses(
        (status = 202, description = "It will be sent", body = CallbackView),
        Caller<Register>,
        (status = 404, description = "You have no such operation", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It owes no final callback, or one whose body is not kept any \
            more", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn resend(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Register>,
    Segment(id): Segment,
) -> Result<(StatusCode, Json<CallbackView>), Problem> {
    let tracked = find(&api, &caller, &id).await?;
    if tracked.operation.outcome().is_none() {
        let detail = "The operation has no outcome that could be told.";
        return Err(Problem::with_detail(Kind::Conflict, detail));
    }
    // The final callback is the last one that an operation ever owes.
    let id = CallbackId { operation: tracked.operation.id, number: tracked.operation.callbacks };
    for _ in 0..TRIES {
        let found = api.store.callback(id).await?;
        let stored = found.ok_or_else(|| Problem::new(Kind::NotFound))?;
        if stored.body.is_none() {
            let detail = "It was delivered so long ago that its body is not kept any more.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        let before = stored.callback.clone();
        let now = api.clock.now();
        let event = Event::ResendRequested;
        let after = match callback::decide(&api.callbacks, &before, event, now) {
            Decision::Become(after) => after,
            Decision::Ignore(_) => {
                // It waits for its turn, at which it must not be ended for what was said before.
                api.store.bring_back(&caller, &stored.url).await?;
                return Ok(accepted(&stored));
            }
        };
        let destination_back = event.destination() == Some(Destination::Back);
        let amendment = Amendment::Callback { before, after: after.clone(), destination_back };
        match api.store.amend(amendment).await? {
            Amended::Saved => {
                api.nudge.now();
                return Ok(accepted(&StoredCallback { callback: after, ..stored }));
            }
            Amended::Overtaken | Amended::CredentialGone => {}
        }
    }
    Err(Problem::with_detail(Kind::Conflict, "The callback keeps changing; try again."))
}

fn accepted(stored: &StoredCallback) -> (StatusCode, Json<CallbackView>) {
    (StatusCode::ACCEPTED, Json(CallbackView::of(stored, None)))
}
