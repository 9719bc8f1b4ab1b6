//! What is purged and forgotten. The room that it took is PostgreSQL's own business: autovacuum makes
//! it free for what comes next.

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::row::Columns;
use super::{resends, rows};
use crate::store::columns::Fields as _;
use crate::store::{Forgotten, Purged, StoreError};

/// Purges what delivered callbacks consist of.
pub(super) async fn purge(
    transaction: &Transaction<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<Purged, StoreError> {
    let doing = "purging callbacks";
    // What another replica is purging is left to it.
    let sql = "SELECT operation_id, number FROM callbacks \
        WHERE state = 'delivered' AND body IS NOT NULL AND rested_at < $1 \
        ORDER BY rested_at LIMIT $2 FOR UPDATE SKIP LOCKED";
    let (before, most) = (before.as_millisecond(), i64::from(limit));
    let found = rows(transaction, doing, sql, &[&before, &most]).await?;
    let (mut operations, mut numbers): (Vec<String>, Vec<i64>) = (vec![], vec![]);
    for row in &found {
        let columns = Columns { table: "callbacks", row };
        operations.push(columns.text("operation_id")?);
        numbers.push(columns.get("number")?);
    }
    for sql in [
        "UPDATE callbacks SET body = NULL FROM unnest($1::text[], $2::bigint[]) \
            AS those (operation_id, number) WHERE callbacks.operation_id = those.operation_id \
            AND callbacks.number = those.number",
        "DELETE FROM attempts USING unnest($1::text[], $2::bigint[]) \
            AS those (operation_id, number) WHERE attempts.operation_id = those.operation_id \
            AND attempts.callback_number = those.number",
        // Where it was the last callback that the operation owed, which is the one that tells its end.
        "UPDATE operations SET last_body = NULL FROM unnest($1::text[], $2::bigint[]) \
            AS those (operation_id, number) WHERE operations.id = those.operation_id \
            AND operations.callbacks = those.number AND operations.rested_at IS NOT NULL",
    ] {
        rows(transaction, doing, sql, &[&operations, &numbers]).await?;
    }
    let callbacks = u32::try_from(found.len()).unwrap_or(u32::MAX);
    Ok(Purged { callbacks, more: callbacks == limit })
}

pub(super) async fn forget(
    transaction: &Transaction<'_>,
    before: Timestamp,
    keys_before: Timestamp,
    limit: u32,
) -> Result<Forgotten, StoreError> {
    let (doing, forgotten_before) = ("forgetting operations", before);
    let (before, most) = (before.as_millisecond(), i64::from(limit));
    let at_rest = "NOT EXISTS (SELECT 1 FROM callbacks WHERE operation_id = operations.id \
        AND (rested_at IS NULL OR rested_at >= $1))";
    // What another replica is forgetting is left to it.
    let sql = format!(
        "SELECT number FROM operations WHERE rested_at < $1 AND {at_rest} \
        ORDER BY number LIMIT $2 FOR UPDATE SKIP LOCKED"
    );
    let found = rows(transaction, doing, &sql, &[&before, &most]).await?;
    let number = |row| Columns { table: "operations", row }.get("number");
    let found: Vec<i64> = found.iter().map(number).collect::<Result<_, _>>()?;
    // A statement of its own, which sees a resend that was asked for before the lock was ours.
    // Callbacks and attempts go with their operation.
    let sql =
        format!("DELETE FROM operations WHERE number = ANY($2) AND {at_rest} RETURNING number");
    let operations = rows(transaction, doing, &sql, &[&before, &found]).await?;
    let forgotten: Vec<i64> = operations.iter().map(number).collect::<Result<_, _>>()?;
    let sql = "DELETE FROM steps WHERE operation = ANY($1)";
    rows(transaction, doing, sql, &[&forgotten]).await?;
    let sql = "DELETE FROM idempotency_keys WHERE (caller, key) IN (SELECT caller, key \
        FROM idempotency_keys WHERE first_used_at < $1 \
        ORDER BY caller, key LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
    let (doing, keys_before) = ("forgetting idempotency keys", keys_before.as_millisecond());
    let keys = rows(transaction, doing, sql, &[&keys_before, &most]).await?;
    let resends = resends::forget(transaction, forgotten_before, limit).await?;
    Ok(Forgotten {
        operations: u32::try_from(operations.len()).unwrap_or(u32::MAX),
        more: [operations.len(), keys.len(), resends].contains(&(limit as usize)),
    })
}
