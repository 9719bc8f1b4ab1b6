//! How the callbacks of callers are signed and sent.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tokio_postgres::Row;

use super::connect::work;
use super::directory::{READING, Readable, WRITING, can_be_stored, lock_caller};
use super::error::Context as _;
use super::row::Columns;
use super::{PostgresStore, rows};
use crate::courier::{ExtraHeader, Format, Signers, SigningKey, SigningSecret};
use crate::store::columns::Fields as _;
use crate::store::sealed::{self, extra_header_place, secret_place, signing_key_place};
use crate::store::{
    CallbackOptions, CallbackSettings, CallerName, Rotated, Rotation, SigningKeySummary,
    SigningSecretSummary, StoreError,
};
use crate::vault::Vault;

/// What signs for each caller at `now`, newest first, and what goes with all of its callbacks.
pub(super) async fn signers(
    transaction: &Transaction<'_>,
    vault: &Vault,
    callers: &[CallerName],
    now: Timestamp,
) -> Result<Readable<CallerName, (Signers, Vec<ExtraHeader>)>, StoreError> {
    let mut known: Readable<CallerName, (Signers, Vec<ExtraHeader>)> = HashMap::new();
    if callers.is_empty() {
        return Ok(known);
    }
    let names: Vec<&str> = callers.iter().map(CallerName::as_str).collect();
    let live = "caller = ANY($1) AND (expires_at IS NULL OR expires_at > $2)";
    // One round trip for all three tables.
    let sql = format!(
        "SELECT caller, id, NULL AS name, sealed_secret, NULL::bytea AS sealed_key, \
         NULL::bytea AS sealed_value FROM signing_secrets WHERE {live} \
         UNION ALL SELECT caller, id, NULL, NULL, sealed_key, NULL FROM signing_keys WHERE {live} \
         UNION ALL SELECT caller, 0, name, NULL, NULL, sealed_value FROM extra_headers \
         WHERE caller = ANY($1) ORDER BY caller, id DESC, name"
    );
    for row in rows(transaction, READING, &sql, &[&names, &now.as_millisecond()]).await? {
        let columns = Columns { table: "signing_secrets", row: &row };
        let caller: CallerName = columns.word("caller", |text| text.parse().ok())?;
        let its = known.entry(caller.clone()).or_insert_with(|| Ok(Default::default()));
        let Ok((signers, headers)) = its.as_mut() else { continue };
        // Signed by some of them only, a callback would fail at receivers with the others.
        if let Err(error) = add(signers, headers, vault, &caller, &row) {
            *its = Err(error);
        }
    }
    Ok(known)
}

/// Adds what a row of one of the three tables holds.
fn add(
    signers: &mut Signers,
    headers: &mut Vec<ExtraHeader>,
    vault: &Vault,
    caller: &CallerName,
    row: &Row,
) -> Result<(), StoreError> {
    let secrets = Columns { table: "signing_secrets", row };
    let id = secrets.number("id")?;
    if let Some(sealed) = secrets.bytes_or_null("sealed_secret")? {
        let secret = sealed::read(vault, &secret_place(caller, id), &sealed);
        signers.secrets.push(secret.map_err(|it| secrets.inconsistent("sealed_secret", it))?);
    }
    let keys = Columns { table: "signing_keys", row };
    if let Some(sealed) = keys.bytes_or_null("sealed_key")? {
        let key = sealed::read(vault, &signing_key_place(caller, id), &sealed);
        signers.keys.push(key.map_err(|it| keys.inconsistent("sealed_key", it))?);
    }
    let extra = Columns { table: "extra_headers", row };
    if let Some(sealed) = extra.bytes_or_null("sealed_value")? {
        let header = sealed::extra_header(vault, caller, &extra.text("name")?, &sealed);
        headers.push(header.map_err(|it| extra.inconsistent("sealed_value", it))?);
    }
    Ok(())
}

const LIVE_SECRETS: &str = "SELECT id, created_at, expires_at FROM signing_secrets \
    WHERE caller = $1 AND (expires_at IS NULL OR expires_at > $2) ORDER BY id DESC";

const LIVE_KEYS: &str = "SELECT id, public_key, created_at, expires_at FROM signing_keys \
    WHERE caller = $1 AND (expires_at IS NULL OR expires_at > $2) ORDER BY id DESC";

/// Makes room for another secret or key in `table`, and says which number it is to have.
async fn rotate(
    transaction: &Transaction<'_>,
    table: &'static str,
    caller: &CallerName,
    rotation: Rotation,
) -> Result<Result<u32, Rotated>, StoreError> {
    // Two rotations at once would take the same number, or the same room.
    if !lock_caller(transaction, caller).await? {
        return Ok(Err(Rotated::NoSuchCaller));
    }
    let (caller, now) = (caller.as_str(), rotation.now.as_millisecond());
    let sql = format!(
        "SELECT count(*) FILTER (WHERE expires_at IS NULL OR expires_at > $2) AS live, \
         coalesce(max(id), 0) + 1 AS next FROM {table} WHERE caller = $1"
    );
    let found = rows(transaction, READING, &sql, &[&caller, &now]).await?;
    let read = |row| {
        let columns = Columns { table, row };
        Ok((columns.number::<u32>("live")?, columns.number::<u32>("next")?))
    };
    let (live, next) = found.first().map(read).transpose()?.unwrap_or((0, 1));
    if !rotation.has_room(live) {
        return Ok(Err(Rotated::TooManyLive));
    }
    let sql = format!("UPDATE {table} SET expires_at = least(expires_at, $2) WHERE caller = $1");
    let until = rotation.older_until.as_millisecond();
    rows(transaction, WRITING, &sql, &[&caller, &until]).await?;
    let sql = format!("DELETE FROM {table} WHERE caller = $1 AND expires_at <= $2");
    rows(transaction, WRITING, &sql, &[&caller, &now]).await?;
    Ok(Ok(next))
}

pub(super) async fn insert_secret(
    transaction: &Transaction<'_>,
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
        VALUES ($1, $2, $3, $4)";
    let row =
        [&caller.as_str() as _, &i64::from(id) as _, &sealed as _, &now.as_millisecond() as _];
    rows(transaction, WRITING, sql, &row).await.map(drop)
}

#[async_trait]
impl CallbackOptions for PostgresStore {
    async fn rotate_secret(
        &self,
        caller: &CallerName,
        secret: &SigningSecret,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let given = Arc::new((caller.clone(), secret.clone(), Arc::clone(&self.vault)));
        let rotate = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, secret, vault) = &*given;
                let id = match rotate(transaction, "signing_secrets", caller, rotation).await? {
                    Ok(id) => id,
                    Err(refused) => return Ok(refused),
                };
                insert_secret(transaction, vault, caller, id, secret, rotation.now).await?;
                Ok(Rotated::Made(id))
            })
        });
        self.change(rotate).await
    }

    async fn secrets(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningSecretSummary>>, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(None);
        }
        let row = [&caller.as_str() as _, &now.as_millisecond() as _];
        let secrets = self.database.query(READING, LIVE_SECRETS, &row).await?;
        let read = |row| Columns { table: "signing_secrets", row }.signing_secret_summary();
        secrets.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    async fn revoke_secret(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let caller = Arc::new(caller.clone());
        let revoke = work(move |transaction| {
            let caller = Arc::clone(&caller);
            Box::pin(async move {
                // A rotation at the same time would make another one the newest.
                lock_caller(transaction, &caller).await?;
                let row = [&caller.as_str() as _, &now.as_millisecond() as _];
                let live = rows(transaction, READING, LIVE_SECRETS, &row).await?;
                let number = |row| Columns { table: "signing_secrets", row }.number("id");
                let live: Vec<u32> = live.iter().map(number).collect::<Result<_, _>>()?;
                if !live.iter().skip(1).any(|older| *older == id) {
                    return Ok(false);
                }
                let sql = "DELETE FROM signing_secrets WHERE caller = $1 AND id = $2";
                let row = [&caller.as_str() as _, &i64::from(id) as _];
                rows(transaction, WRITING, sql, &row).await?;
                Ok(true)
            })
        });
        self.change(revoke).await
    }

    async fn rotate_signing_key(
        &self,
        caller: &CallerName,
        key: &SigningKey,
        rotation: Rotation,
    ) -> Result<Rotated, StoreError> {
        let given = Arc::new((caller.clone(), key.clone(), Arc::clone(&self.vault)));
        let rotate = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, key, vault) = &*given;
                let id = match rotate(transaction, "signing_keys", caller, rotation).await? {
                    Ok(id) => id,
                    Err(refused) => return Ok(refused),
                };
                let place = signing_key_place(caller, id);
                let sealed =
                    vault.seal(&place, key.expose().as_bytes()).context("sealing a signing key")?;
                let sql = "INSERT INTO signing_keys (caller, id, public_key, sealed_key, \
                    created_at) VALUES ($1, $2, $3, $4, $5)";
                let row = [
                    &caller.as_str() as _,
                    &i64::from(id) as _,
                    &key.public().to_string() as _,
                    &sealed as _,
                    &rotation.now.as_millisecond() as _,
                ];
                rows(transaction, WRITING, sql, &row).await?;
                Ok(Rotated::Made(id))
            })
        });
        self.change(rotate).await
    }

    async fn signing_keys(
        &self,
        caller: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKeySummary>>, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(None);
        }
        let row = [&caller.as_str() as _, &now.as_millisecond() as _];
        let keys = self.database.query(READING, LIVE_KEYS, &row).await?;
        let read = |row| Columns { table: "signing_keys", row }.signing_key_summary();
        keys.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    async fn revoke_signing_key(
        &self,
        caller: &CallerName,
        id: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let caller = Arc::new(caller.clone());
        let revoke = work(move |transaction| {
            let caller = Arc::clone(&caller);
            Box::pin(async move {
                // A rotation at the same time would make another one the newest.
                lock_caller(transaction, &caller).await?;
                let row = [&caller.as_str() as _, &now.as_millisecond() as _];
                let live = rows(transaction, READING, LIVE_KEYS, &row).await?;
                let number = |row| Columns { table: "signing_keys", row }.number("id");
                let live: Vec<u32> = live.iter().map(number).collect::<Result<_, _>>()?;
                if live == [id] {
                    // Its row keeps the number from being given again.
                    let sql = "UPDATE signing_keys SET expires_at = $3 \
                        WHERE caller = $1 AND id = $2";
                    let row =
                        [&caller.as_str() as _, &i64::from(id) as _, &now.as_millisecond() as _];
                    rows(transaction, WRITING, sql, &row).await?;
                    return Ok(true);
                }
                if !live.iter().skip(1).any(|older| *older == id) {
                    return Ok(false);
                }
                let sql = "DELETE FROM signing_keys WHERE caller = $1 AND id = $2";
                let row = [&caller.as_str() as _, &i64::from(id) as _];
                rows(transaction, WRITING, sql, &row).await?;
                Ok(true)
            })
        });
        self.change(revoke).await
    }

    async fn callback_settings(
        &self,
        caller: &CallerName,
    ) -> Result<Option<CallbackSettings>, StoreError> {
        let sql = "SELECT callers.name, default_format, extra_headers.name AS header \
            FROM callers LEFT JOIN extra_headers ON caller = callers.name \
            WHERE callers.name = $1 ORDER BY header";
        let found = self.database.query(READING, sql, &[&caller.as_str()]).await?;
        let Some(first) = found.first() else { return Ok(None) };
        let format = Columns { table: "callers", row: first };
        let format = format.word("default_format", Format::from_word)?;
        let header = |row| Columns { table: "extra_headers", row }.text_or_null("header");
        let extra_headers = found.iter().map(header).filter_map(Result::transpose);
        let extra_headers = extra_headers.collect::<Result<_, _>>()?;
        Ok(Some(CallbackSettings { format, extra_headers }))
    }

    async fn default_format(&self, caller: &CallerName) -> Result<Option<Format>, StoreError> {
        let find = async {
            let sql = "SELECT name, default_format FROM callers WHERE name = $1";
            let found = self.first(sql, &[&caller.as_str()]).await?;
            let read = |row| {
                Columns { table: "callers", row: &row }.word("default_format", Format::from_word)
            };
            found.map(read).transpose()
        };
        self.known.formats.get(caller, find).await
    }

    async fn set_default_format(
        &self,
        caller: &CallerName,
        format: Format,
    ) -> Result<bool, StoreError> {
        let caller = Arc::new(caller.clone());
        let set = work(move |transaction| {
            let caller = Arc::clone(&caller);
            Box::pin(async move {
                let sql = "UPDATE callers SET default_format = $2 WHERE name = $1 RETURNING name";
                let row = [&caller.as_str() as _, &format.as_str() as _];
                Ok(!rows(transaction, WRITING, sql, &row).await?.is_empty())
            })
        });
        self.change(set).await
    }

    async fn set_extra_header(
        &self,
        caller: &CallerName,
        header: &ExtraHeader,
        most: u32,
    ) -> Result<Option<bool>, StoreError> {
        let place = extra_header_place(caller, header.name());
        let sealed = self
            .vault
            .seal(&place, header.value().expose_secret().as_bytes())
            .context("sealing a header")?;
        let given = Arc::new((caller.clone(), header.name().to_owned(), sealed));
        let set = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, name, sealed) = &*given;
                // Two that are set at once would take the same room.
                if !lock_caller(transaction, caller).await? {
                    return Ok(None);
                }
                let sql = "SELECT count(*) AS others FROM extra_headers \
                    WHERE caller = $1 AND name <> $2";
                let caller = caller.as_str();
                let found = rows(transaction, READING, sql, &[&caller, name]).await?;
                let number = |row| Columns { table: "extra_headers", row }.number::<u32>("others");
                if found.first().map(number).transpose()?.is_some_and(|others| others >= most) {
                    return Ok(Some(false));
                }
                let sql = "INSERT INTO extra_headers (caller, name, sealed_value) \
                    VALUES ($1, $2, $3) ON CONFLICT (caller, name) \
                    DO UPDATE SET sealed_value = excluded.sealed_value";
                rows(transaction, WRITING, sql, &[&caller, name, sealed]).await?;
                Ok(Some(true))
            })
        });
        self.change(set).await
    }

    async fn remove_extra_header(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<bool, StoreError> {
        if !can_be_stored(name) {
            return Ok(false);
        }
        let given = Arc::new((caller.clone(), name.to_owned()));
        let remove = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, name) = &*given;
                let sql = "DELETE FROM extra_headers WHERE caller = $1 AND name = $2 \
                    RETURNING name";
                let removed = rows(transaction, WRITING, sql, &[&caller.as_str(), name]).await?;
                Ok(!removed.is_empty())
            })
        });
        self.change(remove).await
    }
}
