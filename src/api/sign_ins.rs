//! `/v1/admin/callers/{caller}/sign-ins`: the apps that sign in as a caller, for the operator.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::access::Operator;
use super::audit::Made;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody};
use crate::store::{Bound, CallerName, SignInApp, SignInSummary};

/// Apps of one caller at the most.
const MOST: u32 = 100;

/// An app that is to sign in as the caller, with tokens of Microsoft Entra.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewSignIn)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// The directory that issues its tokens: a GUID.
    #[schema(format = "uuid")]
    tenant: String,
    /// Its application (client) id: `azp` in its tokens.
    #[schema(format = "uuid")]
    app: String,
}

/// An app that signs in as the caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignIn)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    tenant: String,
    app: String,
    created_at: String,
}

/// All apps that sign in as the caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignIns)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    sign_ins: Vec<View>,
}

impl From<SignInSummary> for View {
    fn from(SignInSummary { app, created_at }: SignInSummary) -> Self {
        Self { tenant: app.tenant, app: app.app, created_at: created_at.to_string() }
    }
}

/// Lists the apps that sign in as a caller.
#[utoipa::path(
    get,
    path = "/v1/admin/callers/{caller}/sign-ins",
    operation_id = "listCallerSignIns",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Operator,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
) -> Result<Json<Listed>, Problem> {
    let found = api.directory.sign_ins(&known(&caller)?).await?;
    let found = found.ok_or_else(Problem::no_such_caller)?;
    Ok(Json(Listed { sign_ins: found.into_iter().map(View::from).collect() }))
}

/// Lets an app sign in as a caller. It may do what its tokens say: `Operations.Register`,
/// `Operations.Read`, `Operations.Manage`.
#[utoipa::path(
    post,
    path = "/v1/admin/callers/{caller}/sign-ins",
    operation_id = "addCallerSignIn",
    tag = "admin",
    security(("adminKey" = [])),
    params(("caller" = String, Path, description = "The caller's name")),
    request_body = Request,
    responses(
        (status = 201, description = "It signs in from now on", body = View),
        Operator,
        body::Json<Request>,
        (status = 404, description = "There is no such caller", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It signs in already, as this caller or another; or too many do",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn add(
    State(api): State<Api>,
    Operator: Operator,
    Segment(caller): Segment,
    body::Json(request): body::Json<Request>,
) -> Result<(StatusCode, Made, Json<View>), Problem> {
    let (caller, now) = (known(&caller)?, api.clock.now());
    let app = app(&request.tenant, &request.app).map_err(|field| {
        Problem::field(field, "invalid", "a GUID, such as 11111111-2222-3333-4444-555555555555")
    })?;
    let conflict = |detail: String| Err(Problem::with_detail(Kind::Conflict, detail));
    match api.directory.add_sign_in(&caller, &app, MOST, now).await? {
        Bound::Made => {
            let made = Made(app.app.clone());
            let view = View::from(SignInSummary { app, created_at: now });
            Ok((StatusCode::CREATED, made, Json(view)))
        }
        Bound::Taken => conflict("That app of that tenant signs in already.".to_owned()),
        Bound::TooMany => conflict(format!("{MOST} apps may sign in as a caller.")),
        Bound::NoSuchCaller => Err(Problem::no_such_caller()),
    }
}

/// Lets an app sign in no more, at once.
#[utoipa::path(
    delete,
    path = "/v1/admin/callers/{caller}/sign-ins/{tenant}/{app}",
    operation_id = "removeCallerSignIn",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "The caller's name"),
        ("tenant" = String, Path, description = "The app's directory"),
        ("app" = String, Path, description = "Its client id"),
    ),
    responses(
        (status = 204, description = "It signs in no more"),
        Operator,
        (status = 404, description = "It does not sign in as that caller", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    Operator: Operator,
    path: Result<Path<(String, String, String)>, axum::extract::rejection::PathRejection>,
) -> Result<StatusCode, Problem> {
    let not_found = || Problem::new(Kind::NotFound);
    let Path((caller, tenant, app)) = path.map_err(|_| not_found())?;
    let app = self::app(&tenant, &app).map_err(|_| not_found())?;
    let removed = api.directory.remove_sign_in(&known(&caller)?, &app).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

/// The app as it is kept, or which of the two is no GUID.
fn app(tenant: &str, app: &str) -> Result<SignInApp, &'static str> {
    let guid = |text: &str| Uuid::try_parse(text).ok().map(|guid| guid.to_string());
    let (tenant, app) = (guid(tenant).ok_or("tenant")?, guid(app).ok_or("app")?);
    Ok(SignInApp { tenant, app })
}

fn known(caller: &str) -> Result<CallerName, Problem> {
    caller.parse().map_err(|_| Problem::no_such_caller())
}
