//! What receivers have agreed to.

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::connect::Database;
use super::row::Columns;
use super::rows;
use crate::lane::LaneName;
use crate::store::columns::Fields as _;
use crate::store::{Handshake, StoreError};

pub(super) async fn find(
    database: &Database,
    lane: &LaneName,
) -> Result<Option<Handshake>, StoreError> {
    let sql = "SELECT lane, form, agreed_at, rate FROM handshakes WHERE lane = $1";
    let found = database.query("looking for a handshake", sql, &[&lane.to_string()]).await?;
    found.first().map(|row| Columns { table: "handshakes", row }.handshake()).transpose()
}

pub(super) async fn keep(
    transaction: &Transaction<'_>,
    lane: &LaneName,
    handshake: &Handshake,
) -> Result<(), StoreError> {
    let (doing, lane) = ("keeping a handshake", lane.to_string());
    let agreed_at = handshake.agreed_at.as_millisecond();
    let rate = handshake.rate.map(|rate| i64::from(rate.attempts()));
    let sql = "INSERT INTO handshakes (lane, form, agreed_at, rate) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (lane) DO UPDATE SET form = excluded.form, agreed_at = excluded.agreed_at, \
        rate = excluded.rate";
    rows(transaction, doing, sql, &[&lane, &handshake.form, &agreed_at, &rate]).await?;
    // With another rate there may be room at once. Too early does no harm, as ever.
    let sql = "UPDATE lanes SET ready_at = least(ready_at, $2) \
        WHERE name = $1 AND ready_at IS NOT NULL";
    rows(transaction, doing, sql, &[&lane, &agreed_at]).await.map(drop)
}

/// Forgets those that were agreed to before `before`; how many these were.
pub(super) async fn forget(
    database: &Database,
    before: Timestamp,
    limit: u32,
) -> Result<u32, StoreError> {
    // What another replica is forgetting or renewing is left to it.
    let sql = "DELETE FROM handshakes WHERE lane IN (SELECT lane FROM handshakes \
        WHERE agreed_at < $1 ORDER BY lane LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
        [&before.as_millisecond(), &i64::from(limit)];
    let forgotten = database.query("forgetting handshakes", sql, &params).await?;
    Ok(u32::try_from(forgotten.len()).unwrap_or(u32::MAX))
}
