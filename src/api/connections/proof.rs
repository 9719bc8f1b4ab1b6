//! How a connection proves itself: the members of a request that say so, and
//! `PUT /v1/connections/{name}/credential`, which replaces the proof.

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{is_anybodys, wake_all_blocked};
use crate::api::access::{Caller, Manage, Operator};
use crate::api::body::{self, Segment, Segments};
use crate::api::problem::{Kind, Problem, ProblemBody};
use crate::api::{Api, FieldError};
use crate::graph::{ClientCertificate, ManagedIdentity, Proof};
use crate::store::CallerName;

/// Bytes of a client secret at the most.
const LONGEST_SECRET: usize = 1_024;

/// Bytes of a path at the most.
const LONGEST_PATH: usize = 1_024;

/// Who makes the request. A proof that the bridge's own machine has is for the operator to give, or a
/// caller could act as the operator does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum By {
    Caller,
    Operator,
}

/// Another proof for a connection, of whatever kind: exactly one of the members.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewProof)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewProof {
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
}

/// Which of the machine's identities.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(as = ManagedIdentity)]
#[serde(rename_all = "camelCase")]
pub(crate) enum MachinesOwn {
    /// The machine's own.
    SystemAssigned,
    /// The one that `clientId` names.
    UserAssigned,
}

impl NewProof {
    /// What is to be kept, or what is wrong with it.
    pub(crate) fn check(self, by: By, now: Timestamp) -> Result<Proof, FieldError> {
        let given = [
            ("clientSecret", self.client_secret.is_some()),
            ("certificate", self.certificate.is_some()),
            ("federatedTokenFile", self.federated_token_file.is_some()),
            ("managedIdentity", self.managed_identity.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        match (given.next(), given.next()) {
            (Some(_), None) => {}
            (None, _) => {
                let detail = "give a proof: `clientSecret`, `certificate`, and for operators also \
                    `federatedTokenFile` and `managedIdentity`";
                return Err(FieldError::new("clientSecret", "missing", detail));
            }
            (Some(_), Some((second, _))) => {
                let detail = "a connection proves itself in one way: give one of them";
                return Err(FieldError::new(second, "unexpected", detail));
            }
        }
        if let Some(secret) = self.client_secret {
            return check_secret(secret);
        }
        if let Some(pem) = self.certificate {
            let certificate = ClientCertificate::from_pem(&pem, now);
            let invalid = |error: crate::graph::InvalidCertificate| {
                FieldError::new("certificate", "invalid", error.to_string())
            };
            return certificate.map(Proof::Certificate).map_err(invalid);
        }
        if by == By::Caller {
            let field = if self.managed_identity.is_some() {
                "managedIdentity"
            } else {
                "federatedTokenFile"
            };
            let detail = "it is the identity of the bridge's own machine: ask its operator for such a \
                connection";
            return Err(FieldError::new(field, "operatorOnly", detail));
        }
        if let Some(file) = self.federated_token_file {
            let fits = file.starts_with('/') && file.len() <= LONGEST_PATH && !file.contains('\0');
            let detail = "an absolute path of at most 1,024 bytes";
            let invalid = || FieldError::new("federatedTokenFile", "invalid", detail);
            return fits.then(|| Proof::FederatedToken { file: file.into() }).ok_or_else(invalid);
        }
        Ok(Proof::ManagedIdentity(match self.managed_identity {
            Some(MachinesOwn::SystemAssigned) => ManagedIdentity::SystemAssigned,
            Some(MachinesOwn::UserAssigned) | None => ManagedIdentity::UserAssigned,
        }))
    }
}

fn check_secret(secret: SecretString) -> Result<Proof, FieldError> {
    let length = secret.expose_secret().len();
    if (1..=LONGEST_SECRET).contains(&length) {
        return Ok(Proof::Secret(secret));
    }
    let detail = format!("1 to {LONGEST_SECRET} bytes");
    Err(FieldError::new("clientSecret", "invalid", detail))
}

/// Gives a connection another proof, of the same kind or another, and wakes what was blocked for want of
/// it. No operation is lost: polls that are under way end with the old one.
#[utoipa::path(
    put,
    path = "/v1/connections/{name}/credential",
    operation_id = "replaceConnectionProof",
    tag = "settings",
    security(("apiKey" = ["manage"])),
    params(("name" = String, Path, description = "Your name for it")),
    request_body = super::own::OwnProof,
    responses(
        (status = 204, description = "Replaced"),
        Caller<Manage>,
        body::Json<NewProof>,
        (status = 404, description = "You have no such connection", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It is another caller's", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn replace(
    State(api): State<Api>,
    Caller { name: caller, .. }: Caller<Manage>,
    Segment(name): Segment,
    body::Json(request): body::Json<NewProof>,
) -> Result<StatusCode, Problem> {
    put(&api, &caller, &name, request, By::Caller).await
}

/// The same for any caller's connection, and with the identity of the bridge's machine.
#[utoipa::path(
    put,
    path = "/v1/admin/callers/{caller}/connections/{name}/credential",
    operation_id = "replaceCallerConnectionProof",
    tag = "admin",
    security(("adminKey" = [])),
    params(
        ("caller" = String, Path, description = "The caller's name"),
        ("name" = String, Path, description = "The caller's name for the connection"),
    ),
    request_body = NewProof,
    responses(
        (status = 204, description = "Replaced"),
        Operator,
        body::Json<NewProof>,
        (status = 404, description = "There is no such caller or connection", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 409, description = "It is another caller's", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(in crate::api) async fn replace_as_operator(
    State(api): State<Api>,
    Operator: Operator,
    Segments((caller, name)): Segments<(String, String)>,
    body::Json(request): body::Json<NewProof>,
) -> Result<StatusCode, Problem> {
    let caller = caller.parse().map_err(|_| Problem::no_such_caller())?;
    put(&api, &caller, &name, request, By::Operator).await
}

async fn put(
    api: &Api,
    caller: &CallerName,
    name: &str,
    request: NewProof,
    by: By,
) -> Result<StatusCode, Problem> {
    is_anybodys(name)?;
    let checked = request.check(by, api.clock.wall());
    let proof = checked.map_err(|error| Problem::invalid(vec![error]))?;
    if !api.directory.replace_proof(caller, name, &proof).await? {
        let listed = api.directory.connections(caller).await?.unwrap_or_default();
        if listed.iter().any(|it| it.name == name && it.proof.kind.is_anothers()) {
            let detail = "It is another caller's, which alone can change its proof.";
            return Err(Problem::with_detail(Kind::Conflict, detail));
        }
        return Err(Problem::new(Kind::NotFound));
    }
    wake_all_blocked(api, caller, name).await?;
    tracing::info!(
        caller = %caller, connection = name, kind = proof.kind().as_str(),
        "replaced the proof of connection {name} of {caller}"
    );
    Ok(StatusCode::NO_CONTENT)
}
