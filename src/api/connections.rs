//! `/v1/connections`: the Graph identities of a caller.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::body::{self, Segment};
use super::problem::{Kind, Problem, ProblemBody};
use super::{Api, FieldError};
use crate::graph::{self, Credential};
use crate::operation::{Decision, Event, OperationId, decide};
use crate::store::{
    Amendment, CallerName, ConnectionSummary, Identity, OperationFilter, Page, Tracked,
};

/// Bytes of a client secret at the most.
const LONGEST_SECRET: usize = 1_024;

/// Operations that are woken at a time when a connection is repaired.
const WAKE_AT_A_TIME: usize = 64;

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
    /// The app registration's application (client) id, a GUID.
    #[schema(
        pattern = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
        example = "11111111-2222-3333-4444-555555555555"
    )]
    pub(crate) client_id: String,
    /// The app registration's client secret.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    pub(crate) client_secret: SecretString,
}

/// A connection without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionView {
    name: String,
    tenant: String,
    client_id: String,
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

/// Another secret for a connection.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ClientSecret)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewSecret {
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    client_secret: SecretString,
}

/// Lists your connections.
#[utoipa::path(
    get,
    path = "/v1/connections",
    operation_id = "listConnections",
    tag = "settings",
    security(("apiKey" = [])),
    responses(
        (status = 200, description = "All of them", body = Listed),
        Caller,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(caller): Caller,
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
#[utoipa::path(
    post,
    path = "/v1/connections",
    operation_id = "createConnection",
    tag = "settings",
    security(("apiKey" = [])),
    request_body = NewConnection,
    responses(
        (status = 201, description = "Made", body = ConnectionView),
        Caller,
        body::Json<NewConnection>,
        (status = 409, description = "You have one of that name", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Caller(caller): Caller,
    body::Json(request): body::Json<NewConnection>,
) -> Result<(StatusCode, Json<ConnectionView>), Problem> {
    add(&api, &caller, request).await
}

/// Makes a connection for `caller`, whoever asked for it.
pub(super) async fn add(
    api: &Api,
    caller: &CallerName,
    request: NewConnection,
) -> Result<(StatusCode, Json<ConnectionView>), Problem> {
    let connection = request.check().map_err(Problem::invalid)?;
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
    Ok((StatusCode::CREATED, Json(made.into())))
}

impl From<ConnectionSummary> for ConnectionView {
    fn from(stored: ConnectionSummary) -> Self {
        Self {
            name: stored.name,
            tenant: stored.tenant,
            client_id: stored.client_id,
            is_default: stored.is_default,
            created_at: stored.created_at.to_string(),
        }
    }
}

impl NewConnection {
    /// What is to be stored, or everything that is wrong with it.
    pub(crate) fn check(self) -> Result<graph::Connection, Vec<FieldError>> {
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
        errors.extend(check_secret(&self.client_secret));
        if !errors.is_empty() {
            return Err(errors);
        }
        let client_secret = self.client_secret;
        Ok(graph::Connection { name: self.name, tenant, client_id, client_secret })
    }
}

fn check_secret(secret: &SecretString) -> Option<FieldError> {
    let length = secret.expose_secret().len();
    let detail = format!("1 to {LONGEST_SECRET} bytes");
    let fits = (1..=LONGEST_SECRET).contains(&length);
    (!fits).then(|| FieldError::new("clientSecret", "invalid", detail))
}

/// Replaces a connection's client secret, and wakes what was blocked for want of it.
#[utoipa::path(
    put,
    path = "/v1/connections/{name}/client-secret",
    operation_id = "replaceClientSecret",
    tag = "settings",
    security(("apiKey" = [])),
    params(("name" = String, Path, description = "Your name for it")),
    request_body = NewSecret,
    responses(
        (status = 204, description = "Replaced"),
        Caller,
        body::Json<NewSecret>,
        (status = 404, description = "You have no such connection", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn replace_secret(
    State(api): State<Api>,
    Caller(caller): Caller,
    Segment(name): Segment,
    body::Json(request): body::Json<NewSecret>,
) -> Result<StatusCode, Problem> {
    if let Some(error) = check_secret(&request.client_secret) {
        return Err(Problem::invalid(vec![error]));
    }
    if !api.directory.replace_client_secret(&caller, &name, &request.client_secret).await? {
        return Err(Problem::new(Kind::NotFound));
    }
    let woken = wake_blocked(&api, &caller, &name).await?;
    tracing::info!(
        caller = %caller, connection = name, woken,
        "replaced the secret of connection {name} of {caller}"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// Lets every operation that is blocked on this connection be watched again, within its lane.
async fn wake_blocked(api: &Api, caller: &CallerName, name: &str) -> Result<usize, Problem> {
    let mut woken = 0;
    let mut last: Option<OperationId> = None;
    loop {
        let filter = OperationFilter { state: Some("blocked") };
        let page = Page { after: last, limit: 500 };
        let blocked = api.store.operations(caller, filter, page).await?;
        let Some(oldest) = blocked.last() else { return Ok(woken) };
        last = Some(oldest.operation.id);
        let of_this_one = |it: &Tracked| it.identity == Identity::Connection(name.to_owned());
        let waking = blocked.into_iter().filter(of_this_one).map(|it| wake(api, it));
        let mut waking = futures_util::stream::iter(waking).buffer_unordered(WAKE_AT_A_TIME);
        while let Some(result) = waking.next().await {
            result?;
            woken += 1;
        }
    }
}

/// Wakes one operation. Should another have got in between, it is not what it was, and so not
/// blocked for what has been repaired.
async fn wake(api: &Api, tracked: Tracked) -> Result<(), Problem> {
    let (before, now) = (tracked.operation, api.clock.now());
    let decision = decide(&api.operations, &before, Event::CredentialRenewed, now);
    if let Decision::Become(after, _) = decision {
        let due = after.agenda().step_at;
        let credential: Option<Credential> = None;
        api.store.amend(Amendment::Operation { before, after, owed: None, credential }).await?;
        if let Some(due) = due {
            api.nudge.due(due);
        }
    }
    Ok(())
}

/// Removes a connection that no live operation uses.
#[utoipa::path(
    delete,
    path = "/v1/connections/{name}",
    operation_id = "removeConnection",
    tag = "settings",
    security(("apiKey" = [])),
    params(("name" = String, Path, description = "Your name for it")),
    responses(
        (status = 204, description = "Removed"),
        Caller,
        (status = 404, description = "You have no such connection", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "Operations use it", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    Caller(caller): Caller,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    match api.directory.remove_connection(&caller, &name).await? {
        None => Err(Problem::new(Kind::NotFound)),
        Some(false) => {
            let detail = "Live operations use it: cancel them, or give them another credential.";
            Err(Problem::with_detail(Kind::Conflict, detail))
        }
        Some(true) => {
            tracing::info!(caller = %caller, connection = name, "removed connection {name} of {caller}");
            Ok(StatusCode::NO_CONTENT)
        }
    }
}
