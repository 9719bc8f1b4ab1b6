use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{Identity, MemoryStore};
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::graph::Connection;
use crate::store::{
    ApiKey, CallbackSettings, CallerName, ConnectionSummary, Directory, KeyDigest, Page, Rotated,
    Rotation, SigningKeySummary, SigningSecretSummary, StoreError,
};

#[derive(Debug, Default)]
pub(super) struct Caller {
    keys: Vec<ApiKey>,
    secrets: Line<SigningSecret>,
    signing_keys: Line<SigningKey>,
    default_format: Format,
    /// By name.
    extra_headers: BTreeMap<String, ExtraHeader>,
    pub(super) connections: BTreeMap<String, ConnectionRow>,
    default_connection: Option<String>,
}

/// Secrets or keys that follow one another, oldest first.
#[derive(Debug)]
struct Line<T>(Vec<Signer<T>>);

#[derive(Debug)]
struct Signer<T> {
    it: T,
    id: u32,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct ConnectionRow {
    pub(super) connection: Arc<Connection>,
    created_at: Timestamp,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Line<T> {
    /// Newest first.
    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Signer<T>> {
        let is_live = move |it: &&Signer<T>| it.expires_at.is_none_or(|until| now < until);
        self.0.iter().rev().filter(is_live)
    }

    fn rotate(&mut self, it: &T, rotation: Rotation) -> Rotated {
        let Rotation { now, older_until, .. } = rotation;
        let live = u32::try_from(self.live(now).count()).unwrap_or(u32::MAX);
        if !rotation.has_room(live) {
            return Rotated::TooManyLive;
        }
        for older in &mut self.0 {
            let expires_at = &mut older.expires_at;
            *expires_at = Some(expires_at.map_or(older_until, |at| at.min(older_until)));
        }
        let id = self.0.iter().map(|it| it.id).max().unwrap_or_default() + 1;
        self.0.retain(|it| it.expires_at.is_none_or(|until| now < until));
        self.0.push(Signer { it: it.clone(), id, created_at: now, expires_at: None });
        Rotated::Made(id)
    }
}

impl Caller {
    pub(super) fn signers(&self, now: Timestamp) -> Signers {
        Signers {
            secrets: self.secrets.live(now).map(|it| it.it.clone()).collect(),
            keys: self.signing_keys.live(now).map(|it| it.it.clone()).collect(),
        }
    }

    pub(super) fn extra_headers(&self) -> Vec<ExtraHeader> {
        self.extra_headers.values().cloned().collect()
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
        let first = Signer { it: secret.clone(), id: 1, created_at: now, expires_at: None };
        let secrets = Line(vec![first]);
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
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(Rotated::NoSuchCaller) };
        Ok(caller.secrets.rotate(secret, rotation))
    }

    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError> {
        let rows = self.rows();
        let summary = |it: &Signer<SigningSecret>| SigningSecretSummary {
            id: it.id,
            created_at: it.created_at,
            expires_at: it.expires_at,
        };
        let summaries = |it: &Caller| it.secrets.live(now).map(summary).collect();
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
        if caller.secrets.live(now).skip(1).all(|older| older.id != id) {
            return Ok(false);
        }
        caller.secrets.0.retain(|it| it.id != id);
        Ok(true)
    }

    async fn rotate_signing_key(
        &self,
        caller: &CallerName,
        key: &SigningKey,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(Rotated::NoSuchCaller) };
        Ok(caller.signing_keys.rotate(key, rotation))
    }

    async fn signing_keys(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKeySummary>>, StoreError> {
        let rows = self.rows();
        let summary = |it: &Signer<SigningKey>| SigningKeySummary {
            id: it.id,
            public_key: it.it.public(),
            created_at: it.created_at,
            expires_at: it.expires_at,
        };
        let summaries = |it: &Caller| it.signing_keys.live(now).map(summary).collect();
        Ok(rows.callers.get(caller).map(summaries))
    }

    async fn revoke_signing_key(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        let live: Vec<u32> = caller.signing_keys.live(now).map(|it| it.id).collect();
        if live != [id] && !live.iter().skip(1).any(|older| *older == id) {
            return Ok(false);
        }
        for key in caller.signing_keys.0.iter_mut().filter(|it| it.id == id) {
            key.expires_at = Some(now);
        }
        Ok(true)
    }

    async fn callback_settings(
        &self,
        caller: &CallerName,
    ) -> Result<Option<CallbackSettings>, StoreError> {
        let settings = |it: &Caller| CallbackSettings {
            format: it.default_format,
            extra_headers: it.extra_headers.keys().cloned().collect(),
        };
        Ok(self.rows().callers.get(caller).map(settings))
    }

    async fn default_format(&self, caller: &CallerName) -> Result<Option<Format>, StoreError> {
        Ok(self.rows().callers.get(caller).map(|it| it.default_format))
    }

    async fn set_default_format(
        &self,
        caller: &CallerName,
        format: Format,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(false) };
        caller.default_format = format;
        Ok(true)
    }

    async fn set_extra_header(
        &self,
        caller: &CallerName,
        header: &ExtraHeader,
        most: u32,
    ) -> Result<Option<bool>, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(None) };
        let headers = &mut caller.extra_headers;
        let others = headers.keys().filter(|name| *name != header.name()).count();
        if others >= most as usize {
            return Ok(Some(false));
        }
        headers.insert(header.name().to_owned(), header.clone());
        Ok(Some(true))
    }

    async fn remove_extra_header(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let caller = rows.callers.get_mut(caller);
        Ok(caller.is_some_and(|it| it.extra_headers.remove(name).is_some()))
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
