//! What Microsoft Entra publishes about a tenant: the keys that its tokens are signed with.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::ACCEPT;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::client::HttpGraph;
use super::transport::{NoAnswer, causes};

/// Says which keys tokens are signed with.
#[async_trait]
pub trait Authority: Send + Sync {
    /// The JSON Web Key Set (RFC 7517) of `tenant`, as it is published, 256 KiB at the most.
    ///
    /// Takes no longer than ten seconds, and leads nowhere but to the operator's authority.
    async fn published_keys(&self, tenant: &str) -> Result<Bytes, KeysUnavailable>;
}

/// Why there are no keys to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysUnavailable {
    #[error("{url} did not answer: {reason}")]
    NoAnswer { url: String, reason: String },
    #[error("{url} answered with {status}")]
    Refused { url: String, status: u16 },
    #[error("{url} is not the configuration of an authority (OpenID Connect Discovery)")]
    NotAnAuthority { url: String },
    #[error("{url} says that tokens are issued by {issuer}, where {expected} was expected")]
    OtherIssuer { url: String, issuer: String, expected: String },
    #[error("{url} says that the keys are elsewhere than at the authority")]
    KeysElsewhere { url: String },
}

/// What matters here of OpenID Provider Metadata.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

const METADATA_LIMIT: usize = 64 * 1_024;

const KEYS_LIMIT: usize = 256 * 1_024;

#[async_trait]
impl Authority for HttpGraph {
    async fn published_keys(&self, tenant: &str) -> Result<Bytes, KeysUnavailable> {
        let until = Instant::now() + self.deadlines.token;
        let url = self.login.discovery(tenant);
        let metadata = self.published(&url, METADATA_LIMIT, until).await?;
        let keys_at = keys_at(&url, &metadata, &self.login.issuer(tenant))?;
        if !self.login.holds(&keys_at) {
            return Err(KeysUnavailable::KeysElsewhere { url: url.into() });
        }
        self.published(&keys_at, KEYS_LIMIT, until).await
    }
}

impl HttpGraph {
    async fn published(
        &self,
        url: &Url,
        limit: usize,
        until: Instant,
    ) -> Result<Bytes, KeysUnavailable> {
        let silent = |no_answer: NoAnswer| KeysUnavailable::NoAnswer {
            url: url.to_string(),
            reason: causes(&no_answer),
        };
        let request =
            |client: &reqwest::Client| client.get(url.clone()).header(ACCEPT, "application/json");
        let received = self.transport.exchange(until, limit, request).await.map_err(silent)?;
        if !received.status.is_success() {
            let status = received.status.as_u16();
            return Err(KeysUnavailable::Refused { url: url.to_string(), status });
        }
        received.body.map_err(silent)
    }
}

/// Where the metadata that stands at `url` says that the keys are.
fn keys_at(url: &Url, metadata: &[u8], expected: &str) -> Result<Url, KeysUnavailable> {
    let no_authority = || KeysUnavailable::NotAnAuthority { url: url.to_string() };
    let Metadata { issuer, jwks_uri } =
        serde_json::from_slice(metadata).map_err(|_| no_authority())?;
    if issuer != expected {
        let (issuer, expected) = (super::wire::legible(&issuer), expected.to_owned());
        return Err(KeysUnavailable::OtherIssuer { url: url.to_string(), issuer, expected });
    }
    Url::parse(&jwks_uri).map_err(|_| no_authority())
}
