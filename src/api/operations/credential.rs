//! `PUT /v1/operations/{id}/credential`

use axum::Json;
use axum::extract::State;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::OperationView;
use super::{Changed, at_rest, change, find, token};
use crate::api::access::{Caller, Register};
use crate::api::body::{self, Segment};
use crate::api::problem::{Problem, ProblemBody};
use crate::api::{Api, FieldError, on_behalf_of};
use crate::graph::Credential;
use crate::operation::Event;

/// What to ask Graph with from now on: a connection, or a token with its life.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Credential)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct Request {
    /// One of your connections. Not with `accessToken`.
    connection: Option<String>,
    /// A fresh token for Graph. Not with `connection`.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 16384, pattern = "^[!-~]+$")]
    access_token: Option<SecretString>,
    /// Whether to ask in the name of the user who has signed in with the token that this request is sent
    /// with, from now on. Not with the other two.
    on_behalf_of: Option<bool>,
    /// For how long `accessToken` is good, in seconds.
    #[schema(minimum = 1, maximum = 172_800)]
    #[serde(default, deserialize_with = "body::whole")]
    expires_in: Option<u64>,
}

/// Brings a fresh credential. A blocked operation is watched again; polls keep their distance.
#[utoipa::path(
    put,
    path = "/v1/operations/{id}/credential",
    operation_id = "renewCredential",
    tag = "operations",
    security(("apiKey" = ["register"])),
    params(("id" = String, Path, description = "As the registration answered it")),
    request_body = Request,
    responses(
        (status = 200, description = "Taken", body = OperationView),
        Caller<Register>,
        body::Json<Request>,
        (status = 404, description = "You have no such operation", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It has ended already", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn renew(
    State(api): State<Api>,
    Caller { name: caller, seat, .. }: Caller<Register>,
    Segment(id): Segment,
    body::Json(request): body::Json<Request>,
) -> Result<Json<OperationView>, Problem> {
    find(&api, &caller, &id).await?;
    let unknown = || Problem::field("connection", "unknown", "you have no connection of that name");
    let mut errors = Vec::new();
    let hands_in = request.access_token.is_some() || request.expires_in.is_some();
    let token = token(request.access_token, request.expires_in, api.clock.now(), &mut errors);
    let on_behalf = request.on_behalf_of == Some(true);
    let credential = match (hands_in, request.connection, on_behalf) {
        (false, None, true) => {
            Some(Credential::Connection(on_behalf_of::connection(&api, &seat, true).await?))
        }
        (true, None, false) => token.map(Credential::Token),
        (false, Some(name), false) => {
            let found = api.directory.connection(&caller, Some(&name)).await?;
            let found = found.filter(|it| it.user().is_none());
            Some(Credential::Connection(found.ok_or_else(unknown)?))
        }
        (_, connection, _) => {
            let none = !hands_in && connection.is_none() && !on_behalf;
            let code = if none { "missing" } else { "unexpected" };
            let detail = "give one of `connection`, `accessToken` and `onBehalfOf`";
            errors.push(FieldError::new("connection", code, detail));
            None
        }
    };
    let Some(credential) = credential.filter(|_| errors.is_empty()) else {
        return Err(Problem::invalid(errors));
    };
    match change(&api, &caller, &id, Event::CredentialRenewed, Some(&credential)).await? {
        Changed::Saved(_) => {
            let tracked = find(&api, &caller, &id).await?;
            Ok(Json(OperationView::of(&tracked)))
        }
        Changed::Ignored(tracked) => Err(at_rest(&tracked.operation)),
        Changed::CredentialGone => Err(unknown()),
    }
}
