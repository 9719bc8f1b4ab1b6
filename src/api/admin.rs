//! `/v1/admin/…`: callers, for the operator.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Operator;
use super::audit::Made;
use super::body::{self, Params, Segment, Segments};
use super::connections::proof::By;
use super::connections::{self, NewConnection};
use super::page::{next, page};
use super::problem::{Kind, Problem, ProblemBody};
use super::{Api, keys, secrets};
use crate::provision::{NewCaller, add_caller};
use crate::store::CallerName;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only callers behind this one: the `next` of the page before.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    after: Option<String>,
    /// How many at the most, 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// A page of callers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Callers)]
pub(super) struct Listed {
    /// By name.
    callers: Vec<String>,
    /// Give this as `after` to see what is behind; null at the end.
    next: Option<String>,
}

/// A caller to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewCaller)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", example = "contoso")]
    name: String,
}

/// A caller that was just added, and the only sight of its key and secret.
#[derive(Serialize, ToSchema)]
#[schema(as = AddedCaller)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Created {
    pub(crate) caller: String,
    /// Shown this once.
    pub(crate) api_key: String,
    /// Shown this once: `whsec_` and base64.
    pub(crate) signing_secret: String,
}

impl From<NewCaller> for Created {
    fn from(new: NewCaller) -> Self {
        Self {
            caller: new.name.to_string(),
            api_key: new.api_key.expose_secret().to_owned(),
            signing_secret: new.signing_secret.expose().to_string(),
        }
    }
}

/// Lists all callers.
#[utoipa::path(
    get,
    path = "/v1/admin/callers",
    operation_id = "listCallers",
    tag = "admin",
    security(("adminKey" = [])),
    params(Filter),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        Operator,
        Params<Filter>,
    )
)]
pub(super) async fn list_callers(
    State(api): State<Api>,
    Operator: Operator,
    Params(query): Params<Filter>,
) -> Result<Json<Listed>, Problem> {
    let page = page::<CallerName>(query.after.as_deref(), query.limit)?;
    let limit = page.limit;
    let callers = api.directory.callers(page).await?;
    let next = next(callers.len(), limit, callers.last());
    Ok(Json(Listed { callers: callers.iter().map(ToString::to_string).collect(), next }))
}

/// Adds a caller, with a first API key and signing secret. Both are shown this once.
#[utoipa::path(
    post,
    path = "/v1/admin/callers",
    operation_id = "addCaller",
    tag = "admin",
    security(("adminKey" = [])),
    request_body = Request,
    responses(
        (status = 201, description = "Added", body = Created),
        Operator,
        body::Json<Request>,
        (status = 409, description = "There is a caller of that name", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create_caller(
    State(api): State<Api>,
    Operator: Operator,
    body::Json(request): body::Json<Request>,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    let name: CallerName = request.name.parse().map_err(|error: crate::store::InvalidName| {
        Problem::field("name", "invalid", error.to_string())
    })?;
    let added = add_caller(api.directory.as_ref(), name, api.clock.now()).await?;
    let Some(new) = added else {
        let detail = "There is a caller of that name.";
        return Err(Problem::with_detail(Kind::Conflict, detail));
    };
    Ok((StatusCode::CREATED, Made(new.name.to_string()), Json(new.into())))
}

/// Makes an API key for a caller. It is shown this once.
#[utoipa::path(
    post,
    path = "/v1/admin/callers/{caller}/keys",
    operation_id = "addCallerKey",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    request_body = keys::Request,
    responses(
        (status = 201, description = "Made", body = keys::Created),
        Operator,
        body::Json<keys::Request>,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "The caller has as many as it may have", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create_key(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
    body::Json(request): body::Json<keys::Request>,
) -> Result<(StatusCode, Made, Json<keys::Created>), Problem> {
    keys::add(&api, &known(&caller)?, request, &keys::Maker::OPERATOR).await
}

/// Lists a caller's API keys.
#[utoipa::path(
    get,
    path = "/v1/admin/callers/{caller}/keys",
    operation_id = "listCallerKeys",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    responses(
        (status = 200, description = "All of them", body = keys::Listed),
        Operator,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list_keys(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
) -> Result<Json<keys::Listed>, Problem> {
    keys::listed(&api, &known(&caller)?).await
}

/// Revokes a caller's API key at once, as where it has leaked.
#[utoipa::path(
    delete,
    path = "/v1/admin/callers/{caller}/keys/{id}",
    operation_id = "revokeCallerKey",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "The caller's name"),
        ("id" = String, Path, description = "As the list has it"),
    ),
    responses(
        (status = 204, description = "Revoked"),
        Operator,
        (status = 404, description = "There is no such caller, or it has no such key",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke_key(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, id)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    keys::end(&api, &known(&caller)?, &id).await
}

/// Makes a new signing secret for a caller. The older ones sign beside it for the overlap. It is
/// shown this once.
#[utoipa::path(
    post,
    path = "/v1/admin/callers/{caller}/signing-secrets",
    operation_id = "rotateCallerSigningSecret",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    request_body = secrets::Request,
    responses(
        (status = 201, description = "Made", body = secrets::Created),
        Operator,
        body::Json<secrets::Request>,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "Too many live secrets", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
    body::Json(request): body::Json<secrets::Request>,
) -> Result<(StatusCode, Made, Json<secrets::Created>), Problem> {
    secrets::make(&api, &known(&caller)?, &request).await
}

/// Lists a caller's connections.
#[utoipa::path(
    get,
    path = "/v1/admin/callers/{caller}/connections",
    operation_id = "listCallerConnections",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    responses(
        (status = 200, description = "All of them", body = connections::Listed),
        Operator,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list_connections(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
) -> Result<Json<connections::Listed>, Problem> {
    connections::listed(&api, &known(&caller)?).await
}

/// Makes a connection for a caller.
#[utoipa::path(
    post,
    path = "/v1/admin/callers/{caller}/connections",
    operation_id = "addCallerConnection",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    request_body = NewConnection,
    responses(
        (status = 201, description = "Made", body = connections::ConnectionView),
        Operator,
        body::Json<NewConnection>,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "The caller has one of that name", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create_connection(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
    body::Json(request): body::Json<NewConnection>,
) -> Result<(StatusCode, Made, Json<connections::ConnectionView>), Problem> {
    connections::add(&api, &known(&caller)?, request, By::Operator).await
}

fn known(caller: &str) -> Result<CallerName, Problem> {
    caller.parse().map_err(|_| Problem::no_such_caller())
}
