//! The sign-ins of users on whose behalf Graph is asked.

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{CallerName, StoreError};
use crate::graph::Connection;

/// Keeps connections that stand for a user's sign-in: beside a caller's others, and never shown with
/// them, never its default, and never changed as they are.
#[async_trait]
pub trait UserGrants: Send + Sync {
    /// Keeps a user's sign-in, in place of an older one. All of the user's operations are asked for by
    /// it from then on. `false` if there is no such caller.
    async fn keep_user(
        &self,
        caller: &CallerName,
        connection: &Connection,
    ) -> Result<bool, StoreError>;

    /// Keeps what a sign-in is to be renewed by from now on; `false` if it is not there any more, or a
    /// newer one is in its place.
    async fn renew_user(
        &self,
        caller: &CallerName,
        name: &str,
        signed_in_at: Timestamp,
        refresh_token: &SecretString,
    ) -> Result<bool, StoreError>;

    /// Forgets up to `limit` sign-ins from before `before` which no operation that is not at rest goes
    /// by; how many these were.
    async fn forget_users(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError>;
}
