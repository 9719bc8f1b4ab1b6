//! Sets up callers, for the API and for the command line alike.

use jiff::Timestamp;
use secrecy::SecretString;

use crate::api::NewKey;
use crate::courier::SigningSecret;
use crate::store::{CallerName, Directory, StoreError};

/// A caller that was just added, with what only it may know.
#[derive(Debug)]
pub struct NewCaller {
    pub name: CallerName,
    pub api_key: SecretString,
    pub signing_secret: SigningSecret,
}

/// Adds a caller with a first API key and signing secret; `None` if the name is taken.
pub async fn add_caller(
    directory: &dyn Directory,
    name: CallerName,
    now: Timestamp,
) -> Result<Option<NewCaller>, StoreError> {
    let no_randomness = |error: anyhow::Error| StoreError::Unavailable(error);
    let (api_key, key) = NewKey::FULL.draw(now).map_err(|error| no_randomness(error.into()))?;
    let signing_secret = SigningSecret::generate().map_err(|error| no_randomness(error.into()))?;
    if !directory.add_caller(&name, key, &signing_secret, now).await? {
        return Ok(None);
    }
    tracing::info!(caller = %name, "added caller {name}");
    Ok(Some(NewCaller { name, api_key, signing_secret }))
}
