//! Callers and what belongs to them.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::callback_options::insert_secret;
use super::connect::{Work, work};
use super::replicas::DIRECTORY;
use super::row::Columns;
use super::{CHANNEL, PostgresStore, rows};
use crate::courier::{Format, SigningSecret};
use crate::graph;
use crate::store::columns::{Fields as _, millis};
use crate::store::remembered::Remembered;
use crate::store::{
    ApiKey, CallerName, Directory, KeyAdded, KeyDigest, KeyHolder, KeyUse, Page, SignInApp,
    StoreError,
};

pub(super) const READING: &str = "reading the directory of callers";
pub(super) const WRITING: &str = "writing to the directory of callers";

/// What each request asks for, kept in memory for a moment.
#[derive(Debug, Default)]
pub(super) struct KnownDirectory {
    pub(super) keys: Remembered<KeyDigest, KeyHolder>,
    /// By caller and name; without a name, the default one.
    pub(super) connections: Remembered<(CallerName, Option<String>), Arc<graph::Connection>>,
    pub(super) formats: Remembered<CallerName, Format>,
    pub(super) sign_ins: Remembered<SignInApp, CallerName>,
}

impl KnownDirectory {
    /// Somebody has written, here or in another replica, or may have.
    pub(super) fn forget(&self) {
        self.keys.forget();
        self.connections.forget();
        self.formats.forget();
        self.sign_ins.forget();
    }
}

impl PostgresStore {
    /// Writes to the directory, forgets what was known of it, and lets other replicas forget.
    pub(super) async fn change<T: Send>(&self, work: impl Work<T>) -> Result<T, StoreError> {
        let changed = self.database.transaction(work).await;
        // Also where it failed: what was committed may have gone unanswered.
        self.known.forget();
        // Should that fail, they forget by themselves soon after.
        let sql = "SELECT pg_notify($1, $2)";
        drop(self.database.query(WRITING, sql, &[&CHANNEL, &DIRECTORY]).await);
        changed
    }

    pub(super) async fn first(
        &self,
        sql: &str,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.database.query(READING, sql, params).await?.into_iter().next())
    }

    pub(super) async fn has_caller(&self, caller: &CallerName) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM callers WHERE name = $1";
        Ok(self.first(sql, &[&caller.as_str()]).await?.is_some())
    }
}

/// What one step needs, or why it cannot be read, which is no other step's concern.
pub(super) type Readable<K, V> = HashMap<K, Result<V, StoreError>>;

#[async_trait]
impl Directory for PostgresStore {
    async fn add_caller(
        &self,
        name: &CallerName,
        key: ApiKey,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let given = Arc::new((name.clone(), key, secret.clone(), Arc::clone(&self.vault)));
        let add = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (name, key, secret, vault) = &*given;
                let sql = "INSERT INTO callers (name, created_at) VALUES ($1, $2) \
                    ON CONFLICT (name) DO NOTHING RETURNING name";
                let row = [&name.as_str() as _, &now.as_millisecond() as _];
                if rows(transaction, WRITING, sql, &row).await?.is_empty() {
                    return Ok(false);
                }
                insert_key(transaction, name, key).await?;
                insert_secret(transaction, vault, name, 1, secret, now).await?;
                Ok(true)
            })
        });
        self.change(add).await
    }

    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError> {
        let sql = "SELECT name FROM callers WHERE name > $1 ORDER BY name LIMIT $2";
        let after = page.after.as_ref().map_or("", CallerName::as_str);
        let names = self.database.query(READING, sql, &[&after, &i64::from(page.limit)]).await?;
        let read = |row| Columns { table: "callers", row }.word("name", |text| text.parse().ok());
        names.iter().map(read).collect()
    }

    async fn key_holder(&self, digest: &KeyDigest) -> Result<Option<KeyHolder>, StoreError> {
        let find = async {
            let sql = "SELECT id, caller, scopes, expires_at FROM api_keys WHERE digest = $1";
            let found = self.first(sql, &[&digest.0.as_slice()]).await?;
            found.map(|row| Columns { table: "api_keys", row: &row }.key_holder()).transpose()
        };
        self.known.keys.get(digest, find).await
    }

    async fn add_key(
        &self,
        caller: &CallerName,
        key: ApiKey,
        most: u32,
    ) -> Result<KeyAdded, StoreError> {
        let given = Arc::new((caller.clone(), key));
        let add = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, key) = &*given;
                // Two at once would take the same place.
                if !lock_caller(transaction, caller).await? {
                    return Ok(KeyAdded::NoSuchCaller);
                }
                let sql = "SELECT count(*) AS has FROM api_keys WHERE caller = $1";
                let found = rows(transaction, READING, sql, &[&caller.as_str()]).await?;
                let has = |row| Columns { table: "api_keys", row }.number::<u32>("has");
                if found.first().map(has).transpose()?.is_some_and(|has| has >= most) {
                    return Ok(KeyAdded::TooMany);
                }
                insert_key(transaction, caller, key).await?;
                Ok(KeyAdded::Added)
            })
        });
        self.change(add).await
    }

    async fn keys(&self, caller: &CallerName) -> Result<Option<Vec<ApiKey>>, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(None);
        }
        let sql = "SELECT * FROM api_keys WHERE caller = $1 ORDER BY created_at, id";
        let keys = self.database.query(READING, sql, &[&caller.as_str()]).await?;
        let read = |row| Columns { table: "api_keys", row }.api_key();
        keys.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    async fn revoke_key(&self, caller: &CallerName, id: &str) -> Result<bool, StoreError> {
        if !can_be_stored(id) {
            return Ok(false);
        }
        let given = Arc::new((caller.clone(), id.to_owned()));
        let revoke = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, id) = &*given;
                let sql = "DELETE FROM api_keys WHERE caller = $1 AND id = $2 RETURNING id";
                let revoked = rows(transaction, WRITING, sql, &[&caller.as_str(), id]).await?;
                Ok(!revoked.is_empty())
            })
        });
        self.change(revoke).await
    }

    async fn note_key_uses(&self, uses: Vec<KeyUse>) -> Result<(), StoreError> {
        let callers: Vec<&str> = uses.iter().map(|it| it.caller.as_str()).collect();
        let ids: Vec<&str> = uses.iter().map(|it| it.id.as_str()).collect();
        let times: Vec<i64> = uses.iter().map(|it| it.at.as_millisecond()).collect();
        // In one order, as every replica notes them. Nothing of it is remembered anywhere, so nobody
        // need be told.
        let sql = "UPDATE api_keys SET last_used_at = greatest(api_keys.last_used_at, used.at) \
            FROM (SELECT api_keys.digest, those.at \
                FROM unnest($1::text[], $2::text[], $3::bigint[]) AS those (caller, id, at) \
                JOIN api_keys USING (caller, id) ORDER BY api_keys.digest FOR UPDATE OF api_keys) \
                AS used WHERE api_keys.digest = used.digest";
        self.database.query(WRITING, sql, &[&callers, &ids, &times]).await.map(drop)
    }
}

/// Whether there can be a row of that name: a text of PostgreSQL's has no NUL in it, and asking for
/// one would be an error.
pub(super) fn can_be_stored(name: &str) -> bool {
    !name.contains('\0')
}

/// Keeps others from changing what belongs to the caller; whether there is such a caller.
///
/// Not from registering: that refers to the caller, which this lock allows.
pub(super) async fn lock_caller(
    transaction: &Transaction<'_>,
    caller: &CallerName,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM callers WHERE name = $1 FOR NO KEY UPDATE";
    Ok(!rows(transaction, WRITING, sql, &[&caller.as_str()]).await?.is_empty())
}

async fn insert_key(
    transaction: &Transaction<'_>,
    caller: &CallerName,
    key: &ApiKey,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO api_keys (digest, id, caller, label, scopes, created_at, expires_at, \
        last_used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let row = [
        &key.digest.0.as_slice() as _,
        &key.id as _,
        &caller.as_str() as _,
        &key.label as _,
        &key.scopes.to_string() as _,
        &key.created_at.as_millisecond() as _,
        &millis(key.expires_at) as _,
        &millis(key.last_used_at) as _,
    ];
    rows(transaction, WRITING, sql, &row).await.map(drop)
}
