//! The sign-ins of users on whose behalf Graph is asked.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::connect::work;
use super::directory::WRITING;
use super::error::Context as _;
use super::{PostgresStore, rows};
use crate::graph::{Connection, Proof, UserGrant};
use crate::store::columns::ProofColumns;
use crate::store::{CallerName, StoreError, UserGrants};

#[async_trait]
impl UserGrants for PostgresStore {
    async fn keep_user(
        &self,
        caller: &CallerName,
        connection: &Connection,
    ) -> Result<bool, StoreError> {
        if !self.has_caller(caller).await? {
            return Ok(false);
        }
        let proof = ProofColumns::seal(&self.vault, caller, &connection.name, &connection.proof);
        let proof = proof.context("sealing a refresh token")?;
        let given = Arc::new((caller.clone(), connection.clone(), proof));
        let keep = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, kept, proof) = &*given;
                let sql = "INSERT INTO connections (caller, name, tenant, client_id, kind, \
                    sealed_proof, signed_in_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7) \
                    ON CONFLICT (caller, name) DO UPDATE SET client_id = excluded.client_id, \
                    sealed_proof = excluded.sealed_proof, signed_in_at = excluded.signed_in_at \
                    WHERE connections.signed_in_at < excluded.signed_in_at";
                let row = [
                    &caller.as_str() as _,
                    &kept.name as _,
                    &kept.tenant as _,
                    &kept.client_id as _,
                    &proof.kind as _,
                    &proof.sealed_proof as _,
                    &proof.signed_in_at as _,
                ];
                rows(transaction, WRITING, sql, &row).await?;
                Ok(true)
            })
        });
        // No request asks for a user's connection, so what is known of others stays true.
        self.database.transaction(keep).await
    }

    async fn renew_user(
        &self,
        caller: &CallerName,
        name: &str,
        signed_in_at: Timestamp,
        refresh_token: &SecretString,
    ) -> Result<bool, StoreError> {
        let proof =
            Proof::OnBehalfOf(UserGrant { signed_in_at, refresh_token: refresh_token.clone() });
        let proof = ProofColumns::seal(&self.vault, caller, name, &proof);
        let proof = proof.context("sealing a refresh token")?;
        let given = Arc::new((caller.clone(), name.to_owned(), proof));
        let renew = work(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move {
                let (caller, name, proof) = &*given;
                let sql = "UPDATE connections SET sealed_proof = $4 WHERE caller = $1 \
                    AND name = $2 AND signed_in_at = $3 RETURNING name";
                let row = [
                    &caller.as_str() as _,
                    name as _,
                    &proof.signed_in_at as _,
                    &proof.sealed_proof as _,
                ];
                Ok(!rows(transaction, WRITING, sql, &row).await?.is_empty())
            })
        });
        self.database.transaction(renew).await
    }

    async fn forget_users(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let (before, most) = (before.as_millisecond(), i64::from(limit));
        let forget = work(move |transaction| {
            Box::pin(async move {
                // A registration that goes by one of them holds it until it is there to be seen
                // below; and whoever signed in anew meanwhile did so after `before`.
                let sql = "SELECT caller, name FROM connections WHERE signed_in_at < $1 \
                    AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.caller = connections.caller \
                    AND operations.connection = connections.name AND operations.rested_at IS NULL) \
                    ORDER BY caller, name LIMIT $2 FOR UPDATE SKIP LOCKED";
                let found = rows(transaction, WRITING, sql, &[&before, &most]).await?;
                let (callers, names): (Vec<String>, Vec<String>) =
                    found.iter().map(|row| (row.get(0), row.get(1))).collect();
                // Of two callers one user's sign-ins have the same name, and only one may be held.
                let sql = "DELETE FROM connections WHERE (caller, name) IN \
                    (SELECT * FROM unnest($2::text[], $3::text[])) AND signed_in_at < $1 AND NOT EXISTS (SELECT 1 FROM operations \
                    WHERE operations.caller = connections.caller \
                    AND operations.connection = connections.name AND operations.rested_at IS NULL) \
                    RETURNING name";
                let forgotten =
                    rows(transaction, WRITING, sql, &[&before, &callers, &names]).await?;
                Ok(u32::try_from(forgotten.len()).unwrap_or(u32::MAX))
            })
        });
        self.database.transaction(forget).await
    }
}
