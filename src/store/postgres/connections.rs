//! The Graph identities of callers.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::connect::work;
use super::directory::{READING, Readable, WRITING, can_be_stored, lock_caller};
use super::error::Context as _;
use super::row::Columns;
use super::{PostgresStore, rows};
use crate::graph::{self, Proof};
use crate::store::columns::{Fields as _, PROVEN, ProofColumns};
use crate::store::{CallerName, ConnectionSummary, Connections, Share, Shared, StoreError};
use crate::vault::Vault;

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
impl Connections for PostgresStore {
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
