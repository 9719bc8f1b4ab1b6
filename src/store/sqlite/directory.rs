//! Callers and what belongs to them.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use super::callback_options::insert_secret;
use super::error::Context;
use super::row::Columns;
use crate::courier::{Format, SigningSecret};
use crate::graph;
use crate::store::columns::{Fields as _, millis};
use crate::store::remembered::Remembered;
use crate::store::{
    ApiKey, CallerName, Directory, KeyAdded, KeyDigest, KeyHolder, KeyUse, Page, SignInApp,
    StoreError,
};

/// Adds to the number of operations of `caller` that are not at rest.
pub(super) fn count_live(
    connection: &Connection,
    caller: &CallerName,
    change: i64,
) -> Result<(), StoreError> {
    let sql = "UPDATE callers SET live_operations = live_operations + ?2 WHERE name = ?1";
    let updated = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![caller.as_str(), change]));
    updated.map(drop).context("counting live operations")
}

/// How many operations of `caller` are not at rest; `None` if there is no such caller.
pub(super) fn live(
    connection: &Connection,
    caller: &CallerName,
) -> Result<Option<u64>, StoreError> {
    connection
        .prepare_cached("SELECT live_operations FROM callers WHERE name = ?1")
        .and_then(|mut statement| {
            statement.query_row([caller.as_str()], |row| row.get(0)).optional()
        })
        .context("counting live operations")
}

/// What each request asks for, kept in memory.
#[derive(Debug, Default)]
pub(super) struct KnownDirectory {
    pub(super) keys: Remembered<KeyDigest, KeyHolder>,
    /// By caller and name; without a name, the default one.
    pub(super) connections: Remembered<(CallerName, Option<String>), Arc<graph::Connection>>,
    pub(super) formats: Remembered<CallerName, Format>,
    pub(super) sign_ins: Remembered<SignInApp, CallerName>,
}

impl SqliteStore {
    /// Writes to the directory, and forgets what was known of it.
    pub(super) async fn change<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let known = Arc::clone(&self.known);
        let forget = move || {
            known.keys.forget();
            known.connections.forget();
            known.formats.forget();
            known.sign_ins.forget();
        };
        self.writer.run_and(work, forget).await
    }
}

#[async_trait]
impl Directory for SqliteStore {
    async fn add_caller(
        &self,
        name: &CallerName,
        key: ApiKey,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (name, secret, vault) = (name.clone(), secret.clone(), self.vault.clone());
        let add = move |database: &Connection| {
            let sql = "INSERT INTO callers (name, created_at) VALUES (?1, ?2) \
                ON CONFLICT (name) DO NOTHING";
            let added = write(database, sql, params![name.as_str(), now.as_millisecond()])?;
            if added == 0 {
                return Ok(false);
            }
            insert_key(database, &name, &key)?;
            insert_secret(database, &vault, &name, 1, &secret, now)?;
            Ok(true)
        };
        self.change(add).await
    }

    async fn callers(&self, page: Page<CallerName>) -> Result<Vec<CallerName>, StoreError> {
        let list = move |database: &Connection| {
            let sql = "SELECT name FROM callers WHERE name > ?1 ORDER BY name LIMIT ?2";
            let after = page.after.as_ref().map_or("", CallerName::as_str);
            let names = rows(database, sql, params![after, page.limit], |row| {
                Ok(Columns { table: "callers", row }.word("name", |text| text.parse().ok()))
            })?;
            names.into_iter().collect()
        };
        self.readers.run(list).await
    }

    async fn key_holder(&self, digest: &KeyDigest) -> Result<Option<KeyHolder>, StoreError> {
        let key = *digest;
        let find = move |database: &Connection| {
            let sql = "SELECT id, caller, scopes, expires_at FROM api_keys WHERE digest = ?1";
            let found = rows(database, sql, [key.0.as_slice()], |row| {
                Ok(Columns { table: "api_keys", row }.key_holder())
            })?;
            found.into_iter().next().transpose()
        };
        self.known.keys.get(digest, self.readers.run(find)).await
    }

    async fn add_key(
        &self,
        caller: &CallerName,
        key: ApiKey,
        most: u32,
    ) -> Result<KeyAdded, StoreError> {
        let caller = caller.clone();
        let add = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(KeyAdded::NoSuchCaller);
            }
            let sql = "SELECT count(*) FROM api_keys WHERE caller = ?1";
            let has = rows(database, sql, [caller.as_str()], |row| row.get::<_, u32>(0))?;
            if has.into_iter().any(|has| has >= most) {
                return Ok(KeyAdded::TooMany);
            }
            insert_key(database, &caller, &key)?;
            Ok(KeyAdded::Added)
        };
        self.change(add).await
    }

    async fn keys(&self, caller: &CallerName) -> Result<Option<Vec<ApiKey>>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            let sql = "SELECT * FROM api_keys WHERE caller = ?1 ORDER BY created_at, id";
            let keys = rows(database, sql, [caller.as_str()], |row| {
                Ok(Columns { table: "api_keys", row }.api_key())
            })?;
            keys.into_iter().collect::<Result<_, _>>().map(Some)
        };
        self.readers.run(list).await
    }

    async fn revoke_key(&self, caller: &CallerName, id: &str) -> Result<bool, StoreError> {
        let (caller, id) = (caller.clone(), id.to_owned());
        let revoke = move |database: &Connection| {
            let sql = "DELETE FROM api_keys WHERE caller = ?1 AND id = ?2";
            Ok(write(database, sql, [caller.as_str(), &id])? > 0)
        };
        self.change(revoke).await
    }

    async fn note_key_uses(&self, uses: Vec<KeyUse>) -> Result<(), StoreError> {
        let note = move |database: &Connection| {
            for KeyUse { caller, id, at } in &uses {
                let sql = "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, ?3), ?3) \
                    WHERE caller = ?1 AND id = ?2";
                write(database, sql, params![caller.as_str(), id, at.as_millisecond()])?;
            }
            Ok(())
        };
        // Nothing of it is remembered, so nothing need be forgotten.
        self.writer.run(note).await
    }
}

fn insert_key(database: &Connection, caller: &CallerName, key: &ApiKey) -> Result<(), StoreError> {
    let sql = "INSERT INTO api_keys (digest, id, caller, label, scopes, created_at, expires_at, \
        last_used_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let row = params![
        key.digest.0.as_slice(),
        key.id,
        caller.as_str(),
        key.label,
        key.scopes.to_string(),
        key.created_at.as_millisecond(),
        millis(key.expires_at),
        millis(key.last_used_at),
    ];
    write(database, sql, row).map(drop)
}

pub(super) fn write(
    database: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<usize, StoreError> {
    let written = database.prepare_cached(sql).and_then(|mut it| it.execute(params));
    written.context("writing to the directory of callers")
}

pub(super) fn rows<T>(
    database: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let doing = "reading the directory of callers";
    let mut statement = database.prepare_cached(sql).context(doing)?;
    let rows = statement.query_map(params, read).context(doing)?;
    rows.map(|row| row.context(doing)).collect()
}
