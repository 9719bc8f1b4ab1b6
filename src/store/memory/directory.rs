use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use super::callback_options::Line;
use super::connections::ConnectionRow;
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::store::{
    ApiKey, CallerName, Directory, KeyAdded, KeyDigest, KeyHolder, KeyUse, Page, Rekeying,
    Resealed, RowName, Safe, SealedColumn, SealedUnder, StoreError,
};
use crate::vault::KeyId;

#[derive(Debug, Default)]
pub(super) struct Caller {
    pub(super) keys: Vec<ApiKey>,
    pub(super) secrets: Line<SigningSecret>,
    pub(super) signing_keys: Line<SigningKey>,
    pub(super) default_format: Format,
    /// By name.
    pub(super) extra_headers: BTreeMap<String, ExtraHeader>,
    pub(super) connections: BTreeMap<String, ConnectionRow>,
    pub(super) default_connection: Option<String>,
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

/// Nothing is sealed that nobody else can read.
#[async_trait]
impl Safe for MemoryStore {
    fn keys(&self) -> Vec<KeyId> {
        Vec::new()
    }

    async fn sealed(&self) -> Result<Vec<SealedUnder>, StoreError> {
        Ok(Vec::new())
    }

    async fn ask_rekeying(&self, _: Timestamp) -> Result<Option<Rekeying>, StoreError> {
        Ok(None)
    }

    async fn rekeyings(&self, _: u32) -> Result<Vec<Rekeying>, StoreError> {
        Ok(Vec::new())
    }

    async fn reseal(
        &self,
        _: SealedColumn,
        _: KeyId,
        _: Option<RowName>,
        _: u32,
    ) -> Result<Resealed, StoreError> {
        Ok(Resealed::default())
    }

    async fn finish_rekeying(&self, _: u64, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
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
        let secrets = Line::of(secret.clone(), now);
        rows.callers.insert(name.clone(), Caller { keys: vec![key], secrets, ..Caller::default() });
        Ok(true)
    }

    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError> {
        let rows = self.rows();
        let behind =
            rows.callers.keys().filter(|name| page.after.as_ref().is_none_or(|it| it < name));
        Ok(behind.take(page.limit as usize).cloned().collect())
    }

    async fn key_holder(&self, digest: &KeyDigest) -> Result<Option<KeyHolder>, StoreError> {
        let rows = self.rows();
        let of_caller = |(name, caller): (&CallerName, &Caller)| {
            let key = caller.keys.iter().find(|key| key.digest == *digest)?;
            Some(key.holder(name))
        };
        Ok(rows.callers.iter().find_map(of_caller))
    }

    async fn add_key(
        &self,
        caller: &CallerName,
        key: ApiKey,
        most: u32,
    ) -> Result<KeyAdded, StoreError> {
        let mut rows = self.rows();
        let Some(caller) = rows.callers.get_mut(caller) else { return Ok(KeyAdded::NoSuchCaller) };
        if caller.keys.len() >= most as usize {
            return Ok(KeyAdded::TooMany);
        }
        caller.keys.push(key);
        Ok(KeyAdded::Added)
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

    async fn note_key_uses(&self, uses: Vec<KeyUse>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for KeyUse { caller, id, at } in uses {
            let caller = rows.callers.get_mut(&caller);
            let keys = caller.into_iter().flat_map(|it| &mut it.keys);
            for key in keys.filter(|key| key.id == id) {
                key.last_used_at = key.last_used_at.max(Some(at));
            }
        }
        Ok(())
    }
}
