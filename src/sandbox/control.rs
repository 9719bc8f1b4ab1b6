//! What other processes may tell the sandbox: the routes that the documentation of [`super`] lists.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entra::App;
use super::entra::signing::{Grants, SignInToken};
use super::graph::location;
use super::record::RecordedRequest;
use super::script::{Script, TokenScript};
use super::tokens::{Access, Audience};
use super::world::Shared;
use super::{BODY_LIMIT, Full, Version, root_as_seen};

/// The routes below `/sandbox`. None of them is recorded.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/operations", post(create))
        .route("/tokens", post(hand_out_token))
        .route("/sign-ins", post(hand_out_sign_in))
        .route("/key-rollover", post(roll_keys_over))
        .route("/token-script", post(script_tokens))
        .route("/certificates", post(upload_certificate))
        .route("/federated-tokens", post(federate))
        .route("/record", get(record))
        .route("/reset", post(reset))
        .fallback(no_such_control)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// A new operation, as `POST /sandbox/operations` wants it. Both members may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NewOperation {
    version: Version,
    script: Script,
}

/// An operation that was started.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    pub id: String,
    /// Its absolute address, in Graph's form with the id in brackets and quotes.
    pub location: String,
}

async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let wish: NewOperation = if body.is_empty() { NewOperation::default() } else { read(&body)? };
    let now = shared.clock.now();
    let id = shared.world().create(Arc::new(wish.script), now)?;
    let location = location(&root_as_seen(&shared, &headers), wish.version, &id);
    Ok((StatusCode::CREATED, Json(Created { id, location })).into_response())
}

/// A token as a caller would hand it in, as `POST /sandbox/tokens` wants it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewToken {
    /// Whose budget at Graph it spends; the user, where it is exchanged on behalf of one.
    identity: String,
    /// In seconds.
    expires_in: Option<u64>,
    /// The client id of the app that it is for. For Graph, where this is left out.
    audience: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HandedOut<'a> {
    access_token: &'a str,
    expires_in: u64,
}

async fn hand_out_token(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let wish: NewToken = read(&body)?;
    let audience = wish
        .audience
        .map_or(Audience::Graph, |client_id| Audience::App(client_id.to_ascii_lowercase()));
    let access = Access { identity: wish.identity.into(), audience };
    let life = wish.expires_in.map_or(shared.options.token_life, Duration::from_secs);
    let now = shared.clock.now();
    let token = shared.world().access_token(access, life, now)?;
    let handed = HandedOut { access_token: token.expose_secret(), expires_in: life.as_secs() };
    Ok((StatusCode::CREATED, Json(handed)).into_response())
}

/// A token by which an app signs in to another, as `POST /sandbox/sign-ins` wants it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewSignIn {
    tenant: String,
    /// The client id of the app that it is for.
    audience: String,
    /// The client id of the app that gets it.
    app: String,
    /// The object id of the user; the app comes in its own name where this is left out.
    user: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    /// In seconds.
    expires_in: Option<u64>,
}

async fn hand_out_sign_in(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let NewSignIn { tenant, audience, app, user, scopes, roles, expires_in } = read(&body)?;
    let (object_id, grants) = match user {
        Some(user) => (user, Grants::Scopes(scopes)),
        None => (app.clone(), Grants::Roles(roles)),
    };
    let wish = SignInToken { tenant, audience, app, object_id, grants };
    let life = expires_in.map_or(shared.options.token_life, Duration::from_secs);
    let (now, root) = (shared.clock.now(), root_as_seen(&shared, &headers));
    let token = shared.world().sign_in_token(&wish, &root, life, now)?;
    let handed = HandedOut { access_token: token.expose_secret(), expires_in: life.as_secs() };
    Ok((StatusCode::CREATED, Json(handed)).into_response())
}

/// How the key is changed, as `POST /sandbox/key-rollover` wants it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rollover {
    /// Whether the one of before is published no more.
    withdraw: bool,
}

async fn roll_keys_over(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let wish: Rollover = if body.is_empty() { Rollover::default() } else { read(&body)? };
    shared.world().signing.roll_over(wish.withdraw);
    Ok(StatusCode::NO_CONTENT)
}

/// A certificate for an app registration, as `POST /sandbox/certificates` wants it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewCertificate {
    tenant: String,
    client_id: String,
    /// In PEM.
    certificate: String,
}

async fn upload_certificate(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let NewCertificate { tenant, client_id, certificate } = read(&body)?;
    let refused = |reason: String| Refused { status: StatusCode::BAD_REQUEST, reason };
    let der = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| refused(format!("the certificate is not in PEM form: {error}")))?;
    let app = App::new(&tenant, &client_id);
    let kept = shared.world().trust.certificate(app, &der);
    kept.map_err(|error| refused(error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

/// A token of another issuer, as `POST /sandbox/federated-tokens` wants it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FederatedToken {
    tenant: String,
    client_id: String,
    token: SecretString,
}

async fn federate(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<StatusCode, Refused> {
    let FederatedToken { tenant, client_id, token } = read(&body)?;
    let app = App::new(&tenant, &client_id);
    shared.world().trust.federated(app, token.expose_secret())?;
    Ok(StatusCode::NO_CONTENT)
}

async fn script_tokens(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let script: TokenScript = read(&body)?;
    shared.world().script_tokens(script);
    Ok(StatusCode::NO_CONTENT)
}

/// What `GET /sandbox/record` answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordBody {
    /// Oldest first, by the order in which they were answered.
    requests: Vec<RecordedRequest>,
    /// How many older ones had to make room.
    forgotten: u64,
}

async fn record(State(shared): State<Arc<Shared>>) -> Json<RecordBody> {
    let (requests, forgotten) = {
        let world = shared.world();
        (world.record.requests(), world.record.forgotten())
    };
    Json(RecordBody { requests, forgotten })
}

async fn reset(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.world().reset();
    StatusCode::NO_CONTENT
}

async fn no_such_control() -> Refused {
    Refused { status: StatusCode::NOT_FOUND, reason: "the sandbox has no such control".to_owned() }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let refused = |reason| Refused { status: StatusCode::BAD_REQUEST, reason };
    let mut json = serde_json::Deserializer::from_slice(body);
    let wish =
        serde_path_to_error::deserialize(&mut json).map_err(|error| refused(error.to_string()))?;
    json.end().map_err(|error| refused(error.to_string()))?;
    Ok(wish)
}

/// Why the sandbox does not do as it was told: `{"error": …}`, for people.
struct Refused {
    status: StatusCode,
    reason: String,
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        Self { status: StatusCode::INSUFFICIENT_STORAGE, reason: full.to_string() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(serde_json::json!({"error": self.reason}))).into_response()
    }
}
