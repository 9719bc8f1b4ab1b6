//! The Graph identities of callers.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::directory::{live, rows, write};
use super::error::Context;
use super::row::Columns;
use crate::graph::{self, Proof};
use crate::store::columns::{Fields as _, PROVEN, ProofColumns};
use crate::store::{CallerName, ConnectionSummary, Connections, Share, Shared, StoreError};
use crate::vault::Vault;

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

#[async_trait]
impl Connections for SqliteStore {
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
