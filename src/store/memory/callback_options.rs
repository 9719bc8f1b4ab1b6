//! How the callbacks of callers are signed and sent.

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use super::directory::Caller;
use crate::courier::{ExtraHeader, Format, SigningKey, SigningSecret};
use crate::store::{
    CallbackOptions, CallbackSettings, CallerName, Rotated, Rotation, SigningKeySummary,
    SigningSecretSummary, StoreError,
};

/// Secrets or keys that follow one another, oldest first.
#[derive(Debug)]
pub(super) struct Line<T>(Vec<Signer<T>>);

#[derive(Debug)]
pub(super) struct Signer<T> {
    pub(super) it: T,
    id: u32,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Line<T> {
    pub(super) fn of(first: T, created_at: Timestamp) -> Self {
        Self(vec![Signer { it: first, id: 1, created_at, expires_at: None }])
    }
}

impl<T: Clone> Line<T> {
    /// Newest first.
    pub(super) fn live(&self, now: Timestamp) -> impl Iterator<Item = &Signer<T>> {
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

#[async_trait]
impl CallbackOptions for MemoryStore {
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
}
