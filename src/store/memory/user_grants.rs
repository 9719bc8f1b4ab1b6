use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::connections::ConnectionRow;
use super::{Identity, MemoryStore};
use crate::graph::{Connection, Proof, UserGrant};
use crate::store::{CallerName, StoreError, UserGrants};

#[async_trait]
impl UserGrants for MemoryStore {
    async fn keep_user(
        &self,
        caller: &CallerName,
        connection: &Connection,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        let Some(grant) = connection.proof.user_grant() else { return Ok(false) };
        let before = caller.connections.get(&connection.name);
        let before = before.and_then(|row| row.connection.proof.user_grant());
        if before.is_none_or(|before| before.signed_in_at < grant.signed_in_at) {
            let created_at = grant.signed_in_at;
            let row = ConnectionRow::own(connection.clone(), created_at);
            caller.connections.insert(connection.name.clone(), row);
        }
        Ok(true)
    }

    async fn renew_user(
        &self,
        caller: &CallerName,
        name: &str,
        signed_in_at: Timestamp,
        refresh_token: &SecretString,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let caller = rows.callers.get_mut(caller);
        let row = caller.and_then(|caller| caller.connections.get_mut(name));
        let is_it = |row: &&mut ConnectionRow| {
            let grant = row.connection.proof.user_grant();
            grant.is_some_and(|grant| grant.signed_in_at == signed_in_at)
        };
        let Some(row) = row.filter(is_it) else { return Ok(false) };
        let refresh_token = refresh_token.clone();
        let proof = Proof::OnBehalfOf(UserGrant { signed_in_at, refresh_token });
        row.connection = Arc::new(Connection { proof, ..(*row.connection).clone() });
        Ok(true)
    }

    async fn forget_users(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let rows = &mut *self.rows();
        let mut forgotten = 0;
        for (caller, its) in &mut rows.callers {
            its.connections.retain(|name, row| {
                let grant = row.connection.proof.user_grant();
                let is_old = grant.is_some_and(|grant| grant.signed_in_at < before);
                let is_used = || {
                    rows.operations.values().any(|row| {
                        row.tracked.caller == *caller
                            && row.tracked.identity == Identity::Connection(name.clone())
                            && !row.tracked.operation.state.is_at_rest()
                    })
                };
                let goes = is_old && forgotten < limit && !is_used();
                forgotten += u32::from(goes);
                !goes
            });
        }
        Ok(forgotten)
    }
}
