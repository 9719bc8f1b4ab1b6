//! `/v1/signing-secrets`: what callbacks to a caller's receivers are signed with.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::access::{Caller, Manage, Read};
use super::audit::Made;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody};
use crate::courier::SigningSecret;
use crate::operation::after;
use crate::store::{CallerName, Rotated, Rotation};

/// For how long older ones go on signing unless asked otherwise, in seconds: a day.
const USUAL_OVERLAP: u64 = 24 * 3_600;

/// For how long they may be asked to, in seconds: a week.
const LONGEST_OVERLAP: u64 = 7 * 24 * 3_600;

/// Live secrets, and live keys, at the most: each adds 48 or 93 bytes to every callback.
pub(super) const MOST_LIVE: u32 = 10;

/// A signing secret without what it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningSecret)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretView {
    #[schema(minimum = 1)]
    id: u32,
    created_at: String,
    /// When it stops signing; null for the newest.
    expires_at: Option<String>,
}

/// The secrets that sign now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningSecrets)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    /// Newest first.
    signing_secrets: Vec<SecretView>,
}

/// How to rotate.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = Rotation)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    /// For how long older ones go on signing beside the new one, in seconds; a day unless given.
    #[schema(minimum = 0, maximum = 604_800)]
    #[serde(default, deserialize_with = "body::whole")]
    overlap_seconds: Option<u64>,
}

impl Request {
    /// What the store is asked for `now`.
    pub(super) fn check(&self, now: Timestamp) -> Result<Rotation, Problem> {
        let overlap = self.overlap_seconds.unwrap_or(USUAL_OVERLAP);
        if overlap > LONGEST_OVERLAP {
            let detail = format!("0 to {LONGEST_OVERLAP} seconds");
            return Err(Problem::field("overlapSeconds", "outOfRange", detail));
        }
        let older_until = after(now, std::time::Duration::from_secs(overlap));
        Ok(Rotation { now, older_until, most_live: MOST_LIVE })
    }
}

/// A secret that was just made, and the only sight of it.
#[derive(Serialize, ToSchema)]
#[schema(as = NewSigningSecret)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    #[schema(minimum = 1)]
    id: u32,
    /// Shown this once: `whsec_` and base64.
    secret: String,
    /// Until when the older secrets sign as well.
    older_until: String,
}

/// Lists the signing secrets that sign now.
#[utoipa::path(
    get,
    path = "/v1/signing-secrets",
    operation_id = "listSigningSecrets",
    tag = "settings",
    security(("apiKey" = ["read"])),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Caller<Read>,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Read>,
) -> Result<Json<Listed>, Problem> {
    let live = api.directory.secrets(&caller, api.clock.now()).await?.unwrap_or_default();
    let view = |it: crate::store::SigningSecretSummary| SecretView {
        id: it.id,
        created_at: it.created_at.to_string(),
        expires_at: it.expires_at.map(|at| at.to_string()),
    };
    Ok(Json(Listed { signing_secrets: live.into_iter().map(view).collect() }))
}

/// Makes a new signing secret. The older ones sign beside it for the overlap, so that no callback
/// fails to verify while you change over. The new one is shown this once.
#[utoipa::path(
    post,
    path = "/v1/signing-secrets",
    operation_id = "rotateSigningSecret",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    request_body = Request,
    responses(
        (status = 201, description = "Made", body = Created),
        Caller<Manage>,
        body::Json<Request>,
        (status = 409, description = "Too many live secrets", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn rotate(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    body::Json(request): body::Json<Request>,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    make(&api, &caller, &request).await
}

/// Makes a new signing secret for `caller`, whoever asked for it.
pub(super) async fn make(
    api: &Api,
    caller: &CallerName,
    request: &Request,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    let rotation = request.check(api.clock.now())?;
    let secret = SigningSecret::generate().map_err(no_randomness)?;
    let id = match api.directory.rotate_secret(caller, &secret, rotation).await? {
        Rotated::Made(id) => id,
        Rotated::NoSuchCaller => return Err(Problem::no_such_caller()),
        Rotated::TooManyLive => {
            let detail = format!("{MOST_LIVE} secrets are live: revoke one first.");
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
    };
    tracing::info!(caller = %caller, secret = id, "rotated the signing secret of {caller}");
    let secret = secret.expose().to_string();
    let created = Created { id, secret, older_until: rotation.older_until.to_string() };
    Ok((StatusCode::CREATED, Made(id.to_string()), Json(created)))
}

pub(super) fn no_randomness(error: getrandom::Error) -> Problem {
    tracing::error!(error = %error, "the operating system has no random numbers");
    Problem::new(Kind::Internal)
}

/// Stops a signing secret at once. The newest cannot be revoked: rotate first.
#[utoipa::path(
    delete,
    path = "/v1/signing-secrets/{id}",
    operation_id = "revokeSigningSecret",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("id" = u32, Path, minimum = 1, description = "As the list has it")),
    responses(
        (status = 204, description = "Revoked"),
        Caller<Manage>,
        (status = 404, description = "You have no such live secret", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It is the newest one", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    let not_found = || Problem::new(Kind::NotFound);
    let id: u32 = id.parse().ok().filter(|it: &u32| it.to_string() == id).ok_or_else(not_found)?;
    let now = api.clock.now();
    if !api.directory.revoke_secret(&caller, id, now).await? {
        let live = api.directory.secrets(&caller, now).await?.unwrap_or_default();
        if live.iter().any(|secret| secret.id == id) {
            let detail = "It is the newest secret, and all others expire: make another one first.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        return Err(not_found());
    }
    tracing::info!(caller = %caller, secret = id, "revoked signing secret {id} of {caller}");
    Ok(StatusCode::NO_CONTENT)
}
