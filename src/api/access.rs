//! Who is asking: a caller by one of its API keys, or the operator by the admin key.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::IntoResponses;

use super::Api;
use super::problem::{Kind, Problem, Responses, documented};
use crate::store::{ApiKey, CallerName, KeyDigest};

/// What every API key begins with, so that one that leaked is recognised.
const KEY_PREFIX: &str = "ebk_";

/// The caller whose key came with the request.
pub(super) struct Caller(pub(super) CallerName);

/// The operator, by the admin key.
pub(super) struct Operator;

/// A new API key, and the only sight of it.
pub(crate) fn new_api_key(now: Timestamp) -> Result<(SecretString, ApiKey), getrandom::Error> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)?;
    let key = SecretString::from(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)));
    let digest = digest(&key);
    let number = digest.0.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
    let id = format!("key_{number:012x}");
    Ok((key, ApiKey { id, digest, created_at: now }))
}

/// What is kept of a key.
pub(crate) fn digest(key: &SecretString) -> KeyDigest {
    KeyDigest(Sha256::digest(key.expose_secret()).into())
}

/// The digest of the bearer key of a request, if it has one.
fn presented(parts: &Parts) -> Option<KeyDigest> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| digest(&SecretString::from(key.trim())))
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let unauthenticated = || {
            let detail = "Send `Authorization: Bearer` with one of your API keys.";
            Problem::with_detail(Kind::Unauthenticated, detail)
        };
        let digest = presented(parts).ok_or_else(unauthenticated)?;
        // Looked up by digest: how long that takes says nothing about the key itself.
        let found = api.directory.caller_by_key(&digest).await?;
        let caller = found.ok_or_else(unauthenticated)?;
        api.pace(&caller)?;
        Ok(Self(caller))
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let is_operator = presented(parts).is_some_and(|it| it.0.ct_eq(&api.admin_key.0).into());
        if is_operator {
            return Ok(Self);
        }
        let detail = "Send `Authorization: Bearer` with the admin key.";
        Err(Problem::with_detail(Kind::Unauthenticated, detail))
    }
}

impl IntoResponses for Caller {
    fn responses() -> Responses {
        let mut responses = Operator::responses();
        responses.extend(documented([Kind::TooManyRequests]));
        responses
    }
}

impl IntoResponses for Operator {
    /// Whoever asks for a key asks the store as well, and may have to wait for it.
    fn responses() -> Responses {
        documented([
            Kind::Unauthenticated,
            Kind::RequestTimeout,
            Kind::Internal,
            Kind::StoreUnavailable,
        ])
    }
}
