//! The door for those who sign in by tokens of Entra: signed by the sandbox, at the time of the house.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use engagement_bridge::graph::{
    Authority, Connection, KeysUnavailable, NotExchanged, OnBehalfOf, User,
};
use engagement_bridge::sandbox::{Grants, Options, Sandbox, SignInToken};
use engagement_bridge::sign_in::{Pace, Rules, SignIn};
use secrecy::{ExposeSecret as _, SecretString};

use super::house::{GUID, SetClock};
use crate::support::after;
use crate::world::Client;

/// What signs tokens, and what it publishes.
pub(super) struct Door {
    sandbox: Sandbox,
    keys: Bytes,
}

/// What was published is read from here, and no user's token is exchanged.
struct Published(Bytes);

#[async_trait]
impl Authority for Published {
    async fn published_keys(&self, _: &str) -> Result<Bytes, KeysUnavailable> {
        Ok(self.0.clone())
    }
}

#[async_trait]
impl OnBehalfOf for Published {
    async fn exchange(&self, _: &User, _: &SecretString) -> Result<Connection, NotExchanged> {
        Err(NotExchanged::NotSetUp)
    }
}

impl Door {
    pub(super) async fn open() -> Self {
        let clock = Arc::new(SetClock::at(after(62)));
        let sandbox = Sandbox::start(Options::default(), clock).await.unwrap();
        let nobody = Client::new(sandbox.address(), SecretString::default());
        let keys = nobody.get(&format!("/{GUID}/discovery/v2.0/keys")).await.text.into();
        Self { sandbox, keys }
    }

    /// For the API of a house. Keys have to be kept, as a task.
    pub(super) fn sign_in(&self) -> (Arc<SignIn>, Arc<dyn OnBehalfOf>) {
        let guid = GUID.parse().unwrap();
        let rules = Rules::new(guid, [guid], self.sandbox.root());
        let published = Arc::new(Published(self.keys.clone()));
        (Arc::new(SignIn::new(rules, published.clone(), Pace::default())), published)
    }

    /// A token of `app`, for an hour.
    pub(super) fn token(&self, app: &str, grants: Grants) -> String {
        let guid = GUID.to_owned();
        let token = SignInToken {
            tenant: guid.clone(),
            audience: guid.clone(),
            app: app.to_owned(),
            object_id: guid,
            grants,
        };
        let token = self.sandbox.hand_out_sign_in(&token, Duration::from_hours(1)).unwrap();
        token.expose_secret().to_owned()
    }
}

/// What may be granted, by the last words of it.
pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| format!("Operations.{word}")).collect()
}
