//! Callers and what belongs to them.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use secrecy::ExposeSecret as _;

use super::SqliteStore;
use super::error::Context;
use super::row::Columns;
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::graph::{self, Proof};
use crate::store::columns::{Fields as _, PROVEN, ProofColumns, millis};
use crate::store::remembered::Remembered;
use crate::store::sealed::{self, extra_header_place, secret_place, signing_key_place};
use crate::store::{
    ApiKey, CallbackSettings, CallerName, ConnectionSummary, Directory, KeyAdded, KeyDigest,
    KeyHolder, KeyUse, Page, Rotated, Rotation, Share, Shared, SignInApp, SigningKeySummary,
    SigningSecretSummary, StoreError,
};
use crate::vault::Vault;

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

/// What signs for `caller` at `now`, newest first.
pub(super) fn signers(
    connection: &Connection,
    vault: &Vault,
    caller: &CallerName,
    now: Timestamp,
) -> Result<Signers, StoreError> {
    let sealed = |table, column| {
        let sql = format!("SELECT id, {column} FROM {table} {LIVE}");
        let row = params![caller.as_str(), now.as_millisecond()];
        rows(connection, &sql, row, |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?)))
    };
    let secret = |(id, sealed): (u32, Vec<u8>)| {
        let place = secret_place(caller, id);
        sealed::read(vault, &place, &sealed).map_err(|error| {
            StoreError::inconsistent("signing_secrets", "sealed_secret", &place, error)
        })
    };
    let key = |(id, sealed): (u32, Vec<u8>)| {
        let place = signing_key_place(caller, id);
        sealed::read(vault, &place, &sealed)
            .map_err(|error| StoreError::inconsistent("signing_keys", "sealed_key", &place, error))
    };
    let secrets = sealed("signing_secrets", "sealed_secret")?;
    let keys = sealed("signing_keys", "sealed_key")?;
    Ok(Signers {
        secrets: secrets.into_iter().map(secret).collect::<Result<_, _>>()?,
        keys: keys.into_iter().map(key).collect::<Result<_, _>>()?,
    })
}

/// What goes with all callbacks of `caller`.
pub(super) fn extra_headers(
    connection: &Connection,
    vault: &Vault,
    caller: &CallerName,
) -> Result<Vec<ExtraHeader>, StoreError> {
    let sql = "SELECT name, sealed_value FROM extra_headers WHERE caller = ?1 ORDER BY name";
    let found = rows(connection, sql, [caller.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let open = |(name, sealed): (String, Vec<u8>)| {
        sealed::extra_header(vault, caller, &name, &sealed).map_err(|error| {
            StoreError::inconsistent("extra_headers", "sealed_value", &name, error)
        })
    };
    found.into_iter().map(open).collect()
}

/// Rows of a caller's that are live at a time, newest first.
const LIVE: &str = "WHERE caller = ?1 AND (expires_at IS NULL OR expires_at > ?2) ORDER BY id DESC";

/// Makes room for another secret or key in `table`, and says which number it is to have.
fn rotate(
    database: &Connection,
    table: &str,
    caller: &CallerName,
    rotation: Rotation,
) -> Result<Result<u32, Rotated>, StoreError> {
    if live(database, caller)?.is_none() {
        return Ok(Err(Rotated::NoSuchCaller));
    }
    let Rotation { now, older_until, .. } = rotation;
    let sql = format!(
        "SELECT count(*) FILTER (WHERE expires_at IS NULL OR expires_at > ?2), \
         coalesce(max(id), 0) + 1 FROM {table} WHERE caller = ?1"
    );
    let row = params![caller.as_str(), now.as_millisecond()];
    let found =
        rows(database, &sql, row, |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)))?;
    let (live, next) = found.into_iter().next().unwrap_or((0, 1));
    if !rotation.has_room(live) {
        return Ok(Err(Rotated::TooManyLive));
    }
    let sql = format!(
        "UPDATE {table} SET expires_at = min(coalesce(expires_at, ?2), ?2) WHERE caller = ?1"
    );
    write(database, &sql, params![caller.as_str(), older_until.as_millisecond()])?;
    let sql = format!("DELETE FROM {table} WHERE caller = ?1 AND expires_at <= ?2");
    write(database, &sql, params![caller.as_str(), now.as_millisecond()])?;
    Ok(Ok(next))
}

/// Whether `caller` has a connection of that name.
pub(super) fn has_connection(
    database: &Connection,
    caller: &CallerName,
    name: &str,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM connections WHERE caller = ?1 AND name = ?2";
    Ok(!rows(database, sql, [caller.as_str(), name], |_| Ok(()))?.is_empty())
}

/// A connection with its proof.
pub(super) fn connection(
    database: &Connection,
    vault: &Vault,
    caller: &CallerName,
    name: &str,
) -> Result<Option<graph::Connection>, StoreError> {
    let sql = format!("SELECT * FROM {PROVEN} AS proven WHERE caller = ?1 AND name = ?2");
    let found = rows(database, &sql, params![caller.as_str(), name], |row| {
        Ok(Columns { table: "connections", row }.connection(vault, caller))
    })?;
    found.into_iter().next().transpose()
}

/// What each request asks for, kept in memory.
#[derive(Debug, Default)]
pub(super) struct KnownDirectory {
    keys: Remembered<KeyDigest, KeyHolder>,
    /// By caller and name; without a name, the default one.
    connections: Remembered<(CallerName, Option<String>), Arc<graph::Connection>>,
    formats: Remembered<CallerName, Format>,
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

    async fn rotate_secret(
        &self,
        caller: &CallerName,
        secret: &SigningSecret,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let (caller, secret, vault) = (caller.clone(), secret.clone(), self.vault.clone());
        let rotate = move |database: &Connection| {
            let id = match rotate(database, "signing_secrets", &caller, rotation)? {
                Ok(id) => id,
                Err(refused) => return Ok(refused),
            };
            insert_secret(database, &vault, &caller, id, &secret, rotation.now)?;
            Ok(Rotated::Made(id))
        };
        self.change(rotate).await
    }

    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            live_summaries(database, &caller, now).map(Some)
        };
        self.readers.run(list).await
    }

    async fn revoke_secret(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let caller = caller.clone();
        let revoke = move |database: &Connection| {
            let live = live_summaries(database, &caller, now)?;
            if live.iter().skip(1).all(|older| older.id != id) {
                return Ok(false);
            }
            let sql = "DELETE FROM signing_secrets WHERE caller = ?1 AND id = ?2";
            Ok(write(database, sql, params![caller.as_str(), id])? > 0)
        };
        self.change(revoke).await
    }

    async fn rotate_signing_key(
        &self,
        caller: &CallerName,
        key: &SigningKey,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let (caller, key, vault) = (caller.clone(), key.clone(), self.vault.clone());
        let rotate = move |database: &Connection| {
            let id = match rotate(database, "signing_keys", &caller, rotation)? {
                Ok(id) => id,
                Err(refused) => return Ok(refused),
            };
            let place = signing_key_place(&caller, id);
            let sealed =
                vault.seal(&place, key.expose().as_bytes()).context("sealing a signing key")?;
            let sql = "INSERT INTO signing_keys (caller, id, public_key, sealed_key, created_at) \
                VALUES (?1, ?2, ?3, ?4, ?5)";
            let public_key = key.public().to_string();
            let created_at = rotation.now.as_millisecond();
            write(database, sql, params![caller.as_str(), id, public_key, sealed, created_at])?;
            Ok(Rotated::Made(id))
        };
        self.change(rotate).await
    }

    async fn signing_keys(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKeySummary>>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            live_keys(database, &caller, now).map(Some)
        };
        self.readers.run(list).await
    }

    async fn revoke_signing_key(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let caller = caller.clone();
        let revoke = move |database: &Connection| {
            let live: Vec<u32> =
                live_keys(database, &caller, now)?.into_iter().map(|it| it.id).collect();
            let row = params![caller.as_str(), id];
            if live == [id] {
                // Its row keeps the number from being given again.
                let sql = "UPDATE signing_keys SET expires_at = ?3 WHERE caller = ?1 AND id = ?2";
                let row = params![caller.as_str(), id, now.as_millisecond()];
                return Ok(write(database, sql, row)? > 0);
            }
            if !live.iter().skip(1).any(|older| *older == id) {
                return Ok(false);
            }
            let sql = "DELETE FROM signing_keys WHERE caller = ?1 AND id = ?2";
            Ok(write(database, sql, row)? > 0)
        };
        self.change(revoke).await
    }

    async fn callback_settings(
        &self,
        caller: &CallerName,
    ) -> Result<Option<CallbackSettings>, StoreError> {
        let caller = caller.clone();
        let read = move |database: &Connection| {
            let Some(format) = default_format(database, &caller)? else { return Ok(None) };
            let sql = "SELECT name FROM extra_headers WHERE caller = ?1 ORDER BY name";
            let extra_headers = rows(database, sql, [caller.as_str()], |row| row.get(0))?;
            Ok(Some(CallbackSettings { format, extra_headers }))
        };
        self.readers.run(read).await
    }

    async fn default_format(&self, caller: &CallerName) -> Result<Option<Format>, StoreError> {
        let name = caller.clone();
        let read = move |database: &Connection| default_format(database, &name);
        self.known.formats.get(caller, self.readers.run(read)).await
    }

    async fn set_default_format(
        &self,
        caller: &CallerName,
        format: Format,
    ) -> Result<bool, StoreError> {
        let caller = caller.clone();
        let set = move |database: &Connection| {
            let sql = "UPDATE callers SET default_format = ?2 WHERE name = ?1";
            Ok(write(database, sql, [caller.as_str(), format.as_str()])? > 0)
        };
        self.change(set).await
    }

    async fn set_extra_header(
        &self,
        caller: &CallerName,
        header: &ExtraHeader,
        most: u32,
    ) -> Result<Option<bool>, StoreError> {
        let (caller, name) = (caller.clone(), header.name().to_owned());
        let place = extra_header_place(&caller, &name);
        let sealed = self
            .vault
            .seal(&place, header.value().expose_secret().as_bytes())
            .context("sealing a header")?;
        let set = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            let sql = "SELECT count(*) FROM extra_headers WHERE caller = ?1 AND name <> ?2";
            let others = rows(database, sql, [caller.as_str(), &name], |row| row.get::<_, u32>(0))?;
            if others.into_iter().any(|others| others >= most) {
                return Ok(Some(false));
            }
            let sql = "INSERT INTO extra_headers (caller, name, sealed_value) VALUES (?1, ?2, ?3) \
                ON CONFLICT (caller, name) DO UPDATE SET sealed_value = excluded.sealed_value";
            write(database, sql, params![caller.as_str(), name, sealed])?;
            Ok(Some(true))
        };
        self.change(set).await
    }

    async fn remove_extra_header(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<bool, StoreError> {
        let (caller, name) = (caller.clone(), name.to_owned());
        let remove = move |database: &Connection| {
            let sql = "DELETE FROM extra_headers WHERE caller = ?1 AND name = ?2";
            Ok(write(database, sql, [caller.as_str(), &name])? > 0)
        };
        self.change(remove).await
    }

    async fn add_connection(
        &self,
        caller: &CallerName,
        connection: &graph::Connection,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let (caller, added, vault) = (caller.clone(), connection.clone(), self.vault.clone());
        let add = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            let sql = "INSERT INTO connections (caller, name, tenant, client_id, \
                kind, sealed_proof, token_file, thumbprint, proof_expires_at, created_at) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                ON CONFLICT (caller, name) DO NOTHING";
            let proof = ProofColumns::seal(&vault, &caller, &added.name, &added.proof)
                .context("sealing a proof")?;
            let row = params![
                caller.as_str(),
                added.name,
                added.tenant,
                added.client_id,
                proof.kind,
                proof.sealed_proof,
                proof.token_file,
                proof.thumbprint,
                proof.proof_expires_at,
                now.as_millisecond(),
            ];
            if write(database, sql, row)? == 0 {
                return Ok(Some(false));
            }
            let sql = "UPDATE callers SET default_connection = coalesce(default_connection, ?2) \
                WHERE name = ?1";
            write(database, sql, [caller.as_str(), &added.name])?;
            Ok(Some(true))
        };
        self.change(add).await
    }

    async fn connections(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<ConnectionSummary>>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(None);
            }
            let sql = "SELECT connections.name AS name, tenant, client_id, kind, token_file, \
                thumbprint, proof_expires_at, connections.created_at AS created_at, \
                connections.name = callers.default_connection AS is_default \
                FROM connections JOIN callers ON callers.name = connections.caller \
                WHERE caller = ?1 AND signed_in_at IS NULL ORDER BY connections.name";
            let connections = rows(database, sql, [caller.as_str()], |row| {
                let columns = Columns { table: "connections", row };
                let is_default = columns.get("is_default");
                Ok(is_default.and_then(|it| columns.connection_summary(it)))
            })?;
            connections.into_iter().collect::<Result<_, _>>().map(Some)
        };
        self.readers.run(list).await
    }

    async fn connection(
        &self,
        caller: &CallerName,
        name: Option<&str>,
    ) -> Result<Option<Arc<graph::Connection>>, StoreError> {
        let key = (caller.clone(), name.map(str::to_owned));
        let ((caller, name), vault) = (key.clone(), self.vault.clone());
        let find = move |database: &Connection| {
            let name = if let Some(name) = name {
                Some(name)
            } else {
                let sql = "SELECT default_connection FROM callers WHERE name = ?1";
                let default = rows(database, sql, [caller.as_str()], |row| row.get(0))?;
                default.into_iter().next().flatten()
            };
            let Some(name) = name else { return Ok(None) };
            Ok(connection(database, &vault, &caller, &name)?.map(Arc::new))
        };
        self.known.connections.get(&key, self.readers.run(find)).await
    }

    async fn replace_proof(
        &self,
        caller: &CallerName,
        name: &str,
        proof: &Proof,
    ) -> Result<bool, StoreError> {
        let (caller, name) = (caller.clone(), name.to_owned());
        let proof = ProofColumns::seal(&self.vault, &caller, &name, proof);
        let proof = proof.context("sealing a proof")?;
        let replace = move |database: &Connection| {
            let sql = "UPDATE connections SET kind = ?3, sealed_proof = ?4, token_file = ?5, \
                thumbprint = ?6, proof_expires_at = ?7 \
                WHERE caller = ?1 AND name = ?2 AND shared_by IS NULL AND signed_in_at IS NULL";
            let row = params![
                caller.as_str(),
                name,
                proof.kind,
                proof.sealed_proof,
                proof.token_file,
                proof.thumbprint,
                proof.proof_expires_at,
            ];
            Ok(write(database, sql, row)? > 0)
        };
        self.change(replace).await
    }

    async fn share_connection(
        &self,
        owner: &CallerName,
        name: &str,
        share: &Share,
        now: Timestamp,
    ) -> Result<Shared, StoreError> {
        let (owner, name, share) = (owner.clone(), name.to_owned(), share.clone());
        let give = move |database: &Connection| {
            let own = "SELECT 1 FROM connections WHERE caller = ?1 AND name = ?2 \
                AND shared_by IS NULL AND signed_in_at IS NULL";
            if rows(database, own, [owner.as_str(), &name], |_| Ok(()))?.is_empty() {
                return Ok(Shared::NoSuchConnection);
            }
            if live(database, &share.with)?.is_none() {
                return Ok(Shared::NoSuchCaller);
            }
            let sql = "INSERT INTO connections (caller, name, tenant, client_id, kind, shared_by, \
                shared_name, created_at) SELECT ?3, ?4, tenant, client_id, 'shared', ?1, ?2, ?5 \
                FROM connections WHERE caller = ?1 AND name = ?2 \
                ON CONFLICT (caller, name) DO UPDATE SET kind = 'shared' \
                WHERE shared_by = ?1 AND shared_name = ?2";
            let (with, as_name) = (share.with.as_str(), &share.name);
            let row = params![owner.as_str(), name, with, as_name, now.as_millisecond()];
            if write(database, sql, row)? == 0 {
                return Ok(Shared::NameTaken);
            }
            let sql = "UPDATE callers SET default_connection = coalesce(default_connection, ?2) \
                WHERE name = ?1";
            write(database, sql, [with, as_name])?;
            Ok(Shared::Done)
        };
        self.change(give).await
    }

    async fn withdraw_connection(
        &self,
        owner: &CallerName,
        name: &str,
        from: &CallerName,
    ) -> Result<u64, StoreError> {
        let (owner, name, from) = (owner.clone(), name.to_owned(), from.clone());
        let withdraw = move |database: &Connection| {
            let sql = "UPDATE connections SET kind = 'withdrawn' WHERE caller = ?1 \
                AND shared_by = ?2 AND shared_name = ?3 AND kind = 'shared'";
            let withdrawn = write(database, sql, [from.as_str(), owner.as_str(), &name])?;
            Ok(u64::try_from(withdrawn).unwrap_or(u64::MAX))
        };
        self.change(withdraw).await
    }

    async fn shares(&self, owner: &CallerName, name: &str) -> Result<Vec<Share>, StoreError> {
        let (owner, name) = (owner.clone(), name.to_owned());
        let list = move |database: &Connection| {
            let sql = "SELECT caller, name, kind FROM connections \
                WHERE shared_by = ?1 AND shared_name = ?2 ORDER BY caller, name";
            let found = rows(database, sql, [owner.as_str(), &name], |row| {
                Ok(Columns { table: "connections", row }.share())
            })?;
            found.into_iter().collect()
        };
        self.readers.run(list).await
    }

    async fn expiring_proofs(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(CallerName, String, Timestamp)>, StoreError> {
        let list = move |database: &Connection| {
            let sql = "SELECT caller, name, proof_expires_at FROM connections \
                WHERE proof_expires_at < ?1 ORDER BY proof_expires_at, caller, name LIMIT ?2";
            let found = rows(database, sql, params![before.as_millisecond(), limit], |row| {
                Ok(Columns { table: "connections", row }.expiring_proof())
            })?;
            found.into_iter().collect()
        };
        self.readers.run(list).await
    }

    async fn remove_connection(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<Option<bool>, StoreError> {
        let (caller, name) = (caller.clone(), name.to_owned());
        let remove = move |database: &Connection| {
            let key = [caller.as_str(), &name];
            let its = "SELECT 1 FROM connections WHERE caller = ?1 AND name = ?2 \
                AND signed_in_at IS NULL";
            if rows(database, its, key, |_| Ok(()))?.is_empty() {
                return Ok(None);
            }
            let used = "SELECT 1 FROM operations WHERE caller = ?1 AND connection = ?2 \
                AND rested_at IS NULL LIMIT 1";
            if !rows(database, used, key, |_| Ok(()))?.is_empty() {
                return Ok(Some(false));
            }
            let shared = "SELECT 1 FROM connections WHERE kind = 'shared' \
                AND shared_by = ?1 AND shared_name = ?2 LIMIT 1";
            if !rows(database, shared, key, |_| Ok(()))?.is_empty() {
                return Ok(Some(false));
            }
            write(database, "DELETE FROM connections WHERE caller = ?1 AND name = ?2", key)?;
            let sql = "UPDATE callers SET default_connection = \
                (SELECT min(name) FROM connections WHERE caller = ?1 AND signed_in_at IS NULL) \
                WHERE name = ?1 AND default_connection = ?2";
            write(database, sql, key)?;
            Ok(Some(true))
        };
        self.change(remove).await
    }
}

fn live_summaries(
    database: &Connection,
    caller: &CallerName,
    now: Timestamp,
) -> Result<Vec<SigningSecretSummary>, StoreError> {
    let sql = format!("SELECT id, created_at, expires_at FROM signing_secrets {LIVE}");
    let secrets = rows(database, &sql, params![caller.as_str(), now.as_millisecond()], |row| {
        Ok(Columns { table: "signing_secrets", row }.signing_secret_summary())
    })?;
    secrets.into_iter().collect()
}

fn default_format(
    database: &Connection,
    caller: &CallerName,
) -> Result<Option<Format>, StoreError> {
    let sql = "SELECT name, default_format FROM callers WHERE name = ?1";
    let found = rows(database, sql, [caller.as_str()], |row| {
        Ok(Columns { table: "callers", row }.word("default_format", Format::from_word))
    })?;
    found.into_iter().next().transpose()
}

fn live_keys(
    database: &Connection,
    caller: &CallerName,
    now: Timestamp,
) -> Result<Vec<SigningKeySummary>, StoreError> {
    let sql = format!("SELECT id, public_key, created_at, expires_at FROM signing_keys {LIVE}");
    let keys = rows(database, &sql, params![caller.as_str(), now.as_millisecond()], |row| {
        Ok(Columns { table: "signing_keys", row }.signing_key_summary())
    })?;
    keys.into_iter().collect()
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

fn insert_secret(
    database: &Connection,
    vault: &Vault,
    caller: &CallerName,
    id: u32,
    secret: &SigningSecret,
    now: Timestamp,
) -> Result<(), StoreError> {
    let place = secret_place(caller, id);
    let sealed =
        vault.seal(&place, secret.expose().as_bytes()).context("sealing a signing secret")?;
    let sql = "INSERT INTO signing_secrets (caller, id, sealed_secret, created_at) \
        VALUES (?1, ?2, ?3, ?4)";
    write(database, sql, params![caller.as_str(), id, sealed, now.as_millisecond()]).map(drop)
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
