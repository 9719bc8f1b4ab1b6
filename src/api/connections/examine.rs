//! `POST /v1/connections/{name}/test`: whether a connection works, and what is missing if not.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::{is_anybodys, wake_all_blocked};
use crate::api::Api;
use crate::api::access::{Caller, Manage, Operator};
use crate::api::body::{Segment, Segments};
use crate::api::problem::{Kind, Problem, ProblemBody, Responses, documented};
use crate::graph::{Connection, Examination, Finding, GraphSaid, TooSoon};
use crate::store::CallerName;

/// What a test of a connection found out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectionTest)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ExaminationView {
    /// Whether Entra hands out a token and Graph takes it.
    works: bool,
    /// `works`, `unknownTenant`, `unknownApp`, `proofRefused`, `proofExpired`, `consentMissing`,
    /// `wrongCloud`, `tokenRefused`, `permissionMissing`, `throttled`, `noProof` or `trouble`. More may
    /// come.
    #[schema(example = "permissionMissing")]
    finding: &'static str,
    /// What to do about it, for people.
    advice: &'static str,
    /// The OAuth word by which Entra refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    error: Option<String>,
    /// The numbers behind `AADSTS` in the documentation of Microsoft Entra.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aadsts: Vec<u64>,
    /// By which Microsoft's support finds the request to Entra.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    correlation_id: Option<String>,
    /// The status of Graph's answer, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>)]
    graph_status: Option<u16>,
    /// The `error.code` of Graph's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    graph_code: Option<String>,
    /// By which Microsoft's support finds the request to Graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<String>,
}

/// An identity is tried out only so often, whoever asks.
struct Paced;

impl IntoResponses for Paced {
    fn responses() -> Responses {
        documented([Kind::TooManyRequests])
    }
}

impl From<Examination> for ExaminationView {
    fn from(Examination { finding, complaint, graph }: Examination) -> Self {
        let (graph_status, graph_code, request_id) = match graph {
            Some(GraphSaid { status, code, request_id }) => (Some(status), code, request_id),
            None => (None, None, None),
        };
        Self {
            works: finding == crate::graph::Finding::Works,
            finding: finding.as_str(),
            advice: finding.advice(),
            error: complaint.error,
            aadsts: complaint.numbers,
            correlation_id: complaint.correlation_id,
            graph_status,
            graph_code,
            request_id,
        }
    }
}

/// Tries a connection out: gets a new token and asks Graph once with it, for an operation that cannot
/// exist. Twice in 30 s for one identity at the most, for so many requests are left to it beside the
/// polls.
#[utoipa::path(
    post,
    path = "/v1/connections/{name}/test",
    operation_id = "testConnection",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("name" = String, Path, description = "Your name for it")),
    responses(
        (status = 200, description = "Tried out, whatever was found", body = ExaminationView),
        Caller<Manage>,
        (status = 404, description = "You have no such connection", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn test(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(name): Segment,
) -> Result<Json<ExaminationView>, Problem> {
    try_out(&api, &caller, &name).await
}

/// The same for any caller's connection.
#[utoipa::path(
    post,
    path = "/v1/admin/callers/{caller}/connections/{name}/test",
    operation_id = "testCallerConnection",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "The caller's name"),
        ("name" = String, Path, description = "The caller's name for the connection"),
    ),
    responses(
        (status = 200, description = "Tried out, whatever was found", body = ExaminationView),
        Operator,
        Paced,
        (status = 404, description = "There is no such caller or connection", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn test_as_operator(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, name)): Segments<(String, String)>,
) -> Result<Json<ExaminationView>, Problem> {
    let caller = caller.parse().map_err(|_| Problem::no_such_caller())?;
    try_out(&api, &caller, &name).await
}

async fn try_out(
    api: &Api,
    caller: &CallerName,
    name: &str,
) -> Result<Json<ExaminationView>, Problem> {
    is_anybodys(name)?;
    let connection = api.directory.connection(caller, Some(name)).await?;
    let connection = connection.ok_or_else(|| Problem::new(Kind::NotFound))?;
    let examined = examined(api, &connection, caller).await.map_err(|TooSoon { wait }| {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let detail = "This identity was tried out a moment ago.";
        let problem = Problem::with_detail(Kind::TooManyRequests, detail);
        Problem { retry_after: Some(seconds), ..problem }
    })?;
    let finding = examined.finding.as_str();
    tracing::info!(
        caller = %caller, connection = name, finding, "tried out connection {name} of {caller}"
    );
    if matches!(examined.finding, Finding::Works) {
        // It may have been repaired where we do not see it, as by consent or a permission.
        wake_all_blocked(api, caller, name).await?;
    }
    Ok(Json(examined.into()))
}

/// What is the matter with `connection`.
pub(super) async fn examined(
    api: &Api,
    connection: &Connection,
    caller: &CallerName,
) -> Result<Examination, TooSoon> {
    api.examiner.examine(connection, caller.as_str()).await
}
