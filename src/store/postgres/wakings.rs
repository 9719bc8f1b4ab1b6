//! Connections that were repaired, and whose operations are being woken.

use super::connect::Database;
use super::row::Columns;
use crate::store::columns::Fields as _;
use crate::store::{StoreError, Waking};

const WRITING: &str = "writing down that a connection was repaired";

pub(super) async fn ask(database: &Database, waking: &Waking) -> Result<(), StoreError> {
    let sql = "INSERT INTO wakings (caller, connection, asked_at) VALUES ($1, $2, $3) \
        ON CONFLICT (caller, connection) DO UPDATE SET asked_at = excluded.asked_at";
    execute(database, sql, waking).await
}

pub(super) async fn oldest(database: &Database, limit: u32) -> Result<Vec<Waking>, StoreError> {
    let sql = "SELECT caller, connection, asked_at FROM wakings \
        ORDER BY asked_at, caller, connection LIMIT $1";
    let doing = "looking for connections that were repaired";
    let found = database.query(doing, sql, &[&i64::from(limit)]).await?;
    found.iter().map(|row| Columns { table: "wakings", row }.waking()).collect()
}

pub(super) async fn finish(database: &Database, waking: &Waking) -> Result<(), StoreError> {
    let sql = "DELETE FROM wakings WHERE caller = $1 AND connection = $2 AND asked_at = $3";
    execute(database, sql, waking).await
}

async fn execute(database: &Database, sql: &str, waking: &Waking) -> Result<(), StoreError> {
    let Waking { caller, connection, asked_at } = waking;
    let (caller, asked_at) = (caller.as_str(), asked_at.as_millisecond());
    database.query(WRITING, sql, &[&caller, connection, &asked_at]).await.map(drop)
}
