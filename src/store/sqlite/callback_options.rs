//! How the callbacks of callers are signed and sent.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use secrecy::ExposeSecret as _;

use super::SqliteStore;
use super::directory::{live, rows, write};
use super::error::Context;
use super::row::Columns;
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::store::columns::Fields as _;
use crate::store::sealed::{self, extra_header_place, secret_place, signing_key_place};
use crate::store::{
    CallbackOptions, CallbackSettings, CallerName, Rotated, Rotation, SigningKeySummary,
    SigningSecretSummary, StoreError,
};
use crate::vault::Vault;

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

pub(super) fn insert_secret(
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

#[async_trait]
impl CallbackOptions for SqliteStore {
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
}
