//! Asks Graph on behalf of a user who has signed in to our API (the on-behalf-of flow of Entra).
//!
//! The token that came with a request is exchanged, by the app registration of the API, for one for
//! Graph and a refresh token. The refresh token stands for the user's sign-in from then on, in a
//! connection of its own: one for each caller and user, whatever many operations the user registers. So
//! a user's operations share tokens, lane and renewals, a token that was rotated is saved once, and
//! whoever signs in anew repairs all of them. Source:
//! <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-on-behalf-of-flow>.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::Instant;

use super::client::HttpGraph;
use super::grant::{Grant, Granted, NotGranted};
use super::ration::Eater;
use super::{AccessToken, Connection, Proof};
use crate::operation::Hindrance;

/// Somebody in a directory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct User {
    /// A GUID, lower case.
    pub tenant: String,
    /// The object id: a GUID, lower case.
    pub object_id: String,
}

/// That a user has signed in, and what Entra renews it by.
#[derive(Clone, Debug)]
pub struct UserGrant {
    /// Tells one sign-in from the next, however often its refresh token is rotated.
    pub signed_in_at: Timestamp,
    /// The newest that we know of. Older ones are good as well, for 90 days from their making.
    pub refresh_token: SecretString,
}

/// The app registration of this API, and by what it proves that it is that.
#[derive(Clone, Debug)]
pub struct ApiIdentity {
    /// A GUID, lower case.
    pub client_id: String,
    pub proof: Proof,
}

/// Exchanges tokens of users who have signed in.
#[async_trait]
pub trait OnBehalfOf: Send + Sync {
    /// A connection by which Graph is asked in the name of `user`, for the token by which the user
    /// signed in. Asks Entra once, which counts with the user's renewals, and takes ten seconds at the
    /// most.
    async fn exchange(
        &self,
        user: &User,
        assertion: &SecretString,
    ) -> Result<Connection, NotExchanged>;
}

/// Why a user's token is not exchanged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotExchanged {
    /// The operator has not said by what this API proves itself.
    NotSetUp,
    /// The user has to prove more, of which `claims` says what (JSON, 4 KiB at the most).
    Interaction { claims: Option<String> },
    /// Nobody has consented to what is asked for.
    Consent,
    /// The token is not good for it, be it that it has expired or that the user may no longer.
    Grant,
    /// Entra does not accept this API's own identity.
    Client,
    /// Entra cannot do it at the moment.
    Trouble { retry_after: Option<Duration> },
}

impl User {
    /// What the connection by which this user is acted for is called. No caller can name one so.
    pub fn connection_name(&self) -> String {
        format!("{PREFIX}{}:{}", self.tenant, self.object_id)
    }

    /// The user for whom the connection of that name acts, if it does for any.
    pub fn of_connection(name: &str) -> Option<Self> {
        let (tenant, object_id) = name.strip_prefix(PREFIX)?.split_once(':')?;
        Some(Self { tenant: tenant.to_owned(), object_id: object_id.to_owned() })
    }
}

const PREFIX: &str = "user:";

impl Connection {
    /// The object id of the user on whose behalf it asks.
    pub fn user(&self) -> Option<&str> {
        self.proof.user_grant()?;
        self.name.rsplit(':').next()
    }
}

#[async_trait]
impl OnBehalfOf for HttpGraph {
    async fn exchange(
        &self,
        user: &User,
        assertion: &SecretString,
    ) -> Result<Connection, NotExchanged> {
        let client = self.acting_in(&user.tenant).ok_or(NotExchanged::NotSetUp)?;
        let until = Instant::now() + self.deadlines.token;
        let (asked_at, scope) = (self.clock.now(), self.user_scope());
        let (tenant, client_id) = (client.tenant.clone(), client.client_id.clone());
        let eater =
            Eater { tenant, client_id, user: Some(user.object_id.clone()), unproven_by: None };
        self.tokens.ration(&eater, asked_at).map_err(|hindrance| match hindrance {
            Hindrance::Trouble { retry_after } => NotExchanged::Trouble { retry_after },
            Hindrance::Refused(_) => NotExchanged::Client,
        })?;
        let granted = self.fetch(&client, &scope, Grant::OnBehalfOf { assertion }, until).await;
        let mut granted = granted.map_err(why)?;
        // Entra gives none where `offline_access` was not consented to.
        let refresh_token = granted.refresh_token.take().ok_or(NotExchanged::Consent)?;
        let grant = UserGrant { signed_in_at: asked_at, refresh_token };
        let proof = Proof::OnBehalfOf(grant);
        let connection = Connection { name: user.connection_name(), proof, ..client };
        drop(self.tokens.keep(&self.identity(&connection), asked_at, self.clock.now(), granted));
        Ok(connection)
    }
}

impl HttpGraph {
    /// A token for the user of `connection`, and what the next one is asked for with if that is new.
    pub(super) async fn token_of_user(
        &self,
        connection: &Connection,
        grant: &UserGrant,
        caller: &str,
    ) -> (Result<AccessToken, Hindrance>, Option<SecretString>) {
        let until = Instant::now() + self.deadlines.token;
        let scope = self.user_scope();
        let mut renewed = None;
        let fetch = async {
            let client = self.acting_in(&connection.tenant);
            // Whoever set the bridge up must act, as where its secret has expired.
            let refused = Hindrance::Refused(crate::operation::Refusal::ClientRefused);
            let client = client.filter(|it| it.client_id == connection.client_id).ok_or(refused)?;
            let grant = Grant::Refresh { refresh_token: &grant.refresh_token };
            let granted = self.fetch(&client, &scope, grant, until).await;
            let mut granted: Granted = granted.map_err(|refused| refused.hindrance)?;
            renewed = granted.refresh_token.take();
            Ok(granted)
        };
        let token =
            self.tokens.get(&self.identity(connection), caller, &*self.clock, until, fetch).await;
        (token, renewed)
    }

    /// This API's own identity, in a user's directory.
    fn acting_in(&self, tenant: &str) -> Option<Connection> {
        let ApiIdentity { client_id, proof } = self.api.clone()?;
        Some(Connection { name: "sign-in".to_owned(), tenant: tenant.to_owned(), client_id, proof })
    }

    /// The least that reads operations, and a refresh token.
    pub(super) fn user_scope(&self) -> String {
        format!("{}/Community.Read.All offline_access", self.root)
    }
}

/// By the word of OAuth alone.
fn why(NotGranted { hindrance, complaint }: NotGranted) -> NotExchanged {
    match (hindrance, complaint.error.as_deref()) {
        (Hindrance::Trouble { retry_after }, _) => NotExchanged::Trouble { retry_after },
        (Hindrance::Refused(_), Some("interaction_required" | "login_required")) => {
            NotExchanged::Interaction { claims: complaint.claims }
        }
        (Hindrance::Refused(_), Some("consent_required")) => NotExchanged::Consent,
        // Some policies are told by `invalid_grant` with a challenge beside it.
        (Hindrance::Refused(_), Some("invalid_grant")) if complaint.claims.is_some() => {
            NotExchanged::Interaction { claims: complaint.claims }
        }
        (Hindrance::Refused(_), Some("invalid_grant")) => NotExchanged::Grant,
        (Hindrance::Refused(_), _) => NotExchanged::Client,
    }
}

#[cfg(test)]
mod tests;
