use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{Identity, MemoryStore};
use crate::courier::SigningSecret;
use crate::graph::Connection;
use crate::store::{
    ApiKey, CallerName, ConnectionSummary, Directory, KeyDigest, Page, SigningSecretSummary,
    StoreError,
};

#[derive(Debug, Default)]
pub(super) struct Caller {
    keys: Vec<ApiKey>,
    /// Oldest first.
    secrets: Vec<Secret>,
    pub(super) connections: BTreeMap<String, ConnectionRow>,
    default_connection: Option<String>,
}

#[derive(Debug)]
struct Secret {
    secret: SigningSecret,
    summary: SigningSecretSummary,
}

#[derive(Debug)]
pub(super) struct ConnectionRow {
    pub(super) connection: Arc<Connection>,
    created_at: Timestamp,
}

impl Caller {
    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        let is_live = move |it: &&Secret| it.summary.expires_at.is_none_or(|until| now < until);
        self.secrets.iter().rev().filter(is_live)
    }

    /// Newest first.
    pub(super) fn live_secrets(&self, now: Timestamp) -> Vec<SigningSecret> {
        self.live(now).map(|it| it.secret.clone()).collect()
    }
}

#[async_trait]
impl Directory for MemoryStore {
    async fn add_caller(
        &self,
        name: &CallerName,
        key: ApiKey,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        if rows.callers.contains_key(name) {
            return Ok(false);
        }
        let summary = SigningSecretSummary { id: 1, created_at: now, expires_at: None };
        let secrets = vec![Secret { secret: secret.clone(), summary }];
        rows.callers.insert(name.clone(), Caller { keys: vec![key], secrets, ..Caller::default() });
        Ok(true)
    }

    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError> {
        let rows = self.rows();
        let behind =
            rows.callers.keys().filter(|name| page.after.as_ref().is_none_or(|it| it < name));
        Ok(behind.take(page.limit as usize).cloned().collect())
    }

    async fn caller_by_key(&self, digest: &KeyDigest) -> Result<Option<CallerName>, StoreError> {
        let rows = self.rows();
        let owns = |caller: &Caller| caller.keys.iter().any(|key| key.digest == *digest);
        Ok(rows.callers.iter().find(|(_, caller)| owns(caller)).map(|(name, _)| name.clone()))
    }

    async fn add_key(&self, caller: &CallerName, key: ApiKey) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        caller.keys.push(key);
        Ok(true)
    }

    async fn keys(&self, caller: &CallerName) -> Result<Option<Vec<ApiKey>>, StoreError> {
        Ok(self.rows().callers.get(caller).map(|caller| caller.keys.clone()))
    }

    async fn revoke_key(&self, caller: &CallerName, id: &str) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        let before = caller.keys.len();
        caller.keys.retain(|key| key.id != id);
        Ok(caller.keys.len() < before)
    }

    async fn rotate_secret(
        &self,
        caller: &CallerName,
        secret: &SigningSecret,
        older_until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<u32>, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        for older in &mut caller.secrets {
            let expires_at = &mut older.summary.expires_at;
            *expires_at = Some(expires_at.map_or(older_until, |at| at.min(older_until)));
        }
        let id = caller.secrets.iter().map(|it| it.summary.id).max().unwrap_or_default() + 1;
        let summary = SigningSecretSummary { id, created_at: now, expires_at: None };
        caller.secrets.push(Secret { secret: secret.clone(), summary });
        Ok(Some(id))
    }

    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError> {
        let rows = self.rows();
        let summaries = |it: &Caller| it.live(now).map(|it| it.summary.clone()).collect();
        Ok(rows.callers.get(caller).map(summaries))
    }

    async fn revoke_secret(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        if caller.live(now).skip(1).all(|older| older.summary.id != id) {
            return Ok(false);
        }
        caller.secrets.retain(|it| it.summary.id != id);
        Ok(true)
    }

    async fn add_connection(
        &self,
        caller: &CallerName,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        if caller.connections.contains_key(&connection.name) {
            return Ok(Some(false));
        }
        caller.default_connection.get_or_insert_with(|| connection.name.clone());
        let row = ConnectionRow { connection: Arc::new(connection.clone()), created_at: now };
        caller.connections.insert(connection.name.clone(), row);
        Ok(Some(true))
    }

    async fn connections(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<ConnectionSummary>>, StoreError> {
        let rows = self.rows();
        let Some(caller) = rows.callers.get(caller) else { return Ok(None) };
        let summary = |row: &ConnectionRow| ConnectionSummary {
            name: row.connection.name.clone(),
            tenant: row.connection.tenant.clone(),
            client_id: row.connection.client_id.clone(),
            is_default: caller.default_connection.as_ref() == Some(&row.connection.name),
            created_at: row.created_at,
        };
        Ok(Some(caller.connections.values().map(summary).collect()))
    }

    async fn connection(
        &self,
        caller: &CallerName,
        name: Option<&str>,
    ) -> Result<Option<Arc<Connection>>, StoreError> {
        let rows = self.rows();
        let Some(caller) = rows.callers.get(caller) else { return Ok(None) };
        let name = name.or(caller.default_connection.as_deref());
        let row = name.and_then(|name| caller.connections.get(name));
        Ok(row.map(|row| Arc::clone(&row.connection)))
    }

    async fn replace_client_secret(
        &self,
        caller: &CallerName,
        name: &str,
        secret: &SecretString,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let caller = rows.callers.get_mut(caller);
        let Some(row) = caller.and_then(|it| it.connections.get_mut(name)) else {
            return Ok(false);
        };
        let connection = Connection { client_secret: secret.clone(), ..(*row.connection).clone() };
        row.connection = Arc::new(connection);
        Ok(true)
    }

    async fn remove_connection(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let in_use = rows.operations.values().any(|row| {
            row.tracked.caller == *caller
                && row.tracked.identity == Identity::Connection(name.to_owned())
                && !row.tracked.operation.state.is_at_rest()
        });
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        if !caller.connections.contains_key(name) {
            return Ok(None);
        }
        if in_use {
            return Ok(Some(false));
        }
        caller.connections.remove(name);
        if caller.default_connection.as_deref() == Some(name) {
            caller.default_connection = caller.connections.keys().next().cloned();
        }
        Ok(Some(true))
    }
}
