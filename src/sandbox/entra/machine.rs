//! The identities that Azure gives to machines: the Instance Metadata Service, and the endpoint of an
//! App Service. Whoever reaches the sandbox is on that machine.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Exchange, GRAPH_ROOTS};
use crate::sandbox::record::RecordedRequest;
use crate::sandbox::root_as_seen;
use crate::sandbox::tokens::{Access, Audience};
use crate::sandbox::told::Told;
use crate::sandbox::world::Shared;

/// Which of the two endpoints was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::sandbox) enum Machine {
    InstanceMetadata,
    AppService,
}

impl Machine {
    /// The endpoint at `path`, if one is.
    pub(in crate::sandbox) fn at(path: &str) -> Option<Self> {
        match path {
            "/metadata/identity/oauth2/token" => Some(Self::InstanceMetadata),
            "/msi/token" => Some(Self::AppService),
            _ => None,
        }
    }

    /// Hands out a token of the identity that was asked for, and completes the entry in the record but
    /// for the status.
    pub(in crate::sandbox) fn answer(
        self,
        shared: &Shared,
        head: &Parts,
        entry: &mut RecordedRequest,
        now: Timestamp,
    ) -> Told {
        let exchange = Exchange::new(shared, head, now);
        let fault = shared.world().next_token_fault();
        if let Some(answer) = fault {
            let response = answer.reply.response(|http, error| exchange.scripted(http, error));
            return Told::scripted(response, answer);
        }
        self.hand_out(shared, head, entry, now).unwrap_or_else(|why| self.refuse(&why)).into()
    }

    fn hand_out(
        self,
        shared: &Shared,
        head: &Parts,
        entry: &mut RecordedRequest,
        now: Timestamp,
    ) -> Result<Response, Cow<'static, str>> {
        if head.method != Method::GET {
            return Err("GET is expected".into());
        }
        self.check_header(shared, head)?;
        let query = head.uri.query().unwrap_or_default();
        let member = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let version = match self {
            Self::InstanceMetadata => "2018-02-01",
            Self::AppService => "2019-08-01",
        };
        if member("api-version").as_deref() != Some(version) {
            return Err("api-version is missing, or is none that is served".into());
        }
        let resource = member("resource").unwrap_or_default();
        let graph = root_as_seen(shared, &head.headers);
        if resource != graph && !GRAPH_ROOTS.contains(&resource.as_str()) {
            return Err("the resource was not found in the tenant".into());
        }
        let client_id = member("client_id").map(|id| id.to_ascii_lowercase());
        let identity = format!("machine/{}", client_id.as_deref().unwrap_or("system"));
        entry.identity = Some(identity.clone());
        let life = shared.options.token_life;
        let access = Access { identity: identity.into(), audience: Audience::Graph };
        let token = shared.world().access_token(access, life, now);
        let token = token.map_err(|full| full.to_string())?;
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        let ends_at = now.as_second().saturating_add(seconds).to_string();
        let mut body = json!({
            "access_token": token.expose_secret(),
            "client_id": client_id,
            "expires_on": ends_at,
            "resource": resource,
            "token_type": "Bearer",
        });
        if self == Self::InstanceMetadata {
            let life = life.as_secs().to_string();
            body["expires_in"] = json!(life);
            body["ext_expires_in"] = json!(life);
            body["not_before"] = json!(now.as_second().to_string());
        }
        Ok(Json(body).into_response())
    }

    fn check_header(self, shared: &Shared, head: &Parts) -> Result<(), &'static str> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_right = match self {
            Self::InstanceMetadata => {
                header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            }
            Self::AppService => {
                let secret = shared.options.identity_header.as_ref();
                header("x-identity-header").is_some()
                    && header("x-identity-header") == secret.map(ExposeSecret::expose_secret)
            }
        };
        if is_right { Ok(()) } else { Err("Required metadata header not specified") }
    }

    /// In the words of either: those of OAuth, or those of App Service.
    fn refuse(self, why: &str) -> Response {
        let body = match self {
            Self::InstanceMetadata => json!({"error": "invalid_request", "error_description": why}),
            Self::AppService => json!({"statusCode": 400, "message": why}),
        };
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}
