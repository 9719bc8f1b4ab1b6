//! The Graph identities of callers.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{CallerName, ConnectionSummary, Share, Shared, StoreError};
use crate::graph::{Connection, Proof};

/// Keeps connections. Those by which users are acted for are kept by [`UserGrants`](super::UserGrants)
/// beside them, and are neither shown nor changed by what is here.
#[async_trait]
pub trait Connections: Send + Sync {
    /// Adds a connection; the first one of a caller becomes its default. `None` if there is no
    /// such caller, `Some(false)` if the name is taken.
    async fn add_connection(
        &self,
        caller: &CallerName,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError>;

    /// A caller's connections by name, without their secrets.
    async fn connections(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<ConnectionSummary>>, StoreError>;

    /// The connection of that name, or the default one.
    async fn connection(
        &self,
        caller: &CallerName,
        name: Option<&str>,
    ) -> Result<Option<Arc<Connection>>, StoreError>;

    /// Gives the connection another proof, of whatever kind; `false` if there is no such connection that
    /// is the caller's own.
    async fn replace_proof(
        &self,
        caller: &CallerName,
        name: &str,
        proof: &Proof,
    ) -> Result<bool, StoreError>;

    /// Lets another caller use a connection that is `owner`'s own under the name `share.name`, or again
    /// where that was withdrawn.
    async fn share_connection(
        &self,
        owner: &CallerName,
        name: &str,
        share: &Share,
        now: Timestamp,
    ) -> Result<Shared, StoreError>;

    /// Takes back what was shared with a caller, under whatever names; how many those are. They stay, so
    /// that operations that use them are kept, and are refused what they ask.
    async fn withdraw_connection(
        &self,
        owner: &CallerName,
        name: &str,
        from: &CallerName,
    ) -> Result<u64, StoreError>;

    /// With whom a connection is shared, or was: by caller and name.
    async fn shares(&self, owner: &CallerName, name: &str) -> Result<Vec<Share>, StoreError>;

    /// Connections whose proof expires before a time, those first that expire first, `limit` at the most:
    /// whose each is, its name, and when it expires.
    async fn expiring_proofs(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(CallerName, String, Timestamp)>, StoreError>;

    /// Removes a connection that no live operation uses and that is shared with nobody. `None` if there is
    /// no such connection, `Some(false)` if it is in use.
    async fn remove_connection(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<Option<bool>, StoreError>;
}
