//! What a tenant publishes about itself: where its endpoints are, and by which keys it signs.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::signing::issuer;
use crate::sandbox::root_as_seen;
use crate::sandbox::world::Shared;

/// What there is to read of a tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::sandbox) enum Document<'a> {
    /// OpenID Connect Discovery 1.0.
    Configuration { tenant: &'a str },
    /// A JSON Web Key Set.
    Keys { tenant: &'a str },
}

impl<'a> Document<'a> {
    /// The document at `path`, if there is one.
    pub(in crate::sandbox) fn at(path: &'a str) -> Option<Self> {
        let (tenant, rest) = path.strip_prefix('/')?.split_once('/')?;
        match rest {
            "v2.0/.well-known/openid-configuration" => Some(Self::Configuration { tenant }),
            "discovery/v2.0/keys" => Some(Self::Keys { tenant }),
            _ => None,
        }
    }
}

/// Answers one request for a document.
pub(in crate::sandbox) fn answer(
    shared: &Shared,
    document: Document<'_>,
    head: &Parts,
) -> Response {
    if head.method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let root = root_as_seen(shared, &head.headers);
    match document {
        Document::Configuration { tenant } => Json(json!({
            "token_endpoint": format!("{root}/{tenant}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "authorization_endpoint": format!("{root}/{tenant}/oauth2/v2.0/authorize"),
            "jwks_uri": format!("{root}/{tenant}/discovery/v2.0/keys"),
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": issuer(&root, tenant),
        }))
        .into_response(),
        Document::Keys { tenant } => {
            let signing = shared.world().signing;
            Json(signing.published(&issuer(&root, tenant))).into_response()
        }
    }
}
