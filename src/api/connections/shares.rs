//! `/v1/admin/callers/{caller}/connections/{name}/shares`: connections that other callers may use.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{is_anybodys, wake_blocked};
use crate::api::Api;
use crate::api::access::Operator;
use crate::api::body::{self, Segments};
use crate::api::problem::{Kind, Problem, ProblemBody};
use crate::store::{CallerName, Share, Shared};

/// Under which name another caller may use a connection.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewShare)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct NewShare {
    /// The other caller's name for it: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter
    /// or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", example = "contoso")]
    name: String,
}

/// A caller that may use a connection of another's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Share)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ShareView {
    caller: String,
    /// That caller's name for it.
    name: String,
    /// Whether it was taken back, so that what is asked by it is blocked.
    is_withdrawn: bool,
}

/// Everybody who may use a connection of another's, or could.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Shares)]
pub(in crate::api) struct Listed {
    /// By caller and name.
    shares: Vec<ShareView>,
}

/// Lists the callers that a connection is shared with, and those that it was.
#[utoipa::path(
    get,
    path = "/v1/admin/callers/{caller}/connections/{name}/shares",
    operation_id = "listShares",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "Whose connection it is"),
        ("name" = String, Path, description = "That caller's name for it"),
    ),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Operator,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, name)): Segments<(String, String)>,
) -> Result<Json<Listed>, Problem> {
    let shares = api.directory.shares(&known(&caller)?, &name).await?;
    let view = |Share { with, name, is_withdrawn }| ShareView {
        caller: with.to_string(),
        name,
        is_withdrawn,
    };
    Ok(Json(Listed { shares: shares.into_iter().map(view).collect() }))
}

/// Lets another caller use a connection. It sees neither the proof nor can it change it, and shares the
/// identity's budget at Graph.
#[utoipa::path(
    put,
    path = "/v1/admin/callers/{caller}/connections/{name}/shares/{with}",
    operation_id = "shareConnection",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "Whose connection it is"),
        ("name" = String, Path, description = "That caller's name for it"),
        ("with" = String, Path, description = "The other caller"),
    ),
    request_body = NewShare,
    responses(
        (status = 204, description = "Shared, or again"),
        Operator,
        body::Json<NewShare>,
        (status = 404, description = "There is no such caller, or no such connection of its own",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The other caller has a connection of that name",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn share(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, name, with)): Segments<(String, String, String)>,
    body::Json(request): body::Json<NewShare>,
) -> Result<StatusCode, Problem> {
    is_anybodys(&name)?;
    let (caller, with) = (known(&caller)?, known(&with)?);
    if request.name.parse::<CallerName>().is_err() {
        let detail = "1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit";
        return Err(Problem::field("name", "invalid", detail));
    }
    let share = Share { with, name: request.name, is_withdrawn: false };
    match api.directory.share_connection(&caller, &name, &share, api.clock.now()).await? {
        Shared::Done => {}
        Shared::NoSuchCaller => return Err(Problem::no_such_caller()),
        Shared::NoSuchConnection => {
            let detail = "The caller has no such connection of its own.";
            return Err(Problem::with_detail(Kind::NotFound, detail));
        }
        Shared::NameTaken => {
            let detail = "The other caller has a connection of that name.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
    }
    wake_blocked(&api, &share.with, &share.name).await?;
    tracing::info!(
        %caller, connection = name, with = %share.with,
        "shared connection {name} of {caller} with {}", share.with
    );
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a connection back from another caller. Its operations are kept, and blocked from their next poll
/// on: until it is shared again, or they are given another credential, or their time of grace ends.
#[utoipa::path(
    delete,
    path = "/v1/admin/callers/{caller}/connections/{name}/shares/{with}",
    operation_id = "withdrawConnection",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "Whose connection it is"),
        ("name" = String, Path, description = "That caller's name for it"),
        ("with" = String, Path, description = "The other caller"),
    ),
    responses(
        (status = 204, description = "Taken back"),
        Operator,
        (status = 404, description = "It is not shared with that caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn withdraw(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, name, with)): Segments<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let (caller, with) = (known(&caller)?, known(&with)?);
    if api.directory.withdraw_connection(&caller, &name, &with).await? == 0 {
        return Err(Problem::new(Kind::NotFound));
    }
    tracing::info!(
        %caller, connection = name, with = %with,
        "took connection {name} of {caller} back from {with}"
    );
    Ok(StatusCode::NO_CONTENT)
}

fn known(caller: &str) -> Result<CallerName, Problem> {
    caller.parse().map_err(|_| Problem::no_such_caller())
}
