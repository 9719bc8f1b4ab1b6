//! Tokens of the identity that Azure gives to the machine on which the bridge runs.
//!
//! Two endpoints hand them out: the Instance Metadata Service of virtual machines and Kubernetes
//! nodes, and that of App Service, Functions and Container Apps, which names itself by two variables
//! of the environment. Both are addresses of the operator's, never of a caller's.

use std::fmt;

use http::HeaderName;
use http::header::InvalidHeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::connection::{Connection, ManagedIdentity};
use super::grant::{BODY_LIMIT, Granted, NotGranted, conclude};
use super::transport::Transport;
use crate::clock::Clock;
use crate::operation::Hindrance;

/// Who hands out tokens of the machine's identities.
#[derive(Clone)]
pub enum MachineIdentity {
    /// The Instance Metadata Service, at a scheme, host and port.
    InstanceMetadata { root: Url },
    /// App Service, at the URL of `IDENTITY_ENDPOINT`, with what `IDENTITY_HEADER` holds.
    AppService { endpoint: Url, header: SecretString },
}

/// Why settings name nobody who could hand out tokens.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMachineIdentity {
    #[error("`{0}` is not a URL with http or https and a host")]
    NotAUrl(String),
    #[error("IDENTITY_HEADER holds what no header can")]
    NotAHeader(#[source] InvalidHeaderValue),
}

/// The address of the Instance Metadata Service on every machine of Azure.
pub const INSTANCE_METADATA: &str = "http://169.254.169.254";

/// The oldest version of the Instance Metadata Service that knows managed identities.
const METADATA_VERSION: &str = "2018-02-01";

/// The version of the endpoint that `IDENTITY_ENDPOINT` leads to.
const APP_SERVICE_VERSION: &str = "2019-08-01";

/// Proves that a request was made on purpose, and not by who could be talked into fetching a URL.
const METADATA: HeaderName = HeaderName::from_static("metadata");

const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

impl MachineIdentity {
    /// The Instance Metadata Service at `root`, which is [`INSTANCE_METADATA`] but in a test.
    pub fn instance_metadata(root: &str) -> Result<Self, InvalidMachineIdentity> {
        Ok(Self::InstanceMetadata { root: endpoint(root)? })
    }

    /// The endpoint of an App Service.
    pub fn app_service(url: &str, header: SecretString) -> Result<Self, InvalidMachineIdentity> {
        http::HeaderValue::from_str(header.expose_secret())
            .map_err(InvalidMachineIdentity::NotAHeader)?;
        Ok(Self::AppService { endpoint: endpoint(url)?, header })
    }

    /// Asks for a token for `resource`, until `until` at the latest, and leaves one line in the log.
    ///
    /// Whatever is refused here is for the operator to repair, and no caller could: so it is trouble,
    /// which passes, and never a refusal.
    pub(super) async fn ask(
        &self,
        client: &Connection,
        identity: ManagedIdentity,
        resource: &str,
        transport: &Transport,
        clock: &dyn Clock,
        until: Instant,
    ) -> Result<Granted, NotGranted> {
        let started = Instant::now();
        let (url, header, value) = self.request(client, identity, resource);
        let answer = transport
            .exchange(until, BODY_LIMIT, |http| {
                let mut value = http::HeaderValue::from_str(value.expose_secret())
                    .unwrap_or_else(|_| http::HeaderValue::from_static(""));
                value.set_sensitive(true);
                http.get(url).header(header, value)
            })
            .await;
        conclude(client, &answer, clock.wall(), started).map_err(|refused| {
            let retry_after = match refused.hindrance {
                Hindrance::Trouble { retry_after } => retry_after,
                Hindrance::Refused(_) => None,
            };
            NotGranted { hindrance: Hindrance::Trouble { retry_after }, ..refused }
        })
    }

    fn request(
        &self,
        client: &Connection,
        identity: ManagedIdentity,
        resource: &str,
    ) -> (Url, HeaderName, SecretString) {
        let (mut url, version, header, value) = match self {
            Self::InstanceMetadata { root } => {
                let mut url = root.clone();
                url.set_path("/metadata/identity/oauth2/token");
                (url, METADATA_VERSION, METADATA, SecretString::from("true"))
            }
            Self::AppService { endpoint, header } => {
                (endpoint.clone(), APP_SERVICE_VERSION, IDENTITY_HEADER, header.clone())
            }
        };
        let mut query = url.query_pairs_mut();
        query.append_pair("api-version", version).append_pair("resource", resource);
        match identity {
            ManagedIdentity::SystemAssigned => {}
            ManagedIdentity::UserAssigned => {
                query.append_pair("client_id", &client.client_id);
            }
        }
        drop(query);
        (url, header, value)
    }
}

impl fmt::Debug for MachineIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InstanceMetadata { root } => write!(f, "InstanceMetadata({root})"),
            Self::AppService { endpoint, .. } => write!(f, "AppService({endpoint})"),
        }
    }
}

fn endpoint(text: &str) -> Result<Url, InvalidMachineIdentity> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.filter(Url::has_host).ok_or_else(|| InvalidMachineIdentity::NotAUrl(text.to_owned()))
}
