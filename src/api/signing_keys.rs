//! `/v1/signing-keys`: Ed25519 beside the signing secrets, for receivers that are to verify callbacks
//! and must not be able to make any.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::{Caller, Manage, Read};
use super::audit::Made;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody, documented};
use super::secrets::{MOST_LIVE, Request, no_randomness};
use crate::courier::SigningKey;
use crate::store::{CallerName, Rotated, SigningKeySummary};

/// A signing key, of which nobody sees more than the public half.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    #[schema(minimum = 1)]
    id: u32,
    #[schema(pattern = "^whpk_[A-Za-z0-9+/]{43}=$")]
    public_key: String,
    created_at: String,
    /// When it stops signing; null for the newest.
    expires_at: Option<String>,
}

/// The keys that sign now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningKeys)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    /// Newest first.
    signing_keys: Vec<KeyView>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewSigningKey)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    #[schema(minimum = 1)]
    id: u32,
    #[schema(pattern = "^whpk_[A-Za-z0-9+/]{43}=$")]
    public_key: String,
    /// Until when the older keys sign as well.
    older_until: String,
}

/// What anybody may know of a caller's keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublicKeys)]
#[serde(rename_all = "camelCase")]
pub(super) struct Published {
    /// Newest first. A signature by any of them is good.
    public_keys: Vec<String>,
}

impl From<SigningKeySummary> for KeyView {
    fn from(stored: SigningKeySummary) -> Self {
        Self {
            id: stored.id,
            public_key: stored.public_key.to_string(),
            created_at: stored.created_at.to_string(),
            expires_at: stored.expires_at.map(|at| at.to_string()),
        }
    }
}

/// Lists the signing keys that sign now; none, unless you have asked for them.
#[utoipa::path(
    get,
    path = "/v1/signing-keys",
    operation_id = "listSigningKeys",
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
    let live = api.directory.signing_keys(&caller, api.clock.now()).await?.unwrap_or_default();
    Ok(Json(Listed { signing_keys: live.into_iter().map(KeyView::from).collect() }))
}

/// Makes a new signing key. From the first one on, every callback that your signing secrets sign has
/// a `v1a` signature (Ed25519) as well, behind those of the secrets. Older keys sign beside a new one
/// for the overlap.
#[utoipa::path(
    post,
    path = "/v1/signing-keys",
    operation_id = "rotateSigningKey",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    request_body = Request,
    responses(
        (status = 201, description = "Made", body = Created),
        Caller<Manage>,
        body::Json<Request>,
        (status = 409, description = "Too many live keys", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn rotate(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    body::Json(request): body::Json<Request>,
) -> Result<(StatusCode, Made, Json<Created>), Problem> {
    let rotation = request.check(api.clock.now())?;
    let key = SigningKey::generate().map_err(no_randomness)?;
    let id = match api.directory.rotate_signing_key(&caller, &key, rotation).await? {
        Rotated::Made(id) => id,
        Rotated::NoSuchCaller => return Err(Problem::new(Kind::NotFound)),
        Rotated::TooManyLive => {
            let detail = format!("{MOST_LIVE} keys are live: revoke one first.");
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
    };
    tracing::info!(caller = %caller, key = id, "made signing key {id} of {caller}");
    let (public_key, older_until) = (key.public().to_string(), rotation.older_until.to_string());
    let created = Created { id, public_key, older_until };
    Ok((StatusCode::CREATED, Made(id.to_string()), Json(created)))
}

/// Stops a signing key at once. The newest one only where it is the only one: callbacks are then
/// signed by your secrets alone.
#[utoipa::path(
    delete,
    path = "/v1/signing-keys/{id}",
    operation_id = "revokeSigningKey",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("id" = u32, Path, minimum = 1, description = "As the list has it")),
    responses(
        (status = 204, description = "Revoked"),
        Caller<Manage>,
        (status = 404, description = "You have no such live key", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It is the newest one, and older ones are live",
            body = ProblemBody, content_type = "application/problem+json"),
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
    if !api.directory.revoke_signing_key(&caller, id, now).await? {
        let live = api.directory.signing_keys(&caller, now).await?.unwrap_or_default();
        if live.iter().any(|key| key.id == id) {
            let detail = "It is the newest key, and all others expire: revoke those first.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        return Err(not_found());
    }
    tracing::info!(caller = %caller, key = id, "revoked signing key {id} of {caller}");
    Ok(StatusCode::NO_CONTENT)
}

/// How long whoever asks for public keys may go by the answer, in seconds. A new key signs at once,
/// but beside the older ones for the overlap.
const FRESH_FOR: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// Tells the public keys that a caller's callbacks are signed with, newest first. Nobody needs a key
/// to ask, so that a receiver need not be trusted with one. Whether a caller has no signing keys or is
/// not there at all is not told.
#[utoipa::path(
    get,
    path = "/v1/callers/{caller}/signing-keys",
    operation_id = "publicSigningKeys",
    tag = "public",
    params(("caller" = String, Path, description = "The caller's name")),
    responses(
        (status = 200, description = "All of them", body = Published,
            headers(("Cache-Control" = String, description = "How long to go by it"))),
        Anybody,
        (status = 404, description = "No keys sign callbacks of a caller of that name",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn publish(
    State(api): State<Api>,
    Segment(caller): Segment,
) -> Result<Response, Problem> {
    let not_found = || Problem::new(Kind::NotFound);
    let caller: CallerName = caller.parse().map_err(|_| not_found())?;
    let live = api.directory.signing_keys(&caller, api.clock.now()).await?.unwrap_or_default();
    if live.is_empty() {
        return Err(not_found());
    }
    let public_keys = live.iter().map(|it| it.public_key.to_string()).collect();
    Ok(([(header::CACHE_CONTROL, FRESH_FOR)], Json(Published { public_keys })).into_response())
}

/// Whoever asks, the store is asked as well, and may have to be waited for.
struct Anybody;

impl utoipa::IntoResponses for Anybody {
    fn responses() -> super::problem::Responses {
        documented([Kind::RequestTimeout, Kind::Internal, Kind::StoreUnavailable])
    }
}
