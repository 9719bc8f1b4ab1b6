//! Lets people and apps sign in to the API with a Microsoft Entra token that was made for it.
//!
//! A token is believed if all of its claims are as they must be (`judge`, pure), and if it is signed
//! by a key that its tenant publishes (`keys`, pure, and `rings`, which fetches them now and then).
//! Whom it lets in as is for the API to find out: the operator says which app signs in as which caller.
//!
//! # Why no library
//!
//! `jsonwebtoken` was looked at. It reads the system's clock by itself, its cryptography is chosen once
//! for the whole process, its errors do not tell a Graph token from one of another app, and it knows
//! neither the issuer of a key nor version 1 tokens: what it would leave to us is all but three lines of
//! base64. So the one algorithm that Entra signs with is verified by ring, which is here for TLS anyway.
//!
//! Source: <https://learn.microsoft.com/entra/identity-platform/access-tokens#validate-tokens> and the
//! page on claims validation beside it.

mod judge;
mod keys;
mod rings;
mod token;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::graph::Authority;
use rings::KeyRings;
use token::Token;

pub use judge::{Refusal, Rights, Rules, Visitor};
pub use keys::{KeySet, UnusableKeys};
pub use rings::Pace;

/// The door for those who come with a token of Entra.
pub struct SignIn {
    rules: Rules,
    rings: KeyRings,
    authority: Arc<dyn Authority>,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It is up to whoever got the token.
    #[error(transparent)]
    Token(#[from] Refusal),
    /// Whether the token is genuine cannot be told, since its tenant's keys could not be fetched.
    #[error("the keys of the token's tenant cannot be fetched at the moment")]
    Unsure { retry_after: Duration },
}

/// How long somebody waits for keys that are being fetched.
const PATIENCE: Duration = Duration::from_secs(12);

impl SignIn {
    /// Fetches nothing yet: that is for [`SignIn::keep_keys`].
    pub fn new(rules: Rules, authority: Arc<dyn Authority>, pace: Pace) -> Self {
        let rings = KeyRings::new(rules.tenants(), pace);
        Self { rules, rings, authority }
    }

    /// The client id of the app that tokens must be made for.
    pub fn client_id(&self) -> &str {
        self.rules.client_id()
    }

    /// Keeps the keys of all tenants fresh until told to stop.
    ///
    /// Here and not where they are asked for, so that whoever sends a token and hangs up can neither
    /// have the authority asked more often nor keep others from the answer.
    pub async fn keep_keys(&self, stop: CancellationToken) {
        let keeping = self.rings.keep(self.authority.as_ref());
        stop.run_until_cancelled(keeping).await;
    }

    /// Whose token this is, if it is to be believed at `now`, a time of the day.
    pub async fn visitor(&self, token: &SecretString, now: Timestamp) -> Result<Visitor, Refused> {
        let token = Token::read(token.expose_secret())?;
        let visitor = judge::claims(&self.rules, &token, now)?;
        let until = Instant::now() + PATIENCE;
        let keys = self.rings.keys(&visitor.tenant, &token.header.kid, until).await?;
        judge::signature(&self.rules, &token, &keys)?;
        Ok(visitor)
    }
}

#[cfg(test)]
mod tests;
