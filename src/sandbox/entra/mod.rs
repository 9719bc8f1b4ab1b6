//! Microsoft Entra, as far as its token endpoint goes.

mod client;
mod machine;
pub(super) mod publishing;
mod refusal;
pub(super) mod signing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, PRAGMA};
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::record::RecordedRequest;
use super::tokens::{Access, Audience, Grant, Worthless};
use super::told::Told;
use super::world::Shared;
use super::{Client, read, root_as_seen};
use client::JWT_BEARER;
pub(super) use client::{App, Trust};
pub(super) use machine::Machine;
use refusal::{Exchange, Refusal};

/// Refresh tokens live for 90 days, however often they are used.
const REFRESH_TOKEN_LIFE: Duration = Duration::from_hours(90 * 24);

/// Where tokens for Graph are asked for, besides at the sandbox by its own name.
const GRAPH_ROOTS: [&str; 4] = [
    "https://graph.microsoft.com",
    "https://graph.microsoft.us",
    "https://dod-graph.microsoft.us",
    "https://microsoftgraph.chinacloudapi.cn",
];

/// Answers one request to the token endpoint of `tenant`, and completes its entry in the record but
/// for the status.
pub(super) async fn answer(
    shared: &Shared,
    tenant: &str,
    head: &Parts,
    body: Body,
    entry: &mut RecordedRequest,
    now: Timestamp,
) -> Told {
    let exchange = Exchange::new(shared, head, now);
    if head.method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response().into();
    }
    let Some(body) = read(body).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response().into();
    };
    let fault = shared.world().next_token_fault();
    if let Some(answer) = fault {
        let response = answer.reply.response(|http, error| exchange.scripted(http, error));
        return Told::scripted(response, answer);
    }
    let request = TokenRequest {
        shared,
        tenant: tenant.to_ascii_lowercase(),
        form: url::form_urlencoded::parse(&body).into_owned().collect(),
        graph: root_as_seen(shared, &head.headers),
        now,
    };
    match request.grant() {
        Ok(granted) => {
            entry.identity = Some(granted.identity.to_string());
            granted.response().into()
        }
        Err(refusal) => exchange.refuse(&refusal).into(),
    }
}

/// What came to the token endpoint.
struct TokenRequest<'a> {
    shared: &'a Shared,
    tenant: String,
    form: HashMap<String, String>,
    /// The sandbox as the root of Graph, by the name under which it was asked.
    graph: String,
    now: Timestamp,
}

/// What is handed out.
struct Granted {
    identity: Arc<str>,
    access_token: SecretString,
    expires_in: u64,
    refresh_token: Option<SecretString>,
    /// Left out for an app, as Entra does.
    scope: Option<String>,
}

impl TokenRequest<'_> {
    fn grant(&self) -> Result<Granted, Refusal> {
        match self.member("grant_type")? {
            "client_credentials" => self.client_credentials(),
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => self.on_behalf_of(),
            "refresh_token" => self.refresh(),
            other => Err(Refusal::UnsupportedGrantType(other.to_owned())),
        }
    }

    fn client_credentials(&self) -> Result<Granted, Refusal> {
        let client_id = self.client()?;
        let scope = self.member("scope")?;
        let Some(resource) = scope.strip_suffix("/.default") else {
            return Err(Refusal::NotTheDefaultScope(scope.to_owned()));
        };
        if !self.is_graph(resource) {
            return Err(Refusal::InvalidResource(resource.to_owned()));
        }
        let identity = format!("{}/{client_id}", self.tenant).into();
        self.hand_out(identity, None, None)
    }

    fn on_behalf_of(&self) -> Result<Granted, Refusal> {
        let client_id = self.client()?;
        if self.member("requested_token_use")? != "on_behalf_of" {
            return Err(Refusal::InvalidParameter("requested_token_use"));
        }
        let assertion = self.member("assertion")?;
        let user = {
            let world = self.shared.world();
            match world.access_tokens.find(assertion, self.now) {
                Ok(access) if access.audience == Audience::App(client_id.clone()) => {
                    Arc::clone(&access.identity)
                }
                Ok(_) => return Err(Refusal::AssertionForAnother),
                Err(Worthless::Unknown) => return Err(Refusal::AssertionInvalid),
                Err(Worthless::Expired) => return Err(Refusal::AssertionExpired),
            }
        };
        self.for_user(Grant { tenant: self.tenant.clone(), client_id, user })
    }

    fn refresh(&self) -> Result<Granted, Refusal> {
        let client_id = self.client()?;
        let token = self.member("refresh_token")?;
        // The token that was used stays valid, as at Entra: who crashes before saving the new one
        // can use the old one again.
        let grant = match self.shared.world().refresh_tokens.find(token, self.now) {
            Ok(grant) => grant.clone(),
            Err(Worthless::Unknown) => return Err(Refusal::RefreshTokenInvalid),
            Err(Worthless::Expired) => return Err(Refusal::RefreshTokenExpired),
        };
        if grant.client_id != client_id || grant.tenant != self.tenant {
            return Err(Refusal::RefreshTokenInvalid);
        }
        self.for_user(grant)
    }

    /// A token for the user of `grant`, and a new refresh token where the scope asks for one or
    /// one was used.
    fn for_user(&self, grant: Grant) -> Result<Granted, Refusal> {
        let scope = self.member("scope")?;
        let mut is_offline = self.form.contains_key("refresh_token");
        let mut scopes = Vec::new();
        for word in scope.split_whitespace() {
            match word.rsplit_once('/') {
                Some((resource, _)) if self.is_graph(resource) => scopes.push(word),
                Some((resource, _)) => return Err(Refusal::InvalidResource(resource.to_owned())),
                None => is_offline |= word == "offline_access",
            }
        }
        if scopes.is_empty() {
            return Err(Refusal::InvalidScope(scope.to_owned()));
        }
        let identity = format!("{}/{}/{}", grant.tenant, grant.client_id, grant.user).into();
        self.hand_out(identity, is_offline.then_some(grant), Some(scopes.join(" ")))
    }

    fn hand_out(
        &self,
        identity: Arc<str>,
        renewable: Option<Grant>,
        scope: Option<String>,
    ) -> Result<Granted, Refusal> {
        let life = self.shared.options.token_life;
        let access = Access { identity: Arc::clone(&identity), audience: Audience::Graph };
        let mut world = self.shared.world();
        let access_token = world.access_token(access, life, self.now)?;
        let refresh_token = renewable
            .map(|grant| world.refresh_token(grant, REFRESH_TOKEN_LIFE, self.now))
            .transpose()?;
        let expires_in = life.as_secs();
        Ok(Granted { identity, access_token, expires_in, refresh_token, scope })
    }

    /// The client id, once it is proved that it is the client that asks.
    fn client(&self) -> Result<String, Refusal> {
        let client_id = self.member("client_id")?.to_ascii_lowercase();
        let given = |name| self.form.get(name).filter(|value| !value.is_empty());
        let (secret, assertion) = (given("client_secret"), given("client_assertion"));
        if secret.is_none() && assertion.is_none() {
            return Err(Refusal::NoClientSecret);
        }
        let known = self.known(&client_id)?;
        if let Some(assertion) = assertion {
            if self.member("client_assertion_type")? != JWT_BEARER {
                return Err(Refusal::InvalidParameter("client_assertion_type"));
            }
            let app = App::new(&self.tenant, &client_id);
            let endpoint = format!("{}/{}/oauth2/v2.0/token", self.graph, self.tenant);
            self.shared.world().trust.prove(&app, assertion, &endpoint, self.now)?;
            return Ok(client_id);
        }
        match known {
            Some(client) if Some(client.secret.expose_secret()) != secret.map(String::as_str) => {
                Err(Refusal::WrongClientSecret(client_id))
            }
            Some(_) | None => Ok(client_id),
        }
    }

    /// The app registration, where there are any.
    fn known(&self, client_id: &str) -> Result<Option<&Client>, Refusal> {
        let clients = &self.shared.options.clients;
        if clients.is_empty() {
            return Ok(None);
        }
        if !clients.iter().any(|client| client.tenant.eq_ignore_ascii_case(&self.tenant)) {
            return Err(Refusal::UnknownTenant(self.tenant.clone()));
        }
        let known = clients.iter().find(|client| {
            client.tenant.eq_ignore_ascii_case(&self.tenant)
                && client.client_id.eq_ignore_ascii_case(client_id)
        });
        let unknown = || Refusal::UnknownClient {
            client_id: client_id.to_owned(),
            tenant: self.tenant.clone(),
        };
        known.map(Some).ok_or_else(unknown)
    }

    fn is_graph(&self, resource: &str) -> bool {
        resource == self.graph || GRAPH_ROOTS.contains(&resource)
    }

    fn member(&self, name: &'static str) -> Result<&str, Refusal> {
        let value = self.form.get(name).filter(|value| !value.is_empty());
        value.map(String::as_str).ok_or(Refusal::MissingParameter(name))
    }
}

impl Granted {
    fn response(&self) -> Response {
        let body = GrantedBody {
            token_type: "Bearer",
            scope: self.scope.as_deref(),
            expires_in: self.expires_in,
            ext_expires_in: self.expires_in,
            access_token: self.access_token.expose_secret(),
            refresh_token: self.refresh_token.as_ref().map(ExposeSecret::expose_secret),
        };
        ([(CACHE_CONTROL, "no-store, no-cache"), (PRAGMA, "no-cache")], Json(body)).into_response()
    }
}

#[derive(Serialize)]
struct GrantedBody<'a> {
    token_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    expires_in: u64,
    ext_expires_in: u64,
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}
