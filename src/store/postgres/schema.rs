//! The tables, and how they came to be.
//!
//! Replicas of two versions share a database while one takes the place of the other, so a migration
//! only ever adds what the older version can live with (a table, a column with a default, an index):
//! *expand*. What nobody uses any more goes with a later version, once no replica is left that knows
//! it: *contract*. So each version runs on its own schema and on the next one, and refuses to run on
//! one that is older than its own migrations can bring up, or more than one ahead.
//!
//! A role that may only read and write rows can use a schema that is up to date.

use tokio_postgres::Client;

use super::OpenError;
use super::error::Context as _;
use crate::store::{Migrated, StoreError};

/// Each entry takes the schema one version further; entries are only ever added.
const MIGRATIONS: &[&str] =
    &[include_str!("0001_first.sql"), include_str!("0002_planning_clock.sql")];

/// The version that we bring a database up to.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// How many versions ahead of ours a schema may be: what a newer replica has expanded.
const AHEAD: usize = 1;

/// "eBrg": whoever holds this advisory lock migrates.
const LOCK: i64 = 0x6542_7267;

/// The version of the database, 0 where it has none of our tables.
pub(super) async fn version(client: &Client) -> Result<usize, StoreError> {
    let doing = "reading the version of the schema";
    if !is_there(client, "schema_version").await? {
        return Ok(0);
    }
    let row = client.query_opt("SELECT version FROM schema_version", &[]).await.context(doing)?;
    let found = row.map_or(0, |row| row.get::<_, i64>(0));
    Ok(usize::try_from(found).unwrap_or(usize::MAX))
}

pub(super) async fn is_there(client: &Client, table: &str) -> Result<bool, StoreError> {
    let sql = "SELECT to_regclass($1) IS NOT NULL";
    let row = client.query_one(sql, &[&table]).await.context("looking for a table")?;
    Ok(row.get(0))
}

/// Brings the database up to our version, one replica after the other.
///
/// For as long as that takes, so `client` is not to be used for anything else afterwards.
pub(super) async fn migrate(client: &mut Client) -> Result<Migrated, OpenError> {
    let found = version(client).await?;
    let migrated = if found < VERSION {
        migrate_in_turn(client).await
    } else {
        Ok(Migrated { had: found, has: found })
    };
    if let Err(StoreError::ReadOnly(source)) = migrated {
        return Err(OpenError::MayNotMigrate { found, ours: VERSION, source });
    }
    let migrated = migrated?;
    if migrated.has > VERSION + AHEAD {
        return Err(OpenError::NewerVersion { found: migrated.has, ours: VERSION });
    }
    Ok(migrated)
}

async fn migrate_in_turn(client: &mut Client) -> Result<Migrated, StoreError> {
    let doing = "migrating the database";
    let patient = "SET statement_timeout = 0; SET lock_timeout = 0";
    client.batch_execute(patient).await.context(doing)?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.context(doing)?;
    let migrated = migrate_alone(client).await;
    // Freed by the end of the connection too, should this fail.
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await.context(doing)?;
    migrated
}

async fn migrate_alone(client: &mut Client) -> Result<Migrated, StoreError> {
    let doing = "migrating the database";
    let sql = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
    client.batch_execute(sql).await.context(doing)?;
    // Others may have been at it while we waited.
    let found = version(client).await?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        // Each commits together with its number, so an interrupted start goes on where it stopped.
        let transaction = client.transaction().await.context(doing)?;
        transaction.batch_execute(migration).await.context(doing)?;
        transaction.execute("DELETE FROM schema_version", &[]).await.context(doing)?;
        let version = i64::try_from(index + 1).unwrap_or(i64::MAX);
        let sql = "INSERT INTO schema_version VALUES ($1)";
        transaction.execute(sql, &[&version]).await.context(doing)?;
        transaction.commit().await.context(doing)?;
        tracing::info!(version, "the database has schema version {version} now");
    }
    Ok(Migrated { had: found, has: VERSION.max(found) })
}
