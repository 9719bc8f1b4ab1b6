//! `/v1/connections`: the Graph identities of a caller.

pub(super) mod examine;
mod own;
pub(super) mod proof;
pub(super) mod shares;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::proof::{By, MachinesOwn, NewProof};
use super::access::{Caller, Manage, Read};
use super::audit::Made;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody};
use super::{Api, FieldError};
use crate::graph::{self, Examination, Finding, ProofKind, TooSoon, User};
use crate::store::{CallerName, ConnectionSummary, Waking};

/// A connection to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewConnection)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewConnection {
    /// Your name for it: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or
    /// digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", example = "contoso")]
    pub(crate) name: String,
    /// The directory: its GUID or one of its domain names.
    #[schema(
        max_length = 253,
        pattern = r"^[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9][A-Za-z0-9-]*)*$",
        example = "contoso.onmicrosoft.com"
    )]
    pub(crate) tenant: String,
    /// The application (client) id of the app registration, or the client id of the managed identity: a
    /// GUID.
    #[schema(
        pattern = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
        example = "11111111-2222-3333-4444-555555555555"
    )]
    pub(crate) client_id: String,
    /// A client secret of the app registration.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024)]
    pub(crate) client_secret: Option<SecretString>,
    /// A certificate of the app registration with its private key, in PEM: RSA of 2,048 to 4,096 bits,
    /// not encrypted. More certificates may stand beside it. Given once; it is never shown again.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 49152)]
    pub(crate) certificate: Option<SecretString>,
    /// The absolute path of a file with a token of an issuer that the app registration trusts, as
    /// Kubernetes mounts one for workload identity. Read anew for each token.
    #[schema(min_length = 1, max_length = 1024, pattern = "^/")]
    pub(crate) federated_token_file: Option<String>,
    /// The identity of the machine that the bridge runs on.
    #[serde(default, deserialize_with = "body::word_or_null")]
    pub(crate) managed_identity: Option<MachinesOwn>,
    /// Whether the connection is tried out before it is made, and not made where Entra or Graph refuses
    /// it. So it is unless this says `false`.
    pub(crate) test: Option<bool>,
}

/// A connection without its proof.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionView {
    name: String,
    tenant: String,
    client_id: String,
    /// How it proves itself: `clientSecret`, `certificate`, `federatedToken`, `systemAssignedIdentity`
    /// or `userAssignedIdentity`; `shared` where it is another caller's that you may use, and `withdrawn`
    /// where you may no more.
    kind: &'static str,
    /// The SHA-256 of its certificate in hex, as Entra's portal shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    thumbprint: Option<String>,
    /// When its certificate expires. When a client secret does, Entra alone knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<String>,
    /// Whether it is used where a registration names none.
    is_default: bool,
    created_at: String,
}

/// All connections of a caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connections)]
pub(super) struct Listed {
    /// By name.
    connections: Vec<ConnectionView>,
}

/// Lists your connections.
#[utoipa::path(
    get,
    path = "/v1/connections",
    operation_id = "listConnections",
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
    listed(&api, &caller).await
}

/// The connections of `caller`, whoever asked for them.
pub(super) async fn listed(api: &Api, caller: &CallerName) -> Result<Json<Listed>, Problem> {
    let connections = api.directory.connections(caller).await?;
    let connections = connections.ok_or_else(Problem::no_such_caller)?;
    Ok(Json(Listed { connections: connections.into_iter().map(ConnectionView::from).collect() }))
}

/// Makes a connection. The first one becomes your default.
///
/// It proves itself in one way: give `clientSecret` or `certificate`.
#[utoipa::path(
    post,
    path = "/v1/connections",
    operation_id = "createConnection",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    request_body = own::OwnConnection,
    responses(
        (status = 201, description = "Made", body = ConnectionView),
        Caller<Manage>,
        body::Json<NewConnection>,
        (status = 409, description = "You have one of that name", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    body::Json(request): body::Json<NewConnection>,
) -> Result<(StatusCode, Made, Json<ConnectionView>), Problem> {
    add(&api, &caller, request, By::Caller).await
}

/// Makes a connection for `caller`, whoever asked for it.
pub(super) async fn add(
    api: &Api,
    caller: &CallerName,
    request: NewConnection,
    by: By,
) -> Result<(StatusCode, Made, Json<ConnectionView>), Problem> {
    let is_tested = request.test.unwrap_or(true);
    let connection = request.check(by, api.clock.wall()).map_err(Problem::invalid)?;
    if is_tested {
        // Before it is made, lest it is the default of registrations that cannot end well. Where it is
        // not known whether it works, it is made all the same.
        match examine::examined(api, &connection, caller).await {
            Ok(examined) if examined.finding.is_refusal() => {
                return Err(does_not_work(&examined, connection.proof.kind()));
            }
            Ok(_) | Err(TooSoon { .. }) => {}
        }
    }
    match api.directory.add_connection(caller, &connection, api.clock.now()).await? {
        None => return Err(Problem::no_such_caller()),
        Some(false) => {
            let detail = "There is a connection of that name.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        Some(true) => {}
    }
    let name = connection.name;
    tracing::info!(caller = %caller, connection = name, "made connection {name} of {caller}");
    let made = api.directory.connections(caller).await?.unwrap_or_default();
    let made = made.into_iter().find(|it| it.name == name);
    let made = made.ok_or_else(|| Problem::new(Kind::NotFound))?;
    Ok((StatusCode::CREATED, Made(name), Json(made.into())))
}

/// Refuses the names of what is no connection to anybody but the bridge: by them it acts for users who have
/// signed in.
fn is_anybodys(name: &str) -> Result<(), Problem> {
    match User::of_connection(name) {
        None => Ok(()),
        Some(_) => Err(Problem::new(Kind::NotFound)),
    }
}

/// Names the member that has to be another, with what Entra or Graph says.
fn does_not_work(examined: &Examination, kind: ProofKind) -> Problem {
    let Examination { finding, complaint, graph } = examined;
    let field = match finding {
        Finding::UnknownTenant | Finding::WrongCloud => "tenant",
        Finding::ProofRefused | Finding::ProofExpired => match kind {
            ProofKind::ClientSecret => "clientSecret",
            ProofKind::Certificate => "certificate",
            ProofKind::FederatedToken => "federatedTokenFile",
            ProofKind::SystemAssignedIdentity | ProofKind::UserAssignedIdentity => {
                "managedIdentity"
            }
            ProofKind::OnBehalfOf | ProofKind::Shared | ProofKind::Withdrawn => "name",
        },
        Finding::Works
        | Finding::UnknownApp
        | Finding::ConsentMissing
        | Finding::TokenRefused
        | Finding::PermissionMissing
        | Finding::Throttled
        | Finding::NoProof
        | Finding::Trouble => "clientId",
    };
    let numbers = complaint.numbers.iter().map(|number| format!(" (AADSTS{number})"));
    let status = graph.iter().map(|said| format!(" (Graph answered {})", said.status));
    let told: String = numbers.chain(status).collect();
    let detail = format!(
        "{}{told} Nothing was made; with `\"test\": false` it would be, untested.",
        finding.advice()
    );
    Problem::field(field, finding.as_str(), detail)
}

impl From<ConnectionSummary> for ConnectionView {
    fn from(stored: ConnectionSummary) -> Self {
        Self {
            name: stored.name,
            tenant: stored.tenant,
            client_id: stored.client_id,
            kind: stored.proof.kind.as_str(),
            thumbprint: stored.proof.thumbprint,
            expires_at: stored.proof.expires_at.map(|at| at.to_string()),
            is_default: stored.is_default,
            created_at: stored.created_at.to_string(),
        }
    }
}

impl NewConnection {
    /// What is to be stored, or everything that is wrong with it.
    pub(crate) fn check(
        self,
        by: By,
        now: Timestamp,
    ) -> Result<graph::Connection, Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.name.parse::<CallerName>().is_err() {
            let detail = "1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit";
            errors.push(FieldError::new("name", "invalid", detail));
        }
        let tenant = self.tenant.to_ascii_lowercase();
        // Becomes a segment of the token endpoint's path, so nothing but a GUID or a domain name.
        let host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let labels = tenant.split('.').all(|label| !label.is_empty() && !label.starts_with('-'));
        if tenant.len() > 253 || !tenant.bytes().all(host) || !labels {
            let detail = "the directory's GUID, or one of its domain names";
            errors.push(FieldError::new("tenant", "invalid", detail));
        } else if matches!(tenant.as_str(), "common" | "organizations" | "consumers") {
            let detail = "a certain directory: an app on its own cannot sign in to any";
            errors.push(FieldError::new("tenant", "invalid", detail));
        }
        let client_id = self.client_id.to_ascii_lowercase();
        if uuid::Uuid::try_parse(&client_id).is_err() || client_id.len() != 36 {
            let detail = "a GUID such as 11111111-2222-3333-4444-555555555555";
            errors.push(FieldError::new("clientId", "invalid", detail));
        }
        let proof = NewProof {
            client_secret: self.client_secret,
            certificate: self.certificate,
            federated_token_file: self.federated_token_file,
            managed_identity: self.managed_identity,
        };
        let proof = proof.check(by, now).map_err(|error| errors.push(error)).ok();
        match proof.filter(|_| errors.is_empty()) {
            Some(proof) => Ok(graph::Connection { name: self.name, tenant, client_id, proof }),
            None => Err(errors),
        }
    }
}

/// Has every operation that is blocked on this connection watched again, those of callers included who
/// it is shared with.
async fn wake_all_blocked(api: &Api, caller: &CallerName, name: &str) -> Result<(), Problem> {
    wake_blocked(api, caller, name).await?;
    for share in api.directory.shares(caller, name).await? {
        wake_blocked(api, &share.with, &share.name).await?;
    }
    Ok(())
}

/// Has every operation of this caller that is blocked on this connection watched again, within its lane.
pub(super) async fn wake_blocked(
    api: &Api,
    caller: &CallerName,
    name: &str,
) -> Result<(), Problem> {
    let (caller, connection) = (caller.clone(), name.to_owned());
    let asked_at = api.clock.now();
    api.store.ask_waking(Waking { caller, connection, asked_at }).await?;
    api.nudge.waking();
    Ok(())
}

/// Removes a connection that no live operation uses.
#[utoipa::path(
    delete,
    path = "/v1/connections/{name}",
    operation_id = "removeConnection",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("name" = String, Path, description = "Your name for it")),
    responses(
        (status = 204, description = "Removed"),
        Caller<Manage>,
        (status = 404, description = "You have no such connection", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "Operations use it", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    is_anybodys(&name)?;
    match api.directory.remove_connection(&caller, &name).await? {
        None => Err(Problem::new(Kind::NotFound)),
        Some(false) => {
            let detail = "Live operations use it, or it is shared with another caller: cancel them or \
                give them another credential, and have it withdrawn.";
            Err(Problem::with_detail(Kind::Conflict, detail))
        }
        Some(true) => {
            tracing::info!(caller = %caller, connection = name, "removed connection {name} of {caller}");
            Ok(StatusCode::NO_CONTENT)
        }
    }
}
