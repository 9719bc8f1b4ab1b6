//! How the callbacks of callers are signed and sent.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    CallbackSettings, CallerName, Rotated, Rotation, SigningKeySummary, SigningSecretSummary,
    StoreError,
};
use crate::courier::{ExtraHeader, Format, SigningKey, SigningSecret};

/// Keeps signing secrets and keys, the format of callbacks, and the headers that go with them.
#[async_trait]
pub trait CallbackOptions: Send + Sync {
    /// Adds a signing secret that is the newest from now on, and lets every older one sign until
    /// the rotation says and no longer. Those that sign no more are forgotten.
    async fn rotate_secret(
        &self,
        caller: &CallerName,
        secret: &SigningSecret,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError>;

    /// A caller's signing secrets that are live at `now`, newest first, without what they are.
    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError>;

    /// Stops a secret from signing at once; `false` if the caller has no such live secret, or if
    /// it is the newest, for every other one expires.
    async fn revoke_secret(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Adds a signing key, which follows on older ones as a secret does. From the first on, callbacks
    /// are signed by keys as well.
    async fn rotate_signing_key(
        &self,
        caller: &CallerName,
        key: &SigningKey,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError>;

    /// The public halves of a caller's signing keys that are live at `now`, newest first.
    async fn signing_keys(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKeySummary>>, StoreError>;

    /// Stops a key from signing at once; `false` if the caller has no such live key, or if it is
    /// the newest and not the only one, for every other one expires. Its id is not given again.
    async fn revoke_signing_key(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// How a caller's callbacks are sent.
    async fn callback_settings(
        &self,
        caller: &CallerName,
    ) -> Result<Option<CallbackSettings>, StoreError>;

    /// The format of callbacks whose registration names none. May be asked for by each of them.
    async fn default_format(&self, caller: &CallerName) -> Result<Option<Format>, StoreError>;

    /// Changes it for registrations to come; `false` if there is no such caller.
    async fn set_default_format(
        &self,
        caller: &CallerName,
        format: Format,
    ) -> Result<bool, StoreError>;

    /// Sends a header with all of a caller's callbacks from now on, in the place of one of the same
    /// name. `None` if there is no such caller, `Some(false)` if it has `most` others.
    async fn set_extra_header(
        &self,
        caller: &CallerName,
        header: &ExtraHeader,
        most: u32,
    ) -> Result<Option<bool>, StoreError>;

    /// Sends the header of that name no more; `false` if the caller has none.
    async fn remove_extra_header(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<bool, StoreError>;
}
