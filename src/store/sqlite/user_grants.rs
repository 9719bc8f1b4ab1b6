//! The sign-ins of users on whose behalf Graph is asked.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use secrecy::SecretString;

use super::SqliteStore;
use super::directory::{live, write};
use super::error::Context as _;
use crate::graph::{self, Proof, UserGrant};
use crate::store::columns::ProofColumns;
use crate::store::{CallerName, StoreError, UserGrants};

#[async_trait]
impl UserGrants for SqliteStore {
    async fn keep_user(
        &self,
        caller: &CallerName,
        connection: &graph::Connection,
    ) -> Result<bool, StoreError> {
        let (caller, kept) = (caller.clone(), connection.clone());
        let proof = ProofColumns::seal(&self.vault, &caller, &kept.name, &kept.proof);
        let proof = proof.context("sealing a refresh token")?;
        let keep = move |database: &Connection| {
            if live(database, &caller)?.is_none() {
                return Ok(false);
            }
            let sql = "INSERT INTO connections (caller, name, tenant, client_id, kind, \
                sealed_proof, signed_in_at, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) \
                ON CONFLICT (caller, name) DO UPDATE SET client_id = excluded.client_id, \
                sealed_proof = excluded.sealed_proof, signed_in_at = excluded.signed_in_at \
                WHERE connections.signed_in_at < excluded.signed_in_at";
            let row = params![
                caller.as_str(),
                kept.name,
                kept.tenant,
                kept.client_id,
                proof.kind,
                proof.sealed_proof,
                proof.signed_in_at,
            ];
            write(database, sql, row)?;
            Ok(true)
        };
        // No request asks for a user's connection, so what is known of others stays true.
        self.writer.run(keep).await
    }

    async fn renew_user(
        &self,
        caller: &CallerName,
        name: &str,
        signed_in_at: Timestamp,
        refresh_token: &SecretString,
    ) -> Result<bool, StoreError> {
        let (caller, name) = (caller.clone(), name.to_owned());
        let proof =
            Proof::OnBehalfOf(UserGrant { signed_in_at, refresh_token: refresh_token.clone() });
        let proof = ProofColumns::seal(&self.vault, &caller, &name, &proof);
        let proof = proof.context("sealing a refresh token")?;
        let renew = move |database: &Connection| {
            let sql = "UPDATE connections SET sealed_proof = ?4 \
                WHERE caller = ?1 AND name = ?2 AND signed_in_at = ?3";
            let row = params![caller.as_str(), name, proof.signed_in_at, proof.sealed_proof];
            Ok(write(database, sql, row)? > 0)
        };
        self.writer.run(renew).await
    }

    async fn forget_users(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let forget = move |database: &Connection| {
            let sql = "DELETE FROM connections WHERE (caller, name) IN (SELECT caller, name \
                FROM connections WHERE signed_in_at < ?1 AND NOT EXISTS (SELECT 1 \
                FROM operations WHERE operations.caller = connections.caller \
                AND operations.connection = connections.name AND operations.rested_at IS NULL) \
                LIMIT ?2)";
            let forgotten = write(database, sql, params![before.as_millisecond(), limit])?;
            Ok(u32::try_from(forgotten).unwrap_or(u32::MAX))
        };
        self.writer.run(forget).await
    }
}
