//! Callers and what belongs to them.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tokio_postgres::Row;

use super::connect::{Work, work};
use super::error::Context as _;
use super::replicas::DIRECTORY;
use super::row::Columns;
use super::{CHANNEL, PostgresStore, rows};
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

pub(super) const READING: &str = "reading the directory of callers";
pub(super) const WRITING: &str = "writing to the directory of callers";

/// What each request asks for, kept in memory for a moment.
#[derive(Debug, Default)]
pub(super) struct KnownDirectory {
    keys: Remembered<KeyDigest, KeyHolder>,
    /// By caller and name; without a name, the default one.
    connections: Remembered<(CallerName, Option<String>), Arc<graph::Connection>>,
    formats: Remembered<CallerName, Format>,
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

/// Connections with their proofs, those that there are.
pub(super) async fn connections_of(
    transaction: &Transaction<'_>,
    vault: &Vault,
    keys: &[(CallerName, String)],
) -> Result<Readable<(CallerName, String), Arc<graph::Connection>>, StoreError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let callers: Vec<&str> = keys.iter().map(|(caller, _)| caller.as_str()).collect();
    let names: Vec<&str> = keys.iter().map(|(_, name)| name.as_str()).collect();
    let sql = format!(
        "SELECT proven.* FROM unnest($1::text[], $2::text[]) AS wanted (caller, name) \
         JOIN {PROVEN} AS proven USING (caller, name)"
    );
    let found = rows(transaction, READING, &sql, &[&callers, &names]).await?;
    let read = |row| {
        let columns = Columns { table: "connections", row };
        let caller = columns.word("caller", |it| it.parse().ok())?;
        let connection = columns.connection(vault, &caller).map(Arc::new);
        Ok(((caller, columns.text("name")?), connection))
    };
    found.iter().map(read).collect()
}

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

    async fn add_connection(
        &self,
        caller: &CallerName,
        connection: &graph::Connection,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let proof = ProofColumns::seal(&self.vault, caller, &connection.name, &connection.proof);
        let proof = proof.context("sealing a proof")?;
        let given = Arc::new((caller.clone(), connection.clone(), proof));
        let add = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, added, proof) = &*given;
                // Two that are the first at once would both be the default.
                if !lock_caller(transaction, caller).await? {
                    return Ok(None);
                }
                let sql = "INSERT INTO connections (caller, name, tenant, client_id, \
                    kind, sealed_proof, token_file, thumbprint, proof_expires_at, created_at) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                    ON CONFLICT (caller, name) DO NOTHING RETURNING name";
                let row = [
                    &caller.as_str() as _,
                    &added.name as _,
                    &added.tenant as _,
                    &added.client_id as _,
                    &proof.kind as _,
                    &proof.sealed_proof as _,
                    &proof.token_file as _,
                    &proof.thumbprint as _,
                    &proof.proof_expires_at as _,
                    &now.as_millisecond() as _,
                ];
                if rows(transaction, WRITING, sql, &row).await?.is_empty() {
                    return Ok(Some(false));
                }
                let sql = "UPDATE callers SET default_connection = $2 \
                    WHERE name = $1 AND default_connection IS NULL";
                rows(transaction, WRITING, sql, &[&caller.as_str(), &added.name]).await?;
                Ok(Some(true))
            })
        });
        self.change(add).await
    }

    async fn connections(
        &self,
        caller: &CallerName,
    ) -> Result<Option<Vec<ConnectionSummary>>, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(None);
        }
        let sql = "SELECT connections.name AS name, tenant, client_id, kind, token_file, \
            thumbprint, proof_expires_at, connections.created_at AS created_at, \
            coalesce(connections.name = callers.default_connection, false) AS is_default \
            FROM connections JOIN callers ON callers.name = connections.caller \
            WHERE caller = $1 AND signed_in_at IS NULL ORDER BY connections.name";
        let connections = self.database.query(READING, sql, &[&caller.as_str()]).await?;
        let read = |row| {
            let columns = Columns { table: "connections", row };
            columns.connection_summary(columns.get("is_default")?)
        };
        connections.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    async fn connection(
        &self,
        caller: &CallerName,
        name: Option<&str>,
    ) -> Result<Option<Arc<graph::Connection>>, StoreError> {
        if !name.is_none_or(can_be_stored) {
            return Ok(None);
        }
        let key = (caller.clone(), name.map(str::to_owned));
        let find = async {
            let sql = format!(
                "SELECT proven.* FROM {PROVEN} AS proven \
                 JOIN callers ON callers.name = proven.caller WHERE proven.caller = $1 \
                 AND proven.name = coalesce($2, callers.default_connection)"
            );
            let found = self.first(&sql, &[&caller.as_str(), &name]).await?;
            let read = |row: Row| {
                let columns = Columns { table: "connections", row: &row };
                columns.connection(&self.vault, caller).map(Arc::new)
            };
            found.map(read).transpose()
        };
        self.known.connections.get(&key, find).await
    }

    async fn replace_proof(
        &self,
        caller: &CallerName,
        name: &str,
        proof: &Proof,
    ) -> Result<bool, StoreError> {
        if !can_be_stored(name) {
            return Ok(false);
        }
        let proof = ProofColumns::seal(&self.vault, caller, name, proof);
        let proof = proof.context("sealing a proof")?;
        let given = Arc::new((caller.clone(), name.to_owned(), proof));
        let replace = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, name, proof) = &*given;
                let sql = "UPDATE connections SET kind = $3, sealed_proof = $4, token_file = $5, \
                    thumbprint = $6, proof_expires_at = $7 \
                    WHERE caller = $1 AND name = $2 AND shared_by IS NULL AND signed_in_at IS NULL \
                    RETURNING name";
                let row = [
                    &caller.as_str() as _,
                    name as _,
                    &proof.kind as _,
                    &proof.sealed_proof as _,
                    &proof.token_file as _,
                    &proof.thumbprint as _,
                    &proof.proof_expires_at as _,
                ];
                Ok(!rows(transaction, WRITING, sql, &row).await?.is_empty())
            })
        });
        self.change(replace).await
    }

    async fn share_connection(
        &self,
        owner: &CallerName,
        name: &str,
        share: &Share,
        now: Timestamp,
    ) -> Result<Shared, StoreError> {
        if !can_be_stored(name) || !can_be_stored(&share.name) {
            return Ok(Shared::NoSuchConnection);
        }
        let given = Arc::new((owner.clone(), name.to_owned(), share.clone()));
        let give = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (owner, name, share) = &*given;
                let (owner, with) = (owner.as_str(), share.with.as_str());
                // It must not be removed before the share is there to be seen.
                let sql = "SELECT 1 FROM connections WHERE caller = $1 AND name = $2 \
                    AND shared_by IS NULL AND signed_in_at IS NULL FOR KEY SHARE";
                if rows(transaction, WRITING, sql, &[&owner, name]).await?.is_empty() {
                    return Ok(Shared::NoSuchConnection);
                }
                if !lock_caller(transaction, &share.with).await? {
                    return Ok(Shared::NoSuchCaller);
                }
                let sql = "INSERT INTO connections (caller, name, tenant, client_id, kind, \
                    shared_by, shared_name, created_at) \
                    SELECT $3, $4, tenant, client_id, 'shared', $1, $2, $5 \
                    FROM connections WHERE caller = $1 AND name = $2 \
                    ON CONFLICT (caller, name) DO UPDATE SET kind = 'shared' \
                    WHERE connections.shared_by = $1 AND connections.shared_name = $2 \
                    RETURNING name";
                let row = [
                    &owner as _,
                    name as _,
                    &with as _,
                    &share.name as _,
                    &now.as_millisecond() as _,
                ];
                if rows(transaction, WRITING, sql, &row).await?.is_empty() {
                    return Ok(Shared::NameTaken);
                }
                let sql = "UPDATE callers SET default_connection = $2 \
                    WHERE name = $1 AND default_connection IS NULL";
                rows(transaction, WRITING, sql, &[&with, &share.name]).await?;
                Ok(Shared::Done)
            })
        });
        self.change(give).await
    }

    async fn withdraw_connection(
        &self,
        owner: &CallerName,
        name: &str,
        from: &CallerName,
    ) -> Result<u64, StoreError> {
        if !can_be_stored(name) {
            return Ok(0);
        }
        let given = Arc::new((owner.clone(), name.to_owned(), from.clone()));
        let withdraw = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (owner, name, from) = &*given;
                let sql = "UPDATE connections SET kind = 'withdrawn' WHERE caller = $1 \
                    AND shared_by = $2 AND shared_name = $3 AND kind = 'shared' RETURNING name";
                let row = [&from.as_str() as _, &owner.as_str() as _, name as _];
                let withdrawn = rows(transaction, WRITING, sql, &row).await?.len();
                Ok(u64::try_from(withdrawn).unwrap_or(u64::MAX))
            })
        });
        self.change(withdraw).await
    }

    async fn shares(&self, owner: &CallerName, name: &str) -> Result<Vec<Share>, StoreError> {
        if !can_be_stored(name) {
            return Ok(Vec::new());
        }
        let sql = "SELECT caller, name, kind FROM connections \
            WHERE shared_by = $1 AND shared_name = $2 ORDER BY caller, name";
        let found = self.database.query(READING, sql, &[&owner.as_str(), &name]).await?;
        found.iter().map(|row| Columns { table: "connections", row }.share()).collect()
    }

    async fn expiring_proofs(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(CallerName, String, Timestamp)>, StoreError> {
        let sql = "SELECT caller, name, proof_expires_at FROM connections \
            WHERE proof_expires_at < $1 ORDER BY proof_expires_at, caller, name LIMIT $2";
        let parameters = [&before.as_millisecond() as _, &i64::from(limit) as _];
        let found = self.database.query(READING, sql, &parameters).await?;
        found.iter().map(|row| Columns { table: "connections", row }.expiring_proof()).collect()
    }

    async fn remove_connection(
        &self,
        caller: &CallerName,
        name: &str,
    ) -> Result<Option<bool>, StoreError> {
        if !can_be_stored(name) {
            return Ok(None);
        }
        let given = Arc::new((caller.clone(), name.to_owned()));
        let remove = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, name) = &*given;
                let caller_name = caller.as_str();
                lock_caller(transaction, caller).await?;
                // A registration that uses it holds it until it is there to be seen below.
                let sql = "SELECT 1 FROM connections WHERE caller = $1 AND name = $2 \
                    AND signed_in_at IS NULL FOR UPDATE";
                if rows(transaction, WRITING, sql, &[&caller_name, name]).await?.is_empty() {
                    return Ok(None);
                }
                let sql = "SELECT 1 FROM operations WHERE caller = $1 AND connection = $2 \
                    AND rested_at IS NULL LIMIT 1";
                if !rows(transaction, WRITING, sql, &[&caller_name, name]).await?.is_empty() {
                    return Ok(Some(false));
                }
                let sql = "SELECT 1 FROM connections WHERE kind = 'shared' \
                    AND shared_by = $1 AND shared_name = $2 LIMIT 1";
                if !rows(transaction, WRITING, sql, &[&caller_name, name]).await?.is_empty() {
                    return Ok(Some(false));
                }
                let sql = "DELETE FROM connections WHERE caller = $1 AND name = $2";
                rows(transaction, WRITING, sql, &[&caller_name, name]).await?;
                let sql = "UPDATE callers SET default_connection = \
                    (SELECT min(name) FROM connections WHERE caller = $1 AND signed_in_at IS NULL) \
                    WHERE name = $1 AND default_connection = $2";
                rows(transaction, WRITING, sql, &[&caller_name, name]).await?;
                Ok(Some(true))
            })
        });
        self.change(remove).await
    }
}

/// Whether there can be a row of that name: a text of PostgreSQL's has no NUL in it, and asking for
/// one would be an error.
fn can_be_stored(name: &str) -> bool {
    !name.contains('\0')
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

async fn insert_secret(
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
