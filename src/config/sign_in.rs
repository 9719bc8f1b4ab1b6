//! Who may sign in with a token of Microsoft Entra.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::{ConfigError, SIGN_IN_SECRET, Settings, environment, secret_in};
use crate::graph::{ApiIdentity, ClientCertificate, LoginRoot, Proof};
use crate::sign_in::{Pace, Rules};

/// What the operator sets about signing in.
#[derive(Args, Clone, Debug)]
pub struct SignInSettings {
    /// The application (client) id of this API's own app registration in Entra. Callers can then send
    /// tokens of Entra that were made for it in place of API keys, from those apps that the operator
    /// has let in by `POST /v1/admin/callers/{caller}/sign-ins`. Needs `--sign-in-tenants`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SIGN_IN_CLIENT_ID", value_name = "GUID")]
    pub sign_in_client_id: Option<Uuid>,

    /// The directory (tenant) ids that may sign in, separated with commas. Tokens of all others are
    /// refused.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_SIGN_IN_TENANTS",
        value_name = "GUIDS",
        value_delimiter = ','
    )]
    pub sign_in_tenants: Vec<Uuid>,

    /// A file with a client secret of this API's app registration, by which it acts on behalf of users
    /// (`onBehalfOf`). Or give the secret itself in `ENGAGEMENT_BRIDGE_SIGN_IN_CLIENT_SECRET`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SIGN_IN_CLIENT_SECRET_FILE", value_name = "PATH")]
    pub sign_in_client_secret_file: Option<PathBuf>,

    /// A file with a certificate of this API's app registration and its private key (RSA), in PEM form,
    /// in place of a client secret. It is read at the start.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SIGN_IN_CERTIFICATE_FILE", value_name = "PATH")]
    pub sign_in_certificate_file: Option<PathBuf>,

    /// A file with a token that Entra trusts in place of a client secret, as Kubernetes hands to a
    /// workload. It is read anew each time.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SIGN_IN_FEDERATED_TOKEN_FILE", value_name = "PATH")]
    pub sign_in_federated_token_file: Option<PathBuf>,
}

/// Tenants at the most, for the keys of each are fetched every hour.
const MOST_TENANTS: usize = 1_000;

impl SignInSettings {
    /// What tokens must be like; `None` where nobody signs in.
    pub(super) fn rules(&self, login: &LoginRoot) -> Result<Option<Rules>, ConfigError> {
        let tenants = &self.sign_in_tenants;
        if MOST_TENANTS < tenants.len() {
            return Err(ConfigError::TooManyTenants { most: MOST_TENANTS });
        }
        match self.sign_in_client_id {
            Some(client_id) if !tenants.is_empty() => {
                Ok(Some(Rules::new(client_id, tenants.iter().copied(), login.to_string())))
            }
            None if tenants.is_empty() => Ok(None),
            Some(_) | None => Err(ConfigError::SignIn),
        }
    }
}

impl SignInSettings {
    /// By what this API acts on behalf of users; `None` where it does not.
    pub(super) fn api(&self) -> Result<Option<ApiIdentity>, ConfigError> {
        let secret = match &self.sign_in_client_secret_file {
            Some(path) => Some(secret_in(path)?),
            None => environment(SIGN_IN_SECRET),
        };
        let certificate =
            self.sign_in_certificate_file.as_deref().map(certificate_in).transpose()?;
        let file = self.sign_in_federated_token_file.clone();
        let mut proofs = [
            secret.map(Proof::Secret),
            certificate.map(Proof::Certificate),
            file.map(|file| Proof::FederatedToken { file }),
        ]
        .into_iter()
        .flatten();
        let Some(proof) = proofs.next() else { return Ok(None) };
        if proofs.next().is_some() {
            return Err(ConfigError::SignInProof);
        }
        let client_id = self.sign_in_client_id.ok_or(ConfigError::SignInProof)?.to_string();
        Ok(Some(ApiIdentity { client_id, proof }))
    }
}

fn certificate_in(path: &Path) -> Result<ClientCertificate, ConfigError> {
    let invalid = |source| ConfigError::SignInCertificate { path: path.to_owned(), source };
    ClientCertificate::from_pem_of_any_time(&secret_in(path)?).map_err(invalid)
}

impl Settings {
    /// How often tenants are asked for their keys, which follows the sandbox's clock where Graph's does.
    pub(super) fn pace_of_keys(&self) -> Pace {
        let usual = Pace::default();
        let least = Duration::from_millis(100);
        let scaled = |span: Duration| self.scaled(span).max(least);
        Pace {
            refreshed_every: scaled(usual.refreshed_every),
            apart: scaled(usual.apart),
            apart_at_first: scaled(usual.apart_at_first),
            trusted_for: usual.trusted_for,
        }
    }
}
