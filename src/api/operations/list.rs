//! `GET /v1/operations`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::view::OperationView;
use crate::api::Api;
use crate::api::access::{Caller, Read};
use crate::api::body::Params;
use crate::api::page::{next, page};
use crate::api::problem::Problem;
use crate::store::OperationFilter;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Filter {
    /// Only operations in this state.
    #[param(inline)]
    state: Option<StateWord>,
    /// Only operations behind this one: the `next` of the page before.
    #[param(pattern = "^op_[0-9a-f]{32}$")]
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum StateWord {
    Watching,
    Blocked,
    Settled,
    Cancelled,
}

/// A page of operations.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operations)]
pub(in crate::api) struct Listed {
    /// Newest first.
    operations: Vec<OperationView>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

/// Lists your operations, newest first.
#[utoipa::path(
    get,
    path = "/v1/operations",
    operation_id = "listOperations",
    tag = "operations",
    security(("apiKey" = ["read"])),
    params(Filter),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        Caller<Read>,
        Params<Filter>,
    )
)]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
    Params(query): Params<Filter>,
) -> Result<Json<Listed>, Problem> {
    let state = query.state.map(|word| match word {
        StateWord::Watching => "watching",
        StateWord::Blocked => "blocked",
        StateWord::Settled => "settled",
        StateWord::Cancelled => "cancelled",
    });
    let page = page(query.after.as_deref(), query.limit)?;
    let limit = page.limit;
    let listed =
        api.store.operations(&caller, OperationFilter { state, connection: None }, page).await?;
    let next = next(listed.len(), limit, listed.last().map(|it| &it.operation.id));
    Ok(Json(Listed { operations: listed.iter().map(OperationView::of).collect(), next }))
}
